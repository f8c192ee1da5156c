"""Small OGBench sets that the tests of this folder share, and how to make and read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from parts_here import in_this_process

from dipole_sb3.datasets.ogbench.generation import make_dataset
from dipole_sb3.datasets.ogbench.names import split_files
from dipole_sb3.datasets.ogbench.oracles import RECIPES, Collector, Episode
from dipole_sb3.datasets.ogbench.workers import Task

SMALL_SETS = {
    "cube-double-play": (3, 40),
    "scene-play": (2, 40),
    "puzzle-3x3-play": (2, 40),
    "pointmaze-medium-navigate": (10, 300),
}
"""Training episodes and steps per episode of each set."""

POINT = "pointmaze-medium-navigate"
STEPS = 30
ROOT = Path(__file__).parents[2]
EPISODES = 4
SLOW = "cube-single-play"
"""For tests that have to hit a run while it works."""


def make(folder: Path, **options: Any) -> Path:
    """Where nothing is drawn and one process is enough, it is this one; the bytes are those of workers."""
    settings = {"episodes": EPISODES, "max_episode_steps": STEPS, "processes": 1, "progress": False} | options
    name = settings.pop("name", POINT)
    if settings["processes"] == 1 and name in RECIPES and not RECIPES[name].is_visual:
        settings["elsewhere"] = in_this_process
    return make_dataset(name, dataset_dir=folder, **settings)


def contents(folder: Path, name: str = POINT) -> list[bytes]:
    return [file.read_bytes() for file in split_files(folder, f"{name}-v0")]


def leftovers(folder: Path) -> list[str]:
    """Everything but the two files of the set, their record, and the lock."""
    return sorted(path.name for path in folder.iterdir() if not re.search(r"-v0(-val)?\.(npz|json|lock)$", path.name))


def collect(name: str, steps: int, order: list[int]) -> list[Episode]:
    collector = Collector(RECIPES[name], steps)
    return [collector.collect(Task("train", index).seed(0)) for index in order]
