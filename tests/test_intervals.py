"""Intervals of scores: against what is known for means of blocks, and properties that must hold for any counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.intervals import intervals_of, limits, resample, score_intervals
from geoseg.legend import Legend, make_legend
from geoseg.metrics import class_counts, pixel_scores, scores

OVERALL = ("miou", "pixel_accuracy", "mean_pixel_accuracy", "fw_iou", "kappa", "mcc")
PER_CLASS = ("iou", "accuracy", "precision", "recall", "f1")
LEGEND = make_legend([0, 1, 2], ["background", "cultivated", "water"])

confusions = arrays(np.int64, st.tuples(st.integers(1, 6), st.just(3), st.just(3)), elements=st.integers(0, 50))


def bootstrap(blocks: np.ndarray, legend: Legend, samples: int = 1000, seed: int = 0, level: float = 0.95) -> dict:
    """Intervals of pixel scores, of confusion matrices by block."""
    return score_intervals(class_counts(blocks), pixel_scores, legend, samples=samples, seed=seed, level=level)


def _blocks(rng: np.random.Generator, blocks: int) -> np.ndarray:
    """Blocks of 400 pixels and two classes whose accuracy varies from block to block around 0.8."""
    share = rng.uniform(0.7, 0.9, (blocks, 2, 1)) * [1, 0] + [0, 1] * (1 - rng.uniform(0.7, 0.9, (blocks, 2, 1)))
    hits = np.rint(200 * share[..., 0]).astype(int)
    return np.stack([np.stack([hits[:, 0], 200 - hits[:, 0]], 1), np.stack([200 - hits[:, 1], hits[:, 1]], 1)], 1)


TWO = make_legend([0, 1])


def test_intervals_hold_the_scores_and_lie_within_the_blocks(rng):
    blocks = _blocks(rng, 40)
    pooled, found = scores(blocks.sum(axis=0), TWO), bootstrap(blocks, TWO)
    each = [scores(block, TWO) for block in blocks]
    for name in OVERALL:
        low, high = found[name]
        assert min(one[name] for one in each) < low < pooled[name] < high < max(one[name] for one in each)
    for index, entry in enumerate(found["classes"]):
        for name in PER_CLASS:
            assert entry[name][0] < pooled["classes"][index][name] < entry[name][1]
    assert (found["level"], found["samples"], found["blocks"]) == (0.95, 1000, 40)


def test_interval_of_the_accuracy_equals_the_normal_one_for_many_blocks_of_one_size(rng):
    # With blocks of one size the pixel accuracy is a mean over blocks, whose standard error is known.
    blocks = _blocks(rng, 400)
    accuracies = np.trace(blocks, axis1=1, axis2=2) / 400
    reach = 1.96 * accuracies.std() / np.sqrt(400)
    low, high = bootstrap(blocks, TWO, samples=4000)["pixel_accuracy"]
    assert (low, high) == pytest.approx((accuracies.mean() - reach, accuracies.mean() + reach), abs=0.1 * reach)


def test_a_higher_level_is_wider_and_the_seed_decides(rng):
    blocks = _blocks(rng, 30)
    narrow, wide = (bootstrap(blocks, TWO, level=level)["miou"] for level in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert bootstrap(blocks, TWO, seed=1) == bootstrap(blocks, TWO, seed=1)
    assert bootstrap(blocks, TWO, seed=1) != bootstrap(blocks, TWO, seed=2)


def test_equal_blocks_leave_nothing_to_chance():
    found = bootstrap(np.tile([[50, 10], [5, 35]], (8, 1, 1)), TWO, samples=20)
    assert found["pixel_accuracy"] == pytest.approx([0.85, 0.85])


def test_one_block_gives_no_interval():
    found = bootstrap(np.full((1, 2, 2), 9), TWO)
    assert found["blocks"] == 1
    assert all(found[name] is None for name in OVERALL)
    assert all(entry[name] is None for entry in found["classes"] for name in PER_CLASS)


def test_a_class_in_a_single_block_gets_no_interval(rng):
    blocks = np.zeros((20, 3, 3), int)
    blocks[:, :2, :2] = _blocks(rng, 20)
    blocks[4, 2, 2] = 30
    background, _, water = bootstrap(blocks, LEGEND)["classes"]
    assert background["iou"] is not None
    assert water == {"value": 2, "name": "water", **dict.fromkeys(PER_CLASS)}


@settings(max_examples=30)
@given(confusions)
def test_intervals_are_ordered_and_can_be_written(blocks):
    found = bootstrap(blocks, LEGEND, samples=20)
    json.dumps(found, allow_nan=False)
    pairs = [found[name] for name in OVERALL] + [entry[name] for entry in found["classes"] for name in PER_CLASS]
    assert all(pair is None or -1 - 1e-9 <= pair[0] <= pair[1] <= 1 + 1e-9 for pair in pairs)


@pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0}, {"level": 1}, {"level": 95}])
def test_intervals_refuse_senseless_options(options):
    with pytest.raises(ValueError, match="level"):
        bootstrap(np.ones((3, 2, 2), int), TWO, **options)


def test_the_same_blocks_are_drawn_whatever_is_counted(rng):
    counts = rng.integers(0, 50, (12, 3))
    one, other = (resample(part, samples=30, seed=4) for part in (counts, np.column_stack((counts, counts * 2))))
    np.testing.assert_array_equal(one, other[:, :3])
    np.testing.assert_array_equal(2 * one, other[:, 3:])


def test_resampling_gives_sums_of_as_many_blocks_as_there_are():
    drawn = resample(np.ones((7, 2)), samples=10, seed=0)
    assert (drawn == 7).all()


def test_limits_leave_out_what_is_not_defined():
    draws = np.array([[1.0, np.nan], [2, np.nan], [np.nan, np.nan], [3, np.nan]])
    found = limits(draws, level=0.5)
    assert found[0].tolist() == [1.5, 2.5]
    assert np.isnan(found[1]).all()


def test_a_mean_over_classes_is_of_the_same_classes_in_every_draw(rng):
    # Two classes that are mapped well, and one, in a single block of eight, that is not: where a draw has missed that block, the mean
    # of the two is another quantity.
    confusion = np.zeros((8, 3, 3), int)
    confusion[:, [0, 1], [0, 1]] = rng.integers(90, 110, (8, 2))
    confusion[3, 2, 0] = 50
    counts = class_counts(confusion)
    found = intervals_of(counts, pixel_scores, samples=500, seed=0)["mean_pixel_accuracy"]
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3])
