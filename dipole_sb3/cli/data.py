"""``dipole data``: makes, records, converts and examines data sets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from dipole_sb3.cli import data_check, data_convert, data_fetch, data_info, data_record
from dipole_sb3.cli.engine import LOCAL, RAY, taken_from
from dipole_sb3.cli.parsed_command import ParsedCommand

_DESCRIPTION = """\
Makes OGBench's data sets anew from the oracles that ship with it, and driving scenes; downloads ExORL's
recordings, records agents, reads what robots recorded, converts between formats, and tells what is in a
data set and what is wrong with it."""

_MAKE = """\
Makes an OGBench data set anew, train and validation, in OGBench's own format, where `dipole train` finds
it; or driving scenes, train and test, in the layout of NAVSIM's data. Works in several processes; started
again after an interruption, it goes on where it was.

Offered: cube-{single,double,triple,quadruple,octuple}, scene and puzzle-{3x3,4x4,4x5,4x6}, each as -play and
-noisy; pointmaze-{medium,large,giant,teleport}, each as -navigate and -stitch. The ant, humanoid and
antsoccer sets need trained experts: those are downloads, which `dipole train` does by itself where there
is a network. driving/highway-mix has scenes of highways, merges, intersections and roundabouts."""

_MAKE_EXAMPLES = """\
examples:
  dipole data make ogbench/cube-single-play                  the full set: 1,000 + 100 episodes of 1,001 steps
  dipole data make ogbench/cube-single-play --episodes 20    a small one, to try things
  dipole data make ogbench/scene-play --dir data             elsewhere; dipole train … task.dataset_dir=data
  dipole data make driving/highway-mix --scenes 60           60 scenes to train on, and 20 to test on"""


def add_parser(commands: Any, more_actions: Sequence[ParsedCommand] = ()) -> None:
    """Adds ``data`` and its sub-commands to the command's subparsers.

    :param more_actions: sub-commands from packages that build on this one.
    """
    raw = argparse.RawDescriptionHelpFormatter
    data = commands.add_parser(
        "data", help="make, record, convert and examine data sets", description=_DESCRIPTION, formatter_class=raw
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")

    make = actions.add_parser(
        "make",
        help="make an OGBench data set anew, or driving scenes",
        description=_MAKE,
        epilog=_MAKE_EXAMPLES,
        formatter_class=raw,
    )
    make.set_defaults(run=_make)
    make.add_argument("name", metavar="NAME", help="e.g. ogbench/cube-single-play")
    make.add_argument("--episodes", type=int, metavar="N", help="training episodes (default: as many as the original)")
    make.add_argument("--scenes", type=int, metavar="N", help="training scenes, of driving/… (default: 600)")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="of the first episode (default: 0)")
    make.add_argument("--processes", type=int, metavar="P", help="at a time (default: all cores)")
    make.add_argument(
        "--dir",
        metavar="D",
        help="folder of the files (default: $OGBENCH_DATA_DIR, else ~/.ogbench/data; of driving scenes "
        "$DRIVING_DATA_DIR, else ~/.dipole/driving)",
    )
    make.add_argument("--overwrite", action="store_true", help="make it again although it is there")
    cluster = make.add_argument_group("in a Ray cluster", "instead of processes of this machine")
    cluster.add_argument("--engine", choices=[LOCAL, RAY], default=LOCAL, help="ray: in a cluster (default: local)")
    cluster.add_argument("--slots", metavar="K", help="tasks at a time (default: as many as there is room for)")
    cluster.add_argument("--address", metavar="A", help="of a running cluster, e.g. auto (default: one here)")

    for action in (data_fetch, data_record, data_convert, data_info, data_check, *more_actions):
        action.add_parser(actions)


def _make(options: argparse.Namespace) -> int:
    """``dipole data make``; failures raise."""
    common: dict[str, Any] = {
        "seed": options.seed,
        "processes": options.processes,
        "dataset_dir": options.dir,
        "overwrite": options.overwrite,
    }
    given = {"engine": options.engine, "slots": options.slots, "address": options.address}
    chosen, _ = taken_from([f"{name}={value}" for name, value in given.items() if value is not None])
    with ExitStack() as opened:
        if chosen is not None:
            from dipole_sb3.cli.engine import cluster

            slots = opened.enter_context(cluster.connected(chosen))
            common["elsewhere"] = partial(cluster.finish_parts, chosen, slots)
        print(_made(options, common))
    return 0


def _made(options: argparse.Namespace, common: Mapping[str, Any]) -> Path:
    if options.name.startswith("driving/"):
        from dipole_sb3.driving.scenes import make_scenes

        _refuse("--episodes", options.episodes, "--scenes", options.name)
        return make_scenes(options.name, **common, **({} if options.scenes is None else {"scenes": options.scenes}))
    from dipole_sb3.datasets.ogbench.generation import make_dataset

    _refuse("--scenes", options.scenes, "--episodes", options.name)
    return make_dataset(options.name, episodes=options.episodes, **common)


def _refuse(option: str, value: int | None, instead: str, name: str) -> None:
    if value is not None:
        raise ValueError(f"{name} has no {option[2:]}; expected {instead} {value}")
