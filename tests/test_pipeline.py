"""The whole path on a small scene whose classes a network learns in seconds."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.features import rasterize

import geoseg
from geoseg.errors import (
    DataWarning,
    FormatError,
    LabelError,
    MismatchError,
    MismatchWarning,
    MissingFileError,
    ModelError,
    OutputExistsError,
    PreflightError,
)

SIZE = 192


def fields(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A scene of 3 bands uint16 with a wedge of nodata, and its labels: 7 where band 3 is bright, else 3."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 2, (size // 24, size // 24)), np.ones((24, 24), int))
    pixels = rng.integers(900, 1100, (3, size, size)) + np.stack([label * 0, label * 0, label * 800])
    pixels[:, :12, :30] = 0
    return pixels.astype(np.uint16), np.where(label == 1, 7, 3).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two scenes with labels, chips of the first, and a model of the chips."""
    folder = tmp_path_factory.mktemp("world")
    place = Affine(10, 0, 500_000, 0, -10, 4_500_000)
    for seed, name in enumerate(("one", "two")):
        pixels, labels = fields(seed)
        profile = {"driver": "GTiff", "height": SIZE, "width": SIZE, "crs": "EPSG:32614", "transform": place}
        with rasterio.open(folder / f"{name}.tif", "w", count=3, dtype="uint16", nodata=0, **profile) as scene:
            scene.write(pixels)
        with rasterio.open(folder / f"{name}_mask.tif", "w", count=1, dtype="uint8", **profile) as mask:
            mask.write(labels, 1)
    geoseg.tile(
        folder / "one.tif", labels=folder / "one_mask.tif", out=folder / "chips", chip_size=32, classes="3=other,7=crop:#123456",
        background="other",
    )  # fmt: skip
    geoseg.train(folder / "chips", out=folder / "model", width=4, epochs=12, batch_size=4, lr=1e-2, dropout=0.0)
    return folder


@pytest.fixture(scope="module")
def mapped(world):
    return geoseg.predict(
        world / "two.tif", model=world / "model", out=world / "predictions", window=96, margin=16, probabilities=True
    )[0]


def test_the_bundle_carries_every_fact(world):
    bundle, chips = geoseg.bundle.open_bundle(world / "model"), geoseg.chips.open_chips(world / "chips")
    assert bundle.image == chips.image
    assert bundle.legend == chips.legend
    assert bundle.architecture.in_channels == 3
    assert bundle.training["epochs_run"] == 12
    assert {path.name for path in (world / "model").iterdir() if path.name[0] != "."} == {
        "model.json", "model.safetensors", "history.csv", "curves.png",
    }  # fmt: skip


def test_the_history_has_a_row_per_epoch_and_the_best_is_kept(world):
    rows = (world / "model" / "history.csv").read_text().splitlines()
    header, figures = rows[0].split(","), [line.split(",") for line in rows[1:]]
    assert header[:4] == ["epoch", "train_loss", "val_loss", "val_miou"]
    assert [int(row[0]) for row in figures] == list(range(1, 13))
    assert float(figures[-1][1]) < float(figures[0][1])
    best = max(float(row[3]) for row in figures)
    assert json.loads((world / "model" / "model.json").read_text())["metrics"]["miou"] == pytest.approx(best, abs=1e-6)


def test_the_map_is_right(world, mapped):
    with rasterio.open(mapped.path) as found, rasterio.open(world / "two_mask.tif") as labels:
        predicted, truth = found.read(1), labels.read(1)
    valid = predicted != 255
    assert not valid[:12, :30].any()
    assert valid.sum() == SIZE * SIZE - 12 * 30
    assert (predicted[valid] == truth[valid]).mean() > 0.93


def test_the_class_raster_is_as_the_formats_say(world, mapped):
    with rasterio.open(world / "two.tif") as scene, rasterio.open(mapped.path) as found:
        assert found.crs == scene.crs
        assert found.transform == scene.transform
        assert found.nodata == 255
        assert found.dtypes == ("uint8",)
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colormap(1)[7] == (0x12, 0x34, 0x56, 255)
        assert [entry["name"] for entry in json.loads(found.tags()["GEOSEG_LEGEND"])] == ["other", "crop"]
        assert len(found.tags()["GEOSEG_MODEL_SHA256"]) == 64
        assert not any("DATETIME" in key for key in found.tags())


def test_confidence_is_the_largest_probability(mapped):
    with (
        rasterio.open(mapped.outputs["confidence"]) as one,
        rasterio.open(mapped.outputs["probabilities"]) as all_of_them,
    ):
        confidence, shares = one.read(1), all_of_them.read()
        assert one.scales == (1 / 250,)
        assert all_of_them.descriptions == ("other", "crop")
        assert one.nodata == 255
    valid = confidence != 255
    np.testing.assert_array_equal(confidence[valid], shares.max(axis=0)[valid])
    assert (shares[:, ~valid] == 255).all()
    assert confidence[valid].min() >= 125


