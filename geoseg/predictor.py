"""A trained network on its device: raw windows to probabilities, and these to classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoseg.bundle import Bundle
from geoseg.choices import Engine as EngineName
from geoseg.choices import Precision, TestTimeAugmentation
from geoseg.devices import choose_device, choose_precision, out_of_memory
from geoseg.engines import Engine, OpenVinoEngine, TorchEngine, check_agreement, faster_engine_installed
from geoseg.errors import ModelError
from geoseg.legend import IGNORE
from geoseg.models import Segmenter, class_logits
from geoseg.spec import ImageSpec
from geoseg.views import views

_LOG = logging.getLogger(__name__)

SHARE_STEPS = 250
"""Confidence and probabilities are told in steps of 1/250, with 255 where the image is not valid."""


class Prediction(NamedTuple):
    """What the network says of some ground, in bytes as they stand in files; 255 where the image is not valid.

    Attributes:
        indices: class indices (rows, cols) uint8.
        confidence: probability of the class chosen, (rows, cols) uint8 in steps of 1/250.
        probabilities: (classes, rows, cols) uint8 likewise, where they are asked for.
    """

    indices: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


def choose_threshold(bundle: Bundle, threshold: float | None = None) -> float | None:
    """The bundle's own unless another is given; None for a network with a channel per class, which needs none.

    Raises:
        ModelError: one is given for such a network, or it is not between 0 and 1.
    """
    if not bundle.one_channel:
        if threshold is not None:
            raise ModelError(
                f"--threshold {threshold}: {bundle.path} has a channel per class and takes the likeliest; "
                "leave it out, or train with --loss bce"
            )
        return None
    if threshold is None:
        return bundle.threshold
    if not 0 < threshold < 1:
        raise ModelError(f"--threshold {threshold}: a probability above 0 and below 1 is needed")
    return threshold


class Predictor:
    """A network on its device, ready for batches of windows.

    Args:
        bundle: the trained model.
        device: see `choose_device`.
        precision: see `choose_precision`.
        tta: the probabilities are those of the window as it is (`none`), the mean over mirrored (`flips`, four times
            the work) and turned copies too (`d4`, eight times), or interleaved from copies shifted by less than the
            network's stride (`shifts`, sixteen times), which sharpens coarse networks.
        threshold: see `choose_threshold`.
        engine: `torch`, or `openvino` on a CPU.

    Attributes:
        fits: windows that the device's memory has been found to hold at once; None until one batch was too large.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        tta: TestTimeAugmentation = "none",
        threshold: float | None = None,
        engine: EngineName = "torch",
    ) -> None:
        self.legend = bundle.legend
        self.device = choose_device(device) if isinstance(device, str) else device
        self.dtype = choose_precision(self.device, precision)
        self.threshold = choose_threshold(bundle, threshold)
        self.fits: int | None = None
        network = bundle.network()
        self._views = views(tta, network.size_divisor)
        self._scaler = _Scaler(bundle.image, self.device)
        self._bundle, self._engine = bundle, _create_engine(engine, network, bundle, self.device, self.dtype)

    def __call__(self, windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Prediction]:
        """Predict windows of one size: pairs of raw pixels (bands, rows, cols) and valid (rows, cols) bool."""
        pixels, known = (np.stack(arrays) for arrays in zip(*windows, strict=True))
        shares = self.shares(pixels, known)
        return [self.decide(found, valid) for found, (_, valid) in zip(shares, windows, strict=True)]

    def shares(
        self, pixels: np.ndarray, valid: np.ndarray, inside: tuple[slice, slice] = (slice(None), slice(None))
    ) -> Tensor:
        """Class probabilities of windows of one size, as many at once as fit into the device's memory.

        Args:
            pixels: raw, (windows, bands, rows, cols).
            valid: (windows, rows, cols) bool.
            inside: rows and cols of the windows that are wanted.

        Returns:
            float32 (windows, classes, rows, cols) on the device, meaningless where the image is not valid.

        Raises:
            ModelError: a single window does not fit.
        """
        while True:
            size = min(self.fits or len(pixels), len(pixels))
            starts = range(0, len(pixels), size)
            try:
                parts = [self._shares(pixels[i : i + size], valid[i : i + size], inside) for i in starts]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    rows, cols = pixels.shape[-2:]
                    raise ModelError(
                        f"a window of {rows} x {cols} pixels does not fit into the memory of {self.device}: "
                        "take a smaller --window"
                    ) from error
            self.fits = size // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def check(self, pixels: np.ndarray, valid: np.ndarray) -> float:
        """Share of the pixels of a probe that get the class which torch gives them in float32.

        Args:
            pixels: raw, (windows, bands, rows, cols).
            valid: (windows, rows, cols) bool.

        Raises:
            ModelError: it is below 99.9 %.
        """
        return check_agreement(self._engine, self._bundle.network(), self._scaler(pixels, valid))

    def _shares(self, pixels: np.ndarray, valid: np.ndarray, inside: tuple[slice, slice]) -> Tensor:
        """View by view: all at once would be too large."""
        rows, cols = inside
        with torch.inference_mode():
            batch = self._scaler(pixels, valid)
            total: Tensor | None = None
            for view in self._views:
                shown = view.transform(batch).contiguous(memory_format=torch.channels_last)
                logits = view.inverse(class_logits(self._engine(shown)))[..., rows, cols]
                shares = torch.softmax(logits.float().contiguous(), dim=1)
                if len(self._views) == 1:
                    return shares
                weights = view.weights(*batch.shape[-2:])[rows, cols].to(self.device)
                total = shares * weights if total is None else total.addcmul_(shares, weights)
        assert total is not None
        return total

    def decide(self, shares: Tensor, valid: np.ndarray, *, probabilities: bool = False) -> Prediction:
        """The classes of some ground: shares (classes, rows, cols) float32, valid (rows, cols) bool."""
        with torch.inference_mode():
            if self.threshold is None:
                confidence, likeliest = shares.max(dim=0)  # argmax alone takes eight times as long on a CPU
            else:  # a network with one channel is asked whether a pixel is of the second class
                likeliest = shares[1] >= self.threshold
                confidence = torch.where(likeliest, shares[1], shares[0])
            told = [likeliest.to(torch.uint8), _in_steps(confidence)]
            if probabilities:
                told.append(_in_steps(shares))
        return Prediction(*(np.where(valid, found.cpu().numpy(), np.uint8(IGNORE)) for found in told))


