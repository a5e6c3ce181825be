"""What a Learner's file holds: the arguments that it was made with, and the State that it has come to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..formulas.optimizers import Optimizer
from ..models.model import loss_from_data, loss_to_data
from ..networks.network import Network
from ..plans.plan import make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_integer
from ..support.memory import physical_memory
from ..support.tensors import Arrays, write_tensors
from .state import State

FORMAT = "nnfast learner 1"


def write_learner(
    path: str | os.PathLike[str], network: Network, recipe: Recipe, batch_rows: int, learning_rate: float, state: State
) -> None:
    """Write the file, whole or not at all. Raises OSError."""
    arrays, progress = state.to_state()
    description = {
        "loss": loss_to_data(recipe.loss),
        "optimizer": {item.name: getattr(recipe.optimizer, item.name) for item in fields(Optimizer)},
        "batch_rows": batch_rows,
        "learning_rate": learning_rate,
        **{name: getattr(recipe, name) for name in ("alpha", "l1", "clip_norm", "seed")},
    }
    texts = {
        "network": network.to_json(),
        "description": json.dumps(description),
        "progress": json.dumps(progress),
    }
    write_tensors(path, FORMAT, texts, arrays)


def from_file(texts: Mapping[str, str], arrays: Arrays) -> tuple[dict[str, Any], State]:
    """The arguments of Learner but for its backend, and its state; see read_tensors for what may be raised."""
    state = State.from_state(arrays, {"plateau": {}, "random_state": {}} | json.loads(texts["progress"]))
    network, held = Network.from_json(texts["network"]), state.parameters.size
    if held != (needed := make_plan(network, 1).parameter_count):  # before anything of that size is made
        raise ValueError(f"it holds {held} parameters, but its network has {needed}")
    description = json.loads(texts["description"])
    rows = check_integer(description["batch_rows"], "batch_rows")
    size = make_plan(network, rows).workspace_size * state.parameters.dtype.itemsize
    if size > (memory := physical_memory()):  # also before; else a small file could ask for any memory
        raise ValueError(f"its batches of {rows} rows need {size} bytes, but this machine has {memory} bytes of memory")
    arguments = description | {
        "network": network,
        "loss": loss_from_data(description["loss"]),
        "optimizer": Optimizer(**description["optimizer"]),
        "dtype": state.parameters.dtype,
    }
    return arguments, state
