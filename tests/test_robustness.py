"""Disturbances of chips, with networks whose answers can be computed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from geoseg.chips import Chip
from geoseg.legend import IGNORE, make_legend
from geoseg.predictor import Prediction
from geoseg.robustness import DISTURBANCES, Disturbance, _change, _resample, measure_robustness, weakest
from geoseg.spec import Band, BandStatistics, ImageSpec

LEGEND = make_legend([0, 1], ["other", "crop"])


def image(bands: int = 2) -> ImageSpec:
    facts = BandStatistics(mean=1000, std=100, min=0, max=4000, p1=500, p99=2000)
    band = Band("b", 1, "uint16", 0, 1000, 100, (0, 4000), facts)
    return ImageSpec(tuple(replace(band, name=f"b{n}", source=n + 1) for n in range(bands)), bands, 10, 64, "dataset")


class Bright:
    """Says crop where the first band is above 1000; where it `looks_at` places, where it is in the upper half instead."""

    def __init__(self, looks_at_places: bool = False) -> None:
        self._places = looks_at_places

    def __call__(self, windows):
        found = []
        for pixels, valid in windows:
            said = np.arange(len(valid))[:, None] < len(valid) / 2 if self._places else pixels[0] > 1000
            indices = np.where(valid, np.broadcast_to(said, valid.shape), IGNORE).astype(np.uint8)
            found.append(Prediction(indices, indices))
        return found


class Folder:
    """Chips in memory."""

    legend = LEGEND

    def __init__(self, contents: dict) -> None:
        self.contents, self.image = contents, image()

    def read(self, chip: Chip):
        return self.contents[chip.name]


def make_folder(rng: np.random.Generator, sizes=((64, 64), (64, 64), (80, 96))) -> tuple[Folder, list[Chip]]:
    chips, contents = [], {}
    for number, size in enumerate(sizes):
        chip = Chip("scene", 0, 64 * number, "test", number, 1.0, (1, 1))
        pixels = rng.integers(600, 1500, (2, *size)).astype(np.uint16)
        valid = np.ones(size, bool)
        valid[:5, :7] = False
        pixels[:, ~valid] = 65535
        mask = np.where(valid, pixels[0] > 1000, IGNORE).astype(np.uint8)
        chips.append(chip)
        contents[chip.name] = (pixels, valid, mask)
    return Folder(contents), chips


def rows_of(folder, chips, predictor=None, batch_size=2, seed=0):
    rows = measure_robustness(predictor or Bright(), folder, chips, batch_size=batch_size, seed=seed)
    return {(row["kind"], row["strength"]): row for row in rows}


def test_a_network_of_pixels_does_not_mind_where_a_window_begins(rng):
    rows = rows_of(*make_folder(rng))
    for by in (8, 32):
        assert rows["shift", by]["agreement"] == 1
        assert rows["shift", by]["miou"] == 1
        assert rows["shift", by]["miou_change"] == 0


def test_a_network_of_places_does(rng):
    folder, chips = make_folder(rng, ((64, 64),))
    row = rows_of(folder, chips, Bright(looks_at_places=True))["shift", 8]
    # Windows of 56 rows: of the 48 rows that both see, the first calls 20 crop and the second 28.
    assert row["agreement"] == pytest.approx(1 - 8 / 48)


def test_a_gain_flips_the_pixels_that_it_lifts_over_the_threshold(rng):
    folder, chips = make_folder(rng)
    row = rows_of(folder, chips)["gain", 1.2]
    flipped = total = 0
    for pixels, valid, _ in folder.contents.values():
        before = pixels[0][valid]
        flipped += ((np.rint(before * 1.2) > 1000) & (before <= 1000)).sum()
        total += valid.sum()
    assert row["agreement"] == pytest.approx(1 - flipped / total)
    assert row["miou_change"] == pytest.approx(row["miou"] - 1)
    assert row["classes"][1]["iou_change"] < 0


def test_haze_and_offsets_by_hand(rng):
    pixels = np.full((2, 3, 3), 1000, np.uint16)
    hazy = _change(Disturbance("haze", 0.25), pixels, image(), rng)
    assert (hazy == 1250).all()
    moved = _change(Disturbance("offset", 0.5), pixels, image(), rng)
    assert {950, 1050} >= set(np.unique(moved))
    assert all(len(np.unique(band)) == 1 for band in moved)
    noisy = _change(Disturbance("noise", 0.25), np.full((1, 200, 200), 1000, np.uint16), image(1), rng)
    assert noisy.std() == pytest.approx(25, rel=0.05)


def test_values_stay_within_their_type(rng):
    pixels = np.array([[[0, 65535]]], np.uint16)
    assert _change(Disturbance("gain", 1.2), pixels, image(1), rng).tolist() == [[[0, 65535]]]
    for kind in ("noise", "haze", "offset"):
        assert _change(Disturbance(kind, 0.25), pixels, image(1), rng).dtype == np.uint16


def test_larger_pixels_are_means_and_invalid_ones_do_not_get_in(rng):
    pixels = rng.integers(0, 1000, (1, 8, 8)).astype(np.uint16)
    valid = np.ones((8, 8), bool)
    valid[0, 0], pixels[0, 0, 0] = False, 65535
    coarse, known = _resample(pixels, valid, 2)
    means = pixels[0].reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(coarse[0].astype(float) - means)[known].max() <= 0.5
    assert known.sum() == 15
    assert not known[0, 0]
    fine, known = _resample(np.full((1, 4, 4), 7, np.uint16), np.ones((4, 4), bool), 0.5)
    assert fine.shape == (1, 8, 8)
    assert (fine == 7).all()
    assert known.all()


def test_blocks_of_two_pixels_survive_pixels_twice_as_large(rng):
    pixels = np.kron(rng.integers(600, 1500, (1, 32, 32)), np.ones((1, 2, 2))).astype(np.uint16)
    valid = np.ones((64, 64), bool)
    chip = Chip("s", 0, 0, "test", 0, 1.0, (1, 1))
    folder = Folder({chip.name: (pixels, valid, (pixels[0] > 1000).astype(np.uint8))})
    assert rows_of(folder, [chip])["scale", 2]["agreement"] == 1


def test_neither_batches_nor_their_order_matter_and_the_seed_does(rng):
    folder, chips = make_folder(rng)
    one = rows_of(folder, chips, batch_size=1)
    assert one == rows_of(folder, chips, batch_size=3) == rows_of(folder, chips[::-1], batch_size=2)
    other = rows_of(folder, chips, seed=1)
    assert one["noise", 0.25] != other["noise", 0.25]
    assert one["gain", 0.9] == other["gain", 0.9]


def test_rows_can_be_written_and_a_chip_too_small_to_shift_gives_none(rng):
    rows = measure_robustness(Bright(), *make_folder(rng, ((20, 20),)), batch_size=1, seed=0)
    assert len(rows) == len(DISTURBANCES)
    json.dumps(rows, allow_nan=False)
    by_kind = {(row["kind"], row["strength"]): row for row in rows}
    assert by_kind["shift", 32]["agreement"] is None
    assert by_kind["shift", 8]["agreement"] == 1
    assert "shift" not in weakest([by_kind["shift", 32], by_kind["gain", 1.2]])


def test_the_weakest_comes_first(rng):
    rows = [
        {"name": "a little", "kind": "gain", "agreement": 0.99}, {"name": "a lot", "kind": "haze", "agreement": 0.7},
        {"name": "less", "kind": "haze", "agreement": 0.9},
    ]  # fmt: skip
    assert weakest(rows) == "a lot: 30.0 % of pixels change their class; a little: 1.0 % of pixels change their class"
