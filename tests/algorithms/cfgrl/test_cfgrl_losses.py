"""CFGRL's losses against numbers worked out by hand, its guidance against DIPOLE's, and problems with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fixed_networks import Fixed, chain, samples, small_model, two_modes, values_of_chain

from dipole_sb3 import CFGRL
from dipole_sb3.algorithms.cfgrl.losses import CFGRLObjective, compute_losses, optimal
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.flow_noise import FlowNoise
from dipole_sb3.networks.flow import guided, sample_actions


class TwoFields(Fixed):
    def head(self, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.values[0], self.values[1]


class FixedNetworks:
    actor = TwoFields([[[0.5, 0.5], [0.0, 0.0]], [[0.5, 0.0], [-0.5, 0.0]]])
    critic = Fixed([[1.0, 4.0], [2.0, 3.0]])
    critic_target = Fixed([[3.0, 0.0], [2.0, 1.0]])
    value = Fixed([1.0, 2.0])


BATCH = Batch(
    torch.zeros(2, 1), torch.tensor([[0.5, 0.0], [-0.5, 1.0]]), torch.tensor([1.0, 2.0]), torch.zeros(2, 1),
    torch.tensor([1.0, 0.0]),
)  # fmt: skip
NOISE = FlowNoise(torch.zeros(2, 2), torch.zeros(2, 1))


def test_by_hand() -> None:
    outcome = compute_losses(FixedNetworks(), BATCH, NOISE, CFGRLObjective(gamma=0.5, expectile=0.9))
    # A = min Q̄ − V = 1, −2: only the first row is optimal. u = a: its squares are 0 and 0.25 there.
    optimal_loss = (0.25 / 2 + 0) / 2
    unconditional_loss = 0.1 * (0 + 1.0 / 2) / 2
    critic_loss = (0.25 + 0.25 + 4 + 1) / 4
    value_loss = (0.9 + 0.4) / 2
    assert outcome.losses.tolist() == pytest.approx([optimal_loss, unconditional_loss, critic_loss, value_loss])
    total = optimal_loss + unconditional_loss + critic_loss + value_loss
    assert outcome.total.item() == pytest.approx(total)


def test_the_condition_is_strict() -> None:
    assert optimal(torch.tensor([-1.0, 0.0, 1e-9])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.7, 3.0])
def test_guidance_is_that_of_a_pair_with_omega_one_less(guidance: float) -> None:
    model = small_model(CFGRL, two_modes(), flow_steps=6)
    policy, observations = model.policy, torch.randn(5, 1)
    features = policy.actor.features(observations)
    noise = torch.randn(5, 1)
    head = policy.actor.head
    pair = guided(head.positive_field(features), head.negative_field(features), guidance - 1)
    setting = {"guidance": guidance}
    found = policy.act(policy, lambda name: getattr(policy, name).features(observations), noise, **setting)
    torch.testing.assert_close(found, sample_actions(pair, noise, 6))
    # v₀ + w·(v₁ − v₀) at one point.
    time = torch.full((5, 1), 0.4)
    sought, unconditional = head(features, noise, time)
    expected = unconditional + guidance * (sought - unconditional)
    torch.testing.assert_close(pair(noise, torch.tensor(0.4)), expected)


def test_one_weight_per_observation() -> None:
    model = small_model(CFGRL, two_modes(), flow_steps=4)
    observations = np.random.default_rng(0).normal(size=(3, 1)).astype(np.float32)
    together, _ = model.predict(observations, deterministic=True, guidance=np.array([0.0, 1.0, 2.5]))
    for index, guidance in enumerate((0.0, 1.0, 2.5)):
        alone, _ = model.predict(observations[index], deterministic=True, guidance=guidance)
        np.testing.assert_allclose(together[index], alone, atol=1e-5)
    with pytest.raises(ValueError, match=r"guidance has shape \(2,\), expected one value for each of 3 observations"):
        model.predict(observations, guidance=np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="guidance is -1, expected a finite number of at least 0"):
        model.guidance = -1


def test_the_classes_have_different_fields_and_share_the_network() -> None:
    model = small_model(CFGRL, two_modes())
    head = model.policy.actor.head
    assert head.classes.weight.shape == (1, 2, 32)
    sought, unconditional = head(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert not torch.equal(sought, unconditional)
    with torch.no_grad():
        head.classes.weight[:, 1] = head.classes.weight[:, 0]
    sought, unconditional = head(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert torch.equal(sought, unconditional)


def test_the_weight_turns_a_clone_into_the_better_mode() -> None:
    model = small_model(CFGRL, two_modes(), gamma=0.0, flow_steps=10).learn(2000)
    share = float((two_modes()["actions"] > 0).mean())
    cloned, conditioned = samples(model, guidance=0.0), samples(model, guidance=1.0)
    assert (cloned > 0).mean() == pytest.approx(share, abs=0.1)
    assert (conditioned > 0.2).mean() > 0.95


def test_values_of_a_chain() -> None:
    model = small_model(CFGRL, chain(), gamma=0.5).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)


def test_exploration_has_its_own_weight() -> None:
    model = CFGRL("MlpPolicy", "Pendulum-v1", guidance=3.0, explore_guidance=0.5, seed=0, flow_steps=2)
    seen: list[float] = []
    act = model.policy.act
    model.policy.act = lambda *a, **setting: seen.append(setting["guidance"]) or act(*a, **setting)
    model.learn(150)
    assert set(seen) == {0.5}
    model.predict(model.env.reset())
    assert seen[-1] == 3.0
