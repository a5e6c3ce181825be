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
    from .activations import ACTIVATIONS, Activation
    from .backends import BackendUnavailableError, get_backend
    from .estimators import MLPClassifier, MLPRegressor
    from .history import EpochRecord, History
    from .layers import (
        AveragePool2D,
        BatchNorm,
        Conv2D,
        Dense,
        Dropout,
        Flatten,
        GlobalAveragePool2D,
        MaxPool2D,
    )  # fmt: skip
    from .losses import LOSSES, Loss
    from .model import Model
    from .network import Network, multilayer_perceptron
    from .networks import lenet5
    from .optimizers import OPTIMIZERS, Optimizer, get_optimizer
    from .schedules import SCHEDULES, Schedule, get_schedule
    from .training import DivergenceError, EarlyStopping, train

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "activations": ("ACTIVATIONS", "Activation"),
    "backends": ("BackendUnavailableError", "get_backend"),
    "estimators": ("MLPClassifier", "MLPRegressor"),
    "history": ("EpochRecord", "History"),
    "layers": (
        "AveragePool2D",
        "BatchNorm",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "GlobalAveragePool2D",
        "MaxPool2D",
    ),
    "losses": ("LOSSES", "Loss"),
    "model": ("Model",),
    "network": ("Network", "multilayer_perceptron"),
    "networks": ("lenet5",),
    "optimizers": ("OPTIMIZERS", "Optimizer", "get_optimizer"),
    "schedules": ("SCHEDULES", "Schedule", "get_schedule"),
    "training": ("DivergenceError", "EarlyStopping", "train"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of use
    "Network", "Dense", "Dropout", "Flatten", "Conv2D", "MaxPool2D", "AveragePool2D", "GlobalAveragePool2D",
    "BatchNorm", "multilayer_perceptron", "lenet5", "train", "Model", "History", "EpochRecord",
    "EarlyStopping", "DivergenceError", "Activation", "ACTIVATIONS", "Loss", "LOSSES", "Optimizer", "OPTIMIZERS",
    "get_optimizer", "Schedule", "SCHEDULES", "get_schedule", "get_backend", "BackendUnavailableError", "MLPClassifier",
    "MLPRegressor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
