"""Exported sets give the same transitions again, and LeRobot itself reads them (where it is installed)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from commands import Command
from filled_buffers import counting, recorded
from full_disk import full_disk
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import Arrays

from dipole_sb3 import DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.datasets import lerobot
from dipole_sb3.datasets.conversion import convert
from dipole_sb3.datasets.lerobot import exporting, layout


def without_images(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same with numbers instead of images."""
    found = dict(arrays)
    for key in ("observations", "next_observations"):
        value = found[key]
        parts = value if isinstance(value, dict) else {"": value}
        floats = {name: array.astype(np.float32) for name, array in parts.items()}
        found[key] = floats if isinstance(value, dict) else floats[""]
    return found


@settings(max_examples=15, deadline=None)
@given(recorded(), st.sampled_from([1.0, 3.0, 0.37]), st.integers(1, 4000))
def test_the_same_transitions_come_back(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], bound: float, file_bytes: int
) -> None:
    """Real ends, time limits, recordings that stop, in one file or many, actions in any units: to the bit."""
    folder = tmp_path_factory.mktemp("export")
    arrays = without_images(arrays)
    size = arrays["actions"].shape[1]
    space = spaces.Box(np.full(size, -bound, np.float32), np.full(size, 2 * bound, np.float32))
    arrays["actions"] = (bound * arrays["actions"]).astype(np.float32)
    buffer = OfflineReplayBuffer.from_arrays(arrays, action_space=space, device="cpu", metadata={"env_id": "Mine-v0"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_FILE_BYTES", file_bytes)
        patch.setattr(layout, "FILES_IN_A_FOLDER", 3)
        patch.setattr(image_layout, "BLOCK_BYTES", 500)
        lerobot.export(buffer, folder / "set", fps=12.5)
    again = load_dataset(folder / "set", device="cpu")
    assert again.checksum == buffer.checksum
    assert (again.observation_space, again.action_space) == (buffer.observation_space, buffer.action_space)
    assert again.metadata["env_id"] == "Mine-v0"
    assert again.metadata["fps"] == 12.5


def test_discrete_observations_and_a_dict_of_one_key_come_back(tmp_path: Path) -> None:
    arrays = counting(20)
    arrays["observations"] = arrays["next_observations"] = np.arange(20) % 4
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "a", fps=1)
    again = load_dataset(tmp_path / "a")
    assert isinstance(again.observation_space, spaces.Discrete)
    assert again.checksum == OfflineReplayBuffer.from_arrays(arrays).checksum
    arrays = counting(20)
    for key in ("observations", "next_observations"):
        arrays[key] = {"joints/left": arrays[key]}
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "b", fps=1)
    assert load_dataset(tmp_path / "b").checksum == OfflineReplayBuffer.from_arrays(arrays).checksum


def test_the_command_exports_and_takes_back(dipole: Command) -> None:
    assert dipole("data", "convert", "demo/reacher-tqc-10k", "set", "--to", "lerobot", "--fps", "50")[0] == 0
    assert dipole("data", "check", "set")[0] == 0
    assert dipole("data", "convert", "set", "back")[0] == 0
    assert load_dataset("back").checksum == load_dataset("demo/reacher-tqc-10k").checksum
    status, _, error = dipole("data", "convert", "back", "set", "--to", "lerobot")
    assert (status, error.count("\n")) == (1, 1)
    assert "set: exists already" in error
    assert dipole("data", "convert", "back", "set", "--to", "lerobot", "--overwrite")[0] == 0
    assert json.loads(Path("set/meta/info.json").read_text())["fps"] == 50
    status, _, error = dipole("data", "convert", "demo/reacher-tqc-10k", "other", "--to", "lerobot")
    assert (status, error.count("\n")) == (1, 1)
    assert "nothing tells how many frames a second" in error
    assert not Path("other").exists()


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    flat = OfflineReplayBuffer.from_arrays(counting(2000))
    for fps in (0, -1.0, float("nan"), True):
        with pytest.raises(ValueError, match="expected a positive number"):
            lerobot.export(flat, tmp_path / "a", fps=fps)
    with full_disk(3_000), pytest.raises(OSError, match="too large"):
        lerobot.export(flat, tmp_path / "a", fps=5)
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(DatasetError, match=r"has no meta/info\.json in it, so it is not overwritten"):
        lerobot.export(flat, tmp_path / "mine", fps=5, overwrite=True)


def test_fps_is_for_lerobot_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fps is 5, which only data sets of LeRobot have"):
        convert("demo/reacher-tqc-10k", tmp_path / "a", fps=5)


def test_lerobot_reads_it(tmp_path: Path, pendulum_data: Arrays) -> None:
    """The real LeRobotDataset, frame by frame."""
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    arrays = dict(pendulum_data)
    for key in ("observations", "next_observations"):
        arrays[key] = {"angles": arrays[key], "grid": np.stack([arrays[key]] * 2, axis=1)}
    space = spaces.Box(np.float32(-2), np.float32(2), (1,))
    buffer = OfflineReplayBuffer.from_arrays(arrays, action_space=space, metadata={"tasks": ["swing up"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_FILE_BYTES", 10_000)
        lerobot.export(buffer, tmp_path / "set", fps=20)
    data = module.LeRobotDataset("test/set", root=tmp_path / "set")
    ends = np.flatnonzero(arrays["terminals"]) + 1
    lengths = np.diff(np.r_[0, ends, len(arrays["actions"])])
    lengths = lengths[lengths > 0]
    assert len(data) == lengths.sum() + len(lengths)
    assert data.meta.total_episodes == len(lengths)
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) > 1
    row = 0
    for number, length in enumerate(lengths.tolist()):
        for frame in range(length):
            found = data[row + number]
            assert found["task"] == "swing up"
            assert found["episode_index"].item() == number
            assert abs(found["timestamp"].item() - frame / 20) < 1e-5
            np.testing.assert_array_equal(found["observation.angles"], arrays["observations"]["angles"][row])
            np.testing.assert_array_equal(found["observation.grid"], arrays["observations"]["grid"][row])
            np.testing.assert_allclose(np.atleast_1d(found["action"]), arrays["actions"][row], atol=3e-7)
            assert found["next.reward"].item() == np.float32(arrays["rewards"][row])
            row += 1
        final = data[row + number]
        np.testing.assert_array_equal(final["observation.angles"], arrays["next_observations"]["angles"][row - 1])
        assert final["next.truncated"].item()
    windows = module.LeRobotDataset("test/set", root=tmp_path / "set", delta_timestamps={"action": [0.0, 0.05]})
    assert windows[0]["action"].shape[0] == 2
    np.testing.assert_allclose(data.meta.stats["action"]["max"], arrays["actions"].max(), atol=1e-6)


def test_the_table_of_tasks_is_one_for_pandas(tmp_path: Path) -> None:
    """LeRobot looks a task up in the index."""
    pandas = pytest.importorskip("pandas")
    buffer = OfflineReplayBuffer.from_arrays(counting(20), metadata={"env_id": "Mine-v0"})
    lerobot.export(buffer, tmp_path / "set", fps=5)
    tasks = pandas.read_parquet(tmp_path / "set/meta/tasks.parquet")
    assert tasks.iloc[0].name == "Mine-v0"
    assert tasks.loc["Mine-v0"].task_index == 0
    assert pyarrow.parquet.read_table(tmp_path / "set/data/chunk-000/file-000.parquet").num_rows > 20
