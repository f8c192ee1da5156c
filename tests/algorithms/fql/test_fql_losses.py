"""FQL's losses against numbers worked out by hand, closed forms, and small problems with known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_forms import gaussian_velocity
from fixed_networks import Fixed, FixedFlow, LinearCritics, chain, samples, small_model, two_modes, values_of_chain
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from dipole_sb3 import FQL, ReBRAC, learn_together
from dipole_sb3.algorithms.fql.losses import FQLObjective, Noise, compute_losses
from dipole_sb3.buffers.offline_buffer import Batch

NOTHING = torch.zeros(2, 1)
BATCH = Batch(
    NOTHING, torch.tensor([[0.5, 0.0], [-0.5, 1.0]]), torch.tensor([1.0, 2.0]), NOTHING, torch.tensor([1.0, 0.0])
)
NOISE = Noise(torch.zeros(2, 2), torch.zeros(2, 1), torch.tensor([[0.1, 0.2], [0.3, -0.4]]), torch.zeros(2, 2))


class FixedNetworks:
    actor = Fixed([[2.0, 0.0], [0.5, 0.5]])
    flow = FixedFlow([[0.5, 0.5], [0.0, 0.0]])
    critic = Fixed([[1.0, 4.0], [2.0, 3.0]])
    critic_target = Fixed([[3.0, 0.0], [2.0, 1.0]])


def test_by_hand() -> None:
    outcome = compute_losses(FixedNetworks(), BATCH, NOISE, FQLObjective(alpha=3.0, gamma=0.5, flow_steps=4))
    # The flow's targets are a − x₀ = a: squares 0, 0.25, 0.25, 1.
    flow_loss = (0.0 + 0.25 + 0.25 + 1.0) / 4
    # The flow's actions are z + v = (0.6, 0.7) and (0.3, −0.4); μ is not clipped.
    distill_loss = 3 * (1.4**2 + 0.7**2 + 0.2**2 + 0.9**2) / 4
    q_loss = -(1.0 + 2.0 + 4.0 + 3.0) / 4
    # y = 1 + 0.5·2.5 and 2.
    critic_loss = ((1 - 2.25) ** 2 + (2 - 2.25) ** 2 + (4 - 2) ** 2 + (3 - 2) ** 2) / 4
    assert outcome.losses.tolist() == pytest.approx([flow_loss, distill_loss, q_loss, critic_loss])
    assert outcome.total.item() == pytest.approx(flow_loss + distill_loss + q_loss + critic_loss)
    pessimistic = compute_losses(FixedNetworks(), BATCH, NOISE, FQLObjective(q_agg="min", gamma=0.5))
    assert pessimistic.losses[3].item() == pytest.approx(((1 - 2) ** 2 + 0 + (4 - 2) ** 2 + (3 - 2) ** 2) / 4)
    normalised = compute_losses(FixedNetworks(), BATCH, NOISE, FQLObjective(normalize_q_loss=True))
    assert normalised.losses[2].item() == pytest.approx(-1.0)


def test_the_actors_optimum_for_a_linear_critic() -> None:
    # For Q = cᵀa in D dimensions, μ = f + D·c/(2α): with f = (0.1, −0.2, 0.3), c = (0.5, −0.5, 1), α = 30, D = 3.
    class Networks:
        actor = Fixed([[0.125, -0.225, 0.35]])
        flow = FixedFlow([[0.0, 0.0, 0.0]])
        critic = critic_target = LinearCritics([0.5, -0.5, 1.0])

    networks = Networks()
    batch = Batch(torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 1), torch.ones(1))
    noise = Noise(torch.zeros(1, 3), torch.zeros(1, 1), torch.tensor([[0.1, -0.2, 0.3]]), torch.zeros(1, 3))
    compute_losses(networks, batch, noise, FQLObjective(alpha=30.0)).total.backward()
    torch.testing.assert_close(networks.actor.values.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_the_distilled_flows_action_is_clipped() -> None:
    class Networks(FixedNetworks):
        flow = FixedFlow([[3.0, -3.0], [0.0, 0.0]])

    outcome = compute_losses(Networks(), BATCH, NOISE, FQLObjective(alpha=1.0))
    assert outcome.losses[1].item() == pytest.approx((1.0 + 1.0 + 0.2**2 + 0.9**2) / 4)


def test_the_critics_learn_nothing_from_the_policys_term() -> None:
    model = small_model(FQL, two_modes())
    policy, batch = model.policy, model.replay_buffer.draw(64, torch.Generator().manual_seed(0))
    noise = model.update_rule.draw_noise(policy, 64, torch.Generator().manual_seed(1), 1)
    compute_losses(policy, batch, noise, model.objective()).total.backward()
    found = [parameter.grad.clone() for parameter in policy.critic.parameters()]
    policy.zero_grad()
    with torch.no_grad():
        next_actions = policy.actor.head(policy.actor.features(batch.next_observations), noise.of_next).clamp(-1, 1)
        next_q = policy.critic_target.head(policy.critic_target.features(batch.next_observations), next_actions)
        returns = batch.rewards + 0.99 * batch.masks * next_q.mean(0)
    q = policy.critic.head(policy.critic.features(batch.observations), batch.actions)
    (q - returns).square().mean().backward()
    for one, parameter in zip(found, policy.critic.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


@pytest.mark.parametrize("algorithm", [FQL, ReBRAC])
def test_nor_does_the_critics_extractor(algorithm: Any) -> None:
    """At an action of its own the critics are asked by the policy's term alone: here that is all of the loss."""
    kwargs = {"net_arch": [8], "features_extractor_class": LearnedFeatures}
    model = algorithm("MlpPolicy", dataset=two_modes(), policy_kwargs=kwargs, seed=0, device="cpu")
    policy, rule = model.policy, model.update_rule
    batch = model.replay_buffer.draw(64, torch.Generator().manual_seed(0), 1, True)
    noise = rule.draw_noise(policy, 64, torch.Generator().manual_seed(1), 2)
    found = []
    for scale in (1.0, 100.0):
        # The actor's loss moves with its actions, the critics' does not.
        with torch.no_grad():
            policy.actor.head.mlp.output.weight.mul_(scale)
        policy.zero_grad()
        returns = torch.zeros(64)
        outcome = rule.losses(policy, batch._replace(masks=torch.zeros(64), rewards=returns), noise, model.objective())
        outcome.total.backward()
        found.append([parameter.grad.clone() for parameter in policy.critic.features_extractor.parameters()])
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


