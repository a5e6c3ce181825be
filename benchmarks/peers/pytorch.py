"""PyTorch: eagerly, with torch.optim.Adam; the whole step compiled by torch.compile; that, captured as CUDA graphs."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nnfast.benchmarking.workloads import Workload
from nnfast.formulas.optimizers import adamw
from nnfast.networks.layers import Conv2D, Dense, Flatten, MaxPool2D
from nnfast.plans.recipe import Recipe

from .peer import CannotError, Peer, Place

PILOT_STEPS = 50

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


def _half_squared_error(z: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(z, y, reduction="sum") * (0.5 / len(z))


def _sum_squared_error(z: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(torch.sigmoid(z), y, reduction="sum")


# The loss of a batch from its outputs' z, for every pair of output activation and loss.
LOSSES: dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]] = {
    ("softmax", "cross_entropy"): functional.cross_entropy,
    ("identity", "squared_error"): _half_squared_error,
    ("sigmoid", "sum_squared_error"): _sum_squared_error,
}


class Images(nn.Module):
    """Flat rows as images with the channels first, as PyTorch takes them; stored with the channels last."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self._shape).permute(0, 3, 1, 2)


class FlatImages(nn.Module):
    """Images as flat rows with the channels last, as nnfast's dense layers take them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def modules_of(place: Place, last: bool) -> list[nn.Module]:
    """The modules that do what a layer does; the last layer stops at z."""
    layer = place.layer
    if isinstance(layer, Dense):
        weights = place.parameters[0]
        linear: nn.Module = nn.Linear(*weights.shape)
        return [linear] if last else [linear, ACTIVATIONS[layer.function.name]()]
    if isinstance(layer, Conv2D) and layer.padding == "valid":
        _, _, channels, filters = place.parameters[0].shape
        options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
        convolution = nn.Conv2d(channels * layer.groups, filters, layer.kernel_size, **options)
        return [convolution, ACTIVATIONS[layer.function.name]()]
    if isinstance(layer, MaxPool2D) and layer.padding == "valid":
        return [nn.MaxPool2d(layer.pool_size, layer.stride)]
    if isinstance(layer, Flatten):
        return [FlatImages()]
    raise CannotError(f"the PyTorch peers have no {layer.kind} layer like this one")


def to_torch(array: NDArray[Any]) -> Tensor:
    """A parameter in PyTorch's layout, which is that of nnfast with all axes, or for a kernel the pairs, reversed."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T))


def from_torch(parameter: Tensor) -> NDArray[Any]:
    """A parameter in nnfast's layout, flat."""
    array = parameter.detach().cpu().numpy()
    return (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T).reshape(-1)


class Torch(Peer):
    """What all ways of PyTorch share: the module, the rows and the batches' indices as tensors on the device."""

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        if device == "cuda" and not torch.cuda.is_available():
            raise CannotError("this PyTorch sees no CUDA device")
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # products are float32 by default, convolutions are not
        places = list(self.places())
        self._initial = [to_torch(array) for place in places for array in place.parameters]
        modules = [part for place in places for part in modules_of(place, place is places[-1])]
        if workload.image:
            modules.insert(0, Images((*workload.image, 1)[:3]))
        self._model = nn.Sequential(*modules).to(device)
        self._loss = LOSSES[workload.output_activation, workload.loss]
        self._adam = self.adam()
        self._step_losses = torch.zeros(0)
        self._x, self._y = torch.from_numpy(self.inputs).to(device), torch.from_numpy(self.targets).to(device)
        self._batches = torch.from_numpy(self.order).to(device).split(np.diff(self.bounds).tolist())
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []

    def reset(self) -> None:
        with torch.no_grad():
            for parameter, initial in zip(self._model.parameters(), self._initial, strict=True):
                parameter.copy_(initial)

    def train(self) -> None:
        for event in self._events[:1]:
            event.record()
        self._step_losses = torch.stack(self._steps(len(self._batches)))
        for event in self._events[1:]:
            event.record()
            event.synchronize()

    @abstractmethod
    def _steps(self, count: int) -> list[Tensor]:
        """The losses of the first steps, which a GPU may not have finished."""

    def stream_seconds(self) -> float | None:
        return self._events[0].elapsed_time(self._events[1]) / 1e3 if self._events else None

    def losses(self) -> NDArray[Any]:
        return self._step_losses.cpu().numpy()

    def parameters(self) -> NDArray[Any]:
        return np.concatenate([from_torch(parameter) for parameter in self._model.parameters()])


