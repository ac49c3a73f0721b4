"""From a scene to the strips of its map, all of them or some: here, or on another machine."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from geoseg.bundle import Bundle
from geoseg.choices import Blend, Engine, TestTimeAugmentation
from geoseg.errors import InputError
from geoseg.files import sha256, sketch
from geoseg.geotiff import BLOCK
from geoseg.grid import Layout
from geoseg.inference import Row, predict_rows
from geoseg.maps import MapWriter
from geoseg.merging import Merger, create_merger
from geoseg.pipeline import ahead, workers
from geoseg.polygon_labels import Polygons, inside_of
from geoseg.predictor import Predictor
from geoseg.progress import Progress
from geoseg.raster import files_behind
from geoseg.reach import COARSEST
from geoseg.scenes import Scene
from geoseg.strips import Strips
from geoseg.version import VERSION

_BATCHES = {"cpu": 1}
_BATCH = 4
_CORE = 2 * BLOCK  # a larger window is quicker still, but takes four times the memory
_MIRRORED = 32  # of a margin that holds nothing but the mirror image of the scene, this is enough


def choose_window(bundle: Bundle, window: int | None, margin: int | None) -> tuple[int, int]:
    """The side of a core and the margin around it, where None leaves the choice to what is known of the network.

    Where nothing else is asked for, a core is whole blocks of the output, so that each of them is compressed once.

    Raises:
        InputError: the window has no room for its margins.
    """
    if margin is None:
        margin = bundle.margin if window is None else min(bundle.margin, window // 8)
    core = _CORE if window is None else window - 2 * margin
    if core < 1:
        raise InputError(f"--window {window} --margin {margin}: the window must be larger than two margins")
    return core, margin


def choose_batch_size(batch_size: int | None, device: torch.device, layout: Layout) -> int:
    """Windows a step at most, where None leaves it to the device.

    A row of windows is shared out evenly: a compiled network, which takes so many windows, fills a smaller batch up.
    """
    most = batch_size or _BATCHES.get(device.type, _BATCH)
    return -(-layout.cols // -(-layout.cols // most))


def choose_layout(scene: Scene, bundle: Bundle, *, window: int | None, margin: int | None, blend: Blend) -> Layout:
    """The windows of a scene; one that is smaller than a core makes do with less, and cores of our choice share it evenly.

    Raises:
        InputError: as `choose_window`, or the margin is wider than the scene, or margins overlap across a core that is to be
            blended.
    """
    core, around = choose_window(bundle, window, margin)
    if margin is not None and margin > max(scene.height, scene.width):
        raise InputError(
            f"{scene.path}: --margin {margin} is more than the scene has, {scene.height} x {scene.width}; take less"
        )
    rows, cols = (_even_core(size, core, given=window is not None) for size in (scene.height, scene.width))
    several = rows < scene.height or cols < scene.width
    if margin is None and not several:
        around = min(around, _MIRRORED)
    room = 0 < 2 * around <= min(rows, cols)
    if blend == "hann" and not room:
        raise InputError(
            f"--blend hann --margin {around}: from 1 to {min(rows, cols) // 2} is needed, half a core of {rows} x {cols}"
        )
    if blend == "auto":
        blend = "hann" if bundle.looks_far and several and room else "crop"
    return Layout(scene.height, scene.width, (rows, cols), around, blend)


def _even_core(size: int, core: int, *, given: bool) -> int:
    """The side of a core along an axis of the scene: all windows have one size, so what sticks out is work for nothing."""
    parts = 1 if given else -(-size // core)
    return min(core, -(-size // (parts * COARSEST)) * COARSEST)


@dataclass(frozen=True)
class MapJob:
    """All that the pixels of a map depend on, and where they go; it can be sent to another machine.

    Attributes:
        scene: to map.
        sources: its bands, in the model's order.
        bundle: the model.
        layout: of the windows.
        area: outside it nothing is told.
        strips: where the map is written.
        tta: see `Predictor`.
        engine: likewise.
        precision: `fp32`, `bf16` or `fp16`.
        threshold: of a one-channel model.
        batch_size: windows at once; None leaves it to the device.
        probabilities: write those of every class.
    """

    scene: Scene
    sources: tuple[int, ...]
    bundle: Bundle
    layout: Layout
    area: Polygons | None
    strips: Strips
    tta: TestTimeAugmentation
    engine: Engine
    precision: str
    threshold: float | None
    batch_size: int | None
    probabilities: bool

    def plan(self) -> dict[str, Any]:
        """The same in words, for a run that goes on to be held against."""
        scene = self.scene
        behind = [file for path in scene.paths for file in files_behind(path, scene.access)]
        files = [(path.stat().st_size, path.stat().st_mtime_ns, sketch(path)) for path in behind]
        place = [scene.remote and str(scene.remote), scene.crs and scene.crs.to_wkt(), list(scene.transform)[:6]]
        plan = {
            "version": VERSION,
            "scene": [scene.name, scene.height, scene.width, scene.dtypes, [*map(str, scene.nodata)], place, files],
            "bands": self.sources,
            "model": self.bundle.weights_sha256,
            "grid": self.layout,
            "area": None if self.area is None else sha256(self.area.path),
            "tta": self.tta,
            "engine": self.engine,
            "precision": self.precision,
            "threshold": self.threshold,
            "rasters": self.strips.kinds,
        }
        return json.loads(json.dumps(plan))

    def missing(self) -> list[int]:
        """Numbers of the strips that are not finished."""
        finished = self.strips.finished()
        return [number for number in range(self.layout.rows) if number not in finished]


def predict_strips(
    job: MapJob, predictors: Sequence[Predictor], numbers: Collection[int], *, progress: Progress,
    check: Merger | None = None,
) -> None:  # fmt: skip
    """Predict strips, in their order; the last stage, writing, has a thread of its own.

    Args:
        job: what to map.
        predictors: of the job's model; one per device.
        numbers: of the strips.
        progress: called after each piece of ground.
        check: merges the windows in place of what the layout asks for, and looks on.

    Raises:
        GeosegError: the scene is damaged somewhere, a window does not fit into memory, or the disk is full.
    """
    layout, merger, area = job.layout, check or create_merger(job.layout), None
    if job.area is not None:
        area = inside_of(job.area, job.scene)
    found = predict_rows(
        job.scene, job.sources, _rows(layout, merger, numbers), predictors, merger,
        batch_size=choose_batch_size(job.batch_size, predictors[0].device, layout), probabilities=job.probabilities, area=area,
    )  # fmt: skip
    title = f"predict {job.scene.name}"
    writer = MapWriter(job.scene, job.bundle.legend, job.strips, merger)
    with closing(writer), workers(1) as writing, closing(found):
        for ground in ahead(lambda ground: writing.submit(writer.write, ground), found, 4):
            before = ground.tile.core.col_off // layout.core[1]
            progress(title, ground.row * layout.cols + before + 1, layout.windows)
        writer.finish()
    progress(title, layout.windows, layout.windows)


def _rows(layout: Layout, merger: Merger, numbers: Collection[int]) -> Iterator[Row]:
    """The rows of windows that strips need."""
    last = -1
    for number in sorted(numbers):
        if merger.looks_back and 0 < number != last + 1:
            yield Row(number - 1, layout.row(number - 1), answers=False)
        yield Row(number, layout.row(number))
        last = number
