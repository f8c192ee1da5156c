"""``dipole summary``, and what ``dipole train`` prints at its end: the results of runs, read from their folders."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from dipole_sb3.cli import curves, over_runs, pictures, run_folder, sweep
from dipole_sb3.cli.found_runs import common_folder, read_runs, timesteps_logged
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, phase_scores
from dipole_sb3.cli.resuming import is_finished, steps_of, table_of
from dipole_sb3.cli.runs import Run, distinguished, settings, shell_words
from dipole_sb3.evaluation.sweep import format_rows

_DESCRIPTION = """\
The table over runs, read from their folders, whoever trained them and wherever: one command or several, a
sweep, a benchmark, a scheduler. Seeds of one setting are one line, with Student's 95 % interval over them.
Prints the table, writes it as STEM_over_runs.csv, and draws it and the learning curves."""

_EXAMPLES = """\
examples:
  dipole summary runs/multirun/2026-01-31_12-00-00
  dipole summary runs/reacher runs/elsewhere --out tables"""


def add_parser(commands: Any) -> None:
    """Adds ``summary`` to the command's subparsers."""
    parser = commands.add_parser(
        "summary",
        help="the table over runs, from their folders",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of a run, or one that holds runs, at any depth")
    parser.add_argument("--out", metavar="FOLDER", help="where the files go (default: the folder that holds all runs)")


def _run(options: argparse.Namespace) -> int:
    summarise(list(map(Path, options.folders)), Path(options.out) if options.out else None)
    return 0


def summarise(folders: Sequence[Path], out: Path | None = None) -> None:
    """Prints, writes and draws the table over the runs in folders.

    :param folders: of a run each, or folders that hold runs.
    :param out: where the files go; None: the folder that holds all runs.
    :raises FileNotFoundError: there is no run in a folder.
    """
    runs, of_driving = read_runs(folders)
    left_out = [f"{folder}: a run of a driving agent, whose table is in its folder" for folder in of_driving]
    evaluated: dict[tuple[tuple[str, ...], int], Run] = {}
    for run in runs:
        if (problem := _without_table(run)) is not None:
            left_out.append(problem if problem.startswith(f"{run.folder}/") else f"{run.folder}: {problem}")
            continue
        first = evaluated.setdefault((run.setting, run.config.seed), run)
        if first is not run:
            left_out.append(f"{run.folder}: the same run as {first.folder}, with the seed {run.config.seed}")
    chosen = list(evaluated.values())
    folder = out or common_folder([run.folder for run in runs] or of_driving)
    if chosen:
        print_table(chosen)
        _print_scores(settings(distinguished(chosen)))
    if left_out:
        print("\nNot in the table:" if chosen else "There is no table:")
        for line in left_out:
            print(f"  {line}")
    _write(chosen, [run for run in runs if run_folder.has_curves(run.folder)], folder)


def _without_table(run: Run) -> str | None:
    """Why there is no table of a run; None: there is one."""
    try:
        table = table_of(run)
        if not is_finished(run):
            steps = steps_of(run)
            model = run.folder / run_folder.MODEL
            done = timesteps_logged(run.folder)
            if model.is_file() and run_folder.timesteps_of(model) >= steps:
                return f"not evaluated yet; `dipole train resume={run.folder}` does it"
            return f"not finished, {done} of {steps} timesteps logged"
        if table is None:
            return "not evaluated, as it was asked for (episodes=0, or no environment)"
        over_runs.read_table(run)
    except (ConfigKeyError, ConfigAttributeError) as error:
        return f"its {run_folder.CONFIG} has no {error.full_key}; it is of another version"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _write(evaluated: Sequence[Run], with_curves: Sequence[Run], folder: Path) -> None:
    """Writes the tables over several runs and draws them and the learning curves."""
    draws = importlib.util.find_spec("matplotlib") is not None
    print()
    if len(evaluated) > 1:
        tables = over_runs.tables_over(evaluated)
        for path in over_runs.write_tables(tables, folder):
            print(f"The table over runs is in {path}")
        for path in over_runs.draw_tables(tables, folder) if draws else ():
            print(f"Its picture is in {path}")
    if with_curves and draws:
        folder.mkdir(parents=True, exist_ok=True)
        for path in curves.draw(with_curves, folder / pictures.CURVES):
            print(f"The learning curves are in {path}")
    if not draws:
        print("There are no pictures: matplotlib is not installed; pip install 'dipole-sb3[plots]'")


def print_table(evaluated: Sequence[Run]) -> None:
    """Prints the table over runs that have been evaluated; of one run its own, with intervals over episodes."""
    if len(evaluated) > 1:
        print(f"\n{over_runs.format_tables(over_runs.tables_over(evaluated))}")
    else:
        knobs = algorithm_of(evaluated[0].config).knobs()
        print(f"\n{format_rows(knobs, over_runs.read_table(evaluated[0]))}")


def report(runs: Sequence[Run]) -> None:
    """Prints the results of the runs of one command, the paper's results and the folders; writes the table over runs.

    :param runs: runs that have ended; those that were evaluated have their table.
    """
    evaluated = [run for run in runs if (table := table_of(run)) is not None and table.is_file()]
    if evaluated:
        print_table(evaluated)
    of_settings = settings(runs)
    _print_scores(of_settings)
    if len(runs) == 1:
        print(f"\nThis run is in {runs[0].folder}/")
        return
    print("\nThe runs are in")
    for run in runs:
        print(f"  {run.folder}/")
    if evaluated and runs[0].collection is not None:
        for path in over_runs.write_tables(over_runs.tables_over(evaluated), runs[0].collection):
            print(f"The table over runs is in {path}")
    commands = [
        f"dipole curves {shell_words(of_setting)}" for of_setting in of_settings.values() if len(of_setting) > 1
    ]
    if commands:
        print("Learning curves, as mean and interval over seeds:")
        for command in commands:
            print(f"  {command}")


def _print_scores(of_settings: Mapping[tuple[str, ...], Sequence[Run]]) -> None:
    """Prints the results after each phase, if there are two, and the paper's result, once if it is the same for all."""
    targets: dict[str, str | None] = {}
    for setting, runs in of_settings.items():
        config = runs[0].config
        label = f"{' '.join(setting)}: " if setting else ""
        if config.online_steps:
            for score in phase_scores([run.folder / EVALUATIONS for run in runs], config.offline_steps):
                print(f"{label}{score}")
        task_id = config.get("task_id")
        algorithm = algorithm_of(config).__name__
        targets[label] = sweep.target_sentence(algorithm, config.task, task_id, online=config.online_steps > 0)
    if len(set(targets.values())) == 1:
        targets = {"": next(iter(targets.values()))}
    for label, target in targets.items():
        if target is not None:
            print(f"{label}{target}")
