"""Users' own .npz files: what is read from them, and what each kind of damage is answered with."""

import json
import os
import resource
import signal
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import array_files, files, load_dataset

LENGTH = 12


def transitions() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(LENGTH + 1, 3)).astype(np.float32)
    return {
        "observations": observations[:-1],
        "actions": generator.uniform(-1, 1, (LENGTH, 2)).astype(np.float32),
        "rewards": generator.normal(size=LENGTH).astype(np.float32),
        "next_observations": observations[1:],
        "terminals": np.eye(LENGTH, dtype=np.float32)[5] + np.eye(LENGTH, dtype=np.float32)[-1],
        "masks": 1 - np.eye(LENGTH, dtype=np.float32)[5],
    }


def saved(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    return files.write_npz(folder / "data.npz", arrays)


def test_a_file_becomes_a_buffer(tmp_path: Path) -> None:
    arrays = transitions()
    buffer = load_dataset(saved(tmp_path, arrays))
    np.testing.assert_array_equal(buffer.observations[:, 0], arrays["observations"])
    np.testing.assert_array_equal(buffer.rewards[:, 0], arrays["rewards"])
    assert np.flatnonzero(buffer.dones[:, 0]).tolist() == [5, LENGTH - 1]
    assert np.flatnonzero(buffer.timeouts[:, 0]).tolist() == [LENGTH - 1]
    assert buffer.source == str(tmp_path / "data.npz")


@pytest.mark.parametrize("ended", ["terminals", "dones"])
def test_timeouts_beside_or_within_the_ends_mean_the_same(tmp_path: Path, ended: str) -> None:
    arrays = transitions()
    masks, terminals = arrays.pop("masks"), arrays.pop("terminals")
    timeouts = terminals * masks
    for ends in (terminals, terminals - timeouts, terminals.astype(bool)):
        buffer = load_dataset(saved(tmp_path, {**arrays, ended: ends, "timeouts": timeouts.astype(bool)}))
        np.testing.assert_array_equal(buffer.dones[:, 0], terminals)
        np.testing.assert_array_equal(buffer.timeouts[:, 0], timeouts)


def test_terminals_alone_stop_bootstrapping(tmp_path: Path) -> None:
    arrays = transitions()
    del arrays["masks"]
    buffer = load_dataset(saved(tmp_path, arrays))
    assert buffer.dones.sum() == 2
    assert buffer.timeouts.sum() == 0


def test_actions_are_scaled_by_the_bounds_given(tmp_path: Path) -> None:
    arrays = transitions()
    bounds = spaces.Box(-4.0, 4.0, (2,))
    path = saved(tmp_path, {**arrays, "actions": arrays["actions"] * 4})
    expected = arrays["actions"]
    np.testing.assert_allclose(load_dataset(path, action_space=bounds).actions[:, 0], expected, atol=2e-5)
    path.with_suffix(".json").write_text(json.dumps({"action_low": [-4, -4], "action_high": [4, 4], "env_id": "E-v0"}))
    buffer = load_dataset(path)
    np.testing.assert_allclose(buffer.actions[:, 0], expected, atol=2e-5)
    assert buffer.metadata["env_id"] == "E-v0"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "absent.npz", "no such file")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.npz"
    path.touch()
    refused(path, "0 bytes")


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    path.write_text("observations,actions\n1,2\n")
    refused(path, "not a complete .npz file")


def test_a_bare_array(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused(path, "one bare array")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path, transitions())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "truncated")


def test_damaged_inside(tmp_path: Path) -> None:
    path = saved(tmp_path, transitions())
    content = bytearray(path.read_bytes())
    content[120:160] = bytes(40)
    path.write_bytes(content)
    refused(path, "damaged")


def test_any_damage_is_one_sentence(tmp_path: Path) -> None:
    """Flipped bytes reach zipfile (unknown compression, encryption, versions) and NumPy's parser of headers alike."""
    whole = saved(tmp_path, transitions()).read_bytes()
    path, generator, sentences = tmp_path / "damaged.npz", np.random.default_rng(0), []
    for _ in range(1000):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), generator.integers(1, 4)):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            with array_files.opened(path) as arrays:
                for array in arrays.values():
                    assert not isinstance(array, dict)
                    array[:]
        except DatasetError as error:
            sentences.append(str(error))
    assert len(sentences) > 500
    assert all(str(path) in sentence for sentence in sentences)


@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    arrays = transitions()
    del arrays[key]
    refused(saved(tmp_path, arrays), f"missing {key}")


def test_no_episode_ends(tmp_path: Path) -> None:
    arrays = transitions()
    del arrays["terminals"], arrays["masks"]
    refused(saved(tmp_path, arrays), "missing terminals or masks")


def test_ends_named_twice(tmp_path: Path) -> None:
    arrays = transitions()
    refused(saved(tmp_path, {**arrays, "dones": arrays["terminals"]}), "both terminals and dones")


def test_timeouts_of_another_length(tmp_path: Path) -> None:
    arrays = transitions()
    del arrays["masks"]
    refused(saved(tmp_path, {**arrays, "timeouts": np.zeros(3)}), "timeouts", "3 rows", "12")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, **{**transitions(), "rewards": np.array([object()] * LENGTH)})
    refused(path, "rewards", "pickled")


def test_no_transitions(tmp_path: Path) -> None:
    refused(saved(tmp_path, {key: array[:0] for key, array in transitions().items()}), "empty")


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    path = saved(tmp_path, transitions())
    path.with_suffix(".json").write_text("{")
    with pytest.raises(DatasetError, match=r"data\.json: not valid JSON"):
        load_dataset(path)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(DatasetError, match="nearest: demo/reacher-tqc-10k"):
        load_dataset("demo/reacher-tqc10k")
    with pytest.raises(DatasetError, match="expected ogbench/"):
        load_dataset("qqq")


def test_written_files_are_reproducible_and_ordinary(tmp_path: Path) -> None:
    first = files.write_npz(tmp_path / "new" / "a.npz", transitions())
    second = files.write_npz(tmp_path / "b.npz", transitions())
    assert first.read_bytes() == second.read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(first.stat().st_mode) == 0o666 & ~umask
    assert zipfile.is_zipfile(first)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path, transitions())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_npz(path, {"observations": np.zeros(1_000), "objects": np.array([object()])})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["data.npz"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A real limit on file sizes: the kernel refuses the write as it does on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write_npz(tmp_path / "data.npz", {"observations": np.zeros(100_000)}, compressed=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []
