"""Reports of a run, as pure functions: the loss curve, predictions beside the truth, the confusion matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .history import History

LOG_SCALE_FROM = 10.0  # losses whose largest is this many times their smallest are drawn on a logarithmic scale


def loss_curve(history: History, title: str = "") -> Figure:
    """A figure of the loss of every epoch and, where there was validation, its loss. Needs matplotlib.

    The figure belongs to no window and to no global state: save it with `figure.savefig(path)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = np.arange(1, history.epochs + 1)
    curves = {"training": history.loss, "validation": history.metrics.get("validation_loss", [])}
    marker = "o" if history.epochs == 1 else ""  # one point makes no line
    for name, losses in curves.items():
        if losses:
            axes.plot(epochs[: len(losses)], losses, marker=marker, label=name)
    values = np.array([value for losses in curves.values() for value in losses])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() >= LOG_SCALE_FROM * values.min():
        axes.set_yscale("log")
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="gray", linestyle=":", label=f"best epoch ({history.best_epoch})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.set_title(f"{title}: loss per epoch" if title else "loss per epoch")
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1:
        axes.legend()
    return figure


def loss_curve_png(history: History, title: str = "") -> bytes:
    """The loss curve as a PNG image. Raises ImportError where matplotlib is not installed."""
    image = io.BytesIO()
    loss_curve(history, title).savefig(image, format="png", dpi=120)
    return image.getvalue()


def predictions_table(true: ArrayLike, predicted: ArrayLike) -> str:
    """A line per row with the true value beside the predicted one; of several outputs, each beside its own.

    true, predicted: (n_rows,) or (n_rows, n_outputs), of one size.
    """
    truth, guesses = (np.asarray(values) for values in (true, predicted))
    truth, guesses = truth.reshape(len(truth), -1), guesses.reshape(len(guesses), -1)
    if truth.shape != guesses.shape:
        raise ValueError(f"true has shape {truth.shape}, but predicted {guesses.shape}")
    suffixes = [f"_{output}" for output in range(truth.shape[1])] if truth.shape[1] > 1 else [""]
    header = [name + suffix for suffix in suffixes for name in ("true", "predicted")]
    columns = [column for pair in zip(truth.T, guesses.T, strict=True) for column in pair]
    return _aligned([header, *zip(*map(_cells, columns), strict=True)])


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, classes: ArrayLike) -> str:
    """How many rows of each true class (lines) were predicted as each class (columns).

    true, predicted: labels, (n_rows,); classes: all labels that may occur, sorted.
    """
    labels = np.asarray(classes)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(labels, true), np.searchsorted(labels, predicted)), 1)
    header = ["true \\ predicted", *map(str, labels)]
    # A zero off the diagonal is the good news: a dot keeps the mistakes in sight.
    lines = [
        [str(label), *(str(count) if count or row == column else "." for column, count in enumerate(line))]
        for row, (label, line) in enumerate(zip(labels, counts, strict=True))
    ]
    return _aligned([header, *lines])


def _cells(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind != "f":
        return [str(value) for value in column]
    return [f"{value:.6g}" for value in column]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
