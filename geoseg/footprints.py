"""Outlines of scenes on the earth, as catalogues and cards tell them: also those that lie across the antimeridian."""

from __future__ import annotations

from collections.abc import Sequence

import shapely

Outline = Sequence[Sequence[float]]
"""Corners, longitude and latitude each, in order around the ground."""


def longitudes(outlines: Sequence[Outline]) -> tuple[float, float]:
    """The westernmost and the easternmost longitude; the former is greater across the antimeridian (RFC 7946, section 5.2)."""
    if not any(_lies_across_180(outline) for outline in outlines):
        lons = [lon for outline in outlines for lon, _ in outline]
        return (-180, 180) if max(lons) > 180 else (round(min(lons), 6), round(max(lons), 6))
    # On the circle: what lies between the ends of the widest gap without ground.
    arcs = sorted(_arc(outline) for outline in outlines)
    begin, end, widest = arcs[0][0], arcs[0][1], (0.0, 0.0)
    for west, east in [*arcs, (begin + 360, begin + 360)]:
        widest = max(widest, (west - end, west))
        end = max(end, east)
    gap, west = widest
    return (_in_range(west), _in_range(west + 360 - gap)) if gap > 0 else (-180, 180)


def _arc(outline: Outline) -> tuple[float, float]:
    """Where an outline begins, from 0 to 360, and where it ends, going east."""
    lons = [lon % 360 if _lies_across_180(outline) else lon for lon, _ in outline]
    west = min(lons) % 360
    return west, west + max(lons) - min(lons)


def _in_range(lon: float) -> float:
    lon = round(lon % 360, 6)
    return round(lon - 360, 6) if lon > 180 else lon


def _lies_across_180(outline: Outline) -> bool:
    """Whether corners lie on both sides of the antimeridian; no scene is taken for one that is as wide as half the earth."""
    lons = [lon for lon, _ in outline]
    if max(lons) - min(lons) >= 360:
        return False  # all around: it has no end on the other side
    around = [lon % 360 for lon in lons]
    wide = max(lons) - min(lons) > 180 and 0 < max(around) - min(around) < 180
    return wide or not -180 <= min(lons) <= max(lons) <= 180


def split_at_180(outline: Outline) -> list[Outline]:
    """The outline, in two where the antimeridian goes through it (RFC 7946, section 3.1.9)."""
    if not _lies_across_180(outline):
        west, east = min(lon for lon, _ in outline), max(lon for lon, _ in outline)
        # A scene from 0 to 360 degrees is that from -180 to 180.
        return [outline] if -180 <= west <= east <= 180 else [[(lon - (west + 180), lat) for lon, lat in outline]]
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
