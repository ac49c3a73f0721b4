"""Networks of other packages, trained on a chip folder within a budget of processor time; for the benchmarks beside this.

The packages are imported where they are used, since geoseg does not depend on them: see README.md for how to install them.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from geoseg.chips import ChipFolder
from geoseg.grid import grid, slices
from geoseg.legend import IGNORE
from geoseg.scenes import Scene
from geoseg.spec import ImageSpec

WINDOW, MARGIN = 512, 64

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Peer:
    """A trainer of another package, and what its data modules would do to the chips.

    Attributes:
        task: the Lightning module; its network is `task.model`.
        fill: raw value per band of pixels that are not valid, float32 (bands,).
        vary: a training batch of raw pixels to what the network takes, augmented.
        scale: any other batch likewise, not augmented.
        validates: whether the epoch with the least `val_loss` is kept; else the last.
        max_epochs: where its set-up ends by itself; -1 for never.
        versions: of the packages.
    """

    task: lightning.LightningModule
    fill: np.ndarray
    vary: Callable[[Batch], Batch]
    scale: Callable[[Batch], Batch]
    validates: bool
    max_epochs: int
    versions: dict[str, str]


def load(module: str, package: str) -> Any:
    """Import a module of a package that may be missing; ends the program in one line where it is."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{package}: {error}; see benchmarks/README.md for how to install it") from None


def torchgeo_peer(folder: ChipFolder) -> Peer:
    """torchgeo's `SemanticSegmentationTask` as it comes: U-Net of ResNet-50, random weights, cross entropy, AdamW 1e-3,
    a tenth of the rate after ten epochs without a lower validation loss; the epoch with the lowest is kept.

    Its data modules scale by mean and standard deviation, and nearly all that augment flip: so does this.
    """
    trainers, augmentation = load("torchgeo.trainers", "torchgeo"), load("kornia.augmentation", "kornia")
    task = trainers.SemanticSegmentationTask(
        in_channels=len(folder.image.bands), num_classes=len(folder.legend), ignore_index=IGNORE
    )
    statistics = [band.statistics for band in folder.image.bands]
    mean, std = (torch.tensor([getattr(band, name) for band in statistics]) for name in ("mean", "std"))
    normalise = augmentation.Normalize(mean, std)
    flips = (augmentation.RandomHorizontalFlip(p=0.5), augmentation.RandomVerticalFlip(p=0.5))
    chain = augmentation.AugmentationSequential
    return Peer(
        task, mean.numpy(), _with_mask(chain(normalise, *flips, data_keys=None)), chain(normalise, data_keys=None),
        validates=True, max_epochs=-1, versions={"torchgeo": version("torchgeo")},
    )  # fmt: skip


def ftw_peer(folder: ChipFolder, loss: str, epochs: int) -> Peer:
    """ftw-tools' `CustomSemanticSegmentationTask` with the options of its released configurations: U-Net of
    EfficientNet-B3, AdamW (AMSGrad) 1e-3, a cosine over all epochs; the last weights are kept.

    Not taken over: ImageNet weights, and weights of its three classes, which others have no use for.

    Args:
        folder: the chips.
        loss: `ce` (`configs/release/3_class`) or, from version 2, `logcoshdice` (`configs/release/prue`), which also
            divides by a random number in place of 3000, and crops and resizes.
        epochs: of the cosine, 100 in its configurations.
    """
    augmentation, released = load("kornia.augmentation", "kornia"), loss == "ce"
    try:
        trainers = importlib.import_module("ftw_tools.training.trainers")
    except ModuleNotFoundError:
        trainers = load("ftw.trainers", "ftw-tools")  # its name in version 1, the last for Python 3.11
    task = trainers.CustomSemanticSegmentationTask(
        model="unet", backbone="efficientnet-b3", in_channels=len(folder.image.bands), num_classes=len(folder.legend),
        num_filters=64, loss=loss, ignore_index=IGNORE, lr=1e-3, patience=epochs,
    )  # fmt: skip
    task.class_names = list(folder.legend.names)
    bands = len(folder.image.bands)
    normalise = augmentation.Normalize(torch.zeros(bands), torch.full((bands,), 3000.0))
    size = (folder.image.chip_size,) * 2
    vary = augmentation.AugmentationSequential(
        *([normalise] if released else []),
        augmentation.RandomRotation(p=0.5, degrees=90), augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.RandomVerticalFlip(p=0.5), augmentation.RandomSharpness(p=0.5),
        *([] if released else [augmentation.RandomResizedCrop(size, scale=(0.3, 0.9), ratio=(0.75, 1.33), p=0.5)]),
        data_keys=None,
    )  # fmt: skip
    return Peer(
        task, np.zeros(bands, np.float32), _with_mask(vary if released else lambda batch: vary(_darkened(batch))),
        augmentation.AugmentationSequential(normalise, data_keys=None), validates=False, max_epochs=epochs,
        versions={trainers.__name__: version("ftw-tools"), "torchgeo": version("torchgeo")},
    )  # fmt: skip


