"""The user's own files, from training to prediction: tables, arrays and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnfast import Model
from tests.cli.results import FAST, last_json, read_csv


def test_csv_with_categories_is_classified_end_to_end(nnfast, flowers):
    code, out, err = nnfast(
        "train", flowers, "--target", "kind", "--backend", "numpy", "--epochs", 30, "--out", "a", "--json"
    )
    assert code == 0
    assert err == "nnfast: the task is classification: the target 'kind' holds text\n"
    summary = last_json(out)
    assert summary["test_accuracy"] > 0.95

    code, out, err = nnfast("predict", "a", flowers, "--backend", "numpy")
    header, *rows = read_csv(out)
    truth = [row[2] for row in read_csv(flowers.read_text())[1:]]
    assert (code, err, header) == (0, "", ["prediction"])
    assert np.mean([row[0] == true for row, true in zip(rows, truth, strict=True)]) > 0.95

    # The rows that train held out are drawn again
    code, out, err = nnfast("evaluate", "a", flowers, "--json", "--backend", "numpy")
    assert (code, err) == (0, "")
    evaluated = last_json(out)
    assert (evaluated["part"], evaluated["rows"]) == ("test", 24)
    assert evaluated["accuracy"] == summary["test_accuracy"]
    assert evaluated["loss"] == pytest.approx(summary["test_loss"])


def test_csv_is_regressed_end_to_end_in_the_user_s_units(nnfast, houses):
    code, out, err = nnfast(
        "train", houses, "--target", "price", "--backend", "numpy", "--epochs", 60, "--out", "a", "--json"
    )
    assert code == 0
    assert "the task is regression" in err
    summary = last_json(out)
    assert summary["test_r2"] > 0.95
    _, out, _ = nnfast("predict", "a", houses, "--backend", "numpy")
    predicted = np.array([float(row[0]) for row in read_csv(out)[1:]])
    true = np.array([float(row[2]) for row in read_csv(houses.read_text())[1:]])
    assert np.abs(predicted - true).mean() < 0.1 * true.mean()
    _, out, _ = nnfast("evaluate", "a", houses, "--backend", "numpy")
    assert out.startswith(f"test R2 {summary['test_r2']:.4f} (30 rows)")


def test_predict_needs_no_target_column(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    with_target = nnfast("predict", "a", flowers, "--backend", "numpy")
    (tmp_path / "new.csv").write_text(
        "".join(f"{line.rpartition(',')[0]}\n" for line in flowers.read_text().splitlines())
    )
    assert nnfast("predict", "a", "new.csv", "--backend", "numpy") == with_target
    assert nnfast("predict", "a/model.safetensors", "new.csv", "--backend", "numpy") == with_target


def test_probabilities_are_named_by_class_and_sum_to_one(nnfast, flowers):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    _, out, _ = nnfast("predict", "a", flowers, "--proba", "--backend", "numpy")
    header, *rows = read_csv(out)
    assert header == ["iris", "rose"]
    probabilities = np.array(rows, dtype=float)
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6
    labels = [row[0] for row in read_csv(nnfast("predict", "a", flowers, "--backend", "numpy")[1])[1:]]
    assert labels == [header[index] for index in probabilities.argmax(axis=1)]


def test_one_sigmoid_output_tells_two_classes_apart(nnfast, flowers):
    nnfast("train", flowers, "--target", "kind", *FAST, "--output-activation", "sigmoid", "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.network.output_size, model.loss.name) == (1, "binary_cross_entropy")
    _, out, _ = nnfast("predict", "a", flowers, "--proba", "--backend", "numpy")
    assert np.abs(np.array(read_csv(out)[1:], dtype=float).sum(axis=1) - 1).max() < 1e-6


def test_several_targets_are_predicted_in_columns_of_their_own(nnfast):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    np.savez("data.npz", X=x, y=np.stack([x[:, 0], x[:, 1] * 100 + 7], axis=1))
    assert nnfast("train", "data.npz", *FAST, "--out", "a")[0] == 0
    _, out, _ = nnfast("predict", "a", "data.npz", "--backend", "numpy", "--out", "p.csv")
    assert out == ""
    header, *rows = read_csv(Path("p.csv").read_text())
    assert header == ["prediction_0", "prediction_1"]
    assert len(rows) == 60


def test_images_with_a_test_part_of_their_own(nnfast):
    rng = np.random.default_rng(0)
    y = np.tile([3, 8], 40)
    x = (rng.integers(0, 100, (80, 5, 4)) + 100 * (y == 8)[:, None, None]).astype(np.uint8)
    np.savez("images.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    code, out, err = nnfast(
        "train", "images.npz", "--backend", "numpy", "--task", "classification", "--epochs", 100, "--out", "a",
        "--learning-rate", 0.01, "--test", 0.5, "--json",
    )  # fmt: skip
    assert code == 0
    assert err == "nnfast: images.npz brings its own test part; --test is not used\n"
    summary = last_json(out)
    assert (summary["training_rows"], summary["test_rows"], summary["test_accuracy"]) == (60, 20, 1.0)
    assert Model.load("a/model.safetensors").network.input_shape == (5, 4)
    assert last_json(nnfast("evaluate", "a", "images.npz", "--json")[1])["part"] == "test"
    labels = {row[0] for row in read_csv(nnfast("predict", "a", "images.npz")[1])[1:]}
    assert labels == {"3", "8"}


def test_no_standardize_leaves_numbers_as_they_are(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--no-standardize", "--learning-rate", 1e-9, "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.inputs.mean.tolist(), model.inputs.scale.tolist()) == ([0.0], [1.0])
    assert (model.targets.mean.tolist(), model.targets.scale.tolist()) == ([0.0], [1.0])


def test_standardisation_sees_the_rows_trained_on_only(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--validation", 0.3, "--out", "a")
    everything = np.array([float(row[0]) for row in read_csv(houses.read_text())[1:]])
    assert Model.load("a/model.safetensors").inputs.mean[0] != pytest.approx(everything.mean(), rel=1e-6)


def test_a_category_whose_rows_are_all_held_out_does_not_end_the_run(nnfast, tmp_path):
    rows = "".join(f"{row},{'rare' if row == 7 else 'common'},{row % 2}\n" for row in range(40))
    (tmp_path / "data.csv").write_text("x,c,y\n" + rows)
    for seed in range(8):
        result = nnfast("train", "data.csv", "--target", "y", *FAST, "--seed", seed, "--test", 0.5, "--quiet")
        assert result[0] == 0, result


def test_outputs_that_cannot_reach_every_number_get_targets_as_they_are(nnfast, houses):
    nnfast("train", houses, "--target", "price", *FAST, "--output-activation", "exp", "--clip-norm", 1, "--out", "a")
    model = Model.load("a/model.safetensors")
    assert (model.targets.scale.tolist(), model.loss.name) == ([1.0], "poisson")


def test_evaluate_says_when_the_rows_were_trained_on(nnfast):
    nnfast("train", "xor", "--backend", "numpy", "--out", "a")
    code, out, err = nnfast("evaluate", "a", "xor", "--backend", "numpy")
    assert code == 0
    assert err == "nnfast: these rows were trained on: no part was held out to test with\n"
    assert out.splitlines()[-1].startswith("R2 0.99")


def test_evaluate_takes_all_rows_of_other_data(nnfast, flowers, tmp_path):
    nnfast("train", flowers, "--target", "kind", *FAST, "--out", "a")
    (tmp_path / "other.csv").write_text("length,colour,kind\n2,red,iris\n6,blue,rose\n")
    _, out, err = nnfast("evaluate", "a", "other.csv", "--json", "--backend", "numpy")
    assert err == ""
    assert {name: last_json(out)[name] for name in ("part", "rows")} == {"part": "all", "rows": 2}


def test_labels_that_look_like_numbers_stay_the_text_they_were(nnfast, tmp_path):
    rows = "".join(f"{row % 3},{('1', '2', 'A')[row % 3]}\n" for row in range(60))
    (tmp_path / "data.csv").write_text("x,y\n" + rows)
    nnfast("train", "data.csv", "--target", "y", *FAST, "--out", "a")
    (tmp_path / "new.csv").write_text("x,y\n0,1\n1,2\n")
    code, out, _ = nnfast("evaluate", "a", "new.csv", "--json", "--backend", "numpy")
    assert (code, last_json(out)["rows"]) == (0, 2)
