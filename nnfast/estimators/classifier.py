"""MLPClassifier: scikit-learn's classifier, fitted by nnfast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import neural_network
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import column_or_1d

from ..formulas.losses import LOSSES, Loss
from .base import Choice, FastMultilayerPerceptron


class MLPClassifier(FastMultilayerPerceptron, neural_network.MLPClassifier):
    """scikit-learn's MLPClassifier, many times faster: the same parameters, attributes, methods and results.

    With the same random_state, data and parameters it fits the same weights, to rounding. Every parameter of
    sklearn.neural_network.MLPClassifier is here under its name and with its default; these come in addition.

    Parameters
    ----------
    activation : also any name of nnfast.ACTIVATIONS, an Activation, or a list with one for every hidden layer.
    loss : "log_loss" (default), any name of nnfast.LOSSES or a Loss that is defined on the outputs.
    backend : "numba" (default), "numpy", "cuda", "cuda:1", "auto" or a Backend.
    threads : how many "numba" may use at most, which changes no result; by default what NNFAST_NUM_THREADS or
        OMP_NUM_THREADS says (joblib sets the latter in its processes), else every processor. "numpy" has BLAS's own.
    dtype : "float32" or "float64", of the weights and of the arithmetic; by default that of X.
    dropout : the share of a hidden layer's outputs to drop in training, or a list with one for every hidden layer.
    class_weight : None, "balanced" or a dict of weights by class; they multiply the sample weights.
    l1 : strength of the penalty l1 * sum(|W|), beside alpha's.
    clip_norm : the longest gradient allowed, or None.
    schedule : a name of nnfast.SCHEDULES, also as "cosine:warmup=2", or a Schedule; multiplies the learning rate.
    validation_data : (X, y) or (X, y, sample_weight) to judge every epoch by, in place of a share of X.
    monitor : what early stopping watches: "score" (accuracy), "loss", a scorer's name such as "f1_macro", or a
        scorer (called with estimator, X, y).
    callbacks : called with an nnfast.EpochRecord after every epoch; one that returns True ends the fit.
    network : an nnfast.Network in place of hidden_layer_sizes, activation and dropout, with its own initializers. One
        of images takes X of shape (n_samples, height, width) or (n_samples, height, width, channels) too; coefs_ and
        intercepts_ then hold the kernels' weights and biases, and gamma and beta of a BatchNorm.

    Attributes
    ----------
    validation_loss_curve_ : list of the loss on the rows held out after every epoch, or None without any. Where
        validation_data is given, validation_scores_ is there also without early_stopping.
    The others are scikit-learn's.

    Raises
    ------
    ValueError or TypeError (scikit-learn's InvalidParameterError) for parameters and data that do not fit, and
    nnfast.BackendUnavailableError.
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own attribute
        **neural_network.MLPClassifier._parameter_constraints,
        **FastMultilayerPerceptron._extra_constraints,
        "loss": [Choice({"log_loss", *LOSSES}), Loss],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str | Loss = "log_loss",
        backend: Any = "numba",
        threads: int | None = None,
        dtype: Any = None,
        dropout: float | Sequence[float] = 0.0,
        class_weight: Any = None,
        l1: float = 0.0,
        clip_norm: float | None = None,
        schedule: Any = "constant",
        validation_data: Any = None,
        monitor: Any = "score",
        callbacks: Sequence[Any] = (),
        network: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.loss = loss
        self.backend = backend
        self.threads = threads
        self.dtype = dtype
        self.dropout = dropout
        self.class_weight = class_weight
        self.l1 = l1
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.validation_data = validation_data
        self.monitor = monitor
        self.callbacks = callbacks
        self.network = network

    def _weigh(self, y: NDArray[Any], sample_weight: Any, incremental: bool) -> Any:
        if self.class_weight is None:
            return sample_weight
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all rows at once: give partial_fit the weights, as "
                "sklearn.utils.compute_class_weight has them"
            )
        weights = compute_sample_weight(self.class_weight, self._label_binarizer.inverse_transform(y))
        return weights if sample_weight is None else weights * sample_weight

    def _encode_held_out(self, y: Any) -> NDArray[np.bool_]:
        if self._label_binarizer.y_type_ != "multilabel-indicator":
            y = column_or_1d(y, warn=True)
            if unknown := set(np.unique(y)) - set(self.classes_):
                raise ValueError(f"validation_data has classes that fit's y has not: {sorted(unknown)}")
        encoded: NDArray[np.bool_] = self._label_binarizer.transform(y).astype(bool)
        return encoded
