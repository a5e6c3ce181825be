"""Promises of tables, the readers and the data sets by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfast.data import EMBEDDED, FASHION_CLASSES, load_dataset, load_inputs
from nnfast.data.readers import read_csv, read_npz
from nnfast.data.table import Table


@pytest.fixture
def csv_file(tmp_path):
    """A function that writes text (or bytes) to a CSV file and gives its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def npz_file(tmp_path):
    """A function that writes arrays to an .npz file and gives its path."""

    def write(**arrays) -> str:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


# --- CSV


def test_numbers_become_float64_and_anything_else_categories(csv_file):
    table = read_csv(csv_file("age,color\n1, red \n 2.5e0 ,blue\n-3,1\n"))
    assert table.names == ("age", "color")
    assert table["age"].dtype == np.float64
    assert table["age"].tolist() == [1.0, 2.5, -3.0]
    assert table["color"].tolist() == ["red", "blue", "1"]
    assert table.n_rows == 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiter_byte_order_mark_and_line_ends_are_recognised(csv_file, delimiter, bom, newline):
    lines = [delimiter.join(cells) for cells in (["a", "b", "c"], ["1", '"x,;\ty"', "2"])]
    table = read_csv(csv_file(bom + newline.join(lines) + newline))
    assert table.names == ("a", "b", "c")
    assert table["b"].tolist() == ["x,;\ty"]
    assert table["c"].tolist() == [2.0]


@pytest.mark.parametrize("cell", ["", "  ", "NA", "n/a", "NaN", "-nan", "NULL", "?", "<NA>", "#N/A"])
@pytest.mark.parametrize("other", ["3", "red"])
def test_a_missing_value_is_refused_with_its_row_and_column(csv_file, cell, other):
    path = csv_file(f"a,b\n1,{other}\n\n1,{other}\n1,{cell}\n")
    with pytest.raises(ValueError, match=r"column 'b' holds a missing value in line 5"):
        read_csv(path)


def test_the_lines_named_are_those_of_the_file_even_after_quoted_line_ends(csv_file):
    path = csv_file('a,b\n"x\ny",1\nz,\n')
    with pytest.raises(ValueError, match="column 'b' holds a missing value in line 4: ''"):
        read_csv(path)


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999"])
def test_an_infinity_is_refused_with_its_row_and_column(csv_file, cell):
    with pytest.raises(ValueError, match=r"column 'b' holds an infinite number in line 3"):
        read_csv(csv_file(f"a,b\n1,2\n1,{cell}\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\na,b\n1,2\n", "begins with a blank line"),
        ("a,b\n", "has a header but no rows"),
        ("a,b,a\n1,2,3\n", r"data\.csv: the column name \'a\' occurs more than once"),
        (",a\n0,1\n", "column 1 has no name in the header.*index=False"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells, but the header names 2 columns"),
        ("a,b\n1,2\n1\n", "line 3: 1 cells"),
        ('a,b\n1,"2\n1,2\n', "line 2: not well-formed CSV"),
        (b"a,b\n1,\xe9\n", "not UTF-8 text"),
        ("a;b\n1;1,5\n1;2,25\n", "column 'b' holds numbers with commas: '1,5' in line 2"),
        ('a,b\n1,"1,234.5"\n', "column 'b' holds numbers with commas"),
        ("a,b\n1,2\n1," + "x" * 201 + "\n", "a text of 201 characters in line 3"),
        ("a\n1\n\n2\n", "column 'a' holds a missing value in line 3"),
    ],
)
def test_a_malformed_csv_is_refused_with_its_fault(csv_file, content, message):
    with pytest.raises(ValueError, match=message):
        read_csv(csv_file(content))


def test_a_name_with_an_underscore_is_no_number(csv_file):
    assert read_csv(csv_file("a\n1_2\n3\n"))["a"].tolist() == ["1_2", "3"]


def test_text_columns_stay_text_and_ignored_ones_are_not_read(csv_file):
    path = csv_file('code,price,x\n01,,1\n"2,5",?,2\n')
    table = read_csv(path, text_columns=["code", "absent"], ignore=["price"])
    assert table.names == ("code", "x")
    assert table["code"].tolist() == ["01", "2,5"]