def create_predictors(
    bundle: Bundle,
    devices: Sequence[torch.device],
    *,
    precision: Precision,
    tta: TestTimeAugmentation,
    threshold: float | None,
    engine: EngineName,
    probe: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> list[Predictor]:
    """A predictor per device; another engine than torch must first agree with it.

    Args:
        bundle, precision, tta, threshold, engine: see `Predictor`.
        devices: one or more.
        probe: reads what they must agree on, see `Predictor.check`. With a precision of `auto`, an engine that does not
            agree in half precision is tried in fp32.

    Raises:
        ModelError: it does not agree.
    """

    def create(precision: Precision) -> list[Predictor]:
        return [
            Predictor(bundle, device=device, precision=precision, tta=tta, threshold=threshold, engine=engine)
            for device in devices
        ]

    predictors = create(precision)
    if engine == "torch":
        if devices[0].type == "cpu" and (faster := faster_engine_installed()):
            _LOG.info("%s is installed: --engine %s is faster on many CPUs", faster, faster)
        return predictors
    try:
        share = predictors[0].check(*probe())
    except ModelError as error:
        if precision != "auto" or predictors[0].dtype == torch.float32:
            raise
        _LOG.info("%s: fp32 is taken instead", error)
        predictors = create("fp32")
        share = predictors[0].check(*probe())
    _LOG.info("%s: %.3f %% of the pixels of a probe get the class that fp32 torch gives them", engine, 100 * share)
    return predictors


def _create_engine(
    engine: EngineName, network: Segmenter, bundle: Bundle, device: torch.device, dtype: torch.dtype
) -> Engine:
    if engine == "torch":
        return TorchEngine(network, device, dtype)
    if device.type != "cpu":
        raise ModelError(f"--engine {engine}: it runs on the CPU, not on {device}; use --device cpu or --engine torch")
    return OpenVinoEngine(network, bundle.weights_sha256, dtype)


def _in_steps(shares: Tensor) -> Tensor:
    return (shares * SHARE_STEPS).round_().to(torch.uint8)


class _Scaler:
    """`ImageSpec.normalise` for batches, next to the network: bytes travel to a GPU four times as fast as floats."""

    def __init__(self, image: ImageSpec, device: torch.device) -> None:
        columns = zip(*((*band.clip, band.offset, band.scale) for band in image.bands), strict=True)
        self._low, self._high, self._offset, self._scale = (
            torch.tensor(column, dtype=torch.float32, device=device)[:, None, None] for column in columns
        )
        self._device = device

    def __call__(self, pixels: np.ndarray, valid: np.ndarray) -> Tensor:
        """Raw (windows, bands, rows, cols) and valid (windows, rows, cols) to the network's input, float32."""
        scaled = self._move(pixels).to(torch.float32, copy=True)
        torch.clamp(scaled, self._low, self._high, out=scaled)
        scaled.sub_(self._offset).div_(self._scale)
        return scaled if valid.all() else scaled.masked_fill_(~self._move(valid)[:, None], 0.0)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)
