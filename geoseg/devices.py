"""Which device computes, and in which precision."""

from __future__ import annotations

from typing import get_args

import torch

from geoseg.choices import Precision
from geoseg.errors import ModelError

_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_devices(device: str = "auto") -> list[torch.device]:
    """The devices of a list such as `cuda:0,cuda:1`; one that is named twice is worked twice at a time.

    Raises:
        ModelError: as `choose_device` does.
    """
    return [choose_device(name.strip()) for name in device.split(",")]


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        ModelError: the device asked for is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"--device {device}: auto, cpu, cuda, cuda:N or mps is needed") from None
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(chosen.type) or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        raise ModelError(f"--device {device}: not found on this machine; use --device cpu or --device auto")
    return chosen


def choose_precision(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """`auto` takes bfloat16 where the device multiplies it in hardware, half precision on older GPUs, else float32.

    On a CPU without such units bfloat16 can be many times as slow as float32.

    Raises:
        ModelError: there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ModelError(f"--precision {precision}: known are {', '.join(get_args(Precision))}")
    if precision != "auto":
        return _TYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and has_bf16_units() else torch.float32


def precision_name(dtype: torch.dtype) -> Precision:
    """What the option calls a dtype."""
    return next(name for name, known in _TYPES.items() if known == dtype)


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: in matrix units (AMX), or in AVX-512 ones."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.12
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def out_of_memory(error: Exception) -> bool:
    """Whether torch had no memory left: for that the CPU's allocator has no error of its own."""
    told = ("can't allocate memory", "OutOfMemoryError: ")  # the latter of another process
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in told)
