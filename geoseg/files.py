"""The one write path: everything is written aside, checked, and moved under its final name last.

A file appears whole or not at all. `publish` serves a single file, `stage` a folder whose files belong together.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from geoseg.errors import (
    DataWarning,
    DiskError,
    FormatError,
    InputError,
    MissingFileError,
    OutputBusyError,
    OutputExistsError,
)
from geoseg.interruption import stop_if_asked

_UNFINISHED = ".unfinished"
_LOCK = ".geoseg.lock"
_MAX_NAME_BYTES = 255
_SKETCHED, _SKETCHED_BYTES = 16, 65536


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise `OutputExistsError` when an output is there already and may not be replaced."""
    paths = list(paths)
    _refuse_long(paths)
    folders = [path for path in paths if path.is_dir()]
    if folders:
        raise OutputExistsError(f"{folders[0]}: is a folder, where a file is to be written; choose another --out")
    there = [] if overwrite else [path for path in paths if path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise OutputExistsError(f"{there[0]}{more}: exists already; choose another --out or allow it with --overwrite")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise `OutputExistsError` when an output would replace an input, overwrite or not."""
    outputs = list(outputs)
    _refuse_long(outputs)
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise OutputExistsError(f"{path}: is an input of this run and is never written to; choose another --out")


def _refuse_long(paths: Iterable[Path]) -> None:
    sizes = {path.name: len(path.name.encode(errors="surrogateescape")) for path in paths}
    longest = max(sizes, key=sizes.__getitem__, default="")
    if longest and sizes[longest] > _MAX_NAME_BYTES:
        raise InputError(
            f"{longest}: a name of {sizes[longest]} bytes, where {_MAX_NAME_BYTES} are possible; give the scene, or --out, a "
            f"shorter name"
        )


@contextmanager
def publish(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write one file: yields a path beside it to write to, which takes the final name when the block ends well.

    What a run that was killed has left of it is taken away.

    Raises:
        OutputExistsError: the file is there and `overwrite` is not set.
        OutputBusyError: another run writes it.
        DiskError: the disk did not take the file.
    """
    target = Path(path)
    refuse_existing([target], overwrite)
    partial = target.with_name(_partial_name(target))
    with _make_folder(target.parent), _lock(partial.with_name(f"{partial.name}.lock"), target):
        remove_with_journals(partial)
        try:
            with _disk_errors(target):
                try:
                    yield partial
                except DiskError as error:  # the user knows the file by its final name
                    raise DiskError(str(error).replace(partial.name, target.name)) from error
                _settle(partial, target)
                _sync_folder(target.parent)
        finally:
            remove_with_journals(partial)


def remove_with_journals(path: Path) -> None:
    """Take away a file that may not be there, and what SQLite leaves beside a GeoPackage that was cut off."""
    for leftover in (path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))):
        leftover.unlink(missing_ok=True)


@contextmanager
def occupy(folder: str | Path) -> Iterator[None]:
    """Make a folder this run's alone until the block ends: one run at a time may write into a folder.

    The lock dies with its process. Where the block fails, a folder that was made for it and is empty goes.

    Raises:
        OutputBusyError: another run writes into `folder`.
        DiskError: it cannot be made or written to.
    """
    with _make_folder(Path(folder)), _lock(Path(folder) / _LOCK, Path(folder)):
        yield


@contextmanager
def stage(folder: str | Path, *, last: str, replaces: Iterable[str] = (), overwrite: bool = False) -> Iterator[Path]:
    """Occupy a folder and write files into it that belong together; see `occupy` and `stage_occupied`."""
    staged = stage_occupied(folder, last=last, replaces=replaces, overwrite=overwrite)
    with occupy(folder), staged as staging:
        yield staging


@contextmanager
def stage_occupied(
    folder: str | Path, *, last: str, replaces: Iterable[str] = (), overwrite: bool = False
) -> Iterator[Path]:
    """Write files that belong together: yields an empty folder to write to, whose files move into `folder` at the end.

    Files in `folder` that are neither written now nor named in `replaces` stay as they are. On an error nothing is left
    behind.

    Args:
        folder: where the files go; occupied by this run.
        last: name of the file that moves last, so that a folder without it is known to be unfinished.
        replaces: names, relative to `folder`, of the earlier files that the new ones take the place of.
        overwrite: whether `last` and what it stands for may be there already.

    Raises:
        OutputExistsError: `last` is there and `overwrite` is not set.
        DiskError: the disk did not take the files.
    """
    folder = Path(folder)
    refuse_existing([folder / last], overwrite)
    with _disk_errors(folder):
        staging = folder / _UNFINISHED
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed: we hold the lock now
        staging.mkdir()
        try:
            yield staging
            stop_if_asked()
            (folder / last).unlink(missing_ok=True)
            for name in replaces:
                (folder / name).unlink(missing_ok=True)
            _move(staging, folder, last)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, folder: Path, last: str) -> None:
    names = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: name == Path(last)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == Path(last):
            for parent in {(folder / other).parent for other in names}:
                _sync_folder(parent)
        _settle(staging / name, target)
    _sync_folder(folder)


