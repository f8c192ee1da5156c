"""Everything that is wrong with data is found in one pass, and what is not wrong is measured right."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dipole_sb3 import load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.cli.dispatch import main
from dipole_sb3.datasets import files
from dipole_sb3.datasets.conversion import convert
from dipole_sb3.datasets.inspection import Inspection, inspect

EPISODES = (7, 5, 8)


def recording() -> dict[str, Any]:
    """Three episodes: one that ended by itself, two by time; every element differs."""
    random = np.random.default_rng(0)
    rows = sum(EPISODES)
    observations = random.normal(size=(rows, 3)).astype(np.float32)
    terminals = np.zeros(rows, np.float32)
    terminals[np.cumsum(EPISODES) - 1] = 1
    following = np.roll(observations, -1, axis=0)
    following[terminals == 1] = random.normal(size=(3, 3))
    masks = np.ones(rows, np.float32)
    masks[6] = 0
    return {
        "observations": observations,
        "actions": random.uniform(-0.9, 0.9, (rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows).astype(np.float32),
        "next_observations": following,
        "terminals": terminals,
        "masks": masks,
    }


@pytest.fixture(params=[None, 200], ids=["one block", "many blocks"])
def written(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    if request.param:
        monkeypatch.setattr(image_layout, "BLOCK_BYTES", request.param)
    return lambda arrays: files.write_npz(tmp_path / "data.npz", arrays)


def test_what_is_measured(written: Callable[[dict[str, Any]], Path], tmp_path: Path) -> None:
    arrays = recording()
    arrays["actions"][3:6, 1] = 1.0
    path = written(arrays)
    convert(path, tmp_path / "stored")
    starts = np.cumsum([0, *EPISODES])
    returns = [arrays["rewards"][a:b].sum(dtype=np.float64) for a, b in pairwise(starts)]
    for name in (path, tmp_path / "stored"):
        found = inspect(name)
        assert (found.problems, found.warnings) == ([], [])
        assert (found.transitions, found.open_rows, found.time_limits) == (20, 0, 2)
        np.testing.assert_allclose(found.returns, returns)
        assert tuple(found.lengths) == EPISODES
        assert found.saturated == pytest.approx(3 / 40)
        assert found.action_histograms is not None
        assert found.action_histograms.sum(axis=1).tolist() == [20, 20]
        assert found.action_histograms[1, -1] == 3
        for key in ("observations", "next_observations", "rewards"):
            values, measured = arrays[key].astype(np.float64), found.elements[key]
            for got, expected in (
                (measured.low, values.min(axis=0)),
                (measured.high, values.max(axis=0)),
                (measured.mean, values.mean(axis=0)),
                (measured.deviation, values.std(axis=0)),
            ):
                np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_an_episode_that_is_not_over(written: Callable[[dict[str, Any]], Path]) -> None:
    arrays = recording()
    arrays["terminals"][-1] = 0
    found = inspect(written(arrays))
    assert (tuple(found.lengths), found.open_rows, found.problems) == (EPISODES[:-1], 8, [])


def problems(written: Callable[[dict[str, Any]], Path], **changes: tuple[Any, Any]) -> list[str]:
    arrays = recording()
    for key, (where, value) in changes.items():
        arrays[key][where] = value
    return inspect(written(arrays)).problems


def test_all_problems_are_told_with_their_rows(written: Callable[[dict[str, Any]], Path]) -> None:
    found = problems(
        written,
        observations=((4, 1), np.nan),
        rewards=([9, 12], np.inf),
        actions=((11, 0), 1.7),
        masks=(17, 0.5),
        terminals=(15, 2),
    )
    expected = [
        "actions reach 1.7, expected values in [-1, 1]",
        "observations has NaN or infinity in 1 row, first in row 4",
        "rewards has NaN or infinity in 2 rows, first in row 9",
        "terminals row 15 holds 2, expected 0 or 1",
        "masks row 17 holds 0.5, expected 0 or 1",
        "episodes do not join in 1 place, first: row 3 does not end an episode, and row 4 does not go on",
    ]
    assert len(found) == len(expected)
    for words, problem in zip(expected, found, strict=True):
        assert words in problem
        assert "\n" not in problem


def test_episodes_that_do_not_join(written: Callable[[dict[str, Any]], Path]) -> None:
    (only,) = problems(written, next_observations=([1, 7, 15], 5.0))
    assert "do not join in 3 places, first: row 1 does not end an episode, and row 2 does not go on" in only
    assert problems(written, next_observations=([6, 11, 19], 5.0)) == []  # the ends


def test_actions_beyond_known_bounds(written: Callable[[dict[str, Any]], Path]) -> None:
    path = written({**recording(), "actions": recording()["actions"] * 4})
    path.with_suffix(".json").write_text(json.dumps({"action_low": [-4, -4], "action_high": [4, 2]}))
    (only,) = inspect(path).problems
    assert "actions row" in only
    assert "expected a value in [-4, 2]" in only


def test_elements_that_never_change_are_a_warning(written: Callable[[dict[str, Any]], Path]) -> None:
    arrays = recording()
    arrays["observations"][:, 1] = arrays["next_observations"][:, 1] = 0.25
    arrays["rewards"][:] = 0
    found = inspect(written(arrays))
    assert found.problems == []
    assert [text.partition(": ")[2] for text in found.warnings] == [
        "1 element never change: observations[1] = 0.25",
        "rewards is 0 everywhere",
    ]


def test_files_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    arrays = recording()
    del arrays["rewards"]
    path = files.write_npz(tmp_path / "data.npz", arrays)
    assert "missing rewards; found" in inspect(path).problems[0]
    path.write_bytes(path.read_bytes()[:200])
    assert "not a complete .npz file" in inspect(path).problems[0]
    assert "no data set of this name" in inspect("demo/unknown").problems[0]


def test_every_damaged_file_of_a_stored_set_is_named(tmp_path: Path) -> None:
    convert(files.write_npz(tmp_path / "data.npz", recording()), tmp_path / "stored")
    content = bytearray((tmp_path / "stored" / "rewards.npy").read_bytes())
    content[-2] ^= 1
    (tmp_path / "stored" / "rewards.npy").write_bytes(content)
    (tmp_path / "stored" / "actions.npy").unlink()
    load = inspect(tmp_path / "stored").problems
    assert len(load) == 2
    assert "actions.npy: no such file" in load[0]
    assert "rewards.npy: its content has changed: SHA-256 is" in load[1]


def test_a_checksum_of_other_transitions(tmp_path: Path) -> None:
    convert(files.write_npz(tmp_path / "data.npz", recording()), tmp_path / "stored")
    file = tmp_path / "stored" / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "checksum": "0" * 64}))
    (only,) = inspect(tmp_path / "stored").problems
    assert "checksum is not that of the transitions" in only


def test_dict_observations_and_images(tmp_path: Path, dict_data: Any) -> None:
    flat = {key: value for key, value in dict_data.items() if "observations" not in key}
    for key in ("observations", "next_observations"):
        flat |= {f"{key}/{part}": array for part, array in dict_data[key].items()}
    found = inspect(files.write_npz(tmp_path / "data.npz", flat))
    assert found.problems == []
    images, vectors = found.elements["observations['camera']"], found.elements["observations['joints']"]
    assert (images.low.min(), images.high.max()) == (0, 255)
    np.testing.assert_allclose(vectors.mean, dict_data["observations"]["joints"].mean(axis=0), rtol=1e-5)


# The commands


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files.write_npz(tmp_path / "data.npz", recording())
    assert main(["data", "convert", "data.npz", "stored"]) == 0
    return tmp_path / "stored"


def test_convert(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_dataset("stored").checksum == load_dataset("data.npz").checksum
    assert main(["data", "convert", "data.npz", "stored"]) == 1
    assert capsys.readouterr().err == (
        "dipole: stored: exists already; expected a new name, or to be told to overwrite it\n"
    )
    assert main(["data", "convert", "--overwrite", "stored", "data.npz"]) == 0


def test_info(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "info", "stored", "--picture", "picture.png"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("stored: 20 transitions\nepisodes       3, of which 2 ended by time\nreturns        mean ")
    assert "lengths        mean 6.66667, lowest 5, median 7, highest 8" in out
    assert "observations[2] " in out
    assert "converted_from: data.npz" in out
    with Image.open("picture.png") as picture:
        assert picture.size == (2025, 645)


@pytest.mark.parametrize("episodes", [0, 1, 100])
def test_pictures_of_few_and_many_episodes(episodes: int, tmp_path: Path) -> None:
    from dipole_sb3.plots.data import plot_data

    found = Inspection("data", transitions=500)
    found.returns.extend(range(episodes))
    found.lengths.extend(5 + i % 3 for i in range(episodes))
    with Image.open(plot_data(found, tmp_path / "picture.png")) as picture:
        assert picture.size == (2025, 645)


def test_check(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "check", "stored"]) == 0
    assert capsys.readouterr().out == "stored: 20 transitions, no problem found\n"
    arrays = recording()
    arrays["rewards"][3] = np.nan
    arrays["masks"][8] = 3
    files.write_npz("data.npz", arrays)
    assert main(["data", "check", "data.npz"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "dipole: data.npz: rewards has NaN or infinity in 1 row, first in row 3; expected finite float32 numbers"
    )
    assert lines[1] == "dipole: data.npz: masks row 8 holds 3, expected 0 or 1"


def test_training_on_a_folder(stored: Path) -> None:
    options = [
        "offline_steps=3",
        "algo.policy_kwargs.net_arch=[16]",
        "algo.device=cpu",
        "pictures=false",
        "run_dir=run",
    ]
    assert main(["train", "task=custom", "task.dataset=stored", "episodes=0", *options]) == 0
    assert Path("run/model.zip").is_file()
