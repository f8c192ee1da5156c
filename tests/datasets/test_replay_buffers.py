"""SB3's replay buffers as recorded data: what SB3's own algorithms saw while they filled them, in the order of time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from filled_buffers import few, parts
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sampled_environments import Sampled, dict_env, image_env, vector_space
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers.action_units import ACTION_MARGIN


def small_agent() -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}  # SAC writes into these policy_kwargs


class Witness(BaseCallback):
    """Keeps every transition as SB3's rollout saw it, in the environment's own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.observations: Any = None

    def _raw(self) -> Any:
        normalize = self.model.get_vec_normalize_env()
        return None if normalize is None else normalize.get_original_obs()

    def _on_training_start(self) -> None:
        raw = self._raw()
        self.observations = self.model._last_obs if raw is None else raw

    def _on_step(self) -> bool:
        raw = self._raw()
        following = self.locals["new_obs"] if raw is None else raw
        arrived = {key: np.array(value) for key, value in parts(following).items()}
        for index, info in enumerate(self.locals["infos"]):
            if self.locals["dones"][index]:
                last = info["terminal_observation"]
                if raw is not None:
                    last = self.model.get_vec_normalize_env().unnormalize_obs(last)
                for key, value in parts(last).items():
                    arrived[key][index] = value
        normalize = self.model.get_vec_normalize_env()
        self.rows.append(
            {
                "observations": {key: np.array(value) for key, value in parts(self.observations).items()},
                "next_observations": arrived,
                "actions": np.array(self.locals["buffer_actions"]),
                "rewards": self.locals["rewards"] if normalize is None else normalize.get_original_reward(),
                "dones": np.array(self.locals["dones"], np.float32),
                "timeouts": np.array([info.get("TimeLimit.truncated", False) for info in self.locals["infos"]]),
            }
        )
        self.observations = following
        return True


def make(env_id: str, limit: int | None = None) -> Any:
    return lambda: gymnasium.make(env_id, max_episode_steps=limit)


def gathered(
    venv: VecEnv, steps: int, capacity: int, policy: str = "MlpPolicy", **buffer_kwargs: Any
) -> tuple[SAC, list[dict[str, Any]]]:
    """An SB3 agent with ``steps`` rows of ``venv`` in a ring of ``capacity`` rows, and what it saw in all of them."""
    optimize = buffer_kwargs.pop("optimize_memory_usage", False)
    agent = SAC(
        policy,
        venv,
        buffer_size=capacity * venv.num_envs,
        optimize_memory_usage=optimize,
        replay_buffer_kwargs=buffer_kwargs,
        learning_starts=10**6,
        **small_agent(),
    )
    witness = Witness()
    agent.learn(steps * venv.num_envs, callback=witness)
    return agent, witness.rows


def require_rows(buffer: OfflineReplayBuffer, rows: list[dict[str, Any]], skip: tuple[str, ...] = ()) -> None:
    assert buffer.size() == len(rows)
    for key in ("observations", "next_observations"):
        for name, array in parts(getattr(buffer, key)).items():
            if key not in skip:
                expected = np.stack([row[key][name] for row in rows])
                np.testing.assert_allclose(array, expected.astype(array.dtype), atol=1e-5, err_msg=f"{key} {name}")
    for key in ("rewards", "dones", "timeouts"):
        expected = np.stack([row[key] for row in rows]).astype(np.float32)
        if key in ("dones", "timeouts"):
            expected[-1] = np.where(rows[-1]["dones"], expected[-1], 1)  # nothing follows the newest row
        np.testing.assert_array_equal(getattr(buffer, key), expected, err_msg=key)
    np.testing.assert_allclose(buffer.actions, np.stack([row["actions"] for row in rows]), atol=2 * ACTION_MARGIN)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(("steps", "capacity"), [(30, 50), (50, 50), (64, 50)], ids=["part", "full", "gone round"])
@pytest.mark.parametrize(
    ("env_id", "limit"), [("Pendulum-v1", 7), ("InvertedPendulum-v5", 9), ("Reacher-v5", 8)], ids=str
)
def test_rows_are_what_the_agent_saw(env_id: str, limit: int | None, steps: int, capacity: int, n_envs: int) -> None:
    """Actions beyond 1, time limits, real ends; a ring that has gone round comes in the order of time."""
    agent, rows = gathered(DummyVecEnv([make(env_id, limit)] * n_envs), steps, capacity)
    assert isinstance(agent.replay_buffer, ReplayBuffer)
    buffer = OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer, device="cpu")
    require_rows(buffer, rows[-capacity:])
    assert buffer.dones[:-1].any()
    assert buffer.n_envs == n_envs


