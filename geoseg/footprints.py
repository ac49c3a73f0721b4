"""Outlines of scenes on the earth, as catalogues and cards tell them: also those that lie across the antimeridian."""

from __future__ import annotations

from collections.abc import Sequence

import shapely

Outline = Sequence[Sequence[float]]
"""Corners, longitude and latitude each, in order around the ground."""


def longitudes(outlines: Sequence[Outline]) -> tuple[float, float]:
    """The westernmost and the easternmost longitude; the former is greater across the antimeridian (RFC 7946, section 5.2)."""
    across = any(_lies_across_180(outline) for outline in outlines)
    lons = [lon % 360 if across else lon for outline in outlines for lon, _ in outline]
    west, east = ((round(lon - 360, 6) if lon > 180 else lon) for lon in (min(lons), max(lons)))
    return west, east


def _lies_across_180(outline: Outline) -> bool:
    """Whether corners lie on both sides of the antimeridian; no scene is taken for one that is as wide as half the earth."""
    lons = [lon for lon, _ in outline]
    around = [lon % 360 for lon in lons]
    wide = max(lons) - min(lons) > 180 and 0 < max(around) - min(around) < 180
    return wide or not -180 <= min(lons) <= max(lons) <= 180


def split_at_180(outline: Outline) -> list[Outline]:
    """The outline, in two where the antimeridian goes through it (RFC 7946, section 3.1.9)."""
    if not _lies_across_180(outline):
        return [outline]
    whole, parts = shapely.Polygon([(lon % 360, lat) for lon, lat in outline]), list[Outline]()
    for west in (0, 180):
        part = whole.intersection(shapely.box(west, -90, west + 180, 90))
        if part.area:
            shift = 360 if west else 0
            parts.append([(round(lon - shift, 6), lat) for lon, lat in part.exterior.coords[:-1]])
    return parts


def ground_of(outline: Outline) -> shapely.Geometry:
    """What lies between the corners, in degrees, with longitudes from -180 to 180."""
    return shapely.union_all([shapely.Polygon(part) for part in split_at_180(outline)])


def close_ring(outline: Outline) -> list[list[float]]:
    """The corners counter-clockwise, and the first one again (RFC 7946, section 3.1.6)."""
    turns = zip(outline, [*outline[1:], outline[0]], strict=True)
    clockwise = sum((x2 - x1) * (y2 + y1) for (x1, y1), (x2, y2) in turns) > 0
    corners = [list(corner) for corner in (reversed(outline) if clockwise else outline)]
    return [*corners, corners[0]]
