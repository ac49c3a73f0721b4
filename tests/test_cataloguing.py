"""Model cards: what stands in them, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas as gpd
import pyogrio
import pytest
import rasterio
from farm import plough

import geoseg
from geoseg.bundle import open_bundle
from geoseg.cataloguing import ModelCard
from geoseg.errors import (
    DataWarning,
    FormatError,
    InputError,
    MismatchError,
    MissingFileError,
    OutputExistsError,
    PreflightError,
)
from geoseg.scenes import describe_scene


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    farm = plough(tmp_path_factory.mktemp("farm"))
    geoseg.evaluate(farm / "chips", model=farm / "model", out=farm / "report", bootstrap=20)
    return farm


def card_of(made: ModelCard) -> str:
    return (made.path / "model_card.md").read_text(encoding="utf-8")


def test_a_card_tells_what_the_model_is(farm, tmp_path):
    made = geoseg.card(model=farm / "model", out=tmp_path / "card")
    assert sorted(path.name for path in made.path.iterdir()) == ["model_card.md", "model_stac.json"]
    text, bundle = card_of(made), open_bundle(farm / "model")
    assert text.startswith("---\nlibrary_name: geoseg\n")
    assert bundle.weights_sha256 in text
    for entry in bundle.legend:
        assert f"| {entry.value} | {entry.name} | `{entry.colour}` |" in text
    for band in bundle.image.bands:
        assert f"| {band.name} | {band.source} | uint8 | 0 | {band.statistics.mean:.5g} |" in text
    left, bottom, right, top = describe_scene(farm / "scene.tif").bounds
    assert (left, bottom, right, top) == (500_000, 4_498_400, 501_600, 4_500_000)  # west and north of 99 W, 40.65 N
    assert "| scene | -99.0000 to -98.9811 | 40.6" in text
    assert "Nothing independent is known yet" in text
    assert f"with {bundle.margin} pixels around it" in text
    assert str(made).splitlines()[0] == f"{made.path / 'model_card.md'}: for people"
    assert made.to_dict()["item"] == json.loads((made.path / "model_stac.json").read_text(encoding="utf-8"))


def test_scores_of_a_report_go_in(farm, tmp_path):
    report = json.loads((farm / "report" / "metrics.json").read_text(encoding="utf-8"))
    text = card_of(geoseg.card(model=farm / "model", out=tmp_path / "card", report=farm / "report"))
    assert report["what"] in text
    assert f"{report['miou']:.3f}" in text
    assert "Nothing independent" not in text


def test_a_report_on_points_goes_in(farm, tmp_path):
    geoseg.sample(farm / "map" / "scene_classes.tif", out=tmp_path / "points.gpkg", size=60, minimum=10)
    table = gpd.read_file(tmp_path / "points.gpkg", layer="points")
    table["reference"] = table["stratum"]
    table.to_file(tmp_path / "labelled.gpkg", layer="points", driver="GPKG")
    geoseg.evaluate(farm / "map" / "scene_classes.tif", tmp_path / "labelled.gpkg", out=tmp_path / "report")
    text = card_of(geoseg.card(model=farm / "model", out=tmp_path / "card", report=tmp_path / "report"))
    assert "estimated ha" in text


def test_a_report_on_another_models_map_is_refused(farm, tmp_path):
    geoseg.evaluate(farm / "map" / "scene_classes.tif", farm / "labels.tif", out=tmp_path / "report", bootstrap=1)
    text = card_of(geoseg.card(model=farm / "model", out=tmp_path / "card", report=tmp_path / "report"))
    assert str(tmp_path) not in text
    assert str(farm) not in text
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    metrics["provenance"]["map"]["model_sha256"] = "0" * 64
    (tmp_path / "report" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(MismatchError, match="scores of another model"):
        geoseg.card(model=farm / "model", out=tmp_path / "other", report=tmp_path / "report")
    metrics["provenance"]["map"]["model_sha256"] = None
    (tmp_path / "report" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.warns(DataWarning, match="nothing in it tells"):
        geoseg.card(model=farm / "model", out=tmp_path / "unsure", report=tmp_path / "report")


@pytest.mark.parametrize("name", ["model_card.md", "model_stac.json"])
def test_what_others_have_written_stays(farm, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        geoseg.card(model=farm / "model", out=tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_report_of_others_stays(farm, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"report\.html: exists already"):
        geoseg.evaluate(farm / "chips", model=farm / "model", out=tmp_path, bootstrap=1)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_names_of_strangers_break_nothing(farm, tmp_path):
    folder = tmp_path / "a|b <script>"
    folder.mkdir()
    for name in ("model.safetensors", "model.json"):
        (folder / name).write_bytes((farm / "model" / name).read_bytes())
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    document["legend"][0]["name"] = "x | <img src=y> ![](http://a.b/c.png) 麦"
    (folder / "model.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    made = geoseg.card(model=folder, out=tmp_path / "card")
    text, use = card_of(made).split("```sh\n")
    assert "<script" not in text
    assert use.startswith("geoseg predict scene.tif -m 'a|b <script>'\n```")
    assert r"| 0 | x \| &lt;img src=y> !\[\](http://a.b/c.png) 麦 |" in text
    assert "mlm:name" in made.item["properties"]
    assert made.item["id"].startswith("a_b_script_-")


def test_polygons_carry_what_they_were_made_of(farm, tmp_path):
    geoseg.polygonize(farm / "map" / "scene_classes.tif", out=tmp_path / "a.gpkg", simplify=0)
    told = json.loads(
        pyogrio.read_info(tmp_path / "a.gpkg", layer="polygons")["layer_metadata"]["GPKG_METADATA_ITEM_1"]
    )
    assert told["map"]["model_sha256"] == open_bundle(farm / "model").weights_sha256
    assert told["map"]["scene"] == "scene.tif"
    assert told["outlines"]["simplify"] == 0
    geoseg.polygonize(farm / "labels.tif", out=tmp_path / "b.gpkg")
    told = json.loads(
        pyogrio.read_info(tmp_path / "b.gpkg", layer="polygons")["layer_metadata"]["GPKG_METADATA_ITEM_1"]
    )
    assert told["map"] is None


@pytest.mark.parametrize("tag", ["{", "[" * 200_000, "NaN"])
def test_what_a_stranger_wrote_into_a_raster_is_not_carried_on(farm, tmp_path, tag):
    shutil.copy(farm / "labels.tif", tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif", "r+") as raster:
        raster.update_tags(GEOSEG_PROVENANCE=tag)
    geoseg.polygonize(tmp_path / "labels.tif", out=tmp_path / "a.gpkg")
    told = pyogrio.read_info(tmp_path / "a.gpkg", layer="polygons")["layer_metadata"]["GPKG_METADATA_ITEM_1"]
    assert json.loads(told)["map"] is None


def test_parquet_carries_it_too(farm, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    geoseg.polygonize(farm / "map" / "scene_classes.tif", out=tmp_path / "a.parquet")
    assert json.loads(parquet.read_schema(tmp_path / "a.parquet").metadata[b"geoseg"])["map"]["scene"] == "scene.tif"


def test_what_is_refused(farm, tmp_path):
    with pytest.raises(MissingFileError, match=r"model\.json"):
        geoseg.card(model=tmp_path / "none", out=tmp_path / "card")
    with pytest.raises(InputError, match="--datetime soon"):
        geoseg.card(model=farm / "model", out=tmp_path / "card", datetime="soon")
    with pytest.raises(MissingFileError, match=r"metrics\.json"):
        geoseg.card(model=farm / "model", out=tmp_path / "card", report=tmp_path)
    with pytest.raises(FormatError, match=r"scene_run\.json: no scores of geoseg evaluate"):
        geoseg.card(model=farm / "model", out=tmp_path / "card", report=farm / "map" / "scene_run.json")
    with pytest.raises(PreflightError):
        geoseg.card(model=tmp_path / "none", out=tmp_path / "card", datetime="soon")
    assert list(tmp_path.iterdir()) == []


def test_scores_of_another_model_are_refused(farm, tmp_path):
    report = json.loads((farm / "report" / "metrics.json").read_text(encoding="utf-8"))
    report["provenance"]["model"]["weights_sha256"] = "0" * 64
    (tmp_path / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(MismatchError, match="the scores of another model than"):
        geoseg.card(model=farm / "model", out=tmp_path / "card", report=tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("training", {"crop": "x"}), ("training", {"ground": 5}), ("training", {"ground": {"a": [[1]]}}), ("training", {"versions": 1}),
        ("training", {"chips": []}), ("metrics", {"classes": 7}), ("metrics", {"classes": [1]}), ("metrics", {"miou": "much"}),
    ],
)  # fmt: skip
def test_odd_facts_of_a_strangers_model_are_refused(farm, tmp_path, place, value):
    folder = tmp_path / "model"
    shutil.copytree(farm / "model", folder)
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    document[place] = value
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(FormatError, match="cannot be read"):
        geoseg.card(model=folder, out=tmp_path / "card")
    assert not (tmp_path / "card").exists()


def test_the_place_of_weights_is_not_told(farm, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(farm / "model", folder)
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    document["training"]["encoder_weights"] = "/home/me/weights.pt"
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")
    made = geoseg.card(model=folder, out=tmp_path / "card")
    for text in (card_of(made), json.dumps(made.item)):
        assert "weights.pt" in text
        assert "/home/me" not in text


def test_a_report_that_is_none_is_refused(farm, tmp_path):
    report = json.loads((farm / "report" / "metrics.json").read_text(encoding="utf-8"))
    for provenance, error in ((7, FormatError), ({"model": 7}, MismatchError)):
        (tmp_path / "metrics.json").write_text(json.dumps(report | {"provenance": provenance}), encoding="utf-8")
        with pytest.raises(error, match=r"metrics\.json"):
            geoseg.card(model=farm / "model", out=tmp_path / "card", report=tmp_path)


def test_a_card_that_is_there_stays(farm, tmp_path):
    geoseg.card(model=farm / "model", out=tmp_path)
    before = (tmp_path / "model_card.md").read_bytes()
    with pytest.raises(OutputExistsError, match=r"model_card\.md and 1 more: exists"):
        geoseg.card(model=farm / "model", out=tmp_path, report=farm / "report")
    assert (tmp_path / "model_card.md").read_bytes() == before
    geoseg.card(model=farm / "model", out=tmp_path, report=farm / "report", overwrite=True)
    assert (tmp_path / "model_card.md").read_bytes() != before
