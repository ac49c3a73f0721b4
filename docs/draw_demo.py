"""Draw what the demo made: scene, reference, map and polygons side by side. Usage: draw_demo.py DEMO_FOLDER"""

import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from matplotlib.figure import Figure
from rasterio.features import rasterize

SAMPLES = Path(__file__).parent.parent / "sample_data"


def stretch(bands: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Bands (3, rows, cols) to a picture (rows, cols, 3), 0..1, from the 2nd to the 98th percentile."""
    low, high = np.percentile(bands[:, valid], [2, 98], axis=1)
    picture = np.clip((np.moveaxis(bands, 0, -1) - low) / (high - low), 0, 1)
    picture[~valid] = 1
    return picture


def main(folder: Path) -> None:
    """Write DEMO_FOLDER/demo.png."""
    with rasterio.open(SAMPLES / "scene_to_predict.tif") as scene:
        pixels, valid = scene.read().astype(float), scene.dataset_mask() > 0
        left, bottom, right, top = scene.bounds
        labels = gpd.read_file(SAMPLES / "labels_to_predict.gpkg").to_crs(scene.crs)
        truth = rasterize(labels.geometry, scene.shape, transform=scene.transform)
    with rasterio.open(folder / "predictions" / "scene_to_predict_classes.tif") as classes:
        predicted = np.ma.masked_equal(classes.read(1), classes.nodata)
    polygons = gpd.read_file(folder / "predictions" / "scene_to_predict_polygons.gpkg", layer="polygons")

    picture = stretch(pixels[[2, 1, 0]], valid)
    figure = Figure(figsize=(12, 11), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    style = {"extent": (left, right, bottom, top), "interpolation": "nearest"}
    for axes, title in zip(panels, ("scene", "reference", "map", "polygons"), strict=True):
        axes.imshow(picture, **style)
        axes.set_title(title)
        axes.axis("off")
    gold = np.array([0.9, 0.71, 0.16])
    for axes, cultivated in ((panels[1], truth == 1), (panels[2], predicted == 1)):
        overlay = np.zeros((*truth.shape, 4))
        overlay[np.ma.filled(cultivated, False) & valid] = (*gold, 0.65)
        axes.imshow(overlay, **style)
    polygons.plot(ax=panels[3], facecolor=(*gold, 0.25), edgecolor=gold, linewidth=0.8)
    figure.savefig(folder / "demo.png", dpi=80)


main(Path(sys.argv[1]))
