"""Pictures of an evaluation: the score over ω, and the same scenes before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipole_sb3.driving.evaluation import SHORT, SUB_SCORES, Evaluated
from dipole_sb3.driving.pictures import birds_eye
from dipole_sb3.plots.drawing import COLOURS, MARKERS, MUTED, drawing


def plot_sweep(rows: Sequence[Evaluated], path: str | Path, others: Sequence[Evaluated] = ()) -> None:
    """PDMS and sub-scores over ω.

    :param rows: of one agent, each with its ω.
    :param path: PNG file.
    :param others: policies without ω, drawn as levels with their intervals.
    """
    omegas = [row.omega for row in rows]
    if None in omegas or len(rows) < 2:
        raise ValueError(f"found rows with ω = {omegas}, expected at least two values of ω")
    with drawing(path, 10.5, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
        found = [row.percent("pdms") for row in rows]
        means = np.array([each.mean for each in found])
        errors = np.array([[each.mean - each.low, each.high - each.mean] for each in found]).T
        left.errorbar(omegas, means, errors, color=COLOURS[0], marker="o", capsize=3, label=rows[0].policy, zorder=3)
        for other, colour in zip(others, (*COLOURS[1:], *COLOURS[1:]), strict=False):
            level = other.percent("pdms")
            left.axhline(level.mean, color=colour, linestyle="--", label=other.policy)
            left.axhspan(level.low, level.high, color=colour, alpha=0.10, linewidth=0)
        plans = rows[0].scores.pdms.shape
        left.set(xlabel="greediness ω", ylabel="PDMS (%)", title=f"{plans[0]} scenes, 95 % intervals")
        left.legend()
        for name, short, colour, marker in zip(SUB_SCORES, SHORT, COLOURS, MARKERS, strict=False):
            right.plot(omegas, [row.percent(name).mean for row in rows], color=colour, marker=marker, label=short)
        right.set(xlabel="greediness ω", ylabel="mean (%)", title="sub-scores")
        right.legend(ncols=2)


def plot_plans(
    scenes: Sequence[Any], plans: Sequence[Mapping[str, npt.ArrayLike]], titles: Sequence[str], path: str | Path
) -> None:
    """Bird's-eye views of scenes, each with some plans.

    :param scenes: at least one.
    :param plans: for each scene: name → [8, 3].
    :param titles: for each scene.
    :param path: PNG file.
    """
    columns = min(3, len(scenes))
    rows = -(-len(scenes) // columns)
    with drawing(path, 4.6 * columns, 4.6 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, scene, of_scene, title in zip(grid, scenes, plans, titles, strict=False):
            birds_eye(axes, scene, of_scene)
            axes.set_title(title, fontsize=10, color=MUTED)
        for axes in grid[len(scenes) :]:
            axes.set_visible(False)
