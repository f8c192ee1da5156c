"""One update of FQL: four losses, one backward pass, one optimiser step, one Polyak step.

Source: "Flow Q-Learning" (arXiv 2502.02538), equations 6 to 8 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import FlowTrained, standard_normal, uniform_time
from dipole_sb3.learning.update_rule import PER_RUN, Outcome, UpdateRule, of_losses
from dipole_sb3.learning.value_losses import (
    Aggregation,
    ValueObjective,
    aggregate,
    bootstrapped_returns,
    finite_and_at_least,
    means,
    negative_relative,
    target_critics_follow,
)
from dipole_sb3.networks import flow

LOSS_NAMES = ("flow_loss", "distill_loss", "q_loss", "critic_loss")


class FQLNetworks(Protocol):
    """The networks of FQL: the one-step actor, the flow, critics and their targets."""

    actor: Any
    flow: Any
    critic: Any
    critic_target: Any


@dataclass(frozen=True)
class FQLObjective(ValueObjective):
    """What an update of FQL optimises.

    :param alpha: α ≥ 0, how strongly the one-step policy is held to the flow.
    :param q_agg: how the target critics are combined at s': ``"mean"`` or ``"min"``.
    :param normalize_q_loss: divide the critics' term by mean |Q|, which makes α independent of the scale of rewards.
    :param flow_steps: K ≥ 1, Euler steps of the flow from which the policy is distilled.
    """

    alpha: float | Tensor = field(default=10.0, metadata=PER_RUN)
    q_agg: Aggregation = "mean"
    normalize_q_loss: bool = False
    flow_steps: int = 10

    def ranges(self) -> dict[str, tuple[Any, str]]:
        return {
            **super().ranges(),
            "alpha": finite_and_at_least(0, self.alpha),
            "q_agg": (self.q_agg in get_args(Aggregation), "'min' or 'mean'"),
            "flow_steps": (self.flow_steps >= 1, "at least 1"),
        }


class Noise(NamedTuple):
    """The randomness of one update.

    ========  ==================================================================
    start     x₀ ~ N(0, I) of the flow's training path, [..., batch, action]
    time      t in [0, 1], [..., batch, 1]
    of_actor  z ~ N(0, I) of the one-step policy's action at s, [..., batch, action]
    of_next   z' ~ N(0, I) of its action at s', [..., batch, action]
    ========  ==================================================================
    """

    start: Tensor
    time: Tensor
    of_actor: Tensor
    of_next: Tensor


def draw_noise(policy: FlowTrained, batch_size: int, generator: torch.Generator, update: int) -> Noise:
    """Fresh randomness for one update, drawn on the generator's device."""
    return Noise(
        standard_normal(policy, batch_size, generator),
        uniform_time(policy, batch_size, generator),
        standard_normal(policy, batch_size, generator),
        standard_normal(policy, batch_size, generator),
    )


def compute_losses(networks: FQLNetworks, batch: Batch, noise: Noise, objective: FQLObjective) -> Outcome:
    """All losses on one batch.

    Critics:       mean of (Qᵢ − y)² with y = r + γ·mask·agg(Q̄₁, Q̄₂)(s', clip μ(s', z')).
    Flow:          (v(s, x_t, t) − (a − x₀))²: a clone of the data.
    Distillation:  α·(μ(s, z) − f(s, z))², f the flow's action from the same noise, clipped and without gradient; μ is
                   not clipped here.
    Critics' term: −mean(Q₁, Q₂)(s, clip μ(s, z)); the critics' own parameters get no gradient from it.
    """
    observations, actions, following = batch.observations, batch.actions, batch.next_observations
    of_actor = networks.actor.features(observations)
    of_flow = networks.flow.features(observations)
    with torch.no_grad():
        with section("target critics"):
            next_actions = networks.actor.head(networks.actor.features(following), noise.of_next).clamp(-1.0, 1.0)
            next_q = networks.critic_target.head(networks.critic_target.features(following), next_actions)
            returns = bootstrapped_returns(batch, objective.gamma, aggregate(next_q, objective.q_agg))
        with section("sampler of the distillation"):
            cloned = flow.sample_actions(networks.flow.head.field(of_flow), noise.of_actor, objective.flow_steps)

    with section("losses"):
        of_critic = networks.critic.features(observations)
        q = networks.critic.head(of_critic, actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().mean((-2, -1))

        x, velocity = flow.interpolate(noise.start, actions, noise.time)
        flow_loss = flow.flow_loss(networks.flow.head(of_flow, x, noise.time), velocity)

        chosen = networks.actor.head(of_actor, noise.of_actor)
        distill_loss = of_losses(objective.alpha) * (chosen - cloned).square().mean((-2, -1))

        q_of_actor = aggregate(networks.critic.head(of_critic.detach(), chosen.clamp(-1.0, 1.0), frozen=True), "mean")
        q_loss = negative_relative(q_of_actor) if objective.normalize_q_loss else -q_of_actor.mean(-1)

        return Outcome.of([flow_loss, distill_loss, q_loss, critic_loss], q=q, q_of_actor=q_of_actor)


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """The actor's loss, the flow's included; means of Q at recorded actions and at the policy's."""
    actor_loss = losses["flow_loss"] + losses["distill_loss"] + losses["q_loss"]
    return {"actor_loss": actor_loss, **means(details, "q", "q_of_actor")}


UPDATE = UpdateRule(FQLObjective, LOSS_NAMES, draw_noise, compute_losses, target_critics_follow, statistics)
"""The update of FQL."""
