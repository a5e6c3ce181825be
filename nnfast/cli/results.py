"""How results are put into words on standard output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping

from ..data.targets import ClassTargets
from ..models.ensemble import Trained
from .preparation import Part

MAX_ROWS_SHOWN = 20
MAX_CLASSES_SHOWN = 20


def score_words(scores: Mapping[str, float], rows: int) -> str:
    """ "accuracy 97.78% (352 of 360 rows)", or "R2 0.8123 (4,128 rows)"."""
    if "accuracy" in scores:
        right = round(scores["accuracy"] * rows)
        return f"accuracy {scores['accuracy']:.2%} ({right:,} of {rows:,} rows)"
    return f"R2 {scores['r2']:.4f} ({rows:,} rows)"


def show_predictions(model: Trained, part: Part) -> None:
    """Of few rows, the predictions beside the truth; of many, on a terminal, a classifier's confusion matrix."""
    if len(part) <= MAX_ROWS_SHOWN:
        from ..reports.figures import predictions_table

        print(predictions_table(part.y, model.predict(part.X)), end="\n\n")
    elif (
        isinstance(model.targets, ClassTargets)
        and len(model.targets.classes) <= MAX_CLASSES_SHOWN
        and sys.stdout.isatty()
    ):
        from ..reports.figures import confusion_matrix

        truth = model.targets.decode(model.targets.encode(part.y))
        width = shutil.get_terminal_size().columns
        print(confusion_matrix(truth, model.predict(part.X), model.targets.classes, width), end="\n\n")
