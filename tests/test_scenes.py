"""What a scene is, which of its pixels hold data, and what is refused before any work begins."""

from __future__ import annotations

import math
import os
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.windows import Window

from geoseg.errors import GeoreferenceError, MissingFileError, PreflightError, RasterError
from geoseg.geotiff import write_geotiff
from geoseg.grid import grid
from geoseg.scenes import (
    Scene,
    describe_scene,
    find_scenes,
    list_rasters,
    same_grid,
    valid_pixels,
)

A, E2 = 6378137.0, 0.00669437999014  # WGS 84: semi-major axis in metres, eccentricity squared


def read(scene: Scene, window: Window | None = None, sources=None, **options):
    whole = Window(0, 0, scene.width, scene.height)
    with scene.open() as reader:
        return reader.read(window or whole, sources or range(1, len(scene.band_names) + 1), **options)


def valid_of(path) -> list:
    return read(describe_scene(path))[1].astype(int).tolist()


# --- facts


def test_the_facts_of_a_scene(write_scene):
    transform = Affine(10, 0, 500_000, 0, -10, 4_500_000)
    path = write_scene("a.b.tif", np.zeros((2, 3, 4), np.int16), nodata=-9999, names=["red"], transform=transform)
    scene = describe_scene(path)
    assert (scene.name, scene.paths, scene.path) == ("a.b", (path,), path)
    assert (scene.height, scene.width) == (3, 4)
    assert (scene.band_names, scene.dtypes, scene.nodata) == (("red", "band_2"), ("int16",) * 2, (-9999, -9999))
    assert (scene.crs.to_epsg(), scene.transform) == (32614, transform)
    assert str(scene) == "a.b: 3 x 4, 2 bands int16, 10 m, EPSG:32614"


def test_a_picture_has_no_place(write_scene):
    scene = describe_scene(write_scene("a.png", np.zeros((3, 3, 4), np.uint8), crs=None, transform=Affine.identity()))
    assert (scene.crs, scene.pixel_size_m, scene.transform) == (None, None, Affine.identity())
    assert str(scene) == "a: 3 x 4, 3 bands uint8, no CRS"


def _radii(latitude: float) -> tuple[float, float]:
    """Radii of curvature in metres, along the meridian and across it."""
    bulge = 1 - E2 * math.sin(math.radians(latitude)) ** 2
    return A * (1 - E2) / bulge**1.5, A / math.sqrt(bulge)


def test_pixel_size_in_utm_is_the_scale_of_the_zone(write_scene):
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8)))
    assert scene.pixel_size_m == pytest.approx(10 / 0.9996, rel=1e-6)


def test_pixel_size_in_web_mercator_shrinks_with_the_latitude(write_scene):
    north = A * math.asinh(math.tan(math.radians(40)))
    transform = Affine(10, 0, 1_000_000, 0, -10, north + 10)
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8), crs="EPSG:3857", transform=transform))
    along, across = _radii(40)
    expected = 10 * math.cos(math.radians(40)) * math.sqrt(along * across) / A
    assert expected == pytest.approx(7.66, abs=0.01)
    assert scene.pixel_size_m == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("longitude", [10, 180 - 1e-4])
def test_pixel_size_in_degrees_also_beside_the_antimeridian(write_scene, longitude):
    transform = Affine(1e-4, 0, longitude, 0, -1e-4, 40 + 1e-4)
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8), crs="EPSG:4326", transform=transform))
    along, across = _radii(40)
    expected = math.radians(1e-4) * math.sqrt(along * across * math.cos(math.radians(40)))
    assert scene.pixel_size_m == pytest.approx(expected, rel=1e-5)


def test_pixel_size_of_a_turned_scene_with_oblong_pixels(write_scene):
    transform = Affine.translation(500_000, 4_500_000) @ Affine.rotation(30) @ Affine.scale(5, -20)
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8), transform=transform))
    assert scene.pixel_size_m == pytest.approx(10 / 0.9996, rel=1e-5)


@pytest.mark.parametrize(
    ("crs", "side", "expected"),
    [
        ("EPSG:32614", 10, 10),
        ("EPSG:3857", 12, 12),
        ("EPSG:4326", 1e-4, 11.13194908),
        ("EPSG:2264", 30, 30 * 1200 / 3937),
    ],
)
def test_a_pixel_in_the_metres_of_the_map(write_scene, crs, side, expected):
    place = {"crs": crs, "transform": Affine(side, 0, 10, 0, -side, 10)}
    assert describe_scene(write_scene("a.tif", np.ones((2, 2), np.uint8), **place)).map_pixel_size_m == pytest.approx(
        expected
    )


