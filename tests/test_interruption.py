"""A stop that was asked for holds, also where a library loses the exception that told of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from geoseg.files import publish, stage
from geoseg.interruption import heed, listen, preferring_stops, stop_if_asked

SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
each_signal = pytest.mark.parametrize(("number", "kind"), SIGNALS, ids=["SIGINT", "SIGTERM"])
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """The handlers of the command line, for one test."""
    before = {number: signal.getsignal(number) for number, _ in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listen()
    yield
    heed()
    for number, handler in before.items():
        signal.signal(number, handler)


class Deaf:
    """Loses what is raised while it is taken away, as all finalizers do."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def lose(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal whose exception comes to nothing."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    Deaf(number)


@each_signal
def test_a_signal_raises(number, kind):
    with pytest.raises(kind) as stop:
        signal.raise_signal(number)
    assert kind is not SystemExit or stop.value.code == 143


@each_signal
def test_a_result_does_not_take_its_name_after_a_stop(number, kind, tmp_path, monkeypatch):
    lose(number, monkeypatch)
    with pytest.raises(kind), publish(tmp_path / "map.tif") as path:
        path.write_text("whole")
    with pytest.raises(kind), stage(tmp_path / "model", last="model.json") as folder:
        (folder / "model.json").write_text("whole")
    assert list(tmp_path.iterdir()) == []


@each_signal
def test_what_fails_after_a_stop_is_the_stop(number, kind, monkeypatch):
    lose(number, monkeypatch)
    with pytest.raises(kind), preferring_stops():
        raise ValueError
    heed()
    with pytest.raises(ValueError), preferring_stops():  # noqa: PT011
        raise ValueError


def test_a_stop_that_was_heeded_is_forgotten(tmp_path, monkeypatch):
    lose(signal.SIGINT, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stop_if_asked()
    heed()
    stop_if_asked()
    with publish(tmp_path / "map.tif") as path:
        path.write_text("whole")
    assert (tmp_path / "map.tif").read_text() == "whole"


def test_one_who_ignores_ctrl_c_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen()
    signal.raise_signal(signal.SIGINT)
    stop_if_asked()
