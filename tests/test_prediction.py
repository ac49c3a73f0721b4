"""A map is the same bytes however its scene is stored and its run is cut, and says where it may not be trusted."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch
from nursery import nursery
from rasterio.errors import NotGeoreferencedWarning

import geoseg
from geoseg import files
from geoseg.bundle import open_bundle, write_bundle
from geoseg.engines import OpenVinoEngine
from geoseg.errors import (
    DataWarning,
    DiskError,
    GeosegError,
    InputError,
    MismatchWarning,
    OutputExistsError,
    PreflightError,
    RasterError,
    SomeScenesError,
)
from geoseg.grid import Layout
from geoseg.legend import make_legend
from geoseg.mapping import choose_batch_size, choose_layout
from geoseg.models import Architecture
from geoseg.scenes import describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

OPTIONS = {"window": 96, "margin": 16, "polygons": False, "probabilities": True, "precision": "fp32"}
RASTERS = ("classes", "confidence", "probabilities")


@pytest.fixture
def world(write_scene, rng, tmp_path) -> Path:
    """A scene of 5 x 4 windows with a hole of nodata, and a model with random weights."""
    pixels = rng.integers(1, 255, (3, 300, 250), np.uint8)
    pixels = np.repeat(np.repeat(pixels[:, ::10, ::10], 10, axis=1), 10, axis=2)
    pixels[:, 100:190, 30:200] = 0
    write_scene("scene.tif", pixels, nodata=0)
    facts = BandStatistics(mean=127, std=70, min=1, max=255, p1=3, p99=250)
    bands = scale_bands([facts] * 3, names="rgb", sources=[1, 2, 3], dtypes=["uint8"] * 3, nodata=[0.0] * 3)
    torch.manual_seed(0)
    architecture = Architecture("unet", in_channels=3, classes=3, width=4)
    (tmp_path / "model").mkdir()
    write_bundle(
        tmp_path / "model", architecture.build().state_dict(), architecture=architecture,
        image=ImageSpec(bands, 3, 10.0, 64), legend=make_legend([0, 1, 2]), training={}, metrics={},
    )  # fmt: skip
    return tmp_path


def predict(world: Path, out: str, scene: str = "scene.tif", **options):
    """The map of a scene, and the bytes of its rasters."""
    (made,) = geoseg.predict(world / scene, model=world / "model", out=world / out, **OPTIONS | options)
    return made, [made.outputs[kind].read_bytes() for kind in RASTERS]


def pixels(made) -> list[np.ndarray]:
    """Those of the rasters of a map; their tags tell the scene's name."""
    found = []
    for kind in RASTERS:
        with rasterio.open(made.outputs[kind]) as raster:
            found.append(raster.read())
    return found


class StopAfter:
    """A progress that stops the run at so many windows."""

    def __init__(self, windows: int, error: BaseException):
        self.windows, self.error = windows, error

    def __call__(self, stage, done, total, note=""):
        if stage.startswith("predict") and done >= self.windows:
            raise self.error


@pytest.mark.parametrize("blend", ["crop", "hann"])
@pytest.mark.parametrize("windows", [6, 11, 16])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bytes(world, blend, windows):
    whole, expected = predict(world, "whole", blend=blend)
    with pytest.raises(KeyboardInterrupt, match=r"of 5 strips are kept in .*\.scene\.strips; --resume goes on"):
        predict(world, "cut", blend=blend, progress=StopAfter(windows, KeyboardInterrupt()))
    assert [path.name for path in (world / "cut").iterdir()] == [".scene.strips"]
    with pytest.raises(OutputExistsError, match="--resume"):
        predict(world, "cut", blend=blend)
    rows = []
    cut, found = predict(world, "cut", blend=blend, resume=True, progress=lambda stage, done, *_: rows.append(done))
    assert found == expected
    assert min(rows) > windows - 8  # what was finished was not run again
    assert cut.classes == whole.classes
    assert not (world / "cut" / ".scene.strips").exists()


