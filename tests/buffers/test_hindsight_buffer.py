"""Hindsight goals: batches are SB3's for the same choices, and recorded, gathered and resumed episodes are the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goal_environments import Point
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.buffers.hindsight_buffer import HindsightReplayBuffer
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import storage

STRATEGIES = ["future", "final", "episode"]

few = settings(max_examples=40, deadline=None)


def point_env(n_envs: int = 1, seed: int = 0) -> DummyVecEnv:
    lengths = (4, 1, 6, 3)
    return DummyVecEnv(
        [lambda i=i: Point(lengths[i:] + lengths[:i], seed + i) for i in range(n_envs)]  # type: ignore[misc]
    )


def gather(steps: int, env: DummyVecEnv, *buffers: Any, first: Any = None, seed: int = 0) -> Any:
    """Random steps into all buffers; the last observations."""
    random = np.random.default_rng(seed)
    observations = env.reset() if first is None else first
    for _ in range(steps):
        actions = random.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
        following, rewards, dones, infos = env.step(actions)
        true_following = {key: value.copy() for key, value in following.items()}  # type: ignore[union-attr]
        for index in np.flatnonzero(dones):
            for key, value in infos[index]["terminal_observation"].items():
                true_following[key][index] = value
        for buffer in buffers:
            buffer.add(observations, true_following, actions, rewards, dones, infos)
        observations = following
    return observations


def buffers(n_envs: int, capacity: int, **options: Any) -> tuple[HindsightReplayBuffer, HerReplayBuffer, DummyVecEnv]:
    env = point_env(n_envs)
    shape: Any = (capacity * n_envs, env.observation_space, env.action_space)
    ours = HindsightReplayBuffer(*shape, device="cpu", n_envs=n_envs, env=env, **options)
    theirs = HerReplayBuffer(*shape, env=env, device="cpu", n_envs=n_envs, **options)
    return ours, theirs, env


@few
@given(
    st.integers(1, 3),
    st.integers(8, 30),
    st.integers(1, 70),
    st.sampled_from(STRATEGIES),
    st.integers(0, 6),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_batches_are_stable_baselines3s_for_the_same_choices(
    n_envs: int,
    capacity: int,
    steps: int,
    strategy: str,
    n_sampled_goal: int,
    batch_size: int,
    copy_info_dict: bool,
    normalizes: bool,
    seed: int,
) -> None:
    """Through SB3's own sample(), with the random numbers of both replaced by the same ones."""
    options = {
        "goal_selection_strategy": strategy,
        "n_sampled_goal": n_sampled_goal,
        "copy_info_dict": copy_info_dict,
    }
    ours, theirs, env = buffers(n_envs, capacity, **options)
    gather(steps, env, ours, theirs)
    finished = np.flatnonzero(theirs.ep_length > 0)
    np.testing.assert_array_equal(ours._finished_indices(), finished)
    if not len(finished):
        with pytest.raises(DatasetError, match="no episode is over yet"):
            ours.sample(batch_size)
        return
    statistics = None
    if normalizes:
        statistics = VecNormalize(env, norm_obs_keys=["observation", "desired_goal"])
        statistics.reset()
        for _ in range(5):
            statistics.step(np.zeros((n_envs, 2)))
    random = np.random.default_rng(seed)
    chosen = random.choice(finished, batch_size)
    virtual = ours._relabelled_places(batch_size)
    real = np.setdiff1d(np.arange(batch_size), virtual)
    assert len(virtual) == int(theirs.her_ratio * batch_size)
    uniform = random.random(len(virtual))

    def integers(low: Any, high: Any = None, *_: Any) -> Any:
        return 0 if high is None else low + np.floor(uniform * (high - low)).astype(int)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "draw_indices", lambda *_: torch.from_numpy(chosen))
        patch.setattr(torch, "rand", lambda *_, **__: torch.from_numpy(uniform))
        patch.setattr(np.random, "choice", lambda *_, **__: np.concatenate([chosen[virtual], chosen[real]]))
        patch.setattr(np.random, "randint", integers)
        mine, its = ours.sample(batch_size, statistics), theirs.sample(batch_size, statistics)
    order = np.concatenate([real, virtual])
    for key in env.observation_space:  # type: ignore[attr-defined]
        np.testing.assert_array_equal(mine.observations[key][order], its.observations[key], err_msg=key)
        np.testing.assert_array_equal(mine.next_observations[key][order], its.next_observations[key], err_msg=key)
    for name in ("actions", "dones", "rewards"):
        np.testing.assert_array_equal(getattr(mine, name)[order], getattr(its, name), err_msg=name)


