"""The options on the command line: what the parsers take, and the help on names and settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from .candidates import several
from .options import DATA_SETTINGS, FLAG, OPTIONS, ROWS, SIZES, Option, as_options

# A search may have several values of these; of the others it has one, and folds are held out instead of validation
SEARCHED = ("network", "training")
NOT_OF_SEARCH = ("validation",)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """DATA, --config and the table's options; what is not given does not appear in the result."""
    _add_data(parser, "a TOML file of options")
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            _add_option(group, option, option.read)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """As add_train_arguments; options that may have several values have them as Values."""
    one_each = "a TOML file of options, one value each"
    _add_data(parser, f"{one_each} (--folds, --trials and several values are for the command line)")
    group = parser.add_argument_group("search")
    group.add_argument("--folds", metavar="K", type=int, default=5, help="parts of the rows to hold out in turn (5)")
    group.add_argument("--trials", metavar="N", type=int, help="draw N candidates (default: all combinations)")
    for title, options in OPTIONS.items():
        is_searched = title in SEARCHED
        group = parser.add_argument_group(f"{title}, each with one value or several" if is_searched else title)
        for option in options:
            if option.kind == SIZES:
                option = replace(option, help="units of the hidden layers: 128:64 for two, or none")
            if option.name in NOT_OF_SEARCH:
                group.add_argument(option.flag, type=_refuse(option), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            else:
                _add_option(group, option, several(option) if is_searched else option.read)


def _refuse(option: Option) -> Callable[[str], NoReturn]:
    """Refuses an option of train that a search cannot have, as an argparse type."""

    def refuse(text: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"the folds are held out: {option.flag} is for nnfast train")

    return refuse


def _add_data(parser: argparse.ArgumentParser, config: str) -> None:
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="digits, fashion-mini, xor, an .npz file, or a .csv file with --target"
    )
    parser.add_argument("--config", metavar="FILE", help=f"{config}; options given here override it")


def _add_option(group: argparse._ArgumentGroup, option: Option, read: Callable[[str], Any]) -> None:
    if option.kind.read is None:
        return
    described = option.help
    if option.default is not None and option.kind != FLAG:
        shown = ",".join(map(str, option.default)) if isinstance(option.default, list) else option.default
        described += f" (default {shown})"
    if option.kind == FLAG:
        both = option.is_about_run
        group.add_argument(
            option.flag,
            action=argparse.BooleanOptionalAction if both else "store_true",
            default=argparse.SUPPRESS,
            help=described + f" (default {'yes' if option.default else 'no'})" * both,
        )
    else:
        group.add_argument(
            option.flag,
            type=read,
            default=argparse.SUPPRESS,
            metavar=option.metavar,
            help=described.replace("%", "%%"),
        )


PARTS = ("plan", "table", "formulas", "kernels")  # what nnfast debug shows


def add_debug_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME or layers, a recipe, and what to show of them; what is not given is None."""
    parser.add_argument("subject", metavar="NAME", nargs="?", help="a run, a model file, or a network such as lenet5")
    parser.add_argument("--inputs", metavar="N", type=int, help="in place of NAME: numbers in a row")
    parser.add_argument("--outputs", metavar="N", type=int, help="in place of NAME: units of the last layer")
    for name, described in {
        "hidden": "in place of NAME: units of the hidden layers: 128,64 or none (default none)",
        "activation": "of the hidden layers (default relu)",
        "output_activation": "of the outputs (default: softmax, or identity for a single one)",
        "loss": "what is minimised (default: the model's, or the output activation's own)",
        "optimizer": "such as sgd:momentum=0.9 (default: the run's, or adam)",
        "dtype": "float32 or float64 (default: the model's, or float32)",
    }.items():
        option = ROWS[name]
        parser.add_argument(option.flag, type=option.read, metavar=option.metavar, help=described)
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="rows that the plan has room for (64)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", choices=PARTS, help="this part alone (default: all of them)")
    what.add_argument("--assembly", metavar="KERNEL", help="a kernel's machine code, by its name or how that begins")


def known_names() -> str:
    """What may stand for NAME, and the settings that some names bring, from the tables themselves."""
    import dataclasses
    import inspect
    import shutil
    import textwrap

    from ..backends import forms
    from ..formulas.activations import ACTIVATIONS
    from ..formulas.losses import LOSSES
    from ..formulas.optimizers import OPTIMIZERS
    from ..formulas.schedules import SCHEDULES
    from ..networks.initializers import INITIALIZERS
    from ..networks.layers import LAYERS
    from ..networks.named import NETWORKS, TRAINING_SETTINGS

    width = shutil.get_terminal_size().columns - 2  # as argparse does above it

    def call(name: str, options: Any) -> str:
        return f"{name}({', '.join(options)})" if options else name

    def fill(text: str) -> str:
        return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)

    hidden = [row.name for row in ACTIVATIONS.values() if not row.output_only]
    output = [row.name for row in ACTIVATIONS.values() if row.output_only]
    lines = {
        "networks": list(NETWORKS),
        "kinds of [[layers]] in a file": list(LAYERS),
        "activations": [*hidden, f"as output only: {', '.join(output)}"],
        "losses": [call(name, row.constant_names) for name, row in LOSSES.items()],
        "initializers": list(INITIALIZERS),
        "optimizers": [call(name, inspect.signature(make).parameters) for name, make in OPTIMIZERS.items()],
        "schedules": [
            call(name, [field.name for field in dataclasses.fields(kind)]) for name, kind in SCHEDULES.items()
        ],
        "backends": forms(),
    }
    own = {name: " ".join(as_options(settings)) for name, settings in (DATA_SETTINGS | TRAINING_SETTINGS).items()}
    return "\n".join(
        [
            *(fill(f"{title}: {', '.join(names)}") for title, names in lines.items()),
            "",
            fill("What data sets and networks bring, a network's before a data set's; other options override these:"),
            *(fill(f"{name}: {settings}") for name, settings in own.items()),
        ]
    )
