"""ReBRAC's losses against numbers worked out by hand, closed forms, and small problems with known answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_networks import Fixed, LinearCritics, chain, small_model, two_modes, values_of_chain

from dipole_sb3 import DatasetError, ReBRAC
from dipole_sb3.algorithms.rebrac.losses import Noise, ReBRACObjective, compute_losses, draw_noise, target_returns
from dipole_sb3.buffers.offline_buffer import Batch

OPEN, CLOSED = torch.ones(()), torch.zeros(())


def batch_of(next_actions: list[list[float]], continues: list[float]) -> Batch:
    rows = len(next_actions)
    nothing = torch.zeros(rows, 1)
    return Batch(
        nothing, torch.zeros(rows, 2), torch.full((rows,), 0.5), nothing, torch.ones(rows),
        next_actions=torch.tensor(next_actions), continues=torch.tensor(continues),
    )  # fmt: skip


class FixedNetworks:
    actor = Fixed([[0.25, -0.5], [0.25, -0.5]])
    actor_target = Fixed([[0.2, 0.4], [0.2, 0.4]])
    critic = Fixed([[1.0, 2.0], [3.0, 1.0]])
    critic_target = Fixed([[1.5, 1.5], [2.0, 1.75]])


def test_target_by_hand() -> None:
    # ã − a' = (0.2, 0.4): its square is 0.2; min Q̄ = 1.5: y = 0.5 + 0.99·(1.5 − 0.01·0.2). Where the next row is of
    # another episode, there is no penalty.
    batch = batch_of([[0.0, 0.0], [0.0, 0.0]], [1.0, 0.0])
    noise = Noise(torch.zeros(2, 2), OPEN)
    y = target_returns(FixedNetworks(), batch, noise, ReBRACObjective(gamma=0.99, critic_bc_coef=0.01))
    assert y.tolist() == pytest.approx([1.98302, 1.985])


def test_noise_on_the_targets_action_is_clipped_and_so_is_the_action() -> None:
    seen: list[torch.Tensor] = []

    class Networks(FixedNetworks):
        actor_target = Fixed([[0.2, 0.9], [0.2, 0.9]])

        class critic_target(LinearCritics):
            pass

        critic_target = critic_target([1.0, 0.0])

    def head(features: torch.Tensor, actions: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        seen.append(actions)
        return torch.zeros(2, 2)

    Networks.critic_target.head = head
    noise = Noise(torch.tensor([[1.0, 1.0], [-9.0, 9.0]]), OPEN)
    target_returns(Networks(), batch_of([[0.0, 0.0]] * 2, [1.0, 1.0]), noise, ReBRACObjective())
    # 0.2·1 = 0.2; 0.2·9 is cut off at 0.5.
    torch.testing.assert_close(seen[0], torch.tensor([[0.4, 1.0], [-0.3, 1.0]]))


def test_losses_by_hand_and_the_gate() -> None:
    batch = batch_of([[0.2, 0.4], [0.2, 0.4]], [1.0, 1.0])
    objective = ReBRACObjective(gamma=0.0, actor_bc_coef=2.0)
    opened, *closed = (
        compute_losses(FixedNetworks(), batch, Noise(torch.zeros(2, 2), gate), objective)
        for gate in (OPEN, CLOSED, None)
    )
    # y = 0.5; critics: (0.25 + 2.25 + 6.25 + 0.25)/4. min Q = 1, 1 at the actor's actions: −1/1. ‖π − a‖² = 0.3125.
    assert opened.losses.tolist() == pytest.approx([-1.0, 2 * 0.3125, 2.25])
    assert opened.counts.tolist() == [1, 1, 1]
    assert opened.total.item() == pytest.approx(-1.0 + 2 * 0.3125 + 2.25)
    for outcome in closed:
        assert outcome.losses.tolist() == pytest.approx([0.0, 0.0, 2.25])
        assert outcome.counts.tolist() == [0, 0, 1]
        assert outcome.total.item() == pytest.approx(2.25)


def test_the_actors_optimum_for_a_linear_critic() -> None:
    # For Q = cᵀa and λ = 1/|cᵀπ| the optimum is π = a + λ·c/(2·α₁).
    slope, chosen, alpha = torch.tensor([0.5, -1.0]), torch.tensor([[0.4, 0.1]]), 0.7
    recorded = chosen - slope / (chosen @ slope).abs() / (2 * alpha)

    class Networks:
        critic = critic_target = LinearCritics(slope.tolist())
        actor = actor_target = Fixed(chosen.tolist())

    networks = Networks()
    batch = batch_of([[0.0, 0.0]], [1.0])._replace(actions=recorded)
    compute_losses(
        networks, batch, Noise(torch.zeros(1, 2), OPEN), ReBRACObjective(actor_bc_coef=alpha)
    ).total.backward()
    torch.testing.assert_close(networks.actor.values.grad, torch.zeros(1, 2), atol=1e-6, rtol=0)


def test_the_gate_opens_every_second_update_counted_from_one() -> None:
    class Policy:
        action_dim, policy_delay = 2, 2

    generator = torch.Generator().manual_seed(0)
    gates = [draw_noise(Policy(), 4, generator, update).actor_gate for update in range(6)]
    assert gates == [1, None, 1, None, 1, None]


def parameters(network: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in network.parameters()])


def test_delayed_updates_of_a_model() -> None:
    model = small_model(ReBRAC, two_modes())
    targets = [parameters(model.policy.critic_target), parameters(model.policy.actor_target)]
    actor = parameters(model.policy.actor)
    model.learn(1)
    assert torch.equal(parameters(model.policy.actor), actor)
    assert torch.equal(parameters(model.policy.critic_target), targets[0])
    before = [parameters(model.policy.critic_target), parameters(model.policy.actor_target)]
    model.learn(1, reset_num_timesteps=False)
    assert not torch.equal(parameters(model.policy.actor), actor)
    for old, target, source in zip(
        before,
        (model.policy.critic_target, model.policy.actor_target),
        (model.policy.critic, model.policy.actor),
        strict=True,
    ):
        torch.testing.assert_close(parameters(target), old + 0.05 * (parameters(source) - old))


def test_a_saved_model_goes_on_with_the_gate_where_it_was(tmp_path: Path) -> None:
    data = two_modes()
    whole = small_model(ReBRAC, data).learn(3).learn(3, reset_num_timesteps=False)
    small_model(ReBRAC, data).learn(3).save(tmp_path / "model")
    parts = ReBRAC.load(tmp_path / "model", dataset=data).learn(3, reset_num_timesteps=False)
    assert torch.equal(parameters(parts.policy.actor), parameters(whole.policy.actor))
    assert torch.equal(parameters(parts.policy.critic_target), parameters(whole.policy.critic_target))


def test_one_adam_moves_the_actor_by_its_momentum_in_between() -> None:
    # With a constant gradient every second step, one Adam moves √2 times as far as one that steps only then: first and
    # second moment both tend to half, m/√v to √2 of 1/2, and there are twice as many steps.
    gated = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([gated], lr=1e-3)
    for step in range(4000):
        optimizer.zero_grad()
        (float(step % 2) * gated.sum()).backward()
        optimizer.step()
    assert -gated.item() / (2000 * 1e-3) == pytest.approx(math.sqrt(2), abs=0.01)


def test_the_actors_penalty_holds_it_to_the_data() -> None:
    held = small_model(ReBRAC, two_modes(), actor_bc_coef=100.0, gamma=0.0).learn(600)
    free = small_model(ReBRAC, two_modes(), actor_bc_coef=0.05, gamma=0.0).learn(600)
    state = np.ones(1, np.float32)
    assert held.predict(state)[0][0] == pytest.approx(float(two_modes()["actions"].mean()), abs=0.1)
    assert free.predict(state)[0][0] == pytest.approx(0.5, abs=0.15)


def test_values_of_a_chain() -> None:
    model = small_model(ReBRAC, chain(), gamma=0.5, actor_bc_coef=1.0, critic_bc_coef=0.0).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)
    # The critics' penalty lowers the first state's value, which bootstraps, and not the second's. The actions are
    # uniform and the policy is near their mean: E‖ã − a'‖² is about 1/3 and the noise's 0.04.
    penalised = small_model(ReBRAC, chain(), gamma=0.5, actor_bc_coef=100.0, critic_bc_coef=0.5).learn(600)
    first, second = values_of_chain(penalised)
    assert second == pytest.approx(1.0, abs=0.05)
    assert first == pytest.approx(0.5 * (1 - 0.5 * (1 / 3 + 0.04)), abs=0.05)


@pytest.mark.parametrize(
    ("name", "value"), [("actor_bc_coef", -1.0), ("critic_bc_coef", math.nan), ("target_noise_clip", -0.1)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, expected a finite number of at least 0"):
        ReBRACObjective(**{name: value})


def test_delay_and_exploration_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="policy_delay is 0, expected a whole number of at least 1"):
        ReBRAC("MlpPolicy", "Pendulum-v1", policy_delay=0)
    with pytest.raises(ValueError, match="explore_std is -1, expected a finite number of at least 0"):
        ReBRAC("MlpPolicy", "Pendulum-v1", explore_std=-1)


def test_shuffled_data_are_refused_unless_next_actions_do_not_matter() -> None:
    order = np.random.default_rng(0).permutation(600)
    data = {
        "observations": np.arange(600, dtype=np.float32)[order, None],
        "next_observations": np.arange(1, 601, dtype=np.float32)[order, None],
        "actions": np.zeros((600, 1), np.float32),
        "rewards": np.zeros(600, np.float32),
        "terminals": np.zeros(600, np.float32),
    }
    # Some rows follow on another by accident.
    assert (data["next_observations"][:-1, 0] == data["observations"][1:, 0]).any()
    with pytest.raises(DatasetError, match=r"critic_bc_coef=0\.01 needs transitions in the order in which"):
        ReBRAC("MlpPolicy", dataset=data, policy_kwargs={"net_arch": [4]}).learn(1)
    ReBRAC("MlpPolicy", dataset=data, critic_bc_coef=0.0, policy_kwargs={"net_arch": [4]}).learn(1)


def test_exploration_is_clipped_noise() -> None:
    model = ReBRAC("MlpPolicy", "Pendulum-v1", explore_std=5.0, seed=0, learning_starts=0)
    model._setup_learn(1)
    model._last_obs = model.env.reset()
    chosen, _ = model.predict(model._last_obs)
    np.random.seed(0)
    scaled = np.array([model._sample_action(0)[1][0, 0] for _ in range(50)])
    assert np.abs(scaled - chosen[0, 0] / 2).max() <= 0.5 + 1e-6
    assert scaled.std() > 0.3
