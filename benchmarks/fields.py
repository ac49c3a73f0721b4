"""Single fields against plain polygons: how many are found, how they are cut, and what the boundary class costs the others.

    python benchmarks/fields.py OUT --train SCENE LABELS --test SCENE REFERENCE [--class-field NAME] [--pixel-size 30]

For each seed two networks learn from the same ground: one from chips with a boundary, and one from the same chips in which the
boundary is part of the fields. Each maps the test scene. What is in OUT already is not made again.

- plain: polygons of the map of the network that knows no boundary; touching fields are one.
- interiors: polygons of the interiors that the other network finds, without its boundary.
- fields: `geoseg predict --fields` with that network.

All are held against the reference polygons, on the grid of the scene.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely

import geoseg

_FIGURES = ("f1", "f1_50_95", "over_segmentation", "under_segmentation", "area_bias", "area_error")


def without_boundary(source: Path, target: Path) -> None:
    """The same chips, with the boundary as part of the fields."""
    if target.exists():
        return
    shutil.copytree(source, target)
    document = json.loads((target / "chips.json").read_text())
    assert [entry["role"] for entry in document["legend"]] == ["background", None, "boundary"]
    del document["legend"][2]
    for chip in document["chips"]:
        background, field, boundary = chip["class_pixels"]
        chip["class_pixels"] = [background, field + boundary]
    (target / "chips.json").write_text(json.dumps(document))
    for path in target.glob("*/masks/*.tif"):
        with rasterio.open(path, "r+") as dataset:
            mask = dataset.read(1)
            dataset.write(np.where(mask == 2, 1, mask).astype(np.uint8), 1)


def classes_of(out: Path, kind: str, seed: int, chips: Path, scene: Path) -> Path:
    """The class raster of the test scene."""
    folder = out / f"{kind}_{seed}"
    path = folder / f"{scene.stem}_classes.tif"
    if not path.exists():
        model = out / f"{kind}_{seed}_model"
        if not (model / "model.json").exists():
            geoseg.train(chips, out=model, seed=seed, workers=0, overwrite=True)
        geoseg.predict(scene, model=model, out=folder, polygons=False, overwrite=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", nargs=2, type=Path, required=True, metavar=("SCENE", "LABELS"))
    parser.add_argument("--test", nargs=2, type=Path, required=True, metavar=("SCENE", "REFERENCE"))
    parser.add_argument("--class-field")
    parser.add_argument("--pixel-size", type=float, default=30)
    parser.add_argument("--boundary", type=int, default=1)
    parser.add_argument("--instances", action="store_true", help="the labels to train on are a raster of numbers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--simplify", type=float, default=0, help="0 judges the pixels, not their outlines")
    arguments = parser.parse_args()
    out, (scene, reference) = arguments.out, arguments.test
    field = None if arguments.instances else arguments.class_field
    if not (out / "chips" / "chips.json").exists():
        geoseg.tile(
            arguments.train[0], labels=arguments.train[1], out=out / "chips", class_field=field,
            boundary=arguments.boundary, instances=arguments.instances,
        )  # fmt: skip
    without_boundary(out / "chips", out / "plain_chips")
    outline = out / "outline.gpkg"  # so that all are held against the reference on the same grid and ground
    with rasterio.open(scene) as dataset:
        geopandas.GeoSeries([shapely.box(*dataset.bounds)], crs=dataset.crs).to_file(outline)
    rows: dict[str, list[dict[str, float]]] = {"plain": [], "interiors": [], "fields": []}
    for seed in range(arguments.seeds):
        plain = classes_of(out, "plain", seed, out / "plain_chips", scene)
        told = classes_of(out, "boundary", seed, out / "chips", scene)
        for kind, classes in (("plain", plain), ("interiors", told), ("fields", told)):
            layer = geoseg.polygonize(
                classes,
                out=out / f"{kind}_{seed}.gpkg",
                simplify=arguments.simplify,
                fields=kind == "fields",
                overwrite=True,
            )
            report = geoseg.evaluate(
                layer, reference, class_field=arguments.class_field, pixel_size=arguments.pixel_size, bootstrap=1,
                aoi=outline, out=out / f"{kind}_{seed}_report", overwrite=True,
            )  # fmt: skip
            metrics = report.metrics
            found = next(entry for entry in metrics["objects"]["classes"] if entry["f1"] is not None)
            edges = next(entry for entry in metrics["boundary"]["classes"] if entry["name"] == found["name"])
            pixels = next(entry for entry in metrics["classes"] if entry["name"] == found["name"])
            row = {name: found[name] for name in _FIGURES} | {"boundary_f1": edges["f1"], "iou": pixels["iou"]}
            rows[kind].append(row | {"found": found["predicted"], "true": found["reference"]})
            print(kind, seed, json.dumps(rows[kind][-1]), flush=True)
    names = list(rows["plain"][0])
    print("\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for kind, found in rows.items():
        table = np.array([[row[name] for name in names] for row in found], float)
        cells = [
            f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(table.mean(axis=0), table.std(axis=0), strict=True)
        ]
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
