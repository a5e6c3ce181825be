"""The kernels by name: the module that each stands in, and its arguments, as in a C header. Needs no Numba.

Letters: see compilation.c_callable.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .compilation import Kernel, c_callable

_PASS = "rpppnnn"  # forward or backward of an operation on images, see images.py

KERNELS: dict[str, tuple[str, str]] = {
    "run_steps": ("epoch", "rrDuppppppppDDrrnpnDDprnn"),
    "add_penalties": ("penalties", "rnDppDdnn"),
    "clip": ("penalties", "rnpndrnnn"),
    "multiply": ("products", "pnnpnpnnnnpnp"),
    "transpose": ("products", "pnpnnn"),
    "dropout": ("philox", "pppnnunnup"),
    "dropout_in_groups": ("philox", "pppnnnnunnup"),
    "dropout_backward": ("philox", "pppn"),
    "interleave": ("images", "ppnnnnn"),
    "deinterleave": ("images", "ppnnnn"),
    "correlate": ("convolution", _PASS),
    "add_gradient": ("convolution_gradient", "rppnnnn"),
    **{f"{kind}_{way}": ("pooling", _PASS) for kind in ("max", "average") for way in ("forward", "backward")},
    **{f"{layout}_statistics": ("batch_norm", "rpppnnnn") for layout in ("image", "flat")},
    **{f"{layout}_{way}": ("batch_norm", _PASS) for layout in ("image", "flat") for way in ("forward", "backward")},
    **{f"{layout}_sums": ("batch_norm", "rppnnn") for layout in ("image", "flat")},
}


def kernel(name: str, dtype: np.dtype[Any]) -> Kernel:
    """A kernel of this folder for arrays of `dtype`."""
    module, arguments = KERNELS[name]
    return c_callable(name, arguments, dtype, lambda: getattr(importlib.import_module(f"{__package__}.{module}"), name))
