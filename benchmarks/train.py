"""Images a second of `geoseg train`, beside the bare optimiser step and beside torchgeo's trainer.

Usage: python benchmarks/train.py [CHIPS] [--steps 40] [--rounds 3] [--train "--width 24 --batch-size 8"]

CHIPS is a folder of `geoseg tile --split 1:0:0`, since validation is no part of this; made from the sample data if not
given. In each round, one after the other, at the same precision and with the same network:

    geoseg     `geoseg.train`, everything included: reading, augmentation, history, checkpoints
    bare       forward, loss, backward and optimiser on batches that lie ready in memory
    torchgeo   its SemanticSegmentationTask with the network put in, cross entropy, its scaling and flips; chips read by
               rasterio each time; left out where torchgeo is not installed

The clock starts when the first step has ended. Printed are images per second of the wall and of the processor, medians over
the rounds; ratios are medians of each round's own, and those of processor time are steadier where other work runs beside it.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from accuracy import parse_options
from peers import PeerChips, quiet_lightning, torchgeo_peer

import geoseg
from geoseg.bundle import Bundle
from geoseg.chips import ChipFolder, open_chips
from geoseg.losses import create_loss, parse_class_weights
from geoseg.optimisation import create_optimizer

SAMPLE = Path(__file__).parents[1] / "sample_data"


class Rate(NamedTuple):
    """Images per second of the wall, and of the processor."""

    wall: float
    processor: float


class Clock:
    """Notes when steps end."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, float, int]] = []

    def step(self, images: int) -> None:
        """A step with so many images has ended."""
        self._steps.append((time.perf_counter(), time.process_time(), images))

    def rate(self) -> Rate:
        """Images per second from the end of the first step to that of the last."""
        images = sum(images for _, _, images in self._steps[1:])
        first, last = self._steps[0], self._steps[-1]
        return Rate(images / (last[0] - first[0]), images / (last[1] - first[1]))


def train_geoseg(chips: ChipFolder, options: dict[str, Any]) -> tuple[Bundle, Clock]:
    """Train as a user would, into a folder that is gone afterwards."""
    clock = Clock()
    size = options.get("batch_size", 0)
    with tempfile.TemporaryDirectory() as name:
        bundle = geoseg.train(chips.path, out=Path(name) / "model", progress=lambda *_: clock.step(size), **options)
    return bundle, clock


def bare_steps(chips: ChipFolder, bundle: Bundle, steps: int) -> Clock:
    """Nothing but the steps, on batches made before."""
    facts = bundle.training
    batches = _batches(chips, bundle)
    network = bundle.architecture.build().train().to(memory_format=torch.channels_last)
    weights = parse_class_weights(facts["class_weights"], chips.class_pixels("train").tolist())
    loss = create_loss(facts["loss"], class_weights=weights)
    optimizer = create_optimizer(
        facts["optimizer"], network.parameters(), lr=facts["lr"], weight_decay=facts["weight_decay"]
    )
    clock = Clock()
    for step in range(steps):
        images, masks = batches[step % len(batches)]
        with torch.autocast("cpu", torch.bfloat16, enabled=facts["precision"] == "bf16"):
            value = loss(network(images), masks)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        clock.step(len(images))
    return clock


def _batches(chips: ChipFolder, bundle: Bundle) -> list[tuple[torch.Tensor, torch.Tensor]]:
    size, crop = bundle.training["batch_size"], bundle.training["crop"] or chips.image.chip_size
    batches = []
    own = chips.of("train")
    for start in range(0, len(own) - size + 1, size):
        images, masks = [], []
        for chip in own[start : start + size]:
            pixels, valid, mask = chips.read(chip)
            images.append(bundle.image.normalise(pixels, valid)[:, :crop, :crop])
            masks.append(mask[:crop, :crop].astype(np.int64))
        stacked = torch.from_numpy(np.stack(images)).contiguous(memory_format=torch.channels_last)
        batches.append((stacked, torch.from_numpy(np.stack(masks))))
    return batches


def train_torchgeo(chips: ChipFolder, bundle: Bundle, steps: int) -> Clock:
    """torchgeo's trainer with our network."""
    peer = torchgeo_peer(chips)
    peer.task.model = bundle.architecture.build()
    peer.task.monitor = "train_loss"  # there is no validation
    ticking = _Ticking()
    with tempfile.TemporaryDirectory() as name:
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, precision="bf16-mixed" if bundle.training["precision"] == "bf16" else 32,
            limit_val_batches=0, callbacks=[ticking], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=name,
        )  # fmt: skip
        trainer.fit(peer.task, datamodule=PeerChips(chips, peer, bundle.training["batch_size"]))
    return ticking.clock


class _Ticking(lightning.Callback):
    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.clock.step(len(batch["mask"]))


def compare(chips: ChipFolder, options: dict[str, Any], steps: int, rounds: int) -> None:
    """Measure in turn, and print a line per round and a table of medians."""
    bundle, _ = train_geoseg(chips, options | {"epochs": 1})
    facts = bundle.training
    size = facts["batch_size"]
    epochs = math.ceil(steps / max(facts["chips"]["train"] // size, 1))
    whole = options | {"epochs": epochs, "batch_size": size}
    print(f"{bundle.architecture.arch}, {sum(p.numel() for p in bundle.architecture.build().parameters()):,} weights, "
          f"batches of {size} x {len(bundle.image.bands)} x {facts['crop'] or chips.image.chip_size} squared, "
          f"{facts['precision']}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    runs: dict[str, Callable[[], Clock]] = {
        "geoseg": lambda: train_geoseg(chips, whole)[1],
        "bare": lambda: bare_steps(chips, bundle, steps),
    }
    if find_spec("torchgeo"):
        runs["torchgeo"] = lambda: train_torchgeo(chips, bundle, steps)
    rates: dict[str, list[Rate]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            rates[name].append(run().rate())
        found = ", ".join(f"{name} {each[-1].wall:.2f} ({each[-1].processor:.2f})" for name, each in rates.items())
        print(f"round {number + 1}: {found} images/s (per CPU second), load {os.getloadavg()[0]:.1f}", flush=True)
    print("\n| | images/s | per CPU second | geoseg is, of it | by CPU time |\n|---|---|---|---|---|")
    for name, each in rates.items():
        wall, processor = np.median(each, axis=0)
        shares = 100 * np.median(np.array(rates["geoseg"]) / np.array(each), axis=0)
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {shares[0]:.1f} % | {shares[1]:.1f} % |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chips", nargs="?", type=Path, help="of geoseg tile --split 1:0:0")
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", default="", help="options of geoseg train")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    quiet_lightning()
    with tempfile.TemporaryDirectory() as name:
        path = given.chips or Path(name) / "chips"
        if given.chips is None:
            geoseg.tile(
                SAMPLE / "scene.tif", labels=SAMPLE / "labels.gpkg", class_field="class", split="1:0:0", out=path
            )
        chips = open_chips(path)
        if chips.of("val"):
            raise SystemExit(f"{path}: validation chips found, which take time; make the chips with --split 1:0:0")
        compare(chips, {"device": "cpu"} | parse_options("train", given.train), given.steps, given.rounds)


if __name__ == "__main__":
    main()
