"""A picture of a data set: returns in the order of recording, episode lengths, and the distribution of actions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipole_sb3.datasets.inspection import Inspection
from dipole_sb3.plots.drawing import COLOURS, MUTED, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMOOTHED_SHARE = 20
"""The running mean of returns is over one in so many of the episodes."""

_NAMED_ACTIONS = 24
"""With more rows than this, they cannot be labelled one by one."""

_LENGTH_BARS = 40

_RIDGE = 0.9
"""Height of the most frequent value's bar, as a share of the distance between two rows."""


def plot_data(found: Inspection, path: str | Path) -> Path:
    """Draws an inspected data set.

    :param found: from :func:`~dipole_sb3.datasets.inspection.inspect`, with at least one transition.
    :param path: PNG file.
    :return: the path.
    :raises ImportError: matplotlib is not installed.
    """
    with drawing(path, 13.5, 4.3) as figure:
        returns, lengths, actions = figure.subplots(1, 3, width_ratios=[1.35, 1, 1.15])
        figure.suptitle(f"{found.name}: {found.transitions:,} transitions in {len(found.lengths):,} whole episodes")
        _draw_returns(returns, np.asarray(found.returns))
        _draw_lengths(lengths, np.asarray(found.lengths))
        _draw_actions(actions, found)
    return Path(path)


def _draw_returns(axes: Axes, returns: np.ndarray) -> None:
    axes.set_title("Returns, in the order of recording", loc="left")
    axes.set_xlabel("episode")
    axes.set_ylabel("return")
    if len(returns) == 0:
        _say(axes, "no whole episode")
        return
    crowd = min(1.0, 400 / len(returns))
    axes.scatter(
        np.arange(1, len(returns) + 1), returns, s=4 + 14 * crowd, alpha=0.15 + 0.5 * crowd, color=COLOURS[0], lw=0
    )
    window = len(returns) // _SMOOTHED_SHARE
    if window >= 3:
        means = np.convolve(returns, np.full(window, 1 / window), mode="valid")
        middle = np.arange(len(means)) + (window + 1) / 2
        axes.plot(middle, means, color=COLOURS[1], label=f"mean of {window:,} episodes")
        axes.legend(loc="best")


def _draw_lengths(axes: Axes, lengths: np.ndarray) -> None:
    axes.set_title("Lengths of episodes", loc="left")
    axes.set_xlabel("transitions")
    axes.set_ylabel("episodes")
    if len(lengths) == 0:
        _say(axes, "no whole episode")
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low == high:
        # A single bar over the full width would show nothing.
        axes.bar([low], [len(lengths)], width=max(0.05 * low, 0.5), color=COLOURS[0])
        axes.set_xlim(0, max(1.5 * low, 2))
        axes.set_title(f"all {low:,}", loc="right", fontsize=10, color=MUTED)
        return
    # Every bar covers the same number of integers.
    width = -(-(high - low + 1) // _LENGTH_BARS)
    axes.hist(lengths, bins=(np.arange(low, high + width + 1, width) - 0.5).tolist(), color=COLOURS[0])


def _draw_actions(axes: Axes, found: Inspection) -> None:
    axes.set_title("Actions, between their bounds", loc="left")
    axes.grid(False)
    if found.action_histograms is None or found.saturated is None:
        _say(axes, "bounds not known")
        return
    counts = found.action_histograms
    # Scaled by each element's own maximum: an action that hardly varies must not make the others look white.
    shares = counts / np.maximum(counts.max(axis=1, keepdims=True), 1)
    edges = np.linspace(-1, 1, counts.shape[1] + 1)
    for element, share in enumerate(shares):
        axes.stairs(element - _RIDGE * share, edges, baseline=element, fill=True, color=COLOURS[0], alpha=0.8)
        axes.axhline(element, color=MUTED, lw=0.5)
    axes.set_xlim(-1, 1)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_ylim(len(shares) - 0.6, -1)
    axes.set_xlabel(f"scaled to [−1, 1]; {100 * found.saturated:.1f} % at a bound")
    axes.set_ylabel("element")
    if len(shares) <= _NAMED_ACTIONS:
        axes.set_yticks(range(len(shares)))


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
