"""A prediction that was stopped, at whatever moment and in whatever way, goes on to the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import geoseg
from geoseg.bundle import write_bundle
from geoseg.errors import DiskError, InputError, OutputExistsError
from geoseg.legend import make_legend
from geoseg.models import Architecture
from geoseg.spec import BandStatistics, ImageSpec, scale_bands

OPTIONS = {"window": 96, "margin": 16, "polygons": False, "probabilities": True, "precision": "fp32"}
RASTERS = ("classes", "confidence", "probabilities")


@pytest.fixture
def world(write_scene, rng, tmp_path) -> Path:
    """A scene of 5 x 4 windows with a hole of nodata, and a model with random weights."""
    pixels = rng.integers(1, 255, (3, 300, 250), np.uint8)
    pixels = np.repeat(np.repeat(pixels[:, ::10, ::10], 10, axis=1), 10, axis=2)
    pixels[:, 100:190, 30:200] = 0
    write_scene("scene.tif", pixels, nodata=0)
    facts = BandStatistics(mean=127, std=70, min=1, max=255, p1=3, p99=250)
    bands = scale_bands([facts] * 3, names="rgb", sources=[1, 2, 3], dtypes=["uint8"] * 3, nodata=[0.0] * 3)
    torch.manual_seed(0)
    architecture = Architecture("unet", in_channels=3, classes=3, width=4)
    (tmp_path / "model").mkdir()
    write_bundle(
        tmp_path / "model", architecture.build().state_dict(), architecture=architecture,
        image=ImageSpec(bands, 3, 10.0, 64), legend=make_legend([0, 1, 2]), training={}, metrics={},
    )  # fmt: skip
    return tmp_path


def predict(world: Path, out: str, **options):
    """The map of the scene, and the bytes of its rasters."""
    (made,) = geoseg.predict(world / "scene.tif", model=world / "model", out=world / out, **OPTIONS | options)
    return made, [made.outputs[kind].read_bytes() for kind in RASTERS]


class StopAfter:
    """A progress that stops the run at so many windows."""

    def __init__(self, windows: int, error: BaseException):
        self.windows, self.error = windows, error

    def __call__(self, stage, done, total, note=""):
        if stage.startswith("predict") and done >= self.windows:
            raise self.error


@pytest.mark.parametrize("blend", ["crop", "hann"])
@pytest.mark.parametrize("windows", [6, 11, 16])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bytes(world, blend, windows):
    whole, expected = predict(world, "whole", blend=blend)
    with pytest.raises(KeyboardInterrupt, match=r"of 5 strips are kept in .*\.scene\.strips; --resume goes on"):
        predict(world, "cut", blend=blend, progress=StopAfter(windows, KeyboardInterrupt()))
    assert [path.name for path in (world / "cut").iterdir()] == [".scene.strips"]
    with pytest.raises(OutputExistsError, match="--resume"):
        predict(world, "cut", blend=blend)
    rows = []
    cut, found = predict(world, "cut", blend=blend, resume=True, progress=lambda stage, done, *_: rows.append(done))
    assert found == expected
    assert min(rows) > windows - 8  # what was finished was not run again
    assert cut.classes == whole.classes
    assert not (world / "cut" / ".scene.strips").exists()


def test_finished_strips_outlive_an_error_which_says_so(world):
    with pytest.raises(DiskError) as caught:
        predict(world, "cut", progress=StopAfter(11, DiskError("scene_classes.tif: could not be written")))
    assert "--resume goes on" in caught.value.__notes__[0]
    assert predict(world, "cut", resume=True)[1] == predict(world, "whole")[1]


@pytest.mark.parametrize(
    ("change", "words"), [({"margin": 8}, "of another grid"), ({"tta": "flips"}, "of another tta"),
                          ({"precision": "bf16"}, "of another precision")]
)  # fmt: skip
def test_what_was_begun_otherwise_is_not_taken_up(world, change, words):
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    with pytest.raises(InputError, match=words) as caught:
        predict(world, "cut", resume=True, **change)
    assert "\n" not in str(caught.value)
    assert predict(world, "cut", overwrite=True, **change)[1] == predict(world, "whole", **change)[1]


def test_a_scene_that_has_changed_is_not_taken_up(world):
    with pytest.raises(KeyboardInterrupt):
        predict(world, "cut", progress=StopAfter(11, KeyboardInterrupt()))
    with rasterio.open(world / "scene.tif", "r+") as scene:
        scene.write(np.full((1, 9, 9), 77, np.uint8), [1], window=((0, 9), (0, 9)))
    with pytest.raises(InputError, match="of another scene"):
        predict(world, "cut", resume=True)


def test_there_need_be_nothing_to_take_up(world):
    assert predict(world, "fresh", resume=True)[1] == predict(world, "whole")[1]


def run_to_be_killed(world: Path) -> None:
    predict(world, "cut", blend="hann", resume=True, overwrite=True)


@pytest.mark.slow
def test_a_run_that_was_killed_thirty_times_goes_on_to_the_same_bytes(world, rng):
    started = time.monotonic()
    _, expected = predict(world, "whole", blend="hann")
    seconds, taken_up = time.monotonic() - started, 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geoseg.prediction", "geoseg.engines"])
    for _ in range(30):
        child = context.Process(target=run_to_be_killed, args=(world,))
        child.start()
        child.join(rng.uniform(0.2, 1.2 * seconds))
        child.kill()
        child.join()
        run_file = world / "cut" / "scene_run.json"
        taken_up += any((world / "cut").glob(".scene.strips/strip_*.json")) and not run_file.exists()
        made, found = predict(world, "cut", blend="hann", resume=True, overwrite=True)
        assert found == expected
        assert json.loads(run_file.read_text()) == made.facts
        for path in (world / "cut").iterdir():
            path.unlink()
    assert taken_up > 5
