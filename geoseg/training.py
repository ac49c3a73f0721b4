"""The verb `train`: a chip folder to a model bundle."""

from __future__ import annotations

import csv
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from matplotlib.figure import Figure

from geoseg.bundle import CARD, CURVES, HISTORY, WEIGHTS, Bundle, open_bundle, write_bundle
from geoseg.checkpoints import LAST, PREVIOUS, find_checkpoint
from geoseg.chips import ChipFolder
from geoseg.choices import Logger, Padding, Precision, Sampling, Scaling, refuse_below
from geoseg.devices import choose_device, choose_precision, precision_name
from geoseg.errors import DataWarning, Faults, GeosegError, InputError, LearningError, ModelError, OutputExistsError
from geoseg.figures import draw_curves
from geoseg.files import publish, refuse_existing, stage, write_json
from geoseg.fitting import Fitted, Machine, fit
from geoseg.learning import REMEDY, SegmentationTask
from geoseg.pictures import open_samples
from geoseg.plan import Lesson, make_plan, prepare, read_plan
from geoseg.progress import Progress, silent
from geoseg.reach import measure_reach
from geoseg.split import SPLITS

_REACH_CHIPS = 6
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
_PLAN = "run.json"
_LARGEST_AUTO_BATCH = 64


def train(
    chips: str | Path = "chips",
    *,
    out: str | Path = "model",
    recipe: str = "default",
    arch: str | None = None,
    width: int | None = None,
    encoder: str | None = None,
    encoder_weights: str | Path | None = None,
    freeze_encoder: bool | None = None,
    padding: Padding | None = None,
    dropout: float | None = None,
    scale: Scaling | None = None,
    loss: str | None = None,
    class_weights: str | Sequence[float] | None = None,
    optimizer: str | None = None,
    schedule: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    epochs: int | None = None,
    batch_size: int | str | None = None,
    accumulate: int | None = None,
    augment: str | None = None,
    crop: int | None = None,
    sampling: Sampling | None = None,
    ema: float | None = None,
    early_stop: int | None = None,
    gradient_clip: float | None = None,
    save_every: int | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    max_time: str | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    devices: int = 1,
    workers: int | None = None,
    deterministic: bool = False,
    logger: Logger = "csv",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Train a network on chips; the epoch with the best mean IoU on the validation chips is kept.

    Ctrl-C keeps the best epoch so far: the bundle is written, then `KeyboardInterrupt` goes on its way. After each epoch
    a checkpoint stands in the folder `checkpoints` of the model; it goes when the run has ended by itself.

    Args:
        chips: a folder made by `tile`, or of image and mask pairs made elsewhere.
        out: the model bundle.
        recipe: a whole set-up by name; each option down to `save_every` overrides it.
        arch: `unet`, `fcn8s`, ..., or any architecture of segmentation-models-pytorch (`unet++`, `deeplabv3plus`, ...).
        width: channels of the first stage of `unet`.
        encoder: of every architecture but `unet`.
        encoder_weights: `none`, `imagenet`, or a file of weights.
        freeze_encoder: leave the encoder as it is.
        padding: `reflect` or `zeros`, at the borders of every convolution.
        dropout: probability, 0 to 1.
        scale: `dataset`, `unit`, `percentile` or `imagenet`; None keeps the chips' own.
        loss: `ce`, `bce` (a network of one channel), `dice`, ..., or a sum such as `ce+dice`; see `create_loss`.
        class_weights: `none`, `auto` (rare classes count for more), or a number per class, as a list or a text such as `1,2.5`.
        optimizer: `adamw`, `adam`, or `sgd:0.9` with its momentum.
        schedule: `onecycle`, `cosine:0.01`, `poly`, `step:20:0.5` or `constant`, also after `warmup:5+` (epochs).
        lr: highest learning rate.
        weight_decay: of the optimiser.
        epochs: passes over the training chips.
        batch_size: chips a step; `auto` takes what fits into the memory of a GPU.
        accumulate: steps whose gradients are added up before the weights change.
        augment: a sum of `flips`, `d4`, `photometric`, ..., or `none`; see `parse_augment`.
        crop: rows and columns cut at random from a chip; 0 takes the whole chip.
        sampling: `uniform`, or `balanced` to draw chips with rare classes more often.
        ema: decay of a moving average of the weights, which is what is judged and kept; 0 is none.
        early_stop: end after so many epochs without a better mean IoU; 0 never does.
        gradient_clip: largest norm of the gradient; 0 is none.
        save_every: keep the weights of every so many epochs as well; 0 keeps the best only.
        init: a bundle to start from; its network, its scaling of the bands and its weights are taken over. It stays: `out` is
            another folder.
        resume: go on with a run that was cut off, with the options it had.
        max_time: DD:HH:MM:SS after which training ends, with a whole bundle if an epoch was over by then.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        devices: how many, each with a process and batches of its own.
        workers: processes that read chips; None chooses.
        deterministic: only algorithms that give the same weights each time.
        logger: `csv`, or `tensorboard` beside it.
        seed: of the weights, the order of chips, augmentation and dropout.
        overwrite: replace an earlier bundle, or what an unfinished run has left.
        progress: called after each step.

    Returns:
        The bundle.

    Raises:
        LearningError: the loss is no longer a number; the best epoch before that is kept, if there was one.
        GeosegError: bad input; nothing is left behind.
    """
    options: dict[str, Any] = {
        "encoder_weights": None if encoder_weights is None else str(encoder_weights),
        "batch_size": None if batch_size == "auto" else batch_size,
        "arch": arch, "width": width, "encoder": encoder, "freeze_encoder": freeze_encoder, "padding": padding,
        "dropout": dropout, "scale": scale, "loss": loss, "class_weights": _as_text(class_weights), "optimizer": optimizer,
        "schedule": schedule, "lr": lr, "weight_decay": weight_decay, "epochs": epochs, "accumulate": accumulate,
        "augment": augment, "crop": crop, "sampling": sampling, "ema": ema, "early_stop": early_stop,
        "gradient_clip": gradient_clip, "save_every": save_every,
    }  # fmt: skip
    out, faults = Path(out), Faults()
    checkpoints = out / CHECKPOINTS
    unfinished = (checkpoints / _PLAN).exists()
    resumed = resume and unfinished
    with faults.collect():
        for option, given in (("the chips", chips), ("--init", init)):
            if given is not None and out.resolve() == Path(given).resolve():
                raise InputError(f"--out {out}: is the folder of {option}, which is never written to; choose another")
        _refuse_earlier(out, unfinished, resume, resumed or overwrite)
    with faults.collect():
        folder = open_samples(chips, progress=progress)
        _refuse_empty(folder)
    refuse_below(0, faults, seed=seed, workers=workers)
    with faults.collect():
        processor = choose_device(device)
        machine = Machine(
            processor, _checked_devices(processor, devices), choose_precision(processor, precision), workers,
            deterministic, _checked_time(max_time), out / TENSORBOARD if logger == "tensorboard" else None,
        )  # fmt: skip
    faults.raise_any()
    automatic = batch_size == "auto"
    if automatic:
        options["batch_size"] = _largest_batch(folder, machine)
    if resumed:
        plan = read_plan(checkpoints / _PLAN, folder, options, recipe=recipe, init=init, seed=seed)
    else:
        plan = make_plan(recipe, options, init, seed)
    if resume and not unfinished:
        warnings.warn(f"{out}: no unfinished run is here, so a new one begins", DataWarning, stacklevel=2)
    lesson = prepare(plan, folder)
    with stage(out, last=CARD, replaces=_earlier_files(out), overwrite=overwrite or resumed) as staging:
        lesson, fitted = _fit(lesson, machine, checkpoints, resumed, automatic, progress)
        try:
            _write(staging, lesson, fitted, machine)
        except LearningError:  # nothing to go on with
            _clear(checkpoints)
            raise
    if fitted.finished or isinstance(fitted.interruption, LearningError):
        _clear(checkpoints)
    if fitted.interruption is not None:
        raise _told(fitted.interruption, f"{out} holds epoch {fitted.best + 1}, the best so far")
    return open_bundle(out)


def _as_text(weights: str | Sequence[float] | None) -> str | None:
    return weights if weights is None or isinstance(weights, str) else ",".join(map(str, weights))


def _told(interruption: BaseException, kept: str) -> BaseException:
    """What ended a run before its time, with what there is of it."""
    if isinstance(interruption, LearningError):
        told = LearningError(f"{interruption}; {kept}")
        told.__cause__ = interruption
        return told
    kept += "; --resume goes on with the run"
    if isinstance(interruption, KeyboardInterrupt):
        return KeyboardInterrupt(kept)
    interruption.add_note(kept)
    return interruption


def _refuse_earlier(out: Path, unfinished: bool, resume: bool, allowed: bool) -> None:
    if unfinished and not allowed:
        raise OutputExistsError(
            f"{out}: a run is here that is unfinished, or still going on; go on with it by --resume, or begin anew with "
            "--overwrite"
        )
    if resume and not allowed and (out / CARD).exists():
        raise OutputExistsError(
            f"{out}: this run has ended, nothing is left to go on with; to learn more, train from it with --init {out} "
            "--out OTHER"
        )
    refuse_existing([out / name for name in (CARD, WEIGHTS, HISTORY, CURVES)], allowed)


def _refuse_empty(folder: ChipFolder) -> None:
    for split in ("train", "val"):
        if folder.of(split) and not folder.class_pixels(split).any():
            raise InputError(
                f"{folder.path}: no labelled pixel in the {split} chips; cut them from other scenes or labels"
            )
    told = [folder.legend.names[index] for index in np.flatnonzero(folder.class_pixels("train"))]
    if len(told) == 1:
        raise InputError(
            f"{folder.path}: the training chips hold nothing but {told[0]}, so there is nothing to tell it from; tile with "
            f"--unlabelled background, or with labels of more classes"
        )
    if not folder.of("train"):
        raise InputError(f"{folder.path}: no training chips found; cut them with another --split")
    if not folder.of("val"):
        warnings.warn(
            f"{folder.path}: no validation chips, so the last epoch is kept, not the best", DataWarning, stacklevel=3
        )


def _checked_time(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text):
        raise InputError(f"--max-time {text}: days, hours, minutes and seconds are needed, such as 00:00:20:00")
    return text


def _checked_devices(device: torch.device, devices: int) -> int:
    there = {"cpu": os.cpu_count() or 1, "cuda": torch.cuda.device_count()}.get(device.type, 1)
    if not 1 <= devices <= there:
        raise ModelError(f"--devices {devices}: 1 to {there} are possible with --device {device.type}")
    return devices


def _largest_batch(folder: ChipFolder, machine: Machine) -> int | None:
    """The batch to try first on a GPU: eight steps an epoch at least. A CPU is as fast with small ones."""
    if machine.device.type == "cpu":
        return None
    chips = len(folder.of("train")) // 8
    return max(1, min(_LARGEST_AUTO_BATCH, 2 ** max(chips.bit_length() - 1, 0)))


def _fit(
    lesson: Lesson, machine: Machine, checkpoints: Path, resumed: bool, automatic: bool, progress: Progress
) -> tuple[Lesson, Fitted]:
    """Train, with half the batch where it does not fit into memory: with twice the `accumulate` where the user has chosen the batch.

    Returns:
        The lesson as it was learned in the end, and what was learned.
    """
    if not resumed:
        _clear(checkpoints, kept="")
        checkpoints.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            plan, folder = lesson.plan, lesson.folder
            with publish(checkpoints / _PLAN, overwrite=True) as partial:  # another run may look at it at any moment
                write_json(partial, plan.to_dict(folder))
            begun = find_checkpoint(checkpoints) if resumed else None
            network = lesson.network(blank=begun is not None)
            task = SegmentationTask(network, lesson.loss, folder.legend, plan.recipe, plan.seed)
            try:
                return lesson, fit(
                    task, folder, lesson.image, plan.recipe, machine, checkpoints, seed=plan.seed, begun=begun,
                    progress=progress,
                )  # fmt: skip
            except torch.OutOfMemoryError:
                lesson = _halved(lesson, automatic)
    except BaseException:
        if not any((checkpoints / name).exists() for name in (LAST, PREVIOUS)):
            _clear(checkpoints)
        raise


def _halved(lesson: Lesson, automatic: bool) -> Lesson:
    recipe = lesson.plan.recipe
    size = recipe.batch_size // 2
    if size < 1:
        raise ModelError("--batch-size 1 does not fit into memory; use a smaller --crop, --width or --encoder")
    accumulate = recipe.accumulate if automatic else 2 * recipe.accumulate
    if not automatic:
        warnings.warn(
            f"--batch-size {recipe.batch_size} does not fit into memory, so training goes on with {size} and "
            f"--accumulate {accumulate}", DataWarning, stacklevel=3,
        )  # fmt: skip
    smaller = recipe.override(batch_size=size, accumulate=accumulate)
    return replace(lesson, plan=replace(lesson.plan, recipe=smaller))


def _clear(checkpoints: Path, *, kept: str = ".safetensors") -> None:
    """Take away what a run goes on from, and, of an earlier run, the weights of `--save-every`."""
    if not checkpoints.is_dir():
        return
    for path in checkpoints.iterdir():
        ours = path.suffix in (".ckpt", ".part", ".safetensors") or path.name == _PLAN
        if path.is_file() and ours and path.suffix != kept:
            path.unlink()
    if not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _earlier_files(out: Path) -> list[str]:
    try:
        open_bundle(out)
    except GeosegError:
        return []
    return [WEIGHTS, HISTORY, CURVES]


def _write(staging: Path, lesson: Lesson, fitted: Fitted, machine: Machine) -> None:
    plan, rows = lesson.plan, fitted.rows
    _write_history(staging / HISTORY, rows)
    figure = Figure(figsize=(10, 4), layout="constrained")
    draw_curves(figure, rows)
    figure.savefig(staging / CURVES, dpi=120)
    best = fitted.best
    facts = {
        "recipe": plan.recipe_name, **plan.recipe.to_dict(),
        "crop": plan.recipe.crop_of(lesson.folder.image.chip_size), "init": plan.init and Path(plan.init).name,
        "seed": plan.seed, "precision": precision_name(machine.dtype), "device": machine.device.type,
        "devices": machine.devices, "epochs_run": len(rows), "best_epoch": best + 1,
        "stopped": isinstance(fitted.interruption, KeyboardInterrupt | SystemExit),
        "seconds": round(sum(row["seconds"] for row in rows), 1), "versions": _versions(),
        "chips": {split: len(lesson.folder.of(split)) for split in SPLITS}, "chips_sha256": lesson.folder.fingerprint,
        "ground": lesson.folder.ground("train", "val"), "boundary": lesson.folder.facts["options"].get("boundary"),
    }  # fmt: skip
    write_bundle(
        staging, fitted.weights, architecture=lesson.architecture, image=lesson.image, legend=lesson.folder.legend,
        training=facts, metrics=fitted.scores[best] if fitted.scores else {}, reach=_reach(lesson, fitted.weights),
    )  # fmt: skip


def _reach(lesson: Lesson, weights: dict[str, torch.Tensor]) -> dict[int, float]:
    """How far the network looks, on some chips spread over those it has learned from.

    Raises:
        LearningError: what it says of them are no numbers.
    """
    network = lesson.architecture.build().eval()
    network.load_state_dict(weights)
    chips = lesson.folder.of("train")
    pixels = (lesson.folder.read(chip)[:2] for chip in chips[:: -(-len(chips) // _REACH_CHIPS)])
    images = [torch.from_numpy(lesson.image.normalise(*image)) for image in pixels]
    with torch.inference_mode():
        if not all(torch.isfinite(network(image[None])).all() for image in images):
            raise LearningError(
                f"the last step has ruined the network: it tells no number of a training chip; {REMEDY}"
            )
    return measure_reach(network, images)


def _write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _versions() -> dict[str, Any]:
    return {"python": sys.version.split()[0], "torch": str(torch.__version__), "lightning": lightning.__version__}
