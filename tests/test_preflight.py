"""Which bands are cut or predicted from, and which scenes are too unlike each other or a model."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from scenery import TRANSFORM, one_line_each

from geoseg.errors import (
    DataWarning,
    Faults,
    GeoreferenceError,
    MismatchError,
    MismatchWarning,
    MissingFileError,
    PreflightError,
    RasterError,
)
from geoseg.preflight import alike_bands, choose_bands, match_model, match_values, preflight_scenes
from geoseg.scenes import Scene, describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands


@pytest.fixture
def make(write_scene):
    """A scene of so many bands, with these names."""

    def make(name: str, count: int, names=(), dtype="uint16", **options) -> Scene:
        return describe_scene(write_scene(name, np.ones((count, 2, 2), dtype), names=names, **options))

    return make


# --- scenes alone


def test_good_scenes_are_found_beside_bad_ones(make, tmp_path):
    good = make("d/good.tif", 1)
    (tmp_path / "d" / "bad.tif").write_text("no TIFF")
    faults = Faults()
    found = preflight_scenes([tmp_path / "d", tmp_path / "gone.tif"], stack=False, faults=faults)
    assert found == [good]
    assert [type(error) for error in faults.errors] == [RasterError, MissingFileError]


def test_nothing_at_all_is_a_fault(tmp_path):
    faults = Faults()
    assert preflight_scenes([], stack=False, faults=faults) == []
    with pytest.raises(RasterError, match="no scene given"):
        faults.raise_any()


def test_a_fault_that_is_found_twice_is_said_once(make, tmp_path):
    scene = make("a.tif", 1)
    faults = Faults()
    preflight_scenes([tmp_path / "none.tif", tmp_path / "none.tif"], stack=False, faults=faults)
    with pytest.raises(MissingFileError, match=r"none\.tif: not found"):
        faults.raise_any()
    alike_bands([scene, scene], "9", faults)
    with pytest.raises(PreflightError) as caught:
        faults.raise_any()
    assert len(one_line_each(caught.value)) == 2


def test_a_crs_without_a_place_is_a_fault(make):
    path = make("a.tif", 1, crs='LOCAL_CS["site",UNIT["metre",1]]').path
    faults = Faults()
    assert len(preflight_scenes([path], stack=False, faults=faults)) == 1
    with pytest.raises(GeoreferenceError, match=r"a\.tif: its CRS cannot be placed"):
        faults.raise_any()


# --- bands


@pytest.mark.parametrize(
    ("bands", "sources"),
    [
        (None, (1, 2, 3, 4)),
        ("3,1", (3, 1)),
        ("nir, 1", (4, 1)),
        ("red,green", (3, 2)),
        (["nir", 2], (4, 2)),
        ([3], (3,)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_bands_by_number_and_name(make, bands, sources):
    assert choose_bands(make("a.tif", 4, ["blue", "green", "red", "nir"]), bands) == sources


@pytest.mark.parametrize("bands", ["0", "5", "swir", "1,x", "-1", "1.0", "²", " "])
def test_a_band_that_is_not_there_is_told_those_that_are(make, bands):
    with pytest.raises(RasterError, match=r"a\.tif: no band is called .*in full: 1 blue, 2 green, 3 band_3") as caught:
        choose_bands(make("a.tif", 3, ["blue", "green"]), bands)
    one_line_each(caught.value)


def test_a_band_named_twice_is_refused(make):
    scene = make("a.tif", 3, ["blue", "green", "red"])
    for bands in ("1,1", "blue,1", ["2", 2]):
        with pytest.raises(RasterError, match="name each band once"):
            choose_bands(scene, bands)
    with pytest.raises(RasterError, match="name each band once"):
        choose_bands(scene, [])


def test_a_name_that_two_bands_have_tells_none_of_them(make):
    scene = make("a.tif", 3, ["sr", "sr", "qa"])
    with pytest.raises(RasterError, match="several bands are called 'sr'"):
        choose_bands(scene, "sr")
    assert choose_bands(scene, "2,qa") == (2, 3)


# --- scenes among each other


def alike(*scenes: Scene, bands=None):
    faults = Faults()
    sources = alike_bands(scenes, bands, faults)
    faults.raise_any()
    return sources


def test_scenes_that_are_alike(make):
    a, b = make("a.tif", 3, ["x", "y", "z"]), make("b.tif", 3)
    assert alike(a, b) == (1, 2, 3)
    assert alike(a, b, bands="3,1") == (3, 1)
    assert alike() == ()


def test_dates_in_the_names_of_bands_do_not_matter(make):
    a, b = make("a.tif", 2, ["2020_B1", "2020_B2"]), make("b.tif", 2, ["2021_B1", "2021_B2"])
    assert alike(a, b) == (1, 2)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"count": 2, "names": ["x", "y"]}, r"bands in all 2 found, .*a\.tif has 3"),
        ({"dtype": "uint8"}, r"pixels of uint8, uint8, uint8 found, .*a\.tif has uint16"),
        ({"names": ["y", "x", "z"]}, r"bands y, x, z found, .*a\.tif has x, y, z"),
    ],
)
def test_scenes_that_are_not_alike(make, options, found):
    a, b = make("a.tif", 3, ["x", "y", "z"]), make("b.tif", **{"count": 3, "names": ["x", "y", "z"]} | options)
    with pytest.raises(MismatchError, match=rf"b\.tif: {found}.*tile them apart"):
        alike(a, b)
    with pytest.raises(MismatchError, match=r"a\.tif: "):
        alike(b, a)


def test_names_that_stand_at_other_numbers_never_mix_bands_up(make):
    a, b = make("a.tif", 3, ["red", "nir", "x"]), make("b.tif", 3, ["nir", "red", "x"])
    with pytest.raises(MismatchError, match=r"b\.tif: band numbers 2, 1 found, .*a\.tif has 1, 2"):
        alike(a, b, bands="red,nir")


def test_only_the_dtypes_of_the_bands_that_are_cut_matter(write_scene, tmp_path):
    scenes = []
    for name, last in (("s", np.uint8), ("t", np.float32)):
        for number, dtype in enumerate((np.uint16, np.uint16, last), 1):
            write_scene(f"{name}/{number}.tif", np.ones((2, 2), dtype))
        scenes += preflight_scenes([tmp_path / name], stack=True, faults=Faults())
    assert alike(*scenes, bands="1,2") == (1, 2)
    with pytest.raises(MismatchError, match="pixels of uint16, uint16, float32 found"):
        alike(*scenes)


def test_every_scene_that_is_unlike_is_named(make):
    faults = Faults()
    alike_bands([make(f"{i}.tif", 2 + (i > 1), dtype="uint8" if i == 3 else "uint16") for i in range(4)], None, faults)
    assert [str(error).split(": ")[0].rsplit("/")[-1] for error in faults.errors] == ["2.tif", "3.tif"]


def test_pixels_of_other_sizes_are_warned_of(make):
    a, b = make("a.tif", 1), make("b.tif", 1, transform=TRANSFORM @ Affine.scale(1.3))
    with pytest.warns(MismatchWarning, match=r"pixels of 10 to 13 m in one chip folder"):
        alike(a, b)
    assert alike(a, make("c.tif", 1, transform=TRANSFORM @ Affine.scale(1.2)), make("d.png", 1, crs=None)) == (1,)


# --- scenes with a model


def model(names, sources, count, dtype="uint16", pixel_size_m=10.0) -> ImageSpec:
    n = len(names)
    facts = [BandStatistics(1, 1, 0, 2, 0, 2)] * n
    bands = scale_bands(facts, names=names, sources=sources, dtypes=[dtype] * n, nodata=[None] * n)
    return ImageSpec(bands, count, pixel_size_m, 64)


def test_degrees_that_are_none_are_warned_of(write_scene):
    path = write_scene("metres.tif", np.ones((1, 3, 3), np.uint8), crs="EPSG:4326")  # with the corner of a UTM scene
    with pytest.warns(
        DataWarning, match=r"metres\.tif: latitudes from .* to 4\.5e\+06 found, so the CRS is not that of"
    ):
        preflight_scenes([path], stack=False, faults=Faults())


def test_degrees_in_a_projection_are_warned_of(write_scene):
    transform = Affine(1e-4, 0, 10, 0, -1e-4, 50)
    path = write_scene("degrees.tif", np.ones((1, 3, 3), np.uint8), crs="EPSG:32633", transform=transform)
    with pytest.warns(DataWarning, match=r"degrees\.tif: pixels of 0\.0001 m found, so the CRS is not that of"):
        preflight_scenes([path], stack=False, faults=Faults())


def test_numbers_of_colours_are_no_bands(write_scene):
    path, faults = write_scene("palette.tif", np.ones((3, 3), np.uint8)), Faults()
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {1: (255, 0, 0, 255)})
    preflight_scenes([path], stack=False, faults=faults)
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {value: (value, value, value, 255) for value in range(256)})
    preflight_scenes([path], stack=False, faults=faults)  # of greys: values are brightness as ever
    assert len(faults.errors) == 1
    assert "palette.tif: an image with a palette found" in str(faults.errors[0])


def test_names_in_other_letters_are_the_same_bands(make):
    image = model(["blue", "green", "red", "nir"], [1, 2, 3, 4], 4)
    assert match_model(make("a.tif", 4, ["Nir", "RED", "Green", "blue"]), image) == (4, 3, 2, 1)
    assert choose_bands(make("b.tif", 4, ["Nir", "RED", "Green", "blue"]), "nir,green") == (1, 3)


def test_bands_are_found_by_name_number_or_order(make):
    named = model(["nir", "red"], [4, 3], 4)
    assert match_model(make("names.tif", 5, ["red", "x", "nir", "y", "z"]), named) == (3, 1)
    assert match_model(make("count.tif", 4), named) == (4, 3)
    assert match_model(make("exact.tif", 2), named) == (1, 2)
    assert match_model(make("own.tif", 7), named, "7,1") == (7, 1)


def test_bands_that_cannot_be_told_are_refused(make):
    named = model(["nir", "red"], [4, 3], 4)
    with pytest.raises(
        MismatchError, match=r"a\.tif: 3 bands found \(1 red, 2 x, 3 y\), the model takes 2 \(nir, red\).*--bands"
    ):
        match_model(make("a.tif", 3, ["red", "x", "y"]), named)
    with pytest.raises(MismatchError, match=r"1 of 4 bands chosen \(.*\), the model takes 2.*--bands"):
        match_model(make("b.tif", 4), named, "4")


def test_a_scene_of_fewer_bands_is_not_told_to_choose(make):
    with pytest.raises(MismatchError, match=r"1 bands found.*--stack a folder of single-band files"):
        match_model(make("one.tif", 1), model(["nir", "red"], [4, 3], 4))


def test_made_up_names_tell_nothing(make):
    """`band_1` to `band_3` stand in any scene of four bands that has no names."""
    plain = model(["band_1", "band_2", "band_3"], [1, 2, 3], 3)
    assert match_model(make("a.tif", 3), plain) == (1, 2, 3)
    with pytest.raises(MismatchError, match=r"4 bands found \(.*\), the model takes 3"):
        match_model(make("b.tif", 4), plain)


def test_a_name_that_all_bands_have_tells_nothing(make):
    same = model(["sr", "sr", "sr"], [1, 2, 3], 3)
    assert match_model(make("a.tif", 3, ["sr"] * 3), same) == (1, 2, 3)


def test_eight_bits_and_more_do_not_mix(make):
    with pytest.raises(MismatchError, match="uint8 pixels found, the model was trained on uint16"):
        match_model(make("a.tif", 1, dtype="uint8"), model(["band_1"], [1], 1))
    with pytest.raises(MismatchError, match="float32 pixels found, the model was trained on uint8"):
        match_model(make("b.tif", 1, dtype="float32"), model(["band_1"], [1], 1, "uint8"))
    with pytest.warns(MismatchWarning, match=r"float32 pixels found, the model was trained on uint16; right only if"):
        match_model(make("c.tif", 1, dtype="float32"), model(["band_1"], [1], 1))


@pytest.mark.parametrize(
    ("size", "warned"), [(10.0, False), (12.4, False), (8.1, False), (12.6, True), (7.9, True), (None, False)]
)
def test_pixels_of_another_size_than_the_models(make, size, warned, recwarn):
    match_model(make("a.tif", 1), model(["band_1"], [1], 1, pixel_size_m=size))
    assert [warning.category for warning in recwarn] == [MismatchWarning] * warned
    if warned:
        assert f"({10 / 0.9996 / size:.2g} times as large)" in str(recwarn[0].message)


# Values


def bands(**limits: float) -> ImageSpec:
    """What a model was trained on: two bands of 1000 to 3000."""
    facts = BandStatistics(**{"mean": 2000, "std": 500, "min": 800, "max": 3300, "p1": 1000, "p99": 3000} | limits)
    return ImageSpec(
        scale_bands([facts] * 2, names=["red", "nir"], sources=[1, 2], dtypes=["float32"] * 2, nodata=[None] * 2),
        2,
        10.0,
        64,
    )


def valued(write_scene, rng, low: float, high: float, **options) -> Scene:
    pixels = rng.uniform(low, high, (2, 200, 150)).astype(np.float32)
    pixels[:, :90] = -9999
    return describe_scene(write_scene("scene.tif", pixels, nodata=-9999, **options))


@pytest.mark.parametrize(("low", "high"), [(1000, 3000), (1500, 2900), (700, 3500), (1880, 2120)])
def test_values_as_in_training(write_scene, rng, low, high):
    match_values(valued(write_scene, rng, low, high), bands(), [1, 2])


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0.1, 0.3, r"0\.10\d* to 0\.29\d* and not 1000 to 3000"), (3000, 5000, "30.* to 49"), (1990, 2010, "199"), (-9e4, 9e4, "-8")],
)  # fmt: skip
def test_values_unlike_those_of_training_are_said(write_scene, rng, low, high, found):
    with pytest.warns(MismatchWarning, match=rf"scene\.tif: values unlike those .*\(red {found}.*, nir {found}"):
        match_values(valued(write_scene, rng, low, high), bands(), [1, 2])


def test_of_a_scene_without_pixels_nothing_is_told(write_scene):
    empty = np.full((2, 64, 64), -9999, np.float32)
    match_values(describe_scene(write_scene("empty.tif", empty, nodata=-9999)), bands(), [1, 2])


def test_scenes_without_a_crs_are_said_once(write_scene):
    paths = [
        write_scene(f"{name}.tif", np.ones((8, 8), np.uint8), crs=None, transform=Affine.identity()) for name in "ab"
    ]
    with pytest.warns(DataWarning, match=r"a\.tif and 1 others: no CRS, so nobody knows where it lies") as caught:
        preflight_scenes(paths, stack=False, faults=Faults())
    assert len(caught) == 1
