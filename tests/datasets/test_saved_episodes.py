"""Buffers of several environments, saved: every environment's episodes stay together and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import few
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st

from dipole_sb3 import HindsightReplayBuffer, OfflineReplayBuffer
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.datasets import storage

ACTIONS = spaces.Box(-1, 1, (1,), np.float32)
SQUARE = spaces.Box(0, 1, (1,), np.float32)
GOALS = spaces.Dict({"achieved_goal": SQUARE, "desired_goal": SQUARE})


class Rooms:
    """Environments with two states each, so that most states follow on most others by chance.

    Rewards are 1, 2, …, each of one transition alone.
    """

    def __init__(self, n_envs: int, random: np.random.Generator, dicts: bool, first_reward: int = 1) -> None:
        self.n_envs, self._random, self._dicts = n_envs, random, dicts
        self._states, self._next_reward = self._any_states(), first_reward
        self._episodes: list[list[int]] = [[] for _ in range(n_envs)]
        self.episodes: list[list[int]] = list(self._episodes)
        """Rewards of each."""

    def _any_states(self) -> np.ndarray:
        return self._random.integers(0, 2, (self.n_envs, 1)).astype(np.float32)

    def _seen(self, states: np.ndarray) -> Any:
        return {"achieved_goal": states, "desired_goal": np.ones_like(states)} if self._dicts else states

    def step_into(self, buffer: OfflineReplayBuffer) -> None:
        rewards = np.arange(self.n_envs) + self._next_reward
        following, ends = self._any_states(), self._random.random(self.n_envs) < 0.25
        infos = [{"TimeLimit.truncated": bool(self._random.random() < 0.5)} for _ in range(self.n_envs)]
        buffer.add(
            self._seen(self._states), self._seen(following), np.zeros((self.n_envs, 1)), rewards, ends, infos
        )  # fmt: skip
        for column, reward in enumerate(rewards.tolist()):
            self._episodes[column].append(reward)
            if ends[column]:
                self._episodes[column] = []
                self.episodes.append(self._episodes[column])
        self._states = np.where(ends[:, None], self._any_states(), following)
        self._next_reward += self.n_envs


def episodes_of(rooms: Rooms, buffer: OfflineReplayBuffer) -> list[list[int]]:
    """What the buffer still holds of them."""
    kept = set(buffer.rewards[: buffer.pos if not buffer.full else buffer.buffer_size].reshape(-1).astype(int).tolist())
    left = [[reward for reward in episode if reward in kept] for episode in rooms.episodes]
    return sorted(episode for episode in left if episode)


@st.composite
def filled(draw: st.DrawFn, dicts: bool) -> tuple[OfflineReplayBuffer, list[list[int]]]:
    """A ring, alone or beside recorded data that are a ring, too; and the rewards of every episode."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    space = GOALS if dicts else SQUARE
    episodes: list[list[int]] = []
    recorded = None
    for part in range(draw(st.integers(1, 2))):
        n_envs, rows = draw(st.integers(1, 4)), draw(st.integers(1, 9))
        once = draw(st.booleans())
        shape: Any = (rows * n_envs, space, ACTIONS, "cpu", n_envs, once)
        ring = MixedReplayBuffer(*shape, recorded=recorded) if recorded is not None else OfflineReplayBuffer(*shape)
        rooms = Rooms(n_envs, random, dicts, 1 + 1000 * part)
        for _ in range(draw(st.integers(1, 20))):
            rooms.step_into(ring)
        episodes += episodes_of(rooms, ring)
        recorded = ring
    return ring, sorted(episodes)


def by_reward(buffer: OfflineReplayBuffer, n_steps: int) -> dict[int, list[Any]]:
    """All transitions with what follows each in its window, by the rewards of the first."""
    batch = buffer.take(torch.arange(buffer.n_transitions), n_steps)
    fields = [
        part
        for field in batch
        if field is not None
        for part in (field.values() if isinstance(field, dict) else [field])
    ]
    first = batch.rewards.reshape(len(batch.rewards), -1)[:, 0].long().tolist()
    return {reward: [field[row].tolist() for field in fields] for row, reward in enumerate(first)}


@pytest.mark.parametrize("dicts", [False, True])
@few
@given(data=st.data())
def test_returns_over_several_steps_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, dicts: bool, data: st.DataObject
) -> None:
    """For every number of environments, every fill and every place where the ring has gone round to."""
    buffer, episodes = data.draw(filled(dicts))
    folder = tmp_path_factory.mktemp("rooms")
    storage.save(buffer, folder / "once")
    storage.save(storage.load(folder / "once", device="cpu"), folder / "twice")
    for name in ("once", "twice"):
        found = storage.load(folder / name, device="cpu")
        for n_steps in (1, 3):
            assert by_reward(found, n_steps) == by_reward(buffer, n_steps)
        assert sorted(runs(found.rewards[:, 0], found.breaks()[:, 0])) == episodes
    assert storage.load(folder / "twice", device="cpu").checksum == storage.load(folder / "once").checksum


def runs(rewards: np.ndarray, breaks: np.ndarray) -> list[list[int]]:
    """Rewards between breaks."""
    parts = np.split(rewards, np.flatnonzero(breaks) + 1)
    return [part.astype(int).tolist() for part in parts if len(part)]


@few
@given(data=st.data())
def test_goals_are_those_of_the_same_episodes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    buffer, episodes = data.draw(filled(True))
    assume(any(len(episode) > 1 for episode in episodes))  # else they could as well be shuffled rows, and are refused
    folder = tmp_path_factory.mktemp("rooms") / "data"
    storage.save(buffer, folder)
    found = storage.load(folder, device="cpu")
    hindsight = HindsightReplayBuffer(1, GOALS, ACTIONS, "cpu", recorded=found, compute_reward=lambda *_: np.zeros(1))
    starts, lengths, _ = hindsight._places_in_episodes(torch.arange(found.n_transitions))
    bounds = sorted(set(zip(starts.tolist(), lengths.tolist(), strict=True)))
    rewards = found.rewards[:, 0].astype(int).tolist()
    assert sorted(rewards[start : start + length] for start, length in bounds) == episodes


def test_a_minus_before_a_zero_ends_no_episode(tmp_path: Path) -> None:
    """It is noted in the file, as it is kept to the bit, but nothing ends there."""
    buffer = OfflineReplayBuffer(3, GOALS, ACTIONS, "cpu")
    for state, following in ((1.0, -0.0), (0.0, 1.0), (1.0, 0.5)):
        one, other = (
            {"achieved_goal": np.full((1, 1), value), "desired_goal": np.ones((1, 1))} for value in (state, following)
        )
        buffer.add(one, other, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), [{}])
    storage.save(buffer, tmp_path / "data")
    found = storage.load(tmp_path / "data", device="cpu")
    hindsight = HindsightReplayBuffer(1, GOALS, ACTIONS, "cpu", recorded=found, compute_reward=lambda *_: np.zeros(1))
    assert hindsight._places_in_episodes(torch.arange(3))[1].tolist() == [3, 3, 3]
