"""Compiles with g++, and keeps what was compiled on disk by all that it depends on."""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


class CompileError(RuntimeError):
    """The text is not CUDA C that the emulator understands; the compiler's own message follows."""


def available() -> str | None:
    """None where kernels can be emulated, otherwise the reason why not."""
    if sys.platform != "linux":
        return f"the CUDA kernels are emulated on Linux only, not on {sys.platform}"
    return None if shutil.which("g++") else "g++ is not installed; the CUDA kernels cannot be emulated"


def build(
    make_sources: Callable[[], dict[str, str]], flags: list[str], libraries: list[str], depends_on: list[str]
) -> Path:
    """The shared library of the files that `make_sources` gives: text by name.

    It comes from the cache if one was built with the same flags, libraries, compiler and texts in `depends_on`.
    """
    everything = "\0".join([*flags, *libraries, *depends_on, _version()])
    folder = _cache_folder()
    library = folder / f"{hashlib.sha256(everything.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        # Compiled aside, then renamed: another process sees the whole library or none.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            sources = make_sources()
            for name, text in sources.items():
                Path(scratch, name).write_text(text)
            files = [str(Path(scratch, name)) for name in sources if name.endswith(".cpp")]
            built = Path(scratch, "built.so")
            run(*flags, *files, "-o", str(built), *libraries)
            built.replace(library)
    return library


def run(*arguments: str, text: str | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["g++", *arguments], input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise CompileError(f"the kernels do not compile:\n{done.stderr}")
    return done.stdout


@functools.cache
def _version() -> str:
    return run("--version")


def _cache_folder() -> Path:
    if base := os.environ.get("NNFAST_CACHE_DIR"):
        folder = Path(base, "cuda_on_cpu")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir(), f"nnfast-{os.getuid()}-cuda_on_cpu")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        # The temporary folder is everybody's: a library planted there by another user would run as us.
        raise PermissionError(f"{folder} belongs to another user; set NNFAST_CACHE_DIR to a folder of your own")
    return folder
