"""The project's own format: the same batches as from memory, to the bit, whatever was written and in what portions."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from filled_buffers import adopt, counting, few, filled_like_stable_baselines3, parts, recorded
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from recordings import record
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import DIPOLE, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout, stored_arrays
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.stored_buffer import StoredReplayBuffer
from dipole_sb3.common import described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import storage


def rows(arrays: Any, part: Any) -> dict[str, Any]:
    return {
        key: {name: array[part] for name, array in value.items()} if isinstance(value, dict) else value[part]
        for key, value in arrays.items()
    }


def write(path: Path, arrays: Any, portions: list[int], **options: Any) -> OfflineReplayBuffer:
    """Writes arrays in portions; what they are in memory."""
    expected = adopt(arrays)
    with storage.DatasetWriter(path, expected.observation_space, expected.action_space, **options) as writer:
        start = 0
        while start < expected.size():
            count = portions[writer.transitions % len(portions)]
            writer.append(rows(arrays, slice(start, start + count)))
            start += count
    return expected


def same(one: Any, other: Any) -> None:
    """Fields of batches or arrays of buffers, to the bit."""
    if one is None:
        assert other is None
        return
    for key in parts(one):
        left, right = parts(one)[key], parts(other)[key]
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


@few
@given(recorded(), st.lists(st.integers(1, 50), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**31))
def test_batches_are_those_of_the_arrays_in_memory(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], portions: list[int], joined: bool, seed: int
) -> None:
    if joined:  # the next observation is the next row's observation, but for some rows
        apart = np.random.default_rng(seed).random(len(arrays["actions"])) < 0.2
        for key, following in parts(arrays["next_observations"]).items():
            states = parts(arrays["observations"])[key]
            following[:-1] = np.where(apart[:-1].reshape(-1, *[1] * (states.ndim - 1)), following[:-1], states[1:])
    path = tmp_path_factory.mktemp("storage") / "data"
    expected = write(path, arrays, portions)
    found = load_dataset(path, device="cpu")
    assert isinstance(found, StoredReplayBuffer)
    assert (found.size(), found.observation_space, found.action_space) == (
        expected.size(),
        expected.observation_space,
        expected.action_space,
    )
    for value in storage_modes(found):
        for n_steps in (1, 3):
            batches = [one.draw(50, torch.Generator().manual_seed(seed), n_steps) for one in (value, expected)]
            assert [batch.steps is None for batch in batches] == [n_steps == 1] * 2
            for one, other in zip(*batches, strict=True):
                if one is not None:
                    same(one, other)
    for key in ("observations", "actions", "rewards", "next_observations", "dones", "timeouts"):
        for name, array in parts(getattr(found, key)).items():
            same(array[:], parts(getattr(expected, key))[name])
    assert found.checksum == expected.checksum == stored_arrays.checksum(path)


def storage_modes(buffer: StoredReplayBuffer) -> Iterator[StoredReplayBuffer]:
    """The buffer drawn through maps, then by reads."""
    files = [*buffer._arrays.observations.values(), *buffer._arrays.columns.values()]
    for by_reads in (False, True):
        for file in files:
            file.drawn_by_reads = by_reads
        yield buffer


def test_samples_are_those_of_the_arrays_in_memory(tmp_path: Path) -> None:
    """Through SB3's own face, too, which draws from NumPy's generator."""
    expected = write(tmp_path / "data", counting(500), [100])
    found = storage.load(tmp_path / "data", device="cpu")
    for value in storage_modes(found):
        np.random.seed(1)
        one = value.sample(64)
        np.random.seed(1)
        for left, right in zip(one, expected.sample(64), strict=True):
            same(left, right)


def test_images_turn_as_they_do_in_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = counting(30)
    arrays["observations"], arrays["next_observations"] = random.integers(0, 256, (2, 30, 12, 10, 3), np.uint8)
    arrays["next_observations"][:-1] = arrays["observations"][1:]
    expected = write(tmp_path / "data", arrays, [7])
    found = storage.load(tmp_path / "data", device="cpu")
    turned, expected_turned = found.with_channels_first(), expected.with_channels_first()
    assert turned.observation_space == expected_turned.observation_space
    indices = torch.arange(30)
    for one, other in zip(turned.take(indices), expected_turned.take(indices), strict=True):
        same(one, other)
    same(turned.next_observations[3:9], expected_turned.next_observations[3:9])
    assert turned.checksum == expected_turned.checksum == expected.checksum == found.checksum


@pytest.mark.parametrize("by_reads", [False, True])
def test_training_is_that_of_the_arrays_in_memory(tmp_path: Path, by_reads: bool, reacher_data: Any) -> None:
    space, actions = spaces.Box(-np.inf, np.inf, (10,)), spaces.Box(-1, 1, (2,))
    with storage.DatasetWriter(tmp_path / "data", space, actions) as writer:
        writer.append(reacher_data)
    stored = storage.load(tmp_path / "data", device="cpu")
    for buffer in storage_modes(stored):
        if buffer._arrays.observations[None].drawn_by_reads == by_reads:
            break
    parameters = [
        DIPOLE("MlpPolicy", dataset=data, policy_kwargs={"net_arch": [16]}, seed=3, device="cpu")
        .learn(5)
        .policy.state_dict()
        for data in (buffer, reacher_data)
    ]
    assert all(torch.equal(value, parameters[1][name]) for name, value in parameters[0].items())


def test_a_path_is_enough_to_train_in_an_environment_with_statistics_of_the_data(tmp_path: Path) -> None:
    arrays = record(gymnasium.make("Pendulum-v1"), 220)
    env = gymnasium.make("Pendulum-v1")
    with storage.DatasetWriter(tmp_path / "data", env.observation_space, env.action_space) as writer:  # type: ignore[arg-type]
        writer.append(arrays)
    models = []
    for dataset in (str(tmp_path / "data"), arrays):
        statistics = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
        model = DIPOLE("MlpPolicy", statistics, dataset=dataset, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")
        models.append((model.learn(3).policy.state_dict(), statistics.obs_rms.mean, statistics.ret_rms.var))
    (one, *left), (other, *right) = models
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(np.array_equal(*pair) for pair in zip(left, right, strict=True))


def test_a_saved_replay_buffer_is_a_reference_to_the_data(tmp_path: Path) -> None:
    write(tmp_path / "data", counting(2_000), [900])
    found = storage.load(tmp_path / "data", device="cpu")
    content = pickle.dumps(found)
    assert len(content) < 3_000
    again = pickle.loads(content)
    for one, other in zip(found.take(torch.arange(9)), again.take(torch.arange(9)), strict=True):
        same(one, other)
    write(tmp_path / "data", counting(2_001), [900], overwrite=True)
    with pytest.raises(DatasetError, match=r"data: holds other data than before: found checksum"):
        pickle.loads(content)


def test_recorded_data_are_not_written_to(tmp_path: Path) -> None:
    write(tmp_path / "data", counting(5), [5])
    found = storage.load(tmp_path / "data", device="cpu")
    with pytest.raises(ValueError, match="read-only"):
        found.rewards[0] = 1
    with pytest.raises(ValueError, match="recorded data are not written to"):
        found.add(None, None, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


def test_a_buffer_is_saved_bit_for_bit(tmp_path: Path) -> None:
    """Also a ring of several environments, which has gone round: one after the other, oldest first."""
    ring, _, _ = filled_like_stable_baselines3(n_envs=3, capacity=60, steps=30)
    storage.save(ring, tmp_path / "data", metadata={"env_id": "E-v0"})
    found = storage.load(tmp_path / "data", device="cpu")
    of_environments = torch.arange(60).reshape(20, 3).roll(-ring.pos, 0).T.flatten()
    for one, other in zip(found.take(torch.arange(60)), ring.take(of_environments), strict=True):
        same(one, other)
    assert found.checksum == found.in_memory().checksum != ring.checksum
    assert found.metadata == {"env_id": "E-v0"}


def test_checksums_tell_data_apart() -> None:
    base = adopt(counting(9))
    assert adopt(counting(9)).checksum == base.checksum
    changed = counting(9)
    changed["rewards"][4] += 1
    assert adopt(changed).checksum != base.checksum
    ring = MixedReplayBuffer(20, base.observation_space, base.action_space, "cpu", recorded=base)
    before = ring.checksum
    ring.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    assert before == base.checksum != ring.checksum


# Writing: whole or not at all


def half_written(path: Path, **options: Any) -> storage.DatasetWriter:
    return storage.DatasetWriter(path, spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (1,)), **options)


def write_parts(path: Path, *arrays: Any, interrupted: bool = False, **options: Any) -> None:
    with half_written(path, **options) as writer:
        for part in arrays:
            writer.append(part)
        if interrupted:
            raise KeyboardInterrupt


def refused(folder: Path, arrays: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        write_parts(folder / "data", counting(7), arrays)
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("observations", np.nan, r"data: observations has NaN or infinity, first in row 10; expected"),
        ("actions", 3.0, r"data: actions row 10 holds 3, expected a value in \[-1, 1\]"),
        ("masks", 0.5, r"data: masks row 10 holds 0.5, expected 0 or 1"),
    ],
)
def test_wrong_values_are_told_by_their_row_in_the_whole(tmp_path: Path, key: str, value: float, words: str) -> None:
    arrays = counting(5)
    arrays[key][3] = value
    refused(tmp_path, arrays, words)


def test_rows_are_counted_over_the_parts_of_one_call_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", 100)
    arrays = counting(50)
    arrays["rewards"][40] = np.inf
    refused(tmp_path, arrays, "rewards has NaN or infinity, first in row 47")


def test_arrays_of_several_lengths(tmp_path: Path) -> None:
    arrays = counting(5)
    arrays["rewards"] = arrays["rewards"][:4]
    refused(tmp_path, arrays, "rewards has shape .*, 4 rows, expected .*, 5 rows")
    refused(tmp_path, {**counting(5), "observations": np.zeros((5, 3))}, r"observations has shape \(5, 3\)")
    refused(tmp_path, rows(counting(5), slice(0, 0)), "empty")


def test_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no transitions were appended"), half_written(tmp_path / "data"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_refusal_that_was_caught_is_not_forgotten(tmp_path: Path) -> None:
    writer = half_written(tmp_path / "data").__enter__()
    writer.append(counting(5))
    with pytest.raises(DatasetError):
        writer.append({**counting(5), "actions": np.full((5, 1), 2.0)})
    with pytest.raises(DatasetError, match="what was appended before was refused"):
        writer.__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


def test_metadata_that_json_cannot_hold(tmp_path: Path) -> None:
    for metadata in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="metadata cannot be written as JSON"):
            half_written(tmp_path / "data", metadata=metadata)


def test_names_that_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write(path, counting(5), [5])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(DatasetError, match="exists already"), half_written(path):
        pass
    with pytest.raises(KeyboardInterrupt):
        write_parts(path, counting(9), overwrite=True, interrupted=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    write(path, counting(9), [5], overwrite=True)
    assert storage.load(path).size() == 9
    assert os.listdir(tmp_path) == ["data"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with (
        pytest.raises(DatasetError, match="so it is not overwritten"),
        half_written(tmp_path / "thesis", overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis" / "chapter.tex").exists()


WRITER = """
import sys, time
import numpy as np
from gymnasium import spaces
from dipole_sb3.datasets.storage import DatasetWriter
with DatasetWriter(sys.argv[1], spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))) as writer:
    while True:
        one = np.zeros((50_000, 3), np.float32)
        writer.append({"observations": one, "next_observations": one, "actions": one[:, :1], "rewards": one[:, 0],
                       "terminals": one[:, 0]})
        print(writer.transitions, flush=True)
