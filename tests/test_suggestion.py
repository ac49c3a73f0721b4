"""Windows to label next: what is chosen in constructed cases, and what never is."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scenery import box, one_line_each, write_polygons

import geoseg
from geoseg.acquisition import Survey, choose_windows, describe_window, doubt
from geoseg.bundle import write_bundle
from geoseg.errors import GeosegError, OutputExistsError
from geoseg.models import Architecture

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)


# --- choosing


def test_doubt_by_hand():
    shares = np.array([[[0.5, 0.1, 0.3]], [[0.4, 0.8, 0.3]], [[0.1, 0.1, 0.4]]])
    amount, pixels = doubt(shares, np.array([[True, True, True]]))
    assert amount == pytest.approx([0.9, 0.3, 0.9])
    assert pixels.tolist() == [1, 1, 1]
    amount, pixels = doubt(shares, np.array([[True, False, False]]))
    assert amount == pytest.approx([0.9, 0, 0])
    assert pixels.tolist() == [1, 0, 0]


def test_a_window_is_described_by_its_valid_pixels(rng):
    image, valid = rng.normal(size=(2, 4, 4)), np.zeros((4, 4), bool)
    valid[1:3] = True
    found = describe_window(image, valid)
    assert found == pytest.approx([*image[:, 1:3].mean(axis=(1, 2)), *image[:, 1:3].std(axis=(1, 2))])


def test_rare_classes_count_for_more():
    common, rare = np.array([10.0, 0.0]), np.array([0.0, 10.0])
    windows = [(common, np.array([100, 0]), np.zeros(1))] * 9 + [(rare, np.array([0, 100]), np.zeros(1))]
    survey = Survey.of(windows)
    assert survey.uncertainty[9] == pytest.approx(3 * survey.uncertainty[0])  # a ninth as frequent


def test_the_uncertain_one_of_two_that_look_the_same_kind():
    features = np.array([[0.0], [0.1], [5.0], [5.1]])
    survey = Survey(np.array([0.1, 0.1, 0.1, 0.9]), features)
    assert choose_windows(survey, np.zeros(4, bool), 1)[0] == [3]
    # With that kind labelled, the other kind is what is doubted most far away from labels.
    labelled = np.array([False, False, True, False])
    assert choose_windows(Survey(np.array([0.3, 0.3, 0.1, 0.3]), features), labelled, 1)[0][0] in (0, 1)


def test_two_choices_are_of_two_kinds_and_an_odd_one_out_is_not_the_first():
    features = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [40.0]])
    chosen, novelty = choose_windows(Survey(np.full(7, 0.5), features), np.zeros(7, bool), 3)
    assert {index // 3 for index in chosen[:2]} != {2}
    assert sorted(index // 3 for index in chosen) == [0, 1, 2]
    assert novelty[0] is None
    assert novelty[1] > 5


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_as_many_as_asked_for_each_once_and_none_that_is_labelled(free, known, count, seed):
    rng = np.random.default_rng(seed)
    survey = Survey(rng.random(free + known), rng.normal(size=(free + known, 3)))
    labelled = rng.permutation(np.repeat([False, True], [free, known]))
    chosen, novelty = choose_windows(survey, labelled, count)
    assert len(chosen) == len(set(chosen)) == len(novelty) == min(free, count)
    assert not labelled[chosen].any()
    assert chosen == choose_windows(survey, labelled, count)[0]
    assert chosen[:1] == choose_windows(survey, labelled, 1)[0]


def test_each_choice_has_the_largest_product_of_doubt_and_gain(rng):
    survey, labelled = Survey(rng.random(12), rng.normal(size=(12, 2))), np.arange(12) < 2
    apart = np.linalg.norm(survey.features[:, None] - survey.features, axis=2)

    def left(chosen):
        return (survey.uncertainty**2 * apart[:, chosen].min(axis=1))[2:].sum()

    def worth(chosen, one):
        return survey.uncertainty[one] * (left(chosen) - left([*chosen, one]))

    (first, second), _ = choose_windows(survey, labelled, 2)
    assert worth([0, 1], first) == pytest.approx(max(worth([0, 1], one) for one in range(2, 12)))
    assert worth([0, 1, first], second) == pytest.approx(max(worth([0, 1, first], one) for one in range(2, 12)))


# --- the verb


@pytest.fixture
def world(write_scene, rng, tmp_path):
    """A scene of 4 x 5 windows of 16 pixels, three of them without data, chips of it, and a random network."""
    pixels = rng.integers(1, 999, (2, 64, 80)).astype(np.uint16)
    pixels[:, :16, :32] = pixels[:, 48:, 64:] = 0
    scene = write_scene("scene.tif", pixels, nodata=0)
    labels = write_scene("labels.tif", rng.integers(0, 2, (64, 80)).astype(np.uint8))
    chips = geoseg.tile(
        scene, labels=labels, out=tmp_path / "chips", chip_size=16, split="1:0:0", classes="0=other,1=crop"
    )
    torch.manual_seed(0)
    architecture = Architecture(in_channels=2, width=2)
    (tmp_path / "model").mkdir()
    write_bundle(
        tmp_path / "model", architecture.build().state_dict(), architecture=architecture, image=chips.image,
        legend=chips.legend, training={"best_epoch": 1, "epochs_run": 1}, metrics={},
    )  # fmt: skip
    return scene, tmp_path / "model", chips


def test_windows_are_whole_hold_data_and_do_not_overlap(world, tmp_path):
    scene, model, _ = world
    found = geoseg.suggest(scene, model=model, out=tmp_path / "s.gpkg", count=50)
    assert found.looked_at == len(found.windows) == 17
    places = {(entry["row"], entry["col"]) for entry in found.windows}
    assert len(places) == 17
    assert places.isdisjoint({(0, 0), (0, 16), (48, 64)})
    table = gpd.read_file(found, layer="suggest")
    assert table["rank"].tolist() == list(range(1, 18))
    assert table.crs.to_epsg() == 32614
    for entry in table.itertuples():
        corner = TRANSFORM @ (entry.col, entry.row)
        assert entry.geometry.bounds == (corner[0], corner[1] - 160, corner[0] + 160, corner[1])
    assert "to label next" in str(found)


def test_labelled_ground_is_not_suggested(world, tmp_path):
    scene, model, chips = world
    ground = write_polygons(tmp_path / "known.gpkg", [box(16, 0, 16, 80), box(32, 0, 3, 16)], to="EPSG:4326")
    found = geoseg.suggest(scene, model=model, labelled=ground, out=tmp_path / "s.gpkg", count=50)
    assert (found.labelled, found.looked_at) == (5, 12)
    assert all(entry["row"] != 16 for entry in found.windows)
    assert all(entry["novelty"] is not None for entry in found.windows)
    with pytest.raises(GeosegError, match="not labelled yet"):
        geoseg.suggest(scene, model=model, labelled=chips.path, out=tmp_path / "all.gpkg")


def test_a_window_at_the_edge_is_labelled_by_the_half_of_its_ground(world, tmp_path):
    scene, model, _ = world
    ground = write_polygons(tmp_path / "known.gpkg", [box(40, 0, 19, 40)])  # of 24 rows, in a window of 40
    found = geoseg.suggest(scene, model=model, labelled=ground, window=40, out=tmp_path / "s.gpkg", count=50)
    assert (found.labelled, found.looked_at) == (1, 2)


def test_the_same_twice_whatever_the_batch(world, tmp_path):
    scene, model, _ = world
    found = [
        geoseg.suggest(scene, model=model, out=tmp_path / f"{size}.gpkg", count=5, batch_size=size, precision="fp32")
        for size in (1, 4)
    ]
    one, other = ([(entry["row"], entry["col"]) for entry in each.windows] for each in found)
    assert one == other


def test_several_scenes_of_two_crs(world, write_scene, rng, tmp_path):
    scene, model, _ = world
    other = write_scene("other.tif", rng.integers(1, 999, (2, 20, 40)).astype(np.uint16), nodata=0, crs="EPSG:32615")
    found = geoseg.suggest([scene, other], model=model, out=tmp_path / "s.gpkg", count=50, window=20)
    table = gpd.read_file(found, layer="suggest")
    assert table.crs.to_epsg() == 4326
    assert set(table["scene"]) == {"scene", "other"}
    assert shapely.area(table.to_crs(32615)[table["scene"] == "other"].geometry.to_numpy()) == pytest.approx(
        40_000, rel=1e-3
    )


@pytest.mark.filterwarnings("ignore:.*no CRS, so nobody knows")
def test_a_picture_has_no_place_among_scenes_that_have_one(world, write_scene, rng, tmp_path):
    scene, model, _ = world
    pixels = rng.integers(1, 999, (2, 16, 32)).astype(np.uint16)
    picture = write_scene("picture.tif", pixels, nodata=0, crs=None, transform=Affine.identity())
    table = gpd.read_file(
        geoseg.suggest([scene, picture], model=model, out=tmp_path / "s.gpkg", count=50), layer="suggest"
    )
    assert (table["scene"] == "picture").sum() == 2
    assert (table.geometry.isna() == (table["scene"] == "picture")).all()
    assert table.crs.to_epsg() == 4326
    alone = geoseg.suggest(picture, model=model, out=tmp_path / "p.gpkg", count=1)
    assert gpd.read_file(alone, layer="suggest").geometry[0].bounds[2] in (16, 32)


def test_a_window_that_sticks_out_too_far_is_no_window(world, tmp_path):
    scene, model, _ = world
    found = geoseg.suggest(scene, model=model, out=tmp_path / "s.gpkg", count=50, window=48)
    assert {(entry["row"], entry["col"]) for entry in found.windows} == {(0, 0), (0, 48)}
    assert all(Window(entry["col"], entry["row"], 48, 48).row_off < 32 for entry in found.windows)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"count": 0}, "--count 0"),
        ({"window": 0}, "--window 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"out": "s.geojson"}, "ends in .gpkg"),
        ({"model": "nowhere"}, "nowhere"),
        ({"labelled": "nowhere.gpkg"}, "nowhere.gpkg"),
        ({"scenes": "nowhere.tif"}, "nowhere.tif"),
    ],
)
def test_one_line_for_what_cannot_be(world, tmp_path, options, match):
    scene, model, _ = world
    options = {"scenes": scene, "model": model, "out": tmp_path / "s.gpkg"} | options
    with pytest.raises(GeosegError, match=match) as caught:
        geoseg.suggest(options.pop("scenes"), **options)
    one_line_each(caught.value)
    assert not (tmp_path / "s.gpkg").exists()


def test_windows_that_were_drawn_over_are_not_written_over(world, tmp_path):
    scene, model, _ = world
    geoseg.suggest(scene, model=model, out=tmp_path / "s.gpkg", count=1)
    before = (tmp_path / "s.gpkg").read_bytes()
    with pytest.raises(OutputExistsError, match=r"s\.gpkg: is an input of this run"):
        geoseg.suggest(
            scene, model=model, out=tmp_path / "s.gpkg", labelled=tmp_path / "s.gpkg", count=1, overwrite=True
        )
    assert (tmp_path / "s.gpkg").read_bytes() == before


def test_an_earlier_file_stays(world, tmp_path):
    scene, model, _ = world
    geoseg.suggest(scene, model=model, out=tmp_path / "s.gpkg", count=1)
    with pytest.raises(OutputExistsError):
        geoseg.suggest(scene, model=model, out=tmp_path / "s.gpkg", count=1)
