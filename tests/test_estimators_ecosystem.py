"""The estimators among scikit-learn's tools: its checks and tests, pipelines, searches, pickles and data frames."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn import neural_network
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from nnfast import Activation, Dense, MLPClassifier, MLPRegressor, Network
from tests.test_estimators_same_model import SAME_MODEL, TASKS, assert_same, classes_of, distance, fit_both, make_data

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**parameters: Any) -> MLPClassifier:
    return MLPClassifier(**{"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 20, **parameters})


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks set their own
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_scikit_learns_checks_pass_without_exception(kind: Any, backend: str) -> None:
    results = check_estimator(kind(backend=backend), on_skip=None)
    assert len(results) > 50
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert sum(result["status"] == "skipped" for result in results) <= 3


SWAPPED = """
from pathlib import Path
import pytest, sklearn, sklearn.neural_network as module, nnfast
module.MLPClassifier, module.MLPRegressor = nnfast.MLPClassifier, nnfast.MLPRegressor
path = Path(sklearn.__file__).parent / "neural_network" / "tests" / "test_mlp.py"
exec(compile(path.read_text(), str(path), "exec"))

@pytest.fixture
def global_random_seed():
    return 0

def test_the_classes_are_swapped():
    assert MLPClassifier is nnfast.MLPClassifier and MLPRegressor is nnfast.MLPRegressor
"""


def test_scikit_learns_own_tests_pass_with_the_classes_swapped(tmp_path: Path) -> None:
    file = tmp_path / "test_swapped.py"
    file.write_text(SWAPPED)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        tmp_path,
        file,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "failed" not in done.stdout


@pytest.mark.parametrize("ours", [MLPClassifier, MLPRegressor])
def test_every_parameter_of_scikit_learn_is_here_with_its_default(ours: Any) -> None:
    theirs = getattr(neural_network, ours.__name__)
    own = inspect.signature(ours).parameters
    shared = inspect.signature(theirs).parameters
    assert [name for name in own if name in shared] == list(shared)
    for name, parameter in shared.items():
        assert own[name].default == parameter.default, name
        assert own[name].kind == parameter.kind, name
    assert set(ours._parameter_constraints) == set(own)
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(dir(ours))


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("carry", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_predicts_and_goes_on_like_the_original(solver: str, carry: Any) -> None:
    X, y = make_data("multiclass")
    fitted = classifier(solver=solver).fit(X, y)
    fitted.predict(X)  # so that it holds compiled programs
    carried = carry(fitted)
    np.testing.assert_array_equal(carried.predict_proba(X), fitted.predict_proba(X))
    if solver != "lbfgs":
        other = carry(carried)
        assert distance(other.partial_fit(X, y), carried.partial_fit(X, y)) == 0


def test_joblib_keeps_a_model(tmp_path: Path) -> None:
    X, y = make_data("regression")
    fitted = MLPRegressor(hidden_layer_sizes=(5,)).fit(X, y)
    joblib.dump(fitted, tmp_path / "model")
    for mode in (None, "r"):
        loaded = joblib.load(tmp_path / "model", mmap_mode=mode)
        np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))


def test_a_model_of_a_missing_backend_predicts_on_another_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_data("multiclass")
    fitted = classifier().fit(X, y)
    expected = fitted.predict_proba(X)
    fitted.backend = "cuda:0"
    carried = pickle.dumps(fitted)
    monkeypatch.setattr("nnfast.backends.cuda.unavailable_reason", lambda: "there is no CUDA device")
    with pytest.warns(UserWarning, match="'cuda:0' is not available: there is no CUDA device.* Predicting on numba"):
        np.testing.assert_allclose(pickle.loads(carried).predict_proba(X), expected, rtol=1e-12)


def test_a_clone_has_the_parameters_and_no_model() -> None:
    network = Network(6, [Dense(4, "gelu"), Dense(3, "softmax")])
    estimator = classifier(network=network, activation=["gelu", "tanh"], dropout=0.5, callbacks=[len])
    X, y = make_data("multiclass")
    cloned = clone(estimator.set_params(callbacks=()).fit(X, y))
    assert not hasattr(cloned, "coefs_")
    assert cloned.get_params() == estimator.get_params()


def test_pipelines_searches_and_cross_validation() -> None:
    X, y = make_data("multiclass")
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=60, learning_rate_init=0.02))
    theirs = make_pipeline(
        StandardScaler(),
        neural_network.MLPClassifier((9, 5), random_state=0, max_iter=60, learning_rate_init=0.02),
    )
    np.testing.assert_allclose(cross_val_score(pipeline, X, y), cross_val_score(theirs, X, y))
    search = GridSearchCV(
        pipeline, {"mlpclassifier__alpha": [1e-4, 10.0], "mlpclassifier__activation": ["relu", "silu"]}
    )
    assert search.fit(X, y).best_params_["mlpclassifier__alpha"] == 1e-4


class ThreadCounter(MLPClassifier):
    """Remembers how many threads the libraries would use where it is fitted."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        from threadpoolctl import threadpool_info

        super().fit(X, y, sample_weight)
        self.threads_ = max(pool["num_threads"] for pool in threadpool_info())
        return self


