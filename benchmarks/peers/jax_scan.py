"""JAX: all steps in one compiled call, lax.scan over an epoch's batches and, around it, over the epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nnfast.benchmarking.workloads import Workload
from nnfast.networks.layers import Conv2D, Dense, Flatten, MaxPool2D

from .peer import Adam, CannotError, Peer, Place

Array = Any  # jax.Array, traced or not
Arrays = tuple[Array, ...]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}


def _cross_entropy(z: Array, y: Array) -> Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, jnp.newaxis], axis=1))


# The loss of a batch from its outputs' z, for every pair of output activation and loss.
LOSSES: dict[tuple[str, str], Callable[[Array, Array], Array]] = {
    ("softmax", "cross_entropy"): _cross_entropy,
    ("identity", "squared_error"): lambda z, y: 0.5 * jnp.sum((z - y) ** 2) / z.shape[0],
    ("sigmoid", "sum_squared_error"): lambda z, y: jnp.sum((jax.nn.sigmoid(z) - y) ** 2),
}


def layer_function(place: Place, last: bool) -> Callable[[Arrays, Array], Array]:
    """What a layer does to a batch, as a function of its parameters; the last layer stops at z."""
    layer = place.layer
    if isinstance(layer, Dense):
        function = ACTIVATIONS["identity" if last else layer.function.name]
        return lambda parameters, x: function(x @ parameters[0] + parameters[1])
    if isinstance(layer, Conv2D) and layer.padding == "valid" and layer.groups == 1:
        activation, stride, dilation = ACTIVATIONS[layer.function.name], layer.stride, layer.dilation

        def convolve(parameters: Arrays, x: Array) -> Array:
            z = jax.lax.conv_general_dilated(
                x, parameters[0], stride, "VALID", rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return activation(z + parameters[1])

        return convolve
    if isinstance(layer, MaxPool2D) and layer.padding == "valid":
        size, step = (1, *layer.pool_size, 1), (1, *layer.stride, 1)
        return lambda parameters, x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, step, "VALID")
    if isinstance(layer, Flatten):
        return lambda parameters, x: x.reshape(len(x), -1)
    raise CannotError(f"the JAX peer has no {layer.kind} layer like this one")


class Scan(Peer):
    """jit with the state donated; Adam is written out, since JAX has none. workers.py says on which device."""

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        try:
            jax.devices(device)
        except (RuntimeError, AssertionError):  # the latter where it has none at all
            raise CannotError(f"this JAX has no device {device}") from None
        # On a GPU it would round the factors of products to 10 bits; nnfast and PyTorch do not
        jax.config.update("jax_default_matmul_precision", "highest")
        places = list(self.places())
        self._initial = [place.parameters for place in places]
        functions = [layer_function(place, place is places[-1]) for place in places]
        loss = LOSSES[workload.output_activation, workload.loss]

        def batch_loss(parameters: list[Arrays], x: Array, y: Array) -> Array:
            for function, own in zip(functions, parameters, strict=True):
                x = function(own, x)
            return loss(x, y)

        adam = self.adam()
        self._x = jnp.asarray(self.inputs)
        if workload.image:
            self._x = self._x.reshape(-1, *(*workload.image, 1)[:3])
        self._y = jnp.asarray(self.targets, jnp.int32 if self.targets.ndim == 1 else jnp.float32)
        shape = (workload.epochs, workload.steps_per_epoch)
        self._rates = jnp.asarray(adam.rates.reshape(shape), jnp.float32)
        self._orders = jnp.asarray(self.order.reshape(workload.epochs, workload.rows), jnp.int32)
        self._run = jax.jit(self._program(adam_step(batch_loss, adam)), donate_argnums=0)
        self.reset()

    def _program(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """All steps as one function of the state, the rows, the orders and the rates."""
        size = self.workload.batch_size
        full = self.workload.rows // size

        def whole(state: Any, x: Array, y: Array, orders: Array, rates: Array) -> Any:
            # Four steps in one turn of the loop: of steps as short as xor's, the loop itself is a good part
            return jax.lax.scan(lambda state, rate: step(state, x, y, rate), state, rates[:, 0], unroll=4)

        def batches(state: Any, x: Array, y: Array, orders: Array, rates: Array) -> Any:
            def one(state: Any, batch: tuple[Array, Array]) -> Any:
                rows, rate = batch
                # The orders hold no row that is not there, so nothing needs to be looked after
                return step(state, x.at[rows].get(mode="promise_in_bounds"), y[rows], rate)

            def epoch(state: Any, epoch: tuple[Array, Array]) -> Any:
                order, rates = epoch
                state, losses = jax.lax.scan(one, state, (order[: full * size].reshape(full, size), rates[:full]))
                if len(order) > full * size:  # the last batch of an epoch has what is left
                    state, loss = one(state, (order[full * size :], rates[full]))
                    losses = jnp.append(losses, loss)
                return state, losses

            if len(orders) == 1:
                return epoch(state, (orders[0], rates[0]))
            return jax.lax.scan(epoch, state, (orders, rates))

        return whole if self.full_batch else batches

    def reset(self) -> None:
        parameters = [tuple(jnp.array(array) for array in arrays) for arrays in self._initial]
        zeros = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
        self._state = jax.block_until_ready((parameters, *zeros))

    def train(self) -> None:
        ran = self._run(self._state, self._x, self._y, self._orders, self._rates)
        self._state, self._losses = jax.block_until_ready(ran)

    def losses(self) -> NDArray[Any]:
        return np.asarray(self._losses).reshape(-1)

    def parameters(self) -> NDArray[Any]:
        return np.concatenate([np.asarray(array).reshape(-1) for arrays in self._state[0] for array in arrays])


def adam_step(batch_loss: Callable[..., Array], adam: Adam) -> Callable[..., Any]:
    """A step of Adam: new state (parameters, m, v), and the loss before it."""

    def step(state: Any, x: Array, y: Array, rate: Array) -> Any:
        parameters, m, v = state
        loss, gradient = jax.value_and_grad(batch_loss)(parameters, x, y)
        m = jax.tree.map(lambda m, g: adam.beta_1 * m + (1 - adam.beta_1) * g, m, gradient)
        v = jax.tree.map(lambda v, g: adam.beta_2 * v + (1 - adam.beta_2) * g**2, v, gradient)
        parameters = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + adam.epsilon), parameters, m, v)
        return (parameters, m, v), loss

    return step
