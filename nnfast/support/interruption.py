"""Ctrl-C during a run: noted where it would do harm, and acted upon between stretches or where the harm is over."""

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
    # Python delivers signals to the main thread alone, and another handler is left alone.
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


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Defers SIGINT: its handler runs on exit."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        for number in pressed:
            signal.raise_signal(number)
