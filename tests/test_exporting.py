"""Networks for other programs: what they are told, that they say what geoseg says, and what cannot be written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scenery import lively_weights
from torch import nn

import geoseg
from geoseg import exporting, extras
from geoseg.bundle import open_bundle, write_bundle
from geoseg.deepness import tiles_overlap
from geoseg.errors import (
    InputError,
    MissingFileError,
    MissingPackageError,
    ModelError,
    OutputExistsError,
    PreflightError,
)
from geoseg.interchange import INPUT, OUTPUT, open_onnx, write_onnx, write_openvino
from geoseg.legend import make_legend
from geoseg.models import ARCHITECTURES, Architecture
from geoseg.predictor import Predictor
from geoseg.spec import BandStatistics, ImageSpec, scale_bands
from geoseg.standalone import imagined_windows

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

FACTS = BandStatistics(mean=900, std=400, min=1, max=3000, p1=2, p99=2800)


def make_bundle(folder: Path, arch="unet", encoder="resnet18", one_channel=False, reach=None, **more) -> Path:
    bands = scale_bands(
        [FACTS] * 3, names=["red", "green", "nir"], sources=[3, 2, 4], dtypes=["uint16"] * 3, nodata=[0] * 3
    )
    architecture = Architecture(arch, encoder, 3, 1 if one_channel else 3, width=2)
    folder.mkdir(exist_ok=True)
    write_bundle(
        folder, lively_weights(architecture), architecture=architecture, image=ImageSpec(bands, 4, 10.004, 64, map_pixel_size_m=10),
        legend=make_legend([0, 5] if one_channel else [0, 5, 9], ["other", "wheat", "maïs"][: 2 + (not one_channel)]),
        training={}, metrics={}, reach=reach or {16: 0.0}, **more,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "model")


def encoder_for(arch: str) -> str:
    return {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}.get(arch, "resnet18")


def run_as_deepness_does(path: Path, tiles: np.ndarray) -> np.ndarray:
    """Classes of tiles (n, rows, cols, bands), by the arithmetic of the plugin (0.6.5)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert taken.shape[2:] == [facts["tile_size"]] * 2
    tiles = np.float32(tiles[..., : taken.shape[1]] * 1.0 / 255.0)
    tiles = (tiles - np.array(facts["standardization_mean"])) / np.array(facts["standardization_std"])
    found = session.run(None, {taken.name: np.transpose(tiles, (0, 3, 1, 2)).astype(np.float32)})[0]
    found[found < facts["seg_thresh"]] = 0.0
    return (found != 0)[:, 0].astype(int) if found.shape[1] == 1 else found.argmax(axis=1)


def test_onnx_is_for_raw_pixels_and_says_what_they_are(model, tmp_path):
    made = geoseg.export(model=model, out=tmp_path / "a.onnx", tile_size=64)
    assert made.to_dict() == {
        "path": str(tmp_path / "a.onnx"), "format": "onnx", "program": None, "window": (3, 64, 64),
        "agreement": made.agreement, "difference": made.difference, "looks_far": False,
    }  # fmt: skip
    assert made.agreement == 1
    assert made.difference < 1e-4
    assert "100.000% of the pixels" in str(made)
    document = onnx.load(made.path)
    onnx.checker.check_model(document)
    assert document.ir_version == 8
    assert [(entry.domain, entry.version) for entry in document.opset_import] == [("", 18)]
    facts = {entry.key: json.loads(entry.value) for entry in document.metadata_props}
    assert facts["bands"][0] == {"name": "red", "source": 3, "dtype": "uint16", "nodata": 0}
    assert [entry["name"] for entry in facts["legend"]] == ["other", "wheat", "maïs"]
    assert facts["weights_sha256"] == open_bundle(model).weights_sha256
    assert facts["margin"] == 16
    assert facts["pixel_size_m"] == 10.004
    assert "tile_size" not in facts
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape[1:]) for entry in session.get_inputs()] == [(INPUT, [3, 64, 64])]
    assert [(entry.name, entry.shape[1:]) for entry in session.get_outputs()] == [(OUTPUT, [3, 64, 64])]


