"""That `check` finds what `tile` and `predict` would, all at once, and tells it to people and programs."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio.shutil
import test_describing
from affine import Affine
from click.testing import CliRunner

import geoseg
from geoseg.bundle import CARD, WEIGHTS
from geoseg.checking import Check, check
from geoseg.cli import cli
from geoseg.errors import DataWarning, InputError, MismatchWarning, PreflightError

scene, labels, model = test_describing.scene, test_describing.labels, test_describing.model


def said(error: pytest.ExceptionInfo) -> list[str]:
    """The files that several faults speak of, in order."""
    return [str(fault).partition(": ")[0] for fault in error.value.faults]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_counts_are_those_that_tile_then_writes(scene, labels, write_scene, rng, tmp_path):
    other = write_scene("other.tif", rng.integers(1, 200, (3, 70, 100), dtype=np.uint8))
    paths = tmp_path / "paths"
    paths.mkdir()
    shutil.copy(labels, paths / "scene_mask.tif")
    shutil.copy(write_scene("more.tif", rng.integers(0, 2, (70, 100), dtype=np.uint8)), paths / "other_mask.tif")
    before = contents(tmp_path)
    found = check([scene, other], labels=paths, chip_size=16, split="6:2:2", bands="3,1", classes="0=other,1=crop")
    assert contents(tmp_path) == before  # nothing is written
    chips = geoseg.tile(
        [scene, other], labels=paths, chip_size=16, split="6:2:2", bands="3,1", classes="0=other,1=crop",
        out=tmp_path / "chips",
    )  # fmt: skip
    written = {
        split: len(list((tmp_path / "chips" / split / "images").glob("*.tif"))) for split in ("train", "val", "test")
    }
    assert {name: counts["chips"] for name, counts in found.plan.to_dict()["splits"].items()} == written
    assert sum(written.values()) + sum(found.plan.left_out.values()) == 20 + 5 * 7
    assert found.plan.left_out == chips.facts["left_out"] != {}  # the scenes overlap
    assert found.plan.to_dict()["splits"] == chips.to_dict()["splits"]
    assert found.bytes_needed == sum(written.values()) * 16 * 16 * (2 + 1)
    assert all(f"{split:<8} {count:>5} chips" in str(found) for split, count in written.items())


def test_a_disk_that_may_be_too_small_is_said_before_work(scene, labels, model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    words = r"0 MiB are free in {}, and up to 0 MiB may be written; free some, or choose another --out"
    for run in (
        lambda: geoseg.tile(scene, labels=labels, chip_size=16, out=tmp_path / "cut"),
        lambda: geoseg.predict(scene, model=model, out=tmp_path / "map", polygons=False),
    ):
        with pytest.warns(DataWarning, match=words.format(tmp_path)):
            run()
    with pytest.warns(DataWarning, match=words.format(r"\.")):
        found = check(scene, labels=labels, model=model, chip_size=16)
    assert len(found.warnings) == 1


def test_what_is_well(scene, labels, model):
    found = check(scene, labels=labels, model=model, chip_size=16)
    assert isinstance(found, Check)
    assert [each.path for each in found.scenes] == [scene]
    assert found.bytes_needed == 80 * 64 * 2 + 20 * 16 * 16 * (3 + 1)
    assert str(found).splitlines()[-1] == "no fault found"
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["scenes"][0]["bands"] == ["blue", "green", "red"]
    assert document["bytes_needed"] == found.bytes_needed


def test_without_labels_there_are_no_chips(scene):
    found = check(scene)
    assert found.to_dict()["chips"] is None
    assert "chips" not in str(found)


def test_all_faults_of_the_inputs_at_once(tmp_path):
    inputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    with pytest.raises(PreflightError) as error:
        check(inputs, labels=tmp_path / "labels.gpkg", model=tmp_path / "model").raise_faults()
    assert said(error) == [*map(str, inputs), str(tmp_path / "labels.gpkg"), str(tmp_path / "model" / CARD)]


def test_all_faults_of_model_labels_and_options_at_once(model, write_scene, rng, tmp_path):
    (model / WEIGHTS).write_bytes(b"damaged")
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    twin = write_scene("twin.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    stray = write_scene("stray.tif", np.full((80, 64), 7, np.uint8))
    with pytest.raises(PreflightError) as error:
        check([short, twin], labels=stray, model=model, chip_size=16, classes="0=other,1=crop").raise_faults()
    assert said(error) == [str(stray), str(model / WEIGHTS), str(short), str(twin)]
    with pytest.raises(PreflightError) as error:
        check(short, labels=tmp_path / "no.tif", chip_size=0).raise_faults()
    assert said(error) == ["--chip-size 0", str(tmp_path / "no.tif")]


def test_what_tile_does_not_read_is_a_fault_beside_labels(scene, labels, tmp_path):
    rasterio.shutil.copy(scene, tmp_path / "a.vrt", driver="VRT")
    check(tmp_path / "a.vrt", allow_vrt=True).raise_faults()
    with pytest.raises(InputError, match="--allow-vrt: not with --labels"):
        check(tmp_path / "a.vrt", labels=labels, chip_size=16, allow_vrt=True).raise_faults()


def test_a_scene_is_needed(labels):
    with pytest.raises(InputError, match="no scene given"):
        check([], labels=labels).raise_faults()


def test_what_is_found_is_told_for_programs_and_people(model, write_scene, rng, tmp_path):
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    picture = write_scene(
        "a.png", rng.integers(1, 200, (3, 80, 64), dtype=np.uint8), crs=None, transform=Affine.identity()
    )
    with pytest.warns(DataWarning, match=r"a\.png: no CRS"):
        found = check([short, picture, tmp_path / "no.tif"], model=model)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [fault["kind"] for fault in document["faults"]] == ["MissingFileError", "MismatchError"]
    assert document["faults"][1]["message"].startswith(f"{short}: 2 bands found")
    assert [told["kind"] for told in document["warnings"]] == ["DataWarning"]
    assert [scene["name"] for scene in document["scenes"]] == ["short", "a"]
    assert str(found).endswith("2 faults found")


def test_where_warnings_are_errors_all_of_them_are_faults_at_once(model, write_scene, rng, tmp_path):
    pixels = rng.integers(1, 200, (3, 80, 64), dtype=np.uint8)
    picture = write_scene("a.png", pixels, crs=None, transform=Affine.identity())
    coarse = write_scene("b.tif", pixels, transform=Affine(50, 0, 5e5, 0, -50, 4.5e6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check([picture, coarse], model=model)
    assert [type(fault) for fault in found.faults] == [DataWarning, MismatchWarning]


def test_check_ends_with_1_where_there_are_faults(model, write_scene, rng, tmp_path):
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    done = CliRunner().invoke(cli, ["check", str(short), str(tmp_path / "no.tif"), "-m", str(model), "--json"])
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["faults"]) == 2
    assert done.stderr.startswith("Error: 2 faults, nothing was done\n")