def test_pixel_size_of_a_sheared_scene_is_that_of_its_area(write_scene):
    transform = Affine(10, 10, 500_000, 0, -10, 4_500_000)  # a parallelogram of 100 m2 whose long side is 14.1 m
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8), transform=transform))
    assert scene.pixel_size_m == pytest.approx(10 / 0.9996, rel=1e-5)


def test_a_local_crs_is_refused_with_the_file(write_scene):
    path = write_scene("a.tif", np.zeros((2, 2), np.uint8), crs='LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(GeoreferenceError, match=r"a\.tif: its CRS cannot be placed"):
        _ = describe_scene(path).pixel_size_m


def test_a_crs_from_the_centre_of_the_earth_is_refused_with_the_file(write_scene):
    scene = describe_scene(write_scene("a.tif", np.zeros((2, 2), np.uint8), crs="EPSG:4978"))
    for size in ("pixel_size_m", "map_pixel_size_m"):
        with pytest.raises(GeoreferenceError, match=r"a\.tif: its CRS cannot be placed .*centre of the earth"):
            getattr(scene, size)


def test_bounds_of_a_turned_scene_hold_all_four_corners(write_scene):
    straight = describe_scene(write_scene("a.tif", np.zeros((2, 4), np.uint8)))
    assert straight.bounds == (500_000, 4_499_980, 500_040, 4_500_000)
    transform = Affine(0, 10, 500_000, 10, 0, 4_500_000)  # rows to the east, columns to the north
    turned = describe_scene(write_scene("b.tif", np.zeros((2, 4), np.uint8), transform=transform))
    assert turned.bounds == (500_000, 4_500_000, 500_020, 4_500_040)


# --- which pixels hold data


def test_nodata_in_any_band_makes_a_pixel_unusable(write_scene):
    pixels = np.array([[[1, -9999, 3]], [[-9999, 5, 6]]], np.int16)
    assert valid_of(write_scene("a.tif", pixels, nodata=-9999)) == [[0, 0, 1]]


def test_only_the_bands_asked_for_count(write_scene):
    scene = describe_scene(write_scene("a.tif", np.array([[[1, -1, 3]], [[-1, 5, 6]]], np.int16), nodata=-1))
    pixels, valid = read(scene, sources=[2])
    assert (pixels.tolist(), valid.tolist()) == ([[[-1, 5, 6]]], [[False, True, True]])
    assert read(scene, sources=[2, 1])[0].tolist() == [[[-1, 5, 6]], [[1, -1, 3]]]


@pytest.mark.parametrize("nodata", [None, float("nan"), -9999, float("inf")])
def test_nan_and_infinity_are_never_data(write_scene, nodata):
    pixels = np.array([[1, np.nan, np.inf, -np.inf, 0]], np.float32)
    assert valid_of(write_scene("a.tif", pixels, nodata=nodata)) == [[1, 0, 0, 0, 1]]


@pytest.mark.parametrize("nodata", [-3.4e38, 0.1, np.finfo(np.float32).min.item()])
def test_nodata_of_a_float_band_is_met_after_rounding(write_scene, nodata):
    path = write_scene("a.tif", np.array([[nodata, 2]], np.float32), nodata=nodata)
    assert valid_of(path) == [[0, 1]]
    with rasterio.open(path) as dataset:  # also where GDAL has not rounded it, as in a value that the user gave
        assert valid_pixels(dataset.read(), [nodata], [dataset], Window(0, 0, 2, 1)).tolist() == [[False, True]]


def test_a_nodata_of_0_counts_only_where_every_band_is_0(write_scene):
    pixels = np.array([[[0, 0, 7]], [[0, 5, 0]]], np.uint8)
    assert valid_of(write_scene("a.tif", pixels, nodata=0)) == [[0, 1, 1]]
    assert valid_of(write_scene("b.tif", pixels[:1], nodata=0)) == [[0, 0, 1]]


@pytest.mark.parametrize("nodata", ["-99", "300", "1e9", "7.5"])
def test_a_nodata_that_the_dtype_cannot_hold_matches_nothing(write_scene, nodata):
    path = write_scene("a.tif", np.arange(256, dtype=np.uint8)[None], nodata=123)
    assert valid_of(path)[0].index(0) == 123
    path.write_bytes(path.read_bytes().replace(b"123\0", nodata.encode() + b"\0"))  # rasterio would not write it
    assert valid_of(path) == [[1] * 256]


@pytest.mark.parametrize("nodata", [-9999, 300, 65535, 1e300, 7.5])
def test_a_nodata_of_another_dtype_wraps_around_to_nothing(write_scene, nodata):
    path = write_scene("a.tif", np.arange(256, dtype=np.uint8)[None])
    with rasterio.open(path) as dataset:
        assert valid_pixels(dataset.read(), [nodata], [dataset], Window(0, 0, 256, 1)).all()


def test_an_internal_mask_counts_beside_a_nodata_value(write_scene):
    mask = np.array([[True, False, True]])
    assert valid_of(write_scene("a.tif", np.array([[5, 5, 5]], np.uint8), mask=mask)) == [[1, 0, 1]]
    assert valid_of(write_scene("b.tif", np.array([[5, 5, 9]], np.uint8), mask=mask, nodata=9)) == [[1, 0, 0]]


PLACE = {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000)}


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_mask_stands_beside_the_name_that_is_given_also_of_a_link(write_scene, tmp_path):
    """As git-annex, DVC and caches lay out their files."""
    path = write_scene("store/b1", np.ones((1, 4, 4), np.uint8))
    with rasterio.open(
        tmp_path / "store" / "b2", "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", **PLACE
    ) as mask:
        mask.write(np.array([[[0] * 4] * 2 + [[255] * 4] * 2], np.uint8))
        mask.update_tags(INTERNAL_MASK_FLAGS_1=2)
    (tmp_path / "a.tif").symlink_to(path)
    (tmp_path / "a.tif.msk").symlink_to(tmp_path / "store" / "b2")
    with describe_scene(tmp_path / "a.tif").open() as reader:
        valid = reader.read(Window(0, 0, 4, 4), [1])[1]
    assert not valid[:2].any()
    assert valid[2:].all()


