"""A Learner's step in two calls: forward and backward are the chain rule, and with step_from they are a step."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnfast import BatchNorm, Conv2D, Dense, Dropout, Flatten, Learner, MaxPool2D, Network
from nnfast.backends import Backend, get_backend
from tests.image_networks import IMAGE_NETWORKS, WITH_DROPOUT
from tests.tolerances import FINITE_DIFFERENCES, ONE_STEP, difference

DENSE: dict[str, tuple[Network, int]] = {
    "one layer": (Network(5, [Dense(3)]), 7),
    "one unit": (Network(6, [Dense(1, "tanh"), Dense(1)]), 5),
    "dropout": (Network(6, [Dropout(0.3), Dense(9, "tanh"), Dropout(0.5), Dense(3, "softmax")]), 9),
    "z is kept": (Network(4, [Dense(5, "silu"), Dense(4, "tanh"), Dense(2, "silu")]), 37),
    "sigmoid": (Network(70, [Dense(5, "relu", bias=False), Dense(3, "sigmoid")]), 19),
}
NETWORKS = DENSE | IMAGE_NETWORKS | {"image dropout": (WITH_DROPOUT, 5)}
EVERYTHING = Network(
    (6, 5, 2),
    [
        Dropout(0.2), Conv2D(3, 3, activation="silu"), BatchNorm(activation="relu"), MaxPool2D(2), Flatten(),
        Dense(20, "tanh"), Dropout(0.4), BatchNorm(), Dense(2),
    ],
)  # fmt: skip
ROWS = 32  # a power of two: dividing by it rounds nothing


def make(network: Network, rows: int, backend: str | Backend = "numpy", **options: Any) -> Learner:
    own = Learner(network, batch_rows=rows, backend=backend, **{"dtype": "float64", "seed": 3, **options})
    own.parameters = own.parameters + own.parameters.dtype.type(0.01)  # biases that are not zero
    own.statistics = own.statistics * 1.7 + 0.3
    own.steps = 5
    return own


def batch(network: Network, rows: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a gradient by the outputs."""
    random = np.random.default_rng(1)
    x, slopes = random.normal(size=(rows, *network.input_shape)), random.normal(size=(rows, network.output_size))
    return x.astype(dtype), slopes.astype(dtype)


def held(own: Learner) -> list[bytes]:
    return [own.parameters.tobytes(), own.slots.tobytes(), own.statistics.tobytes(), own.steps.to_bytes(4, "big")]


@pytest.mark.parametrize("name", NETWORKS)
def test_backward_is_the_slope_of_forward(name: str) -> None:
    network, rows = NETWORKS[name]
    rows = min(rows, 5)
    own = make(network, rows, alpha=0.1, clip_norm=1e-3)  # which belong to a step
    x, slopes = batch(network, rows)

    def value() -> float:
        return float((own.forward(x) * slopes).sum())

    def differences(place: np.ndarray) -> np.ndarray:
        found = np.empty_like(place)
        for index in np.ndindex(place.shape):
            at = place[index]
            values = []
            for step in (1e-6, -1e-6):
                place[index] = at + step
                values.append(value())
            place[index] = at
            found[index] = (values[0] - values[1]) / 2e-6
        return found

    by_parameters, by_inputs = differences(own.live.parameters), differences(x)
    before = held(own)
    value()
    gradient, input_gradient = own.backward(slopes)
    assert input_gradient.shape == x.shape
    assert difference(gradient, by_parameters) < FINITE_DIFFERENCES
    assert difference(input_gradient, by_inputs) < FINITE_DIFFERENCES
    assert held(own) == before


def assert_agrees(backend: Backend, network: Network, rows: int, dtype: str) -> None:
    x, slopes = batch(network, rows, dtype)
    results = []
    for each in (backend, get_backend("numpy")):
        own = make(network, rows, each, dtype=dtype, alpha=0.1, l1=0.01, clip_norm=0.5, optimizer="sgd")
        outputs = own.forward(x)
        gradient, input_gradient = own.backward(slopes)
        own = copy.deepcopy(own)  # whose passes hold nothing of these
        own.forward(x)
        from_step = own.step_from(slopes, gives_input_gradient=True)
        assert from_step is not None
        np.testing.assert_array_equal(from_step, input_gradient)
        results.append((outputs, gradient, input_gradient, own.parameters, own.statistics))
        assert all(array.dtype == dtype for array in results[-1])
    for found, expected in zip(*results, strict=True):
        if expected.size:
            assert difference(found, expected) < ONE_STEP[dtype]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DENSE)
