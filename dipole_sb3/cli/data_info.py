"""``dipole data info``: what is in a data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dipole_sb3.datasets.inspection import ElementStatistics, Inspection

_DESCRIPTION = """\
Reads all of a data set and tells what is in it: transitions, episodes, returns, lengths, the range of every
element, how many actions are at their bounds, where the data come from. What is wrong with it, `dipole data
check` says in full."""

_SHOWN_ELEMENTS = 256
"""Arrays with at most this many elements get one line per element; larger ones, such as images, one line in all."""

_SHOWN_TEXT = 400
"""Longest metadata text shown, in characters; recordings of robots keep whole configurations there."""


def add_parser(actions: Any) -> None:
    """Adds the action to those of ``dipole data``."""
    info = actions.add_parser(
        "info",
        help="tell what is in a data set",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.set_defaults(run=run)
    info.add_argument("source", metavar="A", help="a data set, by name or path")
    info.add_argument("--picture", metavar="FILE", help="also draw returns, lengths and actions, into this PNG file")


def run(options: argparse.Namespace) -> int:
    """``dipole data info``; returns 1 if the data set cannot be read, else 0."""
    from dipole_sb3.datasets.inspection import inspect

    found = inspect(options.source)
    if found.transitions:
        print("\n".join(report(found)))
    for problem in found.problems:
        print(f"dipole: {problem}", file=sys.stderr)
    if not found.transitions:
        return 1
    if options.picture:
        from dipole_sb3.plots.data import plot_data

        print(plot_data(found, options.picture))
    return 0


def report(found: Inspection) -> Iterator[str]:
    """The result of an inspection as text, line by line."""
    yield f"{found.name}: {found.transitions:,} transitions"
    if found.lengths:
        returns, lengths = np.asarray(found.returns), np.asarray(found.lengths)
        yield f"episodes       {len(lengths):,}, of which {found.time_limits:,} ended by time"
        yield f"returns        {_spread(returns)}"
        yield f"lengths        {_spread(lengths)}"
    if found.open_rows:
        yield f"open           the last {found.open_rows:,} transitions do not end an episode"
    if found.saturated is not None:
        yield f"saturation     {100 * found.saturated:.2f} % of the actions' elements are at a bound"
    elif found.action_space is None:
        yield "saturation     not known: nothing tells the bounds of the actions"
    yield f"{'':30} {'lowest':>11} {'highest':>11} {'mean':>11} {'deviation':>11} {'not finite':>11}"
    for key, statistics in found.elements.items():
        if not key.startswith("next_observations"):
            yield from _elements(key, statistics)
    for key, value in found.metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{key}: {text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + ' …'}"


def _spread(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, [0, 50, 100])
    return f"mean {values.mean():.6g}, lowest {low:.6g}, median {median:.6g}, highest {high:.6g}"


def _elements(key: str, statistics: ElementStatistics) -> Iterator[str]:
    columns = (statistics.low, statistics.high, statistics.mean, statistics.deviation)
    missing = statistics.rows - statistics.count
    if np.prod(statistics.shape) > _SHOWN_ELEMENTS:
        size = " × ".join(map(str, statistics.shape))
        spread = float(np.sqrt((statistics.deviation**2 + (statistics.mean - statistics.mean.mean()) ** 2).mean()))
        yield _row(
            f"{key} ({size})",
            statistics.low.min(),
            statistics.high.max(),
            statistics.mean.mean(),
            spread,
            missing.sum(),
        )
        return
    for index in np.ndindex(*statistics.shape):
        name = f"{key}[{', '.join(map(str, index))}]" if index else key
        low, high, mean, deviation = (float(column[index]) for column in columns)
        yield _row(name, low, high, mean, deviation, int(missing[index]))


def _row(name: str, low: float, high: float, mean: float, deviation: float, missing: int) -> str:
    return f"{name:30} {low:>11.5g} {high:>11.5g} {mean:>11.5g} {deviation:>11.5g} {missing or '':>11}"
