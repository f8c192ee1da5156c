"""Reads the commands of a recording as actions, in the robot's units: the inverse of the node's action writers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dipole_policy.action import parts
from dipole_policy.contract import ActionEntry, Contract, ObservationEntry
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.fields import Describe, leaves, reader, size
from dipole_policy.observation import EntryReader
from dipole_policy.topic_reader import Received
from dipole_runtime.manifest import ActionSpec
from numpy.typing import NDArray


class CommandReader:
    """Reads one of the contract's actions from messages of its topic.

    :param where: the action's place in the contract, for error messages.
    :param count: number of elements; None: as many as the fields have or, if their number is not fixed, as the first
        message has.
    :raises ContractError: the message type does not have the fields, or they do not have ``count`` elements.
    """

    def __init__(self, where: str, entry: ActionEntry, describe: Describe, count: int | None) -> None:
        self.entry = entry
        self._where, self._describe = where, describe
        try:
            found = [leaf for path in entry.fields for leaf in leaves(entry.type, path, describe)]
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        if count is None:
            count = len(entry.names) * len(entry.fields) or entry.size or size(found)
        self._read: EntryReader | None = None if count is None else self._reader(count)

    @property
    def size(self) -> int:
        """Number of elements; only after :meth:`settle`."""
        assert self._read is not None, "settle() comes first"
        return self._read.size

    def settle(self, message: Any) -> None:
        """Takes the number of elements from a message, unless it is already known.

        :raises ContractError: the message is empty or cannot be read.
        """
        if self._read is not None:
            return
        entry = self.entry
        try:
            found = [reader(entry.type, path, self._describe)(message) for path in entry.fields]
        except InputError as error:
            raise ContractError(f"{self._where}: the first command cannot be read ({error})") from error
        count = sum(map(len, found))
        if not count:
            raise ContractError(f"{self._where}: the first command on {entry.topic} is empty, expected elements")
        self._read = self._reader(count)

    def read(self, message: Any) -> NDArray[np.float32]:
        """The elements, float32 of shape [size], finite.

        :raises InputError: the message has another number of elements, or values that are not finite.
        """
        assert self._read is not None, "settle() comes first"
        topic = self.entry.topic
        try:
            values = self._read.read(message)
        except InputError:
            raise
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} cannot be read ({one_line(error)})")) from error
        with np.errstate(over="ignore"):
            command = values.astype(np.float32)
        if not np.isfinite(command).all():
            at = int(np.argmin(np.isfinite(command)))
            raise InputError(Cause(Kind.NON_FINITE, f"{topic} gives {command[at]} for element {at} of its command"))
        return command

    def _reader(self, count: int) -> EntryReader:
        entry = self.entry
        size_of = None if entry.names else count
        # The maximum age (1.0) is not used here: a command counts from the time when it was sent.
        as_input = ObservationEntry(entry.topic, entry.type, entry.fields, 1.0, names=entry.names, size=size_of)
        return EntryReader(as_input, self._where, self._describe)


def command_readers(contract: Contract, describe: Describe, spec: ActionSpec | None) -> list[CommandReader]:
    """One reader for each of the contract's actions.

    :param spec: the bundle's action, whose elements are divided as in the node; None: no bundle.
    :raises ContractError: see :class:`CommandReader`; or the actions do not have the bundle's number of elements.
    """
    placed = contract.placed_actions()
    try:
        counts: Sequence[int | None] = [None] * len(placed)
        if spec is not None:
            counts = [part.stop - part.start for part in parts(contract, spec, describe)]
        return [CommandReader(*one, describe, count) for one, count in zip(placed, counts, strict=True)]
    except ContractError as error:
        raise ContractError(f"contract {contract.where}: {error}") from error


class Commands:
    """What was commanded on all action topics at one moment.

    The commands of one topic, the leading one, begin the steps. To each of them belongs what was commanded on the
    other topics in its period: the command that lies nearest, from half a period before to half a period after. If
    there is none, the last command is still in force unless it is older than ``hold_ns``.

    :param readers: in the action's order.
    :param counts: topic → number of its commands; the topic with the most leads, the first of several with as many.
    :param period_ns: the contract's control period in nanoseconds.
    :param hold_ns: in nanoseconds; 0: a command is in force for its own period only.
    """

    def __init__(
        self, readers: Sequence[CommandReader], counts: Mapping[str, int], period_ns: int, hold_ns: int = 0
    ) -> None:
        self._readers = tuple(readers)
        self.topics = tuple(one.entry.topic for one in readers)
        self.lead = max(self.topics, key=lambda topic: counts[topic])
        """The leading topic."""
        self._period_ns, self._half_ns, self._hold_ns = period_ns, period_ns // 2, hold_ns
        self._heard: dict[str, deque[Received]] = {topic: deque() for topic in self.topics if topic != self.lead}

    @property
    def size(self) -> int:
        """Number of elements of the action."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each topic's part."""
        return tuple(one.size for one in self._readers)

    @property
    def ahead_ns(self) -> dict[str, int]:
        """Topic → nanoseconds before the time of its commands at which :meth:`hear` has to be told of them."""
        return {topic: 0 if topic == self.lead else self._half_ns for topic in self.topics}

    def hear(self, topic: str, message: Any, sent_ns: int) -> None:
        """Takes a command on a topic other than the leading one.

        :param sent_ns: the time of the command in nanoseconds.
        """
        heard = self._heard[topic]
        heard.append(Received(message, sent_ns))
        # A step begins at most one and a half periods before the newest message that was heard.
        _drop_former(heard, sent_ns - 2 * self._period_ns)

    def forget(self, until_ns: int | None = None) -> None:
        """Drops the commands sent up to a time; None: all."""
        for topic, heard in self._heard.items():
            self._heard[topic] = deque(one for one in heard if until_ns is not None and one.received_ns > until_ns)

    def read(self, leading: Any, time_ns: int) -> NDArray[np.float32]:
        """The action, float32 of shape [size], finite.

        :param leading: the leading topic's message.
        :param time_ns: the time of the step's beginning; never earlier than at the call before, until :meth:`forget`.
        :raises InputError: a topic has no command that counts, or one that cannot be read.
        """
        return np.concatenate(
            [
                one.read(leading if one.entry.topic == self.lead else self._in_force(one.entry.topic, time_ns))
                for one in self._readers
            ]
        )

    def _in_force(self, topic: str, time_ns: int) -> Any:
        heard = self._heard[topic]
        _drop_former(heard, time_ns)
        near = [one for one in heard if one.received_ns - time_ns < self._half_ns]
        if not near:
            detail = f"{topic} has no command yet, expected one within half a period of that on {self.lead}"
            raise InputError(Cause(Kind.MISSING, detail))
        nearest = min(near, key=lambda one: abs(one.received_ns - time_ns))
        age_ns, limit_ns = time_ns - nearest.received_ns, max(self._half_ns, self._hold_ns)
        if age_ns > limit_ns:
            detail = (
                f"the last command on {topic} is {age_ns * 1e-9:.3f} s older than that on {self.lead}, expected at "
                f"most {limit_ns * 1e-9:g} s (see --hold)"
            )
            raise InputError(Cause(Kind.STALE, detail))
        return nearest.message


def _drop_former(heard: deque[Received], time_ns: int) -> None:
    """Drops what another command had followed by a time."""
    while len(heard) > 1 and heard[1].received_ns <= time_ns:
        heard.popleft()
