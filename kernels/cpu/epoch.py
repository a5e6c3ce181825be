"""The CPU engine: one compiled call runs a stretch of training steps over a table of operations.

Layer sizes, offsets, batch bounds, rates and the addresses of the formulas' kernels are data: a new network, batch
size, activation, optimizer or seed compiles nothing here. dtype alone does.
"""

from __future__ import annotations

import math

import numpy as np

from .calls import call_float64, call_void, unowned
from .compilation import helper, kernel
from .philox import dropout
from .products import inputs_product, outputs_product, weights_product

# Columns of the operations table (int64). Offsets count elements; weights and bias in the parameter vector, the
# others in the workspace; -1 stands for absent. VALUE and DERIVATIVE are addresses of kernels (see formulas.py).
(
    KIND, INPUT_SIZE, OUTPUT_SIZE, WEIGHTS, BIAS, INPUTS, Z, OUTPUTS, GRADIENT, INPUT_GRADIENT,
    VALUE, DERIVATIVE, CONSTANTS, MASK, THRESHOLD, LAYER, COLUMNS,
) = range(17)  # fmt: skip
DENSE, DROPOUT = 0, 1

# The job vector (int64): addresses of kernels and of the source's arrays, offsets of the batch in the workspace.
(
    GATHER_INPUTS, GATHER_TARGETS, GATHER_WEIGHTS, LOSS, UPDATE, MULTIPLY, TRANSPOSE,
    SOURCE_INPUTS, SOURCE_TARGETS, SOURCE_WEIGHTS,
    BATCH_INPUTS, BATCH_TARGETS, BATCH_WEIGHTS, LOSS_CONSTANTS, SUM_REDUCTION, MODE, FIRST_STEP, JOB_SIZE,
) = range(18)  # fmt: skip
TRAIN, GRADIENT_ONLY, EVALUATE = 0, 1, 2

# Settings (float64).
SCALE, ALPHA, L1, CLIP_NORM, SETTINGS_SIZE = range(5)


@kernel
def run_steps(
    operations, job, settings, seed, constants, zeros, parameters, gradient, slots, workspace, scratch, order, bounds,
    values, losses, outputs,
):  # fmt: skip
    """Run bounds.size - 1 steps; step k takes the rows order[bounds[k]:bounds[k + 1]].

    operations: (n_operations, COLUMNS) int64. job: (JOB_SIZE,) int64. settings: (SETTINGS_SIZE,) float64.
    seed: uint64, of the dropout masks. constants: of all formulas. zeros: stands for the bias of a layer without one.
    parameters, gradient: (n_parameters,). slots: all optimizer slots, flat. workspace: see nnfast.plan. scratch: room
    for the largest weights, transposed.
    values: (n_steps, n) rows of Optimizer.step_values. All these in dtype T.
    losses: (n_steps,) float64, written. In mode EVALUATE, the loss is the weighted sum and outputs (n_rows, n_outputs)
    receives the rows' outputs.
    """
    # Every slice below would count a reference otherwise, which small networks feel.
    operations, job, constants, zeros = unowned(operations), unowned(job), unowned(constants), unowned(zeros)
    parameters, gradient, slots = unowned(parameters), unowned(gradient), unowned(slots)
    workspace, scratch, order, values = unowned(workspace), unowned(scratch), unowned(order), unowned(values)
    mode = job[MODE]
    for k in range(bounds.size - 1):
        rows = order[bounds[k] : bounds[k + 1]]
        n = rows.size
        gather(job, settings, rows, operations[0, INPUT_SIZE], operations[-1, OUTPUT_SIZE], workspace)
        weights = workspace[job[BATCH_WEIGHTS] : job[BATCH_WEIGHTS] + n]
        total_weight = total(weights) if job[SOURCE_WEIGHTS] != 0 else float(n)
        if total_weight == 0.0 and mode != EVALUATE:
            losses[k] = 0.0
            continue
        divisor = 1.0 if job[SUM_REDUCTION] or mode == EVALUATE else total_weight
        step = job[FIRST_STEP] + k
        forward(operations, job, constants, zeros, parameters, workspace, n, mode == TRAIN, seed, step)
        loss = output_loss(operations, job, constants, zeros, parameters, workspace, weights, n, divisor)
        if mode == EVALUATE:
            losses[k] = loss
            last = operations[-1]
            size = last[OUTPUT_SIZE]
            copy(workspace[last[OUTPUTS] : last[OUTPUTS] + n * size], outputs[bounds[k] : bounds[k + 1]].reshape(-1))
            continue
        backward(operations, job, constants, parameters, gradient, workspace, scratch, n, mode == TRAIN)
        loss += add_penalties(operations, settings, parameters, gradient, divisor)
        losses[k] = loss / divisor
        if mode == TRAIN:
            if settings[CLIP_NORM] > 0.0:
                clip(gradient, settings[CLIP_NORM])
            call_void(job[UPDATE], (parameters, gradient, slots, values[k], parameters.size))


