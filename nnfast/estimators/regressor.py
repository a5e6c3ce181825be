"""MLPRegressor: scikit-learn's regressor, fitted by nnfast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from sklearn import neural_network
from sklearn.utils.validation import check_array

from ..formulas.losses import LOSSES, Loss, get_loss
from .base import Choice, FastMultilayerPerceptron
from .documentation import documented
from .networks import output_activation
from .plain import are_plain_numbers


@documented
class MLPRegressor(FastMultilayerPerceptron, neural_network.MLPRegressor):
    """The MLPRegressor of scikit-learn, fitted faster: the same parameters, attributes, methods and results.

    With the same `random_state`, data and parameters it fits the same weights, in float64 to rounding. In float32, and
    with `solver='lbfgs'`, long fits amplify rounding, in either library.

    Parameters
    ----------
    loss : str or Loss, default='squared_error'
        What is minimised: 'squared_error', 'poisson', another name of `nnfast.LOSSES` such as 'huber' or
        'huber:delta=2', or an `nnfast.Loss`. The output activation is the first of identity, exp, logistic and softmax
        whose values the loss is defined for. As in scikit-learn, 'squared_error' and 'poisson' are halved, and
        'poisson' needs y >= 0.

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
    sklearn.neural_network.MLPRegressor : The class that this one extends.
    nnfast.train : Trains a network without scikit-learn's conventions.

    Examples
    --------
    >>> from nnfast import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(n_features=5, random_state=0)
    >>> round(MLPRegressor(solver="lbfgs", random_state=0).fit(X, y).score(X, y), 2)
    1.0
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own attribute
        **neural_network.MLPRegressor._parameter_constraints,
        **FastMultilayerPerceptron._extra_constraints,
        "loss": [Choice(set(LOSSES)), Loss],
    }

    def __init__(
        self,
        loss: str | Loss = "squared_error",
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
        backend: Any = "numba",
        threads: int | None = None,
        dtype: Any = None,
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        clip_norm: float | None = None,
        schedule: Any = "constant",
        validation_data: Any = None,
        monitor: Any = "score",
        callbacks: Sequence[Any] = (),
        network: Any = None,
    ) -> None:
        super().__init__(
            loss=loss,
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
        self.backend = backend
        self.threads = threads
        self.dtype = dtype
        self.dropout = dropout
        self.l1 = l1
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.validation_data = validation_data
        self.monitor = monitor
        self.callbacks = callbacks
        self.network = network

    def _choose_output_activation(self) -> None:
        super()._choose_output_activation()
        if self.network is None and self.loss not in ("squared_error", "poisson"):
            self.out_activation_ = output_activation(get_loss(self.loss))

    def _encode_plain(self, y: Any, rows: int, incremental: bool) -> NDArray[Any] | None:
        """What scikit-learn's _validate_input makes of plain numbers; None where it is to look."""
        return y if are_plain_numbers(y, rows) else None

    def _encode_held_out(self, y: Any) -> NDArray[Any]:
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        encoded: NDArray[Any] = y.reshape(len(y), -1)
        return encoded
