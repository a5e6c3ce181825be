"""What MLPClassifier and MLPRegressor share: scikit-learn's estimator, with fitting and prediction by nnfast.

scikit-learn's class keeps parameter validation, initial draws, label encoding, the rules of stopping and all
attributes. Replaced are the loop over batches (_fit_stochastic), the loss and gradient that L-BFGS calls
(_loss_grad_lbfgs) and the forward pass (_forward_pass_fast).
"""

from __future__ import annotations

from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer_names
from sklearn.neural_network._base import ACTIVATIONS as SKLEARN_ACTIVATIONS
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..backends import Backend, Source
from ..formulas.activations import ACTIVATIONS, ALIASES, Activation
from ..formulas.schedules import SCHEDULES, Schedule
from ..networks.network import Network
from ..plans.plan import ROWS_AT_ONCE
from ..plans.recipe import Recipe
from ..support.checks import check_callbacks, check_dtype, check_unmasked
from ..support.threads import MAX_THREADS
from . import networks
from .conversion import SCIKIT_LEARNS_NAMES, from_sklearn, to_sklearn
from .held_out import MONITORS, Judgement
from .lbfgs import check_parameters, objective
from .plain import are_plain_rows, check_once, is_matrix_of_floats
from .programs import Programs, backend_for_prediction
from .sources import make_inputs
from .stochastic import StochasticFit

# Up to FEW_ROWS rows use scikit-learn's forward pass, which is over before a program has begun. A program also copies
# the parameters: where there are many, it pays only with more rows than it computes at once.
FEW_ROWS = 256
MANY_PARAMETERS = 2**17

# Methods of scikit-learn's that its loop calls and compiled steps do not: a subclass's own would have no effect.
STEP_METHODS = ("_backprop", "_compute_loss_grad", "_forward_pass")
EPOCH_METHODS = ("_update_no_improvement_count",)
EARLY_STOPPING_METHODS = ("_score", "_score_with_function", "_predict", "_forward_pass_fast")

HIDDEN_ACTIVATIONS = {name for name in [*ACTIVATIONS, *ALIASES] if name not in ("exp", "softmax")}


class Choice(StrOptions):
    """A constraint on a parameter: a name of a table, also with options behind it, which the fit reads."""

    def is_satisfied_by(self, val: Any) -> bool:
        return isinstance(val, str) and val.partition(":")[0].strip() in self.options


