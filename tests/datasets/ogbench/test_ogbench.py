"""OGBench's loader against ogbench itself, its failures, its memory and its environments."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ogbench as reference
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from dipole_sb3.buffers.action_units import ACTION_MARGIN
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import ogbench
from dipole_sb3.datasets.ogbench import archives
from dipole_sb3.datasets.ogbench import names as ogbench_names

POINT_TASK = "pointmaze-medium-navigate-singletask-task2-v0"
CUBE_TASK = "cube-double-play-singletask-task2-v0"


@pytest.fixture
def data_dir(ogbench_sets: Path) -> Path:
    """One small set of every family; not to be changed."""
    return ogbench_sets


@pytest.fixture
def point_dir(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the point maze's files, to be spoilt."""
    for file in data_dir.glob("pointmaze-*"):
        shutil.copy(file, tmp_path)
    return tmp_path


def assert_same(buffer: OfflineReplayBuffer, expected: dict[str, np.ndarray]) -> None:
    """The buffer holds, bit for bit, what ogbench returned."""
    assert buffer.observations.dtype == np.float32
    np.testing.assert_array_equal(buffer.observations[:, 0], expected["observations"])
    np.testing.assert_array_equal(buffer.next_observations[:, 0], expected["next_observations"])
    clipped = np.clip(expected["actions"], -1 + ACTION_MARGIN, 1 - ACTION_MARGIN)
    np.testing.assert_array_equal(buffer.actions[:, 0], clipped.astype(np.float32))
    np.testing.assert_array_equal(buffer.rewards[:, 0], expected["rewards"])
    stops = buffer.dones[:, 0] * (1 - buffer.timeouts[:, 0])
    np.testing.assert_array_equal(1 - stops, expected["masks"])
    np.testing.assert_array_equal(buffer.dones[:, 0], np.maximum(expected["terminals"], 1 - expected["masks"]))


@pytest.mark.parametrize(
    ("stem", "task"),
    [
        ("cube-double-play", ""),
        ("scene-play", ""),
        ("puzzle-3x3-play", ""),
        ("pointmaze-medium-navigate", ""),
        ("cube-double-play", "-task5"),
        ("pointmaze-medium-navigate", "-task5"),
    ],
)
def test_arrays_equal_those_of_ogbench(stem: str, task: str, data_dir: Path) -> None:
    name = f"{stem}-singletask{task}-v0"
    buffer = ogbench.load(name, dataset_dir=data_dir)
    env, train, validation = reference.make_env_and_datasets(name, dataset_dir=str(data_dir))
    assert_same(buffer, train)
    assert buffer.validation is not None
    assert_same(buffer.validation, validation)
    assert buffer.metadata["env_id"] == env.spec.id
    assert buffer.metadata["episodes"] == train["terminals"].sum()


def test_masks_and_rewards_of_the_reference_are_not_trivial(data_dir: Path) -> None:
    # Without this, equality above could hold between constant arrays.
    names = [f"pointmaze-medium-navigate-singletask-task{number}-v0" for number in range(1, 6)]
    buffers = [ogbench.load(name, dataset_dir=data_dir, validation=False) for name in names]
    assert {float(reward) for buffer in buffers for reward in np.unique(buffer.rewards)} == {-1.0, 0.0}
    for buffer in buffers:
        np.testing.assert_array_equal(buffer.rewards == 0, (buffer.dones == 1) & (buffer.timeouts == 0))


def maze_files(folder: Path, lengths: list[int], qpos: np.ndarray) -> Path:
    rows = sum(lengths)
    generator = np.random.default_rng(0)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    contents: dict[str, Any] = {
        "observations": generator.standard_normal((rows, 2), np.float32),
        "actions": generator.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "terminals": terminals,
        "qpos": np.resize(qpos, (rows, 2)).astype(np.float32),
        "qvel": np.zeros((rows, 2), np.float32),
    }
    for file in ogbench_names.split_files(folder, "pointmaze-medium-navigate-v0"):
        np.savez(file, **contents)
    return folder


@pytest.fixture(scope="module")
def point_env() -> gymnasium.Env[Any, Any]:
    """The reference makes one for every call, which takes longer than to read small files."""
    env: gymnasium.Env[Any, Any] = reference.make_env_and_datasets(POINT_TASK, env_only=True)
    return env


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8).filter(lambda lengths: max(lengths) > 1),
    # around the goal of the task, with a tolerance of 1
    qpos=arrays_of.arrays(np.float32, (20, 2), elements=st.floats(-3, 3, width=32)).map(
        lambda xy: xy + np.float32([20, 0])
    ),
    rows_at_a_time=st.integers(1, 10),
)
def test_any_episode_lengths_and_positions(
    lengths: list[int],
    qpos: np.ndarray,
    rows_at_a_time: int,
    point_env: gymnasium.Env[Any, Any],
    tmp_path: Path,
) -> None:
    maze_files(tmp_path, lengths, qpos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "ROWS_AT_A_TIME", rows_at_a_time)
        buffer = ogbench.load(POINT_TASK, dataset_dir=tmp_path)
    train, _ = reference.make_env_and_datasets(
        POINT_TASK, dataset_dir=str(tmp_path), dataset_only=True, cur_env=point_env
    )
    assert_same(buffer, train)


