"""The boundary of fields as a class of its own: what keeps neighbours apart that touch."""

from __future__ import annotations

import numpy as np

WIDEST = 16
"""Pixels of the widest boundary."""
NO_FIELD, UNKNOWN = 0, -1
"""The number of a field where there is none, and where nobody knows which one it is."""


def find_boundary(fields: np.ndarray, seen: np.ndarray, width: int) -> np.ndarray:
    """The rim of each field: its pixels that lie within so many pixels of ground that is not of it.

    Two fields that touch both have a rim. Where a field is cut off by ground that is not seen, such as nodata, or where nobody
    knows what lies there, it may go on: there is no rim.

    Args:
        fields: (rows + 2 width, cols + 2 width) number of the field of each pixel, or `NO_FIELD`, or `UNKNOWN`.
        seen: likewise, bool, where the scene is valid.
        width: pixels, 1 or more, from centre to centre.

    Returns:
        (rows, cols) bool.
    """
    rows, cols = (size - 2 * width for size in fields.shape)
    inner = fields[width : width + rows, width : width + cols]
    told, rim = seen & (fields != UNKNOWN), np.zeros(inner.shape, bool)
    for down in range(-width, width + 1):
        for right in range(-width, width + 1):
            if 0 < down**2 + right**2 <= width**2:
                at = np.s_[width + down : width + down + rows, width + right : width + right + cols]
                rim |= told[at] & (fields[at] != inner)
    return rim & (inner > NO_FIELD)
