"""One update of DIPOLE: five losses, one backward pass, one optimiser step, one Polyak step.

The update is a function of (networks, optimiser, batch, noise): all shapes are fixed by the batch, all randomness comes
in as tensors, no value leaves the device and no Python branch looks at one. So the same function runs eagerly,
compiled, or captured in a CUDA graph, and for one run or for several: shapes are written [..., batch], with nothing in
front for one run and [runs] for several that are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from dipole_sb3.algorithms.dipole.dichotomy import (
    Aggregation,
    aggregate,
    dichotomous_weights,
    expectile_loss,
    weighted_flow_loss,
)
from dipole_sb3.algorithms.dipole.policies import DIPOLEPolicy
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.networks import flow

CriticTarget = Literal["policy", "value"]

LOSS_NAMES = ("positive_loss", "negative_loss", "critic_loss", "value_loss")


class Networks(Protocol):
    """What the losses read: a policy's networks, or those of several policies; each has ``features`` and ``head``."""

    actor: Any
    critic: Any
    critic_target: Any
    value: Any

    def sample_actions(self, features: Tensor, noise: Tensor, omega: float) -> Tensor: ...


@dataclass(frozen=True)
class Objective:
    """What an update optimises; for several runs, numbers in which they differ are tensors [runs, 1].

    :param beta: β > 0, inverse temperature of the weights σ(βG + k).
    :param shift: k, shifts the weights.
    :param gamma: discount factor γ in [0, 1].
    :param tau: Polyak rate of the target critics in (0, 1].
    :param expectile: τ in (0, 1) of the value's expectile regression.
    :param critic_target: where the critics bootstrap: ``"policy"``: one action of the positive policy at s'
        (the paper's OGBench runs), ``"value"``: V(s') (its ExORL runs).
    :param q_agg: how V sees the two target critics: ``"min"`` or ``"mean"``.
    :raises ValueError: outside these ranges.
    """

    beta: float | Tensor = 1.0
    shift: float | Tensor = 0.0
    gamma: float | Tensor = 0.99
    tau: float = 0.005
    expectile: float | Tensor = 0.9
    critic_target: CriticTarget = "policy"
    q_agg: Aggregation = "min"

    def __post_init__(self) -> None:
        shift: Any = self.shift
        checks: dict[str, tuple[Any, str]] = {
            "beta": (self.beta > 0, "a number above 0"),
            "shift": (abs(shift) < torch.inf, "a finite number"),
            "gamma": ((self.gamma >= 0) & (self.gamma <= 1), "a number in [0, 1]"),
            "tau": ((self.tau > 0) & (self.tau <= 1), "a number in (0, 1]"),
            "expectile": ((self.expectile > 0) & (self.expectile < 1), "a number in (0, 1)"),
            "critic_target": (self.critic_target in get_args(CriticTarget), "'policy' or 'value'"),
            "q_agg": (self.q_agg in get_args(Aggregation), "'min' or 'mean'"),
        }
        for name, (holds, expected) in checks.items():
            if not (holds.all() if isinstance(holds, Tensor) else holds):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    @classmethod
    def stacked(cls, objectives: Sequence[Objective], device: torch.device) -> Objective:
        """The objective of several runs at once; what they have in common stays a number.

        :param objectives: one per run, with the same ``critic_target`` and ``q_agg``; each run's target critics follow
            with its own ``tau``, of which this keeps the first one's.
        """
        numbers: dict[str, Any] = {}
        for name in ("beta", "shift", "gamma", "expectile"):
            values = [getattr(each, name) for each in objectives]
            differ = len(set(values)) > 1
            numbers[name] = torch.tensor(values, device=device).unsqueeze(1) if differ else values[0]
        return replace(objectives[0], **numbers)


class Noise(NamedTuple):
    """The randomness of one update.

    ============  ========================================================================
    start         x₀ ~ N(0, I) of the training path, [..., batch, action]; shared by the pair
    time          t ~ U[0, 1], [..., batch, 1]; shared by the pair
    target_start  x₀ ~ N(0, I) of the action at s' that the critics bootstrap from, [..., batch, action]
    ============  ========================================================================
    """

    start: Tensor
    time: Tensor
    target_start: Tensor


def draw_noise(batch_size: int, action_dim: int, generator: torch.Generator) -> Noise:
    """Fresh randomness for one update, drawn on the generator's device."""
    device = generator.device
    return Noise(
        torch.randn(batch_size, action_dim, generator=generator, device=device),
        torch.rand(batch_size, 1, generator=generator, device=device),
        torch.randn(batch_size, action_dim, generator=generator, device=device),
    )


class Outcome(NamedTuple):
    """What one evaluation of the losses gives; detached tensors are kept for the log and read only there.

    ==========  ==================================================
    total       sum of the four losses, of all runs, with gradient
    losses      [..., 4], in the order of :data:`LOSS_NAMES`
    weight      positive weight σ(βG + k), [..., batch]
    advantage   G, [..., batch]
    q           online critics at the recorded actions, [..., 2, batch]
    value       V(s), [..., batch]
    ==========  ==================================================
    """

    total: Tensor
    losses: Tensor
    weight: Tensor
    advantage: Tensor
    q: Tensor
    value: Tensor

    def of_run(self, run: int) -> Outcome:
        """The part of one of several runs; ``total`` stays that of all."""
        return Outcome(self.total, *(field[run] for field in self[1:]))


