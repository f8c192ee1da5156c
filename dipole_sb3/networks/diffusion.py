"""Denoising diffusion of actions in few steps: the schedule, the noised action, and the sampler.

Convention: step t = T is almost pure noise, t = 1 the last step before the action. Everything here is a pure function
over any predictor of the noise.

Source: "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), with the variance-preserving schedule of IDQL
(arXiv 2304.10573).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predictor = Callable[[Tensor, Tensor], Tensor]
"""ε̂(x_t, t): x of shape [..., action] and t of shape [..., 1] give the noise in x, of x's shape."""


@dataclass(frozen=True)
class Schedule:
    """How much noise each of the T steps adds.

    :param betas: β₁ … β_T in (0, 1): the variances of the steps.
    """

    betas: tuple[float, ...]

    @classmethod
    def variance_preserving(cls, steps: int) -> Schedule:
        """α_t = exp(−0.1/T − ½·9.9·(2t − 1)/T²).

        :param steps: T ≥ 1.
        """
        exponents = (-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2 for t in range(1, steps + 1))
        return cls(tuple(-math.expm1(exponent) for exponent in exponents))

    @property
    def kept(self) -> tuple[float, ...]:
        """ᾱ₁ … ᾱ_T: the share of the action's variance that is left after each step."""
        shares, share = [], 1.0
        for beta in self.betas:
            share *= 1.0 - beta
            shares.append(share)
        return tuple(shares)


def noised(schedule: Schedule, actions: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """x_t = √ᾱ_t·a + √(1 − ᾱ_t)·ε.

    :param actions: a, shape [..., action].
    :param noise: ε ~ N(0, I), same shape.
    :param step: t from 1 to T as floating-point numbers, shape [..., 1].
    """
    # Numbers that are written on the device: no copy from the host, which a captured CUDA graph would refuse.
    shares = [torch.full((), share, dtype=actions.dtype, device=actions.device) for share in schedule.kept]
    kept = torch.stack(shares)[step.long() - 1]
    return kept.sqrt() * actions + (1.0 - kept).sqrt() * noise


def sample_actions(predictor: Predictor, schedule: Schedule, noise: Tensor) -> Tensor:
    """Actions in [−1, 1] by T denoising steps; what each step gives is clipped.

    :param predictor: of the noise.
    :param noise: N(0, I), shape [..., T · action]: the start, and what the steps T … 2 add; the last adds nothing.
    :return: shape [..., action].
    """
    steps = len(schedule.betas)
    start, *added = noise.chunk(steps, dim=-1)
    x = start
    for index, beta, kept in zip(range(steps, 0, -1), schedule.betas[::-1], schedule.kept[::-1], strict=True):
        time = torch.full((), float(index), dtype=x.dtype, device=x.device).expand(*x.shape[:-1], 1)
        x = (x - beta / math.sqrt(1.0 - kept) * predictor(x, time)) / math.sqrt(1.0 - beta)
        if index > 1:
            x = x + math.sqrt(beta) * added[steps - index]
        x = x.clamp(-1.0, 1.0)
    return x
