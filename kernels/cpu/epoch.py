"""The CPU engine: one compiled call runs a stretch of training steps over a table of operations.

Layer sizes, offsets, batch bounds, rates, threads and the addresses of the formulas' kernels are data: a new network,
batch size, activation, optimizer or seed compiles nothing here. dtype alone does.

Every thread of a stretch makes the same call and does its share of each step, in two parts. First the batch is shared
by rows: gather, forward, loss and the way back to every layer's delta, block by block of rows, so that what a block
needs stays in the cache. Then the parameters are shared: gradient, penalties and update. No number depends on how much
is shared or where: rows do not meet before the weights' gradients, which add them up in their order. Only a batch
normalisation needs all rows on the way: it divides the operations into segments, between which the threads wait.
"""

from __future__ import annotations

import math

import numpy as np

from .barrier import wait
from .batch_norm import BATCH, RUNNING, TRAINING
from .calls import call_void, unowned
from .compilation import helper, kernel
from .philox import dropout, dropout_in_groups
from .products import inputs_product, narrow_weights_product, outputs_product, weights_product

# Columns of the operations table (int64). Offsets count elements; weights and bias in the parameter vector, the
# others in the workspace; -1 stands for absent. The weights are a matrix of WEIGHT_ROWS x WEIGHT_COLUMNS;
# WEIGHTS_TRANSPOSED is room for their transpose, NARROW for that of a narrow matrix's gradient. GROUP: how many rows
# are stored together (see images.py), 1 for rows in C order. VALUE to SUMS are addresses of kernels (see formulas.py,
# images.py, batch_norm.py), those with ROW of the row that such a kernel reads. MOMENTUM: the place of a batch
# normalisation's constants. PIXELS: in how many parts of CHANNELS numbers it takes a row in C order.
(
    KIND, INPUT_SIZE, OUTPUT_SIZE, WEIGHTS, WEIGHT_ROWS, WEIGHT_COLUMNS, WEIGHTS_TRANSPOSED, NARROW, BIAS, BIAS_SIZE,
    INPUTS, Z, OUTPUTS, GRADIENT, INPUT_GRADIENT, VALUE, DERIVATIVE, CONSTANTS, PENALTIES, GROUP,
    FORWARD, FORWARD_ROW, BACKWARD, BACKWARD_ROW, WEIGHT_GRADIENT, WEIGHT_GRADIENT_ROW,
    STATISTICS, SUMS, CHANNELS, PIXELS, MOMENTUM, MASK, THRESHOLD, LAYER, COLUMNS,
) = range(35)  # fmt: skip
# What an operation is. WINDOW: a convolution or pooling. INTERLEAVE, DEINTERLEAVE: from rows to groups, and back.
DENSE, DROPOUT, WINDOW, BATCH_NORM, INTERLEAVE, DEINTERLEAVE = range(6)

# The job vector (int64): addresses of kernels and of the source's arrays, offsets of the batch in the workspace. BLOCK:
# rows that are taken through the network at once.
(
    GATHER_INPUTS, GATHER_TARGETS, GATHER_WEIGHTS, LOSS, UPDATE, MULTIPLY, TRANSPOSE, GIVE_WAY,
    SOURCE_INPUTS, SOURCE_TARGETS, SOURCE_WEIGHTS, INPUT_SIZE_OF_BATCH,
    BATCH_INPUTS, BATCH_TARGETS, BATCH_WEIGHTS, LOSS_CONSTANTS, SUM_REDUCTION, MODE, FIRST_STEP, BLOCK, JOB_SIZE,
) = range(21)  # fmt: skip
TRAIN, GRADIENT_ONLY, EVALUATE = 0, 1, 2

# Settings (float64).
SCALE, ALPHA, L1, CLIP_NORM, SETTINGS_SIZE = range(5)

ROW_GROUP = 16  # threads and blocks begin at multiples of so many rows: whole groups of images, whole Philox counters


