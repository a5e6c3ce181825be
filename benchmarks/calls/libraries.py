"""What a single call costs: predictions of few rows and training steps, beside NumPy and other libraries.

    export OPENBLAS_NUM_THREADS=1
    python benchmarks/calls.py                      prints two tables, in microseconds of CPU time
    python benchmarks/calls.py --calls 50           a short run
    python benchmarks/calls.py --only nnfast,numpy  these columns alone

One thread. All columns have the same weights and rows in float32, and each is verified against NumPy's float64 before
it is timed: outputs, or loss and weights after three steps. Then they are timed in turn, call by call; the cells are
the median and, after a slash, the 99th percentile. A library that is not installed, or lacks the network, is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast import Dense, Learner, Model, Network
from nnfast.benchmarking.bench import environment
from nnfast.data.targets import ClassTargets
from nnfast.formulas.losses import LOSSES
from nnfast.plans.plan import make_plan

Layers = list[tuple[NDArray[Any], NDArray[Any]]]  # weights and bias of each
Call = Callable[[], Any]

PREDICTED = {"64-100-10": (64, 100, 10), "20-64-64-2": (20, 64, 64, 2)}
ROWS = (1, 16, 256, 2000)
TRAINED = {"4-64-64-2": (4, 64, 64, 2), "64-100-10": (64, 100, 10)}
BATCHES = (1, 32)
RATE, STEPS = 1e-3, 3  # steps before the weights are compared
CLOSE = 2e-4  # float32 beside float64: of outputs and losses
# And of the weights' whole way in STEPS steps: Adam's first steps go by a gradient's sign, which rounding turns for the
# smallest, and PyTorch has epsilon in another place
SAME_WAY = 0.01
ROUNDS = 20

missing: set[str] = set()  # what was said not to be there


def first_layers(sizes: tuple[int, ...]) -> Layers:
    random = np.random.default_rng(0)
    return [
        ((random.normal(size=pair) / np.sqrt(pair[0])).astype("f4"), random.normal(size=pair[1]).astype("f4") / 10)
        for pair in pairwise(sizes)
    ]


def network_of(sizes: tuple[int, ...]) -> Network:
    hidden = [Dense(size, "relu") for size in sizes[1:-1]]
    return Network(sizes[0], (*hidden, Dense(sizes[-1], "softmax")))


def flat(layers: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(part).reshape(-1) for layer in layers for part in layer])


def model_of(sizes: tuple[int, ...]) -> Model:
    network, targets = network_of(sizes), ClassTargets(np.arange(sizes[-1]))
    parameters = flat(first_layers(sizes))
    assert make_plan(network, 1).parameter_count == parameters.size
    return Model(network, parameters, np.zeros(0, "f4"), LOSSES["cross_entropy"], targets, backend="numba", threads=1)


# Predictions: a function of x for each library, or None where it has not the network


def forward(layers: Layers, x: NDArray[Any]) -> NDArray[Any]:
    for W, b in layers[:-1]:
        x = np.maximum(x @ W + b, 0)
    z = x @ layers[-1][0] + layers[-1][1]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def predictor(sizes: tuple[int, ...]) -> Any:
    return model_of(sizes).predictor(max(ROWS))


def predict_proba(sizes: tuple[int, ...]) -> Any:
    return model_of(sizes).predict_proba


def numpy_predicts(sizes: tuple[int, ...]) -> Any:
    layers = first_layers(sizes)
    return lambda x: forward(layers, x)


def scikit_learn(sizes: tuple[int, ...]) -> Any:
    """An MLPClassifier that has made no step yet from the first weights; two classes would be one output."""
    from sklearn.neural_network import MLPClassifier

    if sizes[-1] == 2:
        return None
    classes = np.arange(sizes[-1])
    estimator = MLPClassifier(sizes[1:-1], alpha=0.0, learning_rate_init=RATE, random_state=0)
    estimator.partial_fit(np.zeros((1, sizes[0]), "f4"), classes[:1], classes=classes)
    for W, b, (own_W, own_b) in zip(estimator.coefs_, estimator.intercepts_, first_layers(sizes), strict=True):
        W[...], b[...] = own_W, own_b
    optimizer = estimator._optimizer
    optimizer.t = 0
    for slot in (*optimizer.ms, *optimizer.vs):
        slot[...] = 0
    return estimator


def scikit_learn_predicts(sizes: tuple[int, ...]) -> Any:
    estimator = scikit_learn(sizes)
    return estimator and estimator.predict_proba


def torch_module(sizes: tuple[int, ...], *last: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    parts: list[Any] = []
    for W, b in first_layers(sizes):
        linear = torch.nn.Linear(*W.shape)
        linear.weight.data, linear.bias.data = torch.from_numpy(W.T.copy()), torch.from_numpy(b)
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1], *last)


def torch_predicts(sizes: tuple[int, ...]) -> Any:
    import torch

    module = torch_module(sizes, torch.nn.Softmax(dim=1))

    def predict(x: NDArray[Any]) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return predict


def onnxruntime_predicts(sizes: tuple[int, ...]) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    for index, (W, b) in enumerate(first_layers(sizes)):
        weights += [numpy_helper.from_array(W, f"W{index}"), numpy_helper.from_array(b, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
        kind, name = ("Relu", f"a{index}") if index < len(sizes) - 2 else ("Softmax", "y")
        nodes.append(helper.make_node(kind, [f"z{index}"], [name]))
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, k]) for n, k in (("x", sizes[0]), ("y", sizes[-1]))
    )
    graph = helper.make_graph(nodes, "network", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def jax_forward(layers: Any, x: Any) -> Any:
    import jax.numpy as jnp

    for W, b in layers[:-1]:
        x = jnp.maximum(x @ W + b, 0)
    return x @ layers[-1][0] + layers[-1][1]


def jax_predicts(sizes: tuple[int, ...]) -> Any:
    import jax

    layers = [tuple(map(jax.numpy.asarray, layer)) for layer in first_layers(sizes)]
    compiled = jax.jit(lambda x: jax.nn.softmax(jax_forward(layers, x)))
    return lambda x: np.asarray(compiled(x))


# Steps: for each library a pair, of a function of x and y that makes one and returns the loss, and one that gives all
# parameters as one vector


def numpy_trains(sizes: tuple[int, ...], dtype: str = "f4") -> Any:
    layers = [tuple(part.astype(dtype) for part in layer) for layer in first_layers(sizes)]
    moments = [[(np.zeros_like(W), np.zeros_like(b)) for W, b in layers] for _ in range(2)]
    count = 0

    def step(x: NDArray[Any], y: NDArray[Any]) -> float:
        nonlocal count
        count += 1
        inputs = [x.astype(dtype, copy=False)]
        for W, b in layers[:-1]:
            inputs.append(np.maximum(inputs[-1] @ W + b, 0))
        delta = forward(layers[-1:], inputs[-1])
        rows = np.arange(len(y))
        loss = -float(np.log(delta[rows, y]).mean())
        delta[rows, y] -= 1
        delta /= len(y)
        rate = RATE * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for index in range(len(layers) - 1, -1, -1):
            a, W = inputs[index], layers[index][0]
            gradients = a.T @ delta, delta.sum(axis=0)
            delta = (delta @ W.T) * (a > 0) if index else delta
            for p, g, m, v in zip(layers[index], gradients, moments[0][index], moments[1][index], strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * m / (np.sqrt(v) + 1e-8)
        return loss

    return step, lambda: flat(layers)


def learner_trains(sizes: tuple[int, ...]) -> Any:
    learner = Learner(network_of(sizes), batch_rows=max(BATCHES), learning_rate=RATE, backend="numba", threads=1)
    learner.parameters = flat(first_layers(sizes))
    return learner.step, lambda: learner.parameters


def scikit_learn_trains(sizes: tuple[int, ...]) -> Any:
    if (estimator := scikit_learn(sizes)) is None:
        return None

    def step(x: NDArray[Any], y: NDArray[Any]) -> float:
        return float(estimator.partial_fit(x, y).loss_)

    return step, lambda: flat(zip(estimator.coefs_, estimator.intercepts_, strict=True))


def torch_trains(sizes: tuple[int, ...]) -> Any:
    import torch

    module = torch_module(sizes)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)

    def step(x: NDArray[Any], y: NDArray[Any]) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return loss.item()

    def parameters() -> Any:
        return flat((part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in module[::2])

    return step, parameters


def jax_trains(sizes: tuple[int, ...]) -> Any:
    import jax
    import jax.numpy as jnp

    def loss_of(layers: Any, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(jax_forward(layers, x)), y[:, None], axis=1).mean()

    @jax.jit
    def update(layers: Any, m: Any, v: Any, t: Any, x: Any, y: Any) -> Any:
        loss, g = jax.value_and_grad(loss_of)(layers, x, y)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), layers, m, v), m, v, t + 1, loss

    layers = [tuple(map(jnp.asarray, layer)) for layer in first_layers(sizes)]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    held: list[Any] = [layers, zeros, zeros, jnp.float32(1)]

    def step(x: NDArray[Any], y: NDArray[Any]) -> float:
        *held[:], loss = update(*held, x, y)
        return float(loss)

    return step, lambda: flat(held[0])


PREDICTING = {
    "nnfast predictor": predictor, "nnfast predict_proba": predict_proba, "numpy": numpy_predicts,
    "scikit-learn": scikit_learn_predicts, "torch": torch_predicts, "onnxruntime": onnxruntime_predicts,
    "jax": jax_predicts,
}  # fmt: skip
TRAINING = {
    "nnfast Learner": learner_trains, "numpy": numpy_trains, "scikit-learn": scikit_learn_trains,
    "torch": torch_trains, "jax": jax_trains,
}  # fmt: skip


def made(makers: dict[str, Any], sizes: tuple[int, ...], chosen: list[str]) -> dict[str, Any]:
    """What can be made here, by the column's name; says once what is missing."""
    found = {}
    for name, make in makers.items():
        if any(name.startswith(word) for word in chosen):
            try:
                found[name] = make(sizes)
            except ImportError as error:
                if name not in missing:
                    print(f"calls: no {name}: {error}", file=sys.stderr)
                missing.add(name)
    return {name: value for name, value in found.items() if value is not None}


