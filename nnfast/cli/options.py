"""The vocabulary of a run: one table that the command line and TOML files read, and where each value comes from.

To add an option, add a row. A value comes, in rising order, from the table, from the settings that the data set and the
named network bring, from the file of --config, and from the command line.
"""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a value may be.

    expected: in words. read: from the command line's text; None for what stands in files only. check: what both give.
    """

    expected: str
    read: Callable[[str], Any] | None
    check: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    return float(value)


def _share(value: Any) -> float:
    share = _number(value)
    if not 0 <= share < 1:
        raise ValueError
    return share


def _sizes(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise ValueError
    return [_integer(size) for size in value]


def _read_sizes(text: str) -> list[int]:
    return [] if text.strip() in ("", "none") else [int(size) for size in text.replace(":", ",").split(",")]


def _layers(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(layer, dict) and "kind" in layer for layer in value):
        raise ValueError
    return value


def _integer_or(word: str) -> Kind:
    def read(text: str) -> int | str:
        return word if text == word else int(text)

    def check(value: Any) -> int | str:
        return word if value == word else _integer(value)

    return Kind(f"an integer or {word!r}", read, check)


TEXT = Kind("text", str, _text)
FLAG = Kind("true or false", str, _flag)  # the command line has --name and --no-name
INTEGER = Kind("an integer", int, _integer)
NUMBER = Kind("a number", float, _number)
SHARE = Kind("a share from 0 to below 1", float, _share)
SIZES = Kind("sizes such as 128,64 or none (in a file: a list)", _read_sizes, _sizes)
LAYERS = Kind("[[layers]] tables, each with a kind", None, _layers)


@dataclass(frozen=True)
class Option:
    """A row of the table. default None: what is sensible is decided from the data or the other options."""

    name: str
    kind: Kind
    default: Any
    metavar: str | None
    help: str
    is_about_run: bool = True  # False: about how it is computed or where the results go; no part of what a run is

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any, where: str) -> Any:
        """The value, or a ValueError that says where it stands and what it should be."""
        try:
            return self.kind.check(value)
        except ValueError:
            raise ValueError(f"{where} must be {self.kind.expected}, got {value!r}") from None

    def read(self, text: str) -> Any:
        """The value of a command line's text, as an argparse type."""
        assert self.kind.read is not None
        try:
            return self.kind.check(self.kind.read(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {self.kind.expected}, got {text!r}") from None


_CHOICE = "NAME[:OPTION=VALUE,...]"  # what nnfast.formulas.choices reads

OPTIONS: dict[str, tuple[Option, ...]] = {
    "data": (
        Option("target", TEXT, None, "COLUMN", "the column of a CSV file to learn"),
        Option("task", TEXT, None, "TASK", "classification or regression (default: by the target's values)"),
        Option("test", SHARE, 0.2, "SHARE", "rows held out to test with where the data brings no test part; 0: none"),
        Option("validation", SHARE, 0.0, "SHARE", "rows held out of training to watch it with"),
        Option("standardize", FLAG, True, None, "standardise numbers of tables and targets of a regression"),
    ),
    "network": (
        Option("network", TEXT, None, "NAME", "a network with a name, in place of hidden layers: lenet5"),
        Option("layers", LAYERS, None, None, "in a file: the layers before the outputs, in place of hidden layers"),
        Option("hidden", SIZES, [100], "SIZES", "units of the hidden layers: 128,64 or 128:64, or none"),
        Option("activation", TEXT, "relu", "NAME", "of the hidden layers"),
        Option("output_activation", TEXT, None, "NAME", "of the outputs (default: softmax for classes, else identity)"),
        Option("dropout", NUMBER, 0.0, "RATE", "after every hidden layer"),
        Option("bias", FLAG, True, None, "give the layers biases"),
        Option("initializer", TEXT, "glorot_uniform", "NAME", "of the weights"),
    ),
    "training": (
        Option("loss", TEXT, None, _CHOICE, "what is minimised: huber:delta=2 (default: the output activation's own)"),
        Option("optimizer", TEXT, "adam", _CHOICE, "such as sgd:momentum=0.9,nesterov=true"),
        Option("learning_rate", NUMBER, None, "RATE", "default: the optimizer's own"),
        Option("schedule", TEXT, "constant", _CHOICE, "of the learning rate: cosine:warmup=2"),
        Option("alpha", NUMBER, 0.0, "A", "L2 penalty on the weights: A * W**2 / 2"),
        Option("l1", NUMBER, 0.0, "A", "L1 penalty on the weights: A * |W|"),
        Option("clip_norm", NUMBER, None, "NORM", "longest gradient allowed (default: any)"),
        Option("batch_size", _integer_or("full"), 32, "ROWS", "rows a step, or full"),
        Option("epochs", INTEGER, 50, "N", "passes over the training rows"),
        Option("shuffle", FLAG, True, None, "visit the rows in a new order every epoch"),
        Option("early_stopping", FLAG, False, None, "stop when the validation (else training) loss improves no more"),
        Option("patience", INTEGER, 10, "N", "epochs without improvement that early stopping waits"),
        Option("tolerance", NUMBER, 0.0, "T", "improvement that early stopping takes for none"),
        Option("dtype", TEXT, "float32", "DTYPE", "float32 or float64"),
    ),
    "computation": (
        Option("seed", _integer_or("random"), 0, "N", "of weights, orders, masks and splits; or random"),
        Option("ensemble", INTEGER, 1, "N", "networks, from N seeds that begin with --seed, that predict together"),
        Option("backend", TEXT, "auto", "NAME", "where to compute: see below"),
        Option("threads", INTEGER, None, "N", "of numba; changes no result (default: as many as are fastest)", False),
    ),
    "output": (
        Option("out", TEXT, None, "DIR", "write config.toml, metrics.jsonl, model.safetensors, pictures there", False),
        Option("json", FLAG, False, None, "end standard output with one JSON object", False),
        Option("quiet", FLAG, False, None, "print the final line only", False),
    ),
}  # fmt: skip
ROWS = {option.name: option for options in OPTIONS.values() for option in options}

OF_SEARCH = ("folds", "trials")  # options on the command line of nnfast search alone

# Each describes the layers before the outputs: a source that names one takes back what others said of them.
DESCRIPTIONS = ("network", "layers", "hidden")
OF_HIDDEN = ("activation", "dropout", "bias", "initializer")

# What suits a data set that comes with the package better than the table's defaults. A named network's settings, which
# go before these, are in nnfast.networks.named.
DATA_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "task": "classification", "hidden": [128, 64], "dropout": 0.2, "learning_rate": 0.003, "schedule": "cosine",
        "epochs": 30,
    },
    "fashion-mini": {
        "task": "classification", "learning_rate": 0.003, "schedule": "cosine", "epochs": 30,
    },
    # The classic tutorial's network, to the digit
    "xor": {
        "task": "regression", "test": 0.0, "standardize": False, "hidden": [4], "activation": "sigmoid",
        "output_activation": "sigmoid", "bias": False, "initializer": "uniform_0_1", "loss": "sum_squared_error",
        "optimizer": "sgd", "learning_rate": 1.0, "batch_size": "full", "shuffle": False, "epochs": 1500,
        "dtype": "float64",
    },
}  # fmt: skip


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """The settings as they are given on the command line, each with its value: ["--dropout 0.2", "--no-bias"]."""

    def written(option: Option, value: Any) -> str:
        if option.kind == FLAG:
            return option.flag if value else f"--no-{option.flag[2:]}"
        if option.kind == SIZES:
            value = ",".join(map(str, value)) or "none"
        return f"{option.flag} {value}"

    return [written(ROWS[name], value) for name, value in settings.items()]


