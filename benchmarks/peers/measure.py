"""Equal work first, figures after: verifies every peer against nnfast's reference, then times them in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import statistics
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.backends import Source, get_backend
from nnfast.benchmarking.bench import DifferentResultsError
from nnfast.benchmarking.workloads import Workload
from nnfast.plans.recipe import Recipe

from . import HOME, PRODUCT
from .blas import flops
from .peer import epoch_losses
from .workers import Cannot, Trained, Worker, WorkerError, one_line

MEASURED_SECONDS = 0.2  # a measurement takes at least so long: short trainings are repeated

# How far a peer, in float32, may be from nnfast's numpy backend in float64, from the same weights, rows and orders.
# Rounding gives up to 6e-6, 3e-4 and 3e-4. The first steps take rows far from kinks; a whole training takes all rows,
# and rounding grows in it, most in the 50 epochs of digits.
TOLERANCES = {
    "change": 1e-3,  # of the parameters by the first steps, before rounding grows: |a - b| / |b|
    "losses": 1e-3,  # the mean of every epoch, as the peer reports it: max |a - b| / |b|
    "final loss": 1e-3,  # over all rows, of the peer's last parameters, computed by the reference: |a - b| / |b|
}


class Reference:
    """The numpy backend's training in float64, from the same initial weights."""

    def __init__(self, workload: Workload, recipe: Recipe) -> None:
        self.workload = workload
        self._source = Source(*workload.arrays())
        self._program = get_backend("numpy").compile(
            workload.plan(), dataclasses.replace(recipe, dtype=np.dtype(np.float64))
        )
        self._program.bind(self._source)
        self._initial = workload.initial_parameters()
        self._program.parameters = self._initial
        rates = np.full(workload.steps, recipe.optimizer.learning_rate)
        self.losses = epoch_losses(workload, self._program.run(*workload.stretch(), rates, 0))
        self._parameters = self._program.parameters
        self._final_loss = self._program.evaluate(self._source)[0]

    def differences(self, trained: Trained) -> dict[str, float]:
        """How far a peer is from here, named and measured as in TOLERANCES."""
        self._program.parameters = trained.parameters
        with np.errstate(all="ignore"):  # what is NaN or infinite is found by comparing with the tolerance
            final_loss = self._program.evaluate(self._source)[0]
            return {
                "change": _norm(trained.parameters - self._parameters) / _norm(self._parameters - self._initial),
                "losses": float((abs(trained.losses - self.losses) / abs(self.losses)).max()),
                "final loss": abs(final_loss - self._final_loss) / abs(self._final_loss),
            }


def _norm(vector: NDArray[Any]) -> float:
    return float(np.linalg.norm(vector))


@functools.lru_cache(maxsize=4)  # peers of one workload come one after the other
def reference(workload: Workload, recipe: Recipe) -> Reference:
    return Reference(workload, recipe)


def verify(name: str, first_steps: Trained, whole: Trained) -> dict[str, float]:
    """The peer's differences from the reference. Raises DifferentResultsError where one is beyond its tolerance.

    After the whole stretch rounding has grown in the parameters, so their change is looked at after the first steps.
    """
    first, last = (reference(one.workload, one.recipe).differences(one) for one in (first_steps, whole))
    differences = last | {"change": first["change"]}
    for what, difference in differences.items():
        if not difference <= TOLERANCES[what]:  # so that NaN is refused
            raise DifferentResultsError(
                f"{name} and nnfast's reference differ in their {what} by {difference:.2g}, more than the "
                f"{TOLERANCES[what]:g} that rounding may cause; it did other work, and is not timed"
            )
    return differences


