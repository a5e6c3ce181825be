"""Small calls of the estimators: what they skip and keep changes no result, message or warning."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import neural_network
from sklearn.base import clone

from nnfast import Dense, MLPClassifier, MLPRegressor, Network
from nnfast.backends import Backend, Program, Source, get_backend
from nnfast.estimators import plain
from nnfast.estimators.programs import IDLE_BYTES, MAX_PROGRAMS, Programs
from nnfast.formulas.activations import ACTIVATIONS
from nnfast.formulas.losses import LOSSES, Loss
from nnfast.formulas.optimizers import adam, sgd
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe
from tests.tolerances import PEER, difference

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(30, 4))
LABELS = RANDOM.integers(0, 3, 30)
LABELS[:3] = 0, 1, 2
HIDDEN = {"hidden_layer_sizes": (5,), "random_state": 0, "max_iter": 2}


def of_fit(y: Any, *more: Any, **parameters: Any) -> Callable[[Any], Any]:
    return lambda kind: kind(**HIDDEN | parameters).fit(X[: len(y)], y, *more)


def partial_fits(*batches: Any, classes: Any = None, **parameters: Any) -> Callable[[Any], Any]:
    def run(kind: Any) -> Any:
        estimator = kind(**HIDDEN | parameters)
        estimator.partial_fit(X[: len(batches[0])], batches[0], *([] if classes is None else [None, classes]))
        for y in batches[1:]:
            estimator.partial_fit(X[: len(y)], y)
        return estimator

    return run


def warm_fits(*batches: Any) -> Callable[[Any], Any]:
    def run(kind: Any) -> Any:
        estimator = kind(**HIDDEN, warm_start=True)
        for y in batches:
            estimator.fit(X[: len(y)], y)
        return estimator

    return run


def partial_fit_after_one_that_failed(kind: Any) -> Any:
    estimator = kind(**HIDDEN)
    with pytest.raises(ValueError, match="NaN"):
        estimator.partial_fit(X, np.where(LABELS, np.nan, 0.0), classes=[0, 1, 2])
    return estimator.partial_fit(X, LABELS)


FITS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "classes": ("MLPClassifier", of_fit(LABELS)),
    "two classes": ("MLPClassifier", of_fit(np.where(LABELS > 0, -7, 7))),
    "one class": ("MLPClassifier", of_fit(np.full(5, 3))),
    "one row": ("MLPClassifier", of_fit(LABELS[:1])),
    "small unsigned labels": ("MLPClassifier", of_fit(LABELS.astype(np.uint8) * 100)),
    "labels in the other byte order": ("MLPClassifier", of_fit(LABELS.astype(np.dtype(int).newbyteorder()))),
    "labels that are floats": ("MLPClassifier", of_fit(LABELS / 1.0)),
    "labels that are text": ("MLPClassifier", of_fit(np.array(["a", "b", "c"])[LABELS])),
    "labels in a column": ("MLPClassifier", of_fit(LABELS[:, np.newaxis])),
    "multilabel": ("MLPClassifier", of_fit(np.eye(3, dtype=int)[LABELS])),
    "more classes than half of the rows": ("MLPClassifier", of_fit(np.arange(30))),
    "sample weights": ("MLPClassifier", of_fit(LABELS, np.linspace(0, 1, 30))),
    "lbfgs": ("MLPClassifier", of_fit(LABELS, solver="lbfgs")),
    "early stopping": ("MLPClassifier", of_fit(LABELS, early_stopping=True)),
    "warm start": ("MLPClassifier", warm_fits(LABELS, LABELS[:20])),
    "warm start without a class": ("MLPClassifier", warm_fits(LABELS, np.minimum(LABELS, 1))),
    "warm start of another type": ("MLPClassifier", warm_fits(LABELS, LABELS.astype(np.int8))),
    "partial fits": ("MLPClassifier", partial_fits(LABELS, LABELS[:1], LABELS[:8], classes=[0, 1, 2])),
    "partial fits of two classes": ("MLPClassifier", partial_fits(LABELS // 2, LABELS[:2] // 2, classes=[0, 1])),
    "partial fits of an unknown class": ("MLPClassifier", partial_fits(LABELS, LABELS + 1, classes=[0, 1, 2])),
    "partial fit without classes": ("MLPClassifier", partial_fits(LABELS)),
    "partial fit after one that failed": ("MLPClassifier", partial_fit_after_one_that_failed),
    "numbers": ("MLPRegressor", of_fit(X[:, 0])),
    "a column of numbers": ("MLPRegressor", of_fit(X[:, :1])),
    "two numbers a row": ("MLPRegressor", of_fit(X[:, :2])),
    "integers": ("MLPRegressor", of_fit(LABELS)),
    "infinite numbers": ("MLPRegressor", of_fit(np.where(LABELS, np.inf, 0.0))),
    "partial fits of numbers": ("MLPRegressor", partial_fits(X[:, 0], X[:3, 0])),
    "X without rows": ("MLPRegressor", lambda kind: kind().fit(X[:0], X[:0, 0])),
    "X with NaN": ("MLPClassifier", lambda kind: kind().fit(np.where(X > 1, np.nan, X), LABELS)),
    "X of one dimension": ("MLPClassifier", lambda kind: kind().fit(X[:, 0], LABELS)),
    "X of other rows": ("MLPClassifier", lambda kind: kind().fit(X[:7], LABELS)),
    "sparse X": ("MLPClassifier", lambda kind: kind(**HIDDEN).fit(sp.csr_matrix(X), LABELS)),
    "sparse X with infinity": (
        "MLPClassifier",
        lambda kind: kind(**HIDDEN).fit(sp.csr_matrix(np.where(X > 1, np.inf, X)), LABELS),
    ),
    "sparse X by columns": ("MLPClassifier", lambda kind: kind(**HIDDEN).fit(sp.csc_matrix(X), LABELS)),
    "sparse X in another format": ("MLPClassifier", lambda kind: kind(**HIDDEN).fit(sp.bsr_matrix(X), LABELS)),
    "sparse X of integers": ("MLPRegressor", lambda kind: kind(**HIDDEN).fit(sp.csr_array(LABELS[:, None]), X[:, 0])),
    "sparse X without rows": ("MLPRegressor", lambda kind: kind().fit(sp.csr_matrix((0, 4)), X[:0, 0])),
    "sparse X without numbers": ("MLPRegressor", lambda kind: kind(**HIDDEN).fit(sp.csr_array((30, 4)), X[:, 0])),
    "other columns": ("MLPRegressor", lambda kind: kind(**HIDDEN).fit(X, X[:, 0]).predict(sp.csr_matrix(X[:, :3]))),
    "NaN in sparse rows": (
        "MLPRegressor",
        lambda kind: kind(**HIDDEN).fit(X, X[:, 0]).predict(sp.csr_matrix(np.full((1, 4), np.nan))),
    ),
    "other columns in partial_fit": (
        "MLPRegressor",
        lambda kind: kind(**HIDDEN).partial_fit(X, X[:, 0]).partial_fit(X[:, :3], X[:, 0]),
    ),
    "other columns in predict": ("MLPRegressor", lambda kind: kind(**HIDDEN).fit(X, X[:, 0]).predict(X[:, :3])),
    "NaN in predict": ("MLPRegressor", lambda kind: kind(**HIDDEN).fit(X, X[:, 0]).predict(np.full((1, 4), np.nan))),
}


def outcome(run: Callable[[Any], Any], kind: Any) -> tuple[Any, list[str]]:
    """What a fit leaves in an estimator, or its error, and the texts of its warnings, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitted = vars(run(kind))
        except (ValueError, TypeError) as error:
            fitted = {"error": f"{type(error).__name__}: {error}"}
    return fitted, sorted({f"{warning.category.__name__}: {warning.message}" for warning in caught})


