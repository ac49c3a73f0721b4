"""Pictures and notebooks: every result shows itself, and what is drawn is what stands in the files."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from farm import plough
from matplotlib.image import imread

import geoseg
from geoseg.errors import GeosegError, InputError, MissingFileError
from geoseg.legend import parse_legend


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


@pytest.fixture(scope="module")
def results(farm, tmp_path_factory) -> dict[str, object]:
    """A result of every kind."""
    out = tmp_path_factory.mktemp("results")
    scene, labels = farm / "scene.tif", farm / "labels.tif"
    chips = geoseg.tile(scene, labels=labels, out=out / "chips", chip_size=32, block_size=1)
    (found,) = geoseg.predict(scene, model=farm / "model", out=out / "map")
    return {
        "legend": chips.legend,
        "plan": geoseg.tile(scene, labels=labels, out=out / "no", chip_size=32, block_size=1, dry_run=True),
        "chips": chips,
        "bundle": geoseg.info(farm / "model"),
        "map": found,
        "layer": geoseg.polygonize(found, out=out / "fields.gpkg"),
        "report": geoseg.evaluate(found, labels, out=out / "report", bootstrap=2),
        "sample": geoseg.sample(found, out=out / "points.gpkg", size=20, minimum=2),
        "suggestion": geoseg.suggest(scene, model=farm / "model", out=out / "s.gpkg", window=32, count=2),
        "check": geoseg.check([scene], model=farm / "model"),
    }


def pictures(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [imread(io.BytesIO(base64.b64decode(text)), format="png") for text in found]


@pytest.mark.parametrize(
    ("name", "count"),
    [("legend", 0), ("plan", 0), ("chips", 1), ("bundle", 0), ("map", 1), ("layer", 0), ("report", 0), ("sample", 0),
     ("suggestion", 0), ("check", 0)],
)  # fmt: skip
def test_every_result_shows_itself(results, name, count):
    result = results[name]
    assert repr(result) == str(result)
    html = result._repr_html_()
    assert len(pictures(html)) == count
    assert all(image.std() > 0.05 for image in pictures(html))
    if name != "legend":
        assert str(result).splitlines()[0].split(":")[0] in html


def test_a_model_shows_its_curves(farm):
    from geoseg.bundle import open_bundle

    assert len(pictures(open_bundle(farm / "model")._repr_html_())) == 1


def test_a_report_can_be_opened(results):
    address = re.search(r'href="(file://[^"]+)"', results["report"]._repr_html_())[1]
    assert Path(address.removeprefix("file://")).is_file()


def test_names_are_text_and_no_markup():
    html = parse_legend("0=background,1=<b>wheat</b>:#aabbcc")._repr_html_()
    assert "&lt;b&gt;wheat" in html
    assert "#aabbcc" in html


def test_what_is_gone_is_told_all_the_same(results, farm, tmp_path):
    chips = geoseg.tile(farm / "scene.tif", labels=farm / "labels.tif", out=tmp_path / "c", chip_size=32, block_size=1)
    for path in (tmp_path / "c").rglob("*.tif"):
        path.unlink()
    assert pictures(chips._repr_html_()) == []
    assert "chips of 32 x 32" in chips._repr_html_()


def test_chips_are_drawn_above_their_masks(results):
    chips = results["chips"]
    figure = geoseg.plot.chips(chips.path, count=3)
    above, below = figure.axes[:3], figure.axes[3:]
    members = chips.of("train")
    assert [axes.get_title() for axes in above] == [members[i].name for i in (0, (len(members) - 1) // 2, -1)]
    for axes, chip in zip(below, (members[0], members[-1]), strict=False):
        _, _, mask = chips.read(members[0])
        drawn = below[0].images[0].get_array()
        for index, entry in enumerate(chips.legend):
            colour = tuple(bytes.fromhex(entry.colour[1:]))
            np.testing.assert_array_equal((drawn == colour).all(axis=-1), mask == index)
        assert axes.images
        assert chip.split == "train"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_map_is_drawn_as_its_raster_says(results, farm):
    found = results["map"]
    figure = geoseg.plot.prediction(found, scene=farm / "scene.tif")
    scene, classes, confidence = figure.axes[:3]
    assert [axes.get_title() for axes in (scene, classes, confidence)] == ["scene", "classes", "confidence"]
    with rasterio.open(found.path) as dataset:
        values, legend = dataset.read(1), results["legend"]
    drawn = classes.images[0].get_array()
    for entry in legend:
        np.testing.assert_array_equal(
            (drawn == tuple(bytes.fromhex(entry.colour[1:]))).all(axis=-1), values == entry.value
        )
    with rasterio.open(found.outputs["confidence"]) as dataset:
        steps = dataset.read(1, masked=True)
    shown = confidence.images[0].get_array()
    np.testing.assert_allclose(shown.filled(-1), (steps / 250).filled(-1))
    (lines,) = scene.collections
    corners = np.concatenate(lines.get_segments())
    assert corners.min() >= 0
    assert corners.max() <= 160


def test_large_maps_are_drawn_small_and_many_polygons_not_at_all(results, farm, monkeypatch):
    monkeypatch.setattr(geoseg.plot, "_MOST_PIXELS", 40)
    monkeypatch.setattr(geoseg.plot, "_MOST_POLYGONS", 3)
    scene, classes = geoseg.plot.prediction(results["map"], scene=farm / "scene.tif").axes[:2]
    assert classes.images[0].get_array().shape == (40, 40, 3)
    assert re.fullmatch(r"scene, without its \d+ polygons", scene.get_title())
    assert not scene.collections


def test_curves_are_those_of_the_history(farm):
    losses, scores = geoseg.plot.curves(farm / "model").axes
    rows = (farm / "model" / "history.csv").read_text().splitlines()
    first = dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))
    assert losses.lines[0].get_ydata()[0] == first["train_loss"]
    assert scores.lines[-2].get_ydata()[0] == first["val_miou"]


def test_what_cannot_be_drawn_is_said(results, farm, tmp_path):
    with pytest.raises(InputError, match="no test chips"):
        geoseg.plot.chips(
            geoseg.tile(
                farm / "scene.tif", labels=farm / "labels.tif", out=tmp_path / "c", chip_size=80, split="1:0:0"
            ),
            split="test",
        )
    with pytest.raises(InputError, match="1 or more"):
        geoseg.plot.chips(results["chips"], count=0)
    with pytest.raises(MissingFileError, match=r"history\.csv: not found"):
        geoseg.plot.curves(tmp_path)
    with pytest.raises(GeosegError):
        geoseg.plot.prediction(farm / "scene.tif")
