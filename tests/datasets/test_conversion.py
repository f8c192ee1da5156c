"""Converting keeps every transition, takes little memory, and leaves whole files or none."""

from __future__ import annotations

import json
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import counting, recorded
from full_disk import full_disk
from gymnasium import spaces
from hypothesis import given, settings

from dipole_sb3 import OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import files, make_env
from dipole_sb3.datasets.conversion import convert


@settings(max_examples=10, deadline=None)
@given(recorded())
def test_a_round_through_all_formats_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    expected = OfflineReplayBuffer.from_arrays(arrays, device="cpu").checksum
    flat = {}
    for key, value in arrays.items():
        flat |= {f"{key}/{part}": array for part, array in value.items()} if isinstance(value, dict) else {key: value}
    files.write_npz(folder / "first.npz", flat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_layout, "BLOCK_BYTES", 2_000)
        names = ["first.npz", "a", "b.npz", "c.hdf5", "d", "e.h5", "f.npz"]
        for source, destination in pairwise(names):
            convert(folder / source, folder / destination)
            assert load_dataset(folder / destination, device="cpu").checksum == expected


def test_actions_in_other_units_come_back_to_rounding(tmp_path: Path, inverted_pendulum_data: Any) -> None:
    bounds = spaces.Box(np.float32(-3), np.float32(3), (1,))
    expected = OfflineReplayBuffer.from_arrays(inverted_pendulum_data, action_space=bounds, device="cpu")
    files.write_npz(tmp_path / "a.npz", inverted_pendulum_data)
    facts = {"env_id": "InvertedPendulum-v5", "action_low": [-3.0], "action_high": [3.0], "sha256": "of a.npz"}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    convert(tmp_path / "a.npz", tmp_path / "stored")
    stored = load_dataset(tmp_path / "stored", device="cpu")
    assert stored.checksum == expected.checksum
    assert stored.action_space == bounds
    assert make_env(stored).action_space == bounds
    convert(tmp_path / "stored", tmp_path / "b.hdf5")
    again = load_dataset(tmp_path / "b.hdf5", device="cpu")
    np.testing.assert_allclose(again.actions, expected.actions, atol=1e-6)
    assert again.action_space == bounds
    assert again.metadata["converted_from"] == str(tmp_path / "stored")
    assert "sha256" not in again.metadata


def test_a_named_data_set(tmp_path: Path) -> None:
    convert("demo/reacher-tqc-10k", tmp_path / "demo")
    one, other = load_dataset("demo/reacher-tqc-10k", device="cpu"), load_dataset(tmp_path / "demo", device="cpu")
    assert one.checksum == other.checksum
    assert torch.equal(one.take(torch.arange(50)).rewards, other.take(torch.arange(50)).rewards)


@pytest.mark.parametrize("ways", [["a.npz", "stored"], ["stored", "b.npz"], ["stored", "c.hdf5"]])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, ways: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", 2**18)
    peaks = []
    for length in (100_000, 400_000):
        folder = tmp_path / str(length)
        folder.mkdir()
        np.savez(folder / "a.npz", **counting(length))
        if "stored" in ways[:1]:
            convert(folder / "a.npz", folder / "stored")
        tracemalloc.start()
        convert(folder / ways[0], folder / ways[1])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("destination", ["b", "b.npz", "b.hdf5"])
@pytest.mark.parametrize("source", ["a.npz", "stored"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, source: str, destination: str) -> None:
    """A real limit on file sizes: the kernel refuses the write as it does on a full disk."""
    np.savez(tmp_path / "a.npz", **counting(20_000))
    convert(tmp_path / "a.npz", tmp_path / "stored")
    before = sorted(os.listdir(tmp_path))
    for limit in (3_000, 90_000, 150_000):
        with full_disk(limit), pytest.raises(OSError, match=r"cannot write .*: .*[Ff]ile too large") as caught:
            convert(tmp_path / source, tmp_path / destination)
        assert "\n" not in str(caught.value)
        assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("destination", ["b", "b.npz", "b.hdf5"])
def test_a_name_that_is_taken(tmp_path: Path, destination: str) -> None:
    np.savez(tmp_path / "a.npz", **counting(20))
    convert(tmp_path / "a.npz", tmp_path / destination)
    with pytest.raises(DatasetError, match=f"{destination}: exists already"):
        convert(tmp_path / "a.npz", tmp_path / destination)
    np.savez(tmp_path / "a.npz", **counting(30))
    convert(tmp_path / "a.npz", tmp_path / destination, overwrite=True)
    assert load_dataset(tmp_path / destination).size() == 30


@pytest.mark.parametrize("destination", ["b", "b.npz"])
def test_sources_that_are_wrong_leave_nothing(tmp_path: Path, destination: str) -> None:
    arrays = counting(20)
    for change, words in (
        ({"actions": arrays["actions"] + 3}, r"a\.npz: actions reach 3, expected values in \[-1, 1\]"),
        ({"actions": arrays["actions"][:, 0]}, r"a\.npz: actions has shape \(20,\)"),
        ({"actions": np.where(np.arange(20) == 7, np.nan, 0)[:, None]}, "actions has NaN or infinity, first in row 7"),
        ({"rewards": arrays["rewards"][:9]}, "rewards has shape .*, 9 rows, expected .*, 20 rows"),
        ({"masks": arrays["masks"] / 2}, "masks row 0 holds 0.5"),
    ):
        np.savez(tmp_path / "a.npz", **{**arrays, **change})
        with pytest.raises(DatasetError, match=words):
            convert(tmp_path / "a.npz", tmp_path / destination)
        assert os.listdir(tmp_path) == ["a.npz"]
    del arrays["observations"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError, match="missing observations; found actions"):
        convert(tmp_path / "a.npz", tmp_path / destination)
