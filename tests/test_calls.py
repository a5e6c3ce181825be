"""One call at a time: a batch that is handed over as it is trains and predicts to the bit as gathered rows do."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import OPTIMIZERS
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten
from nnfast.networks.network import Network
from tests.programs import make_program, make_source, recipe

NETWORKS = {
    "dense": Network(9, [Dense(33, "relu"), Dropout(0.3), Dense(3, "softmax")]),
    "dropout first": Network(9, [Dropout(0.2), Dense(5, "gelu"), Dense(3, "softmax")]),
    "normalised first": Network(9, [BatchNorm(), Dense(5, "tanh"), BatchNorm(), Dense(3, "softmax")]),
    "images": Network((5, 4, 2), [Conv2D(3, 2, activation="relu"), AveragePool2D(2), Flatten(), Dense(3, "softmax")]),
}
TARGETS = ("labels", "labels and weights", "numbers", "numbers and weights")
ROWS = 310  # more than are copied


def rows_of(network: Network, targets: str, dtype: str, rows: int) -> Source:
    source = make_source(network, LOSSES["cross_entropy"], rows, dtype)
    if targets.startswith("labels"):
        source = replace(source, targets=np.arange(rows) * 7 % 3)
    return source if targets.endswith("weights") else replace(source, sample_weight=None)


def bits(program: Program, losses: list[Any]) -> list[bytes]:
    return [np.array(losses).tobytes(), *(a.tobytes() for a in (program.parameters, program.slots, program.state))]


def part(source: Source, rows: slice) -> tuple[Any, ...]:
    weights = source.sample_weight
    assert source.targets is not None
    return source.inputs[rows], source.targets[rows], None if weights is None else weights[rows]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_one_by_one_give_the_bits_of_a_stretch(name: str, targets: str, dtype: str, backend: Backend) -> None:
    network = NETWORKS[name]
    settings = recipe("cross_entropy", OPTIMIZERS["adam"](), dtype, alpha=0.01, clip_norm=1.0)
    source, results = rows_of(network, targets, dtype, ROWS + 7), []
    bounds = np.array([0, 3, ROWS + 3, ROWS + 7])
    rates = np.array([0.01, 0.01, 0.02])
    try:
        make_program(backend, network, settings, ROWS)
    except ValueError as refused:  # a backend without these layers
        pytest.skip(str(refused))
    for way in ("a stretch", "runs of one step", "batches"):
        program, losses = make_program(backend, network, settings, ROWS), []
        program.bind(source)
        if way == "a stretch":
            losses = [*program.run(np.arange(ROWS + 7), bounds, rates, 5)]
        for k in range(3) if way != "a stretch" else ():
            first, last = bounds[k], bounds[k + 1]
            if way == "batches":
                losses.append(program.step(*part(source, slice(first, last)), rates[k], 5 + k))
            else:
                one = np.array([0, last - first])
                losses.append(program.run(np.arange(first, last), one, rates[k : k + 1], 5 + k)[0])
        results.append(bits(program, losses))
    assert results[1] == results[2]
    if not backend.name.startswith("cuda"):  # where a stretch's longest batch says how all are laid out
        assert results[0] == results[1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [1, 5, ROWS])
def test_a_batch_s_outputs_are_those_of_its_rows(name: str, rows: int, backend: Backend) -> None:
    network = NETWORKS[name]
    try:
        program = make_program(backend, network, recipe("cross_entropy", dtype="float32"), ROWS)
    except ValueError as refused:
        pytest.skip(str(refused))
    inputs = make_source(network, LOSSES["cross_entropy"], ROWS, "float32").inputs
    expected = program.evaluate(rows_of(network, "labels", "float32", ROWS))[1][:rows]
    out = np.full((rows, 3), np.nan, "float32")
    strided = np.full((rows, 6), np.nan, "float32")[:, ::2]
    assert program.predict_batch(inputs[:rows], out) is out
    program.predict_batch(np.asfortranarray(inputs[:rows]).astype("float64"), strided)
    for outputs in (program.predict_batch(inputs[:rows]), out, strided):
        np.testing.assert_array_equal(outputs, expected)


def test_outputs_too_many_to_copy_are_written_where_they_belong(image_backend: Backend) -> None:
    """And nowhere else: each of these calls leaves the arrays of those before it alone."""
    network, rows = Network(9, [Dense(40, "tanh")]), np.random.default_rng(2).normal(size=(ROWS, 9)).astype("float32")
    program = make_program(image_backend, network, recipe("squared_error", dtype="float32"), ROWS)
    expected = program.evaluate(Source(rows, np.zeros((ROWS, 40), "float32")))[1]
    whole, strided = np.zeros((ROWS, 40), "float32"), np.zeros((ROWS, 80), "float32")[:, ::2]
    unaligned = np.zeros(whole.nbytes + 1, np.uint8)[1:].view("float32").reshape(whole.shape)
    results = [program.predict_batch(rows), *(program.predict_batch(rows, out) for out in (whole, strided, unaligned))]
    assert results[1] is whole
    np.testing.assert_array_equal(program.predict_batch(rows[:1]), expected[:1])  # few enough to copy
    program.predict_batch(-rows)
    program.loss_and_gradient(Source(-rows, expected))
    for outputs in results:
        np.testing.assert_array_equal(outputs, expected)


def test_binding_runs_nothing_and_leaves_nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from nnfast.backends.numba import frame
    from nnfast.kernels.cpu.compilation import compiled_kernels

    network = NETWORKS["dense"]
    program = make_program(get_backend("numba"), network, recipe("cross_entropy", OPTIMIZERS["nadam"]()), 20)
    with monkeypatch.context() as patch:
        patch.setattr(frame.Frame, "run", lambda *arguments: pytest.fail("bind() ran"))
        program.bind(rows_of(network, "labels and weights", "float64", 20))
    known = compiled_kernels()
    program.run(np.arange(20), np.array([0, 20]), np.array([0.1]), 0)
    assert compiled_kernels() == known


def test_rows_that_were_evaluated_are_let_go() -> None:
    network = NETWORKS["dense"]
    program = make_program(get_backend("auto"), network, recipe("cross_entropy"), 20)
    for call in (program.evaluate, program.predict, program.loss_and_gradient):
        source = rows_of(network, "labels", "float64", 20)
        inputs = source.inputs.copy()
        held = weakref.ref(inputs)
        call(replace(source, inputs=inputs))
        del inputs
        gc.collect()
        assert held() is None, call


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_s_values_do_not_depend_on_how_many_are_computed_at_once(name: str) -> None:
    optimizer, rates = OPTIMIZERS[name](), np.full(300, 0.01)
    alone = [optimizer.step_values(rates[:1], 1000 + k, np.float64) for k in range(300)]
    assert np.concatenate(alone).tobytes() == optimizer.step_values(rates, 1000, np.float64).tobytes()
