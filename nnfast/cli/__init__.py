"""The nnfast command: its parser, its subcommands by name, and what every kind of failure exits with.

Nothing heavy is imported here: `nnfast --help` needs the standard library only.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..support.debugging import is_debugging
from .arguments import add_debug_arguments, add_search_arguments, add_train_arguments, known_names
from .exit_codes import DIVERGED, EXIT_CODES, INTERRUPTED, READER_GONE, UNAVAILABLE, USAGE
from .log import listening
from .options import ROWS


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, and asks for a part of its help only when help is wanted."""

    more_help: Callable[[], str] | None = None

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")

    def format_help(self) -> str:
        if self.more_help:
            self.epilog = self.more_help()
        return super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        arguments = _parse(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    name = f"nnfast {arguments.command}"
    try:
        with listening():
            result = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()  # so that a reader who has left is noticed here
        return result
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader either, and Python would complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (ArithmeticError, RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        code = _exit_code(error)
        if code is None:
            raise
        if is_debugging():
            traceback.print_exc()
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """The exit code for an error, or None for one that is a fault of nnfast's and deserves its traceback."""
    if isinstance(error, ArithmeticError | RuntimeError):
        from ..backends import BackendUnavailableError
        from ..training.stopping import DivergenceError

        if isinstance(error, BackendUnavailableError):
            return UNAVAILABLE
        return DIVERGED if isinstance(error, DivergenceError) else None
    return USAGE


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {' '.join(str(error).split()) or 'use a smaller network, batch or data set'}"
    return " ".join(str(error).split())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _parsers()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # said in the name of the command, whose help has the answer
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and those of its commands by name."""
    parser = Parser(
        prog="nnfast",
        description="Trains feedforward neural networks fast, on NumPy, Numba or CUDA.",
        epilog=f"{EXIT_CODES} With NNFAST_DEBUG=1 in the environment, an error shows its traceback.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nnfast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> Parser:
        made: Parser = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        return made

    train = command("train", "train a network on a data set and report how well it does")
    train.more_help = known_names
    add_train_arguments(train)

    search = command("search", "try candidates on folds of the rows, rank them, and train and save the best")
    search.more_help = lambda: (
        "Options of network and training may have several values, separated by commas:\n"
        "  --learning-rate 0.001,0.01 --hidden 64,128:64,none\n"
        "  --optimizer adam,sgd:momentum=0.9,nesterov=true\n"
        "A colon stands between the layers of one network. With --trials, LOW..HIGH in\n"
        "a value is a number to draw: a whole one between whole ends, on a logarithmic\n"
        "scale where LOW is above 0:\n"
        "  --trials 20 --learning-rate 1e-4..0.1 --hidden 32..256:16..64\n"
        "  --dropout 0..0.5\n"
        "--seed draws the candidates, too. With the same --out, a search that was\n"
        "interrupted goes on. nnfast train --help has the names."
    )
    add_search_arguments(search)

    predict = command("predict", "write a trained network's predictions as CSV")
    _add_model_arguments(predict)
    predict.add_argument("--proba", action="store_true", help="a column of probabilities per class")
    predict.add_argument("--out", metavar="FILE", help="write to FILE instead of standard output")

    evaluate = command("evaluate", "measure a trained network on a data set that holds the truth")
    _add_model_arguments(evaluate)
    evaluate.add_argument("--target", metavar="COLUMN", help="the column of a CSV that holds the truth")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.more_help = lambda: (
        "The test part is measured where DATA brings one, or where RUN was trained on\n"
        "the same DATA and held rows out; else all rows."
    )

    info = command("info", "say which backends can run here and on what, or what a network or data set is")
    info.add_argument(
        "subject", metavar="NAME", nargs="?", help="a run, a model file, a network such as lenet5, or digits, ..."
    )
    info.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="rows a step, to tell the memory for (64)"
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")

    debug = command("debug", "print what a network becomes: its plan, operations, formulas and kernels")
    add_debug_arguments(debug)

    bench = command("bench", "time the backends on the same networks, after checking that they agree")
    bench.add_argument("--backend", metavar="A,B", help="backends to compare (default: all that can run here)")
    _add_threads(bench)
    bench.add_argument("--workload", metavar="A,B", help="workloads to run (default: all)")
    bench.add_argument("--repeats", metavar="N", type=int, default=3, help="timed repeats; the median counts (3)")
    bench.add_argument("--dtype", default="float32", help="float32 or float64 (float32)")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    return parser, commands.choices


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """A trained network, the data it meets, and where it runs."""
    parser.add_argument("run", metavar="RUN", help="the directory of a run, or a model file")
    parser.add_argument("data", metavar="DATA", help="an embedded data set, an .npz or a .csv file")
    parser.add_argument(
        "--backend", default="auto", metavar="NAME", help="auto, or a backend that nnfast info lists (default auto)"
    )
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    option = ROWS["threads"]
    parser.add_argument(option.flag, type=option.read, metavar=option.metavar, help=option.help)


def _in_module(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A command whose module is imported when it is called."""

    def call(arguments: argparse.Namespace) -> int:
        code: int = getattr(importlib.import_module(f".{module}", __name__), function)(arguments)
        return code

    return call


def _bench(arguments: argparse.Namespace) -> int:
    from ..benchmarking.bench import bench_command

    def names(text: str | None) -> list[str] | None:
        return None if text is None else [name.strip() for name in text.split(",")]

    if arguments.repeats < 1:
        raise ValueError(f"--repeats must be a positive integer, got {arguments.repeats}")
    code: int = bench_command(
        names(arguments.backend),
        names(arguments.workload),
        arguments.repeats,
        as_json=arguments.json,
        threads=arguments.threads,
        dtype=arguments.dtype,
    )
    return code


_COMMANDS: dict[str, Callable[[Any], int]] = {
    "train": _in_module("train", "train_command"),
    "search": _in_module("search", "search_command"),
    "predict": _in_module("predict", "predict_command"),
    "evaluate": _in_module("predict", "evaluate_command"),
    "info": _in_module("info", "info_command"),
    "debug": _in_module("debug", "debug_command"),
    "bench": _bench,
}
