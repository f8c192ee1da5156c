"""A ring that stores observations once gives what the ring gives that stores them twice, to the bit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import ARRAYS, parts
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.common.observations import mapped

few = settings(max_examples=60, deadline=None)

VECTOR = spaces.Box(-9, 9, (3,), np.float32)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": VECTOR,
    "dict": spaces.Dict(
        {"joints": VECTOR, "camera": spaces.Box(0, 255, (2, 3, 1), np.uint8), "step": spaces.Discrete(9)}
    ),
}
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


class Steps:
    """Steps of several environments: episodes end by themselves, by time, or are left by a reset.

    :param share: of the steps at which each of these happens.
    """

    def __init__(self, space: spaces.Space[Any], n_envs: int, seed: int, share: float) -> None:
        self._space, self._n_envs, self._share = space, n_envs, share
        self._random = np.random.default_rng(seed)
        self._now = self._sampled()

    def _sampled(self) -> Any:
        def of(space: Any) -> np.ndarray:
            if space.dtype == np.float32:
                # As environments give them: float64, and −0, which a buffer must not take for 0.
                return np.where(
                    self._random.random((self._n_envs, *space.shape)) < 0.3,
                    -0.0,
                    self._random.normal(size=(self._n_envs, *space.shape)),
                )
            return self._random.integers(0, 9, (self._n_envs, *space.shape)).astype(space.dtype)

        if isinstance(self._space, spaces.Dict):
            return {key: of(part) for key, part in self._space.spaces.items()}
        return of(self._space)

    def into(self, steps: int, *buffers: OfflineReplayBuffer) -> None:
        random = self._random
        for _ in range(steps):
            following, fresh = self._sampled(), self._sampled()
            ended, timed_out, left = random.random((3, self._n_envs)) < self._share
            row = (
                random.uniform(-1, 1, (self._n_envs, 2)), random.normal(size=self._n_envs), ended | timed_out,
                [{"TimeLimit.truncated": bool(mark)} for mark in timed_out],
            )  # fmt: skip
            for buffer in buffers:
                buffer.add(self._now, following, *row)

            def chosen(new: np.ndarray, old: np.ndarray, gone: np.ndarray = ended | timed_out | left) -> np.ndarray:
                return np.where(gone.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            self._now = mapped(chosen, fresh, following)


def require_same(one: Batch, other: Batch) -> None:
    for name, mine, its in zip(one._fields, one, other, strict=True):
        for key, value in parts(mine).items():
            if value is not None:
                assert value.dtype == parts(its)[key].dtype
                if name.endswith("observations"):
                    assert value.numpy().tobytes() == parts(its)[key].numpy().tobytes(), (name, key)
                np.testing.assert_array_equal(value, parts(its)[key], err_msg=name)


def require_equal(shared: OfflineReplayBuffer, plain: OfflineReplayBuffer) -> None:
    """Every transition, whole batches, blocks and samples."""
    assert (shared.pos, shared.full, shared.size()) == (plain.pos, plain.full, plain.size())
    every = torch.arange(plain.n_transitions)
    for n_steps in (1, 2, 4):
        require_same(shared.take(every, n_steps), plain.take(every, n_steps))
    require_same(*(buffer.draw(9, torch.Generator().manual_seed(0), 3) for buffer in (shared, plain)))
    assert shared.checksum == plain.checksum
    samples = []
    for buffer in (shared, plain):
        np.random.seed(0)
        samples.append(buffer.sample(8))
    for mine, its in zip(*samples, strict=True):
        for key, value in parts(mine).items():
            np.testing.assert_array_equal(value, parts(its)[key])


rings = given(
    st.sampled_from(sorted(OBSERVATIONS)),
    st.integers(1, 3),
    st.integers(1, 9),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.integers(0, 2**32 - 1),
)


def pair(kind: str, n_envs: int, capacity: int, **options: Any) -> tuple[MixedReplayBuffer, MixedReplayBuffer]:
    shape: Any = (capacity * n_envs, OBSERVATIONS[kind], ACTIONS, "cpu", n_envs)
    return MixedReplayBuffer(*shape, optimize_memory_usage=True, **options), MixedReplayBuffer(*shape, **options)


@few
@rings
def test_every_batch_is_the_same(
    kind: str, n_envs: int, capacity: int, steps: list[int], share: float, seed: int
) -> None:
    """After any number of steps, and after more of them when tensors were made already."""
    shared, plain = pair(kind, n_envs, capacity)
    source = Steps(OBSERVATIONS[kind], n_envs, seed, share)
    for count in steps:
        source.into(count, shared, plain)
        require_equal(shared, plain)
        for name in ARRAYS:
            for key, value in parts(getattr(plain, name)).items():
                rows = plain._filled_rows()
                assert np.asarray(parts(getattr(shared, name))[key][:rows]).tobytes() == value[:rows].tobytes()


@few
@rings
def test_saved_in_any_way_it_goes_on_the_same(
    kind: str, n_envs: int, capacity: int, steps: list[int], share: float, seed: int
) -> None:
    shared, plain = pair(kind, n_envs, capacity)
    source = Steps(OBSERVATIONS[kind], n_envs, seed, share)
    source.into(steps[0], shared, plain)
    restored, other = pair(kind, n_envs, capacity)
    Steps(OBSERVATIONS[kind], n_envs, 1, 0.2).into(5, restored)
    restored.restore_online(plain.online_state())  # a state does not tell how it was stored
    other.restore_online(shared.online_state())
    unpickled = pickle.loads(pickle.dumps(shared))
    assert unpickled._shared is not None
    source.into(steps[-1], shared, plain, restored, other, unpickled)
    for buffer in (shared, restored, other, unpickled):
        require_equal(buffer, plain)
    divided, expected = shared.with_environments(2), plain.with_environments(2)
    require_equal(divided, expected)
    Steps(OBSERVATIONS[kind], 2, 3, 0.2).into(4, divided, expected)
    require_equal(divided, expected)


@pytest.mark.parametrize("kind", sorted(OBSERVATIONS))
def test_a_device_of_its_own_gets_what_has_changed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are copies, as on a GPU, instead of views."""
    from_numpy = torch.from_numpy
    shared, plain = pair(kind, 2, 9)
    source = Steps(OBSERVATIONS[kind], 2, 0, 0.2)
    source.into(5, shared, plain)
    monkeypatch.setattr(torch, "from_numpy", lambda array: from_numpy(array).clone())
    assert shared._shared is not None
    monkeypatch.setattr(type(shared._shared), "_shares_memory", lambda *_: False)
    for count in (1, 3, 8, 1, 20):
        require_same(*(buffer.take(torch.arange(plain.n_online), 2) for buffer in (shared, plain)))
        source.into(count, shared, plain)
        require_same(*(buffer.take(torch.arange(plain.n_online), 2) for buffer in (shared, plain)))


