"""The figures of a run as text: lines for a terminal, and Markdown for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import HOME, PEERS, PRODUCT

_COLUMNS = "{:<13} {:<17} {:>13} {:>7} {:>9} {:>8} {:>8} {:>11} {:>11}"
_HEADER = (
    "workload", "peer", "samples/s", "spread", "of best", "GFLOP/s", "of BLAS", "instr/row", "first call",
)  # fmt: skip
BEGIN, END = "<!-- peers: written by python -m benchmarks.peers -->", "<!-- peers: end -->"
CACHES = "nnfast compiles a kernel in the first row that needs it, and keeps it on disk for the others."


def heading(report: Mapping[str, Any]) -> str:
    """On what, with what and how."""
    where = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    on = "; ".join(where["gpus"]) + f"; beside it {where['cpu']}" if report["device"] == "cuda" else where["cpu"]
    lines = [
        f"{report['date']}, {on}, {where['cores']} cores; {versions}.",
        f"Training in float32 with Adam. Median of {report['rounds']}, in turn, after equal results were verified.",
    ]
    return "\n".join(lines)


def mode_heading(mode: Mapping[str, Any]) -> str:
    """What a mode's figures mean, and the columns' names."""
    if mode["device"] == "cuda":
        how = "On the GPU, to the losses on the host; time on the wall."
    elif mode["threads"] == 1:
        pinned = f"pinned to core {mode['core']}" if mode["core"] is not None else "not pinned: no call for it here"
        how = f"One thread, {pinned}; processor time."
    else:
        how = f"{mode['threads']} threads; time on the wall."
    return f"\n{how} The machine's load before: {mode['load']:.2f}.\n\n{_COLUMNS.format(*_HEADER)}"


def workload_lines(row: Mapping[str, Any]) -> str:
    """A workload's lines of the table."""
    lines = []
    best = max((result["samples_per_second"] for result in row["results"].values()), default=0.0)
    first = row["name"]
    for name, result in row["results"].items():
        rate = result["samples_per_second"]
        count = result["instructions_per_sample"]
        cells = (
            first, PEERS[name].title, f"{rate:,.0f}", f"{result['spread']:.0%}", f"{rate / best:.2f}",
            f"{result['gflops']:.3g}", _share(result["of_product"]), "-" if count is None else f"{count:,.0f}",
            f"{result['first_call_seconds']:.1f} s",
        )  # fmt: skip
        lines.append(_COLUMNS.format(*cells))
        first = ""
    for name, reason in (
        row["cannot"] | {name: f"failed: {why['reason']}" for name, why in failed(row).items()}
    ).items():
        lines.append(f"{first:<13} {title(name):<17} - {reason}")
        first = ""
    lines.extend(f"{'':<13} {text}" for text in device_lines(row))
    return "\n".join(lines)


