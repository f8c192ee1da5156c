"""What a sub-command with an argparse command line has to offer."""

from __future__ import annotations

from typing import Any, Protocol


class ParsedCommand(Protocol):
    """A sub-command, a module say, with an argparse command line."""

    def add_parser(self, commands: Any) -> None:
        """Adds itself to the command's subparsers, with ``set_defaults(run=…)``: namespace → exit status."""
