"""A process for every peer, kept alive and driven in turn: one library's threads and settings never meet another's."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnfast.benchmarking.workloads import Workload
from nnfast.plans.recipe import Recipe

from . import PEERS
from .blas import Product
from .instructions import Counter, NoCounterError
from .peer import CannotError, Peer, epoch_losses, sample

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NNFAST_NUM_THREADS",
)
SETTLING_SECONDS = 0.05  # for the threads of the one before, which may spin for a while, to go to sleep


@dataclass(frozen=True)
class Trained:
    """What a peer made of a workload (its own version of it), by which recipe, from the start."""

    workload: Workload
    recipe: Recipe
    losses: NDArray[np.float64]  # the mean of every epoch
    parameters: NDArray[Any]


@dataclass(frozen=True)
class Cannot:
    """A worker's answer where the library cannot do the work."""

    reason: str


class WorkerError(RuntimeError):
    """A worker failed. reason: in one line; traceback: of the worker, or empty where its process ended."""

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(f"{reason}\n{traceback}".strip())
        self.reason = reason
        self.traceback = traceback


def environment(threads: int, caches: str | None, device: str) -> dict[str, str]:
    """What a worker finds in its environment before anything is imported.

    caches: a folder for what torch.compile and nnfast compile, or None for where they keep it otherwise.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    variables |= {"JAX_PLATFORMS": device, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if device == "cuda":
        variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # it would leave the others a quarter of the memory
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if caches is not None:
        variables["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(caches, "torch")
        variables["NNFAST_CACHE_DIR"] = os.path.join(caches, "nnfast")
        variables["CUPY_CACHE_DIR"] = os.path.join(caches, "cupy")
    return variables


def one_line(error: BaseException) -> str:
    """What stands at the end of its traceback, or the first line of that."""
    return traceback.format_exception_only(error)[-1].splitlines()[0]


class Worker:
    """The parent's end: starts the process, asks it one thing at a time, and ends it.

    name: a key of PEERS, or any other for BLAS's product. core: to pin the process to, or None. device: one of DEVICES.
    """

    def __init__(
        self, name: str, workload: Workload, threads: int, core: int | None, caches: str | None, device: str = "cpu"
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (other, name, workload, threads, device)
        self._process = context.Process(target=serve, args=arguments, name=name, daemon=True)
        # A child takes over its parent's environment and cores, and libraries look at both as they are loaded
        with _variables(environment(threads, caches, device)), _pinned(core):
            self._process.start()
        other.close()

    def ask(self, what: str, *arguments: Any) -> Any:
        """The answer of Server.<what>. Raises WorkerError where the worker fails."""
        try:
            self._connection.send((what, arguments))
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerError(
                f"{self._process.name}: the process ended with {self._process.exitcode} at {what!r}"
            ) from None
        if failed:
            reason, traceback = answer
            raise WorkerError(f"{self._process.name}: {what!r} failed: {reason}", traceback)
        return answer

    def close(self) -> None:
        self._connection.close()  # which the worker reads as the end
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def _variables(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def serve(connection: Connection, name: str, workload: Workload, threads: int, device: str) -> None:
    """The worker's end: answers until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all: the parent ends its workers
    server = Server(name, workload, threads, device)
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (False, getattr(server, what)(*arguments))
        except CannotError as error:
            answer = (False, Cannot(str(error)))
        except Exception as error:
            answer = (True, (one_line(error), traceback.format_exc()))
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, as the next recv() will find
            connection.send(answer)


class Server:
    """A peer in its process. sample() comes first, then prepare(), then any number of seconds()."""

    def __init__(self, name: str, workload: Workload, threads: int, device: str = "cpu") -> None:
        self._name = name
        self._workload = workload
        self._threads = threads
        self._device = device
        on_processor = threads == 1 and device == "cpu"
        self._clock: Callable[[], float] = time.process_time if on_processor else time.perf_counter
        try:
            self._counter: Counter | str = Counter()
        except NoCounterError as error:
            self._counter = str(error)
        self._subject: Peer | Product

    def sample(self) -> tuple[float, Trained]:
        """Seconds to import the library and to build, compile and do the first steps, and what these gave."""
        start = time.perf_counter()
        kind = PEERS[self._name].load()
        seconds = time.perf_counter() - start
        workload = kind.adapt(self._workload)
        recipe = kind.recipe(workload)
        workload = sample(workload, recipe)
        start = time.perf_counter()
        peer = kind(workload, self._threads, self._device)
        peer.reset()
        peer.train()
        seconds += time.perf_counter() - start
        return seconds, Trained(workload, recipe, *_results(peer))

    def prepare(self) -> Trained:
        """Set the peer to the workload, warm it, and let it train from the start once more for its results."""
        kind = PEERS[self._name].load()
        self._workload = kind.adapt(self._workload)
        self._subject = peer = kind(self._workload, self._threads, self._device)
        for _ in range(2):  # the first compiles
            peer.reset()
            peer.train()
        return Trained(self._workload, kind.recipe(self._workload), *_results(peer))

    def prepare_product(self) -> None:
        """Set this worker to BLAS's product instead of a peer."""
        self._subject = Product(self._device)
        self._subject.train()

    def calls_for(self, seconds: float) -> int:
        """How many calls of train() take so long."""
        return max(1, math.ceil(seconds / self.seconds(1)))

    def seconds(self, calls: int) -> float:
        """Of one call of train(), as the mean of `count`: of the processor on one CPU thread, else on the wall."""
        time.sleep(SETTLING_SECONDS)
        taken = 0.0
        for _ in range(calls):
            self._subject.reset()
            start = self._clock()
            self._subject.train()
            taken += self._clock() - start
        return taken / calls

    def stream_seconds(self) -> tuple[float, float] | None:
        """Of one call of train(): on the wall, and by events on the device's stream; None where there are none."""
        self._subject.reset()
        start = time.perf_counter()
        self._subject.train()
        wall = time.perf_counter() - start
        stream = self._subject.stream_seconds()
        return None if stream is None else (wall, stream)

    def instructions(self) -> int | str:
        """Of one call of train(), or why they cannot be counted."""
        if isinstance(self._counter, str):
            return self._counter
        self._subject.reset()
        start = self._counter.read()
        self._subject.train()
        return self._counter.read() - start


def _results(peer: Peer) -> tuple[NDArray[np.float64], NDArray[Any]]:
    return epoch_losses(peer.workload, peer.losses()), np.array(peer.parameters())
