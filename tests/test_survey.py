"""Which chips there would be: labels read through, the legend found, strays told, chips shared out or left out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scenery import TRANSFORM, box, checkers, moved, one_line_each, said, write_polygons

from geoseg.errors import (
    DataWarning,
    Faults,
    GeoreferenceError,
    InputError,
    LabelError,
    LegendError,
    MissingFileError,
    PreflightError,
    RasterError,
    SplitError,
)
from geoseg.legend import LEGEND_TAG
from geoseg.pairs import TileOptions
from geoseg.scenes import find_scenes
from geoseg.survey import Plan, survey

pytestmark = pytest.mark.filterwarnings("ignore:.*on another grid than what it is laid on")

SIDE = 64


def plan(scenes, labels, *, faults: Faults | None = None, progress=lambda *_: None, **options) -> Plan:
    """A survey of scenes by their paths; chips of 16 pixels, all for training, unless told otherwise."""
    found = find_scenes(scenes if isinstance(scenes, list) else [scenes])
    options = TileOptions(**({"chip_size": 16, "split": "1:0:0"} | options))
    sources = range(1, len(found[0].band_names) + 1)
    return survey(found, labels, sources, options, faults or Faults(), progress)


def pixels(found: Plan) -> dict[str, int]:
    """Labelled pixels of each class."""
    return dict(
        zip(found.legend.names, np.sum([chip.class_pixels for chip in found.chips], axis=0).tolist(), strict=True)
    )


@pytest.fixture
def scene(write_scene) -> Path:
    return write_scene("scene.tif", np.ones((SIDE, SIDE), np.uint8))


# --- the legend


def test_values_found_are_the_classes(scene, write_scene):
    found = plan(scene, write_scene("l.tif", checkers(SIDE, SIDE, 8, [3, 7])))
    assert str(found.legend) == "3=class_3, 7=class_7"
    assert found.legend.background is None
    assert pixels(found) == {"class_3": SIDE**2 // 2, "class_7": SIDE**2 // 2}
    assert plan(scene, write_scene("m.tif", checkers(SIDE, SIDE, 8, [0, 7]))).legend.background == 0


def test_values_of_every_scene_count_also_those_of_one_chip(write_scene):
    scenes = [write_scene(f"{name}.tif", np.ones((SIDE, SIDE), np.uint8)) for name in "ab"]
    rare = np.ones((SIDE, SIDE), np.uint8)
    rare[63, 63] = 9
    for name, labels in (("a", np.ones((SIDE, SIDE), np.uint8)), ("b", rare)):
        write_scene(f"l/{name}.tif", labels)
    assert pixels(plan(scenes, scenes[0].parent / "l")) == {"class_1": 2 * SIDE**2 - 1, "class_9": 1}


@pytest.mark.parametrize("as_file", [False, True])
def test_classes_that_are_named_keep_their_order(scene, write_scene, tmp_path, as_file):
    classes = tmp_path / "classes.csv" if as_file else "7=crop:#112233,3=other"
    (tmp_path / "classes.csv").write_text("value,name,colour\n7,crop,#112233\n3,other,\n")
    found = plan(scene, write_scene("l.tif", checkers(SIDE, SIDE, 8, [3, 7])), classes=classes)
    assert str(found.legend) == "7=crop, 3=other"
    assert found.legend.classes[0].colour == "#112233"
    assert found.mask(np.array([[3, 7, 7]]), np.array([[True, True, False]])).tolist() == [[1, 0, 255]]


def test_the_background_is_named(scene, write_scene):
    labels = write_scene("l.tif", checkers(SIDE, SIDE, 8, [3, 7]))
    assert plan(scene, labels, background="7").legend.background == 1
    assert plan(scene, labels, background="class_3").legend.background == 0
    assert plan(scene, labels, classes="3=a,7=b", background="b").legend.background == 1
    with pytest.raises(LegendError, match="'c' is not in the legend"):
        plan(scene, labels, background="c")


def test_a_class_raster_of_ours_brings_its_legend_with_roles(scene, write_scene):
    labels = write_scene("l.tif", checkers(SIDE, SIDE, 8, [3, 7]), nodata=255)
    entries = [
        {"value": 3, "name": "field", "colour": "#123456", "role": None},
        {"value": 7, "name": "edge", "colour": "#654321", "role": "boundary"},
        {"value": 9, "name": "rest", "colour": "#000000", "role": "background"},
    ]
    with rasterio.open(labels, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(entries)})
    found = plan(scene, labels)
    assert found.legend.to_list() == entries
    assert pixels(found) == {"field": SIDE**2 // 2, "edge": SIDE**2 // 2, "rest": 0}


def test_masks_of_0_and_255_are_0_and_1(scene, write_scene):
    labels = write_scene("l.tif", checkers(SIDE, SIDE, 8, [0, 255]))
    with said(r"l\.tif: labels of 0 and 255 are read as 0 and 1"):
        found = plan(scene, labels)
    assert str(found.legend) == "0=class_0, 1=class_1"
    assert pixels(found) == {"class_0": SIDE**2 // 2, "class_1": SIDE**2 // 2}
    assert found.mask(np.array([[0, 255]]), np.ones((1, 2), bool)).tolist() == [[0, 1]]
    with said("are read as 0 and 1"):
        assert pixels(plan(scene, labels, classes="0=background,1=crop"))["crop"] == SIDE**2 // 2


def test_masks_of_0_and_255_stay_so_where_the_user_says_so(scene, write_scene):
    labels = write_scene("l.tif", checkers(SIDE, SIDE, 8, [0, 255]))
    assert pixels(plan(scene, labels, classes="0=a,255=b")) == {"a": SIDE**2 // 2, "b": SIDE**2 // 2}
    assert pixels(plan(scene, labels, label_nodata=255)) == {"class_0": SIDE**2 // 2}
    assert pixels(plan(scene, write_scene("m.tif", checkers(SIDE, SIDE, 8, [0, 255]), nodata=255))) == {
        "class_0": SIDE**2 // 2
    }
    assert pixels(plan(scene, labels, classes="0=a,1=b,255=c")) == {"a": SIDE**2 // 2, "b": 0, "c": SIDE**2 // 2}
    assert not plan(scene, write_scene("n.tif", checkers(SIDE, SIDE, 8, [0, 1, 255]))).stretched


def test_more_classes_than_a_mask_can_hold(write_scene):
    scene = write_scene("scene.tif", np.ones((16, 16), np.uint8))
    with pytest.raises(LegendError, match="256 found, 1 to 254 are possible"):
        plan(scene, write_scene("l.tif", np.arange(256, dtype=np.uint16).reshape(16, 16)))


# --- strays


@pytest.mark.parametrize(
    ("dtype", "stray"), [("uint8", 255), ("int16", -1), ("int32", 70_000), ("uint8", 2), ("float32", -9999)]
)
def test_a_value_outside_the_legend_is_named_with_its_pixels(scene, write_scene, dtype, stray):
    labels = checkers(SIDE, SIDE, 8).astype(dtype)
    labels[5, 5:22] = stray
    path = write_scene("l.tif", labels)
    with pytest.raises(
        LabelError, match=rf"l\.tif: label values outside the legend \(0=a, 1=b\): {stray} \(17 pixels\)"
    ) as caught:
        plan(scene, path, classes="0=a,1=b")
    assert "--other ignore" in one_line_each(caught.value)[0]
    with said(rf"l\.tif: values outside the legend ignored: {stray} \(17 pixels\)"):
        found = plan(scene, path, classes="0=a,1=b", other="ignore")
    assert sum(pixels(found).values()) == SIDE**2 - 17
    assert found.mask(np.array([[0, 1, stray]]), np.ones((1, 3), bool)).tolist() == [[0, 1, 255]]


def test_values_that_cannot_be_classes_are_strays_without_a_legend_too(scene, write_scene):
    labels = checkers(SIDE, SIDE, 8).astype(np.int16)
    labels[0, :3] = -7
    path = write_scene("l.tif", labels)
    with pytest.raises(LabelError, match=r"-7 \(3 pixels\); .*--label-nodata"):
        plan(scene, path)
    with said(r"ignored: -7 \(3 pixels\)"):
        assert sum(pixels(plan(scene, path, other="ignore")).values()) == SIDE**2 - 3
    assert sum(pixels(plan(scene, path, label_nodata=-7)).values()) == SIDE**2 - 3
    with pytest.raises(LabelError, match="no labelled pixel"):
        plan(scene, write_scene("m.tif", np.full((SIDE, SIDE), -7, np.int16)))


def test_strays_are_told_file_by_file(write_scene):
    scenes = [write_scene(f"{name}.tif", np.ones((16, 16), np.uint8)) for name in "abc"]
    for name, value in (("a", 1), ("b", 5), ("c", 6)):
        write_scene(f"l/{name}.tif", np.full((16, 16), value, np.uint8))
    with pytest.raises(PreflightError) as caught:
        plan(scenes, scenes[0].parent / "l", classes="1=a")
    lines = one_line_each(caught.value)
    assert "l/b.tif" in lines[0]
    assert "5 (256 pixels)" in lines[0]
    assert "l/c.tif" in lines[1]


def test_chips_of_nothing_but_strays_are_left_out(scene, write_scene):
    labels = np.ones((SIDE, SIDE), np.uint8)
    labels[:16, :32] = 9
    with said("outside the legend ignored"):
        found = plan(scene, write_scene("l.tif", labels), classes="0=a,1=b", other="ignore")
    assert len(found.chips) == 14
    assert found.left_out["few labels"] == 2


def test_strays_where_the_scene_has_no_data_do_not_matter(write_scene):
    pixels_ = np.ones((SIDE, SIDE), np.uint8)
    pixels_[:, :8] = 0
    labels = np.ones((SIDE, SIDE), np.uint8)
    labels[:, :8] = 77
    scene = write_scene("scene.tif", pixels_, nodata=0)
    assert pixels(plan(scene, write_scene("l.tif", labels), classes="1=a")) == {"a": SIDE * (SIDE - 8)}


# --- which chips are kept


def test_nodata_and_few_labels_leave_chips_out(write_scene):
    data, labels = np.ones((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    data[:8, :16] = 0  # half of the first chip
    data[:9, 16:32] = 0  # more than half of the second
    labels[:, :] = 1
    labels[16:32, :16] = 200  # nothing known in one, half known in the next
    labels[16:24, 16:32] = 200
    scene, path = write_scene("scene.tif", data, nodata=0), write_scene("l.tif", labels, nodata=200)
    found = plan(scene, path)
    assert found.left_out == {"nodata": 1, "few labels": 1}
    first = found.chips[0]
    assert (first.row, first.col, first.valid, first.class_pixels) == (0, 0, 0.5, (128,))
    assert plan(scene, path, max_nodata=0.4).left_out["nodata"] == 2
    assert "nodata" not in plan(scene, path, max_nodata=1).left_out
    assert plan(scene, path, min_label=0.5, max_nodata=1).left_out["few labels"] == 2
    assert plan(scene, path, min_label=0.51).left_out["few labels"] == 3
    assert "left out 1 nodata, 1 few labels" in str(found)


def test_chips_that_stick_out(write_scene):
    scene, labels = (write_scene(f"{name}.tif", np.ones((40, 35), np.uint8)) for name in "al")
    assert [(chip.row, chip.col) for chip in plan(scene, labels).chips] == [
        (r, c) for r in (0, 16, 32) for c in (0, 16)
    ]
    found = plan(scene, labels, max_nodata=0.95).chips
    assert [(chip.row, chip.col) for chip in found] == [(r, c) for r in (0, 16, 32) for c in (0, 16, 32)]
    assert [chip.class_pixels for chip in found] == [(r * c,) for r in (16, 16, 8) for c in (16, 16, 3)]
    assert [chip.valid for chip in found] == [round(r * c / 256, 4) for r in (16, 16, 8) for c in (16, 16, 3)]


def test_a_stride_below_the_chip_size(scene, write_scene):
    labels = write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8))
    found = plan(scene, labels, stride=8)
    assert [(chip.row, chip.col) for chip in found.chips] == [(r, c) for r in range(0, 49, 8) for c in range(0, 49, 8)]


def test_negatives_thin_out_the_background_of_training_alone(write_scene):
    labels = np.zeros((160, 160), np.uint8)
    labels[:, :80] = 1
    scene, path = write_scene("scene.tif", np.ones((160, 160), np.uint8)), write_scene("l.tif", labels)
    options = {"classes": "0=background,1=crop", "split": "8:1:1", "block_size": 1}
    whole = Counter((chip.split, chip.class_pixels[1] == 0) for chip in plan(scene, path, **options).chips)
    assert whole[("train", True)] > 30
    none = plan(scene, path, negatives=0, **options)
    kept = Counter((chip.split, chip.class_pixels[1] == 0) for chip in none.chips)
    assert kept == whole - Counter({("train", True): whole[("train", True)]})
    assert none.left_out["background only"] == whole[("train", True)]
    half = plan(scene, path, negatives=0.5, **options)
    assert 5 < half.left_out["background only"] < whole[("train", True)] - 5
    assert half.chips == plan(scene, path, negatives=0.5, **options).chips
    with pytest.raises(SplitError, match="no chip is left for training"):
        plan(scene, path, negatives=0, classes="1=background,0=crop", label_nodata=0)


def test_without_a_background_there_are_no_negatives(scene, write_scene):
    found = plan(scene, write_scene("l.tif", np.full((SIDE, SIDE), 3, np.uint8)), negatives=0)
    assert len(found.chips) == 16


def test_a_scene_of_no_chip_is_a_warning_and_no_more(scene, write_scene):
    empty = write_scene("empty.tif", np.zeros((SIDE, SIDE), np.uint8), nodata=0)
    labels = write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8))
    with said(r"empty\.tif: no chip of it is used"):
        found = plan([scene, empty], labels)
    assert {chip.scene for chip in found.chips} == {"scene"}
    small = write_scene("small.tif", np.ones((9, 9), np.uint8))
    with said(r"small\.tif: no chip of it is used"):
        plan([scene, small], labels)


def test_no_chip_at_all_is_an_error_that_says_why(write_scene):
    labels = write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8))
    empty = write_scene("empty.tif", np.zeros((SIDE, SIDE), np.uint8), nodata=0)
    with pytest.raises(
        LabelError, match=r"l\.tif: no labelled pixel on a valid pixel.*left out 16 nodata.*--max-nodata"
    ):
        plan(empty, labels)
    scene, half = write_scene("scene.tif", np.ones((SIDE, SIDE), np.uint8)), checkers(SIDE, SIDE, 1)
    with pytest.raises(LabelError, match=r"no chip has enough labelled pixels; lower --min-label"):
        plan(scene, write_scene("m.tif", half, nodata=0), min_label=0.6)


def test_progress_counts_the_windows(scene, write_scene):
    told = []
    plan(scene, write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8)), progress=lambda *step: told.append(step))
    assert told == [("survey scene", done, 16) for done in range(1, 17)]


# --- polygons


def test_polygons_by_class_in_another_crs(scene, tmp_path):
    shapes = [box(0, 0, 16, 16), box(16, 16, 20, 10), box(500, 500, 3, 3)]
    path = write_polygons(tmp_path / "l.gpkg", shapes, to="EPSG:4326", crop=["wheat", "rye", "oats"])
    found = plan(scene, path, class_field="crop")
    assert pixels(found) == {"background": SIDE**2 - 456, "oats": 0, "rye": 200, "wheat": 256}
    assert f"{100 * (SIDE**2 - 456) / SIDE**2:.1f} % of the labelled pixels are background" in str(found)
    assert "--unlabelled ignore or --aoi" in str(found)


def test_ground_outside_polygons_can_be_ignored(scene, tmp_path):
    path = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 16, 16), box(16, 16, 20, 10)], crop=["wheat", "rye"])
    found = plan(scene, path, class_field="crop", unlabelled="ignore")
    assert pixels(found) == {"rye": 200, "wheat": 256}
    assert len(found.chips) == 3
    assert found.outside is None


def test_labels_are_complete_inside_the_aoi_and_unknown_outside(scene, write_scene, tmp_path):
    path = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 16, 16)])
    aoi = write_polygons(tmp_path / "aoi.gpkg", [box(8, 0, 16, 64), box(0, 0, 1, 1)], to="EPSG:4326")
    found = plan(scene, path, aoi=aoi)
    assert pixels(found) == {"background": 16 * 64 - 8 * 16, "class_1": 8 * 16 + 1}
    assert found.outside is None
    masks = write_scene("l.tif", np.full((SIDE, SIDE), 4, np.uint8))
    assert pixels(plan(scene, masks, aoi=aoi)) == {"class_4": 16 * 64 + 1}


def test_the_class_outside_is_the_one_that_is_named_background(scene, tmp_path):
    path = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 16, 16), box(16, 16, 20, 10)], crop=["fallow", "rye"])
    found = plan(scene, path, class_field="crop", background="fallow")
    assert (found.legend.names, found.legend.background) == (("fallow", "rye"), 0)
    assert pixels(found) == {"fallow": SIDE**2 - 200, "rye": 200}
    with found.pairs.open("scene") as pair:
        _, _, values, known = pair.read(rasterio.windows.Window(0, 0, SIDE, SIDE))
    written = found.mask(values, known)
    assert np.bincount(written.ravel()).tolist() == [SIDE**2 - 200, 200]


def test_polygons_of_no_class_of_the_legend_are_unknown_on_request(scene, tmp_path):
    path = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 16, 16), box(16, 16, 20, 10)], crop=["wheat", "rye"])
    options = {"class_field": "crop", "classes": "0=background,1=wheat"}
    with pytest.raises(LabelError, match=r"l\.gpkg: 'rye' \(1 polygons\) not in the legend"):
        plan(scene, path, **options)
    with said(r"l\.gpkg: not in the legend, so what lies there is ignored: 'rye'"):
        found = plan(scene, path, other="ignore", **options)
    assert pixels(found) == {"background": SIDE**2 - 456, "wheat": 256}


def test_a_warning_about_a_file_is_said_once_however_many_scenes_it_serves(write_scene, tmp_path, recwarn):
    scenes = [write_scene(f"{name}.tif", np.ones((16, 16), np.uint8)) for name in "abc"]
    bow_tie = box(0, 0, 16, 16).exterior.coords
    shapes = [type(box(0, 0, 1, 1))([bow_tie[i] for i in (0, 2, 1, 3)]), box(0, 0, 4, 4)]
    path = write_polygons(tmp_path / "l.gpkg", shapes, kind=[1, None])
    plan(scenes, path, class_field="kind")
    assert [str(warning.message).split(": ")[1] for warning in recwarn if warning.category is DataWarning] == [
        "1 invalid geometries mended, 0 without an area left out",
        "1 polygons without a value in 'kind' are left out",
    ]


def test_a_mask_without_a_crs_is_spoken_of_once(scene, write_scene, recwarn):
    labels = write_scene("l.png", np.ones((SIDE, SIDE), np.uint8), crs=None, transform=Affine.identity())
    with plan(scene, labels).pairs.open("scene"):
        pass
    assert [str(w.message).count("taken pixel by pixel") for w in recwarn if w.category is DataWarning] == [1]


def test_polygons_and_masks_together_need_the_classes(write_scene, tmp_path):
    scenes = [write_scene(f"{name}.tif", np.ones((16, 16), np.uint8)) for name in "ab"]
    write_scene("l/a.tif", np.full((16, 16), 2, np.uint8))
    write_polygons(tmp_path / "l" / "b.gpkg", [box(0, 0, 4, 4)], kind=["rye"])
    with pytest.raises(LabelError, match=r"b\.gpkg: polygons for one scene and masks for another; name the classes"):
        plan(scenes, tmp_path / "l", class_field="kind")
    found = plan(scenes, tmp_path / "l", class_field="kind", classes="0=background,1=rye,2=oats")
    assert pixels(found) == {"background": 240, "rye": 16, "oats": 256}


# --- every fault at once


@pytest.mark.parametrize(
    ("options", "said_"),
    [
        ({"split": "8:1"}, "--split '8:1'"),
        ({"chip_size": 0}, "--chip-size 0: 1 or more"),
        ({"stride": 0}, "--stride 0"),
        ({"stride": 17}, "--stride 17: 1 or more is needed, at most the --chip-size"),
        ({"block_size": 0}, "--block-size 0"),
        ({"block_size": -2}, "--block-size -2"),
        ({"seed": -1}, "--seed -1: 0 or more"),
        ({"max_nodata": 1.5}, "--max-nodata 1.5: a share from 0 to 1"),
        ({"min_label": -0.1}, "--min-label -0.1"),
        ({"negatives": float("nan")}, "--negatives nan"),
        ({"other": "drop"}, "--other drop: known are error, ignore"),
        ({"unlabelled": "x"}, "--unlabelled x"),
        ({"split_by": "date"}, "--split-by date: known are block, random, scene"),
    ],
)
def test_odd_options_are_refused(scene, write_scene, options, said_):
    with pytest.raises(InputError, match=said_) as caught:
        plan(scene, write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8)), **options)
    one_line_each(caught.value)


def test_faults_of_options_labels_and_classes_come_together_and_after_those_before(write_scene, tmp_path):
    scenes = [write_scene(f"{name}.tif", np.ones((16, 16), np.uint8)) for name in "abcdef"]
    write_scene("l/a.tif", np.ones((16, 16), np.uint8), transform=moved(TRANSFORM, 0, 99))
    write_polygons(tmp_path / "l" / "b.gpkg", [box(99, 99, 1, 1)])
    (tmp_path / "l" / "c.tif").write_text("no TIFF")
    (tmp_path / "l" / "d.gpkg").write_text("no GeoPackage")
    write_scene("l/e.png", np.ones((9, 9), np.uint8), crs=None, transform=Affine.identity())
    faults = Faults()
    with faults.collect():
        raise RasterError("earlier.tif: not a raster")
    with pytest.raises(PreflightError) as caught:
        plan(scenes, tmp_path / "l", faults=faults, classes="x", split="1", aoi=tmp_path / "aoi.gpkg", chip_size=0)
    lines = one_line_each(caught.value)
    expected = ("earlier.tif", "--split", "--chip-size", "--classes 'x'", "aoi.gpkg: not found", "f.tif: no labels",
                "c.tif: a GeoTIFF", "d.gpkg: no features", "a.tif: does not overlap", "b.gpkg: does not overlap",
                "e.png: no CRS")  # fmt: skip
    assert len(lines) == len(expected)
    for part, line in zip(expected, lines, strict=True):
        assert part in line


def test_polygons_that_the_legend_cannot_tell_apart_are_found_before_a_pixel_is_read(scene, tmp_path):
    labels = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 4, 4)])
    with pytest.raises(PreflightError) as caught:
        plan(scene, labels, classes="0=background,1=rye,2=oats", aoi=tmp_path / "none.gpkg")
    assert ["none.gpkg" in line for line in one_line_each(caught.value)] == [True, False]


def test_a_fault_of_a_file_is_said_once_however_many_scenes_it_serves(write_scene, tmp_path):
    scenes = [write_scene(f"{name}.tif", np.ones((16, 16), np.uint8)) for name in "abc"]
    labels = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 4, 4)], kind=["rye"])
    for options, part in (
        ({"aoi": tmp_path / "none.gpkg"}, r"none\.gpkg: not found"),
        ({"class_field": "crop"}, r"no field 'crop'"),
        ({"class_field": "crop", "classes": "1=rye"}, r"no field 'crop'"),
        ({"classes": "1=rye,2=oats"}, "no --class-field to tell them apart"),
        ({"classes": "1=rye"}, "pixels outside the polygons have no class"),
    ):
        with pytest.raises(InputError if "aoi" not in options else MissingFileError, match=part) as caught:
            plan(scenes, labels, **options)
        assert not isinstance(caught.value, PreflightError)


def test_a_scene_without_a_crs_says_what_works_with_polygons(write_scene, tmp_path):
    scene = write_scene("p.png", np.ones((16, 20), np.uint8), crs=None, transform=Affine.identity())
    labels = write_polygons(tmp_path / "l.gpkg", [box(0, 0, 4, 4)])
    with pytest.raises(GeoreferenceError, match=r"p\.png: no CRS.*a mask raster of 16 x 20 pixels works"):
        plan(scene, labels)
    mask = write_scene("m.png", np.ones((16, 20), np.uint8), crs=None, transform=Affine.identity())
    assert len(plan(scene, mask).chips) == 1


def test_damage_in_the_pixels_of_several_scenes_is_told_at_once(write_scene, rng):
    scenes = []
    for name in "abc":
        path = write_scene(f"{name}.tif", rng.integers(0, 255, (SIDE, SIDE), np.uint8), compress="deflate")
        if name != "b":
            content = bytearray(path.read_bytes())
            content[600:2000] = bytes(1400)
            path.write_bytes(content)
        scenes.append(path)
    with pytest.raises(PreflightError) as caught:
        plan(scenes, write_scene("l.tif", np.ones((SIDE, SIDE), np.uint8)))
    assert [line.split(": ")[0][-5:] for line in one_line_each(caught.value)] == ["a.tif", "c.tif"]


def test_one_mask_may_serve_scenes_on_other_grids(write_scene, tmp_path):
    a = write_scene("a.tif", np.ones((16, 16), np.uint8))
    b = write_scene("b.tif", np.ones((16, 16), np.uint8), transform=moved(TRANSFORM, 8, 8))
    labels = write_scene("l.tif", np.ones((16, 16), np.uint8))
    found = plan([a, b], labels, max_nodata=0.9)
    assert [chip.class_pixels for chip in found.chips] == [(256,), (64,)]
    shutil.copy(labels, tmp_path / "copy.tif")
    assert plan([a, b], tmp_path / "copy.tif", max_nodata=0.9).chips == found.chips
