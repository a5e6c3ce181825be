"""python -m benchmarks.calls: verifies the columns, times them in turn and prints the tables."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nnfast.backends.environment import installed_version
from nnfast.benchmarking.bench import environment

from . import Array, Sizes, __doc__, first_layers, flat
from .engine import FrameCalls, LearnerCalls, ModelCalls, ModuleCalls, PredictorCalls, StepFromCalls, Stretch
from .libraries import CompiledTorch, Jax, NumPy, OnnxRuntime, ScikitLearn, Torch
from .loop import SIZES, Loop, Nothing

PREDICTED = {"64-100-10": (64, 100, 10), "20-64-64-2": (20, 64, 64, 2)}
ROWS = (1, 16, 256, 2000)
SMALL, DIGITS = (4, 64, 64, 2), (64, 100, 10)
TRAINED = {"4-64-64-2": (SMALL, (32, 256)), "64-100-10": (DIGITS, (1, 32))}  # with the rows of their batches

OTHERS = {"torch": Torch, "torch compiled": CompiledTorch, "jax": Jax}
PREDICTING: dict[str, Any] = {
    "nnfast in @njit": FrameCalls, "nnfast predictor": PredictorCalls, "nnfast predict_proba": ModelCalls,
    "numpy": NumPy, "scikit-learn": ScikitLearn, "onnxruntime": OnnxRuntime, **OTHERS,
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "nnfast compute inside": Stretch, "nnfast Learner": LearnerCalls, "nnfast step_from": StepFromCalls, "numpy": NumPy,
    "scikit-learn": ScikitLearn, **OTHERS, "torch, Module": ModuleCalls,
    "torch, makes_steps": partial(ModuleCalls, makes_steps=True),
}  # fmt: skip
LOOPING: dict[str, Any] = {"nnfast Learner": LearnerCalls, "numpy": NumPy, **OTHERS}

PACKAGES = ("numpy", "numba", "scikit-learn", "onnxruntime", "torch", "jax")

STEPS = 3  # steps before the weights are compared
ITERATIONS = 40  # of the loop that are compared
CLOSE = 2e-4  # float32 beside float64: of outputs and losses
# And of the weights' whole way in STEPS steps: Adam's first steps go by a gradient's sign, which rounding turns for the
# smallest, and PyTorch has epsilon in another place
SAME_WAY = 0.01
ROUNDS = 20

Timed = tuple[Callable[[], Any], int]  # a function, and how many calls it makes
Notes = dict[str, str]  # why a column has dashes


def check(name: str, what: str, got: Any, expected: Any) -> None:
    error = float(np.max(np.abs(np.asarray(got, np.float64) - expected)))
    if not error < CLOSE:
        sys.exit(f"calls: {name} differs from NumPy in float64 by {error:.2g} in its {what}; nothing is timed")


def verified(columns: dict[str, Any], prepare: Callable[[str, Any], Timed], notes: Notes) -> dict[str, Timed]:
    """What `prepare` makes of each column; one that cannot be had here is left out with the reason."""
    found = {}
    for name, make in columns.items():
        try:
            found[name] = prepare(name, make)
        except (ImportError, RuntimeError) as error:  # RuntimeError: also of a compiler that is missing
            notes.setdefault(name, str(error).strip().partition("\n")[0])
    return found


def prediction_calls(sizes: Sizes, rows: int, columns: dict[str, Any], notes: Notes) -> dict[str, Timed]:
    x = np.random.default_rng(1).normal(size=(rows, sizes[0])).astype("f4")
    expected = NumPy(sizes, "f8").outputs(x)

    def prepare(name: str, make: Any) -> Timed:
        library = make(sizes)
        check(name, "outputs", library.outputs(x), expected)
        return library.inside(x) if hasattr(library, "inside") else (lambda: library.outputs(x), 1)

    return verified(columns, prepare, notes)


def step_calls(sizes: Sizes, rows: int, columns: dict[str, Any], notes: Notes) -> dict[str, Timed]:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(rows, sizes[0])).astype("f4"), random.integers(0, sizes[-1], rows)
    reference = NumPy(sizes, "f8")
    losses, first = [reference.step(x, y) for _ in range(STEPS)], flat(first_layers(sizes))
    goal = reference.parameters()

    def prepare(name: str, make: Any) -> Timed:
        library = make(sizes)
        check(name, "losses", [library.step(x, y) for _ in range(STEPS)], losses)
        if not (error := np.linalg.norm(library.parameters() - goal) / np.linalg.norm(goal - first)) < SAME_WAY:
            sys.exit(f"calls: the weights of {name} go {error:.2g} of their way beside NumPy's; nothing is timed")
        return library.inside(x, y) if hasattr(library, "inside") else (lambda: library.step(x, y), 1)

    return verified(columns, prepare, notes)


def loop_calls(columns: dict[str, Any], notes: Notes) -> dict[str, Timed]:
    expected = run(Loop(NumPy(SIZES, "f8")))

    def prepare(name: str, make: Any) -> Timed:
        loop = Loop(make(SIZES))
        check(name, "pushes and losses", run(loop), expected)
        return loop, 1

    return {"the loop alone": (Loop(Nothing(SIZES)), 1), **verified(columns, prepare, notes)}


def run(loop: Loop) -> Array:
    """The pushes and losses of the first iterations."""
    return np.array([loop() for _ in range(ITERATIONS)])


def measured(calls: dict[str, Timed], count: int) -> dict[str, str]:
    """Median and 99th percentile of single calls in microseconds, timed in turn, less what the clock itself takes."""
    clock = time.process_time_ns  # of all threads: some compute in others than the caller's
    everything: dict[str, Timed] = {"": (lambda: None, 1), **calls}
    spent: dict[str, list[int]] = {name: [] for name in everything}
    for turn in range(ROUNDS + 1):
        for name, (call, times) in everything.items():
            taken = []
            for _ in range(max(1, count // ROUNDS // times)):
                start = clock()
                call()
                taken.append(clock() - start)
            if turn:  # the first warms up
                spent[name] += taken
    own = float(np.median(spent.pop("")))
    cells = {}
    for name, taken in spent.items():
        times = calls[name][1]
        median, most = (np.percentile(taken, (50, 99)) - own) / 1e3 / times
        cells[name] = f"{median:.1f} / {most:.1f}" if times == 1 else f"{median:.2f}"
    return cells


def print_table(title: str, columns: list[str], rows: dict[str, dict[str, str]], notes: Notes) -> None:
    print(f"\n{title}\n\n| | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells.get(column, "-") for column in columns) + " |")
    for name, reason in notes.items():
        print(f"\n- {name}: {reason}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="how often each is called")
    parser.add_argument("--only", default="", help="the columns that begin with one of these words")
    arguments = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        sys.exit("one thread is measured: run OPENBLAS_NUM_THREADS=1 python -m benchmarks.calls")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # of JAX, which is not imported yet
    words = tuple(arguments.only.split(","))

    def chosen(columns: dict[str, Any]) -> dict[str, Any]:
        return {name: make for name, make in columns.items() if name.startswith(words)}

    facts = environment()
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed_version(name)))
    print(f"{facts['cpu']}, one thread; microseconds of CPU time a call, median / 99th percentile; {versions}")
    notes: Notes = {}
    rows: dict[str, dict[str, str]] = {}
    for name, sizes in PREDICTED.items():
        for count in ROWS:
            few = max(ROUNDS, arguments.calls // (1 + count // 100))
            rows[f"{name} x {count}"] = measured(prediction_calls(sizes, count, chosen(PREDICTING), notes), few)
    print_table("Predictions, by network and rows:", [*chosen(PREDICTING)], rows, notes)
    notes, rows = {}, {}
    for name, (sizes, counts) in TRAINED.items():
        for count in counts:
            rows[f"{name} x {count}"] = measured(step_calls(sizes, count, chosen(TRAINING), notes), arguments.calls)
    print_table("Steps of Adam, by network and rows of the batch:", [*chosen(TRAINING)], rows, notes)
    notes = {}
    cells = measured(loop_calls(chosen(LOOPING), notes), arguments.calls)
    title = "An iteration that acts on one row and learns from 32, 4-64-64-2:"
    print_table(title, ["the loop alone", *chosen(LOOPING)], {"one iteration": cells}, notes)


if __name__ == "__main__":
    main()
