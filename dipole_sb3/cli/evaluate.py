"""``dipole evaluate``: evaluates trained models over the values of their knobs."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from dipole_sb3.cli import driving, found_runs, hydra_command, over_runs, pictures, run_folder, sweep
from dipole_sb3.cli.engine import RAY, Engine, Task, Tell, taken_from
from dipole_sb3.cli.environments import frame_stack_of, task_env
from dipole_sb3.cli.models import config_of, load_model, model_path, run_of
from dipole_sb3.cli.options import EvaluationOptions, check_knobs, check_options, knob_options
from dipole_sb3.cli.runs import Run, setting_of
from dipole_sb3.evaluation.sweep import format_rows
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


class _Asked(NamedTuple):
    """A model, and what it is evaluated in.

    :param path: its file.
    :param run: folder of the run that it belongs to.
    :param trained_with: the run's configuration; empty if there is none.
    :param env: the environment.
    :param task: what :func:`task_env` is to know of it: ``env`` itself, what counts as success, the frames in an
        observation of the model, whether it draws.
    :param facts: what is known about the data, if the environment is the run's own.
    """

    path: Path
    model: OfflineAlgorithm
    run: Path
    trained_with: DictConfig
    env: str
    task: Mapping[str, Any]
    facts: dict[str, Any]

    @property
    def algorithm(self) -> str:
        return type(self.model).__name__


def run(arguments: list[str]) -> int:
    """``dipole evaluate``."""
    engine, arguments = taken_from(arguments)
    given = [argument for argument in arguments if argument.startswith("model=")]
    models = [argument.removeprefix("model=") for argument in given]
    if any(driving.is_model(Path(model)) for model in models):
        if len(models) > 1:
            raise ValueError(f"{models[1]}: found {len(models)} models, expected one where one is a driving agent")
        if engine is not None:
            raise ValueError(f"engine={RAY}: a driving agent is evaluated in the command's own process; expected none")
        return driving.evaluate_command(arguments)

    def job(config: DictConfig, _: Path) -> None:
        evaluate(config, models if len(models) > 1 else [str(config.model)], engine)

    # Hydra takes an option once.
    others = [argument for argument in arguments if argument not in given]
    return hydra_command.run("evaluate", job, [*others, *given[:1]])


def evaluate(config: DictConfig, models: Sequence[str], engine: Engine | None = None) -> None:
    """Prints the tables and writes them, with their pictures, to new folders beside the models, or to ``out``.

    All models play the same episodes. The files of their runs are not changed.

    :param config: as composed from evaluate.yaml.
    :param models: paths of models or runs, patterns, or folders that hold runs.
    :param engine: the cluster in which each model is a task; None: this process.
    :raises FileNotFoundError: there is no model at a path.
    :raises ValueError: neither a run's configuration nor the options name an environment.
    """
    check_options(config, EvaluationOptions)
    pictures.require_matplotlib(config)
    asked = [_asked(path, config) for path in _paths(models)]
    for each in asked:
        check_knobs(config, each.algorithm, each.model.policy.knobs)
    folders = _folders(asked, config)
    if engine is None:
        _evaluate_here(asked, config, folders)
    else:
        _evaluate_in_cluster(asked, config, folders, engine)
    runs = [Run(_configuration(each), folders[each.path], _setting(each, asked)) for each in asked]
    tables = over_runs.tables_over(runs)
    if len(asked) > 1:
        print(over_runs.format_tables(tables))
    else:
        print(format_rows(asked[0].model.policy.knobs, over_runs.read_table(runs[0])))
    _print_targets(asked, config)
    if len(asked) == 1:
        table = folders[asked[0].path] / f"{tables[0].stem}.csv"
        picture = f", the picture in {table.with_suffix('.png')}" if config.pictures else ""
        print(f"\nThe table is in {table}{picture}")
        return
    print("\nEach model's own table is in")
    for folder in folders.values():
        print(f"  {folder}/")
    whole = Path(config.out) if config.out else run_folder.new_evaluation(found_runs.common_folder([*_runs(asked)]))
    for path in over_runs.write_tables(tables, whole):
        print(f"The table over models is in {path}")


def _evaluate_here(asked: Sequence[_Asked], config: DictConfig, folders: Mapping[Path, Path]) -> None:
    """Models that play the same episodes play them together."""
    groups: dict[str, list[_Asked]] = {}
    for each in asked:
        # The reference lines of the pictures are those of the data.
        alike = [each.algorithm, str(each.task), each.facts.get("checksum")]
        groups.setdefault(json.dumps(alike), []).append(each)
    for group in groups.values():
        first, own = group[0], [folders[each.path] for each in group]
        made = task_env(first.task)
        sweep.run([each.model for each in group], made, config, own, first.facts)


def _evaluate_in_cluster(
    asked: Sequence[_Asked], config: DictConfig, folders: Mapping[Path, Path], engine: Engine
) -> None:
    from dipole_sb3.cli.engine import cluster

    tasks = []
    for each in asked:
        beside = (each.run / name for name in (run_folder.CONFIG, run_folder.DATASET))
        reads = [each.path, *(path for path in beside if path.is_file())]
        work = partial(_evaluate_alone, each.path, config, folders[each.path])
        tasks.append(Task(str(each.path), work, [folders[each.path]], reads))
    with cluster.connected(engine) as slots:
        cluster.perform_all(tasks, engine, slots, "the same command")


def _evaluate_alone(path: Path, config: DictConfig, folder: Path, tell: Tell) -> None:
    """The work of a cluster's task."""
    tell("playing", 0.0)
    each = _asked(path, config)
    made = task_env(each.task)
    sweep.run([each.model], made, config, [folder], each.facts)


