"""Mistakes planted in the CUDA texts and in the backend, each with the level of checks that must find it.

A row of MUTANTS is a file, a piece of its text, what stands there instead, and the first level that objects, which
test_mutants.py verifies. Run as a module, it prints the list of docs/cuda_checks.md:

    python -m tests.cuda.mutants
"""

from __future__ import annotations

from collections import Counter
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
        KERNELS + "common.cu",
        {
            ("stretch + 3 + 3 * index", "stretch + 3 * index"): Level.RACE,
            ("record[1] - record[0]", "record[1]"): Level.BOUNDS,
            ("number = record[2];", "number = index;"): Level.NUMBERS,
            ("order ? order[first + i] : first + i", "first + i"): Level.BOUNDS,
            ("stretch[1] = stretch[0];", "{}"): Level.BOUNDS,
            (
                "blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0 && threadIdx.y == 0",
                "blockIdx.x == 0 && threadIdx.x == 0",
            ): Level.RACE,
            ("int distance = 16;", "int distance = 8;"): Level.NUMBERS,
            ("/ 32] = value;\n    __syncthreads();", "/ 32] = value;"): Level.RACE,
            ("of_warps[warp];\n    }\n    __syncthreads();", "of_warps[warp];\n    }"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "gather.cu",
        {
            (
                "i < step.rows; i += gridDim.x * 8) {\n        const S* row",
                "i <= step.rows; i += gridDim.x * 8) {\n        const S* row",
            ): Level.BOUNDS,
            ("T(row[j]) * scale", "T(row[j])"): Level.NUMBERS,
            ("source + step.row(i) * columns", "source + i * columns"): Level.NUMBERS,
            ("        __syncwarp();\n", ""): Level.RACE,
            ("k < starts[row + 1]", "k <= starts[row + 1]"): Level.RACE,
            ("filled[j] = T(0.0);", "{}"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "activation.cu",
        {
            ("j < columns; j += gridDim.y * 32", "j <= columns; j += gridDim.y * 32"): Level.BOUNDS,
            ("i += gridDim.x * 8", "i += 8"): Level.RACE,
            ("has_bias ? bias[j] : T(0.0)", "T(0.0)"): Level.NUMBERS,
            ("z[e] = x;", "{}"): Level.NUMBERS,
            ("const T x = z[e] + b;", "const T x = z[e] + b * 1.0;"): Level.GXX,
            ("a[e] = F::value(x, k);", "const T unused = x; a[e] = F::value(x, k);"): Level.GATE,
        },
    ),
    *_in_file(
        KERNELS + "derivative.cu",
        {
            ("if (j < columns)\n            for", "if (j <= columns)\n            for"): Level.RACE,
            ("const T d = delta[e] *", "const T d ="): Level.NUMBERS,
            ("delta[e] = d;", "{}"): Level.NUMBERS,
            ("F::derivative(z[e], a[e], k)", "F::derivative(z[e], z[e], k)"): Level.NUMBERS,
            ("sums[y][x] = sum;\n        __syncthreads();", "sums[y][x] = sum;"): Level.RACE,
            ("sums[64][8]", "sums[32][8]"): Level.UNDEFINED,
        },
    ),
    *_in_file(
        KERNELS + "row_loss.cu",
        {
            ("labels[row] == j ?", "labels[j] == row ?"): Level.NUMBERS,
            ("numbers[row * columns + j]", "numbers[row + j]"): Level.NUMBERS,
            ("x > top", "x < top"): Level.NUMBERS,
            ("factor * (out - target)", "factor * (out + target)"): Level.NUMBERS,
            ("inner = warp_sum(inner);", "{}"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "loss.cu",
        {
            ("i < step.rows;", "i <= step.rows;"): Level.BOUNDS,
            ("weighted ? sample_weight[row] : T(1.0)", "T(1.0)"): Level.NUMBERS,
            ("double(weight) * double(loss)", "double(loss)"): Level.NUMBERS,
            ("if (threadIdx.x % 32 == 0) sum +=", "sum +="): Level.NUMBERS,
            ("if (threadIdx.x == 0) losses[blockIdx.x]", "losses[blockIdx.x]"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "philox.cu",
        {
            ("round < 10", "round < 9"): Level.NUMBERS,
            ("(unsigned int)(step >> 32)", "0u"): Level.NUMBERS,
            ("k1 = (unsigned int)(seed >> 32)", "k1 = 0u"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "dropout.cu",
        {
            ("if (e < n)", "if (e <= n)"): Level.BOUNDS,
            ("inputs[e] * mask[e]", "inputs[e]"): Level.NUMBERS,
            ("4 * block + word", "block + word"): Level.RACE,
            ("step.number", "step.index"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "penalty.cu",
        {
            ("T(alpha) * w +", "T(alpha) +"): Level.NUMBERS,
            ("w < T(0.0) ? -T(l1)", "w < T(0.0) ? T(l1)"): Level.NUMBERS,
            ("l1 * fabs(double(w))", "l1 * double(w)"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "update.cu",
        {
            ("i < count", "i <= count"): Level.NUMBERS,
            ("norm > clip_norm ?", "norm < clip_norm ?"): Level.NUMBERS,
            ("sqrt(sum_of_blocks(squares, count))", "sum_of_blocks(squares, count)"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "wide_update.cu",
        {
            ("if (is_weight[i]) {", "{"): Level.NUMBERS,
            ("            g[i] = slope;\n", ""): Level.NUMBERS,
            ("penalty_sum += penalty(w, alpha, l1);", "{}"): Level.NUMBERS,
            ("i < n; i += stride) {", "i <= n; i += stride) {"): Level.BOUNDS,
            ("        next_step(stretch);\n", ""): Level.BOUNDS,
            ("    if (blockIdx.x == 0) {\n        const double sum", "    {\n        const double sum"): Level.RACE,
            ("const Step step(stretch, 1);", "const Step step(stretch, 0);"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "correlation.cu",
        {
            ("if (place % divisor) return false;", "{}"): Level.NUMBERS,
            ("place >= 0 && place < source", "place < source"): Level.BOUNDS,
            ("place >= 0 && place < source", "place > 0 && place < source"): Level.NUMBERS,
            ("place >= 0 && place < source", "place >= 0 && place <= source"): Level.BOUNDS,
            ("if (first + index >= count) return {-1, 0, 0};", ""): Level.BOUNDS,
            ("tap % kernel_width * horizontal.step", "tap % kernel_width"): Level.NUMBERS,
            ("(row + local / pixels) * vertical", "row * vertical"): Level.NUMBERS,
            ("group * depth + term.k", "term.k"): Level.NUMBERS,
            ("group * weight_group", "group"): Level.NUMBERS,
            ("sums[i][j] += x[i] * y[j]", "sums[i][j] += x[i] * y[i]"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "convolution.cu",
        {
            ("c.pixel(first, t, count);\n            __syncthreads();", "c.pixel(first, t, count);"): Level.RACE,
            (
                "= right_ahead[n];\n                __syncthreads();",
                "= right_ahead[n];",
            ): Level.RACE,
            ("right[d]);\n                __syncthreads();", "right[d]);"): Level.RACE,
            ("fetch(first_term + DEPTH);", "fetch(first_term);"): Level.NUMBERS,
            (
                "first_term < c.terms; first_term += DEPTH",
                "first_term < c.terms - 1; first_term += DEPTH",
            ): Level.NUMBERS,
            ("own < c.terms ? c.read(", "own + 1 < c.terms ? c.read("): Level.NUMBERS,
            ("if (pixel >= count || column", "if (column"): Level.BOUNDS,
            ("has_bias ? bias[n] : T(0.0)", "has_bias ? bias[column] : T(0.0)"): Level.NUMBERS,
            ("if (z != a) z[e] = x;", ""): Level.NUMBERS,
            ("first += (long long)gridDim.x * ROWS", "first += ROWS"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "convolution_gradient.cu",
        {
            ("own == c.terms ? T(1.0) : T(0.0);", "T(0.0);"): Level.NUMBERS,
            ("start + chunk < all ? start + chunk : all", "start + chunk < all ? all : start + chunk"): Level.BOUNDS,
            ("c.pixel(first, t, end);\n            __syncthreads();", "c.pixel(first, t, end);"): Level.RACE,
            (
                "= right_ahead[n];\n                __syncthreads();",
                "= right_ahead[n];",
            ): Level.RACE,
            ("right[d]);\n                __syncthreads();", "right[d]);"): Level.RACE,
            ("pixel < end && column < c.columns;", "pixel < end;"): Level.BOUNDS,
            (
                "delta[pixel * c.target_depth + group * c.columns + column]",
                "delta[pixel * c.target_depth + column]",
            ): Level.NUMBERS,
            ("int chunk = y; chunk < chunks", "int chunk = y; chunk < chunks - 1"): Level.NUMBERS,
            ("sums[y][x] = sum;\n        __syncthreads();", "sums[y][x] = sum;"): Level.RACE,
            ("other < 8; ++other", "other < 2; ++other"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "pooling.cu",
        {
            ("return max(o * stride - pad, 0);", "return o * stride - pad;"): Level.BOUNDS,
            ("min(o * stride - pad + kernel, input)", "o * stride - pad + kernel"): Level.BOUNDS,
            ("u + pad - kernel + 1;", "u + pad - kernel;"): Level.NUMBERS,
            ("min((u + pad) / stride + 1, output)", "min((u + pad) / stride, output)"): Level.NUMBERS,
            ("(skipped + stride - 1) / stride", "skipped / stride"): Level.NUMBERS,
            ("if (is_first) sum", "sum"): Level.GATE,
            ("v < own_v || (v == own_v && u < own_u)", "v < own_v || u < own_u"): Level.NUMBERS,
            ("sum / T(w.pixels(y, x));\n        }\n    }\n}\n\n", "sum;\n        }\n    }\n}\n\n"): Level.NUMBERS,
            ("w.output(y, x, c)] / T(w.pixels(y, x))", "w.output(y, x, c)] / T(w.pixels(0, 0))"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "batch_norm.cu",
        {
            ("sums[y][x] = value;\n    __syncthreads();", "sums[y][x] = value;"): Level.RACE,
            ("value = sums[0][x];\n    __syncthreads();", "value = sums[0][x];"): Level.RACE,
            ("first + size < count ? first + size : count", "first + size"): Level.BOUNDS,
            ("squares += from_mean * from_mean;", "squares += from_mean;"): Level.NUMBERS,
            ("Chunk(s, size, count).rows() * from_mean * from_mean", "from_mean * from_mean"): Level.NUMBERS,
            ("double(count > 1 ? count - 1 : 1)", "double(count)"): Level.NUMBERS,
            ("running_mean[c] += momentum * (mean - running_mean[c])", "running_mean[c] = mean"): Level.NUMBERS,
            ("sqrt(variance + epsilon)", "sqrt(variance)"): Level.NUMBERS,
            ("            kept_mean[c] = mean;\n", ""): Level.NUMBERS,
            ("if (follows) {", "if (follows || chunks) {"): Level.NUMBERS,
            ("- u * mean_product", "+ u * mean_product"): Level.NUMBERS,
            ("gamma_gradient[c] = T(of_products);", "gamma_gradient[c] = T(of_delta);"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "layer_norm.cu",
        {
            ("i < rows; i += gridDim.x * 8)", "i <= rows; i += gridDim.x * 8)"): Level.BOUNDS,
            ("i < rows; i += gridDim.x * 8)", "i < rows; i += 8)"): Level.RACE,
            ("j < columns; j += 32", "j <= columns; j += 32"): Level.BOUNDS,
            ("warp_sum(sum) / columns", "sum / columns"): Level.NUMBERS,
            ("/ columns) + epsilon)", "/ columns))"): Level.NUMBERS,
            ("        if (threadIdx.x == 0) {\n", "        {\n"): Level.RACE,
            ("            kept_r[i] = r;\n", ""): Level.NUMBERS,
            ("* r * gamma[j] + beta[j];", "* r + beta[j];"): Level.NUMBERS,
            ("i < rows; i += 64", "i < rows; i += 65"): Level.NUMBERS,
            ("                delta[e] = d;\n", ""): Level.NUMBERS,
            ("deltas[y][x] = of_delta;\n        __syncthreads();", "deltas[y][x] = of_delta;"): Level.RACE,
            ("            }\n            __syncthreads();\n", "            }\n"): Level.RACE,
            ("gamma_gradient[j] = T(products[0][x]);", "gamma_gradient[j] = T(deltas[0][x]);"): Level.NUMBERS,
            ("double(g * ((inputs[e] - m) * factor))", "double(g * (inputs[e] - m))"): Level.NUMBERS,
            ("- mean_g - u * mean_product", "- mean_g + u * mean_product"): Level.NUMBERS,
        },
    ),
    *_in_file(
        KERNELS + "narrow_pieces.cu",
        {
            ("if (r < b.count) rows[", "if (r <= b.count) rows["): Level.BOUNDS,
            ("of[r] = T(values[k]);\n    }\n    __syncthreads();", "of[r] = T(values[k]);\n    }"): Level.RACE,
            ("slice = threadIdx.x / OUTPUTS;\n    __syncthreads();", "slice = threadIdx.x / OUTPUTS;"): Level.RACE,
            ("OUTPUTS + j] = sums[r];\n    }\n    __syncthreads();", "OUTPUTS + j] = sums[r];\n    }"): Level.RACE,
            ("int i = slice; i < INPUTS; i += SLICES", "int i = slice; i < INPUTS - 1; i += SLICES"): Level.NUMBERS,
            ("slice < SLICES; ++slice) sum", "slice < 1; ++slice) sum"): Level.NUMBERS,
            ("(bias ? bias[c] : T(0.0));\n        if (z", "T(0.0);\n        if (z"): Level.NUMBERS,
            ("if (z >= 0) b.memory[z + c].of[r] = x;", "if (z >= 0) b.memory[z + c + 1].of[r] = x;"): Level.BOUNDS,
            ("if (z >= 0) b.memory[z + c].of[r] = x;", ""): Level.NUMBERS,
            (
                "(b.first + r) * COLUMNS + c;\n            unsigned",
                "r * COLUMNS + c;\n            unsigned",
            ): Level.NUMBERS,
            ("double sum = 0.0;\n    __syncthreads();", "double sum = 0.0;"): Level.RACE,
            ("int distance = GROUP / 2;", "int distance = GROUP / 4;"): Level.NUMBERS,
            ("of[r] *= b.memory[mask + c].of[r];", "of[r] *= T(1.0);"): Level.NUMBERS,
            ("lane = threadIdx.x % GROUP;\n    __syncthreads();", "lane = threadIdx.x % GROUP;"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "narrow_rows.cu",
        {
            ("penalties(p, alpha, l1) : 0.0", "0.0 : 0.0"): Level.NUMBERS,
            ("    keep_step(stretch);\n", ""): Level.NUMBERS,
            ("        backward(b);\n", ""): Level.NUMBERS,
            ("if (threadIdx.x == 0) losses[blockIdx.x] = sum;\n}\n\n", "losses[blockIdx.x] = sum;\n}\n\n"): Level.RACE,
        },
    ),
    *_in_file(
        KERNELS + "narrow_weights.cu",
        {
            ("blockIdx.x) >= layers[index + 1]", "blockIdx.x) > layers[index + 1]"): Level.NUMBERS,
            ("i_loaded == layer.inputs ? T(1.0) : T(0.0)", "T(0.0)"): Level.NUMBERS,
            ("if (row < batch && i_loaded < layer.inputs)", "if (i_loaded < layer.inputs)"): Level.BOUNDS,
            ("        __syncthreads();\n        if (first + CHUNK", "        if (first + CHUNK"): Level.RACE,
            ("        }\n        __syncthreads();\n    }", "        }\n    }"): Level.RACE,
            ("= sum[n / 2][n % 2];\n    __syncthreads();", "= sum[n / 2][n % 2];"): Level.RACE,
            ("sum[1][0] += x1 * d0;", "sum[1][0] += x0 * d1;"): Level.NUMBERS,
            ("        next_step(stretch);\n", ""): Level.NUMBERS,
        },
    ),
    *_in_file(
        BACKEND + "wide.py",
        {
            ("np.float64(self.recipe.clip_norm or 0.0)", "self.recipe.clip_norm or 0"): Level.TWIN,
            ("matmul, x.T, delta,", "matmul, x, delta,"): Level.TWIN,
            ("-(-elements // per_block)", "elements // per_block"): Level.TWIN,
            ("training=True)", "training=False)"): Level.NUMBERS,
            ("first : first + n], losses[index])", "first : first + n], losses[0])"): Level.NUMBERS,
            ("self._gradient_of(batch), self._update(batch)]", "self._gradient_of(batch)]"): Level.BOUNDS,
            ("self.recipe.dtype.type(op.layer.epsilon)", "op.layer.epsilon"): Level.TWIN,
            ("(x, mean, r, op.gamma", "(x, r, mean, op.gamma"): Level.NUMBERS,
        },
    ),
    *_in_file(
        BACKEND + "geometry.py",
        {
            ("-w.dilation_y, w.pad_top, w.stride_y", "w.dilation_y, w.pad_top, w.stride_y"): Level.NUMBERS,
            ("w.stride_x, w.dilation_x, -w.pad_left, 1", "w.stride_x, w.dilation_x, w.pad_left, 1"): Level.NUMBERS,
            ("channels * w.filters, w.filters, 1, filters", "channels * w.filters, w.filters, 1, 1"): Level.NUMBERS,
            ("numbers = max(numbers, gradient_chunk_limit(op) * size)", "numbers = max(numbers, size)"): Level.BOUNDS,
        },
    ),
    *_in_file(
        BACKEND + "images.py",
        {
            ("np.int32(batch.training)", "np.int32(1)"): Level.RACE,
            ("chunks.number if batch.by_batch else 0", "chunks.number"): Level.NUMBERS,
            ("chunks.number * batch.by_batch", "chunks.number"): Level.NUMBERS,
            ("np.array(values, np.int32)", "np.array(values)"): Level.TWIN,
            ("if op.layer.function != IDENTITY:", "if op.layer.function == IDENTITY:"): Level.NUMBERS,
            ("if chunks.number > 1:", "if chunks.number > 2:"): Level.NUMBERS,
        },
    ),
    *_in_file(
        BACKEND + "program.py",
        {
            ("first_step + active", "active"): Level.NUMBERS,
            (" / divisor, self._gradient.get()", ", self._gradient.get()"): Level.NUMBERS,
            ("            self._xp.cuda.get_current_stream().synchronize()\n", ""): Level.TWIN,
        },
    ),
    *_in_file(
        BACKEND + "memory.py",
        {
            ("first if len(order) else 0", "0"): Level.BOUNDS,
            ("words[first:] = order", "words[first:] = np.sort(order)"): Level.NUMBERS,
            ("source.scale if inputs.dtype == np.uint8 else 1.0", "1.0"): Level.NUMBERS,
            ("np.minimum(firsts + size, n_rows)", "firsts + size"): Level.BOUNDS,
            ("self.values[: flat.size].set(", "self.values.set("): Level.TWIN,
            ("        self._sent = words, flat\n", ""): Level.TWIN,
        },
    ),
    *_in_file(
        BACKEND + "narrow.py",
        {
            ("drops=True", "drops=False"): Level.NUMBERS,
            ("steps -= size", "steps -= 1"): Level.BOUNDS,
            ("np.int32(self._tiles), stretch.losses", "self._tiles, stretch.losses"): Level.TWIN,
            ("dense_operations[0], self", "dense_operations[-1], self"): Level.TWIN,
            ("steps, self._warm = steps - 1, True", "self._warm = True"): Level.BOUNDS,
        },
    ),
    *_in_file(
        KERNELS + "layout.py",
        {
            ("size += width\n", "size += width - (width > 3)\n"): Level.BOUNDS,
            ("size += max(2 * width,", "size += max(width,"): Level.BOUNDS,
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
        if not file.endswith(".py") and gate.unavailable_reason() is None:
            _pass_gate(compiled_text(file, text))
        for order in ORDERS:
            exercise(file, text, order)
    except Exception as error:
        level = next(level for kind, level in _LEVELS if isinstance(error, kind))
        return level, str(error).strip().partition("\n")[0]
    return None


def _pass_gate(code: str) -> None:
    for usage in gate.compile_text(code, "sm_90"):
        usage.check()


def markdown() -> str:
    """How many mutants each level catches, and every one of them, as test_mutants.py holds each to."""
    counts = Counter(mutant.caught_by for mutant in MUTANTS)
    lines = ["| first level that objects | mutants |", "|---|--:|"]
    lines += [f"| {level} | {counts[level]} |" for level in Level]
    lines += ["", "| file | instead of | stands | caught by |", "|---|---|---|---|"]
    for mutant in MUTANTS:
        texts = (_one_line(text).replace("|", "\\|") for text in (mutant.old, mutant.new))
        old, new = (f"`{text}`" if text else "nothing" for text in texts)
        lines.append(f"| {Path(mutant.file).name} | {old} | {new} | {mutant.caught_by} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
