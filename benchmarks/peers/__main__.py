"""nnfast beside scikit-learn, PyTorch and JAX on the same training, on a CPU or a GPU.

    python -m benchmarks.peers                                  one thread and all; prints a table
    python -m benchmarks.peers --workloads digits,tab64 --peers nnfast,jax --threads 1 --rounds 3
    python -m benchmarks.peers --json FILE --write docs/benchmarks.md --chart docs/peers.png
    python -m benchmarks.peers --device cuda --write docs/cuda.md

Every peer starts from the same weights and takes the same rows in the same batches; its losses and parameters are held
to nnfast's reference before it is timed. They are measured in turn, each in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nnfast.backends import get_backend, unavailable
from nnfast.backends.cuda import CudaBackend
from nnfast.benchmarking.bench import DifferentResultsError, environment
from nnfast.benchmarking.workloads import WORKLOADS, Workload

from . import DEVICES, HOME, PEERS, chart, tables
from .measure import TOLERANCES, last_core, measure
from .peer import cut
from .roofline import of_step

ROUNDS = 9


def names_of(known: Mapping[str, Any]) -> Any:
    """An argparse type: names of a table, with commas between them."""

    def names(text: str) -> list[str]:
        chosen = list(dict.fromkeys(text.split(",")))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown name {name!r}; known: {', '.join(known)}")
        return chosen

    return names


def positive(text: str) -> int:
    """An argparse type: an integer from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", type=names_of(WORKLOADS), metavar="A,B", help="default: all")
    parser.add_argument("--peers", type=names_of(PEERS), metavar="A,B", help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--threads", choices=("1", "all", "both"), default="both", help="of a CPU; beside a GPU: all")
    parser.add_argument("--rounds", type=positive, help=f"measurements of every peer; default: {ROUNDS}")
    parser.add_argument("--small", action="store_true", help="a few steps of each, once: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: take an earlier run's --json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables to their place in a Markdown file")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart, PNG or SVG; needs matplotlib")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write. Returns 0, or 1 with a line on stderr where a peer did other work."""
    options = parser()
    arguments = options.parse_args(argv)
    # Now, and not when all is measured
    if arguments.chart and importlib.util.find_spec("matplotlib") is None:
        options.error("--chart needs matplotlib; pip install matplotlib")
    if arguments.write:
        try:
            tables.read_around(arguments.write)
        except (OSError, ValueError) as error:
            options.error(f"--write: {error}")
    if arguments.device == "cuda" and not arguments.read and (reason := unavailable("cuda")):
        print(f"benchmarks.peers: --device cuda: {reason}", file=sys.stderr)
        return 1
    if arguments.read:
        report = json.loads(arguments.read.read_text(encoding="utf-8"))
    else:
        try:
            report = run(arguments)
        except DifferentResultsError as error:
            print(f"benchmarks.peers: {error}", file=sys.stderr)
            return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        tables.write(report, arguments.write)
    if arguments.chart:
        chart.draw(report, arguments.chart)
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for, and print it as it comes."""
    wanted = [name for name in arguments.peers or PEERS if arguments.device in PEERS[name].devices]
    missing = {name: reason for name in wanted if (reason := PEERS[name].missing())}
    names = [name for name in PEERS if name in wanted and name not in missing]  # in one order, whatever was asked
    workloads = [WORKLOADS[name] for name in arguments.workloads or WORKLOADS]
    if arguments.small:
        workloads = [cut(workload) for workload in workloads]
    facts = environment()
    kept = ("nnfast", "python", "packages", "platform", "cpu", "cores", "blas", "gpus")
    where = {name: facts[name] for name in kept}
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "environment": where,
        "device": arguments.device,
        "versions": _versions(names, where),
        "rounds": arguments.rounds or (1 if arguments.small else ROUNDS),
        "small": arguments.small,
        "tolerances": TOLERANCES,
        "remarks": list(missing.values()),
        "modes": [],
    }
    print(tables.heading(report))
    for remark in report["remarks"]:
        print(remark)
    for threads in _threads("all" if arguments.device == "cuda" else arguments.threads, where["cores"]):
        report["modes"].append(_mode(workloads, names, threads, report))
    for note in tables.notes(report)[len(report["remarks"]) :]:
        print(note)
    return report


def _threads(wanted: str, cores: int) -> list[int]:
    counts = {"1": [1], "all": [cores], "both": [1, cores]}[wanted]
    return list(dict.fromkeys(counts))


def _mode(workloads: list[Workload], names: list[str], threads: int, report: dict[str, Any]) -> dict[str, Any]:
    mode: dict[str, Any] = {
        "device": report["device"],
        "threads": threads,
        "core": last_core() if threads == 1 and report["device"] == "cpu" else None,
        "load": os.getloadavg()[0],  # of the minute before, by others and, after another mode, by us
        "workloads": [],
    }
    print(tables.mode_heading(mode))
    with contextlib.ExitStack() as stack:
        # Empty caches, so that the first call shows what compiling costs
        caches = None if report["small"] else stack.enter_context(tempfile.TemporaryDirectory())
        for workload in workloads:
            row = measure(workload, names, threads, report["rounds"], mode["core"], caches, mode["device"])
            if mode["device"] == "cuda" and HOME in row["results"]:
                backend = get_backend("cuda")
                assert isinstance(backend, CudaBackend)
                row["step"] = of_step(workload, backend, row["results"][HOME]["samples_per_second"])
            mode["workloads"].append(row)
            print(tables.workload_lines(row), flush=True)
    return mode


def _versions(names: list[str], where: Mapping[str, Any]) -> dict[str, str]:
    packages = {PEERS[name].package for name in names}
    found = {"Python": where["python"], "nnfast": where["nnfast"], "numpy": where["packages"]["numpy"]}
    return found | {package: metadata.version(package) for package in sorted(packages)}


if __name__ == "__main__":
    sys.exit(main())
