"""Data sets of scenes: the same bytes however they come about, and nothing half-made under the final name."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving_scenes import files
from filelock import FileLock

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scenes import load_scenes, make_scenes
from dipole_sb3.driving.scenes.generation import _Work

ROOT = Path(__file__).parents[3]
SCENES = 8


def start(folder: Path) -> subprocess.Popen[str]:
    """A generation in a process of its own, as a user's script would run it."""
    script = folder / "script.py"
    script.write_text(
        "from dipole_sb3.driving.scenes import make_scenes\n"
        'if __name__ == "__main__":\n'
        f"    make_scenes(scenes={SCENES}, dataset_dir={str(folder / 'data')!r}, processes=1)\n"
    )
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, cwd=ROOT)


def logs(folder: Path) -> list[Path]:
    return sorted((folder / "data" / ".highway-mix.partial" / "navsim_logs").glob("*/*.pkl"))


def test_killed_run_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    process = start(tmp_path)
    while len(logs(tmp_path)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = tmp_path / "data"
    assert 2 <= len(logs(tmp_path)) < SCENES
    assert not (data / "highway-mix").exists()
    kept = {path: path.stat().st_mtime_ns for path in logs(tmp_path)}
    half = logs(tmp_path)[0].with_name(".train-000007-roundabout.pkl.tmp")
    half.write_bytes(b"half")
    # More scenes than are wanted now, as if the killed run had been a larger one.
    surplus = shutil.copy(logs(tmp_path)[0], logs(tmp_path)[0].with_name("train-000099-roundabout.pkl"))

    target = make_scenes(scenes=SCENES, dataset_dir=data, processes=2, progress=False)
    assert target == data / "highway-mix"
    for path, changed in kept.items():
        assert (target / path.relative_to(data / ".highway-mix.partial")).stat().st_mtime_ns == changed
    assert not (target / Path(surplus).relative_to(data / ".highway-mix.partial")).exists()
    made = files(target)
    note = json.loads(made.pop("scenes.json"))
    assert note["scenes"] == {"train": 8, "test": 2}
    # The fixture's were made in one process, in one go, without workers.
    assert made == files(folder)
    assert sorted(path.name for path in data.iterdir()) == [".highway-mix.lock", "highway-mix"]
    assert len(load_scenes("driving/highway-mix", dataset_dir=data)) == 8


def partial(data: Path, folder: Path) -> Path:
    """What is left of a run that was stopped just before its end."""
    shutil.copytree(folder, data / ".highway-mix.partial")
    return data / ".highway-mix.partial"


def test_present_scenes_are_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path / "highway-mix")
    before = files(tmp_path / "highway-mix")
    make_scenes(dataset_dir=tmp_path, progress=False)
    assert "exists already: nothing to do" in capsys.readouterr().err
    assert files(tmp_path / "highway-mix") == before
    with pytest.raises(DatasetError, match=r"has no scenes.json in it, so it is not overwritten; expected made scenes"):
        make_scenes(dataset_dir=tmp_path, progress=False, overwrite=True)
    assert files(tmp_path / "highway-mix") == before


def test_overwriting_replaces_at_the_end(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "highway-mix"
    target.mkdir()
    (target / "scenes.json").write_text("{}")
    (target / "old").touch()
    settings = _Work("highway-mix", tmp_path, 0, SCENES).settings
    (partial(tmp_path, folder) / "settings.json").write_text(json.dumps(settings))
    make_scenes(scenes=SCENES, dataset_dir=tmp_path, progress=False, processes=1, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".highway-mix.lock", "highway-mix"]
    made = files(target)
    assert json.loads(made.pop("scenes.json"))["seed"] == 0
    assert made == files(folder)


def test_killed_between_two_names(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path / ".highway-mix.replaced")
    make_scenes(dataset_dir=tmp_path, progress=False)
    assert files(tmp_path / "highway-mix") == files(folder)
    assert "exists already" in capsys.readouterr().err


def test_scenes_of_other_settings_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    unfinished = partial(tmp_path, folder)
    with pytest.raises(DatasetError, match=r"holds unfinished scenes .* \(settings.json is missing\)"):
        make_scenes(scenes=SCENES, dataset_dir=tmp_path, progress=False)
    (unfinished / "settings.json").write_text('{"seed": 1}')
    with pytest.raises(DatasetError, match=r"seed 1 instead of 0"):
        make_scenes(scenes=SCENES, dataset_dir=tmp_path, progress=False)
    assert (unfinished / "navsim_logs").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "driving/motorway"}, "driving/motorway names no driving scenes that can be made"),
        ({"scenes": 0}, "scenes is 0; expected an integer >= 1"),
        ({"seed": -1}, "seed is -1; expected an integer >= 0"),
        ({"processes": 0}, "processes is 0; expected an integer >= 1"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scenes(dataset_dir=tmp_path, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".highway-mix.lock"), pytest.raises(DatasetError, match="another process is making this"):
        make_scenes(dataset_dir=tmp_path)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file.*: cannot be written \("):
        make_scenes(dataset_dir=tmp_path / "file" / "data")
