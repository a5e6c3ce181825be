"""The CPU engine: one compiled call runs a stretch of training steps over a table of operations.

Layer sizes, offsets, batch bounds, rates, threads and the addresses of the formulas' kernels are data: a new network,
batch size, activation, optimizer or seed compiles nothing here. dtype alone does.

Every thread of a stretch makes the same call and does its share of each step, in two parts. First the batch is shared
by rows: gather, forward, loss and the way back to every layer's delta, block by block of rows, so that what a block
needs stays in the cache. Then the parameters are shared: gradient, penalties and update. No number depends on how much
is shared or where: rows do not meet before the weights' gradients, which add them up in their order.
"""

from __future__ import annotations

import math

import numpy as np

from .barrier import wait
from .calls import call_void, unowned
from .compilation import helper, kernel
from .philox import dropout
from .products import inputs_product, narrow_weights_product, outputs_product, weights_product

# Columns of the operations table (int64). Offsets count elements; weights and bias in the parameter vector, the
# others in the workspace; -1 stands for absent. The weights are a matrix of WEIGHT_ROWS x WEIGHT_COLUMNS;
# WEIGHTS_TRANSPOSED is room for their transpose, NARROW for that of a narrow matrix's gradient. Names of functions are
# addresses of kernels (see formulas.py, images.py), those with ROW of the row that such a kernel reads.
(
    KIND, INPUT_SIZE, OUTPUT_SIZE, WEIGHTS, WEIGHT_ROWS, WEIGHT_COLUMNS, WEIGHTS_TRANSPOSED, NARROW, BIAS, BIAS_SIZE,
    INPUTS, Z, OUTPUTS, GRADIENT, INPUT_GRADIENT, VALUE, DERIVATIVE, CONSTANTS, PENALTIES,
    FORWARD, FORWARD_ROW, BACKWARD, BACKWARD_ROW, WEIGHT_GRADIENT, WEIGHT_GRADIENT_ROW,
    MASK, THRESHOLD, LAYER, COLUMNS,
) = range(29)  # fmt: skip
DENSE, DROPOUT, IMAGES, INTERLEAVE, DEINTERLEAVE = range(5)

# The job vector (int64): addresses of kernels and of the source's arrays, offsets of the batch in the workspace. BLOCK:
# rows that are taken through the network at once. LANES: images in a group.
(
    GATHER_INPUTS, GATHER_TARGETS, GATHER_WEIGHTS, LOSS, UPDATE, MULTIPLY, TRANSPOSE, GIVE_WAY,
    SOURCE_INPUTS, SOURCE_TARGETS, SOURCE_WEIGHTS, INPUT_SIZE_OF_BATCH,
    BATCH_INPUTS, BATCH_TARGETS, BATCH_WEIGHTS, LOSS_CONSTANTS, SUM_REDUCTION, MODE, FIRST_STEP, BLOCK, LANES, JOB_SIZE,
) = range(22)  # fmt: skip
TRAIN, GRADIENT_ONLY, EVALUATE = 0, 1, 2

# Settings (float64).
SCALE, ALPHA, L1, CLIP_NORM, SETTINGS_SIZE = range(5)

ROW_GROUP = 16  # threads and blocks begin at multiples of so many rows: whole groups of images, whole Philox counters


