"""From an estimator's parameters to a Network, a loss and a Recipe, and between `coefs_` and the flat vector.

What scikit-learn does differently from nnfast stands here alone: its loss divides the squared error by the number of
outputs, though its gradient does not, and clips probabilities before it takes their logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ..formulas.activations import ACTIVATIONS, Activation, get_activation
from ..formulas.intervals import lies_within
from ..formulas.losses import LOSSES, Loss, check_pair, get_loss
from ..formulas.optimizers import sgd
from ..models.validation import check_row_shape
from ..networks.layers import Dense, Dropout, Flatten, Layer
from ..networks.network import Network
from ..plans.operations import Span
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_unmasked
from .sources import check_sparse

OUTPUT_ACTIVATIONS = ("identity", "exp", "logistic", "softmax")  # in the order in which a loss's domain is tried
NO_STEPS = sgd()  # for programs that make none
SPARE_ELEMENTS = 2**23  # of a workspace, for more rows than a batch has


def hidden_activations(activation: Any, hidden_layers: int) -> tuple[Activation, ...]:
    """One Activation a hidden layer, from one for all or a sequence. Raises ValueError for another length."""
    if isinstance(activation, (str, Activation)):
        return (get_activation(activation),) * hidden_layers
    if len(activation) != hidden_layers:
        raise ValueError(
            f"activation has {len(activation)} entries for {hidden_layers} hidden layers: give one for each, or one "
            "for all"
        )
    return tuple(get_activation(one) for one in activation)


def dropout_rates(dropout: Any, hidden_layers: int) -> tuple[float, ...]:
    """One rate a hidden layer, from one for all or a sequence. Raises ValueError for another length."""
    if isinstance(dropout, (int, float, np.number)):
        return (float(dropout),) * hidden_layers
    if len(dropout) != hidden_layers:
        raise ValueError(
            f"dropout has {len(dropout)} entries for {hidden_layers} hidden layers: give one for each, or one for all"
        )
    return tuple(float(rate) for rate in dropout)


def describe(estimator: Any, n_features: int) -> Network:
    """The Network of an estimator that has weights, for rows of `n_features` numbers."""
    units = [n_features, *(W.shape[-1] for W in estimator.coefs_)]
    if estimator.network is not None:
        network: Network = estimator.network
        check_network(network, units[0], units[-1])
        return network
    activation, dropout = (
        tuple(value) if isinstance(value, (list, np.ndarray)) else value
        for value in (estimator.activation, estimator.dropout)
    )
    return _perceptron(tuple(units), activation, dropout, estimator.out_activation_)


@lru_cache(maxsize=64)  # a prediction of one row takes no longer than to build this
def _perceptron(units: tuple[int, ...], activation: Any, dropout: Any, out_activation: str) -> Network:
    hidden = len(units) - 2
    layers: list[Layer] = []
    functions = hidden_activations(activation, hidden)
    for size, function, rate in zip(units[1:-1], functions, dropout_rates(dropout, hidden), strict=True):
        layers.append(Dense(size, function))
        if rate:
            layers.append(Dropout(rate))
    layers.append(Dense(units[-1], out_activation))
    return Network((units[0],), tuple(layers))


def check_network(network: Network, n_features: int, n_outputs: int) -> None:
    """Raise ValueError unless the network takes X's columns and gives as many outputs as y needs."""
    if network.input_size != n_features:
        raise ValueError(f"X has {n_features} features, but network takes {network.input_size}")
    if network.output_size != n_outputs:
        raise ValueError(f"y needs {n_outputs} outputs, but network gives {network.output_size}")


def network_units(network: Network) -> list[int]:
    """Inputs and units of every dense layer."""
    return [network.input_size, *(layer.units for layer in network.layers if isinstance(layer, Dense))]


def is_perceptron(network: Network) -> bool:
    """Whether the network has weights in dense layers only, as scikit-learn's have."""
    return all(isinstance(layer, Dense | Dropout | Flatten) for layer in network.layers)


def as_rows(estimator: Any, X: Any) -> Any:
    """X as scikit-learn validates it: images for an estimator's network as flat rows, anything else as it is.

    Raises ValueError for images that do not fit the network, masked values, and a malformed sparse matrix.
    """
    check_unmasked(X, "X")
    if scipy.sparse.issparse(X):
        return check_sparse(X)
    if estimator.network is None or np.ndim(X) <= 2:
        return X
    images = np.asarray(X)
    check_row_shape(images.shape, estimator.network)
    return images.reshape(len(images), -1)


