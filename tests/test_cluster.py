"""Maps made on a real Dask cluster of two worker processes are those made here, byte for byte, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from nursery import nursery
from rasterio.windows import Window
from scenery import box, write_polygons

import geoseg
from geoseg import cluster, extras
from geoseg.bundle import open_bundle, write_bundle
from geoseg.errors import GeosegError, InputError, MissingPackageError, SomeScenesError
from geoseg.grid import Layout
from geoseg.legend import make_legend
from geoseg.mapping import MapJob
from geoseg.models import Architecture
from geoseg.scenes import describe_scene
from geoseg.spec import BandStatistics, ImageSpec, scale_bands
from geoseg.strips import MapLayer, Strips

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

OPTIONS = {"window": 96, "margin": 16, "polygons": False, "probabilities": True, "precision": "fp32"}
RASTERS = ("classes", "confidence", "probabilities")


def start_cluster(workers: int):
    # Both workers are copies of one process, so that torch is imported once.
    nursery()
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    return distributed.LocalCluster(
        n_workers=workers, processes=True, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a scheduler with two worker processes."""
    with start_cluster(2) as started:
        yield started.scheduler_address


@pytest.fixture
def world(write_scene, rng, tmp_path) -> Path:
    """A scene of 8 x 4 windows, one row of which is nodata, and a model with random weights."""
    pixels = rng.integers(1, 255, (3, 50, 25), np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    pixels[:, 170:290] = 0
    write_scene("scene.tif", pixels, nodata=0)
    facts = BandStatistics(mean=127, std=70, min=1, max=255, p1=3, p99=250)
    bands = scale_bands([facts] * 3, names="rgb", sources=[1, 2, 3], dtypes=["uint8"] * 3, nodata=[0.0] * 3)
    torch.manual_seed(0)
    architecture = Architecture("unet", in_channels=3, classes=3, width=4)
    (tmp_path / "model").mkdir()
    write_bundle(
        tmp_path / "model", architecture.build().state_dict(), architecture=architecture,
        image=ImageSpec(bands, 3, 10.0, 64), legend=make_legend([0, 1, 2]), training={}, metrics={},
    )  # fmt: skip
    return tmp_path


def predict(world: Path, out: str, *scenes: str, **options):
    """The maps of scenes, and the bytes of their rasters."""
    paths = [world / f"{scene}.tif" for scene in scenes or ["scene"]]
    made = geoseg.predict(paths, model=world / "model", out=world / out, **OPTIONS | options)
    return made, [each.outputs[kind].read_bytes() for each in made for kind in RASTERS]


@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_a_map_made_on_a_cluster_is_the_one_made_here(world, address, blend):
    (here,), expected = predict(world, "here", blend=blend)
    told = []
    (there,), found = predict(world, "there", blend=blend, dask=address, progress=lambda *said: told.append(said))
    assert found == expected
    assert there.classes == here.classes
    assert told[-1] == ("predict scene", 32, 32, "2 workers")
    assert not list((world / "there").glob(".*"))


def test_paths_may_be_relative_and_a_map_is_cut_to_an_area(world, address, monkeypatch):
    write_polygons(world / "area.gpkg", [box(20, 20, 400, 60), box(900, 900, 9, 9)])
    monkeypatch.chdir(world)
    _, expected = predict(Path(), "here", aoi="area.gpkg")
    assert predict(Path(), "there", aoi="area.gpkg", dask=address)[1] == expected


def test_many_scenes_share_the_queue_and_one_that_is_damaged_does_not_stop_the_others(world, address, write_scene, rng):
    for name in ("b", "c"):
        write_scene(f"{name}.tif", rng.integers(1, 255, (3, 300, 200), np.uint8), nodata=0, compress="deflate")
    with open(world / "b.tif", "r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 2000)
    with pytest.raises(SomeScenesError, match=r"1 of 3 scenes failed.*b\.tif: damaged") as caught:
        predict(world, "there", "scene", "b", "c", dask=address)
    assert {made.path.name for made in caught.value.made} == {"scene_classes.tif", "c_classes.tif"}
    _, expected = predict(world, "here", "c")
    assert [(world / "there" / f"c_{kind}.tif").read_bytes() for kind in RASTERS] == expected


def test_a_run_that_is_interrupted_leaves_its_strips_and_no_worker_at_work(world, address):
    def interrupt(stage, done, total, note=""):
        if stage.startswith("predict"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"of 8 strips are kept in .*\.scene\.strips; --resume goes on"):
        predict(world, "there", dask=address, tta="flips", progress=interrupt)
    with distributed.Client(address, set_as_default=False) as client:
        assert set(client.run(lambda: len(cluster._busy_with)).values()) == {0}
    kept = sorted(path.name for path in (world / "there" / ".scene.strips").iterdir())
    time.sleep(0.5)
    assert sorted(path.name for path in (world / "there" / ".scene.strips").iterdir()) == kept
    _, expected = predict(world, "here", tta="flips")
    assert predict(world, "there", dask=address, tta="flips", resume=True)[1] == expected


class KillOneWorker(threading.Thread):
    """Kills a worker that has a task in hand, as soon as a strip is finished."""

    def __init__(self, address: str, strips: Path):
        super().__init__()
        self.address, self.strips, self.killed, self.finished = address, strips, None, 0
        self.start()

    def run(self):
        with distributed.Client(self.address, set_as_default=False) as client:
            processes = client.run(os.getpid)
            while not any(self.strips.glob("strip_*.json")):
                time.sleep(0.01)
            busy = client.run(lambda: len(cluster._busy_with))
            self.killed = next(worker for worker, tasks in busy.items() if tasks)
            os.kill(processes[self.killed], signal.SIGKILL)
            self.finished = len(list(self.strips.glob("strip_*.json")))


@pytest.mark.slow
@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_a_worker_that_is_killed_at_work_loses_nothing(world, blend):
    options = {"blend": blend, "tta": "d4", "window": 48, "margin": 8}
    _, expected = predict(world, "here", **options)
    with start_cluster(2) as started:
        killer = KillOneWorker(started.scheduler_address, world / "there" / ".scene.strips")
        _, found = predict(world, "there", dask=started.scheduler_address, **options)
        killer.join()
    assert found == expected
    assert killer.killed
    assert 0 < killer.finished < 12


@pytest.mark.slow
def test_where_workers_die_again_and_again_the_scene_fails_and_goes_on_later(world):
    options = {"tta": "d4", "window": 48, "margin": 8}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), start_cluster(2) as started:
        killer = KillOneWorker(started.scheduler_address, world / "there" / ".scene.strips")
        with pytest.raises(InputError, match=r"scene\.tif: 1 workers died while they made strips \d") as caught:
            predict(world, "there", dask=started.scheduler_address, **options)
        killer.join()
        assert "--resume goes on" in caught.value.__notes__[0]
        _, found = predict(world, "there", dask=started.scheduler_address, resume=True, **options)
    assert found == predict(world, "here", **options)[1]


def test_two_workers_may_write_one_strip(world):
    """As happens where one was thought dead."""
    layer = MapLayer("classes", "uint8", 255, ("classes",), {})
    strips = Strips(world / "strips", describe_scene(world / "scene.tif"), [layer])
    strips.begin({}, resume=False, overwrite=False)
    both = [strips.open(0, 0, 500) for _ in range(2)]
    for value, strip in enumerate(both):
        strip.write(Window(0, 0, 250, 500), {"classes": np.full((1, 500, 250), value, np.uint8)})
    for strip in both:
        strip.finish({})
    strips.join(layer, world / "map.tif")
    with rasterio.open(world / "map.tif") as joined:
        assert not joined.read().any()
    assert len(list((world / "strips").glob("strip_*.tif"))) == 1


def test_a_worker_says_what_it_lacks(world):
    bundle = open_bundle(world / "model")
    layout = Layout(500, 250, (64, 64), 16, "crop")
    scene = describe_scene(world / "scene.tif")
    strips = Strips(world / "strips", scene, [])
    strips.begin({}, resume=False, overwrite=False)
    job = MapJob(
        scene, (1, 2, 3), bundle, layout, None, strips, tta="none", engine="torch", precision="fp32", threshold=None,
        batch_size=2, probabilities=False,
    )  # fmt: skip
    mark = strips.folder / "mark"
    assert "not found there; scenes, model and outputs must be on storage" in cluster._probe(job, mark)
    mark.touch()
    assert cluster._probe(job, mark) is None
    assert "JPEG 2000" in cluster._probe(
        replace(job, scene=replace(scene, paths=(world / "model" / "model.json",))), mark
    )
    assert "holds other weights" in cluster._probe(replace(job, bundle=replace(bundle, weights_sha256="0")), mark)
    assert "No such file" in cluster._probe(replace(job, bundle=replace(bundle, path=world)), mark)


def test_workers_of_another_version_are_refused(world, address, monkeypatch):
    found = cluster.VERSION
    monkeypatch.setattr(cluster, "VERSION", "99.0")
    with pytest.raises(InputError, match=rf"worker tcp://\S+ and 1 more: {found} found, geoseg 99.0 is needed"):
        predict(world, "there", dask=address)
    assert not (world / "there").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("where", "words"),
    [("tcp://127.0.0.1:{free}", "no Dask scheduler answers"), ("127.0.0.1", "no Dask scheduler answers"),
     ("carrier-pigeon://roof", "no Dask scheduler answers"), ("scheduler.json", "not found")],
)  # fmt: skip
def test_where_no_scheduler_is_one_line_says_so_soon(world, where, words, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    where = where.format(free=free_port())
    started = time.monotonic()
    with pytest.raises(GeosegError, match=f"--dask {where}: {words}") as caught:
        predict(world, "there", dask=where)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_scheduler_without_workers_is_refused(world, monkeypatch):
    monkeypatch.setattr(cluster, "_WORKERS_S", 1)
    with start_cluster(0) as started, pytest.raises(InputError, match="has no worker; start some with: dask worker"):
        predict(world, "there", dask=started.scheduler_address)


def test_the_package_is_asked_for(world, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"--dask: the package distributed is not installed; .*geoseg\[dask\]"
    ):
        predict(world, "there", dask="tcp://127.0.0.1:8786")