def test_every_backend_gives_the_same_of_dense_networks(faster_backend: Backend, name: str, dtype: str) -> None:
    assert_agrees(faster_backend, *DENSE[name], dtype)


@pytest.mark.parametrize("name", [*IMAGE_NETWORKS, "image dropout"])
def test_every_backend_gives_the_same_of_images_and_batch_norm(faster_image_backend: Backend, name: str) -> None:
    assert_agrees(faster_image_backend, *NETWORKS[name], "float64")


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "l1": 0.01, "clip_norm": 0.1}], ids=["plain", "penalties"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_step_from_a_loss_s_own_gradient_is_a_step_to_the_bit(
    backend: str, dtype: str, options: dict[str, float]
) -> None:
    x, y = batch(EVERYTHING, ROWS, dtype)
    stepped, own = (make(EVERYTHING, ROWS, backend, dtype=dtype, loss="squared_error", **options) for _ in range(2))
    for number in range(3):
        loss = stepped.step(x, y)
        outputs = own.forward(x)
        assert held(own)[3] == (5 + number).to_bytes(4, "big")
        own.step_from((outputs - y) / ROWS)
        assert held(own) == held(stepped)
        if not options:
            assert loss == pytest.approx(0.5 * ((outputs - y) ** 2).sum() / ROWS, rel=ONE_STEP[dtype])


def test_step_from_is_a_step_on_every_backend(image_backend: Backend) -> None:
    x, y = batch(EVERYTHING, 19)
    options = {"loss": "squared_error", "optimizer": "sgd", "alpha": 0.3, "clip_norm": 0.1}
    stepped, own = (make(EVERYTHING, 19, image_backend, **options) for _ in range(2))
    stepped.step(x, y, rate=0.5)
    own.step_from((own.forward(x) - y) / 19, rate=0.5)
    assert own.steps == stepped.steps
    assert difference(own.parameters, stepped.parameters) < ONE_STEP["float64"]
    np.testing.assert_array_equal(own.statistics, stepped.statistics)


def test_a_sum_s_penalties_are_not_divided() -> None:
    network = Network(6, [Dense(3)])
    x, y = batch(network, ROWS)
    for backend in ("numpy", "numba"):
        stepped, own = (make(network, ROWS, backend, loss="sum_squared_error", alpha=0.3) for _ in range(2))
        stepped.step(x, y)
        own.step_from(2 * (own.forward(x) - y))
        assert held(own) == held(stepped)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    network = Network(60, [BatchNorm(), Dense(300, "tanh"), Dropout(0.3), BatchNorm(activation="relu"), Dense(90)])
    x, slopes = batch(network, 200)
    results = []
    for threads in (1, 2, 3):
        own = make(network, 200, get_backend("numba", threads), alpha=0.1, clip_norm=0.5)
        outputs = own.forward(x)
        gradients = own.backward(slopes)
        own.forward(x)
        own.step_from(slopes)
        results.append([outputs.tobytes(), *(array.tobytes() for array in gradients), *held(own)])
    assert results[0] == results[1] == results[2]


def test_outputs_between_the_two_calls_change_nothing(image_backend: Backend) -> None:
    x, slopes = batch(EVERYTHING, 7)
    own = make(EVERYTHING, 7, image_backend)
    own.forward(x)
    expected = own.backward(slopes)
    own.forward(x)
    own.outputs(-x)
    for found, wanted in zip(own.backward(slopes), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_rows_may_be_overwritten_after_forward(backend: Backend) -> None:
    network = Network(400, [Dense(3)])  # rows that are large enough to be read in place
    x, slopes = batch(network, 7)
    own = make(network, 7, backend)
    own.forward(x)
    expected = own.backward(slopes)
    own.forward(x)
    x[...] = np.nan
    for found, wanted in zip(own.backward(slopes), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def assign(name: str) -> Callable[[Learner], None]:
    return lambda own: setattr(own, name, getattr(own, name))


CHANGES: dict[str, Callable[[Learner], Any]] = {
    "nothing before": lambda own: own.__setstate__(own.__getstate__()),
    "a step": lambda own: own.step(np.ones((2, 5)), np.zeros((2, 3))),
    "backward": lambda own: own.backward(np.ones((2, 3))),
    "a step from it": lambda own: own.step_from(np.ones((2, 3))),
    **{f"other {name}": assign(name) for name in ("parameters", "slots", "statistics", "steps")},
}


@pytest.mark.parametrize("back", ["backward", "step_from"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_forward_serves_one_way_back_and_no_change_between(change: str, back: str) -> None:
    own = make(Network(5, [Dense(3)]), 2)
    own.forward(np.ones((2, 5)))
    CHANGES[change](own)
    before = held(own)
    with pytest.raises(RuntimeError, match=r"forward\(x\) comes first"):
        getattr(own, back)(np.ones((2, 3)))
    assert held(own) == before
    for copied in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        with pytest.raises(RuntimeError, match=r"forward\(x\) comes first"):
            getattr(copied, back)(np.ones((2, 3)))
        copied.forward(np.ones((2, 5)))
        copied.step_from(np.ones((2, 3)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("slopes", "kind", "message"),
    [
        (np.ones((3, 3)), ValueError, r"output_gradient must have shape \(2, 3\), got \(3, 3\)"),
        (np.ones(6), ValueError, r"output_gradient must have shape \(2, 3\), got \(6,\)"),
        (np.full((2, 3), np.nan), ValueError, "output_gradient holds nan in row 0, column 0"),
        (np.full((2, 3), 1e300), ValueError, "too large for float32"),
        ([["a"] * 3] * 2, TypeError, "output_gradient must hold numbers"),
        (np.ma.masked_less(np.ones((2, 3)), 2), ValueError, "masked values"),
    ],
)
def test_a_gradient_that_does_not_fit_is_refused_and_forward_stays(slopes: Any, kind: type, message: str) -> None:
    own = make(Network(5, [Dense(3)]), 2, "auto", dtype="float32")
    own.forward(np.ones((2, 5)))
    before = held(own)
    for way_back in (own.backward, own.step_from):
        with pytest.raises(kind, match=message):
            way_back(slopes)
    with pytest.raises(ValueError, match="rate must be a finite number above 0"):
        own.step_from(np.ones((2, 3)), rate=0)
    assert held(own) == before
    own.backward(np.ones((2, 3)))


def test_one_output_takes_a_flat_gradient() -> None:
    own = make(Network(5, [Dense(1)]), 2)
    own.forward(np.ones((2, 5)))
    flat = own.backward(np.ones(2))[0]
    own.forward(np.ones((2, 5)))
    np.testing.assert_array_equal(own.backward(np.ones((2, 1)))[0], flat)


def test_another_thread_is_refused() -> None:
    own, caught = make(Network(5, [Dense(3)]), 2), []
    own.forward(np.ones((2, 5)))

    def work() -> None:
        for call in (lambda: own.forward(np.ones((2, 5))), lambda: own.backward(np.ones((2, 3)))):
            with pytest.raises(RuntimeError, match="belongs to the thread that made it"):
                call()
            caught.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == [True, True]
    own.backward(np.ones((2, 3)))


def test_a_diverged_network_gives_what_it_computes() -> None:
    own = make(Network(5, [Dense(3)]), 2)
    own.live.parameters[...] = np.inf
    with np.errstate(all="raise"):
        assert not np.isfinite(own.forward(np.ones((2, 5)))).any()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_live_vectors_are_what_is_computed_with(backend: str) -> None:
    x, slopes = batch(EVERYTHING, 7)
    own = make(EVERYTHING, 7, backend)
    live = own.live
    assert [array.ctypes.data for array in own.live] == [array.ctypes.data for array in live]
    own.forward(x)
    own.step_from(slopes)
    own.step(x, slopes)
    np.testing.assert_array_equal(own.parameters, live.parameters)
    np.testing.assert_array_equal(own.slots, live.slots)
    np.testing.assert_array_equal(own.statistics, live.statistics)
    other = make(EVERYTHING, 7, backend)
    other.parameters, other.slots, other.statistics = live.parameters * 2, live.slots / 2, live.statistics * 3
    for array, factor in zip(live, (2, 0.5, 3), strict=True):
        array *= factor
    other.steps = own.steps
    assert own.forward(x).tobytes() == other.forward(x).tobytes()
    own.step_from(slopes)
    other.step_from(slopes)
    assert held(own) == held(other)


def test_a_device_s_vectors_are_not_live(faster_backend: Backend) -> None:
    if faster_backend.name != "cuda":
        pytest.skip("its vectors are the host's")
    own = make(Network(5, [Dense(3)]), 2, faster_backend)
    with pytest.raises(RuntimeError, match="on a device, where the host cannot reach them"):
        _ = own.live
