"""SB3's test_logger: what a run leaves in TensorBoard and progress.csv, read back from the files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, small
from recordings import Arrays
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dipole_sb3 import DIPOLE, IQL, OfflineReplayBuffer
from dipole_sb3.algorithms.dipole.losses import SATURATION
from dipole_sb3.learning import phased_algorithm
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.phased_algorithm import OFFLINE_LOG_UNIT

SB3_KEYS = {"train/actor_loss", "train/critic_loss", "train/learning_rate", "time/fps"}
OUR_KEYS = {"time/updates_per_second"}
# What an algorithm promises beyond that.
OWN_KEYS: dict[type[OfflineAlgorithm], set[str]] = {
    DIPOLE: {
        f"train/{name}"
        for name in (
            "positive_loss",
            "negative_loss",
            "value_loss",
            "weight_mean",
            "weight_std",
            "weight_saturation",
            "advantage_q10",
            "advantage_q50",
            "advantage_q90",
            "q_mean",
            "value_mean",
        )
    },
}
# SB3 keeps these out of TensorBoard: they are its horizontal axis.
CSV_KEYS = {"train/n_updates", "time/total_timesteps", "time/time_elapsed", "time/episodes"}


@pytest.fixture(scope="module", autouse=True)
def rows_of_25_updates() -> Iterator[None]:
    """Of the algorithm's 250, of which one test is."""
    with pytest.MonkeyPatch.context() as shorter:
        shorter.setattr(phased_algorithm, "OFFLINE_LOG_UNIT", 25)
        yield


def split(data: Arrays) -> OfflineReplayBuffer:
    """250 transitions to learn from, the rest for validation."""
    buffer = OfflineReplayBuffer.from_arrays({key: value[:250] for key, value in data.items()})
    buffer.validation = OfflineReplayBuffer.from_arrays({key: value[250:] for key, value in data.items()})
    return buffer


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


# TensorBoard