def test_environments_with_both_kinds_of_end_tell_them_apart() -> None:
    agent, rows = gathered(DummyVecEnv([make("InvertedPendulum-v5", 6)] * 2), 60, 60)
    timeouts = np.stack([row["timeouts"] for row in rows])
    dones = np.stack([row["dones"] for row in rows])
    assert timeouts.any()
    assert (dones * (1 - timeouts)).any()
    buffer = OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer, device="cpu")  # type: ignore[arg-type]
    batch = buffer.take(torch.arange(120))
    ends = (dones * (1 - timeouts)).reshape(-1)
    np.testing.assert_array_equal(batch.masks.numpy(), 1 - ends)


@pytest.mark.parametrize(("steps", "capacity"), [(30, 50), (50, 50), (64, 50)], ids=["part", "full", "gone round"])
def test_one_array_for_both_observations(steps: int, capacity: int) -> None:
    """The oldest row of a full ring is overwritten; after ends there is nothing to look at, and nothing is."""
    agent, rows = gathered(
        DummyVecEnv([make("InvertedPendulum-v5", 6)] * 2),
        steps,
        capacity,
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    buffer = OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer, device="cpu")  # type: ignore[arg-type]
    rows = rows[-(capacity - 1) :] if steps >= capacity else rows
    for row in rows:
        row["timeouts"][:] = False
        for index, done in enumerate(row["dones"]):
            if done:
                row["next_observations"][""][index] = row["observations"][""][index]
    require_rows(buffer, rows)
    batch = buffer.take(torch.arange(2 * len(rows)))
    np.testing.assert_array_equal(batch.masks.numpy(), 1 - np.stack([row["dones"] for row in rows]).reshape(-1))


@few
@given(
    n_envs=st.integers(1, 3),
    capacity=st.integers(1, 8),
    steps=st.integers(1, 20),
    shared=st.booleans(),
    ends=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=60, max_size=60),
)
def test_a_ring_of_any_size_at_any_time(
    n_envs: int, capacity: int, steps: int, shared: bool, ends: list[tuple[bool, bool]]
) -> None:
    """What SB3 holds after any number of steps, counted; the newest that fit, oldest first."""
    theirs = ReplayBuffer(
        capacity * n_envs,
        spaces.Box(-1000, 1000, (1,)),
        spaces.Box(-1, 1, (1,)),
        "cpu",
        n_envs,
        optimize_memory_usage=shared,
        handle_timeout_termination=not shared,
    )
    rows = []
    states = np.arange(n_envs, dtype=np.float32)[:, None] * 100
    for step in range(steps):
        done, by_time = np.array(ends[step * n_envs : (step + 1) * n_envs]).T
        infos = [{"TimeLimit.truncated": bool(ended and timed)} for ended, timed in zip(done, by_time, strict=True)]
        theirs.add(states, states + 1, np.zeros((n_envs, 1)), states[:, 0] / 2, done, infos)
        kept = states if shared else states + 1
        rows.append((states, np.where(done[:, None], kept, states + 1), done, done & by_time & (not shared)))
        states = states + np.where(done, 10, 1)[:, None].astype(np.float32)
    expected = rows[-(capacity - shared) :] if steps >= capacity else rows
    if capacity == 1 and shared:
        with pytest.raises(DatasetError, match="holds no transitions"):
            OfflineReplayBuffer.from_replay_buffer(theirs, device="cpu")
        return
    buffer = OfflineReplayBuffer.from_replay_buffer(theirs, device="cpu")
    seen, following, dones, timeouts = (np.array(column) for column in zip(*expected, strict=True))
    timeouts[-1] |= ~dones[-1]
    dones[-1] = True
    np.testing.assert_array_equal(buffer.observations, seen)  # type: ignore[arg-type]
    np.testing.assert_array_equal(buffer.next_observations, following)  # type: ignore[arg-type]
    np.testing.assert_array_equal(buffer.rewards, seen[..., 0] / 2)
    np.testing.assert_array_equal(buffer.dones, dones)
    np.testing.assert_array_equal(buffer.timeouts, timeouts)


