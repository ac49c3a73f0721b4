"""Libraries that talk to developers, kept out of a user's terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Hear no more than errors from some loggers."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_letters() -> Iterator[None]:
    """Hear nothing of messages of GDAL that are no UTF-8, as of a file with a damaged tag: rasterio 1.4 and 1.5 trip over them
    where they log them, and Python shows that twice, though all goes on."""
    shown, dropped = sys.excepthook, sys.unraisablehook

    def show(kind: type[BaseException], *rest: Any) -> None:
        if not issubclass(kind, UnicodeDecodeError):
            shown(kind, *rest)

    def drop(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, UnicodeDecodeError):
            dropped(unraisable)

    sys.excepthook, sys.unraisablehook = show, drop
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = shown, dropped
