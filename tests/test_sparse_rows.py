"""Sparse rows: whether the first layer reads them itself, or a dense batch is gathered, is a matter of speed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from nnfast import MLPClassifier, MLPRegressor
from nnfast.backends import Source, get_backend
from nnfast.backends.numba import program as backend_module
from nnfast.estimators.sources import check_sparse
from nnfast.formulas.optimizers import adam
from nnfast.kernels.cpu import sparse
from nnfast.networks.layers import BatchNorm, Dense, Dropout
from nnfast.networks.network import Network
from tests.programs import make_program, recipe
from tests.tolerances import ONE_STEP, difference

ITSELF, GATHERED = 1.0, -1.0  # DENSEST: all rows that are sparse, or none


def make_rows(rows: int, columns: int, density: float, dtype: str = "float32", index: str = "int32") -> Any:
    """CSR rows, some of them empty, with numbers of all sizes and signs."""
    random = np.random.default_rng(rows + columns)
    full = random.normal(size=(rows, columns)) * 10.0 ** random.integers(-3, 3, (rows, columns))
    full[random.random((rows, columns)) >= density] = 0
    full[::7] = 0
    X = sp.csr_array(full.astype(dtype))
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    return X


def train(X: Any, network: Network, densest: float, dtype: str = "float32", threads: int = 1, **options: Any) -> Any:
    """Two epochs in ragged batches: losses, parameters, then loss, gradient and outputs of all rows."""
    backend = get_backend("numpy" if densest is None else "numba", threads)
    rows = X.shape[0]
    random = np.random.default_rng(1)
    targets = random.normal(size=(rows, network.output_size)).astype(dtype)
    weights = (random.random(rows) + 0.1).astype(dtype)
    source = Source(X, targets, weights)
    with pytest.MonkeyPatch.context() as patch:
        if densest is not None:
            patch.setattr(sparse, "DENSEST", densest)
            patch.setattr(backend_module, "FLOPS_PER_THREAD", 1)
        settings = recipe("squared_error", adam(), dtype, **{"alpha": 0.01, **options})
        program = make_program(backend, network, settings, rows=rows)
        program.bind(source)
        bounds = np.append(np.arange(0, 2 * rows, 17), 2 * rows)
        order = np.concatenate([random.permutation(rows), np.arange(rows)])
        losses = program.run(order, bounds, np.full(len(bounds) - 1, 0.01), first_step=0)
        return losses, program.parameters, *program.loss_and_gradient(source), program.predict(Source(X))


def assert_same_bits(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_the_first_layer_reads_rows_of_every_type_as_if_they_were_dense(dtype: str, stored: str, index: str) -> None:
    network = Network(40, [Dense(21, "relu"), Dense(3)])
    X = make_rows(50, 40, 0.2, stored, index)
    itself = train(X, network, ITSELF, dtype)
    assert_same_bits(itself, train(X, network, GATHERED, dtype))
    for ours, reference in zip(itself, train(X.toarray().astype(dtype), network, None, dtype), strict=True):
        assert difference(ours, reference) < 100 * ONE_STEP[dtype]


@given(
    columns=st.integers(1, 60),
    units=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    hidden=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_a_first_layer_of_any_size_has_the_bits_of_a_dense_one(
    columns: int, units: int, density: float, hidden: bool, bias: bool, dtype: str
) -> None:
    layers = [Dense(units, "tanh", bias=bias), Dense(2)] if hidden else [Dense(units, bias=bias)]
    network = Network(columns, layers)
    X = make_rows(23, columns, density, dtype)
    assert_same_bits(train(X, network, ITSELF, dtype), train(X, network, GATHERED, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.01, "l1": 0.001}])
def test_any_number_of_threads_reads_sparse_rows_to_the_same_bits(dtype: str, options: dict[str, float]) -> None:
    network = Network(33, [Dense(70, "relu"), Dropout(0.3), Dense(9, "tanh"), Dense(2)])
    X = make_rows(90, 33, 0.15, dtype)
    alone = train(X, network, ITSELF, dtype, **options)
    for threads in (2, 3, 5):
        assert_same_bits(train(X, network, ITSELF, dtype, threads, **options), alone)


@pytest.mark.parametrize("threads", [1, 2])
def test_sparse_rows_in_blocks_have_the_bits_of_one_piece(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(33, [Dense(20, "relu"), Dense(2)])
    X = make_rows(90, 33, 0.15)
    whole = train(X, network, ITSELF)
    monkeypatch.setattr(backend_module, "BLOCK_BYTES", 1)
    monkeypatch.setattr(backend_module, "BLOCK_ROWS", 16)
    assert_same_bits(train(X, network, ITSELF, threads=threads), whole)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_indices_in_any_order_and_more_than_once_mean_the_same(backend: str) -> None:
    """Then the sums have another order, so that they agree to rounding."""
    X = make_rows(40, 30, 0.2, "float64")
    doubled = np.repeat(X.indices[::-1], 2), np.repeat(X.data[::-1] / 2, 2)
    counts = 2 * np.diff(X.indptr)[::-1]
    shuffled = sp.csr_array((doubled[1], doubled[0], np.append(0, np.cumsum(counts))), X.shape)
    assert not shuffled.has_canonical_format
    network = Network(30, [Dense(21, "tanh"), Dense(3)])
    densest = None if backend == "numpy" else ITSELF
    rows = shuffled[::-1]
    np.testing.assert_allclose(rows.toarray(), X.toarray())
    for ours, expected in zip(
        train(rows, network, densest, "float64"), train(X, network, densest, "float64"), strict=True
    ):
        assert difference(ours, expected) < 100 * ONE_STEP["float64"]


@pytest.mark.parametrize("first", [Dropout(0.2), BatchNorm()])
def test_only_a_dense_layer_reads_sparse_rows_itself(first: Any) -> None:
    network = Network(30, [first, Dense(5, "relu"), Dense(2)])
    X = make_rows(40, 30, 0.1, "float64")
    for densest in (None, ITSELF):
        got = train(X, network, densest, "float64")
        expected = train(X.toarray(), network, densest, "float64")
        assert_same_bits(got, expected)


def test_no_dense_batch_is_made_where_rows_are_sparse_enough() -> None:
    network = Network(30, [Dense(5, "relu"), Dense(2)])
    for density, is_dense in ((0.1, False), (0.5, True)):
        X = make_rows(40, 30, density, "float64")
        program = make_program(get_backend("numba"), network, recipe("squared_error"), rows=40)
        program.loss_and_gradient(Source(X, np.zeros((40, 2))))
        assert bool(program.plan.inputs.view(program._workspace).any()) == is_dense  # type: ignore[attr-defined]


def test_numbers_that_are_not_there_are_not_multiplied() -> None:
    """The one difference: a zero in a dense batch times an infinite weight is NaN."""
    network = Network(3, [Dense(2, bias=False)])
    program = make_program(get_backend("numba"), network, recipe("squared_error"), rows=1)
    weights = program.parameters
    weights[2:4] = np.inf
    program.parameters = weights
    row = sp.csr_array(np.array([[1.0, 0.0, 2.0]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "DENSEST", ITSELF)
        assert np.isfinite(program.predict(Source(row))).all()
        patch.setattr(sparse, "DENSEST", GATHERED)
        assert np.isnan(program.predict(Source(row))).all()


def malformed(kind: str, what: str) -> Any:
    """Six rows or columns with a mistake that SciPy makes no fuss about."""
    X = getattr(sp, f"{kind}_array")(np.eye(6))
    if what == "an index beyond":
        X.indices[3] = 6
    elif what == "an index far beyond":
        X.indices[3] = 2**31 - 1
    elif what == "a negative index":
        X.indices[3] = -1
    elif what == "starts that fall":
        X.indptr[2] = 5
    elif what == "starts that fall to nothing":
        X.indptr[:] = [0, 6, 6, 6, 6, 6, 0]
    elif what == "a negative start":
        X.indptr[:] = [0, 0, 0, 0, 0, 0, -1]
    elif what == "starts that do not begin with 0":
        X.indptr[0] = 1
    elif what == "too few starts":
        X.indptr = X.indptr[:-1]
    elif what == "too few values":
        X.data = X.data[:-1]
    else:
        assert what == "too few indices"
        X.indices = X.indices[:-1]
    return X


MALFORMED = (
    "an index beyond", "an index far beyond", "a negative index", "starts that fall", "starts that fall to nothing",
    "a negative start", "starts that do not begin with 0", "too few starts", "too few values", "too few indices",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_malformed_sparse_matrix_is_refused_wherever_an_estimator_takes_one(kind: str, what: str) -> None:
    good, y = sp.csr_array(np.eye(6)), np.arange(6) % 2
    fitted = MLPClassifier((3,), max_iter=1, solver="sgd", validation_data=(good, y)).fit(good, y)
    for call in (
        lambda X: fitted.predict(X),
        lambda X: fitted.predict_proba(X),
        lambda X: fitted.score(X, y),
        lambda X: fitted.fit(X, y),
        lambda X: fitted.partial_fit(X, y),
        lambda X: fitted.set_params(validation_data=(X, y)).fit(good, y),
        lambda X: MLPRegressor(solver="lbfgs").fit(X, y),
    ):
        with pytest.raises(ValueError, match=f"X is a malformed {kind}_array: its"):
            call(malformed(kind, what))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["csr", "csc", "bsr", "coo", "lil", "dok", "dia"])
def test_every_format_of_sparse_rows_is_read_or_refused(kind: str) -> None:
    full = np.random.default_rng(0).normal(size=(6, 4)) * (np.arange(24).reshape(6, 4) % 3 == 0)
    X = getattr(sp, f"{kind}_array")(full)
    fitted = MLPRegressor(hidden_layer_sizes=(3,), max_iter=1).fit(X, full[:, 0])
    np.testing.assert_allclose(fitted.predict(X), fitted.predict(full), rtol=1e-12)
    if kind == "coo":
        X.col[0] = 4
    elif kind == "bsr":
        X.indices[0] = 4
    elif kind == "lil":
        X.rows[0][0] = 4
    else:
        return
    with pytest.raises(ValueError, match=r"must lie in|exceeds matrix dimension"):
        fitted.predict(X)


@given(
    kind=st.sampled_from(["csr", "csc"]),
    starts=st.lists(st.integers(-1, 5), min_size=3, max_size=5),
    indices=st.lists(st.integers(-1, 4), max_size=5),
    values=st.integers(0, 5),
)
def test_a_sparse_matrix_is_taken_exactly_where_its_arrays_fit(
    kind: str, starts: list[int], indices: list[int], values: int
) -> None:
    X = getattr(sp, f"{kind}_array")((3, 3))
    X.indptr, X.indices, X.data = np.array(starts), np.array(indices, np.int64), np.arange(1.0, values + 1)
    fits = (
        len(starts) == 4
        and starts[0] == 0
        and starts == sorted(starts)
        and starts[-1] <= min(len(indices), values)
        and all(0 <= index < 3 for index in indices[: starts[-1]])
    )
    try:
        check_sparse(X)
    except ValueError:
        assert not fits
    else:
        assert fits
