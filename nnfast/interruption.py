"""Ctrl-C during a run: noted where it would do harm, and acted upon between stretches."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interruption:
    """Whether Ctrl-C was pressed."""

    noted = False


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within this, a first Ctrl-C is noted for the end of the stretch; a second one interrupts at once."""
    interruption = Interruption()
    previous = signal.getsignal(signal.SIGINT)
    # Python delivers signals to the main thread alone, and with another handler somebody else decides what Ctrl-C does.
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        yield interruption
        return

    def note(number: int, frame: object) -> None:
        interruption.noted = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, previous)
