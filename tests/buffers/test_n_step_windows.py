"""n-step returns against brute force and against SB3's own buffer: ends, time limits, rings, several environments."""

from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import adopt, counting, few
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.buffers import NStepReplayBuffer

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.buffers.offline_buffer import Batch

GAMMA = 0.9
BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (1,))


def episodes(random: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """One environment's transitions: episodes of random lengths that end by failure or by time; states are unique."""
    ended = random.random(length) < 0.25
    timeout = ended & (random.random(length) < 0.5)
    states = np.arange(2.0 * length, dtype=np.float32)[random.permutation(2 * length)]
    states = np.stack([states, -states], 1)
    observations, following = states[:length].copy(), np.roll(states[:length], -1, axis=0)
    following[ended] = states[length:][ended]
    # What comes after the last transition is not recorded.
    following[-1] = states[-1]
    return {
        "observations": observations,
        "actions": random.uniform(-1, 1, (length, 1)).astype(np.float32),
        "rewards": random.normal(size=length).astype(np.float32),
        "next_observations": following,
        "terminals": ended.astype(np.float32),
        "masks": 1.0 - (ended & ~timeout).astype(np.float32),
    }


def ring_of(columns: list[dict[str, np.ndarray]], capacity: int, cls: Any = OfflineReplayBuffer) -> Any:
    """A ring of ``capacity`` rows, fed with each environment's transitions one step after the other."""
    arguments = {"n_steps": 3, "gamma": GAMMA} if issubclass(cls, NStepReplayBuffer) else {}
    ring = cls(capacity * len(columns), BOX, ACTION, "cpu", n_envs=len(columns), **arguments)
    for step in range(len(columns[0]["rewards"])):
        row = {key: np.stack([column[key][step] for column in columns]) for key in columns[0]}
        timeouts = (row["terminals"] == 1) & (row["masks"] == 1)
        infos = [{"TimeLimit.truncated": bool(timeout)} for timeout in timeouts]
        ring.add(row["observations"], row["next_observations"], row["actions"], row["rewards"], row["terminals"], infos)
    return ring


def by_hand(column: dict[str, np.ndarray], first: int, n_steps: int) -> tuple[float, float, np.ndarray, float]:
    """Return, discount of what follows, next observation and mask of the transition ``first``, one step at a time."""
    total, discount, step = 0.0, 1.0, first
    while True:
        total += discount * float(column["rewards"][step])
        discount *= GAMMA
        ended = column["terminals"][step] == 1 or step + 1 == len(column["rewards"])
        if ended or step + 1 == first + n_steps:
            return total, discount, column["next_observations"][step], float(column["masks"][step])
        step += 1


def discounted(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    assert batch.steps is not None
    powers = GAMMA ** np.arange(batch.rewards.shape[1])
    return (batch.rewards.numpy().astype(np.float64) * powers).sum(1), GAMMA ** batch.steps.numpy()


def assert_is_by_hand(batch: Batch, expected: list[tuple[float, float, np.ndarray, float]]) -> None:
    returns, discounts, following, masks = zip(*expected, strict=True)
    found_returns, found_discounts = discounted(batch)
    np.testing.assert_allclose(found_returns, returns, atol=1e-6)
    np.testing.assert_allclose(found_discounts, discounts, rtol=1e-12)
    np.testing.assert_array_equal(batch.next_observations, np.stack(following))
    np.testing.assert_array_equal(batch.masks, masks)


@few
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 7))
def test_recorded_episodes(seed: int, length: int, n_steps: int) -> None:
    arrays = episodes(np.random.default_rng(seed), length)
    batch = adopt(arrays).take(torch.arange(length), n_steps)
    assert_is_by_hand(batch, [by_hand(arrays, first, n_steps) for first in range(length)])
    np.testing.assert_array_equal(batch.observations, arrays["observations"])


@few
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(2, 6), st.data()
)
def test_rings(seed: int, length: int, capacity: int, n_envs: int, n_steps: int, data: st.DataObject) -> None:
    """Part full, full and gone round; where episodes end is followed while it grows, or found out later."""
    random = np.random.default_rng(seed)
    columns = [episodes(random, length) for _ in range(n_envs)]
    known = data.draw(st.integers(0, length))
    ring = ring_of([{key: value[:known] for key, value in column.items()} for column in columns], capacity)
    if known:
        ring.breaks()
    for step in range(known, length):
        one = ring_of([{key: value[[step]] for key, value in column.items()} for column in columns], 1)
        infos = [{"TimeLimit.truncated": bool(timeout)} for timeout in one.timeouts[0]]
        ring.add(one.observations[0], one.next_observations[0], one.actions[0], one.rewards[0], one.dones[0], infos)
    stored = min(length, capacity)
    steps = np.arange(length - stored, length)
    rows = steps % capacity
    for environment, column in enumerate(columns):
        batch = ring.take(torch.as_tensor(rows * n_envs + environment), n_steps)
        assert_is_by_hand(batch, [by_hand(column, first, n_steps) for first in steps])
        np.testing.assert_array_equal(batch.observations, column["observations"][steps])


