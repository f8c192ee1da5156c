"""A few made scenes, and tools to spoil them."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving_scenes import recorded, write_scenes

from dipole_sb3.driving.scenes import Scenes, load_scenes
from dipole_sb3.driving.scenes.writing import Recording


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training scenes, two of each kind, and two test scenes."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "highway-mix", 8, 2)


@pytest.fixture(scope="session")
def scenes(folder: Path) -> Scenes:
    return load_scenes(folder)


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    """The first four training scenes before they were written, one of each kind."""
    return [recorded("train", index) for index in range(4)]
