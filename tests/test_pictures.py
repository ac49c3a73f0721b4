"""Folders of image and mask pairs made elsewhere: every layout and way of telling classes, splits, sizes and faults."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from scenery import checkers, one_line_each, said, untouched

from geoseg.chips import INDEX, open_chips
from geoseg.errors import InputError, LabelError, MissingFileError, PreflightError, RasterError
from geoseg.picture_layouts import split_by_name
from geoseg.pictures import PictureFolder, open_samples
from geoseg.spec import ImageSpec

MASK = checkers(12, 16, 4, [0, 1, 2])
VOC_COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 255: (224, 224, 192)}


def write(path: Path, pixels: np.ndarray, palette: dict[int, tuple[int, int, int]] | None = None, **profile) -> Path:
    """A picture, in the format that its suffix tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    driver = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "GTiff")
    count, height, width = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver=driver, count=count, height=height, width=width, dtype=pixels.dtype, **profile
        ) as dataset:
            dataset.write(pixels)
            if palette:
                dataset.write_colormap(1, {value: (*rgb, 255) for value, rgb in palette.items()})
    return path


def picture(number: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (3, height, width), dtype=np.uint8)


def twins(root: Path, masks: list[np.ndarray], palette=None, images: str = "images", labels: str = "masks") -> None:
    for number, mask in enumerate(masks):
        write(root / images / f"p{number}.png", picture(number, *mask.shape[-2:]))
        write(root / labels / f"p{number}.png", mask, palette)


def names(folder: PictureFolder, split: str) -> set[str]:
    return {chip.name for chip in folder.of(split)}


def read_masks(folder: PictureFolder) -> dict[str, np.ndarray]:
    return {chip.name: folder.read(chip)[2] for chip in folder.chips}


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "masks"), ("Images", "Labels"), ("img", "gt"), ("images", "annotations"), ("image", "mask")],
)
def test_twin_folders(tmp_path, images, labels):
    twins(tmp_path, [np.roll(MASK, shift, axis=1) for shift in range(12)], images=images, labels=labels)
    with untouched(tmp_path):
        folder = open_samples(tmp_path)
        assert len(folder.chips) == 12
        for chip in folder.chips:
            number = int(chip.name[1:])
            pixels, valid, mask = folder.read(chip)
            assert np.array_equal(pixels, picture(number))
            assert valid.all()
            assert np.array_equal(mask, np.roll(MASK, number, axis=1))
            assert (chip.image, chip.mask) == (f"{images}/p{number}.png", f"{labels}/p{number}.png")
            assert chip.class_pixels == tuple(np.bincount(mask.ravel(), minlength=3))
    assert str(folder.legend) == "0=class_0, 1=class_1, 2=class_2"
    assert folder.legend.background == 0
    assert folder.image.names == ("red", "green", "blue")
    assert (folder.image.chip_size, folder.image.pixel_size_m, folder.image.scaling) == (16, None, "dataset")
    assert len({chip.block for chip in folder.chips}) == 12
    assert "12 pairs" in str(folder)


def test_statistics_are_those_of_the_training_images(tmp_path):
    twins(tmp_path, [MASK] * 12)
    told: list[tuple] = []
    folder = open_samples(tmp_path, progress=lambda *step: told.append(step))
    assert told[-1] == ("read pictures", 12, 12)
    train = np.stack([picture(int(chip.name[1:])) for chip in folder.of("train")])
    for band, entry in enumerate(folder.image.bands):
        assert entry.offset == pytest.approx(train[:, band].mean())
        assert entry.scale == pytest.approx(train[:, band].std())
    assert ImageSpec.from_dict(json.loads(json.dumps(folder.to_dict()))["image"]) == folder.image


