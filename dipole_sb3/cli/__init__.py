"""The ``dipole`` command: one module per sub-command."""

from dipole_sb3.cli.dispatch import main

__all__ = ["main"]
