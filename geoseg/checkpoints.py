"""What a run leaves on disk to go on from: its last epoch, the one before it, and the best."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import safetensors.torch
import torch
from lightning.pytorch.callbacks import Checkpoint

from geoseg.errors import DataWarning, ModelError
from geoseg.learning import was_cut_short

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
_SAVING_SHARE = 0.05  # of the time at the most goes into checkpoints that are not the best


class Checkpoints(Checkpoint):
    """Keeps what a run goes on from (the last epoch, and the one before it), and the best epoch.

    A checkpoint takes its name when it is whole. Those that are not the best are left out where they would take more
    than a twentieth of the time: a resumed run then starts a few epochs earlier.
    """

    def __init__(self, folder: Path, *, save_every: int) -> None:
        self._folder, self._save_every = folder, save_every
        self._best = float("-inf")
        self._saved, self._cost = time.monotonic(), 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The best may have been lost with its file; then it is the best of what is to come.
        self._best = state_dict["best"] if (self._folder / BEST).exists() else float("-inf")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if was_cut_short(trainer):
            return
        epoch, started = trainer.current_epoch + 1, time.monotonic()
        judged = "val_miou" in trainer.callback_metrics
        figure = float(trainer.callback_metrics.get("val_miou", 0.0))
        better = judged and figure > self._best
        numbered = bool(self._save_every) and epoch % self._save_every == 0
        ends = epoch == trainer.max_epochs or trainer.should_stop
        due = started - self._saved >= self._cost / _SAVING_SHARE
        if not trainer.strategy.broadcast(better or numbered or ends or due):
            return
        if better:
            self._best = figure
        # Where nothing is validated each epoch is the best so far.
        self._save(trainer, best=better or not judged)
        if numbered and trainer.is_global_zero:
            weights = {name: tensor.contiguous() for name, tensor in checkpoint_weights(self._folder / LAST).items()}
            partial = self._folder / f".epoch_{epoch:03d}.part"
            safetensors.torch.save_file(weights, partial)
            os.replace(partial, self._folder / f"epoch_{epoch:03d}.safetensors")
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def _save(self, trainer: lightning.Trainer, *, best: bool) -> None:
        partial = self._folder / f".{LAST}.part"
        trainer.save_checkpoint(partial)  # a task of all processes, of which one writes
        if not trainer.is_global_zero:
            return
        # Nothing is forced onto the disk, which takes longer than many an epoch: a kill loses nothing, and after a power
        # cut the one before is read. The best goes first: killed after that, the run comes to this epoch again.
        if best:
            _copy(partial, self._folder / BEST)
        if (self._folder / LAST).exists():
            os.replace(self._folder / LAST, self._folder / PREVIOUS)
        os.replace(partial, self._folder / LAST)


def _copy(source: Path, target: Path) -> None:
    """Another name for a file that will be replaced, but never written to; a copy where the disk knows no such names."""
    partial = target.with_name(f".{target.name}.part")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def find_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint to go on from: the last, or the one before where that is damaged; None where there is none.

    Raises:
        ModelError: there are some, but none can be read.
    """
    last, previous, best = (checkpoints / name for name in (LAST, PREVIOUS, BEST))
    if best.exists() and not _readable(best):
        warnings.warn(f"{best}: damaged, so the best epoch from here on will be kept", DataWarning, stacklevel=2)
        best.unlink()
    if _readable(last):
        return last
    if _readable(previous):
        if last.exists():
            warnings.warn(f"{last}: damaged, so training goes on from {previous.name}", DataWarning, stacklevel=2)
        os.replace(previous, last)
        return last
    if last.exists() or previous.exists():
        raise ModelError(f"{last}: cannot be read as a checkpoint; start anew with --overwrite")
    return None


def _readable(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except Exception:  # a damaged file makes torch.load raise almost anything
        return False
    return True


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What Lightning has saved; nothing in it is run."""
    return torch.load(path, map_location="cpu", weights_only=True)


def checkpoint_weights(path: Path) -> dict[str, torch.Tensor]:
    """The network's weights, by name."""
    state = load_checkpoint(path)["state_dict"]
    return {name.removeprefix("network."): weight for name, weight in state.items() if name.startswith("network.")}
