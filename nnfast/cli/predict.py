"""nnfast predict and nnfast evaluate: a trained network on data, its own or new."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend, get_backend
from ..data import EMBEDDED, Dataset, Inputs, Table, load_dataset, load_inputs
from ..data.splits import TEST
from ..data.table import listed
from ..data.targets import ClassTargets
from ..models.ensemble import Trained, first_member, load_trained
from ..support.files import write_text
from .exit_codes import OK
from .preparation import Part, test_part
from .results import score_words, show_predictions
from .run_directory import find_run, to_json
from .terminal import note


def predict_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast predict`: a CSV line per row, in DATA's order."""
    model, config, _ = _load(arguments)
    out = Path(arguments.out) if arguments.out else None
    if out and not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no directory {str(out.parent)!r}")
    inputs = load_inputs(arguments.data, target=config.get("target"), text_columns=_text_columns(model))
    _check_kind(inputs, model)
    header, rows = _probabilities(model, inputs) if arguments.proba else _predictions(model, inputs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    if out:
        write_text(out, text.getvalue())
    else:
        sys.stdout.write(text.getvalue())
    return OK


def evaluate_command(arguments: argparse.Namespace) -> int:
    """Run `nnfast evaluate`.

    Measured is the test part where DATA brings one; where RUN was trained on this DATA and held rows out, those rows,
    drawn again from its seed; else all rows.
    """
    model, config, backend = _load(arguments)
    target, text_columns = arguments.target, _text_columns(model)
    if target is None and arguments.data.lower().endswith(".csv"):
        target = config.get("target")
    if isinstance(model.targets, ClassTargets) and model.targets.classes.dtype.kind == "U" and target:
        text_columns = (*text_columns, target)
    dataset = load_dataset(arguments.data, target=target, text_columns=text_columns)
    is_own = _is_same_data(arguments.data, config.get("data"))
    part, which = test_part(dataset), "test"
    if part is None:
        part, which = Part(dataset.x_train, dataset.y_train), "all"
        if is_own and config.get("test") and {"seed", "task"} <= config.keys():
            _, held_out = part.split(config["test"], config["seed"], config["task"], TEST)
            assert held_out is not None
            part, which = held_out, "test"
        elif is_own:
            note("these rows were trained on: no part was held out to test with")
    _check_kind(part.X, model)
    part = _with_the_model_s_labels(part, dataset, model)
    scores = model.evaluate(part.X, part.y)
    if arguments.json:
        print(to_json({"data": arguments.data, "backend": backend.name, "part": which, "rows": len(part), **scores}))
        return OK
    show_predictions(model, part)
    name = "test " if which == "test" else ""
    print(f"{name}{score_words(scores, len(part))}; loss {scores['loss']:.4g}; on {backend.name}")
    return OK


def _load(arguments: argparse.Namespace) -> tuple[Trained, dict[str, Any], Backend]:
    backend = get_backend(arguments.backend, arguments.threads)
    path, config = find_run(arguments.run)
    return load_trained(path, backend), config, backend


def _text_columns(model: Trained) -> tuple[str, ...]:
    return tuple(model.inputs.categories) if model.inputs else ()


def _check_kind(inputs: Inputs, model: Trained) -> None:
    """Raise ValueError for a CSV where the model takes an array, and for an array where it takes a table."""
    encoding = model.inputs
    if isinstance(inputs, Table) and (encoding is None or encoding.names is None):
        shape = ", ".join(map(str, ("n_rows", *first_member(model).network.input_shape)))
        raise ValueError(f"this model was trained on an array, not on a CSV: give an .npz file with X of ({shape})")
    if not isinstance(inputs, Table) and encoding is not None and encoding.categories:
        raise ValueError(f"this model was trained on a CSV: give one with the columns {listed(encoding.names or ())}")


def _with_the_model_s_labels(part: Part, dataset: Dataset, model: Trained) -> Part:
    """Named classes as numbers, for a model that was trained when the data set had numbers."""
    knows_numbers = isinstance(model.targets, ClassTargets) and model.targets.classes.dtype.kind != "U"
    if dataset.class_names is None or not knows_numbers:
        return part
    return Part(part.X, np.array([dataset.class_names.index(name) for name in part.y]))


def _is_same_data(data: str, trained_on: str | None) -> bool:
    if trained_on is None or data in EMBEDDED or trained_on in EMBEDDED:
        return data == trained_on
    return os.path.realpath(data) == os.path.realpath(trained_on)


def _predictions(model: Trained, inputs: Inputs) -> tuple[list[str], list[list[Any]]]:
    predictions = model.predict(inputs)
    if not isinstance(model.targets, ClassTargets):
        # As many digits as the network computes
        predictions = predictions.astype(first_member(model).parameters.dtype)
    predictions = predictions.reshape(len(predictions), -1)
    n_columns = predictions.shape[1]
    names = [f"prediction_{column}" for column in range(n_columns)] if n_columns > 1 else ["prediction"]
    return names, [[str(value) for value in row] for row in predictions]


def _probabilities(model: Trained, inputs: Inputs) -> tuple[list[str], list[list[Any]]]:
    if not isinstance(model.targets, ClassTargets):
        raise ValueError("--proba is for classes, but this model was trained on numbers")
    probabilities = model.predict_proba(inputs)
    return [str(name) for name in model.targets.classes], [[str(value) for value in row] for row in probabilities]
