"""Kernels of a few statements, for the tests of the emulator; a table of them is compiled as one text."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from tests.cuda import emulator

# In line 1, so that a snippet begins in line 2: a thread's linear number in its block, and its block's.
_BEGINNING = (
    "const int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x, b = blockIdx.x; "
    "(void)t; (void)b;"
)


def kernel(body: str, parameters: str, table: Iterable[str] = ()) -> emulator.Kernel:
    """The kernel of these statements and parameters; the other snippets of its table are compiled with it."""
    bodies = (*table,) or (body,)
    return _compile(bodies, parameters).get_function(f"f{bodies.index(body)}")


@functools.cache
def _compile(bodies: tuple[str, ...], parameters: str) -> emulator.Module:
    return emulator.load(
        "\n".join(
            f'#line 1 "kernel.cu"\nextern "C" __global__ void f{i}({parameters}) {{ {_BEGINNING}\n{body}\n}}'
            for i, body in enumerate(bodies)
        )
    )
