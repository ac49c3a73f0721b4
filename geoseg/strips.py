"""The finished strips of a map: they outlive a run that is killed, and are joined when all are there.

A strip is what one row of windows answers for, as a plain GeoTIFF per raster of the map and a JSON file that comes last
and names these. So two machines that make the same strip do not meet: the first to finish it counts.
"""

from __future__ import annotations

import shutil
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window

from geoseg.errors import DiskError, FormatError, InputError, OutputBusyError, OutputExistsError
from geoseg.files import publish, read_json, write_json
from geoseg.geotiff import BLOCK, TiledWriter, verify, write_cog, writing_raster
from geoseg.raster import georeference_optional
from geoseg.scenes import Scene

_FORMAT = 1
_PLAN = "plan.json"


class MapLayer(NamedTuple):
    """One raster of a map.

    Attributes:
        kind: `classes`, `confidence` or `probabilities`.
        dtype: `uint8` or `uint16`.
        nodata: where the scene is not valid.
        bands: their names.
        tags: of the file.
        colours: of the values, red, green, blue and opacity, for a raster of classes.
        scale: what a stored 1 means.
        smooth: whether neighbouring pixels may be averaged, as those of a raster of classes may not.
    """

    kind: str
    dtype: str
    nodata: int
    bands: tuple[str, ...]
    tags: dict[str, str]
    colours: dict[int, tuple[int, ...]] | None = None
    scale: float | None = None
    smooth: bool = False


