"""The figures of a run as a bar chart, which the README shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import HOME, PEERS

# From Okabe & Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "scikit-learn": "#e69f00",
    "torch": "#56b4e9",
    "torch-compiled": "#0072b2",
    "torch-graphs": "#f0e442",
    "numpy": "#999999",
    "numba": "#d55e00",
    "jax": "#cc79a7",
    HOME: "#009e73",
}


def draw(report: Mapping[str, Any], file: Path) -> None:
    """Every workload's speeds against the fastest of nnfast's peers, as PNG or SVG by the file's name.

    Of the report's modes, the first. Raises ImportError where matplotlib is not installed, ValueError without figures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mode = report["modes"][0]
    rows = mode["workloads"]
    names = [name for name in PEERS if any(name in row["results"] for row in rows)]
    if not names:
        raise ValueError("no peer has figures: there is nothing to draw")
    figure = Figure(figsize=(9, 4.2), layout="constrained", facecolor="white")  # white: for dark pages as well
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        offset = (index - (len(names) - 1) / 2) * width
        places, heights = [], []
        for place, row in enumerate(rows):
            best = max((r["samples_per_second"] for n, r in row["results"].items() if n != HOME), default=None)
            if best and name in row["results"]:
                places.append(place + offset)
                heights.append(row["results"][name]["samples_per_second"] / best)
        bars = axes.bar(places, heights, width, label=PEERS[name].title, color=COLOURS[name], zorder=2)
        axes.bar_label(bars, [_label(height) for height in heights], fontsize=7, padding=1, rotation=90)
    axes.axhline(1, color="#444444", linewidth=0.8, zorder=1)
    axes.set_xticks(range(len(rows)), [f"{row['name']}\n{row['network']}\nbatch {row['batch_size']:,}" for row in rows])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.margins(y=0.1)
    axes.set_ylabel("samples a second; fastest peer = 1")
    where = report["environment"]
    threads = "one thread" if mode["threads"] == 1 else f"{mode['threads']} threads"
    on = where["gpus"][0] if mode["device"] == "cuda" else f"{threads} of {where['cpu']}"
    axes.set_title(f"Speed of equal training in float32, {on}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    figure.legend(fontsize=8, ncols=len(names), loc="outside lower center", frameon=False)
    figure.savefig(file, dpi=110)


def _label(height: float) -> str:
    return f"{height:.2f}" if height >= 0.1 else f"{height:.2g}"
