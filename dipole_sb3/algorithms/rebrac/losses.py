"""One update of ReBRAC: two losses, one backward pass, one optimiser step, delayed Polyak steps.

Source: "Revisiting the Minimalist Approach to Offline Reinforcement Learning" (arXiv 2305.09836), with the details of
the implementation by FQL's authors, whose published results those in ``configs/targets.yaml`` are: one optimiser for
all networks, and targets that wait together with the actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import standard_normal
from dipole_sb3.learning.update_rule import PER_RUN, Outcome, UpdateRule, of_losses
from dipole_sb3.learning.value_losses import (
    HasActionDim,
    ValueObjective,
    aggregate,
    bootstrapped_returns,
    copy_statistics,
    finite_and_at_least,
    means,
    negative_relative,
    polyak_step,
)

LOSS_NAMES = ("q_loss", "behaviour_loss", "critic_loss")


class ReBRACNetworks(Protocol):
    """The networks of ReBRAC: actor and critics, both with targets."""

    actor: Any
    actor_target: Any
    critic: Any
    critic_target: Any


@dataclass(frozen=True)
class ReBRACObjective(ValueObjective):
    """What an update of ReBRAC optimises.

    :param actor_bc_coef: α₁ ≥ 0, the actor's penalty on ‖π(s) − a‖².
    :param critic_bc_coef: α₂ ≥ 0, the critics' penalty on ‖ã − a'‖², the distance of the action that they bootstrap
        from to the recorded one.
    :param target_policy_noise: standard deviation ≥ 0 of the noise on the target policy's actions.
    :param target_noise_clip: largest absolute value of that noise, ≥ 0.
    """

    actor_bc_coef: float | Tensor = field(default=0.1, metadata=PER_RUN)
    critic_bc_coef: float | Tensor = field(default=0.01, metadata=PER_RUN)
    target_policy_noise: float = 0.2
    target_noise_clip: float = 0.5

    def ranges(self) -> dict[str, tuple[Any, str]]:
        names = ("actor_bc_coef", "critic_bc_coef", "target_policy_noise", "target_noise_clip")
        return {**super().ranges(), **{name: finite_and_at_least(0, getattr(self, name)) for name in names}}


class Noise(NamedTuple):
    """What differs between updates besides the batch.

    ==========  ==============================================================================
    of_target   ε ~ N(0, I) of the target policy's action, [..., batch, action]
    actor_gate  1 where the actor learns and the targets move in this update, else 0, [...];
                None: in no run
    ==========  ==============================================================================
    """

    of_target: Tensor
    actor_gate: Tensor | None


class HasPolicyDelay(HasActionDim, Protocol):
    """A policy, as far as drawing noise needs it."""

    policy_delay: int


def draw_noise(policy: HasPolicyDelay, batch_size: int, generator: torch.Generator, update: int) -> Noise:
    """Fresh randomness for one update, drawn on the generator's device."""
    gate = torch.ones((), device=generator.device) if update % policy.policy_delay == 0 else None
    return Noise(standard_normal(policy, batch_size, generator), gate)


def target_returns(networks: ReBRACNetworks, batch: Batch, noise: Noise, objective: ReBRACObjective) -> Tensor:
    """y = r + γ·mask·(min(Q̄₁, Q̄₂)(s', ã) − α₂·‖ã − a'‖²), [..., batch], without gradient.

    ã is the target policy's action at s' with clipped noise, a' the recorded one; where no action of the same episode
    follows, there is no penalty.
    """
    assert batch.next_actions is not None
    assert batch.continues is not None
    following = batch.next_observations
    with section("target critics"), torch.no_grad():
        limit = objective.target_noise_clip
        blur = (objective.target_policy_noise * noise.of_target).clamp(-limit, limit)
        next_actions = networks.actor_target.head(networks.actor_target.features(following))
        next_actions = (next_actions + blur).clamp(-1.0, 1.0)
        next_q = networks.critic_target.head(networks.critic_target.features(following), next_actions)
        distance = (next_actions - batch.next_actions).square().sum(-1) * batch.continues
        penalised = aggregate(next_q, "min") - objective.critic_bc_coef * distance
        return bootstrapped_returns(batch, objective.gamma, penalised)


def compute_losses(networks: ReBRACNetworks, batch: Batch, noise: Noise, objective: ReBRACObjective) -> Outcome:
    """All losses on one batch; the actor's two count only where the gate is open, else they are 0.

    Critics:         mean of (Qᵢ − y)², see :func:`target_returns`.
    Critics' term:   −λ·min(Q₁, Q₂)(s, π(s)) with λ = 1/mean|min(Q₁, Q₂)|; no gradient through λ or into the critics.
    Behaviour:       α₁·‖π(s) − a‖².
    """
    observations, actions = batch.observations, batch.actions
    returns = target_returns(networks, batch, noise, objective)

    with section("losses"):
        of_critic = networks.critic.features(observations)
        q = networks.critic.head(of_critic, actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().mean((-2, -1))

        gate = noise.actor_gate
        if gate is None:
            nothing = torch.zeros_like(critic_loss)
            return Outcome.of([nothing, nothing, critic_loss], gates=[nothing, nothing, None], q=q)
        chosen = networks.actor.head(networks.actor.features(observations))
        q_of_actor = aggregate(networks.critic.head(of_critic.detach(), chosen, frozen=True), "min")
        q_loss = negative_relative(q_of_actor)
        behaviour_loss = of_losses(objective.actor_bc_coef) * (chosen - actions).square().sum(-1).mean(-1)

        losses = [q_loss, behaviour_loss, critic_loss]
        return Outcome.of(losses, gates=[gate, gate, None], q=q, q_of_actor=q_of_actor)


def targets_follow(policy: ReBRACNetworks, objective: ReBRACObjective, noise: Noise) -> None:
    """After an optimiser's step: where the gate is open, both targets move."""
    if noise.actor_gate is None:
        copy_statistics(policy.critic_target, policy.critic)
        copy_statistics(policy.actor_target, policy.actor)
        return
    rate = objective.tau * noise.actor_gate
    polyak_step(policy.critic_target, policy.critic, rate)
    polyak_step(policy.actor_target, policy.actor, rate)


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """The actor's loss; means of Q at recorded actions and at the policy's."""
    if "q_loss" not in losses:
        return means(details, "q")
    actor_loss = losses["q_loss"] + losses["behaviour_loss"]
    return {"actor_loss": actor_loss, **means(details, "q", "q_of_actor")}


UPDATE = UpdateRule(
    ReBRACObjective, LOSS_NAMES, draw_noise, compute_losses, targets_follow, statistics, needs_next_actions=True
)
"""The update of ReBRAC."""
