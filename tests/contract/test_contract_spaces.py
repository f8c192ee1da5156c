"""Spaces, policies, extractors, and data that must agree with them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import small
from gymnasium import spaces
from recordings import record
from sampled_environments import dict_env, image_env
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from dipole_sb3 import DatasetError, OfflineReplayBuffer


class Drifting(gymnasium.Env[Any, Any]):
    """Any pair of spaces: observations are sampled, episodes last five steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 5, {}


ACTION = spaces.Box(-1, 1, (2,), np.float32)

OBSERVATION_SPACES = {
    "Box float32": spaces.Box(-1, 1, (3,), np.float32),
    "Box float64": spaces.Box(-1, 1, (3,), np.float64),
    "Box of two dimensions": spaces.Box(-1, 1, (3, 2), np.float32),
    "Box unbounded": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
}

ACTION_SPACES = {
    "symmetric": spaces.Box(-2, 2, (2,), np.float32),
    "asymmetric": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([5.0, 0.1], np.float32)),
    "two dimensions": spaces.Box(-1, 1, (2, 3), np.float32),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
}


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_observation_space(algorithm: Any, name: str) -> None:
    env = Drifting(OBSERVATION_SPACES[name], ACTION)
    check_env(env)
    model = small(algorithm, env=env, learning_starts=0).learn(12)
    action, _ = model.predict(env.observation_space.sample(), deterministic=True)
    assert env.action_space.contains(action)


@pytest.mark.parametrize("name", [name for name in OBSERVATION_SPACES if name.startswith("Box")])
def test_recorded_observation_space(algorithm: Any, name: str) -> None:
    env = Drifting(OBSERVATION_SPACES[name], ACTION)
    small(algorithm, env=env, dataset=record(env, 40)).learn(2)
    small(algorithm, dataset=record(env, 40)).learn(2)


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_action_space(algorithm: Any, name: str) -> None:
    env = Drifting(OBSERVATION_SPACES["Box float32"], ACTION_SPACES[name])
    model = small(algorithm, env=env, dataset=record(env, 60), offline_steps=3).learn(8)
    actions, _ = model.predict(np.stack([env.observation_space.sample() for _ in range(20)]))
    assert actions.shape == (20, *env.action_space.shape)
    for action in actions:
        assert env.action_space.contains(action.astype(env.action_space.dtype))


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2,))],
    ids=lambda space: type(space).__name__,
)
def test_other_action_spaces_are_refused(algorithm: Any, space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"needs (continuous|bounded) actions: found .*expected a .*Box") as refusal:
        small(algorithm, env=Drifting(OBSERVATION_SPACES["Box float32"], space))
    assert "\n" not in str(refusal.value)


class TestDictObservations:
    def test_online(self, algorithm: Any) -> None:
        env = dict_env()
        model = small(algorithm, "MultiInputPolicy", env=env, learning_starts=0, train_freq=5).learn(10)
        assert env.action_space.contains(model.predict(env.reset()[0])[0])

    @pytest.mark.parametrize("with_environment", [False, True])
    def test_recorded(self, algorithm: Any, dict_data: dict[str, Any], with_environment: bool) -> None:
        env = dict_env()
        dataset = OfflineReplayBuffer.from_arrays(dict_data, action_space=env.action_space)
        model = small(algorithm, "MultiInputPolicy", env=env if with_environment else None, dataset=dataset).learn(2)
        batch = {key: value[:4] for key, value in dict_data["observations"].items()}
        assert model.predict(batch)[0].shape == (4, 2)
        assert model.predict({key: value[0] for key, value in batch.items()})[0].shape == (2,)

    def test_normalised_by_key(self, algorithm: Any, dict_data: dict[str, Any]) -> None:
        env = VecNormalize(DummyVecEnv([dict_env]), norm_obs_keys=["joints"])
        dataset = OfflineReplayBuffer.from_arrays(dict_data, action_space=env.action_space)
        model = small(algorithm, "MultiInputPolicy", env=env, dataset=dataset).learn(2)
        np.testing.assert_allclose(env.obs_rms["joints"].mean, dict_data["observations"]["joints"].mean(0), rtol=1e-4)
        assert model._draw(16).observations["camera"].dtype == torch.uint8

    def test_needs_its_policy(self, algorithm: Any) -> None:
        with pytest.raises(ValueError, match="MultiInputPolicy"):
            small(algorithm, "MlpPolicy", env=dict_env())


class TestImages:
    def test_online(self, algorithm: Any) -> None:
        small(algorithm, "CnnPolicy", env=image_env(), learning_starts=0, train_freq=5).learn(5)

    @pytest.mark.parametrize("with_environment", [False, True])
    def test_recorded_channels_last(self, algorithm: Any, image_data: dict[str, Any], with_environment: bool) -> None:
        env = image_env() if with_environment else None
        model = small(algorithm, "CnnPolicy", env=env, dataset=image_data).learn(2)
        assert model.observation_space.shape == (3, 36, 36)
        assert np.shares_memory(model.replay_buffer.observations, image_data["observations"])
        # Users hand in what their camera gives, either way round.
        last, _ = model.predict(image_data["observations"][:2], deterministic=True)
        first, _ = model.predict(image_data["observations"][:2].transpose(0, 3, 1, 2), deterministic=True)
        np.testing.assert_allclose(last, first, rtol=1e-6)


