"""Learning-rate schedules: the rate of every step, computed on the host.

A schedule multiplies the run's learning rate; it counts epochs and steps from 0 and knows no backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..support.checks import check_integer, shown
from .choices import check_options, parse_choice

Factors = NDArray[np.float64]


class Span(NamedTuple):
    """The length of a run, as far as a schedule needs it."""

    steps_per_epoch: int
    total_steps: int


@dataclass(frozen=True)
class Schedule:
    """The constant schedule, and the base of the others: factors() is what they define."""

    def factors(self, steps: NDArray[np.int64], span: Span) -> Factors:
        """The factor on the learning rate at each of these steps of the run. Shape of steps, float64."""
        return np.ones(len(steps))


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplies the rate by `factor` after every `every` epochs."""

    every: int = 10
    factor: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", check_integer(self.every, "every"))
        _check_fraction(self, "factor")

    def factors(self, steps: NDArray[np.int64], span: Span) -> Factors:
        return np.power(self.factor, (steps // span.steps_per_epoch) // self.every, dtype=np.float64)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """Multiplies the rate by `factor` every epoch, smoothly from step to step."""

    factor: float = 0.95

    def __post_init__(self) -> None:
        _check_fraction(self, "factor")

    def factors(self, steps: NDArray[np.int64], span: Span) -> Factors:
        return np.power(self.factor, steps / span.steps_per_epoch, dtype=np.float64)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """Divides the rate by (step + 1)**power."""

    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.power < np.inf:
            raise ValueError(f"power must be a finite number above 0, got {self.power!r}")

    def factors(self, steps: NDArray[np.int64], span: Span) -> Factors:
        return np.power(steps + 1.0, -self.power)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Half a cosine from 1 down to `final` over the run (Loshchilov & Hutter 2017), after a linear warm-up.

    warmup: the epochs over which the rate rises linearly to its full value.
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < np.inf:
            raise ValueError(f"warmup must be a finite number of epochs from 0, got {self.warmup!r}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must lie in [0, 1], got {self.final!r}")

    def factors(self, steps: NDArray[np.int64], span: Span) -> Factors:
        warm = min(round(self.warmup * span.steps_per_epoch), span.total_steps)
        rising = (steps + 1.0) / max(warm, 1)
        progress = np.clip((steps - warm) / max(span.total_steps - warm, 1), 0.0, 1.0)
        falling = self.final + (1 - self.final) * 0.5 * (1 + np.cos(np.pi * progress))
        return np.where(steps < warm, rising, falling)


@dataclass
class Plateau:
    """How far a run with ReduceOnPlateau has come: the factor now in force, the best loss, the epochs since."""

    factor: float = 1.0
    best: float = np.inf
    waited: int = 0


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiplies the rate by `factor` when the watched loss has not improved for `patience` epochs.

    The validation loss is watched where there is one, else the training loss; it improves when it falls by more
    than `tolerance`. The factor never goes below `minimum`.
    """

    factor: float = 0.2
    patience: int = 5
    tolerance: float = 1e-4
    minimum: float = 1e-4

    def __post_init__(self) -> None:
        _check_fraction(self, "factor")
        object.__setattr__(self, "patience", check_integer(self.patience, "patience"))
        if not 0 <= self.tolerance < np.inf:
            raise ValueError(f"tolerance must be a finite number from 0, got {self.tolerance!r}")
        if not 0 <= self.minimum <= 1:
            raise ValueError(f"minimum must lie in [0, 1], got {self.minimum!r}")

    def observe(self, plateau: Plateau, loss: float) -> None:
        """Take note of an epoch's watched loss."""
        if loss < plateau.best - self.tolerance:
            plateau.best, plateau.waited = loss, 0
            return
        plateau.waited += 1
        if plateau.waited >= self.patience:
            plateau.factor = max(plateau.factor * self.factor, self.minimum)
            plateau.waited = 0


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule, "step": StepDecay, "exponential": ExponentialDecay, "inverse_scaling": InverseScaling,
    "cosine": CosineDecay, "plateau": ReduceOnPlateau,
}  # fmt: skip


def get_schedule(schedule: str | Schedule, **options: Any) -> Schedule:
    """The schedule of a name and its options, or a Schedule unchanged.

    Parameters
    ----------
    schedule : str or Schedule
        A name of SCHEDULES, also with options in the text: "cosine:warmup=2".
    **options
        The same as keywords, beside a name alone.

    Raises
    ------
    TypeError or ValueError for an unknown name or option, and for a value out of its range.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if not isinstance(schedule, str):
        raise TypeError(f"schedule must be a name or a Schedule, got {shown(schedule)}")
    name, options = parse_choice(schedule, "schedule", options)
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    kind = SCHEDULES[name]
    check_options(f"schedule {name!r}", options, kind.__dataclass_fields__)
    return kind(**options)


def _check_fraction(schedule: Any, field: str) -> None:
    value = getattr(schedule, field)
    if not 0 < value < 1:
        raise ValueError(f"{field} must lie between 0 and 1, got {value!r}")
