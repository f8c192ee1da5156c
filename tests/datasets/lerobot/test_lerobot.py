"""Sets that LeRobot wrote (0.3.3 and 0.4.4; ``write_sets.py`` says how), read without LeRobot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from commands import Command
from gymnasium import spaces
from lerobot_frames import LENGTHS, episode

from dipole_sb3 import DIPOLE, DatasetError, load_dataset
from dipole_sb3.datasets.conversion import convert

SETS = Path(__file__).parent / "sets"
VERSIONS = ("v2.1", "v3.0")
STATE = ["observation.state"]

version = pytest.mark.parametrize("version", VERSIONS)


def expected() -> dict[str, np.ndarray]:
    """The transitions by hand: of every episode but its last frame, which the first one keeps: it succeeded there."""
    rows: dict[str, list[np.ndarray]] = {}
    for number, length in enumerate(LENGTHS):
        columns, kept = episode(number), length if number == 0 else length - 1
        state, reward = columns["observation.state"], columns["next.reward"]
        following = np.concatenate([state[1:], state[-1:]])
        ends = np.arange(kept) == kept - 1
        parts = {
            "state": state[:kept],
            "next": following[:kept],
            "environment_state": columns["observation.environment_state"][:kept],
            "grid": columns["observation.grid"][:kept],
            "actions": columns["action"][:kept],
            "rewards": reward[:kept, 0],
            "dones": ends,
            "timeouts": ends & (number != 0),
        }
        for key, part in parts.items():
            rows.setdefault(key, []).append(part)
    return {key: np.concatenate(parts).astype(np.float32) for key, parts in rows.items()}


@version
def test_rows_are_the_frames(version: str) -> None:
    buffer, rows = load_dataset(SETS / version, device="cpu"), expected()
    assert buffer.size() == len(rows["rewards"])
    assert isinstance(buffer.observations, dict)
    assert isinstance(buffer.next_observations, dict)
    assert sorted(buffer.observations) == ["environment_state", "grid", "state"]
    for key, stored in buffer.observations.items():
        np.testing.assert_array_equal(stored[:, 0], rows[key])
    np.testing.assert_array_equal(buffer.next_observations["state"][:, 0], rows["next"])
    np.testing.assert_array_equal(buffer.actions[:, 0], rows["actions"])
    for key in ("rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(buffer, key)[:, 0], rows[key])
    assert buffer.metadata["fps"] == 10
    assert buffer.metadata["robot_type"] == "arm"
    assert buffer.metadata["tasks"] == ["push the block", "lift it"]


@version
def test_numbers_alone_train_beside_videos(version: str) -> None:
    buffer = load_dataset(SETS / version, observations=STATE, device="cpu")
    assert isinstance(buffer.observation_space, spaces.Box)
    np.testing.assert_array_equal(buffer.observations[:, 0], expected()["state"])
    model = DIPOLE("MlpPolicy", dataset=buffer, policy_kwargs={"net_arch": [8]}, device="cpu", batch_size=4)
    model.learn(2)
    whole = load_dataset(SETS / version, device="cpu")
    DIPOLE("MultiInputPolicy", dataset=whole, policy_kwargs={"net_arch": [8]}, device="cpu", batch_size=4).learn(2)


def test_rewards_by_expression() -> None:
    rows = expected()
    text = "-abs(next_observation['lift']) + 2 * action['left'] + 3 * reward[0] + 100 * success[0]"
    buffer = load_dataset(SETS / "v3.0", observations=STATE, reward=text)
    succeeded = (rows["dones"] == 1) & (rows["timeouts"] == 0)
    by_hand = -np.abs(rows["next"][:, 1]) + 2 * rows["actions"][:, 0] + 3 * rows["rewards"] + 100 * succeeded
    np.testing.assert_allclose(buffer.rewards[:, 0], by_hand, rtol=1e-6)
    assert buffer.metadata["reward"] == text
    several = "observation[4] + observation['environment_state.1'] + observation['state.grip'] + observation['grid.3']"
    buffer = load_dataset(SETS / "v3.0", reward=several)
    by_hand = 2 * rows["environment_state"][:, 1] + rows["state"][:, 2] + rows["grid"][:, 1, 0]
    np.testing.assert_allclose(buffer.rewards[:, 0], by_hand, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("observation[9]", r"the reward: 'observation\[9\]' is no element: observation has the indices 0 to 2"),
        ("observation['x']", "the reward: observation has no element 'x', expected one of pan, lift, grip"),
        ("1/(observation[0] - observation[0])", "the reward of transition 0 has no value"),
        ("reward", "the reward: there is no 'reward'|reward stands alone"),
        ("1e39 * action[0] * action[0]", "the reward of transition 0 is .*, expected a finite number"),
    ],
)
def test_rewards_that_are_none(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(SETS / "v3.0", observations=STATE, reward=text)
    assert "\n" not in str(caught.value)


def test_actions_in_degrees_need_their_bounds(tmp_path: Path, dipole: Command) -> None:
    changed(tmp_path / "set", "v3.0", lambda table: replaced(table, "action", np.full((12, 2), 90.0, np.float32)))
    with pytest.raises(DatasetError, match=r"actions .*90.*\[-1, 1\]"):
        load_dataset(tmp_path / "set")
    space = spaces.Box(np.array([0, -180], np.float32), np.array([180, 180], np.float32))
    buffer = load_dataset(tmp_path / "set", action_space=space)
    np.testing.assert_allclose(buffer.actions[:, 0], [[0, 0.5]] * buffer.size(), atol=1e-6)
    bounds = ("--action-low", "0", "-180", "--action-high", "180", "180")
    assert dipole("data", "convert", str(tmp_path / "set"), "b", "--observations", *STATE, *bounds)[0] == 0
    assert load_dataset("b").action_space == space
    for given, words in (
        (("--action-low", "0"), r"its actions have shape (2,), expected (1,)"),
        (("--action-low", "0", "2"), "--action-low is [0.0, 2.0], --action-high [1.0, 1.0]; expected"),
    ):
        status, _, error = dipole("data", "convert", str(tmp_path / "set"), "c", *given)
        assert (status, error.count("\n")) == (1, 1)
        assert words in error


def test_the_command_converts_and_trains(dipole: Command) -> None:
    path = str(SETS / "v2.1")
    assert dipole("data", "check", path)[0] == 0
    status, out, _ = dipole("data", "info", path)
    assert status == 0
    assert "10 transitions" in out
    assert "fps: 10" in out
    # Neither is the option -h.
    for reward in ("-hypot(next_observation[1], 0)", "-abs(next_observation[1])"):
        words = ("data", "convert", path, "arm", "--reward", reward, "--overwrite", "--observations", *STATE)
        assert dipole(*words)[0] == 0
    np.testing.assert_allclose(load_dataset("arm").rewards[:, 0], -np.abs(expected()["next"][:, 1]), rtol=1e-6)
    tiny = ("offline_steps=2", "algo.batch_size=4", "algo.policy_kwargs.net_arch=[8]")
    assert dipole("train", "task=custom", "task.dataset=arm", "run_dir=run", *tiny)[0] == 0


def test_rewards_are_for_recordings_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reward is for sets of LeRobot and robomimic, which this is not"):
        convert("demo/reacher-tqc-10k", tmp_path / "a", reward="1")


# How episodes end


def replaced(table: pyarrow.Table, key: str, values: np.ndarray) -> pyarrow.Table:
    column = pyarrow.array(values.tolist() if values.ndim > 1 else values)
    return table.set_column(table.schema.get_field_index(key), key, column)


def changed(path: Path, version: str, change: Callable[[pyarrow.Table], pyarrow.Table]) -> Path:
    """A copy of a set with another table of frames (of v2.1 the last episode's)."""
    shutil.copytree(SETS / version, path)
    file = sorted((path / "data").rglob("*.parquet"))[-1]
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(file)), file)
    return path


