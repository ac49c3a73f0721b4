"""How a result shows itself: as its summary in a console, and with pictures in a notebook."""

from __future__ import annotations

from importlib import import_module


class Displayed:
    """What has a summary, `str(self)`. To be a base of dataclasses that make no `__repr__` of their own."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        # By its name: what draws results knows them all, so it stands above them, and is loaded when a notebook asks.
        return str(import_module("geoseg.notebook").html(self))
