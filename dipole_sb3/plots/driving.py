"""Pictures of an evaluation: the score over ω, and the same scenes before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipole_sb3.driving.evaluation import SHORT, SUB_SCORES, Evaluated
from dipole_sb3.driving.pictures import birds_eye
from dipole_sb3.driving.scenes.logs import to_ego_frame
from dipole_sb3.driving.score import driven
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
            left.axhspan(level.low, level.high, color=colour, alpha=0.06, linewidth=0)
        plans = rows[0].scores.pdms.shape
        left.set(xlabel="greediness ω", ylabel="PDMS (%)", title=f"{plans[0]} scenes, 95 % intervals")
        # Of all corners the one that a curve that rises leaves free.
        left.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
        for name, short, colour, marker in zip(SUB_SCORES, SHORT, COLOURS, MARKERS, strict=False):
            right.plot(omegas, [row.percent(name).mean for row in rows], color=colour, marker=marker, label=short)
        right.set(xlabel="greediness ω", ylabel="mean (%)", title="sub-scores")
        right.legend(ncols=2)


def plot_plans(
    scenes: Sequence[Any],
    plans: Mapping[str, npt.NDArray[np.floating]],
    scores: Mapping[str, npt.NDArray[np.floating]],
    path: str | Path,
) -> None:
    """Bird's-eye views: a row for each scene, a column for each policy, with the car as it drives the plan.

    :param scenes: at least one.
    :param plans: policy → [scenes, 8, 3].
    :param scores: policy → PDMS [scenes], in [0, 1].
    :param path: PNG file.
    """
    with drawing(path, 3.0 * len(plans), 4.0 * len(scenes)) as figure:
        grid = figure.subplots(len(scenes), len(plans), squeeze=False)
        for row, scene in enumerate(scenes):
            for column, (policy, of_policy) in enumerate(plans.items()):
                axes, ego = grid[row, column], scene.surroundings.ego
                poses = to_ego_frame(driven(ego, of_policy[row : row + 1])[0, :, :3], ego.pose)
                birds_eye(axes, scene, {policy: poses})
                if row or column:
                    axes.get_legend().remove()
                kind = f"{scene.kind}\n" if column == 0 else "\n"
                axes.set_title(f"{kind}{policy}: PDMS {100 * scores[policy][row]:.0f}", fontsize=10, color=MUTED)
            _share_limits(grid[row])


def _share_limits(row: Sequence[Any]) -> None:
    """The same section of the scene in every panel."""
    across = np.array([axes.get_xlim() for axes in row])
    along = np.array([axes.get_ylim() for axes in row])
    for axes in row:
        axes.set(xlim=(across[:, 0].min(), across[:, 1].max()), ylim=(along[:, 0].min(), along[:, 1].max()))
