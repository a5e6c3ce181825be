"""What one multiprocessor of each GPU architecture holds, and how much of it a kernel can fill.

Source: the table of compute capabilities in NVIDIA's CUDA C++ Programming Guide, and the granularities of its occupancy
calculator (cuda_occupancy.h of CUDA 13.0, whose results `Architecture.occupancy` was compared with).
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS = 65536  # of 32 bits, of a multiprocessor
REGISTER_UNIT = 256  # they are given to a warp in steps of this many
WARP_UNIT = 4  # and to this many warps together, one for each scheduler
SHARED_MEMORY_DEFAULT = 48 << 10  # bytes that a block may have without asking for more


@dataclass(frozen=True)
class Architecture:
    """One compute capability. Sizes in bytes, of one multiprocessor where nothing else is said."""

    major: int
    minor: int
    warps: int
    blocks: int
    shared_memory: int
    reserved: int  # of each block's shared memory, for the system
    shared_unit: int

    @property
    def name(self) -> str:
        return f"sm_{self.major}{self.minor}"

    @property
    def shared_memory_per_block(self) -> int:
        """The most that one block can have, dynamic memory beyond 48 KiB asked for."""
        return self.shared_memory - self.reserved

    def occupancy(self, threads: int, registers: int, shared_memory: int) -> float:
        """The share of a multiprocessor's warps that can be resident: 0 where not even one block fits.

        threads: of a block; registers: of a thread; shared_memory: of a block, static and dynamic.
        """
        warps = -(-threads // WARP)
        limits = [self.blocks, self.warps // warps]
        if registers:
            per_warp = _round_up(registers * WARP, REGISTER_UNIT)
            warps_with_registers = REGISTERS // per_warp // WARP_UNIT * WARP_UNIT
            limits.append(warps_with_registers // warps)
        if per_block := _round_up(shared_memory + self.reserved, self.shared_unit):
            limits.append(self.shared_memory // per_block if shared_memory <= self.shared_memory_per_block else 0)
        return min(limits) * warps / self.warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(7, 5, 32, 16, 64 << 10, 0, 256),
        Architecture(8, 0, 64, 32, 164 << 10, 1 << 10, 128),
        Architecture(8, 6, 48, 16, 100 << 10, 1 << 10, 128),
        Architecture(8, 9, 48, 24, 100 << 10, 1 << 10, 128),
        Architecture(9, 0, 64, 32, 228 << 10, 1 << 10, 128),
        Architecture(10, 0, 64, 32, 228 << 10, 1 << 10, 128),
        Architecture(12, 0, 48, 24, 100 << 10, 1 << 10, 128),
    )
}
