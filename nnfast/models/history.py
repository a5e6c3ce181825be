"""What happened in a run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch, as callbacks receive it.

    epoch: from 1. loss: the training loss, averaged over the epoch's batches as they were met, penalties included.
    metrics: validation_loss and validation_accuracy or validation_r2, where there is validation. learning_rate: of
    the epoch's last step. seconds: of training, without validation. model: what is being trained, with the epoch's
    weights: the Model that train() will return, or the estimator. The next epoch changes it: keep a copy.deepcopy, or
    what save() writes. threads: in how many the numba backend ran, the mean of the epoch's steps; None for the others.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    model: Any = field(default=None, repr=False, compare=False)
    threads: float | None = None


@dataclass
class History:
    """Lists with an entry per finished epoch, and why the run ended.

    loss, learning_rate, seconds, metrics[name]: as in EpochRecord; so is threads, which has no entries where they would
    be None. stopped: "epochs" (all were run), "early stopping", "callback", "interrupted" or "diverged". best_epoch:
    the epoch, from 1, whose weights the model has where early stopping restored the best; else None.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    stopped: str = "epochs"
    best_epoch: int | None = None
    threads: list[float] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.loss)

    def __iter__(self) -> Iterator[EpochRecord]:
        """The epochs in order."""
        has_threads = len(self.threads) == self.epochs
        for index in range(self.epochs):
            metrics = {name: values[index] for name, values in self.metrics.items()}
            yield EpochRecord(
                index + 1, self.loss[index], self.learning_rate[index], self.seconds[index], metrics,
                threads=self.threads[index] if has_threads else None,
            )  # fmt: skip

    def kept(self, name: str) -> float | None:
        """Of "loss" or a metric, the value of the epoch whose weights the model has; None where there is none."""
        values = self.loss if name == "loss" else self.metrics.get(name)
        return values[(self.best_epoch or len(values)) - 1] if values else None

    def rewind(self, epochs: int) -> None:
        """Forget the epochs after the first `epochs`, and why the run ended."""
        for values in (self.loss, self.learning_rate, self.seconds, self.threads, *self.metrics.values()):
            del values[epochs:]
        self.stopped, self.best_epoch = "epochs", None

    def append(self, record: EpochRecord) -> None:
        self.loss.append(record.loss)
        self.learning_rate.append(record.learning_rate)
        self.seconds.append(record.seconds)
        if record.threads is not None:
            self.threads.append(record.threads)
        for name, value in record.metrics.items():
            self.metrics.setdefault(name, []).append(value)

    def to_state(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
        """The lists as float64 arrays, and the rest for JSON."""
        arrays = {name: getattr(self, name) for name in _LISTS}
        arrays |= {f"metrics.{name}": values for name, values in self.metrics.items()}
        description = {"stopped": self.stopped, "best_epoch": self.best_epoch}
        return {name: np.array(values, dtype=np.float64) for name, values in arrays.items()}, description

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]) -> History:
        lists = {name: array.astype(np.float64).reshape(-1).tolist() for name, array in arrays.items()}
        return cls(
            **{name: lists.get(name, []) for name in _LISTS},
            metrics={name[8:]: values for name, values in lists.items() if name.startswith("metrics.")},
            stopped=str(description.get("stopped")),
            best_epoch=description.get("best_epoch"),
        )


_LISTS = ("loss", "learning_rate", "seconds", "threads")