def test_finished_strips_outlive_an_error_which_says_so(world):
    with pytest.raises(DiskError) as caught:
        predict(world, "cut", progress=StopAfter(11, DiskError("scene_classes.tif: could not be written")))
    assert "--resume goes on" in caught.value.__notes__[0]
    assert predict(world, "cut", resume=True)[1] == predict(world, "whole")[1]


@pytest.mark.parametrize(
    ("change", "words"), [({"margin": 8, "window": 80}, "of another grid"), ({"tta": "flips"}, "of another tta"),
                          ({"precision": "bf16"}, "of another precision")]
)  # fmt: skip
def test_what_was_begun_otherwise_is_not_taken_up(world, change, words):
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    with pytest.raises(InputError, match=words) as caught:
        predict(world, "cut", resume=True, **change)
    assert "\n" not in str(caught.value)
    assert predict(world, "cut", overwrite=True, **change)[1] == predict(world, "whole", **change)[1]


def test_a_scene_that_has_changed_is_not_taken_up(world):
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    with rasterio.open(world / "scene.tif", "r+") as scene:
        scene.write(np.full((1, 9, 9), 77, np.uint8), [1], window=((0, 9), (0, 9)))
    with pytest.raises(InputError, match="of another scene"):
        predict(world, "cut", resume=True)


def test_another_scene_of_the_same_size_and_time_is_not_taken_for_it(world):
    _, expected = predict(world, "whole")
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    other = world / "other" / "scene.tif"
    other.parent.mkdir()
    data = bytearray((world / "scene.tif").read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    times = (world / "scene.tif").stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match="of another scene"):
        predict(world, "cut", scene="other/scene.tif", resume=True)
    with pytest.raises(OutputExistsError, match="the map of another model, scene or option is there"):
        predict(world, "whole", scene="other/scene.tif", resume=True)
    shutil.copy2(world / "scene.tif", world / "moved.tif")
    (world / "moved.tif").rename(other)
    assert predict(world, "cut", scene="other/scene.tif", resume=True)[1] == expected


@pytest.mark.parametrize("written", ["<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>",
                                     "<GeoTransform>500010, 10, 0, 4500000, 0, -10</GeoTransform>"])  # fmt: skip
def test_what_a_sidecar_says_anew_makes_another_scene(world, written):
    predict(world, "map")
    (world / "scene.tif.aux.xml").write_text(f"<PAMDataset>{written}</PAMDataset>")
    with pytest.raises(OutputExistsError, match="the map of another model, scene or option is there"):
        predict(world, "map", resume=True)


def test_a_run_killed_while_its_files_took_their_names_goes_on(world, monkeypatch):
    _, expected = predict(world, "whole")
    settle, moved = files._settle, []

    def settle_some(partial, target):
        if partial.parent.name == ".unfinished":
            if len(moved) == 2:
                monkeypatch.setattr("geoseg.strips.Strips.remove", lambda self: None)
                raise KeyboardInterrupt  # as a kill, leave what has moved already
            moved.append(target)
        settle(partial, target)

    monkeypatch.setattr(files, "_settle", settle_some)
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut")
    monkeypatch.undo()
    assert [path for path in moved if path.exists()] == moved != []
    with pytest.raises(OutputExistsError, match="exists already"):
        predict(world, "cut")
    assert predict(world, "cut", resume=True)[1] == expected


def test_a_scene_is_the_same_however_its_path_is_spelled(world, monkeypatch):
    _, expected = predict(world, "whole")
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    monkeypatch.chdir(world)
    assert predict(Path(), "cut", resume=True)[1] == expected
    made = (world / "cut" / "scene_classes.tif").stat().st_mtime_ns
    predict(Path("../", world.name), "cut", resume=True)
    assert (world / "cut" / "scene_classes.tif").stat().st_mtime_ns == made  # a whole map is left alone


def test_there_need_be_nothing_to_take_up(world):
    assert predict(world, "fresh", resume=True)[1] == predict(world, "whole")[1]


