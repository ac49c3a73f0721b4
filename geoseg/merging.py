"""How the answers for windows that overlap become one map: cut to their cores, or blended where they overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor

from geoseg.grid import Layout, Tile, slices

Merged = tuple[Window, Tensor, np.ndarray]
"""Some ground, its shares (classes, rows, cols) and where these hold (rows, cols) bool."""


class Merger(Protocol):
    """Puts windows together, row by row and from left to right.

    Attributes:
        inside: rows and cols of the windows that it needs.
        looks_back: whether a row's answer depends on the row above.
    """

    inside: tuple[slice, slice]
    looks_back: bool

    def extent(self, row: int) -> tuple[int, int]:
        """The first row of the scene that a row of windows answers for, and the one after its last."""
        ...

    def add(self, tile: Tile, shares: Tensor, valid: np.ndarray) -> Iterator[Merged]:
        """Take the next window, `inside` of it; yields the ground that is now finished.

        Args:
            tile: the window; those without a valid pixel are left out.
            shares: float32 (classes, rows, cols).
            valid: (rows, cols) bool.
        """
        ...


class Crop:
    """Each window answers for its core alone."""

    looks_back = False

    def __init__(self, layout: Layout) -> None:
        (rows, cols), margin = layout.core, layout.margin
        self._height, self._rows = layout.height, rows
        self.inside = slice(margin, margin + rows), slice(margin, margin + cols)

    def extent(self, row: int) -> tuple[int, int]:
        """See `Merger`."""
        return row * self._rows, min((row + 1) * self._rows, self._height)

    def add(self, tile: Tile, shares: Tensor, valid: np.ndarray) -> Iterator[Merged]:
        """See `Merger`."""
        rows, cols = tile.core.height, tile.core.width  # less than a core at the scene's edge
        yield tile.core, shares[:, :rows, :cols], valid[:rows, :cols]


class Blend:
    """Neighbouring windows hand over to each other across both their margins, with weights that add up to 1.

    A window's weight falls from 1 to 0 as half a cosine over twice the margin; with a margin of a quarter of the window
    it is the Hann window (Pielawski and Waehlby 2020, https://doi.org/10.1371/journal.pone.0229839). What a window still
    shares with those to its right and below it waits until they come: a strip of twice the margin per row of windows.
    """

    looks_back = True
    inside = slice(None), slice(None)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._row = self._col = -1
        self._right: Tensor | None = None
        self._below: dict[int, Tensor] = {}
        self._below_next: dict[int, Tensor] = {}

    def extent(self, row: int) -> tuple[int, int]:
        """See `Merger`."""
        rows, margin, height = self._layout.core[0], self._layout.margin, self._layout.height
        bottom = (row + 1) * rows
        return max(row * rows - margin, 0), height if bottom >= height else bottom - margin

    def add(self, tile: Tile, shares: Tensor, valid: np.ndarray) -> Iterator[Merged]:
        """See `Merger`."""
        (rows, cols), overlap = self._layout.core, 2 * self._layout.margin
        row, col = tile.core.row_off // rows, tile.core.col_off // cols
        if row != self._row:
            self._below = self._below_next if row == self._row + 1 else {}
            self._row, self._col, self._right, self._below_next = row, -1, None, {}
        total = shares * self._weights(tile).to(shares.device)
        if self._right is not None and col == self._col + 1:
            total[..., :overlap] += self._right
        self._col, self._right = col, total[..., cols:].clone()
        finished = self._finished(tile)
        place = slices(finished, tile.read)
        own = slice(place[1].stop)  # the columns that no window to the right has a say in
        self._below_next[col] = total[:, rows:, own].clone()
        above = self._below.pop(col, None)
        if above is not None:
            total[:, :overlap, own] += above
        yield finished, total[:, *place], valid[place]

    def _finished(self, tile: Tile) -> Window:
        """The ground that neither the window to the right nor those below will change."""
        core, margin, width = tile.core, self._layout.margin, self._layout.width
        top, bottom = self.extent(core.row_off // self._layout.core[0])
        left, right = max(core.col_off - margin, 0), core.col_off + core.width
        return Window(left, top, (right if right == width else right - margin) - left, bottom - top)

    def _weights(self, tile: Tile) -> Tensor:
        """(rows, cols) of a window: 1 in its middle and where nothing follows, falling to 0 where a neighbour takes over."""
        core, read, layout = tile.core, tile.read, self._layout
        down = _slopes(read.height, layout.margin, core.row_off > 0, core.row_off + core.height < layout.height)
        across = _slopes(read.width, layout.margin, core.col_off > 0, core.col_off + core.width < layout.width)
        return torch.outer(down, across)


def _slopes(size: int, margin: int, before: bool, after: bool) -> Tensor:
    """Weights along one side of a window, with a neighbour before and after it or none."""
    weights = torch.ones(size)
    places = (torch.arange(2 * margin) + 0.5) / (2 * margin)
    rising = torch.sin(places * math.pi / 2) ** 2
    if before:
        weights[: 2 * margin] = rising
    if after:
        weights[size - 2 * margin :] = 1 - rising
    return weights


def create_merger(layout: Layout) -> Merger:
    """What the layout asks for."""
    return Blend(layout) if layout.blend == "hann" else Crop(layout)