@helper
def gather(job, settings, rows, input_size, output_size, workspace):
    """The batch's inputs, targets and sample weights (ones where the source has none) into the workspace."""
    n = rows.size
    call_void(
        job[GATHER_INPUTS],
        (job[SOURCE_INPUTS], rows, n, input_size, settings[SCALE], workspace[job[BATCH_INPUTS] :]),
    )
    call_void(job[GATHER_TARGETS], (job[SOURCE_TARGETS], rows, n, output_size, 1.0, workspace[job[BATCH_TARGETS] :]))
    weights = workspace[job[BATCH_WEIGHTS] : job[BATCH_WEIGHTS] + n]
    if job[SOURCE_WEIGHTS] != 0:
        call_void(job[GATHER_WEIGHTS], (job[SOURCE_WEIGHTS], rows, n, 1, 1.0, weights))
    else:
        weights[:] = 1


@helper
def forward(operations, job, constants, zeros, parameters, workspace, n, training, seed, step):
    """Every layer's outputs; for the last layer only the product, whose bias and activation belong to the loss."""
    for index in range(len(operations)):
        op = operations[index]
        inputs = workspace[op[INPUTS] : op[INPUTS] + n * op[INPUT_SIZE]]
        z = workspace[op[Z] : op[Z] + n * op[OUTPUT_SIZE]]
        if op[KIND] == DENSE:
            W = parameters[op[WEIGHTS] : op[WEIGHTS] + op[INPUT_SIZE] * op[OUTPUT_SIZE]]
            outputs_product(job[MULTIPLY], inputs, W, z, n, op[INPUT_SIZE], op[OUTPUT_SIZE])
            if index < len(operations) - 1:
                bias = zeros if op[BIAS] < 0 else parameters[op[BIAS] :]
                call_void(
                    op[VALUE], (z, bias, workspace[op[OUTPUTS] :], constants[op[CONSTANTS] :], n, op[OUTPUT_SIZE])
                )
        elif training:
            mask = workspace[op[MASK] : op[MASK] + z.size]
            scale = constants[op[CONSTANTS]]
            dropout(inputs, z, mask, seed, step, op[LAYER], np.uint64(op[THRESHOLD]), scale)
        else:
            copy(inputs, z)


@helper
def output_loss(operations, job, constants, zeros, parameters, workspace, weights, n, divisor):
    """The last layer's activation, the batch's weighted sum of losses, and dLoss/dz divided by `divisor`."""
    op = operations[-1]
    size = n * op[OUTPUT_SIZE]
    z = workspace[op[Z] : op[Z] + size]
    return call_float64(
        job[LOSS],
        (
            z,
            zeros if op[BIAS] < 0 else parameters[op[BIAS] :],
            workspace[op[OUTPUTS] :],
            workspace[job[BATCH_TARGETS] :],
            weights,
            workspace[op[GRADIENT] :],
            constants[job[LOSS_CONSTANTS] :],
            z.dtype.type(1.0 / divisor),
            n,
            op[OUTPUT_SIZE],
        ),
    )


