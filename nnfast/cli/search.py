"""nnfast search: many candidates, each measured on folds; the best is trained on all training rows and saved."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend, get_backend
from ..data import EMBEDDED
from ..data.splits import fold_rows
from ..models.model import Model
from ..support.checks import check_integer
from ..support.random import check_seed
from ..training.many import Result, train_many
from ..training.progress import bar
from ..training.stopping import DivergenceError
from .candidates import Values, candidates, in_words, key_of
from .exit_codes import DIVERGED, INTERRUPTED
from .log import hush
from .options import OF_SEARCH, ROWS, merge, read_config
from .preparation import Divided, divide, prepare, random_seed
from .ranking import Candidate, ranked, score_words_of, table
from .run_directory import RunDirectory, to_json
from .search_file import SearchFile, only_search_in
from .terminal import is_watched, note, note_on_data
from .train import complete, full_name


@dataclass(frozen=True, eq=False)
class _Search:
    """options: of the command. pairs: the rows of every fold. file: where trainings are written down as they end."""

    options: Mapping[str, Any]
    data: Divided
    candidates: list[Candidate]
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    backend: Backend
    file: SearchFile | None

    @property
    def finished(self) -> list[Candidate]:
        """The candidates with all folds."""
        return [candidate for candidate in self.candidates if len(candidate.folds) == len(self.pairs)]

    @property
    def trainings(self) -> int:
        """How many ended."""
        return sum(len(candidate.folds) for candidate in self.candidates)


def search_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast search`. Returns the exit code; raises what main() turns into one line."""
    own = ("command", "config", *OF_SEARCH)
    given = {name: value for name, value in vars(arguments).items() if name not in own}
    config = read_config(arguments.config) if arguments.config else {}
    asked = {name: value.sample if isinstance(value, Values) else value for name, value in given.items()}
    options = merge(asked, config)  # of one candidate: the others differ in what is varied
    if options["validation"]:
        raise ValueError(
            f"{arguments.config}: validation is {options['validation']}, but a search holds out folds: leave it out"
        )
    if options["quiet"]:
        hush()
    backend = get_backend(options["backend"], options["threads"])
    options["backend"] = full_name(options["backend"], backend)
    with contextlib.ExitStack() as stack:
        file = None
        if options["out"]:
            directory = RunDirectory(options["out"], {})  # the best candidate's run will have one with its options
            stack.enter_context(only_search_in(directory.path))
            stack.callback(directory.abandon)
            file = stack.enter_context(contextlib.closing(SearchFile(directory.path)))
        if options["seed"] == "random":
            options["seed"] = file.head["seed"] if file and file.head else random_seed()
        check_seed(options["seed"])
        varied = [given[name] for name in ROWS if isinstance(given.get(name), Values) and not given[name].is_single]
        search = _make(arguments, options, varied, lambda settings: merge(asked | settings, config), backend, file)
        if not options["quiet"]:
            note_on_data(search.data, options["data"], given)
            for values in varied:
                if values.repetition:
                    note(values.repetition)
            if arguments.trials and len(search.candidates) < arguments.trials:
                note(f"{arguments.trials} draws, {len(search.candidates)} of them different")
            _note_what(search)
        with _telling(search) as tell:
            is_over = _run(search, tell)
        return _end(search, is_over)


def _make(
    arguments: argparse.Namespace,
    options: dict[str, Any],
    varied: list[Values],
    options_of: Callable[[dict[str, Any]], dict[str, Any]],
    backend: Backend,
    file: SearchFile | None,
) -> _Search:
    """The data, and the candidates with what the file knows of them."""
    settings = candidates(varied, arguments.trials, options["seed"])
    n_folds = check_integer(arguments.folds, "--folds", 2)
    data = divide(options)
    decided = {name: options[name] for name in ("backend", "seed")}
    metric, labels = "r2", None
    if data.task == "classification":
        metric, labels = "accuracy", data.training.y.reshape(-1)
    found = [Candidate(one, prepare(options_of(one) | decided, data), metric) for one in settings]
    pairs = fold_rows(len(data.training), n_folds, options["seed"], labels=labels)
    if file:
        file.begin(_head(options, n_folds, [values.option.name for values in varied]))
        known = {key_of(candidate.settings): candidate for candidate in found}
        for line in file.lines:
            candidate = known.get(key_of(line["candidate"]))
            if candidate and line["fold"] in range(n_folds):
                candidate.folds[line["fold"]] = line
    return _Search(options, data, found, pairs, backend, file)


