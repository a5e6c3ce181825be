"""The CPU engine on processors with other vector registers than this one's: the same results, whatever the speed."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("numba")

from nnfast.kernels.cpu.registers import VECTOR_BYTES

# What the processor says it has is decided before the kernels are imported.
PROGRAM = """
import os
import sys
import llvmlite.binding

width, dtype = int(sys.argv[1]), sys.argv[2]
features = llvmlite.binding.get_host_cpu_features
llvmlite.binding.get_host_cpu_features = lambda: {"avx512f": width == 64, "avx2": width >= 32}
from nnfast.kernels.cpu.registers import VECTOR_BYTES

llvmlite.binding.get_host_cpu_features = features  # the compiler goes by what there is
from nnfast.backends import get_backend
from nnfast.networks.layers import BatchNorm, Conv2D, Dense, Flatten, LayerNorm, MaxPool2D
from nnfast.networks.network import Network
from tests.programs import assert_one_step_agrees, recipe

assert VECTOR_BYTES == width
assert get_backend("auto").name == ("numpy" if "NUMBA_CPU_NAME" in os.environ else "numba")
images = [Conv2D(4, 2, activation="relu"), BatchNorm(), Conv2D(4, 2, groups=4), MaxPool2D(2), Flatten()]
for network in (
    Network((8, 7, 2), [*images, Dense(19, "tanh"), Dense(3)]),
    Network(5, [Dense(37, "tanh"), BatchNorm(), Dense(9, "relu"), Dense(2), Dense(1)]),
    Network(5, [Dense(37), LayerNorm(activation="tanh"), Dense(3)]),
):
    assert_one_step_agrees(get_backend("numba"), network, recipe("squared_error", dtype=dtype, alpha=0.1), rows=21)
"""


WIDTHS = [width for width in (16, 32, 64) if width != VECTOR_BYTES]
DTYPES = ("float32", "float64")

# An x86 processor with the narrowest registers, and without fused multiply-add: the C library computes it.
NEHALEM = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""} if platform.machine() in ("x86_64", "AMD64") else {}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[int, str], subprocess.Popen[str]]]:
    """All at once, since each compiles every kernel anew on one processor.

    Without optimisation, which takes a third of the time: widths decide what the kernels say, not how it is compiled.
    """
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_OPT": "0"}
    with contextlib.ExitStack() as stack:
        started = {}
        for width, dtype in itertools.product(WIDTHS, DTYPES):
            environment["NNFAST_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(width), dtype], cwd=root,
                env=environment | (NEHALEM if width == 16 else {}),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            started[width, dtype] = stack.enter_context(process)
            stack.callback(process.kill)  # before the end of the context waits for it
        yield started


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_registers_of_other_widths_give_the_same_gradient(
    width: int, dtype: str, processes: dict[tuple[int, str], subprocess.Popen[str]]
) -> None:
    process = processes[width, dtype]
    output, _ = process.communicate()
    assert process.returncode == 0, output
