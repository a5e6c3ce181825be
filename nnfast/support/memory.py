"""How much memory the machine has."""

from __future__ import annotations

import os

UNKNOWN = 2**38  # bytes, where the system does not tell: more than most machines have


def physical_memory() -> int:
    """The bytes of the machine's memory, whoever uses them now."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN
