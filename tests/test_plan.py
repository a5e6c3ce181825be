"""The plan: where every array lives in the flat vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfast.networks.layers import AveragePool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten, LayerNorm, MaxPool2D
from nnfast.networks.network import Network
from nnfast.plans.listing import placed_arrays
from nnfast.plans.operations import (
    ALIGNMENT,
    BaseOperation,
    BatchNormOperation,
    ConvolutionOperation,
    DenseOperation,
    DropoutOperation,
    Learnt,
    Span,
)
from nnfast.plans.plan import ROW_GROUP, Plan, make_plan
from tests.image_networks import IMAGE_NETWORKS

layers = st.one_of(
    st.builds(Dense, st.integers(1, 30), st.sampled_from(["tanh", "silu"]), st.booleans()),
    st.builds(Dropout, st.sampled_from([0.0, 0.3])),
    st.builds(BatchNorm, activation=st.sampled_from(["tanh", "silu"])),
    st.builds(LayerNorm, activation=st.sampled_from(["tanh", "silu"])),
)
image_layers = st.one_of(
    st.builds(
        Conv2D,
        st.integers(1, 4),
        st.integers(1, 3),
        padding=st.just("same"),
        activation=st.sampled_from(["tanh", "silu"]),
        bias=st.booleans(),
    ),
    st.builds(MaxPool2D, st.integers(1, 3), padding=st.just("same")),
    st.builds(AveragePool2D, st.integers(1, 3), padding=st.just("same")),
    st.builds(Dropout, st.sampled_from([0.0, 0.3])),
    st.builds(BatchNorm, activation=st.sampled_from(["tanh", "silu"])),
)
networks = st.builds(
    lambda image, flat: Network((4, 5), [*image, Flatten(), *flat, Dense(4)]),
    st.lists(image_layers, max_size=4),
    st.lists(layers, max_size=6),
)


@given(network=networks, rows=st.integers(1, 40))
def test_parameters_and_state_fill_their_vectors_in_order_without_gaps(network: Network, rows: int) -> None:
    plan = make_plan(network, rows)
    for named, size in ((plan.named_parameters, plan.parameter_count), (plan.named_state, plan.state_count)):
        end = 0
        for span in named.values():
            assert span.offset == end
            end = span.end
        assert end == size
    assert plan.parameter_count == network.parameter_count


@given(network=networks, rows=st.integers(1, 40))
def test_arrays_that_live_at_once_do_not_overlap(network: Network, rows: int) -> None:
    plan = make_plan(network, rows)
    used = np.zeros(plan.workspace_size, dtype=int)
    places: set[Span] = {plan.inputs, plan.targets, plan.sample_weight}
    for op in plan.operations:
        places.add(op.outputs)
        if isinstance(op, DenseOperation | ConvolutionOperation | BatchNormOperation):
            places.add(op.z)
        if isinstance(op, DropoutOperation):
            places.add(op.mask)
        if isinstance(op, BatchNormOperation):
            places |= {op.mean, op.inverse_deviation}
    for span in places:
        assert span.offset % ALIGNMENT == 0
        span.view(used)[...] += 1
    for op in plan.operations:  # gradients share two places in turn, apart from all others and from each other
        assert not op.gradient.view(used).any()
        if op.input_gradient:
            assert op.input_gradient.end <= op.gradient.offset or op.gradient.end <= op.input_gradient.offset
    assert used.max() == 1


def test_z_is_kept_only_where_the_derivative_names_it_and_for_the_loss() -> None:
    plan = make_plan(Network(3, [Dense(4, "relu"), Dense(4, "silu"), Dense(2, "sigmoid")]), 5)
    keeps = [op.z != op.outputs for op in plan.dense_operations]
    assert keeps == [False, True, True]


def test_no_gradient_is_computed_that_nobody_needs() -> None:
    plan = make_plan(Network(3, [Dropout(0.5), Dense(4), Dropout(0.5), Dense(2)]), 5)
    assert [op.input_gradient is not None for op in plan.operations] == [False, False, True, True]


def test_flops_count_the_products() -> None:
    plan = make_plan(Network(7, [Dense(5), Dense(3)]), 1)
    assert plan.flops_per_row() == 2 * 7 * 5 * 2 + 2 * 5 * 3 * 3


def test_initial_weights_are_drawn_by_seed_and_layer_and_biases_are_zero() -> None:
    plan = make_plan(Network(3, [Dense(4, "relu"), Dense(4)]), 1)
    deeper = make_plan(Network(3, [Dense(4, "relu"), Dense(4), Dense(9)]), 7)
    first = plan.initial_parameters(1)
    np.testing.assert_array_equal(first, plan.initial_parameters(1))
    np.testing.assert_array_equal(first, deeper.initial_parameters(1)[: len(first)])
    assert not np.array_equal(first, plan.initial_parameters(2))
    for op in plan.dense_operations:
        assert op.bias is not None
        assert not op.bias.view(first).any()


def test_arrays_of_image_networks_hold_whole_groups_of_rows() -> None:
    plan = make_plan(Network((5, 5), [Conv2D(2, 3), Flatten(), Dense(3)]), ROW_GROUP + 1)
    assert plan.rows == ROW_GROUP + 1
    assert {op.outputs.shape[0] for op in plan.operations} == {2 * ROW_GROUP}
    assert plan.inputs.shape == (2 * ROW_GROUP, 25)
    flat = make_plan(Network(25, [Dense(3)]), ROW_GROUP + 1)
    assert flat.inputs.shape == (ROW_GROUP + 1, 25)


def test_the_image_part_ends_with_the_last_convolution_or_pool() -> None:
    plan = make_plan(Network((5, 5), [Dropout(0.5), Conv2D(2, 3), Dropout(0.5), Flatten(), BatchNorm(), Dense(3)]), 2)
    assert [op.layer.kind for op in plan.operations[: plan.image_operations]] == ["Dropout", "Conv2D"]
    assert make_plan(Network((5, 5), [BatchNorm(), Flatten(), Dense(3)]), 2).image_operations == 0


def test_flops_count_the_convolutions_by_output_pixel() -> None:
    plan = make_plan(Network((8, 8, 4), [Conv2D(6, 3, groups=2), Conv2D(2, (1, 3)), Flatten(), Dense(5)]), 1)
    first, second, dense = 6 * 6 * (3 * 3 * 2 * 6), 6 * 4 * (3 * 6 * 2), 6 * 4 * 2 * 5
    assert plan.flops_per_row() == 2 * (2 * first + 3 * second + 3 * dense)


def test_a_convolution_draws_by_its_fans_and_batch_norm_starts_as_the_identity() -> None:
    network = Network((9, 9, 8), [Conv2D(64, 3, groups=4), BatchNorm(), Flatten(), Dense(1)])
    plan = make_plan(network, 1)
    convolution, norm, _ = plan.operations
    assert isinstance(convolution, ConvolutionOperation)
    assert isinstance(norm, BatchNormOperation)
    start, state = plan.initial_parameters(0), plan.initial_state()
    limit = (6 / (9 * 8 / 4 + 9 * 64 / 4)) ** 0.5
    assert convolution.weights.shape == (3, 3, 2, 64)
    assert 0.98 * limit < abs(convolution.weights.view(start)).max() <= limit
    assert (norm.gamma.view(start) == 1).all()
    assert not norm.beta.view(start).any()
    assert not norm.running_mean.view(state).any()
    assert (norm.running_variance.view(state) == 1).all()
    assert norm.gamma not in plan.weight_spans


@dataclass(frozen=True)
class Scaling(BaseOperation):
    """An operation that the package does not know: outputs = scale * inputs, and a mean that follows them."""

    scale: Span
    mean: Span

    @property
    def parameters(self) -> dict[str, Learnt]:
        return {"scale": Learnt(self.scale, 0.5, is_weight=True)}

    @property
    def state(self) -> dict[str, Learnt]:
        return {"mean": Learnt(self.mean, 2.0)}


def with_scaling() -> Plan:
    """A dense network with a Scaling between its layers."""
    plan = make_plan(Network(3, [Dense(4), Dense(2)]), 5)
    first, last = plan.operations
    end = plan.parameter_count
    scaling = Scaling(
        7, None, first.outputs, first.outputs, first.gradient, first.gradient, Span(end, (4,)), Span(0, (4,))
    )
    return replace(plan, operations=(first, scaling, last), parameter_count=end + 4, state_count=4)


def test_what_an_operation_learns_is_named_started_weighed_and_counted_by_what_it_says() -> None:
    plan, known = with_scaling(), make_plan(Network(3, [Dense(4), Dense(2)]), 5)
    assert plan.named_parameters == known.named_parameters | {"layers.7.scale": Span(26, (4,))}
    assert plan.named_state == {"layers.7.mean": Span(0, (4,))}
    np.testing.assert_array_equal(plan.initial_parameters(3), [*known.initial_parameters(3), *[0.5] * 4])
    np.testing.assert_array_equal(plan.initial_state(), [2.0] * 4)
    assert {*plan.weight_spans} == {*known.weight_spans, Span(26, (4,))}
    assert plan.flops_per_row() == known.flops_per_row() + 6 * 4


def test_the_estimators_arrays_are_all_that_a_plan_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = pytest.importorskip("nnfast.estimators.networks", reason="scikit-learn is not installed")
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, -1, dtype))
    for plan in (with_scaling(), *(make_plan(network, 1) for network, _ in IMAGE_NETWORKS.values())):
        flat = np.arange(plan.parameter_count)
        np.testing.assert_array_equal(networks.flatten(plan, *networks.unflatten(plan, flat), flat.dtype), flat)


@given(network=networks, rows=st.integers(1, 40))
def test_the_listing_has_every_array_once(network: Network, rows: int) -> None:
    plan = make_plan(network, rows)
    arrays = placed_arrays(plan)
    assert len({array.name for array in arrays}) == len({array[::2] for array in arrays}) == len(arrays)
    ends = {"parameters": 0, "state": 0, "workspace": 0}
    for vector, _, span in arrays:
        gap = span.offset - ends[vector]
        assert 0 <= gap < (ALIGNMENT if vector == "workspace" else 1)
        ends[vector] = span.end
    assert ends == {"parameters": plan.parameter_count, "state": plan.state_count, "workspace": plan.workspace_size}
    listed = {array.span for array in arrays}
    assert {plan.inputs, plan.targets, *plan.named_parameters.values(), *plan.named_state.values()} <= listed