def test_observations_and_rewards_are_those_before_vec_normalize() -> None:
    venv = VecNormalize(DummyVecEnv([make("Reacher-v5", 8)] * 2))
    agent, rows = gathered(venv, 40, 30)
    buffer = OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer, device="cpu")  # type: ignore[arg-type]
    require_rows(buffer, rows[-30:])
    assert np.abs(buffer.rewards).max() > 0.01


@pytest.mark.parametrize("make_env", [dict_env, image_env])
def test_dict_and_image_observations(make_env: Any) -> None:
    policy = "MultiInputPolicy" if make_env is dict_env else "CnnPolicy"
    agent, rows = gathered(DummyVecEnv([make_env] * 2), 20, 16, policy)
    buffer = OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer, device="cpu")  # type: ignore[arg-type]
    require_rows(buffer, rows[-16:])
    model = DIPOLE(policy, dataset=agent.replay_buffer, batch_size=4, **small_agent())
    model.learn(1)


def test_arrays_are_shared_and_ends_are_not() -> None:
    agent, _ = gathered(DummyVecEnv([make("Pendulum-v1", 7)] * 2), 30, 50)
    theirs = agent.replay_buffer
    assert isinstance(theirs, ReplayBuffer)
    ends = theirs.dones.copy(), theirs.timeouts.copy()
    buffer = OfflineReplayBuffer.from_replay_buffer(theirs, device="cpu")
    for key in ("observations", "next_observations", "rewards"):
        assert np.shares_memory(getattr(buffer, key), getattr(theirs, key)), key
    assert buffer.tensors()["observations"].data_ptr() == theirs.observations.ctypes.data
    np.testing.assert_array_equal(theirs.dones, ends[0])
    np.testing.assert_array_equal(theirs.timeouts, ends[1])


@pytest.mark.parametrize("n_envs", [1, 2])
def test_an_algorithm_takes_it_as_it_is_and_goes_on_online(n_envs: int) -> None:
    agent, _ = gathered(DummyVecEnv([make("Pendulum-v1", 7)] * 3), 30, 50)
    assert isinstance(agent.replay_buffer, ReplayBuffer)
    before = {key: getattr(agent.replay_buffer, key).copy() for key in ("observations", "actions", "rewards", "dones")}
    model = DIPOLE(
        "MlpPolicy",
        DummyVecEnv([make("Pendulum-v1")] * n_envs),
        dataset=agent.replay_buffer,
        offline_steps=3,
        batch_size=8,
        buffer_size=200,
        n_steps=1 + n_envs,
        **small_agent(),
    )
    model.learn(3 + 8)
    assert model.replay_buffer is not None
    assert model.replay_buffer.size() * model.replay_buffer.n_envs >= 90 + 8
    for key, array in before.items():
        np.testing.assert_array_equal(getattr(agent.replay_buffer, key), array, err_msg=key)


def test_n_step_buffers_hold_single_steps() -> None:
    agent = TD3(
        "MlpPolicy",
        DummyVecEnv([make("Pendulum-v1", 7)]),
        buffer_size=50,
        replay_buffer_class=NStepReplayBuffer,
        learning_starts=10**6,
        **small_agent(),
    )
    witness = Witness()
    agent.learn(20, callback=witness)
    require_rows(OfflineReplayBuffer.from_replay_buffer(agent.replay_buffer), witness.rows)  # type: ignore[arg-type]


def small(**changes: Any) -> ReplayBuffer:
    """Three transitions in SB3's own class."""
    buffer = ReplayBuffer(5, vector_space(), spaces.Box(-2, 2, (1,)), "cpu")
    for _ in range(3):
        buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.array([[0.5]]), np.array([1.0]), np.array([False]), [{}])
    for key, value in changes.items():
        getattr(buffer, key)[1] = value
    return buffer