def add_one(ring: MixedReplayBuffer, now: float, following: float) -> None:
    nothing = np.zeros(1)
    ring.add(np.full((1, 3), now), np.full((1, 3), following), np.zeros((1, 2)), nothing, nothing, [{}])


def following_of(ring: MixedReplayBuffer, row: int) -> Any:
    return np.asarray(ring.take(torch.tensor([row])).next_observations)


def test_zeros_of_both_signs_are_not_the_same() -> None:
    ring, _ = pair("vector", 1, 4)
    add_one(ring, 1.0, -0.0)
    add_one(ring, 0.0, 2.0)
    assert np.signbit(following_of(ring, 0)).all()


def test_the_newest_row_does_not_rest_on_what_the_next_will_overwrite() -> None:
    """Though what lies there happens to be the same when it is restored."""
    ring, _ = pair("vector", 1, 4)
    add_one(ring, 1.0, 0.0)
    ring.restore_online(ring.online_state())
    add_one(ring, 5.0, 6.0)
    assert (following_of(ring, 0) == 0).all()


def test_observations_are_stored_once() -> None:
    shared, _ = pair("vector", 2, 1000)
    Steps(VECTOR, 2, 0, 0.005).into(3000, shared)
    assert shared._shared is not None
    kept: Any = shared._shared._kept
    assert np.count_nonzero(shared._shared.slots >= 0) <= len(kept) < 100


def test_time_limits_bootstrap_from_the_last_observation_unlike_in_stable_baselines3() -> None:
    shared, _ = pair("vector", 1, 10)
    shared.add(
        np.zeros((1, 3)),
        np.full((1, 3), 5.0),
        np.zeros((1, 2)),
        np.zeros(1),
        np.ones(1),
        [{"TimeLimit.truncated": True}],
    )
    shared.add(np.ones((1, 3)), np.full((1, 3), 2.0), np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    batch = shared.take(torch.tensor([0, 1]))
    assert isinstance(batch.next_observations, torch.Tensor)
    assert batch.next_observations[:, 0].tolist() == [5, 2]
    assert batch.masks.tolist() == [1, 1]
