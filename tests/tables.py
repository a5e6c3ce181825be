"""What a test that walks a table of formulas asks for: the row written a second time, as its paper states it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import pytest

Reference = TypeVar("Reference")


def reference(written: Mapping[str, Reference], name: str, where: str) -> Reference:
    """The counterpart of a table's row; a row without one fails the test, which says where to write it."""
    if name not in written:
        pytest.fail(f"{name!r} has no counterpart to be held to: add {name!r} to {where}", pytrace=False)
    return written[name]
