"""One update of CFGRL: four losses, one backward pass, one optimiser step, one Polyak step.

Source: "Diffusion Guidance Is a Controllable Policy Improvement Operator" (arXiv 2505.23458), algorithm 1, and its
authors' code, where the condition holds strictly above an advantage of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import FlowNoise, draw_flow_noise
from dipole_sb3.learning.update_rule import Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    ExpectileObjective,
    Networks,
    aggregate,
    finite_and_at_least,
    implicit_values,
    means,
    target_critics_follow,
)
from dipole_sb3.networks import flow

LOSS_NAMES = ("optimal_loss", "unconditional_loss", "critic_loss", "value_loss")


@dataclass(frozen=True)
class CFGRLObjective(ExpectileObjective):
    """What an update of CFGRL optimises.

    :param unconditional_weight: ≥ 0, of the loss of the field without condition.
    """

    unconditional_weight: float = 0.1

    def ranges(self) -> dict[str, tuple[Any, str]]:
        weight = finite_and_at_least(0, self.unconditional_weight)
        return {**super().ranges(), "unconditional_weight": weight}


def optimal(advantage: Tensor) -> Tensor:
    """1 where an action was better than expected, A > 0, else 0; of the advantage's shape, without gradient."""
    return (advantage > 0).to(advantage.dtype).detach()


def compute_losses(networks: Networks, batch: Batch, noise: FlowNoise, objective: CFGRLObjective) -> Outcome:
    """All losses on one batch.

    Values:         those of IQL, with the mean over the critics, see
                    :func:`~dipole_sb3.learning.value_losses.implicit_values`.
    Optimal:        1[A > 0]·‖v(s, x_t, t, c = 1) − u‖² with A = min(Q̄₁, Q̄₂)(s, a) − V(s).
    Unconditional:  0.1·‖v(s, x_t, t, c = 0) − u‖², on the same noise and time; 0.1 is ``unconditional_weight``.
    """
    values = implicit_values(networks, batch, objective)
    with section("losses"):
        advantage = (aggregate(values.target_q, "min") - values.value).detach()
        weight = optimal(advantage)
        x, velocity = flow.interpolate(noise.start, batch.actions, noise.time)
        features = networks.actor.features(batch.observations)
        sought, unconditional = networks.actor.head(features, x, noise.time)
        return Outcome.of(
            [
                flow.flow_loss(sought, velocity, weight),
                objective.unconditional_weight * flow.flow_loss(unconditional, velocity),
                values.critic_loss / values.q.shape[-2],
                values.value_loss,
            ],
            weight=weight,
            advantage=advantage,
            q=values.q,
            value=values.value,
        )


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """The actor's loss; share of the data with A > 0; means of the advantage, Q and V."""
    actor_loss = losses["optimal_loss"] + losses["unconditional_loss"]
    return {
        "actor_loss": actor_loss,
        "optimal_share": float(details["weight"].mean()),
        **means(details, "advantage", "q", "value"),
    }


UPDATE = UpdateRule(CFGRLObjective, LOSS_NAMES, draw_flow_noise, compute_losses, target_critics_follow, statistics)
"""The update of CFGRL."""
