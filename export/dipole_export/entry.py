"""The ``dipole`` command as installed: says its version without waiting for torch."""

from __future__ import annotations

import sys
from importlib.metadata import version


def main() -> int:
    """Runs the command line of the process; see :func:`dipole_export.cli.main`."""
    if sys.argv[1:] == ["--version"]:
        print(f"dipole-sb3 {version('dipole-sb3')}")
        return 0
    from dipole_export import cli

    return cli.main()
