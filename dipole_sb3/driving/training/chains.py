"""Denoising as a chain of Gaussian steps, which have likelihoods: what DPPO needs and DPM-Solver++ does not give.

The steps are DDIM's with η = 1 (DDPM's posterior) between the sampler's times; the last one takes the noise away. Each
has a least spread, as in "Diffusion Policy Policy Optimization" (arXiv 2409.00588), so that all likelihoods are finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dipole_sb3.driving.model.diffusion import Predictor, clean, log_alpha

LEAST_SPREAD = 0.05
"""Of a step, in normalised units."""


def mean_of_step(schedule: Sequence[float], step: int, x: Tensor, noise: Tensor) -> tuple[Tensor, float]:
    """Mean and spread of x after a step.

    :param schedule: falling times; after the last of them the plan is clean.
    :param step: which of them x is at.
    :param noise: ε̂ in x, of x's shape.
    """
    time, plan = schedule[step], clean(x, noise, schedule[step])
    if step == len(schedule) - 1:
        return plan, LEAST_SPREAD
    alphas = [math.exp(log_alpha(each)) for each in (time, schedule[step + 1])]
    sigmas = [math.sqrt(1 - alpha**2) for alpha in alphas]
    spread = sigmas[1] / sigmas[0] * math.sqrt(1 - (alphas[0] / alphas[1]) ** 2)
    mean = alphas[1] * plan + math.sqrt(max(sigmas[1] ** 2 - spread**2, 0.0)) * noise
    return mean, max(spread, LEAST_SPREAD)


def log_density(x: Tensor, mean: Tensor, spread: float) -> Tensor:
    """log N(x; mean, spread²), summed over waypoints and coordinates: [..., 8, 4] → [...]."""
    standard = (x - mean) / spread
    return (-0.5 * standard.square() - math.log(spread) - 0.5 * math.log(2 * math.pi)).sum((-1, -2))


def drawn_chain(
    predict: Predictor, start: Tensor, noises: Sequence[Tensor], schedule: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Plans and how they came about.

    :param start: x ~ N(0, I), [S, g, 8, 4].
    :param noises: K tensors of that shape.
    :return: x before the first and after each step, [S, g, K + 1, 8, 4]; log-densities of the steps, [S, g, K].
    """
    chain, densities = [start], []
    for step, (time, fresh) in enumerate(zip(schedule, noises, strict=True)):
        x = chain[-1]
        noise = predict(x, torch.full((), time, dtype=x.dtype, device=x.device)).float()
        mean, spread = mean_of_step(schedule, step, x, noise)
        chain.append(mean + spread * fresh)
        densities.append(log_density(chain[-1], mean, spread))
    return torch.stack(chain, dim=2), torch.stack(densities, dim=-1)
