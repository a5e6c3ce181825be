"""What ends a run before its last epoch: early stopping, and divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.targets import ClassTargets, TargetEncoding
from ..models.model import Model
from ..support.checks import check_flag, check_integer, check_number


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run when the watched number has not improved by more than `tolerance` for `patience` epochs.

    monitor: "validation_loss", "validation_accuracy", "validation_r2", "loss", or None for the validation loss where
    there is validation, else the training loss. restore_best: give the model the best epoch's weights.
    """

    patience: int = 10
    tolerance: float = 0.0
    monitor: str | None = None
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_integer(self.patience, "patience")
        check_number(self.tolerance, "tolerance", 0)
        check_flag(self.restore_best, "restore_best")

    def check_monitor(self, is_validated: bool, targets: TargetEncoding) -> None:
        """Raise ValueError if the run will not have the number to watch."""
        known = ["loss"]
        if is_validated:
            known += ["validation_loss", f"validation_{'accuracy' if isinstance(targets, ClassTargets) else 'r2'}"]
        if self.monitor is not None and self.monitor not in known:
            raise ValueError(f"early stopping cannot monitor {self.monitor!r}; this run has {', '.join(known)}")


class DivergenceError(ArithmeticError):
    """The loss or the weights became infinite or NaN.

    `model` has the best weights seen before; from a Learner, which remembers none, the present ones.
    """

    def __init__(self, message: str, model: Model) -> None:
        super().__init__(message)
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.model)  # Exception's own would leave out the model
