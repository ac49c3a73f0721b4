"""Robustness in use: how far a model agrees with itself when its input changes as inputs do, and what its scores lose."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np

from geoseg.chips import ChipFolder
from geoseg.disturbances import DISTURBANCES, Disturbance, recolour, resample
from geoseg.legend import IGNORE, Legend
from geoseg.metrics import confusion_matrix, scores
from geoseg.predictor import Predictor
from geoseg.progress import Progress, silent
from geoseg.spec import ImageSpec

_CELL = 32
"""A multiple of the `size_divisor` of every network: other sizes are lengthened by mirroring, as no window in use is."""

_SIGNS = 4
"""Draws of signs per chip. Which bands move apart matters more than how far, where they are as alike as blue and red."""

_RADIOMETRY = "where scenes differ so, bring them to the radiometry of the training data"
_REMEDIES: dict[str, str] = {
    "shift": "predict --check-seams tells what its margins leave of that",
    "scale": "where scenes differ so, bring them to the pixel size of the training data",
    "gain": _RADIOMETRY,
    "haze": _RADIOMETRY,
    "noise": "where scenes are so noisy, try training with --augment noise",
    "offset": f"{_RADIOMETRY}, or try training with --augment photometric",
}


def measure_robustness(
    predictor: Predictor,
    folder: ChipFolder,
    split: str,
    image: ImageSpec,
    *,
    disturbances: Sequence[Disturbance] = DISTURBANCES,
    seed: int = 0,
    batch_size: int = 4,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Map chips undisturbed and disturbed, and compare.

    PRUE (Muhawenayo et al. 2026, CVPR, https://arxiv.org/abs/2603.27101) judges models of field boundaries by how steady
    they are when windows move and when scale and preprocessing change, since scores of chips do not show it. Its
    consistency under translation asks the windows in the four corners of a chip to agree on the centre that they share
    (`check_middle_sensitivity.py` of github.com/fieldsoftheworld/ftw-baselines); here two opposite ones have to, so
    that a shift reads like any other row.

    Windows have no margin and are compared up to their edges, as in PRUE; `predict` cuts its margins off, so that its
    maps are steadier than the rows of shifts.

    Args:
        predictor: the model.
        folder: chips, of one size or several, with the bands and classes of the model.
        split: which of them.
        image: whose band statistics the strengths are in; those of the model, unless it does not matter.
        disturbances: what is tried.
        seed: of noise and of the signs of offsets. What a chip is given follows from the seed and its name alone.
        batch_size: chips at once; fewer where their pixels become smaller, so that memory does not grow.
        progress: called after each batch.

    Returns:
        A row per disturbance, of values that JSON knows: `name`, `kind` and `strength`; `pixels`, how many were compared
        (once per draw); `agreement`, the share of them that keep their class; `grid_agreement`, the share that would if
        the undisturbed map were only brought to the grid of the disturbed one and back, which is below 1 where pixels
        are larger; `agreement_iou`, the mean IoU of the two maps; `miou` of the disturbed map against the masks and
        `miou_change`, what it has more than the undisturbed one on the same pixels; `classes`, with `value`, `name`,
        `iou` and `iou_change`. None is what cannot be told, as of a shift on chips that are too small for two windows.

    Raises:
        RasterError: a chip is missing or damaged.
    """
    tallies = [_Tally(len(folder.legend)) for _ in disturbances]
    done, total = 0, len(folder.of(split))
    for batch in _batches(folder, split, batch_size):
        undisturbed = _predict(predictor, [(sample.pixels, sample.valid) for sample in batch])
        for disturbance, tally in zip(disturbances, tallies, strict=True):
            if disturbance.kind == "shift":
                found = _map_shifted(predictor, batch, int(disturbance.strength))
            elif disturbance.kind == "scale":
                found = _map_scaled(predictor, batch, undisturbed, disturbance.strength)
            else:
                found = _map_recoloured(predictor, batch, undisturbed, disturbance, image, seed)
            for maps in found:
                tally.add(maps)
        done += len(batch)
        progress("robustness", done, total)
    return [_row(disturbance, tally, folder.legend) for disturbance, tally in zip(disturbances, tallies, strict=True)]


