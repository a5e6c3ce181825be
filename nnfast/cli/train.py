"""nnfast train: from options to a trained, measured and, with --out, saved network."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from typing import Any

from ..backends import Backend, get_backend
from ..data.targets import ClassTargets
from ..models.model import Model
from ..training.progress import progress_bar
from ..training.stopping import DivergenceError, EarlyStopping
from ..training.train import train
from .exit_codes import INTERRUPTED, OK
from .log import hush
from .options import brought, merge, read_config
from .preparation import Prepared, prepare
from .results import score_words, show_predictions
from .run_directory import RunDirectory, to_json
from .terminal import is_watched, note, print_header


def train_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast train`. Returns the exit code; raises what main() turns into one line."""
    given = {name: value for name, value in vars(arguments).items() if name not in ("command", "config")}
    config = read_config(arguments.config) if arguments.config else {}
    options = merge(given, config)
    backend = get_backend(options["backend"], options["threads"])
    run = prepare(options)
    run.values["backend"] = _full_name(options["backend"], backend)
    quiet = options["quiet"] or False
    if quiet:
        hush()
    watched = is_watched(quiet)
    if watched:
        print_header(run, backend, brought(options, given.keys() | config.keys()))
    elif run.reason and not quiet:
        note(f"the task is {run.values['task']}: {run.reason}")
    if "test" in given and run.brings_test and not quiet:
        note(f"{options['data']} brings its own test part; --test is not used")
    directory = RunDirectory(options["out"], run.values) if options["out"] else None
    try:
        model = _train(run, backend, directory, watched)
    except DivergenceError as error:
        if directory:
            directory.save(error.model, f"{options['data']}, diverged")
        if options["json"]:
            print(to_json(_summary(run, error.model, None, {}, directory)))
        raise
    except BaseException:
        if directory:
            directory.abandon()
        raise
    # Where nothing was held out to test with, there is only what was trained on.
    measured, part = (run.test, "test") if run.test is not None else (run.training, "training")
    if directory and (missing := directory.save(model, options["data"], measured)):
        note(missing)
    scores = model.evaluate(measured.X, measured.y)
    if options["json"]:
        print(to_json(_summary(run, model, part, scores, directory)))
    else:
        if not quiet:
            show_predictions(model, measured)
        print(_final_line(run, model, part, len(measured), scores, directory))
    return INTERRUPTED if model.history.stopped == "interrupted" else OK


def _train(run: Prepared, backend: Backend, directory: RunDirectory | None, watched: bool) -> Model:
    values = run.values
    early_stopping: bool | EarlyStopping = False
    if values["early_stopping"]:
        early_stopping = EarlyStopping(values["patience"], values["tolerance"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Training interrupted by user")  # the final line says so
        # Without a callback, tiny networks run many epochs in one call
        callbacks: list[Any] = [directory.record] if directory else []
        if watched:
            callbacks.append(stack.enter_context(progress_bar(values["epochs"])))
        return train(
            run.network,
            run.training.X,
            run.training.y,
            loss=values["loss"],
            optimizer=run.optimizer,
            learning_rate=values["learning_rate"],
            epochs=values["epochs"],
            batch_size=values["batch_size"],
            schedule=run.schedule,
            alpha=values["alpha"],
            l1=values["l1"],
            clip_norm=values["clip_norm"],
            validation=None if run.validation is None else (run.validation.X, run.validation.y),
            early_stopping=early_stopping,
            shuffle=values["shuffle"],
            backend=backend,
            dtype=values["dtype"],
            seed=values["seed"],
            callbacks=callbacks,
            inputs=run.inputs,
            targets=run.targets,
            input_scale=run.input_scale,
        )


def _full_name(asked: str, backend: Backend) -> str:
    """A name that selects this backend again: "cuda:1" stays, "auto" becomes what it chose."""
    return backend.name if asked == "auto" else asked


def _speed(run: Prepared, model: Model) -> float | None:
    """Training rows a second."""
    seconds = sum(model.history.seconds)
    return len(run.training) * model.history.epochs / seconds if seconds else None


def _threads(model: Model) -> float | None:
    """The mean over the run; None where the backend has none of its own."""
    threads = model.history.threads
    return sum(threads) / len(threads) if threads else None


def _summary(
    run: Prepared, model: Model, part: str | None, scores: dict[str, float], directory: RunDirectory | None
) -> dict[str, Any]:
    """The object that --json prints. Without a test part, its score is null and the training part's stands beside."""
    history, values = model.history, run.values
    metric = "accuracy" if isinstance(model.targets, ClassTargets) else "r2"
    summary: dict[str, Any] = {
        "data": values["data"],
        "task": values["task"],
        "backend": values["backend"],
        "dtype": values["dtype"],
        "seed": values["seed"],
        "parameters": run.network.parameter_count,
        "training_rows": len(run.training),
        "test_rows": 0 if run.test is None else len(run.test),
        "epochs": history.epochs,
        "stopped": history.stopped,
        "best_epoch": history.best_epoch,
        "train_loss": _kept(model, history.loss),
        f"test_{metric}": None,
    }
    if part:
        summary |= {f"{part}_{name}": value for name, value in scores.items() if part == "test" or name != "loss"}
    summary |= {name: _kept(model, values) for name, values in history.metrics.items()}
    return summary | {
        "seconds": sum(history.seconds, 0.0),
        "samples_per_second": _speed(run, model),
        "threads": _threads(model),
        "out": None if directory is None else directory.path,
    }


def _kept(model: Model, values: list[float]) -> float | None:
    """Of a value per epoch, that of the epoch whose weights the model has."""
    return values[(model.history.best_epoch or len(values)) - 1] if values else None


def _final_line(
    run: Prepared, model: Model, part: str, rows: int, scores: dict[str, float], directory: RunDirectory | None
) -> str:
    history = model.history
    endings = {"interrupted": "interrupted after", "early stopping": "stopped early after"}
    epochs = f"{history.epochs:,} epoch{'s' * (history.epochs != 1)} in {sum(history.seconds):.3g} s"
    best = f" (the weights of epoch {history.best_epoch} are kept)" if history.best_epoch else ""
    loss, threads = _kept(model, history.loss), _threads(model)
    used = "" if threads is None else f", {threads:.2g} thread{'s' * (threads != 1)}"
    parts = [
        f"{part} {score_words(scores, rows)}",
        *([] if loss is None else [f"training loss {loss:.4g}"]),
        f"{endings.get(history.stopped, '')} {epochs}{best}".strip(),
        f"{_speed(run, model) or 0:,.0f} samples/s on {run.values['backend']}{used}",
    ]
    if directory:
        parts.append(f"saved in {directory.path}")
    return "; ".join(parts)
