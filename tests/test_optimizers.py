"""The table of optimizers, against scikit-learn, PyTorch and the papers' lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnfast.formulas.formula import FormulaError
from nnfast.formulas.optimizers import OPTIMIZERS, Optimizer, adam, adamw, get_optimizer, nadam, rmsprop, sgd
from nnfast.formulas.schedules import get_schedule
from tests.tables import reference
from tests.tolerances import PEER

Array = NDArray[np.float64]
STEPS = 25


def run(optimizer: Optimizer, gradients: Array, learning_rate: float = 0.01) -> Array:
    p = np.linspace(-1, 1, gradients.shape[1])
    slots = np.zeros((len(optimizer.slots), len(p)))
    for values, g in zip(optimizer.step_values(np.full(STEPS, learning_rate), 0), gradients, strict=True):
        optimizer.apply(p, g, slots, values)
    return p


@pytest.fixture
def gradients() -> Array:
    return np.random.default_rng(0).normal(size=(STEPS, 6)) * np.array([1e-6, 1e-3, 1, 1, 10, 1e4])


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_momentum_is_scikit_learn_s(gradients: Array, momentum: float, nesterov: bool) -> None:
    peers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    p = np.linspace(-1, 1, gradients.shape[1])
    peer = peers.SGDOptimizer([p], 0.01, "constant", momentum, nesterov)
    for g in gradients:
        peer.update_params([p], [g])
    np.testing.assert_allclose(run(sgd(momentum, nesterov), gradients), p, rtol=PEER)


def test_adam_is_scikit_learn_s(gradients: Array) -> None:
    peers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    p = np.linspace(-1, 1, gradients.shape[1])
    peer = peers.AdamOptimizer([p], 0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-3)
    for g in gradients:
        peer.update_params([p], [g])
    np.testing.assert_allclose(run(adam(0.8, 0.99, 1e-3), gradients), p, rtol=PEER)


def _sgd(p: Array, gradients: Array) -> None:
    """Nesterov's momentum as Sutskever et al. 2013 write it, at the point looked ahead to, of which p is the name."""
    v = np.zeros_like(p)
    for g in gradients:
        v[:] = 0.9 * v - 0.01 * g
        p += 0.9 * v - 0.01 * g


def _adam(p: Array, gradients: Array) -> None:
    """Kingma & Ba 2015, section 2, last paragraph: the corrections in the rate, epsilon beside the root."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        p -= 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)


def _rmsprop(p: Array, gradients: Array) -> None:
    v = np.zeros_like(p)
    for g in gradients:
        v[:] = 0.95 * v + 0.05 * g**2
        p -= 0.01 * g / (np.sqrt(v) + 1e-4)


def _adagrad(p: Array, gradients: Array) -> None:
    total = np.zeros_like(p)
    for g in gradients:
        total += g**2
        p -= 0.01 * g / (np.sqrt(total) + 1e-8)


def _adamw(p: Array, gradients: Array) -> None:
    """Loshchilov & Hutter 2019, algorithm 2, with decay multiplied by the learning rate as everywhere in use."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        p *= 1 - 0.01 * 0.1
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        p -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)


