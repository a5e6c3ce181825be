"""What the CUDA backend promises beside equal results: on the twin, and the same on a GPU where there is one."""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnfast.backends import BackendUnavailableError, Source, get_backend, unavailable
from nnfast.backends.cuda import CudaBackend, parse_options
from nnfast.backends.cuda.memory import STAGED_BYTES, OutOfDeviceMemoryError, bytes_needed, single_steps
from nnfast.backends.cuda.narrow import GRAPH_STEPS, NarrowProgram
from nnfast.backends.cuda.program import CudaProgram
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam, sgd
from nnfast.kernels.cuda.layout import Limits, choose_path, lay_out
from nnfast.models.model import Model
from nnfast.networks.network import Dense, Dropout, Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from nnfast.training.train import train
from tests.cuda import gxx
from tests.cuda.twin import make_twin
from tests.programs import make_program, make_source, recipe
from tests.tolerances import ONE_STEP, TEN_STEPS, difference

Make = Callable[..., CudaBackend]

H100 = Limits(multiprocessors=132, shared_bytes=227 << 10)
NETWORK = Network(6, [Dense(9, "relu"), Dropout(0.5), Dense(7, "tanh"), Dense(3, "softmax")])

every_path = pytest.mark.parametrize("path", ["narrow", "wide"])


