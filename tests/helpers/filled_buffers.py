"""Recorded arrays of every kind, and our ring buffer beside SB3's own, fed the same transitions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import settings
from hypothesis import strategies as st
from sampled_environments import Sampled, dict_env
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from dipole_sb3 import OfflineReplayBuffer

few = settings(max_examples=25, deadline=None)

ARRAYS = ("observations", "actions", "rewards", "next_observations", "dones", "timeouts")


def adopt(arrays: Mapping[str, Any], **arguments: Any) -> OfflineReplayBuffer:
    return OfflineReplayBuffer.from_arrays(arrays, device="cpu", **arguments)


def parts(value: Any) -> dict[str, Any]:
    """Observations as a dict, whether they are one or not."""
    return dict(value) if isinstance(value, Mapping) else {"": value}


def flat(buffer: OfflineReplayBuffer, key: str) -> dict[str, np.ndarray]:
    """The stored transitions of a buffer in the order of flat indices, [transitions, ...]."""
    return {
        name: array[: buffer.size()].reshape(-1, *array.shape[2:])
        for name, array in parts(getattr(buffer, key)).items()
    }


@st.composite
def recorded(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays of random lengths, shapes and kinds of observation: vectors, matrices, uint8 images, dicts of those."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(1, 40))
    sides = st.integers(1, 5)
    vector_shape = st.tuples(sides) | st.tuples(sides, sides)
    image_shape = st.tuples(sides, sides, st.sampled_from([1, 3]))

    def vector(shape: tuple[int, ...]) -> np.ndarray:
        return random.normal(size=(length, *shape)).astype(np.float32)

    def image(shape: tuple[int, ...]) -> np.ndarray:
        return random.integers(0, 256, (length, *shape), np.uint8)

    kind = draw(st.sampled_from(["vector", "image", "dict"]))
    one, other = draw(vector_shape), draw(image_shape)

    def observations() -> Any:
        if kind == "dict":
            return {"joints": vector(one), "camera": image(other)}
        return vector(one) if kind == "vector" else image(other)

    return {
        "observations": observations(),
        "actions": random.uniform(-1, 1, (length, draw(st.integers(1, 4)))).astype(np.float32),
        "rewards": random.normal(size=length).astype(np.float32),
        "next_observations": observations(),
        "terminals": (random.random(length) < 0.3).astype(np.float32),
        "masks": (random.random(length) < 0.7).astype(np.float32),
    }


def counting(length: int, n_actions: int = 1) -> dict[str, Any]:
    """Transitions that can be told apart: the reward is the row."""
    rows = np.arange(length, dtype=np.float32)
    return {
        "observations": np.stack([rows, -rows], 1),
        "actions": np.zeros((length, n_actions), np.float32),
        "rewards": rows,
        "next_observations": np.stack([rows + 1, -rows - 1], 1),
        "masks": np.ones(length, np.float32),
    }


def filled_like_stable_baselines3(
    n_envs: int, capacity: int, steps: int, dicts: bool = False
) -> tuple[OfflineReplayBuffer, ReplayBuffer, DummyVecEnv]:
    """Our ring and SB3's, fed the same transitions, some of which end by time and some by themselves."""

    def make() -> Any:
        return dict_env() if dicts else Sampled(spaces.Box(-2, 2, (3,)))

    env = DummyVecEnv([make] * n_envs)
    env.action_space.seed(0)
    spaces_and_size: Any = (capacity, env.observation_space, env.action_space, "cpu", n_envs)
    ours = OfflineReplayBuffer(*spaces_and_size)
    theirs = DictReplayBuffer(*spaces_and_size) if dicts else ReplayBuffer(*spaces_and_size)
    env.seed(0)
    random = np.random.default_rng(0)
    observations = env.reset()
    for _ in range(steps):
        actions = random.uniform(-1, 1, (n_envs, 2)).astype(np.float32)
        following, rewards, dones, infos = env.step(actions)
        for info in infos:
            info["TimeLimit.truncated"] = bool(random.random() < 0.5)
        for buffer in (ours, theirs):
            buffer.add(observations, following, actions, rewards, dones, infos)  # type: ignore[arg-type]
        observations = following
    return ours, theirs, env


def add_row(target: OfflineReplayBuffer, source: OfflineReplayBuffer, row: int) -> None:
    """Adds a row of another ring with as many environments, as SB3 would."""

    def of(value: Any) -> Any:
        return {key: array[row] for key, array in value.items()} if isinstance(value, dict) else value[row]

    infos = [{"TimeLimit.truncated": bool(timeout)} for timeout in source.timeouts[row]]
    columns = source.actions[row], source.rewards[row], source.dones[row]
    target.add(of(source.observations), of(source.next_observations), *columns, infos)
