"""A progress that people can see."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from geoseg.interruption import stop_if_asked


class ProgressBar:
    """A bar per stage, with the time that is left: what the command line shows, also for scripts and notebooks.

    To be given as `progress`, as in `geoseg.train("chips", progress=geoseg.ProgressBar())`. In a log, which is no terminal
    and no notebook, it says something every 30 seconds, or as often as the environment variable
    `GEOSEG_PROGRESS_SECONDS` tells.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._stage, self._ended = quiet, "", ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """See `Progress`."""
        from tqdm import TqdmWarning
        from tqdm.auto import tqdm

        stop_if_asked()
        if done >= total and stage == self._ended:
            return
        if self._bar is None or stage != self._stage:
            self.close()
            interval = 0.1 if sys.stderr.isatty() else _log_seconds()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TqdmWarning)  # a notebook without widgets gets a bar of letters
                self._bar = tqdm(total=total, desc=stage, disable=self._quiet, mininterval=interval)
            self._stage = stage
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        self._ended = stage if done >= total else ""
        if self._ended:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Another process draws a bar of its own."""
        return {"_quiet": self._quiet, "_stage": "", "_ended": "", "_bar": None}

    def clear(self) -> None:
        """Make way for a line; the bar comes back with the next step."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """End the bar that is shown, if any."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _log_seconds() -> float:
    """How often a bar says something that is not on a terminal, but in a log; programs that draw their own ask for more."""
    try:
        return float(os.environ.get("GEOSEG_PROGRESS_SECONDS", "30"))
    except ValueError:
        return 30.0