@kernel
def run_steps(
    operations, job, settings, seed, constants, zeros, parameters, gradient, slots, state, workspace, row_losses,
    penalties, pack, order, bounds, values, totals, losses, outputs, barrier, thread, threads,
):  # fmt: skip
    """Run bounds.size - 1 steps; step k takes the rows order[bounds[k]:bounds[k + 1]].

    operations: (n_operations, COLUMNS) int64. job: (JOB_SIZE,) int64. settings: (SETTINGS_SIZE,) float64.
    seed: uint64, of the dropout masks. constants: of all formulas. zeros: stands for the bias of a layer without one.
    parameters, gradient: (n_parameters,). slots: all optimizer slots, flat. state, workspace: see nnfast.plan.
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
    state = unowned(state)
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
        own, end = group * ROW_GROUP, min(n, next_group * ROW_GROUP)
        if own < end:
            gather(job, settings, rows[own:end], operations[-1, OUTPUT_SIZE], workspace, own)
        segment, next_segment = 0, 0
        while next_segment < len(operations):
            segment, next_segment = next_segment, segment_end(operations, next_segment)
            if operations[segment, KIND] == BATCH_NORM:
                wait(barrier, threads, give_way)
                statistics(operations[segment], constants, workspace, state, n, mode, thread, threads)
                wait(barrier, threads, give_way)
            last = own
            while last < end:
                first, last = last, min(last + job[BLOCK], end)
                forward(
                    operations, segment, next_segment, job, constants, zeros, parameters, workspace, pack, first, last,
                    n, mode, seed, step,
                )  # fmt: skip
                if next_segment < len(operations):
                    continue
                output_loss(operations, job, constants, zeros, parameters, workspace, row_losses, first, last, divisor)
                if mode != EVALUATE:
                    backward(
                        operations, segment, next_segment, job, constants, parameters, gradient, workspace, pack,
                        first, last, n, mode, threads == 1,
                    )  # fmt: skip
                    continue
                size = operations[-1, OUTPUT_SIZE]
                block = part(workspace, operations[-1, OUTPUTS], size, first, last)
                copy(block, outputs[bounds[k] + first : bounds[k] + last].reshape(-1))
        while mode != EVALUATE and operations[segment, KIND] == BATCH_NORM:
            op = operations[segment]
            wait(barrier, threads, give_way)
            sums(op, gradient, workspace, n, thread, threads)
            wait(barrier, threads, give_way)
            if segment == 0:
                break
            segment, next_segment = segment_start(operations, segment), segment
            last = own
            while last < end:
                first, last = last, min(last + job[BLOCK], end)
                normalisation_backward(op, parameters, gradient, workspace, n, first, last)
                backward(
                    operations, segment, next_segment, job, constants, parameters, gradient, workspace, pack, first,
                    last, n, mode, threads == 1,
                )  # fmt: skip
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
def segment_end(operations, index):
    """The next batch normalisation after `index`, or the end."""
    index += 1
    while index < len(operations) and operations[index, KIND] != BATCH_NORM:
        index += 1
    return index


@helper
def segment_start(operations, index):
    """The next batch normalisation before `index`, or the beginning."""
    index -= 1
    while index > 0 and operations[index, KIND] != BATCH_NORM:
        index -= 1
    return max(index, 0)


@helper
def statistics(op, constants, workspace, state, n, mode, thread, threads):
    """The means and deviations that a batch normalisation uses, for a thread's share of its channels."""
    start, stop = share(op[CHANNELS], thread, threads)
    whose = TRAINING if mode == TRAIN else BATCH if mode == GRADIENT_ONLY else RUNNING
    n *= op[PIXELS]
    call_void(op[STATISTICS], (op[FORWARD_ROW], constants[op[MOMENTUM] :], workspace, state, n, whose, start, stop))


@helper
def sums(op, gradient, workspace, n, thread, threads):
    """The gradients of a batch normalisation's gamma and beta, for a thread's share of its channels."""
    start, stop = share(op[CHANNELS], thread, threads)
    call_void(op[SUMS], (op[FORWARD_ROW], gradient, workspace, n * op[PIXELS], start, stop))


