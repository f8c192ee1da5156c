"""Pictures of a benchmark: algorithms over tasks, with intervals by rliable, and learning curves of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipole_sb3.common.intervals import Interval
from dipole_sb3.plots.drawing import COLOURS, MARKERS, MUTED, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPETITIONS = 2000
"""Resamplings of the stratified bootstrap: seeds are drawn anew within each task."""

_LEVELS = np.linspace(0, 1, 101)

Table = Mapping[str, np.ndarray]
"""Algorithm → normalised scores, shape [seeds, tasks]."""


def plot_aggregates(scores: Table, path: str | Path) -> dict[str, dict[str, Interval]]:
    """Interquartile mean, mean and optimality gap of each algorithm, with 95 % intervals of a stratified bootstrap.

    After Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice (2021).

    :param scores: normalised, so that 1 is the best that can be expected; at least two seeds.
    :param path: PNG file.
    :return: name of the number → algorithm → estimate and bounds.
    """
    from rliable import metrics

    named = {
        "interquartile mean": metrics.aggregate_iqm,
        "mean": metrics.aggregate_mean,
        "optimality gap (less is better)": metrics.aggregate_optimality_gap,
    }
    points, bounds = _estimates(scores, lambda table: np.array([function(table) for function in named.values()]))
    found = {
        name: {
            algorithm: Interval(float(points[algorithm][index]), *map(float, bounds[algorithm][:, index]))
            for algorithm in scores
        }
        for index, name in enumerate(named)
    }
    with drawing(path, 4.2 * len(named), 1.2 + 0.42 * len(scores)) as figure:
        panels = figure.subplots(1, len(named), sharey=True)
        for axes, (name, of_algorithms) in zip(panels, found.items(), strict=True):
            _intervals(axes, of_algorithms, _colours(scores))
            axes.set_title(name, loc="left")
        panels[0].invert_yaxis()
        figure.supxlabel(f"normalised score; {_extent(scores)}, 95 % interval", fontsize=11)
    return found


def plot_profiles(scores: Table, path: str | Path) -> None:
    """Share of the runs that score more than a level, over all levels (performance profiles of the same paper).

    :param scores: as for :func:`plot_aggregates`.
    :param path: PNG file.
    """
    from rliable import library

    profiles, bounds = _estimates(scores, lambda table: library.score_distributions(table, _LEVELS))
    with drawing(path, 7.6, 4.6) as figure:
        axes = figure.subplots()
        for algorithm, colour in _colours(scores).items():
            axes.step(_LEVELS, profiles[algorithm], where="post", color=colour, label=algorithm)
            low, high = bounds[algorithm]
            axes.fill_between(_LEVELS, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="normalised score τ", ylabel="share of runs above τ")
        axes.set_title(f"{_extent(scores)}, 95 % interval", loc="left", fontsize=10, color=MUTED)
        figure.legend(loc="outside right upper")


def plot_improvement(scores: Table, path: str | Path) -> dict[str, Interval]:
    """Probability that a run of the first algorithm beats one of each other on a task drawn at random; ties count half.

    :param scores: as for :func:`plot_aggregates`, of at least two algorithms.
    :param path: PNG file.
    :return: other algorithm → estimate and bounds.
    """
    from rliable import metrics

    first, *others = scores
    pairs = {other: (scores[first], scores[other]) for other in others}
    points, bounds = _estimates(pairs, metrics.probability_of_improvement)
    found = {other: Interval(float(points[other]), *map(float, np.ravel(bounds[other]))) for other in others}
    with drawing(path, 7.0, 1.4 + 0.42 * len(others)) as figure:
        axes = figure.subplots()
        _intervals(axes, found, {name: colour for name, colour in _colours(scores).items() if name != first})
        axes.invert_yaxis()
        axes.axvline(0.5, color=MUTED, linestyle="--", linewidth=1.4, zorder=1)
        axes.set(xlim=(-0.02, 1.02), xlabel=f"probability that a run of {first} beats one of …")
        axes.set_title(f"{_extent(scores)}, 95 % interval", loc="left", fontsize=10, color=MUTED)
    return found


def plot_learning(
    curves: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]],
    path: str | Path,
    labels: Mapping[str, str],
) -> None:
    """Score while learning, at each algorithm's own setting, one panel per task.

    :param curves: task → algorithm → (timesteps, scores) of each seed, all at the same timesteps.
    :param path: PNG file.
    :param labels: task → what its score is.
    """
    colours = _colours(dict.fromkeys(name for of_task in curves.values() for name in of_task))
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    with drawing(path, 4.4 * across + 1.6, 3.2 * down + 0.4) as figure:
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        for axes, (task, of_task) in zip(grid.flat, curves.items(), strict=False):
            for index, (algorithm, runs) in enumerate(of_task.items()):
                colour, steps = colours[algorithm], runs[0][0]
                values = np.array([of_seed for _, of_seed in runs])
                marker = MARKERS[index % len(MARKERS)]
                axes.plot(steps, values.mean(axis=0), color=colour, marker=marker, markersize=4, label=algorithm)
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)
            axes.set_title(task, loc="left", fontsize=11)
            axes.set_ylabel(labels[task])
        figure.supxlabel("timestep; mean of the seeds, with their range", fontsize=11)
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper")


def _estimates(scores: Mapping[str, Any], function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of each algorithm: the function of its scores, and its 95 % bounds, shape [2, …]; the same at every call."""
    from rliable import library

    # It resamples with NumPy's global generator, whatever random_state it is given.
    before = np.random.get_state()
    np.random.seed(0)
    try:
        points, bounds = library.get_interval_estimates(dict(scores), function, reps=REPETITIONS)
    finally:
        np.random.set_state(before)
    return points, bounds


def _intervals(axes: Axes, found: Mapping[str, Interval], colours: Mapping[str, str]) -> None:
    for place, (name, (estimate, low, high)) in enumerate(found.items()):
        axes.barh(place, high - low, left=low, height=0.55, color=colours[name], alpha=0.45)
        axes.plot([estimate, estimate], [place - 0.275, place + 0.275], color=colours[name], linewidth=2.4)
    axes.set_yticks(range(len(found)), list(found))
    axes.grid(axis="y", visible=False)
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=5)


def _colours(names: Mapping[str, Any]) -> dict[str, str]:
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def _extent(scores: Table) -> str:
    seeds, tasks = next(iter(scores.values())).shape
    return f"{seeds} seeds × {tasks} {'task' if tasks == 1 else 'tasks'}"
