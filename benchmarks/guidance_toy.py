"""A one-dimensional problem where everything about guidance can be computed: data, advantage, and both exact fields.

Two states share one data distribution μ, a mixture of two Gaussians. In ``ramp`` the advantage rises with the action,
so the greedy action lies beyond the data; in ``peak`` it has its maximum at 0.2, in the middle of the data.

Densities are held as masses on a grid. The field that carries N(0, 1) to a density p along straight paths is
v(x, t) = (E[a | x_t = x] − x)/(1 − t) with E taken under p(a)·exp(−(x − t·a)²/(2(1 − t)²)): one sum over the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dipole_sb3.algorithms.dipole.dichotomy import dichotomous_weights
from dipole_sb3.networks import flow
from dipole_sb3.networks.velocities import VelocityPair

BETA = 2.0
MEANS, STDS, SHARES = (-0.4, 0.3), (0.12, 0.15), (0.6, 0.4)
GRID = torch.linspace(-2.5, 2.5, 1251, dtype=torch.float64)
"""Wide enough for guided actions far outside the data."""

NODES = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
"""Noise from which the exact ODE is integrated; between them its smooth, increasing map is interpolated."""

PairOfVelocities = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class State:
    """One state: its name, what the network reads, and its advantage G(a)."""

    name: str
    observation: float
    advantage: Callable[[Tensor], Tensor]


RAMP = State("ramp", -1.0, lambda action: 1.5 * action)
PEAK = State("peak", 1.0, lambda action: 1.0 - ((action - 0.2) / 0.35).square())
STATES = (RAMP, PEAK)


def levels(count: int) -> Tensor:
    """Probabilities (i + ½)/count at which distributions are compared."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def normal_quantiles(count: int) -> Tensor:
    """The noise x₀ at those levels. In one dimension a flow keeps the order, so it carries quantiles to quantiles."""
    return math.sqrt(2.0) * torch.erfinv(2.0 * levels(count) - 1.0)


def data_mass() -> Tensor:
    """μ on the grid, shape [grid], summing to one."""
    parts = [
        share / std * torch.exp(-0.5 * ((GRID - mean) / std).square())
        for mean, std, share in zip(MEANS, STDS, SHARES, strict=True)
    ]
    return _normalized(torch.stack(parts).sum(0))


def positive_mass(state: State) -> Tensor:
    """π⁺ ∝ μ·σ(βG) on the grid."""
    return _normalized(data_mass() * torch.sigmoid(BETA * state.advantage(GRID)))


def negative_mass(state: State) -> Tensor:
    """π⁻ ∝ μ·(1 − σ(βG)) on the grid."""
    return _normalized(data_mass() * torch.sigmoid(-BETA * state.advantage(GRID)))


def optimal_mass(state: State, omega: float) -> Tensor:
    """π* ∝ μ·σ(βG)·exp(ωβG) on the grid: what guidance aims at."""
    logit = BETA * state.advantage(GRID)
    log_mass = data_mass().log() + functional.logsigmoid(logit) + omega * logit
    return _normalized((log_mass - log_mass.max()).exp())


def _normalized(mass: Tensor) -> Tensor:
    return mass / mass.sum()


def quantiles(mass: Tensor, count: int) -> Tensor:
    """Quantiles of a density on the grid at :func:`levels`, shape [count]."""
    cumulative = mass.cumsum(0) - 0.5 * mass
    return torch.from_numpy(np.interp(levels(count).numpy(), cumulative.numpy(), GRID.numpy()))


def exact_velocities(positive: Tensor, negative: Tensor) -> PairOfVelocities:
    """The exact fields of two densities on the grid, evaluated together: points [batch] and t < 1 → two [batch]."""
    columns = torch.stack([positive, positive * GRID, negative, negative * GRID], dim=1)

    def velocities(x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        exponent = -0.5 * ((x.unsqueeze(1) - time * GRID) / (1 - time)).square()
        sums = (exponent - exponent.amax(dim=1, keepdim=True)).exp() @ columns
        means = sums[:, 1::2] / sums[:, ::2]
        return tuple(((means - x.unsqueeze(1)) / (1 - time)).unbind(1))  # type: ignore[return-value]

    return velocities


def guided_quantiles(state: State, omega: float, count: int, steps: int = 64) -> Tensor:
    """Where the guided ODE of the exact fields carries :func:`normal_quantiles`, by the midpoint rule (order two).

    :param steps: the midpoint rule never asks for the field at t = 1, where its formula is 0/0.
    :return: shape [count], not clipped.
    """
    velocities = exact_velocities(positive_mass(state), negative_mass(state))

    def velocity(x: Tensor, time: float) -> Tensor:
        positive, negative = velocities(x, torch.tensor(time, dtype=x.dtype))
        return (1 + omega) * positive - omega * negative

    x, size = NODES, 1.0 / steps
    for index in range(steps):
        middle = x + 0.5 * size * velocity(x, index * size)
        x = x + size * velocity(middle, (index + 0.5) * size)
    return torch.from_numpy(np.interp(normal_quantiles(count).numpy(), NODES.numpy(), x.numpy()))


def train_pair(seed: int, updates: int = 3000, batch: int = 512, learning_rate: float = 3e-3) -> VelocityPair:
    """The package's pair, trained with the package's losses on samples of μ and the known advantage.

    64×3 networks, Adam with a cosine schedule; the same noise and times for both fields.
    """
    torch.manual_seed(seed)  # initial weights
    generator = torch.Generator().manual_seed(seed)
    pair = VelocityPair(1, 1, [64, 64, 64], "gelu-tanh")
    optimizer = torch.optim.Adam(pair.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    means, stds = torch.tensor(MEANS), torch.tensor(STDS)
    for _ in range(updates):
        draws = torch.rand(3, batch, 1, generator=generator)
        normals = torch.randn(2, batch, 1, generator=generator)
        component = (draws[0] > SHARES[0]).long()
        actions = means[component] + stds[component] * normals[0]
        in_ramp = draws[1] < 0.5
        advantage = torch.where(in_ramp, RAMP.advantage(actions), PEAK.advantage(actions))
        observations = torch.where(in_ramp, RAMP.observation, PEAK.observation)

        x, velocity = flow.interpolate(normals[1], actions, draws[2])
        positive, negative = pair(observations, x, draws[2])
        positive_weight, negative_weight = dichotomous_weights(advantage.squeeze(1), BETA)
        loss = flow.flow_loss(positive, velocity, positive_weight) + flow.flow_loss(negative, velocity, negative_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return pair


@torch.no_grad()
def sampled_quantiles(pair: VelocityPair, state: State, omega: float, count: int, flow_steps: int) -> Tensor:
    """Actions that the package's sampler makes of :func:`normal_quantiles`, sorted: shape [count], in [−1, 1]."""
    observations = torch.full((count, 1), state.observation)

    def field(x: Tensor, time: Tensor) -> Tensor:
        positive, negative = pair(observations, x, time)
        return flow.guide(positive, negative, omega)

    noise = normal_quantiles(count).float().unsqueeze(1)
    return flow.sample_actions(field, noise, flow_steps).squeeze(1).double().sort().values


def wasserstein(one: Tensor, other: Tensor) -> float:
    """Wasserstein-1 distance of two distributions given by as many quantiles each: their mean distance."""
    return (one - other).abs().mean().item()
