"""What the CUDA backend promises of networks of images beside equal results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nnfast.backends import Backend, Program, get_backend
from nnfast.backends.cuda import CudaBackend
from nnfast.backends.cuda.geometry import Chunks, gradient_chunks, part_sizes, statistics_chunks
from nnfast.backends.cuda.memory import OutOfDeviceMemoryError, bytes_needed
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Flatten, MaxPool2D
from nnfast.networks.named import lenet5
from nnfast.networks.network import Network
from nnfast.plans.operations import BatchNormOperation, ConvolutionOperation
from nnfast.plans.plan import Plan, make_plan
from tests.cuda import gxx
from tests.cuda.twin import make_twin
from tests.image_networks import IMAGE_NETWORKS
from tests.programs import make_program, make_source, recipe
from tests.tolerances import ONE_STEP, difference

on_cuda = pytest.mark.parametrize(
    "faster_image_backend", ["cuda-twin-wide", pytest.param("cuda:wide", marks=pytest.mark.cuda)], indirect=True
)
needs_compiler = pytest.mark.skipif(gxx.available() is not None, reason=str(gxx.available()))

ROWS = 23
NETWORK = Network(
    (6, 5, 2),
    [
        Conv2D(4, 3, padding="same", bias=False), BatchNorm(activation="silu"), MaxPool2D(2), Conv2D(3, 2),
        AveragePool2D((1, 2), stride=1, padding="same"), Flatten(), Dense(3, "softmax"),
    ],
)  # fmt: skip


def bound(backend: Backend, dtype: str = "float32") -> Program:
    """A program with initial weights and 23 rows, for batches of up to 16."""
    program = make_program(backend, NETWORK, recipe("cross_entropy", adam(), dtype), rows=16)
    program.bind(make_source(NETWORK, LOSSES["cross_entropy"], ROWS, dtype))
    return program


def run(program: Program, epochs: int, before: int = 0) -> np.ndarray:
    """Epochs of a batch of sixteen and a ragged one of seven."""
    bounds = np.append((np.arange(epochs)[:, np.newaxis] * ROWS + [0, 16]).reshape(-1), epochs * ROWS)
    return program.run(np.arange(epochs * ROWS) % ROWS, bounds, np.full(2 * epochs, 0.01), first_step=2 * before)


@on_cuda
def test_runs_repeat_bit_for_bit_however_they_are_cut_into_stretches(faster_image_backend: Backend) -> None:
    results = []
    for stretches in ([3], [3], [1, 2], [1, 1, 1]):
        program = bound(faster_image_backend)
        losses = [run(program, epochs, sum(stretches[:index])) for index, epochs in enumerate(stretches)]
        results.append((np.concatenate(losses), program.parameters, program.slots, program.state))
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)


@on_cuda
def test_rows_far_from_zero_are_normalised_as_well(faster_image_backend: Backend) -> None:
    # The mean of the squares less the square of the mean would lose 8 of a variance's digits.
    network = Network((5, 4, 3), [BatchNorm(), Flatten(), Dense(2)])
    source = make_source(network, LOSSES["squared_error"], 40)
    source.inputs[...] += 10_000
    variances = []
    for backend in (faster_image_backend, get_backend("numpy")):
        program = make_program(backend, network, recipe("squared_error"), rows=40)
        program.bind(source)
        program.run(np.arange(40), np.array([0, 40]), np.full(1, 0.01), first_step=0)
        (op,) = (op for op in program.plan.operations if isinstance(op, BatchNormOperation))
        variances.append(op.running_variance.view(program.state))
    assert difference(*variances) < ONE_STEP["float64"]


@needs_compiler
def test_assigned_statistics_are_sent_before_they_are_given_up() -> None:
    program = bound(CudaBackend(xp=make_twin()))
    state = np.linspace(0.5, 1.5, len(program.state))  # of another type than the program's: a copy is sent
    program.state = state
    np.testing.assert_array_equal(program.state, state.astype(np.float32))


@needs_compiler
def test_a_stretch_is_sent_over_once_read_back_once_and_allocates_nothing() -> None:
    xp = make_twin()
    program = bound(CudaBackend(xp=xp))
    run(program, 2)
    xp.counters.reset()
    run(program, 2)
    counters = xp.counters
    assert (counters.host_to_device, counters.device_to_host, counters.allocations) == (2, 1, 0)


@needs_compiler
def test_another_number_of_rows_and_another_geometry_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CudaBackend(xp=make_twin())
    run(bound(backend), 1)
    monkeypatch.setattr(backend.xp, "RawModule", lambda **_: pytest.fail("a text is compiled"))
    program = bound(backend)
    for size in range(1, 17):
        program.run(np.arange(size), np.array([0, size]), np.full(1, 0.01), first_step=0)
    layers = (
        Conv2D(5, (2, 3), stride=2, dilation=2, groups=1), BatchNorm(0.2, 0.1, "silu"), MaxPool2D(3, 1, 1),
        Conv2D(10, 2, groups=5), AveragePool2D(2), Flatten(), Dense(2, "softmax"),
    )  # fmt: skip
    other = make_program(backend, Network((9, 11, 3), layers), recipe("cross_entropy", adam(), "float32"), rows=3)
    other.loss_and_gradient(make_source(other.plan.network, LOSSES["cross_entropy"], 3, "float32"))


@needs_compiler
def test_pixels_stay_bytes_on_the_device() -> None:
    backend = CudaBackend(xp=make_twin())
    program = make_program(backend, NETWORK, recipe("cross_entropy"), rows=4)
    source = make_source(NETWORK, LOSSES["cross_entropy"], ROWS)
    pixels = (source.inputs * 10).astype(np.uint8)
    program.bind(type(source)(pixels, source.targets, scale=0.1))
    (there,) = program._upload(program._source).inputs  # type: ignore[attr-defined]
    assert there.dtype == np.uint8
    assert there.nbytes == pixels.nbytes


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_the_parts_of_every_sum_find_room(name: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    plan = make_plan(network, 40 * rows)
    numbers, doubles = part_sizes(plan)
    for n in (1, rows, 7 * rows, 40 * rows):
        for parts, size, count, chunks in sums_of(plan, n):
            assert chunks.number * size <= (numbers if parts == "numbers" else doubles)
            assert (chunks.number - 1) * chunks.size < count <= chunks.number * chunks.size


def sums_of(plan: Plan, rows: int) -> Iterator[tuple[str, int, int, Chunks]]:
    """Every sum over a batch: the room it is in, the numbers that a chunk leaves, how many it sums, and its chunks."""
    for op in plan.operations:
        if isinstance(op, ConvolutionOperation):
            pixels = op.window.output_height * op.window.output_width
            size = op.weights.size + (op.bias.size if op.bias else 0)
            yield "numbers", size, rows * pixels, gradient_chunks(op, rows)
        elif isinstance(op, BatchNormOperation):
            yield "doubles", 2 * op.channels, rows * op.pixels, statistics_chunks(op, rows)


def test_what_a_program_is_said_to_need_is_what_it_takes() -> None:
    xp = make_twin()
    network = Network((28, 28), [Conv2D(64, 5, activation="gelu"), BatchNorm(), MaxPool2D(2), Flatten(), Dense(10)])
    plan, settings = make_plan(network, 64), recipe("squared_error", adam(), "float32")
    before = xp.get_default_memory_pool().used_bytes()
    program = CudaBackend(xp=xp).compile(plan, settings)
    taken = xp.get_default_memory_pool().used_bytes() - before
    needed = bytes_needed(plan, settings)
    assert needed <= taken < needed + plan.parameter_count + 50_000  # which numbers are weights, and the small things
    assert program.plan is plan


def test_images_too_many_for_the_device_are_told_with_the_batch_that_fits() -> None:
    backend = CudaBackend(xp=make_twin(memory=16 << 20))
    settings = recipe("squared_error", adam(), "float32")
    with pytest.raises(OutOfDeviceMemoryError, match=r"batches of at most ([\d,]+) rows fit") as refusal:
        backend.compile(make_plan(lenet5(), 4000), settings)
    fits = int(str(refusal.value).split("at most ")[1].split()[0].replace(",", ""))
    assert CudaBackend(xp=make_twin(memory=16 << 20)).compile(make_plan(lenet5(), fits), settings)


def test_the_narrow_path_refuses_images_by_the_layer() -> None:
    with pytest.raises(ValueError, match=r"cannot take the narrow path: layer 0 \(Conv2D\) is for the wide path; use"):
        CudaBackend(path="narrow", xp=make_twin()).compile(make_plan(NETWORK, 4), recipe("cross_entropy"))
    reason = CudaBackend(xp=make_twin()).choose(make_plan(NETWORK, 4), np.dtype("float32"))
    assert reason == "wide path: layer 0 (Conv2D) is for the wide path"