KILLED = {"blend": "hann", "tta": "d4", "window": 64}


def run_to_be_killed(world: Path) -> None:
    predict(world, "cut", **KILLED, resume=True, overwrite=True)


@pytest.mark.slow
def test_a_run_that_was_killed_thirty_times_goes_on_to_the_same_bytes(world, rng):
    predict(world, "whole", **KILLED)  # the first run in a process is slower
    started = time.monotonic()
    _, expected = predict(world, "whole", **KILLED, overwrite=True)
    seconds, taken_up = time.monotonic() - started, 0
    context = nursery()
    for _ in range(30):
        child = context.Process(target=run_to_be_killed, args=(world,))
        child.start()
        while child.is_alive() and not (world / "cut" / ".scene.strips").exists():
            time.sleep(0.005)
        child.join(rng.uniform(0, 1.5 * seconds))
        child.kill()
        child.join()
        run_file = world / "cut" / "scene_run.json"
        taken_up += any((world / "cut").glob(".scene.strips/strip_*.json")) and not run_file.exists()
        made, found = predict(world, "cut", **KILLED, resume=True, overwrite=True)
        assert found == expected
        assert json.loads(run_file.read_text()) == made.facts
        for path in (world / "cut").iterdir():
            path.unlink()
    assert taken_up > 5


# However a scene is stored


@pytest.mark.parametrize(
    "profile",
    [
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
        {"tiled": True, "blockxsize": 32, "blockysize": 16, "interleave": "band", "compress": "lzw"},
        {"BIGTIFF": "YES", "blockysize": 1}, {"driver": "COG", "blocksize": 128}, {"compress": "deflate", "predictor": 2},
    ],
)  # fmt: skip
def test_how_a_scene_is_stored_leaves_no_trace(world, profile):
    _, expected = predict(world, "whole")
    with rasterio.open(world / "scene.tif") as scene:
        pixels, facts = scene.read(), scene.profile
    (world / "again").mkdir()
    with rasterio.open(world / "again" / "scene.tif", "w", **facts | profile) as scene:
        scene.write(pixels)
    assert predict(world, "out", "again/scene.tif")[1] == expected


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu,cpu"])
def test_the_number_of_networks_and_readers_leaves_no_trace(world, monkeypatch, device):
    _, expected = predict(world, "whole", blend="hann")
    monkeypatch.setattr("geoseg.inference._READERS", 5)
    assert predict(world, "several", blend="hann", device=device)[1] == expected


def test_a_vrt_is_mapped_where_it_is_allowed(world):
    rasterio.shutil.copy(world / "scene.tif", world / "scene.vrt", driver="VRT")
    with pytest.raises(RasterError, match="--allow-vrt"):
        predict(world, "vrt", "scene.vrt")
    both = zip(
        pixels(predict(world, "vrt", "scene.vrt", allow_vrt=True)[0]), pixels(predict(world, "whole")[0]), strict=True
    )
    assert all(np.array_equal(found, expected) for found, expected in both)
    with pytest.raises(RasterError, match="--allow-remote"):
        geoseg.predict("https://localhost:9/scene.tif", model=world / "model", out=world / "remote")


def test_only_an_area_is_mapped(world):
    square = shapely.box(500_400, 4_498_000, 501_300, 4_499_500)  # columns 40 to 129, rows 50 to 199
    gpd.GeoDataFrame(geometry=[square], crs="EPSG:32614").to_crs("EPSG:4326").to_file(world / "area.geojson")
    whole, part = (
        predict(world, out, **options)[0] for out, options in (("whole", {}), ("part", {"aoi": world / "area.geojson"}))
    )
    inside = np.zeros((300, 250), bool)
    inside[50:200, 40:130] = True
    for kind in RASTERS:
        expected, found = (rasterio.open(made.outputs[kind]).read() for made in (whole, part))
        np.testing.assert_array_equal(found, np.where(inside, expected, 255))
    assert sum(entry["pixels"] for entry in part.classes) == (expected[0] != 255)[inside.nonzero()].sum()
    elsewhere = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    elsewhere.to_file(world / "elsewhere.geojson")
    with pytest.raises(GeosegError, match="elsewhere"):
        predict(world, "none", aoi=world / "elsewhere.geojson")