@pytest.mark.parametrize("steps", [5, 8, 21])
def test_equals_stable_baselines3(steps: int) -> None:
    column = episodes(np.random.default_rng(steps), steps)
    ours, theirs = ring_of([column], 8), ring_of([column], 8, NStepReplayBuffer)
    rows = np.arange(min(steps, 8))
    expected, batch = theirs._get_samples(rows), ours.take(torch.as_tensor(rows), 3)
    returns, discounts = discounted(batch)
    np.testing.assert_allclose(returns, expected.rewards[:, 0], atol=1e-6)
    np.testing.assert_allclose(discounts, expected.discounts[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(batch.next_observations, expected.next_observations)
    np.testing.assert_array_equal(1 - batch.masks, expected.dones[:, 0])


def test_cuts_where_the_next_row_begins_elsewhere() -> None:
    """A time limit that was not recorded, or sets put together: the return is cut there and bootstraps."""
    arrays = counting(6)
    arrays["observations"][3:] += 100
    arrays["next_observations"][3:] += 100
    batch = adopt(arrays).take(torch.arange(6), 3)
    assert batch.steps is not None
    assert batch.steps.tolist() == [3, 2, 1, 3, 2, 1]
    assert batch.masks.tolist() == [1] * 6
    np.testing.assert_array_equal(batch.next_observations, arrays["next_observations"][[2, 2, 2, 5, 5, 5]])


def test_cuts_at_the_end_of_an_episode_after_which_the_next_begins_where_it_ended() -> None:
    arrays = {**counting(6), "terminals": np.array([0, 1, 0, 0, 1, 0.0])}
    ring = ring_of([arrays], 6)
    later = ring_of([{key: value[:1] for key, value in arrays.items()}], 6)
    later.breaks()
    for step in range(1, 6):
        row = {key: value[[step]] for key, value in arrays.items()}
        infos = [{"TimeLimit.truncated": bool(row["terminals"][0])}]
        states = row["observations"], row["next_observations"]
        later.add(*states, row["actions"], row["rewards"], row["terminals"], infos)
    for buffer in (adopt(arrays), ring, later):
        batch = buffer.take(torch.arange(6), 3)
        assert batch.steps is not None
        assert batch.steps.tolist() == [2, 1, 3, 2, 1, 1]


def test_cuts_where_an_environment_was_reset_in_the_middle_of_an_episode() -> None:
    """SB3's own buffer would take rewards of the episode that follows."""
    arrays = {**counting(4), "terminals": np.zeros(4)}
    ring = ring_of([arrays], 20)
    ring.breaks()
    ring.add(np.float32([[500, 0]]), np.float32([[501, 0]]), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
    batch = ring.take(torch.tensor([2, 3]), 3)
    assert batch.steps is not None
    assert batch.steps.tolist() == [2, 1]


def test_dict_observations(dict_data: Any) -> None:
    buffer = adopt(dict_data)
    batch = buffer.take(torch.arange(40), 3)
    assert isinstance(batch.next_observations, dict)
    assert batch.steps is not None
    last = torch.arange(40) + batch.steps - 1
    assert (batch.steps > 1).any()
    for key, value in batch.next_observations.items():
        np.testing.assert_array_equal(value, dict_data["next_observations"][key][last])


def test_one_step_is_what_it_was() -> None:
    batch = adopt(counting(5)).take(torch.arange(5))
    assert batch.steps is None
    assert batch.rewards.shape == (5,)


@pytest.mark.parametrize("n_steps", [1, 2])
def test_nothing_but_the_window_is_read(n_steps: int) -> None:
    """Data that are mapped into memory are not gone through at every draw."""
    buffer = adopt(counting(50))
    buffer.take(torch.arange(2), n_steps)
    found = buffer.breaks()
    buffer.take(torch.arange(2), n_steps)
    assert buffer.breaks() is found
