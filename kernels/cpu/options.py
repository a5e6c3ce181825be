"""The settings that all CPU kernels are compiled with."""

from __future__ import annotations

from typing import Any

# Division by zero gives infinity, as in NumPy: Python's check in every division would keep loops from vectorising.
# Sums keep their order and NaN stays NaN; only fused multiply-add, signed zero and reciprocals are left to LLVM.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}, "nogil": True}