def _darkened(batch: Batch) -> Batch:
    """As `preprocess_aug` of ftw-tools 2 has it."""
    divisors = torch.empty(len(batch["image"]), 1, 1, 1).uniform_(1500, 4500)
    return batch | {"image": batch["image"] / divisors}


def _with_mask(chain: Callable[[Batch], Batch]) -> Callable[[Batch], Batch]:
    """Masks as kornia takes them: floats, one channel. What a rotation brings in is 0, so 0 has to mean ignore."""

    def vary(batch: Batch) -> Batch:
        mask = torch.where(batch["mask"] == IGNORE, 0, batch["mask"] + 1)
        found = chain({"image": batch["image"], "mask": mask[:, None].float()})
        mask = found["mask"][:, 0].round().long()
        return {"image": found["image"], "mask": torch.where(mask == 0, IGNORE, mask - 1)}

    return vary


class ChipSamples(Dataset[Batch]):
    """Chips as torchgeo's data sets give them: raw pixels float32 and mask int64, read from disk each time."""

    def __init__(self, folder: ChipFolder, split: str, fill: np.ndarray) -> None:
        self._folder, self._chips, self._fill = folder, folder.of(split), fill[:, None, None]

    def __len__(self) -> int:
        return len(self._chips)

    def __getitem__(self, index: int) -> Batch:
        pixels, valid, mask = self._folder.read(self._chips[index])
        image = np.where(valid, pixels, self._fill).astype(np.float32)
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask.astype(np.int64))}


class PeerChips(lightning.LightningDataModule):
    """Loaders for a peer, whose batches are scaled and augmented as a whole, as its own data modules do."""

    def __init__(self, folder: ChipFolder, peer: Peer, batch_size: int) -> None:
        super().__init__()
        self._folder, self._peer, self._batch_size = folder, peer, batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(ChipSamples(self._folder, "train", self._peer.fill), self._batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(ChipSamples(self._folder, "val", self._peer.fill), self._batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        if self.trainer.training:
            return self._peer.vary(batch)
        return self._peer.scale({"image": batch["image"]}) | {"mask": batch["mask"]}


class Budget(lightning.Callback):
    """Ends training when the processor time of this process, all its threads, is spent."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._started = seconds, 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._started = time.process_time()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.should_stop = time.process_time() - self._started > self._seconds


def quiet_lightning() -> None:
    """Keep the advice of Lightning and torch out of the tables."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for module in ("lightning", "torch", "torchmetrics", "kornia"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")


def fit(peer: Peer, folder: ChipFolder, *, batch_size: int, seconds: float) -> dict[str, int]:
    """Train until the processor seconds are spent or the epochs end; the weights to keep are then in `peer.task`.

    Returns:
        Epochs and steps that were run.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    quiet_lightning()
    with tempfile.TemporaryDirectory() as name:
        keep = ModelCheckpoint(name, monitor="val_loss", save_weights_only=True)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=peer.max_epochs, limit_val_batches=None if peer.validates else 0,
            # ftw-tools writes to the TensorBoard logger by name, and fails with any other.
            logger=False if peer.validates else TensorBoardLogger(name),
            callbacks=[Budget(seconds), *([keep] if peer.validates else [])],
            enable_checkpointing=peer.validates, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, default_root_dir=name,
        )  # fmt: skip
        trainer.fit(peer.task, datamodule=PeerChips(folder, peer, batch_size))
        if Path(keep.best_model_path).is_file():
            peer.task.load_state_dict(torch.load(keep.best_model_path, weights_only=True)["state_dict"])
        return {"epochs": trainer.current_epoch, "steps": trainer.global_step}


def map_scene(peer: Peer, scene: Scene, image: ImageSpec) -> np.ndarray:
    """Class indices of a scene (rows, cols) uint8, 255 where it is not valid: windows with a margin, in float32."""
    network = peer.task.eval()
    indices = np.full((scene.height, scene.width), IGNORE, np.uint8)
    whole = next(grid(scene.height, scene.width, (scene.height, scene.width))).read
    with scene.open() as reader, torch.inference_mode():
        for tile in grid(scene.height, scene.width, WINDOW - 2 * MARGIN, MARGIN):
            pixels, valid = reader.read(tile.read, image.sources)
            raw = torch.from_numpy(np.where(valid, pixels, peer.fill[:, None, None]).astype(np.float32))
            found = network(peer.scale({"image": raw[None]})["image"])[0].argmax(0).numpy().astype(np.uint8)
            found[~valid] = IGNORE
            indices[slices(tile.core, whole)] = found[slices(tile.core, tile.read)]
    return indices
