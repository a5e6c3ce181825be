"""The same networks in other libraries, as one would train many of them there. Made ready, and compiled, when made.

JAX and PyTorch start from nnfast's weights and take its orders, which they are handed; nnfast draws them as it trains.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from nnfast.formulas.optimizers import adam
from nnfast.plans.plan import make_plan
from nnfast.support.random import ShuffledOrders

from .networks import BATCH, RATE, ROWS, Array, Outcome, Task

LOOPED = 4  # a loop is as fast for more networks


def first_layers(task: Task) -> list[Any]:
    """Weights and bias of each layer, (count, inputs, outputs) and (count, outputs)."""
    plan = make_plan(task.network, BATCH)
    vectors = [plan.initial_parameters(seed).astype("f4") for seed in range(task.count)]
    return [
        tuple(
            np.stack([plan.named_parameters[f"layers.{index}.{role}"].view(vector) for vector in vectors])
            for role in ("weights", "bias")
        )
        for index in range(len(task.sizes) - 1)
    ]


def orders(task: Task) -> Array:
    """(count, epochs, batches, rows of each)."""
    drawn = [[ShuffledOrders(seed, ROWS)(epoch) for epoch in range(task.epochs)] for seed in range(task.count)]
    return np.array(drawn).reshape(task.count, task.epochs, -1, BATCH)


class JaxVmap:
    """vmap of the scan over epochs and batches that benchmarks.peers has, all in one jit call."""

    def __init__(self, task: Task) -> None:
        import jax
        import jax.numpy as jnp

        from benchmarks.peers.jax_scan import LOSSES, adam_step
        from benchmarks.peers.peer import Adam

        loss, optimizer = LOSSES["softmax", "cross_entropy"], adam()
        values = optimizer.step_values(np.full(task.epochs * ROWS // BATCH, RATE), 0)
        rates = values[:, optimizer.step_names.index("rate")]
        constants = Adam(RATE, **dict(optimizer.constants), rates=rates)

        def batch_loss(layers: Any, x: Any, y: Any) -> Any:
            for W, b in layers[:-1]:
                x = jax.nn.relu(x @ W + b)
            return loss(x @ layers[-1][0] + layers[-1][1], y)

        step = adam_step(batch_loss, constants)

        def one(layers: Any, order: Any, x: Any, y: Any, rates: Any) -> Any:
            def batch(state: Any, now: Any) -> Any:
                rows, rate = now
                return step(state, x.at[rows].get(mode="promise_in_bounds"), y[rows], rate)

            zeros = jax.tree.map(jnp.zeros_like, layers)
            state, losses = jax.lax.scan(partial(jax.lax.scan, batch), (layers, zeros, zeros), (order, rates))
            return state[0], losses[0].mean()

        x, y = task.data()
        layers, order = jax.tree.map(jnp.asarray, (first_layers(task), orders(task).astype("i4")))
        rates = jnp.asarray(rates.reshape(task.epochs, -1), "f4")
        self.arguments = layers, order, jnp.asarray(x), jnp.asarray(y, "i4"), rates
        self.compiled = jax.jit(jax.vmap(one, (0, 0, None, None, None))).lower(*self.arguments).compile()
        self.ready = jax.block_until_ready

    def __call__(self) -> Outcome:
        _, losses = self.ready(self.compiled(*self.arguments))
        return Outcome(np.asarray(losses))


class TorchVmap:
    """vmap of the gradient, as PyTorch's tutorial on ensembles has it, and one fused Adam for all."""

    def __init__(self, task: Task) -> None:
        import torch

        self.torch, self.task = torch, task
        self.x, self.y = map(torch.from_numpy, task.data())
        self.orders = torch.from_numpy(orders(task)).permute(1, 2, 0, 3).reshape(-1, task.count, BATCH).contiguous()
        self.first = [torch.from_numpy(part) for layer in first_layers(task) for part in layer]

        def batch_loss(parameters: Any, x: Any, y: Any) -> Any:
            for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
                x = torch.addmm(b, x, W).relu()
            return torch.nn.functional.cross_entropy(torch.addmm(parameters[-1], x, parameters[-2]), y)

        self.gradient = torch.func.vmap(torch.func.grad_and_value(batch_loss))

    def __call__(self) -> Outcome:
        torch = self.torch
        parameters = [part.clone() for part in self.first]
        optimizer, losses = torch.optim.Adam(parameters, lr=RATE, fused=True), []
        for rows in self.orders:
            gradients, loss = self.gradient(parameters, self.x[rows], self.y[rows])
            losses.append(loss)
            for part, gradient in zip(parameters, gradients, strict=True):
                part.grad = gradient
            optimizer.step()
        return Outcome(torch.stack(losses[: ROWS // BATCH]).mean(0).numpy())


class Fits:
    """A loop of fits of scikit-learn's estimator or of nnfast's, which draws the same weights and orders."""

    def __init__(self, task: Task, kind: Any) -> None:
        self.kind, self.task, self.data = kind, task, task.data()

    def __call__(self) -> Outcome:
        task, losses = self.task, []
        for seed in range(min(LOOPED, task.count)):
            fitted = self.kind(
                task.sizes[1:-1], alpha=0, batch_size=BATCH, learning_rate_init=RATE, max_iter=task.epochs, tol=0,
                n_iter_no_change=task.epochs + 1, random_state=seed,
            ).fit(*self.data)  # fmt: skip
            losses.append(fitted.loss_curve_[0])
        return Outcome(np.array(losses))
