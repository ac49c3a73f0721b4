"""Windows are put together again without a seam, a gap or a pixel twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoseg.errors import ModelError
from geoseg.grid import grid
from geoseg.inference import Prediction, choose_device, choose_precision, has_bf16_units, predict_cores
from geoseg.legend import parse_legend
from geoseg.scenes import describe_scene


class NeighbourMean:
    """A network whose answer can be computed: class 1 where the mean of the 3 x 3 neighbourhood is above 100."""

    legend = parse_legend("0=low,1=high")

    def __init__(self):
        self.windows = 0

    def nothing(self, shape):
        return Prediction(np.full(shape, 255, np.uint8), np.zeros((2, *shape), np.float32))

    def __call__(self, windows):
        self.windows += len(windows)
        return [self.predict(pixels[0].astype(float), valid) for pixels, valid in windows]

    def predict(self, band, valid):
        padded = np.pad(band, 1, "reflect")
        rows, cols = band.shape
        mean = sum(padded[r : r + rows, c : c + cols] for r in range(3) for c in range(3)) / 9
        shares = np.stack([200 - mean, mean]).astype(np.float32) / 200
        return Prediction(np.where(valid, mean > 100, 255).astype(np.uint8), shares)


def run(path, core, margin, batch_size=3):
    scene, network = describe_scene(path), NeighbourMean()
    seen = np.zeros((scene.height, scene.width), int)
    indices, shares = np.zeros(seen.shape, np.uint8), np.zeros((2, *seen.shape), np.float32)
    with scene.open() as reader:
        tiles = grid(scene.height, scene.width, core, margin)
        for window, prediction in predict_cores(reader, [1], tiles, network, batch_size=batch_size):
            rows, cols = window.toslices()
            seen[rows, cols] += 1
            indices[rows, cols], shares[:, rows, cols] = prediction.indices, prediction.probabilities
    return seen, indices, shares, network


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 70),
    cols=st.integers(1, 70),
    core=st.integers(1, 40),
    margin=st.integers(1, 9),
    batch_size=st.integers(1, 5),
)
def test_any_grid_gives_the_answer_for_the_whole_scene(write_scene, rows, cols, core, margin, batch_size):
    band = np.random.default_rng(rows * 71 + cols).integers(1, 200, (rows, cols)).astype(np.uint8)
    path = write_scene("scene.tif", band, nodata=0)
    seen, indices, shares, _ = run(path, core, margin, batch_size)
    expected = NeighbourMean().predict(band.astype(float), np.ones(band.shape, bool))
    assert (seen == 1).all()
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(shares, expected.probabilities, atol=1e-6)


def test_nodata_stays_nodata_and_windows_without_data_are_not_run(write_scene):
    band = np.full((64, 64), 150, np.uint8)
    band[:, 32:] = 0
    _, indices, shares, network = run(write_scene("scene.tif", band, nodata=0), core=16, margin=0, batch_size=1)
    np.testing.assert_array_equal(indices == 255, band == 0)
    assert (shares[:, band == 0] == 0).all()
    assert network.windows == 8  # of 16


def test_device_and_precision_are_chosen_by_what_is_there():
    cpu = torch.device("cpu")
    assert choose_precision(cpu) == (torch.bfloat16 if has_bf16_units() else torch.float32)
    assert choose_precision(cpu, "bf16") == torch.bfloat16
    assert choose_device("cpu") == cpu
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else choose_device("auto").type)


@pytest.mark.parametrize(("device", "words"), [("cuda:99", "not found"), ("gpu", "auto, cpu, cuda")])
def test_a_device_that_is_not_there_is_one_line(device, words):
    with pytest.raises(ModelError, match=words) as caught:
        choose_device(device)
    assert "\n" not in str(caught.value)