@settings(max_examples=50)
@given(
    columns=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=width, max_size=width),
            min_size=1,
            max_size=8,
        )
    )
)
def test_every_finite_number_survives_a_csv_exactly(tmp_path_factory, columns):
    matrix = np.array(columns)
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    header = ",".join(f"c{i}" for i in range(matrix.shape[1]))
    path.write_text("\n".join([header, *(",".join(map(repr, row)) for row in matrix.tolist())]))
    np.testing.assert_array_equal(np.stack(read_csv(path).columns, axis=1), matrix)


# --- Tables


def test_a_table_gives_columns_rows_and_selections():
    table = Table(("a", "b"), (np.array([1.0, 2.0, 3.0]), np.array(["x", "y", "z"])))
    taken = table.take([2, 0])
    assert taken["a"].tolist() == [3.0, 1.0]
    assert taken["b"].tolist() == ["z", "x"]
    assert table.without("a").names == ("b",)
    assert table.select(["b", "a"]).names == ("b", "a")
    with pytest.raises(ValueError, match="no column 'c'; the columns are 'a', 'b'"):
        table["c"]


@pytest.mark.parametrize(
    ("names", "columns", "error"),
    [
        ((), (), ValueError),
        (("a", "a"), (np.zeros(2), np.zeros(2)), ValueError),
        (("a", "b"), (np.zeros(2),), ValueError),
        (("a", "b"), (np.zeros(2), np.zeros(3)), ValueError),
        (("a",), (np.zeros((2, 2)),), ValueError),
        (("",), (np.zeros(2),), ValueError),
        (("a",), (np.zeros(2, dtype=np.float32),), TypeError),
        (("a",), ([1.0, 2.0],), TypeError),
        ((1,), (np.zeros(2),), TypeError),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(names, columns, error):
    with pytest.raises(error):
        Table(names, columns)


# --- NPZ


@pytest.mark.parametrize("keys", [("x", "y"), ("X", "Y"), ("X", "y"), ("X_train", "y_train")])
def test_npz_keys_are_taken_in_any_case(npz_file, keys):
    arrays = read_npz(npz_file(**dict(zip(keys, (np.eye(3, dtype=np.int16), np.arange(3)), strict=True))))
    assert arrays.x_train.dtype == np.float64
    assert arrays.x_train.tolist() == np.eye(3).tolist()
    assert arrays.y_train is not None
    assert arrays.y_train.tolist() == [0, 1, 2]
    assert arrays.x_test is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_missing_or_infinite_value_of_an_npz_is_refused_with_row_and_column(npz_file, value):
    x = np.zeros((4, 3), dtype=np.float32)
    x[2, 1] = value
    with pytest.raises(ValueError, match=rf"x holds {value} in row 2, column 1 \(counted from 0\)"):
        read_npz(npz_file(x=x, y=np.zeros(4)))
    with pytest.raises(ValueError, match=rf"x holds {value} in row 2, column 'b'"):
        read_npz(npz_file(x=x, y=np.zeros(4), names=np.array(["a", "b", "c"])))
    with pytest.raises(ValueError, match=rf"y holds {value} in row 1"):
        read_npz(npz_file(x=np.zeros((2, 2)), y=np.array([0.0, value])))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2))}, "holds the arrays 'x'; expected X and y"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, "holds the arrays 'a', 'b'; expected X and y, or X_train"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2), "levels": np.zeros(2)}, "'levels'"),
        ({"x": np.zeros((2, 2)), "X": np.zeros((2, 2)), "y": np.zeros(2)}, "but for case"),
        (
            {"x_train": np.zeros((2, 2)), "y_train": np.zeros(2), "x_test": np.zeros((2, 2))},
            "expected X and y",
        ),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3)}, "y has 3 rows, but its inputs have 2"),
        ({"x": np.zeros(2), "y": np.zeros(2)}, r"x has shape \(2,\)"),
        ({"x": np.zeros((2, 0)), "y": np.zeros(2)}, r"x has shape \(2, 0\)"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, r"x has shape \(0, 2\)"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((2, 1, 1))}, r"y has shape \(2, 1, 1\)"),
        ({"x": np.zeros((2, 2), dtype=complex), "y": np.zeros(2)}, "x has dtype complex128"),
        ({"x": np.zeros((2, 2)), "y": np.array([b"a", b"b"])}, "y has dtype"),
        ({"x": np.array([[None, 1]]), "y": np.zeros(1)}, "pickled objects are never loaded"),
        (
            {"x": np.zeros((2, 2)), "y": np.zeros(2), "names": np.array(["a"])},
            "expected one string per column",
        ),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2), "names": np.array(["a", "a"])}, "more than once"),
        (
            {
                "x_train": np.zeros((2, 2)),
                "y_train": np.zeros(2),
                "x_test": np.zeros((2, 3)),
                "y_test": np.zeros(2),
            },
            "they may differ only in the number of rows",
        ),
        (
            {
                "x_train": np.zeros((2, 2, 2), dtype=np.uint8),
                "y_train": np.zeros(2),
                "x_test": np.zeros((2, 2, 2)),
                "y_test": np.zeros(2),
            },
            "they may differ only in the number of rows",
        ),
    ],
)
def test_an_unexpected_npz_is_refused_with_its_fault(npz_file, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_npz(npz_file(**arrays))


def test_a_file_that_is_no_archive_is_refused_in_one_line(tmp_path):
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.arange(600.0).reshape(300, 2), y=np.zeros(300))
    for name, content in {
        "empty.npz": b"",
        "text.npz": b"hello\nworld",
        "pickle.npz": b"\x80\x04K\x01.",
        "single.npz": single.read_bytes(),
        "short.npz": whole.read_bytes()[:-40],
        "damaged.npz": whole.read_bytes()[:1000] + b"\xff" + whole.read_bytes()[1001:],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is not an \.npz file of plain arrays") as caught:
            read_npz(path)
        assert "\n" not in str(caught.value)


# --- Data sets by name and by path


def test_importing_the_readers_loads_no_heavy_library():
    code = (
        "import sys, nnfast.data, nnfast.data.encoding, nnfast.data.targets, nnfast.data.splits;"
        "print([m for m in ('pandas', 'sklearn', 'scipy', 'numba', 'cupy') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_digits_are_the_images_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs, ours = datasets.load_digits(), load_dataset("digits")
    np.testing.assert_array_equal(ours.x_train, theirs.images)
    np.testing.assert_array_equal(ours.y_train, theirs.target)


@pytest.mark.parametrize(
    ("name", "shapes", "dtype", "input_scale"),
    [
        ("digits", ((1797, 8, 8), None), np.uint8, 1 / 16),
        ("fashion-mini", ((800, 28, 28), (200, 28, 28)), np.uint8, 1 / 255),
        ("xor", ((4, 3), None), np.float64, 1.0),
    ],
)
def test_the_embedded_sets_are_what_they_say(name, shapes, dtype, input_scale):
    data = load_dataset(name)
    assert data.name == name
    assert data.x_train.shape == shapes[0]
    assert (None if data.x_test is None else data.x_test.shape) == shapes[1]
    assert data.x_train.dtype == dtype
    assert data.input_scale == input_scale
    assert not data.standardize
    assert data.x_train.max() * input_scale == 1.0
    assert len(data.y_train) == len(data.x_train)
    assert set(EMBEDDED) == {"digits", "fashion-mini", "xor"}


def test_fashion_mini_has_every_class_equally_often():
    data = load_dataset("fashion-mini")
    for labels, times in ((data.y_train, 80), (data.y_test, 20)):
        names, counts = np.unique(labels, return_counts=True)
        assert set(names) == set(data.class_names) == set(FASHION_CLASSES)
        assert counts.tolist() == [times] * 10


def test_fashion_mini_s_classes_are_named_as_its_pictures_show():
    """Told from the pictures: trousers and dresses are tall, footwear is flat, a bag is as wide as it is high."""
    data = load_dataset("fashion-mini")

    def extent(name, axis):
        return (data.x_train[data.y_train == name].max(axis=axis) > 50).sum(axis=1).mean()

    widths, heights = ({name: extent(name, axis) for name in FASHION_CLASSES} for axis in (1, 2))
    assert sorted(FASHION_CLASSES, key=widths.get)[:2] == ["Trouser", "Dress"]
    assert set(sorted(FASHION_CLASSES, key=heights.get)[:2]) == {"Sneaker", "Sandal"}


def test_xor_is_the_tutorials(npz_file):
    data = load_dataset("xor")
    assert data.x_train.tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert data.y_train.tolist() == [[0], [1], [1], [0]]


def test_a_csv_is_a_table_to_standardise_and_whole_targets_are_integers(csv_file):
    path = csv_file("age,color,price\n1,red,10\n2,blue,20\n")
    data = load_dataset(path, target="price")
    assert (data.name, data.standardize, data.input_scale) == ("data.csv", True, 1.0)
    assert data.feature_names == data.x_train.names == ("age", "color")
    assert data.y_train.dtype == np.int64
    assert load_dataset(path, target="color").y_train.tolist() == ["red", "blue"]
    assert load_dataset(csv_file("a,b\n1,2.5\n2,3\n"), target="b").y_train.tolist() == [2.5, 3.0]


@pytest.mark.parametrize(
    ("shape", "dtype", "kept_dtype", "input_scale", "standardize"),
    [
        ((3, 4), np.uint8, np.float64, 1.0, True),
        ((3, 4), np.float32, np.float64, 1.0, True),
        ((3, 4), bool, np.float64, 1.0, True),
        ((3, 4, 4), np.uint8, np.uint8, 1 / 255, False),
        ((3, 4, 4, 3), np.uint8, np.uint8, 1 / 255, False),
        ((3, 4, 4), ">f4", np.float32, 1.0, False),
        ((3, 4, 4), "<f4", np.float32, 1.0, False),
        ((3, 4, 4), np.int16, np.float64, 1.0, False),
    ],
)
def test_matrices_are_standardised_and_images_of_bytes_scaled(
    npz_file, shape, dtype, kept_dtype, input_scale, standardize
):
    data = load_dataset(npz_file(x=np.ones(shape, dtype=dtype, order="F"), y=np.zeros(3)))
    assert data.x_train.dtype == kept_dtype
    assert data.x_train.dtype.isnative
    assert data.x_train.flags.c_contiguous
    assert (data.x_train == 1).all()
    assert (data.input_scale, data.standardize) == (input_scale, standardize)


def test_sources_that_cannot_be_meant_are_refused_with_the_way_out(csv_file, npz_file, tmp_path):
    path = csv_file("a,b\n1,2\n")
    arrays = npz_file(x=np.zeros((2, 2)), y=np.zeros(2))
    for source, target, message in [
        (path, None, "needs a target, the column to learn; its columns are 'a', 'b'"),
        (path, "c", "has no column 'c'; its columns are 'a', 'b'"),
        (arrays, "y", "chosen for CSV files only"),
        ("xor", "y", "chosen for CSV files only"),
        ("mnist", None, "embedded sets 'digits', 'fashion-mini', 'xor', or a path that ends in .csv or .npz"),
        ("data.xlsx", "y", "unknown data 'data.xlsx'"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_dataset(source, target=target)
    with pytest.raises(ValueError, match="no column besides the target 'a'"):
        load_dataset(csv_file("a\n1\n"), target="a")
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*absent\.csv'"):
        load_dataset(str(tmp_path / "absent.csv"), target="a")
    with pytest.raises(TypeError, match="named by a string"):
        load_dataset(3)


def test_inputs_to_predict_for_need_no_target_and_may_bring_one(csv_file, npz_file):
    for content in ("a,b\n1,2\n", "a,price,b\n1,,2\n", "price,a,b\n9,1,2\n"):
        table = load_inputs(csv_file(content), target="price")
        assert table.names == ("a", "b")
    assert load_inputs(csv_file("a\n1\n"), text_columns=["a"])["a"].tolist() == ["1"]
    x = np.arange(4.0).reshape(2, 2)
    for arrays in ({"X": x}, {"x": x, "y": np.zeros(2)}, {"x_train": x + 1, "x_test": x}):
        np.testing.assert_array_equal(load_inputs(npz_file(**arrays), target="price"), x)
    assert load_inputs("fashion-mini").shape == (200, 28, 28)
    assert load_inputs("digits").shape == (1797, 8, 8)
    with pytest.raises(ValueError, match="no column besides 'price'"):
        load_inputs(csv_file("price\n1\n"), target="price")
