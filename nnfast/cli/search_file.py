"""search.jsonl: what a search is, then a line for every training that ended, so that a killed search can go on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..support.files import write_text
from .run_directory import SEARCH, SEARCH_SIGNATURE, to_json

if sys.platform != "win32":
    import fcntl

SCORES = "accuracy", "r2", "loss"  # of a line, each a number with a point, or null


@contextlib.contextmanager
def only_search_in(directory: Path) -> Iterator[None]:
    """Within this, no other search has the directory. Raises ValueError if one has it; Windows knows no such lock.

    The lock is on the directory, which stays while files in it are replaced, and ends with the process.
    """
    if sys.platform == "win32":
        yield
        return
    held = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another nnfast search is writing {directory}: wait for it, or give another --out"
            raise ValueError(message) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(held)


class SearchFile:
    """The file in the directory of --out. head: what the search in it is; None before there is one."""

    def __init__(self, directory: Path) -> None:
        """Read what is there, but for a last line that was cut short. Raises OSError, or ValueError for other lines."""
        self.path = directory / SEARCH
        content = self.path.read_bytes() if self.path.exists() else b""
        self._whole = content.rfind(b"\n") + 1
        self._file: IO[bytes] | None = None
        parsed = [self._parsed(number, line) for number, line in enumerate(content[: self._whole].splitlines(), 1)]
        self.head: dict[str, Any] | None = parsed[0] if parsed else None
        self.lines = parsed[1:]

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
            needed = {SEARCH_SIGNATURE} if number == 1 else {"candidate", "fold"}
            if not isinstance(parsed, dict) or not needed <= parsed.keys():
                raise ValueError
            if not all(isinstance(parsed.get(f"validation_{name}"), float | None) for name in SCORES):
                raise ValueError
        except (ValueError, RecursionError):
            raise ValueError(f"{self.path}: line {number} is damaged; give another --out") from None
        return parsed

    def begin(self, head: Mapping[str, Any]) -> None:
        """Name the search that is to go on. Raises ValueError if the file is of another one."""
        new: dict[str, Any] = json.loads(json.dumps({SEARCH_SIGNATURE: __version__, **head}))
        old = new if self.head is None else self.head
        for name in [*new, *(name for name in old if name not in new)]:
            if name != SEARCH_SIGNATURE and old.get(name) != new.get(name):
                raise ValueError(
                    f"{self.path} is of a search {_difference(name, old.get(name), new.get(name))}: "
                    "give the same options to go on with it, or another --out"
                )
        self.head = new if self.head is None else self.head

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a training's line; the first one of all after the head."""
        if self._file is None:
            if not self._whole:
                write_text(self.path, json.dumps(self.head, ensure_ascii=False) + "\n")
                self._whole = self.path.stat().st_size
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 - by close
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
        self._file.write(f"{to_json(line)}\n".encode())

    def close(self) -> None:
        if self._file:
            self._file.close()


def _difference(name: str, old: Any, new: Any) -> str:
    """ "with folds 3, not 4", or "over hidden and dropout, not over hidden"."""
    if name == "varied":
        was, now = (" and ".join(names) or "one candidate" for names in (old, new))
        return f"over {was}, not over {now}"
    return f"with {name} {_shown(old)}, not {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
