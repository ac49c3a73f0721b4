"""The verb `train`: a chip folder to a model bundle."""

from __future__ import annotations

import csv
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from geoseg.bundle import CARD, WEIGHTS, Bundle, open_bundle, write_bundle
from geoseg.chips import ChipFolder, open_chips
from geoseg.choices import Augment, Padding, Precision
from geoseg.errors import DataWarning, Faults, GeosegError, InputError, ModelError
from geoseg.files import refuse_existing, stage
from geoseg.inference import choose_device, choose_precision, precision_name
from geoseg.learning import ChipDataset, History, SegmentationTask, chip_loader
from geoseg.losses import create_loss, parse_class_weights
from geoseg.models import Architecture
from geoseg.progress import Progress, silent
from geoseg.recipe import Recipe, load_recipe
from geoseg.report import draw_curves
from geoseg.split import SPLITS

HISTORY = "history.csv"
CURVES = "curves.png"

_LIGHTNING_PRECISIONS: dict[torch.dtype, Any] = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-mixed",
    torch.float16: "16-mixed",
}


def train(
    chips: str | Path = "chips",
    *,
    out: str | Path = "model",
    recipe: str = "default",
    arch: str | None = None,
    width: int | None = None,
    encoder: str | None = None,
    encoder_weights: str | Path | None = None,
    padding: Padding | None = None,
    dropout: float | None = None,
    loss: str | None = None,
    class_weights: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    augment: Augment | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Train a network on chips; the epoch with the best mean IoU on the validation chips is kept.

    Ctrl-C keeps the best epoch so far: the bundle is written, then `KeyboardInterrupt` goes on its way.

    Args:
        chips: a folder made by `tile`.
        out: the model bundle.
        recipe: a whole set-up by name; each option down to `augment` overrides it.
        arch: `unet`, or any architecture of segmentation-models-pytorch (`unet++`, `deeplabv3plus`, ...).
        width: channels of the first stage of `unet`.
        encoder: of the architectures of segmentation-models-pytorch.
        encoder_weights: `none`, `imagenet`, or a file of weights.
        padding: `reflect` or `zeros`, at the borders of every convolution.
        dropout: probability, 0 to 1.
        loss: `ce`, `dice`, or a sum such as `ce+dice`.
        class_weights: `none`, `auto` (rare classes count for more), or a number per class such as `1,2.5`.
        lr: highest learning rate.
        weight_decay: of AdamW.
        epochs: passes over the training chips.
        batch_size: chips a step.
        augment: `none`, `flips` or `d4`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: processes that read chips; None chooses.
        deterministic: only algorithms that give the same weights each time.
        seed: of the weights, the order of chips, augmentation and dropout.
        overwrite: replace an earlier bundle.
        progress: called after each step.

    Returns:
        The bundle.

    Raises:
        GeosegError: bad input; nothing is left behind.
    """
    faults = Faults()
    with faults.collect():
        refuse_existing([Path(out) / name for name in (CARD, WEIGHTS, HISTORY, CURVES)], overwrite)
    with faults.collect():
        folder = open_chips(chips)
        _refuse_empty(folder)
    with faults.collect():
        chosen = load_recipe(recipe).override(
            arch=arch, width=width, encoder=encoder, padding=padding, dropout=dropout, loss=loss,
            class_weights=class_weights, lr=lr,
            weight_decay=weight_decay, epochs=epochs, batch_size=batch_size, augment=augment,
        )  # fmt: skip
        create_loss(chosen.loss)
    with faults.collect():
        processor = choose_device(device)
    faults.raise_any()

    weights = parse_class_weights(chosen.class_weights, folder.class_pixels("train").tolist())
    loss_function = create_loss(chosen.loss, class_weights=weights)
    architecture = Architecture(
        chosen.arch,
        chosen.encoder,
        len(folder.image.bands),
        len(folder.legend),
        chosen.width,
        chosen.padding,
        chosen.dropout,
    )
    torch.manual_seed(seed)
    task = SegmentationTask(architecture.build(encoder_weights), loss_function, folder, chosen, seed)
    with stage(out, last=CARD, replaces=_earlier_files(Path(out)), overwrite=overwrite) as staging:
        run = _Run(folder, chosen, processor, choose_precision(processor, precision), workers, deterministic, seed)
        learned, history, interruption = run.fit(task, staging, progress)
        _write_history(staging / HISTORY, history)
        draw_curves(history.rows, staging / CURVES)
        best = _best(history)
        facts = {
            "recipe": recipe, **chosen.to_dict(), "seed": seed, "precision": precision_name(run.dtype), "device": processor.type,
            "epochs_run": len(history.rows), "best_epoch": best + 1,
            "seconds": round(sum(row["seconds"] for row in history.rows), 1), "versions": _versions(),
            "chips": {split: len(folder.of(split)) for split in SPLITS},
        }  # fmt: skip
        metrics = history.scores[best] if history.scores else {}
        write_bundle(
            staging, learned, architecture=architecture, image=folder.image, legend=folder.legend, training=facts,
            metrics=metrics,
        )  # fmt: skip
    if interruption is not None:
        raise interruption
    return open_bundle(out)


def _refuse_empty(folder: ChipFolder) -> None:
    for split in ("train", "val"):
        if folder.of(split) and not folder.class_pixels(split).any():
            raise InputError(
                f"{folder.path}: no labelled pixel in the {split} chips; make the chips again with other labels"
            )
    if not folder.of("train"):
        raise InputError(f"{folder.path}: no training chips; make the chips again with another --split")
    if not folder.of("val"):
        warnings.warn(
            f"{folder.path}: no validation chips, so the last epoch is kept, not the best", DataWarning, stacklevel=3
        )


def _earlier_files(out: Path) -> list[str]:
    try:
        open_bundle(out)
    except GeosegError:
        return []
    return [WEIGHTS, HISTORY, CURVES]


class _Run:
    """One run of Lightning's trainer."""

    def __init__(
        self, folder: ChipFolder, recipe: Recipe, device: torch.device, dtype: torch.dtype, workers: int | None,
        deterministic: bool, seed: int,
    ) -> None:  # fmt: skip
        self.folder, self.recipe, self.device, self.seed = folder, recipe, device, seed
        self.dtype = dtype
        self.deterministic = deterministic
        # On a CPU the network wants every core; on a GPU reading must not keep it waiting.
        self.workers = workers if workers is not None else (min(8, os.cpu_count() or 1) if device.type == "cuda" else 0)

    def fit(
        self, task: SegmentationTask, staging: Path, progress: Progress
    ) -> tuple[dict[str, torch.Tensor], History, BaseException | None]:
        """Train; returns the weights of the best epoch, the history, and the Ctrl-C that ended it early, if one did."""
        training = ChipDataset(self.folder, "train", augmentation=self.recipe.augment, seed=self.seed)
        validation = ChipDataset(self.folder, "val")
        size = self.recipe.batch_size
        train_loader = chip_loader(training, batch_size=size, workers=self.workers, training=True)
        val_loader = (
            chip_loader(validation, batch_size=size, workers=self.workers, training=False) if validation else None
        )
        history = History(progress, validates=val_loader is not None)
        keep = ModelCheckpoint(
            staging / "checkpoints", filename="best", save_weights_only=True, monitor="val_miou" if val_loader else None,
            mode="max",
        )  # fmt: skip
        interruption = None
        with _quiet_lightning():
            trainer = lightning.Trainer(
                accelerator="gpu" if self.device.type == "cuda" else self.device.type,
                devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
                precision=_LIGHTNING_PRECISIONS[self.dtype], max_epochs=self.recipe.epochs, deterministic=self.deterministic,
                callbacks=[history, keep], logger=False, enable_progress_bar=False, enable_model_summary=False,
                num_sanity_val_steps=0, default_root_dir=staging,
            )  # fmt: skip
            try:
                trainer.fit(task, train_loader, val_loader)
            except (SystemExit, KeyboardInterrupt) as stop:
                # Lightning turns Ctrl-C into exit(1); the exit of a SIGTERM handler passes as it is.
                interruption = KeyboardInterrupt() if isinstance(stop, SystemExit) and stop.code == 1 else stop
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                    raise ModelError(
                        f"--batch-size {size} does not fit into memory; use half of it, or a smaller --width"
                    ) from error
                raise
        if not keep.best_model_path or not history.rows:
            raise interruption or GeosegError("training ended before the first epoch was over")
        state = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        for path in sorted((staging / "checkpoints").rglob("*"), reverse=True):
            path.unlink()
        (staging / "checkpoints").rmdir()
        return (
            {name.removeprefix("network."): weight for name, weight in state.items() if name.startswith("network.")},
            history,
            interruption,
        )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice to developers out of a user's terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for module in ("lightning", "torch"):
                warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _best(history: History) -> int:
    """Index of the epoch that was kept: the first of the best, or the last where nothing was validated."""
    if not history.scores:
        return len(history.rows) - 1
    figures = [row["val_miou"] for row in history.rows]
    return figures.index(max(figures))


def _write_history(path: Path, history: History) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history.rows[0]))
        writer.writeheader()
        writer.writerows(history.rows)


def _versions() -> dict[str, Any]:
    return {"python": sys.version.split()[0], "torch": str(torch.__version__), "lightning": lightning.__version__}
