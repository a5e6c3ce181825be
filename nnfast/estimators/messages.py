"""scikit-learn's own warnings, issued as scikit-learn issues them."""

from __future__ import annotations

import warnings

from sklearn.neural_network import _multilayer_perceptron as scikit_learns


def warn_as_scikit_learn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue scikit-learn's own warning from scikit-learn's module, so that filters for that module apply to it."""
    warnings.warn_explicit(
        message,
        category,
        filename=scikit_learns.__file__,
        lineno=scikit_learns.BaseMultilayerPerceptron._fit_stochastic.__code__.co_firstlineno,
        module=scikit_learns.__name__,
        registry=vars(scikit_learns).setdefault("__warningregistry__", {}),  # shared with its own warnings
    )