def told_by(path: Path, **columns: list[int]) -> Path:
    """The set of v3.0 with these columns about ends instead of its own."""

    def change(table: pyarrow.Table) -> pyarrow.Table:
        table = table.drop_columns(["next.done", "next.success"])
        for key, values in columns.items():
            table = table.append_column(f"next.{key}", pyarrow.array(np.array(values, bool)))
        return table

    changed(path, "v3.0", change)
    info = json.loads((path / "meta/info.json").read_text())
    for key in ("done", "success"):
        del info["features"][f"next.{key}"]
    for key in columns:
        info["features"][f"next.{key}"] = {"dtype": "bool", "shape": [1], "names": None}
    (path / "meta/info.json").write_text(json.dumps(info))
    return path


NOWHERE = [0] * 12
LAST = [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("columns", "dones", "timeouts"),
    [
        # Nothing tells: all three end by time, one frame earlier.
        ({}, [0, 0, 0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0, 0, 1]),
        ({"done": NOWHERE}, [0, 0, 0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0, 0, 1]),
        # Done is for good.
        ({"done": LAST}, LAST, NOWHERE),
        # … unless it was a time limit, or no success.
        (
            {"done": LAST, "truncated": [0] * 11 + [1]},
            [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1],
            [0] * 10 + [1],
        ),
        (
            {"done": LAST, "success": [0] * 7 + [1] + [0] * 4},
            [0, 0, 0, 0, 1, 0, 1, 0, 0, 1],
            [0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        ),
        # Success alone is for good in the last frame, and nothing before it.
        (
            {"success": [0, 0, 0, 1, 1, 1] + [0] * 6},
            [0, 0, 0, 0, 0, 1, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0, 1, 0, 0, 1],
        ),
        # Done in the middle, for good and by time: the next frame is the true next observation.
        (
            {"done": [0, 1, 0, 1, 0, 0] + [0] * 6, "truncated": [0, 0, 0, 1, 0, 0] + [0] * 6},
            [0, 1, 0, 1, 1, 1, 0, 0, 1],
            [0, 0, 0, 1, 1, 1, 0, 0, 1],
        ),
    ],
)
def test_ends(tmp_path: Path, columns: dict[str, list[int]], dones: list[int], timeouts: list[int]) -> None:
    buffer = load_dataset(told_by(tmp_path / "set", **columns), observations=STATE)
    np.testing.assert_array_equal(buffer.dones[:, 0], dones)
    np.testing.assert_array_equal(buffer.timeouts[:, 0], timeouts)


# What is wrong with a set


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path, **options)
    assert "\n" not in str(caught.value)


