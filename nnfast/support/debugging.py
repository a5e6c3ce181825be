"""Whether the user looks for a fault in nnfast itself: $NNFAST_DEBUG."""

from __future__ import annotations

import os


def is_debugging() -> bool:
    """Whether NNFAST_DEBUG is set, and not to 0: tracebacks are then shown, and every compiled call is checked."""
    return os.environ.get("NNFAST_DEBUG", "") not in ("", "0")
