"""What maps look like: styles in QGIS's own XML, and class names for GDAL.

The forms written here are the shortest that QGIS reads; each was loaded and looked at in QGIS 3.22.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from rasterio.enums import ColorInterp, MaskFlags

from geoseg.legend import CLASS_NAME, Legend
from geoseg.raster import open_raster
from geoseg.remote import LOCAL, Access
from geoseg.scenes import data_bands

# Newer versions read older files and amend them where need be; without a version they take them for older than 1.0.
QGIS_VERSION = "3.22.0"

# Viridis (van der Walt and Smith 2015): even steps to the eye, in grey and to colour-blind readers too.
_CONFIDENCE_COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")

# Chosen by eye over Landsat scenes with 800 and 9,600 polygons: the fields stay visible, whole scene or close up.
_FILL_ALPHA = 60
_OUTLINE_MM = 0.2
# Beneath an outline: a golden line on ripe wheat is seen by the dark on both sides of it.
_CASING, _CASING_MM = "25,25,25,180", 0.5

_PLACE_COLOUR = "216,27,96,255"  # magenta: no ground and no class has it, and the colour-blind see it as dark
_PLACE_MM = 0.6


def class_style(legend: Legend) -> str:
    """QML for a class raster: the classes of the legend and no other entry."""
    root, renderer = _raster_style("paletted", band=1)
    palette = add_element(renderer, "colorPalette")
    for entry in legend:
        add_element(palette, "paletteEntry", value=entry.value, label=entry.name, color=entry.colour, alpha=255)
    return xml_text(root)


def confidence_style() -> str:
    """QML for a confidence or probability raster, whose band scale brings the values to 0..1."""
    root, renderer = _raster_style("singlebandpseudocolor", band=1, classificationMin=0, classificationMax=1)
    ramp = add_element(
        add_element(renderer, "rastershader"), "colorrampshader",
        colorRampType="INTERPOLATED", classificationMode=1, clip=0, minimumValue=0, maximumValue=1,
    )  # fmt: skip
    for step, colour in enumerate(_CONFIDENCE_COLOURS):
        share = step / (len(_CONFIDENCE_COLOURS) - 1)
        add_element(ramp, "item", value=share, label=f"{share:.0%}", color=colour, alpha=255)
    return xml_text(root)


def polygon_style(legend: Legend) -> str:
    """QML for polygons with a field `class_name`: a colour per class, see-through, with a thin outline on a dark one.

    A polygon of a class that is not in `legend` is not drawn.
    """
    root = ElementTree.Element("qgis", version=QGIS_VERSION)
    renderer = add_element(root, "renderer-v2", type="categorizedSymbol", attr=CLASS_NAME, symbollevels=0)
    categories, symbols = add_element(renderer, "categories"), add_element(renderer, "symbols")
    for index, entry in enumerate(legend):
        add_element(categories, "category", render="true", symbol=index, value=entry.name, label=entry.name)
        colour = ",".join(str(byte) for byte in bytes.fromhex(entry.colour[1:]))
        symbol = _add_symbol(symbols, index)
        _add_fill(symbol, "0,0,0,0", _CASING, _CASING_MM).set(
            "locked", "1"
        )  # the colour of a symbol is that of the others
        _add_fill(symbol, f"{colour},{_FILL_ALPHA}", f"{colour},255", _OUTLINE_MM)
    add_element(root, "layerGeometryType", "2")
    return xml_text(root)


def place_style() -> str:
    """QML for places to visit, with a field `rank`: outlines that show on any ground, each with its rank."""
    root = ElementTree.Element("qgis", version=QGIS_VERSION, labelsEnabled="1")
    renderer = add_element(root, "renderer-v2", type="singleSymbol", symbollevels=0)
    _add_fill(_add_symbol(add_element(renderer, "symbols"), 0), "0,0,0,0", _PLACE_COLOUR, _PLACE_MM)
    settings = add_element(add_element(root, "labeling", type="simple"), "settings")
    text = add_element(settings, "text-style", fieldName="rank", isExpression=0, fontSize=10, textColor=_PLACE_COLOUR)
    add_element(text, "text-buffer", bufferDraw=1, bufferSize=0.7, bufferColor="255,255,255,255")
    add_element(root, "layerGeometryType", "2")
    return xml_text(root)


def _add_symbol(symbols: ElementTree.Element, name: int) -> ElementTree.Element:
    return add_element(symbols, "symbol", type="fill", name=name, alpha=1)


def _add_fill(symbol: ElementTree.Element, colour: str, outline: str, width_mm: float) -> ElementTree.Element:
    """Add a layer to a fill symbol, above those it has; colours are red, green, blue and alpha, 0 to 255, joined by commas."""
    fill = add_element(symbol, "layer", enabled=1)
    fill.set("class", "SimpleFill")
    options = {
        "color": colour,
        "style": "solid",
        "outline_color": outline,
        "outline_style": "solid",
        "outline_width": str(width_mm),
        "outline_width_unit": "MM",
        "joinstyle": "bevel",
    }
    option_map = add_element(fill, "Option", type="Map")
    for option, value in options.items():
        add_element(option_map, "Option", type="QString", name=option, value=value)
    return fill


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


def scene_style(
    path: Path, bands: Sequence[int], low: Sequence[float], high: Sequence[float], access: Access = LOCAL
) -> str:
    """QML for the scene itself, in colour or grey, with what is not valid left transparent.

    Args:
        path: the scene, which is asked for its band scales and its alpha band or mask.
        bands: numbers, from 1, of the bands for red, green and blue, or of the one for grey; an alpha band has none.
        low: raw value per band that is shown black.
        high: raw value per band that is shown at full brightness.
        access: what the scene may reach.

    Raises:
        MissingFileError, RasterError: the scene cannot be read.
    """
    with open_raster(path, access) as dataset:
        scales, offsets, colours = dataset.scales, dataset.offsets, data_bands(dataset)
        bands = [colours[band - 1] for band in bands]
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
        stretch = add_element(renderer, tag)
        # QGIS applies the band's scale and offset before it stretches. A constant band gets a range that is not empty.
        for limit, value in (("minValue", darkest), ("maxValue", brightest if brightest > darkest else darkest + 1)):
            add_element(stretch, limit, repr(float(value) * scales[band - 1] + offsets[band - 1]))
        add_element(stretch, "algorithm", "StretchToMinimumMaximum")
    return xml_text(root)


def category_names(legend: Legend) -> str:
    """The `.aux.xml` of a class raster, for GDAL, ArcGIS and newer QGIS: category names and an attribute table."""
    root = ElementTree.Element("PAMDataset")
    band = add_element(root, "PAMRasterBand", band=1)
    categories = add_element(band, "CategoryNames")
    names = dict(zip(legend.values, legend.names, strict=True))
    for value in range(max(legend.values) + 1):  # GDAL takes a name's position for its value
        add_element(categories, "Category", names.get(value, ""))
    table = add_element(band, "GDALRasterAttributeTable", tableType="thematic")
    # Type 0 is an integer, 2 a text; usage 5 is the value, 2 the name, 6 to 8 are the colours.
    columns = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    for index, (name, kind, usage) in enumerate(columns):
        field = add_element(table, "FieldDefn", index=index)
        for tag, text in (("Name", name), ("Type", str(kind)), ("Usage", str(usage))):
            add_element(field, tag, text)
    for index, entry in enumerate(legend):
        row = add_element(table, "Row", index=index)
        for cell in (entry.value, entry.name, *bytes.fromhex(entry.colour[1:])):
            add_element(row, "F", str(cell))
    return xml_text(root)


def _raster_style(
    renderer: str, alpha: int = -1, **attributes: str | float
) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element("qgis", version=QGIS_VERSION)
    return root, add_element(
        add_element(root, "pipe"), "rasterrenderer", type=renderer, opacity=1, alphaBand=alpha, **attributes
    )


def add_element(
    parent: ElementTree.Element, tag: str, text: str | None = None, /, **attributes: str | float
) -> ElementTree.Element:
    """Append a child with attributes and text, both made fit for XML."""
    child = ElementTree.SubElement(parent, tag, {name: _legal(str(value)) for name, value in attributes.items()})
    child.text = text if text is None else _legal(text)
    return child


def _legal(text: str) -> str:
    """Replace what no XML file may hold, however it is escaped: a stray control character in a class name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def xml_text(root: ElementTree.Element) -> str:
    """An indented document, without a declaration."""
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"
