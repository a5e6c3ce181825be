"""Several trained networks as one: the mean of what they predict, and how far apart they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends import Backend, check_place
from ..data.table import Table
from ..data.targets import ClassTargets
from ..plans.plan import ROWS_AT_ONCE
from ..plans.recipe import batch_divisor
from ..support.arrays import array_module, to_host
from ..support.checks import shown
from ..support.tensors import format_of, read_tensors, write_tensors
from .answers import check_probabilities, predictions, probabilities
from .metrics import score
from .model import Model
from .validation import check_row_numbers, check_sample_weight, encode_targets, make_source

FORMAT = "nnfast ensemble 1"


class Group:
    """Members of one network, which one program computes one after the other.

    places: among the members. parameters, states: of each, copies.
    """

    def __init__(self, places: list[int], members: list[Model]) -> None:
        self.places, self.program = places, members[0].compile(ROWS_AT_ONCE)
        self.parameters = np.stack([member.parameters for member in members])
        self.states = np.stack([member.state for member in members])


class Ensemble:
    """Models of the same inputs and targets, which predict together.

    The mean of several networks, trained from different seeds or on different rows, is as a rule better than each of
    them (Hansen and Salamon 1990; Lakshminarayanan et al. 2017), and their spread tells where they do not know.

    Parameters
    ----------
    members
        Models, such as train_many() returns. Their networks may differ, but not the inputs that they read nor the
        targets that they tell. Predictions are by the weights that they have when the first is made.

    Raises
    ------
    TypeError
        A member is no Model, such as the DivergenceError of a training that failed.
    ValueError
        There are no members, or one does not fit the first.

    Examples
    --------
    >>> import numpy as np
    >>> from nnfast import Dense, Ensemble, Network, train_many
    >>> X = np.random.default_rng(0).random((60, 4), dtype="float32")
    >>> network = Network(4, [Dense(8, "relu"), Dense(3, "softmax")])
    >>> ensemble = Ensemble(train_many(network, X, np.arange(60) % 3, epochs=5, seed=range(8)))
    >>> ensemble.predict_proba(X).shape, ensemble.spread(X).shape
    ((60, 3), (60, 3))
    """

    def __init__(self, members: Iterable[Any]) -> None:
        if isinstance(members, Model):
            raise TypeError("members must be a list of Models, got a single one: [model]")
        self.members: tuple[Model, ...] = tuple(members)
        if not self.members:
            raise ValueError("an ensemble needs at least one member")
        for index, member in enumerate(self.members):
            if not isinstance(member, Model):
                raise TypeError(
                    f"member {index} must be a Model, got {shown(member)}: leave out what train_many could not finish"
                )
            if (reads := _reads(member)) != (first := _reads(self.members[0])):
                what = next(name for name in first if first[name] != reads[name])
                raise ValueError(f"member {index} has {what} other than member 0: {reads[what]}, not {first[what]}")
        self._first = self.members[0]
        self.targets, self.inputs = self._first.targets, self._first.inputs
        self._lock = Lock()
        self._compiled: list[Group] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: all but the programs and their lock."""
        return vars(self) | {"_compiled": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Ensemble of {len(self)}, the first of them {self.members[0]!r}"

    def member_outputs(self, X: ArrayLike | Table) -> NDArray[Any]:
        """Every member's outputs, (n_members, n_rows, n_outputs), each to the bit what its `Model.outputs` gives."""
        first = self._first
        source = make_source(
            X, None, None, network=first.network, loss=first.loss, dtype=first.parameters.dtype, inputs=self.inputs,
            targets=self.targets, scale=first.input_scale,
        )  # fmt: skip
        shape = len(self), source.n_rows, first.network.output_size
        outputs: NDArray[Any] = array_module(source.inputs).empty(shape, first.parameters.dtype)
        with self._lock:
            for group in self._groups():
                check_place(group.program, source)
                outputs[group.places] = group.program.predict_each(source, group.parameters, group.states)
        return outputs

    def _groups(self) -> list[Group]:
        """The members by their networks, for the thread that holds the lock: a program has one workspace."""
        if self._compiled is None:
            by_network: dict[Any, list[int]] = {}
            for place, member in enumerate(self.members):
                by_network.setdefault((member.network, member.backend, member.threads), []).append(place)
            self._compiled = [
                Group(places, [self.members[place] for place in places]) for places in by_network.values()
            ]
        return self._compiled

    def outputs(self, X: ArrayLike | Table) -> NDArray[Any]:
        """The mean of the members' outputs, (n_rows, n_outputs)."""
        return _mean(self.member_outputs(X))

    def predict(self, X: ArrayLike | Table) -> NDArray[Any]:
        """Labels, (n_rows,), of classifiers, by the mean of their outputs; else numbers in the targets' units.

        Raises as `Model.predict` does.
        """
        return predictions(self.outputs(X), self.targets)

    def predict_proba(self, X: ArrayLike | Table) -> NDArray[Any]:
        """The mean of the members' probabilities, (n_rows, n_classes). Raises as `Model.predict_proba` does."""
        check_probabilities(self._first.network, self.targets)
        return probabilities(self.outputs(X))

    def spread(self, X: ArrayLike | Table) -> NDArray[Any]:
        """How far apart the members are: the standard deviation of what they predict.

        Returns
        -------
        array
            Of classes, (n_rows, n_classes) or, for outputs that are no probabilities, (n_rows, n_outputs); of numbers,
            in the targets' units and of their shape.
        """
        deviation: NDArray[Any] = array_module(X).stack([self._told(one) for one in self.member_outputs(X)]).std(axis=0)
        return deviation

    def out_of_fold(self, X: ArrayLike | Table, held_out: Iterable[ArrayLike]) -> NDArray[Any]:
        """What is predicted for every row by the members that did not learn from it.

        Parameters
        ----------
        X
            The rows that the members were trained on.
        held_out
            For each member the numbers of the rows that it did not see, such as the second part of each pair that
            `train_many` took as folds.

        Returns
        -------
        ndarray
            The mean over those members, as `spread` has its shape and units; NaN for rows that all of them saw.

        Raises
        ------
        TypeError, ValueError
            Row numbers that X does not have, or not one array of them for each member.
        """
        held_out = list(held_out)
        if any(isinstance(rows, tuple) and len(rows) == 2 and np.ndim(rows[0]) for rows in held_out):
            raise TypeError("held_out has pairs of rows: pass their second parts, [held for _, held in folds]")
        if len(held_out) != len(self):
            raise ValueError(f"held_out must have {len(self)} arrays of rows, one for each member, got {len(held_out)}")
        n_rows = X.n_rows if isinstance(X, Table) else len(np.asarray(X))
        total, counts = None, np.zeros(n_rows)
        for index, (member, numbers) in enumerate(zip(self.members, held_out, strict=True)):
            unseen = check_row_numbers(numbers, n_rows, f"held_out[{index}]")
            if not len(unseen):
                continue
            told = self._told(member.outputs(_taken(X, unseen)))
            if total is None:
                total = np.zeros((n_rows, *told.shape[1:]))
            np.add.at(total, unseen, told)
            np.add.at(counts, unseen, 1)
        if total is None:
            raise ValueError("held_out names no rows")
        with np.errstate(invalid="ignore"):
            mean: NDArray[Any] = total / counts.reshape(-1, *[1] * (total.ndim - 1))
        return mean

    def evaluate(self, X: ArrayLike | Table, y: ArrayLike, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """{"loss": ..., "accuracy" or "r2": ...} of the mean outputs on these rows, as `Model.evaluate` has them.

        The loss is computed from the outputs alone: where one is 0 to rounding, `Model.evaluate` goes by the sum before
        it, and here its logarithm is cut off.
        """
        outputs, first = to_host(self.outputs(X)), self._first
        loss, dtype = first.loss, first.parameters.dtype
        encoded = encode_targets(y, first.network, loss, dtype, self.targets, len(outputs))
        weights = check_sample_weight(sample_weight, len(outputs), dtype)
        numbers = np.eye(outputs.shape[1])[encoded] if encoded.ndim == 1 else encoded
        losses = loss.function(outputs.astype(np.float64), numbers.astype(np.float64)).sum(axis=1)
        total = float(losses.sum() if weights is None else losses @ weights)
        weight = float(len(outputs) if weights is None else weights.sum(dtype=np.float64))
        return {"loss": total / batch_divisor(loss, weight), **score(outputs, encoded, self.targets, weights)}

    def _told(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """A member's outputs as numbers that users compare: probabilities, or in the targets' units."""
        return probabilities(outputs) if isinstance(self.targets, ClassTargets) else self.targets.decode(outputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all members to one safetensors file, replacing it whole or not at all. Raises OSError."""
        texts: list[dict[str, str]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for index, member in enumerate(self.members):
            own_texts, own_arrays = member.to_file()
            texts.append(own_texts)
            arrays |= {f"members.{index}.{name}": array for name, array in own_arrays.items()}
        write_tensors(path, FORMAT, {"members": json.dumps(texts)}, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], backend: str | Backend = "auto", threads: int | None = None
    ) -> Ensemble:
        """Read an ensemble that save wrote. Raises OSError, or ValueError for any other file.

        Nothing in the file is executed: formulas in it pass through nnfast's own grammar.
        """
        ensemble = read_tensors(path, FORMAT, "ensemble", cls._from_file)
        for member in ensemble.members:
            member.backend, member.threads = backend, threads
        return ensemble

    @classmethod
    def _from_file(cls, texts: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Ensemble:
        described = json.loads(texts["members"])
        own: dict[str, dict[str, NDArray[Any]]] = {str(index): {} for index in range(len(described))}
        for name, array in arrays.items():
            kind, index, rest = name.split(".", 2)
            if kind != "members" or index not in own:
                raise ValueError(f"it holds the unknown array {name!r}")
            own[index][rest] = array
        return cls(Model.from_file(*parts) for parts in zip(described, own.values(), strict=True))


Trained = Model | Ensemble


def load_trained(path: str | os.PathLike[str], backend: str | Backend = "auto", threads: int | None = None) -> Trained:
    """The model or the ensemble that a file holds. Raises as Model.load does."""
    kind = Ensemble if format_of(path) == FORMAT else Model
    return kind.load(path, backend, threads)


def first_member(trained: Trained) -> Model:
    """The model itself, or an ensemble's first: all members read and tell the same."""
    return trained.members[0] if isinstance(trained, Ensemble) else trained


def _reads(model: Model) -> dict[str, Any]:
    """What members must have in common, by the words for it."""

    def state(part: Any) -> str:
        arrays, description = ({}, None) if part is None else part.to_state()
        return f"{ {name: array.tolist() for name, array in arrays.items()} } {description}"

    return {
        "a dtype": model.parameters.dtype.name,
        "an input shape": model.network.input_shape,
        "a number of outputs": model.network.output_size,
        "an output activation": model.network.output_layer.function,  # two of one name may have other constants
        "a loss": model.loss,
        "an input scale": model.input_scale,
        "an encoding of inputs": state(model.inputs),
        "an encoding of targets": state(model.targets),
    }


def _taken(X: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of an array, a Table, or a DataFrame, which keeps its names."""
    if isinstance(X, Table):
        return X.take(rows)
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]


def _mean(stacked: NDArray[Any]) -> NDArray[Any]:
    mean: NDArray[Any] = stacked.mean(axis=0, dtype=np.float64).astype(stacked.dtype)
    return mean
