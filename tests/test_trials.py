"""A model is not tried on ground that it has learned from without a word."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import rasterio
from affine import Affine
from farm import plough

import geoseg
from geoseg.errors import DataWarning, FormatError, GeosegWarning, InputError
from geoseg.scenes import describe_scene


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


def cut_again(farm: Path, folder: Path, *, metres: float = 0) -> Path:
    """Chips of the scene of the farm, moved, with another split."""
    folder.mkdir()
    for name in ("scene", "labels"):
        shutil.copy(farm / f"{name}.tif", folder)
        with rasterio.open(folder / f"{name}.tif", "r+") as raster:
            raster.transform = Affine(10, 0, 500_000 + metres, 0, -10, 4_500_000)
    geoseg.tile(
        folder / "scene.tif", labels=folder / "labels.tif", out=folder / "chips", chip_size=32, block_size=1, seed=5
    )
    return folder / "chips"


def test_other_chips_of_the_same_ground_flatter(farm, tmp_path):
    chips = cut_again(farm, tmp_path / "again")
    with pytest.warns(DataWarning, match=r"chips: the model has learned from scenes of the same ground \(scene\)"):
        found = geoseg.evaluate(chips, model=farm / "model", out=tmp_path / "report", bootstrap=5)
    assert found.metrics["provenance"]["on_ground_of_training"] == ["scene"]
    assert (
        "The model has learned from scenes of the same ground (scene)"
        in (tmp_path / "report" / "report.html").read_text()
    )


def test_its_own_chips_and_other_ground_do_not(farm, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", GeosegWarning)
        own = geoseg.evaluate(farm / "chips", model=farm / "model", out=tmp_path / "own", bootstrap=5)
        beside = cut_again(farm, tmp_path / "beside", metres=1600)
        other = geoseg.evaluate(beside, model=farm / "model", out=tmp_path / "other", bootstrap=5)
    for found in (own, other):
        assert found.metrics["provenance"]["on_ground_of_training"] == []


def test_half_of_a_scene_is_enough_and_a_seam_is_not(farm, tmp_path):
    with pytest.warns(DataWarning, match="same ground"):
        geoseg.evaluate(
            cut_again(farm, tmp_path / "half", metres=800), model=farm / "model", out=tmp_path / "a", bootstrap=5
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", GeosegWarning)
        geoseg.evaluate(
            cut_again(farm, tmp_path / "seam", metres=1590), model=farm / "model", out=tmp_path / "b", bootstrap=5
        )


def test_a_scene_across_the_antimeridian_is_no_ground_elsewhere(farm, tmp_path):
    shutil.copytree(farm / "model", tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    (corners,) = card["training"]["ground"].values()
    lats = [lat for _, lat in corners]
    across = [(179.9, max(lats) + 1), (-179.9, max(lats) + 1), (-179.9, min(lats) - 1), (179.9, min(lats) - 1)]
    card["training"] |= {"ground": {"fiji": across}, "chips_sha256": ""}
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    found = geoseg.evaluate(farm / "chips", model=tmp_path / "model", out=tmp_path / "report", bootstrap=5)
    assert found.metrics["provenance"]["on_ground_of_training"] == []


def test_chips_have_each_the_area_of_their_own_ground(farm, tmp_path):
    pixel_m2 = {}
    for north in (1, 30, 36):
        for kind in ("scene", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            path = tmp_path / kind / f"north_{north}.tif"
            shutil.copy(farm / f"{kind}.tif", path)
            with rasterio.open(path, "r+") as raster:
                raster.crs, raster.transform = "EPSG:4326", Affine(1e-4, 0, 10, 0, -1e-4, north)
        pixel_m2[f"north_{north}"] = describe_scene(tmp_path / "scene" / f"north_{north}.tif").pixel_area_m2(80, 80)
    chips = geoseg.tile(
        tmp_path / "scene", labels=tmp_path / "labels", out=tmp_path / "chips", chip_size=32, split="1:0:0"
    )
    found = geoseg.evaluate(chips, model=farm / "model", out=tmp_path / "report", split="train", bootstrap=5)
    mapped = sum(entry["mapped_ha"] for entry in found.metrics["areas"]["classes"])
    assert len({chip.scene for chip in chips.chips}) == 3
    ground = sum(chip.valid * 32**2 * pixel_m2[chip.scene] for chip in chips.chips)
    assert mapped == pytest.approx(ground / 1e4, rel=1e-4)


def test_a_card_whose_ground_is_none_is_refused_in_one_line(farm, tmp_path):
    shutil.copytree(farm / "model", tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    card["training"] |= {"ground": {"scene": [["a"]]}, "chips_sha256": ""}
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    with pytest.raises(FormatError, match="ground of training: Expected"):
        geoseg.evaluate(farm / "chips", model=tmp_path / "model", out=tmp_path / "report")


def test_of_chips_that_overlap_no_hectares_are_told(farm, tmp_path):
    chips = geoseg.tile(
        farm / "scene.tif", labels=farm / "labels.tif", out=tmp_path / "chips", chip_size=32, stride=16, split="1:0:0"
    )
    with pytest.warns(DataWarning, match="same ground"):
        found = geoseg.evaluate(chips, model=farm / "model", out=tmp_path / "report", split="train", bootstrap=5)
    assert found.metrics["areas"] is None


@pytest.mark.parametrize("option", [{"classes": "0=a"}, {"class_field": "kind"}, {"unlabelled": "ignore"}])
def test_what_does_nothing_to_chips_is_refused(farm, tmp_path, option):
    with pytest.raises(InputError, match=f"--{next(iter(option)).replace('_', '-')} .*: for a map and a reference"):
        geoseg.evaluate(farm / "chips", model=farm / "model", out=tmp_path / "report", **option)
