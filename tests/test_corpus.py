"""Files that once broke a reader: each is read, or refused in one line."""

from __future__ import annotations

import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import CORPUS, TARGETS, attempt

CASES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, tuple[Path, list[Path]]]:
    """The folder of whole files of each target, and which of these are damaged."""
    folders = {}
    for name, target in TARGETS.items():
        folder = tmp_path_factory.mktemp(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folders[name] = (folder, target.seeds(folder))
    return folders


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """A reader that does not come to an end within a library is ended with its process."""
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
    yield
    if hasattr(signal, "alarm"):
        signal.alarm(0)


def test_there_are_cases():
    assert len(CASES) > 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_a_file_that_once_broke_a_reader(whole, tmp_path, case):
    target, name = case.parent.name, case.name.partition("_")[2]
    folder, seeds = whole[target]
    shutil.copytree(folder, tmp_path / "try")
    (seed,) = (path for path in seeds if path.name == name)
    path = tmp_path / "try" / seed.relative_to(folder)
    shutil.copy(case, path)
    assert attempt(target, path) == ""


@pytest.mark.parametrize("target", TARGETS)
def test_whole_files_are_read(whole, tmp_path, target):
    folder, seeds = whole[target]
    for number, seed in enumerate(seeds):
        shutil.copytree(folder, tmp_path / f"{number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[target].attempt(tmp_path / f"{number}" / seed.relative_to(folder))
