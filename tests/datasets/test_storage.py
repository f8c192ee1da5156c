"""The project's own format: the same batches as from memory, to the bit, whatever was written and in what portions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filled_buffers import adopt, few, parts, recorded
from hypothesis import given
from hypothesis import strategies as st

from dipole_sb3 import OfflineReplayBuffer, load_dataset
from dipole_sb3.datasets import storage
from dipole_sb3.stored_buffer import StoredReplayBuffer


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
    """Batches or buffers' arrays, to the bit."""
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
    assert found.checksum == expected.checksum == storage.checksum(path)


def storage_modes(buffer: StoredReplayBuffer) -> Iterator[StoredReplayBuffer]:
    """The buffer drawn through maps, then by reads."""
    files = [*buffer._arrays.observations.values(), *buffer._arrays.columns.values()]
    for by_reads in (False, True):
        for file in files:
            file.drawn_by_reads = by_reads
        yield buffer
