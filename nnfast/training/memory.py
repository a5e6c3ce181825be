"""What a training takes in memory for the numbers between the layers, told before it begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import Backend, get_backend
from ..networks.network import Network
from ..plans.plan import make_plan
from .job import EVALUATION_ROWS, planned_rows


def workspace_bytes(
    network: Network, batch_size: int, dtype: Any, backend: str | Backend = "auto", n_rows: int | None = None
) -> int:
    """The bytes of the workspace that train() has made before its first step; 0 on a backend that plans none.

    n_rows: what it trains on; None: as many as a batch and an evaluation take, or more.
    """
    plan = make_plan(network, _rows(batch_size, n_rows))
    dtype = np.dtype(dtype)
    return get_backend(backend).workspace_size(plan, dtype) * dtype.itemsize


def workspace_words(
    network: Network, batch_size: int, dtype: Any, backend: str | Backend = "auto", n_rows: int | None = None
) -> str:
    """ "workspace: 12.3 MB on numba, for batches of 64 (256 rows in evaluation)"."""
    chosen = get_backend(backend)
    size = workspace_bytes(network, batch_size, dtype, chosen, n_rows)
    if size == 0:
        return f"workspace: none on {chosen.name}, which takes memory as it goes"
    rows = _rows(batch_size, n_rows)
    batch_size = min(batch_size, rows)
    more = f" ({rows:,} rows in evaluation)" if rows > batch_size else ""
    return f"workspace: {_bytes(size)} on {chosen.name}, for batches of {batch_size:,}{more}"


def _rows(batch_size: int, n_rows: int | None) -> int:
    return planned_rows(batch_size, max(batch_size, EVALUATION_ROWS) if n_rows is None else n_rows)


def _bytes(size: float) -> str:
    """ "12.3 MB", in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
