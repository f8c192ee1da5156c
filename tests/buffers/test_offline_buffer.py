"""The replay buffer on recorded data: nothing is copied, lost or reordered, and SB3 sees its own buffer."""

from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import adopt, counting, few, filled_like_stable_baselines3, parts, recorded
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from recordings import Arrays
from stable_baselines3 import TD3
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.buffers.action_units import ACTION_MARGIN
from dipole_sb3.buffers.offline_buffer import Batch


@few
@given(recorded())
def test_observations_and_rewards_are_adopted_without_a_copy(arrays: dict[str, Any]) -> None:
    buffer = adopt(arrays)
    for key in ("observations", "next_observations"):
        for name, array in parts(arrays[key]).items():
            stored = parts(getattr(buffer, key))[name]
            assert np.shares_memory(stored, array)
            assert stored.shape == (len(array), 1, *array.shape[1:])
            # What batches are drawn from is the caller's memory, too.
            assert np.shares_memory(parts(buffer.tensors()[key])[name].numpy(), array)
    assert np.shares_memory(buffer.rewards, arrays["rewards"])


LAYOUTS = {
    "double": lambda a: a.astype(np.float64),
    "column by column": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, 0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "one row repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_and_types_hold_the_same_values(layout: str) -> None:
    plain = counting(20)
    arrays = {key: LAYOUTS[layout](array) for key, array in plain.items()}
    batch = adopt(arrays).take(torch.tensor([7, 0, 19]))
    for key in ("observations", "rewards", "next_observations", "masks"):
        tensor = getattr(batch, key)
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor, np.asarray(arrays[key])[[7, 0, 19]])


@few
@given(recorded(), st.data())
def test_take_gives_the_rows_of_the_arrays(arrays: dict[str, Any], data: st.DataObject) -> None:
    buffer = adopt(arrays)
    length = len(arrays["rewards"])
    indices = np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)))
    batch = buffer.take(torch.from_numpy(indices))
    for taken, key in ((batch.observations, "observations"), (batch.next_observations, "next_observations")):
        assert parts(taken).keys() == parts(arrays[key]).keys()
        for name, array in parts(arrays[key]).items():
            tensor = parts(taken)[name]
            assert tensor.numpy().dtype == array.dtype
            np.testing.assert_array_equal(tensor.numpy(), array[indices])
    limit = 1 - ACTION_MARGIN
    np.testing.assert_allclose(batch.actions, arrays["actions"][indices].clip(-limit, limit), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(batch.rewards, arrays["rewards"][indices])
    np.testing.assert_array_equal(batch.masks, arrays["masks"][indices])
    assert batch.actions.dtype == batch.rewards.dtype == batch.masks.dtype == torch.float32


class TestDraw:
    def test_is_uniform_with_replacement(self) -> None:
        cells, draws = 200, 40_000
        buffer = adopt(counting(cells))
        generator = torch.Generator().manual_seed(0)
        rewards = torch.cat([buffer.draw(500, generator).rewards for _ in range(draws // 500)])
        counts = np.bincount(rewards.long().numpy(), minlength=cells)
        expected = draws / cells
        statistic = float(((counts - expected) ** 2 / expected).sum())
        # χ² with cells − 1 degrees of freedom; far below it would mean draws without replacement.
        freedom = cells - 1
        assert abs(statistic - freedom) < 3.5 * np.sqrt(2 * freedom)

    def test_keeps_transitions_together(self) -> None:
        batch = adopt(counting(50)).draw(256, torch.Generator().manual_seed(1))
        assert isinstance(batch.observations, torch.Tensor)
        assert isinstance(batch.next_observations, torch.Tensor)
        np.testing.assert_array_equal(batch.observations[:, 0], batch.rewards)
        np.testing.assert_array_equal(batch.next_observations[:, 1], -batch.rewards - 1)

    def test_depends_on_its_generator_alone(self) -> None:
        buffer = adopt(counting(1000))

        def drawn(seed: int) -> Batch:
            return buffer.draw(64, torch.Generator().manual_seed(seed))

        first = drawn(3)
        torch.manual_seed(99)
        np.random.seed(99)
        numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr]
        assert torch.equal(first.rewards, drawn(3).rewards)
        assert not torch.equal(first.rewards, drawn(4).rewards)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_goes_on_with_its_generator(self) -> None:
        buffer, generator = adopt(counting(1000)), torch.Generator().manual_seed(0)
        assert not torch.equal(buffer.draw(64, generator).rewards, buffer.draw(64, generator).rewards)

    def test_of_a_part_full_ring_sees_only_what_was_stored(self) -> None:
        ring = OfflineReplayBuffer(30, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), "cpu", n_envs=3)
        with pytest.raises(ValueError, match="no transitions to train on; expected at least one"):
            ring.draw(4, torch.Generator())
        for row in range(4):
            ones = np.ones(3)
            ring.add(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 1)), 3 * row + ones.cumsum(), 0 * ones, [{}] * 3)
        rewards = ring.draw(2000, torch.Generator().manual_seed(0)).rewards
        assert set(rewards.tolist()) == set(range(1, 13))


