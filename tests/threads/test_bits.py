"""No bit of a result depends on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from nnfast import Dense, Dropout, Network, get_backend
from nnfast.backends import Source
from nnfast.backends.numba import program as backend_module
from nnfast.backends.numba import team as team_module
from nnfast.formulas.activations import ACTIVATIONS
from nnfast.formulas.intervals import lies_within
from nnfast.formulas.losses import LOSSES, get_loss
from nnfast.formulas.optimizers import OPTIMIZERS, adam
from nnfast.kernels.cpu.panels import DIRECT_BYTES, REPAID
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.programs import make_program, make_source
from tests.threads.fits import COUNTS, NETWORKS, WIDE, fit, guarded, make_rows

RECIPES: dict[str, dict[str, Any]] = {
    "penalties": {"alpha": 0.01, "l1": 0.001},
    "clipped": {"clip_norm": 0.01},
    "all of it": {"alpha": 0.01, "l1": 0.001, "clip_norm": 0.01, "optimizer": "sgd"},
    "weighted": {"sample_weight": np.random.default_rng(5).random(130) * (np.arange(130) // 50 != 1)},
    "full batch": {"batch_size": "full"},
    "summed loss": {"loss": "sum_squared_error", "learning_rate": 1e-4},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_threads_gives_the_same_bits(name: str, dtype: str, teams: list[int]) -> None:
    alone = fit(NETWORKS[name], 130, 1, dtype)
    for threads in COUNTS[1:]:
        teams.clear()
        assert guarded(lambda threads=threads: fit(NETWORKS[name], 130, threads, dtype)) == alone, threads
        assert max(teams) == threads


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECIPES)
def test_so_do_penalties_clipping_weights_and_losses(name: str, dtype: str) -> None:
    """Of the weighted run, the second batch weighs nothing and is left out, where the order stays."""
    network = Network(9, [Dense(33, "relu"), Dropout(0.3), Dense(2)])
    options = {"shuffle": name != "weighted", **RECIPES[name]}
    alone = fit(network, 130, 1, dtype, **options)
    for threads in COUNTS[1:]:
        assert guarded(lambda threads=threads: fit(network, 130, threads, dtype, **options)) == alone, threads


def _formulas() -> Iterator[tuple[str, Network, str, str]]:
    """Every formula of the tables in a network: its name, the network, the loss and the optimizer."""
    for name, activation in ACTIVATIONS.items():
        if not activation.output_only:
            yield f"activation {name}", Network(9, [Dense(20, name), Dense(3)]), "squared_error", "sgd"
    for name, loss in LOSSES.items():
        output = next(row.name for row in ACTIVATIONS.values() if lies_within(row.range, loss.domain))
        yield f"loss {name}", Network(9, [Dense(20, "tanh"), Dense(3, output)]), name, "sgd"
    for name in OPTIMIZERS:
        yield f"optimizer {name}", Network(9, [Dense(20, "tanh"), Dense(3)]), "squared_error", name


FORMULAS = {name: of_formula for name, *of_formula in _formulas()}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_formula_gives_the_same_bits(name: str, dtype: str, teams: list[int]) -> None:
    network, loss, optimizer = FORMULAS[name]
    recipe = Recipe(LOSSES[loss], OPTIMIZERS[optimizer](), np.dtype(dtype))
    source = make_source(network, recipe.loss, 130, dtype)

    def bits(threads: int) -> list[bytes]:
        program = make_program(get_backend("numba", threads), network, recipe, rows=50)
        program.bind(source)
        losses = program.run(np.arange(130), np.array([0, 50, 100, 130]), np.full(3, 0.01), first_step=0)
        return [array.tobytes() for array in (losses, program.parameters, program.slots, program.predict(source))]

    alone = bits(1)
    for threads in COUNTS[1:]:
        teams.clear()
        assert guarded(lambda threads=threads: bits(threads)) == alone, threads
        assert max(teams) == threads


@pytest.mark.parametrize("name", ["dropout", "row by row"])
@pytest.mark.parametrize("threads", COUNTS)
def test_a_batch_in_blocks_has_the_bits_of_one_in_one_piece(
    threads: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORKS[name]
    whole = fit(network, 500, 1, batch_size="full")
    monkeypatch.setattr(backend_module, "BLOCK_BYTES", 1)
    for rows in (16, 64):
        monkeypatch.setattr(backend_module, "BLOCK_ROWS", rows)
        assert guarded(lambda: fit(network, 500, threads, batch_size="full")) == whole, rows


def test_a_wide_layer_is_copied_piece_by_piece_in_some_threads_only() -> None:
    """What the case "wide" is there for: the shares of a batch of 50 rows lie on both sides of REPAID."""
    W = NETWORKS["wide"].input_size * WIDE * 4
    assert W > DIRECT_BYTES
    assert 16 < REPAID <= 32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["relu", "one output", "wide"])
def test_loss_gradient_and_outputs_have_the_same_bits(name: str, dtype: str) -> None:
    network = NETWORKS[name]
    X, y = make_rows(network, 70, dtype)
    loss = get_loss("binary_cross_entropy" if network.output_size == 1 else "cross_entropy")
    plan = make_plan(network, 70)
    weights = np.random.default_rng(0).random(70).astype(dtype)
    targets = y.astype(dtype)[:, np.newaxis] if network.output_size == 1 else y.astype(np.int64)
    source = Source(X, targets, weights)

    def bits(threads: int) -> tuple[Any, ...]:
        program = get_backend("numba", threads).compile(plan, Recipe(loss, adam(), np.dtype(dtype), 0.1, 0.01, 1.0))
        program.parameters = plan.initial_parameters(3)
        mean, gradient = program.loss_and_gradient(source)
        value, outputs = program.evaluate(source)
        return mean, gradient.tobytes(), value, outputs.tobytes()

    alone = bits(1)
    for threads in COUNTS[1:]:
        assert guarded(lambda threads=threads: bits(threads)) == alone, threads


def test_an_evaluation_in_many_parts_has_the_same_bits() -> None:
    """A thread that is done with its rows must not write over losses that another has yet to add up."""
    network = Network(1, [Dense(1)])
    X, y = make_rows(network, 200_000, "float32")
    recipe = Recipe(get_loss("squared_error"), adam(), np.dtype("float32"))

    def bits(threads: int) -> tuple[float, bytes]:
        program = get_backend("numba", threads).compile(make_plan(network, 4096), recipe)
        program.parameters = np.ones(2)
        loss, outputs = program.evaluate(Source(X, y))
        return loss, outputs.tobytes()

    alone = bits(1)
    for threads in (5, 8) * 5:
        assert guarded(lambda threads=threads: bits(threads)) == alone


@settings(max_examples=100)
@given(
    rows=st.integers(1, 90),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    outputs=st.integers(1, 20),
    batch=st.integers(1, 90),
    threads=st.integers(2, 9),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_networks_and_batches_of_any_size_have_the_same_bits(
    rows: int, sizes: list[int], outputs: int, batch: int, threads: int, dtype: str
) -> None:
    """Also batches with fewer groups of rows, and layers with fewer rows of weights, than there are threads."""
    network = Network(sizes[0], [*(Dense(size, "tanh") for size in sizes[1:]), Dense(outputs)])
    options = {"batch_size": batch, "epochs": 1, "alpha": 0.1, "clip_norm": 0.5}
    alone = fit(network, rows, 1, dtype, **options)
    assert guarded(lambda: fit(network, rows, threads, dtype, **options)) == alone


def test_more_threads_than_rows_and_processors_give_the_same_bits(teams: list[int]) -> None:
    alone = fit(NETWORKS["tanh"], 40, 1)
    assert guarded(lambda: fit(NETWORKS["tanh"], 40, 40)) == alone
    assert max(teams) == 40


def test_small_networks_do_without_threads(teams: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(team_module, "run_in_threads", lambda function, count: teams.append(count) or function(0, 1))
    fit(NETWORKS["tanh"], 40, 8)
    assert set(teams) == {1}
    network = Network(400, [Dense(400, "relu"), Dense(10, "softmax")])
    fit(network, 200, 3, epochs=1, batch_size=200)
    assert max(teams) == 3