def check(name: str, what: str, got: Any, expected: Any) -> None:
    error = float(np.max(np.abs(np.asarray(got, np.float64) - expected)))
    if not error < CLOSE:
        sys.exit(f"calls: {name} differs from NumPy in float64 by {error:.2g} in its {what}; nothing is timed")


def measured(calls: dict[str, Call], count: int) -> dict[str, str]:
    """Median and 99th percentile of single calls in microseconds, timed in turn, less what the clock itself takes."""
    clock = time.process_time_ns  # of all threads: some compute in others than the caller's
    spent: dict[str, list[int]] = {name: [] for name in ("", *calls)}
    everything = {"": lambda: None, **calls}
    for turn in range(ROUNDS + 1):
        for name, call in everything.items():
            times = []
            for _ in range(max(1, count // ROUNDS)):
                start = clock()
                call()
                times.append(clock() - start)
            if turn:  # the first warms up
                spent[name] += times
    own = float(np.median(spent.pop("")))
    cells = {}
    for name, times in spent.items():
        median, most = (np.percentile(times, (50, 99)) - own) / 1e3
        cells[name] = f"{median:.1f} / {most:.1f}"
    return cells


def prediction_calls(sizes: tuple[int, ...], rows: int, chosen: list[str]) -> dict[str, Call]:
    x = np.random.default_rng(1).normal(size=(rows, sizes[0])).astype("f4")
    calls = made(PREDICTING, sizes, chosen)
    expected = forward([(W.astype("f8"), b.astype("f8")) for W, b in first_layers(sizes)], x.astype("f8"))
    for name, predict in calls.items():
        check(name, "outputs", predict(x), expected)
    return {name: (lambda predict=predict: predict(x)) for name, predict in calls.items()}


def step_calls(sizes: tuple[int, ...], rows: int, chosen: list[str]) -> dict[str, Call]:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(rows, sizes[0])).astype("f4"), random.integers(0, sizes[-1], rows)
    steps = made(TRAINING, sizes, chosen)
    reference, reference_parameters = numpy_trains(sizes, "f8")
    losses, first = [reference(x, y) for _ in range(STEPS)], flat(first_layers(sizes))
    for name, (step, parameters) in steps.items():
        check(name, "losses", [step(x, y) for _ in range(STEPS)], losses)
        goal = reference_parameters()
        if not (error := np.linalg.norm(parameters() - goal) / np.linalg.norm(goal - first)) < SAME_WAY:
            sys.exit(f"calls: the weights of {name} go {error:.2g} of their way beside NumPy's; nothing is timed")
    return {name: (lambda step=step: step(x, y)) for name, (step, _) in steps.items()}


def print_table(title: str, columns: list[str], rows: dict[str, dict[str, str]]) -> None:
    print(f"\n{title}\n\n| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells.get(column, "-") for column in columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="how often each is called")
    parser.add_argument("--only", default="", help="the columns that begin with one of these words")
    arguments = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        sys.exit("one thread is measured: run OPENBLAS_NUM_THREADS=1 python benchmarks/calls.py")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # of JAX, which is not imported yet
    chosen = arguments.only.split(",")
    facts = environment()
    print(f"{facts['cpu']}, one thread; microseconds of CPU time a call, median / 99th percentile")
    for title, kinds, counts, make, names in (
        ("Predictions", PREDICTED, ROWS, prediction_calls, PREDICTING),
        ("Steps of Adam", TRAINED, BATCHES, step_calls, TRAINING),
    ):
        rows: dict[str, dict[str, str]] = {}
        for name, sizes in kinds.items():
            for count in counts:
                few = max(ROUNDS, arguments.calls // (1 + count // 100))
                rows[f"{name} x {count}"] = measured(make(sizes, count, chosen), few)  # type: ignore[operator]
        print_table(title, [name for name in names if any(name in cells for cells in rows.values())], rows)


if __name__ == "__main__":
    main()
