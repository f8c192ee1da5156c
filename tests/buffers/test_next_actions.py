"""The action that followed, and whether one did, against the episodes that were written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from filled_buffers import adopt, few
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from dipole_sb3 import MixedReplayBuffer, OfflineReplayBuffer
from dipole_sb3.datasets import storage

BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def episodes(lengths: list[int], timeouts: bool) -> dict[str, Any]:
    """Episodes of these lengths; a transition's action is its number over a thousand, its reward the number."""
    count = sum(lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    ends = np.zeros(count, np.float32)
    ends[np.cumsum(lengths) - 1] = 1
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(count) - starts[episode]
    return {
        "observations": np.stack([episode, step], 1).astype(np.float32),
        "next_observations": np.stack([episode, step + 1], 1).astype(np.float32),
        "actions": (np.arange(count, dtype=np.float32) / 1000)[:, None],
        "rewards": np.arange(count, dtype=np.float32),
        "terminals": ends * (not timeouts),
        "timeouts": ends * timeouts,
    }


def expected(lengths: list[int], n_steps: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The number of the transition after each window of up to n steps, and whether it is of the same episode."""
    following, continues = [], []
    start = first
    for length in lengths:
        for step in range(length):
            last = min(step + n_steps, length) - 1
            following.append(start + last + 1)
            continues.append(last + 1 < length)
        start += length
    return np.array(following), np.array(continues)


def check(buffer: OfflineReplayBuffer, numbers: np.ndarray, lengths: list[int], n_steps: int) -> None:
    """``numbers``: of the transitions, by flat index."""
    batch = buffer.take(torch.arange(buffer.n_transitions), n_steps, next_actions=True)
    assert batch.next_actions is not None
    assert batch.continues is not None
    following, continues = (part[numbers] for part in expected(lengths, n_steps))
    assert batch.next_actions.shape == batch.actions.shape
    np.testing.assert_array_equal(batch.continues, continues.astype(np.float32))
    found = np.rint(1000 * batch.next_actions[:, 0].numpy())
    np.testing.assert_array_equal(found[continues], following[continues])
    # All else is as without them.
    plain = buffer.take(torch.arange(buffer.n_transitions), n_steps)
    assert plain.next_actions is None
    assert plain.continues is None
    for one, other in zip(plain[:6], batch[:6], strict=True):
        assert one is other is None or torch.equal(one, other)


@few
@given(LENGTHS, st.booleans(), st.integers(1, 4))
def test_recorded_in_memory(lengths: list[int], timeouts: bool, n_steps: int) -> None:
    check(adopt(episodes(lengths, timeouts)), np.arange(sum(lengths)), lengths, n_steps)


@few
@given(LENGTHS, st.booleans(), st.integers(1, 4))
def test_stored(tmp_path_factory: Any, lengths: list[int], timeouts: bool, n_steps: int) -> None:
    folder: Path = tmp_path_factory.mktemp("stored") / "set"
    storage.save(adopt(episodes(lengths, timeouts)), folder)
    check(storage.load(folder, device="cpu"), np.arange(sum(lengths)), lengths, n_steps)


@few
@given(LENGTHS, st.integers(1, 3), st.integers(1, 4), st.booleans(), st.booleans())
def test_a_ring_beside_recorded_data(
    lengths: list[int], recorded_episodes: int, n_steps: int, full: bool, share: bool
) -> None:
    """The newest transition has no following action yet, nor has the last one before the ring's oldest."""
    recorded = lengths[:recorded_episodes]
    online = lengths[recorded_episodes:]
    count = sum(online)
    capacity = max(1, count - 2) if full else count + 3
    of_all = episodes(lengths, timeouts=False)
    before = sum(recorded)
    buffer = MixedReplayBuffer(
        capacity, BOX, ACTION, "cpu", optimize_memory_usage=share,
        recorded=adopt({key: value[:before] for key, value in of_all.items()}),
    )  # fmt: skip
    for row in range(before, sum(lengths)):
        buffer.add(
            of_all["observations"][[row]], of_all["next_observations"][[row]], of_all["actions"][[row]],
            of_all["rewards"][[row]], of_all["terminals"][[row]], [{}],
        )  # fmt: skip
    kept = np.arange(max(before, sum(lengths) - capacity), sum(lengths))
    in_ring = np.empty(len(kept), np.int64)
    in_ring[(kept - before) % capacity] = kept
    check(buffer, np.concatenate([np.arange(before), in_ring]), lengths, n_steps)


def test_the_newest_transition_of_a_running_episode_has_none() -> None:
    buffer = MixedReplayBuffer(5, BOX, ACTION, "cpu")
    for step in range(7):
        state = np.array([[0.0, step]], np.float32)
        buffer.add(state, state + np.array([[0, 1]]), np.array([[step / 10]]), np.zeros(1), np.zeros(1), [{}])
        batch = buffer.take(torch.arange(buffer.n_transitions), next_actions=True)
        assert batch.continues is not None
        assert batch.next_actions is not None
        newest = step % 5
        assert batch.continues[newest] == 0
        others = [row for row in range(buffer.n_transitions) if row != newest]
        assert batch.continues[others].tolist() == [1.0] * len(others)
        np.testing.assert_allclose(batch.next_actions[others], batch.actions[others] + 0.1, atol=1e-6)


def test_drawn_batches_have_them_too() -> None:
    buffer = MixedReplayBuffer(9, BOX, ACTION, "cpu", recorded=adopt(episodes([4, 3], timeouts=False)))
    buffer.add(*np.zeros((2, 1, 2)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    for ratio in (None, 0.5):
        buffer.offline_ratio = ratio
        batch = buffer.draw(16, torch.Generator().manual_seed(0), 1, True)
        assert batch.next_actions is not None
        assert batch.next_actions.shape == (16, 1)
