"""The estimators as ONNX: what skl2onnx makes of them gives their outputs, and what it cannot express is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnfast import BatchNorm, Dense, Dropout, MLPClassifier, MLPRegressor, Network
from tests.test_estimators_same_model import TASKS, classes_of, make_data
from tests.tolerances import ONE_STEP, difference

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra nnfast[onnx] is not installed")
skl2onnx = pytest.importorskip("skl2onnx", reason="the extra nnfast[onnx] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def _converters() -> None:
    from nnfast.estimators.onnx import register_converters

    register_converters()


def outputs(model: Any, X: Any) -> list[Any]:
    """What onnxruntime gives for X: of a regressor its predictions, of a classifier labels and probabilities."""
    options = {"zipmap": False} if hasattr(model, "predict_proba") else None
    converted = skl2onnx.to_onnx(model, X[:1], options=options)
    session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    given: list[Any] = session.run(None, {session.get_inputs()[0].name: X})
    return given


def assert_same_outputs(model: Any, X: Any) -> None:
    given = outputs(model, X)
    tolerance = ONE_STEP[X.dtype.name]
    if not hasattr(model, "predict_proba"):
        assert difference(given[0], model.predict(X).reshape(len(X), -1)) < tolerance
        return
    assert difference(given[1], model.predict_proba(X)) < tolerance
    np.testing.assert_array_equal(given[0], model.predict(X))


def fitted(task: str, dtype: str = "float32", **parameters: Any) -> tuple[Any, Any]:
    X, y = make_data(task)
    X = X.astype(dtype)
    parameters = {"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 20, **parameters}
    return classes_of(task)[0](**parameters).fit(X, y), X


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fitted_estimator_gives_the_same_outputs_as_onnx(task: str, dtype: str) -> None:
    if (task, dtype) == ("multilabel", "float64"):
        pytest.skip("onnxruntime has no Binarizer for float64")
    assert_same_outputs(*fitted(task, dtype))


@pytest.mark.parametrize(
    "parameters",
    [
        {"activation": "sigmoid"},
        {"activation": ["tanh", "tanh"], "dropout": 0.2},
        {"hidden_layer_sizes": ()},
        {"network": Network(6, [Dense(4, "tanh", bias=False), Dropout(0.1), Dense(3, "softmax")])},
        {"solver": "lbfgs"},
        {"backend": "numpy", "early_stopping": True, "l1": 0.01},
    ],
    ids=str,
)
def test_what_scikit_learn_can_express_gives_the_same_outputs_as_onnx(parameters: dict[str, Any]) -> None:
    assert_same_outputs(*fitted("multiclass", **parameters))


def test_shares_of_a_regressor_give_the_same_outputs_as_onnx() -> None:
    X, y = make_data("regression")
    X = X.astype("float32")
    assert_same_outputs(MLPRegressor(loss="binary_cross_entropy", max_iter=5).fit(X, (y > 0).astype(float)), X)


def test_a_pipeline_and_a_search_are_converted_with_the_estimator_in_them() -> None:
    X, y = make_data("multiclass")
    X, y = X.astype("float32"), np.array([f"class {label}" for label in y])
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((9, 5), random_state=0, max_iter=20)).fit(X, y)
    assert_same_outputs(pipeline, X)
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(X, y)
    assert_same_outputs(search, X)
    maps = skl2onnx.to_onnx(pipeline, X[:1])  # probabilities as dictionaries by class, as for scikit-learn's own
    session = onnxruntime.InferenceSession(maps.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"X": X})[1][0].keys() == {*pipeline.classes_}


@pytest.mark.parametrize(
    ("task", "parameters", "match"),
    [
        ("multiclass", {"activation": "silu"}, "convert this MLPClassifier: scikit-learn has no activation 'silu'"),
        ("regression", {"activation": ["tanh", "relu"]}, "one activation for all hidden layers"),
        ("regression", {"network": Network(6, [Dense(4), BatchNorm(), Dense(1)])}, "dense layers only"),
        (
            "regression",
            {"network": Network(6, [Dense(4), Dense(1, "softplus")])},
            "this MLPRegressor: scikit-learn has no activation 'softplus'",
        ),
        ("poisson", {"loss": "poisson"}, "this MLPRegressor: it has no output activation 'exp'"),
        ("two labels", {}, "it takes two labels a row for the classes of one"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_converters_cannot_express_is_refused_by_name(
    task: str, parameters: dict[str, Any], match: str
) -> None:
    X, y = make_data({"poisson": "regression", "two labels": "multilabel"}.get(task, task))
    X = X.astype("float32")
    y = abs(y) if task == "poisson" else y[:, :2] if task == "two labels" else y
    kind = MLPClassifier if task in ("multiclass", "two labels") else MLPRegressor
    model = kind(**{"hidden_layer_sizes": (9, 5), "max_iter": 3, **parameters}).fit(X, y)
    with pytest.raises(ValueError, match=match):
        outputs(model, X)
