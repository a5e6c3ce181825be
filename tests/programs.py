"""Small programs on any backend, and what it means that two backends agree on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.formulas.intervals import parse_interval
from nnfast.formulas.losses import LOSSES, Loss
from nnfast.formulas.optimizers import Optimizer, sgd
from nnfast.networks.network import Network
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.tolerances import FINITE_DIFFERENCES, ONE_STEP, difference


def make_source(network: Network, loss: Loss, rows: int, dtype: str = "float64", seed: int = 0) -> Source:
    """Random rows with targets that the loss accepts, and sample weights, some of them zero."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(rows, network.input_size))
    if loss.targets == "simplex":
        targets = random.random((rows, network.output_size)) + 0.01
        targets /= targets.sum(axis=1, keepdims=True)
    else:
        low, high, *_ = parse_interval(loss.targets)
        targets = random.normal(size=(rows, network.output_size))
        targets = np.clip(abs(targets), low, high) if np.isfinite(low) else targets
    weights = random.random(rows) * (random.random(rows) > 0.2)
    weights[0] = 1.0
    return Source(*(array.astype(dtype) for array in (inputs, targets, weights)))


def make_program(
    backend: Backend, network: Network, recipe: Recipe, rows: int, seed: int = 3, *, gives_input_gradient: bool = False
) -> Program:
    plan = make_plan(network, rows, gives_input_gradient=gives_input_gradient)
    program = backend.compile(plan, recipe)
    program.parameters = plan.initial_parameters(seed) + 0.01  # biases that are not zero
    return program


def run_kernel(name: str, dtype: np.dtype[Any], *arguments: Any) -> None:
    """Call a compiled kernel of the CPU engine with what its signature asks for, which is checked."""
    from nnfast.backends.numba.frame import call_kernel

    call_kernel(name, dtype, *arguments)


def recipe(loss: str | Loss, optimizer: Optimizer | None = None, dtype: str = "float64", **options: object) -> Recipe:
    chosen = LOSSES[loss] if isinstance(loss, str) else loss
    return Recipe(chosen, optimizer or sgd(), np.dtype(dtype), **options)  # type: ignore[arg-type]


def both(faster_backend: Backend) -> tuple[Backend, Backend]:
    return get_backend("numpy"), faster_backend


def ten_steps(backend: Backend, network: Network, settings: Recipe) -> np.ndarray:
    program = make_program(backend, network, settings, rows=5)
    program.bind(make_source(network, settings.loss, 13))
    order = np.arange(50) * 7 % 13
    program.run(order, np.arange(0, 51, 5), np.full(10, 0.01), first_step=0)
    return program.parameters


def assert_finite_differences_agree(program: Program, source: Source) -> None:
    """The gradient of every parameter is the loss's slope there. Leaves the program with other parameters."""
    _, gradient = program.loss_and_gradient(source)
    start = program.parameters
    slopes = np.empty_like(start)
    for index in range(len(start)):
        values = []
        for step in (1e-6, -1e-6):
            moved = start.copy()
            moved[index] += step
            program.parameters = moved
            values.append(program.loss_and_gradient(source)[0])
        slopes[index] = (values[0] - values[1]) / 2e-6
    assert difference(gradient, slopes) < FINITE_DIFFERENCES


def assert_one_step_agrees(
    faster_backend: Backend, network: Network, settings: Recipe, rows: int, seed: int = 0
) -> None:
    source = make_source(network, settings.loss, rows, settings.dtype.name, seed)
    (loss, gradient), (reference_loss, reference_gradient) = (
        make_program(backend, network, settings, rows, seed).loss_and_gradient(source)
        for backend in (faster_backend, get_backend("numpy"))
    )
    tolerance = ONE_STEP[settings.dtype.name]
    assert loss == pytest.approx(reference_loss, rel=tolerance)
    assert gradient.dtype == settings.dtype
    for span in make_plan(network, 1).weight_spans:
        assert difference(span.view(gradient), span.view(reference_gradient)) < tolerance
    assert difference(gradient, reference_gradient) < tolerance
