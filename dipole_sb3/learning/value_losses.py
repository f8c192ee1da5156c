"""Shared by algorithms that learn values: expectile regression, ensembles of critics, returns, target networks."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dipole_sb3.buffers.offline_buffer import Batch

Aggregation = Literal["min", "mean"]


class Networks(Protocol):
    """The networks that losses for V and Q read: a policy's, or a stack of several policies'."""

    actor: Any
    critic: Any
    critic_target: Any
    value: Any


class HasTau(Protocol):
    """An objective with a Polyak rate in (0, 1]."""

    @property
    def tau(self) -> float: ...


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


def polyak_step(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Moves a target network towards the network that it follows: θ̄ ← θ̄ + rate·(θ − θ̄).

    :param rate: in (0, 1].
    """
    targets: list[Tensor] = list(target.parameters())
    sources: list[Tensor] = list(source.parameters())
    torch._foreach_lerp_(targets, sources, rate)
    # Statistics of batch normalisation are averages already; SB3's targets copy them, too.
    for kept, statistic in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(statistic)


def target_critics_follow(policy: Networks, objective: HasTau) -> None:
    """After an optimiser's step: the target critics move towards the just-updated critics."""
    polyak_step(policy.critic_target, policy.critic, objective.tau)
