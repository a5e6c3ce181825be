"""The tables of a program as lines to read: what stands in which column, and which kernel has which address."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...plans.listing import PlacedArray, placed_arrays
from ...plans.plan import Plan
from .table import Areas

if TYPE_CHECKING:
    from ...kernels.cpu.compilation import Kernel
    from .program import NumbaProgram

# The columns of the operations table that are offsets: into which vector, and to how many elements, by the columns
# whose product that is. ROWS: of a batch, in whole groups.
OFFSETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "WEIGHTS": ("parameters", ("WEIGHT_ROWS", "WEIGHT_COLUMNS")),
    "BIAS": ("parameters", ("BIAS_SIZE",)),
    **dict.fromkeys(("WEIGHTS_TRANSPOSED", "NARROW"), ("workspace", ("WEIGHT_ROWS", "WEIGHT_COLUMNS"))),
    **dict.fromkeys(("INPUTS", "INPUT_GRADIENT"), ("workspace", ("ROWS", "INPUT_SIZE"))),
    **dict.fromkeys(("Z", "OUTPUTS", "GRADIENT", "MASK"), ("workspace", ("ROWS", "OUTPUT_SIZE"))),
}


class Extent(NamedTuple):
    """The elements start..stop-1 of a vector, to which a column of an operation's row refers."""

    column: str
    vector: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.vector}[{self.start}:{self.stop}]"


def all_arrays(plan: Plan, areas: Areas) -> list[PlacedArray]:
    """The arrays of the plan, and what the engine adds behind its workspace."""
    return [*placed_arrays(plan), *(PlacedArray("workspace", name, span) for name, span in areas.spans.items())]


def columns(row: NDArray[np.int64]) -> dict[str, int]:
    """What a row of the operations table holds, by the names of its columns; without -1, which stands for absent."""
    from ...kernels.cpu import tables

    values = dict(zip(tables.names("KIND", "COLUMNS"), row.tolist(), strict=True))
    return {name: value for name, value in values.items() if value != -1}


def extents(row: NDArray[np.int64], rows: int) -> Iterator[Extent]:
    """Where the arrays of an operation lie, for batches of up to `rows` rows."""
    values = columns(row)
    values["ROWS"] = -(-rows // values["GROUP"]) * values["GROUP"]
    for column, (vector, sizes) in OFFSETS.items():
        if column in values:
            start = values[column]
            yield Extent(column, vector, start, start + math.prod(values[name] for name in sizes))


def table_lines(program: NumbaProgram) -> Iterator[str]:
    """The operations table and the job, a line for each row: numbers as they are, offsets as parts of their vector.

    An address is the name of its kernel, or the length of the row of integers that a kernel reads there.
    """
    from ...kernels.cpu import tables

    kinds = tables.names("DENSE", "OPERATIONS")
    kept = {array.ctypes.data: f"row of {len(array)}" for array in program.kept}
    for index, row in enumerate(program.operations):
        parts = {extent.column: str(extent) for extent in extents(row, program.plan.rows)}
        values = columns(row)
        kind = kinds[values.pop("KIND")]
        words = {name: parts.get(name) or kept.get(value) or _word(value) for name, value in values.items()}
        yield f"{index} {kind}: " + _joined(words)
    job = dict(zip(tables.names("OPERATIONS", "JOB_SIZE"), program.job.tolist(), strict=True))
    words = {name: _word(value) for name, value in job.items()}
    yield "job: " + _joined(words | {"GIVE_WAY": "of the C library"})  # so that two programs' lines can be compared


def kernels_of(program: NumbaProgram) -> list[Kernel]:
    """The kernels whose addresses a program's tables hold, and run_steps, which reads them."""
    from ...kernels.cpu.catalogue import kernel
    from ...kernels.cpu.compilation import kernel_at

    addresses = dict.fromkeys([*program.job.tolist(), *program.operations.ravel().tolist()])
    found = [named for address in addresses if (named := kernel_at(address))]
    return [kernel("run_steps", program.recipe.dtype), *found]


def _word(value: int) -> str:
    from ...kernels.cpu.compilation import kernel_at

    named = kernel_at(value)
    return named.name if named else str(value)


def _joined(words: dict[str, str]) -> str:
    return ", ".join(f"{name.lower()} {word}" for name, word in words.items())
