"""Maps made on a Dask cluster: its workers write the strips to storage that all machines share; they are joined here."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import Any, NamedTuple

from geoseg.bundle import WEIGHTS
from geoseg.errors import DiskError, GeosegError, InputError, MissingFileError
from geoseg.extras import refuse_missing
from geoseg.files import sha256
from geoseg.mapping import MapJob, predict_strips
from geoseg.merging import create_merger
from geoseg.predictor import Predictor
from geoseg.progress import Progress, silent
from geoseg.raster import bounded_cache
from geoseg.version import VERSION

_CONNECT_S = 5
_WORKERS_S = 60
_STOP_S = 30
_SHARED_S = 90  # NFS may show a folder as it was a minute ago
_RETRIES = 2
_AHEAD = 4  # tasks per thread that wait at the scheduler, for the time that the caller takes over a map

_turn = threading.Lock()
_busy_with: set[str] = set()
_predictors: dict[tuple[Any, ...], Predictor] = {}


class _Task(NamedTuple):
    place: int  # of the map among the jobs
    numbers: tuple[int, ...]


def refuse_unreachable(address: str) -> None:
    """Find out before any work begins that there is no cluster.

    Raises:
        GeosegError: as `predict_on_cluster` does.
    """
    with _connected(address) as client:
        _wait_for_workers(client, address)


def predict_on_cluster(
    jobs: Sequence[MapJob], address: str, *, progress: Progress = silent
) -> Generator[tuple[int, GeosegError | None]]:
    """Predict the strips that maps still miss, on the workers of a Dask cluster; the strips of all maps are in one queue.

    A strip is published when it is whole. What a worker has in hand when it dies is given to another one, which leaves
    out the strips that are finished. When the iterator is closed or fails, the workers stop within a few windows.

    Args:
        jobs: the maps; their folders of strips have been begun, on storage that all machines see under one path.
        address: of the scheduler, such as `tcp://host:8786`, or the JSON file that it wrote.
        progress: called after each task.

    Yields:
        The place of each map among the jobs, when it has all its strips or has failed, and what of.

    Raises:
        MissingPackageError: the package `distributed` is not installed.
        MissingFileError, InputError: there is no scheduler, it went away, it has no worker, or one that lacks something.
    """
    with _connected(address) as client:
        _wait_for_workers(client, address)
        placed = [_placed(job) for job in jobs]
        _check_workers(client, placed, address)
        run = _Run(client, address, placed, progress)
        try:
            yield from run.results()
        finally:
            run.stop()


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    refuse_missing("distributed", extra="dask", asked="--dask")
    from distributed import Client

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says comes as an error too
    where = {"address": address}
    if address.endswith(".json"):
        if not Path(address).exists():  # Dask would wait for it
            raise MissingFileError(f"--dask {address}: not found; it is written by: dask scheduler --scheduler-file")
        where = {"scheduler_file": address}
    try:
        client = Client(**where, timeout=_CONNECT_S, set_as_default=False, name="geoseg")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"--dask {address}: no Dask scheduler answers there ({reason}); start one with: dask scheduler, and give the "
            "address that it prints, such as tcp://host:8786"
        ) from None
    with client:
        yield client


def _wait_for_workers(client: Any, address: str) -> None:
    """They may have been started just before."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except TimeoutError:
        raise InputError(
            f"--dask {address}: the scheduler has no worker; start some with: dask worker {address}"
        ) from None


def _placed(job: MapJob) -> MapJob:
    """A job that means the same in any folder of any machine, and holds no more polygons than it needs."""
    scene = replace(job.scene, paths=tuple(path.absolute() for path in job.scene.paths))
    area = job.area and replace(job.area, shapes=job.area.shapes.iloc[job.area.near(scene).index])
    bundle = replace(job.bundle, path=job.bundle.path.absolute())
    return replace(job, scene=scene, area=area, bundle=bundle, strips=job.strips.placed(scene))


