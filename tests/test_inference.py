"""Windows are put together again without a seam, a gap or a pixel twice, however a network has looked at them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geoseg
from geoseg import predictor as predictors
from geoseg.bundle import Bundle, write_bundle
from geoseg.errors import InputError, MissingFileError, ModelError, PreflightError
from geoseg.grid import Layout
from geoseg.inference import Row, predict_rows, read_probe
from geoseg.legend import parse_legend
from geoseg.merging import create_merger
from geoseg.models import Architecture, Segmenter
from geoseg.predictor import Predictor, _Scaler
from geoseg.scenes import describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands


class NeighbourMean:
    """A network whose answer can be computed: class 1 where the mean of the 3 x 3 neighbourhood is above 100."""

    device, threshold, decide = torch.device("cpu"), None, Predictor.decide

    def __init__(self):
        self.windows = 0

    def shares(self, pixels, valid, inside):
        self.windows += len(pixels)
        return torch.stack([torch.from_numpy(self.predict(window[0].astype(float))) for window in pixels])[
            (slice(None), slice(None), *inside)
        ]

    def predict(self, band):
        """Probabilities (classes, rows, cols)."""
        padded = np.pad(band, 1, "reflect")
        rows, cols = band.shape
        mean = sum(padded[r : r + rows, c : c + cols] for r in range(3) for c in range(3)) / 9
        return np.stack([200 - mean, mean]).astype(np.float32) / 200


def run(path, core, margin, batch_size=3, blend="crop", networks=1, **options):
    """How often each pixel was told, what was told, and the networks."""
    scene, predictors = describe_scene(path), [NeighbourMean() for _ in range(networks)]
    layout = Layout(scene.height, scene.width, (core, core), margin, blend)
    seen = np.zeros((scene.height, scene.width), int)
    indices, shares = np.zeros(seen.shape, np.uint8), np.zeros((2, *seen.shape), np.uint8)
    rows = [Row(number, layout.row(number)) for number in range(layout.rows)]
    merger = create_merger(layout)
    for found in predict_rows(
        scene, [1], rows, predictors, merger, batch_size=batch_size, probabilities=True, **options
    ):
        place = found.window.toslices()
        top, bottom = merger.extent(found.row)
        assert top <= found.window.row_off
        assert found.window.row_off + found.window.height <= bottom
        seen[place] += 1
        indices[place], shares[:, *place] = found.prediction.indices, found.prediction.probabilities
    return seen, indices, shares, predictors


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 70),
    cols=st.integers(1, 70),
    core=st.integers(2, 40),
    margin=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    blend=st.sampled_from(["crop", "hann"]),
    networks=st.integers(1, 3),
)
def test_any_grid_gives_the_answer_for_the_whole_scene(
    write_scene, rows, cols, core, margin, batch_size, blend, networks
):
    band = np.random.default_rng(rows * 71 + cols).integers(1, 200, (rows, cols)).astype(np.uint8)
    path = write_scene("scene.tif", band, nodata=0)
    margin = min(margin, core // 2) if blend == "hann" else margin
    seen, indices, shares, predictors = run(path, core, margin, batch_size, blend, networks)
    expected = NeighbourMean().predict(band.astype(float))
    assert (seen == 1).all()
    if blend == "crop":  # which of the pixels near a window's edge are wrong is none of the others' business
        np.testing.assert_array_equal(indices, expected.argmax(axis=0))
        np.testing.assert_allclose(shares / 250, expected, atol=0.0021)
    assert sum(predictor.windows for predictor in predictors) == -(-rows // core) * -(-cols // core)


def test_nodata_stays_nodata_and_windows_without_data_are_not_run(write_scene):
    band = np.full((64, 64), 150, np.uint8)
    band[:, 32:] = 0
    _, indices, shares, (network,) = run(write_scene("scene.tif", band, nodata=0), core=16, margin=0, batch_size=1)
    np.testing.assert_array_equal(indices == 255, (band == 0) & (np.indices(band.shape)[1] < 32))
    assert (shares[:, :, 32:] == 0).all()  # never told
    assert network.windows == 8  # of 16


def test_blended_windows_hand_over_softly(write_scene):
    """Windows that say 0, 0.1, 0.2, ... everywhere become a staircase with smooth risers as wide as two margins."""

    class Counter(NeighbourMean):
        def shares(self, pixels, valid, inside):
            level = pixels[:, 0].max(axis=(1, 2), keepdims=True) / np.float32(200)
            shares = torch.from_numpy(np.broadcast_to(level, pixels[:, 0].shape).copy())
            return torch.stack([1 - shares, shares], dim=1)

    core, margin = 16, 4
    band = np.kron(np.arange(1, 5), np.ones((48, core))).astype(np.uint8) * 20
    scene = describe_scene(write_scene("scene.tif", band))
    layout = Layout(48, 64, (core, core), margin, "hann")
    shares = np.zeros((48, 64))
    rows = [Row(number, layout.row(number)) for number in range(layout.rows)]
    for found in predict_rows(scene, [1], rows, [Counter()], create_merger(layout), batch_size=2, probabilities=True):
        shares[found.window.toslices()] = found.prediction.probabilities[1] / 250
    # A window's level is that of its brightest pixel, which lies in its right margin but for the last.
    levels = np.array([40, 60, 80, 80]) / 200
    rising = np.sin((np.arange(2 * margin) + 0.5) / (2 * margin) * np.pi / 2) ** 2
    expected = np.repeat(levels, core)
    for border, (low, high) in zip((16, 32, 48), pairwise(levels), strict=True):
        expected[border - margin : border + margin] = low + rising * (high - low)
    np.testing.assert_allclose(shares, np.broadcast_to(expected, shares.shape), atol=0.0021)


@pytest.mark.parametrize("blend", ["crop", "hann"])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_rows_come_out_the_same_wherever_a_run_begins(write_scene, rng, blend, start):
    path = write_scene("scene.tif", rng.integers(0, 200, (70, 50), dtype=np.uint8), nodata=0)
    scene, layout = describe_scene(path), Layout(70, 50, (16, 16), 5, blend)
    merger = create_merger(layout)
    before = [Row(start - 1, layout.row(start - 1), answers=False)] if merger.looks_back else []
    rows = [Row(number, layout.row(number)) for number in range(layout.rows)]
    whole, part = (
        {
            found.window.flatten(): found.prediction
            for found in predict_rows(
                scene, [1], some, [NeighbourMean()], create_merger(layout), batch_size=3, probabilities=True
            )
        }
        for some in (rows, [*before, *rows[start:]])
    )
    assert part.keys() == {place for place in whole if place[1] >= merger.extent(start)[0]}
    for place, prediction in part.items():
        for found, expected in zip(prediction, whole[place], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_an_area_limits_what_is_told_but_not_what_is_seen(write_scene, rng):
    class Left:
        """Knows the columns left of 20."""

        def read(self, window):
            cols = np.arange(window.col_off, window.col_off + window.width)
            known = np.broadcast_to(cols < 20, (window.height, window.width))
            return known.astype(np.int32), known

    path = write_scene("scene.tif", rng.integers(1, 200, (40, 64), dtype=np.uint8), nodata=0)
    _, whole, _, (all_of_it,) = run(path, core=16, margin=3)
    seen, indices, _, (network,) = run(path, core=16, margin=3, area=Left())
    np.testing.assert_array_equal(indices[:, :20], whole[:, :20])
    assert (indices[:, 20:32] == 255).all()
    assert (seen[:, 32:] == 0).all()
    assert (network.windows, all_of_it.windows) == (6, 12)


def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on(monkeypatch, rng):
    predictor, sizes = make_predictor(monkeypatch, torch.nn.Identity(), stride=1), []

    def tight(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return batch

    predictor._engine = tight
    bands = rng.normal(0, 3, (10, 1, 5, 7)).astype(np.float32)
    valid = np.ones((10, 5, 7), bool)
    for _ in range(2):
        np.testing.assert_allclose(predictor.shares(bands, valid)[:, 1], sigmoid(bands[:, 0]), atol=1e-6)
    assert sizes == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor._engine = full
    with pytest.raises(ModelError, match=r"5 x 7 pixels does not fit.*smaller --window"):
        predictor.shares(bands, valid)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_the_network_sees_what_it_was_trained_on(monkeypatch, rng, dtype):
    """Next to the network pixels are scaled as in training, to the bit."""
    predictor = make_predictor(monkeypatch, torch.nn.Identity(), stride=1)
    statistics = BandStatistics(mean=101.7, std=33.3, min=0.0, max=207.0, p1=1.0, p99=199.0)
    bands = scale_bands([statistics] * 2, names="ab", sources=[1, 2], dtypes=[dtype] * 2, nodata=[None] * 2)
    image = ImageSpec(bands, 2, 10.0, 64)
    pixels = rng.integers(0, 256, (3, 2, 9, 11)).astype(dtype)
    valid = rng.random((3, 9, 11)) > 0.2
    if dtype.startswith("float"):
        pixels[0, 1, 2, 3], valid[0, 2, 3] = np.nan, False
    found = _Scaler(image, predictor.device)(pixels, valid)
    for window, known, scaled in zip(pixels, valid, found, strict=True):
        np.testing.assert_array_equal(scaled.numpy(), image.normalise(window, known))


# Networks with an answer that can be computed, in a bundle that asks for a threshold or for none


class Coarse(torch.nn.Module):
    """The mean of each cell of `stride` pixels, spread over the cell, as the logits."""

    def __init__(self, stride):
        super().__init__()
        self.cells = torch.nn.Sequential(torch.nn.AvgPool2d(stride), torch.nn.Upsample(scale_factor=stride))

    def forward(self, image):
        return self.cells(image)


def make_predictor(monkeypatch, network, classes=1, stride=16, own=0.5, **options):
    """A predictor whose network takes the raw values of one band; `own` is the threshold of its bundle."""
    statistics = BandStatistics(0.0, 1.0, -50.0, 50.0, -40.0, 40.0)
    bands = scale_bands([statistics], names=["band"], sources=[1], dtypes=["float32"], nodata=[None])
    image, legend = ImageSpec(bands, 1, 10.0, 64), parse_legend("0=low,1=high")
    bundle = Bundle(Path("model"), Architecture(in_channels=1, classes=classes), image, legend, {}, {}, "", own)
    nothing = torch.nn.Identity()
    segmenter = Segmenter(network, nothing, nothing, size_divisor=stride, dropout=0.0).eval()
    monkeypatch.setattr(Bundle, "network", lambda self: segmenter)
    monkeypatch.setattr(predictors, "TorchEngine", lambda network, device, dtype: network)  # no convolution, no engine
    return Predictor(bundle, device="cpu", precision="fp32", **options)


def high(predictor, *bands, valid=True):
    """Probabilities of the class `high` in windows of one band."""
    made = predictor.shares(np.stack(bands)[:, None].astype(np.float32), np.full((len(bands), *bands[0].shape), valid))
    return list(made[:, 1].numpy())


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("stride", "shape"), [(16, (37, 61)), (16, (16, 48)), (16, (3, 5)), (16, (1, 1)), (16, (2, 40)),
                                               (4, (13, 9)), (2, (7, 4)), (6, (20, 11)), (1, (5, 3))])  # fmt: skip
def test_each_pixel_of_shifts_is_of_the_cell_that_lies_best_around_it(monkeypatch, rng, stride, shape):
    band = rng.normal(0, 2, shape)
    (found,) = high(make_predictor(monkeypatch, Coarse(stride), stride=stride, tta="shifts"), band)
    # The cells of all shifts begin here; each pixel takes the one whose centre is nearest, and the later if two are.
    starts = {cell * stride - number * stride // 4 for number in range(4) for cell in range(80)}
    best = [
        min(starts, key=lambda start: (abs(2 * (pixel - start) - stride + 1), -start)) for pixel in range(max(shape))
    ]
    mirrored = np.pad(band, stride, "reflect")  # so that cell (0, 0) begins at pixel (stride, stride)
    expected = np.empty(shape)
    for row, col in np.ndindex(shape):
        top, left = best[row] + stride, best[col] + stride
        expected[row, col] = mirrored[top : top + stride, left : left + stride].mean()
    np.testing.assert_allclose(found, sigmoid(expected), atol=1e-5)


def test_shifts_sharpen_a_coarse_network(monkeypatch):
    rows, cols = np.indices((96, 131))
    truth = rows + 0.4 * cols > 70
    logits = np.where(truth, 6.0, -6.0)
    errors = {}
    for tta in ("none", "flips", "shifts"):
        (found,) = high(make_predictor(monkeypatch, Coarse(16), tta=tta), logits)
        errors[tta] = (np.abs(found - truth).mean(), ((found >= 0.5) != truth).mean())
    for error, other in zip(errors["shifts"], errors["none"], strict=True):
        assert error < 0.6 * other
    assert errors["shifts"] < errors["flips"]


@pytest.mark.parametrize("tta", ["flips", "d4", "shifts"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 50)])
@pytest.mark.parametrize("stride", [1, 6, 16, 32])
def test_a_pixelwise_network_is_the_same_from_every_view(monkeypatch, rng, tta, shape, stride):
    bands = rng.normal(0, 3, (2, *shape))
    network = torch.nn.Identity()
    plain = high(make_predictor(monkeypatch, network, stride=stride), *bands)
    viewed = high(make_predictor(monkeypatch, network, stride=stride, tta=tta), *bands)
    np.testing.assert_allclose(plain, sigmoid(bands), atol=1e-6)
    np.testing.assert_allclose(viewed, plain, atol=1e-6)


# One-channel networks


@pytest.mark.parametrize(("own", "given", "used"), [(0.5, None, 0.5), (0.3, None, 0.3), (0.3, 0.7, 0.7)])
def test_a_pixel_is_of_the_second_class_from_the_threshold_on(monkeypatch, own, given, used):
    logits = np.linspace(-3, 3, 35).reshape(5, 7)  # 0 is one of them, where the probability is 0.5
    predictor = make_predictor(monkeypatch, torch.nn.Identity(), own=own, threshold=given)
    valid = np.ones((5, 7), bool)
    valid[0] = False
    (found,) = predictor([(logits[None].astype(np.float32), valid)])
    np.testing.assert_array_equal(found.indices, np.where(valid, sigmoid(logits) >= used, 255))
    chosen = np.where(found.indices == 1, sigmoid(logits), 1 - sigmoid(logits))
    np.testing.assert_allclose(found.confidence[valid] / 250, chosen[valid], atol=0.0021)
    assert (found.confidence[~valid] == 255).all()


def test_the_threshold_is_held_against_the_mean_of_the_views(monkeypatch):
    slope = np.broadcast_to(np.linspace(-4, 4, 24), (24, 24))

    class Columnwise(torch.nn.Module):
        def forward(self, image):
            return torch.linspace(-4, 4, image.shape[-1]).expand(len(image), 1, *image.shape[-2:])

    for threshold, share in ((0.49, 1), (0.51, 0)):
        predictor = make_predictor(monkeypatch, Columnwise(), stride=1, tta="flips", threshold=threshold)
        (found,) = predictor([(slope[None].astype(np.float32), np.ones((24, 24), bool))])
        assert found.indices.mean() == share


def test_a_channel_per_class_needs_no_threshold(monkeypatch):
    class TwoChannels(torch.nn.Module):
        def forward(self, image):
            return torch.cat([-image, image], dim=1)

    predictor = make_predictor(monkeypatch, TwoChannels(), classes=2, own=0.9)
    assert predictor.threshold is None
    (found,) = predictor([(np.array([[[-1, 0.1, 2]]], np.float32), np.ones((1, 3), bool))])
    np.testing.assert_array_equal(found.indices, [[0, 1, 1]])


OWN = 0.4
"""Threshold of the bundles that `made` makes."""


@pytest.fixture
def made(write_scene, rng, tmp_path) -> Callable[[int], Path]:
    """A scene, its chips, and a function that makes a bundle of so many channels, with random weights."""
    labels = np.kron(rng.integers(0, 2, (8, 8)), np.ones((5, 5), int)).astype(np.uint8)
    scene = write_scene("scene.tif", rng.integers(1, 999, (2, 40, 40), dtype=np.uint16), nodata=0)
    chips = geoseg.tile(
        scene, labels=write_scene("labels.tif", labels), out=tmp_path / "chips", chip_size=8, classes="0=other,1=crop"
    )

    def make(channels: int) -> Path:
        model = tmp_path / f"model_{channels}"
        model.mkdir()
        torch.manual_seed(0)
        architecture = Architecture(in_channels=2, classes=channels, width=2)
        # The convolutions' own beginning lets the signal die away, and every pixel would get the same probability.
        weights = {
            name: 2.4 * weight if weight.ndim == 4 else weight
            for name, weight in architecture.build().state_dict().items()
        }
        write_bundle(
            model, weights, architecture=architecture, image=chips.image, legend=chips.legend,
            training={}, metrics={}, threshold=OWN,
        )  # fmt: skip
        return model

    return make


def test_predict_and_evaluate_take_a_threshold(made, tmp_path):
    model, of_crop = made(1), {}
    for number in (None, OWN, 0.0001, 0.9999):
        (mapped,) = geoseg.predict(
            tmp_path / "scene.tif", model=model, out=tmp_path / f"map_{number}", threshold=number, polygons=False
        )
        report = geoseg.evaluate(
            tmp_path / "chips", model=model, out=tmp_path / f"report_{number}", threshold=number, bootstrap=1
        )
        assert mapped.facts["options"]["threshold"] == number
        confusion = np.array(report.metrics["confusion"])
        of_crop[number] = (mapped.classes[1]["share"], confusion[:, 1].sum() / confusion.sum())
    assert of_crop[0.0001] == (1, 1)
    assert of_crop[0.9999] == (0, 0)
    assert of_crop[None] == of_crop[OWN]
    assert all(0 < share < 1 for share in of_crop[None])


@pytest.mark.parametrize("threshold", [None, 0.3, 0.7])
def test_confidence_is_the_probability_of_the_class_that_is_chosen(made, tmp_path, threshold):
    """Which is not the more probable one, where the threshold is not a half."""
    (mapped,) = geoseg.predict(
        tmp_path / "scene.tif",
        model=made(1),
        out=tmp_path / "map",
        threshold=threshold,
        polygons=False,
        probabilities=True,
    )
    names = ("classes", "confidence", "probabilities")
    classes, confidence, shares = (rasterio.open(mapped.outputs[name]).read() for name in names)
    assert 0 < (classes == 1).mean() < 1
    np.testing.assert_array_equal(confidence[0], np.where(classes[0] == 1, shares[1], shares[0]))


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("channels", "threshold", "words"),
    [(2, 0.4, "has a channel per class"), (1, 0.0, "above 0 and below 1"), (1, float("nan"), "above 0 and below 1")],
)
def test_a_threshold_that_cannot_be_is_one_line(made, tmp_path, verb, channels, threshold, words):
    path = tmp_path / ("scene.tif" if verb == "predict" else "chips")
    with pytest.raises(ModelError, match=words) as caught:
        getattr(geoseg, verb)(path, model=made(channels), out=tmp_path / "out", threshold=threshold)
    assert str(caught.value).startswith(f"--threshold {threshold}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_threshold_is_told_among_other_faults(made, tmp_path):
    with pytest.raises(PreflightError) as caught:
        geoseg.predict(tmp_path / "no.tif", model=made(2), out=tmp_path / "out", threshold=0.4, only="forest")
    for fault, word in zip(caught.value.faults, ["forest", "--threshold", "no.tif"], strict=True):
        assert word in str(fault)


def test_two_maps_have_no_threshold(tmp_path):
    with pytest.raises(PreflightError) as caught:
        geoseg.evaluate(tmp_path / "a.tif", tmp_path / "b.tif", out=tmp_path / "out", threshold=0.4)
    threshold, missing = caught.value.faults
    assert isinstance(threshold, InputError)
    assert "a.tif is a map already" in str(threshold)
    assert isinstance(missing, MissingFileError)


# Engines


def test_openvino_maps_like_torch(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = made(1)
    maps = [
        geoseg.predict(
            tmp_path / "scene.tif",
            model=model,
            out=tmp_path / engine,
            engine=engine,
            precision="fp32",
            polygons=False,
        )[0]
        for engine in ("torch", "openvino")
    ]
    classes = [rasterio.open(found.path).read() for found in maps]
    assert (classes[0] == classes[1]).mean() > 0.999
    assert maps[1].facts["options"]["engine"] == "openvino"


def test_an_engine_that_disagrees_is_refused_or_made_more_precise(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        predictors, "choose_precision", lambda device, precision: {"fp32": torch.float32}.get(precision, torch.bfloat16)
    )
    asked = []

    def check(predictor, pixels, valid):
        asked.append(predictor.dtype)
        if predictor.dtype == torch.bfloat16:
            raise ModelError("98 % agree")
        return 1.0

    monkeypatch.setattr(Predictor, "check", check)
    options = {"model": made(1), "engine": "openvino", "polygons": False}
    (found,) = geoseg.predict(tmp_path / "scene.tif", out=tmp_path / "auto", **options)
    assert (found.facts["precision"], asked) == ("fp32", [torch.bfloat16, torch.float32])
    with pytest.raises(ModelError, match="98 %"):
        geoseg.predict(tmp_path / "scene.tif", out=tmp_path / "bf16", precision="bf16", **options)
    assert not (tmp_path / "bf16").exists()


def test_a_probe_holds_data(write_scene):
    band = np.zeros((160, 96), np.uint8)
    band[70:75, 40:90] = 9
    scene = describe_scene(write_scene("scene.tif", band, nodata=0))
    layout = Layout(160, 96, (32, 32), 8)
    pixels, valid = read_probe(scene, [1], layout, 2)
    assert pixels.shape == (2, 1, 48, 48)
    assert valid.any(axis=(1, 2)).all()
    empty = describe_scene(write_scene("empty.tif", np.zeros((40, 40), np.uint8), nodata=0))
    pixels, valid = read_probe(empty, [1], Layout(40, 40, (32, 32), 8), 2)
    assert pixels.shape == (1, 1, 48, 48)
    assert not valid.any()
