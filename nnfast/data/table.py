"""A table in memory: named columns of equal length, each of numbers or of categories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.support.checks import check_unmasked

# NumPy stores a text column at the width of its longest cell: one stray page of prose in a million rows would
# otherwise cost gigabytes. (Also what keeps a stranger's model file from asking for them.)
MAX_TEXT_LENGTH = 200


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns, equally long: what a CSV file holds before it is encoded for a network.

    names: one distinct, non-empty name per column. columns: 1-D arrays, float64 (numbers) or NumPy `str`
    (categories). Raises TypeError for another dtype, ValueError where names and columns do not fit together.
    """

    names: tuple[str, ...]
    columns: tuple[NDArray[Any], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a table needs at least one column, got none")
        if len(self.names) != len(self.columns):
            raise ValueError(f"a table needs a name per column, got {len(self.names)} and {len(self.columns)}")
        check_names(self.names)
        for name, column in zip(self.names, self.columns, strict=True):
            if not isinstance(column, np.ndarray) or not (column.dtype == np.float64 or column.dtype.kind == "U"):
                kind = column.dtype if isinstance(column, np.ndarray) else type(column).__name__
                raise TypeError(f"column {name!r} must be a float64 or str array, got {kind}")
            check_unmasked(column, f"column {name!r}")
            if column.ndim != 1 or len(column) != len(self.columns[0]):
                raise ValueError(
                    f"column {name!r} has shape {column.shape}; every column must have that of "
                    f"{self.names[0]!r}: ({len(self.columns[0])},)"
                )

    @property
    def n_rows(self) -> int:
        """The length that all columns share."""
        return len(self.columns[0])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The column of that name, shape (n_rows,). Raises ValueError where there is none."""
        return self.columns[self._position(name)]

    def take(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> Table:
        """A table of these rows, in the order given."""
        index = np.asarray(rows, dtype=np.intp)
        return Table(self.names, tuple(column[index] for column in self.columns))

    def without(self, name: str) -> Table:
        """The table less one column. Raises ValueError where it is absent or the only one."""
        self._position(name)
        return self.select(other for other in self.names if other != name)

    def select(self, names: Iterable[str]) -> Table:
        """A table of these columns, in the order given."""
        names = tuple(names)
        return Table(names, tuple(self[name] for name in names))

    def _position(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"there is no column {name!r}; the columns are {listed(self.names)}")
        return self.names.index(name)


def column_names(inputs: object) -> tuple[str, ...] | None:
    """The names of a data frame's columns; None for arrays, and for frames whose columns are numbered.

    Raises TypeError where only some are named, ValueError where two have one name.
    """
    names = list(getattr(inputs, "columns", ()))
    if not any(isinstance(name, str) for name in names):
        return None
    check_names(names)
    return tuple(names)


def check_names(names: Sequence[str]) -> None:
    """Raise TypeError or ValueError unless these are distinct, non-empty strings."""
    for position, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"column names must be strings, got {name!r}")
        if not name:
            raise ValueError(f"column {position + 1} has no name")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the column name {twice!r} occurs more than once; column names must be distinct")


def check_finite(values: NDArray[Any], what: str, names: Sequence[str] | None = None) -> None:
    """Raise ValueError, naming row and column, where an array holds a NaN or an infinity.

    values: any dtype, rows along the first axis. what: how the message calls it.
    names: the columns' names, for a 2-D array.
    """
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if finite.all():
        return
    row, *place = (int(axis) for axis in np.unravel_index(np.argmin(finite), finite.shape))
    value = values[(row, *place)]
    column = ""
    if len(place) == 1:
        column = f", column {place[0] if names is None else repr(names[place[0]])}"
    elif place:
        column = f", element {tuple(place)}"
    raise ValueError(
        f"{what} holds {value} in row {row}{column} (counted from 0); "
        "every value must be a finite number: fill it in or remove the row"
    )


def listed(values: Iterable[object], limit: int = 12) -> str:
    """Values as an error message shows them: 'a', 'b', 'c', and where there are many, how many more."""
    shown = [repr(value.item() if isinstance(value, np.generic) else value) for value in values]
    if len(shown) <= limit:
        return ", ".join(shown)
    return f"{', '.join(shown[:limit])}, and {len(shown) - limit} more"
