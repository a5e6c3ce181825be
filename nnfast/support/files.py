"""Atomic writes: a file is there whole or not at all, also after a crash or a full disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace or create `path` with `content`. Raises OSError where that cannot be done, leaving the old file."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _about(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's own mode would hide the file from the user's group
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _about(path, error) from None
        raise


def _about(path: Path, error: OSError) -> OSError:
    """The same error about the file that the user asked for."""
    return OSError(error.errno, error.strerror or str(error), os.fspath(path))


def write_text(path: Path, content: str) -> None:
    """Like write_bytes, in UTF-8."""
    write_bytes(path, content.encode())
