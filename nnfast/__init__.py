"""nnfast: trains feedforward neural networks fast, on NumPy, Numba or CUDA.

    from nnfast import Dense, Network, train

    model = train(Network(64, [Dense(100, "relu"), Dense(10, "softmax")]), X, y, epochs=20)
    model.predict(X)

Names are imported when they are first used: `import nnfast` itself loads the standard library only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends import BackendUnavailableError, get_backend
    from .backends.numba.jit import predict_frame
    from .estimators import MLPClassifier, MLPRegressor
    from .estimators.together import together
    from .formulas.activations import ACTIVATIONS, Activation
    from .formulas.losses import LOSSES, Loss
    from .formulas.optimizers import OPTIMIZERS, Optimizer, get_optimizer
    from .formulas.schedules import SCHEDULES, Schedule, get_schedule
    from .models.ensemble import Ensemble
    from .models.history import EpochRecord, History
    from .models.model import Model
    from .networks.layers import (
        AveragePool2D,
        BatchNorm,
        Conv2D,
        Dense,
        Dropout,
        Flatten,
        GlobalAveragePool2D,
        LayerNorm,
        MaxPool2D,
    )
    from .networks.named import lenet5
    from .networks.network import Network, multilayer_perceptron
    from .training.learner import Learner
    from .training.many import train_many
    from .training.stopping import DivergenceError, EarlyStopping
    from .training.train import train

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "formulas.activations": ("ACTIVATIONS", "Activation"),
    "formulas.losses": ("LOSSES", "Loss"),
    "formulas.optimizers": ("OPTIMIZERS", "Optimizer", "get_optimizer"),
    "formulas.schedules": ("SCHEDULES", "Schedule", "get_schedule"),
    "networks.layers": (
        "AveragePool2D",
        "BatchNorm",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "GlobalAveragePool2D",
        "LayerNorm",
        "MaxPool2D",
    ),
    "networks.named": ("lenet5",),
    "networks.network": ("Network", "multilayer_perceptron"),
    "backends": ("BackendUnavailableError", "get_backend"),
    "models.ensemble": ("Ensemble",),
    "backends.numba.jit": ("predict_frame",),
    "models.history": ("EpochRecord", "History"),
    "models.model": ("Model",),
    "training.learner": ("Learner",),
    "training.many": ("train_many",),
    "training.stopping": ("DivergenceError", "EarlyStopping"),
    "training.train": ("train",),
    "estimators": ("MLPClassifier", "MLPRegressor"),
    "estimators.together": ("together",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of use
    "Network", "Dense", "Dropout", "Flatten", "Conv2D", "MaxPool2D", "AveragePool2D", "GlobalAveragePool2D",
    "BatchNorm", "LayerNorm", "multilayer_perceptron", "lenet5", "train", "train_many", "Learner", "Model", "Ensemble",
    "History", "EpochRecord", "EarlyStopping", "DivergenceError", "Activation", "ACTIVATIONS", "Loss", "LOSSES",
    "Optimizer", "OPTIMIZERS", "get_optimizer", "Schedule", "SCHEDULES", "get_schedule", "get_backend",
    "BackendUnavailableError", "MLPClassifier", "MLPRegressor", "predict_frame", "together",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
