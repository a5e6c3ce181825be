"""Agreement of the backends at random sizes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnfast.backends import Backend
from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Flatten, MaxPool2D
from nnfast.networks.network import Network
from tests.geometries import convolutions, fits
from tests.programs import assert_one_step_agrees, recipe


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    rows=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_any_sizes_agree(faster_backend: Backend, sizes: list[int], rows: int, seed: int) -> None:
    network = Network(sizes[0], [*(Dense(size, "tanh") for size in sizes[1:-1]), Dense(sizes[-1], "sigmoid")])
    assert_one_step_agrees(faster_backend, network, recipe("binary_cross_entropy", alpha=0.1), rows, seed)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=convolutions(), rows=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_convolutions_of_any_geometry_agree(faster_image_backend: Backend, drawn: Any, rows: int, seed: int) -> None:
    shape, layer = drawn
    network = Network(shape, [Conv2D(shape[2], 1, activation="tanh"), layer, Flatten(), Dense(2)])
    assert_one_step_agrees(faster_image_backend, network, recipe("squared_error"), rows, seed)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 10)),
    pool=st.builds(
        lambda kind, size, stride, padding: kind(size, stride, padding),
        st.sampled_from([MaxPool2D, AveragePool2D]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.sampled_from(["same", "valid", 1, (0, 2)]),
    ),
    rows=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_pools_and_batch_norms_of_any_size_agree(
    faster_image_backend: Backend, shape: Any, pool: Any, rows: int, seed: int
) -> None:
    if not fits(shape, pool):
        return
    network = Network(shape, [BatchNorm(activation="tanh"), pool, BatchNorm(epsilon=0.1), Flatten(), Dense(2)])
    assert_one_step_agrees(faster_image_backend, network, recipe("squared_error"), rows, seed)
