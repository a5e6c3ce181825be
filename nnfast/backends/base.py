"""The whole boundary between the engine and a backend: Backend compiles a Plan into a Program that runs steps.

What users hand in has been checked at their boundary (nnfast.models.validation); a backend trusts the numbers. That
sources, orders and bounds lie within a program's memory is checked here, since compiled code would leave it: every
program begins bind, evaluate, predict and loss_and_gradient with check_source, evaluate also with check_rows, and run
with check_stretch; input_gradient is checked for all programs in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ..plans.plan import Plan
from ..plans.recipe import Recipe, check_constants_fit
from ..support.arrays import array_module, is_on_device
from .passes import Passes, Vector


@dataclass(frozen=True)
class Source:
    """The rows that a program reads, as host arrays in C order; inputs may be a CuPy array where a program reads it.

    Inputs on the host may be in any order in memory, so that a large matrix in Fortran order needs no copy.

    inputs: (n_rows, input_size) in the program's dtype, or uint8; or in the other float dtype, converted as they are
    gathered; or a scipy.sparse CSR matrix of either float dtype, whose rows are filled in with zeros as they are
    gathered.
    targets: (n_rows, output_size) in the program's dtype, or (n_rows,) int64 class labels.
    sample_weight: (n_rows,) in the program's dtype, or None where every row counts 1.
    scale: what uint8 inputs are multiplied by as they are gathered, such as 1/255; 1 for all others, since only bytes
    are kept as they came (make_source scales floats once).
    """

    inputs: Any
    targets: NDArray[Any] | None = None
    sample_weight: Vector | None = None
    scale: float = 1.0

    @property
    def n_rows(self) -> int:
        return int(self.inputs.shape[0])

    @property
    def is_sparse(self) -> bool:
        return not isinstance(self.inputs, np.ndarray) and not is_on_device(self.inputs)


class Live(NamedTuple):
    """Vectors that a program computes with, not copies of them: (parameter_count,), (n_slots, parameter_count), state.

    statistics: the running ones, (plan.state_count,).
    """

    parameters: Vector
    slots: Vector
    statistics: Vector


class Program(ABC):
    """A network laid out and ready to train: parameters, optimizer slots, state, and the steps that change them."""

    reads_device_arrays = False  # whether a source's inputs may be a CuPy array

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        check_constants_fit(plan, recipe)
        self.plan = plan
        self.recipe = recipe
        self._state = plan.initial_state().astype(recipe.dtype)

    @abstractmethod
    def bind(self, source: Source) -> None:
        """Make `source` the rows that run() reads, uploading them once where that is needed."""

    @abstractmethod
    def run(
        self, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64], first_step: int
    ) -> NDArray[np.float64]:
        """Train on a stretch of steps: the hot call.

        Step k takes the rows order[bounds[k]:bounds[k + 1]] at learning rate rates[k]; it is step number
        first_step + k of the run, which decides dropout masks and bias corrections. BatchNorm uses the batch's
        statistics and lets the running ones follow. A batch whose weights are all zero changes nothing. Returns the
        loss of every step, penalties included, before its update.
        """

    @abstractmethod
    def evaluate(self, source: Source, rows: NDArray[np.int64] | None = None) -> tuple[float, Vector]:
        """The loss over `source`, without penalties and dropout, and the outputs (n_rows, output_size).

        rows: those that are measured, in their order, if not all. BatchNorm uses the running statistics here, and in
        predict.
        """

    @abstractmethod
    def loss_and_gradient(self, source: Source) -> tuple[float, Vector]:
        """Loss and flat gradient of one batch, penalties included, without dropout and clipping.

        source: at most plan.rows rows; where their weights are all zero, so are loss and gradient. BatchNorm uses the
        batch's statistics, as in training, and leaves the running ones as they are.
        """

    @final
    def input_gradient(self, source: Source) -> Vector:
        """dLoss/dinputs of one batch, for the loss of evaluate: without penalties and dropout, by running statistics.

        So a row's gradient depends on no other row, but for the divisor of a mean. With the loss "y * a", summed, it is
        the gradient of the outputs, each times its target: what continues a backward pass from outside.

        Parameters
        ----------
        source
            At most plan.rows rows, with targets; where their weights are all zero, so is the gradient.

        Returns
        -------
        array
            (n_rows, input_size) in the program's dtype, by the inputs as the network reads them (after Source.scale);
            on the device where the source's inputs are there.

        Raises
        ------
        ValueError
            The source does not fit, or the plan was made without gives_input_gradient.
        """
        check_source(self.plan, source, self.plan.rows)
        if self.plan.input_gradient is None:
            raise ValueError(
                "this plan has no room for the gradient of the inputs: "
                f"make_plan(network, {self.plan.rows}, gives_input_gradient=True)"
            )
        if source.sample_weight is not None and not source.sample_weight.any():
            shape = source.n_rows, self.plan.inputs.shape[1]
            nothing: Vector = array_module(source.inputs).zeros(shape, self.recipe.dtype)
            return nothing
        return self._input_gradient(source)

    @abstractmethod
    def _input_gradient(self, source: Source) -> Vector:
        """A new array with input_gradient's result, for a source that was checked and has weight."""

    @abstractmethod
    def predict(self, source: Source) -> Vector:
        """The outputs of all rows, (n_rows, output_size), on the device if the inputs are; targets are ignored."""

    def predict_each(self, source: Source, parameters: Vector, states: Vector) -> Vector:
        """The outputs of all rows by several vectors of parameters, (n_vectors, n_rows, output_size).

        To the bit what predict() gives with each of them; which of them the program has afterwards is not said.
        parameters: (n_vectors, parameter_count); states: (n_vectors, state_count), on the host.
        """
        found = []
        for self.parameters, self.state in zip(parameters, states, strict=True):
            found.append(self.predict(source))
        stacked: Vector = array_module(found[0]).stack(found)
        return stacked

    def step(
        self, inputs: NDArray[Any], targets: NDArray[Any], sample_weight: Vector | None, rate: float, number: int
    ) -> float:
        """Train on one batch, whose rows need no gathering; returns its loss.

        To the bit what run() gives of these rows bound, in their order, as step number `number`. The arrays are a
        Source's, of at most plan.rows rows of floats, and the caller has checked them. What was bound is bound no more.
        """
        self.bind(Source(inputs, targets, sample_weight))
        rows = len(inputs)
        return float(self.run(np.arange(rows), np.array([0, rows]), np.array([rate]), number)[0])

    def predict_batch(self, inputs: NDArray[Any], out: Vector | None = None) -> Vector:
        """The outputs of at most plan.rows rows of floats on the host, into `out` where that is given.

        The caller has checked the arrays. inputs: of any float dtype and strides. out: (rows, output_size), elsewhere.
        """
        outputs = self.predict(Source(np.ascontiguousarray(inputs, self.recipe.dtype)))
        if out is None:
            return outputs
        out[...] = outputs
        return out

    def frame(self) -> Any:
        """This program for the user's own compiled code, a PredictionFrame, after which nothing else uses the program.

        None where the backend has nothing that compiled code could call.
        """
        return None

    @property
    def live(self) -> Live:
        """The program's own vectors, to be read and written; a call computes with what they hold then.

        Raises RuntimeError for a program whose vectors are on a device.
        """
        raise RuntimeError(
            "this backend has its parameters on a device, where the host cannot reach them: read and assign "
            "parameters, slots and state or statistics, or use backend 'numba' or 'numpy'"
        )

    @property
    def threads(self) -> float | None:
        """In how many threads the last call's steps ran on average; None where the backend has none of its own."""
        return None

    @property
    @abstractmethod
    def parameters(self) -> Vector:
        """A host copy of the flat parameter vector; assign one to replace it."""

    @parameters.setter
    @abstractmethod
    def parameters(self, vector: Vector) -> None: ...

    @property
    @abstractmethod
    def slots(self) -> Vector:
        """A host copy of the optimizer's state, (n_slots, parameter_count); assign one to replace it."""

    @slots.setter
    @abstractmethod
    def slots(self, vectors: Vector) -> None: ...

    @property
    def state(self) -> Vector:
        """A host copy of the running statistics, (plan.state_count,); assign one to replace them."""
        return self._state.copy()

    @state.setter
    def state(self, vector: Vector) -> None:
        _replace(self._state, vector)


