"""Small OGBench sets and ExORL recordings, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from exorl_recordings import TASKS, Episodes, record
from small_ogbench_sets import SMALL_SETS, make


@pytest.fixture(scope="session")
def ogbench_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small set of every family, made by our generator."""
    folder = tmp_path_factory.mktemp("ogbench")
    for name, (episodes, steps) in SMALL_SETS.items():
        make(folder, name=name, episodes=episodes, max_episode_steps=steps)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The point maze's set, made in one process and one go."""
    return make(tmp_path_factory.mktemp("made")).parent


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Episodes]]:
    """ExORL recordings, one per task and named after the task that was rewarded meanwhile; and their episodes."""
    folder = tmp_path_factory.mktemp("exorl")
    return folder, {(domain, task): record(folder / domain / task, domain, task) for domain, task in TASKS}
