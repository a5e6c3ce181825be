"""A pytest plugin that adds a row to every table, before the tests are collected: what a contributor does.

test_tables.py runs pytest with it, and looks for the tests that walk each table.
"""

from __future__ import annotations

import numpy as np

from nnfast.formulas.activations import ACTIVATIONS, Activation
from nnfast.formulas.losses import LOSSES, Loss
from nnfast.formulas.optimizers import OPTIMIZERS, Optimizer
from nnfast.formulas.schedules import SCHEDULES, Schedule
from nnfast.networks.initializers import INITIALIZERS

ROWS = {
    "activation": (ACTIVATIONS, Activation("planted", value="2 * z", derivative="2")),
    "loss": (LOSSES, Loss("planted", value="(a - y)**2", derivative="2 * (a - y)")),
    "optimizer": (OPTIMIZERS, lambda: Optimizer("planted", {"p": "p - 2 * learning_rate * g"})),
    "schedule": (SCHEDULES, Schedule),
    "initializer": (INITIALIZERS, lambda random, fan_in, fan_out, columns: np.ones((fan_in, columns))),
}


def pytest_configure() -> None:
    for table, row in ROWS.values():
        table["planted"] = row  # type: ignore[index]