def failed(row: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """What failed in a row, and why. Files of earlier versions do not have it."""
    failures: Mapping[str, Mapping[str, str]] = row.get("failed", {})
    return failures


def title(name: str) -> str:
    """A peer's name for readers, or that of what is measured beside the peers."""
    return PEERS[name].title if name in PEERS else {PRODUCT: "BLAS's product"}.get(name, name)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def device_lines(row: Mapping[str, Any]) -> list[str]:
    """What is told of a GPU beside the rates: nnfast's step against the device, and what its events say."""
    lines = []
    if step := row.get("step"):
        peaks = f"{step['peak_bytes'] / 1e12:.3g} TB/s and {step['peak_flops'] / 1e12:.3g} TFLOP/s"
        lines.append(
            f"{HOME}: {step['path']} path, {step['launches']:g} launches, {step['bytes'] / 1e6:,.3g} MB and "
            f"{step['flops'] / 1e6:,.3g} MFLOP a step: {step['of_roofline']:.1%} of what {peaks} allow"
        )
    shares = {name: result["stream_share"] for name, result in row["results"].items() if "stream_share" in result}
    if shares:
        told = ", ".join(f"{PEERS[name].title} {share:.0%}" for name, share in shares.items())
        lines.append(f"between a run's first and last event on the GPU's stream, of the time on the wall: {told}")
    return lines


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the columns do not say."""
    rows = [row for mode in report["modes"] for row in mode["workloads"]]
    found = list(report["remarks"])
    found.extend(_once(f"{PEERS[name].title}: {reason}." for row in rows for name, reason in row["cannot"].items()))
    found.extend(
        _once(
            f"{row['name']}: {title(name)} failed: {why['reason']}."
            for row in rows
            for name, why in failed(row).items()
        )
    )
    found.extend(
        _once(
            f"{row['name']}: {PEERS[name].title} has {result['network']}: one output for two classes, the same model."
            for row in rows
            for name, result in row["results"].items()
            if result["network"] != row["network"]
        )
    )
    found.extend(f"{row['name']}: {text}." for row in rows for text in device_lines(row))
    found.extend(_once(f"No counter of instructions here ({row['no_counter']})." for row in rows if row["no_counter"]))
    return found


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a table of samples a second for each number of threads, then one of first calls."""
    parts = [heading(report).replace("\n", " ")]
    for mode in report["modes"]:
        threads = "One thread, processor time" if mode["threads"] == 1 else f"{mode['threads']} threads, wall time"
        if mode["device"] == "cuda":
            threads = "On the GPU, wall time"
        load = f"the machine's load before: {mode['load']:.2f}"
        parts.append(f"{threads}; samples a second, and in brackets the spread; {load}.\n\n{_speeds(mode)}")
    parts.append(
        f"Seconds of the first call: importing the library, building, compiling and the first steps. {CACHES}\n\n"
        + _first_calls(report["modes"][0])
    )
    parts.append("\n".join(f"- {note}" for note in notes(report)))
    return "\n\n".join(part for part in parts if part)


def _names(mode: Mapping[str, Any]) -> list[str]:
    """The peers that did at least one workload or failed, in the order of PEERS."""
    ran = {name for row in mode["workloads"] for name in (*row["results"], *failed(row))}
    return [name for name in PEERS if name in ran]


def _speeds(mode: Mapping[str, Any]) -> str:
    names = _names(mode)
    rows = []
    for row in mode["workloads"]:
        cells = [row["name"], row["network"], f"{row['batch_size']}"]
        for name in names:
            result = row["results"].get(name)
            cells.append(
                f"{result['samples_per_second']:,.0f} ({result['spread']:.0%})" if result else _none(row, name)
            )
        home = row["results"].get(HOME)
        ratio = row["times_best_peer"]
        cells.append("-" if ratio is None else f"{ratio:.2f}")
        cells.extend((f"{home['gflops']:.3g}", _share(home["of_product"])) if home else ("-", "-"))
        counted = home and home["instructions_per_sample"]
        cells.append(f"{counted:,.0f}" if counted else "-")
        rows.append(cells)
    header = ["workload", "network", "batch", *(PEERS[name].title for name in names)]
    header += [f"{HOME}, times the best peer", f"{HOME}, GFLOP/s", "of BLAS's large product", "instructions a sample"]
    return _table(header, rows, left=2)


def _none(row: Mapping[str, Any], name: str) -> str:
    """The cell of a peer without figures: the notes have the reason."""
    return "failed" if name in failed(row) else "-"


def _first_calls(mode: Mapping[str, Any]) -> str:
    names = _names(mode)
    rows = []
    for row in mode["workloads"]:
        results = {name: row["results"].get(name) for name in names}
        cells = (f"{one['first_call_seconds']:.1f}" if one else _none(row, name) for name, one in results.items())
        rows.append([row["name"], *cells])
    return _table(["workload", *(PEERS[name].title for name in names)], rows, left=1)


def _table(header: list[str], rows: list[list[str]], left: int) -> str:
    """Columns that are "-" in every row are left out."""
    kept = [index for index in range(len(header)) if any(row[index] != "-" for row in rows)]
    lines = [[header[index] for index in kept], ["---" if index < left else "--:" for index in kept]]
    lines.extend([row[index] for index in kept] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(report: Mapping[str, Any], file: Path) -> None:
    """Put the Markdown in its place in a file (see read_around)."""
    before, after = read_around(file)
    file.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n\n{END}{after}", encoding="utf-8")


def read_around(file: Path) -> tuple[str, str]:
    """What stands before and after the two marks, between which the tables are written.

    Raises ValueError where they are missing: text that a person wrote is never overwritten.
    """
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no place for the tables: it needs the lines {BEGIN} and {END}")
    return before, after