def test_metadata_and_options(data_dir: Path) -> None:
    buffer = ogbench.load(f"ogbench/{CUBE_TASK}", dataset_dir=data_dir, validation=False, device="cpu")
    assert buffer.validation is None
    assert buffer.metadata["source"] == f"ogbench/{CUBE_TASK}"
    assert buffer.metadata["dataset_file"] == "cube-double-play-v0.npz"
    assert buffer.metadata["generated"]["seed"] == 0
    assert buffer.metadata["generated"]["max_episode_steps"] == 40


def test_provenance_does_not_outlive_its_file(point_dir: Path) -> None:
    assert "generated" in ogbench.load(POINT_TASK, dataset_dir=point_dir).metadata
    maze_files(point_dir, [5], np.zeros((5, 2)))
    assert "generated" not in ogbench.load(POINT_TASK, dataset_dir=point_dir).metadata


def test_folder_from_the_environment_variable(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(data_dir))
    assert ogbench.load(POINT_TASK).size() == 10 * 299
    monkeypatch.delenv("OGBENCH_DATA_DIR")
    assert ogbench_names.data_directory() == Path("~/.ogbench/data").expanduser()


def test_pictures_are_read_as_bytes_without_a_renderer(point_dir: Path) -> None:
    source = np.load(point_dir / "pointmaze-medium-navigate-v0.npz")
    rows = len(source["terminals"])
    pictures = np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    qpos, actions = np.zeros((rows, 15), np.float32), np.zeros((rows, 8), np.float32)
    terminals = source["terminals"]
    np.savez(
        point_dir / "visual-antmaze-medium-navigate-v0.npz",
        observations=pictures,
        actions=actions,
        terminals=terminals,
        qpos=qpos,
    )
    buffer = ogbench.load(
        "visual-antmaze-medium-navigate-singletask-v0", dataset_dir=point_dir, validation=False, download=False
    )
    np.testing.assert_array_equal(buffer.observations[:, 0], pictures[~terminals])
    assert buffer.observation_space == spaces.Box(0, 255, (8, 8, 3), np.uint8)


# Memory


def test_memory_stays_within_what_ogbench_returns(tmp_path: Path) -> None:
    rows, width, steps = 440_000, 28, 1001
    terminals = np.zeros(rows, bool)
    terminals[steps - 1 :: steps] = terminals[-1] = True
    contents: dict[str, Any] = {
        "observations": np.ones((rows, width), np.float32),
        "actions": np.zeros((rows, 5), np.float32),
        "terminals": terminals,
        "qpos": np.ones((rows, 21), np.float32),
        "qvel": np.ones((rows, 20), np.float32),
    }
    np.savez_compressed(tmp_path / "cube-single-play-v0.npz", **contents)
    del contents
    transitions = int((~terminals).sum())
    returned = 4 * transitions * (2 * width + 5 + 3)
    tracemalloc.start()
    try:
        buffer = ogbench.load(
            "cube-single-play-singletask-v0", dataset_dir=tmp_path, validation=False, device="cpu", download=False
        )
        at_rest, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert buffer.size() == transitions
    assert at_rest < 1.3 * returned
    assert peak < 1.3 * returned