def _head(options: Mapping[str, Any], n_folds: int, varied: list[str]) -> dict[str, Any]:
    """What must be the same where a search goes on: all that scores depend on besides the candidates' settings."""
    head: dict[str, Any] = {"data": options["data"]}
    if options["data"] not in EMBEDDED:
        with open(options["data"], "rb") as file:
            head["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    others = ("ensemble", "validation", *varied)
    fixed = {name: options[name] for name, option in ROWS.items() if option.is_about_run and name not in others}
    return {**head, "folds": n_folds, "varied": varied, **fixed}


def _note_what(search: _Search) -> None:
    """How much there is to do: for a terminal, and where a search goes on."""
    count = len(search.candidates) * len(search.pairs)
    if search.file and search.trainings:
        note(f"{search.trainings} of {count} trainings are in {search.file.path}")
    if is_watched(search.options["quiet"]):
        rows = f"{len(search.data.training):,} training rows"
        folds = f"{len(search.candidates)} candidates x {len(search.pairs)} folds"
        note(f"{search.options['data']}: {rows}; {folds} on {search.options['backend']}")


def _run(search: _Search, tell: Callable[[Candidate], None]) -> bool:
    """Train what is missing, and say whether all of it ended."""
    missing: dict[tuple[int, ...], list[Candidate]] = {}
    for candidate in search.candidates:
        folds = tuple(fold for fold in range(len(search.pairs)) if fold not in candidate.folds)
        if folds:
            missing.setdefault(folds, []).append(candidate)
    # One call for all, unless a search goes on that ended amid some candidates' folds
    return all(_run_folds(search, some, folds, tell) for folds, some in missing.items())


def _run_folds(
    search: _Search, some: list[Candidate], folds: tuple[int, ...], tell: Callable[[Candidate], None]
) -> bool:
    """Train these candidates on these folds, and say whether all of it ended."""
    training = search.data.training

    def finished(place: int, result: Result) -> None:
        candidate, fold = some[place // len(folds)], folds[place % len(folds)]
        line = _line(candidate, fold, result)
        if line:
            candidate.folds[fold] = line
            if search.file:
                search.file.append(line)
            tell(candidate)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Training interrupted by user")  # the last line says so
        train_many(
            [candidate.run.network for candidate in some],
            training.X,
            training.y,
            [candidate.run.training_options for candidate in some],
            folds=[search.pairs[fold] for fold in folds],
            backend=search.backend,
            finished=finished,
        )
    return all(len(candidate.folds) == len(search.pairs) for candidate in some)


def _line(candidate: Candidate, fold: int, result: Result) -> dict[str, Any] | None:
    """The line of search.jsonl of a training; None if it did not end."""
    line: dict[str, Any] = {"candidate": candidate.settings, "fold": fold}
    if isinstance(result, DivergenceError):
        return line | {"diverged": str(result)}
    if not isinstance(result, Model) or result.history.stopped == "interrupted":
        return None
    history = result.history
    line |= {"epochs": history.epochs, "best_epoch": history.best_epoch, "loss": history.kept("loss")}
    line |= {name: history.kept(name) for name in history.metrics}
    return line | {"seconds": sum(history.seconds)}


@contextlib.contextmanager
def _telling(search: _Search) -> Iterator[Callable[[Candidate], None]]:
    """What is called after each training: on a terminal a bar above the table so far, else a line for a candidate."""
    quiet = search.options["quiet"]
    if not is_watched(quiet):

        def tell(candidate: Candidate) -> None:
            if not quiet and len(candidate.folds) == len(search.pairs):
                counts = f"{len(search.finished)}/{len(search.candidates)}"
                note(f"{counts} {in_words(candidate.settings)}: {score_words_of(candidate)}")

        yield tell
        return
    with bar("training", len(search.candidates) * len(search.pairs)) as (move, text):

        def show(candidate: Candidate) -> None:
            move(search.trainings)
            if len(candidate.folds) == len(search.pairs):
                width, height = shutil.get_terminal_size()
                lines = table(ranked(search.finished)[: max(height - 5, 1)])
                text.plain = "\n".join(line[:width] for line in lines)

        move(search.trainings)
        yield show
        text.plain = ""  # standard output has the whole table


def _end(search: _Search, is_over: bool) -> int:
    """Print the ranking; then train the best on all training rows, and print how it does. Returns the exit code."""
    options, order = search.options, ranked(search.finished)
    is_read = not options["quiet"] and not options["json"]
    if order and is_read:
        print("\n".join(table(order)), end="\n\n")
    beside = {"folds": len(search.pairs), "candidates": [candidate.summary() for candidate in order]}
    if is_over and not order[0].diverged:
        run = order[0].run
        if is_read:
            print(f"{in_words(order[0].settings)}, on all {len(run.data.training):,} training rows:")
        return complete(run, search.backend, beside)
    if options["json"]:
        print(to_json({"data": options["data"], "stopped": "diverged" if is_over else "interrupted", **beside}))
    if is_over:
        note("every candidate diverged: try smaller learning rates, or --clip-norm 1")
        return DIVERGED
    if not options["json"]:
        print(f"interrupted; {_kept_words(search)}")
    return INTERRUPTED


def _kept_words(search: _Search) -> str:
    """What is left of a search that was interrupted."""
    if not search.trainings:
        return "no training had ended"
    ended = f"{search.trainings} of {len(search.candidates) * len(search.pairs)} trainings"
    if search.file:
        return f"{ended} are in {search.options['out']}; the same command goes on"
    return f"{ended} had ended; with --out it could go on"