# Many scenes


def test_a_scene_that_fails_does_not_keep_the_others_from_their_maps(world, write_scene, rng):
    paths = [
        write_scene(f"{name}.tif", rng.integers(1, 255, (3, 512, 80), np.uint8), compress="deflate") for name in "abc"
    ]
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)  # its blocks are where they should be, but not to be read
    # and lie where nothing is looked at before the work begins
    paths[1].write_bytes(data)
    with pytest.raises(
        SomeScenesError, match=r"1 of 3 scenes failed, the others are done: .*b\.tif: damaged"
    ) as caught:
        geoseg.predict(paths, model=world / "model", out=world / "out", **OPTIONS)
    assert "\n" not in str(caught.value)
    assert [made.path.name for made in caught.value.made] == ["a_classes.tif", "c_classes.tif"]
    assert sorted(path.name for path in (world / "out").glob("*_run.json")) == ["a_run.json", "c_run.json"]
    assert list((world / "out").glob("b*")) == []


# Seams


def test_seams_are_measured(world):
    facts = {}
    for blend, margin in (("crop", 4), ("crop", 32), ("hann", 32)):
        options = {"blend": blend, "margin": margin, "window": 64 + 2 * margin, "check_seams": True}
        facts[blend, margin] = predict(world, f"{blend}{margin}", **options)[0].facts["seams"]
    with pytest.raises(InputError, match="--check-seams True: a --margin of 1 or more is needed"):
        predict(world, "none", margin=0, check_seams=True)
    assert facts["crop", 4]["whole"]
    assert facts["crop", 4]["width"] == 4
    # All borders between windows, but for the hole: 3 of 300 rows and 4 of 250 columns, 8 on each side; crossings twice.
    assert 0.7 * 16 * (3 * 300 + 4 * 250) < facts["crop", 32]["compared"] <= 16 * (3 * 300 + 4 * 250)
    assert facts["crop", 32]["share"] < facts["crop", 4]["share"]
    assert facts["hann", 32] == facts["crop", 32]


def test_the_margin_is_what_the_model_says_and_a_network_that_looks_far_is_blended(world):
    edited = json.loads((world / "model" / "model.json").read_text())
    for reach, expected in (
        ({}, (64, "crop")), ({"32": 0.0, "64": 0.0}, (32, "crop")), ({"32": 0.3, "192": 0.02}, (192, "hann")),
    ):  # fmt: skip
        (world / "model" / "model.json").write_text(json.dumps({**edited, "reach": reach}))
        bundle = open_bundle(world / "model")
        large = replace(describe_scene(world / "scene.tif"), height=3000, width=2000)
        layout = choose_layout(large, bundle, window=None, margin=None, blend="auto")
        assert (layout.margin, layout.blend) == expected
        assert layout.core == (1024, 1024)
    with pytest.raises(PreflightError) as caught:
        geoseg.predict(
            [world / "scene.tif", world / "no.tif"], model=world / "model", out=world / "out", window=64, margin=32
        )
    assert "larger than two margins" in str(caught.value)
    with pytest.raises(InputError, match="half a core"):
        predict(world, "out", window=92, margin=30, blend="hann")


@pytest.mark.parametrize(
    ("size", "core"), [(20, 32), (1000, 1024), (1024, 1024), (1025, 544), (1536, 768), (2100, 704), (5000, 1024), (8192, 1024)]
)  # fmt: skip
def test_cores_share_a_scene_evenly(world, size, core):
    scene = replace(describe_scene(world / "scene.tif"), height=size, width=2048)
    layout = choose_layout(scene, open_bundle(world / "model"), window=None, margin=None, blend="auto")
    assert layout.core == (core, 1024)
    given = choose_layout(scene, open_bundle(world / "model"), window=640, margin=64, blend="crop")
    assert given.core == (min(512, core), 512)


