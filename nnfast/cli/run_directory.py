"""The directory of a run: what is written to it and when, and how it is found again."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .. import __version__
from ..data.table import Table
from ..data.targets import ClassTargets
from ..models.ensemble import Trained, first_member
from ..networks.layers import Conv2D
from ..support.files import write_bytes, write_text
from .options import ROWS, read_config

if TYPE_CHECKING:
    from ..models.history import EpochRecord, History
    from .preparation import Part

CONFIG, METRICS, MODEL = "config.toml", "metrics.jsonl", "model.safetensors"
PLOT, MISTAKES, FILTERS = "loss.png", "mistakes.png", "filters.png"
SIGNATURE = "# A run of nnfast"
SEARCH, SEARCH_SIGNATURE = "search.jsonl", "nnfast search"


class RunDirectory:
    """DIR of --out. It may be new, empty, or a previous run's, whose files are then replaced, or a search's.

    Made, and known to be writable, before training; a run that is refused before its first epoch leaves no trace.
    The first epoch writes config.toml and begins metrics.jsonl; save() writes the rest.
    """

    def __init__(self, path: str, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._config = config
        self._metrics: IO[str] | None = None
        self._held_back: dict[int, History | None] = {}  # by the networks' numbers
        self._next = 0  # the network whose epochs are written next
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out {path} is not a directory")
        if self.path.is_dir() and any(self.path.iterdir()) and not self._is_run():
            raise ValueError(f"--out {path} holds files, but no run of nnfast's: choose a new or an empty directory")
        self._is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ValueError(f"--out {path} cannot be written to: {error.strerror}") from None

    def _is_run(self) -> bool:
        for name, beginning in ((CONFIG, SIGNATURE), (SEARCH, f'{{"{SEARCH_SIGNATURE}"')):
            try:
                with open(self.path / name, "rb") as file:
                    if file.read(len(beginning)) == beginning.encode():
                        return True
            except OSError:
                pass
        return False

    def abandon(self) -> None:
        """Close what is open, and take back a directory that was made for a run that did not begin."""
        if self._metrics:
            self._metrics.close()
        elif self._is_new:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def record(self, record: EpochRecord) -> None:
        """Append an epoch to metrics.jsonl, for programs that follow the file. A callback of train()."""
        self._write({}, record)

    def record_network(self, index: int, history: History | None) -> None:
        """Append all epochs of one of several networks, after those of the networks before it. None: it has none."""
        self._held_back[index] = history
        while self._next in self._held_back:
            for record in self._held_back.pop(self._next) or ():
                self._write({"network": self._next}, record)
            self._next += 1

    def _write(self, line: dict[str, Any], record: EpochRecord) -> None:
        line |= {"epoch": record.epoch, "loss": record.loss, **record.metrics}
        line |= {"learning_rate": float(record.learning_rate), "seconds": record.seconds}
        if record.threads is not None:
            line["threads"] = record.threads
        self._begin().write(to_json(line) + "\n")

    def save(self, model: Trained, title: str, measured: Part | None = None) -> str | None:
        """Write the model and the plots. Returns what to tell the user where there are no plots, else None.

        measured: rows whose mistaken ones are drawn, where they are images with classes.
        """
        self._begin().close()
        model.save(self.path / MODEL)
        try:
            self._save_plots(model, title, measured)
        except ImportError:
            return f"no {PLOT}: matplotlib is not installed; pip install nnfast[plot]"
        return None

    def _begin(self) -> IO[str]:
        if self._metrics is None:
            for name in (MODEL, PLOT, MISTAKES, FILTERS):  # a previous run's must not stand beside this one's config
                (self.path / name).unlink(missing_ok=True)
            write_text(self.path / CONFIG, config_text(self._config, self.path))
            self._metrics = open(self.path / METRICS, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - by save
        return self._metrics

    def _save_plots(self, model: Trained, title: str, measured: Part | None) -> None:
        from ..reports.figures import filters, loss_curve, mistaken_images, png

        member = first_member(model)
        if member.history.epochs:
            write_bytes(self.path / PLOT, png(loss_curve(member.history, title)))
        first = member.network.layers[0]
        if isinstance(first, Conv2D):
            weights = member.layer_parameters()["layers.0.weights"]
            write_bytes(self.path / FILTERS, png(filters(weights, f"{title}, {first.label}")))
        if measured is None or isinstance(measured.X, Table) or not isinstance(model.targets, ClassTargets):
            return
        if measured.X.ndim in (3, 4):
            truth = model.targets.decode(model.targets.encode(measured.y))
            if figure := mistaken_images(measured.X, truth, model.predict(measured.X), title):
                write_bytes(self.path / MISTAKES, png(figure))


def config_text(values: Mapping[str, Any], directory: Path) -> str:
    """A TOML text of `data` and the options that make up the run, from which the run can be repeated."""
    import tomli_w

    kept = {name: value for name, value in values.items() if name == "data" or ROWS[name].is_about_run}
    # TOML knows no None: an option that is left out has it
    present = {name: value for name, value in kept.items() if value is not None}
    command = f"nnfast train --config {directory / CONFIG}"
    return f"{SIGNATURE} {__version__}; to repeat it: {command}\n{tomli_w.dumps(present)}"


def find_run(path: str) -> tuple[Path, dict[str, Any]]:
    """The model file of RUN, and its run's options: {} for a model file that stands alone."""
    given = Path(path)
    if not given.exists():
        raise FileNotFoundError(f"there is no run {path!r}; give the directory of a run, or a model file")
    directory = given if given.is_dir() else given.parent
    model = directory / MODEL if given.is_dir() else given
    if not model.exists():
        if (directory / SEARCH).exists():
            reason = "its search has not finished (the same nnfast search goes on), or all its candidates diverged"
            raise FileNotFoundError(f"{path} holds no {MODEL}: {reason}")
        raise FileNotFoundError(f"{path} holds no {MODEL}: is it the --out of a finished run?")
    config = directory / CONFIG
    return model, read_config(config) if model.name == MODEL and config.exists() else {}


def to_json(values: Mapping[str, Any]) -> str:
    """One line of JSON, which has no word for NaN and infinity: they become null."""
    return json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, Path) else value