class HostProgram(Program):
    """A program whose parameters and slots are NumPy arrays."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        super().__init__(plan, recipe)
        self._parameters = np.zeros(plan.parameter_count, recipe.dtype)
        self._slots = np.zeros((len(recipe.optimizer.slots), plan.parameter_count), recipe.dtype)
        self._source: Source | None = None

    @property
    def live(self) -> Live:
        return Live(self._parameters, self._slots, self._state)

    @property
    def parameters(self) -> Vector:
        return self._parameters.copy()

    @parameters.setter
    def parameters(self, vector: Vector) -> None:
        _replace(self._parameters, vector)

    @property
    def slots(self) -> Vector:
        return self._slots.copy()

    @slots.setter
    def slots(self, vectors: Vector) -> None:
        _replace(self._slots, vectors)


def _replace(place: Vector, values: Vector) -> None:
    """Copy values over; NumPy alone would spread a single one over all places."""
    shape = values.shape if isinstance(values, np.ndarray) else np.shape(values)
    if shape != place.shape:
        raise ValueError(f"this program has numbers of shape {place.shape} here, got {shape}")
    if place.size:
        place[...] = values


class Backend(ABC):
    """Where and how programs run. `name` is what a user selects it by; `description` says on what it runs."""

    name: str
    choice: str | None = None  # how "auto" came to choose it
    programs_at_once: int = 1  # how many, each in a thread of its own, are sooner done than one after the other

    @property
    @abstractmethod
    def description(self) -> str:
        """The processor or device and its libraries, in a few words."""

    def choose(self, plan: Plan, dtype: np.dtype[Any]) -> str | None:
        """What it would choose for this plan, and why, for people to read; None where there is nothing to choose."""
        return None

    def workspace_size(self, plan: Plan, dtype: np.dtype[Any]) -> int:
        """The elements of a program's workspace: the plan's, and what the backend adds; 0 where it plans none."""
        return plan.workspace_size

    def refusal(self, plan: Plan) -> str | None:
        """Why this backend cannot run the plan, in a few words (see lacking); None where it can."""
        return None

    @final
    def compile(self, plan: Plan, recipe: Recipe) -> Program:
        """Make a program for a plan.

        Parameters
        ----------
        plan
            The network, laid out for the largest batch.
        recipe
            What is minimised, and how.

        Returns
        -------
        Program
            With all parameters and slots zero, and the state plan.initial_state().

        Raises
        ------
        ValueError
            The backend refuses the plan: it lacks a kind of layer.
        """
        if reason := self.refusal(plan):
            raise ValueError(
                f"backend {self.name!r} cannot run this network: {reason}; use backend='numpy', which has all kinds"
            )
        return self._compile(plan, recipe)

    @abstractmethod
    def passes(self, program: Program) -> Passes:
        """Forward and backward passes on the parameters, slots and running statistics of a program it compiled."""

    @abstractmethod
    def _compile(self, plan: Plan, recipe: Recipe) -> Program:
        """The program of a plan that was not refused."""


class BackendModule(Protocol):
    """What the package of a backend has, for the rest of nnfast to find it by name.

    FORMS: names with options, such as "cuda:N". PACKAGES: what it runs on, for `nnfast info`; of each group, the first
    that is installed counts.
    """

    FORMS: tuple[str, ...]
    PACKAGES: tuple[tuple[str, ...], ...]

    def parse_options(self, words: Sequence[str]) -> dict[str, Any] | None:
        """What follows the name, split at its colons, as options of create(); None for words that mean nothing."""

    def unavailable_reason(self) -> str | None:
        """Why it cannot run here and what to install, or None if it can."""

    def slow_reason(self) -> str | None:
        """Why another backend would be faster on this machine, or None."""

    def create(self, threads: int | None, **options: Any) -> Backend:
        """The backend; threads: upper limit, where it computes in threads of its own."""


def no_options(words: Sequence[str]) -> dict[str, Any] | None:
    """parse_options() of a backend that has none."""
    return None if words else {}


def never_slow() -> str | None:
    """slow_reason() of a backend that is as fast on any machine."""
    return None


class BackendUnavailableError(RuntimeError):
    """A backend that was asked for by name cannot run here; the message says why and what to install."""


def lacking(plan: Plan, kinds: Container[type]) -> str | None:
    """A refusal that names the plan's first operation of none of these kinds; None where there is no such."""
    for op in plan.operations:
        if type(op) not in kinds:
            return f"it has nothing for layer {op.layer_index} ({op.layer.kind})"
    return None


