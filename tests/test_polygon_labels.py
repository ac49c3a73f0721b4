"""Polygons as labels: read and mended, matched with a legend, laid on a scene and burnt."""

from __future__ import annotations

import warnings

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.windows import Window
from scenery import TRANSFORM, box, degrees, one_line_each, said, write_polygons

from geoseg.errors import DataWarning, GeoreferenceError, LabelError, LegendError, MissingFileError
from geoseg.legend import parse_legend
from geoseg.polygon_labels import PolygonLabels, polygon_legend, read_polygons, warn_of_class_columns
from geoseg.scenes import Scene, describe_scene

BOXES = [box(0, 0, 2, 2), box(1, 1, 2, 2), box(3, 0, 1, 4)]
CROP = parse_legend("0=background,1=crop")


@pytest.fixture
def scene(write_scene):
    return describe_scene(write_scene("scene.tif", np.ones((4, 4), np.uint8)))


def burn(
    polygons, scene: Scene, window: Window | None = None, *, legend=CROP, unlabelled="background", **options
) -> list:
    reader = PolygonLabels(polygons, scene, legend=legend, unlabelled=unlabelled, **options)
    values, known = reader.read(window or Window(0, 0, scene.width, scene.height))
    assert (values.dtype, known.dtype) == (np.int32, np.bool_)
    return np.where(known, values.astype(object), None).tolist()


# --- burning


