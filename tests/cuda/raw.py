"""Modules of CUDA text and their kernels, as CuPy's RawModule and RawKernel, for the array twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cuda import emulator
from tests.cuda.gate import CUPY_OPTIONS
from tests.cuda.streams import Stream

if TYPE_CHECKING:
    from tests.cuda.twin import Twin

_KERNEL_ATTRIBUTES = """
    max_threads_per_block shared_size_bytes const_size_bytes local_size_bytes num_regs ptx_version binary_version
    cache_mode_ca max_dynamic_shared_size_bytes preferred_shared_memory_carveout
""".split()  # noqa: SIM905


class RawKernel:
    """A kernel of a RawModule: `kernel((blocks,), (threads,), args, shared_mem=bytes)`."""

    def __init__(self, twin: Twin, kernel: emulator.Kernel) -> None:
        self._twin, self._kernel = twin, kernel
        self.name = kernel.name
        self.preferred_shared_memory_carveout = -1

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Stream | None = None) -> None:
        # CuPy passes a strided array's address in silence, and runs 0 blocks as 1; the emulator refuses both.
        twin, kernel = self._twin, self._kernel
        for argument in args:
            twin._unwrap(argument)
        writes = [*kernel.writes, *(False for _ in args)][: len(args)]

        parts = twin.shared_parts.get(shared_mem, ())

        def launch(*values: Any) -> None:
            kernel(
                grid, block, values,
                shared_mem=shared_mem, shared_parts=parts, order=twin._order, seed=twin._launches,
            )  # fmt: skip
            twin._launches += 1

        twin._streams.issue(f"kernel {self.name!r}", "kernel_launches", launch, args, writes, stream)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._kernel.max_dynamic_shared_size_bytes = size

    max_threads_per_block = property(lambda self: self._kernel.max_threads_per_block)
    shared_size_bytes = property(lambda self: self._kernel.shared_size_bytes)

    @property
    def attributes(self) -> dict[str, int]:
        """As CuPy's, which gives -1 for what it does not know; the emulator knows nothing of registers."""
        known = {name: getattr(self, name) for name in _KERNEL_ATTRIBUTES if hasattr(self, name)}
        return dict.fromkeys(_KERNEL_ATTRIBUTES, -1) | known


class RawModule:
    """CUDA C text whose kernels run in the emulator; compiled when a kernel is first asked for."""

    def __init__(self, twin: Twin, *, code: str, options: tuple[str, ...] = ()) -> None:
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple of str, not {type(options).__name__}")
        self._twin, self._code, self._options = twin, code, options

    def get_function(self, name: str) -> RawKernel:
        module = emulator.load(self._code, (*self._options, *CUPY_OPTIONS))
        return RawKernel(self._twin, module.get_function(name, self._twin._architecture))
