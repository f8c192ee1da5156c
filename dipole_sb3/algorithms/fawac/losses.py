"""One update of FAWAC: three losses, one backward pass, one optimiser step, one Polyak step.

Source: "Flow Q-Learning" (arXiv 2502.02538), appendix B, "FAWAC": AWAC (arXiv 2006.09359) with a flow as its policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import SampledFlowNoise, draw_sampled_flow_noise
from dipole_sb3.learning.update_rule import PER_RUN, Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    Networks,
    ValueObjective,
    aggregate,
    bootstrapped_returns,
    exponential_weights,
    finite_and_at_least,
    means,
    target_critics_follow,
    weight_statistics,
)
from dipole_sb3.networks import flow

LOSS_NAMES = ("actor_loss", "critic_loss", "value_loss")


@dataclass(frozen=True)
class FAWACObjective(ValueObjective):
    """What an update of FAWAC optimises.

    :param alpha: α ≥ 0, inverse temperature of the weights exp(αA); 0 is behaviour cloning.
    :param flow_steps: K ≥ 1, Euler steps from noise to the action that the critics bootstrap from.
    """

    alpha: float | Tensor = field(default=1.0, metadata=PER_RUN)
    flow_steps: int = 10

    def ranges(self) -> dict[str, tuple[Any, str]]:
        return {
            **super().ranges(),
            "alpha": finite_and_at_least(0, self.alpha),
            "flow_steps": (self.flow_steps >= 1, "at least 1"),
        }


def compute_losses(networks: Networks, batch: Batch, noise: SampledFlowNoise, objective: FAWACObjective) -> Outcome:
    """All losses on one batch.

    Critics:  mean of (Qᵢ − y)² with y = r + γ·mask·mean(Q̄₁, Q̄₂)(s', a'), a' one sample of the flow.
    Value:    mean of (V − mean(Q̄₁, Q̄₂)(s, a))².
    Actor:    w·‖v(s, x_t, t) − (a − x₀)‖², w = min(exp(αA), 100) with A = mean(Q₁, Q₂)(s, a) − V(s).
    """
    observations, actions, following = batch.observations, batch.actions, batch.next_observations
    with torch.no_grad():
        with section("sampler of the critics' target"):
            field = networks.actor.head.field(networks.actor.features(following))
            next_actions = flow.sample_actions(field, noise.target_start, objective.flow_steps)
        with section("target critics"):
            critics = networks.critic_target
            target_q = critics.head(critics.features(observations), actions)
            next_q = critics.head(critics.features(following), next_actions)
            returns = bootstrapped_returns(batch, objective.gamma, aggregate(next_q, "mean"))

    with section("losses"):
        value = networks.value.head(networks.value.features(observations))
        value_loss = (value - aggregate(target_q, "mean")).square().mean(-1)

        q = networks.critic.head(networks.critic.features(observations), actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().mean((-2, -1))

        advantage = (aggregate(q, "mean") - value).detach()
        weight = exponential_weights(advantage, objective.alpha)
        x, velocity = flow.interpolate(noise.start, actions, noise.time)
        predicted = networks.actor.head(networks.actor.features(observations), x, noise.time)
        return Outcome.of(
            [flow.flow_loss(predicted, velocity, weight), critic_loss, value_loss],
            weight=weight,
            advantage=advantage,
            q=q,
            value=value,
        )


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of the weights and the share of those that were cut off; means of the advantage, Q and V."""
    return {**weight_statistics(details["weight"]), **means(details, "advantage", "q", "value")}


UPDATE = UpdateRule(
    FAWACObjective, LOSS_NAMES, draw_sampled_flow_noise, compute_losses, target_critics_follow, statistics
)
"""The update of FAWAC."""
