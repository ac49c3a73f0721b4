"""What an earlier version has written is read for ever: `old_formats/N` holds files of format N, which are never made anew.

Those of format 1 were written by version 0.1.0: a U-Net of width 2, chips of a scene of 64 x 64 pixels, its map, and points on it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import geoseg
from geoseg import bundle, chips, scene_maps, strips
from geoseg.bundle import open_bundle
from geoseg.chips import open_chips
from geoseg.errors import DataWarning
from geoseg.reference_points import read_points

FOLDER = Path(__file__).parent / "old_formats"
FORMATS = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(params=FORMATS)
def old(request, tmp_path) -> Path:
    """A copy of the files of a format."""
    return Path(shutil.copytree(FOLDER / request.param, tmp_path / "old"))


def test_every_format_that_was_ever_written_is_here():
    newest = {bundle._FORMAT, chips._FORMAT, scene_maps._FORMAT, strips._FORMAT}
    assert set(FORMATS) == {f"{number}" for number in range(1, max(newest) + 1)}


def test_an_old_model_maps_as_it_did(old, tmp_path):
    (made,) = geoseg.predict(
        old / "scene.tif", model=old / "model", out=tmp_path / "out", precision="fp32", device="cpu"
    )
    with rasterio.open(old / "scene_classes.tif") as before, rasterio.open(made) as now:
        one, other = before.read(1), now.read(1)
    assert (one == other).mean() > 0.999  # another version of torch may round another way
    assert len(np.unique(one)) > 2
    assert geoseg.info(old / "scene_run.json").facts["classes"][0]["name"] == made.classes[0]["name"]


def test_an_old_model_is_gone_on_with_and_tried(old, tmp_path):
    found = open_bundle(old / "model")
    assert set(found.network().state_dict()) == set(found.architecture.build().state_dict())
    folder = open_chips(old / "chips")
    assert [len(folder.of(split)) for split in ("train", "val", "test")] == [2, 1, 1]
    with pytest.warns(DataWarning, match="knows nothing of soil, wheat, maize"):
        trained = geoseg.train(
            old / "chips", init=old / "model", out=tmp_path / "model", epochs=1, batch_size=2, workers=0
        )
    assert all(torch.isfinite(weight).all() for weight in trained.network().state_dict().values())
    scores = geoseg.evaluate(old / "chips", model=tmp_path / "model", out=tmp_path / "report", bootstrap=5).metrics
    assert json.dumps(scores["confusion"])


def test_an_old_map_is_traced_sampled_and_judged(old, tmp_path):
    traced = geoseg.polygonize(
        old / "scene_classes.tif", out=tmp_path / "fields.gpkg", confidence=old / "scene_confidence.tif"
    )
    assert traced.balance["polygons"] > 0
    legend = open_bundle(old / "model").legend
    with pytest.raises(geoseg.GeosegError, match="no point has a value in 'reference'"):
        read_points(old / "points.gpkg", legend)
    assert (
        geoseg.evaluate(old / "scene_classes.tif", old / "scene_classes.tif", out=tmp_path / "r", bootstrap=5).metrics[
            "miou"
        ]
        == 1
    )
