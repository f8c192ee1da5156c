"""SB3's test_vec_normalize, for recorded data: statistics are fitted to the data, frozen, and used wherever it acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import one_sentence, parameters_of, same_parameters, small, state_of
from recordings import Arrays
from sampled_environments import dict_env
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, unwrap_vec_normalize

from dipole_sb3 import OfflineReplayBuffer


def normalized(n_envs: int = 1, **arguments: Any) -> VecNormalize:
    return VecNormalize(make_vec_env("Pendulum-v1", n_envs, seed=0), **arguments)


def discounted_returns(rewards: np.ndarray, terminals: np.ndarray, gamma: float) -> np.ndarray:
    """What VecNormalize would have seen while the data were recorded."""
    running, returns = 0.0, []
    for reward, terminal in zip(rewards.astype(np.float64), terminals, strict=True):
        running = running * gamma + reward
        returns.append(running)
        running *= 1 - terminal
    return np.array(returns)


def test_statistics_are_those_of_the_data(algorithm: Any, pendulum_data: Arrays) -> None:
    env = normalized(gamma=0.9)
    small(algorithm, env=env, dataset=pendulum_data).learn(2)
    observations = pendulum_data["observations"].astype(np.float64)
    np.testing.assert_allclose(env.obs_rms.mean, observations.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(env.obs_rms.var, observations.var(axis=0), rtol=1e-6)
    returns = discounted_returns(pendulum_data["rewards"], pendulum_data["terminals"], 0.9)
    np.testing.assert_allclose(env.ret_rms.var, returns.var(), rtol=1e-6)
    assert not env.training


def test_statistics_of_a_few_steps_give_way_to_those_of_the_data(algorithm: Any, pendulum_data: Arrays) -> None:
    """One reset before learning is a sample of VecNormalize's; its deviation would blow every observation up."""
    env = normalized()
    env.reset()
    env.step(np.zeros((1, 1)))
    assert env.obs_rms.count > 1
    small(algorithm, env=env, dataset=pendulum_data).learn(2)
    observations = pendulum_data["observations"].astype(np.float64)
    np.testing.assert_allclose(env.obs_rms.mean, observations.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(env.obs_rms.var, observations.var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["still_moving", "frozen"])
def test_statistics_of_more_data_are_kept(algorithm: Any, pendulum_data: Arrays, training: bool) -> None:
    env = normalized()
    env.obs_rms.update(5 + pendulum_data["observations"])
    mean = env.obs_rms.mean.copy()
    env.training = training
    shorter = {key: value[:100] for key, value in pendulum_data.items()}
    small(algorithm, env=env, dataset=shorter).learn(2)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    assert not env.training


@pytest.mark.parametrize("n_envs", [1, 2])
def test_statistics_do_not_move_while_learning_online(algorithm: Any, pendulum_data: Arrays, n_envs: int) -> None:
    env = normalized(n_envs)
    model = small(algorithm, env=env, dataset=pendulum_data, offline_steps=2).learn(2)
    mean, var = env.obs_rms.mean.copy(), env.obs_rms.var.copy()
    model.learn(6 * n_envs, reset_num_timesteps=False)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    np.testing.assert_array_equal(env.obs_rms.var, var)
    assert model.num_timesteps == 2 + 6 * n_envs


def test_the_replay_buffer_keeps_raw_observations_and_rewards(algorithm: Any, pendulum_data: Arrays) -> None:
    model = small(algorithm, env=normalized(), dataset=pendulum_data, offline_steps=2).learn(12)
    kept = model.replay_buffer
    np.testing.assert_array_equal(kept.recorded.observations[:, 0], pendulum_data["observations"])
    gathered = kept.observations[:10, 0]
    np.testing.assert_allclose(np.square(gathered[:, :2]).sum(axis=1), 1, rtol=1e-4)  # cosine and sine
    assert kept.rewards[:10].min() < -0.01


def test_batches_are_what_vec_normalize_makes_of_them(algorithm: Any, pendulum_data: Arrays) -> None:
    env = normalized(clip_obs=1.5, clip_reward=0.05)
    model = small(algorithm, env=env, dataset=pendulum_data).learn(1)
    indices = torch.arange(450)
    batch = model._run.normalized(model.replay_buffer.take(indices))
    for name in ("observations", "next_observations"):
        expected = env.normalize_obs(pendulum_data[name])
        assert np.abs(expected).max() == 1.5  # clipping takes part
        np.testing.assert_allclose(getattr(batch, name).numpy(), expected, rtol=1e-5, atol=1e-6)
    expected = env.normalize_reward(pendulum_data["rewards"])
    assert np.abs(expected).max() == np.float32(0.05)
    np.testing.assert_allclose(batch.rewards.numpy(), expected, rtol=1e-5)
    assert not np.allclose(batch.rewards.numpy(), pendulum_data["rewards"])


def test_learning_is_the_same_as_from_data_normalised_beforehand(algorithm: Any, pendulum_data: Arrays) -> None:
    """And so are the actions, when the observations are normalised as SB3 asks for."""
    env = normalized(clip_obs=np.inf, clip_reward=np.inf)
    inside = small(algorithm, env=env, dataset=pendulum_data).learn(5)
    data = {
        **pendulum_data,
        "observations": env.normalize_obs(pendulum_data["observations"]),
        "next_observations": env.normalize_obs(pendulum_data["next_observations"]),
        "rewards": env.normalize_reward(pendulum_data["rewards"]),
    }
    before = small(algorithm, dataset=OfflineReplayBuffer.from_arrays(data, action_space=env.action_space)).learn(5)
    for name, value in parameters_of(before).items():
        torch.testing.assert_close(parameters_of(inside)[name], value, rtol=1e-3, atol=1e-5)
    observations = env.normalize_obs(pendulum_data["observations"][:20])
    np.testing.assert_allclose(
        inside.predict(observations, deterministic=True)[0],
        before.predict(observations, deterministic=True)[0],
        atol=1e-3,
    )


@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(True, False), (False, True), (False, False)])
def test_either_can_be_left_raw(algorithm: Any, pendulum_data: Arrays, norm_obs: bool, norm_reward: bool) -> None:
    env = normalized(norm_obs=norm_obs, norm_reward=norm_reward)
    model = small(algorithm, env=env, dataset=pendulum_data).learn(2)
    raw = model.replay_buffer.take(torch.arange(450))
    batch = model._run.normalized(raw)
    assert torch.equal(batch.observations, raw.observations) is not norm_obs
    assert torch.equal(batch.rewards, raw.rewards) is not norm_reward
    assert torch.equal(batch.actions, raw.actions)
    assert torch.equal(batch.masks, raw.masks)


