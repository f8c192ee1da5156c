"""Flow matching on straight paths, guidance of a pair, and the Euler sampler: pure functions over any callables.

Convention: noise at t = 0, action at t = 1, x_t = (1 − t)·noise + t·action, velocity u = action − noise.

Source: "Dichotomous Diffusion Policy Optimization" (arXiv 2601.00898), equation 10 and algorithm 2 (whose time runs
in the other direction); flow matching: Lipman et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x, t): x of shape [..., action] and a scalar tensor t in [0, 1] give a velocity of x's shape."""


def interpolate(noise: Tensor, action: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Point on the straight path from noise to action, and the path's velocity there.

    :param noise: x₀ ~ N(0, I), shape [..., action].
    :param action: x₁, shape [..., action].
    :param time: t in [0, 1], broadcastable to both.
    :return: (x_t, u) with x_t = (1 − t)·x₀ + t·x₁ and u = x₁ − x₀.
    """
    velocity = action - noise
    return torch.addcmul(noise, time, velocity), velocity


def flow_loss(velocity: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Flow-matching loss E[w · mean over dimensions of (v − u)²] (paper, eq. 9); unweighted: conditional flow matching.

    :param velocity: predicted velocity, shape [..., batch, action].
    :param target: u = action − noise, shape [..., batch, action] or broadcastable to it.
    :param weight: w ≥ 0, shape [..., batch]; None: 1.
    :return: mean over the batch, shape [...] (a scalar for two-dimensional input).
    """
    errors = (velocity - target).square().mean(dim=-1)
    return (errors if weight is None else weight * errors).mean(dim=-1)


def guide(positive: Tensor, negative: Tensor, omega: float | Tensor) -> Tensor:
    """Guided velocity (1 + ω)·v⁺ − ω·v⁻ (paper, eq. 10).

    ω = 0 is exactly v⁺ and ω = −1 exactly v⁻; larger ω moves on from the negative policy through the positive one.
    For a pair of Gaussians of equal variance the guided flow is exact; in general it is not (the combination of two
    noised scores is not the score of the noised target), so more ω means more greed, less spread and, at some point,
    actions that the data does not support.

    :param positive: v⁺, shape [..., action].
    :param negative: v⁻, same shape.
    :param omega: ω ≥ −1, a number or a tensor broadcastable to the velocities (one ω per row: shape [batch, 1]).
    """
    return (1.0 + omega) * positive - omega * negative


def guided(positive: Velocity, negative: Velocity, omega: float | Tensor) -> Velocity:
    """The guided velocity field of any pair of velocity fields; see :func:`guide`."""

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return guide(positive(x, time), negative(x, time), omega)

    return velocity


def uniform_schedule(steps: int) -> list[float]:
    """Times 0, 1/K, …, 1 of K equal steps.

    :param steps: K ≥ 1.
    """
    if steps < 1:
        raise ValueError(f"flow_steps must be at least 1, found {steps}")
    return [index / steps for index in range(steps + 1)]


def integrate_euler(velocity: Velocity, start: Tensor, schedule: Sequence[float]) -> Tensor:
    """Euler's method for dx/dt = v(x, t): x ← x + (t' − t)·v(x, t) along the schedule; global error O(1/K).

    :param velocity: v(x, t), any callable.
    :param start: x at ``schedule[0]``, shape [..., action].
    :param schedule: increasing times, K + 1 of them for K steps; see :func:`uniform_schedule`.
    :return: x at ``schedule[-1]``, same shape; not clipped.
    """
    x = start
    for time, following in pairwise(schedule):
        # A tensor filled on its device: no copy from the host, which a captured CUDA graph would refuse.
        x = torch.add(x, velocity(x, torch.full((), time, dtype=x.dtype, device=x.device)), alpha=following - time)
    return x


def sample_actions(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Actions in [−1, 1] from noise: K Euler steps, clipped once, at the end.

    :param velocity: v(x, t), for example :func:`guided`.
    :param noise: x₀ ~ N(0, I), shape [..., action].
    :param steps: K ≥ 1.
    """
    return integrate_euler(velocity, noise, uniform_schedule(steps)).clamp(-1.0, 1.0)
