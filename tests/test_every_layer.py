"""Every kind of layer is held to its textbook form and stands in the checks that its kernels could fail.

They walk LAYERS: for a new row, a failing test says what is missing, and where it belongs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from nnfast.backends import Source, get_backend
from nnfast.backends.cuda import CudaBackend
from nnfast.backends.cuda.wide import Batch, WideProgram
from nnfast.kernels.cuda import sources
from nnfast.networks.layers import LAYERS
from nnfast.networks.network import Network
from nnfast.plans.operations import Operation
from nnfast.plans.plan import make_plan
from tests.cuda.exercises import CASES, IMAGE_CASES, WIDE_CASES
from tests.cuda.mutants import MUTANTS
from tests.cuda.twin import make_twin
from tests.image_networks import IMAGE_NETWORKS
from tests.programs import make_program, make_source, recipe
from tests.threads import fits
from tests.tolerances import ONE_STEP, difference

Array = NDArray[np.float64]
Learnt = dict[str, Array]  # an operation's parameters and state by role


def _pixels(x: Array, window: Any) -> Any:
    """Every output of a window, (y, x), with the kernel positions that meet a pixel of the image, and these pixels."""
    w = window
    images = x.reshape(-1, w.height, w.width, w.channels)
    for y, u in itertools.product(range(w.output_height), range(w.output_width)):
        taps = {
            (i, j): images[:, v, h]
            for i, j in itertools.product(range(w.kernel_height), range(w.kernel_width))
            if 0 <= (v := y * w.stride_y + i * w.dilation_y - w.pad_top) < w.height
            and 0 <= (h := u * w.stride_x + j * w.dilation_x - w.pad_left) < w.width
        }
        yield y, u, taps


def _convolution(layer: Any, x: Array, learnt: Learnt, window: Any) -> Array:
    W, groups = learnt["weights"], window.groups
    z = np.zeros((len(x), *window.output_shape)) + learnt.get("bias", 0.0)
    channels, filters = window.channels // groups, window.filters // groups
    for y, u, taps in _pixels(x, window):
        for ((i, j), pixel), g in itertools.product(taps.items(), range(groups)):
            of_group = slice(g * filters, (g + 1) * filters)
            z[:, y, u, of_group] += pixel[:, g * channels : (g + 1) * channels] @ W[i, j, :, of_group]
    return z


def _pool(reduce: Callable[..., Array]) -> Callable[..., Array]:
    def pool(layer: Any, x: Array, learnt: Learnt, window: Any) -> Array:
        outputs = np.zeros((len(x), *window.output_shape))
        for y, u, taps in _pixels(x, window):
            outputs[:, y, u] = reduce(np.stack([*taps.values()]), axis=0)
        return outputs

    return pool


def _batch_norm(layer: Any, x: Array, learnt: Learnt, window: Any) -> Array:
    pixels = x.reshape(-1, len(learnt["gamma"]))
    u = (pixels - learnt["running_mean"]) / np.sqrt(learnt["running_variance"] + layer.epsilon)
    return (learnt["gamma"] * u + learnt["beta"]).reshape(x.shape)


def _layer_norm(layer: Any, x: Array, learnt: Learnt, window: Any) -> Array:
    u = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + layer.epsilon)
    return learnt["gamma"] * u + learnt["beta"]


# What a layer makes of rows x in prediction, before its activation, as a textbook has it.
TEXTBOOK: dict[str, Callable[[Any, Array, Learnt, Any], Array]] = {
    "Dense": lambda layer, x, learnt, window: x @ learnt["weights"] + learnt.get("bias", 0.0),
    "Dropout": lambda layer, x, learnt, window: x,
    "Flatten": lambda layer, x, learnt, window: x.reshape(len(x), -1),
    "Conv2D": _convolution,
    "MaxPool2D": _pool(np.max),
    "AveragePool2D": _pool(np.mean),
    "GlobalAveragePool2D": _pool(np.mean),
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
}


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_predictions_are_those_of_the_textbook(name: str) -> None:
    network, rows = IMAGE_NETWORKS[name]
    program = make_program(get_backend("numpy"), network, recipe("squared_error"), rows)
    program.state = np.random.default_rng(2).random(len(program.state)) + 0.5
    arrays = {role: span.view(program.parameters) for role, span in program.plan.named_parameters.items()}
    arrays |= {role: span.view(program.state) for role, span in program.plan.named_state.items()}
    x = inputs = np.random.default_rng(1).normal(size=(rows, network.input_size))
    for index, (layer, before) in enumerate(zip(network.layers, network.shapes, strict=False)):
        start = f"layers.{index}."
        learnt = {role.removeprefix(start): array for role, array in arrays.items() if role.startswith(start)}
        window = layer.window(before) if layer.is_windowed else None  # type: ignore[union-attr]
        x = TEXTBOOK[layer.kind](layer, x.reshape(rows, *before), learnt, window)
        x = layer.function.function(x) if layer.function else x
    assert difference(program.predict(Source(inputs)), x.reshape(rows, -1)) < ONE_STEP["float64"]


def kinds(networks: Any) -> set[str]:
    return {layer.kind for network in networks for layer in network.layers}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_kind_has_its_textbook_form(kind: str) -> None:
    assert kind in TEXTBOOK, f"add the formula of {kind} to TEXTBOOK in tests/test_every_layer.py"


@pytest.mark.parametrize("kind", LAYERS)
def test_a_kind_is_held_to_finite_differences_and_pytorch_and_on_every_backend(kind: str) -> None:
    networks = [network for network, _ in IMAGE_NETWORKS.values()]
    assert kind in kinds(networks), f"add networks with {kind} to tests/image_networks.py, and {kind} to as_torch"


@pytest.mark.parametrize("kind", LAYERS)
def test_a_kind_is_trained_in_any_number_of_threads(kind: str) -> None:
    assert kind in kinds(fits.NETWORKS.values()), f"add a network with {kind} to NETWORKS in tests/threads/fits.py"


# CUDA: kernels belong to operations, which may serve several kinds of layers.


def operation_of(kind: str) -> tuple[Network, Operation] | None:
    """An operation that the kind of layer becomes, and a network with it; None for a layer that computes nothing."""
    for network, rows in IMAGE_NETWORKS.values():
        for op in make_plan(network, rows).operations:
            if op.layer.kind == kind:
                return network, op
    return None


@pytest.mark.parametrize("kind", LAYERS)
def test_a_kind_s_operation_is_in_a_case_of_the_cuda_checks(kind: str) -> None:
    if found := operation_of(kind):
        networks = (case.network for case in (*CASES, *WIDE_CASES, *IMAGE_CASES))
        reached = {type(op) for network in networks for op in make_plan(network, 1).operations}
        assert type(found[1]) in reached, f"add a case with {kind} to tests/cuda/exercises.py"


@pytest.mark.parametrize("kind", LAYERS)
def test_mistakes_are_planted_in_every_cuda_file_that_a_kind_is_computed_by(kind: str) -> None:
    if not (found := operation_of(kind)):
        return
    network, op = found
    settings = recipe("squared_error")
    program = CudaBackend(path="wide", xp=make_twin()).compile(make_plan(network, 4), settings)
    assert isinstance(program, WideProgram)
    rows = program._upload(make_source(network, settings.loss, 4))
    batch = Batch(rows, 4, None, None, 1, training=True)
    files: set[str] = set()
    read = sources._file

    def reading(name: str) -> str:
        files.add(name)
        return read(name)

    with patch.object(sources, "_file", reading), patch.object(CudaBackend, "kernel", lambda *_: print):
        for launches in program.passes[type(op)]:
            launches(program, op, batch)
    files.discard("common.cu")
    assert files, f"{kind} launches no kernel"
    missing = files - {Path(mutant.file).name for mutant in MUTANTS}
    assert not missing, f"{kind}: add mistakes in {', '.join(missing)} to tests/cuda/mutants.py"


def test_the_walk_finds_a_kind_without_all_that() -> None:
    """As these tests see a row that is added to LAYERS and to nothing else."""
    checks = (
        test_a_kind_has_its_textbook_form,
        test_a_kind_is_held_to_finite_differences_and_pytorch_and_on_every_backend,
        test_a_kind_is_trained_in_any_number_of_threads,
    )
    for check in checks:
        with pytest.raises(AssertionError, match=r"add .*Maxout.* to .*(tests/\w+|as_torch)"):
            check("Maxout")
