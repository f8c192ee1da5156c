"""The randomness of updates that train flows."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dipole_sb3.learning.value_losses import HasActionDim


class FlowNoise(NamedTuple):
    """The randomness of a flow's training.

    =====  ======================================================
    start  x₀ ~ N(0, I) of the training path, [..., batch, action]
    time   t in [0, 1], [..., batch, 1]
    =====  ======================================================
    """

    start: Tensor
    time: Tensor


class SampledFlowNoise(NamedTuple):
    """The randomness of a flow's training, where the critics bootstrap from an action of the policy.

    ============  ==============================================================
    start         x₀ ~ N(0, I) of the training path, [..., batch, action]
    time          t in [0, 1], [..., batch, 1]
    target_start  x₀ ~ N(0, I) of the action at s', [..., batch, action]
    ============  ==============================================================
    """

    start: Tensor
    time: Tensor
    target_start: Tensor


class FlowTrained(HasActionDim, Protocol):
    """A policy with a flow, as far as drawing noise needs it."""

    time_grid: int | None


def draw_flow_noise(policy: FlowTrained, batch_size: int, generator: torch.Generator, update: int) -> FlowNoise:
    """Fresh randomness for one update, drawn on the generator's device."""
    return FlowNoise(standard_normal(policy, batch_size, generator), uniform_time(policy, batch_size, generator))


def draw_sampled_flow_noise(
    policy: FlowTrained, batch_size: int, generator: torch.Generator, update: int
) -> SampledFlowNoise:
    """Fresh randomness for one update, drawn on the generator's device."""
    return SampledFlowNoise(
        standard_normal(policy, batch_size, generator),
        uniform_time(policy, batch_size, generator),
        standard_normal(policy, batch_size, generator),
    )


def standard_normal(policy: HasActionDim, batch_size: int, generator: torch.Generator) -> Tensor:
    """N(0, I), [batch, action]."""
    return torch.randn(batch_size, policy.action_dim, generator=generator, device=generator.device)


def uniform_time(policy: FlowTrained, batch_size: int, generator: torch.Generator) -> Tensor:
    """U[0, 1], or uniform on the policy's grid {0, 1/n, …, 1}; [batch, 1]."""
    time = torch.rand(batch_size, 1, generator=generator, device=generator.device)
    steps = policy.time_grid
    return time if steps is None else (time * (steps + 1)).floor() / steps
