"""Peak memory of many networks over one large data set beside that of one network; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from nnfast import Dense, Model, Network, train, train_many
from nnfast.data.splits import fold_rows

COLUMNS, COUNT, FOLDS = 250, 64, 4
NETWORK = Network(COLUMNS, [Dense(8, "relu"), Dense(2, "softmax")])
OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 256}
SMALL = 1  # megabytes, for the comparison of results


def data(megabytes: int) -> tuple[Any, Any]:
    X = np.random.default_rng(0).random((megabytes * 1_000_000 // (4 * COLUMNS), COLUMNS), dtype="f4")
    return X, (X[:, 0] > 0.5).astype(np.int64)


def alone(X: Any, y: Any) -> list[Model]:
    return [train(NETWORK, X, y, seed=0, **OPTIONS)]


def many(X: Any, y: Any) -> list[Model]:
    return train_many(NETWORK, X, y, seed=range(COUNT), **OPTIONS)


def folded(X: Any, y: Any) -> list[Model]:
    return train_many(NETWORK, X, y, seed=range(COUNT // FOLDS), folds=FOLDS, **OPTIONS)


NAMES = {
    "alone": "train, one network",
    "many": f"train_many, {COUNT} networks",
    "folded": f"train_many, {COUNT // FOLDS} networks x {FOLDS} folds",
}
WAYS = {"alone": alone, "many": many, "folded": folded}


def verify() -> None:
    """On few rows, that all networks come out as train gives them, those of folds on copies of their rows."""
    X, y = data(SMALL)
    expected = [train(NETWORK, X, y, seed=seed, **OPTIONS) for seed in range(COUNT)]
    pairs = fold_rows(len(X), FOLDS, 0, labels=y)
    folds = [
        train(NETWORK, X[kept], y[kept], seed=seed, validation=(X[held], y[held]), **OPTIONS)
        for seed in range(COUNT // FOLDS)
        for kept, held in pairs
    ]
    for name, right in (("alone", expected[:1]), ("many", expected), ("folded", folds)):
        found = WAYS[name](X, y)
        equal = [np.array_equal(a.parameters, b.parameters) for a, b in zip(found, right, strict=True)]
        if not all(equal):
            raise SystemExit(f"{NAMES[name]}: network {equal.index(False)} differs from what train alone gives")


def measured(name: str, megabytes: int) -> tuple[float, float]:
    """Megabytes at the peak, and seconds, of a new process."""
    command = [sys.executable, "-m", "benchmarks.many.memory", name, str(megabytes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peak, seconds = map(float, done.stdout.split())
    return peak, seconds


def memory(megabytes: int) -> list[str]:
    """The lines of the table."""
    if not Path("/proc/self/status").exists():
        return ["Peak memory: read from /proc/self/status, which this system does not have."]
    verify()
    found = {name: measured(name, megabytes) for name in WAYS}
    least, rows = found["alone"][0], megabytes * 1_000_000 // (4 * COLUMNS)
    return [
        f"Peak memory over one data set of {megabytes} MB ({rows:,} rows x {COLUMNS}, float32), one epoch, in a "
        "process each.",
        "",
        "| | peak, MB | above one network, MB | seconds |",
        "|---|--:|--:|--:|",
        *(
            f"| {NAMES[name]} | {peak:.0f} | {peak - least:.0f} | {taken:.1f} |"
            for name, (peak, taken) in found.items()
        ),
    ]


def main(name: str, megabytes: str) -> None:
    X, y = data(int(megabytes))
    start = time.perf_counter()
    WAYS[name](X, y)
    seconds = time.perf_counter() - start
    # ru_maxrss would have the peak of the process that started this one, where that was higher
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024 / 1e6, seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
