"""Small folders of made driving scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dipole_sb3.driving.scenes.making import make_scene, record_scene
from dipole_sb3.driving.scenes.names import SPLITS
from dipole_sb3.driving.scenes.writing import Recording


def seed_of(split: str, index: int, seed: int = 0) -> np.random.SeedSequence:
    """A scene's seed, as ``make_scenes`` gives it."""
    return np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))


def recorded(split: str, index: int) -> Recording:
    """A scene as it is before it is written."""
    return record_scene(split, index, seed_of(split, index))


def write_scenes(folder: Path, train: int, test: int) -> Path:
    """Scenes as ``make_scenes`` writes them, made in this process."""
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            make_scene(folder, split, index, seed_of(split, index))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
