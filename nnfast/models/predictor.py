"""Predictions one call at a time, at microseconds: a model's network with all that a call needs made beforehand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Program, get_backend
from ..support.checks import check_integer
from .validation import rows_of_numbers

if TYPE_CHECKING:
    from ..backends.numba.jit import PredictionFrame
    from .model import Model

Snapshot = tuple[NDArray[Any], NDArray[Any]]


class Predictor:
    """Computes a model's outputs for up to `max_rows` rows a call; made by `Model.predictor`.

    The weights are those the model had when the predictor was made, until `update` is called. Several threads may call
    one predictor at once: each thread has a workspace of its own.

    Parameters
    ----------
    model
        The trained model; it must take plain numbers, without an encoding of columns.
    max_rows
        The most rows that a call may have.

    Raises
    ------
    TypeError
        The model encodes columns of tables, or `max_rows` is no integer.
    ValueError
        `max_rows` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nnfast import Dense, Network, train
    >>> X = np.random.default_rng(0).random((50, 4), dtype="float32")
    >>> model = train(Network(4, [Dense(3, "softmax")]), X, np.arange(50) % 3, epochs=1)
    >>> predict = model.predictor(max_rows=16)
    >>> predict(X[:2]).shape
    (2, 3)
    """

    def __init__(self, model: Model, max_rows: int) -> None:
        if model.inputs is not None:
            raise TypeError("a predictor takes numbers, but this model encodes columns: use model.predict or outputs")
        self.max_rows = check_integer(max_rows, "max_rows")
        self._model, self._network, self._dtype = model, model.network, model.parameters.dtype
        self._size, self._scale = model.network.input_size, self._dtype.type(model.input_scale)
        self._own = threading.local()
        self.update()

    def update(self) -> None:
        """Take over the weights that the model has now, for calls that begin from now on."""
        self._snapshot: Snapshot = self._model.parameters.copy(), self._model.state.copy()

    def __call__(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Compute the network's outputs for the rows of `x`.

        Parameters
        ----------
        x
            (n_rows, n_inputs), or rows of the network's own shape. Read where it is if it is in C order and in the
            model's dtype, converted otherwise. NaN and infinity are not looked for: their rows' outputs are NaN
            or infinite.
        out
            (n_rows, n_outputs) in the model's dtype, to be written; it may not share memory with `x`.

        Returns
        -------
        ndarray
            (n_rows, n_outputs) as `Model.outputs` gives them: `out`, or a new array.

        Raises
        ------
        TypeError
            `x` holds no numbers, or `out` is no array of the model's dtype.
        ValueError
            A shape that does not fit, more than `max_rows` rows or none, masked values, or an `out` that is read-only
            or overlaps `x`.
        """
        own = self._own.__dict__
        if own.get("snapshot") is not self._snapshot:
            self._prepare(own)
        rows: Any = x
        # A copied dtype is equal, and another object
        if type(x) is not np.ndarray or x.dtype != self._dtype or x.ndim != 2 or x.shape[1] != self._size:
            rows = self._converted(x)
        if not 0 < len(rows) <= self.max_rows:
            raise ValueError(f"x has {len(rows)} rows, but this predictor takes 1 to {self.max_rows}: see max_rows")
        if out is not None:
            self._check_out(out, rows)
        if self._scale != 1:
            rows = rows * self._scale
        program: Program = own["program"]
        return program.predict_batch(rows, out)

    def frame(self) -> PredictionFrame:
        """A frame for functions compiled by Numba's `njit`, in which `predict_frame` computes outputs.

        It has a workspace and weights of its own: those of the last `update`. Each thread needs a frame of its own.

        Returns
        -------
        PredictionFrame
            Arrays `inputs` and `outputs` of max_rows rows, in the model's dtype.

        Raises
        ------
        ValueError
            The model's backend is not numba, or the model scales its inputs.

        Examples
        --------
        >>> import numpy as np
        >>> from numba import njit
        >>> from nnfast import Dense, Network, predict_frame, train
        >>> X = np.random.default_rng(0).random((50, 4), dtype="float32")
        >>> model = train(Network(4, [Dense(3, "softmax")]), X, np.arange(50) % 3, epochs=1, backend="numba")
        >>> @njit
        ... def choose(frame, row):
        ...     frame.inputs[0] = row
        ...     predict_frame(frame, 1)
        ...     return frame.outputs[0].argmax()
        >>> bool(choose(model.predictor(max_rows=1).frame(), X[0]) == model.predict(X[:1])[0])
        True
        """
        if self._scale != 1:
            raise ValueError(
                f"a frame takes the numbers that the network reads, but this model scales X by {self._scale:g}: "
                f"train on X * {self._scale:g}, without input_scale"
            )
        program = self._model.compile(self.max_rows)
        program.parameters, program.state = self._snapshot
        if (frame := program.frame()) is None:
            name = get_backend(self._model.backend).name
            raise ValueError(f"backend {name!r} has nothing that compiled code could call: set model.backend = 'numba'")
        made: PredictionFrame = frame
        return made

    def _prepare(self, own: dict[str, Any]) -> None:
        """Give this thread a program with the present weights."""
        snapshot = self._snapshot
        if "program" not in own:
            own["program"] = self._model.compile(self.max_rows)
        own["program"].parameters, own["program"].state = snapshot
        own["snapshot"] = snapshot

    def _converted(self, x: ArrayLike) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows_of_numbers(x, self._network), self._dtype)

    def _check_out(self, out: Any, x: NDArray[Any]) -> None:
        shape = len(x), self._network.output_size
        if not isinstance(out, np.ndarray) or out.dtype != self._dtype:
            raise TypeError(f"out must be an array of {self._dtype}, got {getattr(out, 'dtype', type(out).__name__)}")
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}, got {out.shape}")
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        if np.may_share_memory(out, x):
            raise ValueError("out and x overlap in memory: give out an array of its own")

    def __repr__(self) -> str:
        return f"Predictor({self._model!r}, max_rows={self.max_rows})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _own=threading.local())
