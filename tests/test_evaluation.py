"""Pairs of maps: read in strips, they score as whole arrays do; on other grids, as polygons, and what cannot be."""

from __future__ import annotations

import csv
import json
import warnings
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from scenery import box, moved, one_line_each, write_polygons

import geoseg
from geoseg.boundary_scores import BoundaryCounter, boundary_scores
from geoseg.errors import DataWarning, GeosegError, InputError, LabelError, LegendError, OutputExistsError
from geoseg.legend import IGNORE, make_legend
from geoseg.metrics import confusion_matrix, scores
from geoseg.object_scores import ObjectMatcher, count_objects, object_scores

pytestmark = pytest.mark.filterwarnings("ignore:.*on another grid than what it is laid on")

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
LEGEND = make_legend([1, 2, 3])


def patches(rng: np.random.Generator, shape: tuple[int, int], values: tuple[int, ...], side: int = 7) -> np.ndarray:
    """Squares of values at random, (rows, cols) uint8."""
    cells = rng.choice(np.array(values, np.uint8), [-(-length // side) for length in shape])
    return np.repeat(np.repeat(cells, side, axis=0), side, axis=1)[: shape[0], : shape[1]]


@pytest.fixture
def pair(rng, write_scene) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A map and a reference of 600 x 300 pixels with nodata in both, and their class indices where both are known."""
    reference = patches(rng, (600, 300), (1, 2, 3))
    predicted = np.where(
        rng.random(reference.shape) < 0.02, patches(rng, (600, 300), (1, 2, 3)), np.roll(reference, 1, 1)
    )
    reference[100:160, 50:90], predicted[590:, :] = 0, 0
    paths = [write_scene(f"{name}.tif", array, nodata=0) for name, array in (("map", predicted), ("truth", reference))]
    known = (reference > 0) & (predicted > 0)
    return *paths, *(np.where(known, array - 1, IGNORE).astype(np.uint8) for array in (reference, predicted))


def test_strips_score_as_whole_arrays_do(pair, tmp_path):
    predicted, truth, reference, found = pair
    metrics = geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=20, boundary_tolerance="2.5").metrics
    expected = scores(confusion_matrix(reference, found, 3), LEGEND)
    assert {key: metrics[key] for key in expected} == expected
    boundary = boundary_scores(BoundaryCounter(reference, found, 3, 2.5).count())
    assert [entry["f1"] for entry in metrics["boundary"]["classes"]] == boundary["f1"].tolist()
    assert [entry["iou"] for entry in metrics["boundary"]["classes"]] == boundary["iou"].tolist()
    matcher = ObjectMatcher(300)
    matcher.add(reference, found)
    true, other, overlaps = matcher.finish()
    blocks = [np.zeros(len(objects.names), int) for objects in (true, other)]
    objects = object_scores(count_objects(true, other, overlaps, 3, 0.5, 1, *blocks)[0])
    for name in ("f1", "pq_50_95", "over_segmentation", "area_error"):
        assert [entry[name] for entry in metrics["objects"]["classes"]] == pytest.approx(objects[name].tolist())
    assert metrics["objects"]["classes"][0]["reference"] == (true.classes == 0).sum()
    assert metrics["left_out"] == {"unlabelled": 60 * 40, "unmapped": 10 * 300}
    assert metrics["intervals"]["blocks"] == 6  # squares of 256 pixels


def test_areas_are_those_of_the_map_and_of_the_reference_where_it_covers_all(pair, tmp_path):
    predicted, truth, reference, found = pair
    with rasterio.open(predicted) as dataset:
        mapped = dataset.read(1)
    areas = geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=50).metrics["areas"]
    pixel = 0.0100 * (1 / 0.9996**2)  # ha on the central meridian of the zone
    assert areas["covered"] == pytest.approx(1 - 2400 / (mapped > 0).sum())
    for index, entry in enumerate(areas["classes"]):
        assert entry["mapped_ha"] == pytest.approx((mapped == index + 1).sum() * pixel, rel=1e-3)
        assert entry["bias"] == pytest.approx((found == index).sum() / (reference == index).sum() - 1)
        low, high = entry["adjusted_ha_interval"]
        assert low < entry["adjusted_ha"] < high
    total = sum(entry["adjusted_ha"] for entry in areas["classes"])
    assert total == pytest.approx(sum(entry["mapped_ha"] for entry in areas["classes"]))


def test_a_reference_on_another_grid(pair, write_scene, tmp_path):
    predicted, truth, *_ = pair
    with rasterio.open(truth) as dataset:
        values = dataset.read(1)
    fine = write_scene(
        "fine.tif",
        np.repeat(np.repeat(values, 2, axis=0), 2, axis=1),
        nodata=0,
        transform=TRANSFORM @ Affine.scale(0.5),
    )
    one, other = (geoseg.evaluate(predicted, path, out=tmp_path / path.stem, bootstrap=5) for path in (truth, fine))
    assert one.metrics["confusion"] == other.metrics["confusion"]


def test_whole_numbers_may_be_floats(pair, write_scene, tmp_path):
    predicted, truth, *_ = pair
    with rasterio.open(truth) as dataset:
        floats = write_scene("floats.tif", dataset.read(1).astype(np.float32), nodata=0)
    one, other = (geoseg.evaluate(predicted, path, out=tmp_path / path.stem, bootstrap=2) for path in (truth, floats))
    assert one.metrics["confusion"] == other.metrics["confusion"]


def test_polygons_on_either_side_or_both(write_scene, tmp_path):
    array = np.zeros((40, 60), np.uint8)
    array[5:20, 10:30] = 1
    raster = write_scene("raster.tif", array)
    shapes = write_polygons(tmp_path / "map.gpkg", [box(5, 10, 15, 20)], class_name=["class_1"])
    truth = write_polygons(tmp_path / "truth.geojson", [box(5, 10, 15, 25)], kind=[1], to="EPSG:4326")
    found = geoseg.evaluate(shapes, raster, out=tmp_path / "a", classes="0=background,1=class_1").metrics
    assert found["miou"] == 1
    found = geoseg.evaluate(raster, truth, class_field="kind", out=tmp_path / "b").metrics
    assert found["confusion"] == [[40 * 60 - 15 * 25, 0], [75, 300]]
    found = geoseg.evaluate(
        shapes, truth, class_field="kind", pixel_size=10, classes="0=background,1=class_1", out=tmp_path / "c"
    ).metrics
    assert found["classes"][1]["support"] == 300  # the grid is that of the map's own extent
    # An area of interest says how far the two are to be compared, and a reference that goes further is said.
    aoi = write_polygons(tmp_path / "aoi.gpkg", [box(0, 0, 40, 60)])
    options = {"class_field": "kind", "pixel_size": 10, "classes": "0=background,1=class_1"}
    found = geoseg.evaluate(shapes, truth, aoi=aoi, out=tmp_path / "e", **options).metrics
    assert found["confusion"] == [[40 * 60 - 15 * 25, 0], [75, 300]]
    far = write_polygons(tmp_path / "far.gpkg", [box(5, 10, 15, 25), box(30, 50, 5, 5)], kind=[1, 1])
    with pytest.warns(DataWarning, match="1 polygons lie outside"):
        geoseg.evaluate(shapes, far, out=tmp_path / "f", **options)
    # geoseg's own files need no class field, on either side; where all of a map is polygons, the rest is none of it.
    own = write_polygons(tmp_path / "own.gpkg", [box(5, 10, 15, 20)], class_name=["class_1"])
    found = geoseg.evaluate(
        shapes, own, pixel_size=10, classes="1=class_1", unlabelled="ignore", out=tmp_path / "g"
    ).metrics
    assert found["confusion"] == [[300]]
    with pytest.raises(InputError, match="--pixel-size"):
        geoseg.evaluate(shapes, truth, class_field="kind", classes="0=background,1=class_1", out=tmp_path / "d")
    with pytest.raises(InputError, match="grid of its own"):
        geoseg.evaluate(raster, truth, class_field="kind", pixel_size=10, out=tmp_path / "d")


def test_only_some_classes_and_all_others_as_one(pair, tmp_path):
    predicted, truth, reference, found = pair
    metrics = geoseg.evaluate(predicted, truth, only="class_2", out=tmp_path / "r", bootstrap=5).metrics
    assert [entry["name"] for entry in metrics["classes"]] == ["other", "class_2"]
    known = reference != IGNORE
    expected = confusion_matrix((reference[known] == 1).astype(np.uint8), (found[known] == 1).astype(np.uint8), 2)
    assert metrics["confusion"] == expected.tolist()
    # A reference of that class alone: what lies outside its polygons is one of the others.
    crop = write_polygons(tmp_path / "crop.gpkg", [box(0, 0, 30, 40)], kind=["class_2"])
    metrics = geoseg.evaluate(
        predicted, crop, class_field="kind", only=["class_2"], out=tmp_path / "s", bootstrap=5
    ).metrics
    with rasterio.open(predicted) as dataset:
        mapped = dataset.read(1)
    assert metrics["classes"][1]["support"] == (mapped[:30, :40] > 0).sum()
    assert metrics["classes"][1]["predicted"] == (mapped == 2).sum()
    with pytest.raises(LegendError, match="forest"):
        geoseg.evaluate(predicted, truth, only="forest", out=tmp_path / "t")


def test_the_rest_of_some_classes_takes_no_nodata_for_ground(pair, tmp_path):
    predicted, truth, *_ = pair
    found = [
        geoseg.evaluate(predicted, truth, only="b", classes=classes, out=tmp_path / name, bootstrap=5).metrics[
            "confusion"
        ]
        for name, classes in (("r", "1=a,2=b,3=c"), ("s", "9=background,1=a,2=b,3=c"))
    ]  # 0, the nodata of both, is the first free value for what all others are
    assert found[0] == found[1]


def test_codes_of_one_name_are_one_class(pair, tmp_path):
    predicted, truth, reference, found = pair
    metrics = geoseg.evaluate(
        predicted, truth, classes="1=crop,2=grass,3=crop", out=tmp_path / "r", bootstrap=5
    ).metrics
    known = reference != IGNORE
    expected = confusion_matrix((reference[known] == 1).astype(np.uint8), (found[known] == 1).astype(np.uint8), 2)
    assert metrics["confusion"] == expected.tolist()
    assert [entry["name"] for entry in metrics["classes"]] == ["crop", "grass"]


def test_how_sure_a_map_is_of_several_classes_together_is_not_known(pair, tmp_path, write_scene):
    predicted, truth, *_ = pair
    with rasterio.open(predicted) as raster:
        told = raster.read(1)
    classes = write_scene("m_classes.tif", told, nodata=0)
    write_scene("m_confidence.tif", np.full(told.shape, 125, np.uint8), nodata=255)
    with rasterio.open(tmp_path / "m_confidence.tif", "r+") as raster:
        raster.scales = (1 / 250,)
    whole = geoseg.evaluate(classes, truth, out=tmp_path / "whole", bootstrap=5).metrics
    assert whole["calibration"]["ece"] == pytest.approx(whole["pixel_accuracy"] - 0.5)
    merged = geoseg.evaluate(classes, truth, only="class_2", out=tmp_path / "merged", bootstrap=5).metrics
    assert merged["calibration"] is None


def test_nodata_that_is_the_value_of_a_class_counts_where_the_classes_are_named(write_scene, tmp_path):
    # All is called cultivated, half of it is: a map that is blamed for nothing would have an IoU of 1.
    predicted = write_scene("map.tif", np.ones((64, 64), np.uint8))
    truth = write_scene(
        "truth.tif", np.repeat([0, 1], 32).astype(np.uint8)[:, None] * np.ones((1, 64), np.uint8), nodata=0
    )
    named = geoseg.evaluate(
        predicted, truth, classes="0=background,1=cultivated", out=tmp_path / "named", bootstrap=5
    ).metrics
    assert named["classes"][1]["iou"] == 0.5
    assert named["classes"][0]["support"] == 32 * 64
    told = np.zeros((64, 64), np.uint8)
    told[:, 32:] = 1
    with pytest.warns(DataWarning, match=r"truth\.tif: nodata 0 found, which is the value of 'class_0'.*--classes"):
        geoseg.evaluate(write_scene("other.tif", told), truth, out=tmp_path / "told", bootstrap=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unknown = geoseg.evaluate(tmp_path / "other.tif", truth, label_nodata=0, out=tmp_path / "unknown", bootstrap=5)
    assert unknown.metrics["left_out"]["unlabelled"] == 32 * 64
    assert unknown.metrics["classes"][0]["support"] == 0


@pytest.mark.parametrize("what", ["aoi", "reference"])
def test_a_report_is_not_written_over_what_it_is_made_of(pair, tmp_path, what):
    predicted, truth, *_ = pair
    (tmp_path / "r").mkdir()
    mine = write_polygons(tmp_path / "r" / "errors.gpkg", [box(0, 0, 30, 40)], kind=["class_2"])
    before = mine.read_bytes()
    options = {"aoi": mine} if what == "aoi" else {"class_field": "kind", "unlabelled": "ignore"}
    with pytest.raises(OutputExistsError, match=r"errors\.gpkg: is an input of this run"):
        geoseg.evaluate(
            predicted, mine if what == "reference" else truth, out=tmp_path / "r", overwrite=True, **options
        )
    assert mine.read_bytes() == before


def test_pixels_are_as_large_as_asked_for_on_the_ground(tmp_path):
    # A square of 400 m on the ground at 60 degrees north, where a metre of Web Mercator is half of one.
    layers = [write_polygons(tmp_path / f"{name}.gpkg", [shapely.box(1e6, 8.4e6, 1e6 + 800, 8.4e6 + 800)], crs=3857, kind=["a"])
              for name in "ab"]  # fmt: skip
    metrics = geoseg.evaluate(
        *layers, class_field="kind", pixel_size=10, boundary_tolerance="2", out=tmp_path / "r", bootstrap=5
    ).metrics
    assert metrics["boundary"]["tolerance_m"] == pytest.approx(20, rel=0.01)


def test_only_what_lies_inside_the_area_counts(pair, tmp_path):
    predicted, truth, reference, found = pair
    aoi = write_polygons(tmp_path / "aoi.gpkg", [box(250, 10, 20, 30)])
    metrics = geoseg.evaluate(predicted, truth, aoi=aoi, out=tmp_path / "r", bootstrap=5).metrics
    at = np.s_[250:270, 10:40]
    assert metrics["confusion"] == confusion_matrix(reference[at].copy(), found[at].copy(), 3).tolist()
    assert metrics["left_out"] == {"unlabelled": 0, "unmapped": 0}
    mapped = sum(entry["mapped_ha"] for entry in metrics["areas"]["classes"])
    assert mapped == pytest.approx(20 * 30 * 0.01, rel=1e-2)


def test_a_map_needs_a_reference(pair, tmp_path):
    with pytest.raises(
        InputError, match=r"map\.tif: a map needs a reference beside it: geoseg evaluate .*map\.tif REFERENCE"
    ):
        geoseg.evaluate(pair[0], out=tmp_path / "r")


def test_few_blocks_are_said_to_be_few(pair, tmp_path):
    predicted, truth, *_ = pair
    told = str(geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=5))
    assert "over 6 blocks of ground; fewer than 10 are too few, do not lean on them" in told


def test_a_tolerance_in_metres_is_one_in_pixels(pair, tmp_path):
    predicted, truth, *_ = pair
    found = [
        geoseg.evaluate(predicted, truth, boundary_tolerance=text, out=tmp_path / str(n), bootstrap=5).metrics[
            "boundary"
        ]
        for n, text in enumerate(("20m", 20 / 10.004))
    ]
    assert found[0]["classes"] == found[1]["classes"]
    assert found[0]["tolerance_m"] == pytest.approx(20)


def test_against_another_map(pair, write_scene, tmp_path):
    predicted, truth, *_ = pair
    metrics = geoseg.evaluate(truth, truth, against=predicted, out=tmp_path / "r", bootstrap=30).metrics
    comparison = metrics["comparison"]
    assert comparison["difference"]["miou"] == pytest.approx(1 - comparison["other"]["miou"])
    low, high = comparison["intervals"]["miou"]
    assert 0 < low <= comparison["difference"]["miou"] <= high
    assert comparison["mcnemar"]["only_other"] == 0
    assert comparison["mcnemar"]["blocks"]["p"] < 0.1  # of six blocks
    alone = geoseg.evaluate(predicted, truth, out=tmp_path / "alone", bootstrap=5).metrics
    assert alone["comparison"] is None
    assert comparison["other"]["miou"] == pytest.approx(alone["miou"])


def test_two_maps_are_compared_where_both_tell(pair, write_scene, tmp_path):
    predicted, truth, reference, found = pair
    with rasterio.open(truth) as dataset:
        part = dataset.read(1)
    part[:, 100:] = 0
    other = write_scene("part.tif", part, nodata=0)
    comparison = geoseg.evaluate(predicted, truth, against=other, out=tmp_path / "r", bootstrap=5).metrics["comparison"]
    expected = scores(confusion_matrix(reference[:, :100].copy(), found[:, :100].copy(), 3), LEGEND)
    assert comparison["this"]["miou"] == pytest.approx(expected["miou"])
    assert comparison["other"]["miou"] == 1
    assert comparison["difference"]["miou"] == pytest.approx(expected["miou"] - 1)


def test_the_confidence_beside_a_map_is_read(rng, write_scene, tmp_path):
    truth = patches(rng, (80, 90), (1, 2))
    right = rng.random(truth.shape) < 0.8
    predicted = write_scene("a_classes.tif", np.where(right, truth, 3 - truth), nodata=0)
    write_scene("a_confidence.tif", np.full(truth.shape, 150, np.uint8), nodata=255)
    with rasterio.open(tmp_path / "a_confidence.tif", "r+") as dataset:
        dataset.scales = (1 / 250,)
    found = geoseg.evaluate(predicted, write_scene("t.tif", truth, nodata=0), out=tmp_path / "r", bootstrap=5).metrics
    assert found["calibration"]["overconfidence"] == pytest.approx(0.6 - right.mean())
    assert found["calibration"]["ece"] == pytest.approx(right.mean() - 0.6)
    assert "average_precision" not in found["calibration"]["classes"][0]


class Page(HTMLParser):
    """Every address in a page, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]
        if tag not in {"meta", "link", "img", "br", "path", "use", "image", "rect", "line", "circle"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_report_asks_for_nothing_and_tells_what_stands_in_the_metrics(pair, tmp_path):
    predicted, truth, *_ = pair
    metrics = geoseg.evaluate(predicted, truth, against=truth, out=tmp_path / "r", bootstrap=5).metrics
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in text.replace("url(#", "")
    assert "default-src 'none'" in text
    for entry in metrics["classes"]:
        assert f"{entry['iou']:.3f}" in text
    assert f"{metrics['miou']:.3f}" in text
    assert metrics["provenance"]["map"]["sha256"] in text


def test_names_from_outside_cannot_add_markup(write_scene, tmp_path):
    array = np.array([[1, 2], [2, 2]], np.uint8)
    path = write_scene("<b>.tif", array)
    geoseg.evaluate(path, path, classes="1=<script>alert(1)</script>,2=b", out=tmp_path / "r", bootstrap=2)
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_tables_and_places_to_visit(pair, tmp_path):
    predicted, truth, reference, found = pair
    geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=5)
    places = gpd.read_file(tmp_path / "r" / "errors.gpkg", layer="places")
    wrong = (reference != found) & (reference != IGNORE)
    worst = places.iloc[0]
    row, col = worst["row"], worst["col"]
    assert worst["wrong_pixels"] == wrong[row : row + 256, col : col + 256].sum()
    assert places["wrong_pixels"].is_monotonic_decreasing
    assert places["wrong_pixels"].sum() == wrong.sum()
    assert places["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    corner = TRANSFORM @ (int(col), int(row))
    assert worst.geometry.bounds[0] == corner[0]
    assert worst.geometry.bounds[3] == corner[1]
    with open(tmp_path / "r" / "per_place.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(one["pixels"]) for one in rows) == (reference != IGNORE).sum()
    with open(tmp_path / "r" / "per_class.csv", newline="", encoding="utf-8") as file:
        assert [one["name"] for one in csv.DictReader(file)] == ["class_1", "class_2", "class_3"]


def test_a_perfect_map_has_no_place_to_visit(write_scene, tmp_path):
    path = write_scene("a.tif", np.full((5, 5), 1, np.uint8))
    found = geoseg.evaluate(path, path, out=tmp_path / "r", bootstrap=2)
    assert found.metrics["miou"] == 1
    assert found.metrics["kappa"] is None
    assert len(gpd.read_file(tmp_path / "r" / "errors.gpkg", layer="places")) == 0
    assert "-" in str(found)
    json.dumps(found.metrics, allow_nan=False)


def test_an_absent_class_is_null_and_said(write_scene, tmp_path):
    path = write_scene("a.tif", np.array([[1, 2], [1, 2]], np.uint8))
    found = geoseg.evaluate(path, path, classes="1=a,2=b,3=c", out=tmp_path / "r", bootstrap=2)
    assert found.metrics["classes"][2]["iou"] is None
    assert found.metrics["miou"] == 1
    assert "left out of the means: c" in str(found)
    assert "left out of the means: c" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bootstrap": 0}, "--bootstrap 0: 1 or more"),
        ({"batch_size": 0}, "--batch-size 0: 1 or more"),
        ({"seed": -1}, "--seed -1: 0 or more"),
        ({"iou_threshold": 0.4}, "--iou-threshold 0.4"),
        ({"iou_threshold": 1}, "--iou-threshold 1"),
        ({"boundary_tolerance": "0.5"}, "1 to 100 pixels"),
        ({"boundary_tolerance": "wide"}, "--boundary-tolerance wide"),
        ({"boundary_tolerance": "1m"}, "1 to 100 pixels"),
        ({"threshold": 0.5}, "is a map already"),
        ({"aoi": "nowhere.gpkg"}, "nowhere.gpkg"),
        ({"against": "nowhere.tif"}, "nowhere.tif"),
        ({"classes": "1=a"}, "not in the legend"),
    ],
)
def test_one_line_for_what_cannot_be(pair, tmp_path, options, match):
    predicted, truth, *_ = pair
    with pytest.raises(GeosegError, match=match) as caught:
        geoseg.evaluate(predicted, truth, out=tmp_path / "r", **options)
    one_line_each(caught.value)
    assert not (tmp_path / "r").exists()


def test_more_that_cannot_be(pair, write_scene, tmp_path):
    predicted, truth, *_ = pair
    far = write_scene("far.tif", np.full((9, 9), 1, np.uint8), transform=moved(TRANSFORM, 5000, 5000))
    with pytest.raises(LabelError, match="does not overlap"):
        geoseg.evaluate(predicted, far, out=tmp_path / "r")
    named = write_polygons(
        tmp_path / "named.gpkg", [shapely.box(500_000, 4_499_000, 501_000, 4_500_000)], kind=["wheat"]
    )
    with pytest.raises(LegendError, match="--classes"):
        geoseg.evaluate(predicted, named, class_field="kind", out=tmp_path / "r")
    with pytest.raises(GeosegError, match="--aoi"):
        geoseg.evaluate(tmp_path, aoi=named, out=tmp_path / "r")
    geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=2)
    with pytest.raises(OutputExistsError):
        geoseg.evaluate(predicted, truth, out=tmp_path / "r", bootstrap=2)
