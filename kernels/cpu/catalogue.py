"""All CPU kernels: where each stands, and its signature. Needs no Numba.

KERNELS has those that are Python functions of this folder, by their names; WRITTEN those that are written from a
formula or for a type, by their kinds. `python -m nnfast.kernels.cpu.catalogue` prints kernels/signatures.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .compilation import Kernel, c_callable, written_kernel
from .signatures import Signature, array, declaration, numbers

_OPERATIONS = array("operations", "int64", "(count, COLUMNS)")
_SETTINGS = array("settings", "float64", "(SETTINGS_SIZE,)")
_PARAMETERS = array("parameters", "T", "the plan's parameters")
_GRADIENT = array("gradient", "T", "as the plan's parameters")
_STATE = array("state", "T", "the plan's state")
_WORKSPACE = array("workspace", "T", "the plan's workspace and the engine's")
_ROW = array("row", "int64", "as its kernel's module makes it")
_BARRIER = array("barrier", "int64", "(BARRIER_SIZE,)")

# Forward or backward of an operation on images, see images.py
_PASS = (_ROW, _PARAMETERS, _GRADIENT, _WORKSPACE, *numbers("n first last"))
_STATISTICS = (
    _ROW, array("constants", "T", "(2,)"), _WORKSPACE, _STATE, *numbers("n mode start stop"),
)  # fmt: skip
_ADD = (_ROW, _GRADIENT, _WORKSPACE, *numbers("first last start stop"))
_SUMS = (_ROW, _GRADIENT, _WORKSPACE, *numbers("n start stop"))

KERNELS: dict[str, tuple[str, Signature]] = {
    "run_steps": ("epoch", (
        array("operations", "int64", "(job[OPERATIONS], COLUMNS)"),
        array("job", "int64", "(JOB_SIZE,)"),
        _SETTINGS,
        *numbers("seed", "uint64"),
        array("constants", "T", "of all formulas"),
        array("zeros", "T", "as the longest row of an operation"),
        array("parameters", "T", "(job[PARAMETERS],)"),
        array("gradient", "T", "(job[PARAMETERS],)"),
        array("slots", "T", "a vector as the parameters for each slot"),
        _STATE,
        _WORKSPACE,
        array("pack", "T", "(PACK_SIZE,)"),
        array("row_losses", "float64", "the plan's rows"),
        array("penalties", "float64", "(job[PENALTY_ROWS],)"),
        array("order", "int64", "(bounds[steps],)"),
        array("bounds", "int64", "(steps + 1,)"),
        *numbers("steps"),
        array("values", "T", "(steps, value_size)"),
        *numbers("value_size"),
        array("totals", "float64", "(steps,)"),
        array("losses", "float64", "(steps,)"),
        array("outputs", "T", "a row of outputs for each row evaluated"),
        _BARRIER,
        *numbers("thread threads"),
    )),
    "run_frames": ("frame", (array("frames", "int64", "(count, FRAME_SIZE)"), *numbers("count thread threads"))),
    "add_penalties": ("penalties", (
        _OPERATIONS, *numbers("count"), _SETTINGS, _PARAMETERS, _GRADIENT,
        array("penalties", "float64", "a number for each row of weights"), *numbers("divisor", "float64"),
        *numbers("thread threads"),
    )),
    "clip": ("penalties", (
        _OPERATIONS, *numbers("count"), array("gradient", "T", "(size,)"), *numbers("size"),
        *numbers("clip_norm", "float64"), _BARRIER, *numbers("give_way thread threads"),
    )),
    "multiply": ("products", (
        array("A", "T", "rows x depth, a_row and a_depth apart", "reach((rows, a_row), (depth, a_depth))"),
        *numbers("a_row a_depth"),
        array("B", "T", "depth x columns, rows b_row apart", "reach((depth, b_row), (columns, 1))"),
        *numbers("b_row"),
        array("C", "T", "rows x columns, rows c_row apart", "reach((rows, c_row), (columns, 1))"),
        *numbers("c_row rows columns depth"),
        array("S", "T", "rows x columns, rows s_row apart", "reach((rows, s_row), (columns, 1))"),
        *numbers("s_row"),
        array("pack", "T", "(PACK_SIZE,)"),
    )),
    "transpose": ("products", (
        array("A", "T", "rows x columns, rows a_row apart", "reach((rows, a_row), (columns, 1))"),
        *numbers("a_row"),
        array("out", "T", "columns x rows, rows out_row apart", "reach((columns, out_row), (rows, 1))"),
        *numbers("out_row rows columns"),
    )),
    "dropout": ("philox", (
        *(array(name, "T", "(count,)") for name in ("inputs", "outputs", "mask")), *numbers("count first"),
        *numbers("seed", "uint64"), *numbers("step layer"), *numbers("threshold", "uint64"),
        array("scale", "T", "(1,)"),
    )),
    "dropout_in_groups": ("philox", (
        *(
            array(name, "T", "whole groups of rows of `size`, up to `end`", "product((-(-end // group), group, size))")
            for name in ("inputs", "outputs", "mask")
        ),
        *numbers("size group begin end"), *numbers("seed", "uint64"), *numbers("step layer"),
        *numbers("threshold", "uint64"), array("scale", "T", "(1,)"),
    )),
    "dropout_backward": ("philox", (
        *(array(name, "T", "(count,)") for name in ("delta", "mask", "dx")), *numbers("count"),
    )),
    "interleave": ("images", (
        array("rows", "T", "(n, size)"), array("groups", "T", "(last, size, lanes)"),
        *numbers("n size is_gradient first last"),
    )),
    "deinterleave": ("images", (
        array("groups", "T", "(last, size, lanes)"), array("rows", "T", "(n, size)"), *numbers("n size first last"),
    )),
    "correlate": ("convolution", _PASS),
    "add_gradient": ("convolution_gradient", _ADD),
    **{f"{kind}_{way}": ("pooling", _PASS) for kind in ("max", "average") for way in ("forward", "backward")},
    **{f"{layout}_statistics": ("batch_norm", _STATISTICS) for layout in ("image", "flat")},
    **{f"{layout}_{way}": ("batch_norm", _PASS) for layout in ("image", "flat") for way in ("forward", "backward")},
    **{f"{layout}_sums": ("batch_norm", _SUMS) for layout in ("image", "flat")},
    **{f"layer_norm_{way}": ("layer_norm", _PASS) for way in ("forward", "backward")},
    "layer_norm_sums": ("layer_norm", _ADD),
}  # fmt: skip

_ELEMENTS = {name: array(name, "T", "(size,)") for name in ("z", "a", "delta")}
_CONSTANTS = array("k", "T", "the formulas' constants")
_MATRICES = [array(name, "T", "(rows, columns)") for name in ("z", "a", "y")]
# address: of the source's first element; for CSR rows, of three addresses: of values, column indices and row pointers
_GATHER = (
    *numbers("address"), array("rows", "int64", "(n,)"), *numbers("n columns"), *numbers("scale", "float64"),
    array("out", "T", "(n, columns)"),
)  # fmt: skip

WRITTEN: dict[str, tuple[str, Signature]] = {
    "value": ("formulas", (_ELEMENTS["z"], _ELEMENTS["a"], _CONSTANTS, *numbers("size"))),
    "derivative": ("formulas", (*_ELEMENTS.values(), _CONSTANTS, *numbers("size"))),
    "loss": ("formulas", (
        *_MATRICES, array("weights", "T", "(rows,)"), array("delta", "T", "(rows, columns)"),
        array("losses", "float64", "(rows,)"), _CONSTANTS, *numbers("scale", "float64"), *numbers("rows columns"),
    )),
    "update": ("formulas", (
        array("p", "T", "(n,)"), array("g", "T", "(n,)"), array("slots", "T", "n numbers for each slot"),
        array("values", "T", "a row of Optimizer.step_values"), *numbers("n start stop"),
    )),
    "gather": ("gather", _GATHER),
    "one_hot": ("gather", _GATHER),
    "gather_csr": ("gather", _GATHER),
    "copy_rows": ("gather", (array("parts", "int64", "(6,)"), *numbers("n columns"))),
    "sparse_extents": ("sparse", (*_GATHER[:-1], array("out", "int64", "(n, 2)"))),
    "sparse_outputs": ("sparse", (
        _ROW, _PARAMETERS, array("bias", "T", "the layer's units"), _WORKSPACE, *numbers("n first last"),
    )),
    "sparse_gradient": ("sparse", (_ROW, _GRADIENT, _WORKSPACE, *numbers("first last start stop"))),
}  # fmt: skip


def kernel(name: str, dtype: np.dtype[Any]) -> Kernel:
    """A kernel of this folder for arrays of `dtype`."""
    module, signature = KERNELS[name]
    return c_callable(name, signature, dtype, lambda: getattr(importlib.import_module(f"{__package__}.{module}"), name))


def written(kind: str, text: str, dtype: np.dtype[Any]) -> Kernel:
    """A kernel of WRITTEN for arrays of `dtype`: the function `kernel` of a Python text."""
    return written_kernel(kind, text, WRITTEN[kind][1], dtype)


def listing() -> Iterator[str]:
    """The lines of kernels/signatures.md."""
    yield "# Signatures of the CPU kernels"
    yield ""
    yield "Written by `python -m nnfast.kernels.cpu.catalogue > kernels/signatures.md` from the tables of which the C"
    yield "functions and the checks of calls are made, too (`cpu/catalogue.py`, `cpu/signatures.py`). T is float32 or"
    yield "float64; capitals are numbers of `cpu/tables.py`; kernels said to be written are so for a formula or a type."
    for name, (module, signature) in {**KERNELS, **WRITTEN}.items():
        yield ""
        yield f"## {name}"
        yield ""
        yield f"`{declaration(name, signature)}`, in `{module}.py`" + ", written" * (name in WRITTEN)
        yield ""
        yield from (f"- {parameter.name}: {parameter.shape}" for parameter in signature if parameter.shape is not None)


if __name__ == "__main__":
    print("\n".join(listing()))