def _check_workers(client: Any, jobs: Sequence[MapJob], address: str) -> None:
    """Raise `InputError` for workers of another version, or that do not see scenes, model and strips as we do."""
    needed = f"geoseg {VERSION} is needed; install the same version on every machine"
    faults = {
        worker: f"{found} found, {needed}"
        for worker, found in client.run(version, "geoseg", on_error="return").items()
        if found != VERSION
    }
    per_folder = {path.parent: job for job in jobs for path in job.scene.paths or [job.strips.folder]}
    for job in per_folder.values():
        if not faults:
            with NamedTemporaryFile(prefix=".seen-", dir=job.strips.folder) as mark:
                answers = client.run(_probe, job, Path(mark.name), on_error="return")
            faults = {worker: answer for worker, answer in answers.items() if answer is not None}
    if faults:
        worker, fault = next(iter(faults.items()))
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputError(f"--dask {address}: worker {worker}{more}: {fault}")


def _probe(job: MapJob, mark: Path) -> str | None:
    """On a worker: what it lacks."""
    shared = "scenes, model and outputs must be on storage that all machines see under the same path"
    if not mark.exists():
        return f"{mark.parent}: not found there; {shared}"
    try:
        with TemporaryFile(dir=mark.parent):
            pass
        if sha256(job.bundle.path / WEIGHTS) != job.bundle.weights_sha256:
            return f"{job.bundle.path}: holds other weights there; {shared}"
        with job.scene.open():
            pass
    except (OSError, GeosegError) as error:
        return f"{error}; {shared}"
    return None


class _Run:
    """The tasks of some maps: a few for each thread wait at the scheduler, the others here."""

    def __init__(self, client: Any, address: str, jobs: Sequence[MapJob], progress: Progress) -> None:
        self._client, self._address, self._jobs, self._progress = client, address, jobs, progress
        self._name = uuid.uuid4().hex
        self._threads: dict[str, int] = {}
        room = self._room()
        self._waiting = deque(task for place, job in enumerate(jobs) for task in _tasks(place, job, room))
        self._under_way: dict[Any, _Task] = {}
        self._left = Counter(task.place for task in self._waiting)
        self._told: dict[int, set[int]] = {place: set() for place in range(len(jobs))}
        self._failed: dict[int, GeosegError] = {}

    def results(self) -> Iterator[tuple[int, GeosegError | None]]:
        """The place of each map among the jobs when it is whole or has failed, and what of."""
        from distributed import as_completed

        yield from ((place, None) for place in self._told if not self._left[place])
        finished = as_completed(loop=self._client.loop)
        self._submit(finished)
        for future in finished:
            task = self._under_way.pop(future)
            self._left[task.place] -= 1
            self._take(task, future)
            self._submit(finished)
            self._say()
            if not self._left[task.place]:
                yield task.place, self._failed.get(task.place) or self._unseen(task.place)

    def _room(self) -> int:
        """How many tasks may be under way."""
        with suppress(OSError):  # the scheduler has gone: each task under way will say so
            self._threads = self._client.nthreads()  # workers come and go
        return _AHEAD * max(1, sum(self._threads.values()))

    def _submit(self, finished: Any) -> None:
        room = self._room()
        while self._waiting and len(self._under_way) < room:
            task = self._waiting.popleft()
            key = f"geoseg-{self._jobs[task.place].scene.name}-{task.numbers[0]}-{uuid.uuid4().hex}"
            future = self._client.submit(
                _predict, self._jobs[task.place], task.numbers, self._name, key=key, retries=_RETRIES
            )
            self._under_way[future] = task
            finished.add(future)

    def _take(self, task: _Task, future: Any) -> None:
        if future.status == "finished":
            self._told[task.place].update(future.result())
        elif task.place not in self._failed:
            self._failed[task.place] = self._why(task, future)
            rest = [other for other in self._waiting if other.place == task.place]
            self._waiting = deque(other for other in self._waiting if other.place != task.place)
            self._left[task.place] -= len(rest)
            self._client.cancel([key for key, other in self._under_way.items() if other.place == task.place])

    def _why(self, task: _Task, future: Any) -> GeosegError:
        """What a task failed of."""
        from distributed import KilledWorker

        if future.status != "error":
            raise InputError(f"--dask {self._address}: the scheduler has gone; start it again, and go on with --resume")
        error = future.exception()
        if isinstance(error, GeosegError):
            return error
        if not isinstance(error, KilledWorker):
            raise error
        strips = f"strips {task.numbers[0]} to {task.numbers[-1]}"
        return InputError(
            f"{self._jobs[task.place].scene.path}: {error.allowed_failures + 1} workers died while they made {strips}; "
            "give them more memory, or take a smaller --batch-size or --window"
        )

    def _unseen(self, place: int) -> GeosegError | None:
        """Wait for the strips that workers have finished to be seen here; what is wrong where they are not."""
        strips, until = self._jobs[place].strips, time.monotonic() + _SHARED_S
        while absent := self._told[place] - strips.finished().keys():
            if time.monotonic() > until:
                return DiskError(
                    f"{strips.folder}: {len(absent)} strips that workers have finished are not here; is this folder on "
                    "storage that all machines share?"
                )
            time.sleep(1)
        return None

    def _say(self) -> None:
        scenes = f"{len(self._jobs)} scenes" if len(self._jobs) > 1 else self._jobs[0].scene.name
        left = sum(
            len(task.numbers) * self._jobs[task.place].layout.cols
            for task in (*self._waiting, *self._under_way.values())
        )
        total = sum(job.layout.windows for job in self._jobs)
        self._progress(f"predict {scenes}", total - left, total, f"{len(self._threads)} workers")

    def stop(self) -> None:
        """Take back what is not done, and wait until no worker is at it: it may not write into a run that follows."""
        self._waiting.clear()
        if self._under_way:
            until = time.monotonic() + _STOP_S
            with suppress(OSError):  # the scheduler may have gone, and workers drop what they did for it
                self._client.cancel(list(self._under_way))
                while time.monotonic() < until and any(
                    self._client.run(_is_at, self._name, on_error="ignore").values()
                ):
                    time.sleep(0.2)


