"""What is left of a generation that was stopped, killed, or ran out of room, and how it goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from small_ogbench_sets import EPISODES, POINT, ROOT, SLOW, STEPS, collect, contents, leftovers, make

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.ogbench.names import split_files
from dipole_sb3.datasets.ogbench.oracles import RECIPES, Collector
from dipole_sb3.datasets.ogbench.workers import Task, save_episode


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A generation in a process of its own, as a user's script would run it."""
    settings = {"episodes": 5, "max_episode_steps": 120, "processes": 1} | options
    script = folder / "script.py"
    script.write_text(
        "from dipole_sb3.datasets.ogbench.generation import make_dataset\n"
        'if __name__ == "__main__":\n'
        f"    make_dataset({SLOW!r}, dataset_dir={str(folder / 'data')!r}, **{settings!r})\n"
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A shell that runs the tests in its background hands down SIGINT as ignored; at a terminal it is not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "data" / f".{SLOW}-v0.partial").glob("*.npz"))


def test_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(parts(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    data = tmp_path / "data"
    assert 2 <= len(parts(tmp_path)) < 6
    assert list(data.glob("*.npz")) == []
    # A finished episode is taken as it is: put another one's in its place, and find it in the result.
    train = parts(tmp_path)
    shutil.copy(train[1], train[0])
    options: dict[str, Any] = {"name": SLOW, "episodes": 5, "max_episode_steps": 120}
    make(data, **options)
    with np.load(data / f"{SLOW}-v0.npz") as archive:
        episodes = archive["observations"].reshape(5, 120, -1)
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert leftovers(data) == []
    expected = collect(SLOW, 120, [1, 4])
    np.testing.assert_array_equal(episodes[1], expected[0]["observations"])
    np.testing.assert_array_equal(episodes[4], expected[1]["observations"])


def test_ctrl_c_leaves_a_hint_and_no_worker(tmp_path: Path) -> None:
    process = start(tmp_path, processes=2)
    wait_for(lambda: len(parts(tmp_path)) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)  # returns once nobody holds the pipe: workers are gone, too
    assert process.returncode != 0
    assert re.search(
        r"Interrupted: \d of 6 episodes are kept in .*\.cube-single-play-v0\.partial; the same call", messages
    )
    assert "SpawnProcess" not in messages
    assert not list((tmp_path / "data").glob("*.npz"))
    assert not list((tmp_path / "data").rglob("*.tmp"))


def prepare_parts(made: Path, folder: Path, count: int = EPISODES + 1) -> Path:
    """Leaves the hidden folder of a run that was stopped when the given number of episodes was finished."""
    record = json.loads((made / f"{POINT}-v0.json").read_text())
    partial = folder / f".{POINT}-v0.partial"
    partial.mkdir()
    kept = {key: value for key, value in record.items() if key not in ("episodes", "bytes")}
    (partial / "settings.json").write_text(json.dumps(kept))
    tasks = [Task("train", index) for index in range(EPISODES)] + [Task("val", 0)]
    collector = Collector(RECIPES[POINT], STEPS)
    for task in tasks[:count]:
        save_episode(collector.collect(task.seed(0)), task.file(partial))
    return partial


def test_damaged_episode_is_made_again(made: Path, tmp_path: Path) -> None:
    partial = prepare_parts(made, tmp_path)
    damaged = Task("train", 1).file(partial)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:200] + bytes(100) + whole[300:])  # the archive's directory is still there
    Task("train", 2).file(partial).write_bytes(whole[:50])  # and here it is not
    with pytest.raises(DatasetError, match=r"train-000001\.npz was damaged and is removed"):
        make(tmp_path)
    assert not damaged.exists()
    assert not list(tmp_path.glob("*.npz"))
    make(tmp_path)
    assert contents(tmp_path) == contents(made)
    assert leftovers(tmp_path) == []


