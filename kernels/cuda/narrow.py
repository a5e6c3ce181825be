"""Writes a narrow network's kernels: one text for the whole network, its sizes and formulas in it as constants."""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np

from nnfast.kernels.cuda.layout import TILE, Layout, narrow_operations, tiles
from nnfast.plans.operations import DenseOperation, DropoutOperation, Operation, Span
from nnfast.plans.plan import Plan
from nnfast.plans.recipe import Recipe
from nnfast.support.random import Purpose, dropout_threshold

from .sources import C_TYPES, activation_struct, constants, define, loss_macros, text, update_function


def rows_source(plan: Plan, recipe: Recipe, layout: Layout, source: np.dtype[Any], sparse: bool) -> str:
    """Kernels `rows` and `evaluate` of a network, for rows of one element type."""
    dtype = recipe.dtype
    writer = _Writer(plan, layout, constants(plan, recipe)[1])
    definitions = define(
        SPARSE=int(sparse),
        ROWS=layout.rows,
        ROWS_ALIGNMENT=min(16, layout.rows * dtype.itemsize),
        THREADS=layout.threads,
        SCRATCH=layout.scratch,
        NETWORK_OUTPUTS=plan.network.output_size,
        OUTPUT_PLACE=writer.place(plan.output, "outputs"),
    )
    return text(
        dtype,
        f"typedef {C_TYPES[source.name]} S;",
        definitions,
        writer.activations(),
        loss_macros(plan.output.layer.function, recipe.loss),
        "philox.cu",
        "row_loss.cu",
        "penalty.cu",
        "narrow_pieces.cu",
        writer.forward(),
        writer.output_losses(),
        writer.backward(),
        writer.penalties(),
        "narrow_rows.cu",
    )


def weights_source(plan: Plan, recipe: Recipe) -> str:
    """Kernels `learn` and `gradient` of a network."""
    return text(
        recipe.dtype,
        define(TILE=TILE, PARAMETERS=f"{plan.parameter_count}ll", LAYERS=_layers(plan)),
        update_function(recipe.optimizer),
        "penalty.cu",
        "update.cu",
        "narrow_weights.cu",
    )


