"""Stacks made when a batch is drawn are those of arrays that were stacked beforehand, and of the environment."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from filled_buffers import ARRAYS, adopt, few, parts
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sampled_environments import Sampled, image_space, vector_space

from dipole_sb3 import DIPOLE, DatasetError, FrameStack, OfflineReplayBuffer, load_dataset, stack_frames
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.buffers.stored_buffer import StoredReplayBuffer
from dipole_sb3.common.observations import mapped
from dipole_sb3.datasets import make_env, storage

SMALL = {
    "net_arch": [8],
    "features_extractor_class": "impala-small",
    "features_extractor_kwargs": {"features_dim": 8, "stack_sizes": (2,)},
}
CAMERAS = spaces.Dict({"left": image_space(9, 8, 1), "joints": vector_space(), "right": image_space(1, 10, 11)})


def stacked_by_hand(frames: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Of one episode's frames [T + 1, …], by the definition."""
    return np.stack(
        [np.concatenate([frames[max(t - n + 1 + i, 0)] for i in range(n)], axis) for t in range(len(frames))]
    )


def recorded(space: spaces.Space[Any], lengths: list[int], n: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Episodes of random frames, some of which end by time, as they are and with stacks made beforehand."""
    random = np.random.default_rng(seed)

    def episode_of(part: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
        if part.dtype != np.uint8:
            frames = random.normal(size=(length + 1, *part.shape)).clip(-2, 2).astype(np.float32)
            return frames, frames
        # Few values: frames of one episode may be equal to those of another.
        frames = random.integers(0, 3, (length + 1, *part.shape), np.uint8)
        return frames, stacked_by_hand(frames, n, 0 if part.shape[0] < part.shape[-1] else -1)

    own: Any = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    made: list[dict[str, list[np.ndarray]]] = [{}, {}]
    for key, part in own.items():
        for which, episodes in enumerate(zip(*(episode_of(part, length) for length in lengths), strict=True)):
            made[which][key] = list(episodes)
    ends = np.cumsum(lengths) - 1
    terminals = np.zeros(sum(lengths), np.float32)
    terminals[ends] = 1
    masks = np.ones_like(terminals)
    masks[ends] = random.random(len(ends)) < 0.5
    rest = {
        "actions": random.uniform(-1, 1, (len(masks), 2)).astype(np.float32),
        "rewards": random.normal(size=len(masks)).astype(np.float32),
        "terminals": terminals,
        "masks": masks,
    }

    def arrays(episodes: dict[str, list[np.ndarray]]) -> dict[str, Any]:
        now = {key: np.concatenate([frames[:-1] for frames in value]) for key, value in episodes.items()}
        then = {key: np.concatenate([frames[1:] for frames in value]) for key, value in episodes.items()}
        return {"observations": now.get("", now), "next_observations": then.get("", then), **rest}

    return arrays(made[0]), arrays(made[1])


def require_same(one: Batch, other: Batch) -> None:
    for name, mine, its in zip(one._fields, one, other, strict=True):
        assert (mine is None) == (its is None), name
        if mine is not None:
            for key, value in parts(mine).items():
                assert value.dtype == parts(its)[key].dtype
                assert torch.equal(value, parts(its)[key]), (name, key)


def kept(path: Path, buffer: OfflineReplayBuffer) -> Iterator[OfflineReplayBuffer]:
    """In memory, on the disk read through maps, on the disk read row by row."""
    yield buffer
    storage.save(buffer, path)
    stored = storage.load(path, device="cpu")
    assert isinstance(stored, StoredReplayBuffer)
    for by_reads in (False, True):
        for file in stored._arrays.observations.values():
            file.drawn_by_reads = by_reads
        yield stored


@few
@given(
    st.sampled_from([image_space(9, 10, 2), image_space(2, 8, 9), CAMERAS]),
    st.lists(st.integers(1, 7), min_size=1, max_size=6),
    st.integers(2, 4),
    st.sampled_from([1, 2, 5]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_batches_are_those_of_arrays_stacked_beforehand(
    tmp_path_factory: pytest.TempPathFactory,
    space: spaces.Space[Any],
    lengths: list[int],
    n: int,
    n_steps: int,
    turned: bool,
    seed: int,
) -> None:
    frames, stacks = recorded(space, lengths, n, seed)
    expected = adopt(stacks)
    for data in kept(tmp_path_factory.mktemp("frames") / "data", adopt(frames, observation_space=space)):
        found, stacked = stack_frames(data, n), expected
        assert found.observation_space.shape == stacked.observation_space.shape
        if turned:
            found, stacked = found.with_channels_first(), stacked.with_channels_first()
        every = torch.arange(stacked.n_transitions)
        for some in (every, every[:0]):  # a mixed batch may have no recorded part
            require_same(found.take(some, n_steps, True), stacked.take(some, n_steps, True))
        batches = [each.draw(20, torch.Generator().manual_seed(seed), n_steps) for each in (found, stacked)]
        require_same(*batches)
        for name in ARRAYS:
            for key, array in parts(getattr(found, name)).items():
                np.testing.assert_array_equal(array[:], parts(getattr(stacked, name))[key])
        for block, its in zip(found.blocks(3), stacked.blocks(3), strict=True):
            for key, value in block.items():
                mapped(np.testing.assert_array_equal, value, its[key])
        samples = []
        for each in (found, stacked):
            np.random.seed(0)
            samples.append(each.sample(8))
        for mine, theirs in zip(*samples, strict=True):
            mapped(np.testing.assert_array_equal, mine, theirs)


@pytest.mark.parametrize("shape", [(12, 13, 3), (1, 13, 12)])
@pytest.mark.parametrize("on_disk", [False, True])
def test_trains_and_continues_online_as_with_stacks(tmp_path: Path, shape: tuple[int, ...], on_disk: bool) -> None:
    """The parameters are the same to the bit; an environment's stacks join the data's."""
    frames, stacks = recorded(image_space(*shape), [7, 3, 12], 3, 0)
    data = list(kept(tmp_path / "data", adopt(frames)))[2 if on_disk else 0]

    def trained(dataset: OfflineReplayBuffer) -> DIPOLE:
        env = FrameStack(Sampled(image_space(*shape)), 3)
        model = DIPOLE(
            "CnnPolicy", env, dataset=dataset, offline_steps=3, batch_size=8, n_steps=2, seed=0, device="cpu",
            policy_kwargs=SMALL,
        )  # fmt: skip
        return model.learn(12)

    one, other = trained(stack_frames(data, 3)), trained(adopt(stacks))
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, other.policy.state_dict()[name]), name
    assert isinstance(one.replay_buffer, MixedReplayBuffer)
    assert one.replay_buffer.n_online == 9
    every = torch.arange(one.replay_buffer.n_transitions)
    assert isinstance(other.replay_buffer, MixedReplayBuffer)
    require_same(one.replay_buffer.take(every, 3), other.replay_buffer.take(every, 3))
    assert one.observation_space.shape is not None
    action, _ = one.predict(np.zeros(one.observation_space.shape, np.uint8))
    assert action.shape == (2,)


class Drawn(gymnasium.Env[Any, Any]):
    """Draws every frame into the same memory; the joints count steps."""

    observation_space = CAMERAS
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self._left, self._right = (np.zeros(CAMERAS[key].shape, np.uint8) for key in ("left", "right"))  # type: ignore[arg-type]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._seen(), 0.0, self._steps == 5, False, {}

    def _seen(self) -> Any:
        for image in (self._left, self._right):
            image[:] = self.np_random.integers(0, 256, image.shape)
        return {"left": self._left, "joints": np.full(3, self._steps / 5, np.float32), "right": self._right}


def played(env: gymnasium.Env[Any, Any], episodes: int) -> dict[str, Any]:
    """Random actions' transitions."""
    rows: list[dict[str, Any]] = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            now = {key: value.copy() for key, value in observation.items()}
            observation, reward, ended, _, _ = env.step(np.zeros(1, np.float32))
            then = {key: value.copy() for key, value in observation.items()}
            rows.append({"observations": now, "next_observations": then, "rewards": reward, "terminals": float(ended)})
    both = {
        name: {key: np.stack([row[name][key] for row in rows]) for key in CAMERAS}
        for name in ("observations", "next_observations")
    }
    columns = {name: np.array([row[name] for row in rows], np.float32) for name in ("rewards", "terminals")}
    return {**both, **columns, "actions": np.zeros((len(rows), 1), np.float32)}


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_an_environment_shows_what_the_data_show(n: int) -> None:
    env = FrameStack(Drawn(), n)
    found = stack_frames(adopt(played(Drawn(), 4), observation_space=CAMERAS), n)
    expected = adopt(played(env, 4), observation_space=env.observation_space)
    assert found.observation_space == env.observation_space
    every = torch.arange(20)
    require_same(found.take(every), expected.take(every))
    assert env.frame_space == CAMERAS


def test_an_environment_is_made_as_the_data_were_stacked(tmp_path: Path) -> None:
    gymnasium.register("Drawn-v0", Drawn)
    try:
        data = adopt(played(Drawn(), 2), observation_space=CAMERAS, metadata={"env_id": "Drawn-v0"})
        storage.save(data, tmp_path / "data")
        stacked = load_dataset(tmp_path / "data", device="cpu", frame_stack=3)
        with make_env(stacked) as env:
            assert env.observation_space == stacked.observation_space != CAMERAS
        with make_env("Drawn-v0", frame_stack=2) as env:
            assert env.observation_space["left"].shape == (9, 8, 2)  # type: ignore[index]
    finally:
        gymnasium.registry.pop("Drawn-v0")


def test_frames_are_stored_once(tmp_path: Path) -> None:
    frames, _ = recorded(image_space(20, 20, 3), [50, 50], 3, 0)
    storage.save(adopt(frames), tmp_path / "data")
    stacked = load_dataset(tmp_path / "data", device="cpu", frame_stack=3)
    assert len(pickle.dumps(stacked)) < 30_000  # the folder's name and what is known of episodes, no frame
    again = pickle.loads(pickle.dumps(stacked))
    every = torch.arange(100)
    require_same(again.take(every, 3), stacked.take(every, 3))
    assert again.checksum == stacked.checksum
    in_memory = adopt(frames)
    assert stack_frames(in_memory, 3).checksum == stacked.checksum != in_memory.checksum
    assert stack_frames(in_memory, 2).checksum != stacked.checksum
    with pytest.raises(ValueError, match="are not written to"):
        stacked.add()


def test_validation_data_are_stacked_too() -> None:
    frames, stacks = recorded(image_space(8, 9, 2), [4, 3], 2, 0)
    data = adopt(frames)
    data.validation = adopt(frames)
    found = stack_frames(data, 2).with_channels_first().validation
    assert found is not None
    require_same(found.take(torch.arange(7)), adopt(stacks).with_channels_first().take(torch.arange(7)))


def test_several_environments_that_wrote_at_a_time() -> None:
    """Their rows lie beside each other."""
    frames, stacks = recorded(image_space(8, 9, 2), [4, 4, 4], 3, 0)

    def beside(arrays: dict[str, Any]) -> OfflineReplayBuffer:
        one = adopt(arrays)
        ring = OfflineReplayBuffer(12, one.observation_space, one.action_space, "cpu", n_envs=3)
        for row in range(4):
            at = row + np.array([0, 4, 8])
            infos = [{"TimeLimit.truncated": bool(mark)} for mark in one.timeouts[at, 0]]
            ring.add(
                one.observations[at, 0], one.next_observations[at, 0], one.actions[at, 0],  # type: ignore[index]
                one.rewards[at, 0], one.dones[at, 0], infos,
            )  # fmt: skip
        return ring

    every = torch.arange(12)
    for n_steps in (1, 3):
        require_same(stack_frames(beside(frames), 3).take(every, n_steps), beside(stacks).take(every, n_steps))


@pytest.mark.parametrize(
    ("space", "n", "message"),
    [
        (vector_space(), 3, r"^frame_stack is 3 for observations Box.*, expected an image$"),
        (image_space(8, 8, 3), 0, r"^frame_stack is 0, expected a whole number of at least 1$"),
        (image_space(8, 8, 3), 1.5, r"^frame_stack is 1.5, expected a whole number of at least 1$"),
        (image_space(8, 8, 3), 4, r"^frame_stack is 4 for images of shape \(8, 8, 3\), whose stacks .* larger images$"),
    ],
)
def test_what_cannot_be_stacked_is_refused(space: spaces.Space[Any], n: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameStack(Sampled(space), n)
    frames, _ = recorded(space, [3], 1, 0)
    with pytest.raises(ValueError, match=message):
        stack_frames(adopt(frames), n)


def test_data_without_an_order_are_refused() -> None:
    frames, _ = recorded(image_space(8, 9, 2), [40], 1, 0)
    shuffled = np.random.default_rng(0).permutation(40)
    with pytest.raises(DatasetError, match=r"^arrays: frame_stack=3 needs transitions in the order in which"):
        stack_frames(adopt({key: value[shuffled] for key, value in frames.items()}), 3)
    ring = OfflineReplayBuffer(9, image_space(8, 9, 2), spaces.Box(-1, 1, (1,), np.float32), "cpu")
    with pytest.raises(DatasetError, match=r"^replay buffer: is still being gathered; expected recorded data"):
        stack_frames(ring, 3)
