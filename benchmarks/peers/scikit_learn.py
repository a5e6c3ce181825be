"""scikit-learn: one fit() of MLPClassifier or MLPRegressor, which takes the given weights and orders as its own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor, _multilayer_perceptron

from nnfast.benchmarking.workloads import Workload
from nnfast.networks.network import Dense

from .peer import CannotError, Peer, TwoClasses

ACTIVATIONS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}

# What the estimators make of targets: no other pair of output activation and loss can be asked for.
ESTIMATORS = {
    ("softmax", "cross_entropy"): MLPClassifier,
    ("sigmoid", "binary_cross_entropy"): MLPClassifier,
    ("identity", "squared_error"): MLPRegressor,
}


class ScikitLearn(Peer):
    """The solver "adam" without penalty, stopping rule or random draws."""

    @classmethod
    def adapt(cls, workload: Workload) -> Workload:
        """Of two classes MLPClassifier makes one logistic output: the same model, and slightly less work."""
        pair = (workload.output_activation, workload.loss)
        if pair not in ESTIMATORS:
            raise CannotError(f"scikit-learn has no loss {workload.loss} on {workload.output_activation} outputs")
        for layer in workload.network().layers:
            if not isinstance(layer, Dense):
                raise CannotError(f"scikit-learn's networks have no {layer.kind} layers")
        if pair == ("softmax", "cross_entropy") and workload.outputs == 2:
            return TwoClasses.of(workload)
        return workload

    def __init__(self, workload: Workload, threads: int, device: str = "cpu") -> None:
        super().__init__(workload, threads, device)
        adam = self.adam()
        places = list(self.places())
        hidden = [place.layer for place in places[:-1] if isinstance(place.layer, Dense)]
        (activation,) = {layer.function.name for layer in hidden}
        self._initial = [place.parameters for place in places]
        self._estimator = ESTIMATORS[workload.output_activation, workload.loss](
            hidden_layer_sizes=[layer.units for layer in hidden],
            activation=ACTIVATIONS[activation],
            solver="adam",
            alpha=0,
            batch_size=workload.batch_size,
            learning_rate_init=adam.learning_rate,
            beta_1=adam.beta_1,
            beta_2=adam.beta_2,
            epsilon=adam.epsilon,
            max_iter=1,
            shuffle=not self.full_batch,
            tol=0,
            n_iter_no_change=np.inf,
            warm_start=True,  # so that fit() starts from the weights that reset() puts there
        )
        self._orders = self.order.reshape(workload.epochs, workload.rows)
        self._scale = workload.outputs if workload.loss == "squared_error" else 1
        self._targets = self.targets.reshape(-1) if workload.outputs == 1 else self.targets
        sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
        warnings.filterwarnings("ignore", category=sklearn.exceptions.ConvergenceWarning)
        self._fit()  # creates what warm_start looks for
        self._estimator.set_params(max_iter=workload.epochs)

    def _fit(self) -> None:
        # The one place where fit() draws an order: it gets the next of ours instead, at no cost
        orders = iter(self._orders)
        _multilayer_perceptron.shuffle = lambda indices, random_state: next(orders)
        self._estimator.fit(self.inputs, self._targets)

    def reset(self) -> None:
        self._estimator.coefs_ = [weights.copy() for weights, _ in self._initial]
        self._estimator.intercepts_ = [bias.copy() for _, bias in self._initial]
        self._estimator.loss_curve_ = []

    def train(self) -> None:
        self._fit()

    def losses(self) -> NDArray[Any]:
        """Of every epoch. MLPRegressor averages the squared error over the outputs, but follows its sum's gradient."""
        return np.array(self._estimator.loss_curve_) * self._scale

    def parameters(self) -> NDArray[Any]:
        pairs = zip(self._estimator.coefs_, self._estimator.intercepts_, strict=True)
        return np.concatenate([array.reshape(-1) for pair in pairs for array in pair])