def check_place(program: Program, source: Source) -> None:
    """Raise TypeError for inputs on a CUDA device that the program cannot reach."""
    if is_on_device(source.inputs) and not program.reads_device_arrays:
        raise TypeError("X is a CuPy array, which the cuda backend alone reads: use backend='cuda', or pass X.get()")


def check_source(plan: Plan, source: Source, most_rows: int | None = None) -> None:
    """Raise ValueError for arrays that do not belong to the plan's network, or for more rows than `most_rows`."""
    rows, outputs = source.n_rows, plan.targets.shape[1]
    if most_rows is not None and rows > most_rows:
        raise ValueError(f"{rows} rows in one batch, but the plan has room for {most_rows}: make_plan(network, {rows})")
    check_inputs(plan, source)
    targets = source.targets
    if targets is not None:
        are_labels = targets.ndim == 1
        _check_array("targets", targets, (rows,) if are_labels else (rows, outputs))
        if are_labels and _leave(targets, outputs):
            raise ValueError(f"class labels must lie in [0, {outputs}), got {targets.min()} to {targets.max()}")
    if source.sample_weight is not None:
        _check_array("sample_weight", source.sample_weight, (rows,))


def check_rows(source: Source, rows: NDArray[np.int64] | None) -> None:
    """Raise ValueError for row numbers that the source does not have."""
    if rows is not None and _leave(rows, source.n_rows):
        raise ValueError(f"rows must lie in [0, {source.n_rows}), got {rows.min()} to {rows.max()}")


