"""`geoseg predict` beside the inference of other packages and beside the bare forward pass: same network, weights and scene.

Usage: python benchmarks/predict.py compare [--setting defaults|equal] [--rounds 3] [--methods geoseg,bare,monai]
       python benchmarks/predict.py overhead [--bundle MODEL] [--scene SCENE] [--size 8192] [--rounds 3]

`compare` times, from the scene's file to a class GeoTIFF on disk, geoseg and every package of `predict_peers.py` that is
installed, and `bare`: the forward pass alone over the windows that geoseg runs, in its precision, folded, channels last,
data in memory. `equal` gives all of them windows of 512, an overlap of 128 and batches of 4. `overhead` sets classes and
confidence against `bare`. Each run is a process of its own; they take turns, round by round.

Start-up (imports, the network made ready) is timed apart; geoseg's CPU seconds alone have part of it in them. Agreement is
the share of pixels whose class is that of geoseg's windows run in float32. Without --scene and --bundle a textured scene is
made, and a U-Net is trained on it for a minute or two; both are kept in --work. Fix the number of threads, with
OMP_NUM_THREADS, for figures that can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

TEXTURE = 2048
EQUAL = {"window": 512, "margin": 64, "batch_size": 4}  # as `EQUAL` of predict_peers.py
OWN = ("geoseg", "bare")

Request = dict[str, Any]
Work = Callable[[], None]

# torch is imported by the children alone: a child's peak memory is said to be no less than that of the process it came from.


def make_texture(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A scene (3, rows, cols) uint8 that repeats without a seam, and its two classes: 0 and 1, (rows, cols) uint8.

    The classes differ a little in brightness and in grain, as fields and scrub do; no pixel is 0, which some take for nodata.
    """
    rng = np.random.default_rng(seed)
    rows, cols = np.fft.fftfreq(TEXTURE)[:, None], np.fft.rfftfreq(TEXTURE)
    frequency = np.maximum(np.hypot(rows, cols), 1 / TEXTURE)

    def noise(power: float, lowest: float = 0.0) -> np.ndarray:
        spectrum = np.fft.rfft2(rng.normal(size=(TEXTURE, TEXTURE)))
        found = np.fft.irfft2(spectrum * frequency**-power * (frequency >= lowest))
        return (found - found.mean()) / found.std()

    classes = noise(2.5, 4 / TEXTURE) > 0
    bands = []
    for shift in (8, -6, 14):
        grain = np.where(classes, 26 * noise(0.0), 12 * noise(1.0))
        bands.append(118 + shift * classes + 14 * noise(1.5) + grain)
    return np.clip(np.stack(bands), 1, 255).astype(np.uint8), classes.astype(np.uint8)


