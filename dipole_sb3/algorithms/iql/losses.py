"""One update of IQL: three losses, one backward pass, one optimiser step, one Polyak step.

Source: "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169), equations 5 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.update_rule import PER_RUN, Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    ExpectileObjective,
    Networks,
    NoNoise,
    aggregate,
    draw_no_noise,
    exponential_weights,
    finite_and_at_least,
    implicit_values,
    means,
    target_critics_follow,
    weight_statistics,
)

LOSS_NAMES = ("actor_loss", "critic_loss", "value_loss")


@dataclass(frozen=True)
class IQLObjective(ExpectileObjective):
    """What an update of IQL optimises.

    :param alpha: α ≥ 0, inverse temperature of the weights exp(αA); 0 is behaviour cloning.
    """

    alpha: float | Tensor = field(default=3.0, metadata=PER_RUN)

    def ranges(self) -> dict[str, tuple[Any, str]]:
        return {**super().ranges(), "alpha": finite_and_at_least(0, self.alpha)}


def compute_losses(networks: Networks, batch: Batch, noise: NoNoise, objective: IQLObjective) -> Outcome:
    """All losses on one batch.

    Values:  see :func:`~dipole_sb3.learning.value_losses.implicit_values`.
    Actor:   w·½‖π(s) − a‖², w = min(exp(αA), 100) with A = min(Q₁, Q₂)(s, a) − V(s): a Gaussian of unit variance.
    """
    values = implicit_values(networks, batch, objective)
    with section("losses"):
        advantage = (aggregate(values.q, "min") - values.value).detach()
        weight = exponential_weights(advantage, objective.alpha)
        chosen = networks.actor.head(networks.actor.features(batch.observations))
        actor_loss = (weight * 0.5 * (chosen - batch.actions).square().sum(-1)).mean(-1)
        return Outcome.of(
            [actor_loss, values.critic_loss, values.value_loss],
            weight=weight,
            advantage=advantage,
            q=values.q,
            value=values.value,
        )


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of the weights and the share of those that were cut off; means of the advantage, Q and V."""
    return {**weight_statistics(details["weight"]), **means(details, "advantage", "q", "value")}


UPDATE = UpdateRule(IQLObjective, LOSS_NAMES, draw_no_noise, compute_losses, target_critics_follow, statistics)
"""The update of IQL."""
