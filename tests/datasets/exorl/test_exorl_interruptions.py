"""What is left of a relabelling that was stopped or killed, and runs side by side; the user's script has no guard."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exorl_recordings import open_environment, record_episode, write_episodes

from dipole_sb3 import load_dataset
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.exorl.episodes import find_episodes
from dipole_sb3.datasets.exorl.relabelling import label_all

EPISODES, STEPS = 12, 250
NAME = "exorl/jaco/rnd/reach-top-left"
CACHE = "reach-top-left.relabelled-v1"

SCRIPT = """
import sys
from dipole_sb3 import load_dataset
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    load_dataset({name!r}, device="cpu", dataset_dir=sys.argv[1], processes=int(sys.argv[2]))
except OSError as error:
    print(error)
else:
    print((__import__("pathlib").Path(sys.argv[1]) / "jaco/rnd" / {cache!r} / "dataset.json").stat().st_ino)
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jaco's episodes, the slowest to relabel: one, many times."""
    folder = tmp_path_factory.mktemp("published")
    first, *_ = write_episodes(folder, [record_episode(open_environment("jaco", "reach-top-left"), 0, STEPS)])
    for index in range(1, EPISODES):
        shutil.copy(first, first.with_name(f"episode_{index:06d}_{STEPS}.npz"))
    return folder


@pytest.fixture
def recording(published: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "jaco" / "rnd"
    shutil.copytree(published, folder)
    return folder


def start(recording: Path, processes: int, *more: str) -> subprocess.Popen[str]:
    script = recording.parents[2] / "script.py"
    script.write_text(SCRIPT.format(name=NAME, cache=CACHE))
    return subprocess.Popen(
        [sys.executable, str(script), str(recording.parents[1]), str(processes), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where tests run in the background, Ctrl-C is ignored and that is inherited; at a terminal it is not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until_writing(recording: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 10_000 for path in recording.glob(f".{CACHE}.partial/*.npy")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.005)


def visible(recording: Path) -> list[str]:
    return sorted(path.name for path in recording.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGKILL, 2), (signal.SIGINT, 2)])
def test_interrupted_relabelling(recording: Path, number: signal.Signals, processes: int) -> None:
    process = start(recording, processes)
    wait_until_writing(recording, process)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)  # returns once nobody holds the pipe: workers are gone, too
    assert process.returncode != 0
    assert "SpawnProcess" not in messages
    assert visible(recording) == ["buffer"]
    if number == signal.SIGINT:
        assert not list(recording.glob("*.partial"))
    buffer = load_dataset(NAME, device="cpu", dataset_dir=recording.parents[1], processes=1)
    assert buffer.size() == EPISODES * STEPS
    assert [path.name for path in recording.iterdir() if path.suffix != ".lock"] in (
        ["buffer", CACHE],
        [CACHE, "buffer"],
    )


def test_runs_side_by_side_relabel_once(recording: Path) -> None:
    """Both take a file's number from the folder they find: relabelled twice, the second one would be another."""
    first = start(recording, 1)
    wait_until_writing(recording, first)
    second = start(recording, 1)
    numbers = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert numbers[0] == numbers[1] != ""


def test_disk_full(recording: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    output, messages = start(recording, 1, "100000").communicate(timeout=60)
    assert f"cannot write {recording / CACHE}: File too large" in output, messages
    assert len(output.splitlines()) == 1
    assert visible(recording) == ["buffer"]


def test_killed_worker(published: Path) -> None:
    others = set(multiprocessing.active_children())  # those that other libraries keep: loky's, of an earlier test
    labelled = label_all("jaco", "reach-top-left", find_episodes(published), 2)
    next(labelled)
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for worker in workers:
        worker.kill()
    with pytest.raises(DatasetError, match=r"episode_0000\d+_250\.npz: the worker process .* exit code -9"):
        list(labelled)
    assert not workers & set(multiprocessing.active_children())
