"""What the compiled epoch takes for granted, checked before a call under NNFAST_DEBUG=1: it reads past no array.

The types and lengths of its arguments are checked by its signature (kernels/cpu/signatures.py); here is what they hold.
All raise AssertionError: whatever is wrong is a fault of the engine, since what users hand in was checked before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...plans.plan import Plan
from ..base import Source
from .listing import all_arrays, extents
from .table import Areas


def check_call(
    plan: Plan, dtype: np.dtype[Any], source: Source, order: NDArray[np.int64], bounds: NDArray[np.int64]
) -> None:
    """That the batches' rows are in the source, which holds what the network takes."""
    sizes = np.diff(bounds)
    if bounds[0] < 0 or bounds[-1] > len(order) or (sizes < 0).any():
        _fail("bounds", f"must rise within 0..{len(order)}, the length of order, got {bounds}")
    if sizes.size and sizes.max() > plan.rows:
        _fail("bounds", f"a batch has {sizes.max()} rows, but the plan is for at most {plan.rows}")
    _check_within("order", order[bounds[0] : bounds[-1]], source.n_rows, "rows of the source")
    network = plan.network
    if source.is_sparse:
        _check_sparse(source.inputs, network.input_size)
    else:
        _check_array("inputs", source.inputs, (source.n_rows, network.input_size), "float32", "float64", "uint8")
    targets = source.targets
    if targets is not None and targets.ndim == 1:
        _check_array("targets", targets, (source.n_rows,), "int64")
        _check_within("targets", targets, network.output_size, "outputs")
    elif targets is not None:
        _check_array("targets", targets, (source.n_rows, network.output_size), dtype)
    if source.sample_weight is not None:
        _check_array("sample_weight", source.sample_weight, (source.n_rows,), dtype)


def check_table(operations: NDArray[np.int64], plan: Plan, areas: Areas, **vectors: NDArray[Any]) -> None:
    """That what an operation reads and writes lies in its vector, and there in one array of the plan or the engine.

    vectors: parameters and workspace.
    """
    arrays = all_arrays(plan, areas)
    for index, row in enumerate(operations):
        for extent in extents(row, plan.rows):
            what = f"{extent.column} of operation {index} is {extent}"
            size = vectors[extent.vector].size
            if not 0 <= extent.start <= extent.stop <= size:
                _fail("operations", f"{what}, but {extent.vector} has {size} elements")
            spans = [span for vector, _, span in arrays if vector == extent.vector]
            is_inside = any(span.offset <= extent.start and extent.stop <= span.end for span in spans)
            # Whole arrays of parameters side by side are updated as one: gamma and beta
            is_whole = extent.start in {span.offset for span in spans} and extent.stop in {span.end for span in spans}
            if not is_inside and not (is_whole and extent.vector == "parameters"):
                _fail("operations", f"{what}, which no array of the plan or the engine holds")


def _check_sparse(inputs: Any, columns: int) -> None:
    """That CSR rows keep to their matrix."""
    _check_array("inputs.data", inputs.data, inputs.data.shape, "float32", "float64")
    _check_array("inputs.indices", inputs.indices, inputs.indices.shape, "int32", "int64")
    starts = inputs.indptr
    _check_array("inputs.indptr", starts, (inputs.shape[0] + 1,), inputs.indices.dtype)
    if starts[0] < 0 or (np.diff(starts) < 0).any() or starts[-1] > min(len(inputs.data), len(inputs.indices)):
        _fail("inputs.indptr", f"must rise within 0..{len(inputs.data)}, the numbers that there are, got {starts}")
    _check_within("inputs.indices", inputs.indices[starts[0] : starts[-1]], columns, "inputs of the network")


def _check_array(name: str, array: Any, shape: tuple[int, ...], *dtypes: Any) -> None:
    if array.shape != shape or array.dtype not in dtypes or not array.flags.c_contiguous:
        order = "C order" if array.flags.c_contiguous else "another order"
        names = " or ".join(map(str, dtypes))
        _fail(name, f"must have shape {shape} in C order of {names}, got {array.shape} in {order} of {array.dtype}")


def _check_within(name: str, values: NDArray[Any], end: int, of_what: str) -> None:
    outside = (values < 0) | (values >= end)
    if outside.any():
        place = int(outside.argmax())
        _fail(name, f"{values[place]} at place {place} is none of the {end} {of_what}")


def _fail(parameter: str, mistake: str) -> None:
    raise AssertionError(f"kernel run_steps, parameter {parameter}: {mistake}")
