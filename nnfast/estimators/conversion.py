"""Fitted estimators to and from scikit-learn's own classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import neural_network
from sklearn.base import is_classifier

from ..formulas.activations import ACTIVATIONS, Activation
from . import networks
from .programs import Programs

OWN_STATE = (
    "_programs", "_steps", "_mask_seed", "_best_watched", "validation_loss_curve_", "_state", "_best_state",
)  # fmt: skip
STATE_LISTS = ("velocities", "ms", "vs")  # of scikit-learn's optimizers: one array a parameter array, ours one in all
# The activations that scikit-learn has, and their names there
SCIKIT_LEARNS_NAMES = {
    ACTIVATIONS[name]: {"sigmoid": "logistic"}.get(name, name)
    for name in ("identity", "sigmoid", "tanh", "relu", "exp", "softmax")
}


def scikit_learns_name(activation: Activation) -> str:
    """The name that scikit-learn has for an activation. Raises ValueError if it has none."""
    if activation not in SCIKIT_LEARNS_NAMES:
        raise ValueError(f"scikit-learn has no activation {activation.name!r}")
    return SCIKIT_LEARNS_NAMES[activation]


def to_sklearn(estimator: Any) -> Any:
    """See FastMultilayerPerceptron.to_sklearn."""
    kind = neural_network.MLPClassifier if is_classifier(estimator) else neural_network.MLPRegressor
    network = networks.describe(estimator, estimator.n_features_in_)
    if not networks.is_perceptron(network):
        raise ValueError("scikit-learn has dense layers only; this model's network has others")
    units = networks.network_units(network)
    hidden = {layer.function for layer in network.layers[:-1] if layer.function}
    if len(hidden) > 1:
        names = ", ".join(sorted(function.name for function in hidden))
        raise ValueError(f"scikit-learn has one activation for all hidden layers; this model has {names}")
    known = kind().get_params()
    other = kind(**{name: value for name, value in estimator.get_params(deep=False).items() if name in known})
    other.activation = scikit_learns_name(hidden.pop()) if hidden else "identity"
    other.hidden_layer_sizes = tuple(units[1:-1])
    fitted = {name: value for name, value in vars(estimator).items() if name not in estimator.get_params(deep=False)}
    state = copy.deepcopy({name: value for name, value in fitted.items() if name not in OWN_STATE})
    vars(other).update(state)
    other.out_activation_ = scikit_learns_name(network.output_layer.function)
    for name in ("coefs_", "intercepts_", "_best_coefs", "_best_intercepts"):
        if name in state:  # arrays of their own: scikit-learn goes on training in place
            setattr(other, name, [np.array(array) for array in state[name]])
    if state.get("_best_coefs") is state["coefs_"]:  # as after early stopping
        other._best_coefs, other._best_intercepts = other.coefs_, other.intercepts_
    plan = networks.make_room(network, 1, 1)
    _convert_optimizer(other, lambda vectors: _split(plan, vectors))
    if is_classifier(estimator):
        if estimator.loss != "log_loss" or other.out_activation_ not in ("logistic", "softmax"):
            other.loss = "log_loss"
    elif estimator.loss not in known_losses():
        other.loss = "squared_error"
    return other


def known_losses() -> tuple[str, ...]:
    return ("squared_error", "poisson")


def from_sklearn(kind: Any, estimator: Any, parameters: dict[str, Any]) -> Any:
    """See FastMultilayerPerceptron.from_sklearn."""
    expected = neural_network.MLPClassifier if issubclass(kind, neural_network.MLPClassifier) else None
    expected = expected or neural_network.MLPRegressor
    if not isinstance(estimator, expected):
        raise TypeError(f"{kind.__name__}.from_sklearn needs a scikit-learn {expected.__name__}, got {estimator!r}")
    own = kind(**{**estimator.get_params(deep=False), **parameters})
    known = estimator.get_params(deep=False)
    state = copy.deepcopy({name: value for name, value in vars(estimator).items() if name not in known})
    state.pop("loss", None)  # of a classifier, where it is no parameter in scikit-learn
    vars(own).update(state)
    own._programs = Programs()
    own._mask_seed = None
    own._best_watched = -np.inf
    own._steps = getattr(state.get("_optimizer"), "t", 0)
    own.validation_loss_curve_ = None
    plan = networks.make_room(networks.describe(own, own.n_features_in_), 1, 1)
    _convert_optimizer(own, lambda arrays: [_join(plan, arrays)] if len(arrays) > 1 else arrays)
    return own


def _convert_optimizer(estimator: Any, convert: Any) -> None:
    optimizer = vars(estimator).get("_optimizer")
    for name in STATE_LISTS:
        if hasattr(optimizer, name):
            setattr(optimizer, name, convert(getattr(optimizer, name)))


def _split(plan: Any, vectors: list[NDArray[Any]]) -> list[NDArray[Any]]:
    coefs, intercepts = networks.unflatten(plan, vectors[0])
    return [array.copy() for array in [*coefs, *intercepts]]


def _join(plan: Any, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    half = len(arrays) // 2
    return networks.flatten(plan, arrays[:half], arrays[half:], arrays[0].dtype)
