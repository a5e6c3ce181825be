"""Promises of what turns targets into the network's numbers and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnfast.data.encoding import InputEncoding
from nnfast.data.targets import ClassTargets, NumberTargets, fit_targets, infer_task

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 20), st.integers(1, 5)),
    elements=st.integers(-1000, 1000).map(lambda whole: whole / 8),
)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], np.array(["a", "b"])),
        (np.array(["b", "a"], dtype=object), np.array(["a", "b"])),
        (np.array([3, 1, 3], dtype=np.uint8), np.array([1, 3])),
        (np.array([[3], [1]]), np.array([1, 3])),
        (np.array([0.5, -1], dtype=np.float32), np.array([-1, 0.5])),
        ([True, False], np.array([False, True])),
        (np.array([True, False], dtype=object), np.array([False, True])),
    ],
)
def test_labels_become_indices_of_sorted_classes_and_come_back(labels, classes):
    targets = ClassTargets.fit(labels)
    assert targets.classes.dtype == classes.dtype
    assert targets.classes.tolist() == classes.tolist()
    assert targets.n_outputs == 2
    indices = targets.encode(labels)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(targets.decode(indices), np.asarray(labels).reshape(-1))


def test_an_unknown_label_is_refused_with_the_known():
    with pytest.raises(ValueError, match=r"label 'c' in row 1 .* known are 'a', 'b'"):
        ClassTargets.fit(["a", "b"]).encode(["a", "c"])
    with pytest.raises(ValueError, match=r"label 2 in row 0 .* known are 1, 3"):
        ClassTargets.fit([1, 3]).encode([2])
    with pytest.raises(TypeError, match="the known classes are text: 'a', 'b'"):
        ClassTargets.fit(["a", "b"]).encode([1])


def test_whole_numbers_are_the_same_labels_as_integers_or_floats():
    assert ClassTargets.fit([1, 2]).encode([2.0, 1.0]).tolist() == [1, 0]
    assert ClassTargets.fit([0.5, 1.0]).encode([1]).tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (["a", "a"], ValueError),
        ([], ValueError),
        ([1.0, np.nan], ValueError),
        ([[1, 2], [3, 4]], ValueError),
        (np.array(["a", 1], dtype=object), TypeError),
        (np.array([None, None], dtype=object), TypeError),
        (np.array([1j, 2j]), TypeError),
        (np.array([0, 2**63], dtype=np.uint64), ValueError),
    ],
)
def test_targets_that_are_no_labels_are_refused(labels, error):
    with pytest.raises(error):
        ClassTargets.fit(labels)


def test_a_missing_label_is_refused_with_its_row():
    for use in (ClassTargets.fit, ClassTargets.fit([1, 2]).encode, NumberTargets.fit, infer_task):
        with pytest.raises(ValueError, match="the target holds nan in row 1"):
            use([1.0, np.nan])


def test_an_index_that_is_no_class_is_refused():
    targets = ClassTargets.fit(["a", "b"])
    for index in (-1, 2):
        with pytest.raises(ValueError, match=r"must lie in \[0, 2\)"):
            targets.decode(np.array([0, index]))
    with pytest.raises(TypeError):
        targets.decode(np.array([0.0]))


@given(y=matrices, flat=st.booleans())
def test_numbers_are_standardised_and_come_back(y, flat):
    if flat:
        y = y[:, 0]
    targets = NumberTargets.fit(y)
    encoded = targets.encode(y)
    assert encoded.shape == y.shape
    assert targets.n_outputs == (1 if flat else y.shape[1])
    expected = InputEncoding.fit(y.reshape(len(y), -1)).transform(y.reshape(len(y), -1))
    np.testing.assert_array_equal(encoded.reshape(expected.shape), expected)
    np.testing.assert_allclose(targets.decode(encoded), y, rtol=1e-12, atol=1e-9)
    # What the network gives is always two-dimensional, and may be float32.
    network = encoded.reshape(len(y), -1).astype(np.float32)
    decoded = targets.decode(network)
    assert decoded.shape == y.shape
    assert decoded.dtype == np.float64


def test_numbers_of_another_shape_are_refused():
    flat, pair = NumberTargets.fit([1.0, 2.0]), NumberTargets.fit(np.eye(2))
    with pytest.raises(ValueError, match=r"expected \(n_samples,\)"):
        flat.encode([[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"expected \(n_samples, 2\)"):
        pair.encode([1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected \(n_samples, 2\)"):
        pair.decode(np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"expected \(n_samples, 1\)"):
        flat.decode(np.zeros((3, 2)))
    with pytest.raises(TypeError, match="must be numbers"):
        NumberTargets.fit(["a", "b"])


def test_numbers_can_be_left_as_they_are():
    targets = NumberTargets.fit([5.0, 7.0], standardize=False)
    assert targets.encode([5.0, 7.0]).tolist() == [5.0, 7.0]


@pytest.mark.parametrize(
    ("y", "task", "reason"),
    [
        (["a", "b"], "classification", "the target 't' holds text"),
        ([True, False], "classification", "the target 't' holds true and false"),
        (np.arange(100) % 20, "classification", "the target 't' has only 20 distinct whole numbers"),
        (np.arange(100) % 20 + 0.0, "classification", "the target 't' has only 20 distinct whole numbers"),
        (np.arange(100) % 21, "regression", "the target 't' has 21 distinct numbers"),
        ([1, 2, 1, 2], "regression", "the target 't' has 2 distinct numbers in only 4 rows"),
        ([1, 2, 1, 2, 1], "classification", "the target 't' has only 2 distinct whole numbers"),
        ([0.5, 1.0] * 9, "regression", "the target 't' has 2 distinct numbers, not all of them whole"),
        (np.zeros((9, 2)), "regression", "the target 't' has 2 columns"),
        ([[0.0], [1.0], [1.0], [0.0]], "regression", "the target 't' has 2 distinct numbers in only 4 rows"),
    ],
)
def test_the_task_is_told_from_the_targets_with_the_reason(y, task, reason):
    assert infer_task(y, "t") == (task, reason)
    assert infer_task(y)[1] == reason.replace(" 't'", "")
    assert fit_targets(y, task).kind == {"classification": "classes", "regression": "numbers"}[task]


def test_an_unknown_task_is_refused_with_the_known():
    with pytest.raises(ValueError, match="one of 'classification', 'regression', got 'clustering'"):
        fit_targets([1, 2], "clustering")