def test_masks_of_single_bands_count(write_scene, tmp_path):
    path = write_scene("a.tif", np.ones((2, 4, 4), np.uint8))
    with rasterio.open(
        tmp_path / "a.tif.msk", "w", driver="GTiff", width=4, height=4, count=2, dtype="uint8", **PLACE
    ) as mask:
        mask.write(np.stack([np.full((4, 4), 255), np.full((4, 4), 255)]).astype(np.uint8))
        mask.write(np.zeros((1, 4), np.uint8), 1, window=Window(0, 0, 4, 1))
        mask.write(np.zeros((1, 4), np.uint8), 2, window=Window(0, 3, 4, 1))
        mask.update_tags(INTERNAL_MASK_FLAGS_1=0, INTERNAL_MASK_FLAGS_2=0)
    with describe_scene(path).open() as reader:
        valid = reader.read(Window(0, 0, 4, 4), [1, 2])[1]
    assert valid.all(axis=1).tolist() == [False, True, True, False]


def test_a_folder_that_is_called_like_a_raster_is_passed_over(write_scene, tmp_path):
    write_scene("all/a.tif", np.ones((1, 4, 4), np.uint8))
    (tmp_path / "all" / "old.tif").mkdir()
    assert [scene.name for scene in find_scenes([tmp_path / "all"])] == ["a"]


