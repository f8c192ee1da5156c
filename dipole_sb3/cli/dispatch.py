"""``dipole``: reads the command line, runs a sub-command and reports its errors in one sentence."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dipole_sb3.cli import benchmark, curves, data, errors, evaluate, hub, summary, texts, train
from dipole_sb3.cli.parsed_command import ParsedCommand
from dipole_sb3.common.version import VERSION

INTERRUPTED = 128 + signal.SIGINT
INTERRUPTED_OUTPUT = 141
"""The exit status that shells report for a program ended by a closed pipe (128 + SIGPIPE)."""


@dataclass(frozen=True)
class HydraCommand:
    """A sub-command whose command line is read by Hydra.

    :param run: takes the overrides and flags, returns the exit status.
    :param text: the help text.
    :param flags: whether Hydra's flags mean something to it.
    :param needs_options: whether it shows its help when nothing follows its name, instead of hours of work by default.
    """

    run: Callable[[list[str]], int]
    text: texts.CommandText
    flags: bool = True
    needs_options: bool = True


HYDRA_COMMANDS: Mapping[str, HydraCommand] = {
    "train": HydraCommand(train.run, texts.TRAIN),
    "evaluate": HydraCommand(evaluate.run, texts.EVALUATE),
    "benchmark": HydraCommand(benchmark.run, texts.BENCHMARK, flags=False),
}
PARSED_COMMANDS: Sequence[ParsedCommand] = (data, summary, curves, hub)


def main(
    arguments: Sequence[str] | None = None,
    hydra_commands: Mapping[str, HydraCommand] = HYDRA_COMMANDS,
    parsed_commands: Sequence[ParsedCommand] = PARSED_COMMANDS,
) -> int:
    """Runs one sub-command.

    :param arguments: the command line without the program's name; None: that of ``sys.argv``.
    :param hydra_commands: by name; packages that build on this one can add their own.
    :param parsed_commands: likewise, for sub-commands with an argparse command line.
    :return: the exit status: 0 done, 1 failed with a sentence on stderr, 2 wrong usage, 130 interrupted, 141 output
        closed early.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(hydra_commands, parsed_commands)
    if not arguments:
        parser.print_help()
        return 2
    # Overrides like algo.beta=2 and flags like -m belong to Hydra, which reads them itself.
    known, extra = parser.parse_known_args(_rewards_joined(arguments))
    if extra and known.command not in hydra_commands:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    # A missing display causes this at every start; it does not matter for training.
    warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")
    try:
        if known.command in hydra_commands:
            command, following = hydra_commands[known.command], arguments[arguments.index(known.command) + 1 :]
            if (rank := _rank_without_work()) is not None:
                print(f"dipole {known.command}: {rank} has nothing to do: the command is one process, that of rank 0")
                return 0
            _leave_torchrun()
            if command.needs_options and not following:
                # argparse prints the help of a sub-command, and exits.
                with suppress(SystemExit):
                    parser.parse_args([known.command, "--help"])
                return 2
            return command.run(following)
        status: int = known.run(known)
        return status
    except BrokenPipeError:
        # The reader has closed the pipe, as in `dipole data info … | head`; the rest of the output is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED_OUTPUT
    except (KeyboardInterrupt, Exception) as error:
        if errors.was_interrupted(error):
            print("dipole: interrupted", file=sys.stderr)
            return INTERRUPTED
        if not isinstance(error, errors.USER_ERRORS) or errors.full_trace_wanted():
            raise
        print(f"dipole: {errors.sentence(error, arguments)}", file=sys.stderr)
        return 1


def _rewards_joined(arguments: Sequence[str]) -> list[str]:
    """``--reward`` and its value as one argument: argparse takes ``-hypot(…)`` alone for the option ``-h``."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--reward" and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _rank_without_work() -> str | None:
    """The name of this process if torchrun has started it beside that of rank 0."""
    rank = os.environ.get("RANK", "0")
    if "TORCHELASTIC_RUN_ID" not in os.environ or rank == "0":
        return None
    return f"rank {rank} of {os.environ.get('WORLD_SIZE', '?')}"


def _leave_torchrun() -> None:
    """Rank 0 works alone: a library that finds itself one of several processes would wait for the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)


def build_parser(
    hydra_commands: Mapping[str, HydraCommand], parsed_commands: Sequence[ParsedCommand]
) -> argparse.ArgumentParser:
    """The parser of the whole command, including the ``--help`` of the sub-commands that Hydra reads."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="dipole", description=texts.COMMAND, epilog=texts.COMMAND_EXAMPLES, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"dipole-sb3 {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for parsed in parsed_commands:
        parsed.add_parser(commands)
    for name, hydra_command in hydra_commands.items():
        text = hydra_command.text
        command = commands.add_parser(
            name,
            help=text.summary,
            usage=f"dipole {name} [option=value ...]{' [flags]' if hydra_command.flags else ''}",
            description=text.description,
            epilog=text.details(),
            formatter_class=raw,
            add_help=False,
        )
        command.add_argument("options", nargs="*", help=argparse.SUPPRESS)
        flags = command.add_argument_group("flags")
        flags.add_argument("-h", "--help", action="help", help="show this and stop")
        if not hydra_command.flags:
            continue
        flags.add_argument("-m", "--multirun", action="store_true", help="one run for each of several values (a,b,c)")
        flags.add_argument("--cfg", metavar="job", help="print the resulting configuration and stop")
        flags.add_argument("--config-dir", metavar="DIR", help="also look for tasks in this folder (DIR/task/*.yaml)")
    return parser