def _paths(models: Sequence[str]) -> list[Path]:
    """The models' files, each once."""
    found: dict[Path, Path] = {}
    for model in models:
        matching = [model] if Path(model).exists() else sorted(glob.glob(model)) or [model]
        for path in map(Path, matching):
            is_folder_of_runs = path.is_dir() and run_folder.newest_model(path) is None
            runs = found_runs.below(path) if is_folder_of_runs else []
            for each in runs or [path]:
                file = model_path(each)
                found.setdefault(file.resolve(), file)
    return list(found.values())


def _asked(path: Path, config: DictConfig) -> _Asked:
    trained_with, own_run = config_of(path), run_of(path)
    task = config.task if config.get("task") is not None else trained_with.get("task")
    env = config.env or (task or {}).get("env")
    if env is None:
        raise ValueError(
            f"{path}: no {run_folder.CONFIG} beside it names an environment; give env=ID, Gymnasium's or ogbench/…"
        )
    # The reference lines (mean of the data, recording agent) are only valid in the run's own environment.
    own = env == (trained_with.get("task") or {}).get("env")
    # So is what counts as success, and whether it draws, unless a task is asked for.
    told = (task if config.env is None else trained_with["task"] if own else None) or {}
    facts = run_folder.read_dataset_facts(own_run) if own else {}
    model = load_model(path, config.device)
    # What a model sees is a matter of its training, in whatever environment.
    frame_stack = frame_stack_of(trained_with.get("task") or task or {})
    made = {"env": str(env), "frame_stack": frame_stack, **{name: told.get(name) for name in ("success", "draws")}}
    return _Asked(path, model, own_run, trained_with, str(env), made, facts)


def _runs(asked: Sequence[_Asked]) -> list[Path]:
    return list(dict.fromkeys(each.run for each in asked))


def _folders(asked: Sequence[_Asked], config: DictConfig) -> dict[Path, Path]:
    """Model's file → folder of its table: in ``out``, if it is given, that of its run below the folder of all."""
    if config.out is None:
        taken: list[Path] = []
        for each in asked:
            taken.append(run_folder.new_evaluation(each.run, taken))
        return dict(zip([each.path for each in asked], taken, strict=True))
    if len(asked) == 1:
        return {asked[0].path: Path(config.out)}
    files = [each.path.resolve() for each in asked]
    common = found_runs.common_folder([file.parent for file in files])
    parents = [file.parent for file in files]
    # A finished run's folder tells it; other files tell themselves.
    named = [
        file.parent
        if file.name == run_folder.MODEL and file.parent != common and parents.count(file.parent) == 1
        else file.with_suffix("")
        for file in files
    ]
    names = [Path(config.out) / each.relative_to(common) for each in named]
    return {each.path: name for each, name in zip(asked, names, strict=True)}


def _configuration(each: _Asked) -> DictConfig:
    """Of the run, in the environment of the evaluation; of a model without a run, what its table needs."""
    kind = type(each.model)
    config = {"algo": {"_target_": f"{kind.__module__}.{kind.__qualname__}"}, "task": {"name": each.env}}
    own = each.trained_with.get("task") or {}
    if own.get("env") == each.env:
        config["task"]["name"] = str(own["name"])
    return OmegaConf.create(config)


def _setting(each: _Asked, asked: Sequence[_Asked]) -> tuple[str, ...]:
    """What the run learned with; models that tell nothing of it, or of one run, are each a setting of their own."""
    alone = [other.run for other in asked].count(each.run) == 1
    own = () if alone and each.trained_with else (f"model={each.path}",)
    asked_now = {field.name for field in fields(EvaluationOptions)} | {*knob_options()}
    learned = setting_of(each.trained_with) if each.trained_with else ()
    return (*own, *(option for option in learned if option.partition("=")[0] not in asked_now))


def _print_targets(asked: Sequence[_Asked], config: DictConfig) -> None:
    """What the paper reports, each sentence once."""
    said = []
    for each in asked:
        task = config.task if config.get("task") is not None else each.trained_with.get("task")
        if task is None or config.env is not None:
            continue
        task_id = config.get("task_id", each.trained_with.get("task_id"))
        online = each.trained_with.get("online_steps", 0) > 0
        if (target := sweep.target_sentence(each.algorithm, task, task_id, online)) is not None:
            said.append(target)
    for target in dict.fromkeys(said):
        print(target)
