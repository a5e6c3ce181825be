"""NNFAST_DEBUG: whether whoever started this process is looking for a mistake in nnfast."""

from __future__ import annotations

import os


def is_debugging() -> bool:
    """Whether NNFAST_DEBUG is set in the environment, to anything but 0."""
    return os.environ.get("NNFAST_DEBUG", "") not in ("", "0")
