"""SB3's test_save_load: files, what they hold, and replay buffers and policies on their own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, one_sentence, parameters_of, same_parameters, small, state_of
from recordings import Arrays
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file

from dipole_sb3 import DatasetError, OfflineReplayBuffer


@pytest.fixture
def trained(algorithm: Any, reacher_data: Arrays) -> Any:
    return small(algorithm, dataset=reacher_data).learn(4)


# Files


@pytest.mark.parametrize("name", ["model", "model.zip", "model.v2", "folder/model.zip"])
def test_saves_and_loads_under_the_same_name(algorithm: Any, trained: Any, tmp_path: Path, name: str) -> None:
    trained.save(tmp_path / name)
    assert (tmp_path / (name if "." in name else f"{name}.zip")).is_file()
    for path in (tmp_path / name, str(tmp_path / name)):
        assert same_parameters(state_of(algorithm.load(path, device="cpu")), state_of(trained))


def test_saves_to_an_open_file(algorithm: Any, trained: Any) -> None:
    file = io.BytesIO()
    trained.save(file)
    file.seek(0)
    assert same_parameters(state_of(algorithm.load(file)), state_of(trained))


def test_everything_comes_back(algorithm: Any, trained: Any, tmp_path: Path, reacher_data: Arrays) -> None:
    trained.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    assert same_parameters(state_of(loaded), state_of(trained))
    # Schedules are built anew from the learning rate.
    built_anew = {
        "lr_schedule",
        "replay_buffer",
        "dataset",
        "policy",
        "policy_class",
        "start_time",
        "training_generator",
    }
    settings = {name for name in vars(trained) if not name.startswith("_")} - built_anew
    assert {
        "num_timesteps",
        "gamma",
        "tau",
        "batch_size",
        "seed",
        "policy_kwargs",
        "n_envs",
        "learning_rate",
    } < settings
    for name in settings:
        assert getattr(loaded, name) == getattr(trained, name), name
    assert loaded._n_updates == trained._n_updates == 4
    assert type(loaded.policy) is type(trained.policy)
    observations = reacher_data["observations"][:5]
    assert np.array_equal(
        loaded.predict(observations, deterministic=True)[0], trained.predict(observations, deterministic=True)[0]
    )


def test_saving_changes_nothing(trained: Any, tmp_path: Path, algorithm: Any, reacher_data: Arrays) -> None:
    undisturbed = small(algorithm, dataset=reacher_data).learn(4)
    before = state_of(trained)
    for name in ("first", "second"):
        trained.save(tmp_path / name)
    assert same_parameters(before, state_of(trained))
    trained.learn(2, reset_num_timesteps=False)
    undisturbed.learn(2, reset_num_timesteps=False)
    assert same_parameters(state_of(trained), state_of(undisturbed))


def test_the_file_does_not_hold_the_data(algorithm: Any, trained: Any, reacher_data: Arrays, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    large = {key: np.concatenate([value] * 100) for key, value in reacher_data.items()}
    small(algorithm, dataset=large).learn(4).save(tmp_path / "large")
    assert (tmp_path / "large.zip").stat().st_size < 1.1 * (tmp_path / "model.zip").stat().st_size


def test_exclude_and_include(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model", exclude=["gamma"], include=["_monitor"])
    data, parameters, _ = load_from_zip_file(tmp_path / "model")
    assert data is not None
    assert "gamma" not in data
    assert "_monitor" in data
    assert set(parameters) == {"policy", "policy.optimizer"}


def test_a_missing_file_is_named(algorithm: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nothing\.zip"):
        algorithm.load(tmp_path / "nothing")


# Loading with something changed


def test_a_file_of_another_algorithm_is_refused(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    for other in ALGORITHMS:
        if other is not algorithm:
            with pytest.raises(ValueError, match=f"holds a model of {algorithm.__name__}, expected one of") as refusal:
                other.load(tmp_path / "model")
            one_sentence(refusal.value, "model", f"load it by {algorithm.__name__}.load")


def test_sub_classes_read_the_files_of_their_class(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    extended = type("Extended", (algorithm,), {})
    assert isinstance(extended.load(tmp_path / "model"), extended)


def test_loaded_without_data_only_predicts(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    with pytest.raises(ValueError, match="dataset="):
        loaded.learn(2)
    with pytest.raises(DatasetError, match="no data to train on"):
        loaded.train(gradient_steps=1, batch_size=4)
    loaded.predict(trained.observation_space.sample())


@pytest.mark.parametrize("n_envs", [1, 2])
def test_loads_with_an_environment(algorithm: Any, pendulum_data: Arrays, tmp_path: Path, n_envs: int) -> None:
    small(algorithm, env="Pendulum-v1", dataset=pendulum_data).learn(3).save(tmp_path / "model")
    env = make_vec_env("Pendulum-v1", n_envs)
    loaded = algorithm.load(tmp_path / "model", env=env, dataset=pendulum_data)
    loaded.learn(6, reset_num_timesteps=False)
    assert loaded.num_timesteps == 9
    assert loaded.replay_buffer.size() == 450 // n_envs + 6 // n_envs


def test_loads_with_an_environment_and_no_data(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=gymnasium.make("Reacher-v5"))
    loaded.learn(150, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 150


def test_an_environment_is_set_later(algorithm: Any, trained: Any) -> None:
    trained.set_env(gymnasium.make("Reacher-v5"))
    trained.learn(3, reset_num_timesteps=False)
    assert trained.num_timesteps == 7
    assert trained.replay_buffer.size() == 320 + 3
    with pytest.raises(ValueError, match="spaces do not match"):
        trained.set_env(gymnasium.make("Pendulum-v1"))


def test_loading_with_another_environment_is_refused(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="spaces do not match"):
        algorithm.load(tmp_path / "model", env=gymnasium.make("Pendulum-v1"))


def test_loading_with_other_data_is_refused(
    algorithm: Any, trained: Any, tmp_path: Path, pendulum_data: Arrays
) -> None:
    trained.save(tmp_path / "model")
    with pytest.raises(DatasetError, match=r"observations has shape \(450, 3\), expected \(450, 10\)"):
        algorithm.load(tmp_path / "model", dataset=pendulum_data)


def test_hyperparameters_are_changed_on_load(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", gamma=0.5, batch_size=7, custom_objects={"learning_rate": 0.25})
    assert (loaded.gamma, loaded.batch_size, loaded.lr_schedule(1)) == (0.5, 7, 0.25)
    assert loaded.tau == trained.tau


def test_other_policy_kwargs_are_refused_on_load(algorithm: Any, trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="policy kwargs"):
        algorithm.load(tmp_path / "model", policy_kwargs={"net_arch": [8]})


# The policy alone


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_policy_alone(algorithm: Any, trained: Any, tmp_path: Path, reacher_data: Arrays, device: str) -> None:
    trained.policy.save(tmp_path / "policy.pt")
    policy = type(trained.policy).load(tmp_path / "policy.pt", device=device)
    assert policy.architecture() == {**trained.policy.architecture(), "device": str(policy.device)}
    assert policy.setting() == trained.policy.setting()
    assert same_parameters(policy.state_dict(), parameters_of(trained))
    observations = reacher_data["observations"][:3]
    assert np.array_equal(
        policy.predict(observations, deterministic=True)[0], trained.predict(observations, deterministic=True)[0]
    )


# Replay buffers


@pytest.mark.parametrize("kind", ["reacher_data", "dict_data"])
def test_the_replay_buffer(algorithm: Any, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    policy = "MlpPolicy" if kind == "reacher_data" else "MultiInputPolicy"
    model = small(algorithm, policy, dataset=request.getfixturevalue(kind)).learn(1)
    model.save_replay_buffer(tmp_path / "buffer")
    other = small(algorithm, policy, dataset=request.getfixturevalue(kind), seed=1)
    other.load_replay_buffer(tmp_path / "buffer")
    assert isinstance(other.replay_buffer, OfflineReplayBuffer)
    assert other.replay_buffer is not model.replay_buffer
    assert same_parameters(other.replay_buffer.tensors(), model.replay_buffer.tensors())
    other.learn(2)


def test_a_run_goes_on_from_its_saved_replay_buffer(
    algorithm: Any, trained: Any, reacher_data: Arrays, tmp_path: Path
) -> None:
    """SB3's pair of files, model and replay buffer, is enough without an environment too."""
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = algorithm.load(tmp_path / "model")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(2, reset_num_timesteps=False)
    trained.learn(2, reset_num_timesteps=False)
    assert same_parameters(state_of(loaded), state_of(trained))


