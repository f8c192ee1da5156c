"""``dipole evaluate``: a trained model over greediness ω and candidates N."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dipole_sb3.cli import hydra_command, pictures, run_folder, sweep
from dipole_sb3.cli.models import config_of, load_model, model_path
from dipole_sb3.cli.options import EvaluationOptions, check_options
from dipole_sb3.evaluation.sweep import format_sweep_table


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
    path = model_path(Path(config.model))
    trained_with = config_of(path)
    task = config.task if config.get("task") is not None else trained_with.get("task")
    env = config.env or (task or {}).get("env")
    if env is None:
        raise ValueError(
            f"{path}: no {run_folder.CONFIG} beside it names an environment; give env=ID, Gymnasium's or ogbench/…"
        )
    model = load_model(path, trained_with, config.device)
    # The lines for the data's mean and the recording agent belong to the run's own task only.
    own = env == (trained_with.get("task") or {}).get("env")
    folder = Path(config.out) if config.out else path.parent
    facts = run_folder.read_dataset_facts(path.parent) if own else {}
    (result,) = sweep.run([model], env, config, [folder], facts)
    print(format_sweep_table(result))
    if task is not None and config.env is None:
        task_id, online = config.get("task_id", trained_with.get("task_id")), trained_with.get("online_steps", 0) > 0
        if (target := sweep.target_sentence(task, task_id, online)) is not None:
            print(target)
    print(f"\nThe table is in {folder / sweep.TABLE}{_picture_phrase(config, folder)}")


def _picture_phrase(config: DictConfig, folder: Path) -> str:
    return f", the picture in {folder / pictures.SWEEP}" if config.pictures else ""
