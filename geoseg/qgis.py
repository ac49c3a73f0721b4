"""Styles and a project, so that every output opens in QGIS as a finished map.

The forms written here are the shortest that QGIS reads; each was loaded and looked at in QGIS 3.22.
"""

from __future__ import annotations

import os
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from xml.etree import ElementTree

from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags

from geoseg.errors import DiskError
from geoseg.legend import Legend
from geoseg.raster import open_raster

# Newer versions read older files and amend them where need be; without a version they take them for older than 1.0.
_QGIS_VERSION = "3.22.0"

# Viridis (van der Walt and Smith 2015): even steps to the eye, in grey and to colour-blind readers too.
_CONFIDENCE_COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")

# Chosen by eye over Landsat scenes with 800 and 9,600 polygons: the fields stay visible, whole scene or close up.
_FILL_ALPHA = 60
_OUTLINE_MM = 0.15

_STYLE_TABLE = """
CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
 f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT,
 styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
 update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""


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


def class_style(legend: Legend) -> str:
    """QML for a class raster: the classes of the legend and no other entry."""
    root, renderer = _raster_style("paletted", band=1)
    palette = _add(renderer, "colorPalette")
    for entry in legend:
        _add(palette, "paletteEntry", value=entry.value, label=entry.name, color=entry.colour, alpha=255)
    return _to_text(root)


def confidence_style() -> str:
    """QML for a confidence or probability raster, whose band scale brings the values to 0..1."""
    root, renderer = _raster_style("singlebandpseudocolor", band=1, classificationMin=0, classificationMax=1)
    ramp = _add(
        _add(renderer, "rastershader"), "colorrampshader",
        colorRampType="INTERPOLATED", classificationMode=1, clip=0, minimumValue=0, maximumValue=1,
    )  # fmt: skip
    for step, colour in enumerate(_CONFIDENCE_COLOURS):
        share = step / (len(_CONFIDENCE_COLOURS) - 1)
        _add(ramp, "item", value=share, label=f"{share:.0%}", color=colour, alpha=255)
    return _to_text(root)


def polygon_style(legend: Legend) -> str:
    """QML for polygons with a field `class_name`: a colour per class, see-through, with a thin outline.

    A polygon of a class that is not in `legend` is not drawn.
    """
    root = ElementTree.Element("qgis", version=_QGIS_VERSION)
    renderer = _add(root, "renderer-v2", type="categorizedSymbol", attr="class_name", symbollevels=0)
    categories, symbols = _add(renderer, "categories"), _add(renderer, "symbols")
    for index, entry in enumerate(legend):
        _add(categories, "category", render="true", symbol=index, value=entry.name, label=entry.name)
        fill = _add(_add(symbols, "symbol", type="fill", name=index, alpha=1), "layer", enabled=1)
        fill.set("class", "SimpleFill")
        colour = ",".join(str(byte) for byte in bytes.fromhex(entry.colour[1:]))
        options = {
            "color": f"{colour},{_FILL_ALPHA}",
            "style": "solid",
            "outline_color": f"{colour},255",
            "outline_style": "solid",
            "outline_width": str(_OUTLINE_MM),
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        }
        option_map = _add(fill, "Option", type="Map")
        for name, value in options.items():
            _add(option_map, "Option", type="QString", name=name, value=value)
    _add(root, "layerGeometryType", "2")
    return _to_text(root)


def colour_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Which bands to show as red, green and blue: three positions in `names` from 0, or one where there is no colour.

    By the words red, green and blue in the names; else B4, B3 and B2 as on Landsat 8 and Sentinel-2; else the first
    three as they stand, as GDAL and QGIS do. Of several that fit, the shortest: `blue` rather than `coastal_blue`.
    """
    words = [set(re.split(r"[^a-z0-9]+", name.lower())) for name in names]
    for wanted in (("red", "green", "blue"), ("b4", "b3", "b2"), ("b04", "b03", "b02")):
        fitting = [[i for i, found in enumerate(words) if word in found] for word in wanted]
        if all(fitting):
            return tuple(min(found, key=lambda i: len(names[i])) for found in fitting)
    return (0, 1, 2) if len(names) >= 3 else (0,)