def test_other_settings_are_refused_until_told_to_discard(made: Path, tmp_path: Path) -> None:
    prepare_parts(made, tmp_path, 2)
    with pytest.raises(DatasetError, match=r"made with other settings \(seed 0 instead of 1\)"):
        make(tmp_path, seed=1)
    with pytest.raises(DatasetError, match=r"max_episode_steps 30 instead of 20"):
        make(tmp_path, max_episode_steps=20)
    make(tmp_path, seed=1, overwrite=True)
    assert contents(tmp_path) != contents(made)
    assert leftovers(tmp_path) == []


def test_killed_between_the_two_final_files(made: Path, tmp_path: Path) -> None:
    prepare_parts(made, tmp_path)
    shutil.copy(made / f"{POINT}-v0-val.npz", tmp_path)
    make(tmp_path)
    assert contents(tmp_path) == contents(made)


def test_killed_while_cleaning_up(made: Path, tmp_path: Path) -> None:
    prepare_parts(made, tmp_path, 2).rename(tmp_path / f".{POINT}-v0.finished")
    for file in made.glob("*.npz"):
        shutil.copy(file, tmp_path)
    make(tmp_path)
    assert leftovers(tmp_path) == []


def test_existing_files_are_left_alone(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in made.glob(f"{POINT}*"):
        shutil.copy(file, tmp_path)
    before = [file.stat().st_mtime_ns for file in split_files(tmp_path, f"{POINT}-v0")]
    assert make(tmp_path, seed=5) == tmp_path / f"{POINT}-v0.npz"
    assert "exist already: nothing to do" in capsys.readouterr().err
    assert [file.stat().st_mtime_ns for file in split_files(tmp_path, f"{POINT}-v0")] == before
    (tmp_path / f"{POINT}-v0-val.npz").unlink()
    with pytest.raises(DatasetError, match="exists without its other split"):
        make(tmp_path)
    make(tmp_path, seed=5, overwrite=True)
    assert contents(tmp_path) != contents(made)


_LIMITED = """
import resource, sys
from dipole_sb3.datasets.ogbench.generation import make_dataset
from dipole_sb3.common.errors import DatasetError
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        make_dataset({name!r}, dataset_dir=sys.argv[1], processes=1, progress=False, **{options!r})
    except DatasetError as error:
        print(error)
"""


@pytest.mark.parametrize(("limit", "finished"), [(25_000, 0), (50_000, EPISODES + 1)])
def test_full_disk(limit: int, finished: int, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: less than an episode takes, or less than the result."""
    script, data = tmp_path / "script.py", tmp_path / "data"
    script.write_text(_LIMITED.format(name=POINT, options={"episodes": EPISODES, "max_episode_steps": 1001}))
    run = subprocess.run(
        [sys.executable, str(script), str(data), str(limit)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    sentence = r".*: cannot be written \(File too large\); finished episodes are kept in .*\n"
    assert re.fullmatch(sentence, run.stdout), run.stdout + run.stderr
    assert not list(data.glob("*.npz"))
    assert not list(data.rglob("*.tmp"))
    assert len(list(data.rglob("*.npz"))) == finished
    if finished:
        make(data, max_episode_steps=1001)
        assert leftovers(data) == []


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / f".{POINT}-v0.lock"),
        pytest.raises(DatasetError, match="another process is making this data set"),
    ):
        make(tmp_path)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        make(tmp_path / "file" / "folder")


def test_killed_worker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    # A worker starts by importing the script: this one then kills itself.
    script.write_text(
        "import os, signal\n"
        "from dipole_sb3.datasets.ogbench.generation import make_dataset\n"
        "from dipole_sb3.common.errors import DatasetError\n"
        'if __name__ == "__main__":\n'
        "    try:\n"
        f"        make_dataset({POINT!r}, episodes=2, dataset_dir={str(tmp_path)!r}, processes=2, progress=False)\n"
        "    except DatasetError as error:\n"
        "        print(error)\n"
        "else:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT)
    assert "ended with exit code -9" in run.stdout
    assert "the same call goes on from there" in run.stdout
