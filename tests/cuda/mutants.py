"""Mistakes planted in the CUDA texts and in the backend, each with the level of checks that must find it.

A row of MUTANTS is a file, a piece of its text, what stands there instead, and the first level that objects. Run as a
module, it tries all and prints the list as Markdown:

    python -m tests.cuda.mutants
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.cuda import gate, gxx
from tests.cuda.emulator import ORDERS, BarrierError, OutOfBoundsError, RaceError, UndefinedBehaviorError
from tests.cuda.exercises import BACKEND, KERNELS, ROOT, TEST_KERNELS, compiled_text, exercise


class Level(StrEnum):
    """What objects to a mutant, from the first level that is asked to the last."""

    GATE = "1 NVIDIA's compiler"
    GXX = "2 g++"
    NUMBERS = "2 other numbers than NumPy's"
    BARRIER = "2 a barrier that not all reach"
    BOUNDS = "3 out of bounds"
    RACE = "3 a race"
    UNDEFINED = "3 undefined behaviour"
    TWIN = "4 refused by the twin"


@dataclass(frozen=True)
class Mutant:
    """file: below the project's root; `old` occurs there exactly once."""

    file: str
    old: str
    new: str
    caught_by: Level

    @property
    def name(self) -> str:
        return f"{Path(self.file).name}: {_one_line(self.old)} -> {_one_line(self.new)}"

    @property
    def text(self) -> str:
        original = (ROOT / self.file).read_text()
        if (count := original.count(self.old)) != 1:
            raise ValueError(f"mutant of {self.file}: {self.old!r} occurs {count} times; it must occur once")
        return original.replace(self.old, self.new)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _in_file(file: str, rows: dict[tuple[str, str], Level]) -> Iterator[Mutant]:
    for (old, new), level in rows.items():
        yield Mutant(file, old, new, level)


