"""Inference of other packages, from a scene file to a class GeoTIFF on disk; for `predict.py`.

Each function imports its package and makes the network ready (start-up, which is timed apart), and gives back what then does
the work. All run the same network in float32, as they come; none is handed anything but the scene's path and the network.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from torch import Tensor, nn

from geoseg.bundle import open_bundle


@dataclass(frozen=True)
class Job:
    """What a peer is to do.

    Attributes:
        scene: a GeoTIFF of bands in uint8.
        out: the class raster to write, of class indices.
        network: takes bands / 255, as nearly all of them divide by 255; in evaluation mode.
        classes: channels of its logits.
        window: rows and columns.
        overlap: pixels that neighbouring windows share.
        batch: windows a step.
        smooth: whether scores are averaged where windows overlap, by a package that can also not do so.
    """

    scene: Path
    out: Path
    network: nn.Module
    classes: int
    window: int
    overlap: int
    batch: int
    smooth: bool

    @property
    def step(self) -> int:
        return self.window - self.overlap

    def read(self) -> np.ndarray:
        """The whole scene, (bands, rows, cols) uint8, for those that are handed arrays."""
        with rasterio.open(self.scene) as dataset:
            return dataset.read()

    def logits(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Raw pixels (batch, bands, rows, cols) to logits, for those that leave this step to their user."""
        with torch.inference_mode():
            return self.network(torch.as_tensor(pixels).float() / 255)

    def write(self, indices: np.ndarray) -> None:
        """For those that give arrays back."""
        with rasterio.open(self.scene) as dataset:
            profile = {"driver": "GTiff", "height": dataset.height, "width": dataset.width, "count": 1,
                       "dtype": "uint8", "crs": dataset.crs, "transform": dataset.transform, "tiled": True,
                       "blockxsize": 512, "blockysize": 512, "compress": "deflate"}  # fmt: skip
        with rasterio.open(self.out, "w", **profile) as dataset:
            dataset.write(indices.astype(np.uint8), 1)


Work = Callable[[], None]


class Windows(NamedTuple):
    """Window, overlap and batch."""

    window: int
    overlap: int
    batch: int


class Peer(NamedTuple):
    """A package.

    Attributes:
        module: what is imported of it.
        package: its name in the package index.
        defaults: its own, or those of its documentation; where there are none, windows of 512 in batches of 4.
        prepare: what makes it ready.
    """

    module: str
    package: str
    defaults: Windows
    prepare: Callable[[Job], Work]


EQUAL = Windows(512, 128, 4)


class FromUnit(nn.Module):
    """A network whose own scaling is another, for bands / 255."""

    def __init__(self, network: nn.Module, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)

    def forward(self, image: Tensor) -> Tensor:
        return self.network((255 * image - self.offset) / self.scale)


def make_job(request: dict[str, Any]) -> Job:
    """Load the network, and choose windows."""
    bundle = open_bundle(request["bundle"])
    network: nn.Module = bundle.network()
    offset, scale = (
        torch.tensor([getattr(band, name) for band in bundle.image.bands])[:, None, None]
        for name in ("offset", "scale")
    )
    if offset.any() or (scale != 255).any():
        network = FromUnit(network, offset, scale).eval()
    windows = EQUAL if request["setting"] == "equal" else PEERS[request["method"]].defaults
    paths = Path(request["scene"]), Path(request["out"])
    return Job(*paths, network, len(bundle.legend), *windows, smooth=request["setting"] == "equal")


