"""One update of IDQL: three losses, one backward pass, one optimiser step, one step of the averaged networks.

Source: "IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion Policies" (arXiv 2304.10573) and its
authors' code. There the actor, V and Q are updated one after the other; here together, so that Q sees V as it was
before this update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import standard_normal
from dipole_sb3.learning.update_rule import Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    ExpectileObjective,
    HasActionDim,
    Networks,
    aggregate,
    implicit_values,
    means,
    polyak_step,
)
from dipole_sb3.networks.diffusion import Schedule, noised

LOSS_NAMES = ("actor_loss", "critic_loss", "value_loss")


@dataclass(frozen=True)
class IDQLObjective(ExpectileObjective):
    """What an update of IDQL optimises.

    :param actor_tau: in (0, 1], rate at which the averaged actor, whose samples act, follows the trained one.
    :param diffusion_steps: T ≥ 1, denoising steps.
    """

    actor_tau: float = 0.001
    diffusion_steps: int = 5

    def ranges(self) -> dict[str, tuple[Any, str]]:
        return {
            **super().ranges(),
            "actor_tau": (0 < self.actor_tau <= 1, "a number in (0, 1]"),
            "diffusion_steps": (self.diffusion_steps >= 1, "at least 1"),
        }


class Noise(NamedTuple):
    """The randomness of one update.

    =====  ==================================================================
    noise  ε ~ N(0, I), which is added to the actions, [..., batch, action]
    step   t, uniform from 1 to T, [..., batch, 1]
    masks  dropout's factors in the actor, [..., batch, blocks · width]
    =====  ==================================================================
    """

    noise: Tensor
    step: Tensor
    masks: Tensor


class Denoising(HasActionDim, Protocol):
    """A policy, as far as drawing noise needs it."""

    diffusion_steps: int
    dropout: float
    actor_arch: list[int]
    training: bool


def draw_noise(policy: Denoising, batch_size: int, generator: torch.Generator, update: int) -> Noise:
    """Fresh randomness for one update, drawn on the generator's device; dropout only in training mode."""
    device, kept = generator.device, 1.0 - policy.dropout if policy.training else 1.0
    steps = torch.randint(1, policy.diffusion_steps + 1, (batch_size, 1), generator=generator, device=device)
    uniform = torch.rand(batch_size, sum(policy.actor_arch), generator=generator, device=device)
    return Noise(standard_normal(policy, batch_size, generator), steps.float(), (uniform < kept) / kept)


def compute_losses(networks: Networks, batch: Batch, noise: Noise, objective: IDQLObjective) -> Outcome:
    """All losses on one batch.

    Values:  those of IQL, see :func:`~dipole_sb3.learning.value_losses.implicit_values`.
    Actor:   mean over the batch of ‖ε̂(s, √ᾱ_t·a + √(1 − ᾱ_t)·ε, t) − ε‖², without weights.
    """
    values = implicit_values(networks, batch, objective)
    with section("losses"):
        schedule = Schedule.variance_preserving(objective.diffusion_steps)
        x = noised(schedule, batch.actions, noise.noise, noise.step)
        predicted = networks.actor.head(networks.actor.features(batch.observations), x, noise.step, noise.masks)
        actor_loss = (predicted - noise.noise).square().sum(-1).mean(-1)
        return Outcome.of(
            [actor_loss, values.critic_loss, values.value_loss],
            advantage=aggregate(values.target_q, "min") - values.value,
            q=values.q,
            value=values.value,
        )


def averages_follow(policy: Any, objective: IDQLObjective, noise: Noise) -> None:
    """After an optimiser's step: the target critics and the averaged actor move towards the trained networks."""
    polyak_step(policy.critic_target, policy.critic, objective.tau)
    polyak_step(policy.actor_target, policy.actor, objective.actor_tau)


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of the advantage, Q and V."""
    return means(details, "advantage", "q", "value")


UPDATE = UpdateRule(IDQLObjective, LOSS_NAMES, draw_noise, compute_losses, averages_follow, statistics)
"""The update of IDQL."""