def test_polygons_cover_what_the_raster_covers(world, mapped):
    table = gpd.read_file(mapped.outputs["polygons"], layer="polygons")
    with rasterio.open(mapped.path) as found:
        crop, place = found.read(1) == 7, found.transform
    burnt = rasterize(table.geometry, crop.shape, transform=place)
    assert set(table["class_name"]) == {"crop"}
    assert table.is_valid.all()
    assert table["pixels"].sum() == crop.sum()
    assert (burnt == crop).mean() > 0.97
    assert table["confidence"].between(0.5, 1).all()
    with closing(sqlite3.connect(mapped.outputs["polygons"])) as database, database:
        assert database.execute("SELECT useAsDefault FROM layer_styles").fetchone() == (1,)


def test_the_run_file_says_what_was_done(mapped):
    facts = json.loads(mapped.outputs["run"].read_text())
    assert facts["format"] == 1
    assert {entry["name"]: entry["pixels"] for entry in facts["classes"]}["crop"] > 0
    area = sum(entry["area_ha"] for entry in facts["classes"])
    assert area == pytest.approx((SIZE * SIZE - 360) * 100 / 1e4, rel=2e-3)
    written = {path.name for path in mapped.path.parent.iterdir() if path.name[0] != "."}
    assert written == {*facts["outputs"], "two_run.json"}


def test_the_project_shows_all_layers_by_relative_paths(mapped):
    with zipfile.ZipFile(mapped.outputs["project"]) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    for source in ("./two_polygons.gpkg", "./two_classes.tif", "./two_confidence.tif", "../two.tif"):
        assert source in text
    assert str(mapped.path.parent) not in text


@pytest.mark.parametrize(("window", "margin"), [(80, 8), (128, 32)])
def test_batch_size_does_not_change_the_map(world, tmp_path, window, margin):
    found = [
        geoseg.predict(
            world / "two.tif", model=world / "model", out=tmp_path / str(batch), window=window, margin=margin,
            batch_size=batch, polygons=False,
        )[0].path.read_bytes()
        for batch in (1, 3)
    ]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_a_symmetric_network_gains_nothing_from_mirrors_and_turns(world, tta):
    from geoseg.bundle import open_bundle
    from geoseg.predictor import Predictor

    class Columnwise(torch.nn.Module):
        """Class 1 grows to the right: its mean over mirrors is even, over turns even and symmetric."""

        def forward(self, image):
            rows, cols = image.shape[-2:]
            slope = torch.linspace(-4, 4, cols).expand(len(image), 1, rows, cols)
            return torch.cat([-slope, slope], dim=1)

    predictor = Predictor(open_bundle(world / "model"), device="cpu", precision="fp32", tta=tta)
    predictor._engine = Columnwise()
    shares = predictor.shares(np.ones((1, 3, 24, 24), np.uint16), np.ones((1, 24, 24), bool))[0]
    np.testing.assert_allclose(shares, 0.5, atol=1e-6)


def test_turned_predictions_come_back_to_their_place(world):
    from geoseg.bundle import open_bundle
    from geoseg.predictor import Predictor

    class Pixelwise(torch.nn.Module):
        def forward(self, image):
            return torch.cat([image[:, :1], -image[:, :1]], dim=1)

    image = np.random.default_rng(0).integers(900, 1900, (3, 17, 29)).astype(np.uint16)
    found = {}
    for tta in ("none", "flips", "d4"):
        predictor = Predictor(open_bundle(world / "model"), device="cpu", precision="fp32", tta=tta)
        predictor._engine = Pixelwise()
        found[tta] = predictor.shares(image[None], np.ones((1, 17, 29), bool))[0].numpy()
    np.testing.assert_allclose(found["flips"], found["none"], atol=1e-6)
    np.testing.assert_allclose(found["d4"], found["none"], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (33, 7), (131, 67)])
def test_odd_and_tiny_scenes(world, write_scene, tmp_path, shape):
    pixels = np.full((3, *shape), 1000, np.uint16)
    pixels[2] = 1800
    made = geoseg.predict(write_scene("odd.tif", pixels, nodata=0), model=world / "model", out=tmp_path / "out")[0]
    with rasterio.open(made.path) as found:
        assert found.shape == shape
        assert (found.read(1) == 7).all()
    assert len(gpd.read_file(made.outputs["polygons"], layer="polygons")) == 1


