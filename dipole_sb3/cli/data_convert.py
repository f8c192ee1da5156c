"""``dipole data convert``: a data set in another format."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Writes a data set in another format. B is the folder of a stored data set, memory-mapped arrays that train at
any size, or an .npz or .hdf5 file. A is any name or path that `dipole train` knows; files are read a part at
a time. B appears when it is complete."""

_EXAMPLES = """\
examples:
  dipole data convert walker.hdf5 walker             D4RL's format as a stored data set
  dipole data convert demo/reacher-tqc-10k demo.npz  one file, actions in the environment's units
  dipole train task=custom task.dataset=walker task.env=Walker2d-v5"""


def add_parser(actions: Any) -> None:
    """Adds the action to those of ``dipole data``."""
    convert = actions.add_parser(
        "convert",
        help="write a data set in another format",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run=run)
    convert.add_argument("source", metavar="A", help="a data set, by name or path")
    convert.add_argument("destination", metavar="B", help="the folder to write, or an .npz, .hdf5 or .h5 file")
    convert.add_argument("--overwrite", action="store_true", help="replace B where it exists")


def run(options: argparse.Namespace) -> int:
    """``dipole data convert``; failures raise."""
    from dipole_sb3.datasets.conversion import convert

    convert(options.source, options.destination, overwrite=options.overwrite)
    print(options.destination)
    return 0