# Failures


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cube-singel-play-singletask-v0", "did you mean cube-single-play-singletask-v0"),
        ("cube-single-play-singletask-task7-v0", "did you mean cube-single-play-singletask-task"),
        ("cube-single-play", r"has no version; expected cube-single-play-v0 \(with goals\) or one of its tasks"),
        ("cube-singel-play-v0", "did you mean cube-single-play-v0"),
        ("visual-cube-single-play-v0", "its goals are pictures.* visual-cube-single-play-singletask-v0"),
        ("cube-single-singletask-v0", "is no data set of OGBench"),
        ("powderworld-easy-play-singletask-v0", "is no data set of OGBench"),
        ("powderworld-easy-play-v0", "is no data set of OGBench"),
        ("", "is no data set of OGBench"),
    ],
)
def test_unknown_names(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        ogbench.load(name, dataset_dir=tmp_path)
    with pytest.raises(DatasetError, match=message):
        ogbench.make_env(name)


def test_unknown_behaviour_is_no_reason_to_go_online(tmp_path: Path) -> None:
    for rest in ("singletask-v0", "v0"):
        with pytest.raises(DatasetError, match=f"did you mean cube-single-play-{rest}"):
            ogbench.load(f"cube-single-paly-{rest}", dataset_dir=tmp_path)


def test_every_listed_name_is_understood() -> None:
    names = ogbench.single_task_names()
    assert len(names) > 400
    assert {"cube-single-play-singletask-task2-v0", "antsoccer-arena-navigate-singletask-v0"} <= set(names)
    with_goals = ogbench.goal_set_names()
    assert {"pointmaze-medium-navigate-v0", "antmaze-medium-navigate-v0", "cube-single-play-v0"} <= set(with_goals)
    for name in [*names, *with_goals]:
        assert ogbench_names.parse(name).env_id in gymnasium.registry


def spoil(change: Callable[[dict[str, Any]], None], folder: Path) -> None:
    path = folder / "pointmaze-medium-navigate-v0.npz"
    with np.load(path) as archive:
        contents: dict[str, Any] = dict(archive)
    change(contents)
    np.savez(path, **contents)


def _drop(key: str, contents: dict[str, Any]) -> None:
    del contents[key]


def _put(key: str, value: Callable[[np.ndarray], np.ndarray], contents: dict[str, Any]) -> None:
    contents[key] = value(contents[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (partial(_drop, "observations"), "lacks observations; found actions, terminals, qpos, qvel"),
        (partial(_drop, "qpos"), "lacks qpos"),
        (
            partial(_put, "observations", lambda x: x[:, :1]),
            r"observations has shape \(3000, 1\), expected \(3000, 2\)",
        ),
        (partial(_put, "actions", lambda x: x[:-1]), r"actions has shape \(2999, 2\), expected \(3000, 2\)"),
        (partial(_put, "qpos", lambda x: x[:, :1]), r"qpos has shape \(3000, 1\), expected \(3000, 2\)"),
        (partial(_put, "terminals", lambda x: x[:, None]), r"terminals has shape \(3000, 1\), expected \(any\)"),
        (partial(_put, "terminals", np.zeros_like), "the last of 3000 rows does not end an episode"),
        (partial(_put, "terminals", np.ones_like), "each of 3000 rows ends an episode"),
        (partial(_put, "terminals", lambda x: x * 2.0), "terminals holds values other than 0 and 1"),
        (partial(_put, "qpos", lambda x: x * np.nan), "qpos has NaN or infinity"),
        (partial(_put, "observations", lambda x: x * np.inf), "observations has NaN or infinity"),
        (partial(_put, "actions", lambda x: x * 3), "actions"),
    ],
)
def test_malformed_files(change: Callable[[dict[str, Any]], None], message: str, point_dir: Path) -> None:
    spoil(change, point_dir)
    with pytest.raises(DatasetError, match=message) as caught:
        ogbench.load(POINT_TASK, dataset_dir=point_dir)
    assert "pointmaze-medium-navigate-v0.npz" in str(caught.value)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_truncated_files(share: float, point_dir: Path, data_dir: Path) -> None:
    whole = (data_dir / "pointmaze-medium-navigate-v0-val.npz").read_bytes()
    (point_dir / "pointmaze-medium-navigate-v0-val.npz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=r"-val\.npz: cannot be read as an \.npz archive"):
        ogbench.load(POINT_TASK, dataset_dir=point_dir)


def test_damaged_bytes_and_other_formats(point_dir: Path) -> None:
    path = point_dir / "pointmaze-medium-navigate-v0.npz"
    damaged = bytearray(path.read_bytes())
    damaged[200:260] = bytes(60)
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=r"v0\.npz: cannot be read"):
        ogbench.load(POINT_TASK, dataset_dir=point_dir)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DatasetError, match="found a single array"):
        ogbench.load(POINT_TASK, dataset_dir=point_dir)
    path.write_text("not found")
    with pytest.raises(DatasetError, match="cannot be read"):
        ogbench.load(POINT_TASK, dataset_dir=point_dir)


# Environments


@pytest.mark.parametrize("name", [CUBE_TASK, "scene-play-singletask-v0", POINT_TASK])
def test_environment_and_data_agree(name: str, data_dir: Path) -> None:
    env = ogbench.make_env(name)
    buffer = ogbench.load(name, dataset_dir=data_dir)
    assert env.observation_space == buffer.observation_space
    assert env.action_space == buffer.action_space
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    following, _, terminated, truncated, info = env.step(env.action_space.sample())
    assert following in env.observation_space
    assert not terminated
    assert not truncated
    assert "success" in info
    env.close()


@pytest.mark.parametrize(("timing", "rewards"), [("post", [0.0, 0.0]), ("pre", [-1.0, 0.0])])
def test_success_timing(timing: str, rewards: list[float]) -> None:
    env = ogbench.make_env(POINT_TASK, success_timing=timing, terminate_at_goal=False)
    env.reset(seed=0)
    world: Any = env.unwrapped
    # 1.1 away from the goal, outside the tolerance of 1; one full step to the left comes 0.2 closer.
    world.set_xy(np.array(world.cur_goal_xy) + np.array([1.1, 0.0]))
    towards = np.array([-1.0, 0.0], np.float32)
    assert [env.step(towards)[1], env.step(towards)[1]] == rewards
    env.close()


def test_default_timing_and_passed_options() -> None:
    env = ogbench.make_env(POINT_TASK, max_episode_steps=7)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    assert env.spec.kwargs["success_timing"] == "post"
    with pytest.raises(ValueError, match="success_timing is 'never'; expected 'pre' or 'post'"):
        ogbench.make_env(POINT_TASK, success_timing="never")
