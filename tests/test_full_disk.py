"""A disk that fills at any byte of any command: either all is there and whole, or nothing looks like a result and it is said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from farm import COMMANDS, contents, outcome, plough

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")

STEP = int(os.environ.get("GEOSEG_DISK_STEP", 2048))
"""Bytes from one limit to the next in the slow walks."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


def results(out: Path) -> dict[str, str]:
    """What looks like a result: not what a stopped run has hidden to go on from."""
    kept = (".scene.strips/", "checkpoints/")
    return {name: digest for name, digest in contents(out).items() if not name.startswith(kept)}


def hold(farm: Path, name: str, out: Path, expected: dict[str, str], limit: int | None) -> bool:
    """Try a command where little fits, and hold the promise; whether it said that it came through."""
    earlier = results(out)
    kind, text = outcome(farm, name, out, {"overwrite": True}, limit)
    if not kind:
        assert results(out) == expected, f"{name}, limit {limit}: said to be done"
        return True
    assert kind == "DiskError", f"{name}, limit {limit}: {kind}: {text}"
    assert "\n" not in text
    assert "MiB are free in " in text, f"{name}, limit {limit}: {text}"
    assert results(out) == earlier, f"{name}, limit {limit}: {text}"
    return False


def limits(expected: Path, step: int) -> Iterator[int]:
    """From nothing upwards, without an end, and just below and at the size of each file."""
    sizes = {path.stat().st_size for path in expected.rglob("*") if path.is_file()}
    most = max(sizes)
    yield from sorted({*range(0, most, step), *(size - 1 for size in sizes), *sizes})
    yield from count(most + step, step)


@pytest.mark.parametrize("name", COMMANDS)
def test_where_a_file_may_not_grow(farm, tmp_path, name):
    COMMANDS[name].run(farm, tmp_path / "whole")
    expected = results(tmp_path / "whole")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for place, limit in enumerate((0, 1, sizes[0] // 2, sizes[0] - 1, *{sizes[-1] // 2, sizes[-1] - 1})):
        assert not hold(farm, name, tmp_path / f"{place}", expected, limit)
    assert not (tmp_path / "0").exists()  # where nothing could be written, nothing is left to go on from


@pytest.mark.parametrize("name", COMMANDS)
def test_an_earlier_result_outlives_a_full_disk(farm, tmp_path, name):
    COMMANDS[name].run(farm, tmp_path / "whole")
    expected = results(tmp_path / "whole")
    (tmp_path / "whole" / "foreign.txt").write_text("mine")
    earlier = results(tmp_path / "whole")
    for limit in (0, 4096, max(path.stat().st_size for path in (tmp_path / "whole").rglob("*")) - 1):
        assert not hold(farm, name, tmp_path / "whole", earlier, limit)
    assert hold(farm, name, tmp_path / "whole", earlier, None)
    assert earlier == {**expected, "foreign.txt": earlier["foreign.txt"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_limit(farm, tmp_path, name):
    COMMANDS[name].run(farm, tmp_path / "whole")
    expected = results(tmp_path / "whole")
    done = []
    for limit in limits(tmp_path / "whole", STEP):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        done.append(hold(farm, name, tmp_path / "out", expected, limit))
        if done[-1] and limit > max(path.stat().st_size for path in (tmp_path / "whole").iterdir()):
            break
    print(f"{name}: {len(done)} limits, {sum(done)} came through")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_really_full(farm, tmp_path, name):
    COMMANDS[name].run(farm, tmp_path / "whole" / "out")
    expected = results(tmp_path / "whole" / "out")
    disk, size, done = tmp_path / "disk", 0, []
    disk.mkdir()
    while not (done and done[-1]):
        size += max(4096, STEP)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "geoseg", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("a disk of one's own needs the rights of root")
        try:
            done.append(hold(farm, name, disk / "out", expected, None))
        finally:
            subprocess.run(["umount", disk], check=True)
    print(f"{name}: {len(done)} sizes, whole with {size:,} bytes")