def drawn(buffer: HindsightReplayBuffer, n_steps: int = 1, seed: int = 0, size: int = 64) -> Batch:
    return buffer.draw(size, torch.Generator().manual_seed(seed), n_steps)


def same(one: Batch, other: Batch) -> None:
    for name, mine, its in zip(one._fields, one, other, strict=True):
        if isinstance(mine, dict):
            for key in mine:
                np.testing.assert_array_equal(mine[key], its[key], err_msg=f"{name} {key}")
        elif mine is not None:
            np.testing.assert_array_equal(mine, its, err_msg=name)


def recorded_episodes(steps: int = 28) -> tuple[OfflineReplayBuffer, DummyVecEnv]:
    """Whole episodes, as OfflineReplayBuffer."""
    env = point_env()
    shape: Any = (steps, env.observation_space, env.action_space, "cpu")
    ring = OfflineReplayBuffer(*shape)
    gather(steps, env, ring)
    assert ring.dones[-1] == 1
    return ring, env


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_recorded_stored_and_gathered_episodes_give_the_same_batches(
    tmp_path: Path, strategy: str, n_steps: int
) -> None:
    data, env = recorded_episodes()
    gathered = HindsightReplayBuffer(
        28, env.observation_space, env.action_space, "cpu", env=env, goal_selection_strategy=strategy
    )
    gather(28, point_env(), gathered)
    storage.save(data, tmp_path / "points")
    for recorded in (data, storage.load(tmp_path / "points", device="cpu")):
        beside = HindsightReplayBuffer(
            5, env.observation_space, env.action_space, "cpu", recorded=recorded, env=env,
            goal_selection_strategy=strategy,
        )  # fmt: skip
        same(drawn(beside, n_steps), drawn(gathered, n_steps))


