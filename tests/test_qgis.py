"""Styles and projects: what is written is what the legend says, and real QGIS takes it as it stands."""

import json
import os
import shutil
import sqlite3
import subprocess
import warnings
import zipfile
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from shapely.geometry import box

import geoseg
from geoseg import geopackage, qgis, styles
from geoseg.errors import DiskError, RasterError
from geoseg.geotiff import write_geotiff
from geoseg.legend import Legend, LegendClass, make_legend
from geoseg.scenes import Scene
from geoseg.strips import MapLayer, Strips

UTM = CRS.from_epsg(32614)
GRID = Affine(30, 0, 500000, 0, -30, 5200000)
HEIGHT, WIDTH = 40, 60
EXTENT = (500000.0, 5198800.0, 501800.0, 5200000.0)
LEGEND = make_legend([0, 1, 3], ["background", 'wheat & <rye> "2015"', "Рапс 'зима'"])


def legends() -> st.SearchStrategy[Legend]:
    classes = st.tuples(
        st.integers(0, 300),
        st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20),
        st.integers(0, 0xFFFFFF),
    )
    several = st.lists(classes, min_size=1, max_size=6, unique_by=(lambda c: c[0], lambda c: c[1]))
    return several.map(lambda found: Legend(tuple(LegendClass(v, name, f"#{c:06x}") for v, name, c in found)))


def fills(style: ElementTree.Element) -> dict[str, dict[str, str]]:
    """The options of the fill of each class name in a polygon style."""
    symbols = {symbol.get("name"): symbol for symbol in style.iter("symbol")}
    return {
        category.get("value"): {o.get("name"): o.get("value") for o in symbols[category.get("symbol")].iter("Option")}
        for category in style.iter("category")
    }


@given(legends())
def test_class_style_has_exactly_the_classes_of_the_legend(legend):
    entries = ElementTree.fromstring(styles.class_style(legend)).findall(
        "pipe/rasterrenderer/colorPalette/paletteEntry"
    )
    assert [(int(e.get("value")), e.get("color"), e.get("alpha")) for e in entries] == [
        (c.value, c.colour, "255") for c in legend
    ]
    if all(name.isprintable() for name in legend.names):
        assert [e.get("label") for e in entries] == list(legend.names)


def test_control_characters_in_a_name_do_not_break_the_file():
    """Those of classes are refused; others, such as a scene's name, lose them."""
    root = ElementTree.Element("qgis")
    styles.add_element(root, "title", "a\x00b\x1f")
    assert ElementTree.fromstring(styles.xml_text(root)).findtext("title") == "a\ufffdb\ufffd"


def test_polygon_style_gives_each_class_its_see_through_colour_and_thin_outline():
    style = ElementTree.fromstring(styles.polygon_style(LEGEND))
    assert style.find("renderer-v2").get("attr") == "class_name"
    found = fills(style)
    assert list(found) == list(LEGEND.names)
    for entry in LEGEND:
        colour = [int(entry.colour[i : i + 2], 16) for i in (1, 3, 5)]
        *fill, fill_alpha = map(int, found[entry.name]["color"].split(","))
        *outline, outline_alpha = map(int, found[entry.name]["outline_color"].split(","))
        assert fill == outline == colour
        assert 0 < fill_alpha < 128 < outline_alpha == 255
        assert 0 < float(found[entry.name]["outline_width"]) <= 0.2
    casing, fill = ({o.get("name"): o.get("value") for o in layer.iter("Option")} for layer in style.find(".//symbol"))
    assert casing["color"].endswith(",0")
    assert sum(map(int, casing["outline_color"].split(",")[:3])) < 100
    assert float(casing["outline_width"]) > 2 * float(fill["outline_width"])


