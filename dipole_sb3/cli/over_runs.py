"""The tables over runs, built from what the runs have left in their folders, whoever trained them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dipole_sb3.cli import sweep
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.runs import Run, distinguished, settings
from dipole_sb3.common.files import write_csv
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.evaluation.sweep import (
    SweepRow,
    aligned_table,
    format_cells,
    read_sweep_csv,
    return_cell,
    setting_text,
    success_cell,
    sweep_columns,
    sweep_values,
)
from dipole_sb3.learning.knobs import Knob

MOST_DRAWN = 8
"""Lines that a picture tells apart."""


class Line(NamedTuple):
    """One cell of the evaluation for one setting, over all runs of the setting.

    :param setting: the options that distinguish it from the other settings.
    :param runs: number of runs.
    :param cell: means over the runs, with Student's 95 % interval.
    """

    setting: tuple[str, ...]
    runs: int
    cell: SweepRow


class Table(NamedTuple):
    """All settings of one algorithm on one task.

    :param task: name of the task.
    :param algorithm: name of the algorithm's class.
    :param knobs: the knobs that were varied.
    :param lines: cell by cell of every setting.
    """

    task: str
    algorithm: str
    knobs: tuple[Knob, ...]
    lines: list[Line]

    @property
    def stem(self) -> str:
        """File name of a run's own table, without suffix."""
        return sweep.stem(self.knobs)


def read_table(run: Run) -> list[SweepRow]:
    """The evaluation in a run's folder, with the values that were written.

    :raises FileNotFoundError: the run has not been evaluated.
    :raises ValueError: the file is no such table.
    """
    knobs = {knob.name: knob for knob in algorithm_of(run.config).knobs()}
    path = run.folder / f"{sweep.stem(tuple(knobs.values()))}.csv"
    rows = read_sweep_csv(path)
    if rows[0].setting.keys() != knobs.keys():
        raise ValueError(f"{path}: has columns for {', '.join(rows[0].setting)}, expected {', '.join(knobs)}")
    return [
        SweepRow({name: knobs[name].checked(value) for name, value in row.setting.items()}, *_numbers_of(row))
        for row in rows
    ]


def _numbers_of(row: SweepRow) -> tuple[Any, ...]:
    returns = (row.return_mean, row.return_low, row.return_high)
    return (row.episodes, *returns, row.success_mean, row.success_low, row.success_high)


def tables_over(runs: Sequence[Run]) -> list[Table]:
    """One table for each algorithm on each task: the mean over runs of each run's mean over episodes.

    :param runs: runs that have been evaluated.
    :raises ValueError: a run's own table cannot be read.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((str(run.config.task.name), algorithm_of(run.config).__name__), []).append(run)
    return [
        Table(task, algorithm, tuple(algorithm_of(group[0].config).knobs()), _lines(distinguished(group)))
        for (task, algorithm), group in groups.items()
    ]


def _lines(runs: Sequence[Run]) -> list[Line]:
    lines = []
    for setting, of_setting in settings(runs).items():
        tables = [{tuple(row.setting.items()): row for row in read_table(run)} for run in of_setting]
        for key in dict.fromkeys(key for table in tables for key in table):
            cells = [table[key] for table in tables if key in table]
            rates = [cell.success_mean for cell in cells if cell.success_mean is not None]
            cell = SweepRow(
                dict(key),
                cells[0].episodes,
                *mean_interval([each.return_mean for each in cells]),
                *(mean_interval(rates) if rates else ()),
            )
            lines.append(Line(setting, len(cells), cell))
    return lines


def format_tables(tables: Sequence[Table]) -> str:
    """The tables for a terminal, under their names if there are several."""
    if len(tables) == 1:
        return _format(tables[0])
    return "\n\n".join(f"{table.algorithm} on {table.task}\n\n{_format(table)}" for table in tables)


def _format(table: Table) -> str:
    """With one setting, the first knob's values go down and the others across. With several, each has one line."""
    knobs, lines = table.knobs, table.lines
    over = f"{_numbers(line.cell.episodes for line in lines)} episodes a cell"
    if max(line.runs for line in lines) > 1:
        over = f"mean over {_numbers(line.runs for line in lines)} runs with its 95 % interval, {over} and run"
    sections = [("Return", return_cell, lines)]
    successful = [line for line in lines if line.cell.success_mean is not None]
    if successful:
        sections.insert(0, ("Success rate", success_cell, successful))
    texts = []
    for name, text, of_section in sections:
        if len({line.setting for line in lines}) == 1:
            texts.append(f"{name}, {over}\n{format_cells(knobs, [line.cell for line in of_section], text)}")
            continue
        of_others: dict[str, list[Line]] = {}
        for line in of_section:
            of_others.setdefault(_others(knobs, line.cell), []).append(line)
        for others, rows in of_others.items():
            at = f" at {others}" if others else ""
            texts.append(f"{name}{at}, {over}\n{_table_of_settings(knobs, rows, text)}")
    return "\n\n".join(texts)


