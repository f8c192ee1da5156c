"""What the tests of the ``dipole`` command share: small options, and what a run has left."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dipole_sb3 import DIPOLE

TINY = [
    "offline_steps=20",
    "algo.batch_size=16",
    "algo.policy_kwargs.net_arch=[16,16]",
    "algo.verbose=0",
    "pictures=false",
]
UNTESTED = [*TINY, "episodes=0"]

Command = Callable[..., tuple[int, str, str]]
"""The fixture ``dipole``: runs the command, gives exit status, stdout and stderr."""


def the_run(folder: str) -> Path:
    """The one run folder below a folder."""
    (found,) = Path(folder).glob("*")
    return found


def progress(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def parameters(path: Path) -> dict[str, torch.Tensor]:
    return dict(DIPOLE.load(path, device="cpu").policy.state_dict())


def timesteps(folder: Path) -> list[int]:
    return [int(float(row["time/total_timesteps"])) for row in progress(folder)]


def training_with_checkpoints(folder: Path, *options: str, checkpoints: int = 1) -> subprocess.Popen[str]:
    """``dipole train`` in a process of its own that would not end, when it has left so many checkpoints."""
    # Eager, because a run of that length would be compiled first.
    endless = ["algo.acceleration=eager", "offline_steps=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dipole_sb3.cli", "train", *options, *UNTESTED, *endless],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (
        len(list(folder.rglob("model_*_steps.zip"))) < checkpoints
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.01)
    return process
