"""The way from Python into the epoch: one pointer in place of run_steps' arguments.

Python takes about a microsecond to tell an array's address, longer than a small network takes for a row. So the
addresses of what stays where it is are written once into a frame (tables.py).
"""

from __future__ import annotations

from .calls import at, call_void
from .tables import (
    AT_BARRIER,
    AT_BOUNDS,
    AT_CONSTANTS,
    AT_GRADIENT,
    AT_JOB,
    AT_LOSSES,
    AT_OPERATIONS,
    AT_ORDER,
    AT_OUTPUTS,
    AT_PACK,
    AT_PARAMETERS,
    AT_PENALTIES,
    AT_ROW_LOSSES,
    AT_RUN_STEPS,
    AT_SEED,
    AT_SETTINGS,
    AT_SLOTS,
    AT_STATE,
    AT_STEPS,
    AT_TOTALS,
    AT_VALUE_SIZE,
    AT_VALUES,
    AT_WORKSPACE,
    AT_ZEROS,
    FRAME_SIZE,
    PACK_BYTES,
)


def run_frames(frames, count, thread, threads):
    """run_steps with the arguments of each of `count` frames in turn, as number `thread` of `threads` threads.

    frames: (count, FRAME_SIZE) int64.
    """
    for k in range(count):
        frame = at(frames, k * FRAME_SIZE)
        pack = frame[AT_PACK] + thread * frame[PACK_BYTES]
        call_void(
            frame[AT_RUN_STEPS],
            (
                frame[AT_OPERATIONS], frame[AT_JOB], frame[AT_SETTINGS], frame[AT_SEED], frame[AT_CONSTANTS],
                frame[AT_ZEROS], frame[AT_PARAMETERS], frame[AT_GRADIENT], frame[AT_SLOTS], frame[AT_STATE],
                frame[AT_WORKSPACE], pack, frame[AT_ROW_LOSSES], frame[AT_PENALTIES], frame[AT_ORDER], frame[AT_BOUNDS],
                frame[AT_STEPS], frame[AT_VALUES], frame[AT_VALUE_SIZE], frame[AT_TOTALS], frame[AT_LOSSES],
                frame[AT_OUTPUTS], frame[AT_BARRIER], thread, threads,
            ),
        )  # fmt: skip
