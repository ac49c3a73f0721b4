"""How long work tells where it stands: a function that the caller passes in; the command line passes a bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then during long work."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` steps of `stage` are finished; `note` is what else is worth a glance."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress of those who do not want to see it."""
