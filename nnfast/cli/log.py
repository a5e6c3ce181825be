"""What the engine says while a command runs: that it compiles, which takes long and happens once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

_engine = logging.getLogger("nnfast.numba")


class _Lines(logging.Handler):
    """Records as lines on standard error, wherever that goes at the time: a progress bar redirects it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within this, the engine's log is shown on standard error, in a pipe too, so that users see why it waits."""
    handler, level = _Lines(), _engine.level
    _engine.addHandler(handler)
    _engine.setLevel(logging.INFO)
    try:
        yield
    finally:
        _engine.removeHandler(handler)
        _engine.setLevel(level)


def hush() -> None:
    """Show no more of it, until `listening` ends."""
    _engine.setLevel(logging.WARNING)