def target_critics(networks: Networks, batch: Batch, noise: Noise, objective: Objective) -> tuple[Tensor, Tensor]:
    """What the target critics say of the data, and what the critics regress on; both without gradient.

    ``"policy"``: y = r + γ·mask·mean(Q̄₁, Q̄₂)(s', a'), a' one sample of the positive policy (ω = 0, no candidates).
    The mean, whatever ``q_agg`` is: it is the gradient of regressing each critic on both targets.
    ``"value"``: y = r + γ·mask·V(s').
    With n-step returns r is Σ γⁱ·rᵢ over the batch's m ≤ n steps, γ becomes γᵐ, and s' is the last step's.

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
                next_actions = networks.sample_actions(networks.actor.features(following), noise.target_start, 0.0)
            with section("target critics"):
                # One pass for s and s': both are read by the same weights.
                target_q, next_q = critics.head(
                    torch.cat([features, critics.features(following)], dim=-2),
                    torch.cat([actions, next_actions], dim=-2),
                ).chunk(2, dim=-1)
                next_value = aggregate(next_q, "mean")
        rewards, discount = _discounted(batch, objective.gamma)
        return target_q, rewards + discount * batch.masks * next_value


def _discounted(batch: Batch, gamma: float | Tensor) -> tuple[Tensor, Tensor | float]:
    """The rewards before the critics bootstrap, [..., batch], and the discount of what follows them."""
    if batch.steps is None:
        return batch.rewards, gamma
    exponents = torch.arange(batch.rewards.shape[-1], device=batch.rewards.device)
    powers = gamma.unsqueeze(-1) ** exponents if isinstance(gamma, Tensor) else gamma**exponents
    return (batch.rewards * powers).sum(-1), gamma**batch.steps


def compute_losses(networks: Networks, batch: Batch, noise: Noise, objective: Objective) -> Outcome:
    """All losses on one batch (paper, eq. 9 and appendix D.2).

    Value:    expectile regression of V on agg(Q̄₁, Q̄₂)(s, a).
    Critics:  squared error to the return y of :func:`target_critics`.
    Pair:     σ(βG + k)·‖v⁺ − u‖² and (1 − σ(βG + k))·‖v⁻ − u‖² with G = min(Q̄₁, Q̄₂)(s, a) − V(s), on the same
              noise and time.
    """
    observations, actions = batch.observations, batch.actions
    target_q, returns = target_critics(networks, batch, noise, objective)

    with section("losses"):
        value = networks.value.head(networks.value.features(observations))
        value_loss = expectile_loss(aggregate(target_q, objective.q_agg) - value, objective.expectile)

        q = networks.critic.head(networks.critic.features(observations), actions)
        critic_loss = (q - returns.unsqueeze(-2)).square().mean((-2, -1))

        advantage = aggregate(target_q, "min") - value.detach()
        positive_weight, negative_weight = dichotomous_weights(advantage, objective.beta, objective.shift)
        x, velocity = flow.interpolate(noise.start, actions, noise.time)
        positive, negative = networks.actor.head(networks.actor.features(observations), x, noise.time)
        positive_loss = weighted_flow_loss(positive, velocity, positive_weight)
        negative_loss = weighted_flow_loss(negative, velocity, negative_weight)

        losses = torch.stack([positive_loss, negative_loss, critic_loss, value_loss], dim=-1)
        return Outcome(losses.sum(), losses.detach(), positive_weight, advantage, q.detach(), value.detach())


LossFunction = Callable[[Networks, Batch, Noise, Objective], Outcome]
""":func:`compute_losses`, or what a compiler made of it."""


def apply_update(
    policy: DIPOLEPolicy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    losses: LossFunction = compute_losses,
) -> Outcome:
    """One gradient step on all networks, then the target critics follow the just-updated critics.

    :return: the losses before the step.
    """
    outcome = losses(policy, batch, noise, objective)
    with section("backward"):
        optimizer.zero_grad(set_to_none=True)
        outcome.total.backward()  # type: ignore[no-untyped-call]
    step(policy, optimizer, objective.tau)
    return outcome._replace(total=outcome.total.detach())


def step(policy: DIPOLEPolicy, optimizer: torch.optim.Optimizer, tau: float) -> None:
    """The optimiser's step with the gradients that are there, and the target critics' towards the critics."""
    with section("optimiser"):
        optimizer.step()
    with section("target step"), torch.no_grad():
        targets: list[Tensor] = list(policy.critic_target.parameters())
        critics: list[Tensor] = list(policy.critic.parameters())
        torch._foreach_lerp_(targets, critics, tau)
        # Statistics of batch normalisation are averages already; SB3's targets copy them, too.
        for target, statistic in zip(policy.critic_target.buffers(), policy.critic.buffers(), strict=True):
            target.copy_(statistic)