def scene_style(path: Path, bands: Sequence[int], low: Sequence[float], high: Sequence[float]) -> str:
    """QML for the scene itself, in colour or grey, with what is not valid left transparent.

    Args:
        path: the scene, which is asked for its band scales and its alpha band or mask.
        bands: numbers, from 1, of the bands for red, green and blue, or of the one for grey.
        low: raw value per band that is shown black.
        high: raw value per band that is shown at full brightness.

    Raises:
        MissingFileError, RasterError: the scene cannot be read.
    """
    with open_raster(path) as dataset:
        scales, offsets = dataset.scales, dataset.offsets
        alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in dataset.colorinterp else -1
        if alpha < 0 and MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
            alpha = dataset.count + 1  # QGIS shows a mask as one more band
    if len(bands) == 3:
        numbers = dict(zip(("redBand", "greenBand", "blueBand"), bands, strict=True))
        root, renderer = _raster_style("multibandcolor", alpha=alpha, **numbers)
        tags = ["redContrastEnhancement", "greenContrastEnhancement", "blueContrastEnhancement"]
    else:
        root, renderer = _raster_style("singlebandgray", alpha=alpha, grayBand=bands[0], gradient="BlackToWhite")
        tags = ["contrastEnhancement"]
    for tag, band, darkest, brightest in zip(tags, bands, low, high, strict=True):
        stretch = _add(renderer, tag)
        # QGIS applies the band's scale and offset before it stretches. A constant band gets a range that is not empty.
        for limit, value in (("minValue", darkest), ("maxValue", brightest if brightest > darkest else darkest + 1)):
            _add(stretch, limit, repr(float(value) * scales[band - 1] + offsets[band - 1]))
        _add(stretch, "algorithm", "StretchToMinimumMaximum")
    return _to_text(root)


def category_names(legend: Legend) -> str:
    """The `.aux.xml` of a class raster, for GDAL, ArcGIS and newer QGIS: category names and an attribute table."""
    root = ElementTree.Element("PAMDataset")
    band = _add(root, "PAMRasterBand", band=1)
    categories = _add(band, "CategoryNames")
    names = dict(zip(legend.values, legend.names, strict=True))
    for value in range(max(legend.values) + 1):  # GDAL takes a name's position for its value
        _add(categories, "Category", names.get(value, ""))
    table = _add(band, "GDALRasterAttributeTable", tableType="thematic")
    # Type 0 is an integer, 2 a text; usage 5 is the value, 2 the name, 6 to 8 are the colours.
    columns = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    for index, (name, kind, usage) in enumerate(columns):
        field = _add(table, "FieldDefn", index=index)
        for tag, text in (("Name", name), ("Type", str(kind)), ("Usage", str(usage))):
            _add(field, tag, text)
    for index, entry in enumerate(legend):
        row = _add(table, "Row", index=index)
        for cell in (entry.value, entry.name, *bytes.fromhex(entry.colour[1:])):
            _add(row, "F", str(cell))
    return _to_text(root)


