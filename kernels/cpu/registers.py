"""This processor's vector registers: how wide they are, which decides how numbers lie in memory, and what they fuse.

Needs no Numba.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np


def vector_bytes() -> int:
    """The width of this processor's vector registers."""
    features = llvmlite.binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


VECTOR_BYTES = vector_bytes()


FUSED = """
define double @multiply_add(double %a, double %b, double %c) {
  %sum = call double @llvm.fma.f64(double %a, double %b, double %c)
  ret double %sum
}
declare double @llvm.fma.f64(double, double, double)
"""


def fuses_multiply_add() -> bool:
    """Whether a b + c, rounded once, is an instruction of the processor that Numba compiles for.

    Where it is none, LLVM calls the C library for every number. x86 processors before 2013 lack it, and small ones
    since; Numba's variables may name such a one.
    """
    return _fuses(os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES"))


@cache
def _fuses(name: str | None, chosen: str | None) -> bool:
    """The same for a processor's name and features, where they are chosen; every training asks."""
    binding = llvmlite.binding
    features = binding.get_host_cpu_features()
    if name is None and chosen is None:
        return bool(features.get("fma", True))  # LLVM asks x86 alone
    if chosen is None:
        chosen = "" if str(name).lower() == "generic" else features.flatten()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    processor = name or binding.get_host_cpu_name()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=processor, features=chosen)
    return re.search(r"\bfma\b", machine.emit_assembly(binding.parse_assembly(FUSED))) is None


def group_size(dtype: np.dtype[Any]) -> int:
    """How many images of this dtype make a group: one a lane of a register (see images.py)."""
    return VECTOR_BYTES // dtype.itemsize
