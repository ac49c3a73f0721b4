"""Every block of code in the documentation is run as it is printed, on a small farm that has the files it speaks of."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from scenery import TRANSFORM, box, checkers, moved
from test_docs import DOCS, PACKAGE, ROOT

import geoseg
from geoseg.cli import cli

PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.glob("*.md") if path.name != "tutorial.md")]
"""All but the tutorial, which is made by running it."""

LANGUAGES = ("sh", "python")

ELSEWHERE = {
    "pip install": "the wheel is built and installed by hand at a release",
    "make demo": "trains for minutes; run at a release",
    "docker build": "no Docker in the tests",
    "geoseg tile sample_data/scene.tif --labels": "test_the_quickstart_works_line_by_line",
    "geoseg evaluate predictions/scene_to_predict_classes.tif": "test_the_quickstart_works_line_by_line",
    "dask scheduler\n": "never ends; test_cluster and the SLURM script of the same page",
    "export OMP_NUM_THREADS=4\ndask worker": "never ends; test_cluster and the SLURM script of the same page",
}  # fmt: skip
"""How blocks begin that are not run here, and where they are or why they are not."""

MAP_OF_FIELDS = "for name in fields predictions/other_scene_polygons; do cp labels.gpkg $name.gpkg; done"

CLUSTER = """dask scheduler --host 127.0.0.1 --port 0 --scheduler-file scheduler.json &
until test -s scheduler.json; do sleep 1; done
dask worker --host 127.0.0.1 --nthreads 1 --scheduler-file scheduler.json &"""

STOPPED = """python - << 'END' || true
import geoseg
def stop(stage, done, total, note=""):
    if stage == "train" and 2 * done > total:
        raise KeyboardInterrupt
geoseg.train("chips", out="model", epochs=2, overwrite=True, progress=stop)
END"""

INSTEAD = {
    'device="cuda"': 'device="cpu"',
    "--encoder-weights imagenet": "--encoder-weights none",  # no hub is asked
    "--recipe vgg16-pets": "--recipe vgg16-pets --encoder-weights none",
    "--recipe unet-voc": "--recipe unet-voc --encoder-weights none",
    "--dask tcp://first-machine:8786": "--dask scheduler.json",
    "dask scheduler --scheduler-file": "dask scheduler --host 127.0.0.1 --port 0 --scheduler-file",
    "dask worker --scheduler-file": "dask worker --host 127.0.0.1 --scheduler-file",
    "/shared/": "$PWD/",
    "https://example.org/scenes/": "$SERVER/",
    "/data/tmp": "$PWD",
    "#SBATCH -n 16": "export SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=1 SLURM_ARRAY_TASK_ID=0",
    "#SBATCH -a 0-99": "export SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=1 SLURM_ARRAY_TASK_ID=0",
}
"""What a small machine without a network has in place of what is printed."""

BEFORE = {
    "geoseg predict scene.tif --bands 4,3,2": "rm -r model; mv model_of_three_bands model",
    "geoseg predict scene.tif --bands 2,3,4,8": "rm -r model; mv model_of_four_bands model",
    "geoseg tile scenes/ --labels masks/ --classes 0=background,1=field": "rm -r masks; mv field_masks masks",
    "geoseg polygonize predictions/scene_classes.tif --fields": "cd predictions; mv other_scene_classes.tif scene_classes.tif",
    "geoseg tile scenes/north scenes/south": "for s in north south; do mkdir scenes/$s; mv scenes/$s.tif scenes/$s; done",
    "geoseg predict spring_scene/ --stack": "rm -r model; mv model_of_three_bands model",
    "gdal_translate scene.img": "gdal_translate -q -of HFA scene.tif scene.img; gdalbuildvrt -q mosaic.vrt mosaic.tif",
    "gdalwarp -t_srs EPSG:32631 raw.tif": "cp scene.tif raw.tif",
    "geoseg predict /shared/mosaic.tif": CLUSTER,
    "geoseg predict /shared/scene.tif": CLUSTER,
    "#!/bin/bash\n#SBATCH -J geoseg\n": "ls *scene.tif > scenes.txt",
    "#!/bin/bash\n#SBATCH -J geoseg-dask": "rm -r predictions",
    "geoseg train --resume": STOPPED,
    "geoseg predict mosaic.tif -m model --no-polygons --resume": "rm -r predictions",
    "geoseg predict scene.tif --resume": "rm -r predictions",
    "geoseg suggest scene.tif --labelled chips": "mv north.tif scene.tif",
    "geoseg evaluate predictions/other_scene_polygons.gpkg": MAP_OF_FIELDS,
    "geoseg evaluate predictions/scene_classes.tif points.gpkg": "mv labelled_points.gpkg points.gpkg",
    'windows = geoseg.suggest("scenes/"': "rm -r chips; mv chips_2025 chips",
}  # fmt: skip
"""What a reader has done before the block that begins so."""

NOT_HERE = ("gdalwarp -rpc",)
"""Lines that need what no small file has."""

GEOSEG = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
from geoseg.cli import cli, main
name = sys.argv[1]
if name in cli.commands:
    options = {{option for parameter in cli.commands[name].params for option in parameter.opts}}
    sys.argv += ["--overwrite"] if "--overwrite" in options and "--resume" not in sys.argv else []
    sys.argv += ["--epochs", "1"] if name == "train" and "--resume" not in sys.argv else []
main()
"""
"""`geoseg` as the blocks find it: a page is read from the top, so what it makes is there already; and one epoch is enough."""


