"""The ``dipole`` command: the sub-commands of :mod:`dipole_sb3`, plus ``demo``, ``export`` and ``data from-bag``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dipole_export import command, demo, from_bag
from dipole_sb3.cli import data, dispatch


class DataCommand:
    """``dipole data``, extended by ``from-bag`` for recordings of robots."""

    @staticmethod
    def add_parser(commands: Any) -> None:
        """Adds ``data`` to the command's subparsers."""
        data.add_parser(commands, more_actions=(from_bag,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command; see :func:`dipole_sb3.cli.dispatch.main`."""
    return dispatch.main(
        arguments,
        {**dispatch.HYDRA_COMMANDS, "demo": demo.COMMAND},
        (*(one for one in dispatch.PARSED_COMMANDS if one is not data), DataCommand, command),
    )


if __name__ == "__main__":
    sys.exit(main())
