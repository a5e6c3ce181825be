"""The integers by which the epoch knows a network: columns of the operations table, and the job. Needs no Numba."""

from __future__ import annotations

# Columns of the operations table (int64). Offsets count elements; weights and bias in the parameter vector, the
# others in the workspace; -1 stands for absent. The weights are a matrix of WEIGHT_ROWS x WEIGHT_COLUMNS; the bias is
# all other parameters; WEIGHTS_TRANSPOSED is room for the weights' transpose, NARROW for that of a narrow matrix's
# gradient. GROUP: how many rows are stored together (see images.py), 1 for rows in C order. VALUE to SUMS are addresses
# of kernels (see formulas.py, images.py, batch_norm.py), those with ROW of the row that such a kernel reads.
# STATISTICS_CONSTANTS: the place of a batch normalisation's constants. PIXELS: in how many parts of CHANNELS numbers it
# takes a row in C order.
(
    KIND, INPUT_SIZE, OUTPUT_SIZE, WEIGHTS, WEIGHT_ROWS, WEIGHT_COLUMNS, WEIGHTS_TRANSPOSED, NARROW, BIAS, BIAS_SIZE,
    INPUTS, Z, OUTPUTS, GRADIENT, INPUT_GRADIENT, VALUE, DERIVATIVE, CONSTANTS, PENALTIES, GROUP,
    FORWARD, FORWARD_ROW, BACKWARD, BACKWARD_ROW, WEIGHT_GRADIENT, WEIGHT_GRADIENT_ROW,
    STATISTICS, SUMS, CHANNELS, PIXELS, STATISTICS_CONSTANTS, MASK, THRESHOLD, LAYER, COLUMNS,
) = range(35)  # fmt: skip
# What an operation is to the epoch. PASS: kernels that each take whole groups of rows (see images.py) do all of it; a
# convolution, a pooling. INTERLEAVE, DEINTERLEAVE: from rows to groups, and back. SPARSE: a dense layer on sparse rows
# (see sparse.py).
DENSE, DROPOUT, PASS, BATCH_NORM, INTERLEAVE, DEINTERLEAVE, SPARSE = range(7)

# The job vector (int64): counts; addresses of kernels, 0 where none is needed, and of the source's arrays; offsets of
# the batch in the workspace; places of the loss's constants and of a 1 among all constants. BLOCK: rows that are taken
# through the network at once. Where GATHER_INPUTS or GATHER_TARGETS is 0, the batch is where its offset says already.
(
    OPERATIONS, PARAMETERS, PENALTY_ROWS,
    GATHER_INPUTS, GATHER_TARGETS, GATHER_WEIGHTS, LOSS, UPDATE, MULTIPLY, TRANSPOSE, ADD_PENALTIES, CLIP, GIVE_WAY,
    SOURCE_INPUTS, SOURCE_TARGETS, SOURCE_WEIGHTS, INPUT_SIZE_OF_BATCH,
    BATCH_INPUTS, BATCH_TARGETS, BATCH_WEIGHTS, LOSS_CONSTANTS, ONE, SUM_REDUCTION, MODE, FIRST_STEP, BLOCK, BEGIN,
    JOB_SIZE,
) = range(28)  # fmt: skip
# INPUTS_ONLY goes back to the inputs, by running statistics and without the gradient of the parameters, which must be
# 0. FORWARD_ONLY goes forward as TRAIN does, and keeps what one call in the last two modes goes back from, with a loss
# whose slopes are the targets: to the gradients, or also to the update.
TRAIN, GRADIENT_ONLY, EVALUATE, INPUTS_ONLY, FORWARD_ONLY, BACKWARD_ONLY, STEP_FROM = range(7)

# Settings (float64).
SCALE, ALPHA, L1, CLIP_NORM, SETTINGS_SIZE = range(5)

# Whose statistics a batch normalisation takes; TRAINING also moves the running ones towards the batch's.
RUNNING, BATCH, TRAINING = range(3)

# The frame (int64): the address of run_steps and what it is called with, addresses of arrays and numbers, by the names
# of its parameters. AT_PACK: of thread 0's; the others' follow, PACK_BYTES apart.
(
    AT_RUN_STEPS, AT_OPERATIONS, AT_JOB, AT_SETTINGS, AT_SEED, AT_CONSTANTS, AT_ZEROS, AT_PARAMETERS, AT_GRADIENT,
    AT_SLOTS, AT_STATE, AT_WORKSPACE, AT_PACK, AT_ROW_LOSSES, AT_PENALTIES, AT_ORDER, AT_BOUNDS, AT_STEPS, AT_VALUES,
    AT_VALUE_SIZE, AT_TOTALS, AT_LOSSES, AT_OUTPUTS, AT_BARRIER, PACK_BYTES, FRAME_SIZE,
) = range(26)  # fmt: skip

# The barrier, on cache lines of their own: how many have arrived, how often all have, and what is rarely written:
# whether one will not come, whether the team is to end after its present step, and the number of the step before which
# it ended, 0 where it did not.
ARRIVED, ROUND, BROKEN, STOP, STOPPED, BARRIER_SIZE = 0, 8, 16, 17, 18, 24


def names(first: str, end: str) -> list[str]:
    """The names above from `first` on that stand before `end`, such as those of all columns."""
    every = list(globals())
    return every[every.index(first) : every.index(end)]
