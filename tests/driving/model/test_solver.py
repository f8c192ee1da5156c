"""The schedule and the sampler against a Gaussian, whose probability-flow equation has a closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dipole_sb3.driving.model import diffusion

MEAN, SPREAD = 1.5, 0.3
"""Of the data."""


def alpha_sigma(time: float) -> tuple[float, float]:
    alpha = math.exp(diffusion.log_alpha(time))
    return alpha, math.sqrt(1 - alpha**2)


def noise_in(x: Tensor, time: Tensor) -> Tensor:
    """E[ε | x_t = x] for Gaussian data."""
    alpha, sigma = alpha_sigma(float(time))
    return sigma * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)


def flowed(x: Tensor, start: float, end: float) -> Tensor:
    """The flow keeps every x at the same quantile of the noised data."""
    (alpha, sigma), (after, noise) = alpha_sigma(start), alpha_sigma(end)
    quantile = (x - alpha * MEAN) / math.hypot(alpha * SPREAD, sigma)
    return after * MEAN + math.hypot(after * SPREAD, noise) * quantile


def test_the_solver_is_of_second_order() -> None:
    start = torch.tensor([-1.3, 0.2, 2.1], dtype=torch.float64)
    exact = flowed(start, 1.0, diffusion.LEAST_TIME)
    errors = [
        float((diffusion.solve(noise_in, start, diffusion.times(steps + 1)) - exact).abs().max())
        for steps in (20, 40, 80, 160)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[-1] < 2e-4
    assert all(1.8 < order < 2.3 for order in orders), orders


def test_the_last_step_takes_all_noise_away() -> None:
    start = torch.tensor([-1.3, 0.2, 2.1], dtype=torch.float64)
    alpha, sigma = alpha_sigma(diffusion.LEAST_TIME)
    x = flowed(start, 1.0, diffusion.LEAST_TIME)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    expected = MEAN + gain * (x - alpha * MEAN)
    torch.testing.assert_close(diffusion.sample(noise_in, start, 300), expected, atol=1e-4, rtol=0)


def test_as_many_predictions_as_steps() -> None:
    seen: list[float] = []

    def counted(x: Tensor, time: Tensor) -> Tensor:
        seen.append(float(time))
        return noise_in(x, time)

    diffusion.sample(counted, torch.zeros(1, dtype=torch.float64), 10)
    assert len(seen) == 10
    assert (seen[0], seen[-1]) == pytest.approx((1.0, 1e-3))
    logs = [diffusion.half_log_snr(time) for time in seen]
    widths = [after - before for before, after in pairwise(logs)]
    assert widths == pytest.approx([widths[0]] * 9)


@pytest.mark.parametrize("time", [1e-3, 0.03, 0.5, 1.0])
def test_times_and_log_snr_are_inverse(time: float) -> None:
    assert diffusion.time_of(diffusion.half_log_snr(time)) == pytest.approx(time, rel=1e-9)


def test_the_schedule_is_the_integral_of_a_linear_beta() -> None:
    grid = torch.linspace(0, 0.7, 100_001, dtype=torch.float64)
    integral = torch.trapezoid(0.1 + (20 - 0.1) * grid, grid)
    assert diffusion.log_alpha(0.7) == pytest.approx(-0.5 * float(integral), rel=1e-9)


def test_noised_plans_are_undone_by_their_noise() -> None:
    x, noise = torch.randn(2, 5, 8, 4, dtype=torch.float64)
    time = torch.full((5,), 0.4, dtype=torch.float64)
    noised = diffusion.noised(x, noise, time)
    alpha, sigma = alpha_sigma(0.4)
    torch.testing.assert_close(noised, alpha * x + sigma * noise)
    torch.testing.assert_close(diffusion.clean(noised, noise, 0.4), x)


def test_one_step_is_too_few() -> None:
    with pytest.raises(ValueError, match="steps is 1, expected at least 2"):
        diffusion.times(1)
