"""The one geometric primitive: disjoint cores that partition a raster, each read with a margin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rasterio.windows import Window


class Tile(NamedTuple):
    """One cell of a grid.

    Attributes:
        core: the pixels this cell answers for, inside the raster.
        read: the pixels it looks at: full size always, so it may stick out of the raster.
    """

    core: Window
    read: Window


def grid(height: int, width: int, core: int | tuple[int, int], margin: int | tuple[int, int] = 0) -> Iterator[Tile]:
    """Partition a raster into cores, row by row.

    Args:
        height: rows of the raster, at least 1.
        width: columns of the raster, at least 1.
        core: rows and columns of a core; those at the lower and right edge are cut to the raster.
        margin: pixels read before (above, left) and after (below, right) each core.

    Yields:
        Tiles whose cores cover every pixel exactly once and whose reads all have the same size.

    Raises:
        ValueError: a size is not positive or a margin is negative.
    """
    core_rows, core_cols = (core, core) if isinstance(core, int) else core
    before, after = (margin, margin) if isinstance(margin, int) else margin
    if min(height, width, core_rows, core_cols) < 1 or min(before, after) < 0:
        raise ValueError(f"grid({height}, {width}, core={core}, margin={margin}): sizes must be positive")
    for row in range(0, height, core_rows):
        for col in range(0, width, core_cols):
            yield Tile(
                core=Window(col, row, min(core_cols, width - col), min(core_rows, height - row)),
                read=Window(col - before, row - before, core_cols + before + after, core_rows + before + after),
            )


class Layout(NamedTuple):
    """How a scene is cut into windows.

    Attributes:
        height: rows of the scene.
        width: columns of the scene.
        core: rows and columns of a core.
        margin: pixels around it that are seen.
        blend: `crop`, or `hann` where neighbouring windows hand over to each other across their margins.
    """

    height: int
    width: int
    core: tuple[int, int]
    margin: int
    blend: str = "crop"

    @property
    def rows(self) -> int:
        """Rows of windows."""
        return -(-self.height // self.core[0])

    @property
    def cols(self) -> int:
        """Windows in a row."""
        return -(-self.width // self.core[1])

    @property
    def windows(self) -> int:
        """All of them."""
        return self.rows * self.cols

    def row(self, number: int) -> list[Tile]:
        """The windows of one row, counted from 0."""
        top = number * self.core[0]
        part = grid(min(self.core[0], self.height - top), self.width, self.core, self.margin)
        return [Tile(_moved(core, top), _moved(read, top)) for core, read in part]


def _moved(window: Window, down: int) -> Window:
    return Window(window.col_off, window.row_off + down, window.width, window.height)


def chip_windows(height: int, width: int, size: int, stride: int) -> Iterator[Window]:
    """Windows of chips: full size, a stride apart, the last ones sticking out where the raster ends.

    With a stride below the size, a chip whose pixels all lie in its neighbours as well is left out.
    """
    for tile in grid(height, width, stride, (0, size - stride)):
        row, col = tile.read.row_off, tile.read.col_off
        repeats_row = row > 0 and row + size - stride >= height
        repeats_col = col > 0 and col + size - stride >= width
        if not (repeats_row or repeats_col):
            yield tile.read


def slices(window: Window, within: Window) -> tuple[slice, slice]:
    """Row and column slices that cut `window` out of an array that was read at `within`."""
    row, col = window.row_off - within.row_off, window.col_off - within.col_off
    return slice(row, row + window.height), slice(col, col + window.width)
