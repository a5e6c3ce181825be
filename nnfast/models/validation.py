"""What users hand in, checked once at the boundary and turned into the arrays that backends trust."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends.base import Source
from ..data.encoding import InputEncoding
from ..data.table import Table
from ..data.targets import ClassTargets, NumberTargets, TargetEncoding
from ..formulas.activations import ACTIVATIONS
from ..formulas.losses import LOSSES, Loss, check_target_values
from ..networks.network import Network
from ..plans.plan import Plan
from ..support.arrays import array_module, is_on_device, readable, to_host
from ..support.checks import check_unmasked

_BYTES = np.dtype(np.uint8)
FEW = 4096  # numbers: adding up their squares is over sooner than their sum, and wakes no thread of BLAS


def check_inputs(
    X: ArrayLike | Table, network: Network, dtype: np.dtype[Any], encoding: InputEncoding | None
) -> NDArray[Any]:
    """The rows of X as a matrix (n_rows, input_size), in `dtype` or, for bytes, uint8.

    X: (n_rows, *input_shape) or (n_rows, input_size); grey images may come with or without an axis of one channel. An
    array that is so already is not copied, whatever its order in memory; one on a CUDA device stays there. Raises
    TypeError or ValueError for a wrong shape or kind, and for NaN and infinity with row and column.
    """
    if getattr(X, "tocsr", None):
        raise TypeError(
            f"X is a sparse {type(X).__name__}: MLPClassifier and MLPRegressor read it as it is; here, pass X.toarray()"
        )
    if encoding is not None:
        if is_on_device(X):
            raise TypeError("columns are encoded on the host: pass X.get(), or leave inputs= out")
        X = encoding.transform(X)
    elif isinstance(X, Table):
        raise TypeError("a Table needs an InputEncoding that turns its columns into numbers: pass inputs=")
    check_unmasked(X, "X")
    xp = array_module(X)
    inputs = xp.asarray(X)
    if inputs.dtype.kind not in "buif":
        raise TypeError(f"X must hold numbers, got dtype {inputs.dtype}")
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError("X has no rows")
    check_row_shape(inputs.shape, network)
    return converted(inputs.reshape(len(inputs), -1), _BYTES if inputs.dtype == _BYTES else dtype, "X", readable)


def check_row_shape(shape: tuple[int, ...], network: Network) -> None:
    """Raise ValueError unless X of this shape holds rows of the network.

    They may have the network's own shape or be flat; grey images may come with or without an axis of one channel.
    """
    own, found = network.input_shape, shape[1:]
    fitting = {own, (network.input_size,)}
    if len(own) == 2:
        fitting.add((*own, 1))
    elif len(own) == 3 and own[2] == 1:
        fitting.add(own[:2])
    if found not in fitting:
        expected = ", ".join(map(str, ("n_rows", *own)))
        raise ValueError(f"X has shape {shape}, but the network takes ({expected}){_advice(found, network)}")


def _advice(found: tuple[int, ...], network: Network) -> str:
    """How rows of this shape, which do not fit, could be made to."""
    if len(found) == len(network.input_shape) == 3 and (*found[1:], found[0]) == network.input_shape:
        return "; channels come last: np.moveaxis(X, 1, -1)"
    if math.prod(found) == network.input_size:
        return f"; reshape X, or begin with Network({found}, [Flatten(), ...])"
    return ""


def rows_of_numbers(x: ArrayLike, network: Network) -> NDArray[Any]:
    """Rows handed to a single call, as (n_rows, input_size) in their own dtype. Raises TypeError or ValueError."""
    check_unmasked(x, "x")
    rows = np.asarray(x)
    if rows.dtype.kind not in "buif":
        raise TypeError(f"x must hold numbers, got dtype {rows.dtype}")
    if rows.ndim == 0:
        raise ValueError("x must have shape (n_rows, n_inputs), got a single number")
    check_row_shape(rows.shape, network)
    return rows.reshape(len(rows), network.input_size)


def check_row_numbers(rows: ArrayLike, n_rows: int, name: str) -> NDArray[np.int64]:
    """Numbers of rows in [0, n_rows), (n,). Raises TypeError or ValueError."""
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"{name} must name rows by their numbers, got {numbers.dtype} of shape {numbers.shape}")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < n_rows):
        raise ValueError(f"{name} must name rows in [0, {n_rows}), got {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.int64)


def check_vector(vector: ArrayLike, size: int, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """A flat vector of `size` finite numbers, in `dtype`. Raises TypeError or ValueError."""
    check_unmasked(vector, name)
    numbers = np.asarray(vector)
    if numbers.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold real numbers, got dtype {numbers.dtype}")
    if numbers.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {numbers.shape}")
    return converted(numbers, dtype, name)


def check_state(plan: Plan, state: NDArray[Any]) -> None:
    """Raise ValueError for running statistics that cannot be: a NaN, or a variance below 0."""
    for name, span in plan.named_state.items():
        values = span.view(state)
        if not np.isfinite(values).all() or (name.endswith("variance") and (values < 0).any()):
            raise ValueError(f"initial_state: {name} must be finite, and a variance not negative, got {values}")


def contiguous(values: Any, dtype: np.dtype[Any]) -> Any:
    """The values in `dtype` and C order, where they are; not copied if they are so already."""
    return array_module(values).ascontiguousarray(values, dtype)


def converted(
    values: Any, dtype: np.dtype[Any], name: str, convert: Callable[[Any, np.dtype[Any]], Any] = contiguous
) -> NDArray[Any]:
    """The values in `dtype`, as `convert` makes them.

    Raises ValueError, with row and column, for a NaN, an infinity, and a number that `dtype` has no room for.
    """
    is_ready = type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous
    if is_ready and values.size <= FEW and (dtype.kind != "f" or math.isfinite(np.vdot(values, values))):
        ready: NDArray[Any] = values
        return ready
    with np.errstate(all="ignore"):  # what overflows is told below
        cast: NDArray[Any] = convert(values, dtype)
        # A sum that overflows is looked into
        if dtype.kind != "f" or math.isfinite(cast.sum()):
            return cast
    values, found = to_host(values), to_host(cast)
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        place = tuple(wrong[0])
        where = f"row {place[0]}" + "".join(f", column {index}" for index in place[1:]) + " (counted from 0)"
        if np.isfinite(values[place]):
            limit = f"{dtype.name} (at most {np.finfo(dtype).max:.3g})"
            raise ValueError(f"{name} holds {values[place]} in {where}, too large for {limit}; scale it down")
        raise ValueError(f"{name} holds {values[place]} in {where}; remove or fill it in")
    return cast


def choose_targets(y: ArrayLike, network: Network, loss: Loss) -> TargetEncoding:
    """How to read y: as class labels, or as numbers that the outputs should equal.

    One label a row is taken for classes where the network has several outputs, or one output under
    binary_cross_entropy. Integers in [0, n_outputs) are the outputs' numbers, also where some are missing.
    """
    y = to_host(y)
    values = np.asarray(y)
    size = network.output_size
    flat = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    if flat and size > 1:
        if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() < size:
            return ClassTargets(np.arange(size, dtype=np.int64))
        targets = ClassTargets.fit(y)
        if targets.n_outputs != size:
            raise ValueError(f"y holds {targets.n_outputs} classes, but the network has {size} outputs")
        return targets
    if flat and loss == LOSSES["binary_cross_entropy"]:
        probabilities = values.dtype.kind == "f" and not np.isin(values, (0, 1)).all()
        if not probabilities:
            targets = ClassTargets.fit(y)
            if targets.n_outputs != 2:
                raise ValueError(
                    f"y holds {targets.n_outputs} classes; with one output {loss.name} tells two apart: "
                    f"use {targets.n_outputs} outputs with softmax and cross_entropy"
                )
            return targets
    return NumberTargets.fit(y, standardize=False)


def encode_targets(
    y: ArrayLike, network: Network, loss: Loss, dtype: np.dtype[Any], encoding: TargetEncoding, n_rows: int
) -> NDArray[Any]:
    """y as a backend reads it: (n_rows,) int64 labels or (n_rows, output_size) in `dtype`.

    Raises TypeError or ValueError for shapes that do not fit and for targets that the loss does not accept.
    """
    encoded = np.asarray(encoding.encode(to_host(y)))
    if len(encoded) != n_rows:
        raise ValueError(f"X has {n_rows} rows, but y has {len(encoded)}")
    size = network.output_size
    if isinstance(encoding, ClassTargets):
        check_class_count(encoding, network)
        if size > 1:
            return encoded
        return encoded.astype(dtype)[:, np.newaxis]
    encoded = converted(encoded.reshape(n_rows, -1), dtype, "y")
    if encoded.shape[1] != size:
        raise ValueError(f"y has {encoded.shape[1]} values a row, but the network has {size} outputs")
    check_target_values(loss, encoded)
    return encoded


def check_class_count(targets: ClassTargets, network: Network) -> None:
    """Raise ValueError unless there is an output for every class, or one output for two classes."""
    if targets.n_outputs != max(network.output_size, 2):
        raise ValueError(f"{targets.n_outputs} classes do not fit a network of {network.output_size} outputs")


def check_sample_weight(sample_weight: ArrayLike | None, n_rows: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Weights of shape (n_rows,), finite, not negative and not all zero, in `dtype`."""
    if sample_weight is None:
        return None
    check_unmasked(sample_weight, "sample_weight")
    weights = np.asarray(to_host(sample_weight))
    if weights.dtype.kind not in "buif":
        raise TypeError(f"sample_weight must hold numbers, got dtype {weights.dtype}")
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), got {weights.shape}")
    weights = converted(weights, dtype, "sample_weight")
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise ValueError(f"sample_weight must not be negative; row {row} has {weights[row]:g}")
    if not weights.any():
        raise ValueError("sample_weight is zero everywhere: there is nothing to learn from")
    return weights


