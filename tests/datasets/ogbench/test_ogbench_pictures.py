"""OGBench's sets of pictures, made here: the episodes of the sets of states, drawn off screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_ogbench_sets import contents, make

from dipole_sb3 import FQL
from dipole_sb3.common import renderers
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import ogbench
from dipole_sb3.datasets.ogbench.names import split_files
from dipole_sb3.datasets.ogbench.oracles import made
from dipole_sb3.networks.encoders import ImpalaCNN

SMALL = {"episodes": 1, "max_episode_steps": 3}
NAME = "visual-scene-play"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    try:
        renderers.off_screen_renderer("this test")
    except DatasetError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    make(folder, name=NAME, processes=2, **SMALL)
    return folder


def test_are_drawn_of_the_same_episodes(pictures: Path, tmp_path: Path) -> None:
    make(tmp_path, name="scene-play", **SMALL)
    for drawn, plain in zip(split_files(pictures, f"{NAME}-v0"), split_files(tmp_path, "scene-play-v0"), strict=True):
        with np.load(drawn) as one, np.load(plain) as other:
            assert one.files == other.files
            for key in set(one.files) - {"observations"}:
                np.testing.assert_array_equal(one[key], other[key])
            seen = one["observations"]
        assert (seen.shape, seen.dtype) == ((len(seen), 64, 64, 3), np.uint8)
        assert seen.std(axis=(1, 2, 3)).min() > 10, "each shows something"
        assert (seen[1:] != seen[:-1]).any(axis=(1, 2, 3)).all(), "the arm moves"


def test_bytes_are_the_same_again_and_the_record_names_the_renderer(pictures: Path, tmp_path: Path) -> None:
    make(tmp_path, name=NAME, **SMALL)
    assert contents(tmp_path, NAME) == contents(pictures, NAME)
    noted = json.loads((pictures / f"{NAME}-v0.json").read_text())
    assert noted["renderer"] in renderers.OFF_SCREEN


def test_are_loaded_as_ogbench_loads_them(pictures: Path) -> None:
    from ogbench import make_env_and_datasets

    task = f"{NAME}-singletask-task3-v0"
    # Rewards are those of the states; without pictures the environment needs no renderer.
    arrays = make_env_and_datasets(task, str(pictures), dataset_only=True, cur_env=made("scene-singletask-task3-v0"))
    buffer = ogbench.load(task, dataset_dir=pictures, download=False)
    for split, expected in zip((buffer, buffer.validation), arrays, strict=True):
        assert split is not None
        for key in ("observations", "next_observations", "rewards"):
            np.testing.assert_array_equal(np.asarray(getattr(split, key))[:, 0], expected[key])


def test_a_visual_task_trains_on_them(pictures: Path, tmp_path: Path) -> None:
    """As configs/task/ogbench has it, but for sizes: stacks of three frames, random crops, FQL's α."""
    tiny = ["offline_steps=2", "algo.batch_size=4", "algo.policy_kwargs.net_arch=[8]", "episodes=0", "run_dir=run"]
    chosen = [f"task=ogbench/{NAME}", "algo=fql", f"task.dataset_dir={pictures}", "task_id=3", "algo.flow_steps=2"]
    # In a process of its own, where MuJoCo has not chosen to draw nothing.
    command = [sys.executable, "-m", "dipole_sb3.cli", "train", *chosen, *tiny, "pictures=false"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "no hyperparameters of its own" not in finished.stdout
    model = FQL.load(tmp_path / "run/model.zip", device="cpu")
    assert model.observation_space.shape in ((64, 64, 9), (9, 64, 64))
    assert (model.alpha, model.random_crop) == (100, 0.5)
    assert isinstance(model.policy.flow.features_extractor, ImpalaCNN)


def test_what_has_chosen_to_draw_nothing_is_told() -> None:
    """Here, by the tests' MUJOCO_GL."""
    import mujoco  # noqa: F401

    with pytest.raises(DatasetError, match="the arm: MuJoCo has been imported with MUJOCO_GL=disable, expected it"):
        renderers.choose_off_screen("the arm")


def test_where_nothing_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    with pytest.raises(
        DatasetError, match=r"^visual-scene-play has pictures: MuJoCo cannot draw here \(nothing: .*osmesa6$"
    ):
        make(tmp_path, name=NAME, **SMALL)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
