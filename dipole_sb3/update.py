"""One update of DIPOLE: five losses, one backward pass, one optimiser step, one Polyak step.

The update is a function of (policy, optimiser, batch, noise): all shapes are fixed by the batch, all randomness comes
in as tensors, no value leaves the device and no Python branch looks at one. So the same function runs eagerly,
compiled, or captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dipole_sb3 import flow
from dipole_sb3.buffers import Batch
from dipole_sb3.dichotomy import Aggregation, aggregate, dichotomous_weights, expectile_loss, weighted_flow_loss
from dipole_sb3.policies import DIPOLEPolicy

CriticTarget = Literal["policy", "value"]

LOSS_NAMES = ("positive_loss", "negative_loss", "critic_loss", "value_loss")


@dataclass(frozen=True)
class Objective:
    """What an update optimises.

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

    beta: float = 1.0
    shift: float = 0.0
    gamma: float = 0.99
    tau: float = 0.005
    expectile: float = 0.9
    critic_target: CriticTarget = "policy"
    q_agg: Aggregation = "min"

    def __post_init__(self) -> None:
        checks = {
            "beta": (self.beta > 0, "a number above 0"),
            "shift": (self.shift == self.shift and abs(self.shift) != float("inf"), "a finite number"),
            "gamma": (0 <= self.gamma <= 1, "a number in [0, 1]"),
            "tau": (0 < self.tau <= 1, "a number in (0, 1]"),
            "expectile": (0 < self.expectile < 1, "a number in (0, 1)"),
            "critic_target": (self.critic_target in get_args(CriticTarget), "'policy' or 'value'"),
            "q_agg": (self.q_agg in get_args(Aggregation), "'min' or 'mean'"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")


class Noise(NamedTuple):
    """The randomness of one update.

    ============  ========================================================================
    start         x₀ ~ N(0, I) of the training path, [batch, action]; shared by the pair
    time          t ~ U[0, 1], [batch, 1]; shared by the pair
    target_start  x₀ ~ N(0, I) of the action at s' that the critics bootstrap from, [batch, action]
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
    total       sum of the four losses, with gradient
    losses      [4], in the order of :data:`LOSS_NAMES`
    weight      positive weight σ(βG + k), [batch]
    advantage   G, [batch]
    q           online critics at the recorded actions, [2, batch]
    value       V(s), [batch]
    ==========  ==================================================
    """

    total: Tensor
    losses: Tensor
    weight: Tensor
    advantage: Tensor
    q: Tensor
    value: Tensor


def bootstrapped_return(policy: DIPOLEPolicy, batch: Batch, noise: Noise, objective: Objective) -> Tensor:
    """The critics' regression target, shape [batch], without gradient.

    ``"policy"``: y = r + γ·mask·mean(Q̄₁, Q̄₂)(s', a'), a' one sample of the positive policy (ω = 0, no candidates).
    The mean, whatever ``q_agg`` is: it is the gradient of regressing each critic on both targets.
    ``"value"``: y = r + γ·mask·V(s').
    With n-step returns r is Σ γⁱ·rᵢ over the batch's m ≤ n steps, γ becomes γᵐ, and s' is the last step's.
    """
    following = batch.next_observations
    with torch.no_grad():
        if objective.critic_target == "value":
            next_value = policy.value.head(policy.value.features(following))
        else:
            next_actions = policy.sample_actions(policy.actor.features(following), noise.target_start, 0.0)
            targets = policy.critic_target.head(policy.critic_target.features(following), next_actions)
            next_value = aggregate(targets, "mean")
        rewards, discount = _discounted(batch, objective.gamma)
        return rewards + discount * batch.masks * next_value  # type: ignore[no-any-return]


def _discounted(batch: Batch, gamma: float) -> tuple[Tensor, Tensor | float]:
    """The rewards before the critics bootstrap, [batch], and the discount of what follows them."""
    if batch.steps is None:
        return batch.rewards, gamma
    powers = gamma ** torch.arange(batch.rewards.shape[1], device=batch.rewards.device)
    return (batch.rewards * powers).sum(1), gamma**batch.steps


def compute_losses(policy: DIPOLEPolicy, batch: Batch, noise: Noise, objective: Objective) -> Outcome:
    """All losses on one batch (paper, eq. 9 and appendix D.2).

    Value:    expectile regression of V on agg(Q̄₁, Q̄₂)(s, a).
    Critics:  squared error to :func:`bootstrapped_return`.
    Pair:     σ(βG + k)·‖v⁺ − u‖² and (1 − σ(βG + k))·‖v⁻ − u‖² with G = min(Q̄₁, Q̄₂)(s, a) − V(s), on the same
              noise and time.
    """
    observations, actions = batch.observations, batch.actions
    with torch.no_grad():
        target_q = policy.critic_target.head(policy.critic_target.features(observations), actions)

    value = policy.value.head(policy.value.features(observations))
    value_loss = expectile_loss(aggregate(target_q, objective.q_agg) - value, objective.expectile)

    q = policy.critic.head(policy.critic.features(observations), actions)
    critic_loss = (q - bootstrapped_return(policy, batch, noise, objective)).square().mean()

    advantage = aggregate(target_q, "min") - value.detach()
    positive_weight, negative_weight = dichotomous_weights(advantage, objective.beta, objective.shift)
    x, velocity = flow.interpolate(noise.start, actions, noise.time)
    positive, negative = policy.actor.head(policy.actor.features(observations), x, noise.time)
    positive_loss = weighted_flow_loss(positive, velocity, positive_weight)
    negative_loss = weighted_flow_loss(negative, velocity, negative_weight)

    losses = torch.stack([positive_loss, negative_loss, critic_loss, value_loss])
    return Outcome(losses.sum(), losses.detach(), positive_weight, advantage, q.detach(), value.detach())


def apply_update(
    policy: DIPOLEPolicy, optimizer: torch.optim.Optimizer, batch: Batch, noise: Noise, objective: Objective
) -> Outcome:
    """One gradient step on all networks, then the target critics follow the just-updated critics.

    :return: the losses before the step.
    """
    outcome = compute_losses(policy, batch, noise, objective)
    optimizer.zero_grad(set_to_none=True)
    outcome.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(policy.critic_target.parameters()), list(policy.critic.parameters()), objective.tau)
        # Statistics of batch normalisation are averages already; SB3's targets copy them, too.
        for target, statistic in zip(policy.critic_target.buffers(), policy.critic.buffers(), strict=True):
            target.copy_(statistic)
    return outcome._replace(total=outcome.total.detach())