@helper
def backward(operations, job, constants, parameters, gradient, workspace, scratch, n, training):
    """Backpropagation: from dLoss/dz of the last layer to the gradient of every parameter."""
    for index in range(len(operations) - 1, -1, -1):
        op = operations[index]
        delta = workspace[op[GRADIENT] : op[GRADIENT] + n * op[OUTPUT_SIZE]]
        if op[KIND] == DENSE:
            if index < len(operations) - 1:
                call_void(
                    op[DERIVATIVE],
                    (
                        workspace[op[Z] :],
                        workspace[op[OUTPUTS] :],
                        delta,
                        constants[op[CONSTANTS] :],
                        n,
                        op[OUTPUT_SIZE],
                    ),
                )
            x = workspace[op[INPUTS] : op[INPUTS] + n * op[INPUT_SIZE]]
            end = op[WEIGHTS] + op[INPUT_SIZE] * op[OUTPUT_SIZE]
            weights_product(
                job[MULTIPLY],
                job[TRANSPOSE],
                x,
                delta,
                gradient[op[WEIGHTS] : end],
                scratch,
                n,
                op[INPUT_SIZE],
                op[OUTPUT_SIZE],
            )
            if op[BIAS] >= 0:
                sum_rows(delta, gradient[op[BIAS] : op[BIAS] + op[OUTPUT_SIZE]])
            if op[INPUT_GRADIENT] >= 0:
                dx = workspace[op[INPUT_GRADIENT] : op[INPUT_GRADIENT] + n * op[INPUT_SIZE]]
                inputs_product(
                    job[MULTIPLY],
                    job[TRANSPOSE],
                    delta,
                    parameters[op[WEIGHTS] : end],
                    scratch,
                    dx,
                    n,
                    op[INPUT_SIZE],
                    op[OUTPUT_SIZE],
                )
        elif op[INPUT_GRADIENT] >= 0:
            dx = workspace[op[INPUT_GRADIENT] : op[INPUT_GRADIENT] + delta.size]
            if training:
                multiply(delta, workspace[op[MASK] : op[MASK] + delta.size], dx)
            else:
                copy(delta, dx)


@helper
def add_penalties(operations, settings, parameters, gradient, divisor):
    """Add the gradients of alpha W**2 / 2 and l1 |W|, divided, and return the penalties, not yet divided."""
    if settings[ALPHA] == 0.0 and settings[L1] == 0.0:
        return 0.0
    penalty = 0.0
    for index in range(len(operations)):
        op = operations[index]
        if op[KIND] == DENSE:
            end = op[WEIGHTS] + op[INPUT_SIZE] * op[OUTPUT_SIZE]
            W = parameters[op[WEIGHTS] : end]
            alpha, l1 = W.dtype.type(settings[ALPHA] / divisor), W.dtype.type(settings[L1] / divisor)
            squares, absolutes = penalize(W, gradient[op[WEIGHTS] : end], alpha, l1)
            penalty += 0.5 * settings[ALPHA] * squares + settings[L1] * absolutes
    return penalty


@helper
def penalize(W, gradient, alpha, l1):
    """gradient += alpha W + l1 sign(W). Returns sum W**2 and sum |W|."""
    squares = 0.0
    absolutes = 0.0
    zero = alpha - alpha
    for i in range(W.size):
        w = W[i]
        sign = l1 if w > zero else (-l1 if w < zero else zero)
        gradient[i] += alpha * w + sign
        squares += w * w
        absolutes += abs(w)
    return squares, absolutes


@helper
def clip(gradient, clip_norm):
    """Scale the gradient down to the norm clip_norm if it is longer."""
    squares = 0.0
    for i in range(gradient.size):
        squares += gradient[i] * gradient[i]
    norm = math.sqrt(squares)
    if norm > clip_norm:
        factor = gradient.dtype.type(clip_norm / norm)
        for i in range(gradient.size):
            gradient[i] *= factor


@helper
def sum_rows(block, sums):
    """sums = the sum over the rows of a block whose rows are sums.size long."""
    sums[:] = 0
    for row in range(block.size // sums.size):
        part = block[row * sums.size : (row + 1) * sums.size]
        for j in range(sums.size):
            sums[j] += part[j]


@helper
def total(weights):
    result = 0.0
    for i in range(weights.size):
        result += weights[i]
    return result


@helper
def multiply(a, b, out):
    for i in range(a.size):
        out[i] = a[i] * b[i]


@helper
def copy(a, out):
    for i in range(a.size):
        out[i] = a[i]
