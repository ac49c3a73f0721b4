"""The boundary of fields as a class of its own: which pixels, from polygons, numbered fields and classes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scenery import box, one_line_each, write_polygons

from geoseg.errors import DataWarning, GeosegError, LabelError
from geoseg.field_boundaries import UNKNOWN, find_boundary
from geoseg.legend import Legend
from geoseg.tiling import tile

SIDE, CHIP = 96, 32


@given(st.data(), st.integers(1, 3))
def test_a_rim_is_what_lies_near_other_ground(data, width):
    shape = (9 + 2 * width, 7 + 2 * width)
    fields = data.draw(npst.arrays(np.int32, shape, elements=st.integers(UNKNOWN, 3), fill=st.nothing()))
    seen = data.draw(npst.arrays(bool, shape))
    found = find_boundary(fields, seen, width)
    for row, col in np.ndindex(found.shape):
        own, near = fields[row + width, col + width], False
        for other_row, other_col in np.ndindex(shape):
            distance = np.hypot(other_row - row - width, other_col - col - width)
            other = fields[other_row, other_col]
            near |= bool(distance <= width and seen[other_row, other_col] and other not in (own, UNKNOWN))
        assert found[row, col] == (near and own > 0)


@pytest.fixture
def scene(write_scene, rng) -> Path:
    pixels = rng.integers(1, 200, (2, SIDE, SIDE), np.uint8)
    pixels[:, 40:50, 40:50] = 0
    return write_scene("scene.tif", pixels, nodata=0)


@pytest.fixture
def fields() -> np.ndarray:
    """Numbers of fields that touch one another, the edge of the scene, its nodata and ground without a field."""
    numbers = np.zeros((SIDE, SIDE), np.int32)
    numbers[:30, :60], numbers[30:60, :60], numbers[60:, 20:60] = 3, 70_000, 2
    numbers[10:90, 70:94] = 1_000_001
    return numbers


@pytest.fixture
def mosaic(tmp_path, scene):
    """The masks of all chips, put together; pixels of no chip are 254."""

    def put_together(labels: Path, width: int, **options: object) -> tuple[np.ndarray, Legend]:
        chips = tile(
            scene, labels=labels, out=tmp_path / "chips", chip_size=CHIP, boundary=width, block_size=1, overwrite=True,
            **options,
        )  # fmt: skip
        whole = np.full((SIDE, SIDE), 254, np.uint8)
        for chip in chips.chips:
            pixels, valid, mask = chips.read(chip)
            assert pixels.shape[1:] == valid.shape == mask.shape == (CHIP, CHIP)
            whole[chip.row : chip.row + CHIP, chip.col : chip.col + CHIP] = mask
            counts = np.bincount(mask[mask < 255], minlength=len(chips.legend))
            assert tuple(counts.tolist()) == chip.class_pixels
        return whole, chips.legend

    return put_together


def expected(fields: np.ndarray, width: int) -> np.ndarray:
    """Class indices: background, field, boundary, by `find_boundary` over the whole scene at once."""
    seen = np.ones(fields.shape, bool)
    seen[40:50, 40:50] = False
    wide = np.pad(fields, width), np.pad(seen, width)
    mask = np.where(find_boundary(*wide, width), 2, np.minimum(fields, 1)).astype(np.uint8)
    mask[~seen] = 255
    return mask


@pytest.mark.parametrize("width", [1, 3])
def test_polygons_numbers_and_the_whole_scene_agree(mosaic, write_scene, tmp_path, fields, width):
    polygons = write_polygons(
        tmp_path / "fields.gpkg",
        [box(0, -9, 30, 69), box(30, -9, 30, 69), box(60, 20, 90, 40), box(10, 70, 80, 24)],
    )
    by_polygons, legend = mosaic(polygons, width)
    by_numbers, other = mosaic(write_scene("numbers.tif", fields), width, instances=True)
    assert [entry.role for entry in legend] == ["background", None, "boundary"]
    assert (legend.values, other.names) == ((0, 1, 2), ("background", "field", "boundary"))
    np.testing.assert_array_equal(by_polygons, expected(fields, width))
    np.testing.assert_array_equal(by_numbers, by_polygons)


def test_the_rim_lies_within_fields_that_touch_and_not_at_the_edge_of_what_is_seen(mosaic, write_scene, fields):
    mask, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True)
    assert (mask[28:32, 10] == [1, 2, 2, 1]).all()  # two fields
    assert (mask[20, 57:62] == [1, 1, 2, 0, 0]).all()  # a field and none
    assert (mask[0, :50] == 1).all()  # the edge of the scene
    assert (mask[45, 38:40] == 1).all()  # nodata


def test_classes_have_boundaries_where_they_meet(mosaic, write_scene, fields):
    classes = np.select([fields == 3, fields == 70_000, fields == 2], [5, 6, 6], 0).astype(np.uint8)
    classes[80:, :10] = 9
    mask, legend = mosaic(write_scene("classes.tif", classes, nodata=9), 1, classes="0=background,5=wheat,6=rye")
    assert legend.values == (0, 5, 6, 7)
    assert (mask[28:32, 10] == [1, 3, 3, 2]).all()
    assert (mask[58:62, 30] == 2).all()  # two fields of rye are one
    assert (mask[79:82, 5] == [0, 255, 255]).all()


def test_ground_that_nobody_knows_makes_no_rim(mosaic, write_scene, fields):
    fields[30:60, :60] = -1
    mask, _ = mosaic(write_scene("numbers.tif", fields, nodata=-1), 1, instances=True)
    assert (mask[28:31, 10] == [1, 1, 255]).all()


def test_where_labels_are_complete_is_cut_out_after_the_rim(mosaic, write_scene, tmp_path, fields):
    area = write_polygons(tmp_path / "aoi.gpkg", [box(0, 0, 30, SIDE)])
    mask, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True, aoi=area)
    assert (mask[28:31, 10] == [1, 2, 255]).all()


def test_a_model_of_such_chips_has_the_boundary_in_its_legend(scene, write_scene, tmp_path, fields):
    chips = tile(
        scene, labels=write_scene("numbers.tif", fields), out=tmp_path / "chips", chip_size=CHIP, boundary=2,
        instances=True, block_size=1, classes="0=other,4=parcel",
    )  # fmt: skip
    assert chips.legend.names == ("other", "parcel", "boundary")
    stored = json.loads((tmp_path / "chips" / "chips.json").read_text())
    assert [entry["role"] for entry in stored["legend"]] == [None, None, "boundary"]
    assert (stored["options"]["boundary"], stored["options"]["instances"]) == (2, True)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64, np.float64])
def test_numbers_of_fields_may_be_large(mosaic, write_scene, fields, dtype):
    plain, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True)
    large = np.where(fields == 0, 0, fields.astype(np.int64) + (2**31 if dtype is np.uint32 else 2**40)).astype(dtype)
    found, _ = mosaic(write_scene("large.tif", large), 1, instances=True)
    np.testing.assert_array_equal(found, plain)


def test_zero_is_no_field_also_where_it_is_the_nodata_value_of_the_file(mosaic, write_scene, fields):
    plain, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True)
    found, _ = mosaic(write_scene("nodata.tif", fields, nodata=0), 1, instances=True)
    np.testing.assert_array_equal(found, plain)
    unknown, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True, label_nodata=0)
    assert not (unknown == 0).any()
    assert (unknown[20, 57:62] == [1, 1, 1, 255, 255]).all()


def test_the_background_may_have_another_value_than_0(mosaic, write_scene, fields):
    plain, _ = mosaic(write_scene("numbers.tif", fields), 1, instances=True)
    found, legend = mosaic(write_scene("n.tif", fields), 1, instances=True, classes="7=background,3=field")
    assert legend.values == (7, 3, 8)
    np.testing.assert_array_equal(found, plain)


def test_a_class_of_value_0_is_a_field_where_another_one_is_the_background(mosaic, write_scene):
    classes = np.full((SIDE, SIDE), 2, np.uint8)
    classes[:30, :60], classes[30:60, :60] = 0, 1
    mask, legend = mosaic(write_scene("c.tif", classes), 1, classes="0=wheat,1=rye,2=rest", background="rest")
    assert [entry.role for entry in legend] == [None, None, "background", "boundary"]
    assert (mask[28:32, 10] == [0, 3, 3, 1]).all()
    assert (mask[20, 58:61] == [0, 3, 2]).all()


def test_ground_that_nobody_knows_makes_no_rim_however_it_comes_about(mosaic, write_scene, tmp_path):
    shapes = [box(0, 0, 30, 60), box(0, 30, 30, 60)]
    known = write_polygons(tmp_path / "known.gpkg", shapes, kind=["wheat", "wheat"])
    options = {"class_field": "kind", "classes": "0=background,1=wheat"}
    mask, _ = mosaic(known, 1, **options)
    assert (mask[28:31, 10] == [1, 2, 0]).all()
    mask, _ = mosaic(known, 1, **options, unlabelled="ignore")
    assert (mask[28:31, 10] == [1, 1, 255]).all()
    strays = write_polygons(tmp_path / "strays.gpkg", [*shapes, box(30, 0, 9, 60)], kind=["wheat", "wheat", "sand"])
    with pytest.warns(DataWarning, match="'sand'"):
        mask, _ = mosaic(strays, 1, **options, other="ignore")
    assert (mask[28:32, 10] == [1, 1, 255, 255]).all()
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[:30, :60], classes[30:39, :60] = 1, 9
    with pytest.warns(DataWarning, match="9 "):
        mask, _ = mosaic(write_scene("c.tif", classes), 1, classes="0=background,1=wheat", other="ignore")
    assert (mask[28:32, 10] == [1, 1, 255, 255]).all()
    assert (mask[39, 10], mask[20, 59]) == (0, 2)


def test_fields_that_are_all_boundary_are_refused_and_little_else_is_told(scene, write_scene, tmp_path):
    numbers = np.kron(np.arange(24 * 24).reshape(24, 24), np.ones((4, 4))).astype(np.int32)
    numbers[:4] = numbers[-4:] = numbers[:, :4] = numbers[:, -4:] = numbers[36:54, 36:54] = (
        0  # what is cut off has no rim
    )
    labels = write_scene("numbers.tif", numbers)
    with pytest.raises(LabelError, match=r"no interior of a field is left on any chip.*the --boundary of 2 pixels"):
        tile(scene, labels=labels, out=tmp_path / "a", chip_size=CHIP, boundary=2, instances=True, block_size=1)
    with pytest.warns(DataWarning, match=r"7\d % of the fields is boundary"):
        tile(scene, labels=labels, out=tmp_path / "a", chip_size=CHIP, boundary=1, instances=True, block_size=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundary": 0}, "1 or more"),
        ({"boundary": 17}, "16 pixels at most"),
        ({"instances": True}, "--boundary"),
        ({"boundary": 1, "instances": True, "classes": "0=none,1=a,2=b"}, "one class of fields"),
        ({"boundary": 1, "instances": True, "classes": "1=a"}, "one class of fields"),
        ({"boundary": 1, "instances": True, "background": "field"}, "0 is the background"),
        ({"boundary": 1}, "--instances"),
        ({"boundary": "1"}, "1 or more"),
        ({"boundary": 1, "classes": "0=background", "other": "ignore"}, "no class of fields among"),
        ({"boundary": 1, "classes": "0=background,1=a,2=boundary"}, "a boundary is among them"),
    ],
)
def test_what_makes_no_boundary_is_refused(scene, write_scene, tmp_path, fields, options, words):
    labels = write_scene("numbers.tif", np.minimum(fields, 200).astype(np.uint8))
    with pytest.raises(GeosegError) as caught:
        tile(scene, labels=labels, out=tmp_path / "chips", chip_size=CHIP, **options)
    assert any(words in line for line in one_line_each(caught.value))
    assert not (tmp_path / "chips").exists()


def test_numbers_below_0_are_refused_where_they_mean_nothing(scene, write_scene, tmp_path, fields):
    fields[60:70] = -5
    labels = write_scene("numbers.tif", fields)
    with pytest.raises(LabelError, match=r"numbers\.tif: the number -5 found; fields are numbered from 1"):
        tile(scene, labels=labels, out=tmp_path / "chips", chip_size=CHIP, boundary=1, instances=True)


def test_polygons_are_fields_without_saying_so(scene, tmp_path):
    labels = write_polygons(tmp_path / "fields.gpkg", [box(0, 0, 30, 60)])
    with pytest.raises(LabelError, match="leave out --instances"):
        tile(scene, labels=labels, out=tmp_path / "chips", chip_size=CHIP, boundary=1, instances=True)
