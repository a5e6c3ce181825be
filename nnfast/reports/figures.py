"""Reports of a run, as pure functions: loss curve, mistaken images, filters, tables of predictions and confusion."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..models.history import History

MAX_MISTAKES, MAX_FILTERS = 25, 64
MAX_TITLE = 24  # characters in a line above a tile
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


def mistaken_images(images: NDArray[Any], true: ArrayLike, predicted: ArrayLike, title: str = "") -> Figure | None:
    """A figure of the first images whose prediction is wrong, each under "true, predicted"; None without mistakes.

    images: (n_images, height, width) or (n_images, height, width, channels); true, predicted: labels, (n_images,).
    Needs matplotlib; the figure belongs to no window.
    """
    truth, guesses = np.asarray(true).reshape(-1), np.asarray(predicted).reshape(-1)
    wrong = np.flatnonzero(truth != guesses)
    if not wrong.size:
        return None
    shown = wrong[:MAX_MISTAKES]
    titles = [f"{truth[row]}, predicted {guesses[row]}" for row in shown]
    if max(map(len, titles)) > MAX_TITLE:
        titles = [title.replace(", predicted", ",\npredicted") for title in titles]
    heading = f"{title + ': ' if title else ''}{len(shown)} of {len(wrong)} mistaken images in {len(truth)}"
    return _grid([_pixels(images[row]) for row in shown], titles, heading, columns=5)


def filters(weights: NDArray[Any], title: str = "") -> Figure:
    """A figure of a convolution's kernels, (height, width, channels, filters): one tile a filter, in one scale of grey.

    Three channels are drawn as red, green and blue; any other number is averaged. Needs matplotlib; the figure belongs
    to no window.
    """
    tiles = [_pixels(kernel) for kernel in np.moveaxis(weights, -1, 0)[:MAX_FILTERS]]
    largest = float(max(abs(tile).max() for tile in tiles)) or 1.0
    tiles = [tile / (2 * largest) + 0.5 for tile in tiles]  # zero is middle grey, for all of them
    shown = f"{len(tiles)} of {weights.shape[-1]}" if len(tiles) < weights.shape[-1] else str(len(tiles))
    heading = f"{title + ': ' if title else ''}{shown} filters"
    return _grid(tiles, [""] * len(tiles), heading, columns=8, limits=(0.0, 1.0))


def _pixels(image: NDArray[Any]) -> NDArray[Any]:
    """An image of any number of channels as matplotlib draws it: (height, width), or (height, width, 3) for colours."""
    if image.ndim == 2 or image.shape[2] == 3:
        return image
    averaged: NDArray[Any] = image.mean(axis=2)
    return averaged


def _grid(
    tiles: Sequence[NDArray[Any]],
    titles: Sequence[str],
    heading: str,
    columns: int,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Tiles in rows of `columns`. limits: what is black and what is white; by default each tile's own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(max(1.7 * columns + 0.5, 4.5), 1.8 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(heading)
    for number, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        low, high = limits or (float(tile.min()), float(tile.max()))
        if tile.ndim == 3:  # matplotlib scales grey tiles, but no colours
            tile = (tile - low) / ((high - low) or 1)
        axes.imshow(tile, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a PNG image."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
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
    return aligned([header, *zip(*map(_cells, columns), strict=True)])


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, classes: ArrayLike, width: int | None = None) -> str:
    """How many rows of each true class (lines) were predicted as each class (columns).

    true, predicted: labels, (n_rows,); classes: all labels that may occur, sorted. width: of the terminal; where the
    labels make wider lines, the columns are numbered and the lines say which number is whose.
    """
    labels = np.asarray(classes)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(labels, true), np.searchsorted(labels, predicted)), 1)
    names = [*map(str, labels)]
    text = _counts_table(counts, names, names)
    if width is not None and len(text.partition("\n")[0]) > width:
        numbers = [str(number) for number in range(1, len(names) + 1)]
        text = _counts_table(
            counts, [f"{name} = {number}" for name, number in zip(names, numbers, strict=True)], numbers
        )
    return text


def _counts_table(counts: NDArray[np.int64], names: Sequence[str], columns: Sequence[str]) -> str:
    # A zero off the diagonal is the good news: a dot keeps the mistakes in sight.
    lines = [
        [name, *(str(count) if count or row == column else "." for column, count in enumerate(line))]
        for row, (name, line) in enumerate(zip(names, counts, strict=True))
    ]
    return aligned([["true \\ predicted", *columns], *lines])


def _cells(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind != "f":
        return [str(value) for value in column]
    return [f"{value:.6g}" for value in column]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
