"""LayerNorm: its kernels on the CPU against the formula, and what a user meets it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfast import Dense, LayerNorm, MLPRegressor, Model, Network, train
from nnfast.backends import Backend, Source, get_backend
from nnfast.formulas.losses import LOSSES
from nnfast.kernels.cpu import layer_norm
from nnfast.plans.operations import LayerNormOperation
from tests.programs import make_program, make_source, recipe, run_kernel
from tests.test_image_kernels import DTYPES, Array, Workspace, error, pieces
from tests.tolerances import ONE_STEP, difference

NETWORK = Network(6, [Dense(19), LayerNorm(activation="tanh"), Dense(5), LayerNorm(0.01), Dense(2)])


class Normalised(NamedTuple):
    z: Array
    dx: Array
    dgamma: Array
    dbeta: Array


EPSILON = 0.1


def normalise(x: Array, delta: Array, gamma: Array, beta: Array) -> Normalised:
    """The definition and its gradients, element by element of du / dx."""
    m = x.mean(axis=1, keepdims=True)
    r = 1 / np.sqrt(((x - m) ** 2).mean(axis=1, keepdims=True) + EPSILON)
    u = (x - m) * r
    units = x.shape[1]
    jacobian = r[:, :, np.newaxis] * (np.eye(units) - 1 / units - u[:, :, np.newaxis] * u[:, np.newaxis, :] / units)
    dx = np.einsum("nk,nki->ni", gamma * delta, jacobian)
    return Normalised(gamma * u + beta, dx, (delta * u).sum(axis=0), delta.sum(axis=0))


def run_kernels(dtype: str, x: Array, delta: Array, gamma: Array, beta: Array, cuts: list[int]) -> Normalised:
    (n, units), T = x.shape, np.dtype(dtype)
    workspace = Workspace(dtype, x, delta, x * np.nan, x * np.nan, np.full(n, np.nan), np.full(n, np.nan))
    at_x, at_delta, z, dx, mean, inverse_deviation = workspace.offsets[:6]
    epsilon = np.array([EPSILON])
    row = layer_norm.layer_norm_row(
        x=at_x, delta=at_delta, z=z, dx=dx, mean=mean, inverse_deviation=inverse_deviation, gamma=0, beta=units,
        features=units, epsilon=epsilon.ctypes.data,
    )  # fmt: skip
    parameters, gradient = np.concatenate([gamma, beta]).astype(T), np.zeros(2 * units, T)
    for part in pieces(n, cuts):
        run_kernel("layer_norm_forward", T, row, parameters, gradient, workspace.vector, n, *part)
    for part in pieces(n, cuts):
        for share in pieces(2 * units, cuts):
            run_kernel("layer_norm_sums", T, row, gradient, workspace.vector, *part, *share)
        run_kernel("layer_norm_backward", T, row, parameters, gradient, workspace.vector, n, *part)
    workspace.assert_only_inside()
    return Normalised(workspace[2], workspace[3], gradient[:units], gradient[units:])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(n=st.integers(1, 40), units=st.integers(2, 70), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_the_kernels_are_right_and_to_the_bit_however_rows_and_parameters_are_shared(
    dtype: str, n: int, units: int, cuts: list[int]
) -> None:
    random = np.random.default_rng(n * units)
    drawn = (random.normal(size=size) for size in ((n, units), (n, units), (units,), (units,)))
    x, delta, gamma, beta = arrays = [array.astype(dtype).astype(float) for array in drawn]
    exact = normalise(*arrays)
    terms = {
        "dx": abs(gamma * delta) / np.sqrt(x.var(axis=1, keepdims=True) + EPSILON),
        "dgamma": abs(delta * (exact.z - beta) / gamma).sum(axis=0),
        "dbeta": abs(delta).sum(axis=0),
    }
    whole, result = run_kernels(dtype, *arrays, cuts=[]), run_kernels(dtype, *arrays, cuts=cuts)
    for name, expected in exact._asdict().items():
        np.testing.assert_array_equal(getattr(result, name), getattr(whole, name))
        assert error(getattr(result, name), expected, terms.get(name, np.zeros(1))) < ONE_STEP[dtype], name


def test_a_row_depends_on_no_other(image_backend: Backend) -> None:
    program = make_program(image_backend, NETWORK, recipe("squared_error"), rows=16)
    source = make_source(NETWORK, LOSSES["squared_error"], 16)
    alone = np.vstack([program.predict(Source(source.inputs[row : row + 1])) for row in range(16)])
    assert difference(program.predict(source), alone) < ONE_STEP["float64"]
    assert len(program.state) == 0


def test_rows_far_from_zero_are_normalised_as_well(image_backend: Backend) -> None:
    """The mean of the squares less the square of the mean would lose 8 of a variance's digits."""
    network = Network(7, [LayerNorm(), Dense(2)])
    program = make_program(image_backend, network, recipe("squared_error"), rows=9)
    inputs = np.random.default_rng(0).integers(-8, 8, (9, 7)).astype(float)
    assert difference(program.predict(Source(inputs + 2.0**13)), program.predict(Source(inputs))) < 1e-10


def test_gamma_starts_from_one_and_beta_from_zero_and_penalties_leave_them_alone() -> None:
    plan = make_program(get_backend("numpy"), NETWORK, recipe("squared_error"), rows=1).plan
    start = plan.initial_parameters(0)
    norms = [op for op in plan.operations if isinstance(op, LayerNormOperation)]
    assert [op.gamma.size for op in norms] == [19, 5]
    for op in norms:
        np.testing.assert_array_equal(op.gamma.view(start), 1)
        np.testing.assert_array_equal(op.beta.view(start), 0)
        assert not {op.gamma, op.beta} & {*plan.weight_spans}


@pytest.fixture
def rows() -> tuple[Any, Any]:
    X = np.random.default_rng(0).normal(size=(200, 6))
    return X, np.stack([np.sin(X[:, 0]) + X[:, 1], X[:, 2] * X[:, 3]], axis=1)


def test_a_model_with_it_learns_and_survives_its_file(rows: tuple[Any, Any], tmp_path: Path) -> None:
    model = train(NETWORK, *rows, epochs=60, batch_size=20, learning_rate=0.01, backend="numba")
    assert model.evaluate(*rows)["r2"] > 0.9
    assert model.layer_parameters()["layers.1.gamma"].shape == (19,)
    model.save(tmp_path / "m")
    again = Model.load(tmp_path / "m", backend="numba")
    assert again.network == NETWORK
    np.testing.assert_array_equal(again.predict(rows[0]), model.predict(rows[0]))
    assert model.folded().network == NETWORK  # it needs the row, and cannot become part of the weights


def test_estimators_take_it_in_their_network(rows: tuple[Any, Any]) -> None:
    fitted = MLPRegressor(network=NETWORK, random_state=0, max_iter=150, learning_rate_init=0.01, tol=0)
    with pytest.warns(UserWarning, match="Stochastic Optimizer"):
        fitted.fit(*rows)
    assert fitted.score(*rows) > 0.9
    assert [W.shape for W in fitted.coefs_] == [(6, 19), (19,), (19, 5), (5,), (5, 2)]
    assert [b.shape for b in fitted.intercepts_] == [(19,), (19,), (5,), (5,), (2,)]
