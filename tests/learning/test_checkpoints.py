"""Checkpoints: a run taken up from one goes on as if it had never stopped."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings import Arrays
from resumed_runs import RUNS, SMALL, KeptCheckpoints, begin, everything, learn, rows, take_up, vectorised
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv

from dipole_sb3 import DIPOLE, DatasetError, ResumableCheckpoint
from dipole_sb3.cli.interrupt import StopOnSignal
from dipole_sb3.learning.checkpoints import log_position

# An environment with Dict observations is told that its bounds were float64.
pytestmark = pytest.mark.filterwarnings("error::UserWarning", "ignore:.*precision lowered")


# The very same run


@pytest.mark.parametrize("name", RUNS)
def test_goes_on_as_if_it_had_never_stopped(name: str, reacher_data: Arrays, tmp_path: Path) -> None:
    whole = learn(begin(name, reacher_data), tmp_path, KeptCheckpoints(11, tmp_path / "checkpoints"))
    expected = everything(whole)
    saved = sorted((tmp_path / "checkpoints" / "all").glob("*.zip"), key=lambda path: int(path.stem))
    assert len(saved) >= 9
    for path in (saved[1], saved[-2]):
        folder = tmp_path / path.stem
        folder.mkdir()
        # What happens in between does not matter.
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        model = take_up(name, path, reacher_data)
        assert model.num_timesteps == int(path.stem)
        later = rows(tmp_path, after=int(path.stem))
        assert log_position(path)["rows"] == len(rows(tmp_path)) - len(later)
        learn(model, folder)
        np.testing.assert_equal(everything(model), expected)
        assert rows(folder) == later


def test_goes_on_in_processes_as_well(tmp_path: Path) -> None:
    def make() -> Any:
        return vectorised("Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})()

    whole = DIPOLE("MlpPolicy", make(), **SMALL)
    learn(whole, tmp_path, KeptCheckpoints(30, tmp_path / "checkpoints"))
    resumed = DIPOLE.resume(tmp_path / "checkpoints" / "all" / "60.zip", env=make(), device="cpu")
    (tmp_path / "again").mkdir()
    learn(resumed, tmp_path / "again")
    np.testing.assert_equal(everything(resumed), everything(whole))
    for model in (whole, resumed):
        model.env.close()


def test_may_be_taken_up_twice(reacher_data: Arrays, tmp_path: Path) -> None:
    name = "offline_then_online"
    whole = learn(begin(name, reacher_data), tmp_path, ResumableCheckpoint(10, tmp_path / "whole"))
    model = begin(name, reacher_data)
    for end in (47, 83, 120):
        learn(model, tmp_path, ResumableCheckpoint(10, tmp_path / "parted"), timesteps=end)
        if end < 120:
            model = take_up(name, tmp_path / "parted", reacher_data)
            assert model.num_timesteps == end // 10 * 10
    np.testing.assert_equal(everything(model), everything(whole))
    # Nor do they differ in a new run of either: the seeds that the constructor gave were used long ago.
    for each in (whole, model):
        torch.manual_seed(1)
        each.learn(30, reset_num_timesteps=True)
    np.testing.assert_equal(everything(model), everything(whole))


class CtrlC(BaseCallback):
    """Presses it in the middle of a rollout."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 73:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def test_ctrl_c_stops_where_a_run_can_go_on(reacher_data: Arrays, tmp_path: Path) -> None:
    name = "a_training_after_several_steps"
    whole = learn(begin(name, reacher_data), tmp_path)
    checkpoint = ResumableCheckpoint(0, tmp_path / "run")
    with StopOnSignal() as stop:
        model = learn(begin(name, reacher_data), tmp_path, checkpoint, CtrlC(), stop.callback())
    assert stop.stopped_by == signal.SIGINT
    assert model.num_timesteps == 77
    checkpoint.save()
    np.testing.assert_equal(everything(learn(take_up(name, tmp_path / "run", {}), tmp_path)), everything(whole))


def test_taking_checkpoints_does_not_change_a_run(reacher_data: Arrays, tmp_path: Path) -> None:
    watched = learn(begin("offline_then_online", reacher_data), tmp_path, ResumableCheckpoint(9, tmp_path / "watched"))
    alone = learn(begin("offline_then_online", reacher_data), tmp_path)
    np.testing.assert_equal(everything(watched), everything(alone))


def test_a_checkpoint_is_an_ordinary_model(reacher_data: Arrays, tmp_path: Path) -> None:
    model = learn(begin("offline_then_online", reacher_data), tmp_path, ResumableCheckpoint(120, tmp_path / "run"))
    loaded = DIPOLE.load(tmp_path / "run" / "model_120_steps.zip", device="cpu")
    observations = reacher_data["observations"][:5]
    actions = [each.predict(observations, deterministic=True)[0] for each in (model, loaded)]
    assert np.array_equal(*actions)


# Which checkpoints there are


def names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir()), key=lambda name: int(name.split("_")[1]))


def test_the_last_two_are_kept(reacher_data: Arrays, tmp_path: Path) -> None:
    model = learn(begin("offline", reacher_data), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    assert names(tmp_path / "run") == ["model_50_steps.zip", "model_100_steps.zip"]
    learn(model, tmp_path, ResumableCheckpoint(50, tmp_path / "run"), timesteps=170)
    assert names(tmp_path / "run") == ["model_100_steps.zip", "model_150_steps.zip"]


def test_several_environments_save_where_they_pass_a_multiple(tmp_path: Path) -> None:
    learn(begin("several_environments", {}), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    assert names(tmp_path / "run") == ["model_51_steps.zip", "model_102_steps.zip"]


def test_a_new_run_does_not_mix_with_an_earlier_one(reacher_data: Arrays, tmp_path: Path) -> None:
    learn(begin("offline", reacher_data), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"run: holds checkpoints of a run already \(model_100_steps\.zip\)"):
        learn(begin("offline", reacher_data), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    assert names(tmp_path / "run") == ["model_50_steps.zip", "model_100_steps.zip"]


def test_what_lies_beyond_the_point_of_return_is_made_again(reacher_data: Arrays, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    learn(begin("offline", reacher_data), tmp_path, ResumableCheckpoint(50, folder))
    (folder / ".model_150_steps.zip.x1y2.partial").write_bytes(b"cut short by a kill")
    model = take_up("offline", folder / "model_50_steps.zip", reacher_data)
    learn(model, tmp_path, ResumableCheckpoint(50, folder), timesteps=60)
    assert names(folder) == ["model_50_steps.zip"]


def test_a_run_whose_data_are_another_models_buffer_is_resumed(tmp_path: Path) -> None:
    """All that the buffer holds is the data set here, and nothing of it has been gathered by this run."""
    data = DIPOLE("MlpPolicy", "Pendulum-v1", **SMALL).learn(20).replay_buffer
    whole = DIPOLE("MlpPolicy", dataset=data, **SMALL).learn(6, callback=ResumableCheckpoint(4, tmp_path))
    resumed = DIPOLE.resume(tmp_path, dataset=data, device="cpu").learn(2, reset_num_timesteps=False)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    with pytest.raises(DatasetError, match="expected the same data as dataset="):
        DIPOLE.resume(tmp_path, device="cpu")
