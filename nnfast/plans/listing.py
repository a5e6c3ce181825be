"""Every array of a plan by name: what a person reads, and what an engine's offsets are held to."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

from .operations import Span
from .plan import Plan


class PlacedArray(NamedTuple):
    """An array and where it lies: `span` in the vector "parameters", "state" or "workspace"."""

    vector: str
    name: str
    span: Span


def placed_arrays(plan: Plan) -> list[PlacedArray]:
    """All arrays of the plan, each once, by vector and place. Names: "inputs", "layers.0.weights", ..."""
    batch = {"inputs": plan.inputs, "targets": plan.targets, "sample_weight": plan.sample_weight}
    found = {("workspace", span): PlacedArray("workspace", name, span) for name, span in batch.items()}
    homes = dict.fromkeys(plan.named_parameters, "parameters") | dict.fromkeys(plan.named_state, "state")
    for op in plan.operations:
        for field in fields(op):
            span = getattr(op, field.name)
            if isinstance(span, Span):
                name = f"layers.{op.layer_index}.{field.name}"
                vector = homes.get(name, "workspace")
                # Its inputs are the outputs of the operation before, z may be its outputs, ...
                found.setdefault((vector, span), PlacedArray(vector, name, span))
    return sorted(found.values(), key=lambda array: (array.vector, array.span.offset))
