"""Comparison of two maps: differences by hand, and tests against statsmodels' formulas and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geoseg.comparison import count_disagreement, mcnemar, score_differences
from geoseg.legend import IGNORE, make_legend
from geoseg.metrics import class_counts, pixel_scores, scores

TWO = make_legend([0, 1])


def test_disagreement_by_hand():
    reference = np.array([0, 0, 1, 1, 1, IGNORE], np.uint8)
    predicted = np.array([0, 1, 1, 0, 1, 0], np.uint8)
    other = np.array([0, 0, 0, 0, IGNORE, 0], np.uint8)
    assert count_disagreement(reference, predicted, other).tolist() == [1, 1, 4]


def test_differences_are_those_of_the_scores_and_equal_maps_differ_by_nothing(rng):
    one, other = rng.integers(1, 50, (2, 12, 2, 2))
    found = score_differences(class_counts(one), class_counts(other), pixel_scores, TWO, samples=200, seed=0)
    lead = scores(one.sum(axis=0), TWO)["miou"] - scores(other.sum(axis=0), TWO)["miou"]
    assert found["difference"]["miou"] == pytest.approx(lead)
    low, high = found["intervals"]["miou"]
    assert low < lead < high
    same = score_differences(class_counts(one), class_counts(one), pixel_scores, TWO, samples=50, seed=0)
    assert same["intervals"]["classes"][1]["iou"] == [0, 0]


def test_a_paired_difference_is_surer_than_two_intervals(rng):
    # Blocks that are hard for both: their scores vary a lot, the lead of the first hardly.
    hits = rng.integers(200, 900, 40)
    blocks = np.array([[[h, 1000 - h], [1000 - h, h]] for h in hits])
    better = np.array([[[h + 20, 980 - h], [980 - h, h + 20]] for h in hits])
    found = score_differences(class_counts(better), class_counts(blocks), pixel_scores, TWO, samples=500, seed=0)
    low, high = found["intervals"]["pixel_accuracy"]
    assert (low, high) == (pytest.approx(0.02), pytest.approx(0.02))


def test_a_class_of_one_block_has_no_interval(rng):
    counts = rng.integers(5, 50, (6, 3, 3))
    counts[1:, :, 2] = counts[1:, 2, :] = 0
    other = counts + rng.integers(0, 5, counts.shape) * (counts > 0)
    found = score_differences(
        class_counts(counts), class_counts(other), pixel_scores, make_legend([0, 1, 2]), samples=50, seed=0
    )
    first, _, rare = found["intervals"]["classes"]
    assert first["iou"] is not None
    assert rare["iou"] is None


def test_mcnemar_by_hand():
    found = mcnemar(np.array([[30, 10, 500]]))
    # Obuchowski's: (sum of leads) squared over K / (K - 1) times the sum of their squares.
    assert mcnemar(np.array([[30, 20, 500]] * 10))["blocks"]["statistic"] == pytest.approx(
        100**2 / (10 / 9 * 10 * 10**2)
    )
    assert (found["only_first"], found["only_other"]) == (30, 10)
    assert found["pixels"]["statistic"] == 400 / 40
    assert found["pixels"]["p"] == pytest.approx(math.erfc(math.sqrt(5)))
    assert found["blocks"] == {"statistic": None, "p": None}  # a single block tells nothing of others
    assert mcnemar(np.array([[0, 0, 9], [0, 0, 9]]))["pixels"] == {"statistic": None, "p": None}


@pytest.mark.parametrize("blocks", [6, 30])
def test_the_test_of_blocks_holds_its_level_where_that_of_pixels_does_not(rng, blocks):
    """Two maps that are equally good, but whose errors come in fields of 50 pixels."""
    by_pixels, by_blocks = [], []
    for _ in range(400):
        fields = rng.integers(0, 3, (blocks, 8))  # per block eight fields: both right, only the first, only the other
        counts = np.stack([(fields == 1).sum(axis=1), (fields == 2).sum(axis=1), np.full(blocks, 8)], axis=1) * 50
        found = mcnemar(counts)
        by_pixels.append(found["pixels"]["p"] < 0.05)
        by_blocks.append((found["blocks"]["p"] or 1) < 0.05)
    assert np.mean(by_pixels) > 0.5
    assert np.mean(by_blocks) < 0.075
    assert blocks < 30 or np.mean(by_blocks) > 0.02