def assert_equal(found: Any, expected: Any, name: str) -> None:
    if hasattr(expected, "__dict__") and type(expected).__module__.startswith("sklearn."):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_equal(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{name}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, name)
    elif isinstance(expected, np.random.RandomState):
        assert_equal(list(found.get_state()), list(expected.get_state()), name)
    elif not isinstance(expected, Programs):
        assert found == expected, name


@pytest.mark.parametrize("case", FITS)
def test_plain_data_lead_to_what_scikit_learn_s_checks_lead_to(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, in all attributes; with the same errors and warnings, which are also scikit-learn's own."""
    name, run = FITS[case]
    ours = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name]
    found = outcome(run, ours)
    theirs = outcome(run, getattr(neural_network, name))
    monkeypatch.setattr("nnfast.estimators.base.are_plain_rows", lambda X: False)
    monkeypatch.setattr("nnfast.estimators.base.is_matrix_of_floats", lambda X: False)
    expected = outcome(run, ours)
    assert_equal(found[0], expected[0], case)
    assert found[1] == expected[1] == theirs[1]
    assert found[0].get("error") == theirs[0].get("error")
    for key in ("classes_", "n_features_in_", "_label_binarizer"):
        if key in theirs[0]:
            assert_equal(found[0][key], theirs[0][key], key)


