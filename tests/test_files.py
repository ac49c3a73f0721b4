"""A file appears whole or not at all, whatever happens: errors, kills, full disks, a second run."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from geoseg.errors import (
    DiskError,
    FormatError,
    MissingFileError,
    OutputBusyError,
    OutputExistsError,
)
from geoseg.files import publish, read_json, refuse_existing, refuse_inputs, sha256, stage, write_json

PREAMBLE = """
import resource, sys, time
from pathlib import Path
from geoseg.errors import GeosegError
from geoseg.files import publish, stage
out = Path(sys.argv[1])
"""


def python(code: str, *arguments: Path, **options) -> subprocess.Popen:
    """Start another process that has `out`, the first argument."""
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def break_off(path: Path, error: type[BaseException] = ZeroDivisionError) -> None:
    path.write_text("half")
    raise error


# --- one file


def test_publish_moves_the_file_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "a.gpkg"
    with publish(target) as partial:
        assert (partial.parent, partial.suffix) == (target.parent, ".gpkg")
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert tree(tmp_path) == ["new", "new/a.gpkg"]


def test_publish_leaves_nothing_behind_on_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), publish(tmp_path / "new" / "deep" / "a.tif") as partial:
        break_off(partial)
    assert tree(tmp_path) == []


def test_publish_keeps_the_earlier_file_and_its_neighbours_on_an_error(tmp_path):
    (tmp_path / "a.tif").write_text("earlier")
    (tmp_path / "foreign").write_text("")
    with pytest.raises(KeyboardInterrupt), publish(tmp_path / "a.tif", overwrite=True) as partial:
        break_off(partial, KeyboardInterrupt)
    assert (tmp_path / "a.tif").read_text() == "earlier"
    assert tree(tmp_path) == ["a.tif", "foreign"]


def test_publish_replaces_only_when_it_may(tmp_path):
    target = tmp_path / "a.tif"
    target.write_text("earlier")
    with pytest.raises(OutputExistsError, match=r"a\.tif.*--overwrite"), publish(target):
        raise AssertionError("the block must not run")
    with publish(target, overwrite=True) as partial:
        partial.write_text("later")
    assert target.read_text() == "later"


def test_publish_takes_away_what_sqlite_leaves_beside_a_cut_off_file(tmp_path):
    def cut_off(partial: Path) -> None:
        database = sqlite3.connect(partial)
        with closing(database):
            database.execute("create table t (x)")
            database.execute("insert into t values (1)")
            journal = partial.with_name(partial.name + "-journal")
            kept.append(journal.read_bytes())
        journal.write_bytes(kept[0])  # closing takes it away, a kill would not
        raise ZeroDivisionError

    kept: list[bytes] = []
    with pytest.raises(ZeroDivisionError), publish(tmp_path / "a.gpkg") as partial:
        cut_off(partial)
    assert len(kept[0]) > 0
    assert tree(tmp_path) == []


@pytest.mark.parametrize("stem", ["x" * 251, "田" * 83])
def test_publish_takes_names_as_long_as_the_disk_does(tmp_path, stem):
    target = tmp_path / f"{stem}.tif"
    with publish(target) as partial:
        partial.write_text("whole")
        partial.with_name(partial.name + "-journal").write_text("SQLite writes this one")
    assert tree(tmp_path) == [target.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for verb in (publish(tmp_path / "file" / "a.tif"), stage(tmp_path / "file", last="run.json")):
        with pytest.raises(DiskError, match=r"file.*--out"), verb:
            raise AssertionError("the block must not run")


# --- files that belong together


def test_stage_moves_all_files_and_leaves_no_trace_of_itself(tmp_path):
    out = tmp_path / "deep" / "out"
    with stage(out, last="run.json") as staging:
        assert tree(staging) == []
        (staging / "train").mkdir()
        (staging / "train" / "a.tif").write_text("a")
        (staging / "run.json").write_text("{}")
        assert not (out / "run.json").exists()
    assert tree(out) == ["run.json", "train", "train/a.tif"]


def test_stage_moves_the_last_file_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (moved.append(Path(target).name), replace(source, target))
    )
    with stage(tmp_path / "out", last="m.json") as staging:
        for name in ("z.tif", "m.json", "a.tif"):
            (staging / name).write_text("")
    assert moved == ["a.tif", "z.tif", "m.json"]


def test_stage_on_an_error_takes_away_only_what_it_made(tmp_path):
    with pytest.raises(ZeroDivisionError), stage(tmp_path / "deep" / "out", last="run.json") as staging:
        break_off(staging / "a.tif")
    assert tree(tmp_path) == []


def test_stage_on_an_error_keeps_the_earlier_run(tmp_path):
    for name in ("run.json", "a.tif", "foreign.txt"):
        (tmp_path / name).write_text("earlier")
    with (
        pytest.raises(ZeroDivisionError),
        stage(tmp_path, last="run.json", replaces=["a.tif"], overwrite=True) as staging,
    ):
        break_off(staging / "a.tif")
    assert tree(tmp_path) == ["a.tif", "foreign.txt", "run.json"]
    assert (tmp_path / "a.tif").read_text() == (tmp_path / "run.json").read_text() == "earlier"


def test_stage_takes_the_place_of_the_earlier_run_and_of_nothing_else(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("run.json", "a.tif", "train/old.tif", "train/foreign.txt", "foreign.txt"):
        (tmp_path / name).write_text("earlier")
    with stage(tmp_path, last="run.json", replaces=["a.tif", "train/old.tif", "gone.tif"], overwrite=True) as staging:
        (staging / "train").mkdir()
        (staging / "train" / "new.tif").write_text("later")
        (staging / "run.json").write_text("later")
    assert tree(tmp_path) == ["foreign.txt", "run.json", "train", "train/foreign.txt", "train/new.tif"]
    assert (tmp_path / "run.json").read_text() == "later"


def test_stage_refuses_a_finished_folder(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputExistsError, match=r"run\.json.*--overwrite"), stage(tmp_path, last="run.json"):
        raise AssertionError("the block must not run")
    assert tree(tmp_path) == ["run.json"]


# --- two runs, kills, full disks


def test_a_second_run_into_the_folder_is_refused_and_the_first_goes_on(tmp_path):
    out = tmp_path / "out"
    second = (
        "try:\n    with stage(out, last='run.json'): pass\nexcept GeosegError as error: print(type(error).__name__)"
    )
    with stage(out, last="run.json") as staging:
        (staging / "run.json").write_text("{}")
        assert python(second, out).communicate(timeout=60)[0] == "OutputBusyError\n"
        with pytest.raises(OutputBusyError, match="another run"), stage(out, last="run.json"):
            raise AssertionError("the block must not run")
    assert tree(out) == ["run.json"]


def test_a_killed_run_frees_the_folder_and_leaves_nothing_under_a_final_name(tmp_path):
    out = tmp_path / "out"
    code = """
