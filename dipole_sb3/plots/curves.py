"""Learning curves of one run, or of several seeds with their mean and 95 % interval."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.plots.drawing import COLOURS, MUTED, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("losses of the pair", {"positive_loss": "π⁺", "negative_loss": "π⁻"}),
    ("losses of the values", {"critic_loss": "critics", "value_loss": "value"}),
    ("values", {"q_mean": "Q", "value_mean": "V"}),
    ("advantage", {"advantage_q90": "90 %", "advantage_q50": "50 %", "advantage_q10": "10 %"}),
    ("weight of π⁺", {"weight_mean": "mean", "weight_std": "deviation", "weight_saturation": "saturated share"}),
    ("return", {"eval/mean_reward": "evaluation", "rollout/ep_rew_mean": "while exploring"}),
    ("success rate", {"eval/success_rate": "evaluation", "rollout/success_rate": "while exploring"}),
)
_STYLES = (("train", "-", ""), ("validation", "--", ", validation"))
_DASHES = ("-", "--", ":", "-.")
_FEW_POINTS = 30


class Course(NamedTuple):
    """A quantity over timesteps, each field of shape [points]; the bounds are None for a single run."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def plot_curves(
    progress: str | Path | Sequence[str | Path], path: str | Path, *, offline_steps: int | None = None
) -> None:
    """Learning curves: losses, values, advantage, weights, and returns if there are any.

    :param progress: progress.csv of one run, or of several; for several, the mean over runs is drawn, with Student's
        95 % interval.
    :param path: PNG file.
    :param offline_steps: timestep at which training switched from recorded data to the environment; marked if the
        curves go beyond it.
    :raises ValueError: a file has no training statistics.
    """
    files = [Path(progress)] if isinstance(progress, str | Path) else [Path(file) for file in progress]
    runs = _read_runs(files)
    panels = []
    for title, names in _PANELS:
        lines = []
        for index, (name, label) in enumerate(names.items()):
            for group, style, suffix in _STYLES[:1] if "/" in name else _STYLES:
                course = _course(runs, name if "/" in name else f"{group}/{name}")
                if course is not None:
                    lines.append((course, COLOURS[index], style, label + suffix))
        if lines:
            panels.append((title, lines))
    _draw_panels(panels, path, offline_steps, f"; mean of {len(runs)} runs, 95 % interval" if len(runs) > 1 else "")


def plot_settings(
    settings: Mapping[str, Sequence[str | Path]], path: str | Path, *, offline_steps: int | None = None
) -> None:
    """Learning curves of several settings: one line each in every panel, with Student's 95 % interval over its runs.

    Each panel has one quantity: of those of :func:`plot_curves` the first that the setting has.

    :param settings: label → progress.csv of its runs.
    :param path: PNG file.
    :param offline_steps: as for :func:`plot_curves`, if it is the same for all settings; else None.
    :raises ValueError: a file has no training statistics.
    """
    runs_of = {label: _read_runs([Path(file) for file in files]) for label, files in settings.items()}
    panels = []
    for title, names in _PANELS:
        for name, label in names.items():
            key = name if "/" in name else f"train/{name}"
            courses = {setting: _course(runs, key) for setting, runs in runs_of.items()}
            lines = [
                (course, COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)], setting)
                for index, (setting, course) in enumerate(courses.items())
                if course is not None
            ]
            if lines:
                panels.append((title if title == label else f"{title}: {label}", lines))
                break
    several = "; mean over runs, 95 % interval" if any(len(runs) > 1 for runs in runs_of.values()) else ""
    _draw_panels(panels, path, offline_steps, several, one_legend=list(settings))


def _read_runs(files: Sequence[Path]) -> list[dict[str, tuple[list[float], list[float]]]]:
    runs = [_read_progress(file) for file in files]
    for file, columns in zip(files, runs, strict=True):
        if not any(name.startswith("train/") for name in columns):
            raise ValueError(f"{file}: no training statistics; found {sorted(columns)}, expected train/positive_loss …")
    return runs


