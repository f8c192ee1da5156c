"""The demo's record of the topics, and its picture: distance, commands and ω over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_S = 0.02
"""The time step of the arm, which is that of Gymnasium's Reacher."""
_GREEN, _RED = "#2A7F3F", "#C0392B"
_COLORS = ("#4C72B0", "#DD8452")
_BANDS = ("#EEF2F8", "#FFFFFF")
_MOST_EPISODES = 1000


@dataclass
class Course:
    """The recorded values of the topics. Times are in seconds of the arm's clock.

    :param steps: steps per episode.
    """

    steps: int
    distances: list[tuple[float, float]] = field(default_factory=list)
    """Time, metres from fingertip to target."""
    driven: list[tuple[float, ...]] = field(default_factory=list)
    """Time, ω, then one command for each joint."""
    returns: dict[int, float] = field(default_factory=dict)
    """Episode, counted from the arm's start → its return; includes episodes that nothing drove."""
    turned: list[int] = field(default_factory=list)
    """Episodes at whose beginning ω changed: they do not count, so that every ω has the same targets."""
    audit: list[dict[str, str]] = field(default_factory=list)

    @property
    def current(self) -> int:
        """The number of the latest episode."""
        return max(self.returns, default=-1) + 1

    def ended(self, total: float) -> None:
        """Records the return of an episode. Its number follows from the time: earlier ones may have been missed."""
        if self.distances:
            # Whichever topic arrives first, the time is that of the last step or of the one after it.
            self.returns[round(self.distances[-1][0] / STEP_S / self.steps) - 1] = total

    def episodes(self) -> dict[float, list[int]]:
        """ω → the episodes that count: those driven with this ω from the first step to the last."""
        found: dict[float, list[int]] = {}
        for number in sorted(self.returns.keys() - set(self.turned)):
            omegas = self._of(self.driven, number)[:, 1]
            # Some distances may be missing: their topic keeps only the last one for slow subscribers.
            if len(omegas) == self.steps and np.ptp(omegas) == 0.0 and len(self.distance(number)):
                found.setdefault(float(omegas[0]), []).append(number)
        return found

    def commands(self, number: int) -> NDArray[np.float64]:
        """The commands of an episode; shape [steps, joints]."""
        return self._of(self.driven, number)[:, 2:]

    def distance(self, number: int) -> NDArray[np.float64]:
        """Metres from fingertip to target in an episode; at most ``steps`` of them."""
        return self._of(self.distances, number)[:, 1]

    def begins(self, number: int) -> float:
        """Time of an episode's first observation."""
        return (number * self.steps + 1) * STEP_S

    def _of(self, rows: list[tuple[float, ...]] | list[tuple[float, float]], number: int) -> NDArray[np.float64]:
        table = np.array(rows, np.float64)
        if len(table) == 0:
            return np.zeros((0, 3))
        episode = (np.round(table[:, 0] / STEP_S).astype(int) - 1) // self.steps
        found: NDArray[np.float64] = table[episode == number]
        return found


def draw(course: Course, path: Path) -> None:
    """Writes the picture.

    :raises ImportError: matplotlib is not installed.
    :raises RuntimeError: there are more episodes than can be drawn.
    """
    from matplotlib.figure import Figure

    if course.current > _MOST_EPISODES:
        raise RuntimeError(
            f"the arm's clock says that {course.current} episodes have passed, expected at most {_MOST_EPISODES}: "
            "two arms speak on its topics"
        )

    figure = Figure(figsize=(11.0, 7.2), dpi=110, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    distances, driven = _broken(course.distances), _broken(course.driven)
    axes[0].plot(distances[:, 0], distances[:, 1] * 100, color="#333333", linewidth=1.3)
    axes[0].set_ylabel("fingertip to target\n[cm]")
    axes[0].set_ylim(0.0, None)
    for joint in range(driven.shape[1] - 2):
        color = _COLORS[joint % len(_COLORS)]
        axes[1].plot(driven[:, 0], driven[:, 2 + joint], color=color, linewidth=0.9, label=f"joint {joint}")
    axes[1].set_ylabel("commands\n[share of full effort]")
    low, high = axes[1].get_ylim()
    axes[1].set_ylim(low - 0.2 * (high - low), high)
    axes[1].legend(loc="lower right", ncols=2, fontsize=9, framealpha=0.9)
    axes[2].plot(driven[:, 0], driven[:, 1], color=_GREEN, linewidth=2.0)
    axes[2].set_ylabel("greediness ω")
    axes[2].set_xlabel("seconds of the simulated arm; every thin line is a new target, and each ω has the same ones")
    _mark_requests(axes[2], course)
    _mark_blocks(axes, course)
    figure.suptitle("One trained policy drives an arm over ROS 2 while its greediness ω is turned", fontsize=14)
    figure.savefig(path)


def _broken(rows: Any) -> NDArray[np.float64]:
    """The rows in order of time, with a gap in the line wherever messages are missing for a while."""
    table = np.array(rows, np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    gaps = np.flatnonzero(np.diff(table[:, 0]) > 1.5 * STEP_S) + 1
    return np.insert(table, gaps, np.nan, axis=0)


def _requests(course: Course) -> list[tuple[float, float, bool, str]]:
    """For each request: time, ω, whether it was accepted, and its source."""
    return [
        (int(record["time_ns"]) * 1e-9, float(record["new"]), record["accepted"] == "true", record["source"])
        for record in course.audit
        if record["source"] in ("parameter", "topic")
    ]


def _mark_requests(axis: Any, course: Course) -> None:
    for time_s, omega, accepted, source in _requests(course):
        axis.plot(time_s, omega, "o" if accepted else "X", color=_GREEN if accepted else _RED, markersize=8)
        text = f"turned to {omega:g} by {source}" if accepted else f"{omega:g} is out of range: rejected"
        axis.annotate(
            text.replace("-", "−"), (time_s, omega), (8, 5), textcoords="offset points", va="bottom", fontsize=9
        )
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))
    axis.set_yticks(sorted({omega for _, omega, accepted, _ in _requests(course) if accepted}))


def _mark_blocks(axes: Any, course: Course) -> None:
    """Marks one block for each ω, with its mean return and mean size of the commands."""
    turns = [(time_s, omega) for time_s, omega, accepted, _ in _requests(course) if accepted]
    end = course.begins(course.current)
    ends = [time_s for time_s, _ in turns[1:]] + [end]
    counted = course.episodes()
    for index, ((start, omega), stop) in enumerate(zip(turns, ends, strict=True)):
        for axis in axes:
            axis.axvspan(start, stop, color=_BANDS[index % 2], zorder=-2, linewidth=0)
        texts = [f"ω = {omega:g}", ""]
        if episodes := counted.get(omega):
            texts[0] += f"\nmean return {np.mean([course.returns[number] for number in episodes]):.1f}"
            texts[1] = f"mean |command| {np.mean([np.abs(course.commands(number)) for number in episodes]):.2f}"
        for axis, text in zip(axes, texts, strict=False):
            axis.annotate(
                text.replace("-", "−"),
                ((start + stop) / 2, 1.0),
                (0, 4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=11,
            )
    for number in range(course.current):
        for axis in axes[:2]:
            axis.axvline(course.begins(number), color="#BBBBBB", linewidth=0.6, zorder=-1)
    axes[0].set_xlim(turns[0][0] - 0.5 if turns else None, end)
