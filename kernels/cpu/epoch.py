"""The CPU engine: one compiled call runs a stretch of training steps over a table of operations.

Layer sizes, offsets, batch bounds, rates, threads and the addresses of the other kernels are data (tables.py): a new
network, batch size, activation, optimizer or seed compiles nothing here. dtype alone does.

Every thread of a stretch makes the same call and does its share of each step, in two parts. First the batch is shared
by rows: gather, forward, loss and the way back to every layer's delta, block by block of rows, so that what a block
needs stays in the cache. Then the parameters are shared: gradient, penalties and update. No number depends on how much
is shared or where: rows do not meet before the weights' gradients, which add them up in their order. Only a batch
normalisation needs all rows on the way: it divides the operations into segments, between which the threads wait.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nnfast.plans.plan import ROW_GROUP

from .barrier import has_stopped, stop_if_asked, wait
from .calls import at, call_void, copy
from .compilation import helper
from .products import inputs_product, narrow_weights_product, outputs_product, sum_of_rows, weights_product
from .shares import bias_share, share
from .tables import (
    ADD_PENALTIES,
    ALPHA,
    BACKWARD,
    BACKWARD_ONLY,
    BACKWARD_ROW,
    BATCH,
    BATCH_INPUTS,
    BATCH_NORM,
    BATCH_TARGETS,
    BATCH_WEIGHTS,
    BEGIN,
    BIAS,
    BLOCK,
    CHANNELS,
    CLIP,
    CLIP_NORM,
    COLUMNS,
    CONSTANTS,
    DEINTERLEAVE,
    DENSE,
    DERIVATIVE,
    DROPOUT,
    EVALUATE,
    FIRST_STEP,
    FORWARD,
    FORWARD_ONLY,
    FORWARD_ROW,
    GATHER_INPUTS,
    GATHER_TARGETS,
    GATHER_WEIGHTS,
    GIVE_WAY,
    GRADIENT,
    GRADIENT_ONLY,
    GROUP,
    INPUT_GRADIENT,
    INPUT_SIZE,
    INPUT_SIZE_OF_BATCH,
    INPUTS,
    INPUTS_ONLY,
    INTERLEAVE,
    KIND,
    L1,
    LAYER,
    LOSS,
    LOSS_CONSTANTS,
    MASK,
    MODE,
    MULTIPLY,
    NARROW,
    ONE,
    OPERATIONS,
    OUTPUT_SIZE,
    OUTPUTS,
    PARAMETERS,
    PASS,
    PENALTY_ROWS,
    PIXELS,
    RUNNING,
    SCALE,
    SOURCE_INPUTS,
    SOURCE_TARGETS,
    SOURCE_WEIGHTS,
    SPARSE,
    STATISTICS,
    STATISTICS_CONSTANTS,
    STEP_FROM,
    SUM_REDUCTION,
    SUMS,
    THRESHOLD,
    TRAIN,
    TRAINING,
    TRANSPOSE,
    UPDATE,
    VALUE,
    WEIGHT_COLUMNS,
    WEIGHT_GRADIENT,
    WEIGHT_GRADIENT_ROW,
    WEIGHT_ROWS,
    WEIGHTS,
    WEIGHTS_TRANSPOSED,
    Z,
)


class Memory(NamedTuple):
    """What stays where it is for a whole stretch: see run_steps."""

    operations: Any
    job: Any
    settings: Any
    seed: Any
    constants: Any
    zeros: Any
    parameters: Any
    gradient: Any
    state: Any
    workspace: Any
    pack: Any
    row_losses: Any


def run_steps(
    operations, job, settings, seed, constants, zeros, parameters, gradient, slots, state, workspace, pack, row_losses,
    penalties, order, bounds, steps, values, value_size, totals, losses, outputs, barrier, thread, threads,
):  # fmt: skip
    """Run the steps job[BEGIN]..steps-1, or until the team is stopped; step k takes order[bounds[k]:bounds[k + 1]].

    operations: (job[OPERATIONS], COLUMNS) int64. job: (JOB_SIZE,) int64. settings: (SETTINGS_SIZE,) float64.
    seed: uint64, of the dropout masks. constants: of all formulas. zeros: as many as the largest layer has
    inputs or outputs.
    parameters, gradient: (job[PARAMETERS],). slots: all optimizer slots, flat. state, workspace: see nnfast.plans.
    pack: (products.PACK_SIZE,), of this thread alone. row_losses: (n_rows,) float64; penalties: (job[PENALTY_ROWS],)
    float64. values: (steps, value_size) rows of Optimizer.step_values. All these in dtype T unless said otherwise.
    totals: (steps,) float64, the sums of the steps' sample weights; a step of 0 changes nothing.
    losses: (steps,) float64, written. In mode EVALUATE, the loss is the weighted sum and outputs (n_rows, n_outputs)
    receives the rows' outputs; so it does in mode FORWARD_ONLY. In modes BACKWARD_ONLY and
    STEP_FROM, the batch and all that the way back needs are in the workspace since a call in mode FORWARD_ONLY, but
    for the targets.
    barrier: where the `threads` threads wait for each other; this is number `thread` of them. A team ends at a step's
    boundary where barrier[STOP] is set.
    """
    m = Memory(
        operations, job, settings, seed, constants, zeros, parameters, gradient, state, workspace, pack, row_losses
    )
    mode, give_way, count = job[MODE], job[GIVE_WAY], job[OPERATIONS]
    goes_forward = mode != BACKWARD_ONLY and mode != STEP_FROM
    goes_back = mode != EVALUATE and mode != FORWARD_ONLY
    output = at(operations, (count - 1) * COLUMNS)
    is_penalized = settings[ALPHA] != 0.0 or settings[L1] != 0.0
    if goes_back:
        transpose_weights(m, thread, threads)
        wait(barrier, threads, give_way)
    for k in range(job[BEGIN], steps):
        if has_stopped(barrier, k):
            break
        n = bounds[k + 1] - bounds[k]
        if totals[k] == 0.0 and mode != EVALUATE:
            losses[k] = 0.0
            continue
        divisor = 1.0 if job[SUM_REDUCTION] != 0 or mode == EVALUATE else totals[k]
        step = job[FIRST_STEP] + k
        group, next_group = share((n + ROW_GROUP - 1) // ROW_GROUP, thread, threads)
        own, end = group * ROW_GROUP, min(n, next_group * ROW_GROUP)
        if own < end:
            gather(m, at(order, bounds[k] + own), end - own, output[OUTPUT_SIZE], own)
        segment = next_segment = count - count  # 0, of the type of count
        while next_segment < count:
            segment, next_segment = next_segment, segment_end(m, next_segment)
            op = at(operations, segment * COLUMNS)
            if op[KIND] == BATCH_NORM and goes_forward:
                wait(barrier, threads, give_way)
                statistics(m, op, n, thread, threads)
                wait(barrier, threads, give_way)
            last = own
            while last < end:
                first, last = last, min(last + job[BLOCK], end)
                if goes_forward:
                    forward(m, segment, next_segment, first, last, n, step)
                if next_segment < count:
                    continue
                size = output[OUTPUT_SIZE]
                z = at(workspace, output[Z] + first * size)
                if goes_back:
                    # Slopes from outside are divided already; the penalties are not
                    output_loss(m, output, z, first, last, divisor if goes_forward else 1.0)
                    backward(m, segment, next_segment, first, last, n, thread, threads)
                    continue
                rows_outputs = at(outputs, (bounds[k] + first) * size)
                if mode == FORWARD_ONLY:  # the loss uses up what it is given as z
                    copy(z, rows_outputs, (last - first) * size)
                    z = rows_outputs
                output_loss(m, output, z, first, last, divisor)
                copy(at(workspace, output[OUTPUTS] + first * size), rows_outputs, (last - first) * size)
        while goes_back and operations[segment * COLUMNS + KIND] == BATCH_NORM:
            op = at(operations, segment * COLUMNS)
            if mode != INPUTS_ONLY:
                wait(barrier, threads, give_way)
                start, stop = share(op[CHANNELS], thread, threads)
                call_void(op[SUMS], (op[FORWARD_ROW], gradient, workspace, n * op[PIXELS], start, stop))
                wait(barrier, threads, give_way)
            segment, next_segment = segment_start(m, segment), segment
            last = own
            while last < end:
                first, last = last, min(last + job[BLOCK], end)
                normalisation_backward(m, op, n, first, last)
                backward(m, segment, next_segment, first, last, n, thread, threads)
            if next_segment == 0:
                break
        wait(barrier, threads, give_way)
        if thread == 0:
            stop_if_asked(barrier, k + 1)
        loss = total(row_losses, n) if thread == 0 else 0.0
        if not goes_back:
            wait(barrier, threads, give_way)
            if thread == 0:
                losses[k] = loss
            continue
        if mode == INPUTS_ONLY:
            continue
        if threads > 1:
            start = n - n  # a 0 would be a type of its own to Numba, and compiled anew
            for index in range(count):
                add_gradients(m, at(operations, index * COLUMNS), start, n, thread, threads)
        if is_penalized and mode != BACKWARD_ONLY:
            call_void(
                job[ADD_PENALTIES],
                (operations, count, settings, parameters, gradient, penalties, divisor, thread, threads),
            )
        if mode in (TRAIN, STEP_FROM):
            if settings[CLIP_NORM] > 0.0:
                call_void(
                    job[CLIP],
                    (
                        operations, count, gradient, job[PARAMETERS], settings[CLIP_NORM], barrier, give_way, thread,
                        threads,
                    ),
                )  # fmt: skip
            update(m, slots, at(values, k * value_size), thread, threads)
            if k + 1 < steps:
                transpose_weights(m, thread, threads)
        wait(barrier, threads, give_way)
        if thread == 0:
            losses[k] = (loss + total(penalties, job[PENALTY_ROWS]) if is_penalized else loss) / divisor


@helper
def gather(m, rows, n, output_size, first):
    """The inputs, targets and sample weights of a block of n rows into the workspace, from row `first` on.

    What has no gatherer is there already. Where the source has no weights, there are ones.
    """
    job, input_size = m.job, m.job[INPUT_SIZE_OF_BATCH]
    if job[GATHER_INPUTS] != 0:
        inputs = at(m.workspace, job[BATCH_INPUTS] + first * input_size)
        call_void(job[GATHER_INPUTS], (job[SOURCE_INPUTS], rows, n, input_size, m.settings[SCALE], inputs))
    if job[GATHER_TARGETS] != 0:
        targets = at(m.workspace, job[BATCH_TARGETS] + first * output_size)
        call_void(job[GATHER_TARGETS], (job[SOURCE_TARGETS], rows, n, output_size, 1.0, targets))
    if job[SOURCE_WEIGHTS] != 0:
        weights = at(m.workspace, job[BATCH_WEIGHTS] + first)
        call_void(job[GATHER_WEIGHTS], (job[SOURCE_WEIGHTS], rows, n, 1, 1.0, weights))


@helper
def segment_end(m, index):
    """The next batch normalisation after `index`, or the end."""
    index += 1
    while index < m.job[OPERATIONS] and m.operations[index * COLUMNS + KIND] != BATCH_NORM:
        index += 1
    return index


@helper
def segment_start(m, index):
    """The next batch normalisation before `index`, or the beginning."""
    index -= 1
    while index > 0 and m.operations[index * COLUMNS + KIND] != BATCH_NORM:
        index -= 1
    return max(index, 0)


@helper
def statistics(m, op, n, thread, threads):
    """The means and deviations that a batch normalisation uses, for a thread's share of its channels."""
    start, stop = share(op[CHANNELS], thread, threads)
    mode = m.job[MODE]
    whose = TRAINING if mode in (TRAIN, FORWARD_ONLY) else BATCH if mode == GRADIENT_ONLY else RUNNING
    constants = at(m.constants, op[STATISTICS_CONSTANTS])
    call_void(
        op[STATISTICS], (op[FORWARD_ROW], constants, m.workspace, m.state, n * op[PIXELS], whose, start, stop)
    )  # fmt: skip


