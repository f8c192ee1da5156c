"""``dipole data``: makes, records, converts and examines data sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dipole_sb3.cli import data_check, data_convert, data_info

if TYPE_CHECKING:
    from dipole_sb3.cli.dispatch import ParsedCommand

_DESCRIPTION = """\
Makes OGBench's data sets anew from the oracles that ship with it, records an agent while it learns, reads
what robots recorded, converts between formats, and tells what is in a data set and what is wrong with it."""

_MAKE = """\
Makes an OGBench data set anew, train and validation, in OGBench's own format, where `dipole train` finds
it. Works in several processes; started again after an interruption, it goes on where it was.

Offered: cube-{single,double,triple,quadruple,octuple}, scene and puzzle-{3x3,4x4,4x5,4x6}, each as -play and
-noisy; pointmaze-{medium,large,giant,teleport}, each as -navigate and -stitch. The ant, humanoid and
antsoccer sets need trained experts: those are downloads, which `dipole train` does by itself where there
is a network."""

_MAKE_EXAMPLES = """\
examples:
  dipole data make ogbench/cube-single-play                  the full set: 1,000 + 100 episodes of 1,001 steps
  dipole data make ogbench/cube-single-play --episodes 20    a small one, to try things
  dipole data make ogbench/scene-play --dir data             elsewhere; dipole train … task.dataset_dir=data"""

_RECORD = """\
Records every transition while an agent learns an environment from scratch, from its first random steps to
its last good ones. The agent runs on the CPU at its library's defaults. Beside FILE.npz, FILE.json keeps
where the data comes from: versions, hyperparameters, checksum, the data's and the final agent's return."""

_RECORD_EXAMPLES = """\
example, the demo's data (about two minutes):
  dipole data record --algo tqc --env Reacher-v5 --steps 10000 --seed 0 --out reacher-tqc-10k.npz"""


def add_parser(commands: Any, more_actions: Sequence[ParsedCommand] = ()) -> None:
    """Adds ``data`` and its sub-commands to the command's subparsers.

    :param more_actions: those of packages that build on this one.
    """
    raw = argparse.RawDescriptionHelpFormatter
    data = commands.add_parser(
        "data", help="make, record, convert and examine data sets", description=_DESCRIPTION, formatter_class=raw
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")

    make = actions.add_parser(
        "make",
        help="make an OGBench data set anew",
        description=_MAKE,
        epilog=_MAKE_EXAMPLES,
        formatter_class=raw,
    )
    make.set_defaults(run=_make)
    make.add_argument("name", metavar="NAME", help="e.g. ogbench/cube-single-play")
    make.add_argument("--episodes", type=int, metavar="N", help="training episodes (default: as many as the original)")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="of the first episode (default: 0)")
    make.add_argument("--processes", type=int, metavar="P", help="at a time (default: all cores)")
    make.add_argument(
        "--dir", metavar="D", help="folder of the files (default: $OGBENCH_DATA_DIR, else ~/.ogbench/data)"
    )
    make.add_argument("--overwrite", action="store_true", help="make it again although it is there")

    record = actions.add_parser(
        "record",
        help="record an agent while it learns",
        description=_RECORD,
        epilog=_RECORD_EXAMPLES,
        formatter_class=raw,
    )
    record.set_defaults(run=_record)
    record.add_argument("--algo", default="tqc", help="the agent: tqc (default)")
    record.add_argument("--env", default="Reacher-v5", metavar="ID", help="Gymnasium id (default: Reacher-v5)")
    record.add_argument("--steps", type=int, default=10_000, metavar="N", help="transitions (default: 10000)")
    record.add_argument("--seed", type=int, default=0, metavar="S", help="of the agent (default: 0)")
    record.add_argument(
        "--net-arch", type=int, nargs="+", default=[128, 128], metavar="W", help="hidden widths (default: 128 128)"
    )
    record.add_argument("--out", required=True, metavar="FILE", help="the .npz file to write")

    for action in (data_convert, data_info, data_check, *more_actions):
        action.add_parser(actions)


def _make(options: argparse.Namespace) -> int:
    """``dipole data make``; failures raise."""
    from dipole_sb3.datasets.ogbench_generation import make_dataset

    path = make_dataset(
        options.name,
        episodes=options.episodes,
        seed=options.seed,
        processes=options.processes,
        dataset_dir=options.dir,
        progress=sys.stderr.isatty(),
        overwrite=options.overwrite,
    )
    print(path)
    return 0


def _record(options: argparse.Namespace) -> int:
    """``dipole data record``; failures raise."""
    from dipole_sb3.datasets import recorded

    recorded.require_output(options.out)
    recording = recorded.record_training(
        options.algo, options.env, options.steps, options.seed, options.net_arch, progress=sys.stdout.isatty()
    )
    command = ["dipole", "data", "record", "--algo", options.algo, "--env", options.env, "--steps", str(options.steps)]
    command += ["--seed", str(options.seed)]
    if options.net_arch != [128, 128]:
        command += ["--net-arch", *map(str, options.net_arch)]
    path, provenance = recorded.write_recording(recording, options.out, [*command, "--out", options.out])
    facts = recording.provenance
    print(
        f"{path}: {facts['steps']} transitions, mean return {facts['data_return_mean']:.2f}; the final agent reaches "
        f"{facts['agent_return_mean']:.2f} [{facts['agent_return_low']:.2f}, {facts['agent_return_high']:.2f}]\n"
        f"{provenance}: where they come from"
    )
    return 0
