"""A saved model, found by the folder of its run, and what the run knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
from dipole_sb3.cli import run_folder


def model_path(path: Path) -> Path:
    """The .zip file of a path that may be the folder of a run.

    :raises FileNotFoundError: no model there.
    """
    if path.is_dir():
        newest = run_folder.newest_model(path)
        if newest is None:
            raise FileNotFoundError(
                f"{path}: neither {run_folder.MODEL} nor a checkpoint in it; expected the folder of a run"
            )
        return newest
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a model's .zip file or the folder of a run")
    return path


def config_of(path: Path) -> DictConfig:
    """Configuration of the run that a model belongs to: beside it, or one folder up for a checkpoint; else empty."""
    for folder in (path.parent, path.parent.parent):
        if (folder / run_folder.CONFIG).is_file():
            return run_folder.read_config(folder)
    return OmegaConf.create({})


def load_model(path: Path, trained_with: DictConfig, device: str) -> DIPOLE:
    """The model, as the algorithm that the run's configuration names."""
    algorithm: Any = get_class(trained_with.algo["_target_"]) if "algo" in trained_with else DIPOLE
    model: DIPOLE = algorithm.load(path, device=device)
    return model
