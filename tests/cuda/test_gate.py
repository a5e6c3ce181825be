"""Level 1: NVIDIA's compiler takes every text of the project without a warning, a spill or too many registers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nnfast.formulas.activations import ACTIVATIONS
from nnfast.kernels.cuda import narrow, sources
from tests.cuda import gate
from tests.cuda.architectures import ARCHITECTURES
from tests.cuda.gate import GateError, Usage, compile_text

needs_nvrtc = pytest.mark.skipif(gate.unavailable_reason() is not None, reason=str(gate.unavailable_reason()))

OLDEST = "sm_75"
AXPY = 'extern "C" __global__ void axpy(float a, const float* x, float* y) { y[threadIdx.x] += a * x[threadIdx.x]; }'


@needs_nvrtc
def test_every_text_passes_for_the_oldest_architecture() -> None:
    results = gate.compile_all((text, OLDEST) for text in gate.texts())
    kernels = Counter(usage.kernel for _, usage in results)
    names = """
        value derivative loss penalize update gather gather_csr dropout rows evaluate learn gradient convolve
        convolution_gradient add_chunks max_pool max_pool_gradient average_pool average_pool_gradient statistics
        normalise normalised_sums normalised_gradient layer_norm layer_norm_sums layer_norm_gradient
    """
    assert kernels.keys() == {*names.split()}
    assert kernels["loss"] > 100


@needs_nvrtc
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != OLDEST])
def test_the_hungriest_texts_pass_for_every_newer_architecture(architecture: str) -> None:
    oldest = gate.compile_all((text, OLDEST) for text in gate.texts())
    texts = gate.hungriest(oldest)
    assert {text.kind for text in texts} == {text.kind for text, _ in oldest}
    results = gate.compile_all((text, architecture) for text in texts)
    assert {usage.kernel for _, usage in results} == {usage.kernel for _, usage in oldest}
    assert {usage.architecture for _, usage in results} == {architecture}
    assert all(0 < usage.occupancy <= 1 for _, usage in results)


@needs_nvrtc
@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("kernels").glob("*.cu")), ids=lambda path: path.stem)
def test_the_kernels_that_test_the_emulator_are_cuda(path: Path) -> None:
    for architecture in ARCHITECTURES:
        for usage in compile_text(path.read_text(), architecture):
            usage.check()


def test_no_file_and_no_kind_of_text_is_left_out() -> None:
    """A new .cu file, or a new function that makes texts, belongs into gate.texts()."""
    texts = [*gate.texts()]
    for path in Path(sources.__file__).parent.glob("*.cu"):
        assert any(path.read_text() in text.code for text in texts), path.name
    assert {f"{text.kind}_source" for text in texts} == {
        name for module in (sources, narrow) for name in vars(module) if re.match(r"[a-z]\w*_source$", name)
    }
    assert len({text.code for text in texts}) == len(texts)


# That the gate can close


@needs_nvrtc
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("y[threadIdx.x] +=", "int unused; y[threadIdx.x] +=", "unused"),
        ("x[threadIdx.x];", "x[threadIdx.x]", 'expected a ";"'),
        ("threadIdx.x]", "threadIdx.w]", 'has no member "w"'),
        ("y[threadIdx.x]", "__shared__ float part[13000]; y[threadIdx.x] = part[threadIdx.x]", "52000 bytes smem"),
    ],
)
def test_a_text_that_is_wrong_does_not_pass(old: str, new: str, message: str) -> None:
    assert len(compile_text(AXPY, "sm_90")) == 1
    with pytest.raises(GateError) as refusal:
        compile_text(AXPY.replace(old, new), "sm_90")
    assert message in str(refusal.value)


@needs_nvrtc
def test_what_a_kernel_takes_is_read_from_the_assembler() -> None:
    code = """
    extern "C" __global__ void __launch_bounds__(1024) few(const float* x, float* y, int n) {
        __shared__ float part[256];
        float kept[64];
        for (int j = 0; j < 64; ++j) kept[j] = x[64 * threadIdx.x + j];
        part[threadIdx.x % 256] = x[n];
        __syncthreads();
        float sum = 0;
        for (int k = 0; k < n; ++k) for (int j = 0; j < 64; ++j) kept[j] = kept[j] * kept[63 - j] + part[k % 256];
        for (int j = 0; j < 64; ++j) sum += kept[j];
        y[threadIdx.x] = sum;
    }
    extern "C" __global__ void none(float* y) { y[0] = 1; }"""
    few, none = sorted(compile_text(code, "sm_80"), key=lambda usage: usage.kernel)
    assert (few.kernel, few.architecture, few.registers, few.shared_memory) == ("few", "sm_80", 64, 1024)
    assert few.spills > 0
    assert none.registers < 20
    assert (none.shared_memory, none.stack, none.spills) == (0, 0, 0)
    none.check()
    with pytest.raises(GateError, match=r"'few' for sm_80 spills \d+ bytes"):
        few.check()


def test_registers_beyond_the_budget_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    Usage("value", "sm_80", 64, 0, 0, 0).check()
    hungry = Usage("value", "sm_80", 65, 0, 0, 0)
    with pytest.raises(GateError, match="takes 65 registers; its budget is 64"):
        hungry.check()
    monkeypatch.setitem(gate.REGISTERS, "value", 128)
    hungry.check()


@needs_nvrtc
def test_a_formula_that_does_not_pass_is_named() -> None:
    code = sources.activation_source(ACTIVATIONS["relu"], np.dtype("float32"))
    broken = gate.Text("activation", "float32", "relu", code.replace("z[e] = x;", "z[e] = x"))
    with pytest.raises(GateError, match=r"activation \(relu, float32\): sm_75"):
        gate.compile_all([(broken, "sm_75")])


# Occupancy: numbers of NVIDIA's own calculator (cuda_occupancy.h)


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared_memory", "occupancy"),
    [
        ("sm_75", 256, 32, 0, 1.0),
        ("sm_75", 256, 64, 0, 1.0),
        ("sm_80", 256, 32, 0, 1.0),
        ("sm_80", 256, 33, 0, 0.75),
        ("sm_80", 256, 64, 0, 0.5),
        ("sm_80", 1024, 64, 0, 0.5),
        ("sm_80", 1024, 65, 0, 0.0),
        ("sm_80", 32, 32, 0, 0.5),
        ("sm_80", 96, 40, 0, 0.75),
        ("sm_86", 256, 32, 0, 1.0),
        ("sm_86", 1024, 32, 0, 2 / 3),
        ("sm_86", 32, 32, 0, 1 / 3),
        ("sm_89", 32, 32, 0, 0.5),
        ("sm_90", 256, 32, 48 << 10, 0.5),
        ("sm_90", 256, 32, 227 << 10, 0.125),
        ("sm_90", 256, 32, (227 << 10) + 1, 0.0),
        ("sm_120", 128, 40, 33 << 10, 2 * 4 / 48),
    ],
)
def test_occupancy_is_that_of_nvidia_s_calculator(
    architecture: str, threads: int, registers: int, shared_memory: int, occupancy: float
) -> None:
    assert ARCHITECTURES[architecture].occupancy(threads, registers, shared_memory) == pytest.approx(occupancy)


def test_the_table_has_a_row_for_each_kernel_and_type() -> None:
    text, other = (gate.Text("rows", "float32", name, name) for name in ("relu", "gelu"))
    rows = gate.markdown(
        [(text, Usage("rows", name, 64, 24, 0, 0, (256, 1000))) for name in ("sm_75", "sm_80")]
        + [(other, Usage("rows", name, 32, 264, 8, 0, (256, 40_000))) for name in ("sm_75", "sm_80")]
    ).splitlines()
    assert rows[0] == "| kernel | of | T | texts | static | dynamic | stack | spills | sm_75 | sm_80 |"
    assert rows[2] == "| rows | rows | float32 | 2 | 264 | 40000 | 8 | 0 | 64 / 25% | 64 / 50% |"
    assert len(rows) == 3
