"""How logits come from a batch: torch itself, or another engine that runs the same network faster."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from geoseg.devices import precision_name
from geoseg.errors import DiskError, ModelError
from geoseg.extras import import_openvino, is_installed
from geoseg.files import publish
from geoseg.folding import fold_batch_norm
from geoseg.models import Segmenter, class_logits

_OPENVINO = "openvino"
_OPENVINO_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}

# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX; and what is as good as no threshold.
_KEEP_FREED_MEMORY = ((-1, -1), (-3, 2**31 - 1), (-8, 1))


class Engine(Protocol):
    """Runs a trained network.

    Attributes:
        name: as `--engine` calls it.
        device: where it takes batches and leaves logits.
        dtype: what it computes in.
    """

    name: str
    device: torch.device
    dtype: torch.dtype

    def __call__(self, batch: Tensor) -> Tensor:
        """Float32 (batch, bands, rows, cols) to logits (batch, channels, rows, cols)."""
        ...


class TorchEngine:
    """The network in torch: batch norm folded, channels last, in the dtype that the device is quickest at.

    Args:
        network: in evaluation mode, in float32 on the CPU; a copy is made.
        device: where to run it.
        dtype: of its weights and maps. Not autocast: that converts at every step.
    """

    name = "torch"

    def __init__(self, network: Segmenter, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        network = copy.deepcopy(network)
        fold_batch_norm(network, _noise(network))
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        if device.type == "cpu":
            _keep_freed_memory()

    def __call__(self, batch: Tensor) -> Tensor:
        """Float32 on the device (batch, bands, rows, cols) to logits of `dtype` there (batch, channels, rows, cols)."""
        with torch.inference_mode():
            return self._network(batch.to(self.dtype, memory_format=torch.channels_last))


def _noise(network: Segmenter) -> Tensor:
    """An image of the smallest size that a network runs at."""
    bands = next(part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, bands, network.least_size, network.least_size, generator=generator)


def _keep_freed_memory() -> None:
    """Tell glibc to use freed memory again instead of handing it back to the system.

    The maps of a window are large enough to be handed back each time, and the system clears every page that it gives
    out anew: a fifth to two fifths of the time of a small U-Net. https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for setting in _KEEP_FREED_MEMORY:
            mallopt(*setting)


class OpenVinoEngine:
    """The network in OpenVINO, on the CPU; needs the extra `openvino`.

    A model is compiled for each size of window when it is first met, and kept in the user's cache folder.

    Args:
        network: in evaluation mode, in float32 on the CPU.
        bundle_sha256: of its weights, which the kept models are found by.
        dtype: float32 or bfloat16, of the maps between the layers; logits are float32.

    Raises:
        MissingPackageError: the package is not installed.
        ModelError: it does not compute in that dtype.
    """

    name = _OPENVINO
    device = torch.device("cpu")

    def __init__(self, network: Segmenter, bundle_sha256: str, dtype: torch.dtype) -> None:
        if dtype not in _OPENVINO_TYPES:
            raise ModelError(
                f"--precision {precision_name(dtype)}: --engine openvino computes in fp32 or bf16; use one of these"
            )
        self.dtype = dtype
        self._openvino = import_openvino("--engine openvino")
        self._core = self._openvino.Core()
        self._options = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits where another program keeps its core busy
        }
        self._network, self._sha256 = network, bundle_sha256
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, batch: Tensor) -> Tensor:
        """Float32 on the CPU (batch, bands, rows, cols) to logits float32 (batch, channels, rows, cols).

        Fewer windows than before of the same size are filled up with empty ones, which costs less than to compile anew.

        Raises:
            ModelError: OpenVINO cannot run this network.
        """
        count, *window = batch.shape
        shape = min(
            (known for known in self._requests if known[1:] == tuple(window) and known[0] >= count), default=None
        )
        if shape is None:
            shape = tuple(batch.shape)
            self._requests[shape] = self._compile(shape).create_infer_request()
        if shape[0] > count:
            batch = torch.cat([batch, batch.new_zeros(shape[0] - count, *window)])
        request = self._requests[shape]
        logits = np.empty(tuple(request.model_outputs[0].shape), np.float32)
        batch = batch.contiguous()  # kept by name: the tensor below shares its memory, but does not own it
        request.set_input_tensor(self._openvino.Tensor(batch.numpy(), shared_memory=True))
        request.set_output_tensor(self._openvino.Tensor(logits, shared_memory=True))
        request.infer()
        return torch.from_numpy(logits)[:count]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        """The compiled model for batches of a shape, from the cache where it is there."""
        kept = _cache_folder() / self._key(shape)
        if kept.exists():
            try:
                return self._core.import_model(kept.read_bytes(), "CPU", self._options)
            except (RuntimeError, OSError):
                pass  # damaged: it is made and kept anew
        compiled = self._core.compile_model(self._convert(shape), "CPU", self._options)
        try:
            with publish(kept, overwrite=True) as path:
                path.write_bytes(compiled.export_model().getbuffer())
        except (OSError, DiskError):
            pass  # where nothing can be kept, the next start takes some seconds more
        return compiled

    def _key(self, shape: tuple[int, ...]) -> str:
        """The name of a kept model: it holds for one version of OpenVINO and one kind of processor."""
        processor = [self._core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        facts = [self._sha256, shape, self._options["INFERENCE_PRECISION_HINT"], self._openvino.__version__, processor]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32] + ".blob"

    def _convert(self, shape: tuple[int, ...]) -> Any:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # Of torch, that tracing is old, and that sizes become constants: they are meant to.
                warnings.simplefilter("ignore")
                return self._openvino.convert_model(self._network, example_input=torch.zeros(shape), input=list(shape))
        except Exception as error:  # OpenVINO's own, torch's or what the network itself raises when it is traced
            unknown = sorted(set(re.findall(r"\b(?:aten|prim|torchvision)::\w+", str(error))))
            reason = ", ".join(unknown) or str(error).strip().splitlines()[-1]
            raise ModelError(f"--engine openvino: it cannot run this network ({reason}); use --engine torch") from error


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geoseg" / _OPENVINO


def faster_engine_installed() -> str | None:
    """The name of an engine that is here and faster than torch, without importing it."""
    return _OPENVINO if is_installed(_OPENVINO) else None


def check_agreement(engine: Engine, network: Segmenter, batch: Tensor, least: float = 0.999) -> float:
    """Share of pixels that an engine gives the same class as the network does in torch in float32.

    Args:
        engine: what is checked.
        network: in evaluation mode, in float32 on the CPU.
        batch: windows of a scene, normalised (batch, bands, rows, cols).
        least: what is needed, 0 to 1.

    Raises:
        ModelError: fewer agree.
    """
    with torch.inference_mode():
        expected = class_logits(network(batch)).argmax(dim=1)
    found = class_logits(engine(batch.to(engine.device))).argmax(dim=1).to(expected.device)
    share = float((found == expected).double().mean())
    if not share >= least:
        raise ModelError(
            f"--engine {engine.name} --precision {precision_name(engine.dtype)}: {share:.2%} of the pixels of a probe are "
            f"of the class that fp32 torch gives, needed are {least:.2%}; use --engine torch --precision fp32"
        )
    return share
