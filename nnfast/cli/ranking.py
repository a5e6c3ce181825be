"""How the candidates of a search did, in order and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..reports.figures import aligned
from .candidates import shown_value
from .preparation import Prepared


@dataclass(eq=False)
class Candidate:
    """settings: where it differs from others. folds: of each that ended, the line of search.jsonl, by its number.

    Its numbers are asked for once all folds are there.
    """

    settings: dict[str, Any]
    run: Prepared
    metric: str
    folds: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def diverged(self) -> list[int]:
        """The folds in which it did."""
        return sorted(fold for fold, line in self.folds.items() if "diverged" in line)

    @cached_property
    def mean(self) -> float:
        """Of the validation scores; NaN if it diverged."""
        return float(np.mean(self._values(f"validation_{self.metric}")))

    @cached_property
    def deviation(self) -> float:
        return float(np.std(self._values(f"validation_{self.metric}")))

    @cached_property
    def loss(self) -> float:
        return float(np.mean(self._values("validation_loss")))

    def _values(self, name: str) -> list[float]:
        values = [self.folds[fold].get(name) for fold in sorted(self.folds)]
        # As JSON has them, which knows no infinity
        return [math.nan if value is None or not math.isfinite(value) else value for value in values]

    def summary(self) -> dict[str, Any]:
        """What --json has of it."""
        if self.diverged:
            return {"settings": self.settings, "diverged": self.diverged}
        numbers = {f"mean_{self.metric}": self.mean, "deviation": self.deviation, "mean_loss": self.loss}
        return {"settings": self.settings, **{name: _or_none(value) for name, value in numbers.items()}}


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best first: by the mean score, then by the loss; what diverged last."""

    def key(candidate: Candidate) -> tuple[bool, bool, float, float]:
        mean, loss = candidate.mean, candidate.loss
        if math.isnan(mean):
            return bool(candidate.diverged), True, 0.0, 0.0
        return False, False, -mean, math.inf if math.isnan(loss) else loss

    return sorted(candidates, key=key)


def score_words_of(candidate: Candidate) -> str:
    """ "accuracy 97.63%, deviation 0.81%", or that it diverged."""
    if candidate.diverged:
        return f"diverged in fold {', '.join(map(str, candidate.diverged))}"
    mean, deviation = _cells(candidate)
    return f"{_NAMES[candidate.metric]} {mean}, deviation {deviation}"


def table(candidates: Sequence[Candidate]) -> list[str]:
    """A line for each candidate, in their order, below a heading."""
    metric, names = candidates[0].metric, list(candidates[0].settings)
    rows = [["rank", *names, _NAMES[metric], "deviation", "loss"]]
    for rank, candidate in enumerate(candidates, 1):
        settings = [shown_value(name, candidate.settings[name]) for name in names]
        if candidate.diverged:
            rows.append(["", *settings, "diverged", "", ""])
        else:
            rows.append([str(rank), *settings, *_cells(candidate), f"{candidate.loss:.4g}"])
    return aligned(rows).splitlines()


_NAMES = {"accuracy": "accuracy", "r2": "R2"}


def _cells(candidate: Candidate) -> list[str]:
    """The mean and the deviation."""
    form = ".2%" if candidate.metric == "accuracy" else ".4f"
    return [format(candidate.mean, form), format(candidate.deviation, form)]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
