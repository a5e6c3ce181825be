"""MLPClassifier and MLPRegressor: scikit-learn's estimators, fitted by nnfast. They need scikit-learn.

from nnfast import MLPClassifier  # in place of: from sklearn.neural_network import MLPClassifier
"""

from __future__ import annotations

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
