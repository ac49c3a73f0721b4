"""The whole path on real scenes, which are not part of the project: GEOSEG_REAL_DATA names the folder that holds them.

Run by `make test-all`; takes some minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
import shapely

import geoseg

FOLDER = Path(os.environ.get("GEOSEG_REAL_DATA", "nowhere"))
LANDSAT = FOLDER / "landsat8_nd_2015"

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not LANDSAT.is_dir(), reason="GEOSEG_REAL_DATA does not name a folder with the real scenes"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landsat")
    chips = geoseg.tile(LANDSAT / "nd_a_sr.tif", labels=LANDSAT / "nd_a_classes.tif", out=folder / "chips")
    return geoseg.train(chips, out=folder / "model", epochs=30)


def test_nodata_is_never_learned_from_nor_mapped(model, tmp_path):
    chips = geoseg.tile(LANDSAT / "nd_a_sr.tif", labels=LANDSAT / "nd_a_classes.tif", out=tmp_path / "chips")
    assert chips.image.bands[4].statistics.min > -2001  # the lowest real value; nodata is -9999
    made = geoseg.predict(LANDSAT / "nd_b_sr.tif", model=model, out=tmp_path / "map", polygons=False)[0]
    with rasterio.open(LANDSAT / "nd_b_sr.tif") as scene, rasterio.open(made) as classes:
        assert ((scene.dataset_mask() == 0) == (classes.read(1) == classes.nodata)).all()


def test_a_short_training_beats_a_map_of_one_class(model, tmp_path):
    made = geoseg.predict(LANDSAT / "nd_b_sr.tif", model=model, out=tmp_path / "map")[0]
    found = geoseg.evaluate(made, LANDSAT / "nd_b_classes.tif", out=tmp_path / "report").metrics
    # A map of class 1 alone has an IoU of 0.64 for it. A forest on the pixels has 0.761 and an mIoU of 0.378.
    assert found["classes"][0]["iou"] > 0.72
    assert found["miou"] > 0.34
    table = gpd.read_file(made.outputs["polygons"], layer="polygons")
    assert table.is_valid.all()
    pairs = table.sindex.query(table.geometry, predicate="overlaps")
    first, second = pairs[:, pairs[0] < pairs[1]]
    shared = shapely.intersection(table.geometry.values[first], table.geometry.values[second])
    assert shapely.area(shared).max(initial=0) < 1e-6
