"""Going on: parameters moved between models, devices, and runs that continue as if they had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small, state_of
from recordings import Arrays
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from dipole_sb3 import OfflineReplayBuffer


@pytest.fixture
def trained(algorithm: Any, reacher_data: Arrays) -> Any:
    return small(algorithm, dataset=reacher_data).learn(4)


# The very same run


@pytest.mark.parametrize("stops", [1, 3])
def test_a_loaded_run_goes_on_bit_identically(algorithm: Any, reacher_data: Arrays, tmp_path: Path, stops: int) -> None:
    whole = small(algorithm, dataset=reacher_data).learn(8)
    model = small(algorithm, dataset=reacher_data).learn(2)
    for stop in range(stops):
        model.save(tmp_path / f"{stop}")
        model = algorithm.load(tmp_path / f"{stop}", dataset=reacher_data, device="cpu")
        model.learn(6 // stops, reset_num_timesteps=False)
    assert model.num_timesteps == 8
    assert same_parameters(state_of(whole), state_of(model))


def test_a_run_without_a_seed_goes_on_bit_identically(algorithm: Any, reacher_data: Arrays, tmp_path: Path) -> None:
    model = small(algorithm, dataset=reacher_data, seed=None).learn(2)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", dataset=reacher_data, device="cpu")
    for part in (model, loaded):
        part.learn(3, reset_num_timesteps=False)
    assert same_parameters(state_of(model), state_of(loaded))


def test_a_run_goes_on_from_a_checkpoint(algorithm: Any, reacher_data: Arrays, tmp_path: Path) -> None:
    whole = small(algorithm, dataset=reacher_data, learning_rate=lambda remaining: 1e-3 * remaining)
    whole.learn(6, callback=CheckpointCallback(4, str(tmp_path), name_prefix="run"))
    again = algorithm.load(tmp_path / "run_4_steps", dataset=reacher_data, device="cpu")
    again.learn(2, reset_num_timesteps=False)
    assert same_parameters(state_of(whole), state_of(again))


def predicting(model: Any, observations: np.ndarray) -> None:
    model.predict(observations)
    model.predict(observations[0], deterministic=True)


def evaluating(model: Any, observations: np.ndarray) -> None:
    evaluate_policy(model, Monitor(gymnasium.make("Reacher-v5")), n_eval_episodes=1, deterministic=False)


def logging(model: Any, observations: np.ndarray) -> None:
    model.dump_logs()


def seeding_others(model: Any, observations: np.ndarray) -> None:
    torch.manual_seed(5)
    np.random.seed(5)


@pytest.mark.parametrize("disturbance", [predicting, evaluating, logging, seeding_others], ids=lambda f: f.__name__)
def test_nothing_in_between_disturbs_a_run(
    algorithm: Any, reacher_data: Arrays, disturbance: Callable[..., None]
) -> None:
    dataset = OfflineReplayBuffer.from_arrays(reacher_data)
    dataset.validation = OfflineReplayBuffer.from_arrays({key: value[:50] for key, value in reacher_data.items()})
    whole = small(algorithm, dataset=dataset).learn(6)
    parted = small(algorithm, dataset=dataset).learn(3)
    disturbance(parted, reacher_data["observations"][:9])
    parted.learn(3, reset_num_timesteps=False)
    assert same_parameters(state_of(whole), state_of(parted))


def test_callbacks_do_not_disturb_a_run(algorithm: Any, reacher_data: Arrays, tmp_path: Path) -> None:
    alone = small(algorithm, dataset=reacher_data).learn(6)
    evaluation = EvalCallback(
        Monitor(gymnasium.make("Reacher-v5")), eval_freq=2, n_eval_episodes=1, best_model_save_path=str(tmp_path)
    )
    watched = small(algorithm, dataset=reacher_data).learn(
        6, callback=[evaluation, CheckpointCallback(2, str(tmp_path))]
    )
    assert same_parameters(state_of(alone), state_of(watched))


# Devices


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0", torch.device("cpu"), torch.device("cpu:0")], ids=str)
def test_works_on_a_device_by_any_of_its_names(
    algorithm: Any, tmp_path: Path, device: Any, reacher_data: Arrays
) -> None:
    model = small(algorithm, dataset=reacher_data, device=device).learn(2)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device=device, dataset=reacher_data)
    loaded.set_parameters(tmp_path / "model", device=device)
    loaded.learn(2, reset_num_timesteps=False)
    loaded.predict(reacher_data["observations"][:2])
    assert loaded.num_timesteps == 4


@pytest.mark.cuda
def test_moves_between_cpu_and_cuda(algorithm: Any, trained: Any, tmp_path: Path, reacher_data: Arrays) -> None:
    trained.save(tmp_path / "model")
    moved = algorithm.load(tmp_path / "model", device="cuda", dataset=reacher_data)
    assert same_parameters(state_of(moved), state_of(trained))
    moved.learn(2, reset_num_timesteps=False).save(tmp_path / "moved")
    back = algorithm.load(tmp_path / "moved", device="cpu", dataset=reacher_data)
    back.set_parameters(moved.get_parameters())
    moved.save_replay_buffer(tmp_path / "buffer")
    back.load_replay_buffer(tmp_path / "buffer")
    back.learn(2, reset_num_timesteps=False)
    assert back.num_timesteps == 8


# Parameters


class TestSetParameters:
    @pytest.fixture
    def other(self, algorithm: Any, reacher_data: Arrays) -> Any:
        return small(algorithm, dataset=reacher_data, seed=5).learn(2)

    def test_from_another_model(self, other: Any, trained: Any) -> None:
        assert set(trained.get_parameters()) == {"policy", "policy.optimizer"}
        other.set_parameters(trained.get_parameters())
        assert same_parameters(state_of(other), state_of(trained))

    def test_from_a_file(self, other: Any, trained: Any, tmp_path: Path) -> None:
        trained.save(tmp_path / "model")
        other.set_parameters(tmp_path / "model", device="cpu")
        assert same_parameters(state_of(other), state_of(trained))

    def test_learning_goes_on_where_the_other_was(
        self, algorithm: Any, other: Any, trained: Any, reacher_data: Arrays, tmp_path: Path
    ) -> None:
        """Parameters and optimiser are all that an update depends on, besides data and random numbers."""
        other.set_parameters(trained.get_parameters())
        other.training_generator.set_state(trained.training_generator.get_state())
        for model in (trained, other):
            model.learn(2, reset_num_timesteps=False)
        assert same_parameters(state_of(other), state_of(trained))

    def test_models_do_not_share_what_they_exchanged(self, other: Any, trained: Any) -> None:
        other.set_parameters(trained.get_parameters())
        before = state_of(trained)
        other.learn(2)
        assert same_parameters(state_of(trained), before)
        assert not same_parameters(parameters_of(other), parameters_of(trained))

    def test_without_the_optimisers_state(self, other: Any, trained: Any) -> None:
        parameters = {"policy": trained.get_parameters()["policy"]}
        before = state_of(other)
        with pytest.raises(ValueError, match="Names of parameters do not match"):
            other.set_parameters(parameters)
        assert same_parameters(state_of(other), before)
        other.set_parameters(parameters, exact_match=False)
        assert same_parameters(parameters_of(other), parameters_of(trained))
        assert same_parameters(state_of(other)["state"], before["state"])
        other.learn(1, reset_num_timesteps=False)

    def test_some_of_the_policys_parameters(self, other: Any, trained: Any) -> None:
        actor = {name: value for name, value in trained.get_parameters()["policy"].items() if name.startswith("actor.")}
        before = parameters_of(other)
        parameters = {"policy": actor, "policy.optimizer": other.get_parameters()["policy.optimizer"]}
        with pytest.raises(RuntimeError, match="Missing key"):
            other.set_parameters(parameters)
        other.set_parameters(parameters, exact_match=False)
        after = parameters_of(other)
        assert all(torch.equal(after[name], value) for name, value in actor.items())
        assert all(torch.equal(after[name], before[name]) for name in after.keys() - actor.keys())

    @pytest.mark.parametrize("exact_match", [True, False])
    def test_unknown_names_are_refused(self, trained: Any, exact_match: bool) -> None:
        with pytest.raises(ValueError, match="invalid object name"):
            trained.set_parameters({"no_such_network": {}}, exact_match=exact_match)

    def test_what_get_parameters_gives_survives_training(self, trained: Any) -> None:
        """As in SB3 these are views: whoever keeps them copies them, as save() does."""
        kept = state_of(trained)
        views = trained.get_parameters()
        trained.learn(1, reset_num_timesteps=False)
        assert not same_parameters(views["policy"], kept["policy"])
        trained.set_parameters({"policy": kept["policy"]}, exact_match=False)
        assert same_parameters(parameters_of(trained), kept["policy"])