def make_source(
    X: ArrayLike | Table,
    y: ArrayLike | None,
    sample_weight: ArrayLike | None,
    *,
    network: Network,
    loss: Loss,
    dtype: np.dtype[Any],
    inputs: InputEncoding | None,
    targets: TargetEncoding,
    scale: float,
) -> Source:
    """Rows as a backend reads them. The parameters are a Model's; see scaled_inputs and encode_targets."""
    rows, scale = scaled_inputs(X, network, dtype, inputs, scale)
    encoded = None if y is None else encode_targets(y, network, loss, dtype, targets, len(rows))
    return Source(rows, encoded, check_sample_weight(sample_weight, len(rows), dtype), scale)


def scaled_inputs(
    X: ArrayLike | Table, network: Network, dtype: np.dtype[Any], encoding: InputEncoding | None, scale: float
) -> tuple[NDArray[Any], float]:
    """The rows of check_inputs, and the scale that they are still to be multiplied by."""
    rows = check_inputs(X, network, dtype, encoding)
    if scale == 1 or rows.dtype != dtype:  # bytes are scaled as they are gathered; floats here, once
        return rows, scale
    with np.errstate(over="ignore"):
        rows = rows * dtype.type(scale)
    return converted(rows, dtype, "X, times input_scale,"), 1.0


def default_loss(network: Network) -> Loss:
    """The canonical loss of the output activation: cross-entropies, poisson for exp, else squared_error."""
    natural = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy", "exp": "poisson"}
    activation = network.output_layer.function
    own = ACTIVATIONS.get(activation.name) == activation
    return LOSSES[natural.get(activation.name, "squared_error") if own else "squared_error"]
