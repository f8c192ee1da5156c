"""Where the work of a command is done: in its own process, or in the processes of a Ray cluster."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

LOCAL, RAY = "local", "ray"
OPTIONS = ("engine", "slots", "gpus_per_task", "cpus_per_task", "address")

Tell = Callable[[str, float], None]
"""Tells how far a task is: what it does now, and which part of it is done, 0 to 1."""


class Engine(NamedTuple):
    """A Ray cluster, and what each task takes of it.

    :param slots: tasks at a time, ≥ 1; None: as many as the cluster has room for.
    :param gpus_per_task: graphics processors of each task, ≥ 0; a fraction shares one.
    :param cpus_per_task: processor cores of each task, ≥ 1, and PyTorch's threads in it.
    :param address: of a running cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None: that of the job in which
        the command runs, else one on this machine that ends with the command.
    """

    slots: int | None = None
    gpus_per_task: float = 0.0
    cpus_per_task: int = 1
    address: str | None = None

    @property
    def options(self) -> list[str]:
        """What asks for it on a command line."""
        given = {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}
        texts = {name: f"{value:g}" if isinstance(value, float) else value for name, value in given.items()}
        return [f"engine={RAY}", *(f"{name}={text}" for name, text in texts.items())]


class Task(NamedTuple):
    """A part of a command's work that a process can do alone.

    :param name: what it is called on the screen.
    :param work: does it; whatever it takes or gives is sent between machines.
    :param folders: what it writes; relative to the working directory, or absolute.
    :param reads: files and folders that it needs; folders that it also writes are written by nobody else.
    """

    name: str
    work: Callable[[Tell], Any]
    folders: Sequence[Path]
    reads: Sequence[Path] = ()


def taken_from(arguments: Sequence[str]) -> tuple[Engine | None, list[str]]:
    """The engine that a command line asks for, None being the command's own process, and the rest of the command line.

    :raises ValueError: an option is wrong, or belongs to another engine.
    """
    found, rest = {}, []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name in OPTIONS:
            found[name] = value
        else:
            rest.append(argument)
    name = found.pop("engine", LOCAL)
    if name not in (LOCAL, RAY):
        raise ValueError(f"engine is {name}, expected {LOCAL} or {RAY}")
    if name == LOCAL:
        if found:
            raise ValueError(f"{' and '.join(found)} belong to engine={RAY}, which the command does not name")
        return None, rest
    return engine(**found), rest


def engine(
    slots: str | None = None, gpus_per_task: str = "0", cpus_per_task: str = "1", address: str | None = None
) -> Engine:
    """An engine from the texts of its options.

    :raises ValueError: one is not a number, or too small.
    """
    gpus = _number("gpus_per_task", gpus_per_task, 0, whole=False)
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"gpus_per_task is {gpus_per_task}, expected a whole number, or a part of one GPU below 1")
    return Engine(
        None if slots is None else int(_number("slots", slots, 1)),
        gpus,
        int(_number("cpus_per_task", cpus_per_task, 1)),
        address,
    )


def _number(name: str, text: str, least: int, whole: bool = True) -> float:
    expected = f"a {'whole ' if whole else ''}number of at least {least}"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text}, expected {expected}") from None
    if not (math.isfinite(value) and value >= least and (value.is_integer() or not whole)):
        raise ValueError(f"{name} is {text}, expected {expected}")
    return value


def split(groups: Sequence[Sequence[T]], slots: int) -> list[list[T]]:
    """Cuts groups into parts, at least as many as there are slots where there is so much to cut.

    The largest part is cut first, and the parts of a group differ by one member at most.

    :param groups: none of them empty.
    :param slots: ≥ 1.
    """
    cuts = [1] * len(groups)

    def largest(number: int) -> int:
        return math.ceil(len(groups[number]) / cuts[number])

    while sum(cuts) < slots and max(map(largest, range(len(groups)))) > 1:
        cuts[max(range(len(groups)), key=largest)] += 1
    parts = []
    for group, count in zip(groups, cuts, strict=True):
        ends = [len(group) * number // count for number in range(count + 1)]
        parts += [list(group[start:end]) for start, end in itertools.pairwise(ends)]
    return parts
