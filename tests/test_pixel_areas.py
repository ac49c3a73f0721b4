"""Areas by pixels are those of the ground, whatever the projection does to it."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from affine import Affine
from rasterio.windows import Window

from geoseg.legend import IGNORE
from geoseg.pixel_areas import PixelAreas, class_amounts, no_amounts
from geoseg.scenes import Scene, describe_scene

GEOD = pyproj.Geod(ellps="WGS84")
HEIGHT, WIDTH = 700, 900


def zone_m2(scene: Scene, row: int, height: int) -> float:
    """Area of whole rows, from a polygon with many corners."""
    x = np.linspace(0, scene.width, 4000)
    cols, rows = np.append(x, x[::-1]), np.repeat([row, row + height], 4000)
    t = scene.transform
    to_degrees = pyproj.Transformer.from_crs(scene.crs, "EPSG:4326", always_xy=True)
    lons, lats = to_degrees.transform(t.a * cols + t.c, t.e * rows + t.f)
    return abs(GEOD.polygon_area_perimeter(lons, lats)[0])


@pytest.fixture
def place(write_scene):
    def make(crs: str | None, side: float, left: float, top: float) -> Scene:
        path = write_scene(
            "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), crs=crs, transform=Affine(side, 0, left, 0, -side, top)
        )
        return describe_scene(path)

    return make


@pytest.mark.parametrize(
    ("crs", "side", "left", "top"),
    [
        ("EPSG:4326", 0.01, 10, 65),
        ("EPSG:4326", 0.01, 10, -30),
        ("EPSG:4326", 0.00009, 10, 50),
        ("EPSG:4326", 0.01, 176, 3),
        ("EPSG:3857", 500, 1e6, 8.4e6),
        ("EPSG:32632", 30, 4e5, 5.5e6),
        ("EPSG:6933", 1000, 1e6, 5.5e6),
    ],
)
def test_classes_have_the_area_of_their_ground(place, crs, side, left, top):
    scene = place(crs, side, left, top)
    # The first class lies in the north alone, where a degree is narrower than in the middle of the scene.
    indices = np.repeat(np.array([0, 1, IGNORE], np.uint8), (200, 400, 100))[:, None] * np.ones((1, WIDTH), np.uint8)
    found = class_amounts(scene, Window(0, 0, WIDTH, HEIGHT), indices, 3)
    assert found.pixels.tolist() == [200 * WIDTH, 400 * WIDTH, 0]
    truth = [zone_m2(scene, 0, 200), zone_m2(scene, 200, 400), 0]
    assert found.area_m2.tolist() == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("epsg", [6931, 3413])
def test_pixels_at_a_pole_are_as_large_as_their_neighbours(place, epsg):
    scene = place(f"EPSG:{epsg}", 25_000, -25_000 * 450, 25_000 * 350)
    rows, cols = np.mgrid[345:355, 445:455]
    areas = scene.pixel_areas_m2(cols, rows)
    assert areas == pytest.approx(np.full(areas.shape, areas.mean()), rel=0.01)
    assert scene.pixel_area_m2(449.5, 349.5) == pytest.approx(areas[0, 0], rel=0.01)  # its middle is the pole
    if epsg == 6931:  # of equal area
        assert areas == pytest.approx(np.full(areas.shape, 625e6), rel=1e-4)


def test_coarse_pixels_are_measured_row_by_row(place):
    scene = place("EPSG:4326", 0.15, -60, 87)
    found = class_amounts(scene, Window(0, 0, WIDTH, HEIGHT), np.zeros((HEIGHT, WIDTH), np.uint8), 1)
    assert found.area_m2[0] == pytest.approx(zone_m2(scene, 0, HEIGHT), rel=1e-4)


def test_parts_sum_to_the_whole(place):
    scene = place("EPSG:4326", 0.001, 10, 50)
    indices = np.random.default_rng(1).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    whole, parts = class_amounts(scene, Window(0, 0, WIDTH, HEIGHT), indices, 2), no_amounts(2)
    for row, col in ((0, 0), (0, 500), (333, 0), (333, 500)):
        part = indices[row : 333 if row == 0 else HEIGHT, col : 500 if col == 0 else WIDTH]
        parts += class_amounts(scene, Window(col, row, *part.shape[::-1]), part, 2)
    assert parts.pixels.tolist() == whole.pixels.tolist()
    assert parts.area_m2 == pytest.approx(whole.area_m2, rel=1e-5)


def test_single_pixels_are_near_what_they_are(place):
    scene = place("EPSG:4326", 0.01, 10, 60)
    cols, rows = np.array([0, 899, 450, 3]), np.array([0, 699, 350, 699])
    found = PixelAreas(scene).at(cols, rows)
    assert found == pytest.approx(scene.pixel_areas_m2(cols, rows), rel=0.012)  # half a block of rows is 0.32 degrees
    assert found[1] == pytest.approx(found[3])
    for col, row, area in zip(cols, rows, scene.pixel_areas_m2(cols, rows), strict=True):
        assert (
            scene.pixel_area_m2(int(col), int(row)) == area == pytest.approx(zone_m2(scene, row, 1) / WIDTH, rel=1e-4)
        )


def test_what_has_no_place_has_no_area(place):
    picture = place(None, 1, 0, 0)
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    found = class_amounts(picture, Window(0, 0, WIDTH, HEIGHT), indices, 2)
    assert np.isnan(found.area_m2).tolist() == [True, False]  # there is nothing of the second class
    assert picture.pixel_area_m2(0, 0) is None


def test_pixels_that_see_no_ground_count_only_where_something_is_on_them(place):
    scene = place("+proj=geos +h=35785831 +lon_0=0", 20_000, -9e6, 7e6)
    indices = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
    indices[320:380, 420:480] = 0
    found = class_amounts(scene, Window(0, 0, WIDTH, HEIGHT), indices, 1)
    assert found.area_m2[0] == pytest.approx(3600 * 20_000**2, rel=0.05)
    indices[0, 0] = 0
    assert np.isnan(class_amounts(scene, Window(0, 0, WIDTH, HEIGHT), indices, 1).area_m2[0])
