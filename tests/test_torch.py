"""A network as a PyTorch module: torch's own gradients and steps, on the learner's memory."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from typing import Any

import numpy as np
import pytest

from nnfast import BatchNorm, Conv2D, Dense, Dropout, Flatten, Learner, Network
from tests.tolerances import ONE_STEP, difference

pytest.importorskip("torch", reason="PyTorch is not installed")

from nnfast.torch import Module

torch: Any = importlib.import_module("torch")  # a plain import would have --require-tools ask for it

CONVOLUTIONAL = Network((6, 5, 2), [Conv2D(3, 3, activation="tanh"), BatchNorm(activation="silu"), Flatten(), Dense(2)])
DENSE = Network(4, [Dense(6, "tanh"), Dense(3, "softmax")])
MASKED = Network(4, [Dense(6, "tanh"), Dropout(0.5), BatchNorm(), Dense(3)])


def learner(network: Network, dtype: str = "float64", **options: Any) -> Learner:
    return Learner(network, batch_rows=16, **{"dtype": dtype, "backend": "numba", "seed": 3, **options})


def rows(network: Network, count: int = 7, dtype: Any = torch.float64, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *network.input_shape, dtype=dtype, generator=generator, **options)


def as_torch(own: Learner) -> Any:
    """The same dense network in PyTorch's layers, with copies of the weights."""
    activations = {"tanh": torch.nn.Tanh(), "relu": torch.nn.ReLU(), "identity": torch.nn.Identity()}
    layers: list[Any] = []
    size, parameters = own.network.input_size, iter(own.to_model().layer_parameters().values())
    for layer in own.network.layers:
        linear = torch.nn.Linear(size, layer.units, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(next(parameters)).T)
            linear.bias.copy_(torch.from_numpy(next(parameters)))
        layers += [linear, activations[layer.function.name]]
        size = layer.units
    return torch.nn.Sequential(*layers)


def flat_weights(layers: Any) -> np.ndarray:
    parts = [part for layer in layers if hasattr(layer, "weight") for part in (layer.weight.T, layer.bias)]
    return np.concatenate([part.detach().numpy().reshape(-1) for part in parts])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("network", [DENSE, CONVOLUTIONAL], ids=["dense", "convolutional"])
def test_gradcheck_passes_for_parameters_and_inputs(network: Network, backend: str) -> None:
    module = Module(learner(network, backend=backend))
    x = rows(network, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, flat: module(x), (x, module.flat))


def test_gradcheck_finds_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    own = learner(DENSE)
    module, backward = Module(own), own.backward
    monkeypatch.setattr(own, "backward", lambda slopes: (backward(slopes)[0] * 1.01, np.zeros((7, 4))))
    x = rows(DENSE)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda flat: module(x), (module.flat,))


