"""OGBench's data sets with goals: rewards of goals are ogbench's own successes, in environments and in data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ogbench as reference
import pytest
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.env_checker import check_env

from dipole_sb3 import DIPOLE, HindsightReplayBuffer, load_dataset
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import make_env, ogbench

ENVIRONMENTS = [
    "pointmaze-medium-navigate-v0",
    "pointmaze-teleport-navigate-v0",
    "antmaze-medium-navigate-v0",
    "humanoidmaze-medium-navigate-v0",
    "antsoccer-arena-navigate-v0",
    "cube-single-play-v0",
    "cube-triple-play-v0",
    "scene-play-v0",
    "puzzle-3x3-play-v0",
]
SETS = ["pointmaze-medium-navigate", "cube-double-play", "scene-play", "puzzle-3x3-play"]
"""Made for the tests of this folder."""


def put_near_the_goal(world: Any, random: np.random.Generator, share: float) -> None:
    """Puts everything that success depends on where it is wanted, but for about ``share`` of the tolerances."""

    def apart(size: int, tolerance: float) -> np.ndarray:
        direction = random.normal(size=size)
        return np.asarray(direction / np.linalg.norm(direction) * tolerance * share)

    if hasattr(world, "cur_goal_xy"):
        place = np.array(world.cur_goal_xy) + apart(2, world._goal_tol)
        if hasattr(world, "set_agent_ball_xy"):
            world.set_agent_ball_xy(random.uniform(0, 8, 2), place)
        else:
            world.set_xy(place)
        return
    for cube in range(getattr(world, "_num_cubes", 0)):
        target = world._data.mocap_pos[world._cube_target_mocap_ids[cube]]
        world._data.joint(f"object_joint_{cube}").qpos[:3] = target + apart(3, 0.04)
    if hasattr(world, "_target_button_states"):
        wrong = random.random(world._num_buttons) < (share > 1) * 0.3
        world._cur_button_states = (world._target_button_states + wrong) % 2
    if hasattr(world, "_target_drawer_pos"):
        world._data.joint("drawer_slide").qpos[0] = world._target_drawer_pos + apart(1, 0.04)[0]
        world._data.joint("window_slide").qpos[0] = world._target_window_pos + apart(1, 0.04)[0]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_rewards_of_goals_are_the_environments_successes(name: str) -> None:
    """In states on both sides of the tolerances, for every task."""
    env = ogbench.make_env(name, terminate_at_goal=False)
    random = np.random.default_rng(0)
    rewards = []
    for trial in range(60):
        if trial % 12 == 0:
            observation, _ = env.reset(seed=trial, options={"task_id": trial // 12 + 1})
            assert observation in env.observation_space
        put_near_the_goal(env.unwrapped, random, share=random.choice([0.1, 0.8, 1.3]))
        observation, reward, terminated, _, info = env.step(random.uniform(-0.1, 0.1, env.action_space.shape))
        assert reward == info["success"] - 1
        assert info["is_success"] == info["success"]
        assert not terminated
        again = env.get_wrapper_attr("compute_reward")
        assert again(observation["achieved_goal"], observation["desired_goal"], info) == reward
        rewards.append(reward)
    assert 5 < rewards.count(0.0) < 55
    env.close()


@pytest.mark.parametrize("name", ["pointmaze-medium-navigate-v0", "cube-double-play-v0", "scene-play-v0"])
def test_goals_are_ogbenchs_oracle_representation(name: str) -> None:
    """As in its sets of that name; its own goal is looked at after a few steps, in which cubes fall by millimetres."""
    env = ogbench.make_env(name, use_oracle_rep=True)
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        np.testing.assert_allclose(observation["desired_goal"], info["goal"], atol=0.05)
        if hasattr(env.unwrapped, "compute_oracle_observation"):
            oracle = env.unwrapped.compute_oracle_observation()
            np.testing.assert_allclose(observation["achieved_goal"], oracle, rtol=1e-6, atol=1e-6)
    env.close()


def test_the_ends_of_episodes_stay_ogbenchs() -> None:
    env = make_env("ogbench/pointmaze-medium-navigate-v0", max_episode_steps=5)
    env.reset(seed=0, options={"task_id": 2})
    world: Any = env.unwrapped
    assert world.cur_task_id == 2
    world.set_xy(np.array(world.cur_goal_xy))
    _, reward, terminated, _, _ = env.step(np.zeros(2, np.float32))
    assert (reward, terminated) == (0.0, True)
    env.reset(seed=1)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    check_env(env)


def test_many_goals_are_rewarded_at_once() -> None:
    env: Any = ogbench.make_env("scene-play-v0")
    observation, _ = env.reset(seed=0)
    goals = np.repeat(observation["desired_goal"][None], 5, axis=0)
    goals[1, 0] += 0.39  # 0.039 m of the cube
    goals[2, 0] += 0.41
    goals[3, 3] = 1 - goals[3, 3]  # a button
    goals[4, -1] += 0.61  # 0.0407 m of the window
    rewards = env.compute_reward(goals, goals[[0] * 5], [{}] * 5)
    np.testing.assert_array_equal(rewards, np.array([0, 0, -1, -1, -1], np.float32))
    assert rewards.dtype == np.float32


@pytest.mark.parametrize("stem", SETS)
def test_data_are_those_of_ogbench_with_the_goals_of_its_rule(stem: str, ogbench_sets: Path) -> None:
    buffer = load_dataset(f"ogbench/{stem}-v0", dataset_dir=ogbench_sets)
    env, train, validation = reference.make_env_and_datasets(
        f"{stem}-oraclerep-v0", dataset_dir=str(ogbench_sets), add_info=True
    )
    for found, expected in ((buffer, train), (buffer.validation, validation)):
        assert found is not None
        states: Any = found.observations
        following: Any = found.next_observations
        np.testing.assert_array_equal(states["observation"][:, 0], expected["observations"])
        np.testing.assert_array_equal(following["observation"][:, 0], expected["next_observations"])
        np.testing.assert_allclose(states["achieved_goal"][:, 0], expected["oracle_reps"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.dones[:, 0], expected["terminals"])
        np.testing.assert_array_equal(found.timeouts[:, 0], expected["terminals"])
        ends = np.flatnonzero(expected["terminals"])
        first = 0
        for last in ends:
            np.testing.assert_array_equal(
                states["desired_goal"][first : last + 1, 0],
                np.repeat(following["achieved_goal"][last], last + 1 - first, 0),
            )
            first = last + 1
        np.testing.assert_array_equal(following["desired_goal"], states["desired_goal"])
        assert found.rewards[ends].max() == found.rewards[ends].min() == 0
    assert buffer.metadata["env_id"] == env.spec.id
    ours: Any = make_env(buffer)
    assert ours.observation_space == buffer.observation_space
    assert ours.action_space == buffer.action_space
    data: Any = buffer.next_observations
    rewards = ours.compute_reward(data["achieved_goal"][:, 0], data["desired_goal"][:, 0], [])
    np.testing.assert_array_equal(buffer.rewards[:, 0], rewards)


def test_rewards_of_data_are_ogbenchs_for_the_same_goal(ogbench_sets: Path) -> None:
    """A single task's goal as the desired goal of its recorded states: ogbench's own masks tell success."""
    name = "cube-double-play-singletask-task2-v0"
    single = ogbench.load(name, dataset_dir=ogbench_sets, validation=False)
    many: Any = ogbench.load("cube-double-play-v0", dataset_dir=ogbench_sets, validation=False).observations
    env = ogbench.GoalConditioned(gymnasium.make("cube-double-singletask-task2-v0"))
    observation, _ = env.reset(seed=0)
    achieved = many["achieved_goal"][:, 0]
    masks = 1 - single.dones[:, 0] * (1 - single.timeouts[:, 0])
    goals = np.broadcast_to(observation["desired_goal"], achieved.shape)
    np.testing.assert_array_equal(env.compute_reward(achieved, goals, []), -masks)


@pytest.mark.parametrize("stem", ["pointmaze-medium-navigate", "cube-double-play"])
def test_hindsight_learns_from_recorded_goals_and_goes_on_online(stem: str, ogbench_sets: Path) -> None:
    data = load_dataset(f"ogbench/{stem}-v0", dataset_dir=ogbench_sets, device="cpu")
    env = make_env(data, max_episode_steps=8)
    model = DIPOLE(
        "MultiInputPolicy", env, dataset=data, replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"}, offline_steps=3,
        policy_kwargs={"net_arch": [8]}, batch_size=64, flow_steps=2, device="cpu",
    )  # fmt: skip
    buffer: Any = model.replay_buffer
    assert isinstance(buffer, HindsightReplayBuffer)
    batch = buffer.draw(500, model.training_generator)
    wanted = batch.observations["desired_goal"].numpy()
    achieved = batch.next_observations["achieved_goal"].numpy()
    np.testing.assert_array_equal(batch.rewards, env.get_wrapper_attr("compute_reward")(achieved, wanted, []))
    assert {0.0, -1.0} == set(batch.rewards.tolist())
    model.learn(20)
    assert buffer.n_online == 17
    assert {0.0, -1.0} == set(buffer.draw(500, model.training_generator).rewards.tolist())


def test_stable_baselines3s_own_hindsight_takes_the_environment() -> None:
    env = ogbench.make_env("pointmaze-medium-navigate-v0", max_episode_steps=10)
    agent = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=20, batch_size=8)
    agent.learn(25)
    assert agent.num_timesteps == 25


class TestRefusals:
    def test_other_environments(self) -> None:
        with pytest.raises(
            ValueError, match=r"found PendulumEnv with observations Box\(.*expected a maze, cube, scene"
        ):
            ogbench.GoalConditioned(gymnasium.make("Pendulum-v1"))

    def test_success_before_the_action(self) -> None:
        with pytest.raises(ValueError, match="success_timing is 'pre'; expected 'post': goals are judged by what"):
            ogbench.make_env("cube-single-play-v0", success_timing="pre")

    def test_a_file_that_lacks_something(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "cube-single-play-v0.npz", actions=np.zeros((3, 5)), terminals=np.array([0, 0, 1]))
        with pytest.raises(DatasetError, match=r"cube-single-play-v0\.npz: lacks observations; found actions"):
            ogbench.load("cube-single-play-v0", dataset_dir=tmp_path, validation=False, download=False)
