"""How reference points look in QGIS, and the form to label them in: neither tells what the map says."""

from __future__ import annotations

from xml.etree import ElementTree

from geoseg.legend import Legend
from geoseg.styles import QGIS_VERSION, add_element, xml_text

_HIDDEN = ("fid", "row", "col", "stratum", "stratum_area_m2", "stratum_pixels")
_OUTLINE_MM = 0.5
_BLACK, _WHITE = "0,0,0,255", "255,255,255,255"


def point_style(legend: Legend, pixel_size: float) -> str:
    """QML for points with a field `reference`: a square of a pixel's size, black and white until it is labelled.

    In the form, `reference` is a list of the classes to choose from, and all that tells the map's class is hidden.

    Args:
        legend: the classes.
        pixel_size: side of a pixel in units of the CRS.
    """
    root = ElementTree.Element("qgis", version=QGIS_VERSION)
    renderer = add_element(root, "renderer-v2", type="categorizedSymbol", attr="reference", symbollevels=0)
    categories, symbols = add_element(renderer, "categories"), add_element(renderer, "symbols")
    looks = [(str(entry.value), entry.name, [(_colour(entry.colour), _OUTLINE_MM)]) for entry in legend]
    # White on black shows on any ground, and is no class.
    looks.append(("", "to be labelled", [(_BLACK, 2 * _OUTLINE_MM), (_WHITE, 0.8 * _OUTLINE_MM)]))
    for index, (value, label, outlines) in enumerate(looks):
        add_element(categories, "category", render="true", symbol=index, value=value, label=label)
        symbol = add_element(symbols, "symbol", type="marker", name=index, alpha=1)
        for colour, width_mm in outlines:
            _add_square(symbol, colour, width_mm, pixel_size)
    _add_form(root, legend)
    add_element(root, "layerGeometryType", "0")
    return xml_text(root)


def _colour(text: str) -> str:
    return ",".join(str(byte) for byte in bytes.fromhex(text[1:])) + ",255"


def _add_square(symbol: ElementTree.Element, colour: str, width_mm: float, pixel_size: float) -> None:
    layer = add_element(symbol, "layer", enabled=1)
    layer.set("class", "SimpleMarker")
    options = {
        "name": "square",
        "color": "0,0,0,0",
        "outline_color": colour,
        "outline_style": "solid",
        "outline_width": str(width_mm),
        "outline_width_unit": "MM",
        "size": repr(pixel_size),
        "size_unit": "MapUnit",
        # Seen from afar a pixel would vanish: at least 3 mm, and as large as it is from near.
        "size_map_unit_scale": "3x:0,0,1,3,0,0",
    }
    _add_options(layer, options)


def _add_form(root: ElementTree.Element, legend: Legend) -> None:
    fields = add_element(root, "fieldConfiguration")
    for name in _HIDDEN:
        add_element(add_element(fields, "field", name=name), "editWidget", type="Hidden")
    values = add_element(add_element(fields, "field", name="reference"), "editWidget", type="ValueMap")
    option = add_element(add_element(values, "config"), "Option", type="Map")
    entries = add_element(option, "Option", type="List", name="map")
    for entry in legend:
        one = add_element(entries, "Option", type="Map")
        add_element(one, "Option", type="QString", name=entry.name, value=entry.value)
    note = add_element(add_element(fields, "field", name="note"), "editWidget", type="TextEdit")
    _add_options(add_element(note, "config"), {"IsMultiline": "true"})
    add_element(root, "editorlayout", "generatedlayout")
    editable = add_element(root, "editable")
    for name in (*_HIDDEN, "id"):
        add_element(editable, "field", name=name, editable=0)


def _add_options(parent: ElementTree.Element, options: dict[str, str]) -> None:
    found = add_element(parent, "Option", type="Map")
    for name, value in options.items():
        add_element(found, "Option", type="QString", name=name, value=value)
