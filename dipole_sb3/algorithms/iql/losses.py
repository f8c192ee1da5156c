"""One update of IQL: three losses, one backward pass, one optimiser step, one Polyak step.

Source: "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169), equations 5 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.update_rule import PER_RUN, Objective, Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    Networks,
    aggregate,
    bootstrapped_returns,
    expectile_loss,
    target_critics_follow,
)

LOSS_NAMES = ("actor_loss", "critic_loss", "value_loss")

LARGEST_WEIGHT = 100.0
"""Upper limit of the weights exp(αA)."""


@dataclass(frozen=True)
class IQLObjective(Objective):
    """What an update of IQL optimises.

    :param alpha: α ≥ 0, inverse temperature of the weights exp(αA); 0 is behaviour cloning.
    :param gamma: discount factor γ in [0, 1].
    :param tau: Polyak rate of the target critics in (0, 1].
    :param expectile: τ in (0, 1) of the value's expectile regression.
    :raises ValueError: a value is outside these ranges.
    """

    alpha: float | Tensor = field(default=3.0, metadata=PER_RUN)
    gamma: float | Tensor = field(default=0.99, metadata=PER_RUN)
    tau: float = field(default=0.005, metadata=PER_RUN)
    expectile: float | Tensor = field(default=0.9, metadata=PER_RUN)

    def __post_init__(self) -> None:
        self.require(
            {
                "alpha": ((self.alpha >= 0) & (self.alpha < torch.inf), "a finite number of at least 0"),
                "gamma": ((self.gamma >= 0) & (self.gamma <= 1), "a number in [0, 1]"),
                "tau": ((self.tau > 0) & (self.tau <= 1), "a number in (0, 1]"),
                "expectile": ((self.expectile > 0) & (self.expectile < 1), "a number in (0, 1)"),
            }
        )


class NoNoise(NamedTuple):
    """An update of IQL draws nothing but its batch."""


def draw_noise(batch_size: int, action_dim: int, generator: torch.Generator) -> NoNoise:
    """No noise: IQL needs none."""
    return NoNoise()


def advantage_weights(advantage: Tensor, alpha: float | Tensor) -> Tensor:
    """The weights min(exp(αA), 100) of advantages of any shape, without gradient."""
    return (alpha * advantage).exp().clamp(max=LARGEST_WEIGHT).detach()


def advantages(networks: Networks, batch: Batch) -> Tensor:
    """A = min(Q₁, Q₂)(s, a) − V(s) of the online critics, [..., batch]."""
    q = networks.critic.head(networks.critic.features(batch.observations), batch.actions)
    value: Tensor = networks.value.head(networks.value.features(batch.observations))
    return aggregate(q, "min") - value


def compute_losses(networks: Networks, batch: Batch, noise: NoNoise, objective: IQLObjective) -> Outcome:
    """All losses on one batch.

    Value:    expectile regression of V on min(Q̄₁, Q̄₂)(s, a).
    Critics:  Σᵢ (Qᵢ − y)² with y = r + γ·mask·V(s').
    Actor:    w·½‖π(s) − a‖², w = min(exp(αA), 100) with A = min(Q₁, Q₂)(s, a) − V(s): a Gaussian of unit variance.
    """
    observations, actions, following = batch.observations, batch.actions, batch.next_observations
    with section("target critics"), torch.no_grad():
        target_q = networks.critic_target.head(networks.critic_target.features(observations), actions)
        next_value = networks.value.head(networks.value.features(following))
        returns = bootstrapped_returns(batch, objective.gamma, next_value)

    with section("losses"):
        value = networks.value.head(networks.value.features(observations))
        value_loss = expectile_loss(aggregate(target_q, "min") - value, objective.expectile)

        q = networks.critic.head(networks.critic.features(observations), actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().sum(-2).mean(-1)

        advantage = (aggregate(q, "min") - value).detach()
        weight = advantage_weights(advantage, objective.alpha)
        chosen = networks.actor.head(networks.actor.features(observations))
        actor_loss = (weight * 0.5 * (chosen - actions).square().sum(-1)).mean(-1)

        return Outcome.of([actor_loss, critic_loss, value_loss], weight=weight, advantage=advantage, q=q, value=value)


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of the weights and the share of those that were cut off; means of the advantage, Q and V."""
    weight = details["weight"]
    return {
        "weight_mean": float(weight.mean()),
        "weight_at_limit": float((weight >= LARGEST_WEIGHT).float().mean()),
        "advantage_mean": float(details["advantage"].mean()),
        "q_mean": float(details["q"].mean()),
        "value_mean": float(details["value"].mean()),
    }


UPDATE = UpdateRule(IQLObjective, LOSS_NAMES, draw_noise, compute_losses, target_critics_follow, statistics)
"""The update of IQL."""