@pytest.fixture(scope="module", params=ALGORITHMS, ids=[algorithm.__name__ for algorithm in ALGORITHMS])
def events(
    request: pytest.FixtureRequest,
    rows_of_25_updates: None,
    reacher_data: Arrays,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[type[OfflineAlgorithm], EventAccumulator]:
    folder = tmp_path_factory.mktemp("tensorboard")
    model = small(request.param, dataset=split(reacher_data), tensorboard_log=str(folder))
    model.learn(60, log_interval=1, tb_log_name="run")
    accumulator = EventAccumulator(str(folder / "run_1"))
    accumulator.Reload()
    return request.param, accumulator


def test_tensorboard_has_sb3s_keys_and_ours(events: tuple[type[OfflineAlgorithm], EventAccumulator]) -> None:
    algorithm, accumulator = events
    found = set(accumulator.Tags()["scalars"])
    assert found >= SB3_KEYS | OUR_KEYS | OWN_KEYS.get(algorithm, set())
    assert "validation/critic_loss" in found


def test_tensorboard_has_a_point_in_every_row_and_at_the_end(
    events: tuple[type[OfflineAlgorithm], EventAccumulator],
) -> None:
    _, accumulator = events
    for key in accumulator.Tags()["scalars"]:
        points = accumulator.Scalars(key)
        assert [point.step for point in points] == [25, 50, 60], key
        assert all(np.isfinite(point.value) for point in points), key


def test_the_validation_split_has_every_loss_of_the_training(
    events: tuple[type[OfflineAlgorithm], EventAccumulator],
) -> None:
    _, accumulator = events
    found = set(accumulator.Tags()["scalars"])
    validated = {key.removeprefix("validation/") for key in found if key.startswith("validation/")}
    # The actor's loss may be a sum of several, which are then there one by one.
    trained = {key.removeprefix("train/") for key in found if key.startswith("train/") and key.endswith("_loss")}
    assert trained - {"actor_loss"} <= validated


def test_tensorboard_runs_are_numbered_as_in_sb3(model: Any, tmp_path: Path) -> None:
    model.tensorboard_log = str(tmp_path)
    model.learn(1)
    model.learn(1)
    model.learn(1, reset_num_timesteps=False, tb_log_name=type(model).__name__)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{type(model).__name__}_{n}" for n in (1, 2)]


# progress.csv


def test_csv_has_sb3s_keys_and_ours(algorithm: Any, model: Any, tmp_path: Path) -> None:
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(50, log_interval=1)
    rows = rows_of(tmp_path)
    assert set(rows[0]) >= SB3_KEYS | OUR_KEYS | OWN_KEYS.get(algorithm, set()) | CSV_KEYS
    assert [row["time/total_timesteps"] for row in rows] == ["25", "50"]
    assert [row["train/n_updates"] for row in rows] == ["25", "50"]
    assert all(float(row["time/updates_per_second"]) > 0 for row in rows)
    assert all(float(row["train/learning_rate"]) == 1e-3 for row in rows)


@pytest.mark.parametrize(("log_interval", "expected"), [(1, [25, 50, 51]), (2, [50, 51]), (4, [51])])
def test_log_interval_counts_rows_and_the_end(
    model: Any, tmp_path: Path, log_interval: int, expected: list[int]
) -> None:
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(51, log_interval=log_interval)
    assert [int(row["time/total_timesteps"]) for row in rows_of(tmp_path)] == expected


def test_a_row_is_of_250_updates(reacher_data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phased_algorithm, "OFFLINE_LOG_UNIT", OFFLINE_LOG_UNIT)
    model = small(IQL, dataset=reacher_data)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(251, log_interval=1)
    assert [int(row["time/total_timesteps"]) for row in rows_of(tmp_path)] == [250, 251]


def test_without_a_validation_split_nothing_is_made_up(model: Any, tmp_path: Path) -> None:
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(5)
    assert not [key for key in rows_of(tmp_path)[0] if key.startswith("validation/")]


def test_validation_is_always_on_the_same_transitions_and_noise(algorithm: Any, reacher_data: Arrays) -> None:
    model = small(algorithm, dataset=split(reacher_data)).learn(2)
    logged = []
    for _ in range(2):
        model.predict(reacher_data["observations"])
        model.dump_logs()
        model.record_training()
        values = model.logger.name_to_value
        logged.append({key: value for key, value in values.items() if key.startswith("validation/")})
    assert logged[0] == logged[1] != {}


def test_rollout_statistics_online(algorithm: Any, tmp_path: Path) -> None:
    env = make_vec_env(lambda: IdentityEnvBox(ep_length=20), 1)
    model = small(algorithm, env=env, train_freq=10, learning_starts=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(60, log_interval=1)
    rows = rows_of(tmp_path)
    assert [float(row["rollout/ep_len_mean"]) for row in rows] == [20, 20, 20]
    assert [row["time/episodes"] for row in rows] == ["1", "2", "3"]
    assert set(rows[-1]) >= SB3_KEYS | OUR_KEYS | OWN_KEYS.get(algorithm, set())


def test_silence_when_not_asked_to_speak(model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    model.learn(3)
    assert capfd.readouterr().out == ""


def test_tables_on_the_terminal_when_asked(
    algorithm: Any, reacher_data: Arrays, capfd: pytest.CaptureFixture[str]
) -> None:
    small(algorithm, dataset=reacher_data, verbose=1).learn(3)
    shown = capfd.readouterr().out
    assert "updates_per_second" in shown
    assert "critic_loss" in shown


# Learning rate


def test_a_schedule_reaches_the_optimiser(algorithm: Any, reacher_data: Arrays) -> None:
    model = small(algorithm, dataset=reacher_data, learning_rate=lambda remaining: 1e-3 * remaining)
    rates: list[float] = []
    model.learn(4, callback=lambda *_: rates.append(model.policy.optimizer.param_groups[0]["lr"]) or True)
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    model.learn(4, reset_num_timesteps=False, callback=lambda *_: model.num_timesteps < 5)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-3)


def test_a_changed_rate_takes_effect(model: Any) -> None:
    model.learn(1)
    model.learning_rate = 0.125
    model._setup_lr_schedule()
    model.learn(1)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.125


# What DIPOLE's numbers mean


class TestDIPOLEsStatistics:
    @pytest.fixture
    def model(self, reacher_data: Arrays) -> Any:
        return small(DIPOLE, dataset=reacher_data, beta=3.0)

    def recorded(self, model: Any) -> dict[str, float]:
        model.record_training()
        return {key: float(value) for key, value in model.logger.name_to_value.items()}

    def test_losses_are_means_since_the_last_row(self, model: Any) -> None:
        parts, before = [], torch.zeros(4)
        for _ in range(3):
            model.train(gradient_steps=1, batch_size=16)
            parts.append((model.training_monitor._losses - before).tolist())
            before = model.training_monitor._losses.clone()
        logged = self.recorded(model)
        means = np.mean(parts, axis=0)
        names = ("positive_loss", "negative_loss", "critic_loss", "value_loss")
        for name, mean in zip(names, means, strict=True):
            assert logged[f"train/{name}"] == pytest.approx(mean, rel=1e-5)
        assert logged["train/actor_loss"] == pytest.approx(means[0] + means[1], rel=1e-5)
        model.train(gradient_steps=1, batch_size=16)
        last = float(model.training_monitor._losses[2])
        assert self.recorded(model)["train/critic_loss"] == pytest.approx(last)

    def test_distributions_are_the_last_updates(self, model: Any) -> None:
        model.train(gradient_steps=5, batch_size=64)
        details, logged = model.training_monitor._details, self.recorded(model)
        advantage, weight = (details[name].double().numpy() for name in ("advantage", "weight"))
        np.testing.assert_allclose(weight, 1 / (1 + np.exp(-3.0 * advantage)), rtol=1e-5)
        assert logged["train/weight_mean"] == pytest.approx(weight.mean(), rel=1e-5)
        assert logged["train/weight_std"] == pytest.approx(weight.std(), rel=1e-4)
        for share in (10, 50, 90):
            expected = np.quantile(advantage, share / 100)
            assert logged[f"train/advantage_q{share}"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert logged["train/q_mean"] == pytest.approx(float(details["q"].mean()), rel=1e-4)
        assert logged["train/value_mean"] == pytest.approx(float(details["value"].mean()), rel=1e-4)

    @pytest.mark.parametrize(("shift", "saturated"), [(20.0, 1.0), (-20.0, 1.0), (0.0, 0.0)])
    def test_saturation_is_the_share_of_weights_at_either_end(
        self, reacher_data: Arrays, shift: float, saturated: float
    ) -> None:
        model = small(DIPOLE, dataset=reacher_data, shift=shift, beta=1e-3)
        model.train(gradient_steps=1, batch_size=16)
        assert 0 < SATURATION < 0.5
        assert self.recorded(model)["train/weight_saturation"] == saturated
