"""Mask rasters on the grid of a scene: which file belongs to which scene, where labels are known, and their names."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from scenery import TRANSFORM, moved, one_line_each, said

from geoseg.errors import DataWarning, Faults, GeoreferenceError, LabelError, LegendError, MissingFileError, RasterError
from geoseg.geotiff import write_geotiff
from geoseg.labels import match_labels, open_label_raster, raster_legend, read_legend, refuse_no_overlap
from geoseg.legend import LEGEND_TAG, make_legend, parse_legend
from geoseg.scenes import Scene, describe_scene

pytestmark = pytest.mark.filterwarnings("ignore:.*on another grid than what it is laid on")

VALUES = np.array([[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0]], np.uint8)


@pytest.fixture
def scene(write_scene):
    return describe_scene(write_scene("scene.tif", np.ones((3, 4), np.uint8)))


def read(path, scene: Scene, window: Window | None = None, classes: str | None = None, nodata: int | None = None):
    """Values, with None where they are not known."""
    legend = parse_legend(classes) if classes else None
    with open_label_raster(path, scene, named=legend, nodata=nodata) as reader:
        values, known = reader.read(window or Window(0, 0, scene.width, scene.height))
    assert (values.dtype, known.dtype) == (np.int32, np.bool_)
    return np.where(known, values.astype(object), None).tolist()


def nulls(values: np.ndarray, *unknown: int) -> list:
    return np.where(np.isin(values, unknown), None, values.astype(object)).tolist()


# --- the file of each scene


def match(folder, *scenes: Scene):
    faults = Faults()
    matched = match_labels(folder, scenes, faults)
    faults.raise_any()
    return {name: path.name for name, path in matched.items()}


@pytest.fixture
def scenes(write_scene):
    return [
        describe_scene(write_scene(f"scenes/{name}.tif", np.ones((2, 2), np.uint8)))
        for name in ("a", "b_sr", "C_Image")
    ]


def test_one_file_serves_all_scenes(scenes, write_scene):
    path = write_scene("labels.tif", np.ones((2, 2), np.uint8))
    assert match(path, *scenes) == dict.fromkeys(("a", "b_sr", "C_Image"), "labels.tif")


def test_labels_in_a_folder_go_by_the_scenes_stems(scenes, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("a_mask.tif", "b_classes.PNG", "C_Labels.gpkg", "a.tif.aux.xml", "a_mask.qml", "d.tif"):
        (folder / name).touch()
    assert match(folder, *scenes) == {"a": "a_mask.tif", "b_sr": "b_classes.PNG", "C_Image": "C_Labels.gpkg"}


@pytest.mark.parametrize("ending", ["", "_mask", "_label", "_labels", "_classes"])
def test_endings_of_label_files(scenes, tmp_path, ending):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f"b_sr{ending}.tif").touch()
    assert match(tmp_path / "labels", scenes[1]) == {"b_sr": f"b_sr{ending}.tif"}


def test_labels_may_lie_beside_the_scenes(scenes):
    for name in ("a_mask.tif", "b_mask.tif"):
        (scenes[0].path.parent / name).touch()
    assert match(scenes[0].path.parent, *scenes[:2]) == {"a": "a_mask.tif", "b_sr": "b_mask.tif"}


def test_all_scenes_without_labels_and_with_two_are_named_at_once(scenes, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("b_mask.tif", "b_sr.gpkg"):
        (folder / name).touch()
    faults = Faults()
    assert match_labels(folder, scenes, faults) == {}
    assert [type(error) for error in faults.errors] == [LabelError] * 3
    lines = list(map(str, faults.errors))
    assert "scenes/a.tif: no labels" in lines[0]
    assert "a_mask.tif" in lines[0]
    assert "b_sr.gpkg, b_mask.tif" in lines[1] or "b_mask.tif, b_sr.gpkg" in lines[1]


def test_labels_that_are_not_there(scenes, tmp_path):
    faults = Faults()
    assert match_labels(tmp_path / "none", scenes, faults) == {}
    with pytest.raises(MissingFileError, match=r"none: not found; --labels takes"):
        faults.raise_any()


# --- the same grid


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
)
def test_values_of_any_dtype(write_scene, scene, dtype):
    assert read(write_scene("l.tif", VALUES.astype(dtype)), scene) == VALUES.tolist()


def test_a_window_that_sticks_out_is_unknown_there(write_scene, scene):
    path = write_scene("l.tif", VALUES)
    assert read(path, scene, Window(-1, -1, 3, 3)) == [[None] * 3, [None, 1, 2], [None, 4, 5]]
    assert read(path, scene, Window(2, 1, 3, 3)) == [[6, 0, None], [9, 0, None], [None] * 3]


@given(row=st.integers(-4, 3), col=st.integers(-3, 4), height=st.integers(1, 7), width=st.integers(1, 7))
def test_any_window_is_a_cut_of_the_whole(tmp_path_factory, row, col, height, width):
    path = tmp_path_factory.getbasetemp() / "window.tif"
    write_geotiff(path, VALUES[None], crs="EPSG:32614", transform=TRANSFORM, nodata=0)
    scene = describe_scene(path)
    window = Window(col, row, width, height)
    if row + height <= 0 or col + width <= 0 or row >= 3 or col >= 4:
        return
    padded = np.pad(VALUES, 8)[row + 8 : row + 8 + height, col + 8 : col + 8 + width]
    assert read(path, scene, window) == nulls(padded, 0)


def test_nodata_of_the_file_and_of_the_user_is_unknown(write_scene, scene):
    assert read(write_scene("l.tif", VALUES, nodata=0), scene) == nulls(VALUES, 0)
    assert read(write_scene("l.tif", VALUES), scene, nodata=9) == nulls(VALUES, 9)
    assert read(write_scene("l.tif", VALUES, nodata=0), scene, nodata=9) == nulls(VALUES, 0, 9)
    assert read(write_scene("l.tif", VALUES), scene, nodata=-9999) == VALUES.tolist()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("float32", -9999), ("uint8", None)])
def test_blocks_that_were_never_written_are_unknown_where_there_is_a_nodata_value(tmp_path, dtype, nodata):
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True}
    place = {"crs": "EPSG:32614", "transform": TRANSFORM, "height": 64, "width": 64}
    with rasterio.open(tmp_path / "l.tif", "w", count=1, dtype=dtype, nodata=nodata, **layout, **place) as dataset:
        dataset.write(np.ones((16, 16), dtype), 1, window=Window(16, 16, 16, 16))
    scene = describe_scene(tmp_path / "l.tif")
    with open_label_raster(scene.path, scene) as reader:
        values, known = reader.read(Window(-8, -8, 40, 24))
        assert known[8:, 8:].all() == (nodata is None)
        assert not values[known].any()
        values, known = reader.read(Window(8, 8, 16, 16))
    assert known[8:, 8:].all()
    assert (values[8:, 8:] == 1).all()
    assert known[:8].all() == (nodata is None)
    assert not values[:8][known[:8]].any()


def test_nodata_that_the_classes_name_is_a_class_after_all(write_scene, scene):
    path = write_scene("l.tif", VALUES, nodata=0)
    assert read(path, scene, classes="0=background,1=crop") == VALUES.tolist()
    assert read(path, scene, classes="1=crop") == nulls(VALUES, 0)
    assert read(path, scene, classes="0=background", nodata=0) == nulls(VALUES, 0)


@pytest.mark.parametrize("kind", ["internal", "msk", "alpha"])
@pytest.mark.parametrize("classes", [None, "0=background,1=crop"])
def test_masked_labels_are_unknown_whatever_the_nodata(write_scene, scene, kind, classes):
    mask = VALUES != 5
    path = write_scene("l.tif", np.stack([VALUES, np.uint8(255) * mask]) if kind == "alpha" else VALUES, nodata=0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"), rasterio.open(path, "r+") as dataset:
        if kind == "alpha":
            dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        else:
            dataset.write_mask(mask)
    assert read(path, scene, classes=classes) == nulls(VALUES, *(() if classes else (0,)), 5)


def test_nan_and_infinity_are_unknown(write_scene, scene):
    values = VALUES.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    assert read(write_scene("l.tif", values), scene)[0] == [None, None, None, 0]


def test_fractions_are_refused_with_one_of_them(write_scene, scene):
    values = VALUES.astype(np.float32)
    values[1, 1] = 2.5
    with pytest.raises(LabelError, match=r"l\.tif: values such as 2\.5 found; labels must be whole numbers"):
        read(write_scene("l.tif", values), scene)
    values[0, 0] = -1.5
    assert read(write_scene("m.tif", np.where(values == -1.5, np.nan, VALUES), nodata=5), scene)[1][1] is None


@pytest.mark.parametrize(
    ("dtype", "value", "found"),
    [
        ("int16", -5, -5),
        ("int32", 70_000, 70_000),
        ("uint32", 2**32 - 1, 2**31 - 1),
        ("int64", -(2**60), -(2**31)),
        ("float32", -3.4e38, -(2**31)),
        ("float64", 1e300, 2**31 - 1),
    ],
)
def test_values_that_no_legend_can_hold_are_handed_over_and_never_wrap_around(write_scene, scene, dtype, value, found):
    values = VALUES.astype(dtype)
    values[0, 0] = value
    assert read(write_scene("l.tif", values), scene)[0] == [found, 2, 3, 0]


def test_of_several_bands_the_first_is_taken_and_said(write_scene, scene):
    with said(r"l\.tif: 3 bands found, the first is taken"):
        assert read(write_scene("l.tif", np.stack([VALUES, VALUES + 1, VALUES + 2])), scene) == VALUES.tolist()


def test_damaged_labels_are_named(write_scene, tmp_path, scene):
    path = write_scene("l.tif", VALUES)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RasterError, match=r"l\.tif: truncated"):
        read(path, scene)
    (tmp_path / "m.tif").write_text("1 2 3")
    with pytest.raises(RasterError, match=r"m\.tif: a GeoTIFF"):
        read(tmp_path / "m.tif", scene)


# --- without a place


def test_pictures_are_laid_on_pixel_by_pixel(write_scene):
    scene = describe_scene(write_scene("scene.png", np.ones((3, 3, 4), np.uint8), crs=None))
    assert read(write_scene("l.png", VALUES, crs=None, transform=Affine.identity()), scene) == VALUES.tolist()


def test_a_mask_without_a_crs_is_laid_on_pixel_by_pixel_and_that_is_said(write_scene, scene):
    with said(r"l\.png: taken pixel by pixel"):
        assert read(write_scene("l.png", VALUES, crs=None, transform=Affine.identity()), scene) == VALUES.tolist()


def test_another_size_needs_a_crs_and_the_message_says_what_works(write_scene, scene):
    path = write_scene("l.png", VALUES[:2], crs=None)
    with pytest.raises(
        GeoreferenceError, match=r"l\.png: no CRS, so labels of 2 x 4 .* 3 x 4; only labels of the same"
    ):
        read(path, scene)
    picture = describe_scene(write_scene("scene.png", np.ones((4, 4), np.uint8), crs=None))
    with pytest.raises(GeoreferenceError, match=r"scene\.png: no CRS"):
        read(write_scene("m.tif", VALUES), picture)


# --- another grid


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 0, 9])
@pytest.mark.parametrize("classes", [None, "0=background,9=crop"])
def test_ground_outside_the_labels_is_unknown_on_any_dtype(write_scene, scene, dtype, nodata, classes):
    path = write_scene("l.tif", VALUES.astype(dtype), nodata=nodata, transform=moved(TRANSFORM, 1, -1))
    known = np.where(np.isin(VALUES, [] if classes or nodata is None else [nodata]), -1, VALUES.astype(int))
    expected = np.full((3, 4), -1)
    expected[1:, :3] = known[:2, 1:]
    assert read(path, scene, classes=classes) == nulls(expected, -1)


@pytest.mark.parametrize("kind", ["internal", "alpha"])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_masked_labels_stay_unknown_on_another_grid(write_scene, scene, kind, dtype):
    mask = VALUES != 5
    values = VALUES.astype(dtype)
    place = {"transform": moved(TRANSFORM, 0, 1)}
    if kind == "internal":
        path = write_scene("l.tif", values, mask=mask, **place)
    else:
        path = write_scene("l.tif", np.stack([values, mask * np.iinfo(dtype).max]).astype(dtype), **place)
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    assert read(path, scene) == [[None, 1, 2, 3], [None, 4, None, 6], [None, 7, 8, 9]]


def test_nan_stays_unknown_on_another_grid(write_scene, scene):
    values = np.where(VALUES == 5, np.nan, VALUES).astype(np.float32)
    place = {"transform": moved(TRANSFORM, 0, 1)}
    for nodata in (None, np.nan):
        path = write_scene("l.tif", values, nodata=nodata, **place)
        assert read(path, scene) == [[None, 1, 2, 3], [None, 4, None, 6], [None, 7, 8, 9]]


@pytest.mark.parametrize(
    ("factor", "expected"), [(2, np.repeat(np.repeat(VALUES, 2, 0), 2, 1)), (0.5, VALUES[1::2, 1::2])]
)
def test_another_resolution_is_read_by_the_nearest_pixel(write_scene, factor, expected):
    height, width = expected.shape
    transform = TRANSFORM @ Affine.scale(1 / factor)
    # Half a pixel off the corners between four labels, so that the nearest is one.
    if factor < 1:
        transform = TRANSFORM @ Affine.translation(0.4, 0.4) @ Affine.scale(2)
    scene = describe_scene(write_scene("scene.tif", np.ones((height, width), np.uint8), transform=transform))
    assert read(write_scene("l.tif", VALUES), scene) == expected.tolist()


def test_a_grid_that_differs_in_the_eighth_digit_is_the_same_and_in_the_third_is_not(write_scene, scene):
    values = np.arange(3000, dtype=np.uint16)[None]
    wide = Affine(1e-5, 0, 10, 0, -1e-5, 40)  # a metre, in degrees: a tenth of it is 1e-6
    long = describe_scene(write_scene("long.tif", np.ones((1, 3000), np.uint8), crs="EPSG:4326", transform=wide))
    near = Affine(1.00000001e-5, 0, 10, 0, -1e-5, 40)
    path = write_scene("near.tif", values, crs="EPSG:4326", transform=near)
    assert read(path, long)[0] == values[0].tolist()
    far = Affine(1.001e-5, 0, 10, 0, -1e-5, 40)
    found = read(write_scene("far.tif", values, crs="EPSG:4326", transform=far), long)[0]
    assert found == [int((col + 0.5) / 1.001) for col in range(3000)]


def test_another_crs_is_met_to_an_eighth_of_a_pixel(write_scene):
    scene = describe_scene(write_scene("scene.tif", np.ones((60, 80), np.uint8)))
    to_degrees = pyproj.Transformer.from_crs("EPSG:32614", "EPSG:4326", always_xy=True)
    left, top = to_degrees.transform(499_500, 4_500_500)
    place = Affine(5e-4, 0, left, 0, -4e-4, top)
    rows, cols = np.indices((60, 60))
    values = (1 + (rows * 7 + cols * 3) % 200).astype(np.int16)
    path = write_scene("l.tif", values, crs="EPSG:4326", transform=place)
    found = np.array(read(path, scene), float)

    def nearest(row: np.ndarray, col: np.ndarray) -> np.ndarray:
        x, y = TRANSFORM @ (col + 0.5, row + 0.5)
        at = ~place @ to_degrees.transform(x, y)
        return values[np.floor(at[1]).astype(int), np.floor(at[0]).astype(int)]

    rows, cols = np.indices((60, 80))
    same = found == nearest(rows, cols)
    for drow in (-0.13, 0.13):
        for dcol in (-0.13, 0.13):
            same |= found == nearest(rows + drow, cols + dcol)
    assert same.all()
    assert (found == nearest(rows, cols)).mean() > 0.95


def test_labels_of_the_whole_earth_meet_a_scene_anywhere(write_scene):
    world = np.arange(180 * 360, dtype=np.uint16).reshape(180, 360)
    path = write_scene("earth.tif", world, crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 90))
    for crs, left, top in (
        ("EPSG:32614", 600_000, 4_500_000),
        ("EPSG:32760", 500_000, 5_000_000),
        ("EPSG:3031", 1e6, 1e6),
    ):
        transform = Affine(10, 0, left, 0, -10, top)
        scene = describe_scene(write_scene("scene.tif", np.ones((2, 2), np.uint8), crs=crs, transform=transform))
        lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(left + 10, top - 10)
        assert read(path, scene) == [[int(90 - lat) * 360 + int(lon + 180)] * 2] * 2


def test_a_turned_label_raster(write_scene):
    scene = describe_scene(write_scene("scene.tif", np.ones((4, 3), np.uint8)))
    quarter = Affine(0, 10, 500_000, -10, 0, 4_500_000)  # its columns go down, its rows go right
    path = write_scene("l.tif", VALUES, transform=quarter)
    assert read(path, scene) == VALUES.T.tolist()


def test_labels_elsewhere_are_refused_with_both_places(write_scene, scene):
    path = write_scene("l.tif", VALUES, transform=moved(TRANSFORM, 0, 4))
    with pytest.raises(
        LabelError, match=r"l\.tif: does not overlap .*scene\.tif.*500040\.\.500080.*500000\.\.500040"
    ) as caught:
        read(path, scene)
    one_line_each(caught.value)


@pytest.mark.parametrize(
    ("bounds", "meets"),
    [
        ((500_000, 4_499_970, 500_040, 4_500_000), True),
        ((500_039, 4_499_999, 600_000, 4_600_000), True),
        ((400_000, 4_400_000, 600_000, 4_600_000), True),
        ((500_040, 4_499_970, 500_080, 4_500_000), False),
        ((500_000, 4_500_000, 500_040, 4_500_040), False),
        ((float("nan"),) * 4, False),
    ],
)
def test_bounds_that_meet_the_scene(scene, tmp_path, bounds, meets):
    if meets:
        found = refuse_no_overlap(tmp_path / "l", scene.crs, bounds, scene)
        assert found == (500_000, 4_499_970, 500_040, 4_500_000)
    else:
        with pytest.raises(LabelError, match="does not overlap"):
            refuse_no_overlap(tmp_path / "l", scene.crs, bounds, scene)


def test_overlap_beside_the_antimeridian(write_scene, tmp_path):
    scene = describe_scene(
        write_scene("s.tif", np.ones((9, 9), np.uint8), crs="EPSG:32660", transform=Affine(1e4, 0, 7e5, 0, -1e4, 5e6))
    )
    for left in (-180, 179):
        assert refuse_no_overlap(tmp_path / "l", "EPSG:4326", (left, 40, left + 1, 50), scene)
    with pytest.raises(LabelError):
        refuse_no_overlap(tmp_path / "l", "EPSG:4326", (0, 60, 1, 70), scene)


def test_a_crs_without_a_place_is_refused_in_one_line(write_scene, scene):
    path = write_scene("l.tif", VALUES[:2], crs='LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(GeoreferenceError, match=r"l\.tif: cannot be laid on .*scene\.tif") as caught:
        read(path, scene)
    one_line_each(caught.value)


# --- names and colours


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_a_palette_gives_colours_to_the_values_found(tmp_path, driver):
    path = tmp_path / "l"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, count=1, height=1, width=2, dtype="uint8") as dataset:
            dataset.write_colormap(1, {0: (9, 9, 9, 255), 1: (0, 0, 0, 255), 2: (255, 0, 16, 255)})
            dataset.write(np.array([[[0, 2]]], np.uint8))
    legend = raster_legend(path, [0, 2])
    found = [(entry.value, entry.name, entry.colour) for entry in legend]
    assert found == [(0, "class_0", "#090909"), (2, "class_2", "#ff0010")]


def test_category_names_of_gdal(write_scene, tmp_path):
    path = write_scene("l.tif", VALUES)
    (tmp_path / "l.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>water</Category><Category/><Category>Korn &amp; Mais'
        '</Category></CategoryNames></PAMRasterBand><PAMRasterBand band="2"><CategoryNames><Category>no</Category>'
        "</CategoryNames></PAMRasterBand></PAMDataset>",
        encoding="utf-8",
    )
    assert raster_legend(path, [0, 1, 2, 3]).names == ("water", "class_1", "Korn & Mais", "class_3")
    (tmp_path / "l.tif.aux.xml").write_text("<PAMDataset>")
    assert raster_legend(path, [0]).names == ("class_0",)


def test_the_legend_of_a_class_raster_of_ours(write_scene):
    path = write_scene("l.tif", VALUES)
    assert read_legend(path) is None
    legend = parse_legend("1=crop:#112233,7=other")
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(legend.to_list())})
    assert read_legend(path) == legend
    for damage in ("{", "[1]", "7", '[{"name": "a"}]', '[{"value": 1e999}]', "[" * 200_000):
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**{LEGEND_TAG: damage})
        with pytest.raises(LegendError):
            read_legend(path)


def test_a_nameless_raster_gets_made_up_names(write_scene):
    assert raster_legend(write_scene("l.tif", VALUES), [2, 5]) == make_legend([2, 5])


@pytest.mark.filterwarnings("default")
def test_that_labels_are_resampled_is_said(write_scene, scene):
    with pytest.warns(
        DataWarning, match=r"l\.tif: on another grid than what it is laid on, so each pixel takes the label nearest"
    ):
        read(write_scene("l.tif", VALUES, transform=TRANSFORM @ Affine.scale(2)), scene)


@pytest.mark.parametrize("encoding", ["GBK", "latin-99"])
def test_a_sidecar_that_nobody_can_read_tells_no_names(write_scene, encoding):
    path = write_scene("l.tif", VALUES)
    path.with_name("l.tif.aux.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><PAMDataset/>')
    assert raster_legend(path, [2, 5]) == make_legend([2, 5])
