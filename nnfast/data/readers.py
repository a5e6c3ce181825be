"""Reading data files, CSV and NPZ, into arrays that hold nothing missing, infinite or unexpected."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.data.table import MAX_TEXT_LENGTH, Table, check_finite, check_names, listed

PathLike = str | os.PathLike[str]

# What people and programs write for "no value", compared stripped and in lower case. Not "none": that is
# a level of its own in many tables ("fireplace: none").
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "?"})
DELIMITERS = ",;\t"


def read_csv(path: PathLike, *, text_columns: Collection[str] = (), ignore: Collection[str] = ()) -> Table:
    """Read a CSV file with a header line into a table.

    The file is UTF-8 text, with or without a byte order mark; cells are separated by commas, semicolons or
    tabs, whichever cuts the header line into most names; cells may be quoted with ". Blank lines are skipped.
    A column whose every cell is a finite number becomes float64, any other a category (stripped of
    surrounding blanks).

    text_columns: columns to read as categories even where they look like numbers; a file to predict for may
    hold only the "1" and "2" of a column that was "1", "2" and "A" in training.
    ignore: columns to leave out, unread. Names in either that the file lacks are passed over.

    Raises ValueError, naming line and column, for a missing value (an empty cell, or NA, N/A, #N/A, <NA>,
    NaN, null, ? in any case), an infinity, numbers written with commas, a category longer than 200
    characters, a row longer or shorter than the header, a name that is empty or occurs twice, and a file
    without rows.
    """
    header, rows, lines = _parse_csv(path)
    names: list[str] = []
    columns: list[NDArray[Any]] = []
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        if name not in ignore:
            names.append(name)
            columns.append(_column(cells, name in text_columns, f"{path}: column {name!r}", lines))
    if not names:
        raise ValueError(f"{path} has no column besides {listed(header)}")
    return Table(tuple(names), tuple(columns))


def _parse_csv(path: PathLike) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows, and the line of the file in which each row begins."""
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline()
            if not first.strip():
                raise ValueError(f"{path} is empty or begins with a blank line; its first line must name the columns")
            delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
            # strict: or a quote that is never closed would swallow the rest of the file as one cell.
            reader = csv.reader(chain([first], file), delimiter=delimiter, skipinitialspace=True, strict=True)
            header = [cell.strip() for cell in next(reader)]
            _check_header(header, path)
            line = reader.line_num + 1
            for row in reader:
                if not row and len(header) == 1:
                    row = [""]  # with a single column, a blank line is a row without its value
                if len(row) == len(header):
                    rows.append(row)
                    lines.append(line)
                elif row:
                    raise ValueError(
                        f"{path}, line {line}: {len(row)} cells, but the header names {len(header)} columns; "
                        f"a cell that contains {delimiter!r} must be quoted"
                    )
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} in line {line} or below); "
                "save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: not well-formed CSV: {error}") from error
    if len(header) == 1:
        while rows and rows[-1] == [""]:
            rows.pop()
    if not rows:
        raise ValueError(f"{path} has a header but no rows")
    return header, rows, lines


