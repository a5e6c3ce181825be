"""What a command-line run trains on: nothing of the parts it is measured with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnfast.cli.options import merge
from nnfast.cli.preparation import Prepared, prepare
from nnfast.data.splits import split_rows

ROWS, TEST, VALIDATION = 60, 0.2, 0.25


@pytest.fixture
def numbers(tmp_path: Path) -> np.ndarray:
    """Rows whose target tells them apart; also written to a CSV file."""
    table = np.random.default_rng(0).normal(size=(ROWS, 2)).cumsum(axis=0)
    lines = ["size,price", *(f"{size!r},{price!r}" for size, price in table.tolist())]
    (tmp_path / "houses.csv").write_text("\n".join(lines))
    return table


@pytest.fixture
def prepared(numbers: np.ndarray, tmp_path: Path) -> Prepared:
    given = {"data": str(tmp_path / "houses.csv"), "target": "price", "test": TEST, "validation": VALIDATION, "seed": 3}
    return prepare(merge(given, {}))


def test_the_parts_are_drawn_as_train_would_draw_them(prepared: Prepared, numbers: np.ndarray) -> None:
    data = prepared.data
    kept, test = split_rows(ROWS, TEST, 3, which=0)
    training, validation = (kept[rows] for rows in split_rows(len(kept), VALIDATION, 3, which=1))
    assert data.validation is not None
    assert data.test is not None
    for part, rows in ((data.training, training), (data.validation, validation), (data.test, test)):
        np.testing.assert_array_equal(part.y, numbers[rows, 1])


def test_encodings_are_fitted_on_the_training_part_alone(prepared: Prepared) -> None:
    data = prepared.data
    assert data.inputs is not None
    assert prepared.targets.mean == pytest.approx(data.training.y.mean(), rel=1e-12)  # type: ignore[union-attr]
    assert data.inputs.mean == pytest.approx(data.training.X["size"].mean(), rel=1e-12)  # type: ignore[call-overload, index]


def test_networks_on_the_same_rows_share_their_encodings(prepared: Prepared) -> None:
    """train_many turns the data into rows once for each encoding that it meets."""
    other = prepare(prepared.values | {"hidden": [7], "activation": "tanh"}, prepared.data)
    assert other.network != prepared.network
    assert other.data.inputs is prepared.data.inputs
    assert other.targets is prepared.targets
    in_units = prepare(prepared.values | {"output_activation": "exp", "loss": None}, prepared.data)
    assert in_units.targets.mean == [0]  # type: ignore[union-attr]