def measure(
    workload: Workload,
    names: Sequence[str],
    threads: int,
    rounds: int,
    core: int | None,
    caches: str | None,
    device: str = "cpu",
) -> dict[str, Any]:
    """One workload's figures with `threads` threads, or on a GPU, as JSON holds them.

    names: of PEERS. core: to pin every worker to, or None. caches: see workers.environment. device: one of DEVICES.
    A peer that fails has no figures but stands in "failed" with the reason, and ends nothing else: one that raises,
    whose process ends, that did other work, or whose clock was stopped before the GPU was done.
    """
    peers = _Peers()
    results: dict[str, dict[str, Any]] = {}
    cannot: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in (*names, PRODUCT)}
    calls: dict[str, int] = {}
    counts: dict[str, int | str] = {}

    def start(name: str) -> None:
        worker = peers.start(name, workload, threads, core, None if name == PRODUCT else caches, device)
        if name == PRODUCT:
            worker.ask("prepare_product")
            return
        sampled = worker.ask("sample")
        if isinstance(sampled, Cannot):
            cannot[name] = sampled.reason
            peers.end(name)
            return
        first_call, first_steps = sampled
        whole = worker.ask("prepare")
        results[name] = {
            "first_call_seconds": first_call,
            "network": whole.workload.sizes,
            "differences": verify(name, first_steps, whole),
        }

    def count_calls(name: str) -> None:
        calls[name] = peers.ask(name, "calls_for", MEASURED_SECONDS)

    def take(name: str) -> None:
        seconds[name].append(peers.ask(name, "seconds", calls[name]))

    def look_closer(name: str) -> None:
        if name == PRODUCT:
            return
        # Of several threads, those that a library started before its counter was there would be missing
        if threads == 1 and device == "cpu":
            counts[name] = peers.ask(name, "instructions")
        if timed := peers.ask(name, "stream_seconds"):
            results[name]["stream_share"] = stream_share(name, *timed)

    with peers:
        peers.each((*names, PRODUCT), start)
        peers.each(peers.running, count_calls)
        for _ in range(rounds):
            peers.each(peers.running, take)
        peers.each(peers.running, look_closer)

    results = {name: result for name, result in results.items() if name not in peers.failed}
    product_rate = None if PRODUCT in peers.failed else flops(device) / statistics.median(seconds[PRODUCT])
    for name, result in results.items():
        result |= _figures(workload, seconds[name], counts.get(name), product_rate)
    rates = {name: result["samples_per_second"] for name, result in results.items()}
    best = max((rate for name, rate in rates.items() if name != HOME), default=None)
    return {
        "name": workload.name,
        "network": workload.sizes,
        "rows": workload.rows,
        "batch_size": workload.batch_size,
        "epochs": workload.epochs,
        "flops_per_row": workload.flops_per_row(),
        "product_gflops": product_rate and product_rate / 1e9,
        "results": results,
        "cannot": cannot,
        "failed": peers.failed,
        "no_counter": next((count for count in counts.values() if isinstance(count, str)), None),
        "times_best_peer": rates[HOME] / best if HOME in rates and best else None,
    }


class _Peers(contextlib.ExitStack):
    """The workers of one workload that have not failed, and why the others did. On exit all are ended."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[str, dict[str, str]] = {}
        self._workers: dict[str, Worker] = {}

    @property
    def running(self) -> tuple[str, ...]:
        return tuple(self._workers)

    def start(self, name: str, *arguments: Any) -> Worker:
        self._workers[name] = self.enter_context(Worker(name, *arguments))
        return self._workers[name]

    def end(self, name: str) -> None:
        if name in self._workers:
            self._workers.pop(name).close()

    def ask(self, name: str, what: str, *arguments: Any) -> Any:
        return self._workers[name].ask(what, *arguments)

    def each(self, names: Sequence[str], do: Callable[[str], None]) -> None:
        """Do something with each of them. One that fails is ended."""
        for name in names:
            try:
                do(name)
            except Exception as error:
                self.failed[name] = failure(error)
                self.end(name)


def failure(error: Exception) -> dict[str, str]:
    """Why something failed: in one line, and the traceback of an unexpected error."""
    if isinstance(error, WorkerError):
        return {"reason": error.reason, "traceback": error.traceback}
    if isinstance(error, DifferentResultsError):
        return {"reason": str(error), "traceback": ""}
    return {"reason": one_line(error), "traceback": "".join(traceback.format_exception(error))}


def stream_share(name: str, wall: float, stream: float) -> float:
    """How much of the time on the wall a GPU's own events tell; the rest is the host's before and after.

    Raises DifferentResultsError where they tell of more: then the clock was stopped before the work was done.
    """
    if not stream <= 1.05 * wall:
        raise DifferentResultsError(
            f"{name}: by its events the GPU took {stream:.3g} s, but the clock {wall:.3g} s; it is not timed"
        )
    return stream / wall


def _figures(
    workload: Workload, seconds: list[float], count: int | str | None, product_rate: float | None
) -> dict[str, Any]:
    """A peer's figures from the seconds of its measurements and its count of instructions, if there is one."""
    rows = workload.rows * workload.epochs
    median = statistics.median(seconds)
    flops = workload.flops_per_row() * rows / median
    return {
        "seconds": seconds,
        "samples_per_second": rows / median,
        "spread": (max(seconds) - min(seconds)) / median,
        "gflops": flops / 1e9,
        "of_product": product_rate and flops / product_rate,
        "instructions_per_sample": count / rows if isinstance(count, int) else None,
    }


def last_core() -> int | None:
    """The core that one-thread workers are pinned to; None where the system has no such calls."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
