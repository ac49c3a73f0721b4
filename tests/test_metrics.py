"""Scores against hand-computed answers, scikit-learn, torchmetrics, and properties that must hold for any map."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics

from geoseg.legend import IGNORE, make_legend
from geoseg.metrics import chip_mean, class_counts, confusion_matrix, scores

OVERALL = ("miou", "pixel_accuracy", "mean_pixel_accuracy", "fw_iou", "kappa", "mcc")
PER_CLASS = ("iou", "accuracy", "precision", "recall", "f1")
LEGEND = make_legend([0, 1, 2], ["background", "cultivated", "water"])


def maps(classes: int) -> st.SearchStrategy[np.ndarray]:
    """Pairs (reference, predicted) with ignored pixels, stacked: (2, rows, cols)."""
    index = st.sampled_from([*range(classes), IGNORE])
    return arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 6)), elements=index)


confusions = arrays(np.int64, st.tuples(st.integers(1, 6), st.just(3), st.just(3)), elements=st.integers(0, 50))


# --- the confusion matrix


def test_confusion_matrix_by_hand():
    reference = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 255, 0]], np.uint8)
    found = confusion_matrix(reference, predicted, 2)
    assert found.tolist() == [[1, 1], [0, 2]]
    assert found.dtype == np.int64


@given(maps(4))
def test_confusion_matrix_equals_scikit_learn(pair):
    reference, predicted = pair
    counted = (reference != IGNORE) & (predicted != IGNORE)
    expected = np.zeros((4, 4), int)
    if counted.any():
        expected = sklearn_metrics.confusion_matrix(reference[counted], predicted[counted], labels=range(4))
    assert np.array_equal(confusion_matrix(reference, predicted, 4), expected)


@pytest.mark.parametrize("classes", [1, 15, 16, 254])
def test_confusion_matrix_of_many_classes_and_more_pixels_than_a_chunk(classes, rng):
    reference, predicted = rng.integers(0, classes, (2, 1, 2**18 + 3)).astype(np.uint8)
    expected = np.zeros((classes, classes), int)
    np.add.at(expected, (reference, predicted), 1)
    assert np.array_equal(confusion_matrix(reference, predicted, classes), expected)


def test_confusion_matrix_of_views_that_are_not_contiguous(rng):
    reference, predicted = rng.integers(0, 3, (2, 20, 20)).astype(np.uint8)
    expected = confusion_matrix(reference.T.copy(), predicted.T.copy(), 3)
    assert np.array_equal(confusion_matrix(reference.T, predicted.T, 3), expected)
    assert np.array_equal(confusion_matrix(reference, predicted, 3), expected)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("stray", [3, 254])
def test_confusion_matrix_refuses_indices_outside_the_classes(which, stray):
    pair = np.zeros((2, 4, 4), np.uint8)
    pair[which, 0, 0] = stray
    with pytest.raises(ValueError, match="0 to 2 and 255"):
        confusion_matrix(*pair, 3)


@pytest.mark.parametrize("predicted", [np.zeros((4, 3), np.uint8), np.zeros((3, 4), np.int64)])
def test_confusion_matrix_refuses_other_shapes_and_dtypes(predicted):
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(np.zeros((3, 4), np.uint8), predicted, 2)


# --- the scores of one matrix


def test_scores_by_hand():
    # 100 pixels: 50 + 10 background, 5 + 35 cultivated, no water anywhere.
    found = scores(np.array([[50, 10, 0], [5, 35, 0], [0, 0, 0]]), LEGEND)
    background, cultivated, water = found["classes"]
    assert background == {
        "value": 0, "name": "background", "iou": 50 / 65, "accuracy": 0.85, "precision": 50 / 55, "recall": 50 / 60, "f1": 100 / 115,
        "support": 60, "predicted": 55,
    }  # fmt: skip
    assert (cultivated["iou"], cultivated["precision"], cultivated["recall"]) == (35 / 50, 35 / 45, 35 / 40)
    absent = {**dict.fromkeys(PER_CLASS), "accuracy": 1.0, "support": 0, "predicted": 0}
    assert water == {"value": 2, "name": "water", **absent}
    assert found["miou"] == pytest.approx((50 / 65 + 35 / 50) / 2)
    assert found["pixel_accuracy"] == 0.85
    assert found["mean_pixel_accuracy"] == pytest.approx((50 / 60 + 35 / 40) / 2)
    assert found["fw_iou"] == pytest.approx(0.6 * 50 / 65 + 0.4 * 35 / 50)
    chance = (60 * 55 + 40 * 45) / 100**2
    assert found["kappa"] == pytest.approx((0.85 - chance) / (1 - chance))
    assert found["mcc"] == pytest.approx((50 * 35 - 10 * 5) / np.sqrt(60 * 40 * 55 * 45))
    assert found["confusion"] == [[50, 10, 0], [5, 35, 0], [0, 0, 0]]
    assert list(found) == ["classes", *OVERALL, "confusion"]


def test_a_class_that_is_predicted_but_not_in_the_reference_counts_as_zero():
    found = scores(np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]]), LEGEND)
    water = found["classes"][2]
    assert (water["iou"], water["f1"], water["precision"], water["recall"]) == (0, 0, 0, None)
    assert found["miou"] == pytest.approx((0.8 + 0) / 2)
    assert found["mean_pixel_accuracy"] == 0.8


def test_a_class_that_is_never_predicted_has_no_precision():
    found = scores(np.array([[8, 0, 0], [2, 0, 0], [0, 0, 0]]), LEGEND)
    cultivated = found["classes"][1]
    assert (cultivated["iou"], cultivated["f1"], cultivated["recall"], cultivated["precision"]) == (0, 0, 0, None)
    assert found["mean_pixel_accuracy"] == 0.5


def test_no_pixel_at_all_gives_no_score():
    found = scores(np.zeros((3, 3), int), LEGEND)
    assert all(found[name] is None for name in OVERALL)


def test_kappa_of_two_maps_of_one_class_is_not_defined():
    found = scores(np.diag([7, 0, 0]), LEGEND)
    assert (found["pixel_accuracy"], found["miou"], found["kappa"], found["mcc"]) == (1, 1, None, None)


def test_scores_of_a_map_of_many_pixels_do_not_overflow():
    found = scores(np.full((3, 3), 10**11), LEGEND)
    assert found["kappa"] == pytest.approx(0)
    assert found["miou"] == pytest.approx(1 / 5)


def test_scores_refuse_a_matrix_of_another_size():
    with pytest.raises(ValueError, match="3 classes"):
        scores(np.zeros((2, 2), int), LEGEND)


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 20)))
def test_scores_equal_scikit_learn(confusion):
    found = scores(confusion, LEGEND)
    json.dumps(found, allow_nan=False)
    if not confusion.any():
        return
    pairs = np.repeat(np.indices((3, 3)).reshape(2, 9), confusion.ravel(), axis=1)
    with warnings.catch_warnings():
        # scikit-learn warns where a class is absent, and divides by zero where kappa is not defined.
        warnings.simplefilter("ignore")
        precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
            *pairs, labels=range(3), zero_division=np.nan
        )
        iou = sklearn_metrics.jaccard_score(*pairs, labels=range(3), average=None)
        kappa = sklearn_metrics.cohen_kappa_score(*pairs, labels=range(3))
        mcc = sklearn_metrics.matthews_corrcoef(*pairs)
    for index, entry in enumerate(found["classes"]):
        assert entry["support"] == support[index]
        assert _nan(entry["precision"]) == pytest.approx(precision[index], nan_ok=True)
        assert _nan(entry["recall"]) == pytest.approx(recall[index], nan_ok=True)
        assert entry["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(*(pairs == index)))
        if entry["iou"] is not None:  # where scikit-learn says 0 with a warning
            assert entry["iou"] == pytest.approx(iou[index])
            assert entry["f1"] == pytest.approx(f1[index])
    assert found["pixel_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(*pairs))
    # scikit-learn takes the other way round for two maps of one class: kappa 1 or NaN by version.
    if found["kappa"] is not None:
        assert found["kappa"] == pytest.approx(kappa)
    if found["mcc"] is not None:  # where a map is all of one class scikit-learn says 0
        assert found["mcc"] == pytest.approx(mcc, abs=1e-9)
    assert found["mean_pixel_accuracy"] == pytest.approx(np.nanmean(recall))


@settings(max_examples=30)
@given(maps(3))
def test_mean_iou_and_accuracy_equal_torchmetrics(pair):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    reference, predicted = pair
    predicted = np.where(predicted == IGNORE, 0, predicted)  # torchmetrics knows ignored reference pixels only
    if (reference == IGNORE).all():
        return
    found = scores(confusion_matrix(reference, predicted, 3), LEGEND)
    ours = (found["miou"], found["pixel_accuracy"])
    options = {"num_classes": 3, "ignore_index": IGNORE}
    theirs = (
        # The macro average of torchmetrics, too, leaves out what is in neither map.
        classification.MulticlassJaccardIndex(**options, average="macro"),
        classification.MulticlassAccuracy(**options, average="micro"),
    )
    target, preds = torch.from_numpy(reference.astype(np.int64)), torch.from_numpy(predicted.astype(np.int64))
    assert ours == pytest.approx(tuple(float(metric(preds, target)) for metric in theirs), abs=1e-6)


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 50)))
def test_swapping_the_maps_swaps_precision_and_recall(confusion):
    found, swapped = scores(confusion, LEGEND), scores(confusion.T, LEGEND)
    for one, other in zip(found["classes"], swapped["classes"], strict=True):
        assert (one["iou"], one["f1"], one["precision"], one["recall"], one["support"], one["predicted"]) == (
            other["iou"], other["f1"], other["recall"], other["precision"], other["predicted"], other["support"]
        )  # fmt: skip
    assert _nan(found["kappa"]) == pytest.approx(_nan(swapped["kappa"]), nan_ok=True)


@given(arrays(np.int64, 3, elements=st.integers(1, 50)))
def test_a_perfect_map_scores_one(diagonal):
    found = scores(np.diag(diagonal), LEGEND)
    assert [found[name] for name in OVERALL] == pytest.approx([1] * 6)


# --- the mean over chips


def test_chip_mean_by_hand():
    chips = np.array([
        [[6, 2, 0], [2, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 9, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ])  # fmt: skip
    found = chip_mean(class_counts(chips), LEGEND)
    background, cultivated, water = found["classes"]
    assert background["iou"] == pytest.approx(6 / 10)
    assert cultivated["iou"] == pytest.approx((0 + 1) / 2)
    assert water["iou"] == 1
    assert found["miou"] == pytest.approx(((6 / 10 + 0) / 2 + 1) / 2)
    assert found["pixel_accuracy"] == pytest.approx((6 / 10 + 1) / 2)
    assert (cultivated["support"], cultivated["predicted"]) == (11, 11)
    assert list(found) == ["classes", *OVERALL]


def test_chip_mean_of_no_chip():
    found = chip_mean(np.zeros((0, 3, 3)), LEGEND)
    assert all(found[name] is None for name in OVERALL)


@given(confusions)
def test_chip_mean_of_one_chip_is_its_score(chips):
    pooled = scores(chips[0], LEGEND)
    del pooled["confusion"]
    assert chip_mean(class_counts(chips[:1]), LEGEND) == pooled


@given(confusions, st.randoms(use_true_random=False))
def test_the_order_of_chips_does_not_matter(chips, random):
    order = random.sample(range(len(chips)), len(chips))
    one, other = chip_mean(class_counts(chips), LEGEND), chip_mean(class_counts(chips[order]), LEGEND)
    for name in OVERALL:
        assert _nan(one[name]) == pytest.approx(_nan(other[name]), nan_ok=True)
    assert scores(chips.sum(axis=0), LEGEND) == scores(chips[order].sum(axis=0), LEGEND)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
