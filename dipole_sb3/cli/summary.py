"""Summarises the runs of a command line on the terminal, and several runs also as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dipole_sb3.cli import sweep
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, phase_scores
from dipole_sb3.cli.runs import Run, settings, shell_words
from dipole_sb3.common.files import write_csv
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.evaluation.sweep import (
    SweepResult,
    SweepRow,
    aligned_table,
    format_cells,
    format_sweep_table,
    return_cell,
    setting_text,
    success_cell,
    sweep_columns,
    sweep_values,
)
from dipole_sb3.learning.knobs import Knob


class Finished(NamedTuple):
    """A finished run and its evaluation; None if it was not evaluated."""

    run: Run
    result: SweepResult | None


class Line(NamedTuple):
    """One cell of the evaluation for one setting, over all runs of the setting.

    :param setting: the overrides that distinguish it from the other settings.
    :param runs: number of runs.
    :param cell: means over the runs, with Student's 95 % interval.
    """

    setting: tuple[str, ...]
    runs: int
    cell: SweepRow


def report(finished: Sequence[Finished]) -> None:
    """Prints the results of the runs, the paper's results and the folders; writes the table over runs."""
    runs = [each.run for each in finished]
    of_settings = settings(runs)
    lines = over_runs(finished) if len(runs) > 1 else []
    knobs = next((each.result.knobs for each in finished if each.result is not None), ())
    if lines:
        print(f"\n{format_over_runs(knobs, lines)}")
    elif finished[0].result is not None:
        print(f"\n{format_sweep_table(finished[0].result)}")
    _print_scores(of_settings)
    if len(runs) == 1:
        print(f"\nThis run is in {runs[0].folder}/")
        return
    print("\nThe runs are in")
    for run in runs:
        print(f"  {run.folder}/")
    if lines and runs[0].collection is not None:
        table = runs[0].collection / f"{sweep.stem(knobs)}_over_runs.csv"
        write_over_runs(lines, table)
        print(f"The table over runs is in {table}")
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


def over_runs(finished: Sequence[Finished]) -> list[Line]:
    """Every cell of every setting: the mean over its runs of each run's mean over episodes."""
    results = {each.run.folder: each.result for each in finished if each.result is not None}
    lines = []
    for setting, runs in settings([each.run for each in finished]).items():
        of_setting = [results[run.folder] for run in runs if run.folder in results]
        for row in of_setting[0].rows if of_setting else ():
            cells = [result.row(**row.setting) for result in of_setting]
            rates = [cell.success_mean for cell in cells if cell.success_mean is not None]
            cell = SweepRow(
                row.setting,
                row.episodes,
                *mean_interval([each.return_mean for each in cells]),
                *(mean_interval(rates) if rates else ()),
            )
            lines.append(Line(setting, len(cells), cell))
    return lines


def format_over_runs(knobs: Sequence[Knob], lines: Sequence[Line]) -> str:
    """The table for a terminal.

    With one setting, the first knob's values go down and the others across. With several, each setting has one line.

    :param knobs: the knobs that were varied.
    """
    over = f"{_numbers(line.cell.episodes for line in lines)} episodes a cell"
    if max(line.runs for line in lines) > 1:
        over = f"mean over {_numbers(line.runs for line in lines)} runs with its 95 % interval, {over} and run"
    sections = [("Return", return_cell, lines)]
    successful = [line for line in lines if line.cell.success_mean is not None]
    if successful:
        sections.insert(0, ("Success rate", success_cell, successful))
    tables = []
    for name, text, of_section in sections:
        if len({line.setting for line in lines}) == 1:
            tables.append(f"{name}, {over}\n{format_cells(knobs, [line.cell for line in of_section], text)}")
            continue
        of_others: dict[str, list[Line]] = {}
        for line in of_section:
            others = {knob.name: line.cell.setting[knob.name] for knob in knobs[1:]}
            of_others.setdefault(setting_text(knobs, others), []).append(line)
        for others_text, rows in of_others.items():
            at = f" at {others_text}" if others_text else ""
            tables.append(f"{name}{at}, {over}\n{_table_of_settings(knobs, rows, text)}")
    return "\n\n".join(tables)


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


def _table_of_settings(knobs: Sequence[Knob], lines: Sequence[Line], text: Callable[[SweepRow], str]) -> str:
    rows: dict[tuple[str, ...], list[str]] = {}
    columns: dict[str, None] = {}
    for line in lines:
        rows.setdefault(line.setting, [" ".join(line.setting), str(line.runs)]).append(text(line.cell))
        first = {knob.name: line.cell.setting[knob.name] for knob in knobs[:1]}
        columns[setting_text(knobs, first) or "all"] = None
    return aligned_table(["setting", "runs", *columns], list(rows.values()))


def write_over_runs(lines: Sequence[Line], path: Path) -> None:
    """The table as CSV: options that differ between settings, number of runs, then the columns of a sweep's table.

    :raises OSError: the file cannot be written; an earlier file with this name is unchanged.
    """
    options = list(dict.fromkeys(each.partition("=")[0] for line in lines for each in line.setting))
    columns = sweep_columns([line.cell for line in lines])
    table: list[list[Any]] = [[*options, "runs", *columns]]
    for line in lines:
        values = dict(each.split("=", 1) for each in line.setting)
        own = [values.get(option, "") for option in options]
        table.append([*own, line.runs, *sweep_values(line.cell, [each.cell for each in lines])])
    write_csv(path, table)
