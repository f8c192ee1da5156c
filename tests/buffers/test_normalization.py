"""Statistics of recorded data are the data's own, stay as they are, and scale batches as VecNormalize scales."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from filled_buffers import adopt, filled_like_stable_baselines3
from gymnasium import spaces
from recordings import Arrays
from sampled_environments import Sampled, dict_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3.buffers.normalization import BatchNormalizer, fit_vec_normalize


def around(env: gymnasium.Env[Any, Any], **arguments: Any) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: env]), **arguments)


def pendulum(**arguments: Any) -> VecNormalize:
    return around(gymnasium.make("Pendulum-v1"), **arguments)


def vectors(length: int, size: int, mean: float = 0.0, deviation: float = 1.0) -> dict[str, Any]:
    random = np.random.default_rng(0)
    values = random.normal(mean, deviation, (length, size)).astype(np.float32)
    return {
        "observations": values,
        "actions": np.zeros((length, 2), np.float32),
        "rewards": random.normal(size=length).astype(np.float32),
        "next_observations": values,
        "masks": np.ones(length, np.float32),
    }


def discounted_returns(rewards: Sequence[float], ends: Sequence[bool], gamma: float) -> np.ndarray:
    """By the definition: γ-weighted sum of the rewards since the episode began, at every step."""
    returns, start = [], 0
    for now in range(len(rewards)):
        returns.append(sum(gamma ** (now - step) * float(rewards[step]) for step in range(start, now + 1)))
        start = now + 1 if ends[now] else start
    return np.array(returns)


class Replay(Sampled):
    """Gives recorded rewards, and ends its episodes where the recording ended."""

    def __init__(self, rewards: np.ndarray, ends: np.ndarray) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)))
        self.played = iter(zip(rewards.tolist(), ends.astype(bool).tolist(), strict=True))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, end = next(self.played)
        return self.observation_space.sample(), reward, end, False, {}


class TestFit:
    def test_observations_have_the_mean_and_variance_of_the_data(self, pendulum_data: Arrays) -> None:
        env = pendulum()
        fit_vec_normalize(env, adopt(pendulum_data, action_space=env.action_space))
        recorded = np.asarray(pendulum_data["observations"], np.float64)
        np.testing.assert_allclose(env.obs_rms.mean, recorded.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(env.obs_rms.var, recorded.var(axis=0), rtol=1e-10)
        assert env.obs_rms.count == len(recorded)

    def test_values_far_from_zero_keep_their_variance(self) -> None:
        """A pseudo-sample at 0, which SB3 begins with, would be most of it."""
        arrays = vectors(50, 3, mean=1000.0, deviation=0.1)
        env = around(Sampled(spaces.Box(-2000, 2000, (3,))))
        fit_vec_normalize(env, adopt(arrays))
        np.testing.assert_allclose(env.obs_rms.var, arrays["observations"].astype(np.float64).var(axis=0), rtol=1e-6)

    def test_only_the_chosen_keys_of_a_dict(self, dict_data: Arrays) -> None:
        env = around(dict_env(), norm_obs_keys=["joints"])
        fit_vec_normalize(env, adopt(dict_data))
        assert isinstance(env.obs_rms, dict)
        assert list(env.obs_rms) == ["joints"]
        joints = np.asarray(dict_data["observations"]["joints"], np.float64)
        np.testing.assert_allclose(env.obs_rms["joints"].mean, joints.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(env.obs_rms["joints"].var, joints.var(axis=0), rtol=1e-10)

    def test_large_data_are_summed_in_parts(self) -> None:
        """More rows than are summed at once, and not a whole number of parts; values that differ between parts."""
        arrays = vectors(1_000_003, 4)
        arrays["observations"][70_000:] += 3
        env, buffer = around(Sampled(spaces.Box(-9, 9, (4,))), norm_reward=False), adopt(arrays)
        tracemalloc.start()
        try:
            fit_vec_normalize(env, buffer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < arrays["observations"].nbytes
        recorded = arrays["observations"].astype(np.float64)
        np.testing.assert_allclose(env.obs_rms.mean, recorded.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(env.obs_rms.var, recorded.var(axis=0), rtol=1e-10)
        assert env.obs_rms.count == len(recorded)

    def test_rewards_have_the_variance_of_discounted_returns(self, pendulum_data: Arrays) -> None:
        env = pendulum(gamma=0.9)
        fit_vec_normalize(env, adopt(pendulum_data, action_space=env.action_space))
        assert np.any(pendulum_data["terminals"][:-1]), "returns must begin anew somewhere"
        returns = discounted_returns(pendulum_data["rewards"], pendulum_data["terminals"], 0.9)
        np.testing.assert_allclose(env.ret_rms.mean, returns.mean(), rtol=1e-6)
        np.testing.assert_allclose(env.ret_rms.var, returns.var(), rtol=1e-6)

    def test_returns_are_those_of_vec_normalize_where_the_same_rewards_are_played(
        self, inverted_pendulum_data: Arrays
    ) -> None:
        random = np.random.default_rng(0)
        ends = np.asarray(inverted_pendulum_data["terminals"])
        arrays = {**inverted_pendulum_data, "rewards": random.normal(1.0, 2.0, len(ends)).astype(np.float32)}
        assert ends.sum() > 5
        direct = around(Replay(arrays["rewards"], ends), gamma=0.95)
        direct.reset()
        for _ in range(len(ends)):
            direct.step(np.zeros((1, 2), np.float32))

        fitted = around(gymnasium.make("InvertedPendulum-v5"), gamma=0.95)
        fit_vec_normalize(fitted, adopt(arrays, action_space=spaces.Box(-3, 3, (1,))))
        # VecNormalize itself keeps its pseudo-count: one ten-thousandth of a sample among these.
        np.testing.assert_allclose(fitted.ret_rms.mean, direct.ret_rms.mean, rtol=1e-5)
        np.testing.assert_allclose(fitted.ret_rms.var, direct.ret_rms.var, rtol=1e-5)

    @pytest.mark.parametrize("steps", [6, 10, 14])
    def test_a_ring_counts_what_was_stored_from_the_oldest_on(self, steps: int) -> None:
        """Part full, just full, and written over."""
        ring, _, vec_env = filled_like_stable_baselines3(3, capacity=30, steps=steps)
        env = VecNormalize(vec_env, gamma=0.8)
        fit_vec_normalize(env, ring)
        rows = min(steps, 10)
        stored = np.asarray(ring.observations)[:rows].reshape(-1, 3)
        np.testing.assert_allclose(env.obs_rms.mean, stored.mean(axis=0, dtype=np.float64), rtol=1e-10)
        assert env.obs_rms.count == 3 * rows
        order = (np.arange(rows) + (ring.pos if ring.full else 0)) % 10
        returns = np.concatenate(
            [discounted_returns(ring.rewards[order, e].tolist(), ring.dones[order, e].tolist(), 0.8) for e in range(3)]
        )
        np.testing.assert_allclose(env.ret_rms.var, returns.var(), rtol=1e-6)

    def test_statistics_that_are_fitted_and_frozen_are_kept(self, pendulum_data: Arrays) -> None:
        env = pendulum()
        env.reset()
        for _ in range(10):
            env.step(np.zeros((1, 1), np.float32))
        env.training = False
        before = [(rms.mean.copy(), rms.var.copy(), rms.count) for rms in (env.obs_rms, env.ret_rms)]
        fit_vec_normalize(env, adopt(pendulum_data, action_space=env.action_space))
        for (mean, var, count), rms in zip(before, (env.obs_rms, env.ret_rms), strict=True):
            np.testing.assert_array_equal(rms.mean, mean)
            np.testing.assert_array_equal(rms.var, var)
            assert rms.count == count

    def test_statistics_are_frozen(self, pendulum_data: Arrays) -> None:
        env = pendulum()
        fit_vec_normalize(env, adopt(pendulum_data, action_space=env.action_space))
        assert env.training is False
        mean, variance = env.obs_rms.mean.copy(), env.ret_rms.var.copy()
        env.reset()
        for _ in range(10):
            env.step(np.zeros((1, 1), np.float32))
        np.testing.assert_array_equal(env.obs_rms.mean, mean)
        np.testing.assert_array_equal(env.ret_rms.var, variance)

    def test_what_is_not_normalised_is_not_fitted(self, pendulum_data: Arrays) -> None:
        env = pendulum(norm_obs=False, norm_reward=False)
        fit_vec_normalize(env, adopt(pendulum_data, action_space=env.action_space))
        assert env.ret_rms.count < 1
        assert env.training is False


class TestBatchNormalizer:
    @pytest.mark.parametrize(("clip_obs", "clip_reward"), [(10.0, 10.0), (1.2, 0.04)])
    def test_arrays_are_scaled_as_by_vec_normalize(
        self, pendulum_data: Arrays, clip_obs: float, clip_reward: float
    ) -> None:
        env = pendulum(clip_obs=clip_obs, clip_reward=clip_reward, epsilon=0.1)
        arrays = {**pendulum_data, "rewards": pendulum_data["rewards"] / 100}
        buffer = adopt(arrays, action_space=env.action_space)
        fit_vec_normalize(env, buffer)
        raw = buffer.take(torch.arange(buffer.size()))
        scaled = BatchNormalizer(env, torch.device("cpu"))(raw)
        observations = np.asarray(pendulum_data["observations"])
        np.testing.assert_allclose(scaled.observations, env.normalize_obs(observations), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            scaled.next_observations, env.normalize_obs(pendulum_data["next_observations"]), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(scaled.rewards, env.normalize_reward(arrays["rewards"]), rtol=1e-5)
        assert scaled.actions is raw.actions
        assert scaled.masks is raw.masks
        for values, limit in ((scaled.observations, clip_obs), (scaled.rewards, clip_reward)):
            assert isinstance(values, torch.Tensor)
            assert values.dtype == torch.float32
            clipped = (values.abs() > 0.999999 * limit).float().mean()
            assert (0 < clipped < 1) if limit < 10 else clipped == 0

    def test_only_the_chosen_keys_of_a_dict_are_scaled(self, dict_data: Arrays) -> None:
        env = around(dict_env(), norm_obs_keys=["joints"], norm_reward=False, clip_obs=1.0)
        buffer = adopt(dict_data)
        fit_vec_normalize(env, buffer)
        raw = buffer.take(torch.arange(buffer.size()))
        scaled = BatchNormalizer(env, torch.device("cpu"))(raw)
        for values, key in ((scaled.observations, "observations"), (scaled.next_observations, "next_observations")):
            assert isinstance(values, dict)
            expected = env.normalize_obs(dict_data[key])
            assert isinstance(expected, dict)
            np.testing.assert_allclose(values["joints"], expected["joints"], rtol=1e-5, atol=1e-5)
            assert not np.allclose(values["joints"], dict_data[key]["joints"])
            np.testing.assert_array_equal(values["camera"], dict_data[key]["camera"])
            assert values["camera"].dtype == torch.uint8
        assert torch.equal(scaled.rewards, raw.rewards)

    def test_nothing_to_normalise_leaves_the_batch(self, pendulum_data: Arrays) -> None:
        env = pendulum(norm_obs=False, norm_reward=False)
        raw = adopt(pendulum_data, action_space=env.action_space).take(torch.arange(5))
        for one, other in zip(BatchNormalizer(env, torch.device("cpu"))(raw), raw, strict=True):
            assert one is other

    def test_rewards_are_scaled_but_not_shifted(self, pendulum_data: Arrays) -> None:
        """A shift would change what is optimal in episodes of different lengths."""
        env = pendulum(norm_obs=False, clip_reward=1e9)
        buffer = adopt(pendulum_data, action_space=env.action_space)
        fit_vec_normalize(env, buffer)
        raw = buffer.take(torch.arange(50))
        ratio = BatchNormalizer(env, torch.device("cpu"))(raw).rewards / raw.rewards
        np.testing.assert_allclose(ratio, 1 / np.sqrt(env.ret_rms.var), rtol=1e-5)

    def test_later_changes_of_the_statistics_are_not_seen(self, pendulum_data: Arrays) -> None:
        env = pendulum()
        buffer = adopt(pendulum_data, action_space=env.action_space)
        fit_vec_normalize(env, buffer)
        normalizer, raw = BatchNormalizer(env, torch.device("cpu")), buffer.take(torch.arange(5))
        before = normalizer(raw)
        env.obs_rms.mean += 5
        env.ret_rms.var *= 4
        after = normalizer(raw)
        assert torch.equal(before.observations, after.observations)  # type: ignore[arg-type]
        assert torch.equal(before.rewards, after.rewards)
