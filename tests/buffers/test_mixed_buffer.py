"""Recorded data beside a ring of online transitions: nothing is copied, overwritten, lost or drawn too often."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import ARRAYS, add_row, adopt, counting, few, filled_like_stable_baselines3, parts
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from recordings import Arrays
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from dipole_sb3 import MixedReplayBuffer, OfflineReplayBuffer
from dipole_sb3.buffers.mixed_buffer import recorded_part

BOX, ACTION = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
ONLINE = 10_000
"""Where the rewards of online transitions begin, so that they can be told apart."""


def mixed(recorded: int, capacity: int = 30, n_envs: int = 1, **arguments: Any) -> MixedReplayBuffer:
    data = adopt(counting(recorded)) if recorded else None
    return MixedReplayBuffer(capacity, BOX, ACTION, "cpu", n_envs, recorded=data, **arguments)


def add(buffer: MixedReplayBuffer, steps: int, first: int = 0) -> MixedReplayBuffer:
    """Online transitions without an end; the reward of step t of environment e is ONLINE + t · n_envs + e."""
    n_envs = buffer.n_envs
    for step in range(first, first + steps):
        rewards = ONLINE + step * n_envs + np.arange(n_envs)
        states = [np.stack([np.full(n_envs, t), np.arange(n_envs)], 1) for t in (step, step + 1)]
        buffer.add(*states, np.zeros((n_envs, 1)), rewards, np.zeros(n_envs), [{}] * n_envs)
    return buffer


def rewards_of(buffer: OfflineReplayBuffer) -> list[float]:
    return buffer.take(torch.arange(buffer.n_transitions)).rewards.tolist()


class TestParts:
    def test_the_recorded_part_is_neither_copied_nor_overwritten(self) -> None:
        arrays = counting(20)
        data = adopt(arrays)
        buffer = add(MixedReplayBuffer(6, BOX, ACTION, "cpu", recorded=data), 50)
        assert buffer.recorded is data
        assert np.shares_memory(data.observations, arrays["observations"])
        assert rewards_of(buffer)[:20] == list(range(20))
        assert sorted(rewards_of(buffer)[20:]) == list(range(ONLINE + 44, ONLINE + 50))

    @few
    @given(st.integers(0, 20), st.integers(1, 12), st.integers(1, 4), st.integers(0, 20))
    def test_sizes(self, recorded: int, capacity: int, n_envs: int, steps: int) -> None:
        buffer = add(mixed(recorded, capacity, n_envs), steps)
        rows = min(steps, max(capacity // n_envs, 1))
        assert buffer.n_recorded == recorded
        assert buffer.n_online == rows * n_envs
        assert buffer.n_transitions == recorded + rows * n_envs == len(rewards_of(buffer))
        assert buffer.size() == rows + -(-recorded // n_envs)

    def test_the_ring_is_as_without_recorded_data(self) -> None:
        alone, beside = add(mixed(0, 12, 3), 7), add(mixed(20, 12, 3), 7)
        assert (alone.pos, alone.full) == (beside.pos, beside.full) == (3, True)
        for key in ARRAYS:
            np.testing.assert_array_equal(getattr(alone, key), getattr(beside, key))

    def test_carries_the_recorded_parts_name_and_validation_split(self) -> None:
        data = adopt(counting(4), source="mine", metadata={"a": 1})
        data.validation = adopt(counting(2))
        buffer = MixedReplayBuffer(9, BOX, ACTION, "cpu", recorded=data)
        assert (buffer.source, buffer.metadata, buffer.validation) == ("mine", {"a": 1}, data.validation)
        assert recorded_part(buffer) is data
        assert recorded_part(data) is data
        assert recorded_part(mixed(0)) is not None

    def test_recorded_data_that_is_a_ring_itself(self) -> None:
        """Of another run, of other environments: part full, full, with a recorded part of its own."""
        inner = add(mixed(5, 12, 3), 2)
        buffer = add(MixedReplayBuffer(9, BOX, ACTION, "cpu", 2, recorded=inner), 1, first=100)
        assert rewards_of(buffer) == [*range(5), *range(ONLINE, ONLINE + 6), ONLINE + 200, ONLINE + 201]


class TestTake:
    @pytest.mark.parametrize("dicts", [False, True])
    @pytest.mark.parametrize("n_steps", [1, 3])
    def test_every_transition_is_itself(self, dicts: bool, n_steps: int) -> None:
        data, _, _ = filled_like_stable_baselines3(2, 20, 30, dicts)
        source, _, _ = filled_like_stable_baselines3(3, 30, 10, dicts)
        spaces_of = (data.observation_space, data.action_space)
        buffer, ring = (MixedReplayBuffer(24, *spaces_of, "cpu", 3, recorded=part) for part in (data, None))
        for row in range(10):
            add_row(buffer, source, row)
            add_row(ring, source, row)
        order = torch.randperm(20 + 24, generator=torch.Generator().manual_seed(0))
        batch = buffer.take(order, n_steps)
        old, new = data.take(torch.arange(20), n_steps), ring.take(torch.arange(24), n_steps)
        for name in batch._fields:
            found, first, second = (parts(getattr(one, name)) for one in (batch, old, new))
            for key, tensor in found.items():
                if tensor is not None:
                    assert torch.equal(tensor, torch.cat([first[key], second[key]])[order]), name
        assert (batch.steps is None) == (n_steps == 1)


class TestUniform:
    @pytest.mark.parametrize(("recorded", "online"), [(40, 20), (3, 57), (0, 60), (60, 0)])
    def test_all_transitions_are_drawn_alike(self, recorded: int, online: int) -> None:
        buffer = add(mixed(recorded, 60), online)
        rewards = buffer.draw(60_000, torch.Generator().manual_seed(0)).rewards.long().numpy()
        counts = np.bincount(np.where(rewards < ONLINE, rewards, rewards - ONLINE + recorded), minlength=60)
        statistic = float(((counts - 1000) ** 2 / 1000).sum())
        assert abs(statistic - 59) < 3.5 * np.sqrt(2 * 59)

    def test_stable_baselines3_face_does_too(self) -> None:
        buffer = add(mixed(40, 60), 20)
        np.random.seed(0)
        rewards = np.concatenate([buffer.sample(50).rewards[:, 0].numpy() for _ in range(400)])
        counts = np.bincount(np.where(rewards < ONLINE, rewards, rewards - ONLINE + 40).astype(int), minlength=60)
        expected = len(rewards) / 60
        assert abs(float(((counts - expected) ** 2 / expected).sum()) - 59) < 3.5 * np.sqrt(2 * 59)

    def test_depends_on_its_generator_alone(self) -> None:
        buffer = add(mixed(40), 20)
        first, again = (buffer.draw(16, torch.Generator().manual_seed(1)).rewards for _ in range(2))
        assert torch.equal(first, again)

    def test_empty(self) -> None:
        with pytest.raises(ValueError, match="no transitions to train on"):
            mixed(0).draw(1, torch.Generator())


class TestRatio:
    @few
    @given(st.floats(0, 1), st.integers(1, 64), st.integers(1, 60))
    def test_the_share_is_exact_in_the_long_run(self, ratio: float, batch_size: int, batches: int) -> None:
        buffer = add(mixed(10), 10)
        buffer.offline_ratio = ratio
        generator, recorded = torch.Generator().manual_seed(0), 0
        for number in range(1, batches + 1):
            rewards = buffer.draw(batch_size, generator).rewards
            assert len(rewards) == batch_size
            share = int((rewards < ONLINE).sum())
            assert abs(share - ratio * batch_size) <= 1
            recorded += share
            assert -1e-6 < ratio * batch_size * number - recorded < 1

    @pytest.mark.parametrize(("ratio", "batch_size", "share"), [(0.1, 10, 1), (0.29, 100, 29), (0.57, 100, 57)])
    def test_a_whole_number_is_the_same_every_time(self, ratio: float, batch_size: int, share: int) -> None:
        """Also where the product is not exact: 0.29 · 100 is a little less than 29 in binary."""
        buffer = add(mixed(10), 10)
        buffer.offline_ratio = ratio
        generator = torch.Generator().manual_seed(0)
        shares = [int((buffer.draw(batch_size, generator).rewards < ONLINE).sum()) for _ in range(200)]
        assert shares == [share] * 200

    @pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
    def test_the_other_part_gives_the_whole_batch_while_one_is_empty(self, ratio: float) -> None:
        for buffer, online in ((mixed(10), False), (add(mixed(0), 4), True)):
            buffer.offline_ratio = ratio
            rewards = buffer.draw(20, torch.Generator().manual_seed(0)).rewards
            assert ((rewards >= ONLINE) == online).all()

    def test_each_part_is_drawn_uniformly(self) -> None:
        buffer = add(mixed(20, 60), 40)
        buffer.offline_ratio = 0.5
        rewards = buffer.draw(40_000, torch.Generator().manual_seed(0)).rewards.long().numpy()
        old, new = rewards[rewards < ONLINE], rewards[rewards >= ONLINE] - ONLINE
        for part, cells in ((old, 20), (new, 40)):
            counts, expected = np.bincount(part, minlength=cells), 20_000 / cells
            assert abs(((counts - expected) ** 2 / expected).sum() - cells + 1) < 3.5 * np.sqrt(2 * (cells - 1))

    def test_stable_baselines3_face_has_it_too(self) -> None:
        buffer = add(mixed(10), 10)
        buffer.offline_ratio = 0.25
        assert [int((buffer.sample(6).rewards < ONLINE).sum()) for _ in range(4)] == [1, 2, 1, 2]

    def test_n_step_windows_stay_inside_their_part(self) -> None:
        buffer = add(mixed(10), 10)
        buffer.offline_ratio = 0.5
        batch = buffer.draw(200, torch.Generator().manual_seed(0), n_steps=4)
        assert batch.steps is not None
        for rewards, steps in zip(batch.rewards.numpy(), batch.steps.tolist(), strict=True):
            np.testing.assert_array_equal(rewards[:steps], rewards[0] + np.arange(steps))
            np.testing.assert_array_equal(rewards[steps:], 0)


class TestOnlineState:
    @few
    @given(st.integers(0, 15), st.integers(1, 12), st.integers(1, 4), st.integers(0, 20), st.integers(0, 9))
    def test_a_restored_buffer_goes_on_bit_identically(
        self, recorded: int, capacity: int, n_envs: int, before: int, after: int
    ) -> None:
        def fresh() -> MixedReplayBuffer:
            buffer = mixed(recorded, capacity, n_envs)
            buffer.offline_ratio = 0.3
            return buffer

        buffer, restored = add(fresh(), before), add(fresh(), 3, first=77)
        generator = torch.Generator().manual_seed(0)
        if before:
            buffer.draw(7, generator)
        state = {name: array.copy() for name, array in buffer.online_state().items()}
        restored.draw(1, torch.Generator(), n_steps=2)
        restored.restore_online(state)
        for one in (buffer, restored):
            add(one, after, first=before)
        assert (buffer.pos, buffer.full, buffer.size()) == (restored.pos, restored.full, restored.size())
        if buffer.n_transitions:
            arguments = {"n_steps": 3, "next_actions": True}
            first, second = (one.draw(9, torch.Generator().manual_seed(1), **arguments) for one in (buffer, restored))
            assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))  # type: ignore[arg-type]

    def test_holds_the_online_part_alone_and_every_key_of_a_dict(self) -> None:
        source, _, _ = filled_like_stable_baselines3(2, 20, 5, dicts=True)
        buffer = MixedReplayBuffer(20, source.observation_space, source.action_space, "cpu", 2, recorded=source)
        for row in range(3):
            add_row(buffer, source, row)
        state = buffer.online_state()
        assert {"observations/camera", "next_observations/joints", "pos", "full"} < set(state)
        assert state["rewards"].shape == (3, 2)
        other = MixedReplayBuffer(20, source.observation_space, source.action_space, "cpu", 2, recorded=source)
        other.restore_online(state)
        for name, array in other.online_state().items():
            np.testing.assert_array_equal(array, state[name])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rewards": np.zeros((4, 2), np.float32)}, r"rewards is float32 \(4, 2\), expected float32 \(4, 1\)"),
            ({"rewards": np.zeros((4, 1))}, "rewards is float64"),
            ({"full": np.array(True)}, r"expected float32 \(30, 1, 2\)"),
            ({"pos": np.array(30)}, "row 30 is written next, expected one of a ring of 30"),
            ({"more": np.zeros(1)}, "found .*more.*, expected"),
        ],
    )
    def test_of_another_ring_is_refused_and_nothing_changed(self, change: dict[str, Any], message: str) -> None:
        buffer = add(mixed(3), 4)
        before = rewards_of(buffer)
        with pytest.raises(ValueError, match=message):
            buffer.restore_online({**add(mixed(3), 4, first=9).online_state(), **change})
        assert rewards_of(buffer) == before


class TestOtherEnvironments:
    @few
    @given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 15))
    def test_every_online_transition_is_kept(self, capacity: int, n_envs: int, other: int, steps: int) -> None:
        buffer = add(mixed(7, capacity, n_envs), steps)
        changed = buffer.with_environments(other)
        kept, found = rewards_of(buffer), rewards_of(changed)
        assert changed.recorded is buffer.recorded
        assert set(found) == set(kept)
        assert 0 <= len(found) - len(kept) < other
        assert changed.n_envs == other
        assert changed.buffer_size * other >= buffer.buffer_size * n_envs - other + 1
        add(changed, 1, first=1000)
        newest = {ONLINE + 1000 * other + environment for environment in range(other)}
        assert newest <= set(rewards_of(changed))
        assert rewards_of(buffer) == kept

    def test_returns_over_n_steps_follow_the_same_environment(self) -> None:
        for steps in (5, 9):
            changed = add(mixed(7, 21, 3), steps).with_environments(2)
            batch = changed.take(torch.arange(7, changed.n_transitions), n_steps=4)
            assert batch.steps is not None
            assert batch.steps.max() == 4
            for rewards, count in zip(batch.rewards.numpy(), batch.steps.tolist(), strict=True):
                np.testing.assert_array_equal(rewards[:count], rewards[0] + 3 * np.arange(count))
            # Where three environments' transitions end, and the two columns into which they are divided.
            assert changed.breaks()[: changed.n_online // 2].sum() <= 3 + 2

    def test_dict_observations(self) -> None:
        source, _, _ = filled_like_stable_baselines3(2, 20, 6, dicts=True)
        buffer = MixedReplayBuffer(20, source.observation_space, source.action_space, "cpu", 2)
        for row in range(6):
            add_row(buffer, source, row)
        changed = buffer.with_environments(3)
        for key, array in parts(changed.next_observations).items():
            expected = parts(source.next_observations)[key][:6].swapaxes(0, 1).reshape(12, *array.shape[2:])
            np.testing.assert_array_equal(array[:4].swapaxes(0, 1).reshape(12, *array.shape[2:]), expected)


class TestTogether:
    def test_empty_room_is_not_pickled(self) -> None:
        buffer = add(mixed(9, 1_000_000), 3)
        stored = pickle.dumps(buffer)
        assert len(stored) < 20_000
        loaded = pickle.loads(stored)
        assert loaded.buffer_size == len(loaded.rewards) == 1_000_000
        assert rewards_of(loaded) == rewards_of(buffer)

    @pytest.mark.parametrize("steps", [0, 4, 6, 8])
    def test_pickled_with_both_parts(self, steps: int) -> None:
        buffer = add(mixed(9, 6), steps)
        buffer.draw(3, torch.Generator(), n_steps=2)
        file = io.BytesIO()
        save_to_pkl(file, buffer)
        file.seek(0)
        loaded = load_from_pkl(file)
        assert isinstance(loaded, MixedReplayBuffer)
        assert rewards_of(loaded) == rewards_of(buffer)
        assert rewards_of(add(loaded, 3, first=steps)) == rewards_of(add(buffer, 3, first=steps))

    def test_what_identifies_the_data_is_of_both_parts(self) -> None:
        buffer = add(mixed(9, 6), 4)
        rewards = np.concatenate([block["rewards"] for block in buffer.blocks(4)])
        assert rewards.tolist() == rewards_of(buffer)
        checksums = {buffer.checksum, add(buffer, 1, first=4).checksum, add(mixed(0, 6), 5).checksum, mixed(9).checksum}
        assert len(checksums) == 4

    def test_moves_with_the_recorded_part(self) -> None:
        buffer = add(mixed(9), 3)
        assert buffer.to("meta") is buffer
        assert buffer.recorded is not None
        assert buffer.recorded.device.type == "meta"
        batch = buffer.take(torch.zeros(4, dtype=torch.int64, device="meta"), n_steps=2)
        assert {tensor.device.type for tensor in batch if isinstance(tensor, torch.Tensor)} == {"meta"}

    def test_channels_first_in_both_parts(self, image_data: Arrays) -> None:
        data = adopt(image_data)
        buffer = MixedReplayBuffer(9, data.observation_space, data.action_space, "cpu", recorded=data)
        for row in range(3):
            add_row(buffer, data, row)
        turned = buffer.with_channels_first()
        observations = turned.take(torch.tensor([39, 40, 42])).observations
        expected = image_data["observations"][[39, 0, 2]].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(observations, expected)
        assert buffer.take(torch.tensor([0])).observations.shape == (1, 36, 36, 3)  # type: ignore[union-attr]
