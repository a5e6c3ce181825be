"""The plan: where every array lives in the flat vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnfast.network import Dense, Dropout, Flatten, Layer, Network
from nnfast.plan import ALIGNMENT, DenseOperation, Span, make_plan

layers = st.one_of(
    st.builds(Dense, st.integers(1, 30), st.sampled_from(["tanh", "silu"]), st.booleans()),
    st.builds(Dropout, st.sampled_from([0.0, 0.3])),
)


@given(middle=st.lists(layers, max_size=6), rows=st.integers(1, 40))
def test_parameters_fill_their_vector_in_order_without_gaps(middle: list[Layer], rows: int) -> None:
    network = Network((2, 3), [Flatten(), *middle, Dense(4)])
    plan = make_plan(network, rows)
    spans = [span for op in plan.dense_operations for span in (op.weights, op.bias) if span]
    end = 0
    for span in spans:
        assert span.offset == end
        end = span.end
    assert end == plan.parameter_count == network.parameter_count


@given(middle=st.lists(layers, max_size=6), rows=st.integers(1, 40))
def test_arrays_that_live_at_once_do_not_overlap(middle: list[Layer], rows: int) -> None:
    plan = make_plan(Network((2, 3), [Flatten(), *middle, Dense(4)]), rows)
    used = np.zeros(plan.workspace_size, dtype=int)
    places: set[Span] = {plan.inputs, plan.targets, plan.sample_weight}
    for op in plan.operations:
        places |= {op.outputs, op.z} if isinstance(op, DenseOperation) else {op.outputs, op.mask}
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
