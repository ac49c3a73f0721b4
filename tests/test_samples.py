"""Samples follow from (seed, epoch, sample) alone, and every chip has its turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import geoseg
from geoseg.augment import parse_augment
from geoseg.chips import open_chips
from geoseg.samples import ChipDataset, EpochSampler, training_loader, validation_loader


@pytest.fixture
def folder(write_scene, tmp_path, rng):
    """16 chips, of which one in eight has the rare class."""
    labels = np.zeros((64, 64), np.uint8)
    labels[::32, ::64] = 1
    labels[:16, :16] = 1
    scene = write_scene("scene.tif", rng.integers(1, 1000, (2, 64, 64)).astype(np.uint16), nodata=0)
    mask = write_scene("mask.tif", labels + 1)
    geoseg.tile(scene, labels=mask, out=tmp_path / "chips", chip_size=16, split="1:0:0")
    return open_chips(tmp_path / "chips")


def dataset(folder, **options):
    return ChipDataset(folder, "train", folder.image, **options)


def test_a_sample_follows_from_seed_epoch_and_number(folder):
    moved = {"augmentation": parse_augment("d4+photometric+scale"), "crop": 12}
    one, other = dataset(folder, **moved), dataset(folder, **moved)
    other[5], other[3]
    assert torch.equal(one[3][0], other[3][0])
    assert one[3][0].shape == (2, 12, 12)
    assert one[3][1].dtype == torch.int64
    assert not torch.equal(one[3][0], one[3 + len(one)][0])
    assert torch.equal(one[3 + len(one)][0], other[3 + len(one)][0])
    assert not torch.equal(one[3][0], dataset(folder, seed=1, **moved)[3][0])


def test_an_epoch_of_crops_covers_as_much_ground_as_one_of_chips(folder):
    chips = dataset(folder, augmentation=parse_augment("none"), crop=8)
    assert len(chips) == 64
    sampler = EpochSampler(chips)
    assert sorted(sampler) == list(range(64))
    crops = [chips[index][0] for index in (0, 16, 32, 48)]  # of the first chip
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 1
    whole = dataset(folder)[0][0]
    windows = whole.unfold(1, 8, 1).unfold(2, 8, 1).flatten(1, 2)
    assert all((windows == crop[:, None]).all(dim=(0, 2, 3)).any() for crop in crops)


def test_chips_are_read_once_while_there_is_room(folder, monkeypatch):
    reads = Counter()
    read = type(folder).read

    def counted(self, chip):
        reads[chip.name] += 1
        return read(self, chip)

    monkeypatch.setattr(type(folder), "read", counted)
    chips = dataset(folder)
    monkeypatch.setattr("geoseg.samples._CACHE_BYTES", 5 * 16 * 16 * (2 * 2 + 1 + 1))
    first, second = ([chips[index] for index in range(16)] for _ in range(2))
    assert sorted(reads.values()) == [1] * 5 + [2] * 11
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


def test_workers_share_the_room_for_chips(folder, monkeypatch):
    chip = 16 * 16 * (2 * 2 + 1 + 1)
    monkeypatch.setattr("geoseg.samples._CACHE_BYTES", 12 * chip)
    monkeypatch.setattr("geoseg.samples.get_worker_info", lambda: SimpleNamespace(num_workers=4))
    chips = dataset(folder)
    for index in range(16):
        _ = chips[index]
    assert len(chips._kept) == 3


def test_an_epoch_is_every_chip_once_in_an_order_of_its_own(folder):
    chips = dataset(folder)
    sampler = EpochSampler(chips)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    for epoch, order in enumerate(orders):
        assert sorted(order) == list(range(16 * epoch, 16 * epoch + 16))
    assert len({tuple(key % 16 for key in order) for order in orders}) == 3
    sampler.set_epoch(1)
    assert list(sampler) == orders[1]


def test_processes_share_an_epoch_without_a_chip_twice(folder):
    shares = [list(EpochSampler(dataset(folder), rank=rank, ranks=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [5, 5, 5]
    assert len({index for share in shares for index in share}) == 15
    loaders = [validation_loader(dataset(folder), batch_size=4, workers=0, rank=rank, ranks=3) for rank in range(3)]
    assert sum(len(batch[0]) for loader in loaders for batch in loader) == 16


def test_balanced_sampling_draws_rare_classes_more_often(folder):
    chips = dataset(folder)
    rare = {index for index, chip in enumerate(chips.chips) if chip.class_pixels[1] > 100}
    assert len(rare) == 1
    sampler, drawn = EpochSampler(chips, "balanced"), Counter()
    for epoch in range(300):
        sampler.set_epoch(epoch)
        drawn.update(key % 16 for key in sampler)
    shares = np.array([chip.class_pixels for chip in chips.chips]).sum(axis=0) / (64 * 64)
    weights = np.array([np.array(chip.class_pixels) @ shares**-0.5 for chip in chips.chips])
    expected = weights / weights.sum()
    found = np.array([drawn[index] for index in range(16)]) / drawn.total()
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(expected.max() / drawn.total()))
    assert found[next(iter(rare))] > 2 / 16


def test_the_last_batch_is_left_out_only_where_others_are_left(folder):
    assert len(training_loader(dataset(folder), epoch=0, batch_size=5, sampling="uniform", workers=0)) == 3
    assert len(training_loader(dataset(folder), epoch=0, batch_size=20, sampling="uniform", workers=0)) == 1


def test_chips_of_several_sizes_are_filled_up_with_what_does_not_count(folder, monkeypatch):
    read = type(folder).read

    def cut(self, chip):
        pixels, valid, mask = read(self, chip)
        rows = 10 if chip.row == 0 else 16
        return pixels[:, :rows], valid[:rows], mask[:rows]

    monkeypatch.setattr(type(folder), "read", cut)
    images, masks = next(iter(validation_loader(dataset(folder), batch_size=16, workers=0)))
    assert images.shape == (16, 2, 16, 16)
    short = torch.tensor([chip.row == 0 for chip in folder.of("train")])
    assert (masks[short, 10:] == 255).all()
    assert (images[short, :, 10:] == 0).all()
    assert (masks[~short] != 255).all()


def test_scaling_is_that_of_the_image_given(folder):
    image = replace(
        folder.image, bands=tuple(replace(band, offset=band.offset + band.scale) for band in folder.image.bands)
    )
    shifted = ChipDataset(folder, "train", image)[0][0]
    torch.testing.assert_close(shifted, dataset(folder)[0][0] - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_outlive_an_epoch_know_the_next_one(folder, workers):
    chips = dataset(folder, augmentation=parse_augment("d4+photometric"))
    loader = training_loader(chips, epoch=3, batch_size=8, sampling="uniform", workers=workers)
    for epoch in (3, 4):
        loader.sampler.set_epoch(epoch)
        images = torch.cat([images for images, _ in loader])
        sampler = EpochSampler(chips)
        sampler.set_epoch(epoch)
        assert torch.equal(images, torch.stack([chips[key][0] for key in sampler]))
