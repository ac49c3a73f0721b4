"""Scenes and labels to a chip folder: every pixel, place and figure in it, and nothing left behind where that fails."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from scenery import TRANSFORM, box, checkers, moved, one_line_each, said, untouched, write_polygons

from geoseg.chips import FOOTPRINTS, INDEX, open_chips
from geoseg.errors import (
    DataWarning,
    GeosegError,
    InputError,
    LabelError,
    MismatchError,
    OutputExistsError,
    PreflightError,
    RasterError,
    SplitError,
)
from geoseg.survey import Plan
from geoseg.tiling import tile

pytestmark = pytest.mark.filterwarnings("ignore:.*on another grid than what it is laid on")

SIDE, CHIP = 96, 16
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "chips"


@pytest.fixture
def labels(write_scene) -> Path:
    return write_scene("labels.tif", checkers(SIDE, SIDE, 8))


@pytest.fixture
def scene(write_scene, rng) -> Path:
    return write_scene("scene.tif", rng.integers(1, 200, (3, SIDE, SIDE), np.uint8), names=["red", "green", "blue"])


def cut(scenes, labels, out, **options):
    return tile(scenes, labels=labels, out=out, **({"chip_size": CHIP} | options))


def read_plainly(path: Path):
    """Pixels, validity and place of a raster, by rasterio alone."""
    with rasterio.open(path) as dataset:
        return dataset.read(), dataset.dataset_mask() > 0, dataset.transform, dataset.crs, dataset.profile


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- what is written


@pytest.mark.parametrize(("dtype", "nodata"), [*((dtype, 7) for dtype in DTYPES), ("uint8", None), ("float32", None)])
def test_chips_hold_the_pixels_of_the_scene_to_the_bit(write_scene, labels, out, rng, dtype, nodata):
    pixels = (rng.random((2, SIDE, SIDE)) * 100 + 8).astype(dtype)
    scene = write_scene("scene.tif", pixels, nodata=nodata, names=["nir", ""])
    found = cut(scene, labels, out, chip_size=32)
    assert len(found.chips) == 9
    assert found.image.names == ("nir", "band_2")
    assert found.image.dtypes == (dtype, dtype)
    for chip in found.chips:
        at = np.s_[chip.row : chip.row + 32, chip.col : chip.col + 32]
        image, valid, transform, crs, profile = read_plainly(out / chip.image)
        assert (image.dtype, profile["dtype"], profile["nodata"]) == (np.dtype(dtype), dtype, nodata)
        assert np.array_equal(image, pixels[:, *at])
        assert valid.all()
        assert (transform, crs.to_epsg()) == (moved(TRANSFORM, chip.row, chip.col), 32614)
        mask, _, mask_transform, mask_crs, mask_profile = read_plainly(out / chip.mask)
        assert (mask.dtype, mask_profile["nodata"]) == (np.uint8, 255)
        assert (mask_transform, mask_crs) == (transform, crs)
        assert np.array_equal(mask[0], checkers(SIDE, SIDE, 8)[at])
        read = found.read(chip)
        assert np.array_equal(read[0], image)
        assert read[1].all()
        assert np.array_equal(read[2], mask[0])


def test_the_index_says_everything_once(scene, labels, out):
    found = cut(scene, labels, out, seed=3, bands="blue,1", classes="0=rest,1=field:#112233", negatives=0.9)
    document = json.loads((out / INDEX).read_text())
    assert document["format"] == 1
    assert document["legend"][1] == {"value": 1, "name": "field", "colour": "#112233", "role": None}
    assert [(band["name"], band["source"]) for band in document["image"]["bands"]] == [("blue", 3), ("red", 1)]
    assert (document["image"]["source_count"], document["image"]["chip_size"]) == (3, CHIP)
    assert document["image"]["pixel_size_m"] == pytest.approx(10.004, abs=1e-3)
    assert document["split"] == {"by": "block", "ratio": "8:1:1", "block_size": 1, "shared_ground": 0.0, "seed": 3}
    assert document["options"]["negatives"] == 0.9
    for split in ("train", "val", "test"):
        chips = [chip for chip in found.chips if chip.split == split]
        counts = np.sum([np.bincount(read_plainly(out / chip.mask)[0].ravel(), minlength=2) for chip in chips], axis=0)
        told = document["splits"][split]
        assert told == {"chips": len(chips), "class_pixels": dict(zip(("rest", "field"), counts.tolist(), strict=True))}
        assert {path.name for path in (out / split / "images").iterdir()} == {f"{chip.name}.tif" for chip in chips}
        assert {path.name for path in (out / split / "masks").iterdir()} == {f"{chip.name}.tif" for chip in chips}
    assert open_chips(out) == found
    assert files(out) == {INDEX, FOOTPRINTS, *(name for chip in found.chips for name in (chip.image, chip.mask))}


def test_statistics_are_those_of_the_valid_pixels_of_the_training_chips(write_scene, labels, out, rng):
    pixels = rng.normal(1000, 200, (2, SIDE, SIDE)).astype(np.float32)
    pixels[0, 5:30, 7:60] = -9999
    pixels[1, 40, 40] = np.nan
    found = cut(write_scene("scene.tif", pixels, nodata=-9999), labels, out)
    valid = (pixels != -9999).all(axis=0) & np.isfinite(pixels).all(axis=0)
    train = np.zeros((SIDE, SIDE), bool)
    for chip in found.of("train"):
        train[chip.row : chip.row + CHIP, chip.col : chip.col + CHIP] = True
    assert 0 < (train & valid).sum() < train.sum()
    for band, values in zip(found.image.bands, pixels[:, train & valid].astype(np.float64), strict=True):
        facts = band.statistics
        assert (facts.mean, facts.std) == pytest.approx((values.mean(), values.std()), rel=1e-9)
        assert (facts.min, facts.max) == (values.min(), values.max())
        assert (facts.p1, facts.p99) == pytest.approx(np.percentile(values, [1, 99]), abs=100)  # of a sample
        assert (band.offset, band.scale) == (facts.mean, facts.std)
    assert found.image.bands[0].nodata == -9999


@pytest.mark.parametrize("kind", ["nodata", "nan", "nan nodata", "internal", "msk", "alpha", "infinity"])
def test_pixels_without_data_are_never_learned_from_nor_counted(write_scene, labels, out, rng, kind):
    pixels = (rng.random((2, SIDE, SIDE)) * 100 + 8).astype(
        np.float32 if kind in ("nan", "nan nodata", "infinity") else np.uint8
    )
    holes = np.zeros((SIDE, SIDE), bool)
    holes[3:20, 10:50] = holes[70, 70] = True
    options = {}
    if kind in ("nan", "nan nodata", "infinity"):
        pixels[0, holes] = np.inf if kind == "infinity" else np.nan
        options = {"nodata": np.nan} if kind == "nan nodata" else {}
    elif kind == "nodata":
        pixels[:, holes] = 0
        options = {"nodata": 0}
    elif kind == "internal":
        options = {"mask": ~holes}
    elif kind == "alpha":
        pixels = np.concatenate([pixels, np.uint8(255) * ~holes[None]])
    scene = write_scene("scene.tif", pixels, **options)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as dataset:
        if kind == "msk":
            dataset.write_mask(~holes)
        if kind == "alpha":
            dataset.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    found = cut(scene, labels, out, max_nodata=1)
    assert len(found.image.bands) == 2
    cells = checkers(SIDE, SIDE, 8)
    kept = ~holes
    for chip in found.chips:
        at = np.s_[chip.row : chip.row + CHIP, chip.col : chip.col + CHIP]
        _, valid, mask = found.read(chip)
        assert np.array_equal(valid, kept[at])
        assert np.array_equal(mask, np.where(kept[at], cells[at], 255))
        assert chip.valid == round(kept[at].mean(), 4)
        assert chip.class_pixels == tuple(((cells == value) & kept)[at].sum() for value in (0, 1))
        if kind != "nan nodata" and not kept[at].all() and kind != "nodata":
            assert np.array_equal(read_plainly(out / chip.image)[1], valid)  # an internal mask, which all tools know
    train = np.zeros((SIDE, SIDE), bool)
    for chip in found.of("train"):
        train[chip.row : chip.row + CHIP, chip.col : chip.col + CHIP] = True
    assert found.image.bands[0].statistics.mean == pytest.approx(pixels[0, train & kept].astype(float).mean())


@pytest.mark.parametrize(("nodata", "padding"), [(None, 0), (0, 0), (200, 200)])
def test_chips_that_stick_out_are_padded_with_nodata_and_ignore(write_scene, out, nodata, padding):
    scene = write_scene("scene.tif", np.full((2, 40, 24), 9, np.uint8), nodata=nodata)
    labels = write_scene("l.tif", np.ones((40, 24), np.uint8))
    found = cut(scene, labels, out, max_nodata=0.8, split="1:0:0")
    assert {(chip.row, chip.col) for chip in found.chips} == {(r, c) for r in (0, 16, 32) for c in (0, 16)}
    for chip in found.chips:
        inside = np.zeros((CHIP, CHIP), bool)
        inside[: 40 - chip.row, : 24 - chip.col] = True
        image, told, transform, _, profile = read_plainly(out / chip.image)
        assert image.shape == (2, CHIP, CHIP)
        assert profile["nodata"] == nodata
        assert np.array_equal(image, np.where(inside, 9, padding) * np.ones((2, 1, 1)))
        assert np.array_equal(told, inside)
        assert np.array_equal(read_plainly(out / chip.mask)[0][0], np.where(inside, 0, 255))
        assert transform == moved(TRANSFORM, chip.row, chip.col)
        assert np.array_equal(found.read(chip)[1], inside)


@pytest.mark.parametrize("nodata", ["-99", "7.5"])
def test_a_nodata_that_the_dtype_cannot_hold_is_left_out_of_the_chips(write_scene, out, nodata):
    scene = write_scene("scene.tif", np.full((40, 40), 9, np.uint8), nodata=123)
    scene.write_bytes(scene.read_bytes().replace(b"123\0", nodata.encode() + b"\0"))  # as other tools write it
    found = cut(scene, write_scene("l.tif", np.ones((40, 40), np.uint8)), out, max_nodata=0.8, split="1:0:0")
    chip = found.chips[-1]
    assert found.read(chip)[1].sum() == 64
    assert read_plainly(out / chip.image)[4]["nodata"] is None


@pytest.mark.parametrize("nodata", [np.inf, -np.inf, np.nan])
def test_a_nodata_that_json_has_no_word_for(write_scene, out, nodata):
    pixels = np.full((40, 40), 9, np.float32)
    pixels[:5] = nodata
    scene = write_scene("scene.tif", pixels, nodata=nodata)
    found = cut(scene, write_scene("l.tif", np.ones((40, 40), np.uint8)), out, max_nodata=0.8, split="1:0:0")
    assert found.image.bands[0].nodata is None
    assert found.read(found.chips[0])[1].sum() == 16 * 11


@pytest.mark.parametrize(("dtype", "value"), [("float32", -3.4028235e38), ("float64", -1.797e308), ("float64", 1e31)])
def test_a_nodata_value_that_nobody_named_is_not_learned_from(write_scene, labels, tmp_path, out, dtype, value):
    pixels = np.ones((SIDE, SIDE), dtype)
    pixels[50, 50] = value
    scene = write_scene("scene.tif", pixels)
    with (
        untouched(tmp_path),
        pytest.raises(RasterError, match=r"scene\.tif: value .* can only mean nodata.*-a_nodata") as caught,
    ):
        cut(scene, labels, out)
    named = float(str(caught.value).split("-a_nodata ")[1].split()[0])
    assert cut(write_scene("scene.tif", pixels, nodata=named), labels, out).chips


def test_a_stack_of_mixed_dtypes_and_nodata(write_scene, labels, tmp_path, out, rng):
    bands = {
        "B2": (rng.integers(1, 200, (SIDE, SIDE)).astype(np.uint8), None),
        "B10": (rng.integers(1, 200, (SIDE, SIDE)).astype(np.int16), -1),
        "B3": (rng.random((SIDE, SIDE)).astype(np.float32), -9999),
    }
    bands["B10"][0][0, :5] = -1
    bands["B3"][0][1, :5] = -9999
    bands["B3"][0][2, :5] = np.nan
    for name, (pixels, nodata) in bands.items():
        write_scene(f"stack/{name}.tif", pixels, nodata=nodata)
    found = cut(tmp_path / "stack", labels, out, stack=True, bands="B10,B3,B2")
    assert found.image.names == ("B10", "B3", "B2")
    assert (found.image.sources, found.image.source_count) == ((3, 2, 1), 3)
    assert (found.image.dtypes, [band.nodata for band in found.image.bands]) == (
        ("int16", "float32", "uint8"),
        [-1, -9999, None],
    )
    first = next(chip for chip in found.chips if (chip.row, chip.col) == (0, 0))
    pixels, valid, mask = found.read(first)
    assert pixels.dtype == np.float32
    invalid = np.zeros((CHIP, CHIP), bool)
    invalid[:3, :5] = True
    assert np.array_equal(valid, ~invalid)
    assert np.array_equal(mask == 255, invalid)
    for band, name in zip(pixels, ("B10", "B3", "B2"), strict=True):
        assert np.array_equal(band[valid], bands[name][0][:CHIP, :CHIP][valid].astype(np.float32))
    assert first.name == "stack_000000_000000"


@pytest.mark.filterwarnings("ignore:.*no CRS, so nobody knows")
def test_pictures_without_a_place(write_scene, out, rng):
    scene = write_scene(
        "scene.png", rng.integers(1, 200, (3, SIDE, SIDE), np.uint8), crs=None, transform=Affine.identity()
    )
    labels = write_scene("l.png", checkers(SIDE, SIDE, 8, [0, 255]), crs=None, transform=Affine.identity())
    with said("labels of 0 and 255 are read as 0 and 1"):
        found = cut(scene, labels, out)
    assert found.image.pixel_size_m is None
    chip = next(chip for chip in found.chips if (chip.row, chip.col) == (16, 32))
    _, _, transform, crs, _ = read_plainly(out / chip.image)
    assert (transform, crs) == (Affine.translation(32, 16), None)
    assert np.array_equal(found.read(chip)[2], checkers(SIDE, SIDE, 8)[16:32, 32:48])
    frame = gpd.read_file(out / FOOTPRINTS)
    assert frame.crs is None
    assert frame[frame.chip == chip.name].total_bounds.tolist() == [32, 16, 48, 32]


def test_labels_of_another_grid_and_crs_and_polygons_alike(write_scene, scene, tmp_path, out):
    """The same squares as a coarser mask, as a mask in degrees and as polygons: the same chips."""
    coarse = write_scene("coarse.tif", checkers(12, 12, 1), transform=TRANSFORM @ Affine.scale(8))
    squares = [box(8 * r, 8 * c, 8, 8) for r in range(12) for c in range(12) if (r + c) % 2]
    polygons = write_polygons(tmp_path / "l.gpkg", squares, to="EPSG:4326")
    folders = [cut(scene, labels, out / str(n)) for n, labels in enumerate((coarse, polygons))]
    for chip in folders[0].chips:
        masks = [folder.read(chip)[2] for folder in folders]
        assert np.array_equal(masks[0], checkers(SIDE, SIDE, 8)[chip.row : chip.row + CHIP, chip.col : chip.col + CHIP])
        assert np.array_equal(masks[0], masks[1])
    assert [chip.class_pixels for chip in folders[0].chips] == [chip.class_pixels for chip in folders[1].chips]
    assert folders[1].facts["outside"] == 0.5
    assert "50.0 % of the labelled pixels are background" in str(folders[1])


# --- footprints and the split


def test_options_of_polygons_do_nothing_to_a_mask_and_that_is_said(scene, write_scene, out):
    mask = write_scene("mask.tif", checkers(SIDE, SIDE, 8) + 1)
    with pytest.warns(DataWarning, match=r"mask\.tif: --class-field and --all-touched are for polygons"):
        cut(scene, mask, out, class_field="kind", all_touched=True)


def test_codes_of_one_name_are_one_class(write_scene, scene, tmp_path, out):
    codes = checkers(SIDE, SIDE, 8) * 5 + 1  # 1 and 6
    codes[:, ::3] += 1  # 2 and 7
    grouped = cut(scene, write_scene("codes.tif", codes, nodata=7), out, classes="1=rest,2=rest,6=field,7=field")
    assert grouped.legend.values == (1, 6)
    plain = cut(
        scene,
        write_scene("plain.tif", np.where(codes > 2, 6, 1).astype(np.uint8)),
        tmp_path / "p",
        classes="1=rest,6=field",
    )
    assert [chip.class_pixels for chip in grouped.chips] == [chip.class_pixels for chip in plain.chips]
    for chip, same in zip(grouped.chips, plain.chips, strict=True):
        assert (grouped.read(chip)[2] == plain.read(same)[2]).all()


def test_footprints_lie_where_the_chips_lie(scene, labels, out):
    found = cut(scene, labels, out, classes="0=rest,1=Rest,2=valid")
    frame = gpd.read_file(out / FOOTPRINTS, layer="chips")
    assert frame.crs.to_epsg() == 4326
    assert list(frame.chip) == [chip.name for chip in found.chips]
    on_ground = frame.to_crs("EPSG:32614")
    for chip, row, outline in zip(found.chips, frame.itertuples(), on_ground.geometry, strict=True):
        assert (row.split, row.scene, row.row, row.col, row.block) == (
            chip.split,
            "scene",
            chip.row,
            chip.col,
            chip.block,
        )
        assert (row.valid_pct, row.rest_0_pct, row.Rest_1_pct, row.valid_2_pct) == (100, 50, 50, 0)
        assert outline.symmetric_difference(box(chip.row, chip.col, CHIP, CHIP)).area < 1e-3


@pytest.mark.filterwarnings("ignore:.*no CRS, so nobody knows")
def test_a_picture_among_scenes_has_no_outline_on_the_map(write_scene, scene, labels, tmp_path, out, rng):
    place = {"crs": None, "transform": Affine.identity()}
    picture = write_scene("picture.png", rng.integers(1, 200, (3, SIDE, SIDE), np.uint8), **place)
    write_scene("l/picture.png", checkers(SIDE, SIDE, 8), **place)
    labels.rename(tmp_path / "l" / "scene_mask.tif")
    found = cut([scene, picture], tmp_path / "l", out, chip_size=32, bands="1")
    frame = gpd.read_file(out / FOOTPRINTS)
    assert list(frame.chip) == [chip.name for chip in found.chips]
    assert list(frame.geometry.notna()) == [chip.scene == "scene" for chip in found.chips]
    assert {chip.scene for chip in found.chips} == {"scene", "picture"}
    assert found.facts["split"]["shared_ground"] == 0


def shared(out: Path) -> float:
    """Ground of val and test that another split has too, as a share, from the layer alone."""
    frame = gpd.read_file(out / FOOTPRINTS).to_crs("EPSG:5070")
    parts = {split: frame[frame.split == split].union_all() for split in ("train", "val", "test")}
    assert not any(part.is_empty for part in parts.values())
    both = parts["train"].intersection(parts["val"]).union(parts["train"].intersection(parts["test"]))
    both = both.union(parts["val"].intersection(parts["test"]))
    return both.area / parts["val"].union(parts["test"]).area


@pytest.mark.parametrize(
    "place",
    [
        {"transform": TRANSFORM},
        {"transform": moved(TRANSFORM, 8, 8)},
        {"transform": moved(TRANSFORM, 5, -11)},
        {"crs": "EPSG:32615", "transform": Affine(10, 0, -7_300, 0, -10, 4_517_300)},
    ],
)
@pytest.mark.parametrize("stride", [16, 8])
def test_no_ground_is_in_two_splits_whatever_overlaps(write_scene, tmp_path, out, rng, place, stride):
    scenes = []
    for name, options in (("a", {}), ("b", place)):
        scenes.append(write_scene(f"{name}.tif", rng.integers(1, 200, (SIDE, SIDE), np.uint8), **options))
        write_scene(f"l/{name}.tif", checkers(SIDE, SIDE, 8), **options)
    found = cut(scenes, tmp_path / "l", out, stride=stride)
    assert shared(out) < 1e-4
    assert found.facts["split"]["shared_ground"] == 0
    assert "0.0 % of val and test ground is in another split too" in str(found)
    per_scene = ((SIDE - CHIP) // stride + 1) ** 2
    assert sum(found.facts["left_out"].values()) + len(found.chips) == 2 * per_scene


@pytest.mark.parametrize("by", ["random", "scene"])
def test_the_leak_of_other_splits_is_told_as_it_is(write_scene, tmp_path, out, rng, by):
    scenes = []
    for number, name in enumerate("abcd"):
        place = moved(TRANSFORM, 0, 24 * number)
        scenes.append(write_scene(f"{name}.tif", rng.integers(1, 200, (64, 64), np.uint8), transform=place))
        write_scene(f"l/{name}.tif", checkers(64, 64, 8), transform=place)
    found = cut(scenes, tmp_path / "l", out, split_by=by, split="2:1:1")
    assert "across split borders" not in found.facts["left_out"]
    assert found.facts["split"]["shared_ground"] == pytest.approx(shared(out), rel=1e-3)
    assert found.facts["split"]["shared_ground"] > 0.1
    if by == "scene":
        assert len({(chip.scene, chip.split) for chip in found.chips}) == 4


def test_the_same_seed_gives_the_same_bytes(scene, labels, tmp_path):
    one, two, other = (cut(scene, labels, tmp_path / name, seed=seed) for name, seed in (("1", 5), ("2", 5), ("3", 6)))
    assert one.chips == two.chips
    assert [chip.split for chip in one.chips] != [chip.split for chip in other.chips]
    for name in files(one.path) - {FOOTPRINTS}:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_all_for_training(scene, labels, out):
    found = cut(scene, labels, out, split="1:0:0")
    assert {chip.split for chip in found.chips} == {"train"}
    assert not (out / "val").exists()


def test_every_split_sees_a_rare_class(write_scene, scene, out):
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for row, col in ((3, 3), (50, 50), (80, 10), (20, 85)):
        labels[row, col] = 1
    found = cut(scene, write_scene("l.tif", labels), out)
    assert all(found.class_pixels(split)[1] > 0 for split in ("train", "val", "test"))


# --- a plan alone


def test_a_dry_run_writes_nothing(scene, labels, out, tmp_path):
    with untouched(tmp_path):
        found = cut(scene, labels, out, dry_run=True)
    assert isinstance(found, Plan)
    assert str(found).startswith("36 chips of 16 x 16 from 1 scenes, classes 0=class_0, 1=class_1")
    json.dumps(found.to_dict())
    assert cut(scene, labels, out).chips == found.chips
    with untouched(tmp_path):
        assert cut(scene, labels, out, dry_run=True).chips == found.chips


# --- what is refused


@pytest.mark.parametrize(
    ("change", "kind", "said_"),
    [
        ({"scenes": "none.tif"}, GeosegError, r"none\.tif: not found"),
        ({"scenes": "empty"}, GeosegError, "empty: no raster in this folder"),
        ({"scenes": "text.tif"}, RasterError, r"text\.tif: a GeoTIFF"),
        ({"scenes": "cut.tif"}, RasterError, r"cut\.tif: (truncated|damaged)"),
        ({"scenes": []}, RasterError, "no scene given"),
        ({"labels": "none.gpkg"}, GeosegError, r"none\.gpkg: not found"),
        ({"labels": "empty"}, LabelError, r"scene\.tif: no labels; .*empty needs a file called scene_mask\.tif"),
        ({"labels": "text.tif"}, RasterError, r"text\.tif: a GeoTIFF"),
        ({"labels": "cut.tif"}, RasterError, r"cut\.tif: (truncated|damaged)"),
        ({"labels": "far.tif"}, LabelError, r"far\.tif: does not overlap"),
        ({"labels": "far.gpkg"}, LabelError, r"far\.gpkg: does not overlap"),
        ({"labels": "values.tif", "classes": "0=a,1=b"}, LabelError, r"values\.tif: .* 5 \(3 pixels\)"),
        ({"bands": "4"}, RasterError, r"scene\.tif: no band is called '4'"),
        ({"scenes": ["scene.tif", "other/scene.tif"]}, RasterError, "two scenes called 'scene'"),
        ({"scenes": ["scene.tif", "one_band.tif"]}, MismatchError, r"one_band\.tif: bands in all 1 found"),
        ({"scenes": ["scene.tif", "deep.tif"]}, MismatchError, r"deep\.tif: pixels of uint16"),
        ({"chip_size": SIDE}, SplitError, "1 blocks of ground found.*--chip-size.*--split 1:0:0.*--split-by scene"),
        ({"split_by": "scene"}, SplitError, "1 scenes with chips found"),
        ({"classes": "none.csv"}, GeosegError, r"none\.csv: no legend could be read"),
        ({"background": "sea"}, GeosegError, "'sea' is not in the legend"),
        ({"scale": "nonsense"}, GeosegError, "--scale nonsense: known are dataset, unit, percentile, imagenet"),
        ({"bands": "1,2", "scale": "imagenet"}, GeosegError, "--scale imagenet: three bands are needed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(write_scene, scene, labels, tmp_path, out, change, kind, said_):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no TIFF")
    (tmp_path / "cut.tif").write_bytes(scene.read_bytes()[:-2000])
    write_scene("far.tif", np.ones((SIDE, SIDE), np.uint8), transform=moved(TRANSFORM, 0, SIDE))
    write_polygons(tmp_path / "far.gpkg", [box(SIDE + 9, 0, 5, 5)])
    stray = checkers(SIDE, SIDE, 8)
    stray[0, :3] = 5
    write_scene("values.tif", stray)
    write_scene("other/scene.tif", np.ones((3, SIDE, SIDE), np.uint8))
    write_scene("one_band.tif", np.ones((SIDE, SIDE), np.uint8))
    write_scene("deep.tif", np.ones((3, SIDE, SIDE), np.uint16), names=["red", "green", "blue"])
    options = {"scenes": scene, "labels": labels} | change
    paths = {key: options.pop(key) for key in ("scenes", "labels")}
    paths["scenes"] = (
        [tmp_path / p for p in paths["scenes"]] if isinstance(paths["scenes"], list) else tmp_path / paths["scenes"]
    )
    if "classes" in options and options["classes"].endswith("csv"):
        options["classes"] = tmp_path / options["classes"]
    with untouched(tmp_path), pytest.raises(kind, match=said_) as caught:
        cut(paths["scenes"], tmp_path / paths["labels"], out, **options)
    assert len(one_line_each(caught.value)) == 1


def test_all_faults_come_at_once(write_scene, labels, tmp_path, out, rng):
    good = write_scene("good.tif", rng.integers(1, 200, (SIDE, SIDE), np.uint8))
    far = write_scene("far.tif", np.ones((SIDE, SIDE), np.uint8), transform=moved(TRANSFORM, 0, 500))
    (tmp_path / "text.tif").write_text("no TIFF")
    out.mkdir()
    (out / INDEX).touch()
    with untouched(tmp_path), pytest.raises(PreflightError) as caught:
        cut(
            [good, far, tmp_path / "text.tif", tmp_path / "none.tif"],
            labels,
            out,
            split="8",
            aoi=tmp_path / "no.gpkg",
            bands="2",
        )
    parts = ["exists already", "text.tif: a GeoTIFF", "none.tif: not found", "good.tif: no band is called '2'", "far.tif: no band",
             "--split '8'", "no.gpkg: not found", "labels.tif: does not overlap"]  # fmt: skip
    lines = one_line_each(caught.value)
    assert len(lines) == len(parts)
    for part, line in zip(parts, lines, strict=True):
        assert part in line


def test_damage_found_while_cutting_leaves_nothing_and_the_inputs_as_they_are(
    scene, labels, tmp_path, out, monkeypatch
):
    """A disk that fills, or a file that is torn away under us: the same way out."""

    def fail(*_: object, **__: object) -> None:
        raise InputError("torn away")

    monkeypatch.setattr("geoseg.tiling.write_json", fail)
    with untouched(tmp_path), pytest.raises(InputError, match="torn away"):
        cut(scene, labels, out)
    assert not out.exists()


def test_inputs_are_never_written_to_and_nothing_appears_beside_them(scene, labels, tmp_path, out):
    polygons = write_polygons(tmp_path / "in" / "l.gpkg", [box(0, 0, 40, 40)], to="EPSG:4326", kind=["rye"])
    shapes = write_polygons(tmp_path / "in" / "l.shp", [box(0, 0, 40, 40)])
    for path in (scene, labels):
        path.rename(tmp_path / "in" / path.name)
    with untouched(tmp_path / "in"):
        for number, path in enumerate((tmp_path / "in" / "labels.tif", polygons, shapes)):
            cut(tmp_path / "in" / "scene.tif", path, out / str(number))


# --- an earlier folder


def test_an_earlier_folder_is_refused_or_replaced_without_what_is_foreign(scene, labels, tmp_path, out):
    first = cut(scene, labels, out)
    with untouched(tmp_path), pytest.raises(OutputExistsError, match=r"chips\.json: exists already.*--overwrite"):
        cut(scene, labels, out, chip_size=24)
    (out / "notes.txt").write_text("mine")
    (out / "train" / "images" / "mine.tif").write_text("mine")
    second = cut(scene, labels, out, chip_size=24, overwrite=True)
    assert files(out) == {
        INDEX, FOOTPRINTS, "notes.txt", "train/images/mine.tif", *(n for c in second.chips for n in (c.image, c.mask)),
    }  # fmt: skip
    assert not {chip.image for chip in first.chips} <= files(out)
    assert open_chips(out) == second


def test_a_folder_that_is_not_ours_is_added_to(scene, labels, out):
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    cut(scene, labels, out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / INDEX).exists()


def test_a_damaged_index_is_replaced_on_request(scene, labels, out):
    out.mkdir()
    (out / INDEX).write_text("{")
    assert open_chips(cut(scene, labels, out, overwrite=True).path).chips


def test_chips_are_never_made_of_chips_that_they_would_replace(scene, labels, out):
    cut(scene, labels, out)
    with untouched(out), pytest.raises(OutputExistsError, match="is an input of this run and is never written to"):
        cut(out / "train" / "images", out / "train" / "masks", out, chip_size=8, overwrite=True)
    with untouched(out), pytest.raises(OutputExistsError, match=r"index\.gpkg: is an input of this run"):
        cut(scene, labels, out, aoi=out / FOOTPRINTS, overwrite=True)


# --- memory


def test_memory_is_bounded_by_the_chip(write_scene, tmp_path, out):
    """All of scene and labels, 8 and 4 MB, is read; a chip of them is 48 kB."""
    big = np.ones((2048, 2048), np.uint16)
    profile = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    scene = write_scene("scene.tif", big, **profile)
    big[:1792] = 0
    labels = write_scene("l.tif", big.astype(np.uint8), nodata=0, **profile)
    del big
    cut(scene, labels, tmp_path / "warm", dry_run=True, chip_size=512, split="1:0:0")
    tracemalloc.start()
    try:
        found = cut(scene, labels, out, chip_size=128)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.chips) == 32
    assert found.facts["left_out"] == {"few labels": 224}
    assert peak < 3_000_000
