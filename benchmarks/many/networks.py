"""Networks a second: train_many beside loops, processes, and other libraries' maps over networks."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnfast import Dense, Model, Network, train, train_many
from nnfast.support.threads import thread_count

Array = NDArray[Any]

SIZES = ((4, 64, 64, 2), (64, 100, 10), (28, 64, 64, 2))
COUNTS = (1, 8, 64)
EPOCHS = (8, 80)  # about 10 and 100 ms a network
ROWS, BATCH = 2048, 32  # batches of equal length, as a map over networks wants them
RATE = 1e-3

CLOSE = 1e-3  # the first epoch's loss, in float32, from the same weights over the same rows: rounding gives up to 2e-5
SECONDS = 10.0  # what took as long in all is not repeated again


@dataclass(frozen=True)
class Task:
    """Networks of one kind to train on the same rows, each by its own seed, which is its place."""

    sizes: tuple[int, ...]
    count: int
    epochs: int

    @property
    def name(self) -> str:
        return "-".join(map(str, self.sizes))

    @property
    def network(self) -> Network:
        return Network(self.sizes[0], [*(Dense(n, "relu") for n in self.sizes[1:-1]), Dense(self.sizes[-1], "softmax")])

    def data(self) -> tuple[Array, Array]:
        random = np.random.default_rng(0)
        X = random.normal(size=(ROWS, self.sizes[0])).astype("f4")
        return X, (X @ random.normal(size=(self.sizes[0], self.sizes[-1]))).argmax(axis=1)

    @property
    def options(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "batch_size": BATCH, "learning_rate": RATE}


class Outcome(NamedTuple):
    """What a way gave: the first epoch's loss of each network and, of nnfast's, the parameters."""

    losses: Array
    parameters: Array | None = None


Way = Callable[[], Outcome]


def outcome(models: list[Model]) -> Outcome:
    losses = np.array([model.history.loss[0] for model in models])
    return Outcome(losses, np.array([model.parameters for model in models]))


def loop(task: Task, threads: int | None) -> Way:
    network, (X, y) = task.network, task.data()
    return lambda: outcome(
        [train(network, X, y, seed=seed, threads=threads, **task.options) for seed in range(task.count)]
    )


def many(task: Task) -> Way:
    network, (X, y) = task.network, task.data()
    return lambda: outcome(train_many(network, X, y, seed=range(task.count), **task.options))


def processes(task: Task) -> Way:
    from joblib import Parallel, delayed

    network, (X, y) = task.network, task.data()
    calls = [delayed(train)(network, X, y, seed=seed, threads=1, **task.options) for seed in range(task.count)]
    return lambda: outcome(Parallel(thread_count(), backend="loky")(calls))


def jax_vmap(task: Task) -> Way:
    from .libraries import JaxVmap

    return JaxVmap(task)


def torch_vmap(task: Task) -> Way:
    from .libraries import TorchVmap

    return TorchVmap(task)


def scikit_learn(task: Task) -> Way:
    from sklearn.neural_network import MLPClassifier

    from .libraries import Fits

    return Fits(task, MLPClassifier)


def our_estimator(task: Task) -> Way:
    """What scikit-learn's is held to: its networks begin with weights of its own, and two classes are one output."""
    from nnfast import MLPClassifier

    from .libraries import Fits

    return Fits(task, MLPClassifier)


ONE, MANY = "loop of train, one thread", "train_many"
WAYS: dict[str, Callable[[Task], Way]] = {
    MANY: many,
    ONE: lambda task: loop(task, 1),
    "loop of train": lambda task: loop(task, None),
    "joblib, loky": processes,
    "jax.vmap": jax_vmap,
    "torch.func.vmap": torch_vmap,
    "scikit-learn": scikit_learn,
}


def check(name: str, task: Task, found: Outcome, expected: Outcome) -> None:
    """That a way gave what it should; or no figure is printed."""
    losses = expected.losses[: len(found.losses)]  # a loop over a library's networks may leave some out
    if found.parameters is not None:
        right = np.array_equal(found.parameters, expected.parameters) and np.array_equal(found.losses, losses)
        error = "bit for bit"
    else:
        apart = float(np.max(np.abs(found.losses / losses - 1)))
        right, error = apart < CLOSE, f"by {apart:.2g} in the first epoch's loss"
    if not right:
        raise SystemExit(f"many: {name} gives other networks than nnfast alone, {error}; K = {task.count}, {task.name}")


def verified(task: Task, notes: dict[str, str]) -> dict[str, Way]:
    """The ways that can be had here, after equal results in two epochs."""
    short = replace(task, epochs=2)
    expected = WAYS[ONE](short)()
    found = {}
    for name, make in WAYS.items():
        try:
            goal = our_estimator(short)() if name == "scikit-learn" else expected
            check(name, task, make(short)(), goal)
            found[name] = make(task)
        except ImportError as error:
            notes.setdefault(name, str(error))
    return found


class Taken(NamedTuple):
    """Seconds for one network."""

    wall: float
    processor: float  # of this process, in all of its threads


def timed(task: Task, ways: dict[str, Way], repeats: int) -> dict[str, Taken]:
    """Medians, in turn. What nnfast gives is compared again."""
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    last: dict[str, Outcome] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            if spent[name] > SECONDS:
                continue
            wall, processor = time.perf_counter(), time.process_time()
            found = last[name] = way()
            processor, wall = time.process_time() - processor, time.perf_counter() - wall
            spent[name] += wall
            taken[name].append(Taken(wall / len(found.losses), processor / len(found.losses)))
    for name, found in last.items():
        if found.parameters is not None:
            check(name, task, found, last[ONE])
    return {name: Taken(*map(statistics.median, zip(*one, strict=True))) for name, one in taken.items()}


def networks(repeats: int) -> Iterator[str]:
    """The lines of the table, each as soon as it is measured."""
    cores, notes = thread_count(), dict[str, str]()
    yield (
        f"Networks a second, {ROWS} rows in batches of {BATCH}, float32, Adam, {cores} threads. All cores: the rate of "
        f"{MANY} by that of the loop in one thread, for each core that K networks can use. CPU: milliseconds a network "
        f"of {MANY} / of train in one thread."
    )
    yield ""
    yield f"| network | K | epochs | {' | '.join(WAYS)} | all cores | CPU | load |"
    yield f"|---|--:|--:{'|--:' * (len(WAYS) + 3)}|"
    for sizes, count, epochs in product(SIZES, COUNTS, EPOCHS):
        task, before = Task(sizes, count, epochs), os.getloadavg()[0]
        taken = timed(task, verified(task, notes), repeats)
        cells = [f"{1 / taken[name].wall:.3g}" if name in taken else "-" for name in WAYS]
        share = taken[ONE].wall / taken[MANY].wall / min(cores, count)
        milliseconds = [f"{1e3 * taken[name].processor:.2f}" for name in (MANY, ONE)]
        cells += [f"{share:.2f}", " / ".join(milliseconds), f"{before:.1f}"]
        yield f"| {task.name} | {count} | {epochs} | {' | '.join(cells)} |"
    for name, reason in notes.items():
        yield f"\n- {name}: {reason}."
