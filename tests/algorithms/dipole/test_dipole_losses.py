"""One update against the same arithmetic in NumPy, and several against a textbook implementation.

The textbook has five separate networks made of torch's own layers, five separate Adams and one loss each, all in double
precision; nothing in it is shared with the package but the initial weights.
"""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from closed_forms import as_numpy, perceptron, randomize
from gymnasium import spaces
from torch import Tensor, nn

from dipole_sb3.algorithms.dipole.losses import (
    LOSS_NAMES,
    UPDATE,
    DichotomousObjective,
    compute_losses,
    target_critics,
)
from dipole_sb3.algorithms.dipole.policies import DIPOLEPolicy
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.flow_noise import SampledFlowNoise, draw_sampled_flow_noise
from dipole_sb3.learning.update_rule import apply_update

OBSERVATION, ACTION, BATCH, FLOW_STEPS, LEARNING_RATE = 3, 2, 8, 3, 1e-2
TARGETS, AGGREGATIONS = ("policy", "value"), ("min", "mean")
EVERY_OBJECTIVE = [
    DichotomousObjective(0.9, 0.1, 0.8, 2.0, -0.5, target, how, FLOW_STEPS)  # type: ignore[arg-type]
    for target in TARGETS
    for how in AGGREGATIONS
]


def make_policy(seed: int = 13) -> DIPOLEPolicy:
    """A tiny policy whose every parameter is random and whose target critics differ from the online ones.

    The seed is one at which the variants of the algorithm differ: see TestCasesAreTellingApart.
    """
    policy = DIPOLEPolicy(
        spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32),
        spaces.Box(-1.0, 1.0, (ACTION,), np.float32),
        lambda progress: LEARNING_RATE,
        net_arch=[6, 5],
        flow_steps=FLOW_STEPS,
    )
    generator = torch.Generator().manual_seed(seed)
    for network in (policy.actor, policy.critic, policy.critic_target, policy.value):
        randomize(network, generator)
    return policy


