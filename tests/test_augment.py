"""Image, validity and mask are moved together, by the symmetries of the square and no others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.augment import augment

SQUARE = np.arange(9).reshape(3, 3)
TURNS = [np.rot90(side, turn) for side in (SQUARE, SQUARE.T) for turn in range(4)]


def moves(square: np.ndarray, kind: str, draws: int = 400) -> Counter[bytes]:
    return Counter(augment((square,), kind, np.random.default_rng(seed))[0].tobytes() for seed in range(draws))


@pytest.mark.parametrize(
    ("kind", "turns"), [("d4", TURNS), ("flips", [TURNS[0], TURNS[2], SQUARE[::-1], SQUARE[:, ::-1]])]
)
def test_every_symmetry_comes_and_none_much_more_often(kind, turns):
    found = moves(SQUARE, kind)
    assert found.keys() == {turn.tobytes() for turn in turns}
    expected = 400 / len(turns)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in found.values())


def test_a_chip_that_is_not_square_keeps_its_shape():
    oblong = np.arange(6).reshape(2, 3)
    assert len(moves(oblong, "d4")) == 4
    assert augment((oblong,), "d4", np.random.default_rng(0))[0].shape == (2, 3)


def test_none_gives_back_the_very_arrays():
    assert augment((SQUARE,), "none", np.random.default_rng(0))[0] is SQUARE


@given(
    mask=arrays(
        np.uint8, st.one_of(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(1, 6).map(lambda n: (n, n)))
    ),
    kind=st.sampled_from(["none", "flips", "d4"]),
    seed=st.integers(0, 1000),
)
def test_arrays_move_together_and_keep_every_pixel(mask, kind, seed):
    image = np.stack([mask.astype(np.float32) * 2, mask.astype(np.float32) + 1])
    before = mask.copy()
    moved, turned = augment((image, mask), kind, np.random.default_rng(seed))
    assert np.array_equal(moved, np.stack([turned.astype(np.float32) * 2, turned.astype(np.float32) + 1]))
    assert np.array_equal(np.sort(turned, axis=None), np.sort(mask, axis=None))
    assert np.array_equal(mask, before)
    assert (moved.dtype, turned.dtype) == (np.float32, np.uint8)
    assert moved.flags.c_contiguous  # torch takes no negative strides
    assert turned.flags.c_contiguous
    assert np.array_equal(augment((image, mask), kind, np.random.default_rng(seed))[1], turned)