@pytest.mark.parametrize(("most", "size"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (None, 1)])
def test_batches_share_a_row_of_windows_evenly(most, size):
    assert choose_batch_size(most, torch.device("cpu"), Layout(100, 600, (100, 100), 0)) == size
    assert choose_batch_size(None, torch.device("cuda"), Layout(100, 600, (100, 100), 0)) == 3


def test_an_engine_that_was_made_ready_meets_no_other_size_of_batch(world, monkeypatch):
    pytest.importorskip("openvino")
    shapes = []
    call = OpenVinoEngine.__call__
    monkeypatch.setattr(
        OpenVinoEngine, "__call__", lambda self, batch: shapes.append(tuple(batch.shape)) or call(self, batch)
    )
    predict(world, "out", engine="openvino", batch_size=3)  # rows of four windows
    assert {shape[0] for shape in shapes} == {2}


# --- several scenes, and what an earlier run has left


def test_a_run_over_several_scenes_goes_on_where_it_was_stopped(world):
    for name in ("b", "c"):
        (world / f"{name}.tif").write_bytes((world / "scene.tif").read_bytes())
    scenes = [world / f"{name}.tif" for name in ("scene", "b", "c")]
    options = {"model": world / "model", "out": world / "cut", **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        geoseg.predict(scenes, **options, progress=StopAfterScene("predict b", 11))
    stages = []
    made = geoseg.predict(scenes, **options, resume=True, progress=lambda stage, done, *_: stages.append((stage, done)))
    assert [map_.path.name for map_ in made] == ["scene_classes.tif", "b_classes.tif", "c_classes.tif"]
    assert "predict scene" not in dict(stages)  # its map is whole
    assert min(done for stage, done in stages if stage == "predict b") > 4
    assert all(np.array_equal(pixels(map_)[0], pixels(made[0])[0]) for map_ in made)
    assert made[0].facts["classes"] == made[2].facts["classes"]


class StopAfterScene(StopAfter):
    """A progress that stops the run in one stage."""

    def __init__(self, stage: str, windows: int):
        super().__init__(windows, KeyboardInterrupt())
        self.stage = stage

    def __call__(self, stage, done, total, note=""):
        if stage == self.stage:
            super().__call__(stage, done, total, note)


def test_a_whole_map_made_otherwise_is_neither_kept_nor_replaced_unasked(world):
    predict(world, "out")
    before = (world / "out" / "scene_classes.tif").read_bytes()
    with pytest.raises(OutputExistsError, match=r"scene_run\.json: the map of another model, scene or option"):
        predict(world, "out", resume=True, tta="flips")
    assert (world / "out" / "scene_classes.tif").read_bytes() == before
    assert predict(world, "out", resume=True, overwrite=True, tta="flips")[0].facts["options"]["tta"] == "flips"


@pytest.mark.parametrize("gone", [(), ("plan.json",), ("strip_*.json",), ("plan.json", "strip_*.tif", "strip_*.json")])
def test_what_a_run_killed_at_its_end_has_left_is_taken_away(world, gone):
    whole = predict(world, "out")[1]
    with pytest.raises(KeyboardInterrupt):
        predict(world, "again", progress=StopAfter(16, KeyboardInterrupt()))
    left = world / "out" / ".scene.strips"
    shutil.move(world / "again" / ".scene.strips", left)
    for path in [path for pattern in gone for path in left.glob(pattern)]:
        path.unlink()
    assert predict(world, "out", resume=True)[1] == whole
    assert not left.exists()


def test_a_finished_map_of_which_a_file_is_gone_is_not_called_done(world):
    whole = predict(world, "out", polygons=True)[1]
    (world / "out" / "scene_classes.tif").unlink()
    with pytest.raises(OutputExistsError, match=r"finished, but scene_classes\.tif of it found no more.*--overwrite"):
        predict(world, "out", polygons=True, resume=True)
    assert predict(world, "out", polygons=True, resume=True, overwrite=True)[1] == whole


def test_unfinished_work_to_another_plan_outlives_a_whole_map(world):
    predict(world, "out")
    with pytest.raises(KeyboardInterrupt):
        predict(world, "out", overwrite=True, tta="flips", progress=StopAfter(16, KeyboardInterrupt()))
    before = sorted((world / "out" / ".scene.strips").iterdir())
    predict(world, "out", resume=True)
    assert sorted((world / "out" / ".scene.strips").iterdir()) == before
    assert predict(world, "out", resume=True, overwrite=True, tta="flips")[1] == predict(world, "whole", tta="flips")[1]


def test_no_file_of_an_earlier_map_stays_beside_the_new_one(world):
    predict(world, "out", polygons=True)
    geoseg.predict(
        world / "scene.tif", model=world / "model", out=world / "out", overwrite=True, confidence=False, polygons=False
    )
    names = {path.name for path in (world / "out").iterdir() if not path.name.startswith(".")}
    assert names == {
        "scene_classes.tif", "scene_classes.qml", "scene_classes.tif.aux.xml", "scene.qgz", "scene_run.json",
        "scene_stac.json",
    }  # fmt: skip


def test_a_training_that_was_stopped_is_said(world):
    card = json.loads((world / "model" / "model.json").read_text())
    card["training"] |= {"stopped": True, "epochs_run": 6, "epochs": 100}
    (world / "model" / "model.json").write_text(json.dumps(card))
    with pytest.warns(DataWarning, match=r"model: its training was stopped after 6 of 100 epochs; go on .*--resume"):
        predict(world, "out")


def test_what_others_have_put_under_names_that_are_not_written_stays(world):
    options = {**OPTIONS, "probabilities": False}
    geoseg.predict(world / "scene.tif", model=world / "model", out=world / "out", **options)
    mine = world / "out" / "scene_probabilities.tif", world / "out" / "scene_polygons.gpkg"
    for path in mine:
        path.write_text("mine")
    geoseg.predict(world / "scene.tif", model=world / "model", out=world / "out", overwrite=True, **options)
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_rasters_of_an_earlier_map_go_though_its_run_file_is_gone(world):
    made, _ = predict(world, "out")
    (world / "out" / "scene_run.json").unlink()
    options = {**OPTIONS, "probabilities": False}
    geoseg.predict(
        world / "scene.tif", model=world / "model", out=world / "out", overwrite=True, confidence=False, **options
    )
    assert not made.outputs["confidence"].exists()
    assert not made.outputs["probabilities"].exists()


def test_an_area_that_lies_among_the_outputs_is_not_written_over(world):
    made, _ = predict(world, "out", polygons=True)
    area = made.outputs["polygons"]
    before = area.read_bytes()
    with pytest.raises(OutputExistsError, match=r"scene_polygons\.gpkg: is an input of this run"):
        predict(world, "out", polygons=True, aoi=area, overwrite=True)
    assert area.read_bytes() == before


def test_a_mask_that_has_changed_is_another_scene(world):
    hidden = np.zeros((300, 250), np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(world / "scene.tif", "r+") as raster:
        raster.write_mask(hidden + 255)
    predict(world, "out")
    time.sleep(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(world / "scene.tif.msk", "r+") as raster:
            raster.write(hidden[None])
    with pytest.raises(OutputExistsError, match="another model, scene or option"):
        predict(world, "out", resume=True)


def test_a_mosaic_of_which_a_scene_has_changed_is_another_one(world):
    rasterio.shutil.copy(world / "scene.tif", world / "mosaic.vrt", driver="VRT")
    predict(world, "out", "mosaic.vrt", allow_vrt=True)
    assert predict(world, "out", "mosaic.vrt", allow_vrt=True, resume=True)[0].facts["classes"]
    with rasterio.open(world / "scene.tif", "r+") as raster:
        raster.write(raster.read()[:, ::-1])
    with pytest.raises(OutputExistsError, match="another model, scene or option"):
        predict(world, "out", "mosaic.vrt", allow_vrt=True, resume=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "altered"])
def test_a_damaged_strip_is_made_again(world, damage):
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(16, KeyboardInterrupt()))
    strip = min((world / "cut" / ".scene.strips").glob("strip_000000_classes_*.tif"))
    data = bytearray(strip.read_bytes())
    match damage:
        case "cut":
            strip.write_bytes(data[: len(data) // 2])
        case "empty":
            strip.write_bytes(b"")
        case "gone":
            strip.unlink()
        case "altered":
            with rasterio.open(strip, "r+") as raster:
                raster.write(np.full((1, 9, 9), 1, np.uint8), [1], window=((0, 9), (0, 9)))
                raster.write(np.full((1, 9, 9), 2, np.uint8), [1], window=((9, 18), (0, 9)))
    assert predict(world, "cut", resume=True)[1] == predict(world, "whole")[1]


# --- options


@pytest.mark.parametrize(
    ("option", "words"),
    [({"engine": "OpenVINO"}, "--engine OpenVINO: known are torch, openvino"),
     ({"blend": "Hann"}, "--blend Hann: known are auto, crop, hann"),
     ({"tta": "x"}, "--tta x: known are"), ({"window": "auto"}, "--window auto: 1 or more"),
     ({"batch_size": 0}, "--batch-size 0: 1 or more"), ({"batch_size": -3}, "--batch-size -3: 1 or more"),
     ({"batch_size": 1.5}, "--batch-size 1.5"), ({"margin": -1}, "--margin -1: 0 or more"),
     ({"max_area": 5.0, "min_area": 9.0}, "--max-area 5.0: more than 9 is needed"), ({"small": "x"}, "--small x: known are"),
     ({"simplify": -1}, "--simplify -1"), ({"simplify": "a"}, "--simplify a"), ({"simplify": float("nan")}, "--simplify nan"),
     ({"precision": "int8"}, "--precision int8: known are"), ({"margin": 1000, "window": 2032}, "--margin 1000 is more than")]
)  # fmt: skip
def test_odd_options_are_refused_before_anything_is_done(world, option, words):
    with pytest.raises(GeosegError, match=words):
        predict(world, "out", **option)
    assert not (world / "out").exists()


@pytest.mark.filterwarnings("ignore:.*no CRS, so nobody knows")
@pytest.mark.filterwarnings("ignore:.*values unlike those")
def test_a_picture_has_no_m2_to_go_by_and_that_is_said_before_it_is_mapped(world, write_scene):
    write_scene("picture.tif", np.full((3, 90, 90), 9, np.uint8), crs=None, transform=rasterio.Affine.identity())
    with pytest.raises(GeosegError, match=r"picture\.tif: no CRS with a place on the Earth, so --min-hole in m2"):
        predict(world, "out", "picture.tif", polygons=True, min_hole=100.0)
    assert not (world / "out").exists()


def test_cores_that_are_no_multiple_of_the_coarsest_cells_are_warned_of(world):
    with pytest.warns(MismatchWarning, match="cores of 72 pixels, less the margins, are no multiple of 32"):
        predict(world, "out", window=104)


def test_a_map_without_a_pixel_is_warned_of(world, write_scene):
    write_scene("empty.tif", np.zeros((3, 90, 90), np.uint8), nodata=0)
    with pytest.warns(DataWarning, match=r"empty\.tif: no pixel holds data; the map is empty"):
        predict(world, "out", "empty.tif")


def test_no_area_is_told_where_the_crs_is_not_that_of_the_coordinates(world):
    with rasterio.open(world / "scene.tif", "r+") as scene:
        scene.crs = "EPSG:4326"
    with pytest.warns(DataWarning, match="no area can be told"):
        made, _ = predict(world, "out")
    assert {entry["area_ha"] for entry in made.classes} == {None}
    assert " ha" not in str(made)