def embed_style(gpkg: Path, layer: str, qml: str) -> None:
    """Make `qml` the default style of a layer of a GeoPackage, in the table that QGIS itself keeps styles in.

    Raises:
        DiskError: the layer is not in the file.
    """
    with closing(sqlite3.connect(gpkg)) as database, database:
        found = database.execute(
            "SELECT column_name, last_change FROM gpkg_geometry_columns JOIN gpkg_contents USING (table_name)"
            " WHERE table_name = ?", (layer,),
        ).fetchone()  # fmt: skip
        if found is None:
            raise DiskError(f"{gpkg.name}: no layer '{layer}' in it; write the layer before its style")
        geometry_column, last_change = found
        database.execute(_STYLE_TABLE)
        database.execute("DELETE FROM layer_styles WHERE f_table_name = ?", (layer,))
        database.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)"
            " VALUES ('layer_styles', 'attributes', 'layer_styles', 'QGIS styles', ?, 0)", (last_change,),
        )  # fmt: skip
        # Catalog and schema must be empty texts: with NULL, QGIS does not find the style.
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
            " styleQML, styleSLD, useAsDefault, description, owner, update_time)"
            " VALUES ('', '', ?, ?, ?, ?, '', 1, 'geoseg', '', ?)", (layer, geometry_column, layer, qml, last_change),
        )  # fmt: skip


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
    root = ElementTree.Element("qgis", version=_QGIS_VERSION, projectname=title)
    _add(root, "title", title)
    _add_crs(root, "projectCrs", crs)
    tree = _add(root, "layer-tree-group")
    canvas = _add(root, "mapcanvas", name="theMapCanvas")
    view = _add(canvas, "extent")
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), extent, strict=True):
        _add(view, tag, repr(float(value)))
    map_layers = _add(root, "projectlayers")
    for number, layer in enumerate(layers, 1):
        # QGIS makes up a new id for one of 10 characters or fewer, and the tree comes up empty.
        layer_id = f"geoseg_{number}_" + re.sub(r"\W+", "_", f"{layer.source}_{layer.name}")
        checked = "Qt::Checked" if layer.visible else "Qt::Unchecked"
        _add(tree, "layer-tree-layer", id=layer_id, name=layer.name, checked=checked, expanded=int(layer.visible))
        _add_layer(map_layers, layer, layer_id, layer.crs or crs)
    properties = _add(root, "properties")
    _add(_add(properties, "SpatialRefSys"), "ProjectionsEnabled", "1" if crs else "0", type="int")
    _add(_add(properties, "Paths"), "Absolute", "false", type="bool")
    _write_archive(path, _to_text(root))


def _add_layer(parent: ElementTree.Element, layer: ProjectLayer, layer_id: str, crs: CRS | None) -> None:
    source = layer.source
    if not (source.startswith("../") or PurePath(source).is_absolute()):
        source = f"./{source}"
    kind, provider = ("raster", "gdal") if layer.table is None else ("vector", "ogr")
    element = _add(parent, "maplayer", type=kind)
    if kind == "vector":
        element.set("geometry", "Polygon")
    _add(element, "id", layer_id)
    _add(element, "datasource", source if layer.table is None else f"{source}|layername={layer.table}")
    _add(element, "layername", layer.name)
    _add(element, "provider", provider)
    _add_crs(element, "srs", crs)
    # Inside a project QGIS asks neither the .qml beside a file nor the style in a GeoPackage.
    element.extend(ElementTree.fromstring(layer.style))


def _add_crs(parent: ElementTree.Element, tag: str, crs: CRS | None) -> None:
    if crs is None:
        return
    system = _add(_add(parent, tag), "spatialrefsys", nativeFormat="Wkt")
    _add(system, "wkt", crs.to_wkt(version="WKT2_2019"))
    authority = crs.to_authority(confidence_threshold=100)
    if authority:
        _add(system, "authid", ":".join(authority))


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
        raise DiskError(f"{path.name}: what was written cannot be read back; is the disk full?")


def _raster_style(
    renderer: str, alpha: int = -1, **attributes: str | float
) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version=_QGIS_VERSION)
    return root, _add(_add(root, "pipe"), "rasterrenderer", type=renderer, opacity=1, alphaBand=alpha, **attributes)


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, /, **attributes: str | float
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, {name: _legal(str(value)) for name, value in attributes.items()})
    child.text = text if text is None else _legal(text)
    return child


def _legal(text: str) -> str:
    """Replace what no XML file may hold, however it is escaped: a stray control character in a class name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _to_text(root: ElementTree.Element) -> str:
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"