def test_confidence_goes_from_0_to_1_and_grows_lighter():
    renderer = ElementTree.fromstring(styles.confidence_style()).find("pipe/rasterrenderer")
    assert (renderer.get("classificationMin"), renderer.get("classificationMax")) == ("0", "1")
    items = renderer.findall(".//colorrampshader/item")
    assert [float(item.get("value")) for item in items] == [0, 0.25, 0.5, 0.75, 1]
    lightness = [np.dot([int(i.get("color")[k : k + 2], 16) for k in (1, 3, 5)], [0.21, 0.72, 0.07]) for i in items]
    assert np.all(np.diff(lightness) > 20)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["B1 coastal", "B2 blue", "B3 green", "B4 red", "B5 nir"], (3, 2, 1)),
        (["coastal_blue", "blue", "green_i", "green", "yellow", "red", "red edge"], (5, 3, 1)),
        (["B1 Blue", "B2 Green", "B3 Red", "B4 NIR"], (2, 1, 0)),
        (["B1", "B2", "B3", "B4", "B8A"], (3, 2, 1)),
        (["T32_B02_10m", "T32_B03_10m", "T32_B04_10m", "T32_B08_10m"], (2, 1, 0)),
        (["nir", "red", "green"], (0, 1, 2)),
        (["band_1", "band_2", "band_3", "band_4"], (0, 1, 2)),
        (["red", "nir"], (0,)),
        (["band_1"], (0,)),
    ],
)
def test_colour_bands(names, expected):
    assert styles.colour_bands(names) == expected