@helper
def normalisation_backward(m, op, n, first, last):
    """dLoss/dx of a batch normalisation, for a block of rows."""
    if op[INPUT_GRADIENT] >= 0:
        begin, rows = in_groups(op, first, last)
        groups = begin * op[PIXELS] // op[GROUP], (begin + rows) * op[PIXELS] // op[GROUP]
        call_void(op[BACKWARD], (op[FORWARD_ROW], m.parameters, m.gradient, m.workspace, n * op[PIXELS], *groups))


@helper
def forward(m, segment, segment_end, first, last, n, step):
    """The outputs of a segment's layers; of the last only z: its activation is the loss's."""
    for index in range(segment, segment_end):
        op = at(m.operations, index * COLUMNS)
        kind, size = op[KIND], op[OUTPUT_SIZE]
        begin, rows = in_groups(op, first, last)
        if kind == DENSE:
            inputs = at(m.workspace, op[INPUTS] + first * op[INPUT_SIZE])
            z = at(m.workspace, op[Z] + first * size)
            W = at(m.parameters, op[WEIGHTS])
            bias = m.zeros if op[BIAS] < 0 else at(m.parameters, op[BIAS])
            outputs_product(m.job[MULTIPLY], m.pack, inputs, W, bias, z, rows, op[INPUT_SIZE], size)
        elif kind == SPARSE:
            bias = m.zeros if op[BIAS] < 0 else at(m.parameters, op[BIAS])
            call_void(op[FORWARD], (op[FORWARD_ROW], m.parameters, bias, m.workspace, n, first, last))
        elif kind == DROPOUT:
            drop(m, op, begin, rows, step)
        elif kind == PASS:
            groups = begin // op[GROUP], (begin + rows) // op[GROUP]
            call_void(op[FORWARD], (op[FORWARD_ROW], m.parameters, m.parameters, m.workspace, n, *groups))
        elif kind == BATCH_NORM:
            pixels = op[PIXELS]
            groups = begin * pixels // op[GROUP], (begin + rows) * pixels // op[GROUP]
            call_void(op[FORWARD], (op[FORWARD_ROW], m.parameters, m.parameters, m.workspace, n * pixels, *groups))
        elif kind == INTERLEAVE:
            groups = begin // op[GROUP], (begin + rows) // op[GROUP]
            inputs, outputs = at(m.workspace, op[INPUTS]), at(m.workspace, op[OUTPUTS])
            call_void(op[FORWARD], (inputs, outputs, n, size, 0, *groups))
        elif kind == DEINTERLEAVE:
            groups = begin // op[GROUP], (begin + rows) // op[GROUP]
            inputs, outputs = at(m.workspace, op[INPUTS]), at(m.workspace, op[OUTPUTS])
            call_void(op[FORWARD], (inputs, outputs, n, size, *groups))
        if op[VALUE] >= 0:
            z, outputs = at(m.workspace, op[Z] + begin * size), at(m.workspace, op[OUTPUTS] + begin * size)
            call_void(op[VALUE], (z, outputs, at(m.constants, op[CONSTANTS]), rows * size))


