"""Reads the commands of a recording as actions, in the robot's units: the inverse of the node's action writer."""

from __future__ import annotations

from typing import Any

import numpy as np
from dipole_policy.contract import Contract, ObservationEntry
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.fields import Describe, leaves, reader, shown_field, size
from dipole_policy.observation import EntryReader
from numpy.typing import NDArray


class CommandReader:
    """Reads the contract's action from messages of its topic.

    :param contract: with full topic names and one action.
    :param count: elements of an action; None: as many as the fields have or, if their number is not fixed, as the first
        message has.
    :raises ContractError: the message type does not have the fields, or they do not have ``count`` elements.
    """

    def __init__(self, contract: Contract, describe: Describe, count: int | None) -> None:
        self._where = f"contract {contract.where}: action"
        if len(contract.actions) != 1:
            topics = " and ".join(entry.topic for entry in contract.actions)
            raise ContractError(f"{self._where} goes to {topics}, expected one topic: a recording is read by one")
        (self._entry,), self._describe = contract.actions, describe
        self.topic = self._entry.topic
        try:
            found = [leaf for path in self._entry.fields for leaf in leaves(self._entry.type, path, describe)]
        except ContractError as error:
            raise ContractError(f"{self._where}: {error}") from error
        declared = len(self._entry.names) * len(self._entry.fields) or self._entry.size or size(found)
        if declared is not None and count is not None and declared != count:
            texts = ", ".join(map(shown_field, self._entry.fields))
            raise ContractError(
                f"{self._where}: fields {texts} hold {declared} elements, expected the bundle's {count}"
            )
        count = count if declared is None else declared
        self._read: EntryReader | None = None if count is None else self._reader(count)

    @property
    def size(self) -> int | None:
        """Number of elements of an action; None until it is known."""
        return None if self._read is None else self._read.size

    def settle(self, message: Any) -> int:
        """Takes the number of elements from a message, unless it is already known; returns it.

        :raises ContractError: the message is empty or cannot be read.
        """
        if self._read is None:
            entry = self._entry
            try:
                parts = [reader(entry.type, path, self._describe)(message) for path in entry.fields]
            except InputError as error:
                raise ContractError(f"{self._where}: the first command cannot be read ({error})") from error
            count = sum(map(len, parts))
            if not count:
                raise ContractError(f"{self._where}: the first command on {self.topic} is empty, expected elements")
            self._read = self._reader(count)
        return self._read.size

    def read(self, message: Any) -> NDArray[np.float32]:
        """The action, float32 of shape [size], finite.

        :raises InputError: the message has another number of elements, or values that are not finite.
        """
        assert self._read is not None, "settle() comes first"
        try:
            values = self._read.read(message)
        except InputError:
            raise
        except (IndexError, TypeError, ValueError) as error:
            detail = f"{self.topic} cannot be read ({one_line(error)})"
            raise InputError(Cause(Kind.WRONG_SIZE, detail)) from error
        with np.errstate(over="ignore"):
            action = values.astype(np.float32)
        if not np.isfinite(action).all():
            at = int(np.argmin(np.isfinite(action)))
            raise InputError(Cause(Kind.NON_FINITE, f"{self.topic} gives {action[at]} for element {at} of the action"))
        return action

    def _reader(self, count: int) -> EntryReader:
        entry = self._entry
        size_of = None if entry.names else count
        # The maximum age (1.0) is not used here: a command counts from the time when it was sent.
        as_input = ObservationEntry(self.topic, entry.type, entry.fields, 1.0, names=entry.names, size=size_of)
        return EntryReader(as_input, self._where, self._describe)