class Regularised(BaseFeaturesExtractor):
    """Dropout and batch normalisation: modules that act differently while training."""

    def __init__(self, observation_space: spaces.Box, width: int = 8) -> None:
        super().__init__(observation_space, width)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(observation_space.shape[0], width), nn.BatchNorm1d(width), nn.Dropout(0.5)
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations)  # type: ignore[no-any-return]


class TestTrainAndEvaluationMode:
    @pytest.fixture
    def model(self, algorithm: Any, reacher_data: dict[str, Any]) -> Any:
        kwargs = {"net_arch": [16], "features_extractor_class": Regularised, "features_extractor_kwargs": {"width": 6}}
        return small(algorithm, dataset=reacher_data, policy_kwargs=kwargs)

    def test_predict_does_not_drop_out(self, model: Any, reacher_data: dict[str, Any]) -> None:
        model.learn(3)
        observation = reacher_data["observations"][:4]
        assert np.array_equal(
            model.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
        )

    def test_predict_leaves_statistics_alone(self, model: Any, reacher_data: dict[str, Any]) -> None:
        model.learn(3)
        before = {name: value.clone() for name, value in model.policy.named_buffers()}
        model.predict(reacher_data["observations"])
        assert all(torch.equal(value, before[name]) for name, value in model.policy.named_buffers())

    def test_training_moves_statistics(self, model: Any) -> None:
        before = {name: value.clone() for name, value in model.policy.named_buffers() if "running_mean" in name}
        model.learn(3)
        after = dict(model.policy.named_buffers())
        assert before
        assert all(not torch.equal(after[name], value) for name, value in before.items())

    def test_mode_follows_what_is_done(self, model: Any, reacher_data: dict[str, Any]) -> None:
        model.learn(1)
        assert model.policy.training
        model.predict(reacher_data["observations"][0])
        assert not model.policy.training


@pytest.mark.parametrize(
    "kwargs",
    [
        {"net_arch": {"pi": [8], "qf": [12, 12]}},
        {"net_arch": []},
        {"net_arch": [8], "activation_fn": "tanh"},
        {"net_arch": [8], "activation_fn": nn.ReLU},
        {"net_arch": [8], "activation_fn": "mish", "actor_layer_norm": True, "time_features": 16},
        {"net_arch": [8], "optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 1e-3}},
        {"net_arch": [8], "optimizer_class": torch.optim.SGD},
    ],
    ids=lambda kwargs: "-".join(key for key in kwargs if key != "net_arch") or str(kwargs["net_arch"]),
)
def test_policy_kwargs(algorithm: Any, reacher_data: dict[str, Any], kwargs: dict[str, Any]) -> None:
    small(algorithm, dataset=reacher_data, policy_kwargs=kwargs).learn(2)


def test_unknown_activation_is_refused(algorithm: Any, reacher_data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown activation_fn 'swosh'"):
        small(algorithm, dataset=reacher_data, policy_kwargs={"activation_fn": "swosh"})


class TestDataThatDisagrees:
    """One sentence that names the data, the key, what was found and what was expected."""

    def refusal(self, algorithm: Any, env: Any, dataset: Any, policy: str = "MlpPolicy") -> str:
        with pytest.raises(DatasetError) as refusal:
            small(algorithm, policy, env=env, dataset=dataset)
        sentence = str(refusal.value)
        assert "\n" not in sentence
        return sentence

    def test_observation_shape(self, algorithm: Any, pendulum_data: dict[str, Any]) -> None:
        wrong = {**pendulum_data, "observations": pendulum_data["observations"][:, :2]}
        assert "observations has shape (450, 2), expected (450, 3)" in self.refusal(algorithm, "Pendulum-v1", wrong)

    def test_loaded_for_another_environment(self, algorithm: Any) -> None:
        sentence = self.refusal(algorithm, "Pendulum-v1", "demo/reacher-tqc-10k")
        assert "demo/reacher-tqc-10k" in sentence
        assert "observation has shape (10,), the environment expects (3,)" in sentence

    def test_action_bounds(self, algorithm: Any, pendulum_data: dict[str, Any]) -> None:
        too_large = {**pendulum_data, "actions": 3 * pendulum_data["actions"]}
        assert "actions row" in self.refusal(algorithm, "Pendulum-v1", too_large)
        halved = {**pendulum_data, "actions": pendulum_data["actions"] / 2}
        assumed = OfflineReplayBuffer.from_arrays(halved, source="log 7")
        assert "log 7: actions" in self.refusal(algorithm, "Pendulum-v1", assumed)

    def test_images_for_numbers(self, algorithm: Any, pendulum_data: dict[str, Any]) -> None:
        images = {**pendulum_data, "observations": np.zeros((450, 3), np.uint8)}
        assert "dtype uint8, expected float32" in self.refusal(algorithm, "Pendulum-v1", images)

    def test_keys(self, algorithm: Any, dict_data: dict[str, Any]) -> None:
        other = {**dict_data, "observations": {"joints": dict_data["observations"]["joints"]}}
        sentence = self.refusal(algorithm, dict_env(), other, "MultiInputPolicy")
        assert "observations has ['joints'], expected the keys ['camera', 'joints']" in sentence

    def test_not_a_number(self, algorithm: Any, pendulum_data: dict[str, Any]) -> None:
        broken = pendulum_data["observations"].copy()
        broken[17, 1] = np.nan
        sentence = self.refusal(algorithm, "Pendulum-v1", {**pendulum_data, "observations": broken})
        assert "observations has NaN or infinity" in sentence
