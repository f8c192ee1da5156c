"""The same recorded arrays mean the same, whatever door they come through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_environments import Sampled

from dipole_sb3 import DIPOLE, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout, stored_arrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import storage
from dipole_sb3.datasets.conversion import convert
from dipole_sb3.learning import training_data

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "discrete": spaces.Discrete(7),
    "dict": spaces.Dict(
        {"joints": spaces.Box(-np.inf, np.inf, (2,), np.float32), "camera": spaces.Box(0, 255, (4, 5, 3), np.uint8)}
    ),
    "counts": spaces.MultiDiscrete([3, 4]),
}


def sampled(space: spaces.Space[Any], rows: int, random: np.random.Generator) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: sampled(part, rows, random) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return random.integers(0, space.n, rows)
    if isinstance(space, spaces.MultiDiscrete):
        return random.integers(0, space.nvec, (rows, 2))
    if space.dtype == np.uint8:
        return random.integers(0, 256, (rows, *space.shape), np.uint8)
    return random.normal(size=(rows, *space.shape)).astype(np.float32)


@st.composite
def conventions(draw: st.DrawFn) -> tuple[spaces.Space[Any], dict[str, Any]]:
    """A space, and arrays in one of the ways in which people have them."""
    space = OBSERVATIONS[draw(st.sampled_from(sorted(OBSERVATIONS)))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(2, 40))
    terminated, timed_out = random.random(rows) < 0.2, random.random(rows) < 0.2
    arrays: dict[str, Any] = {
        "observations": sampled(space, rows, random),
        "actions": random.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows),
    }
    ended = terminated | timed_out
    terminals = draw(st.sampled_from(["terminals", "dones", None]))
    tells_twice = True
    if terminals is not None:
        beside = draw(st.booleans())
        arrays[terminals] = terminated & ~timed_out if beside else ended
        tells_twice = beside or draw(st.booleans())
        if tells_twice:
            arrays["timeouts"] = timed_out
    if terminals is None or draw(st.booleans()):
        arrays["masks"] = ~(terminated & ~timed_out)
        arrays |= {"timeouts": timed_out} if terminals is None else {}
        tells_twice = True
    if not tells_twice or draw(st.booleans()):
        arrays["next_observations"] = sampled(space, rows, random)
    kind = draw(st.sampled_from([np.bool_, np.float32, np.float64, np.int64]))
    wide = draw(st.booleans())
    for key in ("terminals", "dones", "timeouts", "masks"):
        if key in arrays:
            arrays[key] = arrays[key].astype(kind)
    for key in ("rewards", "terminals", "dones", "timeouts", "masks"):
        if key in arrays and wide:
            arrays[key] = arrays[key][:, None]
    return space, arrays


def flat(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        named |= {f"{key}/{part}": array for part, array in value.items()} if isinstance(value, dict) else {key: value}
    return named


def write_hdf5(path: Path, arrays: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in flat(arrays).items():
            file.create_dataset(name, data=array)
    return path


ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def through_every_door(space: spaces.Space[Any], arrays: dict[str, Any], folder: Path, rows: int) -> dict[str, Any]:
    """The checksum, or the refusal without its first word, by door."""
    known: dict[str, Any] = {"observation_space": space, "action_space": ACTIONS, "device": "cpu"}
    npz, hdf5 = folder / "arrays.npz", write_hdf5(folder / "arrays.hdf5", arrays)
    np.savez(npz, **flat(arrays))

    def appended() -> str:
        with storage.DatasetWriter(folder / "appended", space, ACTIONS) as writer:
            writer.append(arrays)
        return stored_arrays.checksum(folder / "appended")

    def converted(path: Path) -> str:
        target = folder / f"from {path.suffix[1:]}"
        convert(path, target)
        return stored_arrays.checksum(target)

    as_lists = {**arrays, "rewards": arrays["rewards"].tolist()}
    doors = {
        "from_arrays": lambda: OfflineReplayBuffer.from_arrays(arrays, **known).checksum,
        "from lists": lambda: OfflineReplayBuffer.from_arrays(as_lists, **known).checksum,
        "dataset=": lambda: training_data.adopted(arrays, (space, ACTIONS), "cpu").checksum,  # type: ignore[arg-type]
        "npz": lambda: load_dataset(npz, **known).checksum,
        "hdf5": lambda: load_dataset(hdf5, **known).checksum,
        "appended": appended,
        "npz converted": lambda: converted(npz),
        "hdf5 converted": lambda: converted(hdf5),
    }
    if isinstance(space, spaces.MultiDiscrete):  # which a conversion cannot know: it finds vectors of numbers
        del doors["npz converted"], doors["hdf5 converted"]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_layout, "rows_per_block", lambda row_bytes: rows)
        for door, enter in doors.items():
            try:
                found[door] = enter()
            except DatasetError as error:
                found[door] = str(error).partition(": ")[2]
    return found


@settings(max_examples=60, deadline=None)
@given(conventions(), st.integers(1, 50))
def test_every_door_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, recorded: tuple[spaces.Space[Any], dict[str, Any]], rows: int
) -> None:
    found = through_every_door(*recorded, tmp_path_factory.mktemp("doors"), rows)
    assert len(set(found.values())) == 1, {key: value[:60] for key, value in found.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"dones": np.zeros(6)},
        {"timeouts": np.array([0, 0, 0.5, 0, 0, 0])},
        {"terminals": np.array([0, 0, 0, 2, 0, 0])},
        {"timeouts": np.zeros(3)},
        {"rewards": np.array([0, 0, 0, np.nan, 0, 0])},
        {"actions": np.full((6, 2), 7.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_door_refuses_with_the_same_words(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    arrays: dict[str, Any] = {
        "observations": np.zeros((6, 3)),
        "next_observations": np.zeros((6, 3)),
        "actions": np.zeros((6, 2)),
        "rewards": np.zeros(6),
        "terminals": np.zeros(6),
        **change,
    }
    found = through_every_door(OBSERVATIONS["box"], arrays, tmp_path, rows=2)
    converted = {door: found.pop(door) for door in list(found) if door.endswith("converted")}
    assert len(set(found.values())) == 1, found
    words = found["from_arrays"]
    assert next(iter(change)) in words
    if "actions" not in change:  # whose bounds a conversion asks for
        assert set(converted.values()) == {words}


def test_d3rlpys_arrays_train_from_memory() -> None:
    """Terminals beside timeouts, no next observations, columns of width one."""
    random, rows = np.random.default_rng(0), 30
    timeouts = np.isin(np.arange(rows), [9, 29])
    arrays = {
        "observations": random.integers(0, 5, (rows, 1)),
        "actions": random.uniform(-1, 1, (rows, 2)),
        "rewards": random.normal(size=(rows, 1)),
        "terminals": np.isin(np.arange(rows), [19])[:, None],
        "timeouts": timeouts[:, None],
    }
    model = DIPOLE(
        "MlpPolicy", Sampled(spaces.Discrete(5)), dataset=arrays, device="cpu", batch_size=4,
        policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    model.learn(3)
    assert model.dataset is not None
    # Rows 9 and 29 have no next observation; the rows before them end their episodes, by time.
    assert np.flatnonzero(model.dataset.timeouts).tolist() == [8, 27]
    assert np.flatnonzero(model.dataset.dones).tolist() == [8, 18, 27]


def test_time_limits_that_end_every_step_are_ends() -> None:
    """Else n-step returns would take these rows for rows out of order."""
    rows = 12
    random = np.random.default_rng(0)
    arrays = {
        "observations": random.normal(size=(rows, 3)),
        "next_observations": random.normal(size=(rows, 3)),
        "actions": random.uniform(-1, 1, (rows, 2)),
        "rewards": np.ones(rows),
        "terminals": np.zeros(rows),
        "timeouts": np.ones(rows),
    }
    model = DIPOLE(
        "MlpPolicy", None, dataset=arrays, n_steps=3, device="cpu", batch_size=4, policy_kwargs={"net_arch": [8]}
    )
    model.learn(2)


@pytest.mark.parametrize(("shape", "wide"), [((), True), ((1,), False)], ids=["Discrete", "Box of one number"])
def test_one_number_a_row_may_have_an_axis_of_its_own_or_not(shape: tuple[int, ...], wide: bool) -> None:
    values = np.arange(5) if shape == () else np.arange(5, dtype=np.float32)
    space: spaces.Space[Any] = spaces.Discrete(9) if shape == () else spaces.Box(0, 9, shape)
    arrays = {
        "observations": values[:, None] if wide else values,
        "next_observations": values[:, None] if wide else values,
        "actions": np.zeros(5),
        "rewards": np.zeros(5),
        "masks": np.ones(5),
    }
    buffer = OfflineReplayBuffer.from_arrays(
        arrays, observation_space=space, action_space=spaces.Box(-1, 1, (1,)), device="cpu"
    )
    assert isinstance(buffer.observations, np.ndarray)
    assert buffer.observations.shape == (5, 1, 1)
    assert buffer.observations[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_integers_beyond_the_environments_are_refused() -> None:
    arrays = {
        "observations": np.array([0, 6]),
        "next_observations": np.array([6, 0]),
        "actions": np.zeros((2, 2)),
        "rewards": np.zeros(2),
        "masks": np.ones(2),
    }
    data = OfflineReplayBuffer.from_arrays(arrays, device="cpu")
    assert data.observation_space == spaces.Discrete(7)
    with pytest.raises(DatasetError, match="observation goes from 0 to 6, the environment's from 0 to 4"):
        DIPOLE("MlpPolicy", Sampled(spaces.Discrete(5)), dataset=data, device="cpu")
