"""Shared by algorithms that learn values: expectile regression, ensembles of critics, returns, target networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.update_rule import PER_RUN, Objective

Aggregation = Literal["min", "mean"]

LARGEST_WEIGHT = 100.0
"""Upper limit of the weights exp(αA)."""


class Networks(Protocol):
    """The networks that losses for V and Q read: a policy's, or a stack of several policies'."""

    actor: Any
    critic: Any
    critic_target: Any
    value: Any


class HasActionDim(Protocol):
    """A policy, as far as drawing noise needs it."""

    action_dim: int


class NoNoise(NamedTuple):
    """The noise of updates that draw nothing but their batch."""


def draw_no_noise(policy: object, batch_size: int, generator: torch.Generator, update: int) -> NoNoise:
    """For update rules that need no noise."""
    return NoNoise()


@dataclass(frozen=True)
class ValueObjective(Objective):
    """The numbers of algorithms with critics and targets.

    :param gamma: discount factor γ in [0, 1].
    :param tau: Polyak rate of the targets in (0, 1].
    :raises ValueError: a value is out of range; sub-classes add theirs to :meth:`ranges`.
    """

    gamma: float | Tensor = field(default=0.99, metadata=PER_RUN)
    tau: float = field(default=0.005, metadata=PER_RUN)

    def __post_init__(self) -> None:
        self.require(self.ranges())

    def ranges(self) -> dict[str, tuple[Any, str]]:
        """For each number whether it is in range, and what is expected; see :meth:`Objective.require`."""
        return {
            "gamma": ((self.gamma >= 0) & (self.gamma <= 1), "a number in [0, 1]"),
            "tau": ((self.tau > 0) & (self.tau <= 1), "a number in (0, 1]"),
        }


@dataclass(frozen=True)
class ExpectileObjective(ValueObjective):
    """The numbers of algorithms that learn V by expectile regression, too.

    :param expectile: τ in (0, 1) of the regression.
    """

    expectile: float | Tensor = field(default=0.9, metadata=PER_RUN)

    def ranges(self) -> dict[str, tuple[Any, str]]:
        in_range = (self.expectile > 0) & (self.expectile < 1)
        return {**super().ranges(), "expectile": (in_range, "a number in (0, 1)")}


def finite_and_at_least(least: float, value: Any) -> tuple[Any, str]:
    """For :meth:`ValueObjective.ranges`: a finite number, or one for each run, that is not below ``least``."""
    return ((value >= least) & (value < torch.inf)), f"a finite number of at least {least:g}"


def expectile_loss(error: Tensor, expectile: float | Tensor) -> Tensor:
    """Asymmetric squared error E[|τ − 1(u < 0)| · u²], whose minimiser is the τ-expectile (IQL, eq. 5).

    :param error: u = target − prediction, shape [..., batch].
    :param expectile: τ in (0, 1); 0.5 is half the mean squared error, towards 1 it approaches the maximum.
    :return: mean over the batch, shape [...] (a scalar for one-dimensional input).
    """
    weight = torch.where(error < 0, 1.0 - expectile, expectile)
    return (weight * error.square()).mean(dim=-1)


def aggregate(values: Tensor, how: Aggregation) -> Tensor:
    """One value from an ensemble of critics.

    :param values: shape [..., members, batch].
    :param how: ``"min"`` (pessimistic, clipped double Q) or ``"mean"``.
    :return: shape [..., batch].
    """
    if how == "min":
        return values.amin(dim=-2)
    if how == "mean":
        return values.mean(dim=-2)
    raise ValueError(f"unknown aggregation {how!r}: expected 'min' or 'mean'")


def bootstrapped_returns(batch: Batch, gamma: float | Tensor, next_value: Tensor) -> Tensor:
    """r + γ·mask·V(s'), the regression target of the critics.

    With n-step returns r is Σ γⁱ·rᵢ over the batch's m ≤ n steps, γ becomes γᵐ, and s' is the last step's.

    :param gamma: discount factor in [0, 1], or one for each run, shape [runs, 1].
    :param next_value: V(s'), shape [..., batch].
    :return: shape [..., batch].
    """
    rewards, discount = batch.rewards, gamma
    if batch.steps is not None:
        exponents = torch.arange(rewards.shape[-1], device=rewards.device)
        powers = gamma.unsqueeze(-1) ** exponents if isinstance(gamma, Tensor) else gamma**exponents
        rewards, discount = (rewards * powers).sum(-1), gamma**batch.steps
    return rewards + discount * batch.masks * next_value


class ImplicitValues(NamedTuple):
    """IQL's values on a batch.

    ===========  =======================================================================================
    q            Qᵢ(s, a), [..., members, batch], with gradient
    target_q     Q̄ᵢ(s, a), [..., members, batch]
    value        V(s), [..., batch], with gradient
    critic_loss  mean over the batch of Σᵢ (Qᵢ − y)² with y = r + γ·mask·V(s'), [...]
    value_loss   expectile regression of V on min(Q̄₁, Q̄₂)(s, a), [...]
    ===========  =======================================================================================
    """

    q: Tensor
    target_q: Tensor
    value: Tensor
    critic_loss: Tensor
    value_loss: Tensor


def implicit_values(networks: Networks, batch: Batch, objective: ExpectileObjective) -> ImplicitValues:
    """The values of IQL (arXiv 2110.06169, eq. 5 and 6), which never ask the critics about an action of a policy."""
    observations, actions = batch.observations, batch.actions
    with section("target critics"), torch.no_grad():
        target_q = networks.critic_target.head(networks.critic_target.features(observations), actions)
        next_value = networks.value.head(networks.value.features(batch.next_observations))
        returns = bootstrapped_returns(batch, objective.gamma, next_value)
    with section("losses"):
        value = networks.value.head(networks.value.features(observations))
        value_loss = expectile_loss(aggregate(target_q, "min") - value, objective.expectile)
        q = networks.critic.head(networks.critic.features(observations), actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().sum(-2).mean(-1)
        return ImplicitValues(q, target_q, value, critic_loss, value_loss)


def advantages(networks: Networks, batch: Batch, critic: Any, how: Aggregation = "min") -> Tensor:
    """A = agg(Q₁, Q₂)(s, a) − V(s), [..., batch].

    :param critic: ``networks.critic`` or ``networks.critic_target``.
    :param how: how the critics are combined.
    """
    q = critic.head(critic.features(batch.observations), batch.actions)
    value: Tensor = networks.value.head(networks.value.features(batch.observations))
    return aggregate(q, how) - value


def exponential_weights(advantage: Tensor, alpha: float | Tensor) -> Tensor:
    """The weights min(exp(αA), 100) of advantages of any shape, without gradient."""
    return (alpha * advantage).exp().clamp(max=LARGEST_WEIGHT).detach()


def negative_relative(q: Tensor) -> Tensor:
    """−mean Q / mean |Q|: what a policy minimises where the scale of rewards shall not matter.

    :param q: shape [..., batch]; the divisor has no gradient, and is at least 1e-6, for new critics may give 0.
    :return: shape [...].
    """
    return -q.mean(-1) / q.detach().abs().mean(-1).clamp(min=1e-6)


def polyak_step(target: nn.Module, source: nn.Module, rate: float | Tensor) -> None:
    """Moves a target network towards the network that it follows: θ̄ ← θ̄ + rate·(θ − θ̄).

    :param rate: in [0, 1]; a tensor of shape [] where it differs between updates.
    """
    targets: list[Tensor] = list(target.parameters())
    sources: list[Tensor] = list(source.parameters())
    if isinstance(rate, Tensor):
        steps = torch._foreach_sub(sources, targets)
        torch._foreach_mul_(steps, rate)
        torch._foreach_add_(targets, steps)
    else:
        torch._foreach_lerp_(targets, sources, rate)
    copy_statistics(target, source)


def copy_statistics(target: nn.Module, source: nn.Module) -> None:
    """Gives a target network the statistics of batch normalisation, as SB3's have them: they are averages already."""
    for kept, statistic in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(statistic)


def target_critics_follow(policy: Networks, objective: ValueObjective, noise: object) -> None:
    """After an optimiser's step: the target critics move towards the just-updated critics."""
    polyak_step(policy.critic_target, policy.critic, objective.tau)


def weight_statistics(weight: Tensor) -> dict[str, float]:
    """For the log: mean of the weights exp(αA) and the share of those that were cut off."""
    cut = (weight >= LARGEST_WEIGHT).float().mean()
    return {"weight_mean": float(weight.mean()), "weight_at_limit": float(cut)}


def means(details: Mapping[str, Tensor], *names: str) -> dict[str, float]:
    """For the log: ``NAME_mean`` of some tensors."""
    return {f"{name}_mean": float(details[name].mean()) for name in names}
