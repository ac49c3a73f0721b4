"""Training runs: what ends them, what they go on from, what they start from, and that every option reaches them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scenery import box, write_polygons

import geoseg
from geoseg import checkpoints, fcn, fitting
from geoseg.bundle import WEIGHTS, open_bundle
from geoseg.chips import open_chips
from geoseg.errors import (
    DataWarning,
    FormatError,
    InputError,
    LearningError,
    MismatchError,
    ModelError,
    OutputExistsError,
)
from geoseg.legend import parse_legend
from geoseg.models import Architecture, Segmenter
from geoseg.recipe import Recipe, load_recipe, recipe_names
from geoseg.transfer import start_from

QUICK = {"width": 2, "epochs": 4, "batch_size": 4, "dropout": 0.2, "lr": 1e-2}


@pytest.fixture(scope="module")
def chips(tmp_path_factory) -> Path:
    """36 chips of 16 x 16 with 4 bands uint16 and three classes told apart by brightness."""
    import rasterio

    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    label = np.kron(rng.choice(3, (12, 12), p=[0.5, 0.4, 0.1]), np.ones((8, 8), int))
    pixels = (rng.integers(900, 1100, (4, 96, 96)) + 400 * label).astype(np.uint16)
    profile = {"driver": "GTiff", "height": 96, "width": 96, "crs": "EPSG:32614", "photometric": "minisblack"}
    profile["transform"] = rasterio.Affine(10, 0, 500_000, 0, -10, 4_500_000)
    with rasterio.open(folder / "scene.tif", "w", count=4, dtype="uint16", nodata=0, **profile) as scene:
        scene.write(pixels)
    with rasterio.open(folder / "mask.tif", "w", count=1, dtype="uint8", **profile) as mask:
        mask.write((label + 1).astype(np.uint8), 1)
    geoseg.tile(
        folder / "scene.tif", labels=folder / "mask.tif", out=folder / "chips", chip_size=16, block_size=1,
        split="6:2:2", classes="1=soil,2=crop,3=water", background="soil",
    )  # fmt: skip
    return folder / "chips"


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_epoch(monkeypatch):
    """However long it takes: epochs as short as these would otherwise share one."""
    monkeypatch.setattr(checkpoints, "_SAVING_SHARE", float("inf"))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class PowerCut(Exception):  # noqa: N818
    """Something that training knows nothing of."""


def stop_after(step: int):
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if done == step:
            raise PowerCut

    return progress


def without_validation(chips: Path, folder: Path) -> Path:
    shutil.copytree(chips, folder)
    facts = json.loads((folder / "chips.json").read_text())
    facts["chips"] = [chip for chip in facts["chips"] if chip["split"] != "val"]
    (folder / "chips.json").write_text(json.dumps(facts))
    return folder


def dawdle(stage: str, done: int, total: int, note: str = "") -> None:
    """A progress that makes steps longer than an epoch of them may take."""
    time.sleep(0.3)


def cut_off(chips: Path, out: Path, step: int, **options) -> None:
    with pytest.raises(PowerCut):
        geoseg.train(chips, out=out, progress=stop_after(step), **options)


# Going on


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9, "optimizer": "sgd:0.9", "sampling": "balanced", "accumulate": 2}])
def test_a_resumed_run_equals_an_undisturbed_one_bit_by_bit(chips, tmp_path, extra):
    options = QUICK | extra
    geoseg.train(chips, out=tmp_path / "whole", **options)
    steps = len(open_chips(chips).of("train")) // 4 // options.get("accumulate", 1)
    for step in (2 * steps + 1, 3 * steps + 1):  # in the middle of the third epoch, and again in that of the fourth
        if step == 2 * steps + 1:
            cut_off(chips, tmp_path / "cut", step, **options)
        else:
            cut_off(chips, tmp_path / "cut", step, resume=True)
        assert not (tmp_path / "cut" / "model.json").exists()
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    rows = [(tmp_path / name / "history.csv").read_text().splitlines() for name in ("cut", "whole")]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [row.rsplit(",", 1)[0] for row in rows[1]]  # but the seconds
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_killed_process_leaves_what_another_goes_on_from(chips, tmp_path):
    command = [sys.executable, "-m", "geoseg", "train", str(chips), "-q", "--width", "2", "--batch-size", "4"]
    command += ["--epochs", "12", "-o", str(tmp_path / "cut")]
    process = subprocess.Popen(command)
    last = tmp_path / "cut" / "checkpoints" / checkpoints.LAST
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(OutputExistsError, match="unfinished, or still going on; go on with it by --resume"):
        geoseg.train(chips, out=tmp_path / "cut")
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", width=2, epochs=12, batch_size=4)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(chips, tmp_path):
    steps = len(open_chips(chips).of("train")) // 4
    cut_off(chips, tmp_path / "cut", 2 * steps + 1, **QUICK)
    last = tmp_path / "cut" / "checkpoints" / checkpoints.LAST
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(DataWarning, match=r"last\.ckpt: damaged, so training goes on from previous\.ckpt"):
        geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_kill_between_two_names_loses_nothing(chips, tmp_path):
    steps = len(open_chips(chips).of("train")) // 4
    cut_off(chips, tmp_path / "cut", 2 * steps + 1, **QUICK)
    (tmp_path / "cut" / "checkpoints" / checkpoints.LAST).unlink()
    cut_off(chips, tmp_path / "cut", steps + 1, resume=True)  # before anything new is kept
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_best_epoch_that_is_damaged_is_let_go(chips, tmp_path):
    steps = len(open_chips(chips).of("train")) // 4
    cut_off(chips, tmp_path / "cut", 2 * steps + 1, **QUICK)
    best = tmp_path / "cut" / "checkpoints" / checkpoints.BEST
    content = best.read_bytes()
    best.unlink()
    best.write_bytes(content[:5000])
    with pytest.warns(DataWarning, match=r"best\.ckpt: damaged, so the best epoch from here on will be kept"):
        made = geoseg.train(chips, out=tmp_path / "cut", resume=True)
    assert made.training["best_epoch"] > 2


def test_a_disk_without_second_names_for_files_will_do(chips, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    geoseg.train(chips, out=tmp_path / "copied", **QUICK)
    monkeypatch.undo()
    geoseg.train(chips, out=tmp_path / "linked", **QUICK)
    assert same(weights(tmp_path / "copied"), weights(tmp_path / "linked"))


def test_a_run_that_has_ended_is_not_begun_again(chips, tmp_path):
    geoseg.train(chips, out=tmp_path / "model", **QUICK | {"epochs": 1})
    with pytest.raises(OutputExistsError, match=r"this run has ended, nothing is left to go on with; .*--init"):
        geoseg.train(chips, out=tmp_path / "model", resume=True)


def test_a_run_that_its_time_has_ended_can_be_gone_on_with(chips, tmp_path, monkeypatch):
    left = iter([100.0, 0.0])  # after the first epoch, and after the second
    monkeypatch.setattr(fitting._TimeLimit, "time_remaining", lambda self: next(left))
    first = geoseg.train(chips, out=tmp_path / "cut", max_time="00:01:00:00", **QUICK)
    assert first.training["epochs_run"] == 2
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_time_too_short_for_an_epoch_makes_no_model(chips, tmp_path):
    with pytest.raises(
        LearningError, match="--max-time ended training before the first epoch was over, so there is no"
    ):
        geoseg.train(chips, out=tmp_path / "short", max_time="00:00:00:01", progress=dawdle, **QUICK)
    assert not (tmp_path / "short").exists()


def test_a_run_killed_before_an_epoch_was_over_begins_from_its_model_again(chips, tmp_path):
    geoseg.train(chips, out=tmp_path / "earlier", **QUICK | {"epochs": 1})
    options = QUICK | {"init": tmp_path / "earlier"}
    cut_off(chips, tmp_path / "cut", 12, **options)
    for path in (tmp_path / "cut" / "checkpoints").glob("*.ckpt"):  # as a kill in the first epoch leaves it
        path.unlink()
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", **options)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_run_that_its_time_lets_no_further_says_so(chips, tmp_path):
    cut_off(chips, tmp_path / "cut", 12, **QUICK)
    with pytest.warns(DataWarning, match="--max-time ended this run before another epoch was over, so it has learned"):
        geoseg.train(chips, out=tmp_path / "cut", resume=True, max_time="00:00:00:01", progress=dawdle)
    geoseg.train(chips, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_run_whose_first_model_was_trained_anew_does_not_go_on(chips, tmp_path):
    geoseg.train(chips, out=tmp_path / "earlier", **QUICK | {"epochs": 1})
    cut_off(chips, tmp_path / "cut", 12, **QUICK | {"init": tmp_path / "earlier"})
    geoseg.train(chips, out=tmp_path / "earlier", overwrite=True, **QUICK | {"epochs": 1, "scale": "percentile"})
    with pytest.raises(MismatchError, match=r"begun from another model than .*earlier holds now; begin anew"):
        geoseg.train(chips, out=tmp_path / "cut", resume=True)


def test_the_history_tells_the_rate_that_an_epoch_ended_with(chips, tmp_path):
    import csv

    geoseg.train(chips, out=tmp_path / "model", schedule="step:1:0.1", seed=10**18, **QUICK)
    with open(tmp_path / "model" / "history.csv", encoding="utf-8", newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])


def test_the_last_epoch_is_kept_where_none_is_judged_however_slow_the_disk(chips, tmp_path, monkeypatch):
    folder = without_validation(chips, tmp_path / "chips")
    monkeypatch.setattr(checkpoints, "_SAVING_SHARE", 1e-9)
    with pytest.warns(DataWarning, match="the last epoch is kept"):
        made = geoseg.train(folder, out=tmp_path / "model", **QUICK)
    assert made.training["best_epoch"] == made.training["epochs_run"] == 4


def test_going_on_with_other_options_or_chips_is_refused(chips, tmp_path):
    cut_off(chips, tmp_path / "cut", 9, **QUICK)
    for option, had in {"epochs": 4, "seed": 0, "recipe": "default", "init": None}.items():
        other = {"epochs": 9, "seed": 7, "recipe": "farmland", "init": "nowhere"}[option]
        with pytest.raises(MismatchError, match=rf"this run has --{option} {had}, not .*; leave --{option} out"):
            geoseg.train(chips, out=tmp_path / "cut", resume=True, **{option: other})
    with pytest.warns(DataWarning, match="goes on with --batch-size 4"):
        cut_off(chips, tmp_path / "cut", 9, resume=True, batch_size=16)
    plan = tmp_path / "cut" / "checkpoints" / "run.json"
    whole = plan.read_text()
    plan.write_text(whole.replace('"lr"', '"rate"'))
    with pytest.raises(FormatError, match=r"run\.json: .*missing required field `lr`"):
        geoseg.train(chips, out=tmp_path / "cut", resume=True)
    plan.write_text(whole)
    other = tmp_path / "chips"
    shutil.copytree(chips, other)
    facts = json.loads((other / "chips.json").read_text())
    facts["chips"] = facts["chips"][1:]
    (other / "chips.json").write_text(json.dumps(facts))
    with pytest.raises(MismatchError, match="begun with other chips"):
        geoseg.train(other, out=tmp_path / "cut", resume=True)
    geoseg.train(chips, out=tmp_path / "cut", overwrite=True, **QUICK)
    assert open_bundle(tmp_path / "cut").training["epochs_run"] == 4


def test_nothing_to_go_on_with_is_said(chips, tmp_path):
    with pytest.warns(DataWarning, match="no unfinished run is here, so a new one begins"):
        geoseg.train(chips, out=tmp_path / "new", resume=True, **QUICK | {"epochs": 1})


def test_ctrl_c_keeps_the_best_epoch_and_can_be_gone_on_from(chips, tmp_path):
    steps = len(open_chips(chips).of("train")) // 4

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 2 * steps + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"cut holds epoch [12], the best so far; --resume goes on"):
        geoseg.train(chips, out=tmp_path / "cut", progress=interrupt, **QUICK)
    cut = open_bundle(tmp_path / "cut")
    assert (cut.training["epochs_run"], cut.stopped) == (2, True)
    assert "of 2; stopped by hand, 4 were planned" in str(cut)
    assert not geoseg.train(chips, out=tmp_path / "cut", resume=True).stopped
    geoseg.train(chips, out=tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_sigterm_says_how_to_go_on(chips, tmp_path):
    def end(stage: str, done: int, total: int, note: str = "") -> None:
        if done > len(open_chips(chips).of("train")) // 4:
            raise SystemExit(143)

    with pytest.raises(SystemExit) as caught:
        geoseg.train(chips, out=tmp_path / "cut", progress=end, **QUICK)
    assert caught.value.__notes__[-1].endswith("cut holds epoch 1, the best so far; --resume goes on with the run")
    assert open_bundle(tmp_path / "cut").stopped


# Ending


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_state(chips, tmp_path, monkeypatch):
    steps = len(open_chips(chips).of("train")) // 4
    seen = 0
    forward = Segmenter.forward

    def poisoned(self, image):
        nonlocal seen
        seen += self.training
        return forward(self, image) * (float("nan") if self.training and seen > 2 * steps else 1)

    monkeypatch.setattr(Segmenter, "forward", poisoned)
    with pytest.raises(
        LearningError, match=r"the loss became nan in epoch 3; .* holds epoch [12], the best so far"
    ) as it:
        geoseg.train(chips, out=tmp_path / "model", **QUICK)
    assert "\n" not in str(it.value)
    assert open_bundle(tmp_path / "model").training["epochs_run"] == 2
    assert not (tmp_path / "model" / "checkpoints").exists()
    seen = 2 * steps
    with pytest.raises(LearningError, match="the loss became nan in epoch 1; use a lower --lr"):
        geoseg.train(chips, out=tmp_path / "other", **QUICK)
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("ignore:.*no validation chips")
@pytest.mark.parametrize("validates", [True, False])
def test_weights_that_the_last_step_of_an_epoch_has_ruined_are_no_model(chips, tmp_path, validates):
    folder = chips if validates else without_validation(chips, tmp_path / "chips")
    ruinous = {"lr": 1e30, "optimizer": "sgd", "schedule": "constant", "epochs": 1, "batch_size": 64, "ema": 0.0}
    with pytest.raises(
        LearningError, match=r"the loss became (nan|inf) in epoch 1|the last step has ruined the network"
    ):
        geoseg.train(folder, out=tmp_path / "model", **QUICK | ruinous)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_two_processes_that_are_told_to_stop_do_not_wait_for_each_other(chips, tmp_path):
    out = tmp_path / "model"
    command = [
        sys.executable,
        "-m",
        "geoseg",
        "train",
        chips,
        "-o",
        out,
        "-q",
        "--width",
        "2",
        "--epochs",
        "9999",
        "--devices",
        "2",
    ]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while not (out / "checkpoints" / checkpoints.PREVIOUS).exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.9)
        os.killpg(process.pid, signal.SIGTERM)
        try:
            assert process.wait(60) == 143
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert open_bundle(out).stopped


@pytest.mark.slow
def test_two_processes_end_as_one_does(chips, tmp_path):
    ruinous = {"lr": 0.01, "optimizer": "sgd", "schedule": "step:2:1e30", "precision": "fp32", "devices": 2}
    with pytest.raises(LearningError, match=r"^the loss became nan in epoch 3; .* holds epoch [12], the best so far$"):
        geoseg.train(chips, out=tmp_path / "ruined", **QUICK | ruinous)
    assert open_bundle(tmp_path / "ruined").training["epochs_run"] <= 2
    still = QUICK | {"epochs": 50, "lr": 0.0, "weight_decay": 0.0, "dropout": 0.0}
    geoseg.train(chips, out=tmp_path / "patient", early_stop=1, schedule="constant", devices=2, **still)
    assert not (tmp_path / "patient" / "checkpoints").exists()


def test_a_batch_too_large_is_halved_and_the_gradients_added_up(chips, tmp_path, monkeypatch):
    forward = Segmenter.forward

    def narrow(self, image):
        if self.training and len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, image)

    monkeypatch.setattr(Segmenter, "forward", narrow)
    with pytest.warns(DataWarning) as told:
        made = geoseg.train(chips, out=tmp_path / "model", **QUICK | {"batch_size": 8, "epochs": 1})
    said = [str(warning.message) for warning in told]
    assert said[-1] == "--batch-size 4 does not fit into memory, so training goes on with 2 and --accumulate 4"
    assert (made.training["batch_size"], made.training["accumulate"]) == (2, 4)

    monkeypatch.setattr(Segmenter, "forward", lambda self, image: narrow(self, image.repeat(3, 1, 1, 1)))
    with (
        pytest.warns(DataWarning),
        pytest.raises(ModelError, match="--batch-size 1 does not fit into memory; use a smaller"),
    ):
        geoseg.train(chips, out=tmp_path / "other", **QUICK)
    assert not (tmp_path / "other").exists()


def test_patience_and_time_end_a_run(chips, tmp_path):
    still = QUICK | {"epochs": 50, "lr": 0.0, "weight_decay": 0.0, "dropout": 0.0}
    made = geoseg.train(chips, out=tmp_path / "patient", early_stop=3, schedule="constant", **still)
    assert 4 <= made.training["epochs_run"] < 20
    made = geoseg.train(chips, out=tmp_path / "short", max_time="00:00:00:02", **QUICK | {"epochs": 100_000})
    assert 1 <= made.training["epochs_run"] < 1000
    assert made.network() is not None


# Options


def test_a_moving_average_is_what_is_kept(chips, tmp_path, monkeypatch):
    """The average of every weight, step by step, beside what the optimiser has made of it."""
    seen = []
    forward = Segmenter.forward

    def watched(self, image):
        if self.training:
            seen.append(self.segmentation_head.weight.detach().clone())
        return forward(self, image)

    monkeypatch.setattr(Segmenter, "forward", watched)
    made = geoseg.train(chips, out=tmp_path / "model", ema=0.5, **QUICK | {"epochs": 1})
    _, first, *later = seen[1:]  # the first is that of the size that fits
    average = first
    for count, weight in enumerate(later, 1):
        decay = min(0.5, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * weight
    kept = weights(made.path)["segmentation_head.weight"]
    assert not torch.equal(kept, seen[-1])
    assert (kept - average).abs().max() < (kept - seen[-1]).abs().max()


def test_gradients_are_added_up_over_several_steps(chips, tmp_path):
    for accumulate, changes in ((1, 5), (2, 3)):
        seen = []
        geoseg.train(
            chips, out=tmp_path / str(accumulate), accumulate=accumulate,
            progress=lambda _, done, total, note="", seen=seen: seen.append((done, total)), **QUICK | {"epochs": 1},
        )  # fmt: skip
        assert seen[-1] == (changes, changes)


def test_a_frozen_encoder_stays_as_it_is(chips, tmp_path):
    with pytest.warns(DataWarning, match="frozen with random weights"):
        made = geoseg.train(chips, out=tmp_path / "model", freeze_encoder=True, **QUICK | {"epochs": 1})
    torch.manual_seed(0)
    before, after = made.architecture.build().state_dict(), weights(made.path)
    encoder = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in encoder)  # also what batch norm keeps count of
    assert not any(torch.equal(before[name], after[name]) for name in before if name.startswith("segmentation_head"))


def test_weights_are_kept_every_so_many_epochs(chips, tmp_path):
    made = geoseg.train(chips, out=tmp_path / "model", save_every=2, **QUICK)
    kept = sorted(path.name for path in (made.path / "checkpoints").iterdir())
    assert kept == ["epoch_002.safetensors", "epoch_004.safetensors"]
    made.architecture.build().load_state_dict(load_file(made.path / "checkpoints" / kept[0]))
    geoseg.train(chips, out=tmp_path / "model", overwrite=True, **QUICK | {"epochs": 1})
    assert not (made.path / "checkpoints").exists()


def test_a_network_of_one_channel_is_learned_and_carried(chips, tmp_path, write_scene):
    with pytest.raises(ModelError, match="bce"):
        geoseg.train(chips, out=tmp_path / "three", loss="bce", **QUICK)
    rng = np.random.default_rng(1)
    label = np.kron(rng.integers(0, 2, (8, 8)), np.ones((16, 16), int))
    scene = write_scene("two.tif", (rng.integers(900, 1100, (3, 128, 128)) + 600 * label).astype(np.uint16))
    mask = write_scene("two_mask.tif", label.astype(np.uint8))
    geoseg.tile(scene, labels=mask, out=tmp_path / "chips", chip_size=16, block_size=1)
    options = QUICK | {"epochs": 12, "dropout": 0.0}
    made = geoseg.train(tmp_path / "chips", out=tmp_path / "model", loss="bce", **options)
    assert made.architecture.classes == 1
    assert made.metrics["miou"] > 0.8
    found = geoseg.predict(scene, model=made, out=tmp_path / "out", polygons=False)[0]
    assert {entry["name"] for entry in found.classes} == set(made.legend.names)
    assert {round(entry["share"], 1) for entry in found.classes} <= {0.4, 0.5, 0.6}


def test_bands_can_be_scaled_anew(chips, tmp_path):
    made = geoseg.train(chips, out=tmp_path / "model", scale="unit", **QUICK | {"epochs": 1})
    assert {(band.offset, band.scale) for band in made.image.bands} == {(0.0, 65535.0)}
    assert made.image.scaling == "unit"
    with pytest.raises(InputError, match=r"--scale imagenet: three bands are needed.*found are 4"):
        geoseg.train(chips, out=tmp_path / "other", scale="imagenet", **QUICK)


def test_tensorboard_follows_along(chips, tmp_path):
    pytest.importorskip("tensorboard")
    made = geoseg.train(chips, out=tmp_path / "model", logger="tensorboard", **QUICK | {"epochs": 1})
    assert list((made.path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_two_processes_learn_as_one(chips, tmp_path):
    made = geoseg.train(chips, out=tmp_path / "two", devices=2, **QUICK | {"epochs": 20, "dropout": 0.0})
    assert made.training["devices"] == 2
    assert made.metrics["miou"] > 0.4  # 0.2 by chance
    support = sum(entry["support"] for entry in made.metrics["classes"])
    assert support == int(open_chips(chips).class_pixels("val").sum())


# Starting from another model


def test_fine_tuning_to_another_legend_carries_weights_and_facts(chips, tmp_path):
    old = geoseg.train(chips, out=tmp_path / "old", scale="percentile", **QUICK)
    folder = tmp_path / "chips"
    shutil.copytree(chips, folder)
    facts = json.loads((folder / "chips.json").read_text())
    facts["legend"][1]["name"] = "wheat"
    facts["legend"].append({**facts["legend"][2], "value": 4, "name": "forest"})
    for chip in facts["chips"]:
        chip["class_pixels"].append(0)
    for band in facts["image"]["bands"]:
        band["statistics"]["p1"] -= 50
    (folder / "chips.json").write_text(json.dumps(facts))
    with pytest.warns(DataWarning, match=r"old: knows nothing of wheat, forest, which begin at random"):
        new = geoseg.train(folder, out=tmp_path / "new", init=old, epochs=1, lr=0.0, batch_size=4, ema=0.0)
    assert new.architecture.width == 2
    assert new.architecture.dropout == old.architecture.dropout
    assert [(band.offset, band.scale, band.clip) for band in new.image.bands] == [
        (band.offset, band.scale, band.clip) for band in old.image.bands
    ]
    before, after = weights(old.path), weights(new.path)
    head = "segmentation_head.weight"
    assert after[head].shape[0] == 4
    for row, carried in enumerate([True, False, True]):
        assert torch.equal(before[head][row], after[head][row]) == carried
    learned = [name for name in before if name.endswith("weight") and not name.startswith("segmentation_head")]
    assert all(torch.equal(before[name], after[name]) for name in learned)


def test_classes_that_change_places_take_their_scores_along():
    """In an FCN the transposed convolutions, too, go from classes to classes."""
    torch.manual_seed(0)
    facts = Architecture("fcn16s", "resnet18", in_channels=3, classes=2)
    old = facts.build().eval()
    for up in (*old.decoder.ups, old.decoder.last):
        torch.nn.init.normal_(up.weight)
    bundle = SimpleNamespace(path="old", legend=parse_legend("0=soil,1=crop"), architecture=facts, network=lambda: old)
    wider = replace(facts, classes=3)
    with pytest.warns(DataWarning, match="knows nothing of water"):
        new = start_from(bundle, wider, parse_legend("0=crop,1=water,2=soil")).eval()
    for name in ("scores.0.weight", "scores.1.bias"):
        before, after = old.decoder.state_dict()[name], new.decoder.state_dict()[name]
        assert torch.equal(after[[2, 0]], before)
    for name in ("ups.0.weight", "last.weight"):
        before, after = old.decoder.state_dict()[name], new.decoder.state_dict()[name]
        assert torch.equal(after[[2, 0]][:, [2, 0]], before)
        assert not torch.equal(after[1, 1], before[1, 1])


def test_one_channel_stands_for_two_classes_and_is_taken_along_only_as_it_was():
    torch.manual_seed(0)
    facts = Architecture("unet", in_channels=3, classes=1, width=2)
    old = facts.build().eval()
    bundle = SimpleNamespace(
        path="old",
        legend=parse_legend("0=soil,1=crop"),
        architecture=facts,
        network=lambda: old,
        training={"loss": "bce"},
    )
    head = "segmentation_head.weight"
    assert torch.equal(start_from(bundle, facts, bundle.legend).state_dict()[head], old.state_dict()[head])
    for architecture, legend, said in (
        (facts, "0=crop,1=soil", "old: knows nothing of crop, soil, which begin at random"),
        (
            replace(facts, classes=2),
            "0=soil,1=crop",
            r"old: has 1 channels and this network 2, so .* goes on with --loss bce",
        ),
    ):
        with pytest.warns(DataWarning, match=said):
            new = start_from(bundle, architecture, parse_legend(legend))
        assert not torch.equal(new.state_dict()[head][:1], old.state_dict()[head])


def test_weights_for_another_network_or_other_bands_are_refused(chips, tmp_path, write_scene):
    old = geoseg.train(chips, out=tmp_path / "old", **QUICK | {"epochs": 1})
    with pytest.raises(MismatchError, match=r"its weights are for --width 2, not 4; leave --width out"):
        geoseg.train(chips, out=tmp_path / "new", init=old, width=4)
    rng = np.random.default_rng(0)
    scene = write_scene("rgb.tif", rng.integers(0, 255, (3, 96, 96)).astype(np.uint8))
    mask = write_scene("rgb_mask.tif", rng.integers(0, 2, (96, 96)).astype(np.uint8))
    geoseg.tile(scene, labels=mask, out=tmp_path / "chips", chip_size=16, block_size=1)
    with pytest.raises(MismatchError, match="learned from the bands"):
        geoseg.train(tmp_path / "chips", out=tmp_path / "new", init=old)
    assert not (tmp_path / "new").exists()


# What cannot be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "unett"}, "unknown architecture 'unett'"),
        ({"optimizer": "adamm"}, "--optimizer adamm: unknown is 'adamm'; did you mean adam"),
        ({"loss": "dise"}, "--loss dise: unknown is 'dise'; did you mean dice"),
        ({"augment": "turns"}, "--augment turns: unknown is 'turns'"),
        ({"schedule": "step"}, "--schedule step: the epochs of a step are needed"),
        ({"max_time": "20m"}, "--max-time 20m: days, hours, minutes and seconds are needed"),
        ({"devices": 0}, r"--devices 0: 1 to \d+ are possible"),
        ({"lr": float("nan")}, "--lr nan: 0 or more is needed"),
        ({"seed": -1}, "--seed -1: 0 or more is needed"),
        ({"workers": -1}, "--workers -1: 0 or more is needed"),
        ({"encoder": "resnet18"}, "--encoder resnet18: unet has its own; give --arch smp-unet"),
        ({"arch": "fpn"}, "--width 2: is of unet, and fpn has none"),
        ({"init": "m", "scale": "unit"}, "--scale unit: --init m brings its own"),
        ({"ema": 1.0}, "--ema 1.0"),
        ({"sampling": "fair"}, "--sampling fair: known are uniform, balanced"),
        ({"init": "nowhere"}, "nowhere.model.json: not found"),
        ({"encoder_weights": "imagenet", "arch": "smp-unet", "width": None}, "could not be fetched"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(chips, tmp_path, options, said):
    with pytest.raises(geoseg.GeosegError, match=said) as caught:
        geoseg.train(chips, out=tmp_path / "model", **QUICK | options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_the_model_that_it_starts_from_stays(chips, tmp_path):
    geoseg.train(chips, out=tmp_path / "model", **QUICK)
    before = (tmp_path / "model" / WEIGHTS).read_bytes()
    started = {name: value for name, value in QUICK.items() if name != "width"}
    with pytest.raises(geoseg.GeosegError, match=r"model: is the folder of --init, which is never written to"):
        geoseg.train(chips, out=tmp_path / "model", init=tmp_path / "model", overwrite=True, **started)
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == before


def test_a_batch_of_one_that_batch_norm_cannot_learn_from_is_one_line(chips, tmp_path):
    with pytest.raises(ModelError, match=r"--arch deeplabv3 pools the whole chip into one pixel.*--batch-size 1"):
        geoseg.train(chips, out=tmp_path / "model", arch="deeplabv3", encoder="resnet18", batch_size=1, epochs=1)
    assert not (tmp_path / "model").exists()


def test_every_option_of_a_recipe_is_an_option_of_train():
    import inspect

    assert set(Recipe.__dataclass_fields__) <= inspect.signature(geoseg.train).parameters.keys()


def test_a_bundle_tells_the_crop_that_was_seen(chips, tmp_path):
    for crop, seen in ((0, 16), (8, 8), (512, 16)):
        made = geoseg.train(chips, out=tmp_path / f"{crop}", crop=crop, **QUICK | {"epochs": 1})
        assert made.training["crop"] == seen


def test_weights_of_classes_may_be_numbers(chips, tmp_path):
    made = geoseg.train(chips, out=tmp_path / "model", class_weights=[1, 2.5, 0], **QUICK | {"epochs": 1})
    assert made.training["class_weights"] == "1,2.5,0"


# Recipes

AS_IN_THE_SOURCES = {
    "farmland": {
        "arch": "unet", "width": 64, "padding": "reflect", "dropout": 0.3, "optimizer": "adam", "lr": 1e-4,
        "weight_decay": 1e-8, "schedule": "step:20:0.5", "epochs": 100, "batch_size": 5, "loss": "ce",
        "class_weights": "none", "augment": "flips:0.6", "save_every": 10,
    },
    "fcn8s": {
        "arch": "fcn8s", "encoder": "vgg16_bn", "optimizer": "sgd:0.9", "weight_decay": 1e-4, "lr": 0.05,
        "schedule": "cosine:0.01", "crop": 512, "augment": "flips+scale:0.5-2", "loss": "ce",
    },
    "fcn16s": {"arch": "fcn16s", "encoder": "vgg16_bn", "optimizer": "sgd:0.9"},
    "fcn32s": {"arch": "fcn32s", "encoder": "vgg16_bn", "optimizer": "sgd:0.9"},
    "fcn-resnet18": {"arch": "fcn32s", "encoder": "resnet18", "optimizer": "sgd", "lr": 1e-3, "weight_decay": 1e-3},
    "fcn16s-features": {"arch": "fcn-features", "encoder": "vgg16"},
    "unet-voc": {"arch": "smp-unet"},
    "deeplab": {"arch": "deeplabv3plus"},
    "vgg16-pets": {"arch": "fcn4s", "encoder": "vgg16", "freeze_encoder": True, "optimizer": "adam", "lr": 1e-4},
    "default": {"arch": "unet", "padding": "reflect"},
}  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_that_of_its_source_and_trains(chips, tmp_path, monkeypatch, name):
    recipe = load_recipe(name)
    assert {key: getattr(recipe, key) for key in AS_IN_THE_SOURCES[name]} == AS_IN_THE_SOURCES[name]
    monkeypatch.setattr(fcn, "_CLASSIFIER_CHANNELS", 32)  # 4096 take seconds a step; test_fcn looks at them
    monkeypatch.setattr("geoseg.training._REACH_CHIPS", 1)  # test_reach looks at more
    steps = []
    own = {"width": 8} if recipe.arch == "unet" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "--freeze-encoder", DataWarning
        )  # vgg16-pets, of which there are no weights here
        made = geoseg.train(
        chips, out=tmp_path / "model", recipe=name, encoder_weights="none", scale="dataset", epochs=1, batch_size=8, **own,
        progress=lambda stage, done, total, note="": steps.append((stage, done)),
    )  # fmt: skip
    assert ("train", 2) in steps
    assert made.training["recipe"] == name
    assert made.architecture.arch == recipe.arch
    assert torch.isfinite(next(iter(made.network().parameters()))).all()
    losses = [float(row.split(",")[1]) for row in (made.path / "history.csv").read_text().splitlines()[1:]]
    assert np.isfinite(losses).all()


def test_one_class_is_nothing_to_learn(write_scene, rng, tmp_path):
    scene = write_scene("scene.tif", rng.integers(1, 99, (2, 64, 64), dtype=np.uint8))
    labels = write_polygons(tmp_path / "fields.gpkg", [box(0, 0, 64, 40)])
    chips = geoseg.tile(scene, labels=labels, out=tmp_path / "chips", chip_size=8, block_size=1, unlabelled="ignore")
    with pytest.raises(
        InputError, match=r"chips: the training chips hold nothing but class_1.*--unlabelled background"
    ):
        geoseg.train(chips, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