def test_no_place_of_this_machine_stands_in_a_file(model, tmp_path):
    for name in ("a.onnx", "a.xml"):
        text = Path(geoseg.export(model=model, out=tmp_path / name, tile_size=64)).read_bytes()
        for folder in (Path(geoseg.__file__).parent, Path(torch.__file__).parent, Path(sys.prefix), tmp_path):
            assert str(folder).encode() not in text


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_the_same_model_makes_the_same_file(model, tmp_path, ending):
    files = [Path(geoseg.export(model=model, out=tmp_path / f"{n}.{ending}", tile_size=64)) for n in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_openvino_takes_any_number_of_windows(model, tmp_path):
    import openvino

    geoseg.export(model=model, out=tmp_path / "a.xml", tile_size=48)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    compiled = openvino.Core().compile_model(str(tmp_path / "a.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    bundle = open_bundle(model)
    pixels, valid = imagined_windows(bundle.image, 5, 48)
    expected = Predictor(bundle, device="cpu", precision="fp32").shares(pixels, valid).numpy() * valid[:, None]
    np.testing.assert_allclose(compiled({INPUT: pixels.astype(np.float32)})[OUTPUT], expected, atol=1e-5)
    told = openvino.Core().read_model(str(tmp_path / "a.xml")).get_rt_info(["model_info", "margin"])
    assert told.value == "16"


@pytest.mark.parametrize("one_channel", [False, True])
def test_deepness_comes_to_our_classes(tmp_path, one_channel):
    path = make_bundle(tmp_path / "model", one_channel=one_channel, **({"threshold": 0.55} if one_channel else {}))
    made = geoseg.export(model=path, out=tmp_path / "d.onnx", for_="deepness", tile_size=64)
    bundle = open_bundle(path)
    pixels, valid = imagined_windows(bundle.image, 4, 64)
    predictor = Predictor(bundle, device="cpu", precision="fp32")
    shares = predictor.shares(pixels, valid)
    expected = [predictor.decide(told, known).indices for told, known in zip(shares, valid, strict=True)]
    found = run_as_deepness_does(made.path, np.transpose(pixels, (0, 2, 3, 1)))
    assert (found == np.where(valid, expected, 0)).mean() > 0.999  # what is not valid comes out as the first class
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load(made.path).metadata_props}
    assert facts["model_type"] == "Segmentor"
    assert facts["resolution"] == 1000  # in centimetres
    assert facts["tile_size"] == 64
    assert facts["tiles_overlap"] == 50
    assert facts["seg_thresh"] == (0.55 if one_channel else 0)
    assert facts["class_names"] == dict(zip("012", [entry.name for entry in bundle.legend.classes], strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "xml"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_can_be_written(tmp_path, arch, ending):
    path = make_bundle(tmp_path / "model", arch, encoder_for(arch))
    if (arch, ending) == ("dpt", "xml"):  # OpenVINO resizes with antialiasing in a way of its own
        with pytest.raises(ModelError, match="of the pixels of imagined windows get the class that geoseg gives"):
            geoseg.export(model=path, out=tmp_path / "a.xml", tile_size=128)
        return
    made = geoseg.export(model=path, out=tmp_path / f"a.{ending}", tile_size=128)
    assert made.agreement >= 0.999
    assert made.difference < 1e-3


@pytest.mark.parametrize("divisor", [16, 32])
@pytest.mark.parametrize("margin", [0, 16, 32, 64, 128, 192])
@pytest.mark.parametrize("tile_size", [128, 256, 384, 512, 640, 768, 1024])
def test_tiles_of_deepness_begin_where_windows_of_geoseg_may(tile_size, margin, divisor):
    percent = tiles_overlap(tile_size, margin, divisor)
    if percent is None:
        assert 2 * margin + divisor > tile_size
        return
    overlap = int(tile_size * percent / 100 * 2) // 2
    assert 2 * margin <= overlap < tile_size
    assert (tile_size - overlap) % divisor == 0


# --- what cannot be


class Odd(nn.Module):
    def forward(self, pixels):
        return torch.special.bessel_j0(pixels)


class Greedy(nn.Module):
    def forward(self, pixels):
        raise MemoryError


@pytest.mark.parametrize(("format", "write"), [("onnx", write_onnx), ("openvino", write_openvino)])
@pytest.mark.parametrize(
    ("network", "trouble"),
    [
        (Odd(), r"it has no word for \w+(\.|::)\w*bessel_j0; use another format or --arch"),
        (Greedy(), "the export does not fit into memory; make a smaller --tile-size"),
    ],
)
def test_what_keeps_an_exporter_from_its_work_is_named(tmp_path, format, write, network, trouble):
    paths = [tmp_path / "a", tmp_path / "b"][: 1 + (format == "openvino")]
    with pytest.raises(ModelError, match=f"^--format {format}: {trouble}$"):
        write(network, *paths, (1, 8, 8), {})


def test_a_file_that_says_something_else_is_not_kept(model, tmp_path, monkeypatch):
    def wrong(path):
        runner = open_onnx(path)
        return lambda pixels: runner(pixels)[:, [1, 0, 2]]

    monkeypatch.setattr(exporting, "open_onnx", wrong)
    with pytest.raises(
        ModelError, match=r"^--format onnx: [\d.]+% of the pixels .* probabilities differ by up to 0\.\d"
    ):
        geoseg.export(model=model, out=tmp_path / "a.onnx", tile_size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "a.pt"}, InputError, r"^a\.pt: a name that ends in \.onnx or \.xml is needed, or --format"),
        ({"tile_size": 0}, InputError, "^--tile-size 0: 1 or more is needed"),
        ({"tile_size": 10**20}, InputError, "^--tile-size 1.*: 8192 at most are possible"),
        (
            {"out": "a.bin", "format": "openvino"},
            InputError,
            r"^a\.bin: OpenVINO reads a file whose name ends in \.xml",
        ),
        ({"for_": "arcgis"}, InputError, "^--for arcgis: known is deepness"),
        ({"out": "a.xml", "for_": "deepness"}, InputError, "^--for deepness --format openvino: Deepness reads onnx"),
        (
            {"for_": "deepness", "tile_size": 32},
            ModelError,
            r"^--tile-size 32: the model must see 16 pixels .* squares of 16, .*; take 48, or rather 256",
        ),
        ({"for_": "deepness", "tile_size": 100}, ModelError, "^--tile-size 100: .*; take 48, or rather 256"),
        ({"format": "onnx2"}, InputError, "^--format onnx2: known are onnx, openvino"),
    ],
)
def test_bad_options(model, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        geoseg.export(model=model, **{"out": "a.onnx", "tile_size": 64} | options)
    assert list(tmp_path.iterdir()) == []


def test_all_bad_options_at_once(model, tmp_path):
    with pytest.raises(PreflightError) as caught:
        geoseg.export(model=model, out=tmp_path / "a.onnx", tile_size=0, for_="arcgis")
    assert len(caught.value.faults) == 2


def test_packages_that_are_not_installed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for name, extra in (("a.onnx", "onnx"), ("a.xml", "openvino")):
        with pytest.raises(
            MissingPackageError, match=rf'not installed; install it with: pip install "geoseg\[{extra}\]"'
        ):
            geoseg.export(model=model, out=tmp_path / name, tile_size=64)
    assert list(tmp_path.iterdir()) == []


def test_no_model_and_what_is_there_already(model, tmp_path):
    with pytest.raises(MissingFileError, match=r"model\.json"):
        geoseg.export(model=tmp_path / "none", out=tmp_path / "a.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputExistsError, match=r"folder\.onnx: is a folder"):
        geoseg.export(model=model, out=tmp_path / "folder.onnx", tile_size=64, overwrite=True)
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match=r"a\.bin"):
        geoseg.export(model=model, out=tmp_path / "a.xml", tile_size=64)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