def make_batch(seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(BATCH, OBSERVATION, generator=generator),
        2 * torch.rand(BATCH, ACTION, generator=generator) - 1,
        torch.randn(BATCH, generator=generator),
        torch.randn(BATCH, OBSERVATION, generator=generator),
        torch.tensor([1.0, 0.0] * (BATCH // 2)),
    )


def with_steps(batch: Batch) -> Batch:
    """The same transitions as the beginnings of windows of up to three."""
    steps = torch.tensor([1, 1, 2, 2, 3, 3, 3, 2])
    more = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(5))
    rewards = torch.cat([batch.rewards[:, None], more], 1) * (torch.arange(3) < steps[:, None])
    return batch._replace(rewards=rewards, steps=steps)


class Sizes:
    """What drawing noise asks of a policy."""

    time_grid = None

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim


def draw_noise(batch: int, action_dim: int, seed: int) -> SampledFlowNoise:
    return draw_sampled_flow_noise(Sizes(action_dim), batch, torch.Generator().manual_seed(seed), 1)


def make_noise(seed: int = 2) -> SampledFlowNoise:
    return draw_noise(BATCH, ACTION, seed)


class Arithmetic:
    """Every quantity of an update from the raw parameters, in NumPy and double precision."""

    def __init__(
        self, policy: DIPOLEPolicy, batch: Batch, noise: SampledFlowNoise, objective: DichotomousObjective
    ) -> None:
        self.actor, self.critic, self.critic_target, self.value = (
            as_numpy(network.head.mlp) for network in (policy.actor, policy.critic, policy.critic_target, policy.value)
        )
        self.observations, self.actions, self.rewards, self.following, self.masks = (
            array.double().numpy() for array in batch[:5]
        )
        self.steps = np.ones(BATCH) if batch.steps is None else batch.steps.numpy()
        self.start, self.time, self.target_start = (array.double().numpy() for array in noise)
        self.objective = objective

    def critics(self, parameters: dict[str, np.ndarray], observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        joined = np.concatenate([observations, actions], axis=1)
        return np.stack([perceptron(parameters, joined, member)[:, 0] for member in range(2)])

    def velocity(self, member: int, observations: np.ndarray, x: np.ndarray, time: np.ndarray) -> np.ndarray:
        return perceptron(self.actor, np.concatenate([observations, x, time], axis=1), member)

    def following_actions(self) -> np.ndarray:
        x = self.target_start
        for step in range(FLOW_STEPS):
            time = np.full((BATCH, 1), step / FLOW_STEPS)
            x = x + self.velocity(0, self.following, x, time) / FLOW_STEPS
        return np.clip(x, -1, 1)

    def returns(self) -> np.ndarray:
        if self.objective.critic_target == "value":
            next_value = perceptron(self.value, self.following, 0)[:, 0]
        else:
            # The mean, also where V regresses on the minimum.
            next_value = self.critics(self.critic_target, self.following, self.following_actions()).mean(axis=0)
        rewards, gamma = self.rewards.reshape(BATCH, -1), self.objective.gamma
        returns = [sum(gamma**i * reward for i, reward in enumerate(row)) for row in rewards]
        return np.array(returns) + gamma**self.steps * self.masks * next_value

    def target_q(self) -> np.ndarray:
        return self.critics(self.critic_target, self.observations, self.actions)

    def state_value(self) -> np.ndarray:
        return perceptron(self.value, self.observations, 0)[:, 0]

    def value_loss(self) -> float:
        target = self.target_q()
        error = (target.min(axis=0) if self.objective.q_agg == "min" else target.mean(axis=0)) - self.state_value()
        weight = np.abs(self.objective.expectile - (error < 0))
        return float((weight * error**2).mean())

    def critic_loss(self) -> float:
        return float(
            ((self.critics(self.critic, self.observations, self.actions) - self.returns()) ** 2).sum(axis=0).mean()
        )

    def advantage(self) -> np.ndarray:
        # The minimum, also where V regresses on the mean.
        return self.target_q().min(axis=0) - self.state_value()

    def weight(self) -> np.ndarray:
        return 1 / (1 + np.exp(-(self.objective.beta * self.advantage() + self.objective.shift)))

    def pair_losses(self) -> tuple[float, float]:
        x = (1 - self.time) * self.start + self.time * self.actions
        velocity = self.actions - self.start
        errors = [
            ((self.velocity(member, self.observations, x, self.time) - velocity) ** 2).mean(axis=1)
            for member in range(2)
        ]
        weight = self.weight()
        return float((weight * errors[0]).mean()), float(((1 - weight) * errors[1]).mean())


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE, ids=lambda o: f"{o.critic_target}-{o.q_agg}")
class TestArithmetic:
    def test_losses(self, objective: DichotomousObjective) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        outcome = compute_losses(policy, batch, noise, objective)
        exact = Arithmetic(policy, batch, noise, objective)
        found = dict(zip(LOSS_NAMES, outcome.losses.tolist(), strict=True))
        positive, negative = exact.pair_losses()
        expected = {
            "positive_loss": positive,
            "negative_loss": negative,
            "critic_loss": exact.critic_loss(),
            "value_loss": exact.value_loss(),
        }
        assert found == pytest.approx(expected, rel=1e-5)
        assert outcome.total.item() == pytest.approx(sum(expected.values()), rel=1e-5)

    def test_what_the_log_reads(self, objective: DichotomousObjective) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        outcome = compute_losses(policy, batch, noise, objective)
        exact = Arithmetic(policy, batch, noise, objective)
        for found, expected in (
            (outcome.details["weight"], exact.weight()),
            (outcome.details["advantage"], exact.advantage()),
            (outcome.details["q"], exact.critics(exact.critic, exact.observations, exact.actions)),
            (outcome.details["value"], exact.state_value()),
        ):
            assert not found.requires_grad
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_bootstrapped_return(self, objective: DichotomousObjective) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        returns = target_critics(policy, batch, noise, objective)[1]
        assert not returns.requires_grad
        np.testing.assert_allclose(returns, Arithmetic(policy, batch, noise, objective).returns(), rtol=1e-4, atol=1e-5)

    def test_several_steps_change_the_critics_target_alone(self, objective: DichotomousObjective) -> None:
        policy, batch, noise = make_policy(), with_steps(make_batch()), make_noise()
        exact = Arithmetic(policy, batch, noise, objective)
        returns = target_critics(policy, batch, noise, objective)[1]
        np.testing.assert_allclose(returns, exact.returns(), rtol=1e-4, atol=1e-5)
        one, several = (compute_losses(policy, each, noise, objective) for each in (make_batch(), batch))
        losses = dict(zip(LOSS_NAMES, several.losses.tolist(), strict=True))
        assert losses["critic_loss"] == pytest.approx(exact.critic_loss(), rel=1e-5)
        assert torch.equal(one.details["advantage"], several.details["advantage"])
        assert (one.losses != several.losses).tolist() == [name == "critic_loss" for name in LOSS_NAMES]

    def test_end_of_episode_is_the_reward_alone(self, objective: DichotomousObjective) -> None:
        policy, batch = make_policy(), make_batch()
        returns = target_critics(policy, batch, make_noise(), objective)[1]
        ended = batch.masks == 0
        assert torch.equal(returns[ended], batch.rewards[ended])
        assert not torch.isclose(returns[~ended], batch.rewards[~ended]).any()


class TestCasesAreTellingApart:
    """The tiny case must distinguish the variants, or the comparison above would accept a mistake."""

    def test_the_two_critics_disagree_on_both_sides(self) -> None:
        exact = Arithmetic(make_policy(), make_batch(), make_noise(), EVERY_OBJECTIVE[0])
        difference = np.diff(exact.target_q(), axis=0)
        assert difference.min() < -0.2
        assert difference.max() > 0.2
        assert exact.advantage().min() < -0.2
        assert exact.advantage().max() > 0.2
        assert np.ptp(exact.weight()) > 0.5

    def test_some_bootstrap_actions_are_clipped_and_some_are_not(self) -> None:
        clipped = np.abs(Arithmetic(make_policy(), make_batch(), make_noise(), EVERY_OBJECTIVE[0]).following_actions())
        assert (clipped == 1).any()
        assert (clipped < 1).any()


class TestBootstrapAction:
    objective = DichotomousObjective(critic_target="policy")

    def returns(self, policy: DIPOLEPolicy) -> Tensor:
        return target_critics(policy, make_batch(), make_noise(), self.objective)[1]

    @pytest.mark.parametrize(("member", "matters"), [(0, True), (1, False)])
    def test_comes_from_the_positive_policy_alone(self, member: int, matters: bool) -> None:
        policy = make_policy()
        before = self.returns(policy)
        with torch.no_grad():
            for parameter in policy.actor.head.mlp.parameters():
                parameter[member] += 0.3
        assert torch.equal(self.returns(policy), before) is not matters

    def test_ignores_omega_and_candidates_of_acting(self) -> None:
        policy = make_policy()
        before = self.returns(policy)
        policy.omega, policy.num_candidates = 4.0, 16
        assert torch.equal(self.returns(policy), before)

    def test_value_target_needs_no_action(self) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        objective = DichotomousObjective(critic_target="value")
        before = target_critics(policy, batch, noise, objective)[1]
        randomize(policy.actor, torch.Generator().manual_seed(9))
        randomize(policy.critic_target, torch.Generator().manual_seed(9))
        assert torch.equal(target_critics(policy, batch, noise, objective)[1], before)


class Textbook:
    """Five separate double-precision networks, each with its own Adam and its own loss."""

    def __init__(self, policy: DIPOLEPolicy) -> None:
        self.positive, self.negative = (self._network(policy.actor.head.mlp, member) for member in range(2))
        self.critics = [self._network(policy.critic.head.mlp, member) for member in range(2)]
        self.targets = [self._network(policy.critic_target.head.mlp, member) for member in range(2)]
        self.value = self._network(policy.value.head.mlp, 0)
        self.networks = {
            "positive": self.positive,
            "negative": self.negative,
            "first critic": self.critics[0],
            "second critic": self.critics[1],
            "value": self.value,
            "first target": self.targets[0],
            "second target": self.targets[1],
        }
        trained = [self.positive, self.negative, *self.critics, self.value]
        self.optimizers = [torch.optim.Adam(network.parameters(), LEARNING_RATE) for network in trained]

    @staticmethod
    def _network(stack: nn.Module, member: int) -> nn.Sequential:
        arrays = {name: parameter.detach().double() for name, parameter in stack.named_parameters()}
        widths = [*(arrays[f"hidden.{layer}.weight"].shape[1] for layer in range(2)), arrays["output.weight"].shape[1]]
        layers: list[nn.Module] = []
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            linear = nn.Linear(fan_in, fan_out, dtype=torch.float64)
            linear.weight.data = arrays[f"hidden.{layer}.weight"][member].T.clone()
            linear.bias.data = arrays[f"hidden.{layer}.bias"][member, 0].clone()
            layers += [linear, nn.GELU(approximate="tanh")]
            if f"norms.{layer}.weight" in arrays:
                norm = nn.LayerNorm(fan_out, eps=1e-6, dtype=torch.float64)
                norm.weight.data = arrays[f"norms.{layer}.weight"][member, 0].clone()
                norm.bias.data = arrays[f"norms.{layer}.bias"][member, 0].clone()
                layers.append(norm)
        output = nn.Linear(widths[-1], arrays["output.weight"].shape[2], dtype=torch.float64)
        output.weight.data = arrays["output.weight"][member].T.clone()
        output.bias.data = arrays["output.bias"][member, 0].clone()
        return nn.Sequential(*layers, output)

    def update(self, batch: Batch, noise: SampledFlowNoise, objective: DichotomousObjective) -> None:
        s, a, r, following, mask = (array.double() for array in batch[:5])
        start, time, target_start = (array.double() for array in noise)
        with torch.no_grad():
            if objective.critic_target == "value":
                bootstrap = self.value(following)
            else:
                x = target_start
                for step in range(FLOW_STEPS):
                    moment = torch.full((BATCH, 1), step / FLOW_STEPS, dtype=torch.float64)
                    x = x + self.positive(torch.cat([following, x, moment], 1)) / FLOW_STEPS
                joined = torch.cat([following, x.clamp(-1, 1)], 1)
                bootstrap = (self.targets[0](joined) + self.targets[1](joined)) / 2
            y = r + objective.gamma * mask * bootstrap.squeeze(1)
            target_q = [target(torch.cat([s, a], 1)).squeeze(1) for target in self.targets]
            lowest = torch.minimum(*target_q)
            regressed = lowest if objective.q_agg == "min" else (target_q[0] + target_q[1]) / 2
            weight = torch.sigmoid(objective.beta * (lowest - self.value(s).squeeze(1)) + objective.shift)

        error = regressed - self.value(s).squeeze(1)
        asymmetry = torch.where(error < 0, 1 - objective.expectile, objective.expectile)
        joined, velocity = torch.cat([s, (1 - time) * start + time * a, time], 1), a - start
        losses = [
            (weight * (self.positive(joined) - velocity).square().mean(1)).mean(),
            ((1 - weight) * (self.negative(joined) - velocity).square().mean(1)).mean(),
            *((critic(torch.cat([s, a], 1)).squeeze(1) - y).square().mean() for critic in self.critics),
            (asymmetry * error.square()).mean(),
        ]
        for loss, optimizer in zip(losses, self.optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for target, critic in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                    old.copy_((1 - objective.tau) * old + objective.tau * new)


class TestUpdate:
    @pytest.mark.parametrize("objective", EVERY_OBJECTIVE, ids=lambda o: f"{o.critic_target}-{o.q_agg}")
    def test_five_networks_with_their_own_adams_and_losses(self, objective: DichotomousObjective) -> None:
        # Catches, beyond the losses: a gradient through a target or a weight, a second loss that reaches a network, one
        # optimiser acting differently from several, the Polyak step before the optimiser's.
        policy = make_policy()
        textbook = Textbook(policy)
        for step in range(10):
            batch, noise = make_batch(10 + step), make_noise(100 + step)
            apply_update(UPDATE, policy, batch, noise, objective)
            textbook.update(batch, noise, objective)
        updated = Textbook(policy).networks
        for name, network in textbook.networks.items():
            for expected, found in zip(network.parameters(), updated[name].parameters(), strict=True):
                torch.testing.assert_close(
                    found, expected, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}"
                )

    @pytest.mark.parametrize("tau", [0.25, 1.0])
    def test_targets_follow_the_just_updated_critics(self, tau: float) -> None:
        policy = make_policy()
        before = copy.deepcopy(policy.critic_target)
        apply_update(UPDATE, policy, make_batch(), make_noise(), DichotomousObjective(tau=tau))
        for old, new, online in zip(
            before.parameters(), policy.critic_target.parameters(), policy.critic.parameters(), strict=True
        ):
            torch.testing.assert_close(new, (1 - tau) * old + tau * online)

    def test_every_network_but_the_targets_gets_a_gradient(self) -> None:
        policy = make_policy()
        apply_update(UPDATE, policy, make_batch(), make_noise(), DichotomousObjective())
        for network in (policy.actor, policy.critic, policy.value):
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name
        for name, parameter in policy.critic_target.named_parameters():
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name

    def test_optimizer_holds_each_trained_parameter_once(self) -> None:
        policy = make_policy()
        held = [id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]]
        trained = [id(p) for network in (policy.actor, policy.critic, policy.value) for p in network.parameters()]
        assert sorted(held) == sorted(trained)

    def test_gradients_do_not_accumulate(self) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        policy.optimizer = torch.optim.SGD(policy.trained_parameters(), lr=0.0)
        objective = DichotomousObjective(tau=1e-12)
        apply_update(UPDATE, policy, batch, noise, objective)
        first = [parameter.grad.clone() for parameter in policy.trained_parameters()]
        apply_update(UPDATE, policy, batch, noise, objective)
        for once, again in zip(first, policy.trained_parameters(), strict=True):
            torch.testing.assert_close(again.grad, once)

    def test_returns_the_losses_before_the_step(self) -> None:
        policy, batch, noise = make_policy(), make_batch(), make_noise()
        before = compute_losses(policy, batch, noise, DichotomousObjective())
        outcome = apply_update(UPDATE, policy, batch, noise, DichotomousObjective())
        assert torch.equal(outcome.losses, before.losses)
        assert not outcome.total.requires_grad


