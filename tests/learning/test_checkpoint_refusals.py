"""Checkpoints that are damaged, or do not belong to the data and the environment that are there."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from full_disk import full_disk
from gymnasium import spaces
from recordings import Arrays
from resumed_runs import (
    SMALL,
    DrawsEverywhere,
    KeptCheckpoints,
    MakeEnv,
    begin,
    everything,
    learn,
    reacher,
    take_up,
    vectorised,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, ReplayableEpisodes, ResumableCheckpoint
from dipole_sb3.datasets.storage import DatasetWriter
from dipole_sb3.learning.checkpoints import newest_checkpoint

# An environment with Dict observations is told that its bounds were float64.
pytestmark = pytest.mark.filterwarnings("error::UserWarning", "ignore:.*precision lowered")


# Damage


@pytest.fixture
def folder(reacher_data: Arrays, tmp_path: Path) -> Path:
    """Of a run with checkpoints at 50 and at 100 timesteps, the latter online."""
    learn(begin("offline_then_online", reacher_data), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    return tmp_path / "run"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        inside = max(info.header_offset for info in archive.infolist() if info.filename.endswith(".npy"))
    content[inside + 150] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, emptied, one_bit], ids=lambda f: f.__name__)
def test_a_damaged_one_falls_back_to_the_one_before(
    damage: Callable[[Path], None], folder: Path, reacher_data: Arrays
) -> None:
    damage(folder / "model_100_steps.zip")
    with pytest.warns(UserWarning, match=r"model_100_steps\.zip: it is .*; going on from model_50_steps\.zip"):
        model = take_up("offline_then_online", folder, reacher_data)
    assert model.num_timesteps == 50
    damage(folder / "model_50_steps.zip")
    with pytest.raises(ValueError, match=r"no checkpoint in .*run is whole: .*model_100_steps.*; .*model_50_steps"):
        take_up("offline_then_online", folder, reacher_data)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_on_a_full_disk_the_earlier_ones_stay(share: float, folder: Path, reacher_data: Arrays, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    size = len(before["model_100_steps.zip"])
    model = take_up("offline_then_online", folder, reacher_data)
    message = r"cannot write .*model_120_steps\.zip: File too large; nothing was changed"
    with pytest.raises(OSError, match=message), full_disk(after=int(share * size)):
        learn(model, tmp_path, ResumableCheckpoint(60, folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint in it to go on from"):
        newest_checkpoint(tmp_path)


def test_a_model_without_the_state_of_a_run(reacher_data: Arrays, tmp_path: Path) -> None:
    """As save() and earlier versions leave it."""
    begin("offline", reacher_data).learn(1).save(tmp_path / "model_1_steps.zip")
    with pytest.raises(ValueError, match="it is a model without the state of a run"):
        take_up("offline", tmp_path, reacher_data)


def test_a_format_of_another_version(folder: Path, reacher_data: Arrays) -> None:
    path = folder / "model_100_steps.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["run/state.json"] = json.dumps({**json.loads(members["run/state.json"]), "format": 99}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="found a checkpoint of format 99, expected 1"):
        take_up("offline_then_online", path, reacher_data)


# Another data set, another environment


def test_a_missing_data_set_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"the run learned from dataset \(checksum [0-9a-f]{64}\)"):
        DIPOLE.resume(folder, env=reacher())


def test_a_changed_data_set_is_refused_with_both_checksums(folder: Path, reacher_data: Arrays) -> None:
    known = OfflineReplayBuffer.from_arrays(reacher_data).checksum
    rewards = reacher_data["rewards"].copy()
    rewards[7] += 1e-3
    changed = OfflineReplayBuffer.from_arrays({**reacher_data, "rewards": rewards}, source="drive.npz")
    message = rf"drive\.npz: it is not the data .*found checksum {changed.checksum}, expected {known} of dataset"
    with pytest.raises(DatasetError, match=message):
        DIPOLE.resume(folder, env=reacher(), dataset=changed)


def store(path: Path, data: Arrays) -> None:
    env = reacher()
    with DatasetWriter(path, env.observation_space, env.action_space, overwrite=True) as writer:
        writer.append(data)


def test_stored_data_are_known_by_their_checksum(reacher_data: Arrays, tmp_path: Path) -> None:
    """In storage, and as the same arrays in memory."""
    store(tmp_path / "data", reacher_data)
    model = DIPOLE("MlpPolicy", reacher(), dataset=tmp_path / "data", offline_steps=22, **SMALL)
    whole = learn(model, tmp_path, KeptCheckpoints(40, tmp_path / "run"))
    for dataset in (tmp_path / "data", reacher_data):
        resumed = DIPOLE.resume(tmp_path / "run" / "all" / "40.zip", env=reacher(), dataset=dataset, device="cpu")
        (tmp_path / "again").mkdir(exist_ok=True)
        np.testing.assert_equal(everything(learn(resumed, tmp_path / "again")), everything(whole))
    store(tmp_path / "data", {name: column[:300] for name, column in reacher_data.items()})
    with pytest.raises(DatasetError, match=r"data: it is not the data that the run in .*120_steps\.zip learned from"):
        DIPOLE.resume(tmp_path / "run", env=reacher(), dataset=tmp_path / "data", device="cpu")


def test_a_data_set_where_there_was_none(reacher_data: Arrays, tmp_path: Path) -> None:
    learn(begin("correlated_noise", reacher_data), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    with pytest.raises(DatasetError, match="the run learned without a data set"):
        DIPOLE.resume(tmp_path / "run", env=reacher(), dataset=reacher_data)


def test_another_number_of_environments(tmp_path: Path) -> None:
    learn(begin("several_environments", {}), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    with pytest.raises(ValueError, match="the run has 3 environments, found 2 in env="):
        DIPOLE.resume(tmp_path / "run", env=vectorised("Pendulum-v1", 2)())


def test_the_number_of_environments_may_change_before_the_first_step(reacher_data: Arrays, tmp_path: Path) -> None:
    learn(begin("offline_then_online", reacher_data), tmp_path, ResumableCheckpoint(10, tmp_path / "run"), timesteps=15)
    model = DIPOLE.resume(tmp_path / "run", env=vectorised("Reacher-v5", 2)(), dataset=reacher_data, device="cpu")
    assert learn(model, tmp_path, timesteps=30).replay_buffer.n_online == 8


def test_other_normalisation(tmp_path: Path) -> None:
    learn(begin("moving_statistics", {}), tmp_path, ResumableCheckpoint(50, tmp_path / "run"))
    with pytest.raises(ValueError, match="found no VecNormalize around env=, expected one"):
        DIPOLE.resume(tmp_path / "run", env=vectorised("Pendulum-v1", 2)())
    without = VecNormalize(vectorised("Pendulum-v1", 2)(), norm_obs=False)
    with pytest.raises(ValueError, match=r"normalises \['returns'\], expected \['observation', 'returns'\]"):
        DIPOLE.resume(tmp_path / "run", env=without)


# Environments that cannot be brought back


class Unrepeatable(DrawsEverywhere):
    """Each time another one, like a robot."""

    def observe(self) -> Any:
        self.at = self.at + np.random.default_rng().normal(scale=1e-3)
        return super().observe()


@pytest.mark.parametrize(
    ("make_env", "reason"),
    [
        (DrawsEverywhere, "its environments kept no record"),
        (lambda: ReplayableEpisodes(Unrepeatable()), "environment 0 shows another observation after the seed and the"),
        (
            lambda: VecFrameStack(DummyVecEnv([lambda: ReplayableEpisodes(gymnasium.make("Pendulum-v1"))]), 2),
            "its environments kept no record",
        ),
    ],
    ids=["no_record", "unrepeatable", "frames_in_a_wrapper"],
)
def test_an_episode_that_cannot_be_taken_up_is_begun_anew_with_a_message(
    make_env: MakeEnv, reason: str, tmp_path: Path
) -> None:
    env = make_env()
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = DIPOLE(policy, env, **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn(model, tmp_path, ResumableCheckpoint(20, tmp_path / "run"), timesteps=30)
    told = [str(warning.message) for warning in caught if "keeps no record" in str(warning.message)]
    assert len(told) == (reason == "its environments kept no record")
    with pytest.warns(UserWarning, match=f"{reason}.*; the run goes on with new episodes"):
        model = DIPOLE.resume(tmp_path / "run", env=make_env(), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn(model, tmp_path, timesteps=40)
    assert model.num_timesteps == 40
