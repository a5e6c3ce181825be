"""Promises of what turns columns into the network's numbers, and of the states of all encodings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnfast.data.encoding import MAX_CATEGORIES, InputEncoding
from nnfast.data.table import Table
from nnfast.data.targets import ClassTargets, NumberTargets, targets_from_state

# Sums of the same numbers in another order differ in the last digits.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 20), st.integers(1, 5)),
    elements=st.integers(-1000, 1000).map(lambda whole: whole / 8),
)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs",)), max_size=4)


def table_of(**columns) -> Table:
    return Table(
        tuple(columns),
        tuple(np.array(c, dtype=None if isinstance(c[0], str) else float) for c in columns.values()),
    )


@given(train=matrices, seed=st.integers(0, 100))
def test_numbers_are_standardised_as_by_scikit_learn(train, seed):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    test = np.random.default_rng(seed).normal(scale=50, size=(3, train.shape[1]))
    scaler = preprocessing.StandardScaler().fit(train)
    encoding = InputEncoding.fit(train)
    np.testing.assert_allclose(encoding.scale, scaler.scale_, **ROUNDING)
    np.testing.assert_allclose(encoding.transform(train), scaler.transform(train), **ROUNDING)
    np.testing.assert_allclose(encoding.transform(test), scaler.transform(test), **ROUNDING)


@given(values=st.lists(texts, min_size=1, max_size=30))
def test_categories_become_one_hot_as_by_scikit_learn(values):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    column = np.array(values, dtype=np.str_)
    theirs = preprocessing.OneHotEncoder(sparse_output=False).fit(column[:, np.newaxis])
    encoding = InputEncoding.fit(Table(("c",), (column,)))
    ours = encoding.transform(Table(("c",), (column,)))
    np.testing.assert_array_equal(ours, theirs.transform(column[:, np.newaxis]))
    assert (
        encoding.feature_names == tuple(theirs.get_feature_names_out(["c"]).astype(object))
        or [name.removeprefix("c=") for name in encoding.feature_names] == theirs.categories_[0].tolist()
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -7e8])
def test_a_constant_column_gets_scale_one(constant):
    encoding = InputEncoding.fit(np.full((10, 1), constant))
    assert encoding.scale.tolist() == [1.0]
    np.testing.assert_allclose(encoding.transform([[constant + 1]]), [[1.0]], rtol=1e-6)


def test_features_stand_in_the_order_of_the_columns_and_are_named():
    table = table_of(color=["red", "blue", "red"], age=[1, 2, 3], kind=["b", "a", "b"])
    encoding = InputEncoding.fit(table)
    assert encoding.feature_names == ("color=blue", "color=red", "age", "kind=a", "kind=b")
    assert encoding.n_features == 5
    step = 1.5**0.5
    expected = [[0, 1, -step, 0, 1], [1, 0, 0, 1, 0], [0, 1, step, 0, 1]]
    np.testing.assert_allclose(encoding.transform(table), expected, **ROUNDING)
    assert encoding.transform(table).dtype == np.float64


def test_the_order_of_a_tables_columns_does_not_matter():
    table = table_of(color=["red", "blue"], age=[1, 2], size=[5, 7])
    encoding = InputEncoding.fit(table)
    shuffled = table.select(["size", "color", "age"])
    np.testing.assert_array_equal(encoding.transform(shuffled), encoding.transform(table))


@given(order=st.permutations(["a", "b", "c"]), library=st.sampled_from(["pandas", "polars"]))
def test_the_order_of_a_data_frames_columns_does_not_matter(order, library):
    frames = pytest.importorskip(library)
    columns = {"a": [1.0, 2.0], "b": [10.0, 30.0], "c": [5.0, 9.0]}
    encoding = InputEncoding.fit(frames.DataFrame(columns))
    assert encoding.names == ("a", "b", "c")
    expected = [[-1, -1, -1], [1, 1, 1]]
    for fitted in (encoding, InputEncoding.fit(frames.DataFrame(columns).to_numpy(), names=["a", "b", "c"])):
        shuffled = frames.DataFrame({name: columns[name] for name in order})
        np.testing.assert_array_equal(fitted.transform(shuffled), expected)
        np.testing.assert_array_equal(fitted.transform(frames.DataFrame(columns).to_numpy()), expected)


def test_a_data_frames_missing_and_extra_columns_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    encoding = InputEncoding.fit(pandas.DataFrame({"a": [1, 2], "b": [3, 5]}))
    with pytest.raises(ValueError, match="lack the columns 'b' and have the unknown columns 'c'"):
        encoding.transform(pandas.DataFrame({"a": [1], "c": [1]}))
    with pytest.raises(ValueError, match="the inputs have the unknown columns 'c';"):
        encoding.transform(pandas.DataFrame({"a": [1], "b": [1], "c": [1]}))
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        encoding.transform(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(TypeError, match="column names must be strings, got 1"):
        InputEncoding.fit(pandas.DataFrame({"a": [1, 2], 1: [3, 5]}))


def test_a_data_frame_whose_columns_are_numbered_is_a_matrix():
    pandas = pytest.importorskip("pandas")
    numbered = pandas.DataFrame([[1, 10], [2, 30]])
    assert InputEncoding.fit(numbered).names is None
    named = InputEncoding.fit(pandas.DataFrame({"a": [1, 2], "b": [10, 30]}))
    np.testing.assert_array_equal(named.transform(numbered), [[-1, -1], [1, 1]])
    unnamed = InputEncoding.fit(numbered.to_numpy())
    np.testing.assert_array_equal(unnamed.transform(pandas.DataFrame({"b": [1], "a": [10]})), [[-1, -1]])


def test_an_unknown_category_is_refused_with_row_column_value_and_the_known():
    encoding = InputEncoding.fit(table_of(color=["red", "blue"]))
    with pytest.raises(ValueError, match=r"'color' holds the unknown category 'green' in row 1 .* 'blue', 'red'"):
        encoding.transform(table_of(color=["red", "green"]))
    for unknown in ("a", "zzz", "re", "redd", ""):
        with pytest.raises(ValueError, match="unknown category"):
            encoding.transform(table_of(color=[unknown]))


def test_missing_and_extra_columns_are_refused_by_name():
    encoding = InputEncoding.fit(table_of(a=[1, 2], b=[1, 2]))
    with pytest.raises(ValueError, match="lack the columns 'b' and have the unknown columns 'c'"):
        encoding.transform(table_of(a=[1], c=[1]))
    with pytest.raises(ValueError, match="the inputs lack the columns 'b';"):
        encoding.transform(table_of(a=[1]))
    with pytest.raises(ValueError, match="the inputs have the unknown columns 'c';"):
        encoding.transform(table_of(a=[1], b=[1], c=[1]))


def test_a_column_of_the_other_kind_is_refused():
    encoding = InputEncoding.fit(table_of(a=[1, 2], b=["x", "y"]))
    with pytest.raises(TypeError, match=r"'a' holds 'many' in row 1 .* but was numbers"):
        encoding.transform(table_of(a=["3", "many"], b=["x", "y"]))
    with pytest.raises(TypeError, match="'b' holds numbers, but was categories"):
        encoding.transform(table_of(a=[1], b=[1]))


def test_a_matrix_is_taken_in_column_order_where_all_are_numbers():
    table = table_of(a=[1, 2], b=[10, 30])
    encoding = InputEncoding.fit(table)
    np.testing.assert_array_equal(encoding.transform([[1, 10], [2, 30]]), encoding.transform(table))
    np.testing.assert_array_equal(encoding.transform(np.array([[1, 10]], dtype=np.uint8)), [[-1, -1]])
    with pytest.raises(ValueError, match="has 3 columns; the encoding was fitted on 2"):
        encoding.transform(np.zeros((1, 3)))
    with pytest.raises(TypeError, match=r"are categories: pass a nnfast\.data\.Table"):
        InputEncoding.fit(table_of(a=["x", "y"])).transform(np.zeros((1, 1)))
    with pytest.raises(TypeError, match="fitted on a matrix without names"):
        InputEncoding.fit(np.eye(2)).transform(table)
    assert InputEncoding.fit(np.eye(2)).feature_names == ("x0", "x1")
    named = InputEncoding.fit(np.array([[1, 10], [2, 30]]), names=["a", "b"])
    np.testing.assert_array_equal(named.transform(table), encoding.transform(table))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_row_and_column(value):
    good, bad = np.zeros((3, 2)), np.zeros((3, 2))
    bad[1, 1] = value
    encoding = InputEncoding.fit(good)
    for use in (InputEncoding.fit, encoding.transform):
        with pytest.raises(ValueError, match=rf"holds {value} in row 1, column 1"):
            use(bad)
    encoding = InputEncoding.fit(table_of(a=[1, 2]))
    with pytest.raises(ValueError, match=rf"column 'a' holds {value} in row 1"):
        encoding.transform(table_of(a=[1, value]))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((0, 2)), ValueError, "no rows"),
        (np.zeros(3), ValueError, r"shape \(3,\)"),
        (np.zeros((3, 0)), ValueError, r"shape \(3, 0\)"),
        (np.array([["a"]]), TypeError, "a Table"),
        (np.array([[1e200], [-1e200]]), ValueError, r"up to 1e\+200 in column 0, too large to standardise"),
        (
            table_of(i=[f"n{i}" for i in range(MAX_CATEGORIES + 1)]),
            ValueError,
            "'i' holds 1001 different texts",
        ),
        (table_of(i=["x" * 201]), ValueError, "a text of 201 characters"),
    ],
)
def test_inputs_that_cannot_be_encoded_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        InputEncoding.fit(inputs)


# --- State

INPUT_ENCODINGS = {
    "matrix": InputEncoding.fit(np.array([[1.0, 2], [3, 5]])),
    "named matrix": InputEncoding.fit(np.array([[1.0, 2], [3, 5]]), names=("a", "b")),
    "table": InputEncoding.fit(table_of(a=[1, 2], b=["x", "é"], c=[3, 4])),
    "categories": InputEncoding.fit(table_of(b=["x", "y"])),
}
TARGETS = {
    "text": ClassTargets.fit(["yes", "no"]),
    "whole": ClassTargets.fit([3, 5]),
    "fractions": ClassTargets.fit([0.1, 5]),
    "bools": ClassTargets.fit([True, False]),
    "numbers": NumberTargets.fit([1.0, 2.0]),
    "pairs": NumberTargets.fit(np.array([[1.0, 3], [2, 9]])),
}


def stored(encoding):
    """The state as it comes back from a file: arrays copied, the description through JSON."""
    arrays, description = encoding.to_state()
    assert all(array.dtype.kind in "bif" and array.ndim == 1 for array in arrays.values())
    return {key: array.copy() for key, array in arrays.items()}, json.loads(json.dumps(description))


def assert_same(ours, theirs):
    """Field by field; the fields are arrays, dicts of arrays, or plain values."""
    assert type(ours) is type(theirs)
    for name, value in vars(ours).items():
        other = vars(theirs)[name]
        pairs = zip(value.values(), other.values(), strict=True) if isinstance(value, dict) else [(value, other)]
        for one, two in pairs:
            np.testing.assert_array_equal(one, two)
            assert np.asarray(one).dtype == np.asarray(two).dtype


@pytest.mark.parametrize("name", INPUT_ENCODINGS)
def test_an_input_encoding_survives_its_state(name):
    encoding = INPUT_ENCODINGS[name]
    again = InputEncoding.from_state(*stored(encoding))
    assert_same(again, encoding)
    assert again.feature_names == encoding.feature_names


@pytest.mark.parametrize("name", TARGETS)
def test_targets_survive_their_state(name):
    assert_same(targets_from_state(*stored(TARGETS[name])), TARGETS[name])


@pytest.mark.parametrize(
    ("encoding", "array_changes", "changes"),
    [
        ("table", {"mean": None}, {}),
        ("table", {"more": np.zeros(2)}, {}),
        ("table", {"mean": np.zeros(3), "scale": np.ones(3)}, {}),
        ("table", {"mean": np.zeros(3)}, {}),
        ("table", {"scale": np.ones(3)}, {}),
        ("table", {"mean": np.array([np.nan, 0])}, {}),
        ("table", {"scale": np.array([0.0, 1])}, {}),
        ("table", {"scale": np.array([-1.0, 1])}, {}),
        ("table", {"scale": np.array([np.inf, 1])}, {}),
        ("table", {"scale": np.ones(2, dtype=np.float32)}, {}),
        ("table", {"scale": np.ones((2, 1))}, {}),
        ("table", {}, {"names": None}),
        ("table", {}, {"names": ["a", "b"]}),
        ("table", {}, {"names": ["a", "b", "b"]}),
        ("table", {}, {"names": ["a", "b", ""]}),
        ("table", {}, {"names": ["a", "b", 3]}),
        ("table", {}, {"names": "abc"}),
        ("table", {}, {"categories": []}),
        ("table", {}, {"categories": {}}),
        ("table", {}, {"categories": {"z": ["x"]}}),
        ("table", {}, {"categories": {"b": []}}),
        ("table", {}, {"categories": {"b": "xy"}}),
        ("table", {}, {"categories": {"b": ["y", "x"]}}),
        ("table", {}, {"categories": {"b": ["x", "x"]}}),
        ("table", {}, {"categories": {"b": ["x", 1]}}),
        ("table", {}, {"categories": {"b": ["x" * 201]}}),
        ("table", {}, {"categories": {"b": [f"{i:05}" for i in range(MAX_CATEGORIES + 1)]}}),
        ("table", {}, {"more": 1}),
        ("matrix", {"mean": np.zeros(0), "scale": np.zeros(0)}, {}),
        ("text", {}, {"kind": "other"}),
        ("text", {}, {"kind": ["classes"]}),
        ("text", {}, {"classes": ["yes", "no"]}),
        ("text", {}, {"classes": ["no"]}),
        ("text", {}, {"classes": ["no", 1]}),
        ("text", {"classes": np.arange(2)}, {}),
        ("whole", {"classes": None}, {}),
        ("whole", {"classes": np.array([1, 1])}, {}),
        ("whole", {"classes": np.array([1.0, np.nan])}, {}),
        ("whole", {"classes": np.array([1.0, np.inf])}, {}),
        ("whole", {"classes": np.array([[1, 2]])}, {}),
        ("whole", {"classes": np.array([1, 2], dtype=np.int32)}, {}),
        ("numbers", {"mean": np.zeros(2), "scale": np.ones(2)}, {}),
        ("numbers", {"mean": np.zeros(0), "scale": np.ones(0)}, {"is_flat": False}),
        ("numbers", {}, {"is_flat": 1}),
        ("numbers", {"scale": np.zeros(1)}, {}),
    ],
)
def test_a_damaged_state_is_refused(encoding, array_changes, changes):
    read = InputEncoding.from_state if encoding in INPUT_ENCODINGS else targets_from_state
    arrays, description = stored({**INPUT_ENCODINGS, **TARGETS}[encoding])
    read(arrays, description)
    for key, array in array_changes.items():
        if array is None:
            del arrays[key]
        else:
            arrays[key] = array
    description.update(changes)
    with pytest.raises((TypeError, ValueError)):
        read(arrays, description)
