"""Training one call at a time: a Learner takes a batch, makes one step, and returns the loss."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Program, get_backend
from ..data.targets import ClassTargets, NumberTargets, TargetEncoding
from ..formulas.intervals import SIMPLEX
from ..formulas.losses import Loss, check_pair, check_target_values, get_loss
from ..formulas.optimizers import Optimizer, get_optimizer
from ..models.model import Model, loss_from_data, loss_to_data
from ..models.validation import check_row_shape, check_sample_weight, check_state, check_vector, converted, default_loss
from ..networks.network import Network
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_dtype, check_fits, check_integer, check_number, check_unmasked
from ..support.files import write_bytes
from ..support.random import check_seed
from .state import Progress, State
from .stopping import DivergenceError

FORMAT = "nnfast learner 1"


class Learner:
    """A network that learns batch by batch, each step one call of some microseconds.

    For your own loops: data that arrives in a stream, reinforcement learning, active learning. Where all rows are
    there from the beginning, `train` is faster and does more. The steps are to the bit those that a training makes of
    the same batches, on every backend.

    A learner belongs to the thread that made it, or unpickled it. Ctrl-C between two steps leaves it as it is; within
    a step, the step may be made and not counted.

    Parameters
    ----------
    network
        What learns.
    loss
        A name from LOSSES or a Loss; by default the output activation's canonical one.
    optimizer
        A name from OPTIMIZERS or an Optimizer.
    batch_rows
        The most rows that a call may have.
    learning_rate
        By default the optimizer's own; a step may have another.
    alpha, l1, clip_norm
        Penalties and the longest gradient allowed, as in `train`.
    backend, threads
        See `get_backend`.
    dtype
        "float32" or "float64".
    seed
        Of first weights and dropout's masks.

    Raises
    ------
    TypeError, ValueError
        A parameter that does not fit.
    BackendUnavailableError
        The backend cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> from nnfast import Dense, Learner, Network
    >>> learner = Learner(Network(4, [Dense(8, "relu"), Dense(3, "softmax")]), batch_rows=32)
    >>> X, y = np.random.default_rng(0).random((32, 4), dtype="float32"), np.arange(32) % 3
    >>> losses = [learner.step(X, y) for _ in range(100)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        network: Network,
        loss: str | Loss | None = None,
        optimizer: str | Optimizer = "adam",
        *,
        batch_rows: int,
        learning_rate: float | None = None,
        alpha: float = 0.0,
        l1: float = 0.0,
        clip_norm: float | None = None,
        backend: str | Backend = "auto",
        threads: int | None = None,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network must be a Network, got {network!r}")
        chosen_loss = default_loss(network) if loss is None else get_loss(loss)
        check_pair(network.output_layer.function, chosen_loss)
        chosen = get_optimizer(optimizer)
        self.network, self.batch_rows = network, check_integer(batch_rows, "batch_rows")
        self._recipe = Recipe(
            chosen_loss, chosen, check_dtype(dtype), check_number(alpha, "alpha", 0), check_number(l1, "l1", 0),
            None if clip_norm is None else check_number(clip_norm, "clip_norm", 0, above=True), check_seed(seed),
        )  # fmt: skip
        self._dtype, self._size, self._outputs = self._recipe.dtype, network.input_size, network.output_size
        self._backend, self._threads = backend, threads
        self._plan: Plan = make_plan(network, self.batch_rows)
        self.learning_rate = self._checked_rate(chosen.learning_rate if learning_rate is None else learning_rate)
        self._steps = 0
        self._begin(self._plan.initial_parameters(self._recipe.seed), None, self._plan.initial_state())

    def _begin(self, parameters: NDArray[Any], slots: NDArray[Any] | None, statistics: NDArray[Any]) -> None:
        """Compile the program, for the thread that calls this."""
        self._program: Program = get_backend(self._backend, self._threads).compile(self._plan, self._recipe)
        self._program.parameters, self._program.state = parameters, statistics
        if slots is not None:
            self._program.slots = slots
        self._owner = threading.get_ident()

    def step(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, rate: float | None = None
    ) -> float:
        """Learn from one batch.

        Parameters
        ----------
        x
            (n_rows, n_inputs), or rows of the network's own shape.
        y
            Class labels, (n_rows,) integers in [0, n_outputs); or numbers, (n_rows, n_outputs), of one output also
            (n_rows,).
        sample_weight
            (n_rows,), how much each row counts.
        rate
            This step's learning rate; by default `learning_rate`.

        Returns
        -------
        float
            The batch's loss before the step, penalties included.

        Raises
        ------
        TypeError, ValueError
            Arrays that do not fit; nothing has changed then.
        DivergenceError
            The loss became infinite or NaN; the step was made, and its weights may be of no use.
        RuntimeError
            The learner belongs to another thread.
        """
        inputs = self._inputs(x)
        targets = self._targets(y, len(inputs))
        weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, len(inputs), self._dtype)
        own_rate = self.learning_rate if rate is None else self._checked_rate(rate)
        loss = self._program.step(inputs, targets, weights, own_rate, self._steps)
        self._steps += 1
        if not math.isfinite(loss):
            raise DivergenceError(
                f"the loss became {loss} in step {self._steps}: try a learning rate below {own_rate:g}, clip_norm=1, "
                "or standardised inputs",
                self.to_model(),
            )
        return loss

    def outputs(self, x: ArrayLike) -> NDArray[Any]:
        """The network's outputs, (n_rows, n_outputs), for at most batch_rows rows, as a Model computes them.

        Raises as `step` does.
        """
        return self._program.predict_batch(self._inputs(x))

    def _inputs(self, x: ArrayLike) -> NDArray[Any]:
        """The rows as a batch, all of them finite."""
        if threading.get_ident() != self._owner:
            raise RuntimeError("a Learner belongs to the thread that made it: give each thread a copy.deepcopy of it")
        rows: Any = x
        if type(x) is not np.ndarray or x.dtype is not self._dtype or x.ndim != 2 or x.shape[1] != self._size:
            check_unmasked(x, "x")
            rows = np.asarray(x)
            if rows.dtype.kind not in "buif":
                raise TypeError(f"x must hold numbers, got dtype {rows.dtype}")
            if rows.ndim == 0:
                raise ValueError("x must have shape (n_rows, n_inputs), got a single number")
            check_row_shape(rows.shape, self.network)
            rows = converted(rows.reshape(len(rows), self._size), self._dtype, "x")
        elif not x.flags.c_contiguous or not math.isfinite(np.vdot(x, x)):  # which may also be a large number's square
            rows = converted(x, self._dtype, "x")
        if not 0 < len(rows) <= self.batch_rows:
            raise ValueError(f"x has {len(rows)} rows, but this learner takes 1 to {self.batch_rows}: see batch_rows")
        checked: NDArray[Any] = rows
        return checked

    def _targets(self, y: ArrayLike, rows: int) -> NDArray[Any]:
        """Labels (rows,) int64, or numbers (rows, n_outputs)."""
        if type(y) is not np.ndarray:
            check_unmasked(y, "y")
        values = np.asarray(y)
        if values.dtype.kind not in "buif":
            raise TypeError(f"y must hold numbers, got dtype {values.dtype}")
        if values.ndim == 0 or len(values) != rows:
            raise ValueError(f"x has {rows} rows, but y has shape {values.shape}")
        if values.ndim == 1 and self._outputs > 1:
            if values.dtype.kind not in "iu":
                raise TypeError(
                    f"labels must be integers, got {values.dtype}; numbers have shape (n_rows, {self._outputs})"
                )
            labels: NDArray[np.int64] = np.ascontiguousarray(values, np.int64)
            largest = labels.view(np.uint64).argmax()  # as an unsigned number, a negative one is a large one
            if not 0 <= labels[largest] < self._outputs:
                raise ValueError(f"labels must lie in [0, {self._outputs}), got {values.min()} to {values.max()}")
            return labels
        numbers = converted(values.reshape(rows, 1) if values.ndim == 1 else values, self._dtype, "y")
        if numbers.shape != (rows, self._outputs):
            raise ValueError(f"y must have shape ({rows}, {self._outputs}), got {values.shape}")
        check_target_values(self._recipe.loss, numbers)
        return numbers

    def _checked_rate(self, rate: float) -> float:
        number = check_number(rate, "rate", 0, above=True)
        check_fits(number, "rate", self._dtype)
        return number

    @property
    def parameters(self) -> NDArray[Any]:
        """A copy of the flat parameter vector; assign one of its shape to replace it."""
        return self._program.parameters

    @parameters.setter
    def parameters(self, vector: ArrayLike) -> None:
        self._program.parameters = check_vector(vector, self._plan.parameter_count, self._dtype, "parameters")

    @property
    def slots(self) -> NDArray[Any]:
        """A copy of the optimizer's state, (n_slots, n_parameters); assign one of its shape to replace it."""
        return self._program.slots

    @slots.setter
    def slots(self, vectors: ArrayLike) -> None:
        flat = check_vector(np.reshape(vectors, -1), self.slots.size, self._dtype, "slots")
        self._program.slots = flat.reshape(-1, self._plan.parameter_count)

    @property
    def statistics(self) -> NDArray[Any]:
        """A copy of BatchNorm's running statistics, flat; assign a vector of its shape to replace it."""
        return self._program.state

    @statistics.setter
    def statistics(self, vector: ArrayLike) -> None:
        values = check_vector(vector, self._plan.state_count, self._dtype, "statistics")
        check_state(self._plan, values)
        self._program.state = values

    @property
    def steps(self) -> int:
        """How many steps were made, which decides dropout's masks and Adam's corrections; assign to change it."""
        return self._steps

    @steps.setter
    def steps(self, number: int) -> None:
        self._steps = check_integer(number, "steps") if number != 0 else 0

    def to_model(self, targets: TargetEncoding | None = None) -> Model:
        """A Model with a copy of the present weights.

        Parameters
        ----------
        targets
            How outputs become labels or numbers; by default labels 0, 1, ... for a loss of probabilities, else the
            outputs themselves.
        """
        if targets is None:
            if self._outputs > 1 and self._recipe.loss.targets == SIMPLEX:
                targets = ClassTargets(np.arange(self._outputs, dtype=np.int64))
            else:
                targets = NumberTargets(np.zeros(self._outputs), np.ones(self._outputs), self._outputs == 1)
        return Model(
            self.network, self.parameters, self.statistics, self._recipe.loss, targets,
            backend=self._backend, threads=self._threads,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that `load` needs to go on, to one safetensors file, whole or not at all. Raises OSError."""
        from safetensors.numpy import save

        arrays, progress = self._state().to_state()
        recipe, optimizer = self._recipe, self._recipe.optimizer
        description = {
            "loss": loss_to_data(recipe.loss),
            "optimizer": {item.name: getattr(optimizer, item.name) for item in fields(Optimizer)},
            "batch_rows": self.batch_rows,
            "learning_rate": self.learning_rate,
            **{name: getattr(recipe, name) for name in ("alpha", "l1", "clip_norm", "seed")},
        }
        metadata = {
            "format": FORMAT,
            "network": self.network.to_json(),
            "description": json.dumps(description),
            "progress": json.dumps(progress),
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_bytes(Path(path), save(contiguous, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str | Backend = "auto", threads: int | None = None) -> Learner:
        """Read a learner that save wrote, which goes on to the bit. Raises OSError, or ValueError for another file.

        Nothing in the file is executed: formulas in it pass through nnfast's own grammar.
        """
        from safetensors import SafetensorError, safe_open

        with open(path, "rb"):  # a missing or unreadable file is an OSError with its name
            pass
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format must be {FORMAT!r}")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            description = json.loads(metadata["description"])
            state = State.from_state(arrays, {"plateau": {}, "random_state": {}} | json.loads(metadata["progress"]))
            network, held = Network.from_json(metadata["network"]), state.parameters.size
            if held != (needed := make_plan(network, 1).parameter_count):  # before anything of that size is made
                raise ValueError(f"it holds {held} parameters, but its network has {needed}")
            learner = cls(
                network,
                loss_from_data(description.pop("loss")),
                Optimizer(**description.pop("optimizer")),
                dtype=state.parameters.dtype,
                backend=backend,
                threads=threads,
                **description,
            )
            learner.parameters, learner.slots, learner.statistics = state.parameters, state.slots, state.statistics
            learner.steps = state.progress.step
        except (
            SafetensorError,
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ValueError(f"{os.fspath(path)} is no learner's file, or damaged: {error}") from None
        return learner

    def _state(self) -> State:
        return State(self.parameters, self.slots, self.statistics, Progress(step=self._steps))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the program, whose numbers go along."""
        return vars(self) | {"_program": self._state(), "_owner": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        learnt: State = state["_program"]
        self._begin(learnt.parameters, learnt.slots, learnt.statistics)

    def __repr__(self) -> str:
        recipe = self._recipe
        return f"Learner({recipe.loss.name!r}, {recipe.optimizer!r}, {self._steps} steps)\n{self.network.summary()}"
