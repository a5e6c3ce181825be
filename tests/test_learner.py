"""A Learner's steps are a training's, to the bit; what does not fit changes nothing; it can be saved and copied."""

from __future__ import annotations

import copy
import json
import pickle
import signal
import sys
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from nnfast import BatchNorm, Dense, DivergenceError, Dropout, Learner, Network, Optimizer, train
from nnfast.backends import Backend, Source
from nnfast.data.targets import ClassTargets
from nnfast.formulas.losses import LOSSES
from nnfast.formulas.optimizers import adam
from nnfast.plans.plan import make_plan
from nnfast.plans.recipe import Recipe

CLASSES = Network(9, [Dense(20, "tanh"), Dropout(0.3), BatchNorm(), Dense(3, "softmax")])
NUMBERS = Network(9, [Dense(20, "relu"), Dropout(0.3), Dense(2)])
X = np.random.default_rng(0).normal(size=(330, 9)).astype("float32")
LABELS = np.arange(330) * 7 % 3
BATCHES = [(0, 5), (5, 6), (6, 316), (316, 330)]  # the third is larger than what is copied


def learner(network: Network = CLASSES, **options: Any) -> Learner:
    return Learner(network, batch_rows=310, **{"backend": "numpy", **options})


def everything(of: Learner) -> list[bytes]:
    return [*(a.tobytes() for a in (of.parameters, of.slots, of.statistics)), of.steps.to_bytes(4, "big")]


