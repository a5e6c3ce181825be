"""What a GPU could do at most, and how near to that nnfast's steps come: by formula, from the device's properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nnfast.backends.cuda import CudaBackend
from nnfast.benchmarking.workloads import Workload
from nnfast.kernels.cuda.layout import Limits
from tests.cuda.counts import count_epoch, work_of_step

# Units of a multiprocessor that multiply and add in float32, by compute capability: CUDA C++ Programming Guide,
# "Arithmetic Instructions". Newer ones have as many as 9.0.
FLOAT32_UNITS = {(7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128}


class Peak(NamedTuple):
    """Of a device: float32 operations a second without tensor cores, bytes a second of its memory."""

    flops: float
    bytes: float

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Peak:
        """From what cudaGetDeviceProperties tells; clocks in kHz, at their highest."""
        units = FLOAT32_UNITS.get((properties["major"], properties["minor"]), FLOAT32_UNITS[9, 0])
        flops = 2 * units * properties["multiProcessorCount"] * properties["clockRate"] * 1e3
        # Twice in a period, over the whole width of the bus
        return cls(float(flops), 2e3 * properties["memoryClockRate"] * properties["memoryBusWidth"] / 8)


def of_step(workload: Workload, backend: CudaBackend, samples_per_second: float) -> dict[str, Any] | None:
    """Launches, operations and bytes of nnfast's step, and its share of what the device could do.

    Launches are counted on the tests' stand-in for CuPy, operations and bytes are reckoned as docs/cuda.md says, for
    targets that are labels; None for others.
    """
    if workload.arrays()[1].ndim > 1:
        return None
    properties = backend.xp.cuda.runtime.getDeviceProperties(backend.device)
    limits = Limits(properties["multiProcessorCount"], properties["sharedMemPerBlockOptin"])
    epoch = count_epoch(workload)
    work = work_of_step(workload.plan(), workload.recipe(), workload.batch_size, epoch.path, limits)
    peak = Peak.of(properties)
    least = max(work.flops / peak.flops, work.bytes / peak.bytes)
    return {
        "path": epoch.path,
        "launches": epoch.launches_per_step,
        "flops": work.flops,
        "bytes": work.bytes,
        "peak_flops": peak.flops,
        "peak_bytes": peak.bytes,
        "of_roofline": least * samples_per_second / workload.batch_size,
    }