@pytest.mark.parametrize("n_envs", [1, 2, 3])
@pytest.mark.parametrize("saved_online", [False, True], ids=["saved_offline", "saved_online"])
def test_going_on_online_from_a_saved_replay_buffer(
    algorithm: Any, pendulum_data: Arrays, tmp_path: Path, n_envs: int, saved_online: bool
) -> None:
    """What was recorded stays; a buffer saved while offline is full, and must get room first."""
    gathered = 6 if saved_online else 0
    model = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=2).learn(2 + gathered)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = algorithm.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", n_envs))
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(2 * n_envs, reset_num_timesteps=False)
    buffer = loaded.replay_buffer
    assert loaded.num_timesteps == 2 + gathered + 2 * n_envs
    assert buffer.size() == (450 + gathered) // n_envs + 2
    assert buffer.buffer_size >= 1_000 // n_envs
    assert (buffer.n_recorded, buffer.n_online) == (450, gathered + 2 * n_envs)
    np.testing.assert_array_equal(buffer.take(torch.arange(450)).rewards, pendulum_data["rewards"])


def test_a_replay_buffer_of_other_spaces_is_refused(
    algorithm: Any, trained: Any, pendulum_data: Arrays, tmp_path: Path
) -> None:
    other = small(algorithm, env="Pendulum-v1", dataset=pendulum_data)
    other.save_replay_buffer(tmp_path / "buffer.pkl")
    kept = trained.replay_buffer
    with pytest.raises(DatasetError, match=r"observation has shape \(3,\), .* expects \(10,\)"):
        trained.load_replay_buffer(tmp_path / "buffer.pkl")
    assert trained.replay_buffer is kept


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_a_loaded_replay_buffer_serves_the_models_device(
    algorithm: Any, trained: Any, tmp_path: Path, reacher_data: Arrays, device: Any
) -> None:
    trained.save_replay_buffer(tmp_path / "buffer.pkl")
    other = small(algorithm, dataset=reacher_data, device=device)
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert other.replay_buffer.device == other.device
    other.learn(1)


# Safe files


def test_a_safe_file_holds_the_same_model(algorithm: Any, trained: Any, tmp_path: Path, reacher_data: Arrays) -> None:
    """And it continues as the classic one does."""
    trained.save(tmp_path / "classic")
    trained.save(tmp_path / "safe", format="safe")
    loaded = algorithm.load(tmp_path / "safe", device="cpu", dataset=reacher_data, trust=False)
    assert same_parameters(state_of(loaded), state_of(trained))
    expected = algorithm.load(tmp_path / "classic", device="cpu", dataset=reacher_data)
    assert vars(loaded).keys() == vars(expected).keys()
    for name in ("num_timesteps", "_n_updates", "policy_kwargs", "train_freq", "gamma", "learning_rate", "n_envs"):
        assert getattr(loaded, name) == getattr(expected, name), name
    assert type(loaded.policy) is type(expected.policy)
    assert loaded.observation_space == expected.observation_space
    for model in (loaded, expected):
        model.learn(3, reset_num_timesteps=False)
    assert same_parameters(state_of(loaded), state_of(expected))
    with pytest.raises(ValueError, match="runs code that the file brings") as error:
        algorithm.load(tmp_path / "classic", trust=False)
    one_sentence(error.value, "classic", 'format="safe"')
