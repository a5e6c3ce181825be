"""Trains beside processes that keep the processors busy: by default, with one thread, and with one per processor.

    python benchmarks/busy.py
    python benchmarks/busy.py --against ../other-checkout

128-64-10, batches of 128, once for a moment and once for a second or more. Each column is a process of its own, which
waits while another trains; they take turns, and the table has the medians of wall time with the ratio to one thread.
Before anything is timed, the weights of all columns are compared bit for bit. --against adds the default of another
checkout of nnfast. Beside many processes a fixed number of threads takes minutes: see --without. On a machine that
others use too, the ratios within a row count, and more --repeats steady them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"short": 1_000, "long": 15_000}
STEPS_PER_EPOCH, BATCH = 100, 128

WORKER = f"""
import hashlib, sys, time
import numpy as np
from nnfast import Dense, Network, train
random = np.random.default_rng(0)
X = random.random(({STEPS_PER_EPOCH * BATCH}, 128), dtype="float32")
y = np.argmax(X @ random.normal(size=(128, 10)), axis=1)
network = Network(128, [Dense(64, "relu"), Dense(10, "softmax")])
for line in sys.stdin:
    threads, epochs = (int(word) or None for word in line.split())
    start = time.perf_counter()
    model = train(network, X, y, batch_size={BATCH}, epochs=epochs, backend="numba", threads=threads)
    seconds = time.perf_counter() - start
    print(seconds, hashlib.sha256(model.parameters.tobytes()).hexdigest(), flush=True)
"""


class Worker:
    """A process that trains when told to; threads: 0 for the default."""

    def __init__(self, checkout: Path, threads: int) -> None:
        unset = ("NNFAST_NUM_THREADS", "OMP_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        self._threads = threads
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=checkout, env=environment | {"PYTHONPATH": str(checkout)},
        )  # fmt: skip

    def train(self, steps: int) -> tuple[float, str]:
        """The seconds of a training, and a hash of its weights."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self._threads} {steps // STEPS_PER_EPOCH}\n")
        self._process.stdin.flush()
        seconds, weights = self._process.stdout.readline().split()
        return float(seconds), weights

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within this, `count` processes compute and never wait."""
    script = "print(flush=True)\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(workers: Mapping[str, Worker], steps: int, repeats: int) -> dict[str, float]:
    """The median seconds of each, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            seconds[name].append(worker.train(steps)[0])
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout, whose default is timed too")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--without", default="", metavar="COLUMN,...", help="what to leave out, such as threads=2")
    parser.add_argument("--busy", default="0,1,2,4,8", help="numbers of busy processes (default: %(default)s)")
    parser.add_argument("--runs", default=",".join(STEPS), help="of short, long (default: both)")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    columns = {"threads=1": (ROOT, 1), "default": (ROOT, 0), f"threads={cores}": (ROOT, cores)}
    if options.against:
        columns["other default"] = (options.against.resolve(), 0)
    workers = {name: Worker(*column) for name, column in columns.items() if name not in options.without.split(",")}
    try:
        weights = {name: worker.train(STEPS["short"])[1] for name, worker in workers.items()}
        if len(set(weights.values())) > 1:
            sys.exit(f"different weights, so nothing is timed: {weights}")
        print(f"{platform.processor() or platform.machine()}, {cores} cores; seconds, and times those of threads=1")
        print(f"| run | busy processes | {' | '.join(workers)} |")
        print(f"|---|--:|{'--:|' * len(workers)}")
        for run in options.runs.split(","):
            for count in map(int, options.busy.split(",")):
                with busy_processes(count):
                    medians = measure(workers, STEPS[run], options.repeats)
                one = medians["threads=1"]
                cells = [f"{seconds:.3f} ({seconds / one:.2f})" for seconds in medians.values()]
                print(f"| {run} | {count} | {' | '.join(cells)} |", flush=True)
    finally:
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