def _nadam(p: Array, gradients: Array) -> None:
    """Dozat 2016, algorithm 2, with mu constant."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        p -= 0.01 * ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)


PAPERS: dict[str, tuple[Optimizer, Callable[[Array, Array], None]]] = {
    "sgd": (sgd(0.9, nesterov=True), _sgd),
    "adam": (adam(epsilon=1e-3), _adam),
    "rmsprop": (rmsprop(decay=0.95, epsilon=1e-4), _rmsprop),
    "adagrad": (OPTIMIZERS["adagrad"](), _adagrad),
    "adamw": (adamw(epsilon=1e-3, weight_decay=0.1), _adamw),
    "nadam": (nadam(epsilon=1e-3), _nadam),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_its_paper_s(gradients: Array, name: str) -> None:
    optimizer, paper = reference(PAPERS, name, "PAPERS in tests/test_optimizers.py")
    p = np.linspace(-1, 1, gradients.shape[1])
    paper(p, gradients)
    np.testing.assert_allclose(run(optimizer, gradients), p, rtol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adagrad"])
def test_adamw_rmsprop_and_adagrad_are_pytorch_s(gradients: Array, name: str) -> None:
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.linspace(-1, 1, gradients.shape[1], dtype=torch.float64))
    peer, ours = {
        "adamw": (torch.optim.AdamW([p], lr=0.01), adamw()),
        "rmsprop": (torch.optim.RMSprop([p], lr=0.01, alpha=0.9), rmsprop()),
        "adagrad": (torch.optim.Adagrad([p], lr=0.01, eps=1e-8), OPTIMIZERS["adagrad"]()),
    }[name]
    for g in gradients:
        p.grad = torch.from_numpy(g.copy())
        peer.step()
    np.testing.assert_allclose(run(ours, gradients), p.detach().numpy(), rtol=1e-9)


def test_scalars_are_computed_in_float64_for_float32_too() -> None:
    # 1 - float32(0.999) would be off by 5e-5
    values = adam().step_values(np.array([1e-3]), 0).astype(np.float32)
    assert values[0, adam().step_names.index("gain_2")] == np.float32(1 - 0.999)


def test_steps_are_numbered_through_the_run() -> None:
    whole = adam().step_values(np.linspace(1, 2, 10), 0)
    np.testing.assert_array_equal(adam().step_values(np.linspace(1, 2, 10)[4:], 4), whole[4:])


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'adm'; known: sgd, rmsprop"):
        get_optimizer("adm")
    with pytest.raises(ValueError, match=r"optimizer 'adam' has no option 'momentum'; it has: beta_1, beta_2, epsilon"):
        get_optimizer("adam", momentum=0.9)
    assert get_optimizer("sgd", momentum=0.5) == sgd(0.5)


def test_formulas_that_cannot_train_are_refused() -> None:
    with pytest.raises(FormulaError, match="no update of p"):
        Optimizer("lazy", updates={"m": "m + g"})
    with pytest.raises(FormulaError, match="the name 't' is used twice"):
        Optimizer("mine", updates={"p": "p - g"}, constants={"t": 1.0})
    with pytest.raises(FormulaError, match="unknown name 'velocity'"):
        Optimizer("mine", updates={"p": "p - velocity"})
    with pytest.raises(FormulaError, match="updates name something twice"):
        Optimizer("mine", updates=(("p", "p - g"), ("p", "p")))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"epsilon": -1}, "epsilon must be a finite number from 0, got -1"),
        ("nadam", {"epsilon": float("nan")}, "epsilon must be a finite number from 0, got nan"),
        ("rmsprop", {"epsilon": -1e-8}, "epsilon must be a finite number from 0"),
        ("adagrad", {"epsilon": "small"}, "epsilon must be a number, got 'small'"),
        ("adamw", {"weight_decay": -5}, "weight_decay must be a finite number from 0, got -5"),
        ("adam", {"beta_1": 1}, r"beta_1 must lie in \[0, 1\), got 1"),
        ("adam", {"beta_2": -0.1}, "beta_2 must be a finite number from 0, got -0.1"),
        ("adam", {"beta_1": True}, "beta_1 must be a number, got True"),
        ("rmsprop", {"decay": 1.5}, r"decay must lie in \[0, 1\), got 1.5"),
        ("sgd", {"momentum": 1.1}, r"momentum must lie in \[0, 1\], got 1.1"),
        ("sgd", {"nesterov": "yes"}, "nesterov must be True or False, got 'yes'"),
    ],
)
def test_constants_out_of_their_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        get_optimizer(name, **options)


def test_options_stand_in_the_text_or_beside_the_name() -> None:
    assert get_optimizer("sgd:momentum=0.9,nesterov=true") == sgd(0.9, nesterov=True)
    assert get_optimizer("adam:epsilon=0") == adam(epsilon=0)
    assert get_schedule("cosine:warmup=2") == get_schedule("cosine", warmup=2)
    with pytest.raises(ValueError, match=r"'sgd:momentum=0\.9' has its options in the text: leave out nesterov"):
        get_optimizer("sgd:momentum=0.9", nesterov=True)
