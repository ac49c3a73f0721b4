"""Areas from a stratified sample: the published example, plain formulas, and how often intervals hold the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.area_estimation import Sample, allocate, area_ratio, estimate, sample_size, total_area
from geoseg.legend import make_legend

# Olofsson et al. 2014, section 5: points by class on the map (rows) and reference class, and mapped pixels of 0.09 ha.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED_M2 = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 900.0


def make_sample(counts: np.ndarray, strata_m2: np.ndarray) -> Sample:
    """A sample whose strata are the classes on the map."""
    mapped, reference = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    return Sample(mapped, mapped, reference, strata_m2, np.ones(len(mapped)))


def test_the_example_of_olofsson_and_others():
    found = estimate(make_sample(COUNTS, MAPPED_M2), MAPPED_M2, make_legend([1, 2, 3, 4]))

    def told(key: str, digits: int) -> list[tuple[float, float]]:
        return [
            (round(entry[key]["value"], digits), round(entry[key]["half_width"], digits)) for entry in found["classes"]
        ]

    assert told("area_ha", 0) == [(21158, 6158), (11686, 3756), (285770, 15510), (581386, 16282)]
    assert told("users_accuracy", 2) == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert told("producers_accuracy", 2) == [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    overall = found["overall_accuracy"]
    assert (round(overall["value"], 2), round(overall["half_width"], 2)) == (0.95, 0.02)
    assert found["counts"] == COUNTS.T.tolist()
    assert np.sum(found["matrix_ha"]) == pytest.approx(900_000)
    assert found["classes"][0]["mapped_ha"] == 18_000
    # Section 5.1.1: the size of the sample, and one of its allocations.
    assert sample_size(MAPPED_M2.tolist(), [0.70, 0.60, 0.90, 0.95], 0.01) == 641
    assert allocate(641, MAPPED_M2.tolist(), (MAPPED_M2 / 900).astype(int).tolist(), 75).tolist() == [75, 75, 163, 328]


@given(
    arrays(np.int64, (3, 3), elements=st.integers(0, 30)).filter(lambda counts: (counts.sum(axis=1) > 1).all()),
    arrays(np.float64, 3, elements=st.floats(1, 1e9)),
)
def test_estimates_equal_the_published_formulas(counts, areas):
    """Olofsson et al. 2014, equations 5 to 7 and 9 to 11, as they stand there."""
    sample, total = make_sample(counts, areas), areas.sum()
    weight, n = areas / total, counts.sum(axis=1)
    proportion = weight[:, None] * counts / n[:, None]
    found = total_area(sample, sample.reference[:, None] == np.arange(3))
    np.testing.assert_allclose(found.value, total * proportion.sum(axis=0), rtol=1e-9, atol=1e-9 * total)
    share = counts / n[:, None]
    variance = (weight[:, None] ** 2 * share * (1 - share) / (n[:, None] - 1)).sum(axis=0)
    np.testing.assert_allclose(found.error, total * np.sqrt(variance), rtol=1e-6, atol=1e-7 * total)
    mapped, true = (part[:, None] == np.arange(3) for part in (sample.mapped, sample.reference))
    users = area_ratio(sample, mapped & true, mapped)
    right = np.diag(share)
    np.testing.assert_allclose(users.value, right, atol=1e-9)
    np.testing.assert_allclose(users.error, np.sqrt(right * (1 - right) / (n - 1)), atol=1e-7)
    producers = area_ratio(sample, mapped & true, true)
    for j in range(3):
        reference_m2 = (areas * share[:, j]).sum()
        if reference_m2 == 0:
            assert np.isnan(producers.value[j])
            assert np.isnan(producers.error[j])
            continue
        p = areas[j] * right[j] / reference_m2
        others = [i for i in range(3) if i != j]
        spread = areas[j] ** 2 * (1 - p) ** 2 * right[j] * (1 - right[j]) / (n[j] - 1) + p**2 * sum(
            areas[i] ** 2 * share[i, j] * (1 - share[i, j]) / (n[i] - 1) for i in others
        )
        assert producers.value[j] == pytest.approx(p)
        assert producers.error[j] == pytest.approx(np.sqrt(spread) / reference_m2, abs=1e-6)


def test_strata_may_be_those_of_another_map():
    """Stehman 2014: estimates are unbiased whatever the strata are; checked over all samples of a tiny population."""
    # Two strata of 3 and 4 pixels, of which 2 are drawn each: 3 x 6 samples, all equally likely.
    mapped, reference = np.array([0, 1, 1, 0, 0, 1, 0]), np.array([0, 1, 0, 0, 1, 1, 1])
    totals, overall = [], []
    for a in ((0, 1), (0, 2), (1, 2)):
        for b in ((3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)):
            at = np.array([*a, *b])
            sample = Sample(np.array([0, 0, 1, 1]), mapped[at], reference[at], np.array([3.0, 4.0]), np.ones(4))
            totals.append(total_area(sample, sample.reference == 1).value)
            overall.append(total_area(sample, sample.reference == sample.mapped).value)
    assert np.mean(totals) == pytest.approx((reference == 1).sum())
    assert np.mean(overall) == pytest.approx((reference == mapped).sum())


def coverage(truth: np.ndarray, points: np.ndarray, rng: np.random.Generator, sizes: bool = False) -> dict[str, float]:
    """Share of 1,000 samples whose 95 % intervals hold the truth, over all classes.

    `truth` is pixels by class on the map (rows) and reference class; with `sizes`, pixels of a reference class are larger
    the higher it is, as to the south of a map in degrees.
    """
    classes = np.arange(len(truth))
    area = np.array([0.7, 1.0, 1.3]) if sizes else np.ones(3)
    truth_m2 = truth * area
    strata_m2 = truth_m2.sum(axis=1)
    true_area = truth_m2.sum(axis=0)
    held: dict[str, list[bool]] = {"area": [], "users": [], "producers": [], "overall": []}
    stratum = np.repeat(classes, points)
    for _ in range(1000):
        reference = np.concatenate([
            rng.permutation(np.repeat(classes, rng.multivariate_hypergeometric(row, k)))
            for row, k in zip(truth, points, strict=True)
        ])  # fmt: skip
        size = area[reference] / (strata_m2 / truth.sum(axis=1))[stratum]
        sample = Sample(stratum, stratum, reference, strata_m2, size)
        mapped, true = stratum[:, None] == classes, reference[:, None] == classes
        right = np.diag(truth_m2)
        for name, found, expected in (
            ("area", total_area(sample, true), true_area),
            ("users", area_ratio(sample, mapped & true, mapped), right / strata_m2),
            ("producers", area_ratio(sample, mapped & true, true), right / true_area),
            (
                "overall",
                area_ratio(sample, (stratum == reference)[:, None], np.ones((len(stratum), 1), bool)),
                [right.sum() / truth_m2.sum()],
            ),
        ):
            held[name] += (np.abs(found.value - expected) <= 1.96 * found.error).tolist()
    return {name: float(np.mean(found)) for name, found in held.items()}


@pytest.mark.parametrize("sizes", [False, True])
def test_intervals_hold_the_truth_in_95_of_100_samples(rng, sizes):
    truth = np.array([[160_000, 25_000, 15_000], [30_000, 240_000, 30_000], [20_000, 60_000, 420_000]])
    found = coverage(truth, np.array([150, 200, 300]), rng, sizes)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def test_what_cannot_be_known_is_none():
    counts = np.array([[5, 0, 0], [0, 1, 0], [0, 0, 0]])
    sample = make_sample(counts, np.array([100.0, 10.0]))
    found = estimate(sample, np.array([100.0, 10.0, 0.0]), make_legend([1, 2, 3]))
    json.dumps(found, allow_nan=False)
    assert found["classes"][0]["area_ha"] == {"value": 0.01, "error": None, "half_width": None}
    assert found["classes"][2]["users_accuracy"] == {"value": None, "error": None, "half_width": None}
    assert found["overall_accuracy"]["value"] == 1
    with pytest.raises(ValueError, match="stratum"):
        estimate(sample._replace(strata_m2=np.array([100.0, 10, 5])), np.ones(3), make_legend([1, 2, 3]))


@given(
    st.integers(1, 2000),
    st.lists(st.tuples(st.floats(1, 1e6), st.integers(1, 5000)), min_size=1, max_size=6),
    st.integers(2, 60),
)
def test_points_are_allocated_to_all_strata_and_none_gets_more_than_it_has(size, strata, minimum):
    areas, pixels = (list(part) for part in zip(*strata, strict=True))
    found = allocate(size, areas, pixels, minimum)
    assert (found <= pixels).all()
    assert (found >= np.minimum(minimum, pixels)).all()
    least = np.minimum(minimum, pixels).sum()
    assert found.sum() == max(min(size, sum(pixels)), least)
    free = (found > minimum) & (found < np.array(pixels))
    if free.sum() > 1:  # in proportion, but for rounding
        ratio = found[free] / np.array(areas)[free] * sum(areas)
        assert np.ptp(ratio) <= 1.01 * (np.array(areas)[free] ** -1.0).max() * sum(areas)
