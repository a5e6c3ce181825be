"""Reports: the loss curve, predictions beside the truth, the confusion matrix."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nnfast.models.history import EpochRecord, History
from nnfast.reports.figures import confusion_matrix, filters, loss_curve, mistaken_images, png, predictions_table


def history(losses, validation=(), best_epoch=None):
    made = History(best_epoch=best_epoch)
    for index, loss in enumerate(losses):
        metrics = {"validation_loss": validation[index]} if validation else {}
        made.append(EpochRecord(index + 1, loss, 0.1, 0.01, metrics))
    return made


def test_loss_curve_draws_both_losses_under_its_title():
    figure = loss_curve(history([3.0, 2.0, 1.0], [3.5, 2.5, 2.0], best_epoch=3), "digits")
    (axes,) = figure.axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert drawn["training"] == [3.0, 2.0, 1.0]
    assert drawn["validation"] == [3.5, 2.5, 2.0]
    assert "best epoch (3)" in drawn
    assert axes.get_title() == "digits: loss per epoch"


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([1.0, 0.5], "linear"), ([1.0, 0.01], "log"), ([100.0, 0.0], "linear"), ([1.0], "linear"), ([], "linear")],
)
def test_loss_curve_is_logarithmic_where_that_helps_and_is_possible(losses, scale):
    (axes,) = loss_curve(history(losses)).axes
    assert axes.get_yscale() == scale


def test_a_single_epoch_is_visible():
    (axes,) = loss_curve(history([1.0])).axes
    assert axes.lines[0].get_marker() == "o"


def test_a_figure_becomes_a_png_and_touches_no_global_figure():
    assert png(loss_curve(history([1.0, 0.5]))).startswith(b"\x89PNG\r\n")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_predictions_table_puts_every_prediction_beside_its_truth():
    lines = predictions_table(np.array([[0.0], [1.0]]), np.array([[0.0169123456], [0.99]])).splitlines()
    assert [line.split() for line in lines] == [["true", "predicted"], ["0", "0.0169123"], ["1", "0.99"]]


def test_predictions_table_shows_labels_and_several_outputs():
    assert predictions_table(["a", "b"], ["b", "b"]).splitlines()[1].split() == ["a", "b"]
    table = predictions_table([[1, 2]], [[3, 4]]).splitlines()
    assert table[0].split() == ["true_0", "predicted_0", "true_1", "predicted_1"]
    assert table[1].split() == ["1", "3", "2", "4"]


def test_predictions_table_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"true has shape \(2, 1\), but predicted \(3, 1\)"):
        predictions_table([1, 2], [1, 2, 3])


def test_confusion_matrix_counts_true_lines_and_predicted_columns():
    text = confusion_matrix(["a", "a", "b", "c"], ["a", "b", "b", "a"], ["a", "b", "c"])
    assert [line.split() for line in text.splitlines()] == [
        ["true", "\\", "predicted", "a", "b", "c"],
        ["a", "1", "1", "."],
        ["b", ".", "1", "."],
        ["c", "1", ".", "0"],
    ]


def test_confusion_matrix_numbers_its_columns_where_names_would_not_fit():
    arguments = (["ant", "beetle"], ["beetle", "beetle"], ["ant", "beetle"])
    wide = confusion_matrix(*arguments)
    assert wide == confusion_matrix(*arguments, width=len(wide.splitlines()[0]))
    assert [
        line.split() for line in confusion_matrix(*arguments, width=len(wide.splitlines()[0]) - 1).splitlines()
    ] == [
        ["true", "\\", "predicted", "1", "2"],
        ["ant", "=", "1", "0", "1"],
        ["beetle", "=", "2", ".", "1"],
    ]


def test_confusion_matrix_lines_are_aligned():
    lines = confusion_matrix(np.array([1, 10]), np.array([10, 10]), np.array([1, 10])).splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 3)])
def test_mistaken_images_are_drawn_under_both_labels_and_right_ones_are_not(shape):
    images = np.random.default_rng(0).integers(0, 256, (40, *shape)).astype(np.uint8)
    true, predicted = np.arange(40) % 3, np.arange(40) % 3
    predicted[[4, 9]] = [2, 1]
    figure = mistaken_images(images, true, predicted, "letters")
    assert figure.get_suptitle() == "letters: 2 of 2 mistaken images in 40"
    assert [axes.get_title() for axes in figure.axes] == ["1, predicted 2", "0, predicted 1"]
    drawn = np.asarray(figure.axes[0].images[0].get_array(), dtype=float)
    image = images[4] if len(shape) == 2 else images[4].mean(axis=2)
    if shape[-1] == 3:
        low, high = images[4].min(), images[4].max()
        np.testing.assert_allclose(drawn, (images[4] - low) / (high - low), atol=0.005)
    else:
        np.testing.assert_array_equal(drawn, image)
    assert png(figure).startswith(b"\x89PNG")


def test_long_names_above_a_mistaken_image_stand_in_two_lines():
    figure = mistaken_images(np.zeros((2, 3, 3)), ["Ankle boot", "Bag"], ["T-shirt/top", "Coat"])
    assert [axes.get_title() for axes in figure.axes] == ["Ankle boot,\npredicted T-shirt/top", "Bag,\npredicted Coat"]


def test_of_many_mistakes_some_are_drawn_and_without_any_none():
    images = np.zeros((60, 3, 3))
    assert len(mistaken_images(images, np.zeros(60), np.ones(60)).axes) == 25
    assert mistaken_images(images, ["a"] * 60, ["a"] * 60) is None


@pytest.mark.parametrize(("channels", "number", "tiles"), [(1, 6, 6), (3, 5, 5), (4, 70, 64)])
def test_filters_are_drawn_in_one_scale_with_zero_in_the_middle(channels, number, tiles):
    weights = np.random.default_rng(0).normal(size=(5, 4, channels, number))
    weights[:, :, :, 1] = 0
    figure = filters(weights, "letters")
    assert len(figure.axes) == tiles
    assert figure.get_suptitle() == f"letters: {tiles if tiles == number else '64 of 70'} filters"
    np.testing.assert_allclose(np.asarray(figure.axes[1].images[0].get_array(), dtype=float), 0.5, atol=0.01)
    assert png(figure).startswith(b"\x89PNG")
