"""ONNX: converters by which skl2onnx takes fitted MLPClassifiers and MLPRegressors, alone and in pipelines."""

from __future__ import annotations

from typing import Any

from sklearn.base import is_classifier

from .classifier import MLPClassifier
from .regressor import MLPRegressor

try:
    from skl2onnx import update_registered_converter
    from skl2onnx.common._apply_operation import apply_identity, apply_reshape
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )
except ImportError as error:
    raise ImportError("nnfast.estimators.onnx needs skl2onnx: pip install 'nnfast[onnx]'") from error


OUTPUT_ACTIVATIONS = ("identity", "logistic", "relu", "softmax", "tanh")  # those of skl2onnx's converters


def register_converters() -> None:
    """Register both classes with skl2onnx, so that `skl2onnx.to_onnx` converts their fitted estimators.

    Each is converted by skl2onnx's own converter of scikit-learn's class. Call this once in a process.

    Raises
    ------
    ValueError
        By `to_onnx`, for what these converters cannot express: activations and layers that scikit-learn does not have,
        rates of loss='poisson', and classifiers with two labels a row.

    Examples
    --------
    >>> from nnfast.estimators.onnx import register_converters
    >>> from skl2onnx import to_onnx
    >>> register_converters()
    >>> to_onnx(pipeline, X[:1].astype("float32"))  # doctest: +SKIP
    """
    update_registered_converter(
        MLPClassifier,
        "NnfastMLPClassifier",
        calculate_linear_classifier_output_shapes,
        _convert_classifier,
        options={"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]},
    )
    update_registered_converter(MLPRegressor, "NnfastMLPRegressor", _regressor_shapes, _convert_regressor)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    inner = _declare("SklearnMLPClassifier", scope, operator)
    for own, output in zip(inner.outputs, operator.outputs, strict=True):
        apply_identity(scope, own.full_name, output.full_name, container)


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    inner = _declare("SklearnMLPRegressor", scope, operator)
    shape = (-1, operator.raw_operator.n_outputs_)  # skl2onnx's converter gives one column, whatever the outputs
    apply_reshape(scope, inner.outputs[0].full_name, operator.outputs[0].full_name, container, desired_shape=shape)


def _declare(alias: str, scope: Any, operator: Any) -> Any:
    """An operator of scikit-learn's class with the same weights, which skl2onnx converts next."""
    inner = scope.declare_local_operator(alias, _as_scikit_learn_s(operator.raw_operator))
    inner.inputs.extend(operator.inputs)
    inner.outputs.extend(
        scope.declare_local_variable(output.raw_name, output.type.__class__()) for output in operator.outputs
    )
    return inner


def _as_scikit_learn_s(estimator: Any) -> Any:
    name = type(estimator).__name__
    try:
        model = estimator.to_sklearn()
    except ValueError as error:
        raise ValueError(f"skl2onnx cannot convert this {name}: {error}") from None
    if model.out_activation_ not in OUTPUT_ACTIVATIONS:
        raise ValueError(f"skl2onnx cannot convert this {name}: it has no output activation {model.out_activation_!r}")
    if is_classifier(model) and model._label_binarizer.y_type_ == "multilabel-indicator" and model.n_outputs_ == 2:
        raise ValueError(f"skl2onnx cannot convert this {name}: it takes two labels a row for the classes of one")
    return model


def _regressor_shapes(operator: Any) -> None:
    calculate_linear_regressor_output_shapes(operator)
    operator.outputs[0].type.shape[1] = operator.raw_operator.n_outputs_
