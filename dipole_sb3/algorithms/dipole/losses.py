"""One update of DIPOLE: five losses, one backward pass, one optimiser step, one Polyak step.

Shapes are written [..., batch]: no leading axis for one run, [runs] for several stacked runs; see
:mod:`dipole_sb3.learning.update_rule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dipole_sb3.algorithms.dipole.dichotomy import dichotomous_weights
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.flow_noise import SampledFlowNoise, draw_sampled_flow_noise
from dipole_sb3.learning.update_rule import PER_RUN, Outcome, UpdateRule
from dipole_sb3.learning.value_losses import (
    Aggregation,
    ExpectileObjective,
    Networks,
    aggregate,
    bootstrapped_returns,
    expectile_loss,
    target_critics_follow,
)
from dipole_sb3.networks import flow
from dipole_sb3.networks.velocities import sample_guided

CriticTarget = Literal["policy", "value"]

LOSS_NAMES = ("positive_loss", "negative_loss", "critic_loss", "value_loss")

SATURATION = 0.05
"""A weight below this, or above 1 − this, counts as saturated: the sample trains only one policy."""

_ADVANTAGE_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class DichotomousObjective(ExpectileObjective):
    """What an update of DIPOLE optimises.

    :param beta: β > 0, inverse temperature of the weights σ(βG + k).
    :param shift: k, shifts the weights.
    :param critic_target: where the critics bootstrap: ``"policy"``: one action of the positive policy at s'
        (the paper's OGBench runs), ``"value"``: V(s') (its ExORL runs).
    :param q_agg: how the target critics are combined for V: ``"min"`` or ``"mean"``.
    :param flow_steps: K ≥ 1, Euler steps from noise to that action.
    """

    beta: float | Tensor = field(default=1.0, metadata=PER_RUN)
    shift: float | Tensor = field(default=0.0, metadata=PER_RUN)
    critic_target: CriticTarget = "policy"
    q_agg: Aggregation = "min"
    flow_steps: int = 10

    def ranges(self) -> dict[str, tuple[Any, str]]:
        shift: Any = self.shift
        return {
            **super().ranges(),
            "beta": (self.beta > 0, "a number above 0"),
            "shift": (abs(shift) < torch.inf, "a finite number"),
            "critic_target": (self.critic_target in get_args(CriticTarget), "'policy' or 'value'"),
            "q_agg": (self.q_agg in get_args(Aggregation), "'min' or 'mean'"),
            "flow_steps": (self.flow_steps >= 1, "at least 1"),
        }


def target_critics(
    networks: Networks, batch: Batch, noise: SampledFlowNoise, objective: DichotomousObjective
) -> tuple[Tensor, Tensor]:
    """The target critics' values of the data, and the regression target y of the critics; both without gradient.

    ``"policy"``: y = r + γ·mask·mean(Q̄₁, Q̄₂)(s', a'), where a' is one sample of the positive policy (ω = 0, no
    candidates). It is the mean whatever ``q_agg`` is: this has the same gradient as regressing each critic on both
    targets.
    ``"value"``: y = r + γ·mask·V(s').
    For n-step returns see :func:`~dipole_sb3.learning.value_losses.bootstrapped_returns`.

    :return: (Q̄₁ and Q̄₂ at (s, a), shape [..., 2, batch]; y, shape [..., batch]).
    """
    actions, following = batch.actions, batch.next_observations
    critics, value = networks.critic_target, networks.value
    with torch.no_grad():
        features = critics.features(batch.observations)
        if objective.critic_target == "value":
            with section("target critics"):
                target_q = critics.head(features, actions)
                next_value = value.head(value.features(following))
        else:
            with section("sampler of the critics' target"):
                next_actions = sample_guided(
                    networks.actor.head,
                    networks.actor.features(following),
                    noise.target_start,
                    0.0,
                    objective.flow_steps,
                )
            with section("target critics"):
                # One pass for s and s', which go through the same weights.
                target_q, next_q = critics.head(
                    torch.cat([features, critics.features(following)], dim=-2),
                    torch.cat([actions, next_actions], dim=-2),
                ).chunk(2, dim=-1)
                next_value = aggregate(next_q, "mean")
        return target_q, bootstrapped_returns(batch, objective.gamma, next_value)


def compute_losses(
    networks: Networks, batch: Batch, noise: SampledFlowNoise, objective: DichotomousObjective
) -> Outcome:
    """All losses on one batch (paper, eq. 9 and appendix D.2).

    Value:    expectile regression of V on agg(Q̄₁, Q̄₂)(s, a).
    Critics:  Σᵢ (Qᵢ − y)² with the return y of :func:`target_critics`.
    Pair:     σ(βG + k)·‖v⁺ − u‖² and (1 − σ(βG + k))·‖v⁻ − u‖² with G = min(Q̄₁, Q̄₂)(s, a) − V(s), on the same
              noise and time.
    """
    observations, actions = batch.observations, batch.actions
    target_q, returns = target_critics(networks, batch, noise, objective)

    with section("losses"):
        value = networks.value.head(networks.value.features(observations))
        value_loss = expectile_loss(aggregate(target_q, objective.q_agg) - value, objective.expectile)

        q = networks.critic.head(networks.critic.features(observations), actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().sum(-2).mean(-1)

        advantage = aggregate(target_q, "min") - value.detach()
        positive_weight, negative_weight = dichotomous_weights(advantage, objective.beta, objective.shift)
        x, velocity = flow.interpolate(noise.start, actions, noise.time)
        positive, negative = networks.actor.head(networks.actor.features(observations), x, noise.time)
        positive_loss = flow.flow_loss(positive, velocity, positive_weight)
        negative_loss = flow.flow_loss(negative, velocity, negative_weight)

        return Outcome.of(
            [positive_loss, negative_loss, critic_loss, value_loss],
            weight=positive_weight,
            advantage=advantage,
            q=q,
            value=value,
        )


def statistics(losses: Mapping[str, float], details: Mapping[str, Tensor]) -> dict[str, float]:
    """The actor's loss; mean, deviation and saturation of the weights, quantiles of the advantage, means of Q and V."""
    weight = details["weight"]
    saturated = ((weight < SATURATION) | (weight > 1 - SATURATION)).float()
    quantiles = torch.quantile(details["advantage"], torch.tensor(_ADVANTAGE_QUANTILES, device=weight.device))
    found: dict[str, Tensor] = {
        "weight_mean": weight.mean(),
        "weight_std": weight.std(correction=0),
        "weight_saturation": saturated.mean(),
        "q_mean": details["q"].mean(),
        "value_mean": details["value"].mean(),
    }
    for name, quantile in zip(_ADVANTAGE_QUANTILES, quantiles, strict=True):
        found[f"advantage_q{round(100 * name)}"] = quantile
    actor_loss = losses["positive_loss"] + losses["negative_loss"]
    return {"actor_loss": actor_loss, **{name: float(value) for name, value in found.items()}}


UPDATE = UpdateRule(
    DichotomousObjective, LOSS_NAMES, draw_sampled_flow_noise, compute_losses, target_critics_follow, statistics
)
"""The update of DIPOLE."""