@kernel
def run_steps(
    operations, job, settings, seed, constants, zeros, parameters, gradient, slots, workspace, row_losses, penalties,
    pack, order, bounds, values, totals, losses, outputs, barrier, thread, threads,
):  # fmt: skip
    """Run bounds.size - 1 steps; step k takes the rows order[bounds[k]:bounds[k + 1]].

    operations: (n_operations, COLUMNS) int64. job: (JOB_SIZE,) int64. settings: (SETTINGS_SIZE,) float64.
    seed: uint64, of the dropout masks. constants: of all formulas. zeros: stands for the bias of a layer without one.
    parameters, gradient: (n_parameters,). slots: all optimizer slots, flat. workspace: see nnfast.plan.
    row_losses: (n_rows,) float64; penalties: (all weights' rows,) float64. pack: (products.PACK_SIZE,), of this
    thread alone. values: (n_steps, n) rows of Optimizer.step_values. All these in dtype T unless said otherwise.
    totals: (n_steps,) float64, the sums of the steps' sample weights; a step of 0 changes nothing.
    losses: (n_steps,) float64, written. In mode EVALUATE, the loss is the weighted sum and outputs (n_rows, n_outputs)
    receives the rows' outputs.
    barrier: where the `threads` threads wait for each other; this is number `thread` of them.
    """
    # Every slice below would count a reference otherwise, which small networks feel.
    operations, job, constants, zeros = unowned(operations), unowned(job), unowned(constants), unowned(zeros)
    parameters, gradient, slots = unowned(parameters), unowned(gradient), unowned(slots)
    workspace, order, values, pack = unowned(workspace), unowned(order), unowned(values), unowned(pack)
    row_losses, penalties = unowned(row_losses), unowned(penalties)
    mode, give_way = job[MODE], job[GIVE_WAY]
    is_penalized = settings[ALPHA] != 0.0 or settings[L1] != 0.0
    if mode != EVALUATE:
        transpose_weights(operations, job, parameters, workspace, thread, threads)
        wait(barrier, threads, give_way)
    for k in range(bounds.size - 1):
        rows = order[bounds[k] : bounds[k + 1]]
        n = rows.size
        if totals[k] == 0.0 and mode != EVALUATE:
            losses[k] = 0.0
            continue
        divisor = 1.0 if job[SUM_REDUCTION] or mode == EVALUATE else totals[k]
        step = job[FIRST_STEP] + k
        group, next_group = share((n + ROW_GROUP - 1) // ROW_GROUP, thread, threads)
        last, end = group * ROW_GROUP, min(n, next_group * ROW_GROUP)
        while last < end:
            first, last = last, min(last + job[BLOCK], end)
            gather(job, settings, rows[first:last], operations[-1, OUTPUT_SIZE], workspace, first)
            forward(operations, job, constants, zeros, parameters, workspace, pack, first, last, n, mode, seed, step)
            output_loss(operations, job, constants, zeros, parameters, workspace, row_losses, first, last, divisor)
            if mode == EVALUATE:
                size = operations[-1, OUTPUT_SIZE]
                block = workspace[operations[-1, OUTPUTS] + first * size : operations[-1, OUTPUTS] + last * size]
                copy(block, outputs[bounds[k] + first : bounds[k] + last].reshape(-1))
                continue
            backward(
                operations, job, constants, parameters, gradient, workspace, pack, first, last, n, mode, threads == 1
            )
        wait(barrier, threads, give_way)
        loss = total(row_losses[:n]) if thread == 0 else 0.0
        if mode == EVALUATE:
            wait(barrier, threads, give_way)
            if thread == 0:
                losses[k] = loss
            continue
        if threads > 1:
            for index in range(len(operations)):
                add_gradients(operations[index], job, gradient, workspace, pack, 0, n, thread, threads)
        if is_penalized:
            add_penalties(operations, settings, parameters, gradient, penalties, divisor, thread, threads)
        if mode == TRAIN:
            if settings[CLIP_NORM] > 0.0:
                wait(barrier, threads, give_way)
                factor = clip_factor(gradient, settings[CLIP_NORM])
                wait(barrier, threads, give_way)
                scale_gradients(operations, gradient, factor, thread, threads)
            update(operations, job, parameters, gradient, slots, values[k], thread, threads)
            transpose_weights(operations, job, parameters, workspace, thread, threads)
        wait(barrier, threads, give_way)
        if thread == 0:
            losses[k] = (loss + total(penalties) if is_penalized else loss) / divisor


@helper
def share(count, thread, threads):
    """Where this thread's share of `count` things begins and ends."""
    if threads == 1:  # small networks feel a division
        return 0, count
    return count * thread // threads, count * (thread + 1) // threads


@helper
def gather(job, settings, rows, output_size, workspace, first):
    """The inputs, targets and sample weights (ones where the source has none) of a block into the workspace."""
    n, input_size = rows.size, job[INPUT_SIZE_OF_BATCH]
    inputs = workspace[job[BATCH_INPUTS] + first * input_size :]
    call_void(job[GATHER_INPUTS], (job[SOURCE_INPUTS], rows, n, input_size, settings[SCALE], inputs))
    targets = workspace[job[BATCH_TARGETS] + first * output_size :]
    call_void(job[GATHER_TARGETS], (job[SOURCE_TARGETS], rows, n, output_size, 1.0, targets))
    weights = workspace[job[BATCH_WEIGHTS] + first : job[BATCH_WEIGHTS] + first + n]
    if job[SOURCE_WEIGHTS] != 0:
        call_void(job[GATHER_WEIGHTS], (job[SOURCE_WEIGHTS], rows, n, 1, 1.0, weights))
    else:
        weights[:] = 1


@helper
def part(vector, offset, size, first, last):
    """The rows first..last-1 of an array in a flat vector, whose rows have `size` numbers."""
    return vector[offset + first * size : offset + last * size]


@helper
def forward(operations, job, constants, zeros, parameters, workspace, pack, first, last, n, mode, seed, step):
    """Every layer's outputs; for the last layer only the product, whose bias and activation belong to the loss."""
    for index in range(len(operations)):
        op = operations[index]
        kind, size = op[KIND], op[OUTPUT_SIZE]
        inputs = part(workspace, op[INPUTS], op[INPUT_SIZE], first, last)
        z = part(workspace, op[Z], size, first, last)
        if kind == DENSE:
            W = parameters[op[WEIGHTS] : op[WEIGHTS] + op[INPUT_SIZE] * size]
            outputs_product(job[MULTIPLY], pack, inputs, W, z, last - first, op[INPUT_SIZE], size)
            if index < len(operations) - 1:
                bias = zeros if op[BIAS] < 0 else parameters[op[BIAS] :]
                outputs = workspace[op[OUTPUTS] + first * size :]
                call_void(op[VALUE], (z, bias, outputs, constants[op[CONSTANTS] :], last - first, size))
        elif kind == DROPOUT:
            if mode == TRAIN:
                mask = part(workspace, op[MASK], size, first, last)
                scale = constants[op[CONSTANTS]]
                dropout(inputs, z, mask, first * size, seed, step, op[LAYER], np.uint64(op[THRESHOLD]), scale)
            else:
                copy(inputs, z)
        else:
            lanes = job[LANES]
            begin, end = first // lanes, (last + lanes - 1) // lanes
            if kind == IMAGES:
                call_void(op[FORWARD], (op[FORWARD_ROW], parameters, parameters, workspace, n, begin, end))
                if op[VALUE] >= 0:
                    z, outputs = workspace[op[Z] + begin * lanes * size :], workspace[op[OUTPUTS] + begin * lanes * size :]
                    call_void(op[VALUE], (z, zeros, outputs, constants[op[CONSTANTS] :], (end - begin) * lanes, size))
            else:
                call_void(op[FORWARD], (workspace[op[INPUTS] :], workspace[op[OUTPUTS] :], n, size, begin, end))


@helper
def output_loss(operations, job, constants, zeros, parameters, workspace, row_losses, first, last, divisor):
    """The last layer's activation, the rows' weighted losses, and dLoss/dz divided by `divisor`."""
    op = operations[-1]
    size = op[OUTPUT_SIZE]
    z = part(workspace, op[Z], size, first, last)
    call_void(
        job[LOSS],
        (
            z,
            zeros if op[BIAS] < 0 else parameters[op[BIAS] :],
            workspace[op[OUTPUTS] + first * size :],
            workspace[job[BATCH_TARGETS] + first * size :],
            workspace[job[BATCH_WEIGHTS] + first :],
            workspace[op[GRADIENT] + first * size :],
            row_losses[first:],
            constants[job[LOSS_CONSTANTS] :],
            z.dtype.type(1.0 / divisor),
            last - first,
            size,
        ),
    )


@helper
def backward(
    operations, job, constants, parameters, gradient, workspace, pack, first, last, n, mode, with_parameters
):  # fmt: skip
    """Backpropagation: from dLoss/dz of the last layer to that of every layer, for a block of rows.

    with_parameters: whether the block's share of the parameters' gradients is added at once.
    """
    for index in range(len(operations) - 1, -1, -1):
        op = operations[index]
        kind, size = op[KIND], op[OUTPUT_SIZE]
        begin, end = first, last
        if kind >= IMAGES:
            begin, end = first // job[LANES], (last + job[LANES] - 1) // job[LANES]
        delta = part(workspace, op[GRADIENT], size, first, last)
        if kind <= IMAGES and op[DERIVATIVE] >= 0:
            start, rows = (begin * job[LANES], (end - begin) * job[LANES]) if kind == IMAGES else (first, last - first)
            call_void(
                op[DERIVATIVE],
                (
                    workspace[op[Z] + start * size :],
                    workspace[op[OUTPUTS] + start * size :],
                    workspace[op[GRADIENT] + start * size :],
                    constants[op[CONSTANTS] :],
                    rows,
                    size,
                ),
            )
        if with_parameters:
            add_gradients(op, job, gradient, workspace, pack, first, last, 0, 1)
        if op[INPUT_GRADIENT] < 0:
            continue
        dx = part(workspace, op[INPUT_GRADIENT], op[INPUT_SIZE], first, last)
        if kind == DENSE:
            W_transposed = workspace[op[WEIGHTS_TRANSPOSED] : op[WEIGHTS_TRANSPOSED] + op[INPUT_SIZE] * size]
            inputs_product(job[MULTIPLY], pack, delta, W_transposed, dx, last - first, op[INPUT_SIZE], size)
        elif kind == DROPOUT:
            if mode == TRAIN:
                multiply(delta, part(workspace, op[MASK], size, first, last), dx)
            else:
                copy(delta, dx)
        elif kind == IMAGES:
            call_void(op[BACKWARD], (op[BACKWARD_ROW], parameters, gradient, workspace, n, begin, end))
        else:
            call_void(
                op[BACKWARD], (workspace[op[GRADIENT] :], workspace[op[INPUT_GRADIENT] :], n, size, begin, end)
            )  # fmt: skip


@helper
def add_gradients(op, job, gradient, workspace, pack, first, last, thread, threads):
    """The rows first..last-1 added to a thread's share of an operation's gradients; row 0 begins them."""
    if op[WEIGHTS] < 0:
        return
    rows, columns = op[WEIGHT_ROWS], op[WEIGHT_COLUMNS]
    start, stop = share(rows, thread, threads)
    W_gradient = gradient[op[WEIGHTS] : op[WEIGHTS] + rows * columns]
    adds = 1 if first > 0 else 0
    if op[KIND] == IMAGES:
        if not adds:
            W_gradient[start * columns : stop * columns] = 0
            if start == 0 and op[BIAS] >= 0:
                gradient[op[BIAS] : op[BIAS] + op[BIAS_SIZE]] = 0
        begin, end = first // job[LANES], (last + job[LANES] - 1) // job[LANES]
        if start < stop:
            call_void(
                op[WEIGHT_GRADIENT], (op[WEIGHT_GRADIENT_ROW], gradient, workspace, begin, end, start, stop)
            )  # fmt: skip
        return
    n = last - first
    x = part(workspace, op[INPUTS], rows, first, last)
    delta = part(workspace, op[GRADIENT], columns, first, last)
    if op[NARROW] < 0:
        weights_product(job[MULTIPLY], pack, x, delta, W_gradient, n, rows, columns, start, stop, adds)
    else:
        transposed = workspace[op[NARROW] : op[NARROW] + rows * columns]
        narrow_weights_product(job[MULTIPLY], pack, x, delta, transposed, n, rows, columns, start, stop, adds)
        call_void(
            job[TRANSPOSE], (transposed[start:], rows, W_gradient[start * columns :], columns, columns, stop - start)
        )
    if op[BIAS] >= 0:
        start, stop = share(columns, thread, threads)
        sum_rows(delta, columns, gradient[op[BIAS] + start : op[BIAS] + stop], start, adds)


@helper
def add_penalties(operations, settings, parameters, gradient, penalties, divisor, thread, threads):
    """Add the gradients of alpha W**2 / 2 and l1 |W|, divided; and each row's penalties, not divided."""
    for index in range(len(operations)):
        op = operations[index]
        if op[WEIGHTS] < 0:
            continue
        columns = op[WEIGHT_COLUMNS]
        start, stop = share(op[WEIGHT_ROWS], thread, threads)
        W = part(parameters, op[WEIGHTS], columns, start, stop)
        slope = part(gradient, op[WEIGHTS], columns, start, stop)
        alpha, l1 = W.dtype.type(settings[ALPHA] / divisor), W.dtype.type(settings[L1] / divisor)
        penalize(W, slope, alpha, l1)
        for row in range(start, stop):
            squares, absolutes = norms(parameters[op[WEIGHTS] + row * columns : op[WEIGHTS] + (row + 1) * columns])
            penalties[op[PENALTIES] + row] = 0.5 * settings[ALPHA] * squares + settings[L1] * absolutes


@helper
def penalize(W, gradient, alpha, l1):
    """gradient += alpha W + l1 sign(W)."""
    zero = alpha - alpha
    for i in range(W.size):
        w = W[i]
        sign = l1 if w > zero else (-l1 if w < zero else zero)
        gradient[i] += alpha * w + sign


@helper
def norms(row):
    """Sum of squares and sum of absolute values, float64, in four partial sums that do not wait for each other."""
    s0, s1, s2, s3, a0, a1, a2, a3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = row.size // 4 * 4
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = float(row[i]), float(row[i + 1]), float(row[i + 2]), float(row[i + 3])
        s0, s1, s2, s3 = s0 + w0 * w0, s1 + w1 * w1, s2 + w2 * w2, s3 + w3 * w3
        a0, a1, a2, a3 = a0 + abs(w0), a1 + abs(w1), a2 + abs(w2), a3 + abs(w3)
    for i in range(whole, row.size):
        s0 += float(row[i]) * float(row[i])
        a0 += abs(float(row[i]))
    return s0 + s1 + s2 + s3, a0 + a1 + a2 + a3


@helper
def clip_factor(gradient, clip_norm):
    """What scales the gradient down to the norm clip_norm if it is longer, else 1."""
    squares, _ = norms(gradient)
    norm = math.sqrt(squares)
    return gradient.dtype.type(clip_norm / norm if norm > clip_norm else 1.0)


@helper
def scale_gradients(operations, gradient, factor, thread, threads):
    """A thread's share of all gradients times the factor."""
    for index in range(len(operations)):
        op = operations[index]
        if op[WEIGHTS] >= 0:
            start, stop = share(op[WEIGHT_ROWS], thread, threads)
            scale(part(gradient, op[WEIGHTS], op[WEIGHT_COLUMNS], start, stop), factor)
        if op[BIAS] >= 0:
            start, stop = share(op[BIAS_SIZE], thread, threads)
            scale(gradient[op[BIAS] + start : op[BIAS] + stop], factor)


@helper
def scale(values, factor):
    for i in range(values.size):
        values[i] *= factor


@helper
def update(operations, job, parameters, gradient, slots, values, thread, threads):
    """The optimizer's step for a thread's share of the parameters."""
    n = parameters.size
    if threads == 1:
        call_void(job[UPDATE], (parameters, gradient, slots, values, n, 0, n))
        return
    for index in range(len(operations)):
        op = operations[index]
        if op[WEIGHTS] >= 0:
            start, stop = share(op[WEIGHT_ROWS], thread, threads)
            start, stop = op[WEIGHTS] + start * op[WEIGHT_COLUMNS], op[WEIGHTS] + stop * op[WEIGHT_COLUMNS]
            call_void(job[UPDATE], (parameters, gradient, slots, values, n, start, stop))
        if op[BIAS] >= 0:
            start, stop = share(op[BIAS_SIZE], thread, threads)
            call_void(job[UPDATE], (parameters, gradient, slots, values, n, op[BIAS] + start, op[BIAS] + stop))


@helper
def transpose_weights(operations, job, parameters, workspace, thread, threads):
    """A thread's share of the transposed weights, of which the way back is made: those of the rows it updates."""
    for index in range(len(operations)):
        op = operations[index]
        if op[WEIGHTS_TRANSPOSED] >= 0:
            rows, columns = op[WEIGHT_ROWS], op[WEIGHT_COLUMNS]
            start, stop = share(rows, thread, threads)
            W = parameters[op[WEIGHTS] + start * columns :]
            call_void(
                job[TRANSPOSE], (W, columns, workspace[op[WEIGHTS_TRANSPOSED] + start :], rows, stop - start, columns)
            )  # fmt: skip


@helper
def sum_rows(block, columns, sums, start, adds):
    """sums = the sum over a block's rows of the columns from `start` on, or += where adds is 1."""
    if not adds:
        sums[:] = 0
    for row in range(block.size // columns):
        numbers = block[row * columns + start : row * columns + start + sums.size]
        for j in range(sums.size):
            sums[j] += numbers[j]


@helper
def total(values):
    """The sum, in four partial sums that do not wait for each other."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = values.size // 4 * 4
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = s0 + values[i], s1 + values[i + 1], s2 + values[i + 2], s3 + values[i + 3]
    for i in range(whole, values.size):
        s0 += values[i]
    return s0 + s1 + s2 + s3


@helper
def multiply(a, b, out):
    for i in range(a.size):
        out[i] = a[i] * b[i]


@helper
def copy(a, out):
    for i in range(a.size):
        out[i] = a[i]