"""


def test_a_killed_writer_leaves_nothing_under_the_name_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "data"
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(DatasetError, match="another process is writing it"), half_written(path):
            pass
    finally:
        process.kill()
        process.communicate()
    assert os.listdir(tmp_path) == [".data.partial"]
    write(path, counting(5), [5])
    assert os.listdir(tmp_path) == ["data"]
    assert storage.load(path).size() == 5


def test_a_writer_killed_while_it_replaced_leaves_the_earlier_data_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write(path, counting(5), [5])
    path.rename(tmp_path / ".data.replaced")  # the state between its two renamings
    with pytest.raises(DatasetError, match="exists already"), half_written(path):
        pass
    assert storage.load(path).size() == 5
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("limit", [2_000, 5_000, 100_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, limit: int) -> None:
    """A real limit on file sizes: the kernel refuses the write as it does on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*data: File too large; nothing was changed"):
            write(tmp_path / "data", counting(40_000), [40_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


# Damage


def damaged(path: Path, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        storage.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    arrays = counting(40)
    arrays["next_observations"][9] = 99
    write(tmp_path / "data", arrays, [40])
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["observations", "breaks", "break_observations", "rewards"])
def test_missing_and_truncated_files(stored: Path, name: str) -> None:
    file = stored / f"{name}.npy"
    content = file.read_bytes()
    for share in (0.001, 0.5, 0.999):
        file.write_bytes(content[: int(share * len(content))])
        damaged(stored, f"{name}.npy: (not an .npy file, or damaged|is truncated)")
    file.write_bytes(content + b"more")
    damaged(stored, f"{name}.npy: is longer than its array")
    file.unlink()
    damaged(stored, f"{name}.npy: no such file; expected an array of shape")
    np.save(file, np.zeros((3, 3)))
    damaged(stored, rf"{name}.npy: holds float64 of shape \(3, 3\), expected")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "has version 2 of the format, expected 1 or less: update"),
        ({"format": "another"}, "describes something else"),
        ({"transitions": 41}, r"holds float32 of shape \(41, 2\), expected float32 of shape \(42, 2\)"),
        ({"transitions": "many"}, "transitions is 'many', expected int"),
        ({"checksum": None}, "checksum is None, expected str"),
        ({"arrays": {}}, "nothing is said of breaks.npy"),
        ({"action_space": {"type": "Box"}}, "its spaces cannot be read"),
        ({"action_space": {"type": "Discrete", "n": 3, "start": 0, "dtype": "int64"}}, "its spaces cannot be read"),
        ({"observation_space": {"type": "Graph"}}, "unknown type of space 'Graph'"),
    ],
)
def test_a_description_that_is_wrong(stored: Path, change: dict[str, Any], words: str) -> None:
    file = stored / stored_arrays.DESCRIPTION
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    damaged(stored, words)


