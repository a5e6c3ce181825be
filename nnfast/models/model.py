"""A trained network: predicts, is evaluated, and is saved to and loaded from one safetensors file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, Program, Source, check_place, get_backend
from ..data.encoding import InputEncoding
from ..data.table import Table
from ..data.targets import ClassTargets, TargetEncoding, targets_from_state
from ..formulas.formula import read_row
from ..formulas.losses import LOSSES, Loss, check_pair, get_loss, given_slopes
from ..formulas.optimizers import sgd
from ..networks.network import Network
from ..plans.plan import ROWS_AT_ONCE, make_plan
from ..plans.recipe import Recipe
from ..support.arrays import array_module
from ..support.checks import check_dtype
from ..support.tensors import read_tensors, write_tensors
from .answers import check_probabilities, predicted_classes, predictions, probabilities
from .folding import fold_batch_norm
from .history import History
from .metrics import score
from .predictor import Predictor
from .slopes import output_slopes
from .validation import check_class_count, converted, make_source

FORMAT = "nnfast model 1"


@dataclass(eq=False)
class Model:
    """A network with its parameters, and all that stands between the user's data and the network's numbers.

    parameters: the flat vector of nnfast.plans, in the dtype that predictions are computed in; state, in the same
    dtype, that of running statistics. targets: how outputs become labels or numbers. inputs: how columns become inputs,
    or None for arrays taken as they are. input_scale: what inputs are multiplied by. history: of the training. backend,
    threads: where predictions run, and in how many threads at most; see get_backend.
    """

    network: Network
    parameters: NDArray[Any]
    state: NDArray[Any]
    loss: Loss
    targets: TargetEncoding
    inputs: InputEncoding | None = None
    input_scale: float = 1.0
    history: History = field(default_factory=History)
    backend: str | Backend = "auto"
    threads: int | None = None
    # Programs by whether they give the gradient of the inputs, with what each was compiled from
    _compiled: dict[bool, tuple[tuple[Any, ...], Program]] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Other parameters or another state may take the place of these where they have their shape and dtype."""
        if name in ("parameters", "state") and name in vars(self):
            held = getattr(self, name)
            found = (value.dtype, value.shape) if isinstance(value, np.ndarray) else None
            if found != (held.dtype, held.shape):
                what = f"{found[0]} of shape {found[1]}" if found else f"a {type(value).__name__}"
                raise ValueError(f"{name} must be a {held.dtype} array of shape {held.shape}, got {what}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        parts = [f"{self.parameters.size:,} parameters in {self.parameters.dtype}"]
        if self.state.size:
            parts.append(f"{self.state.size:,} running statistics")
        parts += [f"loss {self.loss.name!r}", f"{self.history.epochs} epochs"]
        return f"Model({', '.join(parts)})\n{self.network.summary()}"

    def outputs(self, X: ArrayLike | Table) -> NDArray[Any]:
        """The network's outputs, (n_rows, n_outputs), as its last layer gives them; of a CuPy array, a CuPy array."""
        source = self._source(X, None, None)
        with self._lock:
            program = self._program()
            check_place(program, source)
            return program.predict(source)

    def predict(self, X: ArrayLike | Table) -> NDArray[Any]:
        """Labels, (n_rows,), of a classifier; else numbers in the targets' units and of their shape.

        Predictions for a CuPy array are one as well, except labels that are text. Raises TypeError or ValueError for X
        that does not fit the network.
        """
        return predictions(self.outputs(X), self.targets)

    def predict_proba(self, X: ArrayLike | Table) -> NDArray[Any]:
        """The probability of every class, (n_rows, n_classes), in the order of targets.classes.

        Raises TypeError where the model tells no classes apart, or by outputs that are no probabilities.
        """
        check_probabilities(self.network, self.targets)
        return probabilities(self.outputs(X))

    def evaluate(self, X: ArrayLike | Table, y: ArrayLike, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """{"loss": ..., "accuracy" or "r2": ...} on these rows, without penalties; r2 in the network's units."""
        source = self._source(X, y, sample_weight)
        with self._lock:
            program = self._program()
            check_place(program, source)
            loss, outputs = program.evaluate(source)
        assert source.targets is not None
        return {"loss": loss, **score(outputs, source.targets, self.targets, source.sample_weight)}

    def input_gradient(self, X: ArrayLike, output: ArrayLike | None = None) -> NDArray[Any]:
        """How an output changes with each number of X: its gradient, whose size is the saliency of that number.

        It is the slope of what this model predicts: BatchNorm uses the running statistics, and dropout drops nothing,
        so that no row depends on another. Where softmax or sigmoid is sure of a class, the slope of its probability is
        close to 0; Simonyan et al. 2013 take the score before it instead.

        Parameters
        ----------
        X
            Rows as for predict, but not encoded columns.
        output
            Of a classifier, the label whose output is differentiated, which is its probability where predict_proba
            gives one; by default the label predicted for each row. Of numbers, the index of the target, in the
            targets' units; it can be left out where there is only one. An array (n_rows,) gives one for each row.

        Returns
        -------
        array
            Of X's shape, in the model's dtype; for a CuPy array, one on the device.

        Raises
        ------
        TypeError
            The model encodes columns (it has `inputs`), or X or `output` is of the wrong kind.
        ValueError
            X does not fit the network, or there is no such output.

        Examples
        --------
        >>> import numpy as np
        >>> from nnfast import Dense, Network, train
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> model = train(Network(3, [Dense(2, "softmax")]), X, (X[:, 1] > 0).astype(int), epochs=300, seed=0)
        >>> gradient = model.input_gradient(X, output=1)
        >>> gradient.shape
        (200, 3)
        >>> int(abs(gradient).mean(axis=0).argmax())
        1
        """
        if self.inputs is not None:
            raise TypeError(
                "input_gradient needs numbers that the network reads, but this model encodes columns (inputs=): "
                "train on inputs.transform(X) without inputs="
            )
        source = self._source(X, None, None)
        with self._lock:
            program = self._program(gives_input_gradient=True)
            check_place(program, source)
            if output is None and isinstance(self.targets, ClassTargets):
                output = self.targets.decode(predicted_classes(program.predict(source)))
            shape = source.n_rows, self.network.output_size
            slopes = output_slopes(output, self.targets, shape, self.parameters.dtype, self.input_scale)
            parts = []
            for first in range(0, source.n_rows, ROWS_AT_ONCE):
                rows = slice(first, first + ROWS_AT_ONCE)
                parts.append(program.input_gradient(Source(source.inputs[rows], slopes[rows], scale=source.scale)))
        gradient: NDArray[Any] = array_module(source.inputs).concatenate(parts)
        return gradient.reshape(array_module(X).asarray(X).shape)

    def predictor(self, max_rows: int = ROWS_AT_ONCE) -> Predictor:
        """What predicts in single calls at microseconds, from the model's present weights.

        Parameters
        ----------
        max_rows
            The most rows that a call may have.

        Returns
        -------
        Predictor
            Called with rows, it gives what `outputs` gives.

        Raises
        ------
        TypeError
            The model encodes columns of tables, or `max_rows` is no integer.
        ValueError
            `max_rows` is below 1.
        """
        return Predictor(self, max_rows)

    def compile(self, rows: int) -> Program:
        """The model's network as a program on its backend, for predictions and evaluation.

        Parameters
        ----------
        rows
            The most rows that it computes at once.

        Returns
        -------
        Program
            Without the model's weights: assign them to its `parameters` and `state`.

        Raises
        ------
        BackendUnavailableError
            The model's backend cannot run here.
        """
        recipe = Recipe(self.loss, sgd(), self.parameters.dtype)
        return get_backend(self.backend, self.threads).compile(make_plan(self.network, rows), recipe)

    def _source(self, X: ArrayLike | Table, y: ArrayLike | None, sample_weight: ArrayLike | None) -> Source:
        return make_source(
            X, y, sample_weight, network=self.network, loss=self.loss, dtype=self.parameters.dtype,
            inputs=self.inputs, targets=self.targets, scale=self.input_scale,
        )  # fmt: skip

    def _program(self, *, gives_input_gradient: bool = False) -> Program:
        """The model as a program, for the thread that holds the lock: a program has one workspace.

        gives_input_gradient: for the loss given_slopes; else for the model's own.
        """
        chosen = self.backend, self.threads, self.network, self.loss
        kept = self._compiled.get(gives_input_gradient)
        if kept is None or kept[0] != chosen:
            program = self._slopes_program() if gives_input_gradient else self.compile(ROWS_AT_ONCE)
            kept = self._compiled[gives_input_gradient] = chosen, program
        program = kept[1]
        program.parameters, program.state = self.parameters, self.state  # each time: they are the user's to change
        return program

    def _slopes_program(self) -> Program:
        recipe = Recipe(given_slopes(), sgd(), self.parameters.dtype)
        plan = make_plan(self.network, ROWS_AT_ONCE, gives_input_gradient=True)
        return get_backend(self.backend, self.threads).compile(plan, recipe)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the programs and their lock."""
        return vars(self) | {"_compiled": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def layer_parameters(self) -> dict[str, NDArray[Any]]:
        """Views of the parameters by name: "layers.0.weights" (inputs, units), "layers.0.bias" (units,), ...

        Of a Conv2D, the weights are (kernel height, kernel width, channels / groups, filters); of a
        normalisation there are "layers.1.gamma" and "layers.1.beta" (channels,).
        """
        return {name: span.view(self.parameters) for name, span in make_plan(self.network, 1).named_parameters.items()}

    def layer_state(self) -> dict[str, NDArray[Any]]:
        """Views of the running statistics by name: "layers.1.running_mean", "layers.1.running_variance", ..."""
        return {name: span.view(self.state) for name, span in make_plan(self.network, 1).named_state.items()}

    def folded(self) -> Model:
        """A model that predicts the same with fewer layers, to rounding: BatchNorm becomes part of the layer before.

        That is possible after a Dense or Conv2D with activation "identity"; any other BatchNorm stays. To train on,
        keep the model itself.
        """
        network, parameters, state = fold_batch_norm(self.network, self.parameters, self.state)
        return replace(self, network=network, parameters=parameters, state=state, _compiled={}, _lock=Lock())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file, replacing it whole or not at all. Raises OSError."""
        write_tensors(path, FORMAT, *self.to_file())

    def to_file(self) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
        """The texts and arrays that its file has."""
        arrays = self.layer_parameters() | self.layer_state()
        description: dict[str, Any] = {"input_scale": self.input_scale}
        for name, part in (("inputs", self.inputs), ("targets", self.targets), ("history", self.history)):
            if part is not None:
                part_arrays, description[name] = part.to_state()
                arrays |= {f"{name}.{key}": array for key, array in part_arrays.items()}
        texts = {
            "network": self.network.to_json(),
            "loss": json.dumps(loss_to_data(self.loss)),
            "description": json.dumps(description),
        }
        return texts, arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str], backend: str | Backend = "auto", threads: int | None = None) -> Model:
        """Read a model that save wrote. Raises OSError, or ValueError for any other file.

        Nothing in the file is executed: formulas in it pass through nnfast's own grammar.
        """
        model = read_tensors(path, FORMAT, "model", cls.from_file)
        model.backend, model.threads = backend, threads
        return model

    @classmethod
    def from_file(cls, texts: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Model:
        """The model of to_file. Raises whatever missing and wrong entries lead to; see read_tensors."""
        network = Network.from_json(texts["network"])
        loss = loss_from_data(json.loads(texts["loss"]))
        check_pair(network.output_layer.function, loss)
        description = json.loads(texts["description"])

        def part(name: str) -> dict[str, NDArray[Any]]:
            return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}

        layers = {key: array for key, array in arrays.items() if key.startswith("layers.")}
        unknown = [key for key in arrays if key.partition(".")[0] not in ("layers", "targets", "inputs", "history")]
        if unknown:
            raise ValueError(f"it holds the unknown array {unknown[0]!r}")
        held, plan = sum(array.size for array in layers.values()), make_plan(network, 1)
        needed = plan.parameter_count + plan.state_count
        if held != needed:  # compared before anything of the network's size is made
            raise ValueError(f"it holds {held} parameters, but its network has {needed}")
        dtype = check_dtype(next(iter(layers.values())).dtype)
        scale = float(description["input_scale"])
        if not math.isfinite(scale):
            raise ValueError(f"its input_scale is {scale}")
        model = cls(
            network,
            np.zeros(plan.parameter_count, dtype),
            np.zeros(plan.state_count, dtype),
            loss,
            targets_from_state(part("targets"), description["targets"]),
            InputEncoding.from_state(part("inputs"), description["inputs"]) if "inputs" in description else None,
            scale,
            History.from_state(part("history"), description["history"]),
        )
        if isinstance(model.targets, ClassTargets):
            check_class_count(model.targets, network)
        places = model.layer_parameters() | model.layer_state()
        if set(places) != set(layers):
            raise ValueError(f"it holds {', '.join(sorted(layers))}, but its network has {', '.join(sorted(places))}")
        for name, place in places.items():
            if layers[name].shape != place.shape or layers[name].dtype != dtype:
                found = f"{layers[name].dtype} of shape {layers[name].shape}"
                raise ValueError(f"{name} is {found}, but the network needs {dtype} of shape {place.shape}")
            array = converted(layers[name], dtype, name)
            if name.endswith("running_variance") and (array < 0).any():
                raise ValueError(f"{name} holds a negative variance")
            place[...] = array
        return model


def loss_to_data(loss: Loss) -> str | dict[str, Any]:
    """A loss as JSON holds it: its name, or a row of the user's own."""
    if LOSSES.get(loss.name) == loss:
        return loss.name
    data = {item.name: getattr(loss, item.name) for item in fields(loss)}
    return data | {"constants": dict(loss.constants)}


def loss_from_data(data: str | dict[str, Any]) -> Loss:
    """The loss of loss_to_data."""
    return read_row(Loss, data) if isinstance(data, dict) else get_loss(data)
