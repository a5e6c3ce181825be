"""What a caller hands a Learner for one call, checked before anything is written and brought to the learner's dtype."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..formulas.losses import Loss, check_target_values
from ..models.validation import converted, rows_of_numbers
from ..networks.network import Network
from ..support.checks import check_unmasked


class BatchChecks:
    """For batches of at most `most_rows` rows. All raise TypeError or ValueError."""

    def __init__(self, network: Network, loss: Loss, dtype: np.dtype[Any], most_rows: int) -> None:
        self.network, self.loss, self.dtype, self.most_rows = network, loss, dtype, most_rows
        self.input_size, self.output_size = network.input_size, network.output_size
        self._takes_any_number = loss.targets == "(-inf, inf)"

    def inputs(self, x: ArrayLike) -> NDArray[Any]:
        """The rows as a batch, all of them finite."""
        rows: Any = x
        if not self._is_plain(x, self.input_size):
            rows = converted(rows_of_numbers(x, self.network), self.dtype, "x")
        if not 0 < len(rows) <= self.most_rows:
            raise ValueError(f"x has {len(rows)} rows, but this learner takes 1 to {self.most_rows}: see batch_rows")
        checked: NDArray[Any] = rows
        return checked

    def targets(self, y: ArrayLike, rows: int) -> NDArray[Any]:
        """Labels (rows,) int64, or numbers (rows, n_outputs)."""
        if type(y) is not np.ndarray:
            check_unmasked(y, "y")
        values = np.asarray(y)
        if values.dtype.kind not in "buif":
            raise TypeError(f"y must hold numbers, got dtype {values.dtype}")
        if values.ndim == 0 or len(values) != rows:
            raise ValueError(f"x has {rows} rows, but y has shape {values.shape}")
        if values.ndim == 1 and self.output_size > 1:
            if values.dtype.kind not in "biu":
                raise TypeError(
                    f"labels must be integers, got {values.dtype}; numbers have shape (n_rows, {self.output_size})"
                )
            labels: NDArray[np.int64] = np.ascontiguousarray(values, np.int64)
            largest = labels.view(np.uint64).argmax()  # as an unsigned number, a negative one is a large one
            if not 0 <= labels[largest] < self.output_size:
                raise ValueError(f"labels must lie in [0, {self.output_size}), got {values.min()} to {values.max()}")
            return labels
        numbers = values
        if not self._is_plain(values, self.output_size):
            numbers = converted(values.reshape(rows, 1) if values.ndim == 1 else values, self.dtype, "y")
        if numbers.shape != (rows, self.output_size):
            raise ValueError(f"y must have shape ({rows}, {self.output_size}), got {values.shape}")
        if not self._takes_any_number:
            check_target_values(self.loss, numbers)
        return numbers

    def slopes(self, output_gradient: ArrayLike, rows: int) -> NDArray[Any]:
        """dLoss/doutputs, (rows, n_outputs); of one output also (rows,)."""
        if self._is_plain(output_gradient, self.output_size) and len(output_gradient) == rows:
            return output_gradient
        check_unmasked(output_gradient, "output_gradient")
        values, shape = np.asarray(output_gradient), (rows, self.output_size)
        if values.dtype.kind not in "buif":
            raise TypeError(f"output_gradient must hold numbers, got dtype {values.dtype}")
        if values.shape != shape and not (values.shape == (rows,) and shape[1] == 1):
            raise ValueError(f"output_gradient must have shape {shape}, got {values.shape}")
        return converted(values.reshape(shape), self.dtype, "output_gradient")

    def _is_plain(self, array: Any, columns: int) -> TypeGuard[NDArray[Any]]:
        """Whether it is a matrix of that many columns that needs no conversion, and certainly holds finite numbers."""
        return (
            type(array) is np.ndarray
            and array.dtype == self.dtype  # a copied dtype is another object
            and array.ndim == 2
            and array.shape[1] == columns
            and array.flags.c_contiguous
            and math.isfinite(np.vdot(array, array))  # which a large number's square may not be
        )
