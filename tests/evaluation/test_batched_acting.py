"""Several models in one evaluation: each acts as it does alone, whether their networks fit into one stack or not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from evaluation_environments import ACTION_SPACE, OBSERVATION_SPACE, EndsByAction, SometimesSilent
from gymnasium import spaces
from recordings import Arrays
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from dipole_sb3 import DIPOLE, load_dataset
from dipole_sb3.algorithms.dipole.policies import CnnPolicy, DIPOLEPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.common.random_state import TorchSequence
from dipole_sb3.evaluation.batched_acting import stack_policies
from dipole_sb3.evaluation.sweep import MAX_ENVIRONMENTS, evaluate_sweep, evaluate_sweeps

make_reacher = functools.partial(gymnasium.make, "Reacher-v5")
CPU = torch.device("cpu")


def over(omegas: Sequence[float], candidates: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"omega": omegas, "num_candidates": candidates}


def policy(seed: int = 0, policy_class: type[DIPOLEPolicy] = MlpPolicy, **arguments: Any) -> DIPOLEPolicy:
    observation_space = arguments.pop("observation_space", OBSERVATION_SPACE)
    torch.manual_seed(seed)
    return policy_class(observation_space, ACTION_SPACE, lambda _: 1e-3, **{"net_arch": [8, 8], **arguments})


def models(seeds: Sequence[int], **arguments: Any) -> list[DIPOLE]:
    """Untrained, for the small environments."""
    data = {
        "observations": np.random.default_rng(0).uniform(-1, 1, (32, 3)).astype(np.float32),
        "next_observations": np.zeros((32, 3), np.float32),
        "actions": np.zeros((32, 2), np.float32),
        "rewards": np.zeros(32, np.float32),
        "terminals": np.zeros(32, np.float32),
    }
    made = [
        DIPOLE("MlpPolicy", EndsByAction(), dataset=data, seed=seed, device="cpu", policy_kwargs={"net_arch": [8]})
        for seed in seeds
    ]
    for name, value in arguments.items():
        for model in made:
            setattr(model, name, value)
    return made


@pytest.mark.parametrize("num_candidates", [1, 3])
@pytest.mark.parametrize("omega", [-1.0, 0.0, 1.5])
def test_policies_that_act_together_act_as_each_alone(omega: float, num_candidates: int) -> None:
    policies = [policy(seed, actor_layer_norm=True, time_features=4) for seed in range(3)]
    generator = np.random.default_rng(0)
    observations = [generator.uniform(-1, 1, (batch, 3)).astype(np.float32) for batch in (4, 1, 3)]
    noise = [torch.randn(len(own) * num_candidates, 2) for own in observations]
    stack = stack_policies(policies)
    assert stack is not None
    together = stack.act(observations, noise, omega=omega, num_candidates=num_candidates)
    for one, own, from_noise, actions in zip(policies, observations, noise, together, strict=True):
        one.acting_noise = lambda *_, from_noise=from_noise, **__: from_noise  # type: ignore[method-assign]
        alone, _ = one.predict(own, omega=omega, num_candidates=num_candidates)
        assert actions.shape == alone.shape == (len(own), 2)
        np.testing.assert_allclose(actions, alone, atol=1e-5)
    assert not np.allclose(together[0][:1], together[1], atol=0.01)


IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


@pytest.mark.parametrize(
    ("policy_class", "space"),
    [(CnnPolicy, IMAGE), (MultiInputPolicy, spaces.Dict({"image": IMAGE, "arm": OBSERVATION_SPACE}))],
)
def test_policies_keep_their_own_features(policy_class: type[DIPOLEPolicy], space: spaces.Space[Any]) -> None:
    policies = [policy(seed, policy_class, observation_space=space) for seed in range(2)]
    space.seed(0)
    samples: list[Any] = [space.sample() for _ in range(3)]
    batch = (
        {key: np.stack([each[key] for each in samples]) for key in samples[0]}
        if isinstance(space, spaces.Dict)
        else np.stack(samples)
    )
    stack = stack_policies(policies)
    assert stack is not None
    noise = torch.randn(3 * 2, 2)
    together = stack.act([batch, batch], [noise, noise], omega=1.0, num_candidates=2)
    for one, actions in zip(policies, together, strict=True):
        one.acting_noise = lambda *_, **__: noise  # type: ignore[method-assign]
        np.testing.assert_allclose(actions, one.predict(batch, omega=1.0, num_candidates=2)[0], atol=1e-5)


class OwnWay(DIPOLEPolicy):
    """A user's own, which does not act by the networks alone."""

    def _predict(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return torch.full_like(super()._predict(*arguments, **keywords), 0.5)


@pytest.mark.parametrize(
    "other",
    [
        {"net_arch": [8, 9]},
        {"net_arch": {"pi": [8, 8], "qf": [9]}},
        {"flow_steps": 3},
        {"activation_fn": "tanh"},
        {"time_features": 2},
        {"policy_class": OwnWay},
    ],
)
def test_policies_of_different_architectures_are_not_stacked(other: dict[str, Any]) -> None:
    assert stack_policies([policy(0), policy(1, **other)]) is None


@pytest.mark.parametrize("activation", [nn.SiLU, nn.PReLU])
def test_activations_with_parameters_of_their_own_are_not_shared(activation: type[nn.Module]) -> None:
    policies = [policy(seed, activation_fn=activation) for seed in range(2)]
    assert (stack_policies(policies) is None) == (activation is nn.PReLU)


def test_a_stack_of_policies_that_act_in_a_way_of_their_own_is_none() -> None:
    assert stack_policies([policy(0, OwnWay), policy(1, OwnWay)]) is None


def test_a_sequence_of_noise_goes_on_where_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(7)
    outside = torch.randn(2)
    torch.manual_seed(7)
    sequence = TorchSequence(3, CPU)
    drawn, between = [], []
    for _ in range(2):
        with sequence.drawing():
            drawn.append(torch.randn(2))
        between.append(torch.randn(1))
    # Two numbers at a time and four at once are the same sequence.
    torch.testing.assert_close(torch.cat(drawn), expected)
    torch.testing.assert_close(torch.cat(between), outside)


def evaluated(evaluate: Callable[..., Any], whose: Any, make_env: Any, **arguments: Any) -> Any:
    return evaluate(whose, make_env, **{"grid": over([-1, 1], [1, 2]), "episodes": 5, "processes": 1, **arguments})


def test_each_of_several_models_gets_its_own_result() -> None:
    several = models(range(3))
    # Their episodes differ in length: the batches do, and one model is through before the others.
    together = evaluated(evaluate_sweeps, several, EndsByAction, seed=5)
    alone = [evaluated(evaluate_sweep, model, EndsByAction, seed=5) for model in several]
    for one, own in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.returns, own.returns, atol=1e-4)
        np.testing.assert_array_equal(one.successes, own.successes)
        assert [tuple(row.setting.values()) for row in one.rows] == [(-1, 1), (1, 1), (-1, 2), (1, 2)]
        assert one.seed == 5
    assert {success for result in alone for success in result.successes.flat} == {True, False}
    assert not np.allclose(alone[0].returns, alone[1].returns, atol=0.1)