@pytest.fixture(params=["twin", pytest.param("gpu", marks=pytest.mark.cuda)])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes backends whose xp stands in for the module cupy where it is not CuPy itself."""
    if request.param == "gpu":
        if reason := unavailable("cuda"):
            pytest.skip(f"backend cuda: {reason}")
        return CudaBackend
    if reason := gxx.available():
        pytest.skip(reason)
    xp = make_twin(memory=16 << 20)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return functools.partial(CudaBackend, xp=xp)


def bound(backend: CudaBackend, dtype: str = "float32") -> CudaProgram:
    """A program with initial weights and 23 rows."""
    program = make_program(backend, NETWORK, recipe("cross_entropy", adam(), dtype, seed=7), rows=8)
    program.bind(make_source(NETWORK, LOSSES["cross_entropy"], 23, dtype))
    return program  # type: ignore[return-value]


def run(program: CudaProgram, steps: int, first_step: int = 0) -> np.ndarray:
    """Batches of eight, and a last one of five."""
    order = np.arange(8 * first_step, 8 * (first_step + steps) - 3) * 7 % 23
    bounds = np.append(np.arange(0, len(order), 8), len(order))
    return program.run(order, bounds, np.full(steps, 0.01), first_step)


# Which path


@pytest.mark.parametrize(
    ("network", "rows", "path", "reason"),
    [
        (Network(784, [Dense(256, "relu"), Dense(10, "softmax")]), 256, "narrow", "no layer has more than 256 units"),
        (Network(784, [Dense(257, "relu"), Dense(10, "softmax")]), 256, "wide", "layer 0 has 257 units, more than 256"),
        (Network(8, [Dense(4, "relu"), Dense(2)]), 4096, "narrow", "no layer has more than 256 units"),
        (Network(8, [Dense(4, "relu"), Dense(2)]), 4097, "wide", "batches have 4097 rows, more than 4096"),
        (Network(99_999, [Dense(2)]), 1, "wide", "do not fit into the 232,448 bytes of shared memory"),
    ],
)
def test_the_path_is_chosen_by_width_batch_and_shared_memory(
    network: Network, rows: int, path: str, reason: str
) -> None:
    chosen, why = choose_path(make_plan(network, rows), np.dtype("float32"), H100)
    assert chosen == path
    assert reason in why


def test_a_batch_is_spread_over_the_multiprocessors() -> None:
    network = Network(64, [Dense(100, "relu"), Dense(10, "softmax")])
    for rows, blocks in ((1, 1), (32, 32), (132, 132), (200, 100), (256, 128), (1000, 125), (4096, 512)):
        layout = lay_out(make_plan(network, rows), np.dtype("float32"), rows, H100)
        assert layout is not None
        assert layout.blocks(rows) == blocks
    # 32 blocks, since 64 would read 101,770 weights 64 times
    layout = lay_out(make_plan(Network(784, [Dense(128), Dense(10)]), 64), np.dtype("float32"), 64, H100)
    assert layout is not None
    assert layout.rows == 2


def test_a_path_that_was_asked_for_is_taken_or_refused(make: Make) -> None:
    plan = make_plan(Network(5, [Dense(300), Dense(2)]), 4)
    wide_only = make(path="narrow")
    with pytest.raises(ValueError, match="cannot take the narrow path: layer 0 has 300 units, more than 256; use path"):
        wide_only.compile(plan, recipe("squared_error"))
    assert make().choose(plan, np.dtype("float32")) == "wide path: layer 0 has 300 units, more than 256"
    assert make(path="wide").choose(make_plan(NETWORK, 4), np.dtype("float32")) == "wide path: asked for"
    assert isinstance(make().compile(make_plan(NETWORK, 4), recipe("cross_entropy")), NarrowProgram)
    with pytest.raises(ValueError, match="path must be one of auto, narrow, wide, got 'fast'"):
        make(path="fast")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["3"], {"device": 3}),
        (["narrow"], {"path": "narrow"}),
        (["1", "wide", "tf32"], {"device": 1, "path": "wide", "tf32": True}),
        (["tf32", "auto"], {"path": "auto", "tf32": True}),
        (["tf32", "1"], None),
        (["wide", "narrow"], None),
        (["tf32", "tf32"], None),
        ([""], None),
        (["-1"], None),
    ],
)
def test_what_follows_cuda_in_a_name_sets_options(words: list[str], options: dict[str, Any] | None) -> None:
    assert parse_options(words) == options


def test_the_description_names_device_and_rule(make: Make) -> None:
    assert "(device 0), CuPy" in make().description
    assert make().description.endswith("narrow path to 256 units and batches of 4096, else wide")
    assert make(path="wide").description.endswith(", wide path")


# Devices


def test_every_device_computes_the_same(make: Make) -> None:
    count = make().xp.cuda.runtime.getDeviceCount()
    results = []
    for device in range(count):
        program = bound(make(device))
        run(program, 5)
        results.append(program.parameters)
    for result in results[1:]:
        assert difference(result, results[0]) < TEN_STEPS["float32"]
    with pytest.raises(BackendUnavailableError, match=rf"'cuda:{count}' is not available: there are {count} devices"):
        make(count)


def test_the_second_device_is_selected_for_its_programs() -> None:
    xp = make_twin(devices=2)
    seen: list[int] = []
    module = xp.RawModule
    xp.RawModule = lambda **options: (seen.append(xp.cuda.runtime.getDevice()), module(**options))[1]  # type: ignore[func-returns-value]
    bound(CudaBackend(1, xp=xp))
    assert seen
    assert {*seen} == {1}
    assert xp.cuda.runtime.getDevice() == 0


def test_tf32_holds_for_its_programs_and_no_longer() -> None:
    xp = make_twin()
    kinds = xp._core._routines_linalg
    seen: list[int] = []
    product = xp.matmul
    xp.matmul = lambda *a, **k: (seen.append(xp._core.get_compute_type(np.float32)), product(*a, **k))[1]
    for tf32, kind in ((True, kinds.COMPUTE_TYPE_TF32), (False, kinds.COMPUTE_TYPE_DEFAULT)):
        outside = kinds.COMPUTE_TYPE_DEFAULT if tf32 else kinds.COMPUTE_TYPE_TF32
        xp._core.set_compute_type(np.float32, outside)
        seen.clear()
        run(bound(CudaBackend(path="wide", tf32=tf32, xp=xp)), 2)
        assert {*seen} == {kind}
        assert xp._core.get_compute_type(np.float32) == outside
    with pytest.raises(BackendUnavailableError, match=r"tf32 needs compute capability 8\.0, but device 0 has 7\.5"):
        CudaBackend(tf32=True, xp=make_twin(architecture="sm_75"))


def test_threads_with_and_without_tf32_do_not_change_each_other_s_products() -> None:
    xp = make_twin()
    kinds = xp._core._routines_linalg
    product = xp.matmul
    seen: list[tuple[str, int]] = []
    other: list[threading.Thread] = []

    def matmul(a: Any, b: Any, out: Any) -> Any:
        if not other:  # in the middle of the first product another thread asks for one
            other.append(threading.Thread(target=plain.matmul, args=(a, b, xp.empty((2, 2), np.float32))))
            other[0].start()
            other[0].join(0.05)
        seen.append((threading.current_thread().name, xp._core.get_compute_type(np.float32)))
        return product(a, b, out=out)

    xp.matmul = matmul
    plain, rounded = CudaBackend(path="wide", xp=xp), CudaBackend(path="wide", tf32=True, xp=xp)
    ones = xp.ones((2, 2), np.float32)
    rounded.matmul(ones, ones, xp.empty((2, 2), np.float32))
    other[0].join()
    assert seen == [
        (threading.current_thread().name, kinds.COMPUTE_TYPE_TF32),
        (other[0].name, kinds.COMPUTE_TYPE_DEFAULT),
    ]
    assert xp._core.get_compute_type(np.float32) == kinds.COMPUTE_TYPE_DEFAULT


# Repetition and graphs


@every_path
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_repeats_bit_for_bit(make: Make, path: str, dtype: str) -> None:
    results = []
    for _ in range(3):
        program = bound(make(path=path), dtype)
        results.append((run(program, 40), program.parameters, program.slots))
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.3, "alpha": 0.01}])
def test_replayed_graphs_give_what_single_launches_give(
    make: Make, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    def issue(program: NarrowProgram, launches: list[Callable[[], Any]], steps: int) -> SimpleNamespace:
        return SimpleNamespace(launch=lambda: [launch() for _ in range(steps) for launch in launches])

    results = []
    for patched in (False, True):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(NarrowProgram, "_capture", issue)
            settings = recipe("cross_entropy", adam(), "float32", **options)
            program = make_program(make(path="narrow"), NETWORK, settings, rows=8)
            program.bind(make_source(NETWORK, LOSSES["cross_entropy"], 23, "float32"))
            losses = [run(program, steps, first) for steps, first in ((100, 0), (3, 100), (70, 103))]  # type: ignore[arg-type]
            results.append((*losses, program.parameters, program.slots))
    for replayed, issued in zip(*results, strict=True):
        np.testing.assert_array_equal(replayed, issued)


def test_a_graph_is_captured_once_for_each_power_of_two() -> None:
    xp = make_twin()
    program = bound(CudaBackend(path="narrow", xp=xp))
    run(program, 1)  # grows the buffers and loads the kernels
    for steps, replayed in ((2 * GRAPH_STEPS, [64, 64]), (GRAPH_STEPS + 5, [64, 4, 1]), (7, [4, 2, 1])):
        xp.counters.reset()
        run(program, steps)
        assert xp.counters.graph_launches == len(replayed)
        assert xp.counters.graph_nodes == 2 * steps
        assert xp.counters.kernel_launches == 0


def test_rows_bound_anew_are_read_by_graphs_captured_anew(make: Make) -> None:
    program, fresh = bound(make(path="narrow"), "float64"), bound(make(path="narrow"), "float64")
    run(program, 20)
    other = make_source(NETWORK, LOSSES["cross_entropy"], 23, seed=1)
    for one in (program, fresh):
        one.bind(other)
        one.parameters, one.slots = np.full_like(one.parameters, 0.1), np.zeros_like(one.slots)
    np.testing.assert_array_equal(run(program, 20), run(fresh, 20))
    np.testing.assert_array_equal(program.parameters, fresh.parameters)


def test_batches_may_grow_and_shrink(make: Make) -> None:
    whole, cut = bound(make(path="narrow"), "float64"), bound(make(path="narrow"), "float64")
    sizes = [1, 3, 8, 2, 8, 5, 1]
    bounds = np.append(0, np.cumsum(sizes))
    order, rates = np.arange(bounds[-1]) % 23, np.full(len(sizes), 0.01)
    losses = whole.run(order, bounds, rates, 0)
    for index in range(len(sizes)):  # each step in a stretch of its own
        part = order[bounds[index] : bounds[index + 1]]
        assert cut.run(part, np.array([0, len(part)]), rates[:1], index)[0] == losses[index]
    np.testing.assert_array_equal(cut.parameters, whole.parameters)


def test_rows_beyond_the_range_of_an_int_are_evaluated() -> None:
    xp = make_twin()
    program = bound(CudaBackend(path="narrow", xp=xp))
    assert isinstance(program, NarrowProgram)
    rows, layout = program._upload(program._source), program._layout
    outputs, losses = xp.empty((layout.rows, 3), np.float32), xp.empty(1, np.float64)
    words = xp.asarray(single_steps(2**31 + 8, 2**31 + 8)[0])  # of these, the first block's alone
    arguments = (*program._source_arguments(rows), program._parameters, program._constants, words, outputs, losses)
    kernel = program._rows_kernel(rows, "evaluate")
    kernel((1,), (layout.threads,), arguments, shared_mem=program._shared_bytes)
    np.testing.assert_array_equal(outputs.get(), program.predict(program._source)[: layout.rows])


# Streams and memory


@every_path
def test_programs_on_two_streams_do_not_disturb_each_other(make: Make, path: str) -> None:
    backend = make(path=path)
    alone = bound(backend)
    expected = [run(alone, 10, first) for first in (0, 10, 20)]
    streams = [backend.xp.cuda.Stream(non_blocking=True) for _ in range(2)]
    programs = []
    for stream in streams:
        with stream:
            programs.append(bound(backend))
    for index, first in enumerate((0, 10, 20)):
        for stream, program in zip(streams, programs, strict=True):
            with stream:
                np.testing.assert_array_equal(run(program, 10, first), expected[index])
    for stream, program in zip(streams, programs, strict=True):
        with stream:
            np.testing.assert_array_equal(program.parameters, alone.parameters)


@every_path
def test_memory_that_others_take_and_give_back_changes_nothing(make: Make, path: str) -> None:
    backend = make(path=path)
    alone, crowded = bound(backend), bound(backend)
    for first in (0, 10, 20):
        expected = run(alone, 10, first)
        others = [backend.xp.full(size, np.nan, np.float32) for size in (64, 1000, 40_000)]
        passing = bound(backend)
        run(passing, 3)
        del others, passing
        np.testing.assert_array_equal(run(crowded, 10, first), expected)
    np.testing.assert_array_equal(alone.parameters, crowded.parameters)


@every_path
def test_a_batch_too_large_for_the_device_is_told_with_the_largest_that_fits(make: Make, path: str) -> None:
    backend = make(path=path)
    free, _ = backend.xp.cuda.Device(0).mem_info
    settings = recipe("cross_entropy", adam(), "float32")
    per_row = bytes_needed(make_plan(NETWORK, 1001), settings) - bytes_needed(make_plan(NETWORK, 1), settings)
    rows = 2 * free // (per_row // 1000)
    pattern = (
        rf"batches of {rows:,} rows need ([\d,]+) bytes .* cuda:0 has ([\d,]+) bytes free; batches of at most ([\d,]+)"
    )
    with pytest.raises(OutOfDeviceMemoryError, match=pattern) as refusal:
        backend.compile(make_plan(NETWORK, rows), settings)
    told = str(refusal.value)
    needed, had, fits = (int(word.replace(",", "")) for word in re.search(pattern, told).groups())
    assert needed == bytes_needed(make_plan(NETWORK, rows), settings)
    assert needed > had
    assert bytes_needed(make_plan(NETWORK, fits), settings) <= had
    assert bytes_needed(make_plan(NETWORK, fits + 1), settings) > had
    run(bound(backend), 2)  # what did not fit has been given back


def test_rows_are_not_sent_by_way_of_page_locked_memory() -> None:
    xp = make_twin()
    sent: list[int] = []
    asarray = xp.asarray
    xp.asarray = lambda array: (sent.append(array.nbytes), asarray(array))[1]  # type: ignore[func-returns-value]
    program = make_program(CudaBackend(xp=xp), NETWORK, recipe("cross_entropy"), rows=4)
    rows, labels = np.random.default_rng(0).random((30_000, 6)), np.arange(30_000) % 3
    program.bind(Source(rows, labels))
    assert max(sent) <= STAGED_BYTES < rows.nbytes
    there = program._upload(program._source)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(there.inputs[0].get(), rows)
    np.testing.assert_array_equal(there.labels.get(), labels)


def test_rows_too_many_for_the_device_are_told_in_bytes() -> None:
    program = make_program(CudaBackend(xp=make_twin(memory=1 << 20)), NETWORK, recipe("cross_entropy"), rows=4)
    rows = np.zeros((50_000, 6))
    with pytest.raises(
        OutOfDeviceMemoryError, match=r"50,000 rows of data need 2,800,\d+ bytes, but cuda:0 has [\d,]+"
    ):
        program.bind(Source(rows, np.zeros(50_000, np.int64)))


def test_a_network_may_need_more_shared_memory_than_is_given_unasked(make: Make) -> None:
    network = Network(13_000, [Dense(3, "tanh"), Dense(2)])
    settings = recipe("squared_error", sgd(), "float32")
    source = make_source(network, settings.loss, 3, "float32")
    results = []
    for backend in (make(path="narrow"), get_backend("numpy")):
        program = make_program(backend, network, settings, rows=3)
        results.append((*program.loss_and_gradient(source), program.predict(source)))
    for ours, reference in zip(*results, strict=True):
        assert difference(ours, reference) < ONE_STEP["float32"]


# Arrays that are on the device already


@every_path
def test_a_cupy_array_is_read_where_it_is(make: Make, path: str) -> None:
    backend = make(path=path)
    X = backend.xp.asarray(np.random.default_rng(0).random((40, 6)).astype(np.float32))
    program = make_program(backend, NETWORK, recipe("cross_entropy", adam(), "float32"), rows=8)
    program.bind(Source(X, np.arange(40) % 3))
    assert program._upload(program._source).inputs[0].data.ptr == X.data.ptr  # type: ignore[attr-defined]


@every_path
def test_training_and_prediction_on_the_device_equal_those_from_the_host(make: Make, path: str) -> None:
    backend = make(path=path)
    xp, random = backend.xp, np.random.default_rng(0)
    X, y = random.random((60, 6)).astype(np.float32), random.integers(0, 3, 60)
    settings: dict[str, Any] = {"epochs": 3, "backend": backend, "validation": 0.2}
    there = train(NETWORK, xp.asarray(X), xp.asarray(y), **settings)
    here = train(NETWORK, X, y, **settings)
    np.testing.assert_array_equal(there.parameters, here.parameters)
    for name in ("outputs", "predict", "predict_proba", "input_gradient"):
        predictions = getattr(there, name)(xp.asarray(X))
        assert isinstance(predictions, xp.ndarray), name
        np.testing.assert_array_equal(predictions.get(), getattr(here, name)(X))
    assert there.evaluate(xp.asarray(X), xp.asarray(y)) == here.evaluate(X, y)


def test_predictions_on_the_device_are_in_the_targets_units(make: Make) -> None:
    backend = make()
    xp, random = backend.xp, np.random.default_rng(0)
    X = random.random((20, 4)).astype(np.float32)
    for network, y in (
        (Network(4, [Dense(3, "tanh"), Dense(1)]), 1000 + random.random(20)),
        (Network(4, [Dense(3, "tanh"), Dense(1, "sigmoid")]), np.where(X[:, 0] > 0.5, 7, -7)),
        (Network(4, [Dense(3, "tanh"), Dense(2, "softmax")]), np.where(X[:, 0] > 0.5, "yes", "no")),
    ):
        model = train(network, X, y, epochs=2, backend=backend)
        predictions = model.predict(xp.asarray(X))
        assert isinstance(predictions, np.ndarray if y.dtype.kind == "U" else xp.ndarray)
        host = predictions if y.dtype.kind == "U" else predictions.get()
        np.testing.assert_array_equal(host, model.predict(X))
    probabilities = Model.predict_proba(train(network, X, y, epochs=1, backend=backend), xp.asarray(X))
    assert probabilities.shape == (20, 2)


def test_nothing_of_a_cupy_array_is_copied_to_predict_from_it() -> None:
    xp = make_twin()
    program = bound(CudaBackend(xp=xp))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", xp)
        X = xp.asarray(np.zeros((500, 6), np.float32))
        program.predict(Source(X))
        xp.counters.reset()
        program.predict(Source(X))
    assert xp.counters.bytes_to_host == 0
    assert xp.counters.bytes_to_device < 100  # where the rows begin and end
    assert xp.counters.synchronizations == 0


def test_a_cupy_array_is_refused_by_name_where_it_cannot_be_read(make: Make) -> None:
    X = make().xp.asarray(np.zeros((4, 6), np.float32))
    with pytest.raises(TypeError, match=r"X is a CuPy array, .* use backend='cuda', or pass X\.get\(\)"):
        train(NETWORK, X, np.arange(4) % 3, epochs=1, backend="numpy")
    model = train(NETWORK, X.get(), np.arange(4) % 3, epochs=1, backend="numpy")
    with pytest.raises(TypeError, match="X is a CuPy array"):
        model.predict(X)
    bad = X.copy()
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match="X holds nan in row 2, column 3"):
        train(NETWORK, bad, np.arange(4) % 3, epochs=1, backend=make())


def test_a_recipe_of_another_dtype_is_laid_out_for_it(make: Make) -> None:
    plan = make_plan(Network(6000, [Dense(4, "tanh"), Dense(2)]), 64)
    for dtype, rows in (("float32", 8), ("float64", 4)):
        layout = lay_out(plan, np.dtype(dtype), 64, Limits(4, 227 << 10))
        assert layout is not None
        assert layout.rows == rows
        assert layout.shared_bytes(np.dtype(dtype)) <= 227 << 10
    settings = Recipe(LOSSES["squared_error"], sgd(), np.dtype("float64"))
    assert make(path="narrow").compile(plan, settings)