@few
@given(st.integers(1, 3), st.integers(8, 30), st.integers(10, 70), st.integers(1, 4), st.sampled_from(STRATEGIES))
def test_returns_over_several_steps_are_those_of_the_new_goal(
    n_envs: int, capacity: int, steps: int, n_steps: int, strategy: str
) -> None:
    """Every transition of a window is looked up by its counters, in the ring or beside it, and rewarded anew."""
    data, _ = recorded_episodes()
    env = point_env(n_envs, seed=9)  # the recorded goals are other ones
    beside = HindsightReplayBuffer(
        capacity * n_envs, env.observation_space, env.action_space, "cpu", n_envs, recorded=data, env=env,
        goal_selection_strategy=strategy,
    )  # fmt: skip
    gather(steps, env, beside)
    batch = drawn(beside, n_steps, size=100)
    observations, following = batch.observations, batch.next_observations
    assert isinstance(observations, dict)
    assert isinstance(following, dict)
    achieved: dict[tuple[float, ...], np.ndarray] = {}
    for buffer in (data, beside):
        stored: Any = (buffer.observations, buffer.next_observations)
        for row in range(buffer.pos if not buffer.full else buffer.buffer_size):
            for column in range(buffer.n_envs):
                name = tuple(stored[0]["observation"][row, column].tolist())
                achieved[name] = stored[1]["achieved_goal"][row, column]
    relabelled = beside._relabelled_places(100)
    for place in relabelled:
        episode, step, goal = observations["observation"][place].tolist()
        wanted = observations["desired_goal"][place].numpy()
        np.testing.assert_array_equal(following["desired_goal"][place], wanted)
        length = max(key[1] for key in achieved if (key[0], key[2]) == (episode, goal)) + 1
        choices = {
            "future": range(int(step), int(length)), "final": range(int(length) - 1, int(length)),
            "episode": range(int(length)),
        }[strategy]  # fmt: skip
        candidates = [achieved[(episode, float(number), goal)] for number in choices]
        assert any((wanted == candidate).all() for candidate in candidates)
        counted = 1 if batch.steps is None else int(batch.steps[place])
        assert counted == min(n_steps, length - step)
        rewards = batch.rewards[place].reshape(-1).numpy()
        for ahead in range(n_steps):
            expected = -np.linalg.norm(achieved[(episode, step + ahead, goal)] - wanted) if ahead < counted else 0.0
            np.testing.assert_allclose(rewards[ahead], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_goals_are_uniform_over_what_the_strategy_allows(strategy: str) -> None:
    ours, _, env = buffers(1, 40, goal_selection_strategy=strategy)
    gather(30, env, ours)
    indices = torch.full((40_000,), 6)  # the second step of the third episode, of six: rows 5 to 10
    rows = ours._draw_goals(indices, torch.Generator().manual_seed(0))
    counts = np.bincount(rows.numpy(), minlength=40)
    allowed = {"future": range(6, 11), "final": range(10, 11), "episode": range(5, 11)}[strategy]
    assert np.flatnonzero(counts).tolist() == list(allowed)
    expected = 40_000 / len(allowed)
    assert (np.abs(counts[list(allowed)] - expected) < 4 * np.sqrt(expected)).all()


def test_the_running_episode_is_not_drawn_from() -> None:
    ours, theirs, env = buffers(1, 40)
    gather(8, env, ours, theirs)  # episodes of 4 and 1 are over, 3 steps of the third are not
    assert ours._finished_indices().tolist() == [0, 1, 2, 3, 4]
    for buffer in (ours, theirs):
        buffer.truncate_last_trajectory()
    assert ours._finished_indices().tolist() == list(range(8))
    np.testing.assert_array_equal(ours.dones, theirs.dones)
    np.testing.assert_array_equal(ours.timeouts, theirs.timeouts)


def test_an_environment_that_was_reset_ends_its_episode() -> None:
    """SB3 would take goals of the next episode for those of the one that was left."""
    ours, _, env = buffers(1, 40)
    gather(3, env, ours)
    gather(1 + 6, env, ours)  # resets in the middle of the first episode
    assert ours._episodes.bounds.lengths[:11, 0].tolist() == [3, 3, 3, 1, 6, 6, 6, 6, 6, 6, 0]


def test_recorded_and_gathered_share_the_batch_and_its_new_goals() -> None:
    data, env = recorded_episodes()
    ours = HindsightReplayBuffer(
        40, env.observation_space, env.action_space, "cpu", recorded=data, env=env, n_sampled_goal=3
    )
    gather(30, point_env(), ours)
    ours.offline_ratio = 0.25
    with pytest.MonkeyPatch.context() as patch:
        seen: list[np.ndarray] = []
        patch.setattr(ours, "_draw_goals", lambda indices, generator: seen.append(indices.numpy()) or indices)
        indices = torch.cat([ours.draw_indices(80, torch.Generator().manual_seed(0)) for _ in range(1)])
        assert (indices < 28).sum() == 20
        drawn(ours, size=80)
    assert len(seen[0]) == 60
    assert (seen[0] < 28).sum() == 15


@pytest.mark.parametrize("copy_info_dict", [False, True])
@pytest.mark.parametrize("way", ["pickle", "state"])
@pytest.mark.parametrize("steps", [7, 33])
def test_a_saved_buffer_goes_on_as_if_it_had_not_been(way: str, steps: int, copy_info_dict: bool) -> None:
    ours, _, env = buffers(2, 15, copy_info_dict=copy_info_dict)
    last = gather(steps, env, ours)
    if way == "pickle":
        other = pickle.loads(pickle.dumps(ours))
        assert other.env is None
        other.set_env(env)
    else:
        other, _, _ = buffers(2, 15, copy_info_dict=copy_info_dict)
        gather(20, point_env(2, seed=9), other)
        other.set_env(env)
        other.restore_online(ours.online_state())
    gather(9, env, ours, other, first=last)
    np.testing.assert_array_equal(ours._finished_indices(), other._finished_indices())
    same(drawn(ours, 2), drawn(other, 2))


@pytest.mark.parametrize("steps", [9, 40])
def test_infos_stay_with_their_transitions_with_another_number_of_environments(steps: int) -> None:
    ours, _, env = buffers(3, 15, copy_info_dict=True)
    gather(steps, env, ours)
    other = ours.with_environments(2)

    def winds(buffer: HindsightReplayBuffer) -> set[tuple[float, ...]]:
        data: Any = buffer.next_observations
        infos = buffer._infos_of(torch.arange(buffer.n_online))
        goals = data["achieved_goal"][: buffer.n_online // buffer.n_envs].reshape(-1, 2).tolist()
        return {(*goal, info["wind"]) for goal, info in zip(goals, infos, strict=True)}

    assert winds(other) == winds(ours)


def test_episodes_stay_together_with_another_number_of_environments() -> None:
    ours, _, env = buffers(3, 15)
    gather(40, env, ours)
    other = ours.with_environments(2)
    assert len(other._finished_indices()) == other.n_online
    batch = drawn(other, size=200)
    assert isinstance(batch.observations, dict)
    data: Any = other.next_observations
    episodes = {tuple(goal): (number, aim) for goal, (number, _, aim) in zip(
        data["achieved_goal"].reshape(-1, 2).tolist(), data["observation"].reshape(-1, 3).tolist(), strict=True
    )}  # fmt: skip
    for place in other._relabelled_places(200):
        number, _, aim = batch.observations["observation"][place].tolist()
        assert episodes[tuple(batch.observations["desired_goal"][place].tolist())] == (number, aim)
    gather(5, point_env(2), other)
    drawn(other)


@pytest.mark.parametrize("steps", [14, 40])
def test_what_stable_baselines3_gathered_gets_new_goals_again(steps: int) -> None:
    """Of several environments; where its ring has gone round, oldest episodes first."""
    _, theirs, env = buffers(2, 15)
    gather(steps, env, theirs)
    data = OfflineReplayBuffer.from_replay_buffer(theirs, device="cpu")
    ours = HindsightReplayBuffer(5, env.observation_space, env.action_space, "cpu", recorded=data, env=env)
    batch = drawn(ours, size=300)
    assert isinstance(batch.observations, dict)
    episodes: dict[tuple[float, ...], tuple[float, ...]] = {}
    kept: Any = data.next_observations
    for goal, (number, _, aim) in zip(
        kept["achieved_goal"].reshape(-1, 2).tolist(), kept["observation"].reshape(-1, 3).tolist(), strict=True
    ):
        episodes[tuple(goal)] = (number, aim)
    for place in ours._relabelled_places(300):
        number, _, aim = batch.observations["observation"][place].tolist()
        assert episodes[tuple(batch.observations["desired_goal"][place].tolist())] == (number, aim)


def test_draws_depend_on_their_generator_alone() -> None:
    ours, _, env = buffers(2, 20)
    gather(30, env, ours)
    first = drawn(ours)
    torch.manual_seed(9)
    np.random.seed(9)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    same(first, drawn(ours))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[arg-type]


class TestRefusals:
    def test_observations_without_goals(self) -> None:
        with pytest.raises(ValueError, match="expected a Dict with achieved_goal and desired_goal"):
            HindsightReplayBuffer(8, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"goal_selection_strategy": "past"}, "goal_selection_strategy is 'past', expected one of future, final"),
            ({"n_sampled_goal": -1}, "n_sampled_goal is -1, expected a whole number of at least 0"),
        ],
    )
    def test_options(self, options: dict[str, Any], words: str) -> None:
        env = point_env()
        with pytest.raises(ValueError, match=words):
            HindsightReplayBuffer(8, env.observation_space, env.action_space, **options)

    def test_nobody_to_reward_new_goals(self) -> None:
        ours, _, env = buffers(1, 20)
        gather(10, env, ours)
        ours.set_env(None)
        with pytest.raises(ValueError, match="no environment to reward new goals by"):
            drawn(ours)
        ours.compute_reward = lambda achieved, desired, infos: np.zeros(3)
        with pytest.raises(ValueError, match=r"gave rewards of shape \(3,\) for 51 pairs of goals"):
            drawn(ours)

    def test_recorded_rows_out_of_order(self) -> None:
        data, env = recorded_episodes()
        arrays: Any = {
            key: {name: array[::-1, 0] for name, array in getattr(data, key).items()}
            for key in ("observations", "next_observations")
        }
        shuffled = OfflineReplayBuffer.from_arrays(
            {**arrays, "actions": data.actions[:, 0], "rewards": data.rewards[:, 0], "masks": np.ones(28)}, device="cpu"
        )
        with pytest.raises(DatasetError, match="need transitions in the order in which they were recorded"):
            HindsightReplayBuffer(8, env.observation_space, env.action_space, recorded=shuffled)

    def test_infos_that_checkpoints_cannot_hold(self) -> None:
        ours, _, env = buffers(2, 20, copy_info_dict=True)
        gather(3, env, ours)
        ours._infos[1][1]["camera"] = {"lens": [0.5, object()]}
        words = "the info of row 1, environment 1 holds a object in 'camera', expected numbers, strings, arrays"
        with pytest.raises(ValueError, match=words):
            ours.online_state()

    def test_a_state_without_infos_or_with_those_of_other_rows(self) -> None:
        ours, _, env = buffers(2, 20, copy_info_dict=True)
        gather(3, env, ours)
        state = ours.online_state()
        longer, _, env = buffers(2, 20, copy_info_dict=True)
        gather(4, env, longer)
        without = {name: array for name, array in state.items() if name != "infos"}
        with pytest.raises(ValueError, match="infos are missing, expected those of every transition"):
            ours.restore_online(without)
        with pytest.raises(ValueError, match="found infos of 4 rows, expected those of 3 rows of 2 environments"):
            ours.restore_online({**state, "infos": longer.online_state()["infos"]})
        assert ours._infos_of(torch.arange(6))[5]