def test_pixels_whose_centre_is_inside_are_burnt(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", [box(0.6, 0.4, 2, 2)]))
    assert burn(polygons, scene) == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    touched = burn(polygons, scene, all_touched=True)
    assert touched == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_outside_is_unknown_on_request(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", [box(0, 0, 1, 2)]))
    assert burn(polygons, scene, unlabelled="ignore") == [[1, 1, None, None], *[[None] * 4] * 3]


def test_a_window_may_stick_out_and_miss_every_polygon(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", [box(0, 0, 1, 2)]))
    assert burn(polygons, scene, Window(-1, -1, 3, 3)) == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert burn(polygons, scene, Window(2, 2, 3, 1)) == [[0, 0, 0]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_where_polygons_overlap_the_later_one_wins(tmp_path, scene, order):
    legend = parse_legend("0=background,1=a,2=b,3=c")
    shapes = [box(0, 0, 3, 3), box(1, 1, 3, 3), box(2, 0, 1, 4)]
    path = write_polygons(tmp_path / "p.gpkg", [shapes[i] for i in order], kind=[i + 1 for i in order])
    expected = np.zeros((4, 4), int)
    for i in order:
        row, col, height, width = ((0, 0, 3, 3), (1, 1, 3, 3), (2, 0, 1, 4))[i]
        expected[row : row + height, col : col + width] = i + 1
    assert burn(read_polygons(path, class_field="kind"), scene, legend=legend) == expected.tolist()


def test_holes_and_parts(tmp_path, scene):
    ring = box(0, 0, 4, 4).difference(box(1, 1, 2, 2))
    path = write_polygons(tmp_path / "p.gpkg", [shapely.MultiPolygon([box(0, 0, 1, 1), box(3, 3, 1, 1)]), ring])
    assert burn(read_polygons(path), scene) == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32615", "EPSG:5070"])
@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp", "fgb"])
def test_any_crs_and_format(tmp_path, scene, crs, ending):
    if ending == "geojson" and crs != "EPSG:4326":
        return
    path = tmp_path / f"p.{ending}"
    # GDAL sorts a FlatGeobuf by place, unless it is told not to.
    options = {"SPATIAL_INDEX": "NO"} if ending == "fgb" else {}
    gpd.GeoDataFrame({"kind": [1, 2, 3]}, geometry=BOXES, crs="EPSG:32614").to_crs(crs).to_file(path, **options)
    found = burn(read_polygons(path, class_field="kind"), scene, legend=parse_legend("0=background,1=a,2=b,3=c"))
    assert found == [[1, 1, 0, 0], [1, 2, 2, 0], [0, 2, 2, 0], [3, 3, 3, 3]]


def test_a_turned_scene(write_scene, tmp_path):
    quarter = Affine(0, 10, 500_000, -10, 0, 4_500_000)
    scene = describe_scene(write_scene("turned.tif", np.ones((3, 4), np.uint8), transform=quarter))
    path = write_polygons(tmp_path / "p.gpkg", [box(0, 1, 1, 2, quarter)])
    assert burn(read_polygons(path), scene) == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_polygons_that_reach_round_the_earth(write_scene, tmp_path):
    """What lies where the scene's CRS means nothing neither breaks nor bends what lies in the scene."""
    transform = Affine(10, 0, 700_000, 0, -10, 4_500_000)
    scene = describe_scene(write_scene("east.tif", np.ones((4, 4), np.uint8), transform=transform))
    lon = degrees(700_020, 4_500_000)[0]
    world = shapely.box(-180, -90, 180, 90)
    east = shapely.box(lon, -90, 180, 90)
    path = write_polygons(tmp_path / "p.gpkg", [world, east], "EPSG:4326", kind=[1, 2])
    found = burn(read_polygons(path, class_field="kind"), scene, legend=parse_legend("0=background,1=a,2=b"))
    assert found == [[1, 1, 2, 2]] * 4


def test_a_scene_between_the_polygons_has_none(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", [box(-9, -9, 1, 1), box(9, 9, 1, 1)]))
    assert burn(polygons, scene) == [[0] * 4] * 4


def test_polygons_keep_their_classes_where_others_lie_elsewhere(tmp_path, scene):
    shapes = [box(-900, 0, 1, 1), box(0, 0, 1, 1), box(900, 0, 1, 1), box(3, 3, 1, 1)]
    path = write_polygons(tmp_path / "p.gpkg", shapes, kind=[1, 2, 1, 3])
    found = burn(read_polygons(path, class_field="kind"), scene, legend=parse_legend("0=background,1=a,2=b,3=c"))
    assert found == [[2, 0, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 3]]


def test_polygons_elsewhere_are_refused(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", [box(6, 0, 1, 1)], to="EPSG:4326"))
    with pytest.raises(LabelError, match=r"p\.gpkg: does not overlap .*scene\.tif.*check both CRSs") as caught:
        PolygonLabels(polygons, scene, legend=CROP, unlabelled="background")
    one_line_each(caught.value)


def test_without_a_crs_the_message_says_what_works(write_scene, tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", BOXES))
    picture = describe_scene(write_scene("picture.tif", np.ones((4, 5), np.uint8), crs=None))
    with pytest.raises(GeoreferenceError, match=r"picture\.tif: no CRS.*p\.gpkg.*a mask raster of 4 x 5 pixels works"):
        PolygonLabels(polygons, picture, legend=CROP, unlabelled="background")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_polygons(tmp_path / "q.gpkg", BOXES, None)
    with pytest.raises(GeoreferenceError, match=r"q\.gpkg: no CRS.*ogr2ogr -a_srs"):
        read_polygons(path)


def test_a_crs_without_a_place_is_refused_in_one_line(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", BOXES, 'LOCAL_CS["site",UNIT["metre",1]]'))
    with pytest.raises(GeoreferenceError, match=r"p\.gpkg: cannot be laid on .*scene\.tif") as caught:
        PolygonLabels(polygons, scene, legend=CROP, unlabelled="background")
    one_line_each(caught.value)


# --- reading and mending


def test_a_bow_tie_is_mended_and_counted(tmp_path, scene):
    corners = [TRANSFORM @ at for at in ((0, 0), (4, 4), (4, 0), (0, 4))]
    path = write_polygons(tmp_path / "p.gpkg", [shapely.Polygon(corners), box(0, 0, 1, 1)])
    with said(r"p\.gpkg: 1 invalid geometries mended, 0 without an area left out"):
        polygons = read_polygons(path)
    assert burn(polygons, scene, all_touched=True)[0] == [1, 0, 0, 1]


def test_an_outline_that_goes_round_twice_keeps_its_ground(tmp_path, scene):
    corners = [(0, 0), (4, 0), (4, 2), (1, 2), (1, -1), (3, -1), (3, 4), (0, 4)]
    path = write_polygons(tmp_path / "p.gpkg", [shapely.Polygon([TRANSFORM @ at for at in corners])])
    with said("1 invalid"):
        polygons = read_polygons(path)
    assert burn(polygons, scene) == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_a_spike_leaves_no_line(tmp_path, scene):
    corners = [(0, 0), (2, 0), (2, 1), (1.5, 1), (1.5, 3.5), (1.5, 1), (0, 1)]
    path = write_polygons(tmp_path / "p.gpkg", [shapely.Polygon([TRANSFORM @ at for at in corners])])
    with said("1 invalid"):
        polygons = read_polygons(path)
    assert burn(polygons, scene) == [[1, 1, 0, 0], *[[0] * 4] * 3]


def test_what_has_no_area_is_left_out_and_counted(tmp_path, scene):
    flat = shapely.Polygon([TRANSFORM @ at for at in ((0, 0), (1, 1), (2, 2))])
    path = tmp_path / "p.gpkg"
    write_polygons(path, [box(0, 0, 1, 1), None, shapely.Polygon(), flat], kind=[1, 2, 3, 4])
    with said(r"0 invalid geometries mended, 3 without an area left out"):
        polygons = read_polygons(path, class_field="kind")
    assert polygons.keys == (1,)
    with said(r"0 invalid geometries mended, 2 without an area"):
        mixed = write_polygons(
            tmp_path / "m.gpkg", [shapely.Point(0, 0), shapely.LineString([(0, 0), (1, 1)]), BOXES[0]]
        )
        assert len(read_polygons(mixed).shapes) == 1


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_coordinates_that_are_no_numbers_are_left_out(tmp_path):
    wild = [shapely.Polygon([(0, 0), (value, 0), (1, 1)]) for value in (np.nan, np.inf)]
    path = write_polygons(tmp_path / "p.gpkg", [*BOXES, *wild])
    with said("0 invalid geometries mended, 2 without an area left out"):
        assert len(read_polygons(path).shapes) == 3


def test_only_the_first_layer_is_read_and_that_is_said(tmp_path):
    for name, shapes in (("one", BOXES[:1]), ("two", BOXES)):
        gpd.GeoDataFrame(geometry=shapes, crs="EPSG:32614").to_file(tmp_path / "p.gpkg", layer=name)
    with said(r"p\.gpkg: 2 layers found, 'one' is read"):
        assert len(read_polygons(tmp_path / "p.gpkg").shapes) == 1


def test_a_table_beside_the_layer_does_not_matter(tmp_path):
    pyogrio.write_dataframe(gpd.pd.DataFrame({"a": [1]}), tmp_path / "p.gpkg", layer="table")
    with pytest.raises(LabelError, match=r"p\.gpkg: no features could be read \(a table without geometry"):
        read_polygons(tmp_path / "p.gpkg")
    gpd.GeoDataFrame(geometry=BOXES, crs="EPSG:32614").to_file(tmp_path / "p.gpkg", layer="two")
    assert len(read_polygons(tmp_path / "p.gpkg").shapes) == 3


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.shp", "p.fgb", "p.parquet", "p.json"])
@pytest.mark.parametrize(
    "content", [b"", b"junk" * 50, b'{"type": "FeatureCollection", "features": []}', b"<OGRVRTDataSource/>"]
)
def test_what_is_no_polygon_file_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelError, match=f"{name}: no ") as caught:
        read_polygons(tmp_path / name)
    one_line_each(caught.value)


def test_a_file_cut_short_a_folder_and_nothing_are_refused_in_one_line(tmp_path):
    path = write_polygons(tmp_path / "p.gpkg", BOXES)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(LabelError, match=r"p\.gpkg: no features could be read") as caught:
        read_polygons(path)
    one_line_each(caught.value)
    (tmp_path / "q.gpkg").mkdir()
    with pytest.raises(LabelError, match=r"q\.gpkg: no regular file"):
        read_polygons(tmp_path / "q.gpkg")
    with pytest.raises(MissingFileError, match=r"r\.gpkg: not found"):
        read_polygons(tmp_path / "r.gpkg")


# --- the class field


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        ([3, 1, 3], (3, 1, 3)),
        (["wheat", " maize ", "wheat"], ("wheat", "maize", "wheat")),
        (["3", "10", "3"], (3, 10, 3)),
        (["3", "10", "x"], ("3", "10", "x")),
        ([1.0, 2.0, 1.0], (1, 2, 1)),
        ([True, False, True], (1, 0, 1)),
    ],
)
def test_whole_numbers_and_names(tmp_path, column, keys):
    path = write_polygons(tmp_path / "p.gpkg", BOXES, kind=column, other=["a", "b", "c"])
    assert read_polygons(path, class_field="kind").keys == keys
    assert read_polygons(path).keys is None


@pytest.mark.parametrize("column", [["wheat", None, "maize"], [1, None, 2]])
@pytest.mark.parametrize("classes", [None, "0=background,1=wheat,2=maize"])
def test_polygons_without_a_value_are_left_out_and_counted(tmp_path, scene, column, classes):
    path = write_polygons(tmp_path / "p.gpkg", BOXES, kind=column)
    with said(r"p\.gpkg: 1 polygons without a value in 'kind' are left out"):
        polygons = read_polygons(path, class_field="kind", classes=parse_legend(classes) if classes else None)
    assert len(polygons.keys) == len(polygons.shapes) == 2
    legend = parse_legend("0=background,1=wheat,2=maize")
    assert burn(polygons, scene, legend=legend) == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [2] * 4]


def test_fields_that_cannot_tell_a_class(tmp_path):
    path = write_polygons(tmp_path / "p.gpkg", BOXES, share=[0.5, 1.0, 2.0], empty=[None] * 3)
    with pytest.raises(LabelError, match=r"field 'share' holds fractions"):
        read_polygons(path, class_field="share")
    with pytest.raises(LabelError, match=r"no polygon has a value in 'empty'"):
        read_polygons(path, class_field="empty")
    with pytest.raises(LabelError, match=r"p\.gpkg: no field 'kind'; fields found: share, empty"):
        read_polygons(path, class_field="kind", classes=CROP)
    with pytest.raises(LabelError, match="fields found: none"):
        read_polygons(write_polygons(tmp_path / "q.gpkg", BOXES), class_field="geometry")


def test_values_outside_the_legend_are_an_error_or_unknown(tmp_path, scene):
    path = write_polygons(tmp_path / "p.gpkg", [*BOXES, box(9, 9, 1, 1)], kind=["wheat", "oats", "rye", "oats"])
    legend = parse_legend("0=background,1=wheat")
    strays = r"p\.gpkg: 'oats' \(2 polygons\), 'rye' \(1 polygons\) not in the legend .*; add them to --classes"
    with pytest.raises(LabelError, match=f"{strays} or use --other ignore$"):
        read_polygons(path, class_field="kind", classes=legend, other="error")
    with pytest.raises(LabelError, match=f"{strays}$"):  # of a command that has no such option
        read_polygons(path, class_field="kind", classes=legend)
    with said(r"p\.gpkg: not in the legend, so what lies there is ignored: 'oats' \(2 polygons\), 'rye'"):
        polygons = read_polygons(path, class_field="kind", classes=legend, other="ignore")
    assert burn(polygons, scene, legend=legend) == [[1, 1, 0, 0], [1, None, None, 0], [0, None, None, 0], [None] * 4]


# --- the legend


def legend_of(tmp_path, column, unlabelled="background", background=None):
    path = write_polygons(tmp_path / "p.gpkg", BOXES[: len(column)], kind=column)
    return polygon_legend([read_polygons(path, class_field="kind")], unlabelled, background)


@pytest.mark.parametrize(
    ("column", "legend"),
    [
        ([7, 3, 7], "0=background, 3=class_3, 7=class_7"),
        ([0, 3, 7], "0=class_0, 3=class_3, 7=class_7"),
        (["b", "a", "c"], "0=background, 1=a, 2=b, 3=c"),
        (["b", "Background", "a"], "0=Background, 1=a, 2=b"),
        (["10", "9", "10"], "0=background, 9=class_9, 10=class_10"),
    ],
)
def test_numbers_are_values_and_names_are_numbered(tmp_path, column, legend):
    found = legend_of(tmp_path, column)
    assert str(found) == legend
    assert found.background == 0


def test_without_background_there_is_none(tmp_path):
    assert str(legend_of(tmp_path, ["b", "a"], "ignore")) == "1=a, 2=b"
    assert legend_of(tmp_path, [7, 3], "ignore").background is None


def test_a_background_that_is_named_is_the_only_one(tmp_path, scene):
    legend = legend_of(tmp_path, ["fallow", "wheat"], background="fallow")
    assert (str(legend), legend.background) == ("1=fallow, 2=wheat", 0)
    path = write_polygons(tmp_path / "q.gpkg", BOXES[:2], kind=["fallow", "wheat"])
    found = burn(read_polygons(path, class_field="kind"), scene, legend=legend)
    assert found == [[1, 1, 1, 1], [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1]]
    assert str(legend_of(tmp_path, [3, 7], background="7")) == "3=class_3, 7=class_7"
    assert str(legend_of(tmp_path, [3, 7], background="background")) == "0=background, 3=class_3, 7=class_7"
    with pytest.raises(LegendError, match="'oats' is not in the legend"):
        legend_of(tmp_path, [3, 7], background="oats")


def test_several_files_have_one_legend(tmp_path):
    files = [
        read_polygons(write_polygons(tmp_path / f"{name}.gpkg", BOXES[:2], kind=column), class_field="kind")
        for name, column in (("a", ["wheat", "rye"]), ("b", ["oats", "rye"]))
    ]
    assert polygon_legend(files, "background").names == ("background", "oats", "rye", "wheat")


def test_without_a_field_there_is_one_class(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", BOXES, kind=[1, 2, 3]))
    assert str(polygon_legend([polygons], "background")) == "0=background, 1=class_1"
    assert str(polygon_legend([polygons], "ignore")) == "1=class_1"
    legend = parse_legend("5=fields,9=background")
    assert burn(polygons, scene, legend=legend)[:2] == [[5, 5, 9, 9], [5, 5, 5, 9]]
    with pytest.raises(LabelError, match=r"p\.gpkg: 2 classes .*no --class-field"):
        PolygonLabels(polygons, scene, legend=parse_legend("1=a,2=b"), unlabelled="ignore")


def test_ground_outside_needs_a_class(tmp_path, scene):
    polygons = read_polygons(write_polygons(tmp_path / "p.gpkg", BOXES))
    with pytest.raises(LegendError, match=r"p\.gpkg: pixels outside the polygons have no class.*--unlabelled ignore"):
        PolygonLabels(polygons, scene, legend=parse_legend("1=a"), unlabelled="background")


@pytest.mark.parametrize("column", [[-1, 2], [70_000, 1]])
def test_values_that_cannot_be_classes_are_named_with_the_file(tmp_path, column):
    with pytest.raises(LegendError, match=r"p\.gpkg: .*0 to 65535 are possible"):
        legend_of(tmp_path, column)


@pytest.mark.parametrize("value", [float("inf"), 1e300, -1e19])
def test_numbers_beyond_measure_are_no_classes(tmp_path, value):
    path = write_polygons(tmp_path / "p.gpkg", [box(0, 0, 5, 5), box(5, 5, 5, 5)], kind=[1.0, value])
    with pytest.raises(LabelError, match=r"p\.gpkg: field 'kind' holds fractions or numbers beyond measure"):
        read_polygons(path, class_field="kind")


def test_a_text_of_many_digits_is_a_name(tmp_path):
    path = write_polygons(tmp_path / "p.gpkg", [box(0, 0, 5, 5), box(5, 5, 5, 5)], kind=["1" * 5000, "7"])
    assert read_polygons(path, class_field="kind").keys == ("1" * 5000, "7")


# --- what is taken together, or apart, is said


def test_a_column_that_could_tell_classes_is_named(tmp_path):
    squares = [box(0, i, 1, 1) for i in range(4)]
    path = write_polygons(
        tmp_path / "a.gpkg",
        squares,
        id=["a", "b", "c", "d"],
        year=[1, 2, 1, 2],
        kind=["wheat", "grass ", "wheat", "grass"],
    )
    with pytest.warns(
        DataWarning,
        match=r"a\.gpkg: all polygons are taken for one class, while the column 'kind' tells 2 \(grass, wheat\)",
    ):
        warn_of_class_columns(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_class_columns(write_polygons(tmp_path / "b.gpkg", squares, kind=["wheat"] * 4, id=["a", "b", "c", "d"]))
        warn_of_class_columns(write_polygons(tmp_path / "c.gpkg", squares))
        table = gpd.GeoDataFrame({"id": range(4)}, geometry=squares, crs="EPSG:32614")
        table.to_parquet(tmp_path / "d.parquet")
        warn_of_class_columns(tmp_path / "d.parquet")


def test_names_that_differ_in_their_letters_alone_are_said(tmp_path):
    path = write_polygons(tmp_path / "a.gpkg", BOXES, kind=["Wheat", "wheat ", "grass"])
    with pytest.warns(DataWarning, match="Wheat and wheat found in 'kind', which are taken for 2 classes"):
        assert read_polygons(path, class_field="kind").keys == ("Wheat", "wheat", "grass")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_polygons(path, class_field="kind", classes=parse_legend("1=Wheat,2=wheat,3=grass"))
