"""SB3's test_run and test_deterministic: learning from every kind of source, on one axis of timesteps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small
from recordings import Arrays, record
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from dipole_sb3 import DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm

Algorithm = type[OfflineAlgorithm]


class EnvironmentSteps(BaseCallback):
    """The timesteps at which the environment was stepped, and all timesteps that were reported."""

    def __init__(self) -> None:
        super().__init__()
        self.online: list[int] = []
        self.all: list[int] = []

    def _on_step(self) -> bool:
        self.all.append(self.num_timesteps)
        if "new_obs" in self.locals and self.model.env.num_envs:
            self.online.append(self.num_timesteps)
        return True


def changed(model: Any, before: dict[str, torch.Tensor]) -> bool:
    return not same_parameters(parameters_of(model), before)


# Where data come from


def as_mapping(arrays: Arrays, folder: Path) -> Any:
    return arrays


def as_buffer(arrays: Arrays, folder: Path) -> Any:
    return OfflineReplayBuffer.from_arrays(arrays)


def as_path(arrays: Arrays, folder: Path) -> Any:
    np.savez(folder / "reacher.npz", **arrays)
    return folder / "reacher.npz"


def as_path_in_words(arrays: Arrays, folder: Path) -> Any:
    return str(as_path(arrays, folder))


def as_name(arrays: Arrays, folder: Path) -> Any:
    return "demo/reacher-tqc-10k"


SOURCES = [as_mapping, as_buffer, as_path, as_path_in_words, as_name]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_learns_offline_from(
    algorithm: Algorithm, source: Callable[..., Any], reacher_data: Arrays, tmp_path: Path
) -> None:
    model = small(algorithm, dataset=source(reacher_data, tmp_path))
    before = parameters_of(model)
    assert model.env is None
    assert model.learn(3) is model
    assert model.num_timesteps == model._n_updates == 3
    assert changed(model, before)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_learns_offline_beside_an_environment_from(
    algorithm: Algorithm, source: Callable[..., Any], reacher_data: Arrays, tmp_path: Path
) -> None:
    steps = EnvironmentSteps()
    model = small(algorithm, env="Reacher-v5", dataset=source(reacher_data, tmp_path)).learn(3, callback=steps)
    assert (steps.all, steps.online) == ([1, 2, 3], [])
    assert model.env is not None


def test_actions_in_the_environments_units_are_understood_beside_it(
    algorithm: Algorithm, pendulum_data: Arrays, tmp_path: Path
) -> None:
    np.savez(tmp_path / "pendulum.npz", **pendulum_data)
    for dataset in (pendulum_data, tmp_path / "pendulum.npz"):
        buffer = small(algorithm, env="Pendulum-v1", dataset=dataset).replay_buffer
        np.testing.assert_allclose(buffer.actions[:, 0], pendulum_data["actions"] / 2.0, atol=2e-5)


def test_no_data_and_no_environment_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match="needs an environment or a data set"):
        small(algorithm)


def test_training_on_an_empty_buffer_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(DatasetError, match="no transitions to train on; expected at least one"):
        small(algorithm, env="Pendulum-v1").train(gradient_steps=1, batch_size=4)


def test_train_before_learn(model: Any) -> None:
    before = parameters_of(model)
    model.train(gradient_steps=2, batch_size=8)
    assert model._n_updates == 2
    assert changed(model, before)


def test_data_are_exchanged_after_construction(model: Any, reacher_data: Arrays) -> None:
    shorter = {key: value[:20] for key, value in reacher_data.items()}
    model.learn(1)
    model.set_dataset(shorter)
    assert model.replay_buffer.size() == 20
    model.learn(1, reset_num_timesteps=False)
    with pytest.raises(DatasetError, match="missing rewards"):
        model.set_dataset({key: value for key, value in reacher_data.items() if key != "rewards"})
    assert model.replay_buffer.size() == 20
    assert model.learn(1, reset_num_timesteps=False).num_timesteps == 3


# One axis of timesteps


def test_timesteps_count_on_or_start_again(model: Any) -> None:
    assert model.learn(3).num_timesteps == 3
    assert model.learn(2, reset_num_timesteps=False).num_timesteps == 5
    assert model.learn(4).num_timesteps == 4
    assert model._n_updates == 9


def test_offline_steps_are_followed_by_environment_steps(algorithm: Algorithm, reacher_data: Arrays) -> None:
    steps = EnvironmentSteps()
    model = small(algorithm, env="Reacher-v5", dataset=reacher_data, offline_steps=4)
    model.learn(7, callback=steps)
    assert steps.all == [1, 2, 3, 4, 5, 6, 7]
    assert steps.online == [5, 6, 7]
    assert model.replay_buffer.size() == len(reacher_data["rewards"]) + 3


def test_the_second_call_goes_on_online(algorithm: Algorithm, reacher_data: Arrays) -> None:
    model = small(algorithm, env="Reacher-v5", dataset=reacher_data)
    first, second = EnvironmentSteps(), EnvironmentSteps()
    model.learn(3, callback=first)
    model.learn(3, callback=second, reset_num_timesteps=False)
    assert (first.all, first.online) == ([1, 2, 3], [])
    assert (second.all, second.online) == ([4, 5, 6], [4, 5, 6])
    assert model._n_updates == 6


def test_a_later_first_call_plans_anew(algorithm: Algorithm, reacher_data: Arrays) -> None:
    model = small(algorithm, env="Reacher-v5", dataset=reacher_data).learn(6)
    model.learn(2)
    online = EnvironmentSteps()
    model.learn(2, callback=online, reset_num_timesteps=False)
    assert online.online == [3, 4]


def test_offline_steps_reach_over_several_calls(algorithm: Algorithm, reacher_data: Arrays) -> None:
    steps = EnvironmentSteps()
    model = small(algorithm, env="Reacher-v5", dataset=reacher_data, offline_steps=5)
    model.learn(3, callback=steps)
    model.learn(4, callback=steps, reset_num_timesteps=False)
    assert steps.online == [6, 7]


def test_going_on_online_needs_an_environment(algorithm: Algorithm, reacher_data: Arrays) -> None:
    model = small(algorithm, dataset=reacher_data, offline_steps=4)
    with pytest.raises(ValueError, match="online after timestep 4 and has no environment"):
        model.learn(5)
    assert model.num_timesteps == 0


def test_offline_steps_need_data(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match="no data to learn offline from"):
        small(algorithm, env="Pendulum-v1", offline_steps=4).learn(5)


def test_offline_learning_does_not_move_the_environment(algorithm: Algorithm, reacher_data: Arrays) -> None:
    env = gymnasium.make("Reacher-v5")
    model = small(algorithm, env=env, dataset=reacher_data).learn(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())
    assert model._last_obs is None


@pytest.mark.parametrize("n_envs", [1, 2])
def test_online_alone_from_an_empty_buffer(algorithm: Algorithm, n_envs: int) -> None:
    env = make_vec_env(IdentityEnvBox, n_envs=n_envs, seed=0)
    model = small(algorithm, env=env, learning_starts=4, buffer_size=100)
    model.learn(10)
    assert model.num_timesteps == 10
    assert model.replay_buffer.size() * n_envs == 10
    assert model._n_updates == (10 - 4) // n_envs
    assert model.replay_buffer.n_envs == n_envs


@pytest.mark.parametrize("n_envs", [1, 2, 3])
def test_online_after_data_with_environments(algorithm: Algorithm, n_envs: int, pendulum_data: Arrays) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=0)
    model = small(algorithm, env=env, dataset=pendulum_data, offline_steps=2)
    model.learn(2 + 2 * n_envs)
    assert model.num_timesteps == 2 + 2 * n_envs
    transitions = len(pendulum_data["rewards"])
    rows = -(-transitions // n_envs)
    assert model.replay_buffer.size() == rows + 2
    assert model.replay_buffer.recorded is model.dataset
    kept = model.replay_buffer.take(torch.arange(transitions)).rewards
    np.testing.assert_array_equal(kept, pendulum_data["rewards"])


@pytest.mark.parametrize(
    ("name", "env_id", "ends", "bootstraps"),
    [("pendulum_data", "Pendulum-v1", 4, True), ("inverted_pendulum_data", "InvertedPendulum-v5", 10, False)],
    ids=["time_limit", "failure"],
)
def test_ends_of_episodes_mean_the_same_recorded_and_gathered(
    algorithm: Algorithm, name: str, env_id: str, ends: int, bootstraps: bool, request: pytest.FixtureRequest
) -> None:
    """After a time limit the value goes on; after a failure it does not."""
    data = request.getfixturevalue(name)
    model = small(algorithm, env=env_id, dataset=data, offline_steps=1, train_freq=450).learn(451)
    batch = model.replay_buffer.take(torch.arange(model.replay_buffer.size()))
    ended = np.concatenate([model.replay_buffer.recorded.dones, model.replay_buffer.dones[:450]])[:, 0] == 1
    assert ended[: len(data["rewards"])].sum() >= ends / 2
    assert ended.sum() >= ends
    assert (batch.masks.numpy()[ended] == float(bootstraps)).all()
    assert (batch.masks.numpy()[~ended] == 1).all()


def test_train_frequency_and_gradient_steps(algorithm: Algorithm) -> None:
    arguments = {"learning_starts": 0, "buffer_size": 100}
    every_third = small(algorithm, env=IdentityEnvBox(), train_freq=3, gradient_steps=2, **arguments).learn(9)
    assert every_third._n_updates == 6
    as_many = small(algorithm, env=IdentityEnvBox(), train_freq=3, gradient_steps=-1, **arguments).learn(9)
    assert as_many._n_updates == 9
    episodes = small(algorithm, env=IdentityEnvBox(ep_length=5), train_freq=(1, "episode"), **arguments).learn(10)
    assert episodes._n_updates == 2


def test_action_noise(algorithm: Algorithm) -> None:
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    env = make_vec_env(IdentityEnvBox, n_envs=2, seed=0)
    small(algorithm, env=env, action_noise=noise, learning_starts=0, buffer_size=100).learn(4)


def test_learned_actions_take_over_at_once_where_there_are_data(algorithm: Algorithm, pendulum_data: Arrays) -> None:
    """Random actions at the start would waste what was learned: ``learning_starts`` is for an empty buffer."""
    model = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=1, learning_starts=1000)
    assert model.learn(4)._n_updates == 4


def test_evaluate_policy(algorithm: Algorithm, pendulum_data: Arrays) -> None:
    model = small(algorithm, env="Pendulum-v1", dataset=pendulum_data).learn(1)
    returns, lengths = evaluate_policy(model, model.get_env(), n_eval_episodes=1, return_episode_rewards=True)
    assert lengths == [200]
    assert -2000 < returns[0] < 0


# Seeds


@pytest.mark.parametrize("online", [False, True], ids=["offline", "then_online"])
def test_the_same_seed_gives_the_same_run(algorithm: Algorithm, online: bool, pendulum_data: Arrays) -> None:
    def run(seed: int) -> tuple[Any, np.ndarray]:
        env = "Pendulum-v1" if online else None
        space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        dataset = OfflineReplayBuffer.from_arrays(pendulum_data, action_space=space)
        model = small(algorithm, env=env, dataset=dataset, offline_steps=3 if online else None, seed=seed).learn(6)
        return parameters_of(model), model.predict(pendulum_data["observations"][:4], deterministic=False)[0]

    first, again, other = run(3), run(3), run(4)
    assert same_parameters(first, again)
    assert not same_parameters(first[0], other[0])
    assert not same_parameters(first[1], other[1])


def test_seeds_also_choose_the_batches(algorithm: Algorithm, reacher_data: Arrays) -> None:
    """From the same initial parameters, other batches and noise lead elsewhere."""
    first, second = (small(algorithm, dataset=reacher_data, seed=seed) for seed in (0, 1))
    second.set_parameters(first.get_parameters())
    assert same_parameters(first.get_parameters(), second.get_parameters())
    assert not same_parameters(first.learn(1).get_parameters(), second.learn(1).get_parameters())


def test_the_global_generators_do_not_change_what_is_learned(algorithm: Algorithm, reacher_data: Arrays) -> None:
    first, second = small(algorithm, dataset=reacher_data), small(algorithm, dataset=reacher_data)
    first.learn(3)
    torch.manual_seed(123)
    np.random.seed(123)
    second.learn(3)
    assert same_parameters(first.get_parameters(), second.get_parameters())


def test_recorded_by_one_model_learned_by_another(algorithm: Algorithm) -> None:
    """A replay buffer that is not yet full is a data set like any other, offline and on."""
    recorder = small(algorithm, env=IdentityEnvBox(), learning_starts=6, buffer_size=50).learn(12)
    learner = small(algorithm, env=IdentityEnvBox(), dataset=recorder.replay_buffer, offline_steps=2).learn(4)
    assert learner.replay_buffer.size() == 14
    recorded = learner.replay_buffer.take(torch.arange(12)).rewards
    np.testing.assert_array_equal(recorded, recorder.replay_buffer.rewards[:12, 0])
    assert recorder.replay_buffer.size() == 12


def test_the_shipped_data_and_their_environment_agree(algorithm: Algorithm) -> None:
    buffer = load_dataset("demo/reacher-tqc-10k")
    again = record(gymnasium.make("Reacher-v5"), 5)
    assert buffer.observations.shape[2:] == again["observations"].shape[1:]
    small(algorithm, env="Reacher-v5", dataset=buffer)
