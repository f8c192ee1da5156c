"""Confidence intervals against printed tables and textbook values."""

from __future__ import annotations

import math

import pytest

from dipole_sb3.common.intervals import mean_interval, proportion_interval, student_t_quantile


@pytest.mark.parametrize(
    ("degrees", "confidence", "quantile"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.95, 3.1824),
        (4, 0.95, 2.7764),
        (4, 0.99, 4.6041),
        (9, 0.95, 2.2622),
        (49, 0.95, 2.0096),
        (1000, 0.95, 1.9623),
    ],
)
def test_t_quantiles_are_those_of_the_tables(degrees: int, confidence: float, quantile: float) -> None:
    assert student_t_quantile(confidence, degrees) == pytest.approx(quantile, abs=5e-5)


def test_mean_interval_of_five_values_by_hand() -> None:
    # s = √2.5, standard error √(2.5/5) = 0.70711, t(4) = 2.77645
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval == pytest.approx((3.0, 3.0 - 1.96324, 3.0 + 1.96324), abs=1e-4)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([-7.0] * 6) == (-7.0, -7.0, -7.0)


def test_one_value_has_a_mean_and_no_interval() -> None:
    mean, low, high = mean_interval([4.0])
    assert mean == 4.0
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        (0, 10, (0.0, 0.0, 0.2775)),
        (10, 10, (1.0, 0.7225, 1.0)),
        (8, 10, (0.8, 0.4902, 0.9433)),
        (25, 50, (0.5, 0.3664, 0.6336)),
    ],
)
def test_wilson_intervals_by_hand(successes: int, trials: int, expected: tuple[float, float, float]) -> None:
    assert proportion_interval(successes, trials) == pytest.approx(expected, abs=1e-4)


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="found no values"):
        mean_interval([])
    with pytest.raises(ValueError, match="found 3 successes in 2 trials"):
        proportion_interval(3, 2)
