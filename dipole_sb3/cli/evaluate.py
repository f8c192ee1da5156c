"""``dipole evaluate``: a trained model over greediness ω and candidates N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import hydra_command, pictures, run_folder, sweep
from dipole_sb3.cli.options import EvaluationOptions, check_options
from dipole_sb3.dipole import DIPOLE
from dipole_sb3.evaluation import format_sweep_table


def run(arguments: list[str]) -> int:
    """``dipole evaluate``."""
    return hydra_command.run("evaluate", evaluate, arguments)


def evaluate(config: DictConfig, _: Path) -> None:
    """Prints the table and leaves it, with its picture, beside the model.

    :param config: as composed from evaluate.yaml.
    :raises FileNotFoundError: no model there.
    :raises ValueError: neither the run's configuration nor the options name an environment.
    """
    check_options(config, EvaluationOptions)
    pictures.require_matplotlib(config)
    path = _model_path(Path(config.model))
    trained_with = _run_config(path)
    task = config.task if config.get("task") is not None else trained_with.get("task")
    env = config.env or (task or {}).get("env")
    if env is None:
        raise ValueError(
            f"{path}: no {run_folder.CONFIG} beside it names an environment; give env=ID, Gymnasium's or ogbench/…"
        )
    model = _load(path, trained_with, config.device)
    # The lines for the data's mean and the recording agent belong to the run's own task only.
    own = env == (trained_with.get("task") or {}).get("env")
    folder = Path(config.out) if config.out else path.parent
    result = sweep.run(model, env, config, folder, run_folder.read_dataset_facts(path.parent) if own else {})
    print(format_sweep_table(result))
    if task is not None and config.env is None:
        sweep.print_target(task, config.get("task_id", trained_with.get("task_id")))
    print(f"\nThe table is in {folder / sweep.TABLE}{_picture_phrase(config, folder)}")


def _picture_phrase(config: DictConfig, folder: Path) -> str:
    return f", the picture in {folder / pictures.SWEEP}" if config.pictures else ""


def _model_path(path: Path) -> Path:
    """The .zip file of a path that may be the folder of a run."""
    if path.is_dir():
        newest = run_folder.newest_checkpoint(path)
        if newest is None:
            raise FileNotFoundError(
                f"{path}: neither {run_folder.MODEL} nor a checkpoint in it; expected the folder of a run"
            )
        return newest
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a model's .zip file or the folder of a run")
    return path


def _run_config(path: Path) -> DictConfig:
    """Configuration of the run that a model belongs to: beside it, or one folder up for a checkpoint; else empty."""
    for folder in (path.parent, path.parent.parent):
        if (folder / run_folder.CONFIG).is_file():
            return run_folder.read_config(folder)
    return OmegaConf.create({})


def _load(path: Path, trained_with: DictConfig, device: str) -> DIPOLE:
    algorithm: Any = get_class(trained_with.algo["_target_"]) if "algo" in trained_with else DIPOLE
    model: DIPOLE = algorithm.load(path, device=device)
    return model
