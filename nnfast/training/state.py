"""Where a run stands between two stretches of steps, as plain arrays and numbers.

A saved State can be restored later, in another thread, or beside other runs; the run goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formulas.schedules import Plateau

Vector = NDArray[np.floating]


@dataclass
class Progress:
    """How far a run has come, apart from what it has learnt.

    step: steps since the optimizer began, which decide masks and bias corrections. epoch: finished epochs of this run.
    losses, seconds: of the steps of the unfinished epoch, (n_steps,) float64, and what they took. threads: of the same
    steps, added up. learning_rate: the unfinished epoch's, before schedule and plateau. waited: epochs without an
    improvement. best_value, best_epoch: of the best weights so far, best_parameters and best_statistics; best_epoch is
    0 before there are any. random_state: of the caller's draws, if its orders are not functions of the epoch: arrays,
    numbers and text.
    """

    step: int = 0
    epoch: int = 0
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    seconds: float = 0.0
    threads: float = 0.0
    learning_rate: float = 0.0
    plateau: Plateau = field(default_factory=Plateau)
    waited: int = 0
    best_value: float = math.inf
    best_epoch: int = 0
    best_parameters: Vector | None = None
    best_statistics: Vector | None = None
    random_state: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Progress:
        """Another one, which goes on by itself. A run replaces its arrays and never writes into them."""
        return replace(self, plateau=replace(self.plateau))


@dataclass
class State:
    """A run's whole state: what the program has learnt, and how far the run has come.

    parameters: the flat vector, (parameter_count,). slots: the optimizer's, (n_slots, parameter_count). statistics: the
    running ones, (state_count,). All three in the program's dtype.
    """

    parameters: Vector
    slots: Vector
    statistics: Vector
    progress: Progress = field(default_factory=Progress)

    def to_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All arrays by name, and the rest for JSON."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _VECTORS}
        description: dict[str, Any] = {}
        for item in fields(Progress):
            value = getattr(self.progress, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            elif item.name == "plateau":
                description[item.name] = asdict(value)
            elif item.name == "random_state":
                arrays |= {f"random_state.{name}": part for name, part in value.items() if _is_array(part)}
                description[item.name] = {name: part for name, part in value.items() if not _is_array(part)}
            elif value is not None:
                description[item.name] = value
        return arrays, description

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> State:
        """The state of to_state. Raises KeyError or TypeError where something is missing or unknown."""
        values: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
        vectors = {name: values.pop(name) for name in _VECTORS}
        drawn = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith("random_state.")}
        values |= {name: value for name, value in description.items() if name not in ("plateau", "random_state")}
        progress = Progress(
            **values,
            plateau=Plateau(**description["plateau"]),
            random_state={**description["random_state"], **drawn},
        )
        return cls(**vectors, progress=progress)


_VECTORS = ("parameters", "slots", "statistics")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)
