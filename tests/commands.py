"""What the tests of the ``dipole`` command share: small options, and what a run has left."""

from __future__ import annotations

import csv
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
