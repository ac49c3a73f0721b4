"""What Lightning needs to know of a network that learns chips: the module, and the callback that keeps the history."""

from __future__ import annotations

import time
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from geoseg.errors import LearningError
from geoseg.legend import Legend
from geoseg.metrics import confusion_matrix, scores
from geoseg.models import Segmenter, class_logits
from geoseg.optimisation import create_optimizer, parse_schedule
from geoseg.progress import Progress
from geoseg.recipe import Recipe

REMEDY = "use a lower --lr, --gradient-clip 1 or --precision fp32"
"""What to do about a network that tells no numbers any more."""


class SegmentationTask(lightning.LightningModule):
    """Learns chips with a loss, and judges itself on the validation chips after each epoch.

    Args:
        network: float (batch, bands, rows, cols) to logits (batch, channels, rows, cols).
        loss: logits and masks to a number; 255 is ignored.
        legend: of the masks.
        recipe: for the optimiser and its schedule.
        seed: of everything random.
    """

    def __init__(self, network: Segmenter, loss: torch.nn.Module, legend: Legend, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = loss
        self._legend, self._recipe, self._seed = legend, recipe, seed
        self._confusion = np.zeros((len(legend), len(legend)), np.int64)
        network.encoder.requires_grad_(not recipe.freeze_encoder)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.contiguous(memory_format=torch.channels_last))

    def on_train_epoch_start(self) -> None:
        # Dropout, too, follows from (seed, epoch), so that a resumed run can equal an undisturbed one.
        torch.manual_seed((self._seed * 100_003 + self.current_epoch * 101 + self.global_rank) % 2**63)
        if self._recipe.freeze_encoder:
            self.network.encoder.eval()  # its batch norm keeps the statistics it came with

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = self.loss(self(batch[0]), batch[1])
        self._refuse_lost(loss)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def _refuse_lost(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise LearningError(f"the loss became {loss.item()} in epoch {self.current_epoch + 1}; {REMEDY}")

    def on_validation_epoch_start(self) -> None:
        self._confusion[:] = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        logits = self(batch[0])
        loss = self.loss(logits, batch[1])
        # The last step of an epoch may have ruined the weights, which would map all as the first class.
        self._refuse_lost(loss)
        self.log("val_loss", loss, batch_size=len(batch[0]), sync_dist=True)
        predicted = class_logits(logits).argmax(dim=1).to(torch.uint8).cpu().numpy()
        reference = batch[1].to(torch.uint8).cpu().numpy()
        self._confusion += confusion_matrix(reference, predicted, len(self._legend))

    def on_validation_epoch_end(self) -> None:
        counts = torch.from_numpy(self._confusion).to(self.device)
        self._confusion = self.trainer.strategy.reduce(counts, reduce_op="sum").cpu().numpy()
        self.log("val_miou", self.validation_scores()["miou"] or 0.0)

    def validation_scores(self) -> dict[str, Any]:
        """Scores of the last validation; see `geoseg.metrics.scores`."""
        return scores(self._confusion, self._legend)

    def configure_optimizers(self) -> Any:
        recipe = self._recipe
        learnt = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = create_optimizer(recipe.optimizer, learnt, lr=recipe.lr, weight_decay=recipe.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        epoch_steps = max(steps // recipe.epochs, 1)
        schedule = parse_schedule(recipe.schedule).create(optimizer, steps=steps, epoch_steps=epoch_steps)
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
        self._progress, self._validates, self._started, self._lr = progress, validates, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.scores = list(state_dict["rows"]), list(state_dict["scores"])

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._started = time.monotonic()

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is already that of the next one

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if self._validates and self.rows:
            note += f", val mIoU {self.rows[-1]['val_miou']:.3f}, best {max(row['val_miou'] for row in self.rows):.3f}"
        self._progress("train", trainer.global_step, int(trainer.estimated_stepping_batches), note)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if was_cut_short(trainer):
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "train_loss": figures["train_loss"]}
        if self._validates:
            found = pl_module.validation_scores()
            row |= {"val_loss": figures["val_loss"], "val_miou": figures["val_miou"]}
            row |= {f"val_iou_{entry['name']}": entry["iou"] for entry in found["classes"]}
            self.scores.append(found)
        row["lr"] = self._lr
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.rows.append(row)


def was_cut_short(trainer: lightning.Trainer) -> bool:
    """Whether an epoch was ended by the time before its last batch; it is done again where the run goes on."""
    return trainer.should_stop and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
