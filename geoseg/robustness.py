"""Robustness in use: how far a model agrees with itself when its input changes as inputs do.

Chip scores hide what large maps show: there a window may begin anywhere, and scenes are hazier, brighter or finer than those
that were learned. After the consistency tests of PRUE (Muhawenayo et al. 2026, CVPR) for field boundaries.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from geoseg.chips import Chip, ChipFolder
from geoseg.legend import IGNORE, Legend
from geoseg.metrics import confusion_matrix, scores
from geoseg.predictor import Predictor
from geoseg.progress import Progress, silent
from geoseg.spec import ImageSpec

Pixels = np.ndarray
"""Raw pixels of a chip, (bands, rows, cols)."""


@dataclass(frozen=True)
class Disturbance:
    """One way in which an input may change.

    Attributes:
        kind: `shift`, `scale`, `gain`, `haze`, `noise` or `offset`.
        strength: pixels of a shift; how many times as large a pixel gets; the factor of a gain; the share of haze; and in
            standard deviations of a band the noise, or the offset.
    """

    kind: str
    strength: float

    def __str__(self) -> str:
        amount = f"{self.strength:g}"
        return {
            "shift": f"window shifted by {amount} pixels",
            "scale": f"pixels {amount} times as large",
            "gain": f"gain {amount}",
            "haze": f"haze of {100 * self.strength:g} %",
            "noise": f"noise of {amount} standard deviations",
            "offset": f"offsets of {amount} standard deviations, up or down by band",
        }[self.kind]


DISTURBANCES = tuple(
    Disturbance(kind, strength)
    for kind, strengths in (
        ("shift", (8, 32, 50)), ("scale", (0.5, 0.67, 1.5, 2)), ("gain", (0.8, 0.9, 1.1, 1.2)), ("haze", (0.1, 0.25)),
        ("noise", (0.1, 0.25)), ("offset", (0.1, 0.25)),
    )
    for strength in strengths
)  # fmt: skip


def measure_robustness(
    predictor: Predictor, folder: ChipFolder, chips: Sequence[Chip], *, batch_size: int, seed: int,
    progress: Progress = silent,
) -> list[dict[str, Any]]:  # fmt: skip
    """Predict chips as they are and disturbed, and compare.

    Args:
        predictor: of the model.
        folder: of the chips.
        chips: some of them.
        batch_size: chips a step.
        seed: of noise, and of the signs of offsets; a chip's noise depends on nothing but this and its name.
        progress: called after each batch.

    Returns:
        Per disturbance `name`, `kind`, `strength`; `agreement`, the share of pixels that keep their class;
        `agreement_miou`, mean IoU of the two maps; `miou` and, in `classes`, `iou` against the masks; and `miou_change` and
        `iou_change`, less those of the undisturbed map on the same ground. A shift compares two windows on the ground that
        both see. None stands for what is not defined.
    """
    classes = len(folder.legend)
    counts = np.zeros((len(DISTURBANCES), 3, classes, classes), np.int64)
    done = 0
    for batch in _batches(folder, chips, batch_size):
        plain = _predict(predictor, [(pixels, valid) for _, pixels, valid, _ in batch])
        for number, disturbance in enumerate(DISTURBANCES):
            for mask, before, after in _disturbed(disturbance, batch, plain, predictor, folder.image, seed):
                pairs = ((before, after), (mask, after), (mask, before))
                counts[number] += [confusion_matrix(one, other, classes) for one, other in pairs]
        done += len(batch)
        progress("robustness", done, len(chips))
    return [_row(disturbance, found, folder.legend) for disturbance, found in zip(DISTURBANCES, counts, strict=True)]


_Read = tuple[Chip, Pixels, np.ndarray, np.ndarray]


def _batches(folder: ChipFolder, chips: Sequence[Chip], size: int) -> Iterator[list[_Read]]:
    for start in range(0, len(chips), size):
        read = [(chip, *folder.read(chip)) for chip in chips[start : start + size]]
        for _, same in groupby(read, key=lambda entry: entry[3].shape):  # pictures differ in size
            yield list(same)


def _predict(predictor: Predictor, windows: Sequence[tuple[Pixels, np.ndarray]]) -> list[np.ndarray]:
    return [found.indices for found in predictor(windows)]


def _disturbed(
    disturbance: Disturbance, batch: Sequence[_Read], plain: Sequence[np.ndarray], predictor: Predictor,
    image: ImageSpec, seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Mask, undisturbed and disturbed classes of each chip, on the ground that both tell."""
    windows = [(pixels, valid) for _, pixels, valid, _ in batch]
    masks = [mask for *_, mask in batch]
    if disturbance.kind == "shift":
        by = int(disturbance.strength)
        if min(masks[0].shape) < 2 * by:
            return
        first = _predict(predictor, [(pixels[:, :-by, :-by], valid[:-by, :-by]) for pixels, valid in windows])
        second = _predict(predictor, [(pixels[:, by:, by:], valid[by:, by:]) for pixels, valid in windows])
        for mask, one, other in zip(masks, first, second, strict=True):
            yield mask[by:-by, by:-by], one[by:, by:], other[:-by, :-by]
    elif disturbance.kind == "scale":
        coarse = [_resample(pixels, valid, disturbance.strength) for pixels, valid in windows]
        for mask, one, found in zip(masks, plain, _predict(predictor, coarse), strict=True):
            size = mask.shape
            same = F.interpolate(torch.from_numpy(found)[None, None].float(), size=size, mode="nearest-exact")
            yield mask, one, np.where(one == IGNORE, IGNORE, same[0, 0].numpy()).astype(np.uint8)
    else:
        changed = [
            (_change(disturbance, pixels, image, _chance(seed, chip)), valid) for chip, pixels, valid, _ in batch
        ]
        yield from zip(masks, plain, _predict(predictor, changed), strict=True)