def stretches(style: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(style).iter()
    return [
        (float(element.findtext("minValue")), float(element.findtext("maxValue")))
        for element in found
        if element.tag.lower().endswith("contrastenhancement")
    ]


def make_scene(path: Path, bands: int = 3, **options) -> Path:
    """A scene of 200, 100, 50, ... whose left half is not valid, where the options say so."""
    pixels = np.empty((bands, HEIGHT, WIDTH), np.uint8)
    pixels[:] = np.array([200, 100, 50, 25][:bands], np.uint8)[:, None, None]
    write_geotiff(path, pixels, **{"crs": UTM, "transform": GRID, **options})
    return path


def make_picture(path: Path) -> Path:
    """The same colours in a PNG, which has neither CRS nor transform."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="PNG", count=3, height=HEIGHT, width=WIDTH, dtype="uint8") as dataset:
            dataset.write(np.full((3, HEIGHT, WIDTH), np.array([200, 100, 50], np.uint8)[:, None, None]))
    return path


RIGHT_HALF = np.tile(np.arange(WIDTH) >= WIDTH // 2, (HEIGHT, 1))


def test_scene_style_stretches_each_colour(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 4)
    style = styles.scene_style(scene, [4, 2, 1], [1, 2, 3.5], [10, 20, 30])
    renderer = ElementTree.fromstring(style).find("pipe/rasterrenderer")
    assert [renderer.get(f"{colour}Band") for colour in ("red", "green", "blue")] == ["4", "2", "1"]
    assert (renderer.get("type"), renderer.get("alphaBand")) == ("multibandcolor", "-1")
    assert stretches(style) == [(1, 10), (2, 20), (3.5, 30)]


def test_scene_style_counts_bands_without_an_alpha_band(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 4)
    with rasterio.open(scene, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.alpha, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
        dataset.scales = (9, 1, 1, 0.5)
    style = styles.scene_style(scene, [3, 2, 1], [0, 0, 0], [10, 20, 30])
    renderer = ElementTree.fromstring(style).find("pipe/rasterrenderer")
    assert [renderer.get(f"{colour}Band") for colour in ("red", "green", "blue", "alpha")] == ["4", "3", "2", "1"]
    assert stretches(style) == [(0, 5), (0, 20), (0, 30)]


def test_scene_style_of_one_band_is_grey_and_never_an_empty_range(tmp_path):
    style = styles.scene_style(make_scene(tmp_path / "scene.tif", 2), [2], [7], [7])
    renderer = ElementTree.fromstring(style).find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("grayBand")) == ("singlebandgray", "2")
    assert stretches(style) == [(7, 8)]


def test_scene_style_speaks_in_the_units_that_qgis_shows(tmp_path):
    scene = make_scene(tmp_path / "scene.tif")
    with rasterio.open(scene, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 1, 1), (-3, 0, 0)
    assert stretches(styles.scene_style(scene, [1, 2, 3], [0, 0, 0], [200, 100, 50])) == [(-3, 97), (0, 100), (0, 50)]


def test_scene_style_knows_alpha_and_mask(tmp_path):
    masked = make_scene(tmp_path / "masked.tif", valid=RIGHT_HALF)
    alpha = make_scene(tmp_path / "alpha.tif", 4)
    with rasterio.open(alpha, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    for path in (masked, alpha):
        style = ElementTree.fromstring(styles.scene_style(path, [1, 2, 3], [0, 0, 0], [255, 255, 255]))
        assert style.find("pipe/rasterrenderer").get("alphaBand") == "4"


def test_scene_style_of_no_raster(tmp_path):
    (tmp_path / "scene.tif").write_text("no raster")
    with pytest.raises(RasterError, match=r"scene\.tif"):
        styles.scene_style(tmp_path / "scene.tif", [1], [0], [1])


def test_category_names_stand_at_their_values():
    band = ElementTree.fromstring(styles.category_names(LEGEND)).find("PAMRasterBand")
    background, wheat, rape = LEGEND.names
    assert [name.text or "" for name in band.iter("Category")] == [background, wheat, "", rape]
    columns = [(f.findtext("Name"), f.findtext("Usage")) for f in band.iter("FieldDefn")]
    assert columns == [("Value", "5"), ("Class", "2"), ("Red", "6"), ("Green", "7"), ("Blue", "8")]
    rows = [[cell.text for cell in row] for row in band.iter("Row")]
    assert rows == [[str(c.value), c.name, *map(str, bytes.fromhex(c.colour[1:]))] for c in LEGEND]


def make_polygons(path: Path, **options) -> Path:
    squares = [box(500300, 5199550, 500900, 5199850), box(501200, 5199000, 501500, 5199300)]
    frame = gpd.GeoDataFrame({"class_name": LEGEND.names[1:]}, geometry=squares, crs=UTM)
    frame.to_file(path, layer="polygons", engine="pyogrio", VERSION="1.3", **options)
    return path


def query(gpkg: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(gpkg)) as database:
        return database.execute(sql).fetchall()


def test_embedded_style_is_the_default_of_its_layer(tmp_path):
    gpkg = make_polygons(tmp_path / "polygons.gpkg", GEOMETRY_NAME="shape")
    geopackage.embed_style(gpkg, "polygons", "<first/>")
    geopackage.embed_style(gpkg, "polygons", styles.polygon_style(LEGEND))
    rows = query(
        gpkg,
        "SELECT f_table_catalog, f_table_schema, f_table_name, f_geometry_column, useAsDefault, styleQML,"
        " update_time = (SELECT last_change FROM gpkg_contents WHERE table_name = 'polygons') FROM layer_styles",
    )
    assert rows == [("", "", "polygons", "shape", 1, styles.polygon_style(LEGEND), 1)]
    registered = query(gpkg, "SELECT data_type, srs_id FROM gpkg_contents WHERE table_name = 'layer_styles'")
    assert registered == [("attributes", 0)]
    assert list(gpd.read_file(gpkg, layer="polygons")["class_name"]) == list(LEGEND.names[1:])


def test_style_for_a_layer_that_is_not_there(tmp_path):
    gpkg = make_polygons(tmp_path / "polygons.gpkg")
    with pytest.raises(DiskError, match=r"polygons\.gpkg: no layer 'fields'"):
        geopackage.embed_style(gpkg, "fields", "<qgis/>")
    assert query(gpkg, "SELECT count(*) FROM sqlite_master WHERE name = 'layer_styles'") == [(0,)]


def test_relative_source(tmp_path):
    folder = tmp_path / "predictions"
    assert qgis.relative_source(folder / "a.tif", folder) == "a.tif"
    assert qgis.relative_source(tmp_path / "scenes & co" / "a.tif", folder) == "../scenes & co/a.tif"


def project_layers() -> list[qgis.ProjectLayer]:
    return [
        qgis.ProjectLayer("poly<gons>", "a b.gpkg", styles.polygon_style(LEGEND), table="polygons"),
        qgis.ProjectLayer("classes", "классы.tif", styles.class_style(LEGEND)),
        qgis.ProjectLayer("confidence", "c.tif", styles.confidence_style(), visible=False),
        qgis.ProjectLayer("classes", "../x/s.tif", styles.class_style(LEGEND), crs=CRS.from_epsg(4326)),
    ]


def read_project(path: Path) -> ElementTree.Element:
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        assert member.endswith(".qgs")
        return ElementTree.fromstring(archive.read(member))


def test_project_lists_its_layers_in_order(tmp_path):
    extent = (-97.125, 46.5, -96.75, 47.0625)
    qgis.write_project(tmp_path / "p.qgz", title="A & <B>", crs=UTM, extent=extent, layers=project_layers())
    root = read_project(tmp_path / "p.qgz")
    assert root.findtext("title") == "A & <B>"
    assert [float(side.text) for side in root.find("mapcanvas/extent")] == list(extent)
    tree = root.findall("layer-tree-group/layer-tree-layer")
    assert [(n.get("name"), n.get("checked") == "Qt::Checked") for n in tree] == [
        ("poly<gons>", True), ("classes", True), ("confidence", False), ("classes", True),
    ]  # fmt: skip
    maps = root.findall("projectlayers/maplayer")
    ids = [layer.findtext("id") for layer in maps]
    assert ids == [node.get("id") for node in tree]
    assert [(layer.get("type"), layer.findtext("datasource")) for layer in maps] == [
        ("vector", "./a b.gpkg|layername=polygons"), ("raster", "./классы.tif"), ("raster", "./c.tif"),
        ("raster", "../x/s.tif"),
    ]  # fmt: skip
    assert [layer.findtext("srs/spatialrefsys/authid") for layer in maps] == ["EPSG:32614"] * 3 + ["EPSG:4326"]
    assert list(fills(maps[0])) == list(LEGEND.names)
    assert [e.get("label") for e in maps[1].iter("paletteEntry")] == list(LEGEND.names)


def test_layers_with_short_and_equal_names_have_ids_that_qgis_keeps(tmp_path):
    layers = [qgis.ProjectLayer("a", "b", styles.class_style(LEGEND))] * 2
    qgis.write_project(tmp_path / "p.qgz", title="", crs=UTM, extent=EXTENT, layers=layers)
    ids = [name.text for name in read_project(tmp_path / "p.qgz").iter("id")]
    assert len(set(ids)) == 2
    assert all(len(name) > 10 for name in ids)


def test_project_crs_that_has_no_code_or_is_missing(tmp_path):
    custom = CRS.from_proj4("+proj=laea +lat_0=51.3 +lon_0=9.7 +x_0=1 +y_0=2 +ellps=GRS80 +units=m")
    for name, crs in (("custom", custom), ("none", None)):
        qgis.write_project(tmp_path / name, title="t", crs=crs, extent=EXTENT, layers=project_layers()[:1])
    system = read_project(tmp_path / "custom").find("projectCrs/spatialrefsys")
    assert CRS.from_wkt(system.findtext("wkt")) == custom
    assert system.findtext("wkt").startswith("PROJCRS"), "WKT 1 cannot say all that a CRS may hold"
    assert system.find("authid") is None
    assert read_project(tmp_path / "none").find("projectCrs") is None
    assert read_project(tmp_path / "none").find(".//srs") is None


def test_same_project_is_same_bytes_under_any_name(tmp_path):
    for name in ("first.qgz", ".second.123.part.qgz"):
        qgis.write_project(tmp_path / name, title="t", crs=UTM, extent=EXTENT, layers=project_layers())
    with zipfile.ZipFile(tmp_path / "first.qgz") as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
    assert (tmp_path / "first.qgz").read_bytes() == (tmp_path / ".second.123.part.qgz").read_bytes()


def test_project_that_the_disk_did_not_take(tmp_path, monkeypatch):
    whole = zipfile.ZipFile.writestr
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda self, member, data: whole(self, member, data[:100]))
    with pytest.raises(DiskError, match=r"p\.qgz"):
        qgis.write_project(tmp_path / "p.qgz", title="t", crs=UTM, extent=EXTENT, layers=project_layers())


# In real QGIS ---------------------------------------------------------------------------------------------------------

QGIS_PYTHON = "/usr/bin/python3"  # QGIS comes with the system's Python, never with a virtual environment

LOOK = """
import json, os, sys, zipfile
from qgis.core import *
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage
from qgis.PyQt.QtXml import QDomDocument

app = QgsApplication([], False)
app.initQgis()

def describe(layer):
    found = {"valid": layer.isValid(), "crs": layer.crs().authid(), "renderer": layer.renderer().type()}
    if isinstance(layer, QgsRasterLayer):
        found["legend"] = [(label, colour.name()) for label, colour in layer.renderer().legendSymbologyItems()]
    else:
        items = layer.renderer().legendSymbolItems()
        found["legend"] = [(item.label(), item.symbol().color().name()) for item in items]
        found["geometry"] = [feature.geometry().isGeosValid() for feature in layer.getFeatures()]
        setups = {field.name(): layer.editorWidgetSetup(i) for i, field in enumerate(layer.fields())}
        found["widgets"] = {name: [setup.type(), setup.config()] for name, setup in setups.items()}
        found["labels"] = layer.labelsEnabled() and layer.labeling().settings().fieldName
    return found

def canvas(path):
    document = QDomDocument()
    document.setContent(zipfile.ZipFile(path).read("project.qgs"))
    settings = QgsMapSettings()
    settings.readXml(document.elementsByTagName("mapcanvas").item(0))
    return settings.extent()

def look(path):
    if not path.endswith(".qgz"):
        return describe(QgsRasterLayer(path) if path.endswith(".tif") else QgsVectorLayer(path))
    project = QgsProject()
    read = project.read(path)
    nodes = project.layerTreeRoot().findLayers()
    layers = [dict(describe(n.layer()), name=n.name(), visible=n.isVisible(),
                   source=os.path.relpath(n.layer().source(), os.path.dirname(path))) for n in nodes]
    settings = QgsMapSettings()
    settings.setLayers([node.layer() for node in nodes if node.isVisible()])
    settings.setDestinationCrs(project.crs())
    settings.setExtent(canvas(path))
    settings.setOutputSize(QSize(60, 40))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setOutputImageFormat(QImage.Format_ARGB32)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    pixels = {f"{x},{y}": image.pixelColor(x, y).getRgb() for x, y in ((5, 5), (20, 10), (45, 5))}
    return {"read": read, "title": project.title(), "crs": project.crs().authid(), "layers": layers, "pixels": pixels,
            "absolute": project.readBoolEntry("Paths", "Absolute")[0]}

print(json.dumps([look(path) for path in sys.argv[1:]]))
sys.stdout.flush()
os._exit(0)  # QGIS may crash while it takes itself down
"""


def has_qgis() -> bool:
    command = [QGIS_PYTHON, "-c", "import sys, importlib.util as u; sys.exit(u.find_spec('qgis') is None)"]
    return os.path.exists(QGIS_PYTHON) and subprocess.run(command, check=False).returncode == 0


def look_in_qgis(folder: Path, names: list[str]) -> list[dict]:
    profile = folder.parent / "qgis_profile"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(profile), "QT_QPA_PLATFORM": "offscreen", "LC_ALL": "C.UTF-8",
        "QGIS_CUSTOM_CONFIG_PATH": str(profile),
    }  # fmt: skip
    profile.mkdir()
    command = [QGIS_PYTHON, "-c", LOOK, *(str(folder / name) for name in names)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def write_map(path: Path, pixels: np.ndarray, *, scale: float | None = None) -> None:
    layer = MapLayer("shown", "uint8", 255, ("shown",), {}, scale=scale)
    scene = Scene("scene", (path,), HEIGHT, WIDTH, ("band",), ("uint8",), (None,), UTM, GRID)
    strips = Strips(path.with_suffix(".strips"), scene, [layer])
    strips.begin({}, resume=False, overwrite=False)
    strip = strips.open(0, 0, HEIGHT)
    strip.write(Window(0, 0, WIDTH, HEIGHT), {"shown": pixels[None]})
    strip.finish({})
    strips.join(layer, path)
    strips.remove()


@pytest.mark.qgis
@pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")
def test_qgis_opens_everything_styled(tmp_path):
    """Files and projects, read after their folder has moved, look as they should with no click."""
    scene = make_scene(tmp_path / "scene & co.tif", valid=RIGHT_HALF)
    folder = tmp_path / "прогноз 1"
    folder.mkdir()
    classes = np.full((HEIGHT, WIDTH), 255, np.uint8)
    classes[:, :30], classes[5:15, 10:30] = 0, 1
    write_map(folder / "classes.tif", classes)
    (folder / "classes.qml").write_text(styles.class_style(LEGEND), encoding="utf-8")
    (folder / "classes.tif.aux.xml").write_text(styles.category_names(LEGEND), encoding="utf-8")
    write_map(folder / "confidence.tif", np.where(classes == 255, 255, 200).astype(np.uint8), scale=1 / 250)
    (folder / "confidence.qml").write_text(styles.confidence_style(), encoding="utf-8")
    crops = Legend(LEGEND.classes[1:])
    geopackage.embed_style(make_polygons(folder / "polygons.gpkg"), "polygons", styles.polygon_style(crops))
    layer = qgis.ProjectLayer
    layers = [
        layer("polygons", "polygons.gpkg", styles.polygon_style(crops), table="polygons", visible=False),
        layer("classes", "classes.tif", styles.class_style(LEGEND)),
        layer("confidence", "confidence.tif", styles.confidence_style(), visible=False),
        layer("scene", qgis.relative_source(scene, folder), styles.scene_style(scene, [1, 2, 3], [0] * 3, [255] * 3)),
    ]
    facts = {"title": "a & <b>", "crs": UTM, "extent": EXTENT}
    qgis.write_project(folder / "all.qgz", **facts, layers=layers)
    qgis.write_project(folder / "confidence.qgz", **facts, layers=[layer("c", "confidence.tif", layers[2].style)])
    picture = make_picture(tmp_path / "picture.png")
    bare = layer("picture", "../picture.png", styles.scene_style(picture, [3, 2, 1], [0] * 3, [255] * 3))
    qgis.write_project(folder / "picture.qgz", title="", crs=None, extent=(0, -HEIGHT, WIDTH, 0), layers=[bare])

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (scene, picture, folder):
        shutil.move(path, moved / path.name)
    names = ["classes.tif", "confidence.tif", "polygons.gpkg", "all.qgz", "confidence.qgz", "picture.qgz"]
    raster, confidence, polygons, project, ramp, without_crs = look_in_qgis(moved / folder.name, names)

    entries = [[entry.name, entry.colour] for entry in LEGEND]
    assert raster == {"valid": True, "crs": "EPSG:32614", "renderer": "paletted", "legend": entries}
    assert (confidence["valid"], confidence["renderer"]) == (True, "singlebandpseudocolor")
    assert [label for label, _ in confidence["legend"]] == ["0%", "25%", "50%", "75%", "100%"]
    assert polygons.items() >= {"valid": True, "crs": "EPSG:32614", "renderer": "categorizedSymbol",
                                "legend": entries[1:], "geometry": [True, True]}.items()  # fmt: skip

    assert (project["read"], project["title"], project["crs"]) == (True, "a & <b>", "EPSG:32614")
    assert project["absolute"] is False
    assert [(found["name"], found["visible"], found["source"]) for found in project["layers"]] == [
        ("polygons", False, "polygons.gpkg|layername=polygons"), ("classes", True, "classes.tif"),
        ("confidence", False, "confidence.tif"), ("scene", True, "../scene & co.tif"),
    ]  # fmt: skip
    assert all(found["valid"] and found["crs"] == "EPSG:32614" for found in project["layers"])
    assert [found["renderer"] for found in project["layers"]] == [
        "categorizedSymbol", "paletted", "singlebandpseudocolor", "multibandcolor",
    ]  # fmt: skip
    assert [found["legend"] for found in project["layers"]][:2] == [entries[1:], entries]
    # The class raster over the scene: its nodata lets the scene through.
    background, crop = ([*bytes.fromhex(colour[1:]), 255] for _, colour in entries[:2])
    assert project["pixels"] == {"5,5": background, "20,10": crop, "45,5": [200, 100, 50, 255]}
    # 200 / 250 = 0.8: a fifth of the way from 75 % to 100 %; nodata is not drawn.
    assert ramp["pixels"]["5,5"] == pytest.approx([126, 205, 86, 255], abs=2)
    assert ramp["pixels"]["45,5"][3] == 0
    # No CRS is made up, and what QGIS takes for the picture's place is where the view opens.
    assert (without_crs["crs"], without_crs["layers"][0]["crs"], without_crs["layers"][0]["valid"]) == ("", "", True)
    assert set(map(tuple, without_crs["pixels"].values())) == {(50, 100, 200, 255)}


@pytest.mark.qgis
@pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")
def test_qgis_leaves_what_is_not_valid_transparent(tmp_path):
    """Nodata, mask and alpha of a scene; and a stretch in the units of a scaled band."""
    masked = make_scene(tmp_path / "masked.tif", valid=RIGHT_HALF)
    alpha = make_scene(tmp_path / "alpha.tif", 4)
    with rasterio.open(alpha, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        dataset.write(RIGHT_HALF.astype(np.uint8) * 255, 4)
    nodata = make_scene(tmp_path / "nodata.tif", nodata=7)
    scaled = make_scene(tmp_path / "scaled.tif", nodata=7)
    for path in (nodata, scaled):
        with rasterio.open(path, "r+") as dataset:
            dataset.write(np.where(RIGHT_HALF, dataset.read(), 7).astype(np.uint8))
    with rasterio.open(scaled, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001,) * 3, (-0.1,) * 3
    scenes = (masked, alpha, nodata, scaled)
    for path in scenes:
        style = styles.scene_style(path, [1, 2, 3], [0] * 3, [255] * 3)
        layers = [qgis.ProjectLayer(path.stem, path.name, style)]
        qgis.write_project(path.with_suffix(".qgz"), title="", crs=UTM, extent=EXTENT, layers=layers)
    folder = tmp_path / "all"
    folder.mkdir()
    for path in tmp_path.glob("*.*"):
        shutil.move(path, folder)
    for found in look_in_qgis(folder, [f"{path.stem}.qgz" for path in scenes]):
        assert found["pixels"]["5,5"][3] == 0
        assert found["pixels"]["45,5"] == pytest.approx([200, 100, 50, 255], abs=1)


@pytest.mark.qgis
@pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")
def test_qgis_takes_the_form_of_points_and_the_ranks_of_places(tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    write_map(folder / "map.tif", np.tile(np.array([0, 1, 3], np.uint8), (HEIGHT, WIDTH // 3)))
    write_map(folder / "truth.tif", np.tile(np.array([0, 1, 1], np.uint8), (HEIGHT, WIDTH // 3)))
    legend = tmp_path / "legend.json"
    legend.write_text(json.dumps(LEGEND.to_list()), encoding="utf-8")
    geoseg.sample(folder / "map.tif", out=folder / "points.gpkg", size=30, minimum=5)
    geoseg.evaluate(folder / "map.tif", folder / "truth.tif", classes=legend, out=tmp_path / "report", bootstrap=2)
    shutil.copy(tmp_path / "report" / "errors.gpkg", folder)
    points, places = look_in_qgis(folder, ["points.gpkg", "errors.gpkg|layername=places"])
    assert points["renderer"] == "categorizedSymbol"
    assert [label for label, _ in points["legend"]] == ["class_0", "class_1", "class_3", "to be labelled"]
    assert points["widgets"]["reference"] == [
        "ValueMap", {"map": [{"class_0": "0"}, {"class_1": "1"}, {"class_3": "3"}]}
    ]  # fmt: skip
    hidden = {name for name, (kind, _) in points["widgets"].items() if kind == "Hidden"}
    assert {"stratum", "stratum_area_m2", "stratum_pixels", "row", "col"} <= hidden
    assert (places["renderer"], places["labels"], places["crs"]) == ("singleSymbol", "rank", "EPSG:32614")
    assert places["geometry"] == [True]