class TestSample:
    """SB3's own face."""

    def test_arrays(self, reacher_data: Arrays) -> None:
        buffer = adopt(reacher_data, source="reacher", metadata={"env_id": "Reacher-v5"})
        samples = buffer.sample(32)
        assert isinstance(samples, ReplayBufferSamples)
        assert [tuple(tensor.shape) for tensor in samples[:5]] == [(32, 10), (32, 2), (32, 10), (32, 1), (32, 1)]
        assert {tensor.dtype for tensor in samples[:5]} == {torch.float32}
        assert (buffer.source, buffer.metadata) == ("reacher", {"env_id": "Reacher-v5"})

    def test_dicts(self, dict_data: Arrays) -> None:
        samples = adopt(dict_data).sample(16)
        assert isinstance(samples, DictReplayBufferSamples)
        for observations in (samples.observations, samples.next_observations):
            assert observations["joints"].shape == (16, 3)
            assert observations["joints"].dtype == torch.float32
            assert observations["camera"].shape == (16, 36, 36, 1)
            assert observations["camera"].dtype == torch.uint8
        assert samples.rewards.shape == samples.dones.shape == (16, 1)

    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("normalized", [False, True])
    def test_equals_stable_baselines3_buffer_of_the_same_transitions(self, n_envs: int, normalized: bool) -> None:
        ours, theirs, env = filled_like_stable_baselines3(n_envs, capacity=60, steps=70)
        env = fitted(env) if normalized else None
        for seed in range(3):
            np.random.seed(seed)
            expected = theirs.sample(40, env)
            np.random.seed(seed)
            assert_same_samples(ours.sample(40, env), expected)

    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("normalized", [False, True])
    def test_equals_stable_baselines3_dict_buffer(self, n_envs: int, normalized: bool) -> None:
        ours, theirs, env = filled_like_stable_baselines3(n_envs, capacity=30, steps=15, dicts=True)
        env = fitted(env, norm_obs_keys=["joints"]) if normalized else None
        np.random.seed(0)
        expected = theirs.sample(25, env)
        np.random.seed(0)
        assert_same_samples(ours.sample(25, env), expected)

    def test_normalisation_changes_what_is_sampled(self) -> None:
        """Otherwise the comparisons above would compare nothing."""
        ours, _, env = filled_like_stable_baselines3(1, capacity=30, steps=20)
        np.random.seed(0)
        raw = ours.sample(8)
        np.random.seed(0)
        scaled = ours.sample(8, fitted(env))
        assert not torch.allclose(raw.observations, scaled.observations)
        assert not torch.allclose(raw.rewards, scaled.rewards)


def fitted(env: DummyVecEnv, **arguments: Any) -> VecNormalize:
    """Statistics of a few steps, frozen."""
    normalize = VecNormalize(env, **arguments)
    normalize.reset()
    for _ in range(20):
        normalize.step([env.action_space.sample() for _ in range(env.num_envs)])
    normalize.training = False
    return normalize