def rastervision_peer(job: Job) -> Work:
    """`predict_scene_ss`, what `rastervision predict` runs on a scene.

    Its defaults (rastervision/core/rv_pipeline/rv_pipeline_config.py, `PredictOptions`) are windows of 300 without overlap
    in batches of 8, votes rather than scores. Equal windows use `SemanticSegmentationSmoothLabels`.
    """
    from rastervision.core.data import ClassConfig, SemanticSegmentationLabelStore
    from rastervision.core.data.utils import make_ss_scene
    from rastervision.core.rv_pipeline import SemanticSegmentationPredictOptions
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
    )
    from rastervision.pytorch_learner.utils import predict_scene_ss

    names = [f"class {index}" for index in range(job.classes)]
    classes = ClassConfig(
        names=names, null_class=names[0]
    )  # it wants one for pixels that no window covers: there are none
    # Chips are resized to `img_sz`, 256 if not said, and scores back: no other map would then be like it.
    data = SemanticSegmentationGeoDataConfig(class_config=classes, img_sz=job.window, num_workers=0)
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(data=data), model=job.network, training=False
    )
    options = SemanticSegmentationPredictOptions(chip_sz=job.window, stride=job.step, batch_sz=job.batch)

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=job.out.parent) as name:
            scene = make_ss_scene(image_uri=str(job.scene))
            store = SemanticSegmentationLabelStore(
                name, scene.raster_source.crs_transformer, classes, smooth_output=job.smooth
            )
            scene.label_store = store
            labels = predict_scene_ss(learner, scene, options)
            store.smooth_output = False  # classes are asked for, not scores as well
            store.save(labels)
            os.replace(Path(name) / "labels.tif", job.out)

    return run


def geoai_peer(job: Job) -> Work:
    """`semantic_inference_on_geotiff`, what `geoai.semantic_segmentation` runs on a GeoTIFF.

    Its defaults are windows of 512 with an overlap of 256 in batches of 4 (geoai/train.py).
    """
    from geoai.train import semantic_inference_on_geotiff

    def run() -> None:
        semantic_inference_on_geotiff(
            job.network, str(job.scene), str(job.out), job.window, job.overlap, job.batch, num_classes=job.classes,
            device=torch.device("cpu"), quiet=True,
        )  # fmt: skip

    return run


def torchgeo_peer(job: Job) -> Work:
    """A `RasterDataset`, a `GridGeoSampler` and a loader, and a loop that puts the middles of the windows in their places.

    Windows of 512 without overlap in batches of 4 are those of its tutorial earth_surface_water; stitching is left to the user.
    """
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    margin = job.overlap // 2

    def run() -> None:
        dataset = RasterDataset(paths=str(job.scene))
        with rasterio.open(job.scene) as source:
            size, bounds, (xres, yres) = source.shape, source.bounds, source.res
        indices = np.zeros(size, np.uint8)
        sampler = GridGeoSampler(dataset, size=job.window, stride=job.step)
        for samples in DataLoader(dataset, batch_size=job.batch, sampler=sampler, collate_fn=stack_samples):
            maps = job.logits(samples["image"]).argmax(1).numpy()
            # In version 0.10 a tensor: starts, stops and steps of x, y and time.
            for found, (left, _, _, _, top, *_) in zip(maps, samples["bounds"].tolist(), strict=True):
                corner = round((bounds.top - top) / yres), round((left - bounds.left) / xres)
                spans = [_middle(at, job.window, margin, length) for at, length in zip(corner, size, strict=True)]
                (rows, own_rows), (cols, own_cols) = spans
                indices[rows, cols] = found[own_rows, own_cols]
        job.write(indices)

    return run


def _middle(at: int, window: int, margin: int, length: int) -> tuple[slice, slice]:
    """Where on an axis of the scene a window without its margins lies, and where in the window that is; the margins at the
    scene's ends count, and what sticks out does not."""
    first = at + margin if at > 0 else 0
    last = at + window - margin if at + window < length else length
    return slice(first, last), slice(first - at, last - at)


def monai_peer(job: Job) -> Work:
    """`sliding_window_inference`; an overlap of 0.25 and equal weights are its defaults, window and batch have none."""
    from monai.inferers import sliding_window_inference

    def run() -> None:
        scene = torch.from_numpy(job.read())[None].float() / 255
        with torch.inference_mode():
            logits = sliding_window_inference(
                scene, job.window, job.batch, job.network, overlap=job.overlap / job.window
            )
        job.write(logits[0].argmax(0).numpy())

    return run


