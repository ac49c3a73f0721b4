"""Single fields from a class raster with a boundary: what becomes of each pixel, wherever strips begin, and as polygons."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scenery import box, write_polygons

import geoseg
import geoseg.evaluation
from geoseg import vectorise
from geoseg.components import FIELD, class_of
from geoseg.errors import DataWarning, InputError, LegendError, PreflightError
from geoseg.fields import GROWTH, FieldRows, growth_for
from geoseg.legend import LEGEND_TAG, Legend, parse_legend
from geoseg.polygons import polygonize
from geoseg.progress import silent

LEGEND = parse_legend("0=background,1=wheat,2=boundary,3=rye")
WriteScene = Callable[..., Path]


def plainly(indices: np.ndarray, legend: Legend, min_seed: int, reach: int) -> np.ndarray:
    """The labels of a whole raster, pixel by pixel."""
    labels, number = np.full(indices.shape, -1, np.int64), 0
    for start in np.argwhere(np.isin(indices, legend.ground)):
        if labels[tuple(start)] == -1:
            members, found = deque([tuple(start)]), [tuple(start)]
            labels[tuple(start)] = -2
            while members:
                for near in beside(members.popleft(), indices.shape):
                    if labels[near] == -1 and indices[near] == indices[tuple(start)]:
                        labels[near] = -2
                        members.append(near)
                        found.append(near)
            number += len(found) >= min_seed
            for at in found:
                labels[at] = int(indices[at]) + FIELD * number if len(found) >= min_seed else -3
    free = (labels == -3) | (indices == legend.boundary)
    labels[~free & (labels < 0)] = indices[~free & (labels < 0)]
    for _ in range(reach):
        before = np.where(free, -1, labels)
        for at in map(tuple, np.argwhere(free)):
            for near in beside(at, indices.shape):
                if before[near] >= FIELD:
                    labels[at], free[at] = before[near], False
                    break
    labels[free] = legend.background if legend.background is not None else 255
    return labels


def read_layer(path: object) -> gpd.GeoDataFrame:
    return gpd.read_file(path, layer="polygons")


def beside(at: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for row, col in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        if 0 <= at[0] + row < shape[0] and 0 <= at[1] + col < shape[1]:
            yield at[0] + row, at[1] + col


def rows_of(indices: np.ndarray, legend: Legend, min_seed: int, rows: int, growth: int = GROWTH) -> FieldRows:
    return FieldRows(
        lambda first, last: indices[first:last], *indices.shape, legend, Hundreds(), min_seed=min_seed, growth=growth,
        rows=rows, progress=silent,
    )  # fmt: skip


class Hundreds:
    """Areas of pixels, all of them 100 m2."""

    def at(self, col: np.ndarray, row: np.ndarray) -> np.ndarray:
        assert (row < 10_000).all()
        return np.full(len(col), 100.0)


@given(
    st.data(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3),
    st.sampled_from([LEGEND, parse_legend("4=wheat,2=boundary,5=rye")]),
)  # fmt: skip
def test_each_pixel_is_what_the_whole_raster_makes_it_wherever_strips_begin(data, rows, min_seed, growth, legend):
    shape = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 9)))
    some = st.sampled_from([*range(len(legend)), *[legend.boundary] * 3, 255])
    indices = data.draw(npst.arrays(np.uint8, shape, elements=some, fill=st.nothing()))
    expected = plainly(indices, legend, min_seed, growth)
    read = rows_of(indices, legend, min_seed, rows, growth).read
    cuts = sorted({0, shape[0], *data.draw(st.lists(st.integers(0, shape[0]), max_size=4))})
    found = [read(first, last) for first, last in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    again = rows_of(indices, legend, min_seed, rows, growth)
    for _ in range(2):  # from the top once more
        np.testing.assert_array_equal(again.read(0, shape[0]), expected)
        missed = np.isin(indices, [*legend.ground, legend.boundary]) & (expected < FIELD)
        told = again.counts()["fields"]["missed"]
        assert (told["pixels"], told["area_m2"]) == (missed.sum(), 100 * missed.sum())


def test_strips_overlap_and_only_what_is_needed_is_kept(rng):
    indices = rng.choice(np.array([0, 1, 1, 1, 2, 3], np.uint8), (300, 20))
    rows = rows_of(indices, LEGEND, 3, 16)
    whole = rows_of(indices, LEGEND, 3, 300).read(0, 300)
    for top in range(0, 290, 7):
        np.testing.assert_array_equal(rows.read(max(top - 5, 0), top + 10), whole[max(top - 5, 0) : top + 10])
        assert len(rows._grown) <= 10 + 5 + 16
        assert len(rows._ahead) <= 2 * GROWTH + 2 * 16


@pytest.fixture
def two_fields() -> np.ndarray:
    """Two fields that touch along a boundary of two pixels, a speck, and a pond."""
    indices = np.zeros((20, 30), np.uint8)
    indices[2:18, 2:28] = 2
    indices[3:17, 3:14] = indices[3:17, 16:27] = 1
    indices[17, 27] = 1  # a speck on the rim
    indices[8:11, 20:23] = 0
    return indices


@pytest.fixture
def classes(write_scene: WriteScene, two_fields: np.ndarray) -> Path:
    path = write_scene("a_classes.tif", two_fields, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(parse_legend("0=background,1=wheat,2=boundary").to_list())})
    return path


def test_fields_that_touch_are_polygons_that_share_an_edge(classes: Path, tmp_path: Path) -> None:
    layer = polygonize(classes, out=tmp_path / "a.gpkg", simplify=0, fields=True)
    table = read_layer(layer)
    assert table["class_name"].tolist() == ["wheat", "wheat"]
    assert table["pixels"].tolist() == [16 * 13, 16 * 13 - 9]
    assert table.geometry[0].equals(box(2, 2, 16, 13))
    assert table.geometry[1].equals(box(2, 15, 16, 13).difference(box(8, 20, 3, 3)))
    assert shapely.coverage_is_valid(table.geometry.to_numpy())
    assert layer.balance["fields"] == {"seeds": 2, "specks": 1, "missed": {"pixels": 0, "area_m2": 0}}
    assert (layer.balance["gap_pixels"], layer.balance["overlapping_polygons"]) == (0, 0)
    assert layer.balance["classes"][0]["pixels"] == 32 * 13 - 9
    assert "2 fields told apart; 1 specks" in str(layer)
    plain = read_layer(polygonize(classes, out=tmp_path / "b.gpkg", simplify=0))
    assert sorted(plain["pixels"]) == [1, 14 * 11 - 9, 14 * 11]  # the interiors, without the boundary


def test_small_fields_go_to_the_field_with_the_longest_edge(
    classes: Path, two_fields: np.ndarray, tmp_path: Path
) -> None:
    two_fields[3:17, 12:14] = two_fields[3:17, 16:18] = 2
    two_fields[3:17, 14:16] = 1  # a narrow one between two that are large
    with rasterio.open(classes, "r+") as dataset:
        dataset.write(two_fields, 1)
    whole = read_layer(polygonize(classes, out=tmp_path / "b.gpkg", simplify=0, fields=True))
    layer = polygonize(classes, out=tmp_path / "a.gpkg", simplify=0, fields=True, min_area=8000, min_hole=1000)
    merged = read_layer(layer)
    assert whole["pixels"].tolist() == [16 * 11, 16 * 4, 16 * 11 - 9]
    assert merged["pixels"].tolist() == [16 * 15, 16 * 11]  # of equal edges the first; the two stay two
    assert (layer.balance["merged"]["polygons"], layer.balance["filled"]["holes"]) == (1, 1)
    assert layer.balance["merged"]["out_of_layer_m2"] == 0


def test_the_same_polygons_from_any_strips(write_scene: WriteScene, rng: np.random.Generator, tmp_path: Path) -> None:
    cells = rng.choice(np.array([0, 1, 1, 1, 3], np.uint8), (30, 20))
    indices = np.kron(cells, np.ones((9, 9), np.uint8))
    indices[(rng.random(indices.shape) < 0.03) & (indices > 0)] = 2
    indices[::9], indices[:, ::9] = np.where(indices[::9] > 0, 2, 0), np.where(indices[:, ::9] > 0, 2, 0)
    path = write_scene("a.tif", indices, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(LEGEND.to_list())})
    tables = []
    for least in (1, 23, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vectorise, "_STRIP", 1)
            patch.setattr(vectorise, "_LEAST", least)
            layer = polygonize(
                path,
                out=tmp_path / f"{least}.gpkg",
                fields=True,
                min_area=2500,
                min_hole=500,
                smooth=True,
            )
            tables.append(read_layer(layer))
    assert len(tables[0]) > 200
    for other in tables[1:]:
        assert_geodataframe_equal(tables[0], other)


@pytest.mark.parametrize("spec", ["0=background,1=wheat,3=rye", "0=background,2=boundary"])
def test_without_a_boundary_there_is_nothing_to_tell_fields_by(
    write_scene: WriteScene, tmp_path: Path, spec: str
) -> None:
    legend = parse_legend(spec)
    path = write_scene("a.tif", np.full((4, 4), legend.values[1], np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(legend.to_list())})
    with pytest.raises(LegendError, match="--boundary"):
        polygonize(path, out=tmp_path / "a.gpkg", fields=True)
    assert not (tmp_path / "a.gpkg").exists()


def test_scenes_become_fields(write_scene: WriteScene, tmp_path: Path, rng: np.random.Generator) -> None:
    shade = np.kron(rng.integers(40, 200, (6, 6)), np.ones((16, 16)))
    pixels = np.stack([shade + rng.normal(0, 3, shade.shape) for _ in range(2)]).astype(np.uint8)
    numbers = np.kron(np.arange(1, 37).reshape(6, 6), np.ones((16, 16))).astype(np.uint16)
    scene, labels = write_scene("scene.tif", pixels), write_scene("numbers.tif", numbers)
    chips = tmp_path / "chips"
    geoseg.tile(scene, labels=labels, out=chips, chip_size=16, boundary=1, instances=True, block_size=1)
    geoseg.train(chips, out=tmp_path / "model", width=4, epochs=30, precision="fp32", workers=0)
    (found,) = geoseg.predict(scene, model=tmp_path / "model", out=tmp_path / "maps", fields=True, min_seed=4)
    table = read_layer(found.outputs["polygons"])
    assert set(table["class_name"]) == {"field"}
    assert found.facts["polygons"]["fields"]["seeds"] == len(table) > 1
    assert found.facts["options"]["fields"] is True
    assert geoseg.info(tmp_path / "model").to_dict()["training"]["boundary"] == 1
    hectares = found.facts["polygons"]["classes"][0]["area_by_polygons_m2"] / 1e4
    assert re.search(rf"{len(table)} fields of field, with their boundary +{hectares:.1f} ha", str(found))
    again = polygonize(
        found, out=tmp_path / "again.gpkg", fields=True, min_seed=4, confidence=found.outputs["confidence"]
    )
    assert_geodataframe_equal(table, read_layer(again))


def test_a_model_without_a_boundary_is_refused_before_work(
    trained: Path, write_scene: WriteScene, tmp_path: Path
) -> None:
    scene = write_scene("scene.tif", np.full((2, 20, 20), 9, np.uint8))
    with pytest.raises(LegendError, match=r"no boundary class among .*--boundary"):
        geoseg.predict(scene, model=trained, out=tmp_path / "maps", fields=True)
    assert not (tmp_path / "maps").exists()


@pytest.fixture
def trained(write_scene: WriteScene, tmp_path: Path, rng: np.random.Generator) -> Path:
    scene = write_scene("train.tif", rng.integers(1, 200, (2, 96, 96), np.uint8))
    labels = write_scene("labels.tif", np.kron(rng.integers(0, 2, (6, 6)), np.ones((16, 16))).astype(np.uint8))
    geoseg.tile(scene, labels=labels, out=tmp_path / "chips", chip_size=16, block_size=1)
    geoseg.train(tmp_path / "chips", out=tmp_path / "plain", width=4, epochs=1, precision="fp32", workers=0)
    return tmp_path / "plain"


def test_objects_of_polygons_are_the_polygons(write_scene: WriteScene, classes: Path, tmp_path: Path) -> None:
    layer = polygonize(classes, out=tmp_path / "a.gpkg", simplify=0, fields=True)
    truth = write_polygons(tmp_path / "truth.gpkg", [box(2, 2, 16, 13), box(2, 15, 16, 13)], kind=["wheat"] * 2)
    report = geoseg.evaluate(layer, truth, class_field="kind", pixel_size=10, out=tmp_path / "r", bootstrap=1)
    found = next(entry for entry in report.metrics["objects"]["classes"] if entry["name"] == "wheat")
    assert (found["reference"], found["predicted"], found["f1"]) == (2, 2, 1)
    assert found["over_segmentation"] == pytest.approx(9 / 416)
    blob = write_polygons(tmp_path / "blob.gpkg", [box(2, 2, 16, 26)], kind=["wheat"])
    report = geoseg.evaluate(blob, truth, class_field="kind", pixel_size=10, out=tmp_path / "s", bootstrap=1)
    found = next(entry for entry in report.metrics["objects"]["classes"] if entry["name"] == "wheat")
    assert (found["reference"], found["predicted"], found["f1"]) == (2, 1, 0)
    edges = next(entry for entry in report.metrics["boundary"]["classes"] if entry["name"] == "wheat")
    assert edges["recall"] < 1  # what lies between the two is an edge
    assert found["under_segmentation"] == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_seed": 5}, "--min-seed 5: --fields is needed with it"),
        ({"growth": 5}, "--growth 5: --fields is needed with it"),
        ({"fields": True, "growth": 0}, "--growth 0: 1 or more is needed"),
        ({"fields": True, "min_seed": 0}, "--min-seed 0: 1 or more is needed"),
        ({"fields": True, "connectivity": 8}, "--connectivity 8: 4 is needed with --fields"),
        ({"fields": True, "only": "wheat,boundary"}, "--only boundary is no class of fields"),
        ({"fields": True, "only": [0]}, "--only background is no class of fields"),
    ],
)
def test_what_does_not_go_with_fields_is_refused(classes: Path, tmp_path: Path, options, words) -> None:
    with pytest.raises((InputError, LegendError), match=words):
        polygonize(classes, out=tmp_path / "a.gpkg", **options)


def test_fields_are_polygons(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="--polygons False: polygons are needed for --fields"):
        geoseg.predict(tmp_path / "scene.tif", model=tmp_path, out=tmp_path / "maps", fields=True, polygons=False)


def test_seeds_that_are_all_too_small_are_told(classes: Path, tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"no interior of a field has 1000 pixels; lower --min-seed"):
        layer = polygonize(classes, out=tmp_path / "a.gpkg", fields=True, min_seed=1000)
    pixels = 16 * 26 - 9
    assert layer.balance["fields"] == {
        "seeds": 0, "specks": 3, "missed": {"pixels": pixels, "area_m2": pytest.approx(100 * pixels, rel=1e-2)},
    }  # fmt: skip
    assert "specks and boundary too far from all fields" in str(layer)


@pytest.mark.parametrize(("growth", "pixels"), [(None, 4), (1, 1), (16, 16)])
def test_a_field_grows_so_far_and_no_further(write_scene: WriteScene, tmp_path: Path, growth, pixels) -> None:
    indices = np.full((5, 40), 2, np.uint8)
    indices[:, :3] = 1
    path = write_scene("a.tif", indices)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(LEGEND.to_list())})
    layer = polygonize(path, out=tmp_path / "a.gpkg", simplify=0, fields=True, growth=growth)
    assert read_layer(layer).geometry[0].equals(box(0, 0, 5, 3 + pixels))


@pytest.mark.parametrize(
    ("told", "growth"),
    [
        ({}, 4),
        ({"boundary": None}, 4),
        ({"boundary": 2}, 4),
        ({"boundary": 7}, 7),
        ({"boundary": 10**9}, 16),
        ({"boundary": "7"}, 4),
    ],
)
def test_fields_grow_as_far_as_the_boundary_was_wide_in_training(told, growth) -> None:
    assert growth_for(told) == growth


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """The two fields."""
    return write_polygons(tmp_path / "truth.gpkg", [box(2, 2, 16, 13), box(2, 15, 16, 13)], kind=["wheat"] * 2)


def scores(report: geoseg.evaluation.Evaluation, part: str, name: str) -> dict[str, float]:
    return next(entry for entry in report.metrics[part]["classes"] if entry["name"] == name)


def test_polygons_of_background_are_one_ground(truth: Path, tmp_path: Path) -> None:
    ground, around = (
        [box(18, 0, 40, 15), box(18, 15, 40, 15)],
        write_polygons(tmp_path / "aoi.gpkg", [box(0, 0, 58, 30)]),
    )
    shapes = [*gpd.read_file(truth).geometry, *ground]
    drawn = write_polygons(tmp_path / "drawn.gpkg", shapes, kind=["wheat", "wheat", "background", "background"])
    for mapped, reference in ((truth, drawn), (drawn, truth)):
        report = geoseg.evaluate(
            mapped, reference, class_field="kind", pixel_size=10, out=tmp_path / reference.stem, bootstrap=1, aoi=around
        )
        assert scores(report, "boundary", "background")["f1"] == 1


def test_classes_that_are_read_as_one_have_no_edges_among_them(truth: Path, tmp_path: Path) -> None:
    shapes = [*gpd.read_file(truth).geometry, box(18, 0, 40, 15), box(18, 15, 40, 15)]
    around = write_polygons(tmp_path / "aoi.gpkg", [box(0, 0, 58, 30)])
    several = write_polygons(tmp_path / "several.gpkg", shapes, kind=["wheat", "wheat", "rye", "oats"])
    report = geoseg.evaluate(
        truth, several, class_field="kind", only="wheat", pixel_size=10, out=tmp_path / "r", bootstrap=1,
        classes="0=background,1=wheat,2=rye,3=oats", aoi=around,
    )  # fmt: skip
    assert scores(report, "boundary", "background")["f1"] == 1
    assert report.metrics["miou"] == 1


def test_a_boundary_is_no_object_and_polygons_do_not_have_it(classes: Path, truth: Path, tmp_path: Path) -> None:
    with pytest.warns(
        DataWarning, match=r"holds its 'boundary' as a class, which .*truth\.gpkg does not have.*--fields"
    ):
        report = geoseg.evaluate(classes, truth, class_field="kind", out=tmp_path / "r", bootstrap=1)
    assert scores(report, "objects", "boundary")["predicted"] == 0
    assert scores(report, "objects", "wheat")["predicted"] == 3


def test_polygons_without_a_class_are_of_the_one_that_the_map_has(classes: Path, truth: Path, tmp_path: Path) -> None:
    layer = polygonize(classes, out=tmp_path / "a.gpkg", simplify=0, fields=True)
    report = geoseg.evaluate(layer, truth, pixel_size=10, out=tmp_path / "r", bootstrap=1)
    assert scores(report, "objects", "wheat")["f1"] == 1
    other = write_polygons(tmp_path / "other.gpkg", [box(2, 2, 16, 13)], kind=["Weizen"])
    with pytest.warns(DataWarning, match=r"no class is in both: .*a\.gpkg has wheat and .*other\.gpkg has Weizen"):
        geoseg.evaluate(layer, other, class_field="kind", pixel_size=10, out=tmp_path / "s", bootstrap=1)


def test_nothing_but_nodata_has_no_fields(write_scene: WriteScene) -> None:
    empty = np.full((30, 4), 255, np.uint8)
    np.testing.assert_array_equal(rows_of(empty, LEGEND, 1, 7).read(0, 30), empty)


def test_labels_tell_their_class() -> None:
    labels = np.array([0, 255, 3 + FIELD, 1 + FIELD * 2**40])
    assert class_of(labels).tolist() == [0, 255, 3, 1]