class LearnedFeatures(BaseFeaturesExtractor):
    """An extractor with parameters."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=4)
        self.layer = torch.nn.Linear(1, 4)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layer(observations)
        return features


@pytest.mark.parametrize("steps", [1, 10])
def test_ten_euler_steps_of_a_gaussians_flow(steps: int) -> None:
    # Ten steps take x₀ to m + 0.154175·x₀ for s = 0.2, the exact flow to m + 0.2·x₀.
    from dipole_sb3.networks.flow import integrate_euler, uniform_schedule

    mean, start = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    end = integrate_euler(gaussian_velocity(mean, 0.2), start, uniform_schedule(steps))
    factor = 0.154175 if steps == 10 else 0.0
    torch.testing.assert_close(end, mean + factor * start, atol=1e-6, rtol=0)


def test_alpha_decides_between_the_data_and_the_critics() -> None:
    models = [small_model(FQL, two_modes(), alpha=alpha, gamma=0.0) for alpha in (300.0, 0.03)]
    held, free = learn_together(models, 2000)
    share = float((two_modes()["actions"] > 0).mean())
    assert (samples(held) > 0).mean() == pytest.approx(share, abs=0.12)
    assert samples(free).mean() == pytest.approx(0.5, abs=0.15)
    assert samples(free).std() < 0.1


def test_values_of_a_chain() -> None:
    model = small_model(FQL, chain(), gamma=0.5).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("alpha", -1.0, "a finite number of at least 0"),
        ("alpha", math.inf, "a finite number of at least 0"),
        ("q_agg", "max", "'min' or 'mean'"),
        ("flow_steps", 0, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected {expected}"):
        FQLObjective(**{name: value})
