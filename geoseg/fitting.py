"""One run of Lightning's trainer over chips: what it is given, what it leaves on disk to go on from, and how it ends."""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer, WeightAveraging
from torch.multiprocessing import ProcessRaisedException
from torch.optim.swa_utils import get_ema_multi_avg_fn

from geoseg.augment import parse_augment
from geoseg.checkpoints import BEST, LAST, Checkpoints, checkpoint_weights, load_checkpoint
from geoseg.chips import ChipFolder
from geoseg.devices import out_of_memory
from geoseg.errors import DataWarning, LearningError, ModelError
from geoseg.extras import refuse_missing
from geoseg.interruption import heed
from geoseg.learning import History, SegmentationTask
from geoseg.progress import Progress, silent
from geoseg.quieting import quiet_loggers
from geoseg.recipe import Recipe
from geoseg.samples import ChipDataset, training_loader, validation_loader
from geoseg.spec import ImageSpec

_PRECISIONS: dict[torch.dtype, Any] = {
    torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed",
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What a run is run on, none of which shall change what is learnt.

    Attributes:
        device: of the network.
        devices: how many of them, each with a process of its own.
        dtype: of the multiplications.
        workers: processes that read chips; None chooses.
        deterministic: only algorithms that give the same weights each time.
        max_time: DD:HH:MM:SS after which training ends.
        tensorboard: folder of TensorBoard's files; None for none.
    """

    device: torch.device
    devices: int
    dtype: torch.dtype
    workers: int | None
    deterministic: bool
    max_time: str | None
    tensorboard: Path | None


@dataclass(frozen=True)
class Fitted:
    """What a run has learnt.

    Attributes:
        weights: of the best epoch, by name.
        rows: the history, see `History`.
        scores: all validation scores of each epoch.
        best: index of the epoch that the weights are of.
        finished: whether no epoch is left to go on with.
        interruption: what ended it before its time, to be raised when the weights are safe.
    """

    weights: dict[str, torch.Tensor]
    rows: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    best: int
    finished: bool
    interruption: BaseException | None


class ChipModule(lightning.LightningDataModule):
    """The loaders, made in the process that uses them."""

    def __init__(self, folder: ChipFolder, image: ImageSpec, recipe: Recipe, workers: int, seed: int) -> None:
        super().__init__()
        self._recipe, self._workers = recipe, workers
        crop = recipe.crop_of(folder.image.chip_size)
        self._train = ChipDataset(
            folder, "train", image, augmentation=parse_augment(recipe.augment), crop=crop, seed=seed
        )
        self._val = ChipDataset(folder, "val", image)

    def train_dataloader(self) -> Any:
        # Lightning begins to iterate before it tells the sampler which epoch a resumed run is in.
        assert self.trainer is not None
        epoch = self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return training_loader(self._train, epoch=epoch, sampling=self._recipe.sampling, **self._shares())

    def val_dataloader(self) -> Any:
        return validation_loader(self._val, **self._shares())

    def _shares(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {
            "batch_size": self._recipe.batch_size, "workers": self._workers, "rank": self.trainer.global_rank,
            "ranks": self.trainer.world_size,
        }  # fmt: skip


class _Average:
    """The moving average of all weights at once, as torch computes it, in a form that can be sent to another process.

    The decay rises from 0.1 with the steps, as TensorFlow's `ExponentialMovingAverage` has it, so that the random weights of
    the beginning are soon forgotten, in a short run too.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay

    def __call__(self, average: Any, current: Any, count: Any) -> None:
        steps = float(count)
        get_ema_multi_avg_fn(min(self._decay, (1 + steps) / (10 + steps)))(average, current, count)


class _TimeLimit(Timer):
    """Counts the time of this process, not that of the run it goes on with: clusters give so much to each."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """End here where another epoch will not fit: one that is cut off is lost to a run that goes on."""
        if (self.time_remaining() or 0.0) < time.monotonic() - self._begun:
            trainer.should_stop = True


def fit(
    task: SegmentationTask, folder: ChipFolder, image: ImageSpec, recipe: Recipe, machine: Machine, checkpoints: Path, *,
    seed: int, begun: Path | None, progress: Progress,
) -> Fitted:  # fmt: skip
    """Train until the epochs, the time or the patience end, or something else does.

    Args:
        task: the network, changed by this.
        folder: the chips.
        image: how they are scaled.
        recipe: how to train.
        machine: on what.
        checkpoints: folder of the checkpoints, there already.
        seed: of everything random.
        begun: the checkpoint to go on from; None begins anew.
        progress: called after each step.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
        LearningError: it ended before an epoch was over.
    """
    on_gpu = machine.device.type == "cuda"
    # On a CPU the network wants every core; on a GPU reading must not keep it waiting.
    workers = machine.workers if machine.workers is not None else (min(8, os.cpu_count() or 1) if on_gpu else 0)
    chips = ChipModule(folder, image, recipe, workers, seed)
    validates = bool(folder.of("val"))
    history = History(progress if machine.devices == 1 else _sent(progress), validates=validates)
    earlier = 0 if begun is None else len(load_checkpoint(begun)["callbacks"][history.state_key]["rows"])
    callbacks = _callbacks(recipe, history, checkpoints, machine, validates)
    interruption: BaseException | None = None
    with _quiet_lightning():
        trainer = lightning.Trainer(
            accelerator="gpu" if on_gpu else machine.device.type,
            devices=_devices(machine), strategy="ddp_spawn" if machine.devices > 1 else "auto",
            use_distributed_sampler=False, precision=_PRECISIONS[machine.dtype], max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.gradient_clip or None, deterministic=machine.deterministic,
            limit_val_batches=None if validates else 0,
            callbacks=callbacks, logger=_logger(machine),
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            default_root_dir=checkpoints, log_every_n_steps=1,
        )  # fmt: skip
        try:
            trainer.fit(task, datamodule=chips, ckpt_path=begun, weights_only=True)
        except (SystemExit, KeyboardInterrupt) as stop:
            # Lightning turns Ctrl-C into exit(1); the exit of a SIGTERM handler passes as it is.
            interruption = KeyboardInterrupt() if isinstance(stop, SystemExit) and stop.code == 1 else stop
            _end_processes(trainer)
            heed()  # the best epoch so far is written all the same
        except LearningError as error:
            interruption = error
        except (RuntimeError, ValueError, ProcessRaisedException) as error:
            known = _known_trouble(error, recipe)
            if known is None:
                raise
            if not isinstance(known, LearningError):
                raise known from error
            interruption = known
    if not (checkpoints / BEST).exists():
        raise interruption or LearningError(
            "--max-time ended training before the first epoch was over, so there is no model; give it more time"
        )
    # Of several processes none is this one: what they have learned stands in their checkpoint.
    state = (
        history.state_dict()
        if machine.devices == 1
        else load_checkpoint(checkpoints / LAST)["callbacks"][history.state_key]
    )
    if machine.max_time and interruption is None and earlier == len(state["rows"]) < recipe.epochs:
        warnings.warn(
            f"--max-time ended this run before another epoch was over, so it has learned nothing; give it more than the "
            f"{state['rows'][-1]['seconds']:.0f} seconds of the last one", DataWarning, stacklevel=4,
        )  # fmt: skip
    finished = len(state["rows"]) >= recipe.epochs or _out_of_patience(callbacks, checkpoints, machine)
    best = int(load_checkpoint(checkpoints / BEST)["epoch"])
    return Fitted(checkpoint_weights(checkpoints / BEST), state["rows"], state["scores"], best, finished, interruption)


def _end_processes(trainer: lightning.Trainer) -> None:
    """End those of `devices`: of two that were told to stop, one may wait for the other for ever, and Python for both."""
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        process.kill()
        process.join()


def _out_of_patience(callbacks: Sequence[Any], checkpoints: Path, machine: Machine) -> bool:
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            if machine.devices == 1:
                return callback.stopped_epoch > 0
            return bool(load_checkpoint(checkpoints / LAST)["callbacks"][callback.state_key]["stopped_epoch"])
    return False


def _sent(progress: Progress) -> Progress:
    """What of the caller's progress another process can be given."""
    try:
        pickle.dumps(progress)
    except (pickle.PicklingError, TypeError, AttributeError):
        return silent
    return progress


def _devices(machine: Machine) -> Any:
    if machine.devices > 1 or machine.device.type != "cuda":
        return machine.devices
    return [machine.device.index or 0]


def _callbacks(
    recipe: Recipe, history: History, checkpoints: Path, machine: Machine, validates: bool
) -> list[lightning.pytorch.callbacks.Callback]:
    found: list[lightning.pytorch.callbacks.Callback] = [
        history,
        Checkpoints(checkpoints, save_every=recipe.save_every),
    ]
    if recipe.ema:
        found.append(WeightAveraging(multi_avg_fn=_Average(recipe.ema)))
    if machine.max_time:
        found.append(_TimeLimit(machine.max_time))
    if recipe.early_stop and validates:
        found.append(EarlyStopping("val_miou", patience=recipe.early_stop, mode="max", check_finite=False))
    return found


def _logger(machine: Machine) -> Any:
    if machine.tensorboard is None:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    refuse_missing("tensorboard", extra="tensorboard", asked="--logger tensorboard")
    return TensorBoardLogger(machine.tensorboard.parent, name=machine.tensorboard.name, version="")


def _known_trouble(error: Exception, recipe: Recipe) -> Exception | None:
    """What an error of torch's means to the user, where it means something."""
    text = str(error)
    if out_of_memory(error):
        return torch.OutOfMemoryError(text)
    if "Expected more than 1 value per channel" in text:
        return ModelError(
            f"--arch {recipe.arch} pools the whole chip into one pixel, which batch norm cannot learn from with "
            f"--batch-size {recipe.batch_size}; use 2 or more, and as many training chips"
        )
    if isinstance(error, ProcessRaisedException):
        kind, _, said = text.strip().splitlines()[-1].partition(": ")
        if kind == f"{LearningError.__module__}.{LearningError.__name__}":
            return LearningError(said)
        return LearningError(f"one of the --devices processes failed: {kind}: {said}")
    return None


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice to developers out of a user's terminal."""
    with quiet_loggers("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        for module in ("lightning", "torch"):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        yield
