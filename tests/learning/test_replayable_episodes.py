"""Episodes that are played again: to the same observation, and on to the same ones after it."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from dipole_sb3 import ReplayableEpisodes
from dipole_sb3.datasets import make_env
from dipole_sb3.learning.replayable_episodes import episode_states, play_again, replayable


def several(env_id: str, n_envs: int = 2) -> VecEnv:
    return make_vec_env(lambda: make_env(env_id), n_envs, wrapper_class=ReplayableEpisodes)


def drive(env: VecEnv, actions: list[np.ndarray]) -> list[Any]:
    """Observations, rewards and ends under actions."""
    return [env.step(action)[:3] for action in actions]


def actions_of(env: VecEnv, count: int) -> list[np.ndarray]:
    env.action_space.seed(0)
    return [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(count)]


MAZE = "ogbench/pointmaze-medium-navigate-singletask-task1-v0"
"""Draws its start from NumPy's global generator."""


@pytest.mark.parametrize("env_id", ["Reacher-v5", "Hopper-v5", "Pendulum-v1", "MountainCarContinuous-v0", MAZE])
def test_plays_on_as_the_first_one_does(env_id: str) -> None:
    """Contacts, warm starts of the solver and the seeds of later episodes included."""
    first, second = several(env_id), several(env_id)
    actions = actions_of(first, 260)
    first.seed(3)
    first.reset()
    drive(first, actions[:130])
    states = episode_states(first)
    assert states is not None
    assert play_again(second, states) is None
    for one, other in zip(drive(first, actions[130:]), drive(second, actions[130:]), strict=True):
        np.testing.assert_equal(one, other)


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 120), seed=st.integers(0, 2**31 - 1))
def test_at_any_point_of_any_episode(before: int, seed: int) -> None:
    """Reacher's episodes have 50 steps: the point may be in the first, in a later one, or between two."""
    env, other = several("Reacher-v5", 1), several("Reacher-v5", 1)
    env.seed(seed)
    env.reset()
    drive(env, actions_of(env, before))
    (state,) = episode_states(env) or []
    assert len(state["actions"]) == before % 50
    assert play_again(other, [state]) is None
    rest = actions_of(env, 3)
    np.testing.assert_equal(drive(env, rest), drive(other, rest))


def test_the_first_episode_has_the_given_seed_and_later_ones_others() -> None:
    env, plain = ReplayableEpisodes(gymnasium.make("Reacher-v5")), gymnasium.make("Reacher-v5")
    first = env.reset(seed=7)[0]
    assert np.array_equal(first, plain.reset(seed=7)[0])
    later = [env.reset()[0] for _ in range(3)]
    assert len({tuple(observation) for observation in [first, *later]}) == 4
    env.reset(seed=7)
    np.testing.assert_equal([env.reset()[0] for _ in range(3)], later)


class DrawsGlobally(gymnasium.Env[Any, Any]):
    """Starts where Python's and NumPy's global generators say."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.array([random.random(), np.random.normal()], np.float32), {}


def test_a_start_from_global_generators_follows_from_the_seed_and_leaves_them_alone() -> None:
    env = ReplayableEpisodes(DrawsGlobally())
    starts = [env.reset(seed=seed)[0].tolist() for seed in (1, 2, 1, 2**40)]
    assert starts[0] == starts[2]
    assert starts[0] != starts[1]
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.normal(), np.random.normal()
    random.seed(5)
    np.random.seed(5)
    first = np.random.normal()
    env.reset()
    assert (random.random(), first, np.random.normal()) == expected


def test_is_an_ordinary_environment() -> None:
    check_env(ReplayableEpisodes(gymnasium.make("Pendulum-v1").unwrapped), skip_render_check=True)


class Placed(gymnasium.Env[Any, Any]):
    """Starts where the options say."""

    observation_space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = float((options or {}).get("start", 0.0))
        return {"x": np.array([self.x], np.float32)}, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x += float(action[0])
        return {"x": np.array([self.x], np.float32)}, 0.0, False, False, {}


def test_options_of_the_reset_are_part_of_an_episode() -> None:
    env = make_vec_env(Placed, 1, wrapper_class=ReplayableEpisodes)
    env.set_options({"start": 5.0})
    env.reset()
    env.step(np.array([[0.5]]))
    (state,) = episode_states(env) or []
    other = make_vec_env(Placed, 1, wrapper_class=ReplayableEpisodes)
    assert play_again(other, [state]) is None
    assert other.step(np.array([[0.25]]))[0]["x"] == 5.75
    difference = play_again(other, [{**state, "options": None}])
    assert difference == "environment 0 shows another observation after the seed and the 1 actions of its episode"


def test_which_environments_can_be_played_again() -> None:
    assert replayable(several("Pendulum-v1"))
    assert replayable(VecNormalize(several("Pendulum-v1")))
    assert not replayable(make_vec_env("Pendulum-v1", 2))
    assert episode_states(make_vec_env("Pendulum-v1", 2)) is None
