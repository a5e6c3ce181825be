"""nnfast beside scikit-learn, PyTorch and JAX on the same training, on a CPU or a GPU.

    python -m benchmarks.peers                                  one thread and all; prints a table
    python -m benchmarks.peers --workloads digits,tab64 --peers nnfast,jax --threads 1 --rounds 3
    python -m benchmarks.peers --json FILE --write docs/benchmarks.md --chart docs/peers.png
    python -m benchmarks.peers --device cuda --write docs/cuda.md

Every peer starts from the same weights and takes the same rows in the same batches; its losses and parameters are held
to nnfast's reference before it is timed. They are measured in turn, each in a process of its own. A peer that fails has
a cell in the tables and the reason in a note; the others are measured and written, and the exit code is 1.
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
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nnfast.backends import get_backend, unavailable
from nnfast.backends.cuda import CudaBackend
from nnfast.benchmarking.bench import environment
from nnfast.benchmarking.workloads import WORKLOADS, Workload
from nnfast.support.files import write_text

from . import DEVICES, HOME, PEERS, chart, tables
from .measure import TOLERANCES, failure, last_core, measure
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, again after every workload")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: take an earlier run's --json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables to their place in a Markdown file")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart, PNG or SVG; needs matplotlib")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write. Returns 0, or 1 where something failed, with a line on stderr for each."""
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
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        options.error(f"--json: {arguments.json.parent} is no directory")
    if arguments.device == "cuda" and not arguments.read and (reason := unavailable("cuda")):
        print(f"benchmarks.peers: --device cuda: {reason}", file=sys.stderr)
        return 1
    if arguments.read:
        report = json.loads(arguments.read.read_text(encoding="utf-8"))
        save(report, arguments.json)
    else:
        report = run(arguments)
    if arguments.write:
        tables.write(report, arguments.write)
    failures = 0 if arguments.read else sum(len(row["failed"]) for mode in report["modes"] for row in mode["workloads"])
    if arguments.chart:
        try:
            chart.draw(report, arguments.chart)
        except ValueError as error:
            print(f"benchmarks.peers: --chart: {error}", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


def save(report: Mapping[str, Any], file: Path | None) -> None:
    """Write all figures so far, so that an end of the run loses none of them."""
    if file:
        write_text(file, json.dumps(report, indent=1) + "\n")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for, and print and save it as it comes."""
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
        for _ in _rows(workloads, names, threads, report):
            save(report, arguments.json)
    for note in tables.notes(report)[len(report["remarks"]) :]:
        print(note)
    return report


def _threads(wanted: str, cores: int) -> list[int]:
    counts = {"1": [1], "all": [cores], "both": [1, cores]}[wanted]
    return list(dict.fromkeys(counts))


def _rows(
    workloads: list[Workload], names: list[str], threads: int, report: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Measure and print the workloads one by one, with `threads` threads, and add them to the report as a mode."""
    mode: dict[str, Any] = {
        "device": report["device"],
        "threads": threads,
        "core": last_core() if threads == 1 and report["device"] == "cpu" else None,
        "load": os.getloadavg()[0],  # of the minute before, by others and, after another mode, by us
        "workloads": [],
    }
    report["modes"].append(mode)
    print(tables.mode_heading(mode))
    with contextlib.ExitStack() as stack:
        # Empty caches, so that the first call shows what compiling costs
        caches = None if report["small"] else stack.enter_context(tempfile.TemporaryDirectory())
        for workload in workloads:
            row = measure(workload, names, threads, report["rounds"], mode["core"], caches, mode["device"])
            if mode["device"] == "cuda" and HOME in row["results"]:
                try:
                    row["step"] = _step(workload, row["results"][HOME]["samples_per_second"])
                except Exception as error:
                    row["failed"]["roofline"] = failure(error)
            mode["workloads"].append(row)
            print(tables.workload_lines(row), flush=True)
            for name, why in row["failed"].items():
                print(f"benchmarks.peers: {row['name']}: {tables.title(name)}: {why['reason']}", file=sys.stderr)
                print(why["traceback"], end="", file=sys.stderr, flush=True)
            yield row


def _step(workload: Workload, samples_per_second: float) -> dict[str, Any] | None:
    """nnfast's step against what the GPU could do."""
    backend = get_backend("cuda")
    assert isinstance(backend, CudaBackend)
    return of_step(workload, backend, samples_per_second)


def _versions(names: list[str], where: Mapping[str, Any]) -> dict[str, str]:
    packages = {PEERS[name].package for name in names}
    found = {"Python": where["python"], "nnfast": where["nnfast"], "numpy": where["packages"]["numpy"]}
    return found | {package: _version(package) for package in sorted(packages)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # importable, but not from a package of that name
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
