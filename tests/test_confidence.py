"""Confidence of polygons: the mean and the 5th percentile over their pixels, wherever these lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_sweep import SIDES, components, label_maps, swept, whole

import geoseg.confidence
from geoseg.confidence import Confidence, ConfidenceRaster
from geoseg.errors import RasterError
from geoseg.scenes import describe_scene

WriteScene = Callable[..., Path]

LABELS = np.array([[0, 1, 1, 2], [0, 1, 0, 2], [1, 0, 0, 255]], np.uint8)


@pytest.fixture
def classes(write_scene: WriteScene) -> Path:
    return write_scene("a_classes.tif", LABELS, nodata=255)


def write_steps(write_scene: WriteScene, name: str, stored: np.ndarray) -> Path:
    """As geoseg writes it: in steps of 1/250."""
    path = write_scene(name, stored, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (1 / 250,)
    return path


def confidence_of(path: Path, classes: Path, labels: np.ndarray = LABELS, **options: int) -> Confidence:
    """Of the features of class 1 and 2."""
    (finished,) = swept(labels, classes=(1, 2), **options)
    with ExitStack() as stack:
        return ConfidenceRaster(path, describe_scene(classes), stack).of(finished)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_only_valid_pixels_count(classes: Path, write_scene: WriteScene, connectivity: int) -> None:
    stored = np.array([[0, 100, 200, 250], [0, 255, 0, 0], [50, 0, 0, 0]], np.uint8)
    path = write_steps(write_scene, "c.tif", stored)
    found = confidence_of(path, classes, connectivity=connectivity)
    means = [150, 125, 50] if connectivity == 4 else [125, 350 / 3]
    assert found.mean == pytest.approx(np.array(means) / 250)
    assert found.low == pytest.approx(np.array([100, 0, 50] if connectivity == 4 else [0, 50]) / 250)


def test_confidence_may_be_a_share_with_nan(classes: Path, write_scene: WriteScene) -> None:
    shares = np.full(LABELS.shape, 0.3, np.float32)
    shares[0, 1:] = np.nan, 0.5, np.nan
    found = confidence_of(write_scene("c.tif", shares), classes)
    assert found.mean == pytest.approx([0.4, 0.3, 0.3], abs=1e-7)
    assert found.low == pytest.approx([0.3, 0.3, 0.3], abs=1e-7)


def test_confidence_that_does_not_fit_is_refused(classes: Path, write_scene: WriteScene) -> None:
    with pytest.raises(
        RasterError,
        match=r"c\.tif: another grid \(3 x 5 pixels.* found; one band on the grid of a_classes\.tif \(3 x 4",
    ):
        confidence_of(write_scene("c.tif", np.zeros((3, 5), np.uint8)), classes)
    with pytest.raises(RasterError, match=r"d\.tif: 2 bands found"):
        confidence_of(write_scene("d.tif", np.zeros((2, *LABELS.shape), np.uint8)), classes)
    with pytest.raises(RasterError, match=r"e\.tif: values from 200 to 200 found; confidence goes from 0 to 1"):
        confidence_of(write_scene("e.tif", np.full(LABELS.shape, 200, np.uint8)), classes)
    with pytest.raises(RasterError, match=r"f\.tif: values from -0\.5 to -0\.5 found"):
        confidence_of(write_scene("f.tif", np.full(LABELS.shape, -0.5, np.float32)), classes)


def test_confidence_may_be_unknown_everywhere(classes: Path, write_scene: WriteScene) -> None:
    found = confidence_of(write_scene("c.tif", np.full(LABELS.shape, 255, np.uint8), nodata=255), classes)
    assert np.isnan(found.mean).all()
    assert np.isnan(found.low).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label_maps(), st.integers(0, 2**32 - 1))
def test_mean_and_percentile_are_those_of_the_pixels(write_scene: WriteScene, labels: np.ndarray, seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 251, labels.shape).astype(np.uint8)
    scene, path = write_scene("a.tif", labels), write_steps(write_scene, "c.tif", stored)
    finished, numbers = whole(labels), components(labels, SIDES)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(geoseg.confidence, "_FEATURES", 5)
        patch.setattr(geoseg.confidence, "_PIXELS", 16)
        found = ConfidenceRaster(path, describe_scene(scene), stack).of(finished)
    for number in range(numbers.max() + 1):
        values = stored[numbers == number]
        assert found.mean[number] == pytest.approx(values.mean() / 250)
        assert found.low[number] == np.quantile(values, 0.05, method="inverted_cdf") / 250