class Eager(Torch):
    """The loop of PyTorch's tutorials, with that implementation of torch.optim.Adam which is fastest here."""

    @classmethod
    def recipe(cls, workload: Workload) -> Recipe:
        """PyTorch's Adam has its epsilon beside the corrected root, as nnfast's adamw has."""
        recipe = workload.recipe()
        adam = dict(recipe.optimizer.constants)
        return dataclasses.replace(recipe, optimizer=adamw(**adam, weight_decay=0.0))

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        kinds = ({"fused": True}, {"foreach": True}, {"foreach": False})
        seconds = []
        for kind in kinds:
            self._use(kind)
            torch.stack(self._steps(PILOT_STEPS)).cpu()
            start = time.perf_counter()
            torch.stack(self._steps(PILOT_STEPS)).cpu()  # a GPU has finished when it is there
            seconds.append(time.perf_counter() - start)
        self._use(kinds[int(np.argmin(seconds))])
        self._steps(1)  # creates the optimizer's state
        self.reset()

    def _use(self, kind: dict[str, bool]) -> None:
        adam, parameters = self._adam, self._model.parameters()
        betas = (adam.beta_1, adam.beta_2)
        self._optimizer = torch.optim.Adam(parameters, adam.learning_rate, betas, adam.epsilon, **kind)

    def reset(self) -> None:
        super().reset()
        for state in self._optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def _steps(self, count: int) -> list[Tensor]:
        losses = []
        x, y = self._x, self._y
        for batch in self._batches[:count]:
            if not self.full_batch:
                x, y = self._x.index_select(0, batch), self._y.index_select(0, batch)
            loss = self._loss(self._model(x), y)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.append(loss.detach())
        return losses


class Compiled(Torch):
    """Gathering, loss, gradient and Adam in one graph, on a CPU called through C++: one call a step."""

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        torch._dynamo.reset()  # the guards of what an earlier workload compiled would be looked at in every call
        self._state = [torch.zeros_like(parameter) for parameter in self._model.parameters() for _ in range(2)]
        self._rates = torch.from_numpy(self._adam.rates.astype(np.float32)).to(device).unbind()
        options = {"cpp_wrapper": True} if device == "cpu" else None
        self._step = torch.compile(self._whole_step(), fullgraph=True, dynamic=False, options=options)
        self._is_compiled = False
        self.reset()

    def _whole_step(self) -> Callable[..., Tensor]:
        adam = self._adam
        parameters = {name: parameter.detach() for name, parameter in self._model.named_parameters()}

        def batch_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self._loss(torch.func.functional_call(self._model, parameters, (x,)), y)

        loss_and_gradient = torch.func.grad_and_value(batch_loss)
        moments = list(zip(self._state[::2], self._state[1::2], strict=True))

        def step(x: Tensor, y: Tensor, batch: Tensor | None, rate: Tensor) -> Tensor:
            if batch is not None:
                x, y = x[batch], y[batch]
            gradient, loss = loss_and_gradient(parameters, x, y)
            for (m, v), (name, p) in zip(moments, parameters.items(), strict=True):
                g = gradient[name]
                m.mul_(adam.beta_1).add_(g, alpha=1 - adam.beta_1)
                v.mul_(adam.beta_2).addcmul_(g, g, value=1 - adam.beta_2)
                p.sub_(rate * m / (v.sqrt() + adam.epsilon))
            return loss

        return step

    def reset(self) -> None:
        super().reset()
        for tensor in self._state:
            tensor.zero_()

    def _steps(self, count: int) -> list[Tensor]:
        losses = []
        # Once everything is compiled, nothing that the guards look after can change: they cost a sixth of a short step
        with torch.no_grad(), torch.compiler.set_stance("default", skip_guard_eval_unsafe=self._is_compiled):
            for batch, rate in zip(self._batches[:count], self._rates[:count], strict=True):
                losses.append(self._run(None if self.full_batch else batch, rate))
        self._is_compiled = True
        return losses

    def _run(self, batch: Tensor | None, rate: Tensor) -> Tensor:
        """One step's loss."""
        loss: Tensor = self._step(self._x, self._y, batch, rate)
        return loss


class Graphed(Compiled):
    """The compiled step as a CUDA graph for each size of batch, which reads batch and rate from one place."""

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        self._graphs: dict[int, tuple[Callable[[], None], Tensor | None, Tensor, Tensor]] = {}
        super().__init__(workload, threads, device)

    def _run(self, batch: Tensor | None, rate: Tensor) -> Tensor:
        size = 0 if batch is None else len(batch)
        if not self._is_compiled:  # the first training, which is not timed, compiles for every size
            return super()._run(batch, rate)
        if size not in self._graphs:
            self._graphs[size] = self._capture(batch, rate)
        replay, own_batch, own_rate, loss = self._graphs[size]
        if batch is not None and own_batch is not None:
            own_batch.copy_(batch)
        own_rate.copy_(rate)
        replay()
        return loss.clone()

    def _capture(self, batch: Tensor | None, rate: Tensor) -> tuple[Callable[[], None], Tensor | None, Tensor, Tensor]:
        """A step to be replayed, the tensors it reads, and the one it leaves its loss in."""
        batch, rate, loss = None if batch is None else batch.clone(), rate.clone(), torch.zeros_like(rate)

        def step() -> None:
            loss.copy_(self._step(self._x, self._y, batch, rate))

        if self.device == "cpu":  # has no graphs: there the step itself is replayed, which is what tests see
            return step, batch, rate, loss
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay, batch, rate, loss
