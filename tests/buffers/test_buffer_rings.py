"""The replay buffer as a ring, made longer, turned channels-first, pickled and moved: every transition stays itself."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import ARRAYS, add_row, adopt, counting, filled_like_stable_baselines3, parts
from gymnasium import spaces
from recordings import Arrays
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from dipole_sb3 import OfflineReplayBuffer


class TestRing:
    """Built through SB3's constructor it is SB3's ring buffer."""

    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("dicts", [False, True])
    @pytest.mark.parametrize("steps", [4, 10, 11, 37])
    def test_equals_stable_baselines3_after_every_number_of_steps(self, n_envs: int, dicts: bool, steps: int) -> None:
        ours, theirs, _ = filled_like_stable_baselines3(n_envs, 10 * n_envs, steps, dicts)
        assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
        assert ours.buffer_size == theirs.buffer_size == 10
        for key in ARRAYS:
            mine, its = parts(getattr(ours, key)), parts(getattr(theirs, key))
            for name in its:
                assert mine[name].dtype == its[name].dtype
                np.testing.assert_array_equal(mine[name], its[name], err_msg=key)
        assert ours.timeouts.any()
        assert not ours.timeouts.all()

    def test_extends_by_time_limits_that_are_arrays_of_one_element_as_stable_baselines3_does(self) -> None:
        arguments: Any = (5, spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), "cpu")
        rows = np.arange(3, dtype=np.float32)
        marks: list[Any] = [np.array([True]), np.array([False]), np.True_]
        several = (
            rows[:, None, None] * np.ones((1, 1, 2)),
            rows[:, None, None] * np.ones((1, 1, 2)) + 1,
            np.zeros((3, 1, 1)),
            rows[:, None],
            np.ones((3, 1)),
            [[{"TimeLimit.truncated": mark}] for mark in marks],
        )
        ours, theirs = OfflineReplayBuffer(*arguments), ReplayBuffer(*arguments)
        for buffer in (ours, theirs):
            buffer.extend(*several)
        for key in ARRAYS:
            np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key), err_msg=key)
        assert ours.timeouts[:, 0].tolist() == [1, 0, 1, 0, 0]

    def test_timeouts_are_ignored_when_asked_to(self) -> None:
        ring = OfflineReplayBuffer(
            4, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), "cpu", handle_timeout_termination=False
        )
        truncated = [{"TimeLimit.truncated": True}]
        ring.add(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 1)), np.ones(1), np.ones(1), truncated)
        assert ring.take(torch.tensor([0])).masks.item() == 0

    def test_what_is_added_keeps_its_value_when_the_caller_reuses_its_arrays(self) -> None:
        ring = OfflineReplayBuffer(4, spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), "cpu")
        observation = np.ones((1, 2), np.float32)
        ring.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
        observation[:] = 7
        np.testing.assert_array_equal(ring.observations[0], [[1, 1]])

    def test_batches_see_what_is_added_after_the_first_draw(self) -> None:
        ours, _, _ = filled_like_stable_baselines3(3, capacity=30, steps=3)
        generator = torch.Generator().manual_seed(0)
        ours.draw(2, generator)
        ours.add(np.ones((3, 3)), np.ones((3, 3)), np.ones((3, 2)), np.full(3, 100.0), np.zeros(3), [{}] * 3)
        np.testing.assert_array_equal(ours.take(torch.arange(9, 12)).rewards, [100, 100, 100])

    def test_memory_optimisation_is_refused(self) -> None:
        with pytest.raises(ValueError, match="optimize_memory_usage=True"):
            OfflineReplayBuffer(9, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), optimize_memory_usage=True)

    def test_discrete_observations_have_one_column_as_in_stable_baselines3(self) -> None:
        box = spaces.Box(-1, 1, (1,))
        arrays = {**counting(6), "observations": np.arange(6), "next_observations": np.arange(6)[::-1]}
        buffer = adopt(arrays, observation_space=spaces.Discrete(6), action_space=box)
        theirs = ReplayBuffer(6, spaces.Discrete(6), box, "cpu")
        assert buffer.observations.shape == theirs.observations.shape == (6, 1, 1)
        assert buffer.observations.dtype == theirs.observations.dtype
        np.testing.assert_array_equal(buffer.take(torch.tensor([2])).next_observations, [[3]])


class TestChannels:
    def test_first_is_a_view(self, image_data: Arrays) -> None:
        buffer = adopt(image_data)
        buffer.validation = adopt(image_data)
        turned = buffer.with_channels_first()
        for one in (turned, turned.validation):
            assert one is not None
            assert one.observation_space.shape == one.obs_shape == (3, 36, 36)
            for key in ("observations", "next_observations"):
                stored = getattr(one, key)
                assert stored.shape == (40, 1, 3, 36, 36)
                assert np.shares_memory(stored, image_data[key])
                np.testing.assert_array_equal(stored[:, 0], image_data[key].transpose(0, 3, 1, 2))
        taken = turned.take(torch.tensor([5, 0])).observations
        np.testing.assert_array_equal(taken, image_data["observations"][[5, 0]].transpose(0, 3, 1, 2))
        tensors = turned.tensors()["observations"]
        assert np.shares_memory(tensors.numpy(), image_data["observations"])
        # The buffer that was turned stays what it was, also when batches had been drawn from it.
        assert buffer.observations.shape == (40, 1, 36, 36, 3)  # type: ignore[union-attr]
        assert buffer.take(torch.tensor([1])).observations.shape == (1, 36, 36, 3)  # type: ignore[union-attr]

    def test_first_as_the_environment_has_them_is_a_view(self, image_data: Arrays) -> None:
        """Recorded channels-last, for an environment whose images SB3 has turned."""
        images, turned = image_data["observations"], spaces.Box(0, 255, (3, 36, 36), np.uint8)
        in_dicts = {key: {"camera": image_data[key]} for key in ("observations", "next_observations")}
        alone = adopt(image_data, observation_space=turned).observations
        in_dict = adopt({**image_data, **in_dicts}, observation_space=spaces.Dict(camera=turned)).observations
        for stored in (alone, parts(in_dict)["camera"]):
            assert np.shares_memory(stored, images)
            np.testing.assert_array_equal(stored[:, 0], images.transpose(0, 3, 1, 2))

    def test_first_turns_only_the_images_of_a_dict(self, dict_data: Arrays) -> None:
        buffer = adopt(dict_data)
        buffer.tensors()
        turned = buffer.with_channels_first()
        assert turned.obs_shape == {"camera": (1, 36, 36), "joints": (3,)}
        batch = turned.take(torch.arange(40))
        assert isinstance(batch.next_observations, dict)
        camera = dict_data["next_observations"]["camera"]
        np.testing.assert_array_equal(batch.next_observations["camera"], camera.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch.next_observations["joints"], dict_data["next_observations"]["joints"])
        assert np.shares_memory(parts(turned.observations)["joints"], dict_data["observations"]["joints"])

    def test_first_twice_is_once(self, image_data: Arrays, reacher_data: Arrays) -> None:
        turned = adopt(image_data).with_channels_first()
        assert turned.with_channels_first() is turned
        vectors = adopt(reacher_data)
        assert vectors.with_channels_first() is vectors

    def test_of_a_space_are_laid_out_as_in_it(self, image_data: Arrays) -> None:
        last, first = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Box(0, 255, (3, 36, 36), np.uint8)
        buffer = adopt(image_data)
        assert buffer.with_channels_of(last) is buffer
        assert buffer.with_channels_of(first).observation_space == first
        # Another size is not ours to repair: comparing the spaces says so.
        assert buffer.with_channels_of(spaces.Box(0, 255, (3, 64, 64), np.uint8)) is buffer


class TestPickling:
    def test_round_trip_through_stable_baselines3(self, dict_data: Arrays) -> None:
        buffer = adopt(dict_data, source="mine", metadata={"env_id": "Dict-v0"})
        buffer.validation = adopt(dict_data)
        buffer.tensors()
        file = io.BytesIO()
        save_to_pkl(file, buffer)
        file.seek(0)
        loaded = load_from_pkl(file)
        assert isinstance(loaded, OfflineReplayBuffer)
        assert (loaded.source, loaded.metadata, loaded.size()) == ("mine", {"env_id": "Dict-v0"}, buffer.size())
        assert loaded.validation is not None
        assert loaded.observation_space == buffer.observation_space
        for one, other in ((buffer, loaded), (buffer.validation, loaded.validation)):
            for key in ARRAYS:
                for name, array in parts(getattr(one, key)).items():
                    np.testing.assert_array_equal(parts(getattr(other, key))[name], array)
        batches = [one.draw(8, torch.Generator().manual_seed(0)) for one in (buffer, loaded)]
        assert torch.equal(batches[0].rewards, batches[1].rewards)

    def test_the_tensors_that_batches_are_drawn_from_are_not_stored_a_second_time(self, reacher_data: Arrays) -> None:
        buffer = adopt(reacher_data)
        before = len(pickle.dumps(buffer))
        buffer.tensors()
        assert len(pickle.dumps(buffer)) == before


class TestDevice:
    def test_to_moves_the_validation_split_too(self, reacher_data: Arrays) -> None:
        """On the device without memory: that a second device is there cannot be taken for granted."""
        buffer = adopt(reacher_data)
        buffer.validation = adopt(reacher_data)
        buffer.tensors()
        buffer.validation.tensors()
        assert buffer.to("meta") is buffer
        for one in (buffer, buffer.validation):
            assert one.device == torch.device("meta")
            batch = one.take(torch.zeros(4, dtype=torch.int64, device="meta"))
            assert {tensor.device.type for tensor in batch if isinstance(tensor, torch.Tensor)} == {"meta"}
        buffer.to("cpu")
        np.testing.assert_array_equal(buffer.validation.take(torch.tensor([3])).rewards, reacher_data["rewards"][[3]])

    @pytest.mark.parametrize("dicts", [False, True])
    @pytest.mark.parametrize("added", [[1], [3], [1, 1, 4], [10], [27], [9, 2]])
    def test_what_is_added_reaches_another_device(self, added: list[int], dicts: bool) -> None:
        """Copies on the CPU stand for a second device, which cannot be taken for granted."""
        source, _, _ = filled_like_stable_baselines3(2, capacity=20, steps=40, dicts=dicts)
        ring, _, _ = filled_like_stable_baselines3(2, capacity=20, steps=13, dicts=dicts)
        ring.take(torch.arange(3), n_steps=2)
        mirror = ring._mirror
        assert mirror is not None
        mirror._tensors = copied = {name: clone(tensors) for name, tensors in mirror._tensors.items()}
        row = 3  # what follows on the 13 steps that both have made
        for rows in added:
            for _ in range(rows):
                add_row(ring, source, row % 10)
                row += 1
            ring.tensors()
            for name, tensors in copied.items():
                for key, array in parts(getattr(ring, name)).items():
                    np.testing.assert_array_equal(parts(tensors)[key].numpy().reshape(array.shape), array, err_msg=name)
        assert set(copied) == {*ARRAYS, "_breaks"}

    def test_a_device_without_memory_takes_what_is_added(self) -> None:
        ring = OfflineReplayBuffer(4, spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), "meta")
        for _ in range(6):
            ring.add(np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
            batch = ring.take(torch.zeros(3, dtype=torch.int64, device="meta"), n_steps=2)
            assert batch.rewards.shape == (3, 2)


def clone(tensors: Any) -> Any:
    return {key: part.clone() for key, part in tensors.items()} if isinstance(tensors, dict) else tensors.clone()
