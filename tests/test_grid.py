"""Cores partition, reads are of one size, chips cover: for any raster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from geoseg.grid import Tile, chip_windows, grid, slices

sides = st.integers(1, 40)
margins = st.integers(0, 9)


def test_grid_by_hand():
    assert list(grid(5, 4, 3, 1)) == [
        Tile(Window(0, 0, 3, 3), Window(-1, -1, 5, 5)),
        Tile(Window(3, 0, 1, 3), Window(2, -1, 5, 5)),
        Tile(Window(0, 3, 3, 2), Window(-1, 2, 5, 5)),
        Tile(Window(3, 3, 1, 2), Window(2, 2, 5, 5)),
    ]


@given(height=sides, width=sides, core=st.tuples(sides, sides), margin=st.tuples(margins, margins))
def test_cores_partition_and_reads_hold_their_core_with_the_margin(height, width, core, margin):
    covered = np.zeros((height, width), int)
    for tile in grid(height, width, core, margin):
        (top, left), read = (tile.core.row_off, tile.core.col_off), tile.read
        assert 0 <= top < top + tile.core.height <= height
        assert 0 <= left < left + tile.core.width <= width
        covered[tile.core.toslices()] += 1
        assert (read.height, read.width) == (core[0] + sum(margin), core[1] + sum(margin))
        assert (top - read.row_off, left - read.col_off) == (margin[0], margin[0])
    assert (covered == 1).all()


@given(height=sides, width=sides, core=sides, margin=margins)
def test_one_number_stands_for_both_sides(height, width, core, margin):
    assert list(grid(height, width, core, margin)) == list(grid(height, width, (core, core), (margin, margin)))


@pytest.mark.parametrize("sizes", [(0, 5, 3, 0), (5, 0, 3, 0), (5, 5, 0, 0), (5, 5, (3, 0), 0), (5, 5, 3, (0, -1))])
def test_grid_refuses_sizes_that_make_no_sense(sizes):
    with pytest.raises(ValueError, match="positive"):
        list(grid(*sizes))


@st.composite
def chip_layouts(draw):
    size = draw(st.integers(1, 20))
    return draw(sides), draw(sides), size, draw(st.integers(1, size))


def test_chip_windows_by_hand():
    # Rows 0 and 2 only: a chip at row 4 would hold rows 4 and 5, which the chip at row 2 holds already.
    offsets = [(window.row_off, window.col_off) for window in chip_windows(6, 5, 4, 2)]
    assert offsets == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert [window.col_off for window in chip_windows(4, 9, 4, 4)] == [0, 4, 8]


@given(chip_layouts())
def test_chips_are_full_a_stride_apart_and_cover_every_pixel(layout):
    height, width, size, stride = layout
    covered = np.zeros((height + size, width + size), bool)
    windows = list(chip_windows(*layout))
    assert len(set(windows)) == len(windows)
    for window in windows:
        assert (window.height, window.width) == (size, size)
        assert window.row_off % stride == window.col_off % stride == 0
        covered[window.toslices()] = True
    assert covered[:height, :width].all()


@given(chip_layouts())
def test_no_chip_lies_wholly_within_another(layout):
    height, width, size, _ = layout
    windows = list(chip_windows(*layout))
    rows = {(window.row_off, min(window.row_off + size, height)) for window in windows}
    cols = {(window.col_off, min(window.col_off + size, width)) for window in windows}
    for spans in (rows, cols):
        assert not any(one != other and other[0] <= one[0] and one[1] <= other[1] for one in spans for other in spans)


@given(window=st.tuples(margins, margins, sides, sides), offset=st.tuples(margins, margins))
def test_slices_cut_a_window_out_of_what_was_read_around_it(window, offset):
    col, row, width, height = window
    raster = np.arange(60 * 60).reshape(60, 60)
    within = Window(max(col - offset[0], 0), max(row - offset[1], 0), 50, 50)
    found = raster[within.toslices()][slices(Window(*window), within)]
    assert np.array_equal(found, raster[row : row + height, col : col + width])
