"""Variance-preserving diffusion in continuous time, and DPM-Solver++ of second order: pure functions.

x_t = α(t)·x + σ(t)·ε with α² + σ² = 1 and −d log α²/dt = β(t), which grows linearly from 0.1 to 20. The noise is at
t = 1, the plan near t = 0; λ = log(α/σ) is half the log of the signal-to-noise ratio.

Source: "DPM-Solver++" (arXiv 2211.01095), algorithm 2 (2M); the schedule is that of "Score-Based Generative Modeling
through Stochastic Differential Equations" (arXiv 2011.13456). ``diffusers.DPMSolverMultistepScheduler`` rounds times to
a thousand steps, which costs it the second order: docs/driving-agent.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Predictor = Callable[[Tensor, Tensor], Tensor]
"""ε̂(x, t): x of any shape and a scalar tensor t give the noise in x, of x's shape."""

LEAST_TIME = 1e-3
_SLOWEST, _FASTEST = 0.1, 20.0


def log_alpha(time: float) -> float:
    """log α(t) = −½ ∫ β from 0 to t."""
    return -0.25 * time**2 * (_FASTEST - _SLOWEST) - 0.5 * time * _SLOWEST


def half_log_snr(time: float) -> float:
    """λ(t) = log(α/σ), falling in t."""
    exponent = log_alpha(time)
    return exponent - 0.5 * math.log(-math.expm1(2 * exponent))


def time_of(half_log_snr: float) -> float:
    """t(λ): −log α = ½·log(1 + e^(−2λ)) is a quadratic polynomial in t."""
    # log(1 + e^z) without overflow.
    doubled = max(-2 * half_log_snr, 0.0) + math.log1p(math.exp(-abs(2 * half_log_snr)))
    slope = _FASTEST - _SLOWEST
    return 2 * doubled / (math.sqrt(_SLOWEST**2 + 2 * slope * doubled) + _SLOWEST)


def alpha_and_sigma(time: Tensor) -> tuple[Tensor, Tensor]:
    """α(t) and σ(t), of any shape."""
    exponent = -0.25 * time**2 * (_FASTEST - _SLOWEST) - 0.5 * time * _SLOWEST
    return exponent.exp(), (-torch.expm1(2 * exponent)).sqrt()


def noised(x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """α(t)·x + σ(t)·ε.

    :param x: normalised plans, [..., 8, 4].
    :param noise: ε ~ N(0, I), same shape.
    :param time: t in [0, 1], [...].
    """
    alpha, sigma = (each[..., None, None] for each in alpha_and_sigma(time))
    return alpha * x + sigma * noise


def times(steps: int) -> list[float]:
    """So many times from 1 to 0.001, evenly spaced in λ.

    :param steps: at least 2.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}, expected at least 2")
    first, last = half_log_snr(1.0), half_log_snr(LEAST_TIME)
    inner = [time_of(first + (last - first) * index / (steps - 1)) for index in range(1, steps - 1)]
    return [1.0, *inner, LEAST_TIME]


def clean(x: Tensor, noise: Tensor, time: float) -> Tensor:
    """The plan that x is without its noise: (x − σ·ε)/α."""
    exponent = log_alpha(time)
    return (x - math.sqrt(-math.expm1(2 * exponent)) * noise) * math.exp(-exponent)


def solve(predict: Predictor, start: Tensor, schedule: Sequence[float]) -> Tensor:
    """x at the schedule's last time, from x at its first; one prediction a step; global error O(1/steps²).

    :param predict: ε̂(x, t).
    :param start: x ~ N(0, I) at t = 1, any shape.
    :param schedule: falling times; see :func:`times`.
    """
    x, former, former_width = start, None, 0.0
    for time, following in pairwise(schedule):
        width = half_log_snr(following) - half_log_snr(time)
        current = clean(x, predict(x, torch.full((), time, dtype=x.dtype, device=x.device)), time)
        extrapolated = current if former is None else current + (current - former) * (0.5 * width / former_width)
        exponents = log_alpha(time), log_alpha(following)
        sigmas = [math.sqrt(-math.expm1(2 * exponent)) for exponent in exponents]
        x = (sigmas[1] / sigmas[0]) * x - math.exp(exponents[1]) * math.expm1(-width) * extrapolated
        former, former_width = current, width
    return x


def sample(predict: Predictor, start: Tensor, steps: int) -> Tensor:
    """Plans from noise: the last of the steps removes all noise that is left at t = 0.001.

    :param steps: predictions, at least 2.
    """
    schedule = times(steps)
    x = solve(predict, start, schedule)
    return clean(x, predict(x, torch.full((), schedule[-1], dtype=x.dtype, device=x.device)), schedule[-1])
