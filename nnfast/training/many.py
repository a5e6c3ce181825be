"""train_many(): many networks on the same rows, in a queue that the processor's threads take them from."""

from __future__ import annotations

import contextlib
import difflib
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Program, get_backend
from ..data.splits import fold_rows
from ..data.table import Table
from ..models.model import Model
from ..models.validation import check_row_numbers
from ..networks.network import Network
from ..plans.plan import Plan
from ..plans.recipe import Recipe
from ..support.checks import shown
from ..support.interruption import Interruption, interruptible
from ..support.threads import share_kept
from .job import Data, Job, Settings, class_labels, make_job
from .progress import networks_bar
from .stopping import DivergenceError

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
Result = Model | DivergenceError | None

_OPTIONS = tuple(item.name for item in fields(Settings))
_ARRAYS = ("sample_weight", "validation", "callbacks", "initial_parameters", "initial_state")  # may be one for all


def train_many(
    networks: Network | Sequence[Network],
    X: ArrayLike | Table,
    y: ArrayLike,
    settings: Sequence[Mapping[str, Any]] | None = None,
    *,
    folds: int | Iterable[tuple[ArrayLike, ArrayLike]] | None = None,
    backend: str | Backend = "auto",
    threads: int | None = None,
    progress: bool = False,
    finished: Callable[[int, Result], Any] | None = None,
    **options: Any,
) -> list[Result]:
    """Train many networks on the rows of X to give y: each as `train` alone would, to the bit.

    The rows are read once for all of them, and are not copied for folds. On the numba backend every thread takes a
    network at a time, the longest first; on the others they are trained one after the other.

    Parameters
    ----------
    networks
        One network for all, or a list.
    X, y
        As for `train`.
    settings
        One mapping of options of `train` for each network.
    folds
        A number k, for which every network is trained k times, without one part of the rows and then the next (drawn
        by seed 0, of labels class by class); or pairs of row numbers, (rows to train on, rows held out). Rows held out
        are the run's validation; there may be none.
    backend, threads
        As for `train`; threads: of all networks together.
    progress
        Show a bar on standard error, with the best network so far beside it.
    finished
        Called with the place in the returned list and the result, as soon as that is there; in the calling thread.
    **options
        Those of `train`, each one value for all networks, or a list (or range) of one for each. Callbacks are called
        in the threads that train, so that several may run at once.

    Returns
    -------
    list
        For each network in order, and for each fold of it, the trained Model. In its place stands the DivergenceError
        of one that diverged; or None, if Ctrl-C was pressed before it began.

    Raises
    ------
    TypeError, ValueError
        What `train` would raise for one of the networks, before any is trained; an option that it does not have; lists
        of unequal lengths.
    BackendUnavailableError
        The backend cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> from nnfast import Dense, Network, train_many
    >>> X = np.random.default_rng(0).random((60, 4), dtype="float32")
    >>> network = Network(4, [Dense(8, "relu"), Dense(3, "softmax")])
    >>> models = train_many(network, X, np.arange(60) % 3, epochs=5, learning_rate=[0.001, 0.01], folds=3)
    >>> [model.history.learning_rate[0] for model in models]
    [0.001, 0.001, 0.001, 0.01, 0.01, 0.01]
    """
    engine = get_backend(backend, threads)
    data, chosen = Data(X, y), _broadcast(networks, settings, options)
    if folds is None:
        jobs = [_checked(index, *one, data) for index, one in enumerate(chosen)]
        queue = _queue(jobs, 1)
    else:
        if any(one.validation is not None for _, one in chosen):
            raise ValueError("validation is what folds hold out: give folds or validation")
        pairs = _pairs(folds, _checked(0, *chosen[0], data))
        jobs = [_checked(index, *one, data, *pair) for index, one in enumerate(chosen) for pair in pairs]
        queue = _queue(jobs, len(pairs))
    with contextlib.ExitStack() as stack:
        heard = [finished] if finished else []
        if progress:
            heard.append(stack.enter_context(networks_bar(len(jobs))))
        interruption = stack.enter_context(interruptible())

        last = _LastProgram(engine)

        def run(job: Job) -> Result:
            if interruption.noted:
                return None
            try:
                return job.run(last.or_compiled, interruption, backend=backend, threads=threads)
            except DivergenceError as error:
                return error.with_traceback(None)  # which would keep the program

        def tell(index: int, result: Result) -> None:
            for function in heard:
                function(index, result)

        results = _run_all(jobs, queue, run, engine.programs_at_once, interruption, tell)
    if interruption.noted:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    return results