class TestNoise:
    def test_shapes_and_laws(self) -> None:
        noise = draw_noise(20_000, 2, 0)
        for normal in (noise.start, noise.target_start):
            assert normal.shape == (20_000, 2)
            assert normal.mean().item() == pytest.approx(0.0, abs=0.02)
            assert normal.std().item() == pytest.approx(1.0, abs=0.02)
        assert noise.time.shape == (20_000, 1)
        assert noise.time.min() >= 0
        assert noise.time.max() <= 1
        assert noise.time.mean().item() == pytest.approx(0.5, abs=0.01)
        assert noise.time.var().item() == pytest.approx(1 / 12, abs=0.002)

    def test_training_and_bootstrap_noise_are_independent(self) -> None:
        noise = draw_noise(20_000, 1, 0)
        assert abs(np.corrcoef(noise.start[:, 0], noise.target_start[:, 0])[0, 1]) < 0.03

    def test_follows_the_generator(self) -> None:
        one, other, different = (draw_noise(4, 2, seed) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(one, different, strict=True))


class TestObjective:
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("beta", 0.0, "a number above 0"),
            ("beta", float("nan"), "a number above 0"),
            ("shift", float("inf"), "a finite number"),
            ("shift", float("nan"), "a finite number"),
            ("gamma", 1.01, r"a number in \[0, 1\]"),
            ("gamma", -0.1, r"a number in \[0, 1\]"),
            ("tau", 0.0, r"a number in \(0, 1\]"),
            ("expectile", 1.0, r"a number in \(0, 1\)"),
            ("expectile", 0.0, r"a number in \(0, 1\)"),
            ("critic_target", "v", "'policy' or 'value'"),
            ("q_agg", "max", "'min' or 'mean'"),
        ],
    )
    def test_out_of_range_is_refused(self, name: str, value: object, expected: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is .*, expected {expected}"):
            DichotomousObjective(**{name: value})  # type: ignore[arg-type]

    def test_limits_are_allowed(self) -> None:
        DichotomousObjective(gamma=0.0, tau=1.0)
        DichotomousObjective(gamma=1.0, shift=-20.0)