def test_keys_of_a_dict_are_normalised_as_chosen(algorithm: Any, dict_data: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([dict_env]), norm_obs_keys=["joints"], norm_reward=False)
    model = small(algorithm, "MultiInputPolicy", env, dataset=dict_data).learn(2)
    joints = dict_data["observations"]["joints"].astype(np.float64)
    np.testing.assert_allclose(env.obs_rms["joints"].mean, joints.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(env.obs_rms["joints"].var, joints.var(axis=0), rtol=1e-6)
    raw = model.replay_buffer.take(torch.arange(40))
    batch = model._run.normalized(raw)
    assert batch.observations["camera"].dtype == torch.uint8
    assert torch.equal(batch.observations["camera"], raw.observations["camera"])
    expected = (joints - joints.mean(axis=0)) / joints.std(axis=0)
    np.testing.assert_allclose(batch.observations["joints"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_without_data_statistics_are_gathered_as_in_sb3(algorithm: Any) -> None:
    env = normalized()
    model = small(algorithm, env=env, learning_starts=5).learn(30)
    assert env.training
    assert env.obs_rms.count > 30
    expected = env.normalize_obs(model.replay_buffer.observations[:30, 0])
    batch = model._run.normalized(model.replay_buffer.take(torch.arange(30)))
    np.testing.assert_allclose(batch.observations.numpy(), expected, rtol=1e-5, atol=1e-6)


# Saving and loading


def test_loaded_statistics_are_kept(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    env = normalized()
    model = small(algorithm, env=env, dataset=pendulum_data).learn(2)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    loaded_env = VecNormalize.load(str(tmp_path / "statistics.pkl"), make_vec_env("Pendulum-v1"))
    shorter = {key: value[:100] for key, value in pendulum_data.items()}
    loaded = algorithm.load(tmp_path / "model", env=loaded_env, dataset=shorter, device="cpu")
    loaded.learn(2, reset_num_timesteps=False)
    np.testing.assert_array_equal(loaded_env.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(loaded_env.ret_rms.var, env.ret_rms.var)


def test_a_normalised_run_goes_on_bit_identically(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    env = normalized()
    model = small(algorithm, env=env, dataset=pendulum_data, offline_steps=6).learn(3)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    loaded_env = VecNormalize.load(str(tmp_path / "statistics.pkl"), make_vec_env("Pendulum-v1"))
    loaded = algorithm.load(tmp_path / "model", env=loaded_env, dataset=pendulum_data, device="cpu")
    for part in (model, loaded):
        part.learn(3, reset_num_timesteps=False)
    assert same_parameters(state_of(model), state_of(loaded))


def test_going_on_without_the_statistics_is_refused(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    """Networks that have seen normalised observations would otherwise be trained on raw ones without a word."""
    small(algorithm, env=normalized(), dataset=pendulum_data).learn(2).save(tmp_path / "model")
    for env in (None, gymnasium.make("Pendulum-v1")):
        loaded = algorithm.load(tmp_path / "model", env=env, dataset=pendulum_data)
        with pytest.raises(ValueError, match="has learned from normalised observations") as refusal:
            loaded.learn(1, reset_num_timesteps=False)
        one_sentence(refusal.value, "found no VecNormalize", "expected")


def test_other_statistics_take_effect(algorithm: Any, pendulum_data: Arrays) -> None:
    model = small(algorithm, env=normalized(), dataset=pendulum_data).learn(1)
    other = normalized()
    other.obs_rms.update(10 + pendulum_data["observations"])
    other.training = False
    model.set_env(other)
    batch = model._run.normalized(model.replay_buffer.take(torch.arange(9)))
    np.testing.assert_allclose(
        batch.observations.numpy(), other.normalize_obs(pendulum_data["observations"][:9]), rtol=1e-5
    )


def test_evaluation_and_checkpoints_use_the_statistics(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    env = normalized()
    evaluated = VecNormalize(DummyVecEnv([lambda: Monitor(gymnasium.make("Pendulum-v1"))]), training=False)
    evaluation = EvalCallback(evaluated, eval_freq=2, n_eval_episodes=1, verbose=0)
    checkpoint = CheckpointCallback(2, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    small(algorithm, env=env, dataset=pendulum_data).learn(2, callback=[evaluation, checkpoint])
    np.testing.assert_array_equal(evaluated.obs_rms.mean, env.obs_rms.mean)
    saved = VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_2_steps.pkl"), make_vec_env("Pendulum-v1"))
    np.testing.assert_array_equal(saved.obs_rms.var, env.obs_rms.var)
    assert (tmp_path / "rl_model_replay_buffer_2_steps.pkl").is_file()


def test_validation_losses_are_of_normalised_data(algorithm: Any, pendulum_data: Arrays) -> None:
    """The validation split is seen as training sees it: normalised beforehand it gives the same losses."""

    def losses(model: Any) -> dict[str, float]:
        model.record_training()
        values = model.logger.name_to_value
        return {key: value for key, value in values.items() if key.startswith("validation/")}

    env = normalized(clip_obs=np.inf, clip_reward=np.inf)
    raw = OfflineReplayBuffer.from_arrays(pendulum_data, action_space=env.action_space)
    raw.validation = OfflineReplayBuffer.from_arrays(pendulum_data, action_space=env.action_space)
    inside = small(algorithm, env=env, dataset=raw).learn(1)
    data = {
        **pendulum_data,
        "observations": env.normalize_obs(pendulum_data["observations"]),
        "next_observations": env.normalize_obs(pendulum_data["next_observations"]),
        "rewards": env.normalize_reward(pendulum_data["rewards"]),
    }
    dataset = OfflineReplayBuffer.from_arrays(data, action_space=env.action_space)
    dataset.validation = OfflineReplayBuffer.from_arrays(data, action_space=env.action_space)
    before = small(algorithm, dataset=dataset).learn(1)
    expected = losses(before)
    assert expected
    assert losses(inside) == pytest.approx(expected, rel=1e-3)


def test_the_model_hands_out_its_normalisation(algorithm: Any, pendulum_data: Arrays) -> None:
    env = normalized()
    model = small(algorithm, env=env, dataset=pendulum_data)
    assert model.get_vec_normalize_env() is env
    assert unwrap_vec_normalize(model.get_env()) is env


def test_a_model_knows_its_normalisation_apart_from_the_environment(
    algorithm: Any, pendulum_data: Arrays, tmp_path: Path
) -> None:
    """What exports a saved model must not drop the normalisation that it learned with."""
    env = normalized(clip_obs=3.0)
    model = small(algorithm, env=env, dataset=pendulum_data).learn(2)
    model.save(tmp_path / "model")
    (mean, std, clip) = algorithm.load(tmp_path / "model", device="cpu").observation_statistics[None]
    raw = np.random.default_rng(0).normal(size=(5, 3)) * [1, 1, 20]
    np.testing.assert_allclose(np.clip((raw - mean) / std, -clip, clip), env.normalize_obs(raw), rtol=1e-6)


def test_a_model_that_lost_its_normalisation_says_so(algorithm: Any, pendulum_data: Arrays) -> None:
    model = small(algorithm, env=normalized(), dataset=pendulum_data).learn(2)
    model.set_env(make_vec_env("Pendulum-v1", 1, seed=0))
    with pytest.raises(ValueError, match="has learned from normalised observations") as caught:
        _ = model.observation_statistics
    one_sentence(caught.value, "VecNormalize.load")


def test_without_normalisation_there_are_no_statistics(algorithm: Any, pendulum_data: Arrays, tmp_path: Path) -> None:
    model = small(algorithm, env=normalized(norm_obs=False), dataset=pendulum_data).learn(2)
    assert model.observation_statistics == {}
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", device="cpu").observation_statistics == {}
    assert small(algorithm, env="Pendulum-v1", dataset=pendulum_data).learn(2).observation_statistics == {}
