"""A chip folder as it stands on the disk: read, told and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from scenery import TRANSFORM

from geoseg.chips import INDEX, Chip, ChipFolder, class_pixels, left_out_lines, open_chips, outside_lines, read_image
from geoseg.errors import FormatError, InputError, MissingFileError, RasterError
from geoseg.files import write_json
from geoseg.geotiff import write_geotiff
from geoseg.legend import parse_legend
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

LEGEND = parse_legend("0=background,7=crop")
CHIPS = (
    Chip("a", 0, 0, "train", 0, 1.0, (10, 6)),
    Chip("a", 4, 8, "train", 1, 0.75, (2, 10)),
    Chip("b", 0, 4, "val", 2, 1.0, (16, 0)),
)
FACTS = {
    "options": {"chip_size": 4},
    "split": {"by": "random", "shared_ground": 0.125},
    "left_out": {"nodata": 3, "few labels": 0},
    "outside": None,
}


@pytest.fixture
def folder(tmp_path):
    facts = BandStatistics(1, 1, 0, 2, 0, 2)
    bands = scale_bands([facts] * 2, names=["red", "nir"], sources=[3, 1], dtypes=["uint16"] * 2, nodata=[0, 0])
    folder = ChipFolder(tmp_path, ImageSpec(bands, 4, 10.0, 4), LEGEND, CHIPS, FACTS)
    write_json(tmp_path / INDEX, folder.to_dict())
    return folder


def edit(folder: ChipFolder, **changes) -> None:
    path = folder.path / INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_chip(folder: ChipFolder, chip: Chip, pixels: np.ndarray, mask: np.ndarray, **options) -> None:
    for path in (chip.image, chip.mask):
        (folder.path / path).parent.mkdir(parents=True, exist_ok=True)
    write_geotiff(folder.path / chip.image, pixels, crs=None, transform=TRANSFORM, **options)
    write_geotiff(folder.path / chip.mask, mask[None], crs=None, transform=TRANSFORM, nodata=255)


def test_names_have_six_digits():
    chip = Chip("scene.x", 64, 1_000_000, "val", 0, 1.0, (1,))
    assert (chip.image, chip.mask) == (
        "val/images/scene.x_000064_1000000.tif",
        "val/masks/scene.x_000064_1000000.tif",
    )


def test_what_is_written_is_read_again(folder):
    found = open_chips(folder.path)
    assert found == folder
    assert [chip.name for chip in found.of("train")] == ["a_000000_000000", "a_000004_000008"]
    assert found.of("test") == []
    assert found.class_pixels("train").tolist() == [12, 16]
    assert class_pixels([], LEGEND).tolist() == [0, 0]
    assert found.to_dict()["splits"] == {
        "train": {"chips": 2, "class_pixels": {"background": 12, "crop": 16}},
        "val": {"chips": 1, "class_pixels": {"background": 16, "crop": 0}},
        "test": {"chips": 0, "class_pixels": {"background": 0, "crop": 0}},
    }


def test_unknown_keys_are_left_alone(folder):
    document = json.loads((folder.path / INDEX).read_text())
    edit(
        folder,
        later="more",
        chips=[chip | {"later": 1} for chip in document["chips"]],
        image=document["image"] | {"x": 1},
    )
    assert open_chips(folder.path) == folder


def test_the_summary_says_how_much_ground_is_shared_and_what_was_left_out(folder):
    lines = str(folder).splitlines()
    assert "3 chips of 4 x 4" in lines[0]
    assert "red, nir (uint16)" in lines[1]
    assert "train" in lines[2]
    assert "2 chips in 2 blocks of ground   background 42.9 %, crop 57.1 %" in lines[2]
    assert lines[4].endswith("0 chips")
    assert "by random; 12.5 % of val and test ground is in another split too" in lines[5]
    assert lines[6:] == ["  left out 3 nodata"]
    assert left_out_lines({"nodata": 0}) == []
    assert "62.5 % of the labelled pixels" in outside_lines(0.625)[0]


def test_a_chip_is_read_with_its_validity(folder):
    pixels = np.arange(1, 33, dtype=np.uint16).reshape(2, 4, 4)
    pixels[:, 1, 2] = 0
    mask = np.full((4, 4), 1, np.uint8)
    mask[0] = 255
    write_chip(folder, CHIPS[0], pixels, mask, nodata=0)
    found, valid, labels = folder.read(CHIPS[0])
    assert np.array_equal(found, pixels)
    assert np.argwhere(~valid).tolist() == [[1, 2]]
    assert np.array_equal(labels, mask)
    inside = np.eye(4) > 0
    write_chip(folder, CHIPS[1], pixels, mask, valid=inside)
    assert np.array_equal(folder.read(CHIPS[1])[1], inside)


def test_a_fourth_band_is_no_alpha(folder):
    write_chip(folder, CHIPS[0], np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    assert read_image(folder.path / CHIPS[0].image)[0].shape == (4, 4, 4)
    with rasterio.open(folder.path / CHIPS[0].image) as dataset:
        assert ColorInterp.alpha not in dataset.colorinterp


def test_a_chip_that_is_missing_damaged_or_of_other_classes_is_named(folder):
    with pytest.raises(MissingFileError, match=r"a_000000_000000\.tif"):
        folder.read(CHIPS[0])
    write_chip(folder, CHIPS[0], np.zeros((2, 4, 4), np.uint16), np.full((4, 4), 2, np.uint8))
    with pytest.raises(InputError, match=r"masks/a_000000_000000\.tif: class index 2 found, the legend has 2 classes"):
        folder.read(CHIPS[0])
    for pixels, said in (
        (np.zeros((3, 4, 4), np.uint16), "3 bands of uint16"),
        (np.zeros((2, 4, 4)), "2 bands of float64"),
    ):
        write_chip(folder, CHIPS[0], pixels, np.zeros((4, 4), np.uint8))
        with pytest.raises(RasterError, match=rf"a_000000_000000\.tif: {said} found, the chips .* have 2 of uint16"):
            folder.read(CHIPS[0])
    (folder.path / CHIPS[0].image).write_text("no TIFF")
    with pytest.raises(RasterError, match=r"images/a_000000_000000\.tif"):
        folder.read(CHIPS[0])


def test_a_folder_without_its_index_is_unfinished(tmp_path):
    with pytest.raises(MissingFileError, match=r"chips\.json: not found; a chip folder made by geoseg tile is needed"):
        open_chips(tmp_path)


def test_a_newer_folder_names_the_version_to_install(folder):
    edit(folder, format=2, geoseg_version="7.8.9")
    with pytest.raises(FormatError, match=r"format 2 found.*install geoseg 7\.8\.9"):
        open_chips(folder.path)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "1"},
        {"format": None},
        {"chips": None},
        {"chips": [{"scene": "a"}]},
        {"chips": [7]},
        {"legend": None},
        {"legend": [{}]},
        {"image": {}},
        {"image": {"bands": [{}]}},
    ],
)
def test_damage_is_one_line_that_names_the_file(folder, damage):
    edit(folder, **damage)
    with pytest.raises((FormatError, InputError), match=r"chips\.json") as caught:
        str(open_chips(folder.path))
    assert "\n" not in str(caught.value)
    (folder.path / INDEX).write_text("{")
    with pytest.raises(FormatError, match=r"chips\.json"):
        open_chips(folder.path)


@pytest.mark.parametrize(
    "entry",
    [{"scene": "../../x"}, {"scene": "../x"}, {"split": "../x"}, {"split": "other"}, {"row": "1"}, {"col": None}],
)
def test_a_chip_that_lies_outside_the_folder_is_refused(folder, entry):
    """An index names the files that `--overwrite` takes away."""
    chip = json.loads((folder.path / INDEX).read_text())["chips"][0]
    edit(folder, chips=[chip | entry])
    with pytest.raises(FormatError, match=r"chips\.json"):
        open_chips(folder.path)


def test_chips_of_pictures(folder):
    pixels = np.ones((2, 4, 4), np.uint16)
    for path in (CHIPS[2].image, CHIPS[2].mask):
        (folder.path / path).parent.mkdir(parents=True, exist_ok=True)
    write_geotiff(folder.path / CHIPS[2].image, pixels, crs=None, transform=Affine.identity())
    write_geotiff(folder.path / CHIPS[2].mask, pixels[:1].astype(np.uint8), crs=None, transform=Affine.identity())
    assert folder.read(CHIPS[2])[1].all()