@helper
def drop(m, op, begin, rows, step):
    """Dropout of the rows from `begin` on, in training; otherwise they stay as they are."""
    size = op[OUTPUT_SIZE]
    if m.job[MODE] != TRAIN and m.job[MODE] != FORWARD_ONLY:
        copy(at(m.workspace, op[INPUTS] + begin * size), at(m.workspace, op[Z] + begin * size), rows * size)
        return
    drawn = (m.seed, step, op[LAYER], op[THRESHOLD], at(m.constants, op[CONSTANTS]))
    if op[GROUP] == 1:
        e = begin * size
        inputs, z, mask = at(m.workspace, op[INPUTS] + e), at(m.workspace, op[Z] + e), at(m.workspace, op[MASK] + e)
        call_void(op[FORWARD], (inputs, z, mask, rows * size, e, *drawn))
    else:
        inputs, z, mask = at(m.workspace, op[INPUTS]), at(m.workspace, op[Z]), at(m.workspace, op[MASK])
        call_void(op[FORWARD], (inputs, z, mask, size, op[GROUP], begin, begin + rows, *drawn))


@helper
def in_groups(op, first, last):
    """The first row and the number of rows of the groups that hold the rows first..last-1."""
    group = op[GROUP]
    if group == 1:
        return first, last - first
    begin = first // group * group
    return begin, (last + group - 1) // group * group - begin