class Strips:
    """The strips of one map.

    Args:
        folder: theirs alone.
        scene: gives the grid.
        layers: the rasters of the map.
    """

    def __init__(self, folder: Path, scene: Scene, layers: Sequence[MapLayer]) -> None:
        self.folder, self._scene, self._layers = folder, scene, layers

    def placed(self, scene: Scene) -> Strips:
        """The same, where the working folder is another one.

        Args:
            scene: likewise.
        """
        return Strips(self.folder.absolute(), scene, self._layers)

    @property
    def kinds(self) -> list[str]:
        """The kinds of rasters."""
        return [layer.kind for layer in self._layers]

    def begin(self, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or take up what a run that was stopped left in it.

        Args:
            plan: all that the pixels depend on, as JSON.
            resume: keep the finished strips.
            overwrite: drop them.

        Raises:
            OutputExistsError: there are finished strips, and neither is set.
            InputError: those to take up were made to another plan.
        """
        if self.finished():
            kept = f"{self.folder}: {len(self.finished())} finished strips of a run that was stopped"
            if resume:
                found = self._begun()
                other = [key for key in plan if found.get(key) != plan[key]]
                if other:
                    raise InputError(
                        f"{kept}, of another {', '.join(other)}; start anew with --overwrite, or go on as it was begun"
                    )
                self._drop_unfinished()
                self._drop_damaged()
                return
            if not overwrite:
                raise OutputExistsError(f"{kept}; go on with --resume, or start anew with --overwrite")
        self.remove()
        try:
            self.folder.mkdir(parents=True)
            write_json(self.folder / _PLAN, {"format": _FORMAT, "plan": plan})
        except BaseException:
            self.remove()
            raise

    def _drop_unfinished(self) -> None:
        """Take away what a run that was killed was writing."""
        kept = {name for document in self.finished().values() for name in document["files"].values()}
        for path in self.folder.glob("strip_*.tif"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        for path in self.folder.glob("strip_*.json"):
            if _read_document(path) is None:
                path.unlink(missing_ok=True)

    def _drop_damaged(self) -> None:
        """Take away finished strips that cannot be read back, as after a power cut; they are made again."""
        for number, document in self.finished().items():
            files = {kind: self.folder / name for kind, name in document["files"].items()}
            try:
                for kind, path in files.items():
                    verify(path, document["checksums"][kind])
            except DiskError:
                for path in (self.folder / f"strip_{number:06}.json", *files.values()):
                    path.unlink(missing_ok=True)

    def finished(self) -> dict[int, dict[str, Any]]:
        """What is known of each finished strip, by its number."""
        found = (_read_document(path) for path in sorted(self.folder.glob("strip_*.json")))
        return {document["number"]: document for document in found if document}

    @contextmanager
    def kept(self, total: int) -> Iterator[None]:
        """Keep what is finished of `total` strips when the block fails, and say so; keep nothing where nothing is."""
        try:
            yield
        except BaseException as error:
            finished = len(self.finished())
            if not finished:
                self.remove()
                raise
            note = f"{finished} of {total} strips are kept in {self.folder}; --resume goes on with them"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(note) from None
            if note not in getattr(error, "__notes__", ()):  # of a block within this one
                error.add_note(note)
            raise

    def open(self, number: int, top: int, bottom: int) -> Strip:
        """A strip to write: the rows of the scene from `top` to before `bottom`."""
        return Strip(self.folder, self._scene, self._layers, number, top, bottom)

    def join(self, layer: MapLayer, target: Path) -> None:
        """Make one raster of the strips, and compare it with what was written into them.

        Raises:
            DiskError: they differ.
        """
        whole = self.folder / f"{layer.kind}.tif"
        _create(whole, self._scene, layer, self._scene.height, 0).close()
        mosaic = whole.with_suffix(".vrt")
        with writing_raster(mosaic), georeference_optional():
            rasterio.shutil.copy(whole, mosaic, driver="VRT")
        finished = self.finished()
        _name_sources(mosaic, layer, self._scene.width, finished)
        write_cog(
            mosaic, target, resampling=Resampling.average if layer.smooth else Resampling.mode, predictor=layer.smooth
        )
        for document in finished.values():
            verify(target, document["checksums"][layer.kind], down=document["top"])

    def remove_made_to(self, plan: dict[str, Any]) -> None:
        """Take all of it away where it was made to this plan, or nobody can go on with it; not the work of another run."""
        if not (self.folder / _PLAN).exists() or not self.finished() or self._begun() == plan:
            self.remove()

    def _begun(self) -> dict[str, Any]:
        """What the strips are made to."""
        plan: dict[str, Any] = read_json(self.folder / _PLAN, newest=_FORMAT, what="the plan of an unfinished map")[
            "plan"
        ]
        return plan

    def remove(self) -> None:
        """Take all of it away."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Strip:
    """One strip that is being written; made by `Strips.open`."""

    def __init__(
        self, folder: Path, scene: Scene, layers: Sequence[MapLayer], number: int, top: int, bottom: int
    ) -> None:
        self.number, self._folder = number, folder
        self._top, self._height = top, bottom - top
        mark = uuid.uuid4().hex[:12]
        self._files = {layer.kind: f"strip_{number:06}_{layer.kind}_{mark}.tif" for layer in layers}
        self._rasters = {
            layer.kind: _create(folder / self._files[layer.kind], scene, layer, bottom - top, top) for layer in layers
        }

    def write(self, window: Window, pixels: dict[str, np.ndarray]) -> None:
        """Write (bands, rows, cols) per kind of raster at a window of the scene."""
        inside = Window(window.col_off, window.row_off - self._top, window.width, window.height)
        for kind, raster in self._rasters.items():
            raster.write(pixels[kind], inside)

    def finish(self, facts: dict[str, Any]) -> None:
        """Close the rasters, and then say that the strip is finished; one that another has finished before is dropped."""
        self.close()
        if gone := [name for name in self._files.values() if not (self._folder / name).exists()]:
            raise DiskError(
                f"{self._folder / gone[0]}: was taken away while it was written; does another run write here?"
            )
        document = {"format": _FORMAT, "number": self.number, "top": self._top, "height": self._height, **facts}
        document["files"] = self._files
        document["checksums"] = {kind: raster.checksums for kind, raster in self._rasters.items()}
        try:
            with publish(self._folder / f"strip_{self.number:06}.json") as path:
                write_json(path, document)
        except (OutputBusyError, OutputExistsError):
            for name in self._files.values():
                with suppress(FileNotFoundError):
                    (self._folder / name).unlink()

    def close(self) -> None:
        """Stop, finished or not."""
        for raster in self._rasters.values():
            raster.close()


def _read_document(path: Path) -> dict[str, Any] | None:
    """What is known of a finished strip; None where a power cut has left nothing that can be read."""
    try:
        return read_json(path, newest=_FORMAT, what="a finished strip")
    except FormatError:
        return None


def _create(path: Path, scene: Scene, layer: MapLayer, height: int, top: int) -> TiledWriter:
    transform = scene.transform @ scene.transform.translation(0, top) if top else scene.transform
    raster = TiledWriter(
        path, height=height, width=scene.width, count=len(layer.bands), dtype=layer.dtype, nodata=layer.nodata,
        crs=scene.crs, transform=transform,
    )  # fmt: skip
    if layer.colours:
        raster.dataset.write_colormap(1, layer.colours)
    if layer.scale:
        raster.dataset.scales = (layer.scale,) * len(layer.bands)
    for number, name in enumerate(layer.bands, 1):
        raster.dataset.set_band_description(number, name)
    raster.dataset.update_tags(AREA_OR_POINT="Area", **layer.tags)
    return raster


def _name_sources(mosaic: Path, layer: MapLayer, width: int, strips: dict[int, dict[str, Any]]) -> None:
    """Let a VRT of an empty raster look at the strips instead; all that it says beside stays as GDAL has written it."""
    tree = ET.parse(mosaic)
    for band in tree.iter("VRTRasterBand"):
        for source in [part for part in band if part.tag.endswith("Source")]:
            band.remove(source)
        for document in strips.values():
            size: dict[str, Any] = {"xSize": str(width), "ySize": str(document["height"])}
            source = ET.SubElement(band, "SimpleSource")
            ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = document["files"][layer.kind]
            ET.SubElement(source, "SourceBand").text = band.get("band")
            # With these facts GDAL opens a source when it is read, not all of them at once.
            ET.SubElement(
                source, "SourceProperties", RasterXSize=str(width), RasterYSize=str(document["height"]),
                DataType=str(band.get("dataType")), BlockXSize=str(BLOCK), BlockYSize=str(BLOCK),
            )  # fmt: skip
            ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
            ET.SubElement(source, "DstRect", xOff="0", yOff=str(document["top"]), **size)
    tree.write(mosaic)