def test_a_msk_file_counts(write_scene):
    path = write_scene("a.tif", np.array([[5, 5, 5]], np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.array([[True, True, False]]))
    assert path.with_name("a.tif.msk").exists()
    assert valid_of(path) == [[1, 1, 0]]


@pytest.mark.parametrize("nodata", [None, 9])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_alpha_is_no_band_and_counts_wherever_it_stands(write_scene, nodata, at):
    bands = [np.array([[5, 6, 7]]), np.array([[1, 1, 9]])]
    bands.insert(at - 1, np.array([[0, 255, 255]]))
    path = write_scene("a.tif", np.array(bands, np.uint8), nodata=nodata)
    with rasterio.open(path, "r+") as dataset:
        kinds = [ColorInterp.gray, ColorInterp.undefined]
        kinds.insert(at - 1, ColorInterp.alpha)
        dataset.colorinterp = kinds
    scene = describe_scene(path)
    assert len(scene.band_names) == len(scene.dtypes) == len(scene.nodata) == 2
    pixels, valid = read(scene)
    assert pixels.tolist() == [[[5, 6, 7]], [[1, 1, 9]]]
    assert valid.astype(int).tolist() == [[0, 1, 1 if nodata is None else 0]]


def test_a_png_with_alpha(write_scene):
    pixels = np.array([[[1, 2]], [[3, 4]], [[5, 6]], [[255, 0]]], np.uint8)
    scene = describe_scene(write_scene("a.png", pixels, crs=None))
    assert len(scene.band_names) == 3
    assert read(scene)[1].tolist() == [[True, False]]


# --- windows that need not be read


@pytest.fixture
def write_sparse(tmp_path):
    """A function that writes a GeoTIFF of 64 x 64 pixels in which only some blocks, or some bands, were ever written."""

    def write(
        name="a.tif", *, count=2, dtype="uint8", written=(), bands=None, tiled=True, interleave="pixel", **options
    ):
        layout = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {"blockysize": 4}
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        profile = {"driver": "GTiff", "count": count, "height": 64, "width": 64, "dtype": dtype, "SPARSE_OK": True}
        profile |= {"crs": "EPSG:32614", "transform": Affine(10, 0, 0, 0, -10, 0), "interleave": interleave} | layout
        with rasterio.open(path, "w", **{"photometric": "minisblack"} | profile | options) as dataset:
            for window in written:
                for band in bands or dataset.indexes:
                    dataset.write(np.ones((window.height, window.width), dtype), band, window=window)
        return path

    return write


def empty(path, *windows: Window, sources=(1, 2), stack=False) -> list[bool]:
    (scene,) = find_scenes([path], stack=stack)
    with scene.open() as reader:
        for window in windows:
            assert not (reader.is_empty(window, sources) and reader.read(window, sources)[1].any())
        return [reader.is_empty(window, sources) for window in windows]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("float32", -9999), ("float32", np.nan)])
def test_blocks_that_were_never_written_need_not_be_read(write_sparse, interleave, dtype, nodata):
    path = write_sparse(written=[Window(16, 32, 16, 16)], dtype=dtype, nodata=nodata, interleave=interleave)
    around = [
        Window(0, 0, 64, 32),
        Window(0, 0, 16, 64),
        Window(32, 0, 32, 64),
        Window(0, 48, 64, 16),
        Window(15, 31, 1, 1),
    ]
    touching = [
        Window(0, 0, 64, 33),
        Window(0, 0, 17, 64),
        Window(31, 0, 32, 64),
        Window(0, 47, 64, 16),
        Window(20, 40, 1, 1),
    ]
    assert empty(path, *around) == [True] * 5
    assert empty(path, *touching) == [False] * 5


def test_of_a_window_that_sticks_out_only_the_inside_counts(write_sparse):
    path = write_sparse(written=[Window(16, 16, 16, 16)], nodata=0)
    assert empty(path, Window(-30, -30, 46, 46), Window(40, 40, 99, 99), Window(-30, -30, 47, 47)) == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", None), ("float32", None)])
def test_zeros_are_data_where_no_nodata_value_says_otherwise(write_sparse, dtype, nodata):
    path = write_sparse(dtype=dtype, nodata=nodata)
    assert empty(path, Window(0, 0, 64, 64)) == [False]
    with describe_scene(path).open() as reader:
        assert reader.read(Window(0, 0, 64, 64), [1])[1].all()


@pytest.mark.parametrize("nodata", ["-99", "300", "7.5"])
def test_a_nodata_that_gdal_cannot_fill_in_is_no_proof(write_sparse, nodata):
    path = write_sparse(nodata=123)
    path.write_bytes(path.read_bytes().replace(b"123\0", nodata.encode() + b"\0"))
    assert empty(path, Window(0, 0, 64, 64)) == [False]


@pytest.mark.parametrize(("nodata", "expected"), [(0, False), (255, True)])
def test_one_band_without_data_is_enough_unless_its_nodata_is_0(write_sparse, nodata, expected):
    path = write_sparse(written=[Window(0, 0, 64, 64)], bands=[2], nodata=nodata, interleave="band")
    assert empty(path, Window(0, 0, 64, 64)) == [expected]
    assert empty(path, Window(0, 0, 64, 64), sources=[1]) == [True]
    assert empty(path, Window(0, 0, 64, 64), sources=[2]) == [False]


