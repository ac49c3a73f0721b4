"""A QGIS project, so that every output opens as a finished map.

The forms written here are the shortest that QGIS reads; each was loaded and looked at in QGIS 3.22.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from xml.etree import ElementTree

from rasterio.crs import CRS

from geoseg.errors import DiskError
from geoseg.files import room_beside
from geoseg.styles import QGIS_VERSION, add_element, xml_text


@dataclass(frozen=True)
class ProjectLayer:
    """One layer of a QGIS project.

    Attributes:
        name: what the legend shows.
        source: the file as seen from the project's folder (see `relative_source`).
        style: QML.
        visible: whether it is switched on.
        table: the layer inside a vector file; None for a raster.
        crs: where it is not the project's, as for RFC 7946 GeoJSON.
    """

    name: str
    source: str
    style: str
    visible: bool = True
    table: str | None = None
    crs: CRS | None = None


def relative_source(path: Path, folder: Path) -> str:
    """A file as seen from a project's folder, with forward slashes; absolute where no relative path leads there."""
    try:
        # Not resolved: QGIS takes `..` off the project's path as a text, symbolic links or not.
        return PurePath(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


def write_project(
    path: Path,
    *,
    title: str,
    crs: CRS | None,
    extent: tuple[float, float, float, float],
    layers: Sequence[ProjectLayer],
) -> None:
    """Write a QGIS project (.qgz) that can be moved together with the files it shows.

    Args:
        path: a staged path; the sources of the layers are relative to the folder where it ends up.
        title: shown in the window's title.
        crs: None for a picture.
        extent: left, bottom, right, top of the first view, in `crs`. QGIS counts the rows of a picture without a
            transform from 0 down to -height.
        layers: the first is drawn on top.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    root = ElementTree.Element("qgis", version=QGIS_VERSION, projectname=title)
    add_element(root, "title", title)
    _add_crs(root, "projectCrs", crs)
    tree = add_element(root, "layer-tree-group")
    canvas = add_element(root, "mapcanvas", name="theMapCanvas")
    view = add_element(canvas, "extent")
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), extent, strict=True):
        add_element(view, tag, repr(float(value)))
    map_layers = add_element(root, "projectlayers")
    for number, layer in enumerate(layers, 1):
        # QGIS makes up a new id for one of 10 characters or fewer, and the tree comes up empty.
        layer_id = f"geoseg_{number}_" + re.sub(r"\W+", "_", f"{layer.source}_{layer.name}")
        checked = "Qt::Checked" if layer.visible else "Qt::Unchecked"
        add_element(
            tree, "layer-tree-layer", id=layer_id, name=layer.name, checked=checked, expanded=int(layer.visible)
        )
        _add_layer(map_layers, layer, layer_id, layer.crs or crs)
    properties = add_element(root, "properties")
    add_element(add_element(properties, "SpatialRefSys"), "ProjectionsEnabled", "1" if crs else "0", type="int")
    add_element(add_element(properties, "Paths"), "Absolute", "false", type="bool")
    _write_archive(path, xml_text(root))


def _add_layer(parent: ElementTree.Element, layer: ProjectLayer, layer_id: str, crs: CRS | None) -> None:
    source = layer.source
    if not (source.startswith("../") or PurePath(source).is_absolute()):
        source = f"./{source}"
    kind, provider = ("raster", "gdal") if layer.table is None else ("vector", "ogr")
    element = add_element(parent, "maplayer", type=kind)
    if kind == "vector":
        element.set("geometry", "Polygon")
    add_element(element, "id", layer_id)
    add_element(element, "datasource", source if layer.table is None else f"{source}|layername={layer.table}")
    add_element(element, "layername", layer.name)
    add_element(element, "provider", provider)
    _add_crs(element, "srs", crs)
    # Inside a project QGIS asks neither the .qml beside a file nor the style in a GeoPackage.
    element.extend(ElementTree.fromstring(layer.style))


def _add_crs(parent: ElementTree.Element, tag: str, crs: CRS | None) -> None:
    if crs is None:
        return
    system = add_element(add_element(parent, tag), "spatialrefsys", nativeFormat="Wkt")
    add_element(system, "wkt", crs.to_wkt(version="WKT2_2019"))
    authority = crs.to_authority(confidence_threshold=100)
    if authority:
        add_element(system, "authid", ":".join(authority))


def _write_archive(path: Path, text: str) -> None:
    # A fixed name and date, so that the same project is the same bytes.
    member = zipfile.ZipInfo("project.qgs", date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system, member.external_attr = 3, 0o644 << 16
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, text.encode())
    try:
        with zipfile.ZipFile(path) as archive:
            same = archive.read(member.filename) == text.encode()
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error):
        same = False
    if not same:
        raise DiskError(f"{path.name}: what was written cannot be read back; {room_beside(path)}")
