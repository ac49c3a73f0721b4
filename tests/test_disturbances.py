"""Disturbances change the values they speak of, by as much as they say, and nothing else."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from geoseg.disturbances import DISTURBANCES, Disturbance, Kind, recolour, resample
from geoseg.spec import BandStatistics, ImageSpec, scale_bands


def spec(*stds, p99=300.0):
    """What `recolour` needs to know of bands with these standard deviations."""
    statistics = [BandStatistics(100.0, std, 0.0, 400.0, 10.0, p99) for std in stds]
    count = range(1, len(stds) + 1)
    bands = scale_bands(statistics, names=[f"band_{number}" for number in count], sources=count,
                        dtypes=["uint16"] * len(stds), nodata=[0.0] * len(stds))  # fmt: skip
    return ImageSpec(bands, len(stds), 30.0, 64)


def test_the_list_has_every_kind_and_no_name_twice():
    assert {disturbance.kind for disturbance in DISTURBANCES} == set(get_args(Kind))
    assert len({disturbance.name for disturbance in DISTURBANCES}) == len(DISTURBANCES)


RECOLOURING = [disturbance for disturbance in DISTURBANCES if disturbance.kind not in ("shift", "scale")]


@pytest.mark.parametrize("disturbance", RECOLOURING, ids=lambda entry: entry.name)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_not_valid_stays_and_what_is_valid_keeps_to_the_range(rng, disturbance, dtype):
    limits = np.iinfo(dtype) if dtype != "float32" else np.finfo(dtype)
    ends = [limits.min, 1, 100, limits.max]
    pixels = rng.choice(np.array(ends, dtype), (2, 30, 30))
    valid = rng.random((30, 30)) > 0.3
    if dtype == "float32":
        pixels[0, ~valid] = np.nan
    given = pixels.copy()
    disturbed = recolour(pixels, valid, disturbance, spec(30.0, 50.0), np.random.default_rng(0))
    assert (disturbed.dtype, disturbed.shape) == (dtype, (2, 30, 30))
    np.testing.assert_array_equal(pixels, given)
    np.testing.assert_array_equal(disturbed[:, ~valid], given[:, ~valid])
    assert np.isfinite(disturbed[:, valid]).all()
    # Nothing wraps around: low stays low and high stays high.
    low, high = (disturbed[:, valid][given[:, valid] == end].astype(float) for end in (limits.min, limits.max))
    assert low.max() < high.min()


def test_haze_draws_values_to_the_airlight(rng):
    pixels, valid = rng.integers(0, 400, (1, 20, 20)).astype(np.float32), np.ones((20, 20), bool)
    haze = Disturbance("", "haze", 0.3)
    found = recolour(pixels, valid, haze, spec(30.0, p99=300.0), rng)
    np.testing.assert_allclose(found, 0.7 * pixels + 0.3 * 300, rtol=1e-6)
    assert found.std() == pytest.approx(0.7 * pixels.std(), rel=1e-5)  # less contrast


def test_noise_and_offsets_are_in_standard_deviations_of_their_band(rng):
    pixels, valid = np.full((3, 200, 200), 100.0, np.float32), np.ones((200, 200), bool)
    image = spec(10.0, 20.0, 0.0)
    noise = recolour(pixels, valid, Disturbance("", "noise", 0.3), image, rng) - pixels
    np.testing.assert_allclose(noise.std(axis=(1, 2)), [3, 6, 0], rtol=0.02)
    np.testing.assert_allclose(noise.mean(axis=(1, 2)), 0, atol=0.1)
    signs = set()
    for seed in range(20):
        offset = recolour(pixels, valid, Disturbance("", "offset", 0.3), image, np.random.default_rng(seed)) - pixels
        assert (offset == offset[:, :1, :1]).all()
        np.testing.assert_allclose(abs(offset[:, 0, 0]), [3, 6, 0], rtol=1e-5)
        signs.add(tuple(np.sign(offset[:2, 0, 0])))
    assert len(signs) == 4


def test_larger_pixels_are_means_and_smaller_ones_bilinear(rng):
    pixels, valid = rng.normal(100, 30, (2, 12, 18)).astype(np.float32), np.ones((12, 18), bool)
    twice, _ = resample(pixels, valid, 2.0)
    np.testing.assert_allclose(twice, pixels.reshape(2, 6, 2, 9, 2).mean(axis=(2, 4)), rtol=1e-6)
    half_again, _ = resample(pixels, valid, 1.5)  # a third of what each pixel would be as 2 x 2
    np.testing.assert_allclose(
        half_again, np.kron(pixels, np.ones((2, 2))).reshape(2, 8, 3, 12, 3).mean(axis=(2, 4)), rtol=1e-6
    )
    for times, size in ((0.5, (24, 36)), (0.67, (18, 27))):
        smooth = F.interpolate(torch.from_numpy(pixels)[None], size, mode="bilinear")[0].numpy()
        np.testing.assert_allclose(resample(pixels, valid, times)[0], smooth, rtol=1e-5)
    assert resample(pixels[:, :1, :1], valid[:1, :1], 2.0)[0].shape == (2, 1, 1)


@pytest.mark.parametrize("times", [0.5, 0.67, 1.5, 2.0, 3.3])
def test_a_resampled_pixel_is_valid_where_all_that_goes_into_it_is(rng, times):
    pixels, valid = np.full((1, 40, 33), 7.0, np.float32), rng.random((40, 33)) > 0.1
    pixels[:, ~valid] = np.nan
    found, known = resample(pixels, valid, times)
    np.testing.assert_allclose(found[:, known], 7, rtol=1e-6)
    assert 0 < known.mean() < 1
    # Ones where a pixel goes in: their mean is 1 only where no zero does.
    mean, _ = resample(valid[None].astype(np.float64), np.ones(valid.shape, bool), times)
    np.testing.assert_array_equal(known, mean[0] > 1 - 1e-6)


def test_whole_numbers_are_rounded(rng):
    pixels = np.array([[[1, 2], [2, 2]]], np.uint8)
    assert resample(pixels, np.ones((2, 2), bool), 2.0)[0].tolist() == [[[2]]]
    assert resample(np.full((1, 9, 9), 255, np.uint8), np.ones((9, 9), bool), 1.5)[0].min() == 255