def test_strips_that_were_never_written_need_not_be_read(write_sparse):
    path = write_sparse(written=[Window(0, 20, 64, 4)], tiled=False, nodata=0)
    assert empty(path, Window(5, 0, 9, 20), Window(5, 24, 9, 40), Window(5, 0, 9, 21)) == [True, True, False]


@pytest.mark.parametrize(("nodata", "expected"), [(0, False), (255, True), (None, False)])
def test_a_stack_is_as_empty_as_the_rule_for_its_bands(write_sparse, tmp_path, nodata, expected):
    write_sparse("s/1.tif", count=1, nodata=nodata)
    write_sparse("s/2.tif", count=1, nodata=nodata, written=[Window(0, 0, 64, 64)])
    assert empty(tmp_path / "s", Window(0, 0, 64, 64), stack=True) == [expected]
    assert empty(tmp_path / "s", Window(0, 0, 64, 64), sources=[1], stack=True) == [nodata is not None]


def test_a_mask_tells_what_need_not_be_read(write_scene):
    mask = np.zeros((64, 64), bool)
    mask[20, 30] = True
    path = write_scene("a.tif", np.ones((2, 64, 64), np.uint8), mask=mask)
    windows = [Window(0, 0, 64, 20), Window(31, 0, 33, 64), Window(30, 20, 1, 1), Window(-9, -9, 39, 99)]
    assert empty(path, *windows) == [True, True, False, True]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_an_alpha_band_tells_where_it_is_stored_apart(write_sparse, write_scene, interleave):
    pixels = np.ones((4, 64, 64), np.uint8)
    pixels[3, :, :32] = 0
    options = {"photometric": "rgb", "alpha": "yes", "interleave": interleave}
    path = write_scene("full.tif", pixels, **options)
    assert empty(path, Window(0, 0, 32, 64), Window(0, 0, 33, 64)) == [interleave == "band", False]
    path = write_sparse(count=4, written=[Window(0, 0, 16, 16)], **options)
    assert empty(path, Window(16, 0, 48, 64), Window(15, 0, 48, 64)) == [True, False]
    path = write_sparse("b.tif", count=4, nodata=255, bands=[1, 2, 3], written=[Window(0, 0, 64, 64)], **options)
    empty(path, Window(0, 0, 64, 64))  # the absent alpha reads as 255, which hides nothing: `read` has the last word


def test_a_picture_is_never_empty_by_its_blocks(write_scene):
    assert empty(write_scene("a.png", np.zeros((3, 8, 8), np.uint8), crs=None), Window(0, 0, 8, 8)) == [False]


# --- reading over the edge


@given(height=st.integers(1, 9), width=st.integers(1, 9), core=st.integers(1, 9), margin=st.integers(0, 9))
def test_a_core_sees_the_mirror_image_of_the_scene_as_far_as_its_margin(tmp_path_factory, height, width, core, margin):
    pixels = np.arange(1, 2 * height * width + 1, dtype=np.int16).reshape(2, height, width)
    pixels[:, 0, 0] = -1
    path = tmp_path_factory.getbasetemp() / "edge.tif"
    write_geotiff(path, pixels, crs=None, transform=Affine.identity(), nodata=-1)
    mirrored, inside = np.pad(pixels, [(0, 0), (40, 40), (40, 40)], "reflect"), np.pad(pixels[0] != -1, 40)
    with describe_scene(path).open() as reader:
        for tile in grid(height, width, core, margin):
            rows, cols = (slice(start + 40, start + 40 + tile.read.height) for start in tile.read.flatten()[1::-1])
            near = (slice(tile.core.height + 2 * margin), slice(tile.core.width + 2 * margin))
            expected = mirrored[:, rows, cols][:, *near]
            found, valid = reader.read(tile.read, [1, 2])
            assert found.shape == (2, tile.read.height, tile.read.width)
            assert np.array_equal(found[:, *near], expected)
            assert np.array_equal(valid[near], expected[0] != -1)
            found, valid = reader.read(tile.read, [1, 2], edge="nodata")
            assert np.array_equal(valid, inside[rows, cols])
            assert np.array_equal(found[:, valid], mirrored[:, rows, cols][:, valid])