def _others(knobs: Sequence[Knob], cell: SweepRow) -> str:
    """The values of all knobs but the first."""
    return setting_text(knobs, {knob.name: cell.setting[knob.name] for knob in knobs[1:]})


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


def _table_of_settings(knobs: Sequence[Knob], lines: Sequence[Line], text: Callable[[SweepRow], str]) -> str:
    """One line for each setting; a cell that a setting has not is empty."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for line in lines:
        first = setting_text(knobs, {knob.name: line.cell.setting[knob.name] for knob in knobs[:1]}) or "all"
        rows.setdefault(line.setting, {"runs": str(line.runs)})[first] = text(line.cell)
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return aligned_table(
        ["setting", *columns],
        [[" ".join(setting), *(row.get(column, "") for column in columns)] for setting, row in rows.items()],
    )


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Writes the tables as CSV files, those with the same first knob into one, e.g. ``omega_sweep_over_runs.csv``.

    Columns: task and algorithm where they differ, the options that differ between settings, number of runs, then the
    columns of a run's own table.

    :return: the files.
    :raises OSError: a file cannot be written; an earlier file with this name is unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_stems: dict[str, list[Table]] = {}
    for table in tables:
        of_stems.setdefault(table.stem, []).append(table)
    paths = []
    for stem, of_stem in of_stems.items():
        paths.append(folder / f"{stem}_over_runs.csv")
        write_csv(paths[-1], _columns(of_stem, mixed=len(tables) > 1))
    return paths


def _columns(tables: Sequence[Table], mixed: bool) -> list[list[Any]]:
    rows = [(table, line) for table in tables for line in table.lines]
    cells = [line.cell for _, line in rows]
    options = list(dict.fromkeys(each.partition("=")[0] for _, line in rows for each in line.setting))
    knobs = list(dict.fromkeys(name for cell in cells for name in cell.setting))
    numbers = sweep_columns(cells)[len(cells[0].setting) :]
    found: list[list[Any]] = [[*(("task", "algorithm") if mixed else ()), *options, "runs", *knobs, *numbers]]
    for table, line in rows:
        named = dict(each.split("=", 1) for each in line.setting)
        found.append(
            [
                *((table.task, table.algorithm) if mixed else ()),
                *(named.get(option, "") for option in options),
                line.runs,
                *(line.cell.setting.get(knob, "") for knob in knobs),
                *sweep_values(line.cell, cells)[len(line.cell.setting) :],
            ]
        )
    return found


def draw_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws each table over its first knob, e.g. ``omega_sweep_over_runs.png``, with one line for each setting.

    :return: the files; a table without knobs, or with more lines than can be told apart, has none.
    """
    from dipole_sb3 import plots

    paths = []
    for table in tables:
        lines: dict[str, list[SweepRow]] = {}
        for line in table.lines:
            label = ", ".join(filter(None, (" ".join(line.setting), _others(table.knobs, line.cell))))
            lines.setdefault(label, []).append(line.cell)
        if not table.knobs or len(lines) > MOST_DRAWN:
            continue
        name = f"_{table.task.replace('/', '-')}_{table.algorithm}" if len(tables) > 1 else ""
        paths.append(folder / f"{table.stem}_over_runs{name}.png")
        over = f"mean over {_numbers(line.runs for line in table.lines)} runs, 95 % interval"
        plots.plot_cells(table.knobs, lines, paths[-1], over, title=f"{table.algorithm} on {table.task}")
    return paths
