"""Arrays with a format and texts beside them, in one safetensors file: what models and learners are saved in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .files import write_bytes

T = TypeVar("T")

Arrays = dict[str, NDArray[Any]]

READERS = {  # what the files of other kinds hold, and what reads them
    "model": "a Model, which Model.load reads",
    "ensemble": "an Ensemble, which Ensemble.load reads",
    "learner": "a Learner, which Learner.load reads",
}


def write_tensors(
    path: str | os.PathLike[str], form: str, texts: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a file of the format `form`, replacing it whole or not at all. Raises OSError."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_bytes(Path(path), _with_texts_in_order(save(contiguous, {"format": form, **texts})))


def _with_texts_in_order(data: bytes) -> bytes:
    """A file whose texts stand in one order, where safetensors writes them in another each time.

    Its header is JSON, after eight bytes that tell how long it is; blanks may fill it up.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_tensors(
    path: str | os.PathLike[str], form: str, what: str, make: Callable[[Mapping[str, str], Arrays], T]
) -> T:
    """What `make` makes of the texts and arrays of a file of the format `form`; nothing in the file is executed.

    what: the kind of file, for messages. Raises OSError, and ValueError for any other file, or one that `make` finds
    damaged: it may raise whatever missing and wrong entries lead to.
    """
    from safetensors import SafetensorError, safe_open

    kind = f"{'an' if what[0] in 'aeiou' else 'a'} {what} file"
    with open(path, "rb"):  # a missing or unreadable file is an OSError with its name
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two: element types NumPy lacks
        raise ValueError(f"{os.fspath(path)} is not {kind}: {error}") from None
    if texts.get("format") != form:
        found = str(texts.get("format")).split(" ")
        if len(found) == 3 and found[0] == "nnfast" and found[1] in READERS and found[1] != what:
            raise ValueError(f"{os.fspath(path)} is not {kind}: it holds {READERS[found[1]]}")
        raise ValueError(f"{os.fspath(path)} is not {kind} of this version (its format must be {form!r})")
    try:
        return make(texts, arrays)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} is a damaged {what} file: {error}") from None


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of a file of write_tensors; None for any other file, and for one that cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format")
    except (SafetensorError, OSError):
        return None