def weight_of(source: Source, rows: NDArray[np.int64] | None) -> float:
    """The sum of the sample weights of these rows, or of all."""
    weights = source.sample_weight
    if weights is None:
        return float(source.n_rows if rows is None else len(rows))
    return float((weights if rows is None else weights[rows]).sum(dtype=np.float64))


def check_inputs(plan: Plan, source: Source) -> None:
    """check_source, for what looks at no targets."""
    inputs = source.inputs
    _check_shape("inputs", inputs, (source.n_rows, plan.inputs.shape[1]))
    # Sparse rows have no flags
    if not (source.is_sparse or inputs.flags.c_contiguous or (not is_on_device(inputs) and inputs.flags.aligned)):
        raise ValueError("inputs must be in C order, or aligned in memory on the host: inputs.copy()")


def _check_array(name: str, array: Any, shape: tuple[int, ...]) -> None:
    _check_shape(name, array, shape)
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be in C order: np.ascontiguousarray({name})")


def _check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but the program takes {shape}")


def check_stretch(
    plan: Plan, source: Source, order: NDArray[np.int64], bounds: NDArray[np.int64], rates: NDArray[np.float64]
) -> None:
    """Raise ValueError for steps that reach beyond the order, the plan's rows or those of the source."""
    steps = len(rates)
    if len(bounds) != steps + 1:
        raise ValueError(f"{steps} steps need {steps + 1} bounds, got {len(bounds)}")
    if bounds[0] < 0 or bounds[-1] > len(order):
        raise ValueError(f"bounds must lie in [0, {len(order)}], got {bounds[0]} to {bounds[-1]}")
    sizes = bounds[1:] - bounds[:-1]
    # A single step is often a call of its own, in which NumPy's calls would count
    if not 0 < sizes[0] <= plan.rows if steps == 1 else _leave(sizes - 1, plan.rows):
        raise ValueError(f"a step takes 1 to {plan.rows} rows of this plan, got {sizes.min()} to {sizes.max()}")
    if _leave(order, source.n_rows):
        raise ValueError(f"order must give rows in [0, {source.n_rows}), got {order.min()} to {order.max()}")


def _leave(numbers: NDArray[np.int64], end: int) -> bool:
    """Whether any number lies outside [0, end). In one pass: as an unsigned number, a negative one is a large one."""
    unsigned = numbers.astype(np.int64, copy=False).view(np.uint64)
    return bool(np.maximum.reduce(unsigned, initial=0) >= end)


def batch_totals(source: Source, order: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum of the sample weights of every batch order[bounds[k]:bounds[k + 1]]."""
    if source.sample_weight is None:
        return (bounds[1:] - bounds[:-1]).astype(np.float64)
    weights = source.sample_weight[order[: bounds[-1]]].astype(np.float64)
    return np.add.reduceat(weights, bounds[:-1]) if len(bounds) > 1 else np.zeros(0)