def go_on(of: Learner) -> list[float]:
    return [of.step(X[first:last], LABELS[first:last]) for first, last in BATCHES]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("targets", ["labels", "numbers"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_steps_have_the_bits_of_a_program_s_runs(
    is_weighted: bool, targets: str, dtype: str, image_backend: Backend
) -> None:
    network = CLASSES if targets == "labels" else NUMBERS
    x, loss = X.astype(dtype), LOSSES["cross_entropy" if targets == "labels" else "squared_error"]
    y = LABELS if targets == "labels" else x[:, :2].copy()
    weights = np.random.default_rng(1).random(330).astype(dtype) if is_weighted else None
    own = learner(network, backend=image_backend, dtype=dtype, alpha=0.01, clip_norm=1.0, seed=3)
    plan = make_plan(network, 310)
    program = image_backend.compile(plan, Recipe(loss, adam(), np.dtype(dtype), 0.01, 0.0, 1.0, 3))
    program.parameters = plan.initial_parameters(3)
    program.bind(Source(x, y, weights))
    for step, (first, last) in enumerate(BATCHES):
        rows, rate = slice(first, last), 0.001 if step < 2 else 0.01
        order, bounds = np.arange(first, last), np.array([0, last - first])
        expected = program.run(order, bounds, np.array([rate]), step)[0]
        own_weights = None if weights is None else weights[rows]
        assert own.step(x[rows], y[rows], own_weights, rate=None if step < 2 else rate) == expected
    assert everything(own)[:3] == [a.tobytes() for a in (program.parameters, program.slots, program.state)]
    assert own.steps == 4


def test_a_training_and_a_learner_give_the_same_weights() -> None:
    model = train(CLASSES, X, LABELS, epochs=2, batch_size=32, shuffle=False)
    own = learner(backend="auto")
    for start in [*range(0, 330, 32)] * 2:
        own.step(X[start : start + 32], LABELS[start : start + 32])
    np.testing.assert_array_equal(own.parameters, model.parameters)
    np.testing.assert_array_equal(own.outputs(X[:300]), model.outputs(X[:300]))
    np.testing.assert_array_equal(own.to_model().predict(X), model.predict(X))


def test_any_form_of_the_same_numbers_gives_the_same_step() -> None:
    results = []
    forms = [X[:40], X[:40].astype("float64"), np.asfortranarray(X[:40]), X[:40].tolist(), np.repeat(X, 2, 0)[:80:2]]
    for x in forms:
        own = learner()
        own.step(x, LABELS[:40].astype("uint8"))
        results.append(everything(own))
    assert all(result == results[0] for result in results)


def test_arrays_that_are_plainly_valid_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    own = learner(NUMBERS)
    monkeypatch.delattr("nnfast.training.batches.converted")
    for each in (own, copy.deepcopy(own)):
        each.step(X[:4], X[:4, :2].copy())
        each.forward(X[:4])
        each.step_from(X[:4, :2].copy())
        with pytest.raises(NameError, match="converted"):
            each.step(X[:4], X[:4, :2])


def test_one_output_takes_flat_numbers() -> None:
    results = []
    for y in (X[:5, 0], X[:5, :1]):
        own = learner(Network(9, [Dense(1)]))
        own.step(X[:5], y)
        results.append(everything(own))
    assert results[0] == results[1]


REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no rows": ((X[:0], LABELS[:0]), ValueError, "x has 0 rows, but this learner takes 1 to 310"),
    "too many rows": ((X[:311], LABELS[:311]), ValueError, "x has 311 rows"),
    "other columns": ((X[:2, 1:], LABELS[:2]), ValueError, r"X has shape \(2, 8\)"),
    "text": (([["a"] * 9], [0]), TypeError, "x must hold numbers"),
    "NaN": ((np.full((2, 9), np.nan, "f4"), LABELS[:2]), ValueError, "x holds nan in row 0, column 0"),
    "infinity": ((np.full((2, 9), np.inf, "f4"), LABELS[:2]), ValueError, "x holds inf in row 0, column 0"),
    "too large for the dtype": ((np.full((2, 9), 1e300), LABELS[:2]), ValueError, "too large for float32"),
    "masked": ((np.ma.masked_less(X[:2], 0), LABELS[:2]), ValueError, "masked values"),
    "fewer labels": ((X[:2], LABELS[:1]), ValueError, "x has 2 rows, but y has shape"),
    "a label too high": ((X[:2], np.array([0, 3])), ValueError, r"labels must lie in \[0, 3\), got 0 to 3"),
    "a label below 0": ((X[:2], np.array([0, -1])), ValueError, r"labels must lie in \[0, 3\), got -1 to 0"),
    "labels of 64 bits": ((X[:1], np.array([2**63], "u8")), ValueError, r"labels must lie in \[0, 3\)"),
    "labels as floats": ((X[:2], np.zeros(2)), TypeError, r"labels must be integers, got float64"),
    "numbers of another shape": ((X[:2], np.zeros((2, 2))), ValueError, r"y must have shape \(2, 3\), got \(2, 2\)"),
    "no probabilities": ((X[:2], np.ones((2, 3))), ValueError, "rows of probabilities that sum to 1"),
    "weights of another shape": ((X[:2], LABELS[:2], np.ones(3)), ValueError, r"sample_weight must have shape \(2,\)"),
    "a negative weight": ((X[:2], LABELS[:2], [-1.0, 1.0]), ValueError, "must not be negative"),
    "a rate of 0": ((X[:2], LABELS[:2], None, 0.0), ValueError, "rate must be a finite number above 0"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(what: str) -> None:
    arguments, kind, message = REFUSED[what]
    own = learner(backend="auto")
    own.step(X[:4], LABELS[:4])
    before = everything(own)
    with pytest.raises(kind, match=message):
        own.step(*arguments)
    assert everything(own) == before


@pytest.mark.filterwarnings("error")
def test_large_finite_numbers_are_no_infinities() -> None:
    own = learner(Network(9, [Dense(3, "softmax")]), learning_rate=1e-30)
    assert np.isfinite(own.outputs(np.full((2, 9), 1e25, "f4"))).all()  # whose square is infinite in float32


def test_a_loss_that_is_no_number_raises() -> None:
    own = learner(NUMBERS, backend="auto", optimizer="sgd", learning_rate=1e30)
    own.step(X[:4], X[:4, :2])  # its loss is still that of the first weights
    with pytest.raises(DivergenceError, match=r"the loss became (nan|inf) in step 2: try a learning rate below 1e\+30"):
        own.step(X[:4], X[:4, :2])


def test_another_thread_is_refused() -> None:
    own, caught = learner(backend="auto"), []

    def work() -> None:
        for call in (lambda: own.step(X[:2], LABELS[:2]), lambda: own.outputs(X[:2])):
            try:
                call()
            except RuntimeError as error:
                caught.append(str(error))
        copy.deepcopy(own).step(X[:2], LABELS[:2])  # the way out
        caught.append("a copy works")

    thread = threading.Thread(target=work)
    before = everything(own)
    thread.start()
    thread.join()
    refusal = "a Learner belongs to the thread that made it: give each thread a copy.deepcopy of it"
    assert caught == [refusal, refusal, "a copy works"]
    assert everything(own) == before


def test_ctrl_c_between_steps_leaves_it_as_it_is() -> None:
    alone, pressed = learner(backend="auto"), learner(backend="auto")
    for first, last in BATCHES:
        alone.step(X[first:last], LABELS[first:last])
        pressed.step(X[first:last], LABELS[first:last])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert everything(pressed) == everything(alone)


def interrupt_after(count: int, call: Callable[[], Any]) -> bool:
    """Whether Ctrl-C after `count` instructions of the engine's Python comes before the call's end."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(("learner.py", "program.py", "batch.py", "passes.py", "frame.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == count:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("what", ["first step", "large step", "weighted step", "outputs", "two calls"])
def test_ctrl_c_anywhere_in_a_call_leaves_it_usable(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr("nnfast.backends.numba.program.is_debugging", lambda: False)  # which is no part of a call
    weights, target = np.random.default_rng(1).random(5).astype("float32"), np.empty((310, 3), "float32")
    calls: dict[str, Callable[[Learner], Any]] = {
        "first step": lambda own: own.step(X[:5], LABELS[:5]),
        "large step": lambda own: own.step(X[:310], np.eye(3, dtype="float32")[LABELS[:310]]),
        "weighted step": lambda own: own.step(X[:5], LABELS[:5], weights, rate=0.5),
        "two calls": lambda own: (own.forward(X[:310]), own.step_from(np.ones((310, 3)), gives_input_gradient=True)),
        "outputs": lambda own: own._program.predict_batch(X[:310], target),
    }

    def after(own: Learner) -> list[Any]:
        """What comes of everything that could still hold a part of an interrupted call."""
        first.parameters, first.slots, first.statistics, first.steps = states
        small = own.outputs(X[310:313]).tobytes()
        losses = [own.step(X[5:9], LABELS[5:9]), own.step(X[:310], LABELS[:310]), own.step(X[9:12], LABELS[9:12])]
        large = own.outputs(X[:310]).tobytes()
        two_calls = own.forward(X[5:9]).tobytes(), own.step_from(np.ones((4, 3)))
        return [small, losses, large, two_calls, everything(own), own.outputs(X[310:313]).tobytes()]

    make = partial(learner, Network(9, [Dense(20, "tanh"), BatchNorm(), Dense(3, "softmax")]), backend="numba")
    first = make()
    states = first.parameters, first.slots, first.statistics, 0
    expected = after(first)
    count = 1
    while True:
        if what == "first step":
            first = make()
        was_interrupted = interrupt_after(count, partial(calls[what], first))
        assert after(first) == expected, f"after {count} instructions"
        if not was_interrupted:
            break
        count += 1
    assert count > 100


def test_what_it_has_learnt_can_be_handed_to_another() -> None:
    own = learner()
    go_on(own)
    other = learner(seed=0)
    other.parameters, other.slots, other.statistics, other.steps = own.parameters, own.slots, own.statistics, own.steps
    assert everything(other) == everything(own)
    assert go_on(other) == go_on(own)
    for name, value in {"parameters": [0.0], "slots": np.zeros((2, 3)), "statistics": [1.0, 2.0], "steps": -1}.items():
        with pytest.raises(ValueError, match=r"must have shape|must be an integer from 0"):
            setattr(own, name, value)
    with pytest.raises(ValueError, match="up to 4611686018427387904"):
        own.steps = 2**63
    with pytest.raises(ValueError, match="a variance not negative"):
        own.statistics = own.statistics - 5
    assert everything(other) == everything(own)


def other_ways(own: Learner, path: Path) -> dict[str, Learner]:
    own.save(path)
    return {
        "file": Learner.load(path, backend="numpy"),
        "pickle": pickle.loads(pickle.dumps(own)),
        "deepcopy": copy.deepcopy(own),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_goes_on_to_the_bit_from_a_file_and_as_a_copy(dtype: str, tmp_path: Path) -> None:
    own_optimizer = Optimizer("own", {"m": "keep * m + g", "p": "p - learning_rate * m"}, {"keep": 0.5})
    own = learner(optimizer=own_optimizer, learning_rate=0.02, dtype=dtype, alpha=0.1, l1=0.01, clip_norm=2.0, seed=5)
    go_on(own)
    others = other_ways(own, tmp_path / "learner.safetensors")
    losses, after = go_on(own), everything(own)
    for name, other in others.items():
        assert go_on(other) == losses, name
        assert everything(other) == after, name


def test_other_files_are_refused(tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "learner.safetensors"
    own.save(path)
    content = path.read_bytes()
    damages = {
        "cut": content[:-8],
        "another format": content.replace(b"nnfast learner 1", b"nnfast learner 9"),
        "text": b"hello",
        "fewer units": content.replace(b'\\"units\\":20', b'\\"units\\":10').replace(
            b'\\"units\\": 20', b'\\"units\\": 10'
        ),
    }
    for name, damaged in damages.items():
        assert damaged != content, name
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is (not a|a damaged) learner file"):
            Learner.load(path)
    own.to_model().save(path)
    with pytest.raises(ValueError, match=r"is not a learner file: it holds a Model, which Model\.load reads"):
        Learner.load(path)
    with pytest.raises(FileNotFoundError):
        Learner.load(tmp_path / "none")


@pytest.mark.parametrize("rows", [10**12, 10**400, True, -1, "7", 2.5], ids=lambda rows: f"{rows!r:.15}")
def test_a_file_cannot_ask_for_more_memory_than_there_is(rows: Any, tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "learner.safetensors"
    own.save(path)
    with safe_open(path, framework="numpy") as file:
        texts, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    texts["description"] = json.dumps(json.loads(texts["description"]) | {"batch_rows": rows})
    save_file(arrays, path, texts)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"damaged learner file: (its batches of 10+ rows need|batch_rows must be)"):
        Learner.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"network": [4, 3]}, TypeError, "network must be a Network"),
        ({"batch_rows": 0}, ValueError, "batch_rows must be a positive integer, got 0"),
        ({"learning_rate": -1.0}, ValueError, "rate must be a finite number above 0"),
        ({"learning_rate": 1e300}, ValueError, "rate must be at most"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of"),
        ({"optimizer": "Adam2"}, ValueError, "unknown optimizer"),
        ({"loss": "cross_entropy", "network": NUMBERS}, ValueError, "cross_entropy"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be a finite number above 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Learner(**{"network": CLASSES, "batch_rows": 4, **options})


def test_one_output_of_binary_cross_entropy_tells_labels_0_and_1(backend: Backend) -> None:
    X = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    y = (X[:, 0] > 0).astype("float32")
    learner = Learner(Network(2, [Dense(1, "sigmoid")]), batch_rows=40, learning_rate=0.1, backend=backend)
    for _ in range(100):
        learner.step(X, y)
    model = learner.to_model()
    assert model.predict_proba(X).shape == (40, 2)
    assert model.evaluate(X, y.astype(int))["accuracy"] > 0.9
    named = learner.to_model(ClassTargets.fit(["no", "yes"]))
    np.testing.assert_array_equal(named.predict(X) == "yes", model.predict(X))


def test_labels_may_be_booleans(backend: Backend) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    network, truth = Network(3, [Dense(2, "softmax")]), rows[:, 0] > 0
    losses = {
        Learner(network, batch_rows=6, backend=backend).step(rows, labels) for labels in (truth, truth.astype(int))
    }
    assert len(losses) == 1


def test_targets_that_are_none_are_refused() -> None:
    learner = Learner(Network(3, [Dense(2, "softmax")]), batch_rows=6, backend="numpy")
    with pytest.raises(TypeError, match=r"ClassTargets\.fit\(labels\)"):
        learner.to_model(["left", "right"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 classes do not fit a network of 2 outputs"):
        learner.to_model(ClassTargets.fit([0, 1, 2]))
    with pytest.raises(ValueError, match="learning_rate must be a finite number above 0"):
        Learner(Network(3, [Dense(2)]), batch_rows=6, learning_rate=-1)
    with pytest.raises(ValueError, match="learning_rate must be a finite number above 0"):
        learner.learning_rate = float("nan")
