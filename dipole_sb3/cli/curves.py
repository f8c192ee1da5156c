"""``dipole curves``: learning curves of runs, as mean and 95 % interval over seeds."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from dipole_sb3.cli import pictures, run_folder
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, phase_scores

_DESCRIPTION = """\
Draws the learning curves of a run, or of several seeds of one: mean over the runs with Student's 95 %
interval, and prints how they scored at the end of each phase, where they were evaluated."""

_EXAMPLES = """\
examples:
  dipole curves runs/demo
  dipole curves runs/multirun/2026-01-31_12-00-00          all runs of `dipole train -m … seed=0,1,2`
  dipole curves runs/a runs/b runs/c --out curves.png"""


def add_parser(commands: Any) -> None:
    """Adds ``curves`` to the command's subparsers."""
    parser = commands.add_parser(
        "curves",
        help="learning curves, over several seeds",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or one with several of them")
    parser.add_argument("--out", metavar="FILE", help="the picture (default: curves.png in the folder of the runs)")


def _run(options: argparse.Namespace) -> int:
    from dipole_sb3 import plots

    runs = [run for folder in options.runs for run in _runs_in(Path(folder))]
    steps = {run: run_folder.read_config(run).get("offline_steps") for run in runs}
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{run}: {value}" for run, value in steps.items())
        raise ValueError(f"the runs have different offline_steps ({found}), expected seeds of one configuration")
    offline_steps = steps[runs[0]]
    out = Path(options.out) if options.out else Path(os.path.commonpath(runs)) / pictures.CURVES
    plots.plot_curves([run / run_folder.PROGRESS for run in runs], out, offline_steps=offline_steps)
    for line in phase_scores([run / EVALUATIONS for run in runs], offline_steps or 0):
        print(line)
    print(f"The picture of {len(runs)} {'run' if len(runs) == 1 else 'runs'} is in {out}")
    return 0


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs in it."""
    if (folder / run_folder.PROGRESS).is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{run_folder.PROGRESS}"))
    if not runs:
        raise FileNotFoundError(
            f"{folder}: no {run_folder.PROGRESS} in it; expected the folder of a run, or of several"
        )
    return runs
