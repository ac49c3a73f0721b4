"""Items for catalogues: they keep to the schemas, and their figures are those of the files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from farm import plough

import geoseg
from geoseg.bundle import open_bundle
from geoseg.errors import InputError
from geoseg.scenes import describe_scene
from geoseg.stac import _code, _plain_name, parse_time

jsonschema = pytest.importorskip("jsonschema")
pystac = pytest.importorskip("pystac")
referencing = pytest.importorskip("referencing")

CORE = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/"
SCHEMAS = os.environ.get("GEOSEG_STAC_SCHEMAS")
"""A folder of the extensions' schemas as `<name>/<version>.json`, which no package brings."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    farm = plough(tmp_path_factory.mktemp("farm"))
    geoseg.card(model=farm / "model", out=farm / "card")
    return farm


@pytest.fixture(scope="module")
def model(farm) -> dict[str, Any]:
    return json.loads((farm / "card" / "model_stac.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scene(farm) -> dict[str, Any]:
    return json.loads((farm / "map" / "scene_stac.json").read_text(encoding="utf-8"))


def schemas() -> dict[str, Any]:
    """By address: those of STAC itself, which pystac brings, and those of the extensions, where they are here."""
    folder = Path(pystac.__file__).parent / "validation" / "jsonschemas"
    found = {}
    for path in folder.rglob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name == "v1.1.0":
            found[CORE + path.name] = document
        elif "$id" in document:
            found[document["$id"]] = document
    for path in Path(SCHEMAS).glob("*/*.json") if SCHEMAS else []:
        document = json.loads(path.read_text(encoding="utf-8"))
        found[f"https://stac-extensions.github.io/{path.parent.name}/{path.stem}/schema.json"] = document
    return found


def errors(item: dict[str, Any], schema: str) -> list[str]:
    known = schemas()
    resources = [
        (uri, referencing.Resource(contents=document, specification=referencing.jsonschema.DRAFT7))
        for uri, document in known.items()
    ]
    validator = jsonschema.Draft7Validator(known[schema], registry=referencing.Registry().with_resources(resources))
    return [f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(item)]


@pytest.mark.parametrize("which", ["model", "scene"])
def test_items_keep_to_the_schema_of_stac(request, which):
    item = request.getfixturevalue(which)
    assert errors(item, CORE + "item.json") == []
    assert errors(item | {"assets": None}, CORE + "item.json") != []
    assert pystac.Item.from_dict(item).id == item["id"]


@pytest.mark.skipif(not SCHEMAS, reason="the extensions' schemas are not here")
@pytest.mark.parametrize("which", ["model", "scene"])
def test_items_keep_to_the_schemas_of_their_extensions(request, which):
    item = request.getfixturevalue(which)
    assert {uri: errors(item, uri) for uri in item["stac_extensions"]} == {uri: [] for uri in item["stac_extensions"]}
    wrong = item["properties"] | {"mlm:tasks": ["cooking"], "proj:shape": [1, 2, 3]}
    assert errors(item | {"properties": wrong}, item["stac_extensions"][0]) != []


def test_a_model_is_read_by_the_package_of_the_extension(model):
    schema = pytest.importorskip("stac_model.schema")
    told = {key: value for key, value in model["properties"].items() if key.startswith("mlm:")}
    read = schema.MLModelProperties.model_validate(told)
    assert [entry.name for entry in read.input] == ["pixels"]
    del told["mlm:input"]
    with pytest.raises(ValueError, match="mlm:input"):
        schema.MLModelProperties.model_validate(told)


def test_what_a_model_takes_and_gives(farm, model):
    bundle, facts = open_bundle(farm / "model"), model["properties"]
    (given,), (result,) = facts["mlm:input"], facts["mlm:output"]
    assert given["input"]["shape"] == [-1, 3, 32, 32]
    assert given["bands"] == [band["name"] for band in facts["bands"]] == list(bundle.image.names)
    scaling = [(entry["mean"], entry["stddev"]) for entry in given["value_scaling"]]
    assert scaling == [(band.offset, band.scale) for band in bundle.image.bands]
    assert result["result"]["shape"] == [-1, 3, 32, 32]
    assert [entry["value"] for entry in result["classification:classes"]] == list(bundle.legend.values)
    assert facts["mlm:total_parameters"] == sum(weight.numel() for weight in bundle.network().parameters())
    assert (facts["mlm:pretrained"], facts["mlm:pretrained_source"]) == (False, None)
    assert facts["mlm:hyperparameters"]["epochs"] == 3
    assert not {"versions", "encoder", "encoder_weights"} & facts["mlm:hyperparameters"].keys()  # our own unet has none


@pytest.mark.parametrize(("which", "folder"), [("model", "card"), ("scene", "map")])
def test_files_of_an_item_are_found_from_it(farm, request, which, folder):
    item = request.getfixturevalue(which)
    assert len(item["assets"]) >= 3
    for asset in item["assets"].values():
        path = farm / folder / asset["href"]
        assert path.exists()
        assert not Path(asset["href"]).is_absolute()
        if "file:checksum" in asset:
            assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
            assert asset["file:size"] == path.stat().st_size


def test_a_map_lies_where_its_raster_lies(farm, scene):
    with rasterio.open(farm / "map" / "scene_classes.tif") as raster:
        assert scene["properties"]["proj:shape"] == list(raster.shape)
        assert scene["properties"]["proj:transform"] == list(raster.transform)[:6]
        assert scene["properties"]["proj:code"] == "EPSG:32614"
        assert raster.tags()["GEOSEG_PROVENANCE"] == json.dumps(
            {key[7:]: value for key, value in scene["properties"].items() if key.startswith("geoseg:")}
        )
    shape = shapely.geometry.shape(scene["geometry"])
    assert shape.bounds == tuple(scene["bbox"])
    assert shape.is_valid
    assert all(polygon.exterior.is_ccw for polygon in shape.geoms)
    assert -99 < shape.centroid.x < -98.9
    assert 40.6 < shape.centroid.y < 40.7


@pytest.mark.parametrize(("crs", "code"), [("EPSG:32631", "EPSG:32631"), ("+proj=utm +zone=31 +ellps=intl", None),
                                           ("+proj=utm +zone=31 +ellps=GRS80 +towgs84=100,200,300", None)])  # fmt: skip
def test_a_crs_that_is_only_like_one_of_a_register_has_no_code(write_scene, crs, code):
    assert _code(describe_scene(write_scene("a.tif", np.zeros((4, 4), np.uint8), crs=crs))) == code


@pytest.mark.filterwarnings("ignore:.*no CRS")
def test_a_picture_without_a_place_has_an_item_too(farm, write_scene, tmp_path, rng):
    path = write_scene(
        "plain.png", rng.integers(1, 200, (3, 40, 40), "uint8"), crs=None, transform=rasterio.Affine.identity()
    )
    geoseg.predict(path, model=farm / "model", out=tmp_path / "out", polygons=False)
    item = json.loads((tmp_path / "out" / "plain_stac.json").read_text(encoding="utf-8"))
    assert errors(item, CORE + "item.json") == []
    assert item["geometry"] is None
    assert "bbox" not in item


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-30", {"datetime": "2026-06-30T00:00:00Z"}),
        ("2026-06-30T10:20:30Z", {"datetime": "2026-06-30T10:20:30Z"}),
        ("2026-06-30T10:20:30+08:00", {"datetime": "2026-06-30T02:20:30Z"}),
        ("0999-01-01", {"datetime": "0999-01-01T00:00:00Z"}),
        ("2026-05-01/20260930", {
            "datetime": None, "start_datetime": "2026-05-01T00:00:00Z", "end_datetime": "2026-09-30T23:59:59Z",
        }),
        ("2026-05-01/2026-09-30", {
            "datetime": None, "start_datetime": "2026-05-01T00:00:00Z", "end_datetime": "2026-09-30T23:59:59Z",
        }),
        (None, {"datetime": None, "start_datetime": "1900-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}),
    ],
)  # fmt: skip
def test_times(text, expected):
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-01",
        "30.6.2026",
        "2026-05-01/",
        "/2026-05-01",
        "a/b",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:00:00-05:00",
    ],
)
def test_what_is_no_time(text):
    with pytest.raises(InputError, match=r"^--datetime .*: a time such as 2026-06-30, "):
        parse_time(text)


def test_an_interval_that_runs_backwards():
    with pytest.raises(InputError, match=r"^--datetime 2026-09-30/2026-05-01: it ends before it begins"):
        parse_time("2026-09-30/2026-05-01")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model", "model"),
        ("模型", "geoseg-model"),
        ("m", "geoseg-m"),
        ("2026-fields", "geoseg-2026-fields"),
        ("fields (v2)", "fields-v2"),
    ],
)
def test_models_have_names_that_the_extension_allows(name, told):
    assert _plain_name(name) == told
