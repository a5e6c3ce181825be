"""nnfast's own columns: its single calls, and the compute inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from nnfast import Dense, Learner, Model, Network, predict_frame
from nnfast.backends import Source, get_backend
from nnfast.data.targets import ClassTargets
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe

from . import RATE, Array, Sizes, first_layers, flat

STRETCH = 1000  # steps that are made inside one call
INSIDE = 4096  # rows that are predicted inside one call, at least: the first find cold caches
MOST_ROWS, MOST_BATCH_ROWS = 2000, 256

Inside = tuple[Callable[[], Any], int]  # many calls as one: what makes them, and how many


def network_of(sizes: Sizes) -> Network:
    hidden = [Dense(size, "relu") for size in sizes[1:-1]]
    return Network(sizes[0], (*hidden, Dense(sizes[-1], "softmax")))


def model_of(sizes: Sizes) -> Model:
    network, targets = network_of(sizes), ClassTargets(np.arange(sizes[-1]))
    parameters = flat(first_layers(sizes))
    assert make_plan(network, 1).parameter_count == parameters.size
    return Model(network, parameters, np.zeros(0, "f4"), LOSSES["cross_entropy"], targets, backend="numba", threads=1)


class PredictorCalls:
    def __init__(self, sizes: Sizes) -> None:
        self.outputs = model_of(sizes).predictor(MOST_ROWS)


class ModelCalls:
    def __init__(self, sizes: Sizes) -> None:
        self.outputs = model_of(sizes).predict_proba


class FrameCalls:
    """A frame in a compiled loop, which writes the rows before each call."""

    def __init__(self, sizes: Sizes) -> None:
        self.frame = model_of(sizes).predictor(MOST_ROWS).frame()

    def outputs(self, x: Array) -> Array:
        predict_often(self.frame, x, 1)
        return self.frame.outputs[: len(x)].copy()

    def inside(self, x: Array) -> Inside:
        times = max(1, INSIDE // len(x))
        return lambda: predict_often(self.frame, x, times), times


@njit
def predict_often(frame: Any, x: Array, times: int) -> None:
    for _ in range(times):
        for row in range(len(x)):
            for column in range(x.shape[1]):
                frame.inputs[row, column] = x[row, column]
        predict_frame(frame, len(x))


class LearnerCalls:
    def __init__(self, sizes: Sizes) -> None:
        self.learner = Learner(
            network_of(sizes), batch_rows=MOST_BATCH_ROWS, learning_rate=RATE, backend="numba", threads=1
        )
        self.learner.parameters = flat(first_layers(sizes))
        self.outputs, self.step = self.learner.outputs, self.learner.step

    def parameters(self) -> Array:
        return self.learner.parameters


class StepFromCalls(LearnerCalls):
    """The same with the loss outside: nnfast gives the probabilities, and takes the loss's slope by them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.step = self.step_from

    def step_from(self, x: Array, y: Array) -> float:
        outputs, rows = self.learner.forward(x), np.arange(len(y))
        slopes, own = np.zeros_like(outputs), outputs[rows, y]
        slopes[rows, y] = -1 / (len(y) * own)
        self.learner.step_from(slopes)
        return -float(np.log(own).mean())


class ModuleCalls(LearnerCalls):
    """nnfast's passes within PyTorch, with PyTorch's optimizer."""

    def __init__(self, sizes: Sizes, *, makes_steps: bool = False) -> None:
        import torch

        from nnfast.torch import Module

        super().__init__(sizes)
        self.torch, self.module = torch, Module(self.learner, makes_steps=makes_steps)
        self.optimizer = None if makes_steps else torch.optim.Adam(self.module.parameters(), lr=RATE, fused=True)
        self.step = self.step_in_torch

    def step_in_torch(self, x: Array, y: Array) -> float:
        torch = self.torch
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(self.module(torch.from_numpy(x)).log(), torch.from_numpy(y))
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        return float(loss.item())


class Stretch:
    """The compute inside a step: many on the same batch in one call."""

    def __init__(self, sizes: Sizes) -> None:
        recipe = Recipe(LOSSES["cross_entropy"], adam(), np.dtype("f4"))
        self.program = get_backend("numba", 1).compile(make_plan(network_of(sizes), MOST_BATCH_ROWS), recipe)
        self.program.parameters = flat(first_layers(sizes))
        self.made = 0

    def step(self, x: Array, y: Array) -> float:
        losses = self.steps(x, y, 1)
        return float(losses[0])

    def inside(self, x: Array, y: Array) -> Inside:
        return lambda: self.steps(x, y, STRETCH), STRETCH

    def steps(self, x: Array, y: Array, count: int) -> Array:
        rows, first = len(x), self.made
        self.made += count
        self.program.bind(Source(x, y))
        order, bounds = np.tile(np.arange(rows), count), np.arange(0, count * rows + 1, rows)
        return self.program.run(order, bounds, np.full(count, RATE), first)

    def parameters(self) -> Array:
        return self.program.parameters