def toolbelt_peer(job: Job) -> Work:
    """`ImageSlicer` and `TileMerger`, as in the README: windows of 512, steps of 256, batches of 8, equal weights."""
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger
    from torch.utils.data import DataLoader

    def run() -> None:
        scene = np.ascontiguousarray(job.read().transpose(1, 2, 0))
        slicer = ImageSlicer(scene.shape, tile_size=job.window, tile_step=job.step)
        tiles = [tile.transpose(2, 0, 1) for tile in slicer.split(scene)]
        merger = TileMerger(slicer.target_shape, job.classes, slicer.weight)
        for batch, places in DataLoader(list(zip(tiles, slicer.crops, strict=True)), batch_size=job.batch):
            merger.integrate_batch(job.logits(batch), places)
        job.write(slicer.crop_to_orignal_size(merger.merge_().argmax(0).numpy()))

    return run


def tiler_peer(job: Job) -> Work:
    """`Tiler` and `Merger`, whose defaults are no overlap and equal weights; window and batch have none."""
    from tiler import Merger, Tiler

    def run() -> None:
        scene = job.read()
        tiler, result = (
            Tiler((bands, *scene.shape[1:]), (bands, job.window, job.window), job.overlap, channel_dimension=0)
            for bands in (len(scene), job.classes)
        )
        merger = Merger(result)
        for number, batch in tiler(scene, batch_size=job.batch):
            merger.add_batch(number, job.batch, job.logits(batch).numpy())
        job.write(merger.merge(argmax=False).argmax(0))

    return run


def patchly_peer(job: Job) -> Work:
    """`GridSampler`, a loader and `Aggregator` as in the README; its default is no overlap, window and batch have none
    (the README shows 100 and 50, of an image of 1000)."""
    from patchly import Aggregator, GridSampler
    from torch.utils.data import DataLoader

    def run() -> None:
        scene = job.read()
        size = scene.shape[1:]
        sampler = GridSampler(scene, size, (job.window,) * 2, (job.step,) * 2, spatial_first=False)
        output = torch.zeros(job.classes, *size)
        aggregator = Aggregator(sampler, output=output, spatial_first=False, has_batch_dim=True)
        for batch, places in DataLoader(sampler, batch_size=job.batch):
            aggregator.append(job.logits(batch), places)
        job.write(aggregator.get_output(inplace=True).argmax(0).numpy())

    return run


class _Raw(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.float() / 255)


def geo_inference_peer(job: Job) -> Work:
    """`GeoInference` on a traced network: windows of 1024 unless said, always half overlapping and one by one.

    It runs one thread fewer than there are cores (geo_inference.py), and none would be too few.
    """
    from geo_inference.geo_inference import GeoInference

    folder = tempfile.TemporaryDirectory(dir=job.out.parent)
    model = Path(folder.name) / "network.pt"
    with rasterio.open(job.scene) as dataset:
        example = torch.zeros(1, dataset.count, job.window, job.window, dtype=torch.uint8)
    torch.jit.trace(_Raw(job.network).eval(), example, check_trace=False).save(str(model))
    inference = GeoInference(str(model), folder.name, device="cpu", num_classes=job.classes)
    workers = 0 if len(os.sched_getaffinity(0)) > 1 else 1

    def run() -> None:
        with folder:
            name = inference(str(job.scene), patch_size=job.window, workers=workers)
            os.replace(Path(folder.name) / name, job.out)

    return run


PEERS = {
    "raster-vision": Peer(
        "rastervision.pytorch_learner", "rastervision_pytorch_learner", Windows(300, 0, 8), rastervision_peer
    ),
    "geoai": Peer("geoai", "geoai-py", Windows(512, 256, 4), geoai_peer),
    "torchgeo": Peer("torchgeo", "torchgeo", Windows(512, 0, 4), torchgeo_peer),
    "monai": Peer("monai", "monai", Windows(512, 128, 4), monai_peer),
    "pytorch-toolbelt": Peer("pytorch_toolbelt", "pytorch-toolbelt", Windows(512, 256, 8), toolbelt_peer),
    "tiler": Peer("tiler", "tiler", Windows(512, 0, 4), tiler_peer),
    "patchly": Peer("patchly", "patchly", Windows(512, 0, 4), patchly_peer),
    "geo-inference": Peer("geo_inference", "geo-inference", Windows(1024, 512, 1), geo_inference_peer),
}