def _check_header(header: list[str], path: PathLike) -> None:
    if "" in header:
        raise ValueError(
            f"{path}: column {header.index('') + 1} has no name in the header; name it or remove it "
            "(pandas writes such a column unless told index=False)"
        )
    try:
        check_names(header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _column(cells: tuple[str, ...], is_text: bool, what: str, lines: list[int]) -> NDArray[Any]:
    """One column's cells as float64 numbers or, where they are not all numbers, as categories."""
    if not is_text:
        try:
            numbers = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except ValueError:
            pass
        else:
            finite = np.isfinite(numbers)
            if not finite.all():
                row = int(np.argmin(finite))
                kind = "a missing value" if np.isnan(numbers[row]) else "an infinite number"
                raise ValueError(
                    f"{what} holds {kind} in line {lines[row]}: {cells[row].strip()!r} (the first of "
                    f"{len(finite) - np.count_nonzero(finite)}); fill it in or remove the row"
                )
            # Python reads 1_2 as 12; in a data file it is a name.
            if "_" not in "".join(cells):
                return numbers
    stripped = [cell.strip() for cell in cells]
    # Distinct cells are few, rows are many.
    distinct = set(stripped)
    absent = {cell for cell in distinct if cell.lower() in MISSING}
    if absent:
        rows = [row for row, cell in enumerate(stripped) if cell in absent]
        raise ValueError(
            f"{what} holds a missing value in line {lines[rows[0]]}: {stripped[rows[0]]!r} "
            f"(the first of {len(rows)}); fill it in or remove the row"
        )
    longest = max(distinct, key=len)
    if len(longest) > MAX_TEXT_LENGTH:
        raise ValueError(
            f"{what} holds a text of {len(longest)} characters in line {lines[stripped.index(longest)]}; "
            f"a category has at most {MAX_TEXT_LENGTH}: remove the column"
        )
    if not is_text and _are_numbers_with_commas(distinct):
        example = next(cell for cell in stripped if "," in cell)
        raise ValueError(
            f"{what} holds numbers with commas: {example!r} in line {lines[stripped.index(example)]}; "
            "write them with a decimal point and no thousands separators: 1234.5"
        )
    return np.array(stripped, dtype=np.str_)


def _are_numbers_with_commas(distinct: set[str]) -> bool:
    """Whether all cells would be numbers but for commas; as categories they would train to nonsense."""
    if not any("," in cell for cell in distinct):
        return False
    try:
        for cell in distinct:
            float(cell.replace(",", ""))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class NpzArrays:
    """What an .npz file of data holds; where it makes no difference, all rows count as the training part.

    x_train, x_test: (n_samples, n_features) float64, or with three or more dimensions uint8, float32 or
    float64. y_train, y_test: (n_samples,) or (n_samples, k), any number dtype or, 1-D only, str. Tests are
    None together.
    """

    x_train: NDArray[Any]
    y_train: NDArray[Any] | None
    x_test: NDArray[Any] | None
    y_test: NDArray[Any] | None
    names: tuple[str, ...] | None


_NPZ_KEYS = "X and y, or X_train and y_train with, optionally, X_test and y_test (in any case); optionally names"
_NPZ_LAYOUTS = (("x", "y"), ("x_train", "y_train"), ("x_train", "y_train", "x_test", "y_test"))


def read_npz(path: PathLike, *, inputs_only: bool = False) -> NpzArrays:
    """Read X and y, or X_train, y_train, X_test and y_test (in any case), and `names` from an .npz file.

    X: bools, integers or floats, (n_samples, n_features) or with more dimensions, for images. A 2-D X is
    returned as float64; uint8 images stay uint8, float32 stays float32, all other images become float64.
    names: the features' names, shape (n_features,). inputs_only: accept a file without y's.

    Raises ValueError for anything else: pickled objects (never loaded), other keys, missing or infinite
    values (naming row and column), parts that differ in length, shape or dtype, and a file that is no .npz.
    """
    arrays = _load_plain_arrays(path)
    names_array = arrays.pop("names", None)
    layouts: tuple[tuple[str, ...], ...] = _NPZ_LAYOUTS
    if inputs_only:
        layouts += tuple(tuple(key for key in layout if key.startswith("x")) for layout in _NPZ_LAYOUTS)
    if not any(set(arrays) == set(layout) for layout in layouts):
        raise ValueError(f"{path} holds the arrays {listed(arrays) or '(none)'}; expected {_NPZ_KEYS}")

    x_key, y_key = ("x", "y") if "x" in arrays else ("x_train", "y_train")
    x_train = _npz_inputs(path, x_key, arrays[x_key], names_array)
    y_train = _npz_targets(path, y_key, arrays.get(y_key), len(x_train))
    names = None if names_array is None else tuple(str(name) for name in names_array)
    x_test = y_test = None
    if "x_test" in arrays:
        x_test = _npz_inputs(path, "x_test", arrays["x_test"], names_array)
        y_test = _npz_targets(path, "y_test", arrays.get("y_test"), len(x_test))
        _check_parts_fit(path, "x", x_train, x_test)
        if y_train is not None and y_test is not None:
            _check_parts_fit(path, "y", y_train, y_test)
    return NpzArrays(x_train, y_train, x_test, y_test, names)


def _load_plain_arrays(path: PathLike) -> dict[str, NDArray[Any]]:
    """Every array of the file by its key in lower case; whatever is no plain array is refused."""
    arrays: dict[str, NDArray[Any]] = {}
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive; save it with numpy.savez")
            for key in archive.files:
                if key.lower() in arrays:
                    raise ValueError(f"two arrays are named {key.lower()!r}, but for case")
                array = archive[key]
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{key!r} is not an array")
                arrays[key.lower()] = array
        except (
            ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            # NumPy goes on to advise loading what is refused here
            reason = str(error).partition("\n")[0].partition(". If you trust")[0] or type(error).__name__
            raise ValueError(
                f"{path} is not an .npz file of plain arrays (pickled objects are never loaded): {reason}"
            ) from error
    return arrays


def _npz_inputs(path: PathLike, key: str, x: NDArray[Any], names: NDArray[Any] | None) -> NDArray[Any]:
    what = f"{path}: {key}"
    if x.dtype.kind not in "buif":
        raise ValueError(f"{what} has dtype {x.dtype}; inputs must be bools, integers or floats")
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"{what} has shape {x.shape}; expected (n_samples, n_features) or more dimensions, none of them 0"
        )
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U" or x.ndim != 2 or len(names) != x.shape[1]:
            raise ValueError(
                f"{path}: names has shape {names.shape} and dtype {names.dtype}; "
                f"expected one string per column of {key}, which has shape {x.shape}"
            )
        try:
            check_names([str(name) for name in names])
        except ValueError as error:
            raise ValueError(f"{path}: names: {error}") from None
    native = x.dtype.newbyteorder("=")
    is_kept = x.ndim > 2 and native in (np.uint8, np.float32)
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite and is refused as such
        x = np.ascontiguousarray(x, dtype=native if is_kept else np.float64)
    check_finite(x, what, None if names is None else names.tolist())
    return x


def _npz_targets(path: PathLike, key: str, y: NDArray[Any] | None, n_rows: int) -> NDArray[Any] | None:
    if y is None:
        return None
    what = f"{path}: {key}"
    if y.dtype.kind not in "buifU":
        raise ValueError(f"{what} has dtype {y.dtype}; targets must be bools, integers, floats or strings")
    if y.ndim not in (1, 2) or y.size == 0 or (y.dtype.kind == "U" and y.size != len(y)):
        raise ValueError(f"{what} has shape {y.shape}; expected (n_samples,) or, for numbers, (n_samples, k)")
    if len(y) != n_rows:
        raise ValueError(f"{what} has {len(y)} rows, but its inputs have {n_rows}; both need one row per sample")
    check_finite(y, what)
    return y


def _check_parts_fit(path: PathLike, key: str, train: NDArray[Any], test: NDArray[Any]) -> None:
    same_kind = (train.dtype.kind == "U") == (test.dtype.kind == "U")
    if train.shape[1:] != test.shape[1:] or not same_kind or (key == "x" and train.dtype != test.dtype):
        raise ValueError(
            f"{path}: {key}_train has shape {train.shape} and dtype {train.dtype}, "
            f"{key}_test {test.shape} and {test.dtype}; "
            "they may differ only in the number of rows"
        )
