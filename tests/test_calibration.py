"""Calibration against torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from geoseg.calibration import (
    calibration_scores,
    count_confidence,
    count_shares,
    curve_scores,
    reliability,
    threshold_curves,
)
from geoseg.legend import IGNORE

STEPS = 250


def _answers(seed: int, pixels: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference (1, pixels), shares in steps (classes, 1, pixels), and predicted classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (classes, 1, pixels))
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    reference = (rng.random(pixels) > np.cumsum(shares, axis=0)[:, 0]).sum(axis=0).clip(0, classes - 1)[None]
    return reference.astype(np.uint8), np.rint(shares * STEPS).astype(np.uint8), shares.argmax(axis=0).astype(np.uint8)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_calibration_error_equals_torchmetrics(seed):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    reference, shares, predicted = _answers(seed)
    confidence = shares.max(axis=0)
    counts = count_confidence(reference, predicted, confidence, STEPS)
    # 7 bins: no step lies on the border of two of them, but 0 and 1.
    ours = calibration_scores(counts, bins=7)["ece"]
    # Of a pair of classes torchmetrics takes the probability of the second for the confidence.
    theirs = functional.binary_calibration_error(
        torch.from_numpy(confidence.ravel() / STEPS),
        torch.from_numpy((reference == predicted).ravel().astype(int)),
        n_bins=7,
    )
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_curves_equal_scikit_learn(seed, pixels):
    reference, shares, _ = _answers(seed, pixels)
    found = curve_scores(count_shares(reference, shares, STEPS))
    for index in range(3):
        true = (reference == index).ravel()
        if not true.any() or true.all():
            assert np.isnan(found["auc"][index])
            assert true.any() or np.isnan(found["average_precision"][index])
            continue
        probability = shares[index].ravel() / STEPS
        assert found["auc"][index] == pytest.approx(sklearn_metrics.roc_auc_score(true, probability))
        expected = sklearn_metrics.average_precision_score(true, probability)
        assert found["average_precision"][index] == pytest.approx(expected)


def test_curves_by_hand():
    reference = np.array([[1, 1, 0, 0, IGNORE]], np.uint8)
    shares = np.array([[[0, 2, 1, 4, 4]], [[4, 2, 3, 0, 0]]], np.uint8)  # in steps of 1/4
    curves = threshold_curves(count_shares(reference, shares, 4))
    assert curves["recall"][:, 1].tolist() == [1, 1, 1, 0.5, 0.5]
    assert curves["precision"][:, 1].tolist() == [0.5, 2 / 3, 2 / 3, 0.5, 1]
    assert curves["false_positive_rate"][:, 1].tolist() == [1, 0.5, 0.5, 0.5, 0]


def test_a_model_that_is_right_as_often_as_it_says_has_no_error_and_one_that_is_not_is_told():
    confidence = np.repeat(np.array([50, 200], np.uint8), 10)[None]
    right = np.zeros(20, np.uint8)
    right[[0, 1, *range(10, 18)]] = 1  # 2 of 10 at 0.2, 8 of 10 at 0.8
    counts = count_confidence(right[None], np.ones((1, 20), np.uint8), confidence, STEPS)
    scores = calibration_scores(counts)
    assert scores["ece"] == pytest.approx(0)
    assert scores["overconfidence"] == pytest.approx(0)
    counts = count_confidence(np.ones((1, 20), np.uint8), np.ones((1, 20), np.uint8), confidence, STEPS)
    scores = calibration_scores(counts)
    assert scores["ece"] == pytest.approx(0.5)
    assert scores["overconfidence"] == pytest.approx(-0.5)


def test_pixels_of_unknown_confidence_or_reference_do_not_count():
    reference = np.array([[0, IGNORE, 0]], np.uint8)
    counts = count_confidence(reference, np.zeros((1, 3), np.uint8), np.array([[255, 100, 250]], np.uint8), STEPS)
    assert counts.sum(axis=1).tolist() == [1, 1]
    curve = reliability(counts)
    assert curve["pixels"][-1] == 1
    assert np.isnan(curve["accuracy"][0])
    assert np.isnan(calibration_scores(counts * 0)["ece"])


def test_sums_over_blocks_score_as_all_pixels_at_once():
    parts = [_answers(seed) for seed in range(3)]
    whole = [np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)]
    confidence = sum(count_confidence(r, p, s.max(axis=0), STEPS) for r, s, p in parts)
    assert calibration_scores(confidence) == calibration_scores(
        count_confidence(whole[0], whole[2], whole[1].max(axis=0), STEPS)
    )
    shares = sum(count_shares(r, s, STEPS) for r, s, _ in parts)
    np.testing.assert_array_equal(shares, count_shares(whole[0], whole[1], STEPS))