def test_plain_data_pass_none_of_scikit_learn_s_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    for module in ("validation", "multiclass"):
        monkeypatch.setattr(f"sklearn.utils.{module}.check_array", lambda X, **options: checked.append(X) or X)
    estimator = MLPClassifier(**HIDDEN).fit(X, LABELS)
    estimator.partial_fit(X[:8], LABELS[:8])
    estimator.predict(X[:1])
    assert not checked


def test_rows_without_names_still_warn_where_fit_s_had_some() -> None:
    pandas = pytest.importorskip("pandas")
    estimator = MLPRegressor(**HIDDEN).fit(pandas.DataFrame(X, columns=[*"abcd"]), X[:, 0])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.predict(X[:1])
    estimator.fit(X, X[:, 0])
    assert not hasattr(estimator, "feature_names_in_")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"shuffle": True}, {"shuffle": 1}),
        ({"alpha": 0.0}, {"alpha": -1.0}),
        ({"hidden_layer_sizes": (5,)}, {"hidden_layer_sizes": "5"}),
        ({"max_iter": 1}, {"max_iter": 1.0}),
    ],
    ids=str,
)
def test_parameters_are_checked_again_when_they_change(good: dict[str, Any], bad: dict[str, Any]) -> None:
    """Also to values that compare equal."""
    estimator = MLPRegressor(**HIDDEN | {"max_iter": 1})
    for _ in range(2):
        estimator.set_params(**good).fit(X, X[:, 0])
    (name,) = bad
    with pytest.raises(ValueError, match=f"The '{name}' parameter of MLPRegressor must be"):
        estimator.set_params(**bad).fit(X, X[:, 0])


def test_sets_of_valid_parameters_are_not_kept_without_end() -> None:
    for index in range(plain.MOST_KEPT + 5):
        plain.check_once(MLPRegressor(alpha=index / 1000), lambda: None)
    assert len(plain._valid) <= plain.MOST_KEPT


