"""Level 5: the real CuPy compiles the backend's texts where no GPU is, and how it has NVIDIA's compiler do so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnfast.backends.cuda import OPTIONS
from nnfast.formulas.activations import ACTIVATIONS
from nnfast.kernels.cuda import sources
from tests.cuda.gate import CUPY_OPTIONS

# In a process of its own, since CuPy looks for CUDA's headers once. What it asks of a device is answered for it.
COMPILE = """
import json, sys
from unittest.mock import patch
from cupy.cuda import compiler, function
import cupy

text, options = json.load(sys.stdin)
given = []

class Program(compiler._NVRTCProgram):
    def compile(self, options=(), log_stream=None):
        given.append(options)
        return super().compile(options, log_stream)

class Module(function.Module):
    def load(self, cubin):
        self.cubin = cubin

with (
    patch.object(compiler, "_NVRTCProgram", Program),
    patch.object(compiler, "_get_arch", lambda: "90"),
    patch.object(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: ("-arch=sm_90", "cubin")),
    patch.object(function, "Module", Module),
):
    # What RawModule.get_function calls
    module = cupy._core.core.compile_with_cache(text, tuple(options), prepend_cupy_headers=False)
assert module.cubin.startswith(b"\\x7fELF")
json.dump(given[-1], sys.stdout)
"""


def test_cupy_compiles_a_text_with_the_options_of_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("cupy")
    # It asks for CUDA's headers whether a text includes any or not
    headers = tmp_path / "cuda" / "include"
    headers.mkdir(parents=True)
    (headers / "cuda_runtime.h").touch()
    folders = {"CUDA_PATH": str(headers.parent), "CUDA_HOME": str(headers.parent), "CUPY_CACHE_DIR": str(tmp_path)}
    text = sources.activation_source(ACTIVATIONS["gelu"], np.dtype("float32"))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input=json.dumps([text, OPTIONS]),
        env=os.environ | folders,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    given = [option for option in json.loads(done.stdout) if not option.startswith(("-I", "-arch="))]
    assert given == [*OPTIONS, *CUPY_OPTIONS]