def layer_activation(activation: Any, layer: int) -> str:
    """The name by which scikit-learn's initial draws know the activation after a layer; the output has the last's."""
    if not isinstance(activation, (str, Activation)):
        activation = activation[min(layer, len(activation) - 1)] if len(activation) else "identity"
    return "logistic" if get_activation(activation) == ACTIVATIONS["sigmoid"] else "other"


def output_activation(loss: Loss) -> str:
    """The output activation of a regressor: the first whose values the loss is defined for."""
    for name in OUTPUT_ACTIVATIONS:
        if lies_within(get_activation(name).range, loss.domain):
            return name
    raise ValueError(f"loss {loss.name!r} is defined on {loss.domain}, where no output activation leads: pass network=")


def chosen_loss(estimator: Any, network: Network, dtype: np.dtype[Any]) -> Loss:
    """The loss that is minimised, giving out what scikit-learn gives out. Raises ValueError for a pair that cannot be.

    "log_loss" is cross_entropy after softmax and binary_cross_entropy after the others.
    """
    return _loss(estimator.loss, network.output_layer.function, network.output_size, dtype)


@lru_cache(maxsize=64)
def _loss(name: str | Loss, output: Activation, output_size: int, dtype: np.dtype[Any]) -> Loss:
    if name == "log_loss":
        loss = LOSSES["cross_entropy" if output == ACTIVATIONS["softmax"] else "binary_cross_entropy"]
        eps = float(np.finfo(dtype).eps)
        if loss.name == "cross_entropy":
            loss = replace(loss, reported_within=(-math.log1p(-eps), -math.log(eps)))
        else:
            inside = f"max(min(a, {1 - eps!r}), {eps!r})"
            outside = f"max(min(1 - a, {1 - eps!r}), {eps!r})"
            loss = replace(loss, reported=f"-(y * log({inside}) + (1 - y) * log({outside}))")
    else:
        loss = get_loss(name)
        if name == "squared_error" and output_size > 1:
            loss = replace(loss, reported=f"{0.5 / output_size!r} * (a - y)**2")
    check_pair(output, loss)
    return loss


def is_scikit_learns_loss(loss: Any) -> bool:
    """Whether scikit-learn has this loss, and so its own way with targets that are out of place."""
    return isinstance(loss, str) and loss in ("log_loss", "squared_error", "poisson")


@lru_cache(maxsize=64)
def make_room(network: Network, rows: int, spare: int) -> Plan:
    """A plan for batches of `rows` rows, or, where the network is small, of up to `spare`, for evaluation."""
    per_row = sum(math.prod(shape) for shape in network.shapes)
    return make_plan(network, max(1, rows, min(spare, SPARE_ELEMENTS // per_row)))


def program_key(estimator: Any, plan: Plan, recipe: Recipe) -> Hashable:
    """What a compiled program depends on, with what of a loss is shown, by which losses are not compared."""
    shown = recipe.loss.reported, recipe.loss.reported_within
    return plan.network, plan.rows, str(estimator.backend), estimator.threads, recipe, *shown


def flatten(plan: Plan, coefs: Sequence[NDArray[Any]], intercepts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """The flat vector of these weights and biases."""
    flat = np.empty(plan.parameter_count, dtype)  # all of it is written: no operation's parameters are left out
    for (weights, bias), W, b in zip(_arrays(plan), coefs, intercepts, strict=True):
        weights.view(flat)[...] = W
        if bias:
            bias.view(flat)[...] = b
    return flat


def unflatten(plan: Plan, flat: NDArray[Any]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """`coefs_` and `intercepts_` as views of the flat vector; the intercepts of a layer without bias are zeros.

    Of a BatchNorm they are gamma and beta.
    """
    arrays = _arrays(plan)
    coefs = [weights.view(flat) for weights, _ in arrays]
    intercepts = [bias.view(flat) if bias else np.zeros(weights.shape[-1], flat.dtype) for weights, bias in arrays]
    return coefs, intercepts


def _arrays(plan: Plan) -> list[tuple[Span, Span | None]]:
    """Of every layer with parameters, what stands in `coefs_`, and what in `intercepts_`: two arrays at most."""
    places: list[tuple[Span, Span | None]] = []
    for op in plan.operations:
        match [*op.parameters.values()]:
            case [weights, bias]:
                places.append((weights.span, bias.span))
            case [weights]:
                places.append((weights.span, None))
            case more:
                assert not more, f"coefs_ and intercepts_ have no room for all of {op.layer.kind}'s parameters"
    return places
