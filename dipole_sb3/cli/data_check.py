"""``dipole data check``: everything that is wrong with a data set."""

from __future__ import annotations

import argparse
import sys
from typing import Any

_DESCRIPTION = """\
Reads all of a data set and says what is wrong with it, one sentence each: damaged or missing files, values
that are not finite or out of bounds, with the row, episodes that do not join. The exit status is 1 where
something is wrong; warnings, such as elements that never change, do not count."""


def add_parser(actions: Any) -> None:
    """Adds the action to those of ``dipole data``."""
    check = actions.add_parser(
        "check",
        help="say everything that is wrong with a data set",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.set_defaults(run=run)
    check.add_argument("source", metavar="A", help="a data set, by name or path")


def run(options: argparse.Namespace) -> int:
    """``dipole data check``; returns 1 if it found a problem, else 0."""
    from dipole_sb3.datasets.inspection import inspect

    found = inspect(options.source)
    for problem in found.problems:
        print(f"dipole: {problem}", file=sys.stderr)
    for warning in found.warnings:
        print(f"warning: {warning}")
    if found.problems:
        return 1
    print(f"{options.source}: {found.transitions:,} transitions, no problem found")
    return 0