def compiled_by(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that are compiled from now on."""
    programs: list[Program] = []
    compile_program = Backend.compile

    def noting(self: Backend, plan: Any, recipe: Any) -> Program:
        programs.append(compile_program(self, plan, recipe))
        return programs[-1]

    monkeypatch.setattr(Backend, "compile", noting)
    return programs


@pytest.mark.filterwarnings("ignore")  # older versions of scikit-learn hand SciPy deprecated options
def test_lbfgs_compiles_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = compiled_by(monkeypatch)
    estimator = MLPRegressor(**HIDDEN | {"solver": "lbfgs", "warm_start": True})
    fresh = clone(estimator).fit(X[:5], X[:5, 0])
    assert len(programs) == 1
    for _ in range(3):
        estimator.fit(X[:5], X[:5, 0])
    assert len(programs) == 2
    again = MLPRegressor(**HIDDEN | {"solver": "lbfgs"}).fit(X[:5], X[:5, 0])
    np.testing.assert_array_equal(again.coefs_[0], fresh.coefs_[0])
    pickle.loads(pickle.dumps(estimator)).fit(X[:5], X[:5, 0])  # a copy has no programs
    assert len(programs) == 4


@pytest.mark.filterwarnings("ignore")  # older versions of scikit-learn hand SciPy deprecated options
def test_changed_parameters_find_no_program_of_the_old_ones() -> None:
    """After a fit with others, a fit gives what it gives in a new estimator."""
    reused = MLPRegressor(**HIDDEN | {"solver": "lbfgs", "max_iter": 5})
    for parameters in ({}, {"activation": "tanh"}, {"hidden_layer_sizes": (4, 3)}, {"loss": "poisson"}, {"alpha": 1.0}):
        reused.set_params(**parameters).fit(X, abs(X[:, 0]))
        new = clone(reused).fit(X, abs(X[:, 0]))
        for W, expected in zip(reused.coefs_, new.coefs_, strict=True):
            np.testing.assert_array_equal(W, expected)


def test_rows_of_a_network_with_many_parameters_start_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would copy them, which a few hundred rows do not repay."""
    estimator = MLPRegressor(**HIDDEN).fit(X, X[:, 0])
    programs, many = compiled_by(monkeypatch), np.tile(X, (10, 1))
    monkeypatch.setattr("nnfast.estimators.base.MANY_PARAMETERS", 1)
    found = estimator.predict(many)
    assert not programs
    monkeypatch.undo()
    programs = compiled_by(monkeypatch)
    assert difference(found, estimator.predict(many)) < PEER
    assert len(programs) == 1


def test_formulas_are_not_written_anew_for_an_equal_plan_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(4, (Dense(5, "tanh"), Dense(1, "sigmoid")))
    plan, dtype = make_plan(network, 8), np.dtype(np.float32)
    backend = get_backend("numba", 1)
    source = Source(np.zeros((8, 4), dtype), np.zeros((8, 1), dtype))

    def train() -> None:
        backend.compile(plan, Recipe(LOSSES["binary_cross_entropy"], adam(), dtype)).bind(source)

    train()
    for name in ("value", "derivative", "loss", "update"):
        monkeypatch.setattr(f"nnfast.kernels.cpu.formulas.{name}_text", lambda *row: pytest.fail("written anew"))
    train()


def test_kept_formulas_are_those_of_the_loss_that_is_shown() -> None:
    """Losses compare equal whatever they show."""
    from nnfast.kernels.cpu.formulas import loss_kernel

    row, dtype = LOSSES["binary_cross_entropy"], np.dtype(np.float32)
    shown = Loss(row.name, row.value, row.derivative, domain=row.domain, targets=row.targets, reported="a - y")
    assert shown == row
    kernels = [loss_kernel(ACTIVATIONS["sigmoid"], loss, dtype) for loss in (row, shown, row)]
    assert kernels[0].address == kernels[2].address != kernels[1].address


def test_idle_programs_are_few_and_large_ones_fewer() -> None:
    def lend_and_return(programs: Programs, units: int, count: int) -> None:
        plan = make_plan(Network(units, (Dense(units), Dense(1))), 1)
        recipe = Recipe(LOSSES["squared_error"], sgd(), np.dtype(np.float32))
        for index in range(count):
            with programs.lend(index, lambda: get_backend("numpy").compile(plan, recipe)):
                pass

    small, large = Programs(), Programs()
    lend_and_return(small, 3, MAX_PROGRAMS + 2)
    assert len(small._idle) == MAX_PROGRAMS
    units = int((IDLE_BYTES / 4 / 2 / 3) ** 0.5)  # so that about three fit: parameters and gradient, of 4 bytes
    lend_and_return(large, units, 6)
    assert 1 < len(large._idle) <= 3
    lend_and_return(large, 2 * units, 1)
    assert len(large._idle) == 1
