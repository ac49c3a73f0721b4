"""Every engine gives the network's own answer; the probe notices one that does not."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from geoseg import engines, extras
from geoseg.engines import OpenVinoEngine, TorchEngine, check_agreement, faster_engine_installed
from geoseg.errors import MissingPackageError, ModelError
from geoseg.models import create_model

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not faster_engine_installed(), reason="the extra `openvino` is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "geoseg" / "openvino"


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_model("unet", width=4, in_channels=2, classes=3).eval()


def image(batch: int = 2, rows: int = 48, cols: int = 64, bands: int = 2) -> Tensor:
    return torch.randn(batch, bands, rows, cols, generator=torch.Generator().manual_seed(rows))


def answer(network, batch):
    with torch.no_grad():
        return network(batch)


def test_torch_is_the_network_itself(network):
    engine = TorchEngine(network, CPU, torch.float32)
    assert (engine.name, engine.device, engine.dtype) == ("torch", CPU, torch.float32)
    torch.testing.assert_close(engine(image()), answer(network, image()), rtol=1e-4, atol=1e-5)


def test_torch_computes_in_the_dtype_and_leaves_the_network_alone(network):
    before = answer(network, image())
    logits = TorchEngine(network, CPU, torch.bfloat16)(image())
    assert logits.dtype == torch.bfloat16
    assert not logits.requires_grad
    torch.testing.assert_close(logits.float(), before, rtol=0.1, atol=0.05)
    assert torch.equal(answer(network, image()), before)


def test_torch_folds_and_puts_channels_last(network, monkeypatch):
    counts = []
    fold = engines.fold_batch_norm
    monkeypatch.setattr(engines, "fold_batch_norm", lambda *given: counts.append(fold(*given)))
    seen = []
    engine = TorchEngine(network, CPU, torch.float32)
    engine._network.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    engine(image())
    assert counts == [18]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@needs_openvino
@pytest.mark.parametrize("rows", [48, 41])  # the second is lengthened inside the network
def test_openvino_gives_the_same_logits(network, rows):
    engine = OpenVinoEngine(network, "sha", torch.float32)
    assert (engine.name, engine.device, engine.dtype) == ("openvino", CPU, torch.float32)
    torch.testing.assert_close(engine(image(rows=rows)), answer(network, image(rows=rows)), rtol=1e-4, atol=1e-5)


@needs_openvino
def test_openvino_fills_a_smaller_batch_up(network, cache):
    engine = OpenVinoEngine(network, "sha", torch.float32)
    first = engine(image(3))
    kept = first.clone()
    torch.testing.assert_close(engine(image(3)[1:2] + 1), answer(network, image(3)[1:2] + 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(first, kept)  # a later batch does not write over logits that were handed out
    assert len(list(cache.iterdir())) == 1
    torch.testing.assert_close(engine(image(4)), answer(network, image(4)), rtol=1e-4, atol=1e-5)
    assert len(list(cache.iterdir())) == 2


@needs_openvino
def test_openvino_starts_from_what_was_kept(network, cache, monkeypatch):
    expected = OpenVinoEngine(network, "sha", torch.float32)(image())
    with monkeypatch.context() as patched:
        patched.setattr(OpenVinoEngine, "_convert", lambda *_: pytest.fail("converted again"))
        assert torch.equal(OpenVinoEngine(network, "sha", torch.float32)(image()), expected)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert torch.equal(OpenVinoEngine(network, "sha", torch.float32)(image()), expected)
    OpenVinoEngine(network, "other weights", torch.float32)(image())
    OpenVinoEngine(network, "sha", torch.bfloat16)(image())
    assert len(list(cache.iterdir())) == 3


@needs_openvino
def test_openvino_needs_no_cache(network, cache):
    cache.parent.parent.mkdir()
    cache.parent.touch()  # where a folder should be
    assert OpenVinoEngine(network, "sha", torch.float32)(image()).shape == (2, 3, 48, 64)


@needs_openvino
def test_openvino_names_the_operator_it_lacks(network):
    network.dropout = Unknown()
    engine = OpenVinoEngine(network, "sha", torch.float32)
    with pytest.raises(ModelError, match=r"^--engine openvino: it cannot run this network \(aten::\w+\); use --engine"):
        engine(image())


class Unknown(torch.nn.Module):
    def forward(self, maps):
        return torch.special.i1e(maps)


@needs_openvino
def test_openvino_has_no_half_precision(network):
    with pytest.raises(ModelError, match=r"^--precision fp16: --engine openvino computes in fp32 or bf16; use"):
        OpenVinoEngine(network, "sha", torch.float16)


@needs_openvino
def test_openvino_reports_to_nobody(tmp_path):
    """A stand-in for the package that sends reports over the network, which OpenVINO's own installs."""
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text("import sys\nprint('reporting')\n")
    code = "from geoseg.extras import import_openvino; print(import_openvino(chr(45)).__name__)"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split() == ["openvino"]


def test_an_engine_that_is_not_installed(network, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert faster_engine_installed() is None
    message = (
        r'^--engine openvino: the package openvino is not installed; install it with: pip install "geoseg\[openvino\]"$'
    )
    with pytest.raises(MissingPackageError, match=message):
        OpenVinoEngine(network, "sha", torch.float32)


def test_an_engine_is_found_without_being_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    faster_engine_installed()
    assert "openvino" not in sys.modules


class Stubborn:
    """An engine whose answer is known: class 1 in the first `wrong` of 100 columns, class 0 else."""

    name, device, dtype = "openvino", CPU, torch.bfloat16

    def __init__(self, wrong):
        self.wrong = wrong

    def __call__(self, batch):
        ones = torch.arange(batch.shape[-1]).expand(len(batch), 1, *batch.shape[-2:]) < self.wrong
        return torch.where(ones, 1.0, -1.0)


def test_agreement_is_the_share_of_pixels_of_the_same_class():
    network = Stubborn(0)
    batch = image(cols=100)
    assert check_agreement(Stubborn(0), network, batch) == 1
    assert check_agreement(Stubborn(2), network, batch, least=0.98) == pytest.approx(0.98)
    message = (
        "^--engine openvino --precision bf16: 98.00% of the pixels .* needed are 99.90%; use --engine torch --prec"
    )
    with pytest.raises(ModelError, match=message):
        check_agreement(Stubborn(2), network, batch)


def test_torch_on_a_cpu_uses_freed_memory_again(network, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(engines.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *given: told.append(given)))
    TorchEngine(network, CPU, torch.float32)
    assert dict(told).keys() == {-1, -3, -8}
    monkeypatch.setattr(engines.ctypes, "CDLL", lambda _: SimpleNamespace())  # a C library that cannot be told
    TorchEngine(network, CPU, torch.float32)


def test_openvino_takes_a_batch_that_lies_otherwise_in_memory(network):
    """Windows come channels last, and OpenVINO is lent their memory: a copy of it must live as long as it is used."""
    engine = OpenVinoEngine(network, "sha", torch.float32)
    batch = image(rows=256, cols=256)
    for _ in range(3):
        found = engine(batch.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, answer(network, batch), atol=1e-3, rtol=1e-3)
