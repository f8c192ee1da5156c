"""95 % confidence intervals of the two numbers an evaluation reports: a mean return and a success rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval, all in the unit of the data."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of a mean: mean ± t(confidence, n − 1)·s / √n.

    It holds for few episodes too (n = 5: 2.78 standard errors, where the normal distribution would say 1.96), as far as
    the values are roughly normal.

    :param values: one per episode, at least one.
    :param confidence: in (0, 1).
    :return: mean and bounds; the bounds are NaN for a single value, whose spread is unknown.
    :raises ValueError: no values.
    """
    count = len(values)
    if count == 0:
        raise ValueError("found no values, expected at least one to take the mean of")
    mean = fmean(values)
    if count == 1:
        return Interval(mean, math.nan, math.nan)
    half_width = student_t_quantile(confidence, count - 1) * stdev(values) / math.sqrt(count)
    return Interval(mean, mean - half_width, mean + half_width)


def proportion_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a rate: stays within [0, 1] and has a width even at 0 of n and n of n.

    :param successes: in [0, trials].
    :param trials: n ≥ 1.
    :param confidence: in (0, 1).
    :return: the observed rate and bounds.
    :raises ValueError: outside these ranges.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(
            f"found {successes} successes in {trials} trials, expected 0 ≤ successes ≤ trials and trials ≥ 1"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    weight = z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half_width = z * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials)) / (1 + weight)
    # At 0 of n and n of n one bound equals the rate; rounding must not put it beyond.
    return Interval(rate, max(0.0, min(rate, centre - half_width)), min(1.0, max(rate, centre + half_width)))


@lru_cache(maxsize=64)
def student_t_quantile(confidence: float, degrees: int) -> float:
    """t with P(|T| < t) = confidence for Student's T with whole degrees of freedom, to ten digits.

    Bisection on the closed form of the distribution function, which a whole number of degrees has.

    :param confidence: in (0, 1).
    :param degrees: ν ≥ 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|T| < √ν·tan(angle)); Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for factor in range(2 if odd else 1, degrees - 2, 2):
        term *= factor / (factor + 1) * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