def printed(page: Path) -> list[tuple[str, str]]:
    """The blocks of a page that can be run, in order: language and code."""
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if language in LANGUAGES and not is_elsewhere(code)]


def is_elsewhere(code: str) -> bool:
    return any(code.startswith(beginning) for beginning in ELSEWHERE)


def polygons(path: Path, **columns: Any) -> None:
    """Fields of 16 x 16 pixels with a gap of two between them."""
    shapes = [box(row + 1, col + 1, 14, 14) for row in range(0, 512, 16) for col in range(0, 1024, 16)]
    table = {name: [values[number % len(values)] for number in range(len(shapes))] for name, values in columns.items()}
    gpd.GeoDataFrame(table, geometry=shapes, crs="EPSG:32614").to_file(path)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documentation takes for granted."""
    import rasterio

    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)

    def write(name: str, pixels: np.ndarray, nodata: float | None = None) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        transform = moved(TRANSFORM, 256 if re.search("north|south", name) else 0, 0)
        with rasterio.open(
            folder / name, "w", driver="GTiff", count=len(pixels), height=pixels.shape[1], width=pixels.shape[2],
            dtype=pixels.dtype, crs="EPSG:32614", transform=transform, nodata=nodata, photometric="minisblack",
        ) as raster:  # fmt: skip
            raster.write(pixels)

    fields = checkers(256, 1024, 16)
    for name in ("scene", "other_scene", "north", "south", "scenes/north", "scenes/south", "mosaic", "T31UFU"):
        write(
            f"{name}.tif", (rng.integers(1, 400, (8, 256, 1024)) + 300 * fields.astype(int)).astype(np.uint16), nodata=0
        )
    for band in range(2, 5):
        write(f"spring_scene/B{band}.tif", rng.integers(1, 900, (1, 256, 1024)).astype(np.uint16), nodata=0)
    for name in ("north", "south"):
        write(f"masks/{name}.tif", fields[None])
        rims = checkers(256, 1024, 8, (0, 1, 2, 1, 3))
        write(f"field_masks/{name}.tif", rims[None])
    write("mask.tif", np.where(rng.random(fields.shape) < 0.01, 255, fields)[None].astype(np.uint8))
    write("reference.tif", 255 * fields[None])
    (folder / "classes.csv").write_text("value,name\n0,other\n1,cultivated\n")
    for name in ("labels", "fields", "reference"):
        polygons(folder / f"{name}.gpkg", **{"class": ["cultivated", "orchard"], "crop": ["wheat", "maize"]})
    for name in ("surveyed", "labelled", "district"):
        gpd.GeoDataFrame(geometry=[box(0, 0, 500, 1000)], crs="EPSG:32614").to_file(folder / f"{name}.gpkg")
    chip = partial(geoseg.tile, folder / "scene.tif", labels=folder / "labels.gpkg", chip_size=64, class_field="class")
    chips, three, four = (
        chip(out=folder / name, bands=bands)
        for name, bands in (("chips", None), ("three", "4,3,2"), ("four", "2,3,4,8"))
    )
    shutil.copytree(folder / "chips", folder / "chips_2025")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, learned in (
            ("model", chips), ("other_model", chips), ("model2", chips), ("model_of_three_bands", three), ("model_of_four_bands", four),
        ):  # fmt: skip
            geoseg.train(learned, out=folder / name, width=4, epochs=1, workers=0)
        geoseg.predict(
            [folder / f"{name}.tif" for name in ("scene", "north", "other_scene")], model=folder / "model",
            out=folder / "predictions",
        )  # fmt: skip
        geoseg.evaluate(chips, model=folder / "model", out=folder / "report", bootstrap=10)
        geoseg.sample(folder / "predictions" / "scene_classes.tif", out=folder / "points.gpkg", size=60, minimum=10)
    table = gpd.read_file(folder / "points.gpkg", layer="points")
    table["reference"] = table["stratum"]
    table.to_file(folder / "labelled_points.gpkg", layer="points", driver="GPKG")
    for name in ("a", "b"):
        shutil.copy(folder / "predictions" / "scene_classes.tif", folder / f"{name}_classes.tif")
    photographs(folder)
    tools = {"geoseg": GEOSEG, "srun": '#!/bin/sh\nexec "$@"\n', "scancel": "#!/bin/sh\n"}
    for name, text in tools.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder


def photographs(folder: Path) -> None:
    """Pascal VOC and the Oxford-IIIT pets, six pictures of each."""
    from PIL import Image

    voc, pets = folder / "VOCdevkit" / "VOC2012", folder / "oxford_pets"
    for path in (voc / "JPEGImages", voc / "SegmentationClass", pets / "images", pets / "annotations" / "trimaps"):
        path.mkdir(parents=True)
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    stems = [f"2007_{number:06d}" for number in range(6)]
    for number, stem in enumerate(stems):
        picture = Image.fromarray(rng.integers(0, 255, (80, 96, 3), dtype=np.uint8))
        picture.save(voc / "JPEGImages" / f"{stem}.jpg")
        picture.save(pets / "images" / f"Abyssinian_{number}.jpg")
        Image.fromarray(checkers(80, 96, 16, (0, 1, 255))).save(voc / "SegmentationClass" / f"{stem}.png")
        Image.fromarray(checkers(80, 96, 16, (1, 2, 3))).save(
            pets / "annotations" / "trimaps" / f"Abyssinian_{number}.png"
        )
    (lists / "train.txt").write_text("\n".join(stems[:4]))
    (lists / "val.txt").write_text("\n".join(stems[4:]))


@pytest.fixture(scope="module")
def server(desk):
    """The address of a web server that has the desk's files."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("range_server.py")), str(desk), os.devnull],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if printed(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_block_runs(page, desk, server, tmp_path, monkeypatch):
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for name in cli.commands:
        shortened = {"epochs": 1} if name == "train" else {}
        if any(parameter.name == "overwrite" for parameter in cli.commands[name].params):
            monkeypatch.setattr(geoseg, name, partial(getattr(geoseg, name), overwrite=True, **shortened))
    names: dict[str, Any] = {}
    for language, code in printed(page):
        before = next((text for beginning, text in BEFORE.items() if code.startswith(beginning)), "")
        shown = f"{page.name}:\n{code}"
        for words, others in INSTEAD.items():
            code = code.replace(words, others)
        if language == "sh":
            run_in_shell(shown, before, code, server)
            continue
        subprocess.run(before, shell=True, check=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(code, shown, "exec"), names)


def run_in_shell(shown: str, before: str, code: str, server: str) -> None:
    """Run a block under bash in the present folder; what it leaves running ends with it."""
    code = "\n".join(line for line in code.splitlines() if not any(words in line for words in NOT_HERE))
    if re.search(r"^(gdal|ogr2ogr)", code, re.MULTILINE) and shutil.which("gdal_translate") is None:
        return
    here = os.getcwd()
    environment = os.environ | {
        "PATH": os.pathsep.join([f"{here}/bin", str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(PACKAGE.parent), "SERVER": server, "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    with open("said.txt", "w+", encoding="utf-8") as said:  # not a pipe, which what runs on behind would hold open
        process = subprocess.Popen(
            ["bash", "-c", f"set -e -o pipefail\n{before}\ncd {here}\n{code}"],
            env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        said.seek(0)
        assert process.returncode == 0, f"{shown}\n{said.read()}"


def test_what_is_run_elsewhere_is_still_there():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for beginning in (*ELSEWHERE, *BEFORE):
        assert any(re.search(rf"^ *```\w+\n{re.escape(beginning)}", text, re.MULTILINE) for text in texts), beginning
    for words in (*INSTEAD, *NOT_HERE):
        assert any(words in text for text in texts), words
