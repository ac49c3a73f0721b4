"""No ground in two splits, every chip accounted for, shares and classes as asked for, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scenery import TRANSFORM, moved

from geoseg.errors import SplitError
from geoseg.grid import chip_windows
from geoseg.split import SPLITS, Footprint, parse_ratio, split_chips

UTM14, UTM15 = "EPSG:32614", "EPSG:32615"
EVEN = (0.8, 0.1, 0.1)
NEIGHBOUR = Affine(10, 0, -7_000, 0, -10, 4_517_000)
"""The ground of TRANSFORM in UTM15, 6 degrees west of its meridian, where its grid is turned by 4 degrees."""


def footprints(
    height: int = 640, width: int = 640, size: int = 64, *, stride: int | None = None, scene: str = "a",
    crs: str | None = UTM14, transform: Affine = TRANSFORM,
) -> list[Footprint]:  # fmt: skip
    """Those of the chips of a scene."""
    return [
        Footprint(
            scene, crs, tuple(transform @ (col + x, row + y) for x, y in ((0, 0), (size, 0), (size, size), (0, size)))
        )
        for col, row, _, _ in (window.flatten() for window in chip_windows(height, width, size, stride or size))
    ]


def split(chips: list[Footprint], class_pixels: np.ndarray | None = None, ratio=EVEN, **options):
    if class_pixels is None:
        class_pixels = np.ones((len(chips), 1), int)
    found = split_chips(chips, class_pixels, ratio=ratio, **options)
    assert len(found.names) == len(found.blocks) == len(chips)
    assert set(found.names) <= {*SPLITS, None}
    return found


def ground(chips: list[Footprint], names, kind: str):
    """What the chips of a split cover, on an equal-area map that the code does not use."""
    parts = []
    for crs in {chip.crs for chip in chips}:
        own = [chip.corners for chip, name in zip(chips, names, strict=True) if (chip.crs, name) == (crs, kind)]
        to_map = pyproj.Transformer.from_crs(crs, "EPSG:5070", always_xy=True)
        outlines = shapely.segmentize(shapely.polygons(np.array(own).reshape(-1, 4, 2)), 200)
        parts += shapely.transform(outlines, to_map.transform, interleaved=False).tolist()
    return shapely.union_all(parts)


def leak(chips: list[Footprint], names) -> float:
    """Ground of val and test that another split has, as a share of theirs."""
    train, val, test = (ground(chips, names, kind) for kind in SPLITS)
    common = shapely.union_all([a.intersection(b) for a, b in ((train, val), (train, test), (val, test))])
    return common.area / val.union(test).area


# --- the ratio


@pytest.mark.parametrize(
    ("text", "shares"),
    [("8:1:1", EVEN), ("1:0:0", (1, 0, 0)), ("0.6:0.2:0.2", (0.6, 0.2, 0.2)), ("3:0:1", (0.75, 0, 0.25))],
)
def test_shares_sum_to_one(text, shares):
    assert parse_ratio(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    "text", ["", "8:1", "8:1:1:1", "0:1:1", "-8:1:1", "8:1:x", "8,1,1", "nan:1:1", "8: 1:1", "1e3:1:1", (8, 1, 1)]
)
def test_what_is_no_ratio_is_refused(text):
    with pytest.raises(SplitError, match=r"--split '.*': three numbers such as 8:1:1"):
        parse_ratio(text)


# --- blocks


@pytest.mark.parametrize(
    ("rows", "cols", "size"),
    [(48, 40, 8), (40, 48, 8), (40, 40, 4), (24, 20, 4), (20, 20, 2), (12, 10, 2), (11, 9, 2), (10, 10, 1), (3, 1, 1)],
)
def test_the_block_size_is_the_largest_that_leaves_30_blocks(rows, cols, size):
    found = split(footprints(rows * 64, cols * 64))
    assert found.block_size == size
    assert len(set(found.blocks)) == -(-rows // size) * -(-cols // size)


def test_a_block_is_a_square_of_neighbours_that_stays_together():
    chips = footprints()
    found = split(chips, block_size=2)
    rows, cols = np.divmod(np.arange(100), 10)
    expected = (rows // 2) * 5 + cols // 2
    assert len(set(zip(found.blocks, expected.tolist(), strict=True))) == len(set(found.blocks)) == 25
    assert len(set(zip(found.blocks, found.names, strict=True))) == 25
    assert found.shared_ground == 0


def test_shares_are_those_asked_for():
    found = Counter(split(footprints(), block_size=1).names)
    assert found == {"train": 80, "val": 10, "test": 10}
    found = Counter(split(footprints(), ratio=parse_ratio("6:3:1"), block_size=2).names)
    assert found == {"train": 60, "val": 28, "test": 12} or abs(found["val"] - 30) <= 2


@pytest.mark.parametrize("ratio", ["1:0:0", "8:0:2", "8:2:0"])
def test_a_share_of_nothing_gets_nothing(ratio):
    found = set(split(footprints(), ratio=parse_ratio(ratio)).names)
    assert found == {name for name, share in zip(SPLITS, parse_ratio(ratio), strict=True) if share}


def test_one_chip_can_train():
    found = split(footprints(64, 64), ratio=(1, 0, 0))
    assert (found.names, found.blocks, found.shared_ground) == (("train",), (0,), 0)


@pytest.mark.parametrize(
    ("chips", "options", "found"),
    [
        (2, {}, "2 blocks of ground"),
        (16, {"block_size": 4}, "1 blocks of ground"),
        (16, {"by": "scene"}, "1 scenes with chips"),
        (2, {"by": "random"}, "2 chips"),
    ],
)
def test_too_little_ground_is_a_line_that_names_the_ways_out(chips, options, found):
    with pytest.raises(SplitError, match=f"^{found} found, 3 splits need at least 3") as caught:
        split(footprints(256, 256)[:chips], **options)
    for way_out in ("--chip-size", "--split 1:0:0", "--split-by scene"):
        assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def test_three_blocks_are_enough_and_none_is_empty():
    for seed in range(20):
        assert sorted(split(footprints(64, 192), seed=seed).names) == ["test", "train", "val"]


# --- ground in common


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("the same ground twice", [{"scene": "b"}]),
        ("half a chip off", [{"scene": "b", "transform": moved(TRANSFORM, 32, 32)}]),
        ("a pixel off", [{"scene": "b", "transform": moved(TRANSFORM, 0, 1)}]),
        ("larger pixels", [{"scene": "b", "transform": TRANSFORM @ Affine.scale(1.7)}]),
        ("turned", [{"scene": "b", "transform": TRANSFORM @ Affine.rotation(30)}]),
        ("another zone", [{"scene": "b", "crs": UTM15, "transform": NEIGHBOUR}]),
        ("three dates", [{"scene": "b"}, {"scene": "c", "transform": moved(TRANSFORM, 20, 50)}]),
    ],
)
def test_no_ground_is_shared(name, others, seed):
    chips = footprints() + [chip for options in others for chip in footprints(**options)]
    found = split(chips, seed=seed)
    assert found.shared_ground == 0
    assert leak(chips, found.names) < 1e-4  # edges that are straight in one CRS are bent in the other
    kept = Counter(found.names)
    assert kept["test"] >= 0.03 * len(chips)
    assert kept["val"] >= 0.02 * len(chips)
    assert kept["train"] >= 0.4 * len(chips)


def test_the_other_zone_of_that_test_does_overlap():
    chips = footprints() + footprints(scene="b", crs=UTM15, transform=NEIGHBOUR)
    first, second = (ground(chips, [chip.crs for chip in chips], crs) for crs in (UTM14, UTM15))
    assert first.intersection(second).area > 0.5 * first.area


def test_chips_of_the_same_ground_go_together():
    found = split(footprints() + footprints(scene="b"))
    assert found.names[:100] == found.names[100:]
    assert found.blocks[:100] == found.blocks[100:]
    assert None not in found.names


def test_overlapping_chips_of_one_scene_give_way_at_the_borders():
    chips = footprints(stride=32)
    found = split(chips, block_size=4)
    assert leak(chips, found.names) < 1e-9
    assert 0 < found.names.count(None) < 0.5 * len(chips)


@pytest.mark.parametrize("seed", range(8))
def test_training_chips_give_way_to_the_others_and_no_more_than_need_be(seed):
    """A chip is dropped only where it shares ground with a kept one of a later split."""
    chips = footprints() + [
        chip
        for name, by in (("b", (40, 0)), ("c", (0, 40)))
        for chip in footprints(scene=name, transform=moved(TRANSFORM, *by))
    ]
    found = split(chips, ratio=(0.5, 0.25, 0.25), block_size=1, seed=seed)
    outlines = np.array([shapely.Polygon(chip.corners) for chip in chips])
    names = np.array(found.names, object)
    kept = shapely.union_all(outlines[(names == "val") | (names == "test")])
    assert (shapely.area(shapely.intersection(outlines[names == None], kept)) > 0).all()  # noqa: E711
    assert (names == None).any()  # noqa: E711


def test_an_emptied_split_is_an_error_and_never_silent():
    """Three chips whose centres lie in three blocks, and of which each two overlap."""
    chips = [footprints(64, 64, transform=moved(TRANSFORM, *by))[0] for by in ((0, 0), (0, 40), (40, 0))]
    with pytest.raises(SplitError, match=r"every chip for train and val shares ground.*--split 1:0:0"):
        split(chips)


@settings(max_examples=25)
@given(
    scenes=st.lists(
        st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([16, 8])), min_size=1, max_size=3
    ),
    seed=st.integers(0, 9),
    block=st.sampled_from([None, 1, 2]),
)
def test_whatever_the_scenes_nothing_leaks_and_the_same_comes_out_again(scenes, seed, block):
    chips = []
    for number, (row, col, stride) in enumerate(scenes):
        chips += footprints(96, 96, 16, stride=stride, scene=f"s{number}", transform=moved(TRANSFORM, row, col))
    try:
        found = split(chips, block_size=block, seed=seed)
    except SplitError:
        return
    assert found == split(chips, block_size=block, seed=seed)
    assert {*SPLITS} <= {*found.names}
    outlines = np.array([shapely.Polygon(chip.corners) for chip in chips])
    names = np.array(found.names, object)
    unions = [shapely.union_all(outlines[names == kind]) for kind in SPLITS]
    assert (
        max(a.intersection(b).area for a, b in ((unions[0], unions[1]), (unions[0], unions[2]), (unions[1], unions[2])))
        == 0
    )


def test_the_seed_decides():
    chips = footprints()
    assert split(chips, seed=1) == split(chips, seed=1)
    assert len({split(chips, seed=seed).names for seed in range(5)}) == 5


# --- pictures


def test_pictures_without_a_crs_have_ground_of_their_own():
    chips = [chip for name in "abc" for chip in footprints(scene=name, crs=None, transform=Affine.identity())]
    found = split(chips, block_size=2)
    assert len(set(found.blocks)) == 75
    assert None not in found.names
    assert found.names[:100] != found.names[100:200]
    assert split(chips, by="random").shared_ground == 0


def test_a_picture_among_scenes_shares_nothing_with_them():
    chips = footprints() + footprints(scene="b", crs=None) + footprints(scene="c", crs=UTM15)
    found = split(chips, block_size=2)
    assert None not in found.names
    assert not {*found.blocks[:100]} & {*found.blocks[100:200]}


def test_pictures_do_not_change_the_blocks_of_scenes_in_degrees():
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10, 0, -1e-4, 50)}
    picture = footprints(scene="b", crs=None, transform=Affine.identity())
    alone, beside = split(footprints(**degrees), block_size=2), split(footprints(**degrees) + picture, block_size=2)
    assert len(set(alone.blocks)) == 25
    assert len(set(beside.blocks[:100])) == len(set(beside.blocks[100:])) == 25


# --- without blocks


def test_scenes_stay_whole():
    chips = [
        chip
        for i, name in enumerate("abcde")
        for chip in footprints(scene=name, transform=moved(TRANSFORM, 0, 999 * i))
    ]
    found = split(chips, by="scene")
    assert sorted(found.names[::100]) == ["test", "train", "train", "train", "val"]
    assert len(set(zip(found.names, found.blocks, strict=True))) == 5
    assert (found.block_size, found.shared_ground) == (0, 0)


def test_shared_ground_of_scenes_is_the_part_of_the_held_out_ground():
    """b repeats a, c overlaps half of b; whichever trains, the figure is that of the ground itself."""
    chips = footprints(scene="a") + footprints(scene="b") + footprints(scene="c", transform=moved(TRANSFORM, 0, 320))
    found = split(chips, by="scene", ratio=(1 / 3, 1 / 3, 1 / 3))
    assert None not in found.names
    assert found.shared_ground == pytest.approx(leak(chips, found.names), rel=1e-3)
    assert 0.5 < found.shared_ground <= 1


def test_random_shares_nothing_on_one_grid_and_much_where_chips_overlap():
    assert split(footprints(), by="random").shared_ground == 0
    chips = footprints(stride=32)
    found = split(chips, by="random")
    assert None not in found.names
    assert found.shared_ground == pytest.approx(leak(chips, found.names), rel=1e-3)
    assert 0.5 < found.shared_ground <= 1
    assert Counter(found.names)["train"] == pytest.approx(0.8 * len(chips), abs=1)


# --- classes


@pytest.mark.parametrize("seed", range(5))
def test_every_split_sees_rare_classes(seed):
    """A class on each of 100 blocks, and five that stand on four blocks each."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((100, 6), int)
    pixels[:, 0] = rng.integers(3000, 4000, 100)
    for rare in range(1, 6):
        pixels[rng.choice(100, 4, replace=False), rare] = rng.integers(50, 90, 4)
    found = split(footprints(), pixels, block_size=1, seed=seed)
    for kind in SPLITS:
        assert (pixels[np.array(found.names) == kind].sum(axis=0) > 0).all()
    assert Counter(found.names) == {"train": 80, "val": 10, "test": 10}


def test_classes_have_their_share_in_each_split():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (400, 4)) * (rng.random((400, 4)) < 0.5)
    names = np.array(split(footprints(1280, 1280), pixels, block_size=1).names)
    for kind, share in zip(SPLITS, EVEN, strict=True):
        assert pixels[names == kind].sum(axis=0) / pixels.sum(axis=0) == pytest.approx([share] * 4, abs=0.03)


def test_a_class_that_stands_in_no_chip_does_not_matter():
    pixels = np.tile([5, 0], (100, 1))
    assert Counter(split(footprints(), pixels, block_size=1).names) == {"train": 80, "val": 10, "test": 10}
