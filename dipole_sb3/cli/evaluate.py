"""``dipole evaluate``: evaluates a trained model over the values of its knobs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dipole_sb3.cli import driving, hydra_command, pictures, run_folder, sweep
from dipole_sb3.cli.environments import task_env
from dipole_sb3.cli.models import config_of, load_model, model_path, run_of
from dipole_sb3.cli.options import EvaluationOptions, check_knobs, check_options
from dipole_sb3.evaluation.sweep import format_sweep_table


def run(arguments: list[str]) -> int:
    """``dipole evaluate``."""
    models = [argument.removeprefix("model=") for argument in arguments if argument.startswith("model=")]
    if any(driving.is_model(Path(model)) for model in models):
        return driving.evaluate_command(arguments)
    return hydra_command.run("evaluate", evaluate, arguments)


def evaluate(config: DictConfig, _: Path) -> None:
    """Prints the table and writes it, with its picture, to a new folder beside the model, or to ``out``.

    The files of the run itself are not changed.

    :param config: as composed from evaluate.yaml.
    :raises FileNotFoundError: there is no model at this path.
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
    model = load_model(path, config.device)
    algorithm = type(model).__name__
    check_knobs(config, algorithm, model.policy.knobs)
    # The reference lines (mean of the data, recording agent) are only valid in the run's own environment.
    own = env == (trained_with.get("task") or {}).get("env")
    folder = Path(config.out) if config.out else run_folder.new_evaluation(run_of(path))
    facts = run_folder.read_dataset_facts(run_of(path)) if own else {}
    # So is what counts as success, unless a task is asked for.
    judged = task if config.env is None else trained_with["task"] if own else {}
    made = task_env({"env": env, "success": (judged or {}).get("success")})
    (result,) = sweep.run([model], made, config, [folder], facts)
    print(format_sweep_table(result))
    if task is not None and config.env is None:
        task_id, online = config.get("task_id", trained_with.get("task_id")), trained_with.get("online_steps", 0) > 0
        if (target := sweep.target_sentence(algorithm, task, task_id, online)) is not None:
            print(target)
    table = folder / f"{sweep.stem(result.knobs)}.csv"
    picture = f", the picture in {table.with_suffix('.png')}" if config.pictures else ""
    print(f"\nThe table is in {table}{picture}")