def test_a_scene_of_one_pixel_is_its_own_mirror_image(write_scene):
    scene = describe_scene(write_scene("a.tif", np.array([[7]], np.uint8)))
    pixels, valid = read(scene, Window(-4, -4, 9, 9))
    assert (pixels == 7).all()
    assert valid.all()
    assert pixels.shape == (1, 9, 9)


def test_damage_is_named_while_reading(write_scene, rng):
    path = write_scene("a.tif", rng.integers(0, 255, (64, 64), np.uint8), compress="deflate")
    scene = describe_scene(path)
    content = bytearray(path.read_bytes())
    content[600:2000] = bytes(1400)
    path.write_bytes(content)
    with pytest.raises(RasterError, match=r"a\.tif: damaged"):
        read(scene)


# --- stacks


def test_a_stack_takes_its_bands_in_natural_order_with_their_own_dtype_and_nodata(write_scene, tmp_path):
    write_scene("s/B10.tif", np.array([[1, 2, -1, 4]], np.int16), nodata=-1)
    write_scene("s/B2.tif", np.array([[0.5, np.nan, 1, -9999]], np.float32), nodata=-9999)
    write_scene("s/b1.tif", np.array([[9, 8, 7, 6]], np.uint8))
    (tmp_path / "s" / "readme.txt").touch()
    (scene,) = find_scenes([tmp_path / "s"], stack=True)
    assert (scene.name, scene.band_names, scene.path) == ("s", ("b1", "B2", "B10"), tmp_path / "s")
    assert (scene.dtypes, scene.nodata) == (("uint8", "float32", "int16"), (None, -9999, -1))
    pixels, valid = read(scene)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, [[[9, 8, 7, 6]], [[0.5, np.nan, 1, -9999]], [[1, 2, -1, 4]]], equal_nan=True)
    assert valid.tolist() == [[True, False, False, False]]
    pixels, valid = read(scene, sources=[3, 1])
    assert (pixels.dtype, pixels.tolist()) == (np.int16, [[[1, 2, -1, 4]], [[9, 8, 7, 6]]])
    assert valid.tolist() == [[True, True, False, True]]


def test_a_float_nodata_is_met_in_a_stack_that_is_wider_than_its_band(write_scene, tmp_path):
    write_scene("s/1.tif", np.array([[-3.4e38, 0.1, 1]], np.float32), nodata=-3.4e38)
    write_scene("s/2.tif", np.array([[5, 5, 2**31 - 1]], np.int32), nodata=2**31 - 1)
    (scene,) = find_scenes([tmp_path / "s"], stack=True)
    pixels, valid = read(scene)
    assert pixels.dtype == np.float64
    assert valid.tolist() == [[False, True, False]]


def test_the_mask_of_one_file_counts_for_the_stack(write_scene, tmp_path):
    write_scene("s/1.tif", np.array([[1, 2]], np.uint8))
    write_scene("s/2.tif", np.array([[1, 2]], np.uint8), mask=np.array([[True, False]]))
    (scene,) = find_scenes([tmp_path / "s"], stack=True)
    assert read(scene)[1].tolist() == [[True, False]]
    assert read(scene, sources=[1])[1].tolist() == [[True, True]]


@pytest.mark.parametrize(
    "other",
    [
        {"transform": Affine(10, 0, 500_010, 0, -10, 4_500_000)},
        {"transform": Affine(20, 0, 500_000, 0, -20, 4_500_000)},
        {"crs": "EPSG:32615"},
        {"crs": None},
        {"pixels": np.ones((4, 5), np.uint8)},
    ],
)
def test_a_band_on_another_grid_is_refused_with_the_line_that_mends_it(write_scene, tmp_path, other):
    write_scene("s/1.tif", np.ones((4, 4), np.uint8))
    write_scene("s/2.tif", **({"pixels": np.ones((4, 4), np.uint8)} | other))
    mend = "gdalwarp -t_srs EPSG:32614 -te 500000.0 4499960.0 500040.0 4500000.0 -ts 4 4 2.tif OUT.tif"
    with pytest.raises(RasterError, match=r"2\.tif: another grid than 1\.tif") as caught:
        find_scenes([tmp_path / "s"], stack=True)
    assert mend in str(caught.value)