def test_an_optimizer_of_torch_trains_it_as_torch_s_own_layers() -> None:
    own = learner(Network(4, [Dense(6, "tanh"), Dense(5, "relu"), Dense(2)]))
    layers, module = as_torch(own), Module(own)
    x, y = rows(own.network), torch.ones(7, 2, dtype=torch.float64)
    start = own.parameters
    optimizers = [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (layers, module)]
    for _ in range(5):
        for each, optimizer in zip((layers, module), optimizers, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.huber_loss(each(x), y).backward()
            optimizer.step()
    assert difference(own.parameters, flat_weights(layers)) < ONE_STEP["float64"]
    assert difference(own.parameters, start) > 0.01
    assert difference(own.outputs(x.numpy()), layers(x).detach().numpy()) < ONE_STEP["float64"]


@pytest.mark.parametrize("options", [{}, {"alpha": 0.1, "clip_norm": 0.01}], ids=["plain", "penalties"])
def test_a_backward_pass_makes_the_learner_s_own_step(options: dict[str, float]) -> None:
    stepped, own = (learner(MASKED, loss="squared_error", **options) for _ in range(2))
    module = Module(own, makes_steps=True)
    x, y = rows(MASKED, 8), rows(Network(3, [Dense(1)]), 8)
    for _ in range(3):
        stepped.step(x.numpy(), y.numpy())
        (((module(x) - y) ** 2).sum() / 16).backward()
    assert own.parameters.tobytes() == stepped.parameters.tobytes()
    assert own.slots.tobytes() == stepped.slots.tobytes()
    assert own.statistics.tobytes() == stepped.statistics.tobytes()
    assert own.steps == stepped.steps == 3
    assert module.flat.grad is None


@pytest.mark.parametrize("makes_steps", [False, True])
def test_layers_of_torch_before_it_get_their_gradients(makes_steps: bool) -> None:
    own = learner(DENSE)
    expected = learner(DENSE)
    before = torch.nn.Linear(5, 4, dtype=torch.float64)
    x = torch.randn(7, 5, dtype=torch.float64)
    Module(own, makes_steps=makes_steps)(before(x))[:, 0].sum().backward()
    expected.forward(before(x).detach().numpy())
    slopes = np.zeros((7, 3))
    slopes[:, 0] = 1
    gradient = expected.backward(slopes)[1]
    assert difference(before.weight.grad.numpy(), gradient.T @ x.numpy()) < ONE_STEP["float64"]


def test_a_step_refuses_to_go_back_from_earlier_parameters() -> None:
    module = Module(learner(DENSE), makes_steps=True)
    first, second = module(rows(DENSE)), module(rows(DENSE))
    first.sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.sum().backward()
    assert module.learner.steps == 1


def test_changed_parameters_or_rows_are_no_longer_gone_back_from() -> None:
    module, x = Module(learner(DENSE)), rows(DENSE)
    for changed in (module.flat, x):
        outputs = module(x)
        with torch.no_grad():
            changed.mul_(1.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            outputs.sum().backward()


def test_the_learner_s_own_changes_are_noticed_too() -> None:
    own, x = learner(DENSE), rows(DENSE)
    module, start = Module(own), own.parameters

    def step_from() -> None:
        own.forward(x.numpy())
        own.step_from(np.ones((7, 3)))

    for change in (lambda: own.step(x.numpy(), np.zeros(7, int)), step_from, lambda: setattr(own, "parameters", start)):
        outputs = module(x)
        change()
        with pytest.raises(RuntimeError, match="the learner's parameters have changed since this call"):
            outputs.sum().backward()
    outputs = module(x)
    own.outputs(x.numpy())
    own.forward(x.numpy())
    outputs.sum().backward()


def test_calls_may_be_nested_and_kept_and_have_masks_of_their_own() -> None:
    module = Module(learner(MASKED))
    x = rows(MASKED, requires_grad=True)
    first = module(x)
    second = module(first @ torch.ones(3, 4, dtype=torch.float64))
    loss = (first * second).sum()
    single = torch.autograd.grad(loss, (x, module.flat), retain_graph=True)
    again = torch.autograd.grad(loss, (x, module.flat))
    for found, expected in zip(again, single, strict=True):
        assert torch.equal(found, expected)

    fresh = learner(MASKED)  # the same by hand, in the same order
    x1 = x.detach().numpy()
    a = fresh.forward(x1)
    fresh.steps = 1
    b = fresh.forward(a @ np.ones((3, 4)))
    assert difference(second.detach().numpy(), b) < ONE_STEP["float64"]
    by_second, by_between = fresh.backward(a)
    fresh.steps = 0
    fresh.forward(x1)
    by_first, by_x = fresh.backward(b + by_between @ np.ones((4, 3)))
    assert difference(single[1].numpy(), by_first + by_second) < ONE_STEP["float64"]
    assert difference(single[0].numpy(), by_x) < ONE_STEP["float64"]
    assert not torch.equal(module(x), module(x))


def test_modes_are_those_of_torch() -> None:
    own = learner(MASKED)
    module, x = Module(own), rows(MASKED)
    assert module.training
    before = own.statistics
    norm = torch.nn.BatchNorm1d(6, eps=0.001, dtype=torch.float64)
    module(x)
    assert difference(own.statistics, before) > 0.01
    assert norm.training
    after = own.statistics
    module.eval()
    outputs = module(x)
    assert torch.equal(outputs, module(x))
    np.testing.assert_array_equal(outputs.detach().numpy(), own.to_model().outputs(x.numpy()))
    np.testing.assert_array_equal(own.statistics, after)
    with pytest.raises(RuntimeError, match=r"no way back from outputs in eval mode: call train\(\)"):
        outputs.sum().backward()
    with torch.no_grad():
        assert not module(x).requires_grad
        assert not module.train()(x).requires_grad


@pytest.mark.parametrize("makes_steps", [False, True])
def test_a_state_dict_goes_on_to_the_bit(makes_steps: bool) -> None:
    module, other = (Module(learner(MASKED, seed=seed), makes_steps=makes_steps) for seed in (3, 3))
    x = rows(MASKED)

    def train(each: Module) -> list[Any]:
        for _ in range(3):
            each.zero_grad()
            outputs = each(x)
            (outputs**2).sum().backward()
            if not makes_steps:
                with torch.no_grad():
                    each.flat -= 0.01 * each.flat.grad
        return [outputs.tolist(), *(tensor.tolist() for tensor in (each.flat, each.statistics))]

    train(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert train(other) == train(module)


def test_copies_have_a_learner_of_their_own() -> None:
    module = torch.nn.Sequential(Module(learner(DENSE)).eval())
    module[0].flat.requires_grad_(False)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other[0].flat.data_ptr() != module[0].flat.data_ptr()
        assert (other[0].training, other[0].flat.requires_grad) == (False, False)
        before = module(rows(DENSE))
        assert torch.equal(other(rows(DENSE)), before)
        with torch.no_grad():
            other[0].flat.mul_(2)
        assert not torch.equal(other(rows(DENSE)), before)
        assert torch.equal(module(rows(DENSE)), before)


def test_its_memory_is_the_learner_s_and_stays_so() -> None:
    own = learner(DENSE)
    module, x = Module(own), rows(DENSE)
    own.parameters = own.parameters * 2
    np.testing.assert_array_equal(module.flat.detach().numpy(), own.parameters)
    assert module.double().cpu() is module
    for moving in (module.float, module.half, module.share_memory, lambda: module.to("meta")):
        with pytest.raises(RuntimeError, match=r"this module is its learner's memory, torch.float64 on the CPU"):
            moving()
    module(x)
    module.load_state_dict(copy.deepcopy(module.state_dict()), assign=True)
    with pytest.raises(RuntimeError, match="no longer its learner's memory"):
        module(x)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.ones((2, 4)), TypeError, r"x must be a tensor of torch.float64 on the CPU, got a ndarray"),
        (torch.ones(2, 4), TypeError, r"got torch.float32 on cpu"),
        (torch.ones(2, 4, dtype=torch.float64, device="meta"), TypeError, "got torch.float64 on meta"),
        (torch.ones(2, 5, dtype=torch.float64), ValueError, r"X has shape \(2, 5\)"),
        (torch.ones(17, 4, dtype=torch.float64), ValueError, "x has 17 rows, but this learner takes 1 to 16"),
        (torch.full((2, 4), torch.nan, dtype=torch.float64), ValueError, "x holds nan"),
    ],
)
def test_rows_that_do_not_fit_are_refused(x: Any, kind: type[Exception], message: str) -> None:
    module = Module(learner(DENSE))
    for mode in (True, False):
        with pytest.raises(kind, match=message):
            module.train(mode)(x)
    assert module.learner.steps == 0


def test_what_is_no_learner_of_the_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="learner must be a Learner, got 3"):
        Module(3)  # type: ignore[arg-type]


def test_rows_of_other_strides_and_flat_images_are_taken() -> None:
    module = Module(learner(CONVOLUTIONAL))
    x = rows(CONVOLUTIONAL, 14)[::2].requires_grad_()
    outputs = module(x)
    outputs.sum().backward()  # whose gradient is one number, repeated
    assert x.grad.shape == x.shape
    module.learner.steps = 0
    assert torch.equal(module(x.detach().reshape(7, -1)), outputs)