def _broadcast(
    networks: Network | Sequence[Network], settings: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any]
) -> list[tuple[Network, Settings]]:
    """Every network with its settings."""
    lists: dict[str, Sequence[Any]] = {}
    if not isinstance(networks, Network):
        lists["networks"] = list(networks)
    if settings is not None:
        if isinstance(settings, Mapping):
            raise TypeError("settings must be a list with a mapping for each network, got one: put it into a list")
        lists["settings"] = list(settings)
    for name, value in options.items():
        _check_name(name)
        # A list of functions means them all for every network, as in train()
        if name not in _ARRAYS and isinstance(value, np.ndarray | tuple):
            raise TypeError(
                f"{name} must be one value for all networks or a list with one for each, got {shown(value)}"
            )
        if isinstance(value, list | range) and not (name == "callbacks" and all(map(callable, value))):
            lists[name] = value
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"lists must have one entry for each network, but these have: {found}")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise ValueError(f"there are no networks to train: {next(iter(counts))} is empty")
    broadcast = []
    for index in range(count):
        own = {name: lists[name][index] if name in lists else value for name, value in options.items()}
        for name, value in dict(lists["settings"][index] if settings is not None else {}).items():
            _check_name(name)
            if name in own:
                raise ValueError(f"{name} is given twice for network {index}, in its settings and as an option")
            own[name] = value
        broadcast.append((networks if isinstance(networks, Network) else lists["networks"][index], Settings(**own)))
    return broadcast


def _check_name(name: str) -> None:
    if name not in _OPTIONS:
        close = difflib.get_close_matches(str(name), _OPTIONS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; train has {', '.join(_OPTIONS)}"
        raise TypeError(f"train has no option {name!r}{hint}")


def _checked(index: int, network: Network, settings: Settings, data: Data, *rows: NDArray[np.int64]) -> Job:
    try:
        return make_job(network, data, settings, *rows)
    except (TypeError, ValueError) as error:
        raise type(error)(f"network {index}: {error}") from None


def _pairs(folds: int | Iterable[tuple[ArrayLike, ArrayLike]], job: Job) -> list[Pair]:
    """The row numbers of every fold. job: of any network on all rows."""
    n_rows = job.n_rows
    if hasattr(folds, "split"):
        raise TypeError(f"folds must be a number or pairs of row numbers, got {shown(folds)}: pass its .split(X)")
    if not isinstance(folds, Iterable):
        return fold_rows(n_rows, folds, 0, labels=class_labels(job.parts()[0].source, job.targets))
    pairs = []
    for number, pair in enumerate(folds):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"fold {number} must be a pair, rows to train on and rows held out, got {shown(pair)}")
        kept, held_out = (check_row_numbers(rows, n_rows, f"fold {number}") for rows in pair)
        if not len(kept):
            raise ValueError(f"fold {number} has no rows to train on")
        if len(both := np.intersect1d(kept, held_out)):
            raise ValueError(f"fold {number} holds out row {both[0]}, which it also trains on")
        pairs.append((kept, held_out))
    if not pairs:
        raise ValueError("folds is empty")
    return pairs


class _LastProgram(threading.local):
    """The program of each thread's last job, for the next one if it is of an equal network and recipe.

    To make one takes as long as some steps of a small network, and holds Python's lock.
    """

    def __init__(self, engine: Backend) -> None:
        self._engine = engine
        self._made_of: tuple[Any, ...] = ()
        self._program: Program | None = None

    def or_compiled(self, plan: Plan, recipe: Recipe) -> Program:
        # Two losses may be equal and yet give out different numbers
        made_of = plan, recipe, recipe.loss.reported, recipe.loss.reported_within
        if self._program is None or made_of != self._made_of:
            self._program = None  # so that two are not held at once
            self._program, self._made_of = self._engine.compile(plan, recipe), made_of
        return self._program


def _taken(done: SimpleQueue[Future[Result]]) -> Future[Result]:
    """The next that is done. A signal may reach another thread, and its handler runs once this one looks up."""
    while True:
        with contextlib.suppress(Empty):
            return done.get(timeout=0.2)


def _queue(jobs: Sequence[Job], folds: int) -> list[int]:
    """The places of all jobs, the longest network's first; a network's folds stand together, so that they end together.

    folds: how many jobs each network has.
    """
    longest = [max(job.flops for job in jobs[first : first + folds]) for first in range(0, len(jobs), folds)]
    return sorted(range(len(jobs)), key=lambda place: (-longest[place // folds], place // folds, -jobs[place].flops))


def _run_all(
    jobs: Sequence[Job],
    queue: Sequence[int],
    run: Callable[[Job], Result],
    at_once: int,
    interruption: Interruption,
    finished: Callable[[int, Result], Any],
) -> list[Result]:
    """The results of all jobs, of which `at_once` run at a time, begun in the queue's order."""
    results: list[Result] = [None] * len(jobs)
    if min(at_once, len(jobs)) == 1:
        for index in queue:
            results[index] = run(jobs[index])
            finished(index, results[index])
        return results

    def run_beside(job: Job) -> Result:
        with share_kept():
            return run(job)

    with ThreadPoolExecutor(min(at_once, len(jobs)), "nnfast") as pool:
        done: SimpleQueue[Future[Result]] = SimpleQueue()
        running = {pool.submit(run_beside, jobs[index]): index for index in queue}
        for future in running:
            future.add_done_callback(done.put)
        try:
            for _ in running:
                future = _taken(done)
                index = running[future]
                results[index] = future.result()
                finished(index, results[index])
        except BaseException:
            interruption.noted = True  # the others end after their stretches
            pool.shutdown(cancel_futures=True)
            raise
    return results
