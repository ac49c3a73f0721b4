"""What --device and --precision come to on this machine, and on others."""

from __future__ import annotations

import pytest
import torch

from geoseg.devices import (
    choose_device,
    choose_devices,
    choose_precision,
    has_bf16_units,
    out_of_memory,
    precision_name,
)
from geoseg.errors import ModelError

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_a_gpu_where_there_is_one(two_gpus):
    assert choose_device() == torch.device("cuda")


def test_auto_takes_the_cpu_else(no_gpu):
    assert choose_devices() == [choose_device()] == [CPU]


@pytest.mark.parametrize(
    ("device", "names"),
    [("cpu", ["cpu"]), ("cpu,cpu", ["cpu", "cpu"]), ("cuda:0, cuda:1", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"])],
)
def test_a_list_of_devices(two_gpus, device, names):
    assert [str(found) for found in choose_devices(device)] == names


@pytest.mark.parametrize("device", ["gpu", "", "cpu,", "cpu,gpu"])
def test_what_is_no_device(device):
    with pytest.raises(ModelError, match=r"^--device \w*: auto, cpu, cuda, cuda:N or mps is needed$"):
        choose_devices(device)


@pytest.mark.parametrize("device", ["cuda", "cpu,cuda:0", "mps"])
def test_a_device_that_is_not_there(no_gpu, device):
    missing = device.split(",")[-1]
    with pytest.raises(ModelError, match=f"^--device {missing}: not found on this machine; use --device cpu or"):
        choose_devices(device)


def test_one_gpu_more_than_there_are(two_gpus):
    with pytest.raises(ModelError, match=r"^--device cuda:2: not found on this machine"):
        choose_devices("cuda:0,cuda:2")


@pytest.mark.parametrize(
    ("units", "dtype"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({"avx512": True}, torch.float32)],
)
def test_a_cpu_with_the_units_computes_in_bfloat16(monkeypatch, units, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert has_bf16_units() == (dtype == torch.bfloat16)
    assert choose_precision(CPU) == dtype
    assert choose_precision(CPU, "fp32") == torch.float32


@pytest.mark.parametrize(("tile", "bf16"), [(True, False), (False, True), (False, False)])
def test_an_older_torch_knows_the_units_too(monkeypatch, tile, bf16):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert has_bf16_units() == (tile or bf16)


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_an_older_gpu_computes_in_half_precision(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_precision(torch.device("cuda")) == dtype


def test_apples_gpu_computes_in_single_precision():
    assert choose_precision(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_precisions_are_named_as_the_option_names_them(name):
    assert precision_name(choose_precision(CPU, name)) == name


def test_what_running_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(refused.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
