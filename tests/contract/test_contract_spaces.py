"""SB3's test_spaces: which spaces work, with and without an environment, and which are refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from algorithms import one_sentence, small
from gymnasium import spaces
from recordings import Arrays, record
from sampled_environments import ACTIONS, Sampled, dict_env, image_space, vector_space
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox

from dipole_sb3 import DatasetError, OfflineReplayBuffer

OBSERVATION_SPACES: dict[str, spaces.Space[Any]] = {
    "box_float32": vector_space(),
    "box_float64": vector_space(dtype=np.float64),
    "box_of_two_dimensions": spaces.Box(-1, 1, (3, 2), np.float32),
    "box_of_four_dimensions": spaces.Box(-1, 1, (2, 1, 3, 2), np.float32),
    "box_unbounded": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "box_of_bytes": image_space(5),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "dict_of_all": spaces.Dict(
        {"box": vector_space(), "discrete": spaces.Discrete(3), "binary": spaces.MultiBinary(2), "matrix": ACTIONS}
    ),
}

# What is inferred from arrays alone is a Box: they do not say which integers may occur.
INFERRED = [name for name in OBSERVATION_SPACES if name.startswith("box")]

ACTION_SPACES = {
    "symmetric": spaces.Box(-2, 2, (2,), np.float32),
    "asymmetric": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([5.0, 0.1], np.float32)),
    "two_dimensions": spaces.Box(-1, 1, (2, 3), np.float32),
    "two_dimensions_asymmetric": spaces.Box(np.full((2, 3), -2.0, np.float32), np.full((2, 3), 5.0, np.float32)),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
    "one": spaces.Box(0, 10, (1,), np.float32),
}


def policy_for(space: spaces.Space[Any]) -> str:
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


# Observations


@pytest.mark.filterwarnings("ignore:Your observation .*has an unconventional shape")
@pytest.mark.filterwarnings("ignore:.*observation space with type int")
@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_learns_online_with_observations(algorithm: Any, name: str) -> None:
    env = Sampled(OBSERVATION_SPACES[name])
    check_env(env)
    model = small(algorithm, policy_for(env.observation_space), env, learning_starts=0).learn(9)
    action, _ = model.predict(env.observation_space.sample(), deterministic=True)
    assert env.action_space.contains(action)


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_learns_from_recorded_observations_and_goes_on_online(algorithm: Any, name: str) -> None:
    env = Sampled(OBSERVATION_SPACES[name])
    policy = policy_for(env.observation_space)
    model = small(algorithm, policy, env, dataset=record(Sampled(env.observation_space), 40), offline_steps=2).learn(4)
    assert model.replay_buffer.size() == 40 + 2
    assert env.action_space.contains(model.predict(env.observation_space.sample())[0])


@pytest.mark.parametrize("name", INFERRED)
def test_infers_the_space_of_recorded_observations(algorithm: Any, name: str) -> None:
    env = Sampled(OBSERVATION_SPACES[name])
    model = small(algorithm, dataset=record(env, 40)).learn(2)
    assert model.observation_space.shape == env.observation_space.shape
    model.predict(env.observation_space.sample())


# Actions


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_learns_with_actions(algorithm: Any, name: str) -> None:
    env = Sampled(vector_space(), ACTION_SPACES[name])
    model = small(algorithm, env=env, dataset=record(env, 60), offline_steps=3).learn(8)
    observations = np.stack([env.observation_space.sample() for _ in range(20)])
    actions, _ = model.predict(observations)
    assert actions.shape == (20, *env.action_space.shape)
    assert actions.dtype == env.action_space.dtype
    assert all(env.action_space.contains(action) for action in actions)
    assert model.predict(observations[0])[0].shape == env.action_space.shape


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("name", ["two_dimensions_asymmetric", "asymmetric"])
def test_online_actions_are_kept_in_the_scale_of_the_recorded(algorithm: Any, name: str, n_envs: int) -> None:
    space = ACTION_SPACES[name]
    env = make_vec_env(lambda: Sampled(vector_space(), space), n_envs=n_envs)
    model = small(algorithm, env=env, learning_starts=20).learn(20)
    kept = model.replay_buffer.actions[: 20 // n_envs]
    assert kept.shape == (20 // n_envs, n_envs, np.prod(space.shape))
    assert -1 <= kept.min() < -0.5
    assert 0.5 < kept.max() <= 1


@pytest.mark.parametrize(("low", "high"), [(-2.0, 5.0), (0.0, 0.1), (-1.0, 1.0)])
def test_a_policy_of_extreme_actions_reaches_the_bounds(algorithm: Any, low: float, high: float) -> None:
    """What was recorded at the bounds is learned as ±1 and comes back as the bounds.

    Rewards have nothing to do with it, but some are better than expected, for algorithms that learn from those alone.
    """
    at_bounds = np.where(np.arange(200)[:, None] % 2 == 0, low, high).astype(np.float32)
    data = {
        "observations": np.where(at_bounds == low, -1, 1).astype(np.float32),
        "actions": at_bounds,
        "rewards": np.random.default_rng(0).integers(0, 2, 200).astype(np.float32),
        "next_observations": np.zeros((200, 1), np.float32),
        "masks": np.zeros(200, np.float32),
    }
    space = spaces.Box(low, high, (1,), np.float32)
    model = small(algorithm, dataset=OfflineReplayBuffer.from_arrays(data, action_space=space), learning_rate=1e-2)
    lowest, highest = model.learn(300).predict(np.array([[-1.0], [1.0]]), deterministic=True)[0]
    assert lowest == pytest.approx(low, abs=0.15 * (high - low))
    assert highest == pytest.approx(high, abs=0.15 * (high - low))


def test_predicted_actions_are_never_outside_by_rounding(algorithm: Any) -> None:
    """low + (high − low) is above high for about one pair of float32 numbers in ten."""
    random = np.random.default_rng(0)
    low = random.uniform(-1, 1, 100).astype(np.float32)
    high = (low + random.uniform(0.01, 2, 100)).astype(np.float32)
    assert (low + (high - low) > high).any()
    space = spaces.Box(low, high, dtype=np.float32)
    model = small(algorithm, env=Sampled(vector_space(), space))
    model.policy.act = lambda *_, **__: torch.ones(2, 100)
    actions, _ = model.predict(np.ones((2, 3), np.float32), deterministic=True)
    np.testing.assert_allclose(actions[0], space.high, rtol=1e-6)
    assert space.contains(actions[0])


# Refusals


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(-1, np.inf, (2,)),
        spaces.Box(0, 0, (2,)),
        spaces.Discrete(2, start=-1),
    ],
    ids=["discrete", "multi_discrete", "multi_binary", "unbounded", "half_bounded", "without_range", "shifted"],
)
@pytest.mark.parametrize("with_data", [False, True], ids=["alone", "beside_data"])
def test_refuses_other_action_spaces(
    algorithm: Any, space: spaces.Space[Any], with_data: bool, reacher_data: Arrays
) -> None:
    dataset = OfflineReplayBuffer.from_arrays(reacher_data) if with_data else None
    with pytest.raises(ValueError, match=r"needs .*actions.*: found ") as refusal:
        small(algorithm, env=Sampled(vector_space(), space), dataset=dataset)
    one_sentence(refusal.value, "found", "expected a ", "Box", str(type(space).__name__))


def test_refuses_discrete_actions_in_data(algorithm: Any, reacher_data: Arrays) -> None:
    with pytest.raises(DatasetError) as refusal:
        small(algorithm, dataset={**reacher_data, "actions": np.zeros(320, np.int64)})
    one_sentence(refusal.value, "dataset: actions has shape (320,)", "expected", "continuous")


class TestDataThatDisagrees:
    """One sentence that names the data, the key, what was found and what was expected."""

    def refuses(self, algorithm: Any, env: Any, dataset: Any, *words: str) -> None:
        policy = "MultiInputPolicy" if isinstance(env, Sampled) else "MlpPolicy"
        with pytest.raises(DatasetError) as refusal:
            small(algorithm, policy, env, dataset=dataset)
        one_sentence(refusal.value, *words)

    @pytest.mark.parametrize("key", ["observations", "next_observations", "actions"])
    def test_shape(self, algorithm: Any, pendulum_data: Arrays, key: str) -> None:
        wrong = {**pendulum_data, key: np.concatenate([pendulum_data[key]] * 2, axis=1)}
        width = pendulum_data[key].shape[1]
        found, expected = f"{key} has shape (450, {2 * width})", f"expected (450, {width})"
        self.refuses(algorithm, "Pendulum-v1", wrong, "dataset: ", found, expected)

    def test_shape_of_named_data(self, algorithm: Any) -> None:
        words = ("demo/reacher-tqc-10k: ", "observation has shape (10,)", "expects (3,)")
        self.refuses(algorithm, "Pendulum-v1", "demo/reacher-tqc-10k", *words)

    def test_actions_outside_the_bounds(self, algorithm: Any, pendulum_data: Arrays) -> None:
        too_large = {**pendulum_data, "actions": 3 * pendulum_data["actions"]}
        self.refuses(algorithm, "Pendulum-v1", too_large, "dataset: actions row ", "expected a value in [-2, 2]")

    def test_other_action_bounds(self, algorithm: Any, pendulum_data: Arrays) -> None:
        """Actions in [−1, 1] could be meant as they are, or as shares of the bounds: only the user knows."""
        halved = {**pendulum_data, "actions": pendulum_data["actions"] / 2}
        assumed = OfflineReplayBuffer.from_arrays(halved, source="log 7")
        self.refuses(algorithm, "Pendulum-v1", assumed, "log 7: actions[0]", "[-1, 1]", "[-2, 2]")

    def test_bytes_for_numbers(self, algorithm: Any, pendulum_data: Arrays) -> None:
        wrong = {**pendulum_data, "observations": np.zeros((450, 3), np.uint8)}
        self.refuses(algorithm, "Pendulum-v1", wrong, "observations has dtype uint8", "expected float32")

    def test_numbers_for_bytes(self, algorithm: Any, dict_data: Arrays) -> None:
        camera = dict_data["observations"]["camera"].astype(np.float32)
        wrong = {**dict_data, "observations": {**dict_data["observations"], "camera": camera}}
        words = ("observations['camera'] has dtype float32", "expected uint8")
        self.refuses(algorithm, dict_env(), wrong, *words)

    @pytest.mark.parametrize("keys", [("joints",), ("joints", "camera", "more")], ids=["missing", "more"])
    def test_keys(self, algorithm: Any, dict_data: Arrays, keys: tuple[str, ...]) -> None:
        part = {key: dict_data["observations"].get(key, dict_data["observations"]["joints"]) for key in keys}
        words = (f"observations has {sorted(keys)}", "expected the keys ['camera', 'joints']")
        self.refuses(algorithm, dict_env(), {**dict_data, "observations": part}, *words)

    def test_one_array_for_a_dict(self, algorithm: Any, pendulum_data: Arrays) -> None:
        self.refuses(algorithm, dict_env(), pendulum_data, "observations has one array", "['camera', 'joints']")

    def test_a_dict_for_one_array(self, algorithm: Any, dict_data: Arrays) -> None:
        self.refuses(algorithm, "Pendulum-v1", dict_data, "observations is a mapping", "expected one array")

    def test_not_a_number(self, algorithm: Any, pendulum_data: Arrays) -> None:
        broken = pendulum_data["observations"].copy()
        broken[17, 1] = np.nan
        words = ("observations has NaN or infinity", "row 17", "expected finite")
        self.refuses(algorithm, "Pendulum-v1", {**pendulum_data, "observations": broken}, *words)

    def test_nothing_is_kept_of_refused_data(self, model: Any, pendulum_data: Arrays) -> None:
        kept = model.replay_buffer
        with pytest.raises(DatasetError):
            model.set_dataset(pendulum_data)
        assert model.replay_buffer is model.dataset is kept


def test_refuses_a_replay_buffer_class_that_cannot_hold_recorded_data(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="replay_buffer_class") as refusal:
        small(algorithm, env=IdentityEnvBox(), replay_buffer_class=ReplayBuffer)
    one_sentence(refusal.value, "found", "ReplayBuffer", "expected", "MixedReplayBuffer")
