"""Data: the sets that come with the package, and users' files, as arrays and tables to be encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.data.readers import NpzArrays, read_csv, read_npz
from nnfast.data.table import Table, listed
from nnfast.support.checks import shown

__all__ = ["EMBEDDED", "Dataset", "Table", "load_dataset", "load_inputs"]

Inputs = NDArray[Any] | Table

# fashion-mini's classes, in the order of the numbers that its file, and models of earlier versions, have for them
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, in a training part and, where the source brings one, a test part.

    x_train, x_test: a Table, a float64 matrix (n_samples, n_features), or images with more dimensions (uint8,
    float32, float64). y_train, y_test: (n_samples,) or (n_samples, k), in the user's own labels and units.
    feature_names: the columns' names before encoding, where they have some. input_scale: what the network
    multiplies its input by: 1/255 for bytes of images. standardize: whether the inputs are meant for an
    `InputEncoding`; images and the embedded sets are not. class_names: for labels that are names of numbers, the
    names in the order of the numbers.
    """

    name: str
    x_train: Inputs
    y_train: NDArray[Any]
    # None or an array. Any keeps type checkers from asking users to prove that a source brings its test part
    x_test: Inputs | Any = None
    y_test: NDArray[Any] | Any = None
    feature_names: tuple[str, ...] | None = None
    input_scale: float = 1.0
    standardize: bool = False
    class_names: tuple[str, ...] | None = None


def _load_digits() -> Dataset:
    arrays = _read_embedded("digits.npz")
    assert arrays.y_train is not None
    return Dataset("digits", arrays.x_train, arrays.y_train, input_scale=1 / 16)


def _load_fashion_mini() -> Dataset:
    arrays = _read_embedded("fashion_mini.npz")
    y_train, y_test = (np.array(FASHION_CLASSES)[labels] for labels in (arrays.y_train, arrays.y_test))
    return Dataset(
        "fashion-mini", arrays.x_train, y_train, arrays.x_test, y_test, input_scale=1 / 255,
        class_names=FASHION_CLASSES,
    )  # fmt: skip


def _load_xor() -> Dataset:
    # The classic from-scratch tutorial's data: exclusive or of two columns; the third stands for a bias.
    x = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.float64)
    return Dataset("xor", x, np.array([[0], [1], [1], [0]], dtype=np.float64))


EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "digits": _load_digits,  # 1797 images, 8 x 8, values 0..16, 10 classes, no test part
    "fashion-mini": _load_fashion_mini,  # 800 + 200 images, 28 x 28, the names of 10 classes
    "xor": _load_xor,  # 4 rows
}


def load_dataset(source: str, *, target: str | None = None, text_columns: Collection[str] = ()) -> Dataset:
    """Load an embedded data set by name, or a .csv or .npz file by path.

    target: the column to learn, needed for a CSV file and for nothing else; whole numbers in it become int64.
    text_columns: see `read_csv`. Embedded names go before files.

    Raises ValueError for an unknown name or format, a target that is missing, absent or out of place, and for
    whatever `read_csv` and `read_npz` refuse; FileNotFoundError for a file that is not there.
    """
    kind = _kind_of(source)
    if kind != "csv" and target is not None:
        raise ValueError(f"a target column ({target!r}) is chosen for CSV files only; {source} brings its own targets")
    if kind == "embedded":
        return EMBEDDED[source]()
    name = os.path.basename(source)
    if kind == "npz":
        arrays = read_npz(source)
        x = arrays.x_train
        assert arrays.y_train is not None
        return Dataset(
            name,
            x,
            arrays.y_train,
            arrays.x_test,
            arrays.y_test,
            feature_names=arrays.names,
            input_scale=1 / 255 if x.dtype == np.uint8 else 1.0,
            standardize=x.ndim == 2,
        )
    table = read_csv(source, text_columns=text_columns)
    if target is None:
        raise ValueError(f"{source} needs a target, the column to learn; its columns are {listed(table.names, 50)}")
    if target not in table.names:
        raise ValueError(f"{source} has no column {target!r}; its columns are {listed(table.names, 50)}")
    if len(table.names) == 1:
        raise ValueError(f"{source} has no column besides the target {target!r} to learn from")
    inputs = table.without(target)
    return Dataset(name, inputs, _whole_numbers_as_int64(table[target]), feature_names=inputs.names, standardize=True)


def load_inputs(source: str, *, target: str | None = None, text_columns: Collection[str] = ()) -> Inputs:
    """Load the inputs alone, to predict for; the source need not hold targets, any it holds are ignored.

    Of a source with a test part, the test part: prediction is for rows that the network has not seen. target:
    in a CSV file the column to leave out, if it is there; it may be empty. text_columns: see `read_csv`; a
    trained model's category columns belong here. Raises as `load_dataset` does.
    """
    kind = _kind_of(source)
    if kind == "csv":
        return read_csv(source, text_columns=text_columns, ignore=() if target is None else (target,))
    if kind == "embedded":
        data = EMBEDDED[source]()
        return data.x_train if data.x_test is None else data.x_test
    arrays = read_npz(source, inputs_only=True)
    return arrays.x_train if arrays.x_test is None else arrays.x_test


def _kind_of(source: str) -> str:
    """What a source is: "embedded", "csv" or "npz"."""
    if not isinstance(source, str):
        raise TypeError(f"the data must be named by a string, got {shown(source)}")
    if source in EMBEDDED:
        return "embedded"
    kind = os.path.splitext(source)[1].lower().removeprefix(".")
    if kind not in ("csv", "npz"):
        raise ValueError(
            f"unknown data {source!r}: expected one of the embedded sets {listed(EMBEDDED)}, "
            "or a path that ends in .csv or .npz"
        )
    if not os.path.exists(source):
        raise FileNotFoundError(
            f"there is no file {source!r}; expected a .csv or .npz file, or one of the embedded sets {listed(EMBEDDED)}"
        )
    return kind


def _read_embedded(file_name: str) -> NpzArrays:
    with resources.as_file(resources.files("nnfast.data.embedded") / file_name) as path:
        return read_npz(path)


def _whole_numbers_as_int64(column: NDArray[Any]) -> NDArray[Any]:
    """A CSV does not say whether 1 is a label or a length; an integer is at least written back as read."""
    if column.dtype.kind == "f" and (column == np.round(column)).all() and np.abs(column).max() < 2**53:
        return column.astype(np.int64)
    return column