def find_worst(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The row whose agreement falls most short of what its grid allows; None where no row has any."""
    told = (row for row in rows if row["agreement"] is not None)
    return min(told, key=lambda row: row["agreement"] - row["grid_agreement"], default=None)


def explain(rows: Sequence[dict[str, Any]]) -> str:
    """A line on what moves the map most, and what to do where scenes differ so; on the worst shift too, if there is one.

    Args:
        rows: of `measure_robustness`.
    """
    worst = find_worst(rows)
    if worst is None:
        return "Robustness cannot be told: the chips have no pixel to compare."
    shift = find_worst(row for row in rows if row["kind"] == "shift")
    first = "" if shift in (None, worst) else f"With {shift['name']}, {_changed(shift)} of the pixels change class. "
    grid = 1 - worst["grid_agreement"]
    alone = f" ({100 * grid:.1f} % by the grid alone)" if grid else ""
    change = worst["miou_change"]
    score = "" if change is None else f", and mIoU {'falls' if change < 0 else 'rises'} by {abs(change):.3f}"
    return f"{first}Most change with {worst['name']}: {_changed(worst)}{alone}{score}; {_REMEDIES[worst['kind']]}."


def _changed(row: dict[str, Any]) -> str:
    return f"{100 * (1 - row['agreement']):.1f} %"


class _Sample(NamedTuple):
    """A chip as it is read; see `ChipFolder.read`."""

    name: str
    pixels: np.ndarray
    valid: np.ndarray
    mask: np.ndarray


class _Maps(NamedTuple):
    """Class indices of some ground, uint8 of one shape.

    Attributes:
        before: of the undisturbed map.
        after: of the disturbed one.
        mask: the truth.
        regridded: `before`, brought to the grid of the disturbed map and back.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    regridded: np.ndarray


def _batches(folder: ChipFolder, split: str, batch_size: int) -> Iterator[list[_Sample]]:
    """Chips in their order, so many at once as are of one size; pictures differ."""
    samples = (_Sample(chip.name, *folder.read(chip)) for chip in folder.of(split))
    for _, same in groupby(samples, key=lambda sample: sample.mask.shape):
        while batch := list(islice(same, batch_size)):
            yield batch


def _predict(predictor: Predictor, windows: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [found.indices for found in predictor(windows)]


def _map_shifted(predictor: Predictor, batch: list[_Sample], pixels: int) -> Iterator[_Maps]:
    """What two windows say, one of which lies `pixels` further down and right; nothing where chips have no room for them."""
    rows, cols = ((length - pixels) // _CELL * _CELL for length in batch[0].mask.shape)
    if min(rows, cols) <= pixels:
        return
    first = slice(0, rows), slice(0, cols)
    second = slice(pixels, pixels + rows), slice(pixels, pixels + cols)
    before, after = (
        _predict(predictor, [(sample.pixels[:, *place], sample.valid[place]) for sample in batch])
        for place in (first, second)
    )
    for sample, one, other in zip(batch, before, after, strict=True):
        shared = one[pixels:, pixels:]
        yield _Maps(shared, other[:-pixels, :-pixels], sample.mask[pixels:rows, pixels:cols], shared)


def _map_scaled(
    predictor: Predictor, batch: list[_Sample], undisturbed: list[np.ndarray], times: float
) -> Iterator[_Maps]:
    at_once = max(1, int(len(batch) * min(times, 1) ** 2))  # no more pixels than the batch has
    found = [
        indices
        for start in range(0, len(batch), at_once)
        for indices in _predict(
            predictor, [resample(sample.pixels, sample.valid, times) for sample in batch[start : start + at_once]]
        )
    ]
    for sample, before, after in zip(batch, undisturbed, found, strict=True):
        there, back = (
            np.ix_(*(_nearest(length, size) for length, size in zip(one.shape, other.shape, strict=True)))
            for one, other in ((before, after), (after, before))
        )
        yield _Maps(before, after[back], sample.mask, before[there][back])


def _nearest(length: int, size: int) -> np.ndarray:
    """Of `length` pixels of an axis, those in which the centres of `size` others lie that take their place."""
    return (2 * np.arange(size) + 1) * length // (2 * size)  # in halves of a pixel, to stay with whole numbers


def _map_recoloured(
    predictor: Predictor, batch: list[_Sample], undisturbed: list[np.ndarray], disturbance: Disturbance,
    image: ImageSpec, seed: int,
) -> Iterator[_Maps]:  # fmt: skip
    # Alike for all strengths of a kind, so that these differ in strength alone.
    rngs = [np.random.default_rng((seed, zlib.crc32(sample.name.encode()))) for sample in batch]
    for _ in range(_SIGNS if disturbance.kind == "offset" else 1):
        windows = [
            (recolour(sample.pixels, sample.valid, disturbance, image, rng), sample.valid)
            for sample, rng in zip(batch, rngs, strict=True)
        ]
        for sample, before, after in zip(batch, undisturbed, _predict(predictor, windows), strict=True):
            yield _Maps(before, after, sample.mask, before)


class _Tally:
    """Counts of one disturbance, on the pixels that both maps have: map with map, and each of both with the truth."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.maps, self.before, self.after, self.grid = np.zeros((4, classes, classes), np.int64)

    def add(self, maps: _Maps) -> None:
        shared = (maps.before != IGNORE) & (maps.after != IGNORE)
        before, after, mask, regridded = (found[shared] for found in maps)
        self.maps += confusion_matrix(before, after, self.classes)
        self.before += confusion_matrix(mask, before, self.classes)
        self.after += confusion_matrix(mask, after, self.classes)
        self.grid += confusion_matrix(before, regridded, self.classes)


def _row(disturbance: Disturbance, tally: _Tally, legend: Legend) -> dict[str, Any]:
    maps, before, after, grid = (
        scores(confusion, legend) for confusion in (tally.maps, tally.before, tally.after, tally.grid)
    )
    return {
        "name": disturbance.name,
        "kind": disturbance.kind,
        "strength": disturbance.strength,
        "pixels": int(tally.maps.sum()),
        "agreement": maps["pixel_accuracy"],
        "grid_agreement": grid["pixel_accuracy"],
        "agreement_iou": maps["miou"],
        "miou": after["miou"],
        "miou_change": _difference(after["miou"], before["miou"]),
        "classes": [
            {"value": now["value"], "name": now["name"], "iou": now["iou"],
             "iou_change": _difference(now["iou"], once["iou"])}
            for now, once in zip(after["classes"], before["classes"], strict=True)
        ],
    }  # fmt: skip


def _difference(now: float | None, once: float | None) -> float | None:
    return None if now is None or once is None else now - once
