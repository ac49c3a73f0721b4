"""Which images and masks of a folder made elsewhere belong together, and which split they are in."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from geoseg.chips import INDEX
from geoseg.errors import DataWarning, Faults, InputError, LabelError, MissingFileError
from geoseg.raster import RASTER_SUFFIXES, open_raster
from geoseg.split import SPLITS

_IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "gt")
_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_MASK_ENDING = re.compile(r"_(mask|masks|label|labels|gt|seg)$")
_SHARES = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


def refuse_unfinished(path: Path) -> None:
    """Chips without their index would pass for pictures, with another legend and another split."""
    cut = [
        mask
        for split in SPLITS
        for mask in (path / split / "masks").glob("*.tif")
        if re.fullmatch(r".+_\d{6,}_\d{6,}", mask.stem)
    ]
    unfinished = (path / ".unfinished").exists()  # where `files.stage` writes
    if cut and not unfinished:
        with open_raster(cut[0]) as dataset:
            unfinished = dataset.descriptions[0] == "class index"  # as `tile` calls the band
    if unfinished:
        raise MissingFileError(
            f"{path / INDEX}: not found beside the chips, so they are unfinished or their index is lost; make them again "
            f"with geoseg tile"
        )


class Pair(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path
    split: str


@dataclass
class Pairs:
    """Which files belong together.

    Attributes:
        pairs: with an empty split until they have one.
        split_by: what says so.
        kind: `voc`, `pets` or an empty text.
        left_out: names by reason.
    """

    pairs: list[Pair] = field(default_factory=list)
    split_by: str = "folder"
    kind: str = ""
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def find_pairs(path: Path) -> Pairs:
    """The pairs of a folder, each with a split.

    Raises:
        GeosegError: none, images without a mask, or more than one that could be meant.
    """
    found, faults = Pairs(), Faults()
    groups = list(_groups(path, found))
    for split, images, masks in groups:
        with faults.collect():
            matched, alone, spare = _match(images, masks)
            found.pairs += [Pair(image, mask, split) for image, mask in matched]
            found.left_out["masks without an image"] += [mask.name for mask in spare]
            # VOC has masks for a part only, and many a test has none at all; else somebody forgot some.
            if matched and alone and found.kind != "voc":
                raise LabelError(
                    f"{alone[0].parent}: {len(alone)} images without a mask, the first {alone[0].name}; add masks of the same "
                    f"names or move these images away"
                )
            found.left_out["images without a mask"] += [image.name for image in alone]
    faults.raise_any()
    if not found.pairs:
        _refuse_no_pairs(path, groups)
    if found.kind == "voc":
        _split_by_lists(path, found)
    if not all(pair.split for pair in found.pairs):
        found.split_by = "a hash of the name"
        splits = split_by_name([pair.image.stem for pair in found.pairs])
        found.pairs = [pair._replace(split=splits[pair.image.stem]) for pair in found.pairs]
    found.left_out = defaultdict(list, {reason: names for reason, names in found.left_out.items() if names})
    for reason, names in found.left_out.items():
        warnings.warn(f"{path}: {len(names)} {reason} left out, the first {names[0]}", DataWarning, stacklevel=4)
    return found


def _groups(path: Path, found: Pairs) -> Iterator[tuple[str, list[Path], list[Path]]]:
    """Split (or an empty text), images and masks of every folder that may hold pairs."""
    images, masks = _subfolder(path, ("jpegimages",)), _subfolder(path, ("segmentationclass",))
    if images and masks:
        found.kind = "voc"
        yield "", _rasters(images), _rasters(masks)
        return
    folders = [(split, _subfolder(path, names)) for split, names in _SPLIT_FOLDERS.items()]
    groups = [(split, *_images_and_masks(folder, found)) for split, folder in folders if folder]
    if any(images and masks for _, images, masks in groups):
        yield from groups
    else:
        yield "", *_images_and_masks(path, found)


def _images_and_masks(folder: Path, found: Pairs) -> tuple[list[Path], list[Path]]:
    images, masks = _subfolder(folder, _IMAGE_FOLDERS), _subfolder(folder, _MASK_FOLDERS)
    if images and masks:
        trimaps = _subfolder(masks, ("trimaps",))
        found.kind = "pets" if trimaps else found.kind
        return _rasters(images), _rasters(trimaps or masks)
    files = _rasters(images or folder)
    are_masks = [bool(_MASK_ENDING.search(file.stem.lower())) for file in files]
    return (
        [file for file, is_mask in zip(files, are_masks, strict=True) if not is_mask],
        [file for file, is_mask in zip(files, are_masks, strict=True) if is_mask],
    )


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    there = sorted(entry for entry in folder.iterdir() if entry.name.lower() in names and entry.is_dir())
    if len(there) > 1:  # as `labels` of boxes, in text files, beside `masks`
        there = [entry for entry in there if _rasters(entry)]
    if len(there) > 1:
        raise LabelError(f"{folder}: {' and '.join(entry.name for entry in there)} hold pictures; leave one of them")
    return there[0] if there else None


def _rasters(folder: Path) -> list[Path]:
    # The archive of the pets is full of files such as ._Abyssinian_100.png, which a Mac left there.
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))


def _match(
    images: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:  # fmt: skip
    """Pairs of one name, images without a mask, masks without an image."""
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        for stem in {mask.stem.lower(), _MASK_ENDING.sub("", mask.stem.lower())}:
            by_stem[stem].append(mask)
    pairs, alone, owner = [], [], dict[Path, Path]()
    for image in images:
        stem = image.stem.lower()
        found = [mask for mask in by_stem[stem] if mask.stem.lower() == stem] or by_stem[stem]
        if not found:
            alone.append(image)
            continue
        if len(found) > 1:
            raise LabelError(f"{image}: its mask could be {' or '.join(m.name for m in found)}; leave one of them")
        if owner.setdefault(found[0], image) is not image:
            raise LabelError(f"{image}: has one mask with {owner[found[0]].name}; leave one of the two images")
        pairs.append((image, found[0]))
    return pairs, alone, [mask for mask in masks if mask not in owner]


def _refuse_no_pairs(path: Path, groups: Sequence[tuple[str, list[Path], list[Path]]]) -> None:
    image = next(chain.from_iterable(images for _, images, _ in groups), None)
    mask = next(chain.from_iterable(masks for _, _, masks in groups), None)
    if image and mask:
        raise LabelError(
            f"{image}: no mask has the name of an image, the first mask is {mask.name}; give both one name"
        )
    raise MissingFileError(
        f"{path}: neither {INDEX} nor pairs of image and mask found; make chips with geoseg tile, or put pairs into images/ "
        f"and masks/, beside each other as NAME.png and NAME_mask.png, or as Pascal VOC has them"
    )


def _split_by_lists(path: Path, found: Pairs) -> None:
    """Split as VOC's lists say, which name images without a public mask too."""
    sets = _subfolder(path, ("imagesets",))
    lists = sets and _subfolder(sets, ("segmentation",))
    splits: dict[str, str] = {}
    for split in SPLITS if lists else ():
        file = Path(lists or "", f"{split}.txt")
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
            for stem in line.split()[:1]:
                if splits.setdefault(stem, split) != split:
                    raise InputError(f"{file}: {stem} stands in {splits[stem]}.txt too; leave it in one of the lists")
    if not splits:
        return
    by_stem = {pair.image.stem: pair for pair in found.pairs}
    found.pairs = [by_stem[stem]._replace(split=split) for stem, split in splits.items() if stem in by_stem]
    if not found.pairs:
        raise LabelError(f"{lists}: no name in these lists has an image and a mask, the first is {next(iter(splits))}")
    found.split_by = "ImageSets/Segmentation"
    found.left_out["images without a mask"] = [stem for stem in splits if stem not in by_stem]
    found.left_out["pairs in none of the lists"] = [stem for stem in by_stem if stem not in splits]


def split_by_name(names: Collection[str]) -> dict[str, str]:
    """Split 8:1:1 by a hash, so that a picture stays where it is when others come or go.

    Only where a split would be empty does one picture move into it: first train, then val, then test gets one.
    """
    places = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48 for name in names}
    splits = {
        name: next(split for split, (low, high) in _SHARES.items() if low <= place < high)
        for name, place in sorted(places.items())
    }
    for split in SPLITS[: len(splits)]:
        counts = Counter(splits.values())
        if not counts[split]:
            donor = max(reversed(SPLITS), key=counts.__getitem__)  # of equals, the test gives first
            middle = sum(_SHARES[split]) / 2
            splits[min((n for n in splits if splits[n] == donor), key=lambda n: abs(places[n] - middle))] = split
    return splits