class FastMultilayerPerceptron(BaseMultilayerPerceptron):
    """A mixin before scikit-learn's MLPClassifier or MLPRegressor.

    Parameters
    ----------
    activation : str, Activation or sequence of these, default='relu'
        Activation of the hidden layers: 'identity', 'logistic', 'tanh', 'relu', another name of `nnfast.ACTIVATIONS`,
        an `nnfast.Activation`, or a sequence with one for every hidden layer.
    backend : str or Backend, default='numba'
        Where to compute: 'numba', 'numpy', 'cuda', 'cuda:1', 'auto' or a backend of `nnfast.get_backend`.
    threads : int or None, default=None
        How many threads 'numba' may use at most; the result is the same for any number. By default what
        NNFAST_NUM_THREADS says, else as many as are fastest while it computes, up to OMP_NUM_THREADS (which joblib
        sets in its processes) or every processor. 'numpy' has the threads of its BLAS.
    dtype : {'float32', 'float64'} or None, default=None
        Type of the weights and of the arithmetic; by default that of X.
    dropout : float or sequence of float, default=0.0
        Share of a hidden layer's outputs to drop in training, or a sequence with one for every hidden layer.
    l1 : float, default=0.0
        Strength of the penalty l1 * sum(abs(W)), beside that of `alpha`.
    clip_norm : float or None, default=None
        The longest gradient allowed; longer ones are shortened to it.
    schedule : str or Schedule, default='constant'
        A name of `nnfast.SCHEDULES` or an `nnfast.Schedule`, by which the learning rate is multiplied.
    validation_data : tuple or None, default=None
        Rows to judge every epoch by, in place of a share of X: (X, y) or (X, y, sample_weight).
    monitor : str or callable, default='score'
        What early stopping watches on the rows held out: 'score' (accuracy or R2), 'loss', the name of a scorer, such
        as 'f1_macro' or 'neg_median_absolute_error', or a scorer, called with estimator, X and y.
    callbacks : sequence of callable, default=()
        Called with an `nnfast.EpochRecord` after every epoch. One that returns True ends the fit.
    network : Network or None, default=None
        An `nnfast.Network` in place of `hidden_layer_sizes`, `activation` and `dropout`, with its own initializers. One
        of images also takes X of shape (n_samples, height, width) or (n_samples, height, width, channels).

    Attributes
    ----------
    validation_scores_ : list of shape (`n_iter_`,) or None
        The score on the rows held out after every epoch: accuracy or R2. None unless there is `early_stopping` or
        `validation_data`.
    validation_loss_curve_ : list of shape (`n_iter_`,) or None
        The loss on the rows held out after every epoch. None unless there is `early_stopping` or `validation_data`.
    coefs_ : list of shape (n_layers - 1,)
        The weight matrix of every layer; of a `network`, also kernels, and gamma of normalisations.
    intercepts_ : list of shape (n_layers - 1,)
        The bias vector of every layer; of a `network`, also beta of normalisations.
    """

    _doc_link_module = "nnfast"

    # Set by scikit-learn's _initialize
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    _no_improvement_count: int

    _state = _best_state = np.zeros(0)  # running statistics: of the weights, and of the best; empty without BatchNorm

    _extra_constraints: ClassVar[dict[str, list[Any]]] = {
        "activation": [StrOptions(HIDDEN_ACTIVATIONS), Activation, list, tuple],
        "backend": [str, Backend],
        "threads": [Interval(Integral, 1, MAX_THREADS, closed="both"), None],
        "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "l1": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [Choice(set(SCHEDULES)), Schedule],
        "validation_data": [tuple, list, None],
        "monitor": [StrOptions({*MONITORS, *get_scorer_names()}), callable],
        "callbacks": [list, tuple],
        "network": [Network, None],
    }

    def _initialize(self, y: NDArray[Any], layer_units: list[int], dtype: Any) -> None:
        """scikit-learn's first weights and counters; for `network`, its own initializers."""
        if self.dtype is not None:
            dtype = check_dtype(self.dtype)
        elif dtype == np.uint8:
            dtype = np.dtype(np.float64)  # which scikit-learn makes of bytes
        self._state = self._best_state = np.zeros(0)
        if self.network is not None:
            networks.check_network(self.network, layer_units[0], layer_units[-1])
            # scikit-learn's own draws between dense layers; those of an image network would be huge, and are not used
            is_perceptron = networks.is_perceptron(self.network)
            layer_units = networks.network_units(self.network) if is_perceptron else [1, layer_units[-1]]
        else:  # lengths are checked before anything is drawn
            networks.hidden_activations(self.activation, len(layer_units) - 2)
            networks.dropout_rates(self.dropout, len(layer_units) - 2)
        super()._initialize(y, layer_units, dtype)
        self._choose_output_activation()
        if self.network is not None:
            plan = networks.make_room(self.network, 1, 1)
            flat = plan.initial_parameters(int(self._random_state.randint(2**31))).astype(dtype)
            self.coefs_, self.intercepts_ = networks.unflatten(plan, flat)
            self._best_coefs, self._best_intercepts = self.coefs_, self.intercepts_
            self.n_layers_ = len(self.coefs_) + 1
            self._state = self._best_state = plan.initial_state().astype(dtype)
        self._best_watched = -np.inf
        if self.solver != "lbfgs":
            is_validated = self.early_stopping or self.validation_data is not None
            self.validation_loss_curve_: list[float] | None = [] if is_validated else None
            self.validation_scores_ = [] if is_validated else None

    def _choose_output_activation(self) -> None:
        if self.network is not None:
            function = self.network.output_layer.function
            self.out_activation_ = SCIKIT_LEARNS_NAMES.get(function, function.name)

    def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> Any:
        name = networks.layer_activation(self.activation, len(self.coefs_))
        drawing = SimpleNamespace(activation=name, _random_state=self._random_state)
        return BaseMultilayerPerceptron._init_coef(drawing, fan_in, fan_out, dtype)

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        check_callbacks(self.callbacks)
        check_unmasked(y, "y")
        check_unmasked(sample_weight, "sample_weight")
        if not hasattr(self, "_programs"):
            self._programs = Programs()
        return super()._fit(networks.as_rows(self, X), y, sample_weight=sample_weight, incremental=incremental)

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """scikit-learn's checks. Bytes stay bytes, an eighth of float64: each batch is converted as it is gathered."""
        encoded = self._encode_plain(y, X.shape[0], incremental) if is_matrix_of_floats(X) else None
        if encoded is not None:
            if are_plain_rows(X) and (reset or self._knows_columns_of(X)):
                if reset:
                    self.n_features_in_ = X.shape[1]
                    self.__dict__.pop("feature_names_in_", None)
            else:
                X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=reset)
            self._note_classes(y, incremental)
            return X, encoded
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype == np.uint8:
            numbers = np.broadcast_to(np.float64(0), X.shape)  # of the same shape, and no less finite
            return np.asarray(X), super()._validate_input(numbers, y, incremental, reset)[1]
        checked: tuple[Any, Any] = super()._validate_input(X, y, incremental, reset)
        return checked

    def _validate_params(self) -> None:
        check_once(self, super()._validate_params)

    def _knows_columns_of(self, X: NDArray[Any]) -> bool:
        """Whether plain rows have as many columns as fit's, which had no names that these would lack."""
        known: bool = X.shape[1] == getattr(self, "n_features_in_", None) and not hasattr(self, "feature_names_in_")
        return known

    def _note_classes(self, y: NDArray[Any], incremental: bool) -> None:
        """Set what else scikit-learn's _validate_input sets, of plain targets; a classifier's classes."""

    def _weigh(self, y: NDArray[Any], sample_weight: Any, incremental: bool) -> Any:
        """Sample weights with what else weighs a row; a classifier's classes do."""
        return sample_weight

    def _fit_stochastic(
        self,
        X: Any,
        y: NDArray[Any],
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: Any,
        incremental: bool,
    ) -> None:
        early_stopping_methods = EARLY_STOPPING_METHODS if self.early_stopping else ()
        self._check_overrides(*STEP_METHODS, *EPOCH_METHODS, *early_stopping_methods)
        StochasticFit(self, X, y, self._weigh(y, sample_weight, incremental), incremental).run()

    def _check_overrides(self, *names: str) -> None:
        """Raise TypeError if one of these methods is the user's own, by a subclass or set on scikit-learn's class."""
        for name in names:
            if getattr(type(self), name).__module__.partition(".")[0] not in ("nnfast", "sklearn"):
                raise TypeError(
                    f"{type(self).__name__} overrides {name}, which nnfast does not call when it fits: use loss, "
                    "activation, network, monitor or callbacks in its place, or subclass scikit-learn's own class"
                )

    def _note_epoch(self, judgement: Judgement | None) -> None:
        """Count the epochs without improvement, as scikit-learn does; keep the best weights of early stopping."""
        if judgement is not None:
            assert self.validation_scores_ is not None
            self.validation_scores_.append(judgement.score)
        if not self.early_stopping:
            self._update_no_improvement_count(False, None, None, None)
            return
        assert judgement is not None
        by_score = self.monitor == "score"
        best: Any = self.best_validation_score_ if by_score else self._best_watched
        self._no_improvement_count = self._no_improvement_count + 1 if judgement.watched < best + self.tol else 0
        if judgement.watched > best:
            self._best_watched = judgement.watched
            self.best_validation_score_ = judgement.score
            self._best_coefs, self._best_intercepts = self.coefs_, self.intercepts_
            self._best_state = self._state

    def _validate_held_out(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[Any, NDArray[Any], Any]:
        """validation_data as fit's own data: X, y as (n_samples, n_outputs), weights."""
        check_unmasked(y, "y of validation_data")
        check_unmasked(sample_weight, "sample_weight of validation_data")
        X = networks.as_rows(self, X)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        encoded = self._encode_held_out(y)
        if len(encoded) != X.shape[0]:
            raise ValueError(f"validation_data has {X.shape[0]} rows of X, but {len(encoded)} of y")
        if encoded.shape[1] != self.n_outputs_:
            raise ValueError(f"validation_data has {encoded.shape[1]} outputs in y, but fit's y has {self.n_outputs_}")
        return X, encoded, None if sample_weight is None else _check_sample_weight(sample_weight, X)

    def _fit_lbfgs(
        self,
        X: Any,
        y: NDArray[Any],
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: Any,
    ) -> None:
        check_parameters(self)
        self._check_overrides(*STEP_METHODS)
        units = layer_units if self.network is None else networks.network_units(self.network)
        sample_weight = self._weigh(y, sample_weight, False)
        # SciPy rounds every point it asks for to the dtype of the first: from float32 it would see a rough function.
        self.coefs_ = [W.astype(np.float64, copy=False) for W in self.coefs_]
        self.intercepts_ = [b.astype(np.float64, copy=False) for b in self.intercepts_]
        with objective(self, X, y, sample_weight) as self._objective:
            try:
                super()._fit_lbfgs(X, y, sample_weight, activations, deltas, coef_grads, intercept_grads, units)
            finally:
                del self._objective

    def _loss_grad_lbfgs(
        self,
        packed_coef_inter: NDArray[Any],
        X: Any,
        y: NDArray[Any],
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
    ) -> tuple[float, NDArray[Any]]:
        self._unpack(packed_coef_inter)
        if minimised := vars(self).get("_objective"):
            return minimised(packed_coef_inter)
        with objective(self, X, y, sample_weight) as minimised:
            return minimised(packed_coef_inter)

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> NDArray[Any]:
        if check_input:
            X = networks.as_rows(self, X)
            if not (are_plain_rows(X) and self._knows_columns_of(X)):
                X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if self._are_few(X.shape[0]) and self._is_scikit_learns():
            return super()._forward_pass_fast(X, check_input=False)
        own = self.coefs_[0].dtype
        found = own if self.dtype is not None else np.result_type(X.dtype, own)
        dtype = found if found.name in ("float32", "float64") else np.dtype(np.float64)
        network = networks.describe(self, X.shape[1])
        loss = networks.chosen_loss(self, network, dtype)
        plan = networks.make_room(network, 1, ROWS_AT_ONCE)

        def compile_program() -> Any:
            recipe = Recipe(loss, networks.NO_STEPS, dtype)
            return backend_for_prediction(self.backend, self.threads).compile(plan, recipe)

        programs = vars(self).get("_programs") or Programs()
        key = ("predict", network, str(self.backend), self.threads, dtype, loss.name)
        with programs.lend(key, compile_program) as program:
            program.parameters = networks.flatten(plan, self.coefs_, self.intercepts_, dtype)
            program.state = self._state
            outputs: NDArray[Any] = program.predict(Source(make_inputs(X, dtype)))
        return outputs

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """scikit-learn's score of its own classes: accuracy, or R2."""
        check_unmasked(y, "y")
        check_unmasked(sample_weight, "sample_weight")
        score: float = super().score(X, y, sample_weight)
        return score

    def _are_few(self, rows: int) -> bool:
        """Whether scikit-learn's forward pass takes less time for this number of rows than a program."""
        size = sum(W.size for W in self.coefs_)
        return rows <= (FEW_ROWS if size < MANY_PARAMETERS else ROWS_AT_ONCE)

    def _is_scikit_learns(self) -> bool:
        """Whether scikit-learn's own forward pass would give the same, on the same kind of processor."""
        return (
            self.network is None
            and self.dtype is None
            and self.backend == "numba"
            and isinstance(self.activation, str)
            and self.activation in SKLEARN_ACTIVATIONS
            and self.out_activation_ in SKLEARN_ACTIVATIONS
        )

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        """Jupyter's links lead to scikit-learn's page on its class, which describes the shared parameters."""
        return {"estimator_module": "sklearn.neural_network", "estimator_name": type(self).__name__}

    def to_sklearn(self) -> Any:
        """Return this fitted model as scikit-learn's own class.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor
            With copies of the weights and of the optimizer's state. What only training uses (dropout, l1, schedules,
            ...) is left behind.

        Raises
        ------
        ValueError
            For networks that scikit-learn cannot express: other activations or layers, or different activations in
            different layers.
        """
        check_is_fitted(self)
        return to_sklearn(self)

    @classmethod
    def from_sklearn(cls, estimator: Any, **parameters: Any) -> Any:
        """Return a fitted nnfast estimator made from scikit-learn's fitted one.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            A fitted estimator of the same kind. Its weights and its optimizer's state are copied.
        **parameters : Any
            Parameters that scikit-learn does not have, such as backend.

        Returns
        -------
        MLPClassifier or MLPRegressor
            It predicts, and goes on with partial_fit, as the other would.

        Raises
        ------
        TypeError
            For an estimator of another kind.
        """
        check_is_fitted(estimator)
        return from_sklearn(cls, estimator, parameters)