def test_a_description_that_is_no_json_or_missing(stored: Path) -> None:
    file = stored / stored_arrays.DESCRIPTION
    file.write_text(file.read_text()[:100])
    damaged(stored, "not valid JSON")
    file.write_text("[]")
    damaged(stored, "describes something else")
    file.unlink()
    damaged(stored, "the folder has no such file")
    with pytest.raises(DatasetError, match=r"dataset\.json: the folder has no such file"):
        load_dataset(str(stored))
    shutil.rmtree(stored)
    damaged(stored, "no such folder")


def test_a_file_that_becomes_shorter_while_it_is_read(stored: Path) -> None:
    buffer = storage.load(stored, device="cpu")
    *_, buffer = storage_modes(buffer)
    os.truncate(stored / "observations.npy", 4096 + 80)
    with pytest.raises(DatasetError, match=r"observations\.npy: rows are missing"):
        buffer.take(torch.arange(40))


def test_large_arrays_are_read_and_small_ones_mapped(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", 600)
    arrays = storage.load(stored)._arrays
    by_reads = {name for name, file in arrays.columns.items() if file.drawn_by_reads}
    assert arrays.observations[None].drawn_by_reads
    assert not arrays.breaks.drawn_by_reads
    assert len(by_reads) == 1  # three columns of 160 bytes fit beside the 16 of the breaks


@given(
    st.sampled_from(
        [
            spaces.Box(-np.inf, np.inf, (3,), np.float32),
            spaces.Box(np.array([-1.5, -np.inf]), np.array([0.1, np.inf]), dtype=np.float64),
            spaces.Box(0, 255, (4, 4, 3), np.uint8),
            spaces.Discrete(5, start=-2),
            spaces.MultiDiscrete([3, 4]),
            spaces.MultiBinary(4),
            spaces.MultiBinary([2, 3]),
            spaces.Dict({"a/b": spaces.Box(-1, 1, (2,)), "c": spaces.Discrete(3)}),
        ]
    )
)
def test_spaces_come_back_the_same(space: spaces.Space[Any]) -> None:
    restored = described_spaces.restore(json.loads(json.dumps(described_spaces.describe(space), allow_nan=False)))
    assert restored == space
    assert restored.dtype == space.dtype


def test_odd_names_of_dict_observations(tmp_path: Path) -> None:
    arrays = counting(20)
    for key in ("observations", "next_observations"):
        arrays[key] = {"../arm/joints": arrays[key], "größe": arrays[key][:, :1]}
    expected = write(tmp_path / "data", arrays, [3])
    found = storage.load(tmp_path / "data", device="cpu")
    for one, other in zip(found.take(torch.arange(20)), expected.take(torch.arange(20)), strict=True):
        same(one, other)
    assert os.listdir(tmp_path) == ["data"]
