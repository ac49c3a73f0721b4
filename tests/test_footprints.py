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


def test_limits_of_several_scenes_leave_none_out():
    fiji, uk = [(178, 1), (-178, 1), (-178, 0), (178, 0)], [(-5, 51), (2, 51), (2, 50), (-5, 50)]
    assert longitudes([fiji, uk]) == (178, 2)
    assert longitudes([uk, fiji, [(100, 1), (170, 1), (170, 0), (100, 0)]]) == (-5, -178)
    west, east = [(-170, 1), (0, 1), (0, 0), (-170, 0)], [(0, 1), (175, 1), (175, 0), (0, 0)]
    assert longitudes([fiji, west, east]) == (-170, -178)
    assert longitudes([fiji, west, east, [(170, 1), (-165, 1), (-165, 0), (170, 0)]]) == (-180, 180)


def test_a_scene_all_around_the_earth_is_one_from_180_to_180():
    around = [(0, 90), (360, 90), (360, -90), (0, -90)]
    assert longitudes([around]) == (-180, 180)
    (whole,) = split_at_180(around)
    assert (min(lon for lon, _ in whole), max(lon for lon, _ in whole)) == (-180, 180)
