"""Rows tell what networks with a known answer make of disturbed chips, whatever the batches, the order and the sizes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from test_disturbances import spec

import geoseg
from geoseg.bundle import open_bundle, write_bundle
from geoseg.disturbances import DISTURBANCES, Disturbance, Kind, resample
from geoseg.legend import IGNORE, parse_legend
from geoseg.models import Architecture
from geoseg.predictor import Prediction, Predictor
from geoseg.robustness import explain, find_worst, measure_robustness

LEGEND = parse_legend("0=other,1=crop")


class Chips:
    """A folder of chips that lie in memory, by name."""

    legend = LEGEND

    def __init__(self, **chips):
        self.chips, self.reads = chips, []

    def of(self, split):
        assert split == "test"
        return [SimpleNamespace(name=name) for name in self.chips]

    def read(self, chip):
        self.reads.append(chip.name)
        return self.chips[chip.name]


class Above:
    """A network that looks at single pixels: class 1 where the first band is above 100."""

    def __init__(self):
        self.batches = []

    def __call__(self, windows):
        self.batches.append(len(windows))
        return [Prediction(np.where(valid, self.answer(pixels), IGNORE).astype(np.uint8), None)
                for pixels, valid in windows]  # fmt: skip

    def answer(self, pixels):
        return pixels[0] > 100


class LeftHalf(Above):
    """A network that looks at nothing: class 1 in the left half of its window."""

    def answer(self, pixels):
        rows, cols = pixels.shape[1:]
        return np.broadcast_to(np.arange(cols) < cols // 2, (rows, cols))


def make_chip(rng, *shape, bands=1, dtype=np.uint16):
    """Pixels around 100, a tenth of them not valid, and a mask with ignored pixels."""
    pixels = rng.integers(40, 180, (bands, *shape)).astype(dtype)
    valid = rng.random(shape) > 0.1
    pixels[:, ~valid] = 0
    return pixels, valid, rng.choice(np.array([0, 1, IGNORE], np.uint8), shape)


def measure(network, chips, *disturbances, image=None, **options):
    return measure_robustness(network, chips, "test", image or spec(30.0), disturbances=disturbances, **options)


def of_kind(*kinds):
    return [disturbance for disturbance in DISTURBANCES if disturbance.kind in kinds]


def iou(one, other, index):
    return ((one == index) & (other == index)).sum() / ((one == index) | (other == index)).sum()


# --- rows of networks whose answer is known


def test_gain_flips_the_pixels_that_can_be_computed(rng):
    pixels, valid, mask = make_chip(rng, 40, 50)
    (row,) = measure(Above(), Chips(a=(pixels, valid, mask)), Disturbance("gain of 0.8", "gain", 0.8))
    before, after, truth = pixels[0][valid] > 100, np.rint(pixels[0][valid] * 0.8) > 100, mask[valid]
    assert 0.1 < (before != after).mean() < 0.9
    assert (row["name"], row["kind"], row["strength"]) == ("gain of 0.8", "gain", 0.8)
    assert row["pixels"] == valid.sum()
    assert row["agreement"] == pytest.approx((before == after).mean(), abs=1e-12)
    assert row["agreement_iou"] == pytest.approx((iou(before, after, 0) + iou(before, after, 1)) / 2)
    known = truth != IGNORE
    now, once = ([iou(truth[known], found[known], index) for index in (0, 1)] for found in (after, before))
    assert row["miou"] == pytest.approx(np.mean(now))
    assert row["miou_change"] == pytest.approx(np.mean(now) - np.mean(once))
    for entry, name, is_now, was_once in zip(row["classes"], LEGEND.names, now, once, strict=True):
        assert (entry["name"], entry["iou"]) == (name, pytest.approx(is_now))
        assert entry["iou_change"] == pytest.approx(is_now - was_once)


def test_a_network_of_single_pixels_does_not_care_where_windows_lie(rng):
    chips = {"a": make_chip(rng, 256, 224), "b": make_chip(rng, 256, 256)}
    for pixels, _, mask in chips.values():
        mask[:] = pixels[0] > 100
    for row in measure(Above(), Chips(**chips), *of_kind("shift")):
        assert (row["agreement"], row["agreement_iou"], row["miou"], row["miou_change"]) == (1, 1, 1, 0)
        assert row["pixels"] > 0


@pytest.mark.parametrize(("pixels", "side"), [(5, 224), (32, 224), (64, 192)])
def test_a_network_of_places_does(rng, pixels, side):
    chip = make_chip(rng, 256, 256)
    chip[1][:] = True
    (row,) = measure(LeftHalf(), Chips(a=chip), Disturbance("", "shift", pixels))
    # Two windows of `side` share side - pixels columns; the half of one ends `pixels` before that of the other.
    assert row["pixels"] == (side - pixels) ** 2
    assert row["agreement"] == pytest.approx(1 - pixels / (side - pixels))


def test_windows_that_shift_are_multiples_of_every_networks_stride(rng):
    sizes = set()

    class Watching(Above):
        def answer(self, pixels):
            sizes.add(pixels.shape[1:])
            return super().answer(pixels)

    measure(Watching(), Chips(a=make_chip(rng, 100, 200)), Disturbance("", "shift", 5))
    assert sizes == {(100, 200), (64, 192)}  # the whole chip, and two windows


def test_chips_too_small_to_shift_are_left_out_of_that_row(rng):
    chips, network = Chips(small=make_chip(rng, 60, 300), large=make_chip(rng, 70, 300)), Above()
    (row,) = measure(network, chips, Disturbance("", "shift", 32))
    assert row["pixels"] == 0  # 60 - 32 is no cell; 70 - 32 is one, of which nothing is shared
    assert {row[name] for name in ("agreement", "grid_agreement", "agreement_iou", "miou", "miou_change")} == {None}
    assert network.batches == [1, 1]  # the undisturbed chips alone
    (row,) = measure(Above(), chips, Disturbance("", "shift", 5))
    assert row["pixels"] == sum(valid[5:rows, 5:288].sum() for rows, (_, valid, _) in zip(
        (32, 64), chips.chips.values(), strict=True))  # fmt: skip


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_classes_come_back_to_the_pixels_they_are_of(times):
    """Fields of 8 pixels keep their shape, whether pixels are halved or doubled, and in each band of rows."""
    bright = np.kron(np.array([[50, 150, 50], [150, 150, 50]]), np.ones((8, 8), int)).astype(np.uint16)
    chip = bright[None], np.ones(bright.shape, bool), (bright > 100).astype(np.uint8)
    (row,) = measure(Above(), Chips(a=chip), Disturbance("", "scale", times))
    # Between bright and dark, halved pixels are at 75 and 125: the border stays where it is.
    assert (row["agreement"], row["miou"], row["pixels"]) == (1, 1, bright.size)


def test_pixels_half_again_as_large_move_borders_by_known_pixels():
    pixels = np.array([[[50, 50, 50, 150, 150, 150]]], np.uint16)
    chip = pixels, np.ones((1, 6), bool), np.zeros((1, 6), np.uint8)
    (row,) = measure(Above(), Chips(a=chip), Disturbance("", "scale", 1.5))
    assert resample(*chip[:2], 1.5)[0].tolist() == [[[50, 50, 150, 150]]]
    assert row["agreement"] == 1
    pixels[0, 0, 2] = 150  # now the second large pixel is (50 / 2 + 150) / 1.5 = 117, and takes the second small one in
    assert resample(*chip[:2], 1.5)[0].tolist() == [[[50, 117, 150, 150]]]
    (row,) = measure(Above(), Chips(a=chip), Disturbance("", "scale", 1.5))
    assert row["agreement"] == pytest.approx(5 / 6)


def test_what_a_coarser_grid_cannot_hold_is_told_apart(rng):
    chip = make_chip(rng, 12, 16)
    chip[1][:] = True
    rows = measure(Above(), Chips(a=chip), *of_kind("scale"), *of_kind("gain"))
    told = {(row["kind"], row["strength"]): row["grid_agreement"] for row in rows}
    before = chip[0][0] > 100
    # Of each square of four pixels, the one whose corner lies in the middle stands for all.
    held = np.kron(before[1::2, 1::2], np.ones((2, 2), bool))
    assert told.pop(("scale", 2.0)) == pytest.approx((before == held).mean())
    assert told.pop(("scale", 1.5)) < 0.9
    assert set(told.values()) == {1}


def test_offsets_are_averaged_over_draws_of_signs(rng):
    pixels, valid, mask = make_chip(rng, 40, 40, bands=2)
    pixels[0] = np.where(pixels[0] > 100, 105, 95)  # 10 up: all are above; 10 down: none is
    pixels[:, ~valid] = 0
    by_draw = {round(4 * measure(Above(), Chips(**{str(name): (pixels, valid, mask)}), Disturbance("", "offset", 0.5),
                                 image=spec(20.0, 20.0))[0]["agreement"], 6) for name in range(40)}  # fmt: skip
    bright = (pixels[0][valid] > 100).mean()
    assert by_draw == {round(ups * bright + (4 - ups) * (1 - bright), 6) for ups in range(5)}


def test_scores_are_told_on_the_same_pixels_before_and_after(rng):
    """What has no answer once pixels are larger does not count for the undisturbed map either."""
    pixels = np.full((1, 4, 4), 150, np.uint16)
    valid, mask = np.ones((4, 4), bool), np.ones((4, 4), np.uint8)
    valid[0, 0] = False
    mask[0, 1] = 0  # wrong, but of a large pixel that is not valid
    (row,) = measure(Above(), Chips(a=(pixels, valid, mask)), Disturbance("", "scale", 2.0))
    assert (row["pixels"], row["miou"], row["miou_change"]) == (12, 1, 0)


def test_a_valid_pixel_that_meets_the_nodata_value_still_counts():
    chip = np.full((1, 8, 8), 1, np.uint16), np.ones((8, 8), bool), np.zeros((8, 8), np.uint8)
    (row,) = measure(Above(), Chips(a=chip), Disturbance("", "gain", 0.1))  # 0 is the nodata value of `spec`
    assert (row["pixels"], row["agreement"]) == (64, 1)


# --- seeds, sizes, batches


def test_neither_batches_nor_order_nor_neighbours_change_anything(rng):
    """Chips of two sizes, each of which gets the noise of its own name."""
    sizes = {"a": (96, 96), "b": (64, 70), "c": (64, 70), "d": (96, 96), "e": (96, 96)}
    chips = {name: make_chip(rng, *size) for name, size in sizes.items()}
    rows = measure(Above(), Chips(**chips), *DISTURBANCES, batch_size=1)
    for batch_size in (2, 5):
        network, folder = Above(), Chips(**chips)
        assert measure(network, folder, *DISTURBANCES, batch_size=batch_size) == rows
        assert folder.reads == list(chips)  # once each
        assert max(network.batches) == 2  # never more than asked for, nor of two sizes
    assert measure(Above(), Chips(**dict(reversed(chips.items()))), *DISTURBANCES, batch_size=3) == rows
    noise = of_kind("noise")[0]
    alone = [measure(Above(), Chips(**{name: chip}), noise)[0] for name, chip in chips.items()]
    (together,) = measure(Above(), Chips(**chips), noise)
    kept = sum(round(row["agreement"] * row["pixels"]) for row in alone)
    assert kept == round(together["agreement"] * together["pixels"])


def test_smaller_pixels_do_not_take_more_memory(rng):
    network, chips = Above(), Chips(**{name: make_chip(rng, 12, 12) for name in "abcdefghi"})
    measure(network, chips, Disturbance("", "scale", 0.5), Disturbance("", "scale", 2.0), batch_size=9)
    assert network.batches == [9, 2, 2, 2, 2, 1, 9]


def test_the_seed_decides_noise_and_signs_and_nothing_else(rng):
    chips = Chips(**{name: make_chip(rng, 96, 96) for name in "abcdefgh"})  # so many signs do not agree by chance
    one, same, other = (measure(Above(), chips, *DISTURBANCES, seed=seed) for seed in (1, 1, 2))
    assert one == same
    differing = {row["kind"] for row, also in zip(one, other, strict=True) if row != also}
    assert differing == {"noise", "offset"}


def test_chips_do_not_all_get_the_same_noise(rng):
    same = make_chip(rng, 64, 64)
    noise = of_kind("noise")[1]
    one, other = (measure(Above(), Chips(**{name: same}), noise)[0] for name in "ab")
    assert one["agreement"] != other["agreement"]


def test_the_stronger_disturbance_changes_more(rng):
    rows = measure(Above(), Chips(a=make_chip(rng, 128, 128)), *of_kind("haze", "noise", "offset"))
    for weak, strong in zip(rows[::2], rows[1::2], strict=True):
        assert weak["kind"] == strong["kind"]
        assert strong["agreement"] < weak["agreement"] < 1


def test_progress_counts_chips(rng):
    told = []
    chips = Chips(a=make_chip(rng, 40, 40), b=make_chip(rng, 40, 40), c=make_chip(rng, 40, 44))
    measure(Above(), chips, DISTURBANCES[0], batch_size=2, progress=lambda *facts: told.append(facts))
    assert told == [("robustness", 2, 3), ("robustness", 3, 3)]


def test_a_real_predictor_takes_every_disturbance(write_scene, rng, tmp_path):
    labels = np.kron(rng.integers(0, 2, (12, 12)), np.ones((16, 16), int)).astype(np.uint8)
    scene = write_scene("scene.tif", (rng.integers(1, 99, (2, 192, 192)) + 50 * labels).astype(np.uint16), nodata=0)
    chips = geoseg.tile(
        scene, labels=write_scene("labels.tif", labels), out=tmp_path / "chips", chip_size=96, classes="0=other,1=crop",
        split="1:0:0",
    )  # fmt: skip
    torch.manual_seed(0)
    architecture = Architecture(in_channels=2, classes=2, width=2)
    # The convolutions' own beginning lets the signal die away, and every pixel would get the same class.
    weights = {
        name: 2.4 * weight if weight.ndim == 4 else weight for name, weight in architecture.build().state_dict().items()
    }
    (tmp_path / "model").mkdir()
    write_bundle(tmp_path / "model", weights, architecture=architecture, image=chips.image, legend=chips.legend,
                 training={}, metrics={})  # fmt: skip
    predictor = Predictor(open_bundle(tmp_path / "model"), device="cpu", precision="fp32")
    rows = measure_robustness(predictor, chips, "train", chips.image, batch_size=4)
    assert [row["name"] for row in rows] == [disturbance.name for disturbance in DISTURBANCES]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    told = [row for row in rows if row["agreement"] is not None]
    assert len(rows) - len(told) == 1  # chips of 96 have no room for the largest shift
    assert all(0 <= row["agreement"] < 1 for row in told)  # such a network is unsure of everything
    assert all(-1 <= row["miou_change"] <= 1 for row in told)


# --- in words


def row_of(name, kind, agreement, change=-0.0512, grid=1.0):
    return {"name": name, "kind": kind, "agreement": agreement, "grid_agreement": grid, "miou_change": change}


def test_the_worst_row_and_what_is_said_of_it():
    shift, haze = row_of("windows shifted by 5 pixels", "shift", 0.988), row_of("haze of 30 % airlight", "haze", 0.86)
    gone = row_of("windows shifted by 64 pixels", "shift", None)
    assert find_worst([shift, haze, gone]) is haze
    assert find_worst([gone]) is None
    assert explain([shift, haze, gone]) == (
        "With windows shifted by 5 pixels, 1.2 % of the pixels change class. "
        "Most change with haze of 30 % airlight: 14.0 %, and mIoU falls by 0.051; "
        "where scenes differ so, bring them to the radiometry of the training data."
    )
    assert explain([shift, gone]).startswith("Most change with windows shifted by 5 pixels: 1.2 %, and mIoU falls")
    assert "rises by 0.020" in explain([row_of("noise of 0.1 std", "noise", 0.9, 0.02)])
    assert "mIoU" not in explain([row_of("noise of 0.1 std", "noise", 0.9, None)])
    assert "cannot be told" in explain([gone])


def test_what_the_grid_takes_is_no_fault_of_the_model():
    coarse, noise = row_of("pixels 2 times as large", "scale", 0.91, grid=0.945), row_of("noise", "noise", 0.96)
    assert find_worst([coarse, noise]) is noise
    coarse["agreement"] = 0.9
    assert "pixels 2 times as large: 10.0 % (5.5 % by the grid alone), and mIoU" in explain([coarse, noise])


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_a_remedy(kind):
    assert explain([row_of("it", kind, 0.5)]).count(";") == 1