def own_settings(data: str, network: str | None) -> dict[str, dict[str, Any]]:
    """The settings that a data set and a named network bring, by name, in ascending precedence."""
    from ..networks.named import TRAINING_SETTINGS

    return {data: DATA_SETTINGS.get(data, {})} | ({network: TRAINING_SETTINGS.get(network, {})} if network else {})


def brought(options: Mapping[str, Any], asked: Collection[str]) -> dict[str, dict[str, Any]]:
    """Options set by the data set or the network, not by the user, by name."""
    found: dict[str, dict[str, Any]] = {}
    seen = set(asked)
    for name, settings in reversed(own_settings(options["data"], options["network"]).items()):
        if used := {key: value for key, value in settings.items() if key not in seen and options[key] == value}:
            found[name] = used
        seen |= settings.keys()
    return found


def read_config(path: str | Path) -> dict[str, Any]:
    """The options in a TOML file, and `data` if it is there. Raises OSError, or ValueError with the key's name."""
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for name in values:
        if name in OF_SEARCH:
            raise ValueError(f"{path}: {name} is not for a file: give --{name} to nnfast search")
        if name not in ROWS and name != "data":
            near = difflib.get_close_matches(name.replace("-", "_"), [*ROWS, "data"], 1)
            raise ValueError(f"{path}: unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not isinstance(values.get("data", ""), str):
        raise ValueError(f"{path}: data must be text, got {values['data']!r}")
    return {
        name: value if name == "data" else ROWS[name].check(value, f"{path}: {name}") for name, value in values.items()
    }


def merge(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value, and `data`: from the table, the data set, the network, the file and the command line.

    A learning rate is a number for one optimizer: a source that names another optimizer and no rate leaves the rate
    to that optimizer. Likewise activation, dropout, bias and initializer are those of `hidden` layers: None beside a
    network or layers. Raises ValueError for a source that describes the network twice.
    """
    data = given.get("data") or config.get("data")
    if not data:
        raise ValueError(f"give DATA: {', '.join(DATA_SETTINGS)}, an .npz file or a .csv file")
    values = {option.name: option.default for option in ROWS.values()}
    describing = given if any(name in given for name in DESCRIPTIONS) else config
    for source in (*own_settings(data, describing.get("network")).values(), config, given):
        if "optimizer" in source and "learning_rate" not in source:
            values["learning_rate"] = None
        described = [name for name in DESCRIPTIONS if name in source]
        if len(described) > 1:
            raise ValueError(f"{' and '.join(described)} both describe the layers: give one of them")
        if described:
            values |= dict.fromkeys(DESCRIPTIONS)
            values |= {name: ROWS[name].default if described == ["hidden"] else None for name in OF_HIDDEN}
        values |= {name: value for name, value in source.items() if name in ROWS}
    if values["hidden"] is None:
        for name in OF_HIDDEN:
            if values[name] is not None:
                raise ValueError(f"{name} is of hidden layers: a named network and layers of a file have their own")
    return {"data": data, **values}
