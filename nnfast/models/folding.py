"""Folding batch normalisation into the layer before it, for prediction. The formula is in docs/convolutions.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formulas.activations import ACTIVATIONS
from ..networks.layers import BatchNorm, Conv2D, Dense, Layer
from ..networks.network import Network
from ..plans.plan import make_plan

IDENTITY = ACTIVATIONS["identity"]


def fold_batch_norm(
    network: Network, parameters: NDArray[Any], state: NDArray[Any]
) -> tuple[Network, NDArray[Any], NDArray[Any]]:
    """The network without the BatchNorm layers that follow a Dense or Conv2D of activation "identity".

    gamma (x W + b - mean) / deviation + beta = x (W scale) + ((b - mean) scale + beta), with scale = gamma / deviation
    for each unit or filter. Computed in float64, returned in the dtypes given.
    """
    plan = make_plan(network, 1)
    arrays = {name: span.view(parameters) for name, span in plan.named_parameters.items()}
    arrays |= {name: span.view(state) for name, span in plan.named_state.items()}
    layers: list[Layer] = []
    kept: dict[str, NDArray[Any]] = {}  # by their names in the new network
    for index, layer in enumerate(network.layers):
        own = {
            name.removeprefix(f"layers.{index}."): array.astype(np.float64)
            for name, array in arrays.items()
            if name.startswith(f"layers.{index}.")
        }
        before = layers[-1] if layers else None
        if isinstance(layer, BatchNorm) and isinstance(before, Dense | Conv2D) and before.function == IDENTITY:
            place = f"layers.{len(layers) - 1}"
            scale = own["gamma"] / np.sqrt(own["running_variance"] + layer.epsilon)
            bias = kept.get(f"{place}.bias", 0.0)
            kept[f"{place}.weights"] = kept[f"{place}.weights"] * scale  # the last axis is that of units or filters
            kept[f"{place}.bias"] = (bias - own["running_mean"]) * scale + own["beta"]
            layers[-1] = replace(before, activation=layer.activation, bias=True)
        else:
            kept |= {f"layers.{len(layers)}.{role}": array for role, array in own.items()}
            layers.append(layer)
    folded = Network(network.input_shape, tuple(layers))
    plan = make_plan(folded, 1)
    vectors = np.zeros(plan.parameter_count, parameters.dtype), np.zeros(plan.state_count, state.dtype)
    for vector, names in zip(vectors, (plan.named_parameters, plan.named_state), strict=True):
        for name, span in names.items():
            span.view(vector)[...] = kept[name]
    return folded, *vectors
