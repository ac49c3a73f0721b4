"""Outlines on the earth, on both sides of the antimeridian."""

from __future__ import annotations

import pytest
import shapely

from geoseg.footprints import ground_of, longitudes, split_at_180


@pytest.mark.parametrize(
    ("outline", "limits", "parts"),
    [
        ([(10, 1), (11, 1), (11, 0), (10, 0)], (10, 11), [[10, 11]]),
        ([(179, 1), (-179, 1), (-179, 0), (179, 0)], (179, -179), [[179, 180], [-180, -179]]),
        ([(179, 1), (181, 1), (181, 0), (179, 0)], (179, -179), [[179, 180], [-180, -179]]),
        ([(-181, 1), (-179, 1), (-179, 0), (-181, 0)], (179, -179), [[179, 180], [-180, -179]]),
        ([(-180, 90), (180, 90), (180, -90), (-180, -90)], (-180, 180), [[-180, 180]]),
    ],
)
def test_scenes_across_the_antimeridian_do_not_go_round_the_earth(outline, limits, parts):
    assert longitudes([outline]) == limits
    split = split_at_180(outline)
    assert [[min(lon for lon, _ in part), max(lon for lon, _ in part)] for part in split] == parts
    area = sum(shapely.Polygon(part).area for part in split)
    assert ground_of(outline).area == pytest.approx(area)
    assert area == pytest.approx(2 if len(parts) == 2 else shapely.Polygon(outline).area)
