"""Finds runs in folders, whichever command wrote them and however deep they lie."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dipole_sb3.cli import driving, run_folder
from dipole_sb3.cli.runs import Run, resumed

_OF_A_RUN = {"algo", "task", "offline_steps"}
"""Sections and options that tell a training run's configuration from other files of the same name."""


def run_folders(folders: Iterable[Path]) -> list[Path]:
    """Every run in these folders, each once, in the order of their names within each folder.

    A folder may be a run's own, or hold runs at any depth. What lies inside a run's folder belongs to it.

    :raises FileNotFoundError: a folder is not there, or holds no run.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        runs = below(folder)
        if not runs:
            raise FileNotFoundError(
                f"{folder}: {'no run' if folder.is_dir() else 'no such folder'}; expected the folder of a run, or one "
                f"that holds runs, which have a {run_folder.CONFIG}"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def below(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else all runs in it at any depth, in the order of their names."""
    found = []
    for path, folders, _ in os.walk(folder):
        if _is_run(Path(path)):
            found.append(Path(path))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def _is_run(folder: Path) -> bool:
    if not run_folder.is_used(folder):
        return False
    try:
        config = run_folder.read_config(folder)
    except Exception:  # any file may be called so
        return False
    return config.keys() >= _OF_A_RUN or driving.is_run(folder)


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[Path]]:
    """The training runs in folders, with all their options as settings, and the folders of driving runs.

    :raises FileNotFoundError: as :func:`run_folders`.
    """
    of_training, of_driving = [], []
    for folder in run_folders(folders):
        if driving.is_run(folder):
            of_driving.append(folder)
        else:
            of_training.append(resumed(run_folder.read_config(folder), folder))
    return of_training, of_driving


def common_folder(runs: Sequence[Path]) -> Path:
    """The innermost folder that holds all of these; of one, itself."""
    if len({run.is_absolute() for run in runs}) > 1:
        runs = [run.resolve() for run in runs]
    return Path(os.path.commonpath(runs))


def timesteps_logged(run: Path) -> int:
    """Timestep of the last row of a run's progress.csv; 0 without one."""
    file = run / run_folder.PROGRESS
    if not file.is_file():
        return 0
    with file.open(newline="", encoding="utf-8") as opened:
        steps = [row.get("time/total_timesteps") for row in csv.DictReader(opened)]
    return max((int(float(step)) for step in steps if step), default=0)