def _chance(seed: int, chip: Chip) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(chip.name.encode())])


def _resample(pixels: Pixels, valid: np.ndarray, factor: float) -> tuple[Pixels, np.ndarray]:
    """A chip with pixels `factor` times as large: means where they get larger, between neighbours where smaller."""
    size = tuple(max(round(length / factor), 1) for length in valid.shape)
    filled = np.where(valid, pixels, 0).astype(np.float64)
    both = torch.from_numpy(np.concatenate([filled, valid[None]]))[None]
    if factor > 1:
        found = F.interpolate(both, size=size, mode="area")[0].numpy()
    else:
        found = F.interpolate(both, size=size, mode="bilinear", align_corners=False)[0].numpy()
    known = found[-1] > 0.999  # all that goes into it is valid
    return _as_before(found[:-1], pixels.dtype), known


def _change(disturbance: Disturbance, pixels: Pixels, image: ImageSpec, rng: np.random.Generator) -> Pixels:
    """Other values, within the range of the dtype. Haze mixes in the brightest tone of a band (Koschmieder's law)."""
    strength, values = disturbance.strength, pixels.astype(np.float64)
    bright, spread = (
        np.array([getattr(band.statistics, key) for band in image.bands])[:, None, None] for key in ("p99", "std")
    )
    change: dict[str, Callable[[], np.ndarray]] = {
        "gain": lambda: values * strength,
        "haze": lambda: values * (1 - strength) + bright * strength,
        "noise": lambda: values + strength * spread * rng.standard_normal(values.shape),
        "offset": lambda: values + strength * spread * rng.choice([-1.0, 1.0], (len(values), 1, 1)),
    }
    return _as_before(change[disturbance.kind](), pixels.dtype)


def _as_before(values: np.ndarray, dtype: np.dtype) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.nan_to_num(values)), limits.min, limits.max).astype(dtype)


def _row(disturbance: Disturbance, counts: np.ndarray, legend: Legend) -> dict[str, Any]:
    same, after, before = (scores(found, legend) for found in counts)

    def change(key: str, one: dict[str, Any], other: dict[str, Any]) -> float | None:
        return None if one[key] is None or other[key] is None else one[key] - other[key]

    return {
        "name": str(disturbance), "kind": disturbance.kind, "strength": disturbance.strength,
        "agreement": same["pixel_accuracy"], "agreement_miou": same["miou"],
        "miou": after["miou"], "miou_change": change("miou", after, before),
        "classes": [
            {key: one[key] for key in ("value", "name", "iou")} | {"iou_change": change("iou", one, other)}
            for one, other in zip(after["classes"], before["classes"], strict=True)
        ],
    }  # fmt: skip


def weakest(rows: Sequence[dict[str, Any]]) -> str:
    """The finding in a sentence: the disturbance of each kind that changes most, the worst kind first."""
    worst: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["agreement"] is not None and row["agreement"] < worst.get(row["kind"], {"agreement": 2})["agreement"]:
            worst[row["kind"]] = row
    told = sorted(worst.values(), key=lambda row: row["agreement"])
    return "; ".join(
        f"{row['name']}: {100 * (1 - row['agreement']):.1f} % of pixels change their class" for row in told
    )
