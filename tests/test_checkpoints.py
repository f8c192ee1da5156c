"""Checkpoints: a run taken up from one goes on as if it had never stopped, and what is not one is refused."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import shutil
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import Arrays
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, ReplayableEpisodes, ResumableCheckpoint
from dipole_sb3.checkpoints import log_position, newest_checkpoint
from dipole_sb3.cli.interrupt import StopOnSignal
from dipole_sb3.datasets.storage import DatasetWriter

SMALL: dict[str, Any] = {
    "batch_size": 16,
    "learning_starts": 0,
    "buffer_size": 1000,
    "flow_steps": 2,
    "num_candidates": 2,
    "policy_kwargs": {"net_arch": [16]},
    "device": "cpu",
    "seed": 0,
}
MakeEnv = Callable[[], Any]


def vectorised(env_id: str, n_envs: int, **arguments: Any) -> MakeEnv:
    return lambda: make_vec_env(env_id, n_envs, wrapper_class=ReplayableEpisodes, **arguments)


def normalized() -> VecNormalize:
    return VecNormalize(vectorised("Pendulum-v1", 2)(), gamma=0.9)


def reacher() -> ReplayableEpisodes:
    return ReplayableEpisodes(gymnasium.make("Reacher-v5"))


def noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.5 * np.ones(2))


class DrawsEverywhere(gymnasium.Env[Any, Any]):
    """Draws from its own generator in every step; Dict observations."""

    observation_space = spaces.Dict({key: spaces.Box(-9, 9, (2,), np.float32) for key in ("arm", "goal")})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.normal(size=2), self.np_random.normal(size=2)
        return self.observe(), {}

    def observe(self) -> Any:
        return {"arm": self.at.astype(np.float32), "goal": self.goal.astype(np.float32)}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = np.clip(self.at + action + 0.1 * self.np_random.normal(size=2), -9, 9)
        return self.observe(), -float(np.abs(self.at - self.goal).sum()), self.np_random.random() < 0.1, False, {}


def normalized_dicts() -> VecNormalize:
    return VecNormalize(make_vec_env(DrawsEverywhere, 2, wrapper_class=ReplayableEpisodes))


class DrawsGlobally(BaseCallback):
    """A user's own, which puts numbers from all global generators into the log."""

    def _on_step(self) -> bool:
        self.logger.record("own/python", random.gauss(0, 1))
        self.logger.record("own/numpy", np.random.normal())
        self.logger.record("own/torch", float(torch.randn(())))
        self.logger.record_mean("own/mean", float(torch.rand(())))
        return True


RUNS: dict[str, tuple[MakeEnv | None, dict[str, Any]]] = {
    "offline": (None, {"dataset": True}),
    "offline_then_online": (reacher, {"dataset": True, "offline_steps": 22, "n_steps": 2, "offline_ratio": 0.3}),
    "without_a_seed": (reacher, {"dataset": True, "offline_steps": 25, "seed": None}),
    "correlated_noise": (reacher, {"action_noise": noise}),
    "several_environments": (vectorised("Pendulum-v1", 3), {"gradient_steps": -1}),
    "random_actions_first": (vectorised("Pendulum-v1", 2), {"learning_starts": 60}),
    "a_ring_that_overflows": (reacher, {"buffer_size": 30}),
    "a_training_after_several_steps": (reacher, {"train_freq": 7, "gradient_steps": 3}),
    "moving_statistics": (normalized, {}),
    "falling_learning_rate": (reacher, {"learning_rate": lambda remaining: 1e-2 * remaining}),
    "normalized_dicts": (normalized_dicts, {"policy": "MultiInputPolicy"}),
}
"""Name → environment and arguments of a run of 120 timesteps."""


def learn(model: Any, folder: Path, *callbacks: BaseCallback, timesteps: int = 120) -> Any:
    """To a number of timesteps, with a log in the folder."""
    model.set_logger(Logger(str(folder), [CSVOutputFormat(str(folder / "progress.csv"))]))
    remaining = timesteps - model.num_timesteps
    return model.learn(
        remaining, callback=[DrawsGlobally(), *callbacks], log_interval=1, reset_num_timesteps=model.num_timesteps == 0
    )


def begin(name: str, data: Arrays) -> Any:
    make_env, arguments = RUNS[name]
    arguments = {**SMALL, **arguments}
    if "dataset" in arguments:
        arguments["dataset"] = data
    if "action_noise" in arguments:
        arguments["action_noise"] = noise()
    policy = arguments.pop("policy", "MlpPolicy")
    return DIPOLE(policy, None if make_env is None else make_env(), **arguments)


def take_up(name: str, path: Path, data: Arrays) -> Any:
    make_env, arguments = RUNS[name]
    env = None if make_env is None else make_env()
    return DIPOLE.resume(path, env=env, dataset=data if "dataset" in arguments else None, device="cpu")


def everything(model: Any) -> dict[str, Any]:
    """What a run has become: parameters, optimiser, counters, what was gathered, what the episodes brought."""
    statistics = model.get_vec_normalize_env()
    online = {} if model.replay_buffer is model.dataset else model.replay_buffer.online_state()
    return {
        "policy": {name: value.numpy().copy() for name, value in model.policy.state_dict().items()},
        "optimizer": {
            f"{index}/{name}": np.asarray(value)
            for index, row in model.policy.optimizer.state_dict()["state"].items()
            for name, value in row.items()
        },
        "counters": np.array([model.num_timesteps, model._n_updates, model._episode_num]),
        "online": {name: array.copy() for name, array in online.items()},
        "episodes": np.array([(episode["r"], episode["l"]) for episode in model.ep_info_buffer]),
        "statistics": {} if statistics is None else moments(statistics),
    }


def moments(statistics: VecNormalize) -> dict[str, Any]:
    running = statistics.obs_rms if isinstance(statistics.obs_rms, dict) else {"": statistics.obs_rms}
    means = {f"mean {key}": one.mean for key, one in running.items()}
    return {**means, "returns": statistics.returns, "variance": statistics.ret_rms.var}


def rows(folder: Path, after: int = -1) -> list[dict[str, str]]:
    """The log without its times."""
    with open(folder / "progress.csv", newline="") as file:
        table = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [
        {name: cell for name, cell in row.items() if name == "time/total_timesteps" or not name.startswith("time/")}
        for row in table
        if int(row["time/total_timesteps"]) > after
    ]


class KeptCheckpoints(ResumableCheckpoint):
    """Keeps a copy of every checkpoint."""

    def save(self) -> Path:
        path = super().save()
        (self.save_path / "all").mkdir(exist_ok=True)
        shutil.copy(path, self.save_path / "all" / f"{self.model.num_timesteps}.zip")
        return path


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """A machine on which no file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # Of an environment with Dict observations of two plain vectors, and of a logger that nothing was written to.
        warnings.filterwarnings("ignore", message=".*precision lowered.*")
        yield


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
        model = learn(begin(name, reacher_data), tmp_path, checkpoint, CtrlC(), stop)
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


def test_the_replay_buffer_has_sb3s_face_after_all(folder: Path, reacher_data: Arrays) -> None:
    buffer = take_up("offline_then_online", folder, reacher_data).replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.n_online == 78
    assert buffer.n_recorded == len(reacher_data["rewards"])
