"""``dipole data fetch``: downloads published recordings."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Downloads one of ExORL's recordings and unpacks its episodes to where `dipole train` finds them. A download
that broke off goes on where it was when the same command is given again.

Offered: the domains walker, quadruped, cheetah and jaco, each by the agents aps, diayn, disagreement, icm,
icm_apt, proto, random, rnd and smm. All tasks of a domain share its recordings. They are large: a domain
holds about ten million steps, some 2.6 GB to download for walker/rnd, and as much again unpacked.

OGBench's sets need no such step: `dipole train` fetches them by itself."""

_EXAMPLES = """\
examples:
  dipole data fetch exorl/walker/rnd
  dipole data fetch exorl/walker/rnd --dir data         elsewhere; dipole train … task.dataset_dir=data"""


def add_parser(actions: Any) -> None:
    """Adds ``fetch`` to the sub-commands of ``dipole data``."""
    fetch = actions.add_parser(
        "fetch",
        help="download one of ExORL's recordings",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.set_defaults(run=_fetch)
    fetch.add_argument("name", metavar="NAME", help="e.g. exorl/walker/rnd")
    fetch.add_argument("--dir", metavar="D", help="folder of the recordings (default: $EXORL_DATA_DIR, else ~/.exorl)")


def _fetch(options: argparse.Namespace) -> int:
    """``dipole data fetch``; failures raise."""
    from dipole_sb3.datasets.exorl.fetch import fetch

    if not options.name.startswith("exorl/"):
        raise ValueError(
            f"{options.name}: only ExORL's recordings are fetched; expected a name such as exorl/walker/rnd"
        )
    print(fetch(options.name, dataset_dir=options.dir))
    return 0