@version
def test_files_that_are_missing_or_truncated(tmp_path: Path, version: str) -> None:
    for number, file in enumerate(sorted((SETS / version).rglob("*.*"))):
        # Which are not read, or not unless they are asked for.
        if file.is_dir() or file.name in ("stats.json", "episodes_stats.jsonl") or file.suffix == ".mp4":
            continue
        path = tmp_path / str(number)
        shutil.copytree(SETS / version, path)
        damaged = path / file.relative_to(SETS / version)
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size * 2 // 3])
        refused(path, rf"{damaged}: (not a complete parquet file|cannot be read)")
        damaged.unlink()
        refused(path, r"no such file; expected|holds no parquet file; expected|files hold \d+ frames, its .* tells 12")


def test_a_missing_info_is_said(dipole: Command, tmp_path: Path) -> None:
    shutil.copytree(SETS / "v3.0", tmp_path / "set")
    (tmp_path / "set/meta/info.json").unlink()
    for action in ("info", "check"):
        status, _, error = dipole("data", action, "set")
        assert (status, error.count("\n")) == (1, 1)
        assert "set/meta/info.json: no such file; expected a LeRobot data set's description" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebase_version": "v4.0"}, r"info\.json: codebase_version is 'v4\.0', expected v2\.1 or v3\.0"),
        ({"codebase_version": None}, "codebase_version is None"),
        ({"features": None}, "damaged or incomplete"),
        ({"features": {"action": {"dtype": "float32"}}}, r"damaged or incomplete \(KeyError: 'shape'\)"),
        ({"features": {"action": {"dtype": "float32", "shape": [2]}}}, "has no observations but images"),
        (
            {
                "features": {
                    "observation.a.b": {"dtype": "float32", "shape": [1]},
                    "observation.a_b": {"dtype": "float32", "shape": [1]},
                }
            },
            r"two of observation\.a\.b, observation\.a_b have the same name",
        ),
        (
            {
                "features": {
                    "observation.state": {"dtype": "float32", "shape": [3]},
                    "next.reward": {"dtype": "float32", "shape": [2]},
                }
            },
            r"next\.reward has shape \[2\], expected one number a frame",
        ),
        ({"total_frames": 13}, "its files hold 12 frames, its meta/info.json tells 13"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    shutil.copytree(SETS / "v3.0", tmp_path / "set")
    file = tmp_path / "set/meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused(tmp_path / "set", message)


def ragged(table: pyarrow.Table) -> pyarrow.Table:
    rows = table["observation.state"].to_pylist()
    rows[3] = rows[3][:2]
    column = pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))
    return table.set_column(table.schema.get_field_index("observation.state"), "observation.state", column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["action"]), r"file-000\.parquet: has no column action; found observation\."),
        (lambda table: table[:7], "its files hold 7 frames, its meta/info.json tells 12"),
        (ragged, r"observation\.state has rows of 2 and 3 numbers, expected \[3\]"),
        (
            lambda table: replaced(table, "action", np.zeros((12, 3), np.float32)),
            r"action has shape \[3\] in every row, expected \[2\] as meta/info\.json tells",
        ),
        (
            lambda table: replaced(table, "next.reward", np.full(12, np.nan, np.float32)),
            "rewards has NaN or infinity, first in row 0",
        ),
        (
            lambda table: replaced(table, "action", np.full((12, 2), np.inf, np.float32)),
            "action has NaN or infinity, first in row 0",
        ),
        (
            lambda table: replaced(table, "frame_index", np.arange(12)),
            "row 6 is frame 6 of episode 1, expected frame 0 of episode 1, as the table of episodes tells",
        ),
        (
            lambda table: replaced(table, "episode_index", np.array([0] * 7 + [1] + [2] * 4)),
            "row 6 is frame 0 of episode 0, expected frame 0 of episode 1",
        ),
        (
            lambda table: table.set_column(0, "observation.state", pyarrow.array([None] + [[0.0] * 3] * 11)),
            r"observation\.state has 1 missing values, expected none",
        ),
        (
            lambda table: replaced(table, "next.reward", np.array(["one"] * 12)),
            r"next\.reward has type string, expected numbers",
        ),
    ],
)
def test_frames_that_are_wrong(tmp_path: Path, change: Callable[[pyarrow.Table], pyarrow.Table], message: str) -> None:
    refused(changed(tmp_path / "set", "v3.0", change), message)


def test_features_that_are_missing(tmp_path: Path) -> None:
    refused(SETS / "v3.0", "has no observation.force; expected observations", observations=["observation.force"])
    shutil.copytree(SETS / "v3.0", tmp_path / "set")
    file = tmp_path / "set/meta/info.json"
    info = json.loads(file.read_text())
    del info["features"]["next.reward"]
    file.write_text(json.dumps(info))
    refused(tmp_path / "set", "has no rewards; expected a reward expression")
    assert load_dataset(tmp_path / "set", reward="action[0]").size() == 10
    del info["features"]["action"]
    file.write_text(json.dumps(info))
    refused(tmp_path / "set", r"info\.json: has no feature action; found observation\.state")


def test_without_pyarrow_the_extra_is_named(dipole: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    status, _, error = dipole("data", "convert", str(SETS / "v3.0"), "b")
    assert status == 1
    assert "pip install 'dipole-sb3[lerobot]'" in error
