"""``dipole train``: every run has its own folder; runs that can learn together do so."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Container, Sequence
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig
from stable_baselines3.common.utils import get_device

from dipole_sb3.cli import driving, hooks, hydra_command, pictures, run_folder, shared_machine, summary, training
from dipole_sb3.cli.configuration import is_tuned
from dipole_sb3.cli.engine import Engine, Task, split, taken_from
from dipole_sb3.cli.interrupt import ends_with_status
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.objective import objective_of, require_objective
from dipole_sb3.cli.options import check_hyperparameters, check_knobs
from dipole_sb3.cli.resuming import (
    AUTO,
    Resume,
    require_can_go_on,
    resumed_config,
    unfinished,
)
from dipole_sb3.cli.runs import (
    Run,
    claim_folders,
    distinguished,
    require_different,
    resumed,
    runs_of,
    settings,
    stackable_groups,
)


def run(arguments: list[str]) -> int:
    """``dipole train``; resuming does not need Hydra, because the configuration is already resolved."""
    if driving.is_asked_for(arguments):
        return driving.train_command(arguments)
    engine, arguments = taken_from(arguments)
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    how: Resume = AUTO if resume == [f"resume={AUTO}"] else False
    if how == AUTO:
        arguments = [argument for argument in arguments if argument not in resume]
    elif resume:
        folders = [Path(argument.removeprefix("resume=")) for argument in resume]
        others = [argument for argument in arguments if argument not in resume]
        again = [resumed(resumed_config(folder, others), folder) for folder in folders]
        train_and_evaluate(again, resume=True, engine=engine)
        return 0
    runs: list[Run] = []

    # Hydra runs its jobs one after the other, but all runs must be known before runs can learn together. So the jobs
    # only collect the runs. (A custom launcher would have to be in the package hydra_plugins, which every Hydra program
    # loads.)
    untuned: set[tuple[str, str]] = set()

    def collect(config: DictConfig, folder: Path) -> float | None:
        algorithm, task = chosen = hydra_command.choices()
        if task != "custom" and not is_tuned(algorithm, task) and chosen not in untuned:
            untuned.add(chosen)
            print(
                f"{algorithm} has no hyperparameters of its own for {task}: those of configs/algo/{algorithm}.yaml hold"
            )
        alone, named = hydra_command.job_stands_alone(), hydra_command.folder_was_named()
        sweep_folder = None if alone else hydra_command.sweep_folder()
        asked = runs_of(config, folder, hydra_command.overrides(), sweep_folder, named)
        if not alone:
            runs.extend(asked)
            return None
        train_and_evaluate(asked, how, engine)
        return objective_of(asked)

    hydra_command.run("train", collect, arguments)
    if runs:
        train_and_evaluate(runs, how, engine)
    elif (folder := hydra_command.folder_of_finished_sweep()) is not None:
        # Its jobs were other processes, or each alone; the table over them is still to be made.
        print()
        summary.summarise([folder], folder)
    return 0


def train_and_evaluate(runs: Sequence[Run], resume: Resume = False, engine: Engine | None = None) -> None:
    """Trains and evaluates any number of runs, in groups that can learn together, and prints a summary of all.

    No other process can write their folders meanwhile.

    :param engine: the cluster in which they learn; None: this process.
    :raises ValueError: the options of a run are not valid, or its folder is in use; no run has started then.
    :raises SystemExit: stopped by a signal; the models are saved.
    """
    runs = distinguished(runs)
    require_startable(runs)
    if resume == AUTO:
        require_can_go_on(runs)
    if engine is not None:
        _train_in_cluster(runs, resume, engine)
        return
    with ExitStack() as opened:
        runs = claim_folders(runs, opened, may_be_used=bool(resume))
        opened.enter_context(ends_with_status())
        left = unfinished(runs) if resume == AUTO else runs
        if left:
            _train_and_evaluate(left, resume)
            summary.report(runs)  # with those that an earlier start has finished


def _train_in_cluster(runs: Sequence[Run], resume: Resume, engine: Engine) -> None:
    """The same in a cluster: what learns as one is cut so that every slot has something to do."""
    from dipole_sb3.cli.engine import cluster

    with cluster.connected(engine) as slots:
        with ExitStack() as opened:
            runs = claim_folders(runs, opened, may_be_used=bool(resume))
            left = unfinished(runs) if resume == AUTO else runs
            for run in left:
                # It keeps the folder's name until a task claims it, and is what a task that never began goes on with.
                replaced = not resume and run_folder.is_used(run.folder)
                name = run_folder.REPLACING if replaced else run_folder.CONFIG
                run_folder.write_config(run.folder, run.config, name)
        tasks = tasks_of(stackable_groups(runs), {run.folder for run in left}, slots, resume is True)
        go_on_with = ["dipole", "train", *engine.options, *(f"resume={run.folder}" for run in left)]
        cluster.perform_all(tasks, engine, slots, shlex.join(go_on_with))
    summary.report(runs)


def tasks_of(groups: Sequence[Sequence[Run]], left: Container[Path], slots: int, asked: bool) -> list[Task]:
    """The tasks of a cluster.

    A run learns together with the same others whatever is finished already: that is part of how its figures are
    rounded.

    :param groups: runs that can learn as one.
    :param left: folders of those that are not finished.
    :param slots: tasks at a time.
    :param asked: as in :func:`~dipole_sb3.cli.training.train_group`.
    """
    tasks = []
    for part in split(groups, slots):
        runs = [run for run in part if run.folder in left]
        if runs:
            tasks.append(training.task_of(_described(runs), runs, asked))
    return tasks


def _train_and_evaluate(runs: Sequence[Run], resume: Resume) -> None:
    if get_device(runs[0].config.algo.device).type == "cpu" and (hint := shared_machine.hint()):
        print(hint)
    groups = stackable_groups(runs)
    for number, group in enumerate(groups, start=1):
        if len(runs) > 1:
            print(f"Training {_described(group)}{f', group {number} of {len(groups)}' if len(groups) > 1 else ''}")
            if len(group) > 1 and group[0].config.algo.verbose:
                print(f"The log of {group[0].folder}/ is shown, that of each is in its {run_folder.PROGRESS}")
        try:
            trained = training.train(group, resume)
        except SystemExit:
            for waiting in groups[number:]:
                for of_setting in settings(waiting).values():
                    print(f"Not begun: {_described(of_setting)}")
            raise
        try:
            training.evaluate(group, trained)
        except Exception:
            saved = " and ".join(str(each.folder / run_folder.MODEL) for each in group)
            print(f"dipole: the evaluation failed; all that was learned is in {saved}", file=sys.stderr)
            raise
        del trained  # frees memory for the next group


def require_startable(runs: Sequence[Run]) -> None:
    """Refuses all runs if the options of one of them are not valid.

    :raises ValueError: the message names the option.
    """
    for each in runs:
        pictures.require_matplotlib(each.config)
        algorithm = algorithm_of(each.config)
        check_knobs(each.config, algorithm.__name__, algorithm.knobs())
        require_objective(each.config)
        check_hyperparameters(each.config, algorithm.update_rule.objective)
        _require_env_where_needed(each.config)
        hooks.check_hooks(each)
    require_different(runs)


def _described(group: Sequence[Run]) -> str:
    """Describes a group in one line for the terminal."""
    found = settings(group)
    of = " ".join(group[0].setting) if len(found) == 1 else f"{len(found)} settings"
    seeds = ", ".join(map(str, sorted({each.config.seed for each in group})))
    return f"{len(group)} {'run' if len(group) == 1 else 'runs'} ({f'{of}, ' if of else ''}seed {seeds})"


def _require_env_where_needed(config: DictConfig) -> None:
    if config.offline_steps + config.online_steps == 0:
        raise ValueError("offline_steps and online_steps are both 0, expected at least 1 step")
    for option in ("online_steps", "eval_freq", "normalize"):
        if config[option] and config.task.env is None:
            raise ValueError(f"{option} is {config[option]}, but the task has no environment; give task.env=ID")
