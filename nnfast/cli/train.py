"""nnfast train: from options to a trained, measured and, with --out, saved network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..backends import Backend, get_backend
from ..data.targets import ClassTargets
from ..training.stopping import DivergenceError
from .exit_codes import INTERRUPTED, OK
from .fitting import Fitted, alone, fit
from .log import hush
from .options import brought, merge, read_config
from .preparation import Prepared, prepare
from .results import score_words, show_predictions
from .run_directory import RunDirectory, to_json
from .terminal import is_watched, note, note_on_data, print_header


def train_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast train`. Returns the exit code; raises what main() turns into one line."""
    given = {name: value for name, value in vars(arguments).items() if name not in ("command", "config")}
    config = read_config(arguments.config) if arguments.config else {}
    options = merge(given, config)
    backend = get_backend(options["backend"], options["threads"])
    run = prepare(options)
    quiet = options["quiet"]
    if quiet:
        hush()
    watched = is_watched(quiet)
    if watched:
        print_header(run, backend, brought(options, given.keys() | config.keys()))
    if not quiet:
        note_on_data(run.data, options["data"], given, with_task=not watched)
    return complete(run, backend)


def complete(run: Prepared, backend: Backend, beside: Mapping[str, Any] | None = None) -> int:
    """Train, measure, save with --out, and print the result. Returns the exit code.

    beside: what the object of --json has besides.
    """
    values = run.values
    values["backend"] = full_name(values["backend"], backend)
    directory = RunDirectory(values["out"], values) if values["out"] else None
    try:
        fitted = fit(run, backend, directory, is_watched(values["quiet"]))
    except DivergenceError as error:
        if directory:
            directory.save(error.model, f"{values['data']}, diverged")
        if values["json"]:
            print(to_json({**_summary(run, alone(error.model), None, directory), **(beside or {})}))
        raise
    except BaseException:
        if directory:
            directory.abandon()
        raise
    # Where nothing was held out to test with, there is only what was trained on.
    data = run.data
    measured, part = (data.test, "test") if data.test is not None else (data.training, "training")
    if directory and (missing := directory.save(fitted.trained, values["data"], measured)) and not values["quiet"]:
        note(missing)
    scores = fitted.trained.evaluate(measured.X, measured.y)
    each = [member.evaluate(measured.X, measured.y) for member in fitted.members] if values["ensemble"] > 1 else []
    result = _Result(part, len(measured), scores, each)
    if values["json"]:
        print(to_json({**_summary(run, fitted, result, directory), **(beside or {})}))
    else:
        if not values["quiet"]:
            show_predictions(fitted.trained, measured)
        print(_final_line(run, fitted, result, directory))
    return INTERRUPTED if fitted.is_interrupted else OK


class _Result(NamedTuple):
    """What was measured. each: an ensemble's members, as they predict alone."""

    part: str
    rows: int
    scores: dict[str, float]
    each: list[dict[str, float]]

    def of_members(self, name: str) -> float:
        return float(np.mean([scores[name] for scores in self.each]))


def full_name(asked: str, backend: Backend) -> str:
    """A name that selects this backend again: "cuda:1" stays, "auto" becomes what it chose."""
    return backend.name if asked == "auto" else asked


def _epochs(fitted: Fitted) -> int:
    return sum(member.history.epochs for member in fitted.members)


def _speed(run: Prepared, fitted: Fitted) -> float | None:
    """Training rows a second, of all networks."""
    return len(run.data.training) * _epochs(fitted) / fitted.seconds if fitted.seconds else None


def _stopped(fitted: Fitted) -> str:
    """Why training ended; of several networks, "early stopping" if one did."""
    if fitted.is_interrupted:
        return "interrupted"
    reasons = {member.history.stopped for member in fitted.members}
    return reasons.pop() if len(reasons) == 1 else "early stopping"


