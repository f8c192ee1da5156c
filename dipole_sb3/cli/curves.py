"""``dipole curves``: learning curves of runs, as mean and 95 % interval over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dipole_sb3.cli import pictures, run_folder
from dipole_sb3.cli.found_runs import common_folder, read_runs
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, phase_scores
from dipole_sb3.cli.runs import Run, distinguished, settings

_DESCRIPTION = """\
Draws the learning curves of runs: mean over the seeds of each setting with Student's 95 % interval, one line
for each setting, one picture for each task; and prints how they scored at the end of each phase, where they
were evaluated. Runs are found in folders, however deep they lie."""

_EXAMPLES = """\
examples:
  dipole curves runs/demo
  dipole curves runs/multirun/2026-01-31_12-00-00          all runs of `dipole train -m … seed=0,1,2`
  dipole curves runs/a runs/b runs/c --out curves.png"""


def add_parser(commands: Any) -> None:
    """Adds ``curves`` to the command's subparsers."""
    parser = commands.add_parser(
        "curves",
        help="learning curves, over several seeds",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="of a run, or one that holds runs")
    parser.add_argument("--out", metavar="FILE", help="the picture (default: curves.png in the folder of the runs)")


def _run(options: argparse.Namespace) -> int:
    folders = [Path(folder) for folder in options.runs]
    runs, of_driving = read_runs(folders)
    print_without_curves(runs, of_driving)
    drawn = [run for run in runs if run_folder.has_curves(run.folder)]
    if not drawn:
        raise ValueError(f"{common_folder(folders)}: none of its runs has learning curves yet")
    out = Path(options.out) if options.out else common_folder([run.folder for run in drawn]) / pictures.CURVES
    for _, of_task in by_task(drawn).items():
        for label, of_setting in labelled(of_task).items():
            evaluations = [run.folder / EVALUATIONS for run in of_setting]
            for line in phase_scores(evaluations, of_setting[0].config.offline_steps):
                print(f"{label}: {line}" if label else line)
    for path, of_task in draw(drawn, out).items():
        print(f"The picture of {len(of_task)} {'run' if len(of_task) == 1 else 'runs'} is in {path}")
    return 0


def print_without_curves(runs: Sequence[Run], of_driving: Sequence[Path]) -> None:
    """Names the runs that cannot be drawn."""
    for run in runs:
        if not run_folder.has_curves(run.folder):
            print(f"{run.folder}: has no row of training statistics in its {run_folder.PROGRESS} yet")
    for folder in of_driving:
        print(f"{folder}: a run of a driving agent, whose log is in its TensorBoard events")


def by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each task."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(str(run.config.task.name), []).append(run)
    return found


def labelled(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each setting of a task, by a text that tells the setting from the others.

    Of another algorithm, the name tells enough: all of its options differ.
    """
    algorithms: dict[str, list[Run]] = {}
    for run in runs:
        algorithms.setdefault(algorithm_of(run.config).__name__, []).append(run)
    found = {}
    for name, of_algorithm in algorithms.items():
        for setting, of_setting in settings(distinguished(of_algorithm)).items():
            found[" ".join([*([name] if len(algorithms) > 1 else []), *setting])] = of_setting
    return found


def draw(runs: Sequence[Run], path: Path) -> dict[Path, list[Run]]:
    """Draws the learning curves of runs that have some, one picture for each task.

    :param path: PNG file; with several tasks, each has its name at the end.
    :return: the files, and the runs in each.
    """
    found = {}
    tasks = by_task(runs)
    for task, of_task in tasks.items():
        name = f"{path.stem}_{task.replace('/', '-')}{path.suffix}" if len(tasks) > 1 else path.name
        found[path.with_name(name)] = of_task
        _draw_task(labelled(of_task), path.with_name(name))
    return found


def _draw_task(of_settings: Mapping[str, Sequence[Run]], path: Path) -> None:
    from dipole_sb3 import plots

    steps = {int(run.config.offline_steps) for runs in of_settings.values() for run in runs}
    offline_steps = steps.pop() if len(steps) == 1 else None
    files = {label: [run.folder / run_folder.PROGRESS for run in runs] for label, runs in of_settings.items()}
    if len(files) == 1:
        plots.plot_curves(next(iter(files.values())), path, offline_steps=offline_steps)
    else:
        plots.plot_settings(files, path, offline_steps=offline_steps)
