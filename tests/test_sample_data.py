"""The sample data are what their README says: two scenes, labels that fit them, and no shortcut by colour."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize

SAMPLES = Path(__file__).parent.parent / "sample_data"


def _load_script():
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLES / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_sample = _load_script()
SMALL = make_sample.SCENES[1]._replace(height=150, width=170)
each_scene = pytest.mark.parametrize("scene", make_sample.SCENES, ids=lambda scene: f"scene{scene.suffix}")


def _read(scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (bands, rows, cols) float, valid and cultivated (rows, cols) bool, from the committed files."""
    with rasterio.open(SAMPLES / f"scene{scene.suffix}.tif") as file:
        pixels, valid = file.read().astype(float), file.dataset_mask() > 0
        labels = gpd.read_file(SAMPLES / f"labels{scene.suffix}.gpkg").to_crs(file.crs)
        return pixels, valid, rasterize(labels.geometry, file.shape, transform=file.transform) == 1


def _best_threshold_miou(values: np.ndarray, cultivated: np.ndarray) -> float:
    """The best mIoU of `values > t` and of `values <= t` over 1000 thresholds t."""
    edges = np.quantile(values, np.linspace(0, 1, 1001))
    crop_below, other_below = (np.cumsum(np.histogram(values[kind], edges)[0]) for kind in (cultivated, ~cultivated))
    crop, other = cultivated.sum(), (~cultivated).sum()
    above = (crop - crop_below) / (crop + other - other_below) + other_below / (other + crop_below)
    below = crop_below / (crop + other_below) + (other - other_below) / (other + crop - crop_below)
    return float(max(above.max(), below.max()) / 2)


@each_scene
def test_scene_is_as_described(scene):
    with rasterio.open(SAMPLES / f"scene{scene.suffix}.tif") as file:
        assert file.descriptions == ("blue", "green", "red", "nir")
        assert set(file.dtypes) == {"uint16"}
        assert file.nodata == 0
        assert file.shape == (scene.height, scene.width)
        assert file.crs.to_epsg() == 32631
        assert file.transform == scene.transform
        assert file.block_shapes == [(256, 256)] * 4
        pixels = file.read()
    nodata = pixels == 0
    assert (nodata == nodata[0]).all()  # all bands or none
    assert 0.01 < nodata.mean() < 0.05
    assert pixels.max() < 10_000


@each_scene
def test_labels_fit_their_scene(scene):
    labels = gpd.read_file(SAMPLES / f"labels{scene.suffix}.gpkg")
    assert labels.crs.to_epsg() == 4326
    assert set(labels["class"]) == {"cultivated"}
    assert labels.is_valid.all()
    assert set(labels.geom_type) == {"Polygon"}
    _, valid, cultivated = _read(scene)
    assert 0.45 < cultivated[valid].mean() < 0.65
    assert cultivated[~valid].any()  # labels go on where the sensor did not look


@each_scene
def test_outlines_lie_on_the_edges_seen_in_the_image(scene):
    """The change across an outline is strongest when the labels are where they are, not a pixel to any side."""
    pixels, valid, cultivated = _read(scene)
    change = np.abs(np.diff(pixels, axis=2)).sum(axis=0)
    outline = np.diff(cultivated, axis=1)
    seen = {}
    for down, right in [(0, 0), (0, 1), (0, -1), (0, 2), (0, -2)]:
        moved = np.roll(outline, (down, right), axis=(0, 1)) & valid[:, 1:] & valid[:, :-1]
        seen[down, right] = change[moved].mean()
    assert max(seen, key=seen.get) == (0, 0)
    assert seen[0, 0] > 1.5 * max(seen[0, 2], seen[0, -2])


@each_scene
def test_no_threshold_on_one_band_or_on_ndvi_finds_the_fields(scene):
    pixels, valid, cultivated = _read(scene)
    bands = pixels[:, valid]
    ndvi = (bands[3] - bands[2]) / (bands[3] + bands[2])
    scores = [_best_threshold_miou(values, cultivated[valid]) for values in (*bands, ndvi)]
    assert 0.2 < max(scores) < 0.55


def test_threshold_search_finds_a_threshold_that_exists(rng):
    cultivated = rng.random(5000) < 0.4
    values = cultivated + rng.uniform(0, 0.9, 5000)
    assert _best_threshold_miou(values, cultivated) > 0.99
    assert _best_threshold_miou(-values, cultivated) > 0.99


def test_everything_committed_stays_below_5_mb():
    names = [
        f"{kind}{scene.suffix}.{end}"
        for scene in make_sample.SCENES
        for kind, end in (("scene", "tif"), ("labels", "gpkg"))
    ]
    assert sum((SAMPLES / name).stat().st_size for name in names) < 5_000_000


def test_same_seed_makes_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        make_sample.make_scene(SMALL, tmp_path / folder)
    for name in ("scene_to_predict.tif", "labels_to_predict.gpkg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    make_sample.make_scene(SMALL._replace(seed=SMALL.seed + 1), tmp_path / "other")
    other = (tmp_path / "other" / "scene_to_predict.tif").read_bytes()
    assert other != (tmp_path / "first" / "scene_to_predict.tif").read_bytes()


def test_crops_lie_on_nothing_else():
    patches = make_sample.draw_map(np.random.default_rng(3), SMALL)
    is_crop = [cover in make_sample.CROPS for _, cover in patches]
    assert is_crop == sorted(is_crop)  # painted last, so that what is labelled is what is seen
    crops = shapely.union_all([shape for shape, cover in patches if cover in make_sample.CROPS])
    others = shapely.union_all([shape for shape, cover in patches if cover not in make_sample.CROPS])
    assert crops.area > 0
    assert crops.intersection(others).area < 0.002 * crops.area


def test_rows_run_along_their_parcel(rng):
    """A texture that is stripes only changes across the bearing and hardly along it."""
    striped = make_sample.Cover((0, 0), (0, 0), rows=1.0)
    ids = np.zeros((120, 120), int)
    eastwards = make_sample.texture(rng, [striped], np.array([0.0]), ids)
    along, across = (np.abs(np.diff(eastwards, axis=axis)).mean() for axis in (1, 0))
    assert across > 5 * along