@pytest.mark.parametrize("ending", ["_mask", "_label", "_gt", "_seg", "_Mask"])
def test_pairs_beside_each_other_in_folders_of_splits(tmp_path, ending):
    for split, numbers in (("Train", [0, 1]), ("valid", [2]), ("test", [3])):
        for number in numbers:
            write(tmp_path / split / f"p{number}.JPG", picture(number))
            write(tmp_path / split / f"p{number}{ending}.png", MASK)
    folder = open_samples(tmp_path)
    assert [names(folder, split) for split in ("train", "val", "test")] == [{"p0", "p1"}, {"p2"}, {"p3"}]
    assert all(np.array_equal(mask, MASK) for mask in read_masks(folder).values())
    assert folder.facts["split"]["by"] == "folder"
    shape = folder.read(folder.chips[0])[0].shape
    assert shape == (3, 12, 16)


def test_twins_with_endings_in_folders_of_splits_and_a_test_without_masks(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "images" / f"{split}.png", picture(0))
        write(tmp_path / split / "masks" / f"{split}_mask.png", MASK)
    write(tmp_path / "test" / "images" / "secret.png", picture(1))
    with said("1 images without a mask left out, the first secret.png"):
        folder = open_samples(tmp_path)
    assert [len(folder.of(split)) for split in ("train", "val", "test")] == [1, 1, 0]
    assert folder.facts["left_out"] == {"images without a mask": 1}


def voc(root: Path, stems: list[str], values=(0, 1, 15, 255), palette=VOC_COLOURS) -> np.ndarray:
    mask = checkers(12, 16, 4, values)
    for number, stem in enumerate(stems):
        size = (12, 16) if number % 3 else (20, 9)
        write(root / "JPEGImages" / f"{stem}.jpg", picture(number, *size))
        write(root / "SegmentationClass" / f"{stem}.png", checkers(*size, 4, values), palette)
    return mask


def test_pascal_voc(tmp_path):
    stems = [f"2007_{number:06d}" for number in range(6)]
    mask = voc(tmp_path, stems)
    write(tmp_path / "JPEGImages" / "2007_000099.jpg", picture(9))
    (tmp_path / "Annotations").mkdir()
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:3]) + "\n")
    (lists / "val.txt").write_text("\n".join(stems[3:5]) + "\n")
    (lists / "test.txt").write_text("2007_000099\n2007_000098\n")
    (lists / "trainval.txt").write_text("\n".join(stems[:5]) + "\n")
    with (
        untouched(tmp_path),
        said("2 images without a mask left out, the first 2007_000099"),
        said("1 pairs in none of the lists left out, the first 2007_000005"),
    ):
        folder = open_samples(tmp_path)
    assert [names(folder, split) for split in ("train", "val", "test")] == [set(stems[:3]), set(stems[3:5]), set()]
    assert str(folder.legend) == "0=background, 1=aeroplane, 15=person"
    assert [entry.colour for entry in folder.legend] == ["#000000", "#800000", "#c08080"]
    pixels, valid, found = folder.read(next(chip for chip in folder.chips if chip.name == stems[1]))
    assert pixels.shape == (3, 12, 16)
    assert valid.all()
    expected = np.select([mask == 0, mask == 1, mask == 15], [0, 1, 2], 255)
    assert np.array_equal(found, expected)
    assert folder.read(folder.of("train")[0])[2].shape == (20, 9)
    assert folder.image.chip_size == 16
    assert folder.facts["left_out"] == {"images without a mask": 2, "pairs in none of the lists": 1}


def test_names_of_voc_only_where_that_is_certain(tmp_path):
    voc(tmp_path / "other files", [f"field{number}" for number in range(4)])
    assert open_samples(tmp_path / "other files").legend.names == ("class_0", "class_1", "class_15")
    voc(
        tmp_path / "other palette",
        [f"2007_00000{number}" for number in range(4)],
        palette=VOC_COLOURS | {15: (1, 2, 3)},
    )
    assert open_samples(tmp_path / "other palette").legend.names == ("class_0", "class_1", "class_15")
    voc(tmp_path / "other value", [f"2007_00000{number}" for number in range(4)], values=(0, 21))
    assert open_samples(tmp_path / "other value").legend.names == ("class_0", "class_21")


