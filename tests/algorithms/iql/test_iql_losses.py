"""IQL's losses against numbers worked out by hand, closed forms, and a bandit with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fixed_networks import Fixed

from dipole_sb3 import IQL
from dipole_sb3.algorithms.iql.losses import IQLObjective, compute_losses
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.value_losses import NoNoise, exponential_weights


class FixedNetworks:
    actor = Fixed([[0.5, 0.0], [0.0, -0.5]])
    critic = Fixed([[1.0, 4.0], [2.0, 3.0]])
    critic_target = Fixed([[3.0, 0.0], [2.0, 1.0]])
    value = Fixed([1.0, 2.0])


BATCH = Batch(
    torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([1.0, 2.0]), torch.zeros(2, 1),
    torch.tensor([1.0, 0.0]),
)  # fmt: skip


def test_by_hand() -> None:
    outcome = compute_losses(
        FixedNetworks(), BATCH, NoNoise(), IQLObjective(alpha=math.log(2), gamma=0.5, expectile=0.9)
    )
    # min Q̄ − V = 1, −2: 0.9·1 and 0.1·4. y = 1 + 0.5·1 and 2; the squares of both critics are added up.
    value_loss, critic_loss = (0.9 + 0.4) / 2, (0.25 + 0.25 + 4 + 1) / 2
    # A = min(Q₁, Q₂) − V of the online critics = 0, 1: weights 1 and 2; half squares 0.125 and 1.
    actor_loss = (1 * 0.125 + 2 * 1.0) / 2
    assert outcome.losses.tolist() == pytest.approx([actor_loss, critic_loss, value_loss])
    assert outcome.details["weight"].tolist() == pytest.approx([1.0, 2.0])
    assert outcome.total.item() == pytest.approx(actor_loss + critic_loss + value_loss)


def test_weights_are_cut_off_and_have_no_gradient() -> None:
    advantage = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    weights = exponential_weights(advantage, 10.0)
    assert weights.tolist() == pytest.approx([math.exp(-10), 1.0, 100.0])
    assert not weights.requires_grad


def test_the_policy_is_the_weighted_mean_of_the_actions() -> None:
    # Σ w·a / Σ w with a = −0.5, 0.1, 0.8, A = −1, 0, 1 and α = 3.
    actions, weights = torch.tensor([-0.5, 0.1, 0.8]), exponential_weights(torch.tensor([-1.0, 0.0, 1.0]), 3.0)
    assert float((weights * actions).sum() / weights.sum()) == pytest.approx(0.76382, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", -1.0), ("gamma", 1.1), ("tau", 0.0), ("expectile", 1.0), ("alpha", math.nan)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        IQLObjective(**{name: value})


def bandit(alpha: float, expectile: float = 0.9) -> IQL:
    """One state, two actions: −0.5 is worth 0 three times in four, 0.5 is worth 1; episodes of one step."""
    random = np.random.default_rng(0)
    good = random.random(512) < 0.25
    data = {
        "observations": np.zeros((512, 1), np.float32),
        "next_observations": np.zeros((512, 1), np.float32),
        "actions": np.where(good, 0.5, -0.5).astype(np.float32)[:, None],
        "rewards": good.astype(np.float32),
        "terminals": np.ones(512, np.float32),
    }
    return IQL(
        "MlpPolicy", dataset=data, alpha=alpha, expectile=expectile, seed=0, tau=0.05, learning_rate=3e-3, device="cpu",
        batch_size=128, policy_kwargs={"net_arch": [16]},
    ).learn(600)  # fmt: skip


def test_a_bandit_with_two_modes() -> None:
    model = bandit(alpha=10.0)
    share = float(np.mean(model.replay_buffer.rewards))
    value = model.policy.value.head(torch.zeros(1, 1)).item()
    # The 0.9-expectile of a coin of this share.
    expected = 0.9 * share / (0.9 * share + 0.1 * (1 - share))
    assert value == pytest.approx(expected, abs=0.05)
    weight = math.exp(10 * (1 - expected)), math.exp(-10 * expected)
    mean = 0.5 * (share * weight[0] - (1 - share) * weight[1]) / (share * weight[0] + (1 - share) * weight[1])
    action, _ = model.predict(np.zeros(1, np.float32))
    assert action[0] == pytest.approx(mean, abs=0.1)
    # Without the weights it clones the data, whose mean action is another one.
    cloned, _ = bandit(alpha=0.0).predict(np.zeros(1, np.float32))
    assert cloned[0] == pytest.approx(share - 0.5, abs=0.1)


def test_exploration_adds_noise_of_the_standard_deviation() -> None:
    models = [IQL("MlpPolicy", "Pendulum-v1", explore_std=std, seed=0, learning_starts=0) for std in (0.0, 0.3)]
    for model, expected in zip(models, (0.0, 0.3), strict=True):
        model._setup_learn(1)
        model._last_obs = model.env.reset()
        np.random.seed(0)
        scaled = np.array([model._sample_action(0)[1][0, 0] for _ in range(400)])
        assert scaled.std() == pytest.approx(expected, abs=0.03)
    with pytest.raises(ValueError, match="explore_std is -1, expected a finite number of at least 0"):
        IQL("MlpPolicy", "Pendulum-v1", explore_std=-1)
