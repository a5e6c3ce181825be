"""Training what a run asks for: one network, or several that predict together."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..backends import Backend
from ..models.ensemble import Ensemble, Trained
from ..models.model import Model
from ..training.many import Result, train_many
from ..training.progress import networks_bar, progress_bar
from ..training.stopping import DivergenceError
from ..training.train import train
from .preparation import Prepared
from .run_directory import RunDirectory


@dataclass(frozen=True, eq=False)
class Fitted:
    """A Model, or an Ensemble of the members. diverged: how many are left out. seconds: of training."""

    trained: Trained
    members: tuple[Model, ...]
    seconds: float
    is_interrupted: bool
    diverged: int = 0


def alone(model: Model) -> Fitted:
    """A single network, as it is reported."""
    return Fitted(model, (model,), sum(model.history.seconds, 0.0), model.history.stopped == "interrupted")


def fit(run: Prepared, backend: Backend, directory: RunDirectory | None, watched: bool) -> Fitted:
    """Train; the epochs go to the directory, and progress to a watched terminal. Raises what train() raises."""
    data = run.data.training
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Training interrupted by user")  # the final line says so
        if run.values["ensemble"] > 1:
            show = stack.enter_context(networks_bar(run.values["ensemble"])) if watched else None
            return _fit_ensemble(run, backend, directory, show)
        # Without a callback, tiny networks run many epochs in one call
        callbacks: list[Any] = [directory.record] if directory else []
        if watched:
            callbacks.append(stack.enter_context(progress_bar(run.values["epochs"])))
        return alone(train(run.network, data.X, data.y, backend=backend, callbacks=callbacks, **run.training_options))


def _fit_ensemble(
    run: Prepared, backend: Backend, directory: RunDirectory | None, show: Callable[[int, Result], Any] | None
) -> Fitted:
    """Those that were trained to their ends; if Ctrl-C came before, as far as they are."""
    data, count = run.data.training, run.values["ensemble"]

    def finished(index: int, result: Result) -> None:
        if directory:
            model = result.model if isinstance(result, DivergenceError) else result
            directory.record_network(index, model.history if model else None)
        if show:
            show(index, result)

    seeds = [run.values["seed"] + index for index in range(count)]
    options = run.training_options | {"seed": seeds}
    start = time.perf_counter()
    results = train_many(run.network, data.X, data.y, backend=backend, finished=finished, **options)
    seconds = time.perf_counter() - start
    errors = [result for result in results if isinstance(result, DivergenceError)]
    begun = [result for result in results if isinstance(result, Model)]
    ended = [model for model in begun if model.history.stopped != "interrupted"]
    members = ended or begun
    if not members:
        if errors:
            raise errors[0]
        raise KeyboardInterrupt
    is_interrupted = len(ended) + len(errors) < count
    return Fitted(Ensemble(members), tuple(members), seconds, is_interrupted, len(errors))