def test_a_search_in_processes_does_not_oversubscribe() -> None:
    X, y = make_data("multiclass")
    fitted = cross_validate(
        ThreadCounter((9, 5), random_state=0, max_iter=20), X, y, cv=2, n_jobs=2, return_estimator=True
    )
    workers = [estimator.threads_ for estimator in fitted["estimator"]]
    assert max(workers) <= max(1, joblib.cpu_count() // 2)
    search = GridSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, n_jobs=2, cv=2).fit(X, y)
    alone = GridSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=2).fit(X, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_sample_weights_are_routed() -> None:
    X, y = make_data("multiclass")
    weights = np.random.default_rng(0).random(len(y)) + 0.1
    with sklearn.config_context(enable_metadata_routing=True):
        step = classifier().set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, step).fit(X, y, sample_weight=weights)
    direct = classifier().fit(StandardScaler().fit_transform(X), y, weights)
    assert distance(pipeline[-1], direct) == 0


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("task", ["binary", "multi-output"])
def test_data_frames_are_read_with_their_names(library: str, task: str) -> None:
    frames = pytest.importorskip(library)
    X, y = make_data(task)
    names = [f"feature {index}" for index in range(6)]
    table = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    target = frames.DataFrame({str(k): column for k, column in enumerate(y.T)}) if y.ndim == 2 else frames.Series(y)
    fits = [kind(hidden_layer_sizes=(5,), random_state=0, max_iter=20).fit(table, target) for kind in classes_of(task)]
    assert_same(*fits, table)
    if not hasattr(fits[1], "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not read the names of {library}'s columns")
    assert list(fits[0].feature_names_in_) == names
    held_out = clone(fits[0]).set_params(validation_data=(table, target), early_stopping=True)
    held_out.fit(table, target)
    with pytest.raises(ValueError, match="feature names"):
        fits[0].predict(table[names[::-1]])


def test_a_pipeline_with_set_output_gives_frames_to_the_estimator() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = make_data("multiclass")
    table = pandas.DataFrame(X, columns=list("abcdef"))
    pipeline = make_pipeline(StandardScaler(), classifier(early_stopping=True, monitor="f1_macro"))
    pipeline.set_output(transform="pandas").fit(table, y)
    assert list(pipeline[-1].feature_names_in_) == list("abcdef")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_models_become_scikit_learns_and_back(task: str, solver: str) -> None:
    X, y = make_data(task)
    ours, theirs = fit_both(task, X, y, solver=solver, max_iter=15)
    there = ours.to_sklearn()
    assert type(there) is type(theirs)
    back = type(ours).from_sklearn(theirs, backend="numpy")
    assert back.backend == "numpy"
    expected = theirs.predict(X)
    for estimator in (there, back, type(ours).from_sklearn(there), back.to_sklearn()):
        assert estimator.get_params()["solver"] == solver
        if task in ("regression", "multi-output"):
            np.testing.assert_allclose(estimator.predict(X), expected, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(estimator.predict(X), expected)
    if solver != "lbfgs":  # the optimizer's state came along: both go on alike
        for estimator in (ours, there, theirs, back):
            estimator.partial_fit(X, y)
        for estimator in (ours, there, back):
            assert distance(estimator, theirs) < SAME_MODEL
    before = [W.copy() for W in back.coefs_]
    theirs.coefs_[0][...] = 0
    assert all((a == b).all() for a, b in zip(before, back.coefs_, strict=True)), "nothing is shared"


def test_what_scikit_learn_cannot_express_is_not_converted() -> None:
    X, y = make_data("multiclass")
    with pytest.raises(ValueError, match="no activation 'silu'"):
        classifier(activation="silu").fit(X, y).to_sklearn()
    with pytest.raises(ValueError, match="one activation for all hidden layers"):
        classifier(activation=["relu", "tanh"]).fit(X, y).to_sklearn()
    with pytest.raises(TypeError, match="needs a scikit-learn MLPRegressor"):
        MLPRegressor.from_sklearn(neural_network.MLPClassifier((3,), max_iter=1).fit(X, y))
    network = Network(6, [Dense(4, "tanh"), Dense(3, "softmax")])
    own = classifier(network=network, dropout=0.0).fit(X, y)
    other = own.to_sklearn()
    assert (other.activation, other.hidden_layer_sizes) == ("tanh", (4,))
    np.testing.assert_allclose(other.predict_proba(X), own.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize("place", ["hidden", "output"])
def test_a_formula_under_scikit_learn_s_name_for_another_is_not_converted(place: str) -> None:
    steep = Activation("steep", value="tanh(2 * z)", derivative="2 * (1 - a) * (1 + a)", range="(-1, 1)")
    hidden, output = {"hidden": (steep, "identity"), "output": ("tanh", steep)}[place]
    X, y = make_data("regression")
    fitted = MLPRegressor(network=Network(6, [Dense(4, hidden), Dense(1, output)]), max_iter=2).fit(X, y)
    object.__setattr__(steep, "name", "tanh")  # as one that was pickled before its name was refused
    with pytest.raises(ValueError, match="scikit-learn has no activation 'tanh'"):
        fitted.to_sklearn()


def test_importing_nnfast_does_not_import_scikit_learn_nor_the_estimators_skl2onnx() -> None:
    code = "import sys, nnfast; nnfast.train; assert 'sklearn' not in sys.modules; nnfast.MLPClassifier; "
    code += "assert 'skl2onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_skl2onnx_the_converters_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    monkeypatch.delitem(sys.modules, "nnfast.estimators.onnx", raising=False)
    with pytest.raises(ImportError, match=r"needs skl2onnx: pip install 'nnfast\[onnx\]'"):
        importlib.import_module("nnfast.estimators.onnx")