def test_several_models_on_reacher() -> None:
    dataset = load_dataset("demo/reacher-tqc-10k", device="cpu")
    several = [
        DIPOLE("MlpPolicy", dataset=dataset, seed=seed, device="cpu", policy_kwargs={"net_arch": [16]}).learn(20)
        for seed in range(2)
    ]
    together = evaluated(evaluate_sweeps, several, make_reacher, grid=over([0.5], [1, 2]), processes=2)
    for one, model in zip(together, several, strict=True):
        alone = evaluated(evaluate_sweep, model, make_reacher, grid=over([0.5], [1, 2]))
        np.testing.assert_allclose(one.returns, alone.returns, atol=1e-3)


def test_models_that_cannot_be_stacked_are_evaluated_one_after_the_other() -> None:
    several = [*models([0]), *models([1], policy=policy(1, flow_steps=2))]
    together = evaluated(evaluate_sweeps, several, EndsByAction)
    for one, model in zip(together, several, strict=True):
        np.testing.assert_array_equal(one.returns, evaluated(evaluate_sweep, model, EndsByAction).returns)


def test_a_policy_that_acts_in_a_way_of_its_own_is_asked() -> None:
    several = models([0, 1], policy=policy(0, OwnWay))
    for result in evaluated(evaluate_sweeps, several, EndsByAction):
        # 0.5 of the bounds ±2 in each of 12 steps.
        np.testing.assert_allclose(result.returns, 12.0)


def test_each_model_normalises_by_its_own_statistics(pendulum_data: Arrays) -> None:
    def model(scale: float) -> DIPOLE:
        data = {**pendulum_data, "observations": scale * pendulum_data["observations"]}
        env = VecNormalize(DummyVecEnv([functools.partial(gymnasium.make, "Pendulum-v1")]))
        return DIPOLE("MlpPolicy", env, dataset=data, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}).learn(1)

    several = [model(1.0), model(0.2)]
    make_pendulum = functools.partial(gymnasium.make, "Pendulum-v1")
    arguments: dict[str, Any] = {"grid": over([0.5], [2]), "episodes": 2, "deterministic": True}
    together = evaluated(evaluate_sweeps, several, make_pendulum, **arguments)
    alone = [evaluated(evaluate_sweep, one, make_pendulum, **arguments) for one in several]
    np.testing.assert_allclose(together[0].returns, alone[0].returns, rtol=1e-3)
    np.testing.assert_allclose(together[1].returns, alone[1].returns, rtol=1e-3)
    assert not np.allclose(alone[0].returns, alone[1].returns, rtol=0.01)


def test_many_models_play_in_turns() -> None:
    made: list[EndsByAction] = []

    def make_env() -> EndsByAction:
        made.append(EndsByAction())
        return made[-1]

    several = models(range(6))
    together = evaluated(evaluate_sweeps, several, make_env, grid=over([1], [1]), episodes=16)
    # Three at a time with 16 environments each: six would need 96, and four would leave the last two alone.
    assert len(made) == 48 <= MAX_ENVIRONMENTS
    for one, model in zip(together, several, strict=True):
        alone = evaluated(evaluate_sweep, model, EndsByAction, grid=over([1], [1]), episodes=16)
        np.testing.assert_allclose(one.returns, alone.returns, atol=1e-4)


def test_nothing_to_evaluate_and_success_told_by_half_of_the_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="the number of models is 0, expected at least 1"):
        evaluated(evaluate_sweeps, [], EndsByAction)
    with pytest.raises(ValueError, match="2 of 4 episodes told success"):
        evaluated(evaluate_sweeps, models([0, 1]), SometimesSilent, episodes=4)


def test_the_result_does_not_depend_on_the_processes_where_environments_are_used_again() -> None:
    (model,) = models([0])
    one, two = (evaluated(evaluate_sweep, model, EndsByAction, episodes=20, processes=count) for count in (1, 2))
    np.testing.assert_array_equal(one.returns, two.returns)
