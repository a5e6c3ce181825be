"""Predictions in the user's own compiled code: a frame, which Numba takes as an argument, and the call that runs it."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...kernels.cpu.calls import call_void

# Places in a frame's call: the address of the kernel run_frames and what it takes, then the bounds of the one batch.
# What users compile with cache=True knows them, and so the order of PredictionFrame's fields.
ENTRY, NUMBERS, FIRST, ROWS = range(4)


class PredictionFrame(NamedTuple):
    """A network with its own weights and workspace, for functions under Numba's `njit`; made by `Predictor.frame`.

    Pass it to the function as an argument: a global would be compiled in, addresses included. It keeps all that it
    needs alive. It belongs to one thread at a time, and can be neither copied nor pickled.

    Attributes
    ----------
    inputs
        (max_rows, n_inputs), for the caller to write.
    outputs
        (max_rows, n_outputs), which `predict_frame` writes.
    parameters, state
        The weights and the running statistics as a Model has them: copies, in which others may be written.
    call
        What `predict_frame` needs; not for the caller.
    """

    inputs: NDArray[Any]
    outputs: NDArray[Any]
    parameters: NDArray[Any]
    state: NDArray[Any]
    call: NDArray[np.int64]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a frame holds addresses of this process's memory, so it can be neither pickled nor copied: send the "
            "predictor, and call its frame() there"
        )


@njit
def predict_frame(frame, rows):  # type: ignore[no-untyped-def]  # Numba types it
    """Compute the outputs of the first rows of a frame's inputs, in a function compiled by Numba's `njit`.

    Parameters
    ----------
    frame
        What `Predictor.frame` gave; `frame.inputs[:rows]` is read and `frame.outputs[:rows]` is written.
    rows
        How many rows, at most the predictor's `max_rows`.

    Raises
    ------
    ValueError
        `rows` is below 1 or above `max_rows`.
    """
    if not 0 < rows <= len(frame.inputs):
        raise ValueError("rows must lie in 1 to the predictor's max_rows")
    frame.call[ROWS] = rows
    call_void(frame.call[ENTRY], (frame.call[NUMBERS], 1, 0, 1))


class _Held:
    """An array's memory, and what must live as long: NumPy holds the object whose interface it reads."""

    def __init__(self, array: NDArray[Any], *held: Any) -> None:
        self.__array_interface__ = array.__array_interface__
        self.held = array, held


def holding(array: NDArray[Any], *held: Any) -> NDArray[Any]:
    """The same array; it and all views of it keep `held` alive."""
    return np.asarray(_Held(array, *held))
