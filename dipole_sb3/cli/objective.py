"""What a job returns to a sweeper that looks for the best options, such as Hydra's for Optuna."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig

from dipole_sb3.cli import hydra_command, run_folder
from dipole_sb3.cli.models import algorithm_of, own_values
from dipole_sb3.cli.options import grid_in
from dipole_sb3.cli.resuming import table_of
from dipole_sb3.cli.runs import Run
from dipole_sb3.evaluation.sweep import Grid, SweepRow, read_sweep_csv

SUCCESS, RETURN = "success", "return"


def require_objective(config: DictConfig) -> None:
    """Refuses options with which a job would have nothing to return, or the wrong thing.

    :param config: of one run.
    :raises ValueError: the message names the option.
    """
    problem = _problem(config)
    if problem is not None:
        raise hydra_command.EveryJobFails(problem)


def _problem(config: DictConfig) -> str | None:
    name, asked = config.objective, _cell_options(config)
    if name is None:
        if asked:
            return f"objective_at is {asked}, but no objective is given; expected objective={SUCCESS}, say"
        if hydra_command.sweeper_needs_results():
            return (
                "the sweeper needs a result of every job; expected objective=success or objective=return, or the name "
                f"of a column of {run_folder.PROGRESS}"
            )
        return None
    if name not in (SUCCESS, RETURN):
        return f"objective_at is {asked}, but {name} belongs to no cell; expected no objective_at" if asked else None
    if not config.episodes or config.task.env is None:
        return f"objective is {name}, but nothing is evaluated; expected episodes above 0 and an environment"
    if "MINIMIZE" in hydra_command.sweep_directions():
        return f"hydra.sweeper.direction is minimize, but more {name} is better; expected maximize"
    grid = _grid(config)
    if others := [knob for knob in asked if knob not in grid]:
        return f"objective_at names {', '.join(others)}, expected {' and '.join(grid) or 'nothing'}"
    for knob, value in _cell(config).items():
        if value not in grid[knob]:
            return f"objective_at.{knob} is {value}, which is not evaluated; expected one of {grid[knob]}"
    return None


def objective_of(runs: Sequence[Run]) -> float | None:
    """The mean over the runs of a job; None: no objective was asked for.

    It is read from their folders, for a run may have been finished by an earlier job.

    :raises ValueError: the runs have no such figure.
    """
    if runs[0].config.objective is None:
        return None
    return float(np.mean([_figure(run) for run in runs]))


def _figure(run: Run) -> float:
    name = run.config.objective
    if name not in (SUCCESS, RETURN):
        return _last_logged(run, name)
    table = table_of(run)
    assert table is not None
    cell = _cell(run.config)
    row: SweepRow | None = next((row for row in read_sweep_csv(table) if row.setting == cell), None)
    if row is None:  # a run that was finished before, with other options for its evaluation
        raise ValueError(f"{table}: has no row for {cell}, which objective_at asks for; expected another run_dir")
    value = row.success_mean if name == SUCCESS else row.return_mean
    if value is None:
        raise hydra_command.EveryJobFails(
            f"objective is success, but {run.config.task.env} reports none; expected objective=return"
        )
    return value


def _last_logged(run: Run, name: str) -> float:
    path = run.folder / run_folder.PROGRESS
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = [row[name] for row in rows if row.get(name)]
    if not values:
        known = ", ".join(rows[0]) if rows else "none: the run was too short for a row"
        raise ValueError(f"objective is {name}, which {path} does not have; expected success, return or one of {known}")
    return float(values[-1])


def _cell_options(config: DictConfig) -> dict[str, float]:
    return {str(name): value for name, value in config.objective_at.items() if value is not None}


def _grid(config: DictConfig) -> Grid:
    return grid_in(algorithm_of(config).knobs(), own_values(config), config)


def _cell(config: DictConfig) -> dict[str, float]:
    """The value of every knob of the algorithm: the asked one, the only one that is evaluated, or the model's own."""
    only = {knob: values[0] for knob, values in _grid(config).items() if len(values) == 1}
    return own_values(config) | only | _cell_options(config)
