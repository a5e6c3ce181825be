"""A network as a PyTorch module: torch computes the loss, nnfast the passes through the network. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .training.learner import Learner

try:
    import torch
    from torch.autograd.function import once_differentiable
except ImportError:
    raise ImportError("nnfast.torch needs PyTorch: pip install torch") from None


class Module(torch.nn.Module):
    """A Learner's network as an `nn.Module`, for losses, optimizers and other modules of PyTorch.

    It has one flat Parameter, `flat`, whose memory is the learner's own: what an optimizer of PyTorch writes there, the
    learner computes with, and nothing is copied. Gradients of it and of the inputs are nnfast's backward pass. The
    running statistics of BatchNorm are a buffer, `statistics`, and `state_dict` holds both; with `makes_steps`, also
    the optimizer's slots and the number of steps.

    In training mode (`train()`, the default), dropout drops, and BatchNorm takes the batch's statistics, which the
    running ones follow at each call. In `eval()`, it computes what `Learner.outputs` does; there is no way back from
    those outputs. Calls may be nested and their graphs kept; going back from another call than the last one makes its
    forward pass again.

    What it saves is overhead, and PyTorch's own stays. Beside the same network of `nn.Linear` with PyTorch's fused
    Adam, a training step of 4-64-64-2 or 64-100-10 on 1 or 32 rows is 1.0 to 1.3 times as fast with that optimizer, and
    2.0 to 2.3 times with `makes_steps`. `Learner.forward` and `step_from` without PyTorch are 8 to 10 times as fast,
    and `Learner.step` 14 to 22 (python -m benchmarks.calls, one thread of an AMD EPYC, Zen 4, torch 2.13).

    Parameters
    ----------
    learner
        What computes, on backend "numba" or "numpy": its network, seed, dtype and batch_rows are this module's. It
        belongs to the thread that made it. Its loss is not used.
    makes_steps
        Whether each backward pass makes a step by the learner's own optimizer, with its `learning_rate`, penalties and
        clipping. `flat` gets no gradient then, so that no other optimizer changes it; the running statistics follow at
        the step; and each backward pass takes one call of the module, since the next would find other parameters.

    Raises
    ------
    TypeError
        `learner` is none.
    RuntimeError
        The learner computes on a device.

    Examples
    --------
    >>> import torch
    >>> from nnfast import Dense, Learner, Network
    >>> from nnfast.torch import Module
    >>> learner = Learner(Network(4, [Dense(64, "relu"), Dense(2)]), batch_rows=32)
    >>> module = Module(learner)
    >>> optimizer = torch.optim.Adam(module.parameters())
    >>> x, y = torch.randn(32, 4), torch.randn(32, 2)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.huber_loss(module(x), y)
    ...     loss.backward()
    ...     optimizer.step()

    With nnfast's optimizer, `loss.backward()` is the whole step:

    >>> module = Module(learner, makes_steps=True)
    >>> torch.nn.functional.huber_loss(module(x), y).backward()
    """

    def __init__(self, learner: Learner, *, makes_steps: bool = False) -> None:
        super().__init__()
        if not isinstance(learner, Learner):
            raise TypeError(f"learner must be a Learner, got {learner!r}")
        parameters, slots, statistics = learner.live
        self.learner, self.makes_steps = learner, makes_steps
        self.flat = torch.nn.Parameter(torch.from_numpy(parameters))
        self.register_buffer("statistics", torch.from_numpy(statistics))
        if makes_steps:
            self.register_buffer("slots", torch.from_numpy(slots))
        self._places = self._now()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's outputs.

        Parameters
        ----------
        x
            (n_rows, n_inputs), or rows of the network's own shape, on the CPU and of the learner's dtype.

        Returns
        -------
        tensor
            (n_rows, n_outputs).

        Raises
        ------
        TypeError, ValueError
            Rows that do not fit the network, its dtype or `batch_rows`.
        RuntimeError
            The module's tensors are no longer the learner's memory, or another thread calls.
        """
        if not isinstance(x, torch.Tensor) or x.dtype != self.flat.dtype or x.device.type != "cpu":
            found = f"{x.dtype} on {x.device}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise TypeError(f"x must be a tensor of {self.flat.dtype} on the CPU, got {found}")
        if self._now() != self._places:
            raise RuntimeError(
                "this module's tensors are no longer its learner's memory: change them in place, as copy_ and "
                "load_state_dict without assign=True do"
            )
        outputs: torch.Tensor = (_Training if self.training else _Inference).apply(x, self.flat, self)
        return outputs

    def _now(self) -> list[int]:
        """Where its tensors lie."""
        return [self.flat.data_ptr(), *(buffer.data_ptr() for buffer in self._buffers.values())]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Module:
        """Refuses what would move the tensors away from the learner's memory: other dtypes, devices and sharing."""
        probe = torch.empty(1, dtype=self.flat.dtype)
        place, moved = probe.data_ptr(), fn(probe)
        if moved.dtype != self.flat.dtype or moved.data_ptr() != place:
            raise RuntimeError(
                f"this module is its learner's memory, {self.flat.dtype} on the CPU, and cannot be moved to "
                f"{moved.dtype} on {moved.device}: a Learner with another dtype makes another module"
            )
        return self

    def get_extra_state(self) -> dict[str, int]:
        """The learner's count of steps, or of calls in training mode, which decides dropout's masks."""
        return {"steps": self.learner.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the count from a state_dict."""
        self.learner.steps = state["steps"]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made of a copy of the learner, whose memory its tensors are."""
        return _remade, (type(self), self.learner, self.makes_steps, self.training, self.flat.requires_grad)

    def extra_repr(self) -> str:
        """The learner, and the network as a table."""
        return f"makes_steps={self.makes_steps}\n{self.learner!r}"


def _remade(kind: type[Module], learner: Learner, makes_steps: bool, training: bool, requires_grad: bool) -> Module:
    module = kind(learner, makes_steps=makes_steps).train(training)
    module.flat.requires_grad_(requires_grad)
    return module


class _Training(torch.autograd.Function):
    """A call in training mode, and the way back from it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, flat: torch.Tensor, module: Module) -> torch.Tensor:
        learner = module.learner
        ctx.module, ctx.number = module, learner.steps
        outputs = learner.forward(x.numpy())
        ctx.kept, ctx.changes = learner._kept, learner._changes
        ctx.save_for_backward(x, flat)  # so that torch refuses to go back where either has been changed
        if not module.makes_steps:
            learner._count_forward()
        return torch.from_numpy(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        module, learner = ctx.module, ctx.module.learner
        x, flat = ctx.saved_tensors
        if learner._changes != ctx.changes:
            raise RuntimeError(
                "the learner's parameters have changed since this call of its module, so there is no way back from it: "
                "call the module again"
            )
        if learner._kept is not ctx.kept:  # another call came after this one, or its pass is used up
            learner._forward_again(x.numpy(), ctx.number)
        if not module.makes_steps:
            gradient, input_gradient = learner.backward(slopes.numpy())
            return torch.from_numpy(input_gradient), torch.from_numpy(gradient), None
        asked = ctx.needs_input_grad[0]
        input_gradient = learner.step_from(slopes.numpy(), gives_input_gradient=asked)
        torch.autograd.graph.increment_version(flat)
        return torch.from_numpy(input_gradient) if asked else None, None, None


class _Inference(torch.autograd.Function):
    """A call in eval mode."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, flat: torch.Tensor, module: Module) -> torch.Tensor:
        return torch.from_numpy(module.learner.outputs(x.numpy()))

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        raise RuntimeError("there is no way back from outputs in eval mode: call train() before the module")
