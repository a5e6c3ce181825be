"""Training one call at a time: a Learner takes a batch, makes one step, and returns the loss."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Live, Passes, Program, get_backend
from ..data.targets import ClassTargets, NumberTargets, TargetEncoding
from ..formulas.intervals import SIMPLEX
from ..formulas.losses import LOSSES, Loss, check_pair, get_loss
from ..formulas.optimizers import Optimizer, get_optimizer
from ..models.model import Model
from ..models.validation import check_class_count, check_sample_weight, check_state, check_vector, default_loss
from ..networks.network import Network
from ..plans.plan import Plan, make_plan
from ..plans.recipe import Recipe
from ..support.checks import check_dtype, check_fits, check_integer, check_number, shown
from ..support.random import check_seed
from ..support.tensors import Arrays, read_tensors
from .batches import BatchChecks
from .learner_file import FORMAT, from_file, write_learner
from .state import Progress, State
from .stopping import DivergenceError

MAX_STEPS = 2**62  # so that the next ones are numbered in int64, too


class Learner:
    """A network that learns batch by batch, each step one call of some microseconds.

    For your own loops: data that arrives in a stream, reinforcement learning, active learning. Where all rows are
    there from the beginning, `train` is faster and does more. The steps are to the bit those that a training makes of
    the same batches, on every backend.

    With a loss that is computed outside, a step takes two calls: `forward`, then `step_from` or `backward`.

    A learner belongs to the thread that made it, or unpickled it. Ctrl-C between two calls leaves it as it is, and
    after one within a call it can be used further: a step may then be made and not counted, and on backend "numpy" it
    may be made in part.

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
        self._dtype, self._outputs = self._recipe.dtype, network.output_size
        self._checks = BatchChecks(network, chosen_loss, self._dtype, self.batch_rows)
        self._backend, self._threads = backend, threads
        self._plan: Plan = make_plan(network, self.batch_rows)
        rate = chosen.learning_rate if learning_rate is None else learning_rate
        self.learning_rate = rate
        self._steps = 0
        self._begin(self._plan.initial_parameters(self._recipe.seed), None, self._plan.initial_state())

    def _begin(self, parameters: NDArray[Any], slots: NDArray[Any] | None, statistics: NDArray[Any]) -> None:
        """Compile the program, for the thread that calls this."""
        self._program: Program = get_backend(self._backend, self._threads).compile(self._plan, self._recipe)
        self._program.parameters, self._program.state = parameters, statistics
        if slots is not None:
            self._program.slots = slots
        self._passes: Passes | None = None  # made by the first forward
        self._kept: tuple[int, ...] | None = None  # the shape of forward's rows, until they are used up
        self._changes = 0  # of the parameters by its methods
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
        if threading.get_ident() != self._owner:
            raise self._wrong_thread()
        inputs = self._checks.inputs(x)
        targets = self._checks.targets(y, len(inputs))
        weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, len(inputs), self._dtype)
        own_rate = self._learning_rate if rate is None else self._checked_rate(rate)
        self._kept = None
        self._changes += 1
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
        if threading.get_ident() != self._owner:
            raise self._wrong_thread()
        return self._program.predict_batch(self._checks.inputs(x))

    def forward(self, x: ArrayLike) -> NDArray[Any]:
        """The outputs as a step on these rows computes them: dropout drops, and BatchNorm takes the batch's statistics.

        The next call of `backward` or `step_from` goes back from here. Until then, `outputs` and whatever reads the
        learner may be called; what changes it takes the forward pass back.

        Parameters
        ----------
        x
            Rows as for `step`, of which a copy is kept.

        Returns
        -------
        array
            (n_rows, n_outputs). Dropout's masks are those of the next step, however often forward is called before it.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `step` does.

        Examples
        --------
        A loss of your own, by its gradient:

        >>> import numpy as np
        >>> from nnfast import Dense, Learner, Network
        >>> learner = Learner(Network(2, [Dense(16, "tanh"), Dense(1)]), batch_rows=64, learning_rate=0.03)
        >>> x = np.random.default_rng(0).uniform(-1, 1, (64, 2))
        >>> wanted = x[:, :1] * x[:, 1:]
        >>> for _ in range(500):
        ...     error = learner.forward(x) - wanted
        ...     learner.step_from(4 * error**3 / len(x))  # of the mean of error**4
        >>> bool(abs(learner.outputs(x) - wanted).max() < 0.2)
        True
        """
        return self._forward_again(x, self._steps)

    def _forward_again(self, x: ArrayLike, number: int) -> NDArray[Any]:
        """forward with the masks of step `number`."""
        if threading.get_ident() != self._owner:
            raise self._wrong_thread()
        rows = self._checks.inputs(x)
        shape = x.shape if isinstance(x, np.ndarray) else np.shape(x)
        self._kept = None
        if self._passes is None:
            self._passes = get_backend(self._backend, self._threads).passes(self._program)
        outputs = self._passes.forward(rows, number)
        self._kept = shape
        return outputs

    def _count_forward(self) -> None:
        """Count the forward pass as a step that is made elsewhere: the statistics follow it, other masks come next."""
        assert self._passes is not None  # forward has made them
        self._passes.follow()
        self._steps += 1

    def backward(self, output_gradient: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """The gradients of a loss by the parameters and by the inputs, from its gradient by the outputs of `forward`.

        Nothing is learnt: the steps are not counted, and BatchNorm's running statistics stay as they are.

        Parameters
        ----------
        output_gradient
            dLoss/doutputs, (n_rows, n_outputs); of one output also (n_rows,). Where the loss is a mean over rows, its
            gradient is divided by their number already.

        Returns
        -------
        gradient
            (n_parameters,), by the chain rule alone: `alpha`, `l1` and `clip_norm` belong to a step.
        input_gradient
            dLoss/dx, of the shape of forward's x.

        Raises
        ------
        TypeError, ValueError
            An array that does not fit; the forward pass is still there then.
        RuntimeError
            There is no forward pass to go back from, or the learner belongs to another thread.
        """
        passes, shape, slopes = self._way_back(output_gradient)
        gradient, input_gradient = passes.backward(slopes)
        return gradient, input_gradient.reshape(shape)

    def step_from(
        self, output_gradient: ArrayLike, rate: float | None = None, *, gives_input_gradient: bool = False
    ) -> NDArray[Any] | None:
        """Learn from the batch of `forward` by a loss of your own, given as its gradient by the outputs.

        The optimizer takes backward's gradient with penalties and clipping as `step` does; BatchNorm's running
        statistics follow the batch.

        Parameters
        ----------
        output_gradient
            As for `backward`.
        rate
            This step's learning rate; by default `learning_rate`.
        gives_input_gradient
            Whether to return dLoss/dx, from before the step, of the shape of forward's x; else None is returned.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `backward` does.
        """
        own_rate = self.learning_rate if rate is None else self._checked_rate(rate)
        passes, shape, slopes = self._way_back(output_gradient)
        self._changes += 1
        gradient = passes.step_from(slopes, own_rate, self._steps, gives_input_gradient=gives_input_gradient)
        self._steps += 1
        return None if gradient is None else gradient.reshape(shape)

    def _way_back(self, output_gradient: ArrayLike) -> tuple[Passes, tuple[int, ...], NDArray[Any]]:
        """The passes that hold a forward pass, which is used up now, its rows' shape, and dLoss/doutputs."""
        if threading.get_ident() != self._owner:
            raise self._wrong_thread()
        passes, shape = self._passes, self._kept
        if passes is None or shape is None:
            raise RuntimeError(
                "forward(x) comes first: each one serves one call of backward or step_from, with no step and no "
                "assignment between them"
            )
        slopes = self._checks.slopes(output_gradient, shape[0])
        self._kept = None
        return passes, shape, slopes

    @property
    def learning_rate(self) -> float:
        """Of steps that are given no rate of their own; assign to change it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._learning_rate = self._checked_rate(rate, "learning_rate")

    def _wrong_thread(self) -> RuntimeError:
        return RuntimeError("a Learner belongs to the thread that made it: give each thread a copy.deepcopy of it")

    def _checked_rate(self, rate: float, name: str = "rate") -> float:
        number = check_number(rate, name, 0, above=True)
        check_fits(number, name, self._dtype)
        return number

    @property
    def live(self) -> Live:
        """The vectors that it computes with, not copies: parameters, slots and statistics, to be read and written.

        A call sees what was written before it; between `forward` and the way back they must stay as they are. They are
        the same arrays for the learner's life; a copy of it has others. What is written is not checked.

        Raises RuntimeError on the cuda backend, whose vectors are on a device.
        """
        return self._program.live

    @property
    def parameters(self) -> NDArray[Any]:
        """A copy of the flat parameter vector; assign one of its shape to replace it."""
        return self._program.parameters

    @parameters.setter
    def parameters(self, vector: ArrayLike) -> None:
        self._kept = None
        self._changes += 1
        self._program.parameters = check_vector(vector, self._plan.parameter_count, self._dtype, "parameters")

    @property
    def slots(self) -> NDArray[Any]:
        """A copy of the optimizer's state, (n_slots, n_parameters); assign one of its shape to replace it."""
        return self._program.slots

    @slots.setter
    def slots(self, vectors: ArrayLike) -> None:
        self._kept = None
        flat = check_vector(np.reshape(vectors, -1), self.slots.size, self._dtype, "slots")
        self._program.slots = flat.reshape(-1, self._plan.parameter_count)

    @property
    def statistics(self) -> NDArray[Any]:
        """A copy of BatchNorm's running statistics, flat; assign a vector of its shape to replace it."""
        return self._program.state

    @statistics.setter
    def statistics(self, vector: ArrayLike) -> None:
        self._kept = None
        values = check_vector(vector, self._plan.state_count, self._dtype, "statistics")
        check_state(self._plan, values)
        self._program.state = values

    @property
    def steps(self) -> int:
        """How many steps were made, which decides dropout's masks and Adam's corrections; assign to change it."""
        return self._steps

    @steps.setter
    def steps(self, number: int) -> None:
        self._kept = None
        self._steps = check_integer(number, "steps", 0, MAX_STEPS)

    def to_model(self, targets: TargetEncoding | None = None) -> Model:
        """A Model with a copy of the present weights.

        Parameters
        ----------
        targets
            How outputs become labels or numbers: ClassTargets or NumberTargets of nnfast.data.targets. By default
            labels 0, 1, ... for a loss of probabilities, else the outputs themselves.

        Raises
        ------
        TypeError, ValueError
            `targets` is something else, or of another number of outputs.
        """
        if targets is not None:
            if not isinstance(targets, ClassTargets | NumberTargets):
                raise TypeError(
                    f"targets must be ClassTargets or NumberTargets of nnfast.data.targets, got {shown(targets)}; for "
                    "labels of your own: ClassTargets.fit(labels)"
                )
            if isinstance(targets, ClassTargets):
                check_class_count(targets, self.network)
        else:
            loss, outputs = self._recipe.loss, self._outputs
            if (outputs > 1 and loss.targets == SIMPLEX) or (outputs == 1 and loss == LOSSES["binary_cross_entropy"]):
                targets = ClassTargets(np.arange(max(self._outputs, 2), dtype=np.int64))
            else:
                targets = NumberTargets(np.zeros(self._outputs), np.ones(self._outputs), self._outputs == 1)
        return Model(
            self.network, self.parameters, self.statistics, self._recipe.loss, targets,
            backend=self._backend, threads=self._threads,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that `load` needs to go on, to one safetensors file, whole or not at all. Raises OSError."""
        write_learner(path, self.network, self._recipe, self.batch_rows, self.learning_rate, self._state())

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str | Backend = "auto", threads: int | None = None) -> Learner:
        """Read a learner that save wrote, which goes on to the bit. Raises OSError, or ValueError for another file.

        Nothing in the file is executed: formulas in it pass through nnfast's own grammar.
        """

        def made(texts: Mapping[str, str], arrays: Arrays) -> Learner:
            arguments, state = from_file(texts, arrays)
            learner = cls(**arguments, backend=backend, threads=threads)
            learner.parameters, learner.slots, learner.statistics = state.parameters, state.slots, state.statistics
            learner.steps = state.progress.step
            return learner

        return read_tensors(path, FORMAT, "learner", made)

    def _state(self) -> State:
        return State(self.parameters, self.slots, self.statistics, Progress(step=self._steps))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the program, whose numbers go along."""
        return vars(self) | {"_program": self._state(), "_passes": None, "_kept": None, "_owner": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        learnt: State = state["_program"]
        self._begin(learnt.parameters, learnt.slots, learnt.statistics)

    def __repr__(self) -> str:
        recipe = self._recipe
        return f"Learner({recipe.loss.name!r}, {recipe.optimizer!r}, {self._steps} steps)\n{self.network.summary()}"
