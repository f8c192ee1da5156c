"""OGBench sets made anew: their format, their distribution, their reproducibility."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ogbench_sets import EPISODES, POINT, SMALL_SETS, STEPS, collect, contents, leftovers, make

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.ogbench.generation import dataset_names, find_recipe
from dipole_sb3.datasets.ogbench.names import split_files
from dipole_sb3.datasets.ogbench.oracles import RECIPES, cube_stays_visible
from dipole_sb3.datasets.ogbench.workers import Task

# Format


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("cube-double-play", {"observations": 37, "actions": 5, "qpos": 28, "qvel": 26}),
        ("scene-play", {"observations": 40, "actions": 5, "qpos": 25, "qvel": 24, "button_states": 2}),
        ("puzzle-3x3-play", {"observations": 55, "actions": 5, "qpos": 23, "qvel": 23, "button_states": 9}),
        ("pointmaze-medium-navigate", {"observations": 2, "actions": 2, "qpos": 2, "qvel": 2}),
    ],
)
def test_keys_dtypes_and_shapes_are_the_originals(name: str, widths: dict[str, int], ogbench_sets: Path) -> None:
    episodes, steps = SMALL_SETS[name]
    for file, count in zip(split_files(ogbench_sets, f"{name}-v0"), (episodes, max(1, episodes // 10)), strict=True):
        with np.load(file) as archive:
            arrays = dict(archive)
        assert list(arrays) == [
            "observations",
            "actions",
            "terminals",
            *[key for key in widths if key not in ("observations", "actions")],
        ]
        for key, width in widths.items():
            assert arrays[key].shape == (count * steps, width)
            assert arrays[key].dtype == (np.int64 if key == "button_states" else np.float32)
        assert arrays["terminals"].dtype == bool
        np.testing.assert_array_equal(np.flatnonzero(arrays["terminals"]), np.arange(1, count + 1) * steps - 1)
        assert np.abs(arrays["actions"]).max() <= 1


def test_file_is_what_numpy_would_have_written(made: Path, tmp_path: Path) -> None:
    file = made / f"{POINT}-v0.npz"
    with np.load(file) as archive:
        arrays: dict[str, Any] = dict(archive)
    np.savez_compressed(tmp_path / "numpy.npz", **arrays)
    assert file.read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def test_rows_hold_the_state_before_the_action(ogbench_sets: Path) -> None:
    with np.load(ogbench_sets / "cube-double-play-v0.npz") as archive:
        # the first six joint positions are the arm's, and so are the first six of the observation
        np.testing.assert_array_equal(archive["observations"][:, :6], archive["qpos"][:, :6])


def test_recipes_are_those_of_ogbench() -> None:
    import ogbench  # noqa: F401 - registers the environments

    assert len(RECIPES) == 2 * (1 + 5 + 4 + 4) + 2 * (1 + 4 + 4)
    assert dataset_names() == sorted(RECIPES)
    for name, recipe in RECIPES.items():
        assert recipe.env_id in gymnasium.registry
        assert name == f"{recipe.env_id.removesuffix('-v0')}-{recipe.behaviour}"
    # spot checks against OGBench's data_gen_scripts/commands.sh
    facts = {
        "cube-triple-noisy": (3000, 1001, 0.1),
        "cube-quadruple-play": (5000, 1001, 0.0),
        "visual-cube-triple-noisy": (3000, 1001, 0.1),
        "visual-puzzle-4x6-noisy": (5000, 1001, 0.2),
        "scene-noisy": (1000, 1001, 0.1),
        "puzzle-4x5-noisy": (3000, 1001, 0.2),
        "pointmaze-giant-navigate": (500, 2001, 0.0),
        "pointmaze-teleport-stitch": (5000, 201, 0.0),
    }
    for name, fact in facts.items():
        assert (RECIPES[name].episodes, RECIPES[name].max_episode_steps, RECIPES[name].p_random_action) == fact


# Behaviour of the oracles


@pytest.mark.parametrize(
    "name", ["cube-triple-noisy", "scene-play", "scene-noisy", "puzzle-4x4-noisy", "pointmaze-teleport-stitch"]
)
def test_an_episode_depends_on_its_seed_alone(name: str) -> None:
    alone = collect(name, 25, [2])[0]
    after_others = collect(name, 25, [0, 1, 2])[2]
    for key, values in alone.items():
        np.testing.assert_array_equal(values, after_others[key])


def test_seeds_differ_between_splits_episodes_and_sets() -> None:
    states = {
        tuple(Task(split, index).seed(seed).generate_state(4))
        for split in ("train", "val")
        for index in range(5)
        for seed in range(3)
    }
    assert len(states) == 2 * 5 * 3


def test_noisy_actions_differ_from_planned_ones() -> None:
    # Random actions hit the bounds of none of the five dimensions, closed-loop oracles saturate often.
    noisy = collect("cube-single-noisy", 60, [0])[0]["actions"]
    planned = collect("cube-single-play", 60, [0])[0]["actions"]
    assert (np.abs(noisy) == 1).mean() > 2 * (np.abs(planned) == 1).mean()


def test_cubes_are_moved() -> None:
    cube = collect("cube-single-play", 250, [1])[0]["qpos"][:, 14:17]
    assert np.linalg.norm(cube[-1, :2] - cube[0, :2]) > 0.05
    assert cube[:, 2].max() > 0.06


def test_mazes_are_walked() -> None:
    navigate = collect("pointmaze-medium-navigate", 400, [0])[0]["observations"]
    stitch = collect("pointmaze-medium-stitch", 200, [0])[0]["observations"]

    def cells(path: np.ndarray) -> int:
        return len({(round(x / 4), round(y / 4)) for x, y in path})

    # Stitch: four cells to a goal, and stay; navigate: from goal to goal.
    assert 3 <= cells(stitch) <= 7
    assert cells(navigate) > 10


def test_healthy_scenes() -> None:
    def health(y: float, z: float) -> bool:
        qpos = np.zeros((3, 25))
        qpos[1, 15:17] = y, z
        return cube_stays_visible(qpos)

    assert health(0.2, 0.02)
    assert not health(0.29, 0.02)  # too far right
    assert not health(-0.3, 0.02)  # too far left
    assert health(-0.3, 0.07)  # in the drawer
    assert not health(-0.3, 0.081)


def test_unhealthy_scenes_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def second_one(qpos: np.ndarray) -> bool:
        seen.append(qpos)
        return len(seen) > 1

    monkeypatch.setattr("dipole_sb3.datasets.ogbench.oracles.cube_stays_visible", second_one)
    kept = collect("scene-play", 10, [0])[0]
    assert len(seen) == 2
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(kept["qpos"], seen[1].astype(np.float32))


# Reproducibility


def test_same_bytes_from_two_processes(made: Path, tmp_path: Path) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    make(tmp_path, processes=2)
    assert contents(tmp_path) == contents(made)
    assert leftovers(tmp_path) == []
    assert np.random.get_state()[1].tolist() == before


def test_same_bytes_from_two_processes_for_cubes(ogbench_sets: Path, tmp_path: Path) -> None:
    name = "cube-double-play"
    episodes, steps = SMALL_SETS[name]
    make(tmp_path, name=name, processes=2, episodes=episodes, max_episode_steps=steps)
    assert contents(tmp_path, name) == contents(ogbench_sets, name)


def test_seed_changes_everything_and_count_only_the_length(made: Path, tmp_path: Path) -> None:
    with np.load(made / f"{POINT}-v0.npz") as first:
        observations = first["observations"]
    np.testing.assert_array_equal(collect(POINT, STEPS, [2])[0]["observations"], observations[2 * STEPS : 3 * STEPS])
    make(tmp_path, seed=1)
    with np.load(tmp_path / f"{POINT}-v0.npz") as other:
        assert (observations != other["observations"]).any(axis=1).all()
    with np.load(made / f"{POINT}-v0-val.npz") as validation:
        assert not np.array_equal(validation["observations"], observations[:STEPS])


def test_record_beside_the_files(made: Path) -> None:
    record = json.loads((made / f"{POINT}-v0.json").read_text())
    assert record["seed"] == 0
    assert record["episodes"] == EPISODES
    assert {"ogbench", "mujoco", "numpy"} <= set(record)
    assert record["bytes"] == {file.name: file.stat().st_size for file in split_files(made, f"{POINT}-v0")}


# Arguments


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cube-singel-play", "did you mean cube-single-play"),
        ("antmaze-large-navigate-v0", "its oracle is a trained expert"),
        ("humanoidmaze-medium-navigate", "its oracle is a trained expert"),
        ("visual-antmaze-large-navigate-v0", "its oracle is a trained expert"),
        ("visual-cube-octuple-play", "is no data set that can be made; did you mean visual-cube-"),
        ("pointmaze-medium-explore", "is no data set that can be made; did you mean pointmaze-medium-"),
    ],
)
def test_names_that_cannot_be_made(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        make(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50)
@given(
    name=st.sampled_from(sorted(RECIPES)),
    prefix=st.sampled_from(["", "ogbench/"]),
    suffix=st.sampled_from(["", "-v0", "-singletask-v0", "-singletask-task4-v0"]),
)
def test_spellings_of_a_name(name: str, prefix: str, suffix: str) -> None:
    assert find_recipe(f"{prefix}{name}{suffix}").name == name


@pytest.mark.parametrize(
    ("option", "value"), [("episodes", 0), ("processes", 0), ("seed", -1), ("max_episode_steps", 1)]
)
def test_numbers_out_of_range(option: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; expected an integer >= "):
        make(tmp_path, **{option: value})
    assert not os.listdir(tmp_path)
