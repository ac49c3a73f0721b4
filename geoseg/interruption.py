"""Stops that were asked for, and that hold even where a library loses them.

A signal raises an exception wherever the program happens to be. Where that is deep inside a library, another error can take
the place of the exception, or a second attempt of the library can; then the work would go on as if nobody had asked.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: list[int] = []


def listen() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt and SIGTERM raises SystemExit, and both are remembered until `heed`."""
    signal.signal(signal.SIGTERM, _stop)
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # it may be ignored, as in the background of a shell
        signal.signal(signal.SIGINT, _stop)
    if hasattr(signal, "SIGBREAK"):  # of Windows, where a program cannot send another one Ctrl-C alone
        signal.signal(signal.SIGBREAK, _stop)


def heed() -> None:
    """Forget the stop that was asked for: what is done from now on is done because of it."""
    _asked.clear()


def stop_if_asked() -> None:
    """Raise again what a signal has raised, if anything: before a result takes its name, and now and then in long work.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM.
    """
    if _asked:
        _raise(_asked[0])


@contextmanager
def preferring_stops() -> Iterator[None]:
    """Where a stop was asked for and the block fails in another way, raise the stop."""
    try:
        yield
    except Exception:
        stop_if_asked()
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGTERM:
        sys.exit(128 + number)
    raise KeyboardInterrupt
