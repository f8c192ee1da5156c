"""One update of IFQL: three losses, one backward pass, one optimiser step, one Polyak step.

Source: "Flow Q-Learning" (arXiv 2502.02538), appendix B, "IFQL"; its values are those of IQL (arXiv 2110.06169).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import FlowNoise, draw_flow_noise
from dipole_sb3.learning.update_rule import Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    ExpectileObjective,
    Networks,
    aggregate,
    implicit_values,
    means,
    target_critics_follow,
)
from dipole_sb3.networks import flow

LOSS_NAMES = ("actor_loss", "critic_loss", "value_loss")


def compute_losses(networks: Networks, batch: Batch, noise: FlowNoise, objective: ExpectileObjective) -> Outcome:
    """All losses on one batch.

    Values:  those of IQL, see :func:`~dipole_sb3.learning.value_losses.implicit_values`.
    Actor:   mean over the batch and the action's dimensions of (v(s, x_t, t) − (a − x₀))², without weights.
    """
    values = implicit_values(networks, batch, objective)
    with section("losses"):
        x, velocity = flow.interpolate(noise.start, batch.actions, noise.time)
        predicted = networks.actor.head(networks.actor.features(batch.observations), x, noise.time)
        cloning_loss = flow.flow_loss(predicted, velocity)
        return Outcome.of(
            [cloning_loss, values.critic_loss, values.value_loss],
            advantage=(aggregate(values.q, "min") - values.value),
            q=values.q,
            value=values.value,
        )


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of the advantage, Q and V."""
    return means(details, "advantage", "q", "value")


UPDATE = UpdateRule(ExpectileObjective, LOSS_NAMES, draw_flow_noise, compute_losses, target_critics_follow, statistics)
"""The update of IFQL."""
