"""A training killed in pre-training, in a rollout, in fine-tuning or while saving: the same agent, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")

# Four epochs of three batches; then, again and again, three batches of rollouts and at most 27 updates.
KILLS: dict[str, tuple[str, str, int]] = {
    "before the first checkpoint": ("dipole", "scenes", 2),
    "in pre-training": ("dipole", "scenes", 6),
    "in the first rollout": ("dipole", "scorer", 3),
    "in fine-tuning": ("dipole", "update", 8),
    "in the second rollout": ("dipole", "scorer", 5),
    "while saving in pre-training": ("dipole", "file", 7),
    "while saving in fine-tuning": ("dipole", "file", 36),
    "in awr": ("awr", "update", 8),
    "in dppo": ("dppo", "update", 8),
}


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("trainings")
    program = Path(__file__).with_name("killed_training.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(program), json.dumps(KILLS)]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    statuses: dict[str, list[int]] = json.loads(finished.stdout.splitlines()[-1])
    return folder, statuses


def saved(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "agent.json").read_text())
    return manifest


@pytest.mark.parametrize("name", KILLS)
def test_killed_trainings_end_as_if_they_had_not_been(name: str, lives: tuple[Path, dict[str, list[int]]]) -> None:
    folder, statuses = lives
    assert statuses[name] == [signal.SIGKILL, 0]
    whole, killed = saved(folder / f"whole-{KILLS[name][0]}"), saved(folder / name)
    # Files of tensors are called by the checksum of their content: weights and generator are the same.
    assert killed == whole
    assert killed["training"] is None
    assert killed["updates"] == 42
    assert sorted(path.name for path in (folder / name).iterdir()) == sorted(["agent.json", *killed["files"].values()])