@helper
def output_loss(m, op, z, first, last, divisor):
    """The last layer's activation, the rows' weighted losses, and dLoss/dz divided by `divisor`. z: used up."""
    job, workspace, size = m.job, m.workspace, op[OUTPUT_SIZE]
    call_void(
        job[LOSS],
        (
            z,
            at(workspace, op[OUTPUTS] + first * size),
            at(workspace, job[BATCH_TARGETS] + first * size),
            at(workspace, job[BATCH_WEIGHTS] + first),
            at(workspace, op[GRADIENT] + first * size),
            at(m.row_losses, first),
            at(m.constants, job[LOSS_CONSTANTS]),
            1.0 / divisor,
            last - first,
            size,
        ),
    )


@helper
def backward(m, segment, segment_end, first, last, n, thread, threads):
    """Backpropagation through a segment, for a block of rows: from dLoss/dz of the last layer to that of every layer.

    A thread alone adds the block to the parameters' gradients at once. Of a batch normalisation, which begins a
    segment, only the activation is passed.
    """
    workspace = m.workspace
    for index in range(segment_end - 1, segment - 1, -1):
        op = at(m.operations, index * COLUMNS)
        kind, size = op[KIND], op[OUTPUT_SIZE]
        begin, rows = in_groups(op, first, last)
        delta = at(workspace, op[GRADIENT] + begin * size)
        if op[DERIVATIVE] >= 0:
            z, outputs = at(workspace, op[Z] + begin * size), at(workspace, op[OUTPUTS] + begin * size)
            call_void(op[DERIVATIVE], (z, outputs, delta, at(m.constants, op[CONSTANTS]), rows * size))
        if kind == BATCH_NORM:
            return
        if threads == 1 and m.job[MODE] != INPUTS_ONLY:
            add_gradients(m, op, first, last, thread, threads)
        if op[INPUT_GRADIENT] < 0:
            continue
        dx = at(workspace, op[INPUT_GRADIENT] + begin * op[INPUT_SIZE])
        groups = begin // op[GROUP], (begin + rows) // op[GROUP]
        if kind in (DENSE, SPARSE):
            W_transposed = at(workspace, op[WEIGHTS_TRANSPOSED])
            if op[WEIGHTS_TRANSPOSED] < 0:
                W_transposed = at(m.parameters, op[WEIGHTS])
            inputs_product(m.job[MULTIPLY], m.pack, delta, W_transposed, dx, rows, op[INPUT_SIZE], size, m.zeros)
        elif kind == DROPOUT:
            if m.job[MODE] != GRADIENT_ONLY and m.job[MODE] != INPUTS_ONLY:
                call_void(op[BACKWARD], (delta, at(workspace, op[MASK] + begin * size), dx, rows * size))
            else:
                copy(delta, dx, rows * size)
        elif kind == PASS:
            call_void(op[BACKWARD], (op[BACKWARD_ROW], m.parameters, m.gradient, workspace, n, *groups))
        elif kind == DEINTERLEAVE:  # the gradient is interleaved
            whole, target = at(workspace, op[GRADIENT]), at(workspace, op[INPUT_GRADIENT])
            call_void(op[BACKWARD], (whole, target, n, size, 1, *groups))
        elif kind == INTERLEAVE:  # the gradient is deinterleaved
            whole, target = at(workspace, op[GRADIENT]), at(workspace, op[INPUT_GRADIENT])
            call_void(op[BACKWARD], (whole, target, n, size, *groups))