def assert_same_samples(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        mine, its = parts(getattr(ours, name)), parts(getattr(theirs, name))
        assert mine.keys() == its.keys()
        for key in its:
            assert mine[key].dtype == its[key].dtype
            assert torch.equal(mine[key], its[key]), name


class TestEnds:
    """How masks and terminals become SB3's dones and timeouts, and those the masks of bootstrapping."""

    @pytest.mark.parametrize(
        ("terminal", "mask", "done", "timeout", "bootstrap"),
        [
            (0, 1, 0, 0, 1),  # in the middle of an episode
            (1, 1, 1, 1, 1),  # a time limit: the value goes on
            (1, 0, 1, 0, 0),  # the episode itself ended
            (0, 0, 1, 0, 0),  # bootstrapping stops although recording went on
            (0, None, 0, 0, 1),
            (1, None, 1, 0, 0),  # without masks every terminal stops bootstrapping
            (None, 1, 0, 0, 1),
            (None, 0, 1, 0, 0),  # without terminals only masks end episodes
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, bool, np.int64, np.uint8])
    def test_table(
        self, terminal: int | None, mask: int | None, done: int, timeout: int, bootstrap: int, dtype: Any
    ) -> None:
        arrays = counting(3)
        del arrays["masks"]
        for key, value, other in (("terminals", terminal, 0), ("masks", mask, 1)):
            if value is not None:
                arrays[key] = np.array([other, value, other], dtype)
        buffer = adopt(arrays)
        np.testing.assert_array_equal(buffer.dones[:, 0], [0, done, 0])
        np.testing.assert_array_equal(buffer.timeouts[:, 0], [0, timeout, 0])
        assert buffer.dones.dtype == buffer.timeouts.dtype == np.float32
        np.testing.assert_array_equal(buffer.take(torch.arange(3)).masks, [1, bootstrap, 1])
        samples = buffer._get_samples(np.arange(3))
        np.testing.assert_array_equal(samples.dones[:, 0], [0, 1 - bootstrap, 0])

    def test_the_arrays_given_are_left_as_they_are(self) -> None:
        arrays = {**counting(5), "terminals": np.array([0, 1, 0, 1, 0.0], np.float32)}
        arrays["masks"][1] = 0
        before = {key: value.copy() for key, value in arrays.items()}
        adopt(arrays)
        for key, value in before.items():
            np.testing.assert_array_equal(arrays[key], value)

    @pytest.mark.parametrize("key", ["rewards", "terminals", "masks"])
    def test_columns_may_have_a_second_axis_of_one(self, key: str) -> None:
        arrays = {**counting(5), "terminals": np.array([0, 1, 0, 1, 0.0])}
        stored = adopt({**arrays, key: arrays[key][:, None]})
        plain = adopt(arrays)
        for name in ("rewards", "dones", "timeouts"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(plain, name))


class TestActions:
    LOW, HIGH = np.float32([-1, 0, -30, 5]), np.float32([1, 0.04, 10, 6])

    @few
    @given(st.integers(0, 2**32 - 1))
    def test_scaling_is_undone_by_the_policy(self, seed: int) -> None:
        box = spaces.Box(self.LOW, self.HIGH)
        actions = np.random.default_rng(seed).uniform(self.LOW, self.HIGH, (20, 4)).astype(np.float32)
        scaled = adopt({**counting(20), "actions": actions}, action_space=box).actions[:, 0]
        assert np.abs(scaled).max() <= 1 - ACTION_MARGIN / 2
        restored = TD3.policy_aliases["MlpPolicy"](
            spaces.Box(-1, 1, (2,)), box, lambda _: 1e-3, net_arch=[2]
        ).unscale_action(scaled)
        np.testing.assert_allclose(restored, actions, atol=1e-5 * float((self.HIGH - self.LOW).max()))
        by_hand = -1 + 2 * (actions.astype(np.float64) - self.LOW) / (self.HIGH.astype(np.float64) - self.LOW)
        np.testing.assert_allclose(scaled, by_hand.clip(-1 + ACTION_MARGIN, 1 - ACTION_MARGIN), rtol=0, atol=2e-6)

    def test_bounds_are_clipped_a_little_inside_and_the_caller_keeps_its_array(self) -> None:
        box = spaces.Box(self.LOW, self.HIGH)
        actions = np.stack([self.LOW, self.HIGH, (self.LOW + self.HIGH) / 2])
        arrays = {**counting(3), "actions": actions.copy()}
        scaled = adopt(arrays, action_space=box).actions[:, 0]
        np.testing.assert_allclose(scaled[:2], [[ACTION_MARGIN - 1] * 4, [1 - ACTION_MARGIN] * 4], rtol=0, atol=1e-7)
        np.testing.assert_allclose(scaled[2], 0, atol=1e-6)
        np.testing.assert_array_equal(arrays["actions"], actions)

    def test_unit_bounds_are_clipped_without_touching_the_callers_array(self) -> None:
        actions = np.float32([[-1], [1], [0.25]])
        arrays = {**counting(3), "actions": actions.copy()}
        scaled = adopt(arrays).actions[:, 0]
        assert np.all(np.abs(scaled[:2]) < 1)
        np.testing.assert_allclose(scaled, [[ACTION_MARGIN - 1], [1 - ACTION_MARGIN], [0.25]], rtol=0, atol=1e-7)
        np.testing.assert_array_equal(arrays["actions"], actions)

    def test_whole_number_bounds(self) -> None:
        """Their range does not fit into their own type."""
        box = spaces.Box(-128, 127, (1,), np.int8)
        scaled = adopt({**counting(3), "actions": np.int8([[-128], [127], [0]])}, action_space=box).actions[:, 0, 0]
        np.testing.assert_allclose(scaled, [-1, 1, 2 * 128 / 255 - 1], atol=2 * ACTION_MARGIN)

    def test_actions_of_several_axes_are_flattened_as_in_stable_baselines3(self) -> None:
        actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 2)).astype(np.float32)
        buffer = adopt({**counting(3), "actions": actions})
        np.testing.assert_array_equal(buffer.actions, actions.reshape(3, 1, 4))
        assert buffer.action_space.shape == (2, 2)
