"""MLPClassifier: scikit-learn's classifier, fitted by nnfast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import neural_network
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import column_or_1d

from ..formulas.losses import LOSSES, Loss
from .base import Choice, FastMultilayerPerceptron
from .documentation import documented
from .plain import are_plain_labels, encoded


@documented
class MLPClassifier(FastMultilayerPerceptron, neural_network.MLPClassifier):
    """The MLPClassifier of scikit-learn, fitted faster: the same parameters, attributes, methods and results.

    With the same `random_state`, data and parameters it fits the same weights, in float64 to rounding. In float32, and
    with `solver='lbfgs'`, long fits amplify rounding, in either library.

    Parameters
    ----------
    loss : str or Loss, default='log_loss'
        What is minimised: 'log_loss', a name of `nnfast.LOSSES` or an `nnfast.Loss` that is defined on the outputs.
    class_weight : dict, 'balanced' or None, default=None
        Weights by class, which multiply the sample weights. 'balanced' gives every class the same weight in all.

    Raises
    ------
    InvalidParameterError
        For a parameter of a wrong kind or out of its range; it is a ValueError and a TypeError.
    ValueError
        For parameters and data that do not fit together.
    TypeError
        For a callback that cannot be called, and a subclass that overrides what a fit by nnfast does not call.
    BackendUnavailableError
        For a backend that cannot run here.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The class that this one extends.
    nnfast.train : Trains a network without scikit-learn's conventions.

    Examples
    --------
    >>> from nnfast import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> MLPClassifier(max_iter=500, random_state=0).fit(X, y).score(X, y)
    0.98
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

    def _encode_plain(self, y: Any, rows: int, incremental: bool) -> NDArray[np.bool_] | None:
        """What scikit-learn's _validate_input makes of plain labels; None where it is to look."""
        if not are_plain_labels(y, rows):
            return None
        if self._learns_classes(incremental):
            return encoded(y, np.unique(y), all_present=True)
        learnt = vars(self._label_binarizer)  # nothing, where the call that was to learn it failed
        if learnt.get("y_type_") not in ("binary", "multiclass") or not np.array_equal(
            learnt["classes_"], self.classes_
        ):
            return None
        return encoded(y, learnt["classes_"], all_present=self.warm_start)

    def _note_classes(self, y: NDArray[Any], incremental: bool) -> None:
        if self._learns_classes(incremental):
            self._label_binarizer = binarizer = LabelBinarizer()
            binarizer.classes_ = self.classes_ = np.unique(y)
            binarizer.y_type_, binarizer.sparse_input_ = "multiclass" if len(self.classes_) > 2 else "binary", False

    def _learns_classes(self, incremental: bool) -> bool:
        """Whether this call decides which classes there are, as scikit-learn's _validate_input has it."""
        return not hasattr(self, "classes_") or not (self.warm_start or incremental)

    def _encode_held_out(self, y: Any) -> NDArray[np.bool_]:
        if self._label_binarizer.y_type_ != "multilabel-indicator":
            y = column_or_1d(y, warn=True)
            if unknown := set(np.unique(y)) - set(self.classes_):
                raise ValueError(f"validation_data has classes that fit's y has not: {sorted(unknown)}")
        encoded: NDArray[np.bool_] = self._label_binarizer.transform(y).astype(bool)
        return encoded