@helper
def add_gradients(m, op, first, last, thread, threads):
    """The rows first..last-1 added to a thread's share of an operation's gradients; row 0 begins them."""
    if op[KIND] == PASS:
        if op[WEIGHT_GRADIENT] >= 0:
            add_pass_gradients(m, op, first, last, thread, threads)
    elif op[KIND] == DENSE or op[KIND] == SPARSE:
        add_dense_gradients(m, op, first, last, thread, threads)


@helper
def add_pass_gradients(m, op, first, last, thread, threads):
    """Those that one kernel gives: for a share of the rows of W, or, where there is no W, of the biases."""
    begin, end = bias_share(op, thread, threads)
    start, stop = begin, end
    if op[WEIGHTS] >= 0:
        start, stop = share(op[WEIGHT_ROWS], thread, threads)
    if start == stop:
        return
    if first == 0:
        if op[WEIGHTS] >= 0:
            columns = op[WEIGHT_COLUMNS]
            clear(at(m.gradient, op[WEIGHTS] + start * columns), (stop - start) * columns)
        if op[BIAS] >= 0:
            clear(at(m.gradient, op[BIAS] + begin), end - begin)
    groups = first // op[GROUP], (last + op[GROUP] - 1) // op[GROUP]
    call_void(op[WEIGHT_GRADIENT], (op[WEIGHT_GRADIENT_ROW], m.gradient, m.workspace, *groups, start, stop))


