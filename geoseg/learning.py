"""What Lightning needs to know of chips: the data set, the module, and the callbacks that keep the history."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from geoseg.augment import augment
from geoseg.chips import ChipFolder
from geoseg.choices import Augment
from geoseg.metrics import confusion_matrix, scores
from geoseg.progress import Progress
from geoseg.recipe import Recipe


class ChipDataset(Dataset[tuple[Tensor, Tensor]]):
    """Chips as the network takes them: image float32 (bands, rows, cols), mask int64 (rows, cols).

    What a sample looks like follows from (seed, epoch, sample) alone, whichever worker reads it.
    """

    def __init__(self, folder: ChipFolder, split: str, *, augmentation: Augment = "none", seed: int = 0) -> None:
        self.folder, self.chips = folder, folder.of(split)
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, valid, mask = self.folder.read(self.chips[index])
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image, mask = augment((self.folder.image.normalise(pixels, valid), mask), self.augmentation, rng)
        return torch.from_numpy(image), torch.from_numpy(mask.astype(np.int64))


class EpochSampler(Sampler[int]):
    """Another order of the chips in each epoch, which follows from (seed, epoch)."""

    def __init__(self, chips: ChipDataset) -> None:
        self._chips = chips

    def __len__(self) -> int:
        return len(self._chips)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before an epoch's loader, and its workers, start."""
        self._chips.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._chips.seed, self._chips.epoch)).permutation(len(self._chips))
        return iter(order.tolist())


def chip_loader(chips: ChipDataset, *, batch_size: int, workers: int, training: bool) -> DataLoader[Any]:
    """Batches of chips; in training shuffled, and without a last batch that is too small for batch norm."""
    return DataLoader(
        chips,
        batch_size=batch_size,
        sampler=EpochSampler(chips) if training else None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=training and len(chips) >= batch_size,
    )


class SegmentationTask(lightning.LightningModule):
    """Learns chips with a loss, and judges itself on the validation chips after each epoch.

    Args:
        network: float (batch, bands, rows, cols) to logits (batch, classes, rows, cols).
        loss: logits and masks to a number; 255 is ignored.
        folder: for the legend.
        recipe: for the optimiser.
        seed: of everything random.
    """

    def __init__(
        self, network: torch.nn.Module, loss: torch.nn.Module, folder: ChipFolder, recipe: Recipe, seed: int
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = loss
        self._folder, self._recipe, self._seed = folder, recipe, seed
        self._confusion = np.zeros((len(folder.legend), len(folder.legend)), np.int64)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.contiguous(memory_format=torch.channels_last))

    def on_train_epoch_start(self) -> None:
        # Dropout, too, follows from (seed, epoch), so that a resumed run can equal an undisturbed one.
        torch.manual_seed(self._seed * 100_003 + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._confusion[:] = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", self.loss(logits, batch[1]), batch_size=len(batch[0]))
        predicted = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        reference = batch[1].to(torch.uint8).cpu().numpy()
        self._confusion += confusion_matrix(reference, predicted, len(self._folder.legend))

    def on_validation_epoch_end(self) -> None:
        self.log("val_miou", self.validation_scores()["miou"] or 0.0)

    def validation_scores(self) -> dict[str, Any]:
        """Scores of the last validation; see `geoseg.metrics.scores`."""
        return scores(self._confusion, self._folder.legend)

    def configure_optimizers(self) -> Any:
        recipe = self._recipe
        optimizer = torch.optim.AdamW(self.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        # Warm-up, then cosine to nothing (Smith and Topin 2019, arXiv 1708.07120): the last epochs settle. The warm-up
        # lasts a fifth of the steps; in the shortest runs more, since torch divides by its steps less one.
        warm_up = min(0.9, max(0.2, 1.5 / steps))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(lightning.Callback):
    """Keeps a row of figures per epoch, and tells the progress.

    Attributes:
        rows: per finished epoch: epoch (from 1), train_loss, val_loss, val_miou, IoU per class, lr, seconds.
        scores: per finished epoch: all validation scores.
    """

    def __init__(self, progress: Progress, *, validates: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self._progress, self._validates, self._started = progress, validates, 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if self._validates and self.rows:
            note += f", val mIoU {self.rows[-1]['val_miou']:.3f}, best {max(row['val_miou'] for row in self.rows):.3f}"
        self._progress("train", trainer.global_step, int(trainer.estimated_stepping_batches), note)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "train_loss": figures["train_loss"]}
        if self._validates:
            found = pl_module.validation_scores()
            row |= {"val_loss": figures["val_loss"], "val_miou": figures["val_miou"]}
            row |= {f"val_iou_{entry['name']}": entry["iou"] for entry in found["classes"]}
            self.scores.append(found)
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.rows.append(row)