with stage(out, last="run.json") as staging:
    (staging / "a.tif").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""
    with python(code, out) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
    assert [name for name in tree(out) if name[0] != "."] == []
    with stage(out, last="run.json") as staging:
        assert tree(staging) == []
        (staging / "run.json").write_text("{}")
    assert tree(out) == ["run.json"]


FULL_DISK = """
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for verb in (publish(out / "new" / "a.bin"), stage(out / "run", last="a.bin")):
    try:
        with verb as place:
            path = place / "a.bin" if place.is_dir() else place
            path.write_bytes(bytes(20_000))
    except GeosegError as error:
        print(type(error).__name__, error)
    else:
        print("written")
"""


def test_a_full_disk_is_said_with_the_room_left_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("resource")
    lines = python(FULL_DISK, tmp_path).communicate(timeout=60)[0].splitlines()
    for line, name in zip(lines, ("a.bin", "run"), strict=True):
        assert line.startswith(f"DiskError {tmp_path}")
        assert name in line
        assert "MiB are free" in line
    assert tree(tmp_path) == []


# --- refusals up front


def test_existing_outputs_are_counted(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    refuse_existing(paths, overwrite=False)
    for path in paths[1:]:
        path.touch()
    with pytest.raises(OutputExistsError, match="b and 1 more"):
        refuse_existing(paths, overwrite=False)
    refuse_existing(paths, overwrite=True)


def test_an_input_is_never_an_output_under_whatever_name(tmp_path):
    scene = tmp_path / "scene.tif"
    scene.touch()
    (tmp_path / "link.tif").symlink_to(scene)
    refuse_inputs([tmp_path / "other.tif"], [scene])
    for alias in (scene, tmp_path / "link.tif", tmp_path / "x" / ".." / "scene.tif"):
        with pytest.raises(OutputExistsError, match="input"):
            refuse_inputs([tmp_path / "other.tif", alias], [scene])


# --- JSON and checksums


def test_json_comes_back(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"format": 1, "name": "耕地", "none": None})
    assert read_json(path, newest=1, what="a thing") == {"format": 1, "name": "耕地", "none": None}
    assert "耕地" in path.read_text(encoding="utf-8")


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})


def test_older_and_present_formats_are_read(tmp_path):
    for version in (1, 2, 3):
        write_json(tmp_path / "a.json", {"format": version})
        assert read_json(tmp_path / "a.json", newest=3, what="a thing")["format"] == version


def test_a_newer_format_is_refused_with_the_version_to_install(tmp_path):
    write_json(tmp_path / "chips.json", {"format": 4, "geoseg_version": "7.1"})
    with pytest.raises(FormatError, match=r"chips\.json: format 4 found.*up to 3.*install geoseg 7\.1"):
        read_json(tmp_path / "chips.json", newest=3, what="a chip folder")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"{}", b'{"format": "1"}', b'{"format": true}', b'{"format": 0}', b"\xff", b"[" * 10**5],
)
def test_a_damaged_file_is_named_with_what_it_should_be(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.json.*a chip folder"):
        read_json(tmp_path / "a.json", newest=1, what="a chip folder")


def test_a_missing_file_is_named_with_what_it_should_be(tmp_path):
    with pytest.raises(MissingFileError, match=r"a\.json: not found; a chip folder"):
        read_json(tmp_path / "a.json", newest=1, what="a chip folder")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_what_a_killed_run_has_left_of_a_file_is_gone_before_another_writes_it(tmp_path):
    """SQLite would take a journal beside a new file for its own, and roll the old one back into it."""
    with publish(tmp_path / "a.gpkg") as partial:
        left = partial
        partial.write_bytes(b"whole")
    left.write_bytes(b"half")
    left.with_name(f"{left.name}-journal").write_bytes(b"of the half")
    with publish(tmp_path / "a.gpkg", overwrite=True) as partial:
        assert partial == left
        assert tree(tmp_path) == sorted(["a.gpkg", f"{partial.name}.lock"])
        partial.write_bytes(b"new")
    assert tree(tmp_path) == ["a.gpkg"]