def _course(runs: Sequence[Mapping[str, tuple[list[float], list[float]]]], key: str) -> Course | None:
    """A quantity over the runs; None if one of them has not logged it, or they have no timestep in common."""
    if not all(key in columns for columns in runs):
        return None
    course = average([columns[key] for columns in runs])
    return course if len(course.steps) else None


def _draw_panels(
    panels: Sequence[tuple[str, Sequence[tuple[Course, str, str, str]]]],
    path: str | Path,
    offline_steps: int | None,
    over: str,
    one_legend: Sequence[str] = (),
) -> None:
    """Panels with a title and lines: course, colour, style and label.

    :param offline_steps: see :func:`plot_curves`.
    :param over: what the lines are means of.
    :param one_legend: labels of all lines, where all panels have the same; else each has a legend of its own.
    """
    if not panels:
        raise ValueError(f"{path}: the runs have no timestep in common yet, from which a line could be drawn")
    last = max(course.steps[-1] for _, lines in panels for course, *_ in lines)
    handover = offline_steps if offline_steps is not None and 0 < offline_steps < last else None
    width = min(3, len(panels))
    height = -(-len(panels) // width)
    with drawing(path, 4.0 * width, 3.0 * height + 0.22 * len(one_legend)) as figure:
        grid = figure.subplots(height, width, squeeze=False, sharex=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(grid.flat, panels, strict=False):
            for course, colour, style, label in lines:
                _draw(axes, course, colour, style, label)
            axes.set_title(title, loc="left")
            axes.tick_params(labelbottom=True)
            axes.xaxis.set_major_formatter(_thousands)
            if title.startswith("losses of the values"):
                axes.set_yscale("log")
            if title.startswith("success rate"):
                # Student's interval of two runs does not know that there is nothing beyond.
                axes.set_ylim(-0.04, 1.04)
            if handover is not None:
                _mark_handover(axes, handover)
            if len(lines) > 1 and not one_legend:
                _legend_under_title(axes, len(lines))
        if one_legend:
            handles = {
                label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            figure.legend(handles.values(), handles.keys(), loc="outside upper center")
        unit = "update" if handover is None else f"until {_thousands(handover)} an update on the data, then a step"
        figure.supxlabel(f"timestep ({unit}){over}", fontsize=11)


def _legend_under_title(axes: Axes, lines: int) -> None:
    """Not in the panel, where it would lie over the first points of one line or over the last of another."""
    columns = lines if lines <= 3 else 2
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=8 + 13 * -(-lines // columns))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=columns,
        fontsize=9,
        frameon=False,
        borderpad=0.2,
        handlelength=1.5,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.2,
    )


def _mark_handover(axes: Axes, handover: int) -> None:
    axes.axvline(handover, color=MUTED, linestyle=":", linewidth=1.4, zorder=1)
    axes.annotate(
        "online →",
        (handover, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        color=MUTED,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )


def average(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Course:
    """Mean and Student's 95 % interval over runs, at all timesteps inside the range of every run.

    :param runs: (timesteps, values) of each run; between its timesteps a run is interpolated linearly, because episodes
        of different length end at different timesteps.
    """
    if len(runs) == 1:
        return Course(np.asarray(runs[0][0]), np.asarray(runs[0][1]))
    start, end = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
    grid = np.unique(np.concatenate([np.asarray(steps) for steps, _ in runs]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.stack([np.interp(grid, steps, run) for steps, run in runs])
    mean, low, high = np.array([mean_interval(point.tolist()) for point in values.T]).reshape(-1, 3).T
    return Course(grid, mean, low, high)


def _draw(axes: Axes, course: Course, colour: str, style: str, label: str) -> None:
    marker = "." if len(course.steps) < _FEW_POINTS else None
    axes.plot(course.steps, course.mean, style, color=colour, label=label, marker=marker)
    if course.low is not None and course.high is not None:
        axes.fill_between(course.steps, course.low, course.high, color=colour, alpha=0.18, linewidth=0)


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _read_progress(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Column → (timesteps, values), without the rows in which the column is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        step = row.get("time/total_timesteps")
        for name, value in row.items():
            if step and value and "/" in name:
                steps, values = columns.setdefault(name, ([], []))
                steps.append(float(step))
                values.append(float(value))
    return columns
