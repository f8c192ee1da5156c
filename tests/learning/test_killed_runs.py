"""``dipole train`` killed at random moments, resumed each time: the same run, bit for bit, as one that never was."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dipole_sb3 import DIPOLE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")

OPTIONS = [
    *["task=reacher", "algo.batch_size=16", "algo.policy_kwargs.net_arch=[16]", "algo.flow_steps=2", "algo.verbose=0"],
    *["algo.num_candidates=2", "checkpoint_freq=70", "eval_freq=30", "eval_episodes=1", "processes=1", "episodes=0"],
    *["pictures=false", "log_interval=1", "progress_bar=false"],
]


PLAN: dict[str, Any] = {
    # Rows of the log and evaluations lie between the checkpoints, and so beyond the last one before most kills.
    "arguments": ["train", *OPTIONS, "offline_steps=120", "online_steps=180"],
    # At moments of which the first is in the offline phase and the second in the online one.
    "kills": 2,
    "seed": 2,
    # After the kills, the kernel ends the process twice at the byte beyond a limit: in the next checkpoint, and in one
    # that has grown with what was gathered.
    "file_sizes": [40_000, 93_000],
}


@pytest.fixture
def lives(tmp_path: Path) -> list[int]:
    """Wait statuses of the lives of the run ``killed``; beside it is the run ``whole``."""
    program = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, str(program), json.dumps(PLAN)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    statuses: list[int] = json.loads(finished.stdout.splitlines()[-1])
    assert statuses[-1] == 0, finished.stdout + finished.stderr
    return statuses


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    model = DIPOLE.load(folder / "model.zip", device="cpu")
    optimizer = model.policy.optimizer.state_dict()["state"]
    moments = {
        f"{index}/{name}": torch.as_tensor(value) for index, row in optimizer.items() for name, value in row.items()
    }
    return {**model.policy.state_dict(), **moments}


def rows(folder: Path) -> list[dict[str, str]]:
    """Of progress.csv, without times."""
    with open(folder / "progress.csv", newline="") as file:
        table = list(csv.DictReader(file))
    kept = [name for name in table[0] if name == "time/total_timesteps" or not name.startswith("time/")]
    return [{name: row[name] for name in kept} for row in table]


def events(folder: Path) -> list[tuple[int, float]]:
    """What TensorBoard shows of the evaluations: (timestep, value)."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("eval/mean_reward")]


def test_a_killed_run_becomes_what_it_would_have_been(lives: list[int], tmp_path: Path) -> None:
    folder = tmp_path
    assert signal.SIGKILL in lives
    assert lives.count(signal.SIGXFSZ) == len(PLAN["file_sizes"])
    whole, killed = parameters(folder / "whole"), parameters(folder / "killed")
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert rows(folder / "killed") == rows(folder / "whole")
    assert events(folder / "killed") == events(folder / "whole")
    evaluations = [np.load(folder / run / "evaluations" / "evaluations.npz") for run in ("whole", "killed")]
    for key in ("timesteps", "results"):
        assert np.array_equal(evaluations[0][key], evaluations[1][key])
    checkpoints = [
        sorted(path.name for path in (folder / run / "checkpoints").iterdir()) for run in ("whole", "killed")
    ]
    assert checkpoints[0] == checkpoints[1]
