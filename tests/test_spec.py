"""Scaling by hand, and streamed statistics against numpy on everything at once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.spec import Band, BandStatistics, ImageSpec, StatisticsSum, scale_bands

FACTS = BandStatistics(mean=100, std=20, min=10, max=200, p1=20, p99=180)


def bands(statistics=(FACTS,), dtype="uint16", **options):
    count = len(statistics)
    names, sources = [f"band_{i + 1}" for i in range(count)], range(1, count + 1)
    return scale_bands(
        statistics, names=names, sources=sources, dtypes=[dtype] * count, nodata=[None] * count, **options
    )


def spec(*chosen: Band) -> ImageSpec:
    return ImageSpec(bands=chosen, source_count=7, pixel_size_m=10, chip_size=256)


# --- scaling


def test_dataset_scaling_is_the_mean_and_standard_deviation_clipped_a_deviation_beyond_the_range():
    (band,) = bands()
    assert (band.offset, band.scale, band.clip) == (100, 20, (-10, 220))
    found = spec(band).normalise(np.array([[[100, 120, 60, 220, 65535]]], np.uint16), np.ones((1, 5), bool))
    assert found.dtype == np.float32
    assert found.tolist() == [[[0, 1, -2, 6, 6]]]


def test_percentile_scaling_goes_from_0_to_1_and_clips():
    (band,) = bands(scaling="percentile")
    found = spec(band).normalise(np.array([[[20, 100, 180, 0, 999]]], np.uint16), np.ones((1, 5), bool))
    assert found.tolist() == [[[0, 0.5, 1, 0, 1]]]


@pytest.mark.parametrize(
    ("dtype", "offset", "scale"), [("uint8", 0, 255), ("uint16", 0, 65535), ("int16", 0, 32767), ("float32", 10, 190)]
)
def test_unit_scaling_takes_the_range_of_the_dtype_or_of_the_data(dtype, offset, scale):
    (band,) = bands(dtype=dtype, scaling="unit")
    assert (band.offset, band.scale) == (offset, scale)


@pytest.mark.parametrize("scaling", ["dataset", "percentile", "unit"])
def test_a_constant_band_becomes_zero_whatever_a_new_scene_holds(scaling):
    constant = BandStatistics(mean=7, std=0, min=7, max=7, p1=7, p99=7)
    (band,) = bands([constant], dtype="float32", scaling=scaling)
    found = spec(band).normalise(np.array([[[7, 9, -1e6]]], np.float32), np.ones((1, 3), bool))
    assert found.tolist() == [[[0, 0, 0]]]


def test_bands_are_scaled_each_by_its_own_numbers():
    other = replace(FACTS, mean=50, std=10)
    chosen = bands([FACTS, other])
    assert [band.name for band in chosen] == ["band_1", "band_2"]
    found = spec(*chosen).normalise(np.full((2, 1, 1), 70, np.uint16), np.ones((1, 1), bool))
    assert found.ravel().tolist() == [-1.5, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.7e308, 1e300])
def test_pixels_that_are_not_valid_become_zero_without_a_warning(value):
    pixels, valid = np.array([[[120, value]]]), np.array([[True, False]])
    assert spec(*bands(dtype="float64")).normalise(pixels, valid).tolist() == [[[1, 0]]]


def test_a_spec_names_its_bands_in_the_order_of_the_network():
    chosen = [
        replace(band, source=source, dtype="int16") for band, source in zip(bands([FACTS] * 2), (4, 2), strict=True)
    ]
    assert (spec(*chosen).names, spec(*chosen).sources) == (("band_1", "band_2"), (4, 2))
    assert spec(*chosen).dtypes == ("int16", "int16")


# --- JSON


def test_a_spec_comes_back_from_json_and_leaves_unknown_keys_alone():
    before = ImageSpec(bands(scaling="unit"), source_count=1, pixel_size_m=None, chip_size=64, scaling="unit")
    document = json.loads(json.dumps(before.to_dict(), allow_nan=False))
    document["novelty"] = document["bands"][0]["novelty"] = document["bands"][0]["statistics"]["novelty"] = 1
    assert ImageSpec.from_dict(document) == before
    del document["scaling"]  # as an older file might lack a key that has a default
    assert ImageSpec.from_dict(document).scaling == "dataset"


# --- statistics


@st.composite
def chip_lists(draw):
    count = draw(st.integers(1, 3))
    values = st.floats(-1e4, 1e4, width=32)
    chips = []
    for _ in range(draw(st.integers(1, 4))):
        shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
        chips.append((draw(arrays(np.float32, (count, *shape), elements=values)), draw(arrays(bool, shape))))
    return chips


@given(chip_lists())
def test_streamed_statistics_equal_numpy_on_everything(chips):
    total = StatisticsSum(sample_step=1)
    for pixels, valid in chips:
        total.add(pixels, valid)
    everything = np.concatenate([pixels[:, valid] for pixels, valid in chips], axis=1).astype(np.float64)
    assert total.count == everything.shape[1]
    if not total.count:
        return
    for found, band in zip(total.result(), everything, strict=True):
        assert (found.min, found.max) == (band.min(), band.max())
        assert found.mean == pytest.approx(band.mean(), abs=1e-6)
        assert found.std == pytest.approx(band.std(), rel=1e-6, abs=1e-6)
        assert [found.p1, found.p99] == pytest.approx(np.percentile(band, [1, 99]), rel=1e-5, abs=1e-5)


def test_percentiles_see_all_columns():
    chip = np.full((1, 256, 256), 100)
    chip[..., ::16] = 0
    total = StatisticsSum()
    total.add(chip, np.ones((256, 256), bool))
    assert (total.result()[0].p1, total.result()[0].p99) == (0, 100)


def test_a_small_spread_on_a_large_level_is_not_lost(rng):
    chips = [1e9 + rng.normal(0, 1, (1, 50, 50)) for _ in range(20)]
    total = StatisticsSum()
    for chip in chips:
        total.add(chip, np.ones((50, 50), bool))
    assert total.result()[0].std == pytest.approx(np.std(chips), rel=1e-6)


def test_pixels_that_are_not_valid_do_not_count():
    total = StatisticsSum()
    total.add(np.array([[[1, 3, -9999, np.nan]]]), np.array([[True, True, False, False]]))
    total.add(np.full((1, 2, 2), np.nan), np.zeros((2, 2), bool))
    (found,) = total.result()
    assert (total.count, found.mean, found.std, found.min, found.max) == (2, 2, 1, 1, 3)


@settings(max_examples=20)
@given(limit=st.integers(80, 400), chips=st.integers(1, 30))
def test_the_sample_stays_small_and_its_percentiles_near(limit, chips):
    total, rng = StatisticsSum(sample_limit=limit, sample_step=1), np.random.default_rng(0)
    for _ in range(chips):
        total.add(rng.uniform(0, 1, (2, 8, 8)), np.ones((8, 8), bool))
        assert sum(sample.shape[1] for sample in total.samples) <= max(limit, 64)
    assert all(0 <= found.p1 < 0.5 < found.p99 <= 1 for found in total.result())


def test_percentiles_of_many_pixels_are_close_to_the_true_ones(rng):
    total = StatisticsSum(sample_limit=20_000)
    chips = [rng.normal(10 * (i % 3), 1, (1, 256, 256)) for i in range(12)]
    for chip in chips:
        total.add(chip, np.ones((256, 256), bool))
    (found,) = total.result()
    assert [found.p1, found.p99] == pytest.approx(np.percentile(chips, [1, 99]), abs=0.1)
