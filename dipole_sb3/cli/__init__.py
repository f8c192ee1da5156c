"""The ``dipole`` command: one module per sub-command."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one sub-command; see :func:`dipole_sb3.cli.dispatch.main`.

    All of them are imported only here: processes that step environments or evaluate import parts of this folder.
    """
    from dipole_sb3.cli.dispatch import main as run

    return run(arguments)