class _Writer:
    """Writes a network as lists of calls of the pieces in narrow_pieces.cu."""

    def __init__(self, plan: Plan, layout: Layout, constant_offsets: dict[int, int]) -> None:
        self.plan, self.layout, self.constant_offsets = plan, layout, constant_offsets
        functions = dict.fromkeys(op.layer.function for op in plan.dense_operations if op is not plan.output)
        self.structs = {function: f"F{index}" for index, function in enumerate(functions)}
        self.read_by_dense = {op.inputs for op in plan.dense_operations}

    def place(self, op: Operation | None, name: str) -> int:
        """Where in shared memory; None stands for the network's inputs."""
        index = -1 if op is None else self.plan.operations.index(op)
        return self.layout.places[index, name]

    def _before(self, op: Operation) -> Operation | None:
        index = self.plan.operations.index(op)
        return self.plan.operations[index - 1] if index else None

    def _constants(self, op: DenseOperation) -> str:
        return f"b.k + {self.constant_offsets[op.layer_index]}"

    def _bias(self, op: DenseOperation) -> str:
        return f"b.p + {op.bias.offset}" if op.bias else "nullptr"

    def activations(self) -> str:
        return "\n".join(activation_struct(function, name) for function, name in self.structs.items())

    def forward(self) -> str:
        calls = []

        def store(span: Span, place: int) -> None:
            if span in self.read_by_dense:
                calls.append(f"if (b.keep) store<{span.shape[1]}>(b, {place}, b.workspace + {span.offset});")

        inputs = self.plan.inputs
        calls.append(
            f"gather<{inputs.shape[1]}>(b, step, inputs, indices, starts, scale, {self.place(None, 'outputs')});"
        )
        store(inputs, self.place(None, "outputs"))
        for op in narrow_operations(self.plan):
            x, a, width = self.place(self._before(op), "outputs"), self.place(op, "outputs"), op.outputs.shape[1]
            match op:
                case DropoutOperation():
                    calls.append(
                        f"drop<{width}>(b, draw, {Purpose.DROPOUT << 24 | op.layer_index}u, "
                        f"{dropout_threshold(op.layer.rate)}ull, T({1 / (1 - op.layer.rate)!r}), {x}, {a}, "
                        f"{self.place(op, 'mask')});"
                    )
                    store(op.outputs, a)
                case DenseOperation():
                    ins, _, slices = self.layout.slices[self.plan.operations.index(op)]
                    calls.append(f"product<{ins}, {width}, {slices}>(b, b.p + {op.weights.offset}, {x});")
                    if op is self.plan.output:
                        calls.append(f"collect<{width}, {slices}>(b, {self.place(op, 'z')});")
                    else:
                        z = self._z(op)
                        calls.append(
                            f"activate<{width}, {slices}, {self.structs[op.layer.function]}>"
                            f"(b, {self._bias(op)}, {self._constants(op)}, {z}, {a});"
                        )
                        store(op.outputs, a)
                case _:
                    assert_never(op)
        signature = (
            "void forward(const Block& b, const Step& step, const S* inputs, const long long* indices, "
            "const long long* starts, T scale, const Draw& draw)"
        )
        return _function(signature, calls)

    def _z(self, op: DenseOperation) -> int:
        """Its place, or -1 where it is not kept."""
        return self.place(op, "z") if op.z != op.outputs else -1

    def output_losses(self) -> str:
        op = self.plan.output
        signature = (
            "double output_losses(const Block& b, const Step& step, const Targets& targets, const T* sample_weight, "
            "int weighted, T divisor)"
        )
        places = ", ".join(map(str, (self.place(op, "z"), self.place(op, "outputs"), self.layout.scratch)))
        return _function(
            signature,
            [
                f"return losses_of_rows(b, step, targets, sample_weight, weighted, divisor, {self._bias(op)}, "
                f"{self._constants(op)}, {places});"
            ],
        )

    def backward(self) -> str:
        """From dLoss/dz of the last layer, which lies in scratch; deltas lie there and behind it in turn."""
        calls = []
        delta, other = self.layout.scratch, self.layout.scratch + self.layout.width
        for op in reversed(narrow_operations(self.plan)):
            width = op.outputs.shape[1]
            match op:
                case DropoutOperation():
                    if op.input_gradient:
                        calls.append(f"undrop<{width}>(b, {self.place(op, 'mask')}, {delta});")
                case DenseOperation():
                    if op is not self.plan.output:
                        function = self.structs[op.layer.function]
                        places = f"{self._z(op)}, {self.place(op, 'outputs')}, {delta}"
                        calls.append(f"slope<{width}, {function}>(b, {self._constants(op)}, {places});")
                    calls.append(f"store<{width}>(b, {delta}, b.workspace + {op.gradient.offset});")
                    if op.input_gradient and op is not self.plan.operations[0]:  # the inputs' is no part of a step
                        group = min(32, 1 << (width - 1).bit_length())
                        calls.append(
                            f"product_back<{op.inputs.shape[1]}, {width}, {group}>"
                            f"(b, b.p + {op.weights.offset}, {delta}, {other});"
                        )
                        delta, other = other, delta
                case _:
                    assert_never(op)
        return _function("void backward(const Block& b)", calls)

    def penalties(self) -> str:
        terms = [f"penalties_of(p + {span.offset}, {span.size}, alpha, l1)" for span in self.plan.weight_spans]
        return _function("double penalties(const T* p, double alpha, double l1)", [f"return {' + '.join(terms)};"])


def _layers(plan: Plan) -> str:
    """The table of layers in narrow_weights.cu."""
    rows, first_tile = [], 0
    for op in plan.dense_operations:
        inputs, outputs = op.weights.shape
        down, across = tiles(op)
        places = (op.inputs.offset, op.gradient.offset, op.weights.offset)
        row = (inputs, outputs, int(op.bias is not None), first_tile, across, *places)
        rows.append(f"{{{', '.join(map(str, row))}}}")
        first_tile += down * across
    return f"{{{', '.join(rows)}}}"


def _function(signature: str, calls: list[str]) -> str:
    return "\n    ".join([f"__device__ __forceinline__ {signature}", "{", *calls]) + "\n}"
