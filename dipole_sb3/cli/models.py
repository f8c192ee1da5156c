"""Finds and loads saved models, and the configuration of the run that a model belongs to."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import run_folder
from dipole_sb3.common.trust import require_trust
from dipole_sb3.common.version import VERSION
from dipole_sb3.learning.model_files import read_origin
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.safe_files import is_safe


def model_path(path: Path) -> Path:
    """The model's .zip file.

    :param path: the .zip file itself or the folder of a run; for a folder, its newest model.
    :raises FileNotFoundError: there is no model at this path.
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


def run_of(path: Path) -> Path:
    """Folder of the run that a model belongs to; if there is none, the folder of the model."""
    folders = (path.parent, path.parent.parent)
    return next((folder for folder in folders if (folder / run_folder.CONFIG).is_file()), path.parent)


def config_of(path: Path) -> DictConfig:
    """Configuration of the run that a model belongs to; empty if there is none."""
    folder = run_of(path)
    return run_folder.read_config(folder) if (folder / run_folder.CONFIG).is_file() else OmegaConf.create({})


def algorithm_of(config: DictConfig) -> type[OfflineAlgorithm]:
    """The algorithm that a run's configuration names.

    :raises ValueError: the class cannot be imported, or it is not an algorithm for recorded data.
    """
    return _algorithm_class(str(config.algo["_target_"]), "algo._target_")


def own_values(config: DictConfig) -> dict[str, float]:
    """The value of every knob with which a run's model acts unless it is told otherwise."""
    return {knob.name: config.algo[knob.name] for knob in algorithm_of(config).knobs()}


def new_model(algo: DictConfig, **arguments: Any) -> OfflineAlgorithm:
    """A new model of a run.

    :param algo: the ``algo`` section of its configuration: ``_target_`` and the constructor's arguments.
    :param arguments: further arguments.
    :raises ValueError: the constructor does not take an argument of that name.
    """
    options: Any = OmegaConf.to_container(algo, resolve=True)
    algorithm = _algorithm_class(str(options.pop("_target_")), "algo._target_")
    options |= arguments
    try:
        inspect.signature(algorithm).bind(**options)
    except TypeError as error:
        raise ValueError(f"an option of algo does not fit {algorithm.__name__}: {error}") from error
    return algorithm(**options)


def load_model(path: Path, device: str) -> OfflineAlgorithm:
    """Loads a model with the algorithm that its file names.

    :raises ValueError: the file names no algorithm, or one that cannot be imported.
    """
    if not is_safe(path):
        # Before the module that the file names is imported.
        require_trust(path, "loading a model in SB3's format")
    named = read_origin(path).get("algorithm")
    if named is None:
        raise ValueError(f"{path}: does not name an algorithm of this package; expected a file that its save() wrote")
    return _algorithm_class(named, str(path)).load(path, device=device)


def _algorithm_class(named: str, where: str) -> type[OfflineAlgorithm]:
    try:
        found: Any = get_class(named)
    except (ImportError, ValueError) as error:
        if named.startswith("dipole_sb3.dipole."):
            raise ValueError(
                f"{where}: found {named}, of a run that dipole-sb3 0.1 began, but this is {VERSION}, which has other "
                "modules; expected a run of 0.2 or later: begin it again, or go on with 0.1"
            ) from error
        raise ValueError(f"{where}: found {named}, expected the class of an algorithm that can be imported") from error
    if not issubclass(found, OfflineAlgorithm):
        raise ValueError(f"{where}: found {named}, expected an algorithm on recorded data, such as dipole_sb3.DIPOLE")
    algorithm: type[OfflineAlgorithm] = found
    return algorithm