def test_a_scene_of_nodata_gives_a_map_of_nodata(world, write_scene, tmp_path):
    path = write_scene("empty.tif", np.zeros((3, 40, 40), np.uint16), nodata=0)
    with pytest.warns(DataWarning, match="the map is empty"):
        made = geoseg.predict(path, model=world / "model", out=tmp_path / "out")[0]
    with rasterio.open(made.path) as found:
        assert (found.read(1) == 255).all()
    assert len(gpd.read_file(made.outputs["polygons"], layer="polygons")) == 0


@pytest.mark.filterwarnings("ignore:.*no CRS, so nobody knows")
@pytest.mark.filterwarnings("ignore:.*values unlike those")
def test_a_picture_without_a_crs_gives_pixel_coordinates_and_no_areas(world, write_scene, tmp_path):
    pixels = np.full((3, 40, 40), 1800, np.uint16)
    path = write_scene("picture.tif", pixels, nodata=0, crs=None, transform=Affine.identity())
    made = geoseg.predict(path, model=world / "model", out=tmp_path / "out")[0]
    table = gpd.read_file(made.outputs["polygons"], layer="polygons")
    assert table["area_m2"].isna().all()
    assert made.classes[1]["area_ha"] is None
    assert np.abs(table.total_bounds).max() == 40


def test_evaluating_chips_and_maps(world, mapped, tmp_path):
    on_chips = geoseg.evaluate(world / "chips", model=world / "model", out=tmp_path / "chips")
    on_map = geoseg.evaluate(mapped, world / "two_mask.tif", out=tmp_path / "map")
    assert on_chips.metrics["miou"] > 0.8
    with rasterio.open(mapped.path) as found, rasterio.open(world / "two_mask.tif") as labels:
        predicted, truth = found.read(1), labels.read(1)
    valid = predicted != 255
    both, either = ((predicted == 7) & (truth == 7) & valid).sum(), (((predicted == 7) | (truth == 7)) & valid).sum()
    crop = on_map.metrics["classes"][1]
    assert crop["name"] == "crop"
    assert crop["iou"] == pytest.approx(both / either)
    low, high = on_map.metrics["intervals"]["classes"][1]["iou"] or (0, 1)
    assert low <= crop["iou"] <= high
    assert json.loads((tmp_path / "map" / "metrics.json").read_text()) == on_map.metrics
    rows = (tmp_path / "map" / "per_class.csv").read_text().splitlines()
    assert rows[0].startswith("value,name,iou,iou_low,iou_high")
    assert len(rows) == 3
    assert "averaged over squares of 256 pixels" in str(on_map)
    assert "averaged over chips" in str(on_chips)


def test_a_reference_of_polygons(world, mapped, tmp_path):
    polygons = gpd.read_file(mapped.outputs["polygons"], layer="polygons")[["class_name", "geometry"]]
    polygons.to_crs("EPSG:4326").to_file(tmp_path / "fields.geojson")
    found = geoseg.evaluate(mapped, tmp_path / "fields.geojson", class_field="class_name", out=tmp_path / "r")
    assert found.metrics["classes"][1]["iou"] > 0.97