def _best_epoch(run: Prepared, fitted: Fitted) -> int | None:
    """Of a single network, the epoch whose weights early stopping kept."""
    return fitted.members[0].history.best_epoch if run.values["ensemble"] == 1 else None


def _kept(fitted: Fitted, name: str) -> float | None:
    """The loss or a metric at the kept weights, on average over the networks."""
    values = [member.history.kept(name) for member in fitted.members]
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def _threads(fitted: Fitted) -> float | None:
    """In how many threads a single network was trained, on average; None on a backend without threads of its own."""
    threads = fitted.members[0].history.threads if len(fitted.members) == 1 else []
    return sum(threads) / len(threads) if threads else None


def _summary(run: Prepared, fitted: Fitted, result: _Result | None, directory: RunDirectory | None) -> dict[str, Any]:
    """The object that --json prints. Without a test part, its score is null and the training part's stands beside."""
    data, values = run.data, run.values
    metric = "accuracy" if isinstance(run.targets, ClassTargets) else "r2"
    summary: dict[str, Any] = {
        "data": values["data"],
        "task": values["task"],
        "backend": values["backend"],
        "dtype": values["dtype"],
        "seed": values["seed"],
        "networks": len(fitted.members),
        "diverged": fitted.diverged,
        "parameters": run.network.parameter_count,
        "training_rows": len(data.training),
        "test_rows": 0 if data.test is None else len(data.test),
        "epochs": _epochs(fitted),
        "stopped": _stopped(fitted),
        "best_epoch": _best_epoch(run, fitted),
        "train_loss": _kept(fitted, "loss"),
        f"test_{metric}": None,
    }
    if result:
        scores = result.scores if result.part == "test" else {metric: result.scores[metric]}
        summary |= {f"{result.part}_{name}": value for name, value in scores.items()}
        if result.each:
            summary[f"members_{result.part}_{metric}"] = result.of_members(metric)
    summary |= {name: _kept(fitted, name) for name in fitted.members[0].history.metrics}
    return summary | {
        "seconds": fitted.seconds,
        "samples_per_second": _speed(run, fitted),
        "threads": _threads(fitted),
        "out": None if directory is None else directory.path,
    }


def _members_words(asked: int, fitted: Fitted, result: _Result) -> str:
    """ "8 networks, each 96.69% on average, 1 more diverged"; "3 of 8 networks, ..." after Ctrl-C."""
    accuracy = "accuracy" in result.scores
    mean = f"{result.of_members('accuracy'):.2%}" if accuracy else f"R2 {result.of_members('r2'):.4f}"
    diverged = f", {fitted.diverged} more diverged" if fitted.diverged else ""
    of_asked = f" of {asked}" if fitted.is_interrupted else ""
    return f"{len(fitted.members)}{of_asked} networks, each {mean} on average{diverged}"


def _final_line(run: Prepared, fitted: Fitted, result: _Result, directory: RunDirectory | None) -> str:
    endings = {"interrupted": "interrupted after", "early stopping": "stopped early after"}
    count = _epochs(fitted)
    epochs = f"{count:,} epoch{'s' * (count != 1)} in {fitted.seconds:.3g} s"
    best_epoch = _best_epoch(run, fitted)
    best = f" (the weights of epoch {best_epoch} are kept)" if best_epoch else ""
    loss, threads = _kept(fitted, "loss"), _threads(fitted)
    used = "" if threads is None else f", {threads:.2g} thread{'s' * (threads != 1)}"
    parts = [
        f"{result.part} {score_words(result.scores, result.rows)}",
        *([_members_words(run.values["ensemble"], fitted, result)] if result.each else []),
        *([] if loss is None else [f"training loss {loss:.4g}"]),
        f"{endings.get(_stopped(fitted), '')} {epochs}{best}".strip(),
        f"{_speed(run, fitted) or 0:,.0f} samples/s on {run.values['backend']}{used}",
    ]
    if directory:
        parts.append(f"saved in {directory.path}")
    return "; ".join(parts)