def _tasks(place: int, job: MapJob, many: int) -> Iterator[_Task]:
    """A few strips each, or fewer to have as many tasks as are wanted, so that all workers have some to the end.

    Where a strip needs the row of windows above it too, more in a task are cheaper.
    """
    missing, most = job.missing(), 16 if create_merger(job.layout).looks_back else 4
    size = min(most, max(1, len(missing) // many))
    for first in range(0, len(missing), size):
        yield _Task(place, tuple(missing[first : first + size]))


def _predict(job: MapJob, numbers: Sequence[int], run: str) -> list[int]:
    """On a worker: make strips; tells those that hold something, as a strip without a valid pixel has no file."""
    with _turn, bounded_cache():  # a network uses all cores that it may
        _stop_if_cancelled("", 0, 1)
        _busy_with.add(run)
        try:
            missing = sorted(set(job.missing()).intersection(numbers))
            predict_strips(job, [_predictor(job)], missing, progress=_stop_if_cancelled)
        except GeosegError as error:
            error.__cause__ = error.__context__ = None  # GDAL's own errors cannot be sent
            raise
        finally:
            _busy_with.discard(run)
    return sorted(job.strips.finished().keys() & set(numbers))


def _predictor(job: MapJob) -> Predictor:
    """That of a job's model; the last one is kept, as the memory of a device may not hold two."""
    options: dict[str, Any] = {
        "device": "cpu" if job.engine == "openvino" else "auto",
        "precision": job.precision,
        "tta": job.tta,
        "threshold": job.threshold,
        "engine": job.engine,
    }
    key = (job.bundle.weights_sha256, *options.values())
    if key not in _predictors:
        _predictors.clear()
        _predictors[key] = Predictor(job.bundle, **options)
    return _predictors[key]


def _stop_if_cancelled(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress of a task: Dask lets a task that was taken back run on to its end."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state != "executing":
        raise CancelledError


def _is_at(run: str) -> bool:
    """On a worker: whether it has a task of a run in hand."""
    return run in _busy_with
