"""The interface of a sub-command with an argparse command line."""

from __future__ import annotations

from typing import Any, Protocol


class ParsedCommand(Protocol):
    """A sub-command with an argparse command line, e.g. a module."""

    def add_parser(self, commands: Any) -> None:
        """Adds the command to the subparsers; its ``set_defaults(run=…)`` sets a function: namespace → exit status."""