def test_pets(tmp_path):
    mask = checkers(12, 16, 4, [1, 2, 3])
    for number in range(5):
        write(tmp_path / "images" / f"Abyssinian_{number}.jpg", picture(number))
        write(tmp_path / "annotations" / "trimaps" / f"Abyssinian_{number}.png", mask)
    (tmp_path / "annotations" / "trimaps" / "._Abyssinian_0.png").write_bytes(b"left by a Mac")
    (tmp_path / "annotations" / "list.txt").write_text("Abyssinian_0 1 1 1")
    folder = open_samples(tmp_path)
    assert str(folder.legend) == "1=pet, 2=background, 3=border"
    assert folder.legend.background == 1
    assert all(np.array_equal(found, mask - 1) for found in read_masks(folder).values())


@pytest.mark.parametrize("bands", [1, 3])
def test_0_and_255_are_read_as_0_and_1(tmp_path, bands):
    mask = checkers(12, 16, 4, [0, 255])
    twins(tmp_path, [np.stack([mask] * bands)] * 3)
    with said("labels of 0 and 255 are read as 0 and 1"):
        folder = open_samples(tmp_path)
    assert folder.legend.values == (0, 1)
    assert all(np.array_equal(found, mask // 255) for found in read_masks(folder).values())


@pytest.mark.parametrize("bands", [1, 3])
def test_255_beside_numbers_of_classes_is_ignored(tmp_path, bands):
    mask = checkers(12, 16, 4, [0, 3, 4, 255])
    twins(tmp_path, [np.stack([mask] * bands)] * 3)
    with said("labels of 255 are ignored, the others are up to 4"):
        folder = open_samples(tmp_path)
    assert folder.legend.values == (0, 3, 4)
    expected = np.select([mask == 0, mask == 3, mask == 4], [0, 1, 2], 255)
    assert all(np.array_equal(found, expected) for found in read_masks(folder).values())
    assert folder.chips[0].class_pixels == tuple(np.bincount(expected.ravel())[:3])


def test_255_among_grey_levels_is_a_class(tmp_path):
    mask = checkers(12, 16, 4, [0, 127, 255])
    twins(tmp_path, [mask] * 3)
    folder = open_samples(tmp_path)
    assert folder.legend.values == (0, 127, 255)
    assert np.array_equal(folder.read(folder.chips[0])[2], checkers(12, 16, 4, [0, 1, 2]))


def test_255_in_a_palette_is_ignored(tmp_path):
    twins(tmp_path, [checkers(12, 16, 4, [0, 127, 255])] * 3, {value: (value, 0, 0) for value in range(256)})
    assert open_samples(tmp_path).legend.values == (0, 127)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_are_classes(tmp_path, alpha):
    colours = np.array([(0, 0, 0), (0, 128, 0), (255, 0, 10), (255, 255, 255)], np.uint8)
    index = checkers(12, 16, 4, [3, 0, 2, 1])
    rgb = colours[index].transpose(2, 0, 1)
    opaque = np.where(index == 0, 0, 255).astype(np.uint8)  # the background is transparent, as drawn overlays have it
    twins(tmp_path, [np.concatenate([rgb, opaque[None]]) if alpha else rgb] * 3)
    folder = open_samples(tmp_path)
    assert folder.legend.values == (0, 1, 2, 3)
    assert [entry.colour for entry in folder.legend] == ["#000000", "#008000", "#ff000a", "#ffffff"]
    assert folder.legend.background == 0
    assert all(np.array_equal(found, index) for found in read_masks(folder).values())


def test_without_black_no_colour_is_the_background(tmp_path):
    colours = np.array([(0, 0, 9), (0, 128, 0)], np.uint8)
    twins(tmp_path, [colours[checkers(12, 16, 4)].transpose(2, 0, 1)] * 3)
    folder = open_samples(tmp_path)
    assert folder.legend.values == (1, 2)
    assert folder.legend.background is None


def test_a_palette_gives_colours_and_one_is_kept(tmp_path):
    palette = {0: (9, 9, 9), 1: (255, 0, 0), 2: (0, 0, 255), 200: (1, 1, 1)}
    twins(tmp_path, [MASK] * 3, palette)
    assert [entry.colour for entry in open_samples(tmp_path).legend] == ["#090909", "#ff0000", "#0000ff"]
    write(tmp_path / "masks" / "p2.png", MASK, palette | {1: (0, 255, 0)})
    with pytest.raises(LabelError, match=r"p2\.png: value 1 is #00ff00 in its palette and #ff0000 in p0\.png"):
        open_samples(tmp_path)


def test_geotiffs_with_nodata_and_place(tmp_path):
    place = {"crs": "EPSG:32614", "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000)}
    pixels = np.random.default_rng(0).integers(1, 4000, (5, 12, 16), dtype=np.uint16)
    pixels[:, 2, 3] = 0
    mask = MASK.astype(np.uint16) * 300
    unknown = mask.copy()
    unknown[5, 6] = 9999
    for number in range(3):
        write(tmp_path / "images" / f"p{number}.tif", pixels, nodata=0, **place)
        write(tmp_path / "masks" / f"p{number}.tiff", unknown, nodata=9999, **place)
    folder = open_samples(tmp_path)
    assert folder.legend.values == (0, 300, 600)
    assert folder.image.pixel_size_m == pytest.approx(10, rel=1e-3)
    assert (folder.image.names[4], folder.image.dtypes[4], folder.image.bands[4].nodata) == ("band_5", "uint16", 0)
    _, valid, found = folder.read(folder.chips[0])
    assert np.argwhere(~valid).tolist() == [[2, 3]]
    expected = MASK.copy()
    expected[2, 3] = expected[5, 6] = 255
    assert np.array_equal(found, expected)
    assert folder.chips[0].class_pixels == tuple(np.bincount(expected.ravel())[:3])
    assert folder.chips[0].valid == round(1 - 1 / 192, 4)
    assert folder.image.bands[0].statistics.min > 0


def test_alpha_is_validity(tmp_path):
    twins(tmp_path, [MASK] * 3)
    alpha = np.full((12, 16), 255, np.uint8)
    alpha[:, :4] = 0
    write(tmp_path / "images" / "p1.png", np.concatenate([picture(1), alpha[None]]))
    folder = open_samples(tmp_path)
    pixels, valid, mask = folder.read(next(chip for chip in folder.chips if chip.name == "p1"))
    assert np.array_equal(pixels, picture(1))
    assert np.array_equal(valid, alpha > 0)
    assert np.array_equal(mask, np.where(alpha > 0, MASK, 255))


def test_grey_images_are_one_band(tmp_path):
    twins(tmp_path, [MASK] * 3)
    for number in range(3):
        write(tmp_path / "images" / f"p{number}.png", picture(number)[0])
    folder = open_samples(tmp_path)
    assert folder.image.names == ("grey",)
    assert folder.read(folder.chips[0])[0].shape == (1, 12, 16)


def test_a_hash_of_the_name_splits_8_to_1_to_1():
    names = [f"image_{number}" for number in range(2000)]
    splits = split_by_name(names)
    counts = [list(splits.values()).count(split) for split in ("train", "val", "test")]
    assert counts == pytest.approx([1600, 200, 200], abs=40)
    assert split_by_name(names[::-1]) == splits
    some = split_by_name(names[:500])
    assert all(splits[name] == split for name, split in some.items())


def test_no_split_is_empty_where_there_are_enough_pairs():
    for start in range(300):
        for count in range(1, 10):
            found = list(split_by_name([f"p{start}_{number}" for number in range(count)]).values())
            assert set(found) == {"train", "val", "test"} if count > 2 else set(found) == {"train", "val"} or count == 1
            assert "train" in found


def test_a_chip_folder_is_opened_as_before(tmp_path):
    with pytest.raises(MissingFileError, match=r"chips\.json: not found"):
        open_samples(tmp_path / "nowhere")
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(InputError, match=r"chips\.json"):
        open_samples(tmp_path)


def cut_chips(root: Path) -> None:
    for split in ("train", "val"):
        for kind, pixels in (("images", picture(0)), ("masks", MASK[None])):
            path = write(root / split / kind / "scene_000000_000256.tif", pixels)
            if kind == "masks":
                with rasterio.open(path, "r+") as dataset:
                    dataset.set_band_description(1, "class index")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_chips_without_their_index_are_no_pictures(tmp_path):
    cut_chips(tmp_path / "lost")
    with pytest.raises(MissingFileError, match=r"chips\.json: not found beside the chips.*geoseg tile"):
        open_samples(tmp_path / "lost")
    twins(tmp_path / "cut off", [MASK] * 3)
    (tmp_path / "cut off" / ".unfinished").mkdir()
    with pytest.raises(MissingFileError, match=r"chips\.json: not found beside the chips"):
        open_samples(tmp_path / "cut off")
    for split in ("train", "val"):
        write(tmp_path / "foreign" / split / "images" / "scene_000000_000256.tif", picture(0))
        write(tmp_path / "foreign" / split / "masks" / "scene_000000_000256.tif", MASK)
    assert len(open_samples(tmp_path / "foreign").chips) == 2


def test_tile_never_takes_pictures_for_its_own(tmp_path):
    """It takes away the files of the chip folder that it replaces."""
    twins(tmp_path, [MASK] * 3)
    with pytest.raises(MissingFileError):
        open_chips(tmp_path)


def test_a_folder_of_neither(tmp_path):
    write(tmp_path / "a.png", picture(0))
    with pytest.raises(
        MissingFileError, match=r"neither chips\.json nor pairs.*geoseg tile.*images/.*NAME_mask\.png.*VOC"
    ):
        open_samples(tmp_path)
    write(tmp_path / "images" / "a.png", picture(0))
    write(tmp_path / "masks" / "b.png", MASK)
    with pytest.raises(LabelError, match=r"a\.png: no mask has the name of an image, the first mask is b\.png"):
        open_samples(tmp_path)


def break_missing(root: Path) -> None:
    (root / "masks" / "p1.png").unlink()
    (root / "masks" / "p3.png").unlink()


def break_two_masks(root: Path) -> None:
    write(root / "masks" / "p1.tif", MASK)


def break_two_images(root: Path) -> None:
    write(root / "images" / "p1.jpg", picture(0))


def break_two_folders(root: Path) -> None:
    write(root / "gt" / "p1.png", MASK)


def break_size(root: Path) -> None:
    write(root / "masks" / "p1.png", MASK[:10])


def break_bands(root: Path) -> None:
    write(root / "images" / "p2.png", picture(2)[0])
    write(root / "images" / "p3.png", picture(3)[0])


def break_dtype(root: Path) -> None:
    write(root / "images" / "p2.tif", picture(2).astype(np.uint16))
    (root / "images" / "p2.png").unlink()


def break_mask_bands(root: Path) -> None:
    write(root / "masks" / "p2.png", np.stack([MASK] * 3))


def break_jpeg(root: Path) -> None:
    (root / "masks" / "p2.png").unlink()
    write(root / "masks" / "p2.jpg", MASK)


def break_floats(root: Path) -> None:
    (root / "masks" / "p2.png").unlink()
    write(root / "masks" / "p2.tif", MASK.astype(np.float32))


def break_photograph(root: Path) -> None:
    for number in range(4):
        write(root / "masks" / f"p{number}.png", picture(number, 40, 40))
        write(root / "images" / f"p{number}.png", picture(number, 40, 40))


def break_palette_image(root: Path) -> None:
    write(root / "images" / "p1.png", MASK, VOC_COLOURS)


def break_truncated_png(root: Path) -> None:
    path = write(root / "masks" / "p1.png", MASK)
    path.write_bytes(path.read_bytes()[:-20])


def break_container(root: Path) -> None:
    (root / "images" / "p1.png").write_text("<VRTDataset/>")


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        (break_missing, LabelError, r"images: 2 images without a mask, the first p1\.png; add masks"),
        (break_two_masks, LabelError, r"p1\.png: its mask could be p1\.png or p1\.tif"),
        (break_two_images, LabelError, r"p1\.png: has one mask with p1\.jpg"),
        (break_two_folders, LabelError, r"gt and masks hold pictures"),
        (break_size, LabelError, r"masks.p1\.png: 10 x 16 found, its image p1\.png has 12 x 16"),
        (break_bands, RasterError, r"p2\.png: 1 bands of uint8 found, p0\.png has 3 bands of uint8"),
        (break_dtype, RasterError, r"p2\.tif: 3 bands of uint16 found, p0\.png has 3 bands of uint8"),
        (break_mask_bands, LabelError, r"p2\.png: 3 bands found, p0\.png has 1"),
        (break_jpeg, LabelError, r"p2\.jpg: a JPEG found"),
        (break_floats, LabelError, r"p2\.tif: 1 bands of float32 found; a mask has one band of whole numbers"),
        (break_photograph, LabelError, r"hold more than 255 values; these are no class masks"),
        (break_palette_image, RasterError, r"p1\.png: an image with a palette found"),
        (break_truncated_png, RasterError, r"masks.p1\.png: truncated"),
        (break_container, RasterError, r"p1\.png: a GeoTIFF, JPEG 2000, PNG or JPEG is needed, found a VRT"),
    ],
)
def test_faults_are_one_line(tmp_path, break_it, error, words):
    twins(tmp_path, [MASK] * 4)
    break_it(tmp_path)
    with pytest.raises(error, match=words) as caught:
        open_samples(tmp_path)
    assert len(one_line_each(caught.value)) == 1


def test_several_faults_are_told_at_once_but_no_flood(tmp_path):
    twins(tmp_path, [MASK] * 30)
    for number in range(3):
        (tmp_path / "masks" / f"p{number}.png").write_text("no picture")
    break_bands(tmp_path)
    write(tmp_path / "masks" / "p9.png", MASK[:5])
    with pytest.raises(PreflightError) as caught:
        open_samples(tmp_path)
    assert len(one_line_each(caught.value)) == 5
    for number in range(30):
        (tmp_path / "masks" / f"p{number}.png").write_text("no picture")
    with pytest.raises(PreflightError) as caught:
        open_samples(tmp_path)
    assert len(one_line_each(caught.value)) == 20


def test_masks_without_an_image_are_left_out_and_told(tmp_path):
    twins(tmp_path, [MASK] * 3)
    write(tmp_path / "masks" / "spare.png", MASK)
    with said(r"1 masks without an image left out, the first spare\.png"):
        assert len(open_samples(tmp_path).chips) == 3


def test_a_name_in_two_lists_of_voc_is_refused(tmp_path):
    voc(tmp_path, ["2007_000001", "2007_000002"])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("2007_000001\n")
    with pytest.raises(InputError, match=r"val\.txt: 2007_000001 stands in train\.txt too"):
        open_samples(tmp_path)
    (lists / "train.txt").write_text("2008_000001\n")
    (lists / "val.txt").unlink()
    with pytest.raises(LabelError, match="no name in these lists has an image and a mask, the first is 2008_000001"):
        open_samples(tmp_path)


def test_no_label_and_no_training_image(tmp_path):
    twins(tmp_path / "none", [MASK] * 3)
    for number in range(3):
        write(tmp_path / "none" / "images" / f"p{number}.png", np.zeros((4, 12, 16), np.uint8))
    with pytest.raises(InputError, match="no pixel of an image to train on"):
        open_samples(tmp_path / "none")
    twins(tmp_path / "only" / "val", [MASK] * 3)
    with pytest.raises(InputError, match="put pairs into train"):
        open_samples(tmp_path / "only")
