"""A network that stands alone says of raw pixels what the predictor says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenery import lively_weights

from geoseg.bundle import open_bundle, write_bundle
from geoseg.legend import make_legend
from geoseg.models import Architecture
from geoseg.predictor import Predictor
from geoseg.spec import BandStatistics, ImageSpec, scale_bands
from geoseg.standalone import StandaloneNetwork, imagined_windows

FACTS = BandStatistics(mean=50, std=30, min=1, max=99, p1=2, p99=98)


@pytest.fixture
def bundle(tmp_path):
    """A function that makes a bundle: `bundle(nodata, dtype="uint8", one_channel=False, threshold=0.5)`."""

    def make(nodata, dtype="uint8", one_channel=False, threshold=0.5):
        count = len(nodata)
        bands = scale_bands(
            [FACTS] * count, names=[f"b{n}" for n in range(count)], sources=range(1, count + 1), dtypes=[dtype] * count,
            nodata=nodata,
        )  # fmt: skip
        architecture = Architecture("unet", in_channels=count, classes=1 if one_channel else 3, width=2)
        write_bundle(
            tmp_path, lively_weights(architecture), architecture=architecture, image=ImageSpec(bands, count, 10.0, 64),
            legend=make_legend(range(2 if one_channel else 3)), training={}, metrics={}, threshold=threshold,
        )  # fmt: skip
        return open_bundle(tmp_path)

    return make


def run(network, pixels: np.ndarray, unit: float = 1) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.from_numpy((pixels * (1.0 / unit)).astype(np.float32))).numpy()


def expected(bundle, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    shares = Predictor(bundle, device="cpu", precision="fp32").shares(pixels, valid)
    return shares.numpy() * valid[:, None]


@pytest.mark.parametrize("unit", [1, 255])
@pytest.mark.parametrize(
    ("nodata", "dtype"),
    [((None, None), "uint8"), ((0, 0), "uint8"), ((255, 255), "uint8"), ((65_535, 65_535), "uint16"),
     ((-9999, -9999), "float32"), ((None, 0), "int16")],
)  # fmt: skip
def test_it_says_what_the_predictor_says(bundle, nodata, dtype, unit):
    made = bundle(nodata, dtype)
    pixels, valid = imagined_windows(made.image, 2, 48)
    assert valid.all() == (nodata == (None, None))
    pixels[0, :, 40:44, 40:44] = 0 if dtype == "uint8" else 20_000  # far outside what was seen in training
    if nodata[1] == 0:
        valid[0, 40:44, 40:44] &= pixels[0, 1, 40:44, 40:44] != 0
    found = run(StandaloneNetwork(made, unit=unit), pixels, unit)
    np.testing.assert_allclose(found, expected(made, pixels, valid), atol=1e-5)
    assert found[:, 0][valid].std() > 1e-3  # or the scaling would not show


def test_one_dark_band_is_no_nodata_where_nodata_is_0(bundle):
    made = bundle((0, 0))
    pixels, valid = imagined_windows(made.image, 1, 32)
    pixels[0, 0, 20:, 20:] = 0
    found = run(StandaloneNetwork(made), pixels)
    assert found[0, :, 20:, 20:].any(axis=0).all()
    np.testing.assert_allclose(found, expected(made, pixels, valid), atol=1e-5)


def test_nothing_that_is_not_a_number_comes_through(bundle):
    made = bundle((None, None), "float32")
    pixels, valid = imagined_windows(made.image, 1, 32)
    pixels[0, 1, 3, 4], pixels[0, 0, 5, 6] = np.nan, -np.inf
    valid[0, 3, 4] = valid[0, 5, 6] = False
    found = run(StandaloneNetwork(made), pixels)
    assert not found[0, :, 3, 4].any()
    assert not found[0, :, 5, 6].any()
    np.testing.assert_allclose(found, expected(made, pixels, valid), atol=1e-5)


@pytest.mark.parametrize(("alone", "channels"), [(False, 2), (True, 1)])
def test_a_network_with_one_channel(bundle, alone, channels):
    made = bundle((0, 0), one_channel=True, threshold=0.3)
    pixels, valid = imagined_windows(made.image, 1, 32)
    found = run(StandaloneNetwork(made, alone=alone), pixels)
    assert found.shape[1] == channels
    np.testing.assert_allclose(found[:, -1], expected(made, pixels, valid)[:, 1], atol=1e-5)


def test_imagined_windows_hold_what_the_bands_may_hold(bundle):
    made = bundle((7, None), "uint8")
    pixels, valid = imagined_windows(made.image, 3, 40)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 2, 40, 40)
    assert ((pixels[:, 0] == 7) == ~valid).all()
    assert 0.05 < 1 - valid.mean() < 0.12
    assert 30 < pixels[:, 0][valid].mean() < 70
    assert pixels[:, 0][valid].std() > 15