def _settle(partial: Path, target: Path) -> None:
    stop_if_asked()
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a folder cannot be opened elsewhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial_name(target: Path) -> str:
    ending = f".part{target.suffix}"
    room = _MAX_NAME_BYTES - len(f".{ending}-journal".encode())  # SQLite needs the last part
    if len(target.stem.encode()) > room:
        ending = f".{hashlib.sha256(target.stem.encode()).hexdigest()[:12]}{ending}"
        room = _MAX_NAME_BYTES - len(f".{ending}-journal".encode())
    return "." + target.stem.encode()[:room].decode(errors="ignore") + ending


@contextmanager
def _make_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and take away again what was made when the block fails."""
    if odd := set("!;") & set(str(folder.resolve())):
        raise InputError(
            f"{folder}: '{odd.pop()}' in the path of an output, which is taken for that of an archive; choose another --out"
        )
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: the folder cannot be made ({error.strerror}); choose another --out") from error
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # not empty: somebody else wrote here meanwhile
                path.rmdir()
        raise


@contextmanager
def _lock(path: Path, target: Path) -> Iterator[None]:
    """Hold a lock that dies with the process: `target` is this run's alone."""
    lock = FileLock(path, timeout=0)
    with ExitStack() as held:
        try:
            held.enter_context(lock)
        except Timeout:
            raise OutputBusyError(f"{target}: another run writes here; wait for it or choose another --out") from None
        except OSError as error:
            raise DiskError(f"{target}: cannot be written to ({error.strerror}); choose another --out") from error
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def is_homeless(error: BaseException) -> bool:
    """Whether an error is that of Python's tempfile, which found room nowhere."""
    return isinstance(error, FileNotFoundError) and "temporary directory" in str(error)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Say in one line that the disk refused, with the room that is left."""
    try:
        yield
    except DiskError:
        raise
    except (OSError, sqlite3.OperationalError) as error:
        full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
        if isinstance(error, OSError) and error.errno not in full and not is_homeless(error):
            raise
        raise DiskError(f"{target}: could not be written ({error}); {room_beside(target)}") from error


def room_beside(path: Path) -> str:
    """How much room is left where a file was to be written, for a message."""
    folder = _existing_folder(path)
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free in {folder}"


def warn_of_little_room(folder: Path, most: int) -> None:
    """Warn where files of `most` bytes, if they shrink by nothing when they are compressed, do not fit onto the disk."""
    free = shutil.disk_usage(_existing_folder(folder)).free
    if most > free:
        warnings.warn(
            f"{room_beside(folder)}, and up to {most / 2**20:,.0f} MiB may be written; free some, or choose another --out",
            DataWarning,
            stacklevel=3,
        )


def _existing_folder(path: Path) -> Path:
    """The folder that holds a path, as the user knows it; the path itself where it is one."""
    return next(
        place for place in (path, *path.absolute().parents) if place.is_dir() and _UNFINISHED not in place.parts
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file into a staged place and read it back.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with _disk_errors(path):
        path.write_text(text, encoding="utf-8")
    if path.read_text(encoding="utf-8") != text:
        raise DiskError(f"{path.name}: what was written cannot be read back; {room_beside(path)}")


def read_json(path: Path, *, newest: int, what: str) -> dict[str, Any]:
    """Read one of geoseg's own JSON files.

    Args:
        path: the file.
        newest: the highest `format` this version reads.
        what: what the file is, for the message: "a chip folder's chips.json".

    Raises:
        MissingFileError: it is not there.
        FormatError: it is damaged, or its `format` is newer.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: not found; {what} is needed") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read as {what} ({error}); make it again") from None
    version = document.get("format") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{path}: is not {what} (no 'format' number in it)")
    if version > newest:
        written_by = document.get("geoseg_version", "a newer version")
        raise FormatError(
            f"{path}: format {version} found, this version of geoseg reads up to {newest}; "
            f"install geoseg {written_by} or newer"
        )
    return document


def parse_json(text: str) -> Any:
    """Read JSON that may come from a stranger: numbers are finite, and whole ones have 64 bits.

    Raises:
        ValueError: it is not JSON, or has numbers or lists within lists beyond measure.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_int64)
    except RecursionError:
        raise ValueError("lists within lists within lists, too many of them") from None


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} found, which is no number in JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} found, which is too large for a number")
    return number


def _int64(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:  # as a float, msgspec before 0.22 would take it for -1
        raise ValueError(f"{text[:20]}... found, which is too large for a number")
    return number


def from_json(kind: Any, entries: Any) -> Any:
    """An object from JSON, by the annotations of its class; keys that these do not name are left alone.

    Args:
        kind: a dataclass, or a type such as `tuple[Chip, ...]`.
        entries: as `read_json` gives them.

    Raises:
        FormatError: a key is missing, or its value is none of its type; the text says where.
    """
    try:
        return msgspec.convert(entries, kind, str_keys=True)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise FormatError(" ".join(str(error).split())) from None


def sketch(path: Path) -> str:
    """Hexadecimal SHA-256 of parts of a file spread over it, to tell it from another one of the same size and time at little cost."""
    found, size = hashlib.sha256(), path.stat().st_size
    with open(path, "rb") as file:
        for part in range(_SKETCHED):
            file.seek(max(size - _SKETCHED_BYTES, 0) * part // (_SKETCHED - 1))
            found.update(file.read(_SKETCHED_BYTES))
    return found.hexdigest()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
