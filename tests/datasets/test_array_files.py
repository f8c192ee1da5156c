"""Files of both formats: Dict observations, and D4RL's rows without next observations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3 import OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout, stored_arrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import array_files
from dipole_sb3.datasets.conversion import convert

SUFFIXES = [".npz", ".hdf5", ".h5"]


def saved(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Writes arrays as users do, dicts as names with a slash, which are groups in HDF5."""
    flat: dict[str, Any] = {}
    for key, value in arrays.items():
        flat |= {f"{key}/{part}": array for part, array in value.items()} if isinstance(value, dict) else {key: value}
    if path.suffix == ".npz":
        np.savez_compressed(path, **flat)
    else:
        with h5py.File(path, "w") as file:
            for name, array in flat.items():
                file.create_dataset(name, data=array, compression="gzip" if array.ndim else None)
    return path


def d4rl(rows: int = 30, timeouts: tuple[int, ...] = (9, 20), terminals: tuple[int, ...] = (4, 14)) -> dict[str, Any]:
    """As D4RL's files are: rows in the order of recording, ends by themselves and by time."""
    random = np.random.default_rng(0)
    marks = {name: np.isin(np.arange(rows), ends) for name, ends in (("timeouts", timeouts), ("terminals", terminals))}
    return {
        "observations": random.normal(size=(rows, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows).astype(np.float32),
        **marks,
        "infos/qpos": random.normal(size=(rows, 5)),
    }


def qlearning_dataset(dataset: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows that ``d4rl.qlearning_dataset(env)`` gives for a file with timeouts, in its words (done: a real end)."""
    rows: dict[str, list[Any]] = {
        key: [] for key in ("observations", "actions", "next_observations", "rewards", "done")
    }
    for i in range(dataset["rewards"].shape[0] - 1):
        if dataset["timeouts"][i]:
            continue
        for key in ("observations", "actions", "rewards"):
            rows[key].append(dataset[key][i])
        rows["next_observations"].append(dataset["observations"][i + 1])
        rows["done"].append(bool(dataset["terminals"][i]))
    return {key: np.array(value) for key, value in rows.items()}


def same_as_d4rl(buffer: OfflineReplayBuffer, dataset: Mapping[str, np.ndarray]) -> None:
    expected = qlearning_dataset(dataset)
    for key in ("observations", "next_observations", "rewards"):
        np.testing.assert_array_equal(np.asarray(getattr(buffer, key))[:, 0], expected[key])
    real_ends = buffer.dones * (1 - buffer.timeouts)
    np.testing.assert_array_equal(real_ends[:, 0], expected["done"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_without_next_observations_are_d4rls(tmp_path: Path, suffix: str) -> None:
    dataset = d4rl()
    buffer = load_dataset(saved(tmp_path / f"hopper{suffix}", dataset), device="cpu")
    same_as_d4rl(buffer, dataset)
    # Rows 9, 20 and 29 are gone; the rows before them are where those episodes end, by time.
    assert np.flatnonzero(buffer.timeouts[:, 0]).tolist() == [8, 18, 26]
    assert np.flatnonzero(buffer.dones[:, 0]).tolist() == [4, 8, 13, 18, 26]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 60).flatmap(
        lambda rows: st.tuples(
            st.just(rows),
            st.sets(st.integers(0, rows - 1), max_size=rows // 2),
            st.sets(st.integers(0, rows - 1), max_size=rows // 2),
        )
    ),
    st.integers(1, 20),
    st.sampled_from([".npz", ".h5"]),
)
def test_read_in_parts_they_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, ends: tuple[int, set[int], set[int]], rows_at_a_time: int, suffix: str
) -> None:
    rows, timeouts, terminals = ends
    folder = tmp_path_factory.mktemp("d4rl")
    dataset = d4rl(rows, tuple(timeouts), tuple(terminals - timeouts))
    path = saved(folder / f"hopper{suffix}", dataset)
    if rows - 1 == len(timeouts - {rows - 1}):
        with pytest.raises(DatasetError, match="no row is followed by another of its episode"):
            load_dataset(path)
        return
    whole = load_dataset(path, device="cpu")
    same_as_d4rl(whole, dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_layout, "rows_per_block", lambda row_bytes: rows_at_a_time)
        convert(path, folder / "stored")
    assert stored_arrays.checksum(folder / "stored") == whole.checksum


def test_columns_of_width_one(tmp_path: Path) -> None:
    dataset = d4rl()
    wide = {key: dataset[key][:, None] for key in ("rewards", "terminals", "timeouts")}
    path = saved(tmp_path / "a.npz", {**dataset, **wide})
    same_as_d4rl(load_dataset(path, device="cpu"), dataset)


def test_masks_tell_the_ends_as_well_as_timeouts(tmp_path: Path) -> None:
    dataset = d4rl()
    timeouts, terminals = dataset.pop("timeouts"), dataset.pop("terminals")
    other = {**dataset, "dones": timeouts | terminals, "masks": ~terminals}
    buffer = load_dataset(saved(tmp_path / "a.npz", other), device="cpu")
    same_as_d4rl(buffer, {**dataset, "timeouts": timeouts, "terminals": terminals})


@pytest.mark.parametrize("ends", [["terminals"], ["timeouts"], []])
def test_without_both_kinds_of_ends_nothing_is_made_up(tmp_path: Path, ends: list[str]) -> None:
    dataset = {key: value for key, value in d4rl().items() if key not in ("terminals", "timeouts") or key in ends}
    path = saved(tmp_path / "hopper.hdf5", dataset)
    with pytest.raises(DatasetError, match=r"hopper\.hdf5: missing next_observations; they could be made of"):
        load_dataset(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dict_observations(tmp_path: Path, suffix: str, dict_data: Any) -> None:
    path = saved(tmp_path / f"arm{suffix}", dict_data)
    expected = OfflineReplayBuffer.from_arrays(dict_data, device="cpu")
    buffer = load_dataset(path, device="cpu")
    assert buffer.observation_space == expected.observation_space
    assert buffer.checksum == expected.checksum
    convert(path, tmp_path / "stored")
    assert stored_arrays.checksum(tmp_path / "stored") == expected.checksum


def test_one_array_and_several_of_the_same_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"observations": np.zeros(3), "observations/joints": np.zeros(3)})
    with pytest.raises(DatasetError, match="has both observations and observations/joints"):
        load_dataset(tmp_path / "a.npz")


def test_arrays_are_read_forwards_backwards_and_in_column_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(200_000, 2))
    np.savez_compressed(tmp_path / "a.npz", rows=values, columns=np.asfortranarray(values), none=values[:0])
    with array_files.opened(tmp_path / "a.npz") as arrays:
        for key in ("rows", "columns"):
            array = arrays[key]
            assert not isinstance(array, dict)
            for start, stop in ((5, 9), (9, 100), (190_000, 200_000), (0, 3), (3, 3)):
                np.testing.assert_array_equal(array[start:stop], values[start:stop])
        assert not isinstance(arrays["none"], dict)
        assert arrays["none"][:].shape == (0, 2)


# Damage


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_hdf5(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "a.hdf5", d4rl(2_000))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DatasetError, match=r"a\.hdf5: not a complete HDF5 file") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def test_damaged_hdf5(tmp_path: Path) -> None:
    """Wherever bytes are overwritten, the answer is data (other numbers) or one sentence with the file's name."""
    whole = saved(tmp_path / "a.hdf5", d4rl(300)).read_bytes()
    random = np.random.default_rng(0)
    sentences: list[str] = []
    path = tmp_path / "b.hdf5"
    for _ in range(150):
        content = bytearray(whole)
        for position in random.integers(0, len(whole), 3):
            content[position : position + 8] = random.bytes(8)
        path.write_bytes(content[: len(whole)])
        try:
            load_dataset(path, device="cpu")
        except DatasetError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert all(str(path) in sentence and "\n" not in sentence for sentence in sentences)


def test_missing_and_empty_hdf5(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.hdf5: no such file; expected an HDF5 file"):
        load_dataset(tmp_path / "a.hdf5")
    (tmp_path / "a.hdf5").touch()
    with pytest.raises(DatasetError, match="0 bytes"):
        load_dataset(tmp_path / "a.hdf5")


def test_hdf5_arrays_that_hold_no_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.hdf5", d4rl())
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = ["text"] * 30
    with pytest.raises(DatasetError, match="rewards has dtype object, expected numbers"):
        load_dataset(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = 3.0
    with pytest.raises(DatasetError, match=r"rewards has shape .*: it is empty"):
        load_dataset(path)