@helper
def add_dense_gradients(m, op, first, last, thread, threads):
    """x^T delta, and the sum of delta's rows."""
    rows, columns = op[WEIGHT_ROWS], op[WEIGHT_COLUMNS]
    start, stop = share(rows, thread, threads)
    W_gradient = at(m.gradient, op[WEIGHTS])
    adds = 1 if first > 0 else 0
    n, multiply = last - first, m.job[MULTIPLY]
    x = at(m.workspace, op[INPUTS] + first * rows)
    delta = at(m.workspace, op[GRADIENT] + first * columns)
    if op[KIND] == SPARSE:
        if adds == 0:
            clear(at(W_gradient, start * columns), (stop - start) * columns)
        call_void(op[WEIGHT_GRADIENT], (op[WEIGHT_GRADIENT_ROW], m.gradient, m.workspace, first, last, start, stop))
    elif op[NARROW] < 0:
        weights_product(multiply, m.pack, x, delta, W_gradient, n, rows, columns, start, stop, m.zeros, adds)
    else:
        transposed = at(m.workspace, op[NARROW])
        narrow_weights_product(multiply, m.pack, x, delta, transposed, n, rows, columns, start, stop, m.zeros, adds)
        call_void(
            m.job[TRANSPOSE],
            (at(transposed, start), rows, at(W_gradient, start * columns), columns, columns, stop - start),
        )
    if op[BIAS] >= 0:
        start, stop = bias_share(op, thread, threads)
        sums = at(m.gradient, op[BIAS] + start)
        one = at(m.constants, m.job[ONE])
        sum_of_rows(multiply, m.pack, one, at(delta, start), columns, sums, n, stop - start, m.zeros, adds)


@helper
def update(m, slots, values, thread, threads):
    """The optimizer's step for a thread's share of the parameters."""
    n, kernel = m.job[PARAMETERS], m.job[UPDATE]
    if threads == 1:
        call_void(kernel, (m.parameters, m.gradient, slots, values, n, 0, n))
        return
    for index in range(m.job[OPERATIONS]):
        op = at(m.operations, index * COLUMNS)
        if op[WEIGHTS] >= 0:
            start, stop = share(op[WEIGHT_ROWS], thread, threads)
            start, stop = op[WEIGHTS] + start * op[WEIGHT_COLUMNS], op[WEIGHTS] + stop * op[WEIGHT_COLUMNS]
            call_void(kernel, (m.parameters, m.gradient, slots, values, n, start, stop))
        if op[BIAS] >= 0:
            start, stop = bias_share(op, thread, threads)
            call_void(kernel, (m.parameters, m.gradient, slots, values, n, op[BIAS] + start, op[BIAS] + stop))


@helper
def transpose_weights(m, thread, threads):
    """A thread's share of the transposed weights, of which the way back is made: those of the rows it updates."""
    for index in range(m.job[OPERATIONS]):
        op = at(m.operations, index * COLUMNS)
        if op[WEIGHTS_TRANSPOSED] >= 0:
            rows, columns = op[WEIGHT_ROWS], op[WEIGHT_COLUMNS]
            start, stop = share(rows, thread, threads)
            W = at(m.parameters, op[WEIGHTS] + start * columns)
            transposed = at(m.workspace, op[WEIGHTS_TRANSPOSED] + start)
            call_void(m.job[TRANSPOSE], (W, columns, transposed, rows, stop - start, columns))


@helper
def total(values, size):
    """The sum, in four partial sums that do not wait for each other."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = size // 4 * 4
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = s0 + values[i], s1 + values[i + 1], s2 + values[i + 2], s3 + values[i + 3]
    for i in range(whole, size):
        s0 += values[i]
    return s0 + s1 + s2 + s3


@helper
def clear(values, size):
    for i in range(size):
        values[i] = 0
