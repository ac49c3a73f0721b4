"""Chips as training takes them: read, normalised, augmented, ordered and batched, all from (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from geoseg.augment import Augmentation
from geoseg.chips import ChipFolder
from geoseg.choices import Sampling
from geoseg.legend import IGNORE
from geoseg.spec import ImageSpec

_CACHE_BYTES = 2 * 2**30

Sample = tuple[Tensor, Tensor]


class ChipDataset(Dataset[Sample]):
    """Chips as the network takes them: image float32 (bands, rows, cols), mask int64 (rows, cols).

    What a sample looks like follows from (seed, epoch, sample) alone, whichever worker reads it. Chips are kept in
    memory as they are on disk, up to 2 GiB in all workers together, since reading one takes as long as a small network
    needs to learn from it.

    Args:
        folder: the chips.
        split: which of them.
        image: how they are scaled.
        augmentation: how samples vary; None takes whole chips as they are.
        crop: rows and columns of an augmented sample; 0 for those of the chip.
        seed: of the augmentation.

    A chip gives as many samples an epoch as crops fit into its area.
    """

    def __init__(
        self, folder: ChipFolder, split: str, image: ImageSpec, *, augmentation: Augmentation | None = None,
        crop: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.folder, self.chips, self.image = folder, folder.of(split), image
        self.augmentation, self.crop, self.seed = augmentation, crop, seed
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._kept_bytes = 0
        self._samples_per_chip = max(1, round(image.chip_size**2 / crop**2)) if crop else 1

    def __len__(self) -> int:
        return len(self.chips) * self._samples_per_chip

    def __getitem__(self, key: int) -> Sample:
        """The sample of a number, plus the epoch times the length: workers outlive an epoch, and must be told of it."""
        epoch, index = divmod(key, len(self))
        pixels, valid, mask = self._read(index % len(self.chips))
        if self.augmentation is None:
            image = self.image.normalise(pixels, valid)
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, mask = self.augmentation.apply(
                pixels, valid, mask, rng, crop=self.crop, normalise=self.image.normalise
            )
        return torch.from_numpy(image), torch.from_numpy(mask.astype(np.int64))

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays = self._kept.get(index)
        if arrays is None:
            arrays = self.folder.read(self.chips[index])
            size, worker = sum(array.nbytes for array in arrays), get_worker_info()
            if self._kept_bytes + size <= _CACHE_BYTES // (worker.num_workers if worker else 1):
                self._kept_bytes += size
                self._kept[index] = arrays
        return arrays


class EpochSampler(Sampler[int]):
    """Another order of the samples in each epoch, which follows from (seed, epoch), as keys of `ChipDataset`.

    `balanced` draws with replacement, a chip with the mean of its pixels' 1 / sqrt(share of the class) for a weight, so
    that chips with rare classes come more often. With several processes each takes every n-th chip.
    """

    def __init__(self, chips: ChipDataset, sampling: Sampling = "uniform", *, rank: int = 0, ranks: int = 1) -> None:
        self._chips, self._rank, self._ranks, self.epoch = chips, rank, ranks, 0
        self._weights = _chip_weights(chips) if sampling == "balanced" else None

    def __len__(self) -> int:
        return len(self._chips) // self._ranks

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._chips.seed, self.epoch))
        count = len(self._chips)
        order = rng.permutation(count) if self._weights is None else rng.choice(count, count, p=self._weights)
        keys = order + self.epoch * count
        return iter(keys[self._rank :: self._ranks][: len(self)].tolist())


def _chip_weights(chips: ChipDataset) -> np.ndarray:
    pixels = np.array([chip.class_pixels for chip in chips.chips], np.float64)
    pixels = np.tile(pixels, (len(chips) // len(pixels), 1))
    shares = pixels.sum(axis=0) / max(pixels.sum(), 1)
    rarity = np.where(shares > 0, 1 / np.sqrt(np.maximum(shares, 1e-12)), 0)
    weights = (pixels @ rarity) / np.maximum(pixels.sum(axis=1), 1)
    return weights / weights.sum()


def training_loader(
    chips: ChipDataset, *, epoch: int, batch_size: int, sampling: Sampling, workers: int, rank: int = 0, ranks: int = 1
) -> DataLoader[Any]:
    """Batches of a new order in each epoch, from the one that is given on, without a last batch that is too small for batch norm."""
    sampler = EpochSampler(chips, sampling, rank=rank, ranks=ranks)
    sampler.set_epoch(epoch)
    return DataLoader(
        chips, batch_size=batch_size, sampler=sampler, num_workers=workers, pin_memory=torch.cuda.is_available(),
        drop_last=len(sampler) >= batch_size,
        persistent_workers=workers > 0,  # to start them takes longer than many an epoch, and they have kept their chips
        generator=torch.Generator(),  # else a number of the global one is used up, before or after it is seeded
    )  # fmt: skip


def validation_loader(
    chips: ChipDataset, *, batch_size: int, workers: int, rank: int = 0, ranks: int = 1
) -> DataLoader[Any]:
    """Batches of whole chips in their order; smaller ones are filled up with pixels that do not count."""
    return DataLoader(
        chips, batch_size=batch_size, sampler=range(rank, len(chips), ranks), num_workers=workers,
        pin_memory=torch.cuda.is_available(), collate_fn=_fill_up, persistent_workers=workers > 0,
    )  # fmt: skip


def _fill_up(samples: Sequence[Sample]) -> Sample:
    rows, cols = (max(mask.shape[axis] for _, mask in samples) for axis in (0, 1))
    images, masks = [], []
    for image, mask in samples:
        room = (0, cols - mask.shape[1], 0, rows - mask.shape[0])
        images.append(F.pad(image, room))
        masks.append(F.pad(mask, room, value=IGNORE))
    return torch.stack(images), torch.stack(masks)