def test_the_same_seed_gives_the_same_weights(world, tmp_path):
    found = [
        geoseg.train(
            world / "chips", out=tmp_path / name, width=4, epochs=2, batch_size=8, seed=seed, deterministic=True
        ).weights_sha256
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert found[0] == found[1] != found[2]


def test_training_without_validation_keeps_the_last_epoch(world, tmp_path):
    chips = geoseg.tile(
        world / "one.tif", labels=world / "one_mask.tif", out=tmp_path / "chips", chip_size=48, split="1:0:0"
    )
    with pytest.warns(geoseg.errors.DataWarning, match="last epoch"):
        model = geoseg.train(chips, out=tmp_path / "model", width=4, epochs=2)
    assert model.training["best_epoch"] == 2
    assert model.metrics == {}


@pytest.mark.parametrize("batch_size", [2, 4, 8, 30])
def test_the_shortest_runs_end_well(world, tmp_path, batch_size):
    model = geoseg.train(world / "chips", out=tmp_path / "model", width=4, epochs=1, batch_size=batch_size)
    assert model.training["epochs_run"] == 1


def test_ctrl_c_keeps_the_best_so_far(world, tmp_path):
    def stop_in_third_epoch(stage, done, total, note=""):
        if note.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geoseg.train(world / "chips", out=tmp_path / "model", width=4, epochs=5, progress=stop_in_third_epoch)
    bundle = geoseg.bundle.open_bundle(tmp_path / "model")
    assert bundle.training["epochs_run"] == 2
    assert bundle.network() is not None


def test_ctrl_c_in_the_first_epoch_leaves_nothing(world, tmp_path):
    def stop(stage, done, total, note=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geoseg.train(world / "chips", out=tmp_path / "model", width=4, epochs=2, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_prediction_leaves_nothing(world, tmp_path):
    def stop(stage, done, total, note=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        geoseg.predict(world / "two.tif", model=world / "model", out=tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_refused_file_by_file(world, mapped, tmp_path):
    shutil.copy(mapped.path, tmp_path / "two_classes.tif")
    with pytest.raises(OutputExistsError, match=r"two_classes\.tif"):
        geoseg.predict(world / "two.tif", model=world / "model", out=tmp_path)
    (tmp_path / "foreign.txt").write_text("mine")
    geoseg.predict(world / "one.tif", model=world / "model", out=tmp_path)
    geoseg.predict(world / "two.tif", model=world / "model", out=tmp_path, overwrite=True)
    assert (tmp_path / "foreign.txt").read_text() == "mine"
    assert (tmp_path / "one_classes.tif").exists()
    with pytest.raises(OutputExistsError):
        geoseg.train(world / "chips", out=world / "model")


@pytest.mark.parametrize(
    ("dtype", "bands", "error", "words"),
    [
        ("uint8", 3, MismatchError, "uint8 pixels found"),
        ("uint16", 2, MismatchError, r"2 bands found \(.*\), the model takes 3"),
        ("uint16", 5, MismatchError, "name as many, in its order, with --bands"),
    ],
)
def test_scenes_unlike_the_model_are_refused(world, write_scene, tmp_path, dtype, bands, error, words):
    path = write_scene("other.tif", np.ones((bands, 20, 20), dtype))
    with pytest.raises(error, match=words) as caught:
        geoseg.predict(path, model=world / "model", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bands_and_pixel_sizes_are_matched(world, write_scene, tmp_path):
    pixels = np.full((4, 40, 40), 1000, np.uint16)
    pixels[0] = 1800
    path = write_scene("four.tif", pixels, transform=Affine(30, 0, 500_000, 0, -30, 4_500_000))
    with pytest.warns(MismatchWarning, match="3 times as large"):
        made = geoseg.predict(path, model=world / "model", out=tmp_path / "out", bands="2,3,1", polygons=False)[0]
    with rasterio.open(made.path) as found:
        assert (found.read(1) == 7).all()


def test_all_faults_are_told_at_once(world, tmp_path):
    with pytest.raises(PreflightError) as caught:
        geoseg.predict([tmp_path / "a.tif", tmp_path / "b.tif"], model=tmp_path / "no model", out=tmp_path / "out")
    assert [type(fault) for fault in caught.value.faults] == [MissingFileError] * 3
    assert list(tmp_path.iterdir()) == []


def damage_weights(model: Path) -> None:
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)


def damage_card(model: Path) -> None:
    card = json.loads((model / "model.json").read_text())
    del card["image"]["bands"]
    (model / "model.json").write_text(json.dumps(card))


def date_from_the_future(model: Path) -> None:
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**card, "format": 2, "geoseg_version": "7.0"}))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (damage_weights, ModelError, "SHA-256"),
        (damage_card, FormatError, "bands"),
        (date_from_the_future, FormatError, "install geoseg 7.0"),
        (lambda model: (model / "model.safetensors").unlink(), MissingFileError, "needs its weights"),
    ],
)
def test_a_damaged_bundle_is_one_line(world, tmp_path, damage, error, words):
    model = shutil.copytree(world / "model", tmp_path / "model")
    damage(model)
    with pytest.raises(error, match=words) as caught:
        geoseg.predict(world / "two.tif", model=model, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"arch": "unett"}, ModelError, "unet"),
        ({"recipe": "defalt"}, ModelError, "known are deeplab, default"),
        ({"loss": "ce+dicee"}, ModelError, "dice"),
        ({"epochs": 0}, ModelError, "--epochs 0"),
        ({"device": "cuda:9"}, ModelError, "not found"),
        ({"chips": "nowhere"}, MissingFileError, "chips.json"),
    ],
)
def test_bad_training_options_are_one_line(world, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as caught:
        geoseg.train(**{"chips": world / "chips", "out": tmp_path / "model", **options})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_evaluations_that_cannot_be(world, mapped, write_scene, tmp_path):
    with pytest.raises(LabelError, match=r"\[9\]"):
        geoseg.evaluate(mapped, write_scene("other.tif", np.full((SIZE, SIZE), 9, np.uint8)), out=tmp_path / "r")
    far = write_scene("far.tif", np.full((9, 9), 7, np.uint8), transform=Affine(10, 0, 0, 0, -10, 0))
    with pytest.raises(LabelError, match="does not overlap"):
        geoseg.evaluate(mapped, far, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