@pytest.mark.parametrize(
    ("buffer", "message"),
    [
        (lambda: ReplayBuffer(5, vector_space(), spaces.Box(-1, 1, (1,)), "cpu"), "holds no transitions"),
        (lambda: ReplayBuffer(5, vector_space(), spaces.Discrete(2), "cpu"), "holds no transitions"),
        (lambda: small(actions=1.5), r"actions reach 1.5, expected values in \[-1, 1\], to which"),
        (lambda: small(observations=np.nan), "observations has NaN or infinity, first in row 1"),
        (lambda: small(next_observations=9.0), r"next_observations row 1 holds 9, expected a value in \[-2, 2\]"),
        (lambda: small(rewards=np.inf), "rewards has NaN or infinity, first in row 1"),
        (lambda: small(dones=0.5), "dones row 1 holds 0.5, expected 0 or 1"),
    ],
)
def test_refusals(buffer: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=f"replay buffer: {message}"):
        OfflineReplayBuffer.from_replay_buffer(buffer(), device="cpu")


def test_discrete_actions_are_refused() -> None:
    buffer = ReplayBuffer(5, vector_space(), spaces.Discrete(2), "cpu")
    buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.array([[1]]), np.array([1.0]), np.array([False]), [{}])
    with pytest.raises(
        DatasetError, match=r"replay buffer: the algorithm needs continuous actions: found .* Discrete\(2\)"
    ):
        DIPOLE("MlpPolicy", dataset=buffer)


def test_spaces_must_be_those_of_the_environment() -> None:
    with pytest.raises(DatasetError, match=r"replay buffer: actions\[0\] is bounded by \[-2, 2\], the environment's"):
        DIPOLE("MlpPolicy", Sampled(vector_space(), spaces.Box(-1, 1, (1,))), dataset=small())


def test_a_pickle_is_loaded_only_when_it_is_trusted(tmp_path: Path) -> None:
    agent, rows = gathered(DummyVecEnv([make("Pendulum-v1", 7)] * 2), 20, 30)
    path = tmp_path / "sac.pkl"
    agent.save_replay_buffer(path)
    for way in (load_dataset, lambda name: DIPOLE("MlpPolicy", "Pendulum-v1", dataset=name)):
        for name in (path, str(path)):
            with pytest.raises(DatasetError, match=r"can execute any code .*, trust_pickle=True\) reads"):
                way(name)
    buffer = load_dataset(path, trust_pickle=True, device="cpu")
    require_rows(buffer, rows)
    assert buffer.source == str(path)


def test_this_packages_own_buffers_come_back_as_they_were(tmp_path: Path) -> None:
    model = DIPOLE("MlpPolicy", dataset=small(), **small_agent())
    assert model.replay_buffer is not None
    model.replay_buffer.metadata["env_id"] = "Pendulum-v1"
    model.save_replay_buffer(tmp_path / "own.pkl")
    loaded = load_dataset(tmp_path / "own.pkl", trust_pickle=True, device="cpu")
    assert (loaded.metadata, loaded.checksum) == (model.replay_buffer.metadata, model.replay_buffer.checksum)
    assert OfflineReplayBuffer.from_replay_buffer(loaded, device="cpu") is loaded


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_what_is_refused_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(DatasetError, match="can execute any code"):
        load_dataset(tmp_path / "trap.pkl")
    assert not (tmp_path / "executed").exists()


def test_pickles_of_something_else(tmp_path: Path) -> None:
    save_to_pkl(tmp_path / "list.pkl", [1, 2])
    save_to_pkl(tmp_path / "whole.pkl", small())
    (tmp_path / "half.pkl").write_bytes((tmp_path / "whole.pkl").read_bytes()[:-30])
    for name, message in (
        ("list.pkl", "holds a list, expected a ReplayBuffer"),
        ("half.pkl", "truncated or not a saved replay buffer"),
        ("none.pkl", "no such file"),
    ):
        with pytest.raises(DatasetError, match=f"{name}: {message}"):
            load_dataset(tmp_path / name, trust_pickle=True)


def test_dict_replay_buffers_keep_their_keys() -> None:
    space = spaces.Dict({"a": vector_space(2), "b": spaces.Discrete(4)})
    buffer = DictReplayBuffer(4, space, spaces.Box(-1, 1, (1,)), "cpu")
    observation = {"a": np.ones((1, 2), np.float32), "b": np.array([3])}
    buffer.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    adopted = OfflineReplayBuffer.from_replay_buffer(buffer, device="cpu")
    assert isinstance(adopted.observations, dict)
    assert adopted.observations["b"].tolist() == [[[3]]]
    assert adopted.observations["a"].shape == (1, 1, 2)