def write_scene(request: Request) -> Work:
    """The texture, repeated over a deflated GeoTIFF in blocks of 512."""
    size = request["size"]

    def run() -> None:
        pixels, _ = make_texture()
        cols = np.tile(pixels, (1, 1, -(-size // TEXTURE)))[:, :, :size]
        profile = {"driver": "GTiff", "height": size, "width": size, "count": 3, "dtype": "uint8", "crs": "EPSG:32614",
                   "transform": Affine(10, 0, 500_000, 0, -10, 4_500_000), "tiled": True, "blockxsize": 512,
                   "blockysize": 512, "compress": "deflate", "photometric": "minisblack"}  # fmt: skip
        with rasterio.open(request["out"], "w", **profile) as scene:
            for row in range(0, size, TEXTURE):
                height = min(TEXTURE, size - row)
                scene.write(cols[:, :height], window=Window(0, row, size, height))

    return run


def train_bundle(request: Request) -> Work:
    """An smp U-Net that tells the classes of the texture apart, as a bundle; its inputs are bands / 255."""
    import torch
    from torch.nn.functional import cross_entropy

    from geoseg.bundle import write_bundle
    from geoseg.legend import make_legend
    from geoseg.models import Architecture
    from geoseg.spec import BandStatistics, ImageSpec, scale_bands

    folder = Path(request["out"])
    facts = BandStatistics(mean=120, std=0, min=0, max=255, p1=60, p99=190)
    bands = scale_bands([facts] * 3, names=["red", "green", "blue"], sources=[1, 2, 3], dtypes=["uint8"] * 3,
                        nodata=[None] * 3, scaling="unit")  # fmt: skip
    architecture = Architecture("smp-unet", request["encoder"], classes=2, padding="zeros", dropout=0.0)

    def run() -> None:
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        pixels, classes = make_texture()
        network = architecture.build().train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=request["steps"])
        for _ in range(request["steps"]):
            corners = rng.integers(0, TEXTURE - 128, (4, 2))
            cut = [np.s_[row : row + 128, col : col + 128] for row, col in corners]
            images = torch.from_numpy(np.stack([pixels[:, rows, cols] for rows, cols in cut])).float() / 255
            loss = cross_entropy(network(images), torch.from_numpy(np.stack([classes[at] for at in cut])).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        folder.mkdir(parents=True)
        write_bundle(
            folder, network.state_dict(), architecture=architecture, image=ImageSpec(bands, 3, 10.0, 128, "unit"),
            legend=make_legend([0, 1]), training={"best_epoch": 0, "epochs_run": 0, "loss": loss.item()}, metrics={},
        )  # fmt: skip

    return run


def run_geoseg(request: Request) -> Work:
    """`geoseg.predict` without polygons."""
    import geoseg

    options = (EQUAL if request["setting"] == "equal" else {}) | request["predict"]
    predict = geoseg.predict  # imported when it is asked for

    def run() -> None:
        predict(
            request["scene"], model=request["bundle"], out=request["out"], polygons=False, overwrite=True, device="cpu",
            **options,
        )  # fmt: skip

    return run


def read_grid(facts: dict[str, Any]) -> tuple[tuple[int, int], int, int]:
    """Core, margin and batch size that a run file speaks of."""
    found = facts["grid"]
    return tuple(found["core"]), found["margin"], found["batch_size"]


def read_seconds(facts: dict[str, Any]) -> tuple[float, float]:
    """Seconds of start-up (bundle opened, network loaded and folded) and of the final COG step, by a run file."""
    seconds = facts["seconds"]
    return seconds.get("start", seconds.get("load", 0)), seconds.get("cog", seconds.get("join", 0))


def read_batches(request: Request) -> tuple[list[Any], list[Any]]:
    """The tiles that geoseg ran, and what they show: batches of normalised pixels, float32 (batch, bands, rows, cols)."""
    import torch

    from geoseg.bundle import open_bundle
    from geoseg.grid import grid

    core, margin, size = read_grid(request["facts"])
    image = open_bundle(request["bundle"]).image
    with rasterio.open(request["scene"]) as scene:
        pixels, valid = scene.read(list(image.sources)), scene.dataset_mask() > 0
    tiles = list(grid(*valid.shape, core, margin))
    around = [(margin, margin + -length % part) for length, part in zip(valid.shape, core, strict=True)]
    pixels, valid = np.pad(pixels, [(0, 0), *around], mode="reflect"), np.pad(valid, around, mode="reflect")
    shown = []
    for tile in tiles:
        row, col = tile.core.row_off, tile.core.col_off
        rows, cols = slice(row, row + tile.read.height), slice(col, col + tile.read.width)
        shown.append(torch.from_numpy(image.normalise(pixels[:, rows, cols], valid[rows, cols])))
    return tiles, [torch.stack(shown[start : start + size]) for start in range(0, len(tiles), size)]


def make_engine(request: Request, precision: str, engine: str) -> Any:
    """What geoseg runs batches with."""
    import torch

    from geoseg.bundle import open_bundle
    from geoseg.engines import OpenVinoEngine, TorchEngine

    bundle = open_bundle(request["bundle"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if engine == "openvino":
        return OpenVinoEngine(bundle.network(), bundle.weights_sha256, dtype)
    return TorchEngine(bundle.network(), torch.device("cpu"), dtype)


def run_bare(request: Request) -> Work:
    """The forward pass over batches in memory, in the engine's own dtype and layout; the first has been run before."""
    import torch

    facts = request["facts"]
    kind = facts.get("engine") or facts["options"].get("engine") or "torch"
    engine = make_engine(request, facts["precision"], kind)
    _, batches = read_batches(request)
    if kind == "torch":
        batches = [batch.to(engine.dtype, memory_format=torch.channels_last) for batch in batches]
    engine(batches[0])

    def run() -> None:
        for batch in batches:
            engine(batch)

    return run


def run_reference(request: Request) -> Work:
    """Class indices of the same windows in float32, as a GeoTIFF without a place."""
    from geoseg.grid import slices
    from geoseg.models import class_logits

    engine = make_engine(request, "fp32", "torch")

    def run() -> None:
        tiles, batches = read_batches(request)
        with rasterio.open(request["scene"]) as scene:
            indices = np.zeros(scene.shape, np.uint8)
        found = (part for batch in batches for part in class_logits(engine(batch)).argmax(1).numpy())
        for tile, part in zip(tiles, found, strict=True):
            window = tile.core
            rows, cols = (
                slice(window.row_off, window.row_off + window.height),
                slice(window.col_off, window.col_off + window.width),
            )
            indices[rows, cols] = part[slices(window, tile.read)]
        height, width = indices.shape
        with rasterio.open(
            request["out"], "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", compress="deflate"
        ) as dataset:
            dataset.write(indices, 1)

    return run


def run_peer(request: Request) -> Work:
    """A package of `predict_peers.py`."""
    from predict_peers import PEERS, make_job

    return PEERS[request["method"]].prepare(make_job(request))


def find_peers(request: Request) -> Work:
    """The versions of the packages, None of those that are not installed."""
    from importlib.metadata import version
    from importlib.util import find_spec

    from predict_peers import PEERS

    def run() -> None:
        request["facts"] = {
            name: version(peer.package) if find_spec(peer.module.partition(".")[0]) else None
            for name, peer in PEERS.items()
        }

    return run


WORKS = {
    "scene": write_scene, "train": train_bundle, "peers": find_peers,
    "geoseg": run_geoseg, "bare": run_bare, "reference": run_reference,
}  # fmt: skip


def answer(request: Request, works: dict[str, Callable[[Request], Work]]) -> None:
    """Do a child's work, and write down how long it took."""
    warnings.simplefilter("ignore")
    work = works.get(request["method"], run_peer)(request)
    ready, processor = time.monotonic(), _processor_seconds()
    work()
    found = {
        "start": ready - request["asked"], "seconds": time.monotonic() - ready,
        "cpu": _processor_seconds() - processor, "facts": request.get("facts"),
    }  # fmt: skip
    Path(request["answer"]).write_text(json.dumps(found))


def _processor_seconds() -> float:
    """Of this process and those that it has waited for."""
    return sum(os.times()[:4])


def ask(script: str, request: Request) -> dict[str, Any]:
    """Have a process of its own do something.

    Returns:
        Seconds of start-up, of the work, of the processor in it, the peak memory in MiB of the process, and facts.

    Raises:
        RuntimeError: the last line of what it complained about.
    """
    with tempfile.TemporaryDirectory() as name:
        told, complaints = Path(name) / "answer.json", Path(name) / "stderr"
        request = request | {"asked": time.monotonic(), "answer": str(told)}
        with complaints.open("w") as stderr:
            child = subprocess.Popen(
                [sys.executable, script, "one", json.dumps(request)], stdout=subprocess.DEVNULL, stderr=stderr
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError((complaints.read_text().strip().splitlines() or [f"exit {child.returncode}"])[-1])
        return json.loads(told.read_text()) | {"peak_mib": usage.ru_maxrss / 1024}


def prepare(options: argparse.Namespace) -> Request:
    """The scene and the network, made where they are not given and not there."""
    options.work.mkdir(parents=True, exist_ok=True)
    scene = options.scene or options.work / f"scene_{options.size}.tif"
    bundle = options.bundle or options.work / options.encoder
    if options.scene is None and not scene.exists():
        ask(__file__, {"method": "scene", "out": str(scene), "size": options.size})
    if options.bundle is None and not bundle.exists():
        found = ask(
            __file__, {"method": "train", "out": str(bundle), "encoder": options.encoder, "steps": options.steps}
        )
        print(f"trained {bundle} in {found['seconds']:.0f} s")
    with rasterio.open(scene) as dataset:
        print(f"{scene.name}: {dataset.height} x {dataset.width}, {dataset.count} bands {dataset.dtypes[0]}; "
              f"{bundle}; threads {os.environ.get('OMP_NUM_THREADS', 'as they come')}, "
              f"cores {sorted(os.sched_getaffinity(0))}")  # fmt: skip
    return {"scene": str(scene), "bundle": str(bundle), "predict": json.loads(options.predict)}


def run_once(method: str, base: Request, folder: Path) -> dict[str, Any]:
    """One run of one method; of geoseg, its opening, loading and folding count as start-up."""
    out = folder / ("geoseg" if method == "geoseg" else f"{method}.tif")
    found = ask(__file__, base | {"method": method, "out": str(out)})
    if method == "geoseg":
        found["facts"] = json.loads((out / f"{Path(base['scene']).stem}_run.json").read_text())
        start, _ = read_seconds(found["facts"])
        found |= {"start": found["start"] + start, "seconds": found["seconds"] - start, "call": found["seconds"]}
    return found


def run_rounds(methods: Sequence[str], base: Request, folder: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """All methods in turn, round by round; one that fails is said and left out."""
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(rounds):
        print(f"round {number + 1}, load {' '.join(f'{load:.2f}' for load in os.getloadavg())}:", end="", flush=True)
        for method in list(runs):
            try:
                runs[method].append(run_once(method, base, folder))
            except RuntimeError as error:
                if method in OWN:
                    raise SystemExit(f"{method}: {error}") from None
                del runs[method]
                print(f" [{method} failed: {error}]", end="", flush=True)
                continue
            if method == "geoseg":
                base = base | {"facts": runs[method][-1]["facts"]}
            print(f" {method} {runs[method][-1]['seconds']:.2f}", end="", flush=True)
        print()
    return runs


def agreement(path: Path, reference: Path, bundle: str) -> float:
    """Share of pixels of the class that the reference has; a map of geoseg's holds class values."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # the reference has no place
    with rasterio.open(path) as found, rasterio.open(reference) as expected:
        indices, wanted = found.read(1), expected.read(1)
    if path.parent.name == "geoseg":
        from geoseg.legend import Legend

        indices = Legend.from_list(json.loads((Path(bundle) / "model.json").read_text())["legend"]).to_indices(indices)
    return float((indices == wanted).mean())


def median(runs: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.median([run[name] for run in runs]))


def compare(options: argparse.Namespace) -> None:
    """Print a line per round and a table of medians."""
    base = prepare(options) | {"setting": options.setting}
    versions = ask(__file__, {"method": "peers"})["facts"]
    missing = [name for name, version in versions.items() if version is None]
    print(f"{options.setting}; " + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
          + (f"; not installed: {', '.join(missing)}" if missing else ""))  # fmt: skip
    methods = options.methods.split(",") if options.methods else [*OWN, *(set(versions) - set(missing))]
    known = [*OWN, *versions]
    if unknown := set(methods) - set(known):
        raise SystemExit(f"--methods {','.join(sorted(unknown))}: needed are some of {','.join(known)}")
    methods = ["geoseg", *sorted(set(methods) - {"geoseg"}, key=known.index)]  # the others need its windows
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        runs = run_rounds(methods, base, folder, options.rounds)
        facts = runs["geoseg"][-1]["facts"]
        reference = folder / "reference.tif"
        ask(__file__, base | {"method": "reference", "out": str(reference), "facts": facts})
        stem = Path(base["scene"]).stem
        maps = {method: folder / f"{method}.tif" for method in runs} | {
            "geoseg": folder / "geoseg" / f"{stem}_classes.tif"
        }
        shares = {method: agreement(maps[method], reference, base["bundle"]) for method in runs if method != "bare"}
    print_table(runs, shares)
    (core, margin, size), (_, cog) = read_grid(facts), read_seconds(facts)
    print(f"\ngeoseg: {facts['precision']}, cores of {core[0]} x {core[1]}, margin {margin}, batches of {size}; "
          f"COG {cog:.2f} s of its wall; load {os.getloadavg()[0]:.2f}")  # fmt: skip
    save(options, {"setting": options.setting, "versions": versions, "agreement": shares, "runs": runs})


def print_table(runs: dict[str, list[dict[str, Any]]], shares: dict[str, float]) -> None:
    """Medians over the rounds; ratios are medians of each round's own."""
    print("\n| | wall s | x geoseg | CPU s | peak MiB | start-up s | agreement % |\n|---|---|---|---|---|---|---|")
    for method, each in runs.items():
        ratio = np.median([run["seconds"] / own["seconds"] for run, own in zip(each, runs["geoseg"], strict=True)])
        share = f"{100 * shares[method]:.3f}" if method in shares else ""
        print(f"| {method} | {median(each, 'seconds'):.2f} | {ratio:.2f} | {median(each, 'cpu'):.2f} "
              f"| {median(each, 'peak_mib'):.0f} | {median(each, 'start'):.1f} | {share} |")  # fmt: skip


def overhead(options: argparse.Namespace) -> None:
    """geoseg's wall by the bare forward pass's."""
    base = prepare(options) | {"setting": "defaults"}
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        runs = run_rounds(OWN, base, Path(name), options.rounds)
    print(
        "\n| round | geoseg s | start-up s | COG s | without both s | bare s | ratio | ratio with COG |\n|---"
        + "|---" * 7
        + "|"
    )
    ratios = []
    for number, (own, bare) in enumerate(zip(runs["geoseg"], runs["bare"], strict=True), 1):
        _, cog = read_seconds(own["facts"])
        work = own["seconds"] - cog
        ratios.append((work / bare["seconds"], own["seconds"] / bare["seconds"]))
        print(f"| {number} | {own['call']:.2f} | {own['call'] - own['seconds']:.2f} | {cog:.2f} | {work:.2f} "
              f"| {bare['seconds']:.2f} | {ratios[-1][0]:.3f} | {ratios[-1][1]:.3f} |")  # fmt: skip
    facts = runs["geoseg"][-1]["facts"]
    print(f"\nmedian ratio {np.median(ratios, axis=0)[0]:.3f}, with COG {np.median(ratios, axis=0)[1]:.3f}; {facts['precision']}, "
          f"core, margin, batch {read_grid(facts)}; CPU s {median(runs['geoseg'], 'cpu'):.1f} of {median(runs['bare'], 'cpu'):.1f}; "
          f"peak {median(runs['geoseg'], 'peak_mib'):.0f} MiB")  # fmt: skip
    save(options, {"ratios": ratios, "runs": runs})


def save(options: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Write the figures beside the command that made them."""
    path = options.json or options.work / f"{options.name}_{options.setting}_{time.strftime('%m%d_%H%M%S')}.json"
    path.write_text(json.dumps({"command": sys.argv[1:], "load": os.getloadavg(), **facts}, indent=1) + "\n")
    print(path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command in (("compare", compare), ("overhead", overhead)):
        given = commands.add_parser(name)
        given.add_argument("--scene", type=Path, help="GeoTIFF, uint8; made if not given")
        given.add_argument("--size", type=int, default=2048, help="rows and columns of the scene that is made")
        given.add_argument("--bundle", type=Path, help="model; trained if not given")
        given.add_argument("--encoder", default="resnet18", help="of the U-Net that is trained")
        given.add_argument("--steps", type=int, default=300, help="of its training")
        given.add_argument("--rounds", type=int, default=3)
        given.add_argument("--predict", default="{}", help="options of geoseg.predict, as JSON")
        given.add_argument("--work", type=Path, default=Path("predict_work"), help="folder of what is made")
        given.add_argument("--json", type=Path, help="file of the figures")
        given.set_defaults(command=command, name=name, setting="defaults")
        if name == "compare":
            given.add_argument(
                "--setting", choices=("defaults", "equal"), default="defaults", help="of windows and batches"
            )
            given.add_argument("--methods", help="all if not given")
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        answer(json.loads(sys.argv[2]), WORKS)
    else:
        main()
