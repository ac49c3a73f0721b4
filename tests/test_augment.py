"""Image, validity and mask are moved together, all chance comes from the generator, and invalid pixels stay 0."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.augment import Augmentation, parse_augment
from geoseg.errors import ModelError

IGNORE = 255
SQUARE = np.arange(9, dtype=np.uint8).reshape(3, 3)
TURNS = [np.rot90(side, turn) for side in (SQUARE, SQUARE.T) for turn in range(4)]
ALL = "d4+photometric:0.2+noise:0.05+scale:0.4-2.5"

AUGMENTS = st.sampled_from(["none", "flips", "d4", "photometric", "noise", "scale", ALL])
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
SEEDS = st.integers(0, 2**32)


def positions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel."""
    rows, cols = np.mgrid[:height, :width].astype(np.uint8)
    return rows, cols


def sample(
    text: str, mask: np.ndarray, seed: int, *, image: np.ndarray | None = None, crop: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A sample of a chip that is valid where its mask is labelled; its image is the mask plus 1 unless given."""
    valid = mask != IGNORE
    image = (mask[None] + np.float32(1) if image is None else image) * valid
    return parse_augment(text).apply(image, valid, mask, np.random.default_rng(seed), crop=crop)


def moves(mask: np.ndarray, text: str, draws: int = 400) -> Counter[bytes]:
    return Counter(sample(text, mask, seed)[1].tobytes() for seed in range(draws))


@pytest.mark.parametrize(
    ("text", "turns"), [("d4", TURNS), ("flips", [TURNS[0], TURNS[2], SQUARE[::-1], SQUARE[:, ::-1]])]
)
def test_every_symmetry_comes_and_none_much_more_often(text, turns):
    found = moves(SQUARE, text)
    assert found.keys() == {turn.tobytes() for turn in turns}
    expected = 400 / len(turns)
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in found.values())


def test_flips_come_with_their_probability():
    found = moves(SQUARE, "flips:0.8", 2000)
    shares = {flips: found[square.tobytes()] / 2000 for flips, square in enumerate((SQUARE, SQUARE[::-1], TURNS[2]))}
    assert shares == pytest.approx({0: 0.04, 1: 0.16, 2: 0.64}, abs=0.04)
    assert moves(SQUARE, "flips:0").keys() == {SQUARE.tobytes()}
    assert moves(SQUARE, "flips:1").keys() == {TURNS[2].tobytes()}


def test_a_chip_that_is_not_square_keeps_its_shape_but_where_a_crop_is_square():
    oblong = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert len(moves(oblong, "d4")) == 4
    assert sample("d4", oblong, 0)[1].shape == (2, 3)
    quarters = moves(oblong, "d4+scale:1-1", 50)
    assert quarters.keys() == moves(oblong, "d4").keys()
    crops = {sample("d4", oblong, seed, crop=2)[1].tobytes() for seed in range(300)}
    assert len(crops) == 16  # eight symmetries of each of two windows


@given(size=SIZES, text=AUGMENTS, crop=st.integers(0, 30), seed=SEEDS)
def test_a_sample_has_the_size_asked_for_and_follows_from_the_generator(size, text, crop, seed):
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 2, IGNORE], np.uint8), size)
    image = np.random.default_rng(seed).standard_normal((3, *size), np.float32) * (mask != IGNORE)
    before, global_state = (image.copy(), mask.copy()), (np.random.get_state()[2], torch.get_rng_state())
    moved, turned = sample(text, mask, seed, image=image, crop=crop)
    assert moved.shape == (3, *((crop, crop) if crop else size))
    assert (moved.dtype, turned.dtype, turned.shape) == (np.float32, np.uint8, moved.shape[1:])
    assert moved.flags.c_contiguous  # torch takes no negative strides
    assert turned.flags.c_contiguous
    assert set(np.unique(turned)) <= {*np.unique(mask), IGNORE}
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
    again = sample(text, mask, seed, image=image, crop=crop)
    assert np.array_equal(again[0], moved)
    assert np.array_equal(again[1], turned)
    assert np.random.get_state()[2] == global_state[0]
    assert torch.equal(torch.get_rng_state(), global_state[1])


@given(size=SIZES, text=st.sampled_from(["none", "flips", "d4"]), crop=st.integers(0, 30), seed=SEEDS)
def test_without_a_scale_every_pixel_keeps_its_value_and_its_label(size, text, crop, seed):
    mask = np.random.default_rng(seed).integers(0, 254, size, np.uint8)
    image, moved = sample(text, mask, seed, crop=crop)
    assert np.array_equal(image[0], np.where(moved == IGNORE, 0, moved + 1.0))
    if crop == 0:
        assert np.array_equal(np.sort(moved, axis=None), np.sort(mask, axis=None))
    kept = min(crop or 99, size[0]) * min(crop or 99, size[1])
    assert (moved != IGNORE).sum() == kept


@pytest.mark.parametrize("size", [(40, 40), (40, 60)])
@given(seed=SEEDS, crop=st.sampled_from([0, 24, 50]), augment=st.sampled_from(["scale:0.5-2", "d4+scale:0.5-2"]))
@settings(max_examples=40)
def test_a_scale_keeps_labels_within_half_a_pixel_of_the_image(size, seed, crop, augment):
    rows, cols = positions(*size)
    image = np.stack([rows, cols]).astype(np.float32)
    (row, col), row_label = sample(augment, rows, seed, image=image, crop=crop)
    col_label = sample(augment, cols, seed, image=image, crop=crop)[1]
    # At the edges of the chip and of the window that is read, the mean of what is there lies a little inside.
    assert abs(row - row_label)[row_label != IGNORE].max(initial=0) < 1
    inner = np.pad(np.ones(np.subtract(row.shape, 2), bool), 1)
    inner &= (abs(row - (size[0] - 1) / 2) < size[0] / 2 - 4) & (abs(col - (size[1] - 1) / 2) < size[1] / 2 - 4)
    assert abs(row - row_label)[inner].max(initial=0) <= 0.501
    assert abs(col - col_label)[inner].max(initial=0) <= 0.501


def drawn_scale(text: str, seed: int) -> float:
    """The scale of a sample, from how fast the rows of the chip go by in it."""
    rows, _ = positions(200, 200)
    image, _ = sample(text, rows, seed, image=rows[None].astype(np.float32), crop=50)
    return 1 / np.diff(image[0, 10:40, 20]).mean()


def test_scales_are_even_on_a_logarithmic_axis():
    drawn = np.log2([drawn_scale("scale:0.5-2", seed) for seed in range(400)])
    assert np.histogram(drawn, [-1.02, -0.5, 0, 0.5, 1.02])[0] == pytest.approx(np.full(4, 100), abs=30)
    assert drawn_scale("scale:0.5-0.5", 0) == pytest.approx(0.5, rel=0.01)
    assert drawn_scale("scale:2:2", 0) == pytest.approx(2, rel=0.01)


def test_a_smaller_scale_is_a_mean_of_pixels():
    image = np.random.default_rng(0).standard_normal((1, 64, 64), np.float32)
    small, _ = sample("scale:0.5-0.5", np.zeros((64, 64), np.uint8), 0, image=image, crop=32)
    fine = np.pad(image[0], 1, mode="edge")
    kernel = np.array([1, 3, 3, 1]) / 8
    expected = sum(
        kernel[row] * kernel[col] * fine[row : row + 63 : 2, col : col + 63 : 2] for row in range(4) for col in range(4)
    )
    assert small[0, 1:-1, 1:-1] == pytest.approx(expected[1:-1, 1:-1], abs=1e-5)


def test_crops_come_from_everywhere_alike():
    mask = np.arange(30, dtype=np.uint8).reshape(5, 6)
    corners = Counter(int(sample("none", mask, seed, crop=4)[1][0, 0]) for seed in range(600))
    assert corners.keys() == {0, 1, 2, 6, 7, 8}
    assert all(abs(count - 100) < 40 for count in corners.values())


def test_a_chip_smaller_than_its_crop_lies_anywhere_in_it_with_nothing_around():
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    corners = Counter()
    for seed in range(600):
        image, moved = sample("none", mask, seed, crop=4)
        row, col = np.argwhere(moved == 0)[0]
        assert np.array_equal(moved[row : row + 2, col : col + 3], mask)
        assert (moved == IGNORE).sum() == 10
        assert np.array_equal(image[0] == 0, moved == IGNORE)
        corners[row, col] += 1
    assert corners.keys() == {(row, col) for row in range(3) for col in range(2)}
    assert all(abs(count - 100) < 40 for count in corners.values())


def test_a_chip_is_narrower_than_its_crop_on_one_axis_alone():
    mask = np.zeros((10, 3), np.uint8)
    _, moved = sample("none", mask, 0, crop=6)
    assert (moved != IGNORE).any(axis=0).sum() == 3
    assert (moved != IGNORE).any(axis=1).all()


@given(size=SIZES, crop=st.integers(0, 30), seed=SEEDS, share=st.sampled_from([0.1, 0.5, 0.9]))
def test_invalid_pixels_stay_zero_and_do_not_bleed(size, crop, seed, share):
    mask = np.where(np.random.default_rng(seed).random(size) < share, np.uint8(IGNORE), np.uint8(0))
    constant, moved = sample("d4+scale:0.4-2.5", mask, seed, crop=crop)
    assert constant[0] == pytest.approx(np.where(moved == IGNORE, 0.0, 1.0), abs=1e-5)
    image, moved = sample(ALL, mask, seed, crop=crop)
    assert np.array_equal(image[0] == 0, moved == IGNORE)


@pytest.mark.parametrize("crop", [0, 1, 5])
@pytest.mark.parametrize("text", [ALL, "scale:0.1-10", "none"])
def test_a_chip_of_one_pixel(text, crop):
    for seed in range(20):
        image, mask = sample(text, np.full((1, 1), 7, np.uint8), seed, crop=crop)
        assert mask.shape == (crop or 1, crop or 1)
        assert set(np.unique(mask)) <= {7, IGNORE}
        assert np.array_equal(image[0] == 0, mask == IGNORE)


@pytest.mark.parametrize("bands", [1, 3, 13])
def test_photometric_is_one_gain_and_one_offset_for_a_band(bands):
    image = np.random.default_rng(0).standard_normal((bands, 8, 8), np.float32)
    mask = np.zeros((8, 8), np.uint8)
    fits = []
    for seed in range(400):
        moved = sample("photometric:0.2", mask, seed, image=image)[0]
        lines = [np.polyfit(band.ravel(), new.ravel(), 1) for band, new in zip(image, moved, strict=True)]
        for line, band, new in zip(lines, image, moved, strict=True):
            assert np.polyval(line, band) == pytest.approx(new, abs=1e-4)
        fits.append(lines)
    gain, offset = np.moveaxis(np.array(fits), -1, 0)  # each (draws, bands)
    for drawn in (np.log(gain), offset):
        assert drawn.mean(axis=0) == pytest.approx(0, abs=0.04)
        assert drawn.std(axis=0) == pytest.approx(0.2, abs=0.03)
        if bands > 1:
            together = np.corrcoef(drawn.T)[~np.eye(bands, dtype=bool)]
            assert together.mean() == pytest.approx(0.5, abs=0.1)  # bands brighten together, but not alike
            assert together.max() < 0.75
    assert abs(np.corrcoef(np.log(gain[:, 0]), offset[:, 0])[0, 1]) < 0.15


def test_the_strongest_photometric_turns_no_band_upside_down():
    image = np.linspace(-2, 2, 9, dtype=np.float32).reshape(1, 3, 3)
    for seed in range(50):
        assert (np.diff(sample("photometric:1", SQUARE, seed, image=image)[0].ravel()) > 0).all()


def test_noise_is_drawn_for_each_pixel_of_each_band():
    noise = sample("noise:0.3", np.zeros((64, 64), np.uint8), 0, image=np.zeros((2, 64, 64), np.float32))[0]
    assert noise.std(axis=(1, 2)) == pytest.approx(0.3, rel=0.05)
    assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.05
    assert abs(np.corrcoef(noise[0, :, 1:].ravel(), noise[0, :, :-1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Augmentation()),
        ("flips", Augmentation(mirror=0.5)),
        ("flips:0.6", Augmentation(mirror=0.6)),
        ("d4", Augmentation(mirror=0.5, turn=True)),
        ("photometric", Augmentation(photometric=0.1)),
        ("noise", Augmentation(noise=0.05)),
        ("scale", Augmentation(scale=(0.8, 1.25))),
        ("d4+photometric:0.2+scale:0.5-2", Augmentation(0.5, True, 0.2, scale=(0.5, 2))),
        ("scale:0.5:2 + noise:0.1", Augmentation(noise=0.1, scale=(0.5, 2))),
    ],
)
def test_an_augmentation_is_read_from_text(text, expected):
    assert parse_augment(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "known are none, flips, d4, photometric, noise, scale"),
        ("flip", "did you mean flips"),
        ("flips:2", "flips needs a number of 0 to 1"),
        ("photometric:9", "photometric needs a number of 0 to 1"),
        ("noise:nan", "noise takes 1 number of 0 or more"),
        ("d4:1", "d4 takes no numbers"),
        ("d4+d4", "each part once"),
        ("flips+d4", "flips or d4"),
        ("none+d4", "none by itself"),
        ("scale:2", "two scales"),
        ("scale:2-1", "least first"),
        ("scale:0-1", "0.1 to 10"),
        ("scale:1-11", "0.1 to 10"),
        ("scale:1-", "needs numbers"),
    ],
)
def test_an_augmentation_that_cannot_be_is_one_line(text, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        parse_augment(text)
    assert "\n" not in str(caught.value)


def test_normalising_the_part_that_is_cut_is_as_good_as_normalising_the_chip():
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 1000, (2, 12, 12)).astype(np.uint16), rng.integers(0, 3, (12, 12)).astype(np.uint8)
    valid = rng.random((12, 12)) > 0.2

    def normalise(pixels, valid):
        return np.where(valid, (pixels.astype(np.float32) - 500) / 300, np.float32(0))

    augmentation = parse_augment("d4+photometric+scale:0.5-2")
    for seed in range(20):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        late = augmentation.apply(pixels, valid, mask, first, crop=8, normalise=normalise)
        early = augmentation.apply(normalise(pixels, valid), valid, mask, second, crop=8)
        np.testing.assert_allclose(late[0], early[0], atol=1e-6)
        np.testing.assert_array_equal(late[1], early[1])
