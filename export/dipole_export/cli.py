"""The ``dipole`` command: that of :mod:`dipole_sb3`, and what comes after training."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dipole_export import command, demo
from dipole_sb3.cli import dispatch


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command; see :func:`dipole_sb3.cli.dispatch.main`."""
    return dispatch.main(
        arguments,
        {**dispatch.HYDRA_COMMANDS, "demo": demo.COMMAND},
        (*dispatch.PARSED_COMMANDS, command),
    )


if __name__ == "__main__":
    sys.exit(main())