@helper
def normalisation_backward(op, parameters, gradient, workspace, n, first, last):
    """dLoss/dx of a batch normalisation, for a block of rows."""
    if op[INPUT_GRADIENT] >= 0:
        begin, rows = in_groups(op, first, last)
        groups = begin * op[PIXELS] // op[GROUP], (begin + rows) * op[PIXELS] // op[GROUP]
        call_void(op[BACKWARD], (op[FORWARD_ROW], parameters, gradient, workspace, n * op[PIXELS], *groups))


@helper
def forward(
    operations, segment, segment_end, job, constants, zeros, parameters, workspace, pack, first, last, n, mode, seed,
    step,
):  # fmt: skip
    """The outputs of a segment's layers; of the last only the product: its bias and activation are the loss's."""
    for index in range(segment, segment_end):
        op = operations[index]
        kind, size = op[KIND], op[OUTPUT_SIZE]
        inputs = part(workspace, op[INPUTS], op[INPUT_SIZE], first, last)
        z = part(workspace, op[Z], size, first, last)
        bias, begin, rows = zeros, first, last - first
        if kind == DENSE:
            W = parameters[op[WEIGHTS] : op[WEIGHTS] + op[INPUT_SIZE] * size]
            outputs_product(job[MULTIPLY], pack, inputs, W, z, rows, op[INPUT_SIZE], size)
            if op[BIAS] >= 0:
                bias = parameters[op[BIAS] :]
        elif kind == DROPOUT:
            if mode != TRAIN:
                begin, rows = in_groups(op, first, last)
                copy(part(workspace, op[INPUTS], size, begin, begin + rows), workspace[op[Z] + begin * size :])
            elif op[GROUP] == 1:
                mask = part(workspace, op[MASK], size, first, last)
                scale = constants[op[CONSTANTS]]
                dropout(inputs, z, mask, first * size, seed, step, op[LAYER], np.uint64(op[THRESHOLD]), scale)
            else:
                begin, rows = in_groups(op, first, last)
                dropout_in_groups(
                    workspace[op[INPUTS] :], workspace[op[Z] :], workspace[op[MASK] :], size, op[GROUP], begin,
                    begin + rows, seed, step, op[LAYER], np.uint64(op[THRESHOLD]), constants[op[CONSTANTS]],
                )  # fmt: skip
        else:
            begin, rows = in_groups(op, first, last)
            groups = begin // op[GROUP], (begin + rows) // op[GROUP]
            if kind == INTERLEAVE:
                call_void(op[FORWARD], (workspace[op[INPUTS] :], workspace[op[OUTPUTS] :], n, size, 0, *groups))
            elif kind == DEINTERLEAVE:
                call_void(op[FORWARD], (workspace[op[INPUTS] :], workspace[op[OUTPUTS] :], n, size, *groups))
            elif kind == WINDOW:
                call_void(op[FORWARD], (op[FORWARD_ROW], parameters, parameters, workspace, n, *groups))
            else:
                groups = begin * op[PIXELS] // op[GROUP], (begin + rows) * op[PIXELS] // op[GROUP]
                call_void(op[FORWARD], (op[FORWARD_ROW], parameters, parameters, workspace, n * op[PIXELS], *groups))
        if op[VALUE] >= 0:
            z, outputs = workspace[op[Z] + begin * size :], workspace[op[OUTPUTS] + begin * size :]
            call_void(op[VALUE], (z, bias, outputs, constants[op[CONSTANTS] :], rows, size))


