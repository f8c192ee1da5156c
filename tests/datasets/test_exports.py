"""What is written for Minari, read by Minari itself and by us: the same transitions, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from commands import Command
from filled_buffers import counting, filled_like_stable_baselines3, recorded
from full_disk import full_disk
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import Arrays

from dipole_sb3 import DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.datasets import make_env, storage
from dipole_sb3.datasets import minari as minari_sets
from dipole_sb3.datasets.episodes import episodes


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@settings(max_examples=15, deadline=None)
@given(recorded(), st.sampled_from([1.0, 3.0, 0.37]))
def test_the_same_transitions_come_back(arrays: dict[str, Any], bound: float) -> None:
    """Vectors, matrices, images, dicts; real ends, time limits, recordings that stop; actions in any units."""
    size = arrays["actions"].shape[1]
    space = spaces.Box(np.full(size, -bound, np.float32), np.full(size, 2 * bound, np.float32))
    arrays["actions"] = (bound * arrays["actions"]).astype(np.float32)
    buffer = OfflineReplayBuffer.from_arrays(arrays, action_space=space, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_layout, "BLOCK_BYTES", 500)
        minari_sets.export(buffer, "minari/test/mine-v0", overwrite=True)
    again = load_dataset("minari/test/mine-v0", device="cpu")
    assert again.checksum == buffer.checksum
    assert (again.observation_space, again.action_space) == (buffer.observation_space, buffer.action_space)


def test_minari_reads_it(reacher_data: Arrays) -> None:
    arrays = {key: np.asarray(values, np.float32) for key, values in reacher_data.items()}
    buffer = OfflineReplayBuffer.from_arrays(arrays, metadata={"env_id": "Reacher-v5"})
    minari_sets.export(buffer, "reacher/mine-v0")
    assert list(minari.list_local_datasets()) == ["reacher/mine-v0"]
    data = minari.load_dataset("reacher/mine-v0")
    assert (data.total_steps, data.total_episodes) == (320, 7)
    row = 0
    for episode in data.iterate_episodes():
        rows = slice(row, row + len(episode.rewards))
        np.testing.assert_array_equal(episode.observations[:-1], arrays["observations"][rows])
        np.testing.assert_array_equal(episode.observations[-1], arrays["next_observations"][rows.stop - 1])
        np.testing.assert_allclose(episode.actions, arrays["actions"][rows], atol=2e-5)  # clipped a little
        assert episode.truncations.sum() == (len(episode.rewards) == 50)
        assert not episode.terminations.any()
        row = rows.stop
    assert row == 320
    with data.recover_environment() as env, make_env(load_dataset("minari/reacher/mine-v0")) as other:
        assert env.spec is not None
        assert other.spec is not None
        assert env.spec.id == other.spec.id == "Reacher-v5"


def test_images_are_not_compressed(image_data: Arrays) -> None:
    """Minari would by default, which loses a little of images as large as these."""
    buffer = OfflineReplayBuffer.from_arrays(image_data)
    minari_sets.export(buffer, "mine-v0")
    assert load_dataset("minari/mine-v0").checksum == buffer.checksum


def test_an_environment_that_this_machine_has_not() -> None:
    buffer = OfflineReplayBuffer.from_arrays(counting(9), metadata={"env_id": "Nobody-knows-v9"})
    minari_sets.export(buffer, "mine-v0")
    assert "env_id" not in load_dataset("minari/mine-v0").metadata


def test_the_command_exports_and_takes_back(dipole: Command) -> None:
    arguments = ("data", "convert", "demo/reacher-tqc-10k", "reacher/mine-v0", "--to", "minari")
    status, out, error = dipole(*arguments)
    assert (status, out, error) == (0, "reacher/mine-v0\n", "")
    assert load_dataset("minari/reacher/mine-v0").checksum == load_dataset("demo/reacher-tqc-10k").checksum
    status, _, error = dipole(*arguments)
    assert (status, error.count("\n")) == (1, 1)
    assert "reacher/mine-v0: exists already" in error
    assert dipole(*arguments, "--overwrite")[0] == 0
    status, _, error = dipole("data", "convert", "demo/reacher-tqc-10k", "mine set", "--to", "minari")
    assert (status, error.count("\n")) == (1, 1)
    assert "mine set: no name for Minari" in error


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    buffer = OfflineReplayBuffer.from_arrays(counting(20_000))
    with full_disk(3_000), pytest.raises(OSError, match="too large"):
        minari_sets.export(buffer, "test/mine-v0")
    assert os.listdir(tmp_path / "minari/test") == []
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "minari")
    with pytest.raises(DatasetError, match="there are none"):
        load_dataset("minari/test/mine-v0")


@pytest.mark.parametrize("block_bytes", [200, 2**20])
def test_episodes_of_several_environments(tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One environment after the other, as a stored data set has them, whatever the blocks are."""
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", block_bytes)
    buffer = filled_like_stable_baselines3(3, 40, 70)[0]
    storage.save(buffer, tmp_path / "stored")
    stored = storage.load(tmp_path / "stored")
    found = list(episodes(buffer))
    assert sum(len(episode.rewards) for episode in found) == stored.size()
    np.testing.assert_array_equal(np.concatenate([episode.rewards for episode in found]), stored.rewards[:].ravel())
    ends = np.cumsum([len(episode.rewards) for episode in found]) - 1
    np.testing.assert_array_equal(stored.dones[:].ravel()[ends], [episode.ended for episode in found])
    assert stored.dones[:].sum() == sum(episode.ended for episode in found)
    minari_sets.export(buffer, "mine-v0")
    again = load_dataset("minari/mine-v0")
    np.testing.assert_array_equal(again.timeouts, stored.timeouts[:] * stored.dones[:])
    for key in ("observations", "next_observations", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(again, key)[:], getattr(stored, key)[:])
    np.testing.assert_allclose(again.actions, stored.actions[:], atol=1e-6)  # drawn in [−1, 1], not in their own units