def test_grids_are_compared_in_pixels_not_in_units_of_the_crs(write_scene):
    def scene(name: str, size: float, left: float = 10) -> Scene:
        transform = Affine(size, 0, left, 0, -1e-4, 40)
        return describe_scene(write_scene(name, np.ones((2, 5000), np.uint8), crs="EPSG:4326", transform=transform))

    first = scene("1.tif", 1e-4)
    assert same_grid(first, scene("2.tif", 1e-4, 10 + 1e-10))
    assert not same_grid(first, scene("3.tif", 1e-4, 10 + 1e-5))  # a tenth of a pixel
    assert not same_grid(first, scene("4.tif", 1.0001e-4))  # half a pixel at the far end


def test_a_stack_is_a_folder_of_single_bands(write_scene, tmp_path):
    path = write_scene("s/1.tif", np.ones((2, 4, 4), np.uint8))
    with pytest.raises(RasterError, match=r"1\.tif: 2 bands found"):
        find_scenes([tmp_path / "s"], stack=True)
    with pytest.raises(MissingFileError, match="folder of single-band files"):
        find_scenes([path], stack=True)


# --- finding scenes


def test_files_and_folders_are_taken_in_natural_order(write_scene, tmp_path):
    for name in ("d/s10.tif", "d/s9.TIF", "d/.hidden.tif", "x.tif"):
        write_scene(name, np.ones((2, 2), np.uint8))
    (tmp_path / "d" / "notes.txt").touch()
    found = find_scenes([tmp_path / "x.tif", tmp_path / "d"])
    assert [scene.name for scene in found] == ["x", "s9", "s10"]


def test_digits_that_are_no_decimals_do_not_break_the_order(tmp_path):
    names = ["1²3.tif", "1²10.tif"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in list_rasters(tmp_path)] == names


def test_a_folder_without_rasters_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="no raster in this folder"):
        find_scenes([tmp_path])


def test_twins_are_refused_even_where_only_the_case_differs(write_scene, tmp_path):
    for name in ("a/Scene.tif", "b/scene.tif"):
        write_scene(name, np.ones((2, 2), np.uint8))
    with pytest.raises(RasterError, match=r"b/scene\.tif and .*a/Scene\.tif: two scenes"):
        find_scenes([tmp_path / "a", tmp_path / "b"])


def test_all_faults_are_said_at_once(write_scene, tmp_path, rng):
    good = write_scene("good.tif", rng.integers(0, 255, (90, 90), np.uint8))
    (tmp_path / "cut.tif").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.tif").write_text("hello")
    with pytest.raises(PreflightError) as caught:
        find_scenes([tmp_path / name for name in ("gone.tif", "cut.tif", "good.tif", "text.tif")])
    assert [type(fault) for fault in caught.value.faults] == [MissingFileError, RasterError, RasterError]
    assert [name in str(fault) for name, fault in zip(("gone", "cut", "text"), caught.value.faults, strict=True)]


def test_a_scene_placed_by_control_points_only_is_refused(write_scene):
    path = write_scene("a.tif", np.ones((4, 4), np.uint8), crs=None, transform=Affine.identity())
    points = [GroundControlPoint(row, col, 10 + col, 40 - row) for row, col in ((0, 0), (0, 4), (4, 0), (4, 4))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as dataset:
            dataset.gcps = points, rasterio.CRS.from_epsg(4326)
    with pytest.raises(GeoreferenceError, match=r"a\.tif: placed by ground control points only.*gdalwarp"):
        describe_scene(path)


def test_complex_numbers_are_refused(write_scene):
    with pytest.raises(RasterError, match=r"complex64.*integers or floats"):
        describe_scene(write_scene("a.tif", np.ones((2, 2), np.complex64)))


def test_a_scene_placed_by_a_camera_model_only_is_refused(write_scene):
    path = write_scene("a.tif", np.ones((8, 8), np.uint8), crs=None, transform=Affine.identity())
    rising = [0.0, 1.0] + [0.0] * 18
    with warnings.catch_warnings(), rasterio.open(path, "r+") as dataset:
        warnings.simplefilter("ignore")
        dataset.rpcs = RPC(
            height_off=0, height_scale=500, lat_off=40, lat_scale=1, line_den_coeff=[1.0] + [0.0] * 19, line_num_coeff=rising,
            line_off=4, line_scale=4, long_off=10, long_scale=1, samp_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=rising,
            samp_off=4, samp_scale=4,
        )  # fmt: skip
    with pytest.raises(GeoreferenceError, match=r"a\.tif: placed by a camera model \(RPC\) only; .* gdalwarp -rpc"):
        describe_scene(path)