@helper
def in_groups(op, first, last):
    """The first row and the number of rows of the groups that hold the rows first..last-1."""
    group = op[GROUP]
    if group == 1:
        return first, last - first
    begin = first // group * group
    return begin, (last + group - 1) // group * group - begin


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
    operations, segment, segment_end, job, constants, parameters, gradient, workspace, pack, first, last, n, mode,
    with_parameters,
):  # fmt: skip
    """Backpropagation through a segment, for a block of rows: from dLoss/dz of the last layer to that of every layer.

    with_parameters: whether the block's share of the parameters' gradients is added at once. Of a batch normalisation,
    which begins a segment, only the activation is passed.
    """
    for index in range(segment_end - 1, segment - 1, -1):
        op = operations[index]
        kind, size = op[KIND], op[OUTPUT_SIZE]
        begin, rows = in_groups(op, first, last)
        delta = part(workspace, op[GRADIENT], size, begin, begin + rows)
        if op[DERIVATIVE] >= 0:
            z, outputs = workspace[op[Z] + begin * size :], workspace[op[OUTPUTS] + begin * size :]
            call_void(op[DERIVATIVE], (z, outputs, delta, constants[op[CONSTANTS] :], rows, size))
        if kind == BATCH_NORM:
            return
        if with_parameters:
            add_gradients(op, job, gradient, workspace, pack, first, last, 0, 1)
        if op[INPUT_GRADIENT] < 0:
            continue
        dx = workspace[op[INPUT_GRADIENT] + begin * op[INPUT_SIZE] :]
        groups = begin // op[GROUP], (begin + rows) // op[GROUP]
        if kind == DENSE:
            W_transposed = workspace[op[WEIGHTS_TRANSPOSED] : op[WEIGHTS_TRANSPOSED] + op[INPUT_SIZE] * size]
            inputs_product(job[MULTIPLY], pack, delta, W_transposed, dx, rows, op[INPUT_SIZE], size)
        elif kind == DROPOUT:
            if mode == TRAIN:
                multiply(delta, workspace[op[MASK] + begin * size :], dx)
            else:
                copy(delta, dx)
        elif kind == WINDOW:
            call_void(op[BACKWARD], (op[BACKWARD_ROW], parameters, gradient, workspace, n, *groups))
        else:  # DEINTERLEAVE: the gradient is interleaved
            call_void(op[BACKWARD], (workspace[op[GRADIENT] :], workspace[op[INPUT_GRADIENT] :], n, size, 1, *groups))


@helper
def add_gradients(op, job, gradient, workspace, pack, first, last, thread, threads):
    """The rows first..last-1 added to a thread's share of an operation's gradients; row 0 begins them."""
    if op[WEIGHTS] < 0:
        return
    rows, columns = op[WEIGHT_ROWS], op[WEIGHT_COLUMNS]
    start, stop = share(rows, thread, threads)
    W_gradient = gradient[op[WEIGHTS] : op[WEIGHTS] + rows * columns]
    adds = 1 if first > 0 else 0
    if op[KIND] == WINDOW:
        if start < stop:
            if not adds:
                W_gradient[start * columns : stop * columns] = 0
                if start == 0 and op[BIAS] >= 0:
                    gradient[op[BIAS] : op[BIAS] + op[BIAS_SIZE]] = 0
            groups = first // op[GROUP], (last + op[GROUP] - 1) // op[GROUP]
            call_void(op[WEIGHT_GRADIENT], (op[WEIGHT_GRADIENT_ROW], gradient, workspace, *groups, start, stop))
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
        start, stop = bias_share(op, thread, threads)
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
def bias_share(op, thread, threads):
    """Where the biases begin and end whose gradients a thread computes, and which it therefore updates."""
    if op[KIND] != WINDOW:
        return share(op[BIAS_SIZE], thread, threads)
    # A convolution's all come with the first row of its weights
    start, stop = share(op[WEIGHT_ROWS], thread, threads)
    return 0, op[BIAS_SIZE] if start == 0 and stop > 0 else 0


@helper
def scale_gradients(operations, gradient, factor, thread, threads):
    """A thread's share of all gradients times the factor."""
    for index in range(len(operations)):
        op = operations[index]
        if op[WEIGHTS] >= 0:
            start, stop = share(op[WEIGHT_ROWS], thread, threads)
            scale(part(gradient, op[WEIGHTS], op[WEIGHT_COLUMNS], start, stop), factor)
        if op[BIAS] >= 0:
            start, stop = bias_share(op, thread, threads)
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
            start, stop = bias_share(op, thread, threads)
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