MUTANTS = [
    *_in_file(
        KERNELS + "value.cu",
        {
            ("i < n;", "i <= n;"): Level.BOUNDS,
            ("i += stride", "i += stride / stride"): Level.RACE,
            ("i += stride", "i += stride * n"): Level.NUMBERS,
            ("+ bias[i % columns]", ""): Level.NUMBERS,
            ("bias[i % columns]", "bias[i]"): Level.BOUNDS,
            ("bias[i % columns]", "bias[i / columns]"): Level.BOUNDS,
            ("z[i] = x;", ""): Level.NUMBERS,
            ("z[i] = x;", "z[i] = x * 1.0;"): Level.GXX,
            ("a[i] = RESULT;", "const T unused = x; a[i] = RESULT;"): Level.GATE,
        },
    ),
    *_in_file(
        KERNELS + "derivative.cu",
        {
            ("i < n;", "i <= n;"): Level.BOUNDS,
            ("delta[i] *= RESULT;", "delta[i] = RESULT;"): Level.NUMBERS,
            ("delta[i] *= RESULT;", "delta[0] *= RESULT;"): Level.RACE,
            ("= a[i];", "= z[i];"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "loss.cu",
        {
            ("row < rows;", "row <= rows;"): Level.BOUNDS,
            ("row += stride", "row += stride * rows"): Level.NUMBERS,
            ("weights[row] * scale;", "weights[row];"): Level.NUMBERS,
            ("weights[row] * scale;", "scale;"): Level.NUMBERS,
            ("x > top", "x < top"): Level.NUMBERS,
            ("int j = 1; j < columns;", "int j = 1; j <= columns;"): Level.BOUNDS,
            ("a[start + j] /= total;", "a[start + j] = total;"): Level.NUMBERS,
            ("(a[i] - y[i])", "(a[i] + y[i])"): Level.NUMBERS,
            ("(log_total - (z[i] + bias[j] - top))", "(z[i] + bias[j] - top - log_total)"): Level.NUMBERS,
            ("delta[i] = factor * DELTA;", "delta[i] = factor * factor * DELTA;"): Level.NUMBERS,
            ("(delta[start + j] - inner)", "delta[start + j]"): Level.NUMBERS,
            ("row_losses[row] =", "row_losses[0] ="): Level.RACE,
            ("double(weights[row]) * double(row_loss)", "double(row_loss)"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "gather.cu",
        {
            ("out[i] = T(source[rows[i / columns]", "out[i] = T(source[(i / columns)"): Level.NUMBERS,
            ("columns + i % columns]) * scale;", "columns + i % columns]);"): Level.NUMBERS,
            ("columns + i % columns]) * scale;", "columns + i / columns]) * scale;"): Level.BOUNDS,
            ("== S(i % columns)", "== S(i / columns)"): Level.NUMBERS,
            ("? scale : T(0.0)", "? T(0.0) : scale"): Level.NUMBERS,
            ("k < starts[rows[i] + 1]", "k <= starts[rows[i] + 1]"): Level.BOUNDS,
            ("out[i * columns + indices[k]]", "out[indices[k]]"): Level.RACE,
            ("+= T(values[k])", "+= T(values[i])"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "dropout.cu",
        {
            ("if (e < n)", "if (e <= n)"): Level.BOUNDS,
            ("word < 4", "word <= 4"): Level.UNDEFINED,
            ("round < 10", "round < 9"): Level.NUMBERS,
            ("(unsigned int)(step >> 32)", "0u"): Level.NUMBERS,
            ("k1 = (unsigned int)(seed >> 32)", "k1 = 0u"): Level.NUMBERS,
            ("inputs[e] * mask[e]", "inputs[e]"): Level.NUMBERS,
            ("4 * block + word", "block + word"): Level.RACE,
            (">= threshold", "> threshold + 0x40000000ull"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "update.cu",
        {
            ("i < n;", "i <= n;"): Level.BOUNDS,
            ("i += stride", "i += stride / stride"): Level.RACE,
            ("        FORMULA\n", ""): Level.NUMBERS,
        },
    ),
    *_in_file(
        BACKEND,
        {
            ("-(-threads // THREADS)", "threads // THREADS"): Level.TWIN,
            ("values[k], np.int64(size)", "values[k], np.int32(size)"): Level.TWIN,
            ("np.int64(n), np.int32(columns), self", "np.int64(n), columns, self"): Level.TWIN,
            ("values = xp.asarray(", "values = ("): Level.TWIN,
            ("self._view(op.inputs, n).T, delta,", "self._view(op.inputs, n), delta,"): Level.TWIN,
            ("            inputs.fill(0)\n", ""): Level.NUMBERS,
            ("first_step + k, losses", "first_step, losses"): Level.NUMBERS,
            ("        loss /= divisor\n", ""): Level.NUMBERS,
        },
    ),
    *_in_file(
        TEST_KERNELS + "reduction.cu",
        {
            ("    __syncthreads();\n", ""): Level.RACE,
            ("    __syncthreads();\n", "    __syncwarp();\n"): Level.RACE,
            ("    __syncthreads();\n", "    if (warp == 0) __syncthreads();\n"): Level.BARRIER,
            ("    __syncthreads();\n", "    if (lane) return;\n    __syncthreads();\n"): Level.BARRIER,
            ("int by = 16;", "int by = 8;"): Level.NUMBERS,
            ("0xffffffffu, sum, by);\n    const", "0xffffu, sum, by);\n    const"): Level.BARRIER,
            ("j < columns;", "j <= columns;"): Level.BOUNDS,
            ("j += blockDim.x", "j += 32"): Level.NUMBERS,
            ("parts[8]", "parts[4]"): Level.UNDEFINED,
            ("parts[8]", "parts[13000]"): Level.GATE,
            ("lane < (int)(blockDim.x / 32) ? parts[lane] : 0.0f", "parts[lane % 8]"): Level.NUMBERS,
            ("if (lane == 0) sums[blockIdx.x] = sum;", "sums[blockIdx.x] = sum;"): Level.RACE,
            ("sums[blockIdx.x] = sum;", "sums[0] = sum;"): Level.RACE,
        },
    ),
    *_in_file(
        TEST_KERNELS + "transposition.cu",
        {
            ("    __syncthreads();\n", ""): Level.RACE,
            ("    __syncthreads();\n", "    if (row < rows) __syncthreads();\n"): Level.BARRIER,
            ("row < rows && column < columns", "row <= rows && column < columns"): Level.BOUNDS,
            ("new_row < columns && new_column < rows", "new_row < columns"): Level.BOUNDS,
            ("tile[threadIdx.x][threadIdx.y]", "tile[threadIdx.y][threadIdx.x]"): Level.NUMBERS,
            ("x[row * columns + column]", "x[row * rows + column]"): Level.NUMBERS,
            ("[TILE][TILE + 1]", "[TILE][TILE - 1]"): Level.UNDEFINED,
        },
    ),
    *_in_file(
        TEST_KERNELS + "histogram.cu",
        {
            (" = 0;\n    __syncthreads();", " = 0;"): Level.RACE,
            ("1);\n    __syncthreads();", "1);"): Level.RACE,
            ("atomicAdd(&block_counts[values[i]], 1)", "block_counts[values[i]] += 1"): Level.RACE,
            ("atomicAdd(&counts[bin], block_counts[bin])", "counts[bin] += block_counts[bin]"): Level.RACE,
            ("block_counts[bin] = 0;", "{}"): Level.NUMBERS,
            ("bin < bins; bin += blockDim.x) block", "bin <= bins; bin += blockDim.x) block"): Level.BOUNDS,
            ("i < n;", "i <= n;"): Level.BOUNDS,
        },
    ),
]

_LEVELS: list[tuple[type[Exception], Level]] = [
    (gate.GateError, Level.GATE),
    (gxx.CompileError, Level.GXX),
    (AssertionError, Level.NUMBERS),
    (BarrierError, Level.BARRIER),
    (OutOfBoundsError, Level.BOUNDS),
    (RaceError, Level.RACE),
    (UndefinedBehaviorError, Level.UNDEFINED),
    (Exception, Level.TWIN),
]


def caught_by(file: str, text: str) -> tuple[Level, str] | None:
    """The first level that objects to this text in place of a file, and what it says; None if all let it pass."""
    try:
        if file != BACKEND and gate.unavailable_reason() is None:
            for usage in gate.compile_text(compiled_text(file, text), "sm_90"):
                usage.check()
        for order in ORDERS:
            exercise(file, text, order)
    except Exception as error:
        level = next(level for kind, level in _LEVELS if isinstance(error, kind))
        return level, str(error).strip().partition("\n")[0]
    return None


def markdown() -> str:
    """Every mutant and what caught it. Raises AssertionError for one that is not caught where its row says."""
    lines = ["| file | instead of | stands | caught by |", "|---|---|---|---|"]
    for mutant in MUTANTS:
        caught = caught_by(mutant.file, mutant.text)
        assert caught is not None, f"{mutant.name} survives"
        assert caught[0] == mutant.caught_by, f"{mutant.name}: {caught}"
        old, new = (f"`{_one_line(text)}`".replace("|", "\\|") for text in (mutant.old, mutant.new))
        lines.append(f"| {Path(mutant.file).name} | {old} | {new} | {mutant.caught_by} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
