"""A command that is stopped at any moment, however, and then run again, comes to what an undisturbed run comes to."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from farm import COMMANDS, begin, contents, outcome, plough

from geoseg.bundle import open_bundle

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

KILLS = int(os.environ.get("GEOSEG_KILLS", 40))
"""Of each command in the slow test."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


def stop_and_try_again(farm: Path, name: str, tmp_path: Path, kills: int, rng: np.random.Generator) -> int:
    """Stop a command at so many moments; how often it was still at work."""
    inputs = {folder: contents(farm / folder) for folder in ("chips", "model", "map")}
    outcome(farm, name, tmp_path / "first", {})  # the first process waits for all that is loaded before
    started = time.monotonic()
    assert outcome(farm, name, tmp_path / "whole", {}) == ("", "")
    seconds = time.monotonic() - started
    expected = contents(tmp_path / "whole")
    stopped = 0
    for number in range(kills):
        out = tmp_path / f"{number}"
        process, _ = begin(farm, name, out, {})
        time.sleep(rng.uniform(0, seconds))
        kind = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        stopped += process.is_alive()
        with suppress(ProcessLookupError):
            os.kill(process.pid, kind)
        process.join(60)
        assert process.exitcode is not None, f"{name}: not stopped by {kind}"
        if name == "train" and kind != signal.SIGKILL and (out / "model.json").exists():
            open_bundle(out).network()  # the best epoch so far, as whole as any
        else:
            seen = {
                file: digest for file, digest in contents(out).items() if file[0] != "." and "checkpoints" not in file
            }
            assert seen.items() <= expected.items(), f"{name}, stopped by {kind}: looks like a result"
        found = outcome(farm, name, out, COMMANDS[name].again)
        assert found == ("", ""), f"{name}, stopped by {kind}: {found}"
        assert contents(out) == expected, f"{name}, stopped by {kind}"
        shutil.rmtree(out)
    assert {folder: contents(farm / folder) for folder in inputs} == inputs
    return stopped


@pytest.mark.parametrize("name", COMMANDS)
def test_a_few_moments(farm, tmp_path, rng, name):
    stop_and_try_again(farm, name, tmp_path, 4, rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_many_moments(farm, tmp_path, name):
    stopped = stop_and_try_again(farm, name, tmp_path, KILLS, np.random.default_rng())
    print(f"{name}: stopped at {KILLS} moments, in {stopped} of them at work")
    assert stopped > KILLS / 3


def test_two_runs_at_once(farm, tmp_path):
    """The second into one folder is refused, whatever the first does in the end."""
    for name in COMMANDS:
        for attempt in range(20):  # a command of a few milliseconds may have ended before it is stopped
            kind, text = outcome_beside_another(farm, name, tmp_path / f"{name} {attempt}", 0.005 * 0.8**attempt)
            if kind:
                break
        assert kind == "OutputBusyError", f"{name}: {kind} {text}"


def outcome_beside_another(farm: Path, name: str, out: Path, later: float) -> tuple[str, str]:
    """How a run ends that finds another one at work, stopped in the midst, which then comes to its own end."""
    process, ears = begin(farm, name, out, {})
    while process.is_alive() and not any(out.glob(".*lock")):
        time.sleep(0.0005)
    time.sleep(later)  # the lock is there a moment before it is held
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGSTOP)
    found = outcome(farm, name, out, COMMANDS[name].again)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
    own = ears.recv()
    process.join()
    assert own == ("", "") or not found[0]  # where the second came through, it may have been there first
    return found
