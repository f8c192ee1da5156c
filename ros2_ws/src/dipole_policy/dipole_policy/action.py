"""From actions to messages: the parts for each topic, bounds, rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from dipole_runtime.manifest import ActionSpec
from numpy.typing import NDArray

from dipole_policy.consumers import UNSTAMPED
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import Describe, FieldType, Path, field_type, leaves, shown_field, size

Command = NDArray[np.float64]
"""Values for the actuators, in the robot's units; shape [act]."""

_NAME_FIELDS = ("joint_names", "name")


def parts(contract: Contract, spec: ActionSpec, describe: Describe) -> list[slice]:
    """Which elements of the action go to each of the contract's actions.

    :raises ContractError: their sizes are not defined, or are not the bundle's in all.
    """
    placed = contract.placed_actions()
    sizes = [_declared_size(where, entry, describe) for where, entry in placed]
    open_places = [where for (where, _), count in zip(placed, sizes, strict=True) if count is None]
    if len(open_places) > 1:
        raise ContractError(f"{open_places[0]} has no size, expected size or names: {open_places[1]} has none either")
    known = sum(count or 0 for count in sizes)
    found = [spec.size - known if count is None else count for count in sizes]
    if sum(found) != spec.size or min(found) < 1:
        if len(placed) == 1:
            raise ContractError(f"{_what_takes(*placed[0], found[0])}, expected the bundle's {spec.size}")
        texts = " + ".join("?" if count is None else str(count) for count in sizes)
        raise ContractError(f"the actions take {texts} elements, expected the bundle's {spec.size}")
    ends = np.cumsum(found)
    return [slice(int(end) - count, int(end)) for end, count in zip(ends, found, strict=True)]


def _what_takes(where: str, entry: ActionEntry, count: int) -> str:
    if entry.names:
        return f"{where}.names holds {count} names"
    if entry.size is not None:
        return f"{where}.size is {count}"
    return f"{where}: fields {', '.join(map(shown_field, entry.fields))} take {count} elements"


def _declared_size(where: str, entry: ActionEntry, describe: Describe) -> int | None:
    if entry.names or entry.size is not None:
        return len(entry.names) or entry.size
    try:
        return size([leaf for path in entry.fields for leaf in leaves(entry.type, path, describe)])
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from error


class ActionLimits:
    """Bounds from a bundle and rate limits from a contract.

    :param at: which elements go to each of the contract's actions.
    :raises ContractError: the contract's names or rates do not fit the bundle, or zero is outside the bundle's bounds
        although the contract stops with zeros.
    """

    def __init__(self, contract: Contract, at: Sequence[slice], spec: ActionSpec) -> None:
        self.low = np.array(spec.low)
        self.high = np.array(spec.high)
        self.size = spec.size
        self._names = spec.names
        self._largest_step = np.full(spec.size, np.inf)
        for (where, entry), part in zip(contract.placed_actions(), at, strict=True):
            names = spec.names[part]
            for what in ("max_rate", "hold_within"):
                given = getattr(entry, what)
                if given is not None and len(given) != len(names):
                    raise ContractError(
                        f"{where}.{what} has {len(given)} numbers, expected {len(names)}, one for each element"
                    )
            if entry.max_rate is not None:
                self._largest_step[part] = np.array(entry.max_rate) * contract.period_s
            if entry.elements and entry.elements != names:
                found, expected = ", ".join(entry.elements), ", ".join(names)
                raise ContractError(f"{where}.elements is {found}, expected the bundle's {expected}")
            outside = part.start + np.flatnonzero((self.low[part] > 0.0) | (self.high[part] < 0.0))
            if entry.on_stop == "zero" and len(outside):
                at_ = int(outside[0])
                raise ContractError(
                    f"{where}.on_stop is zero, but {shown(spec.names[at_])} of the bundle ranges from "
                    f"{spec.low[at_]} to {spec.high[at_]}, expected hold or none"
                )

    def apply(self, action: NDArray[Any], previous: Command) -> Command:
        """A policy's action → the command: inside the bounds, and no further from the last one than the rates allow.

        Where the last command is outside of the bounds (of another bundle, or where the robot was found), the rates
        count: the command returns into the bounds step by step.

        :param action: any shape with ``size`` elements, in the robot's units.
        :param previous: the last command, or where the robot is; NaN where neither is known: not limited.
        :raises ValueError: another size, or values that are not finite.
        """
        values = np.asarray(action, np.float64).reshape(-1)
        if len(values) != self.size:
            raise ValueError(f"the policy's action has {len(values)} elements, expected {self.size}")
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"the policy's action is {values[at]} for {shown(self._names[at])}, expected finite")
        # fmin and fmax ignore NaN.
        low, high = previous - self._largest_step, previous + self._largest_step
        limited: Command = np.fmax(np.fmin(np.clip(values, self.low, self.high), high), low)
        return limited


class ActionWriter:
    """Writes the command's part for one of the contract's actions into messages of its type.

    :param where: its place in the contract.
    :param part: the elements that go to it.
    :raises ContractError: the type does not have the fields, or their size differs from the part's.
    """

    def __init__(self, where: str, entry: ActionEntry, part: slice, describe: Describe) -> None:
        self.entry, self.part = entry, part
        self._where, self._describe = where, describe
        try:
            self._targets = self._allot(part.stop - part.start)
            self._names_field = self._find_names_field()
            for path, _ in entry.constants:
                if (kind := field_type(entry.type, path, describe)).is_message or kind.is_array:
                    raise ContractError(f"constants.{shown_field(path)} is no single number or text")
            fields = describe(entry.type)
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        self._is_stamped = fields.get("header", "").endswith("/Header") and entry.type not in UNSTAMPED

    def _allot(self, action_size: int) -> list[tuple[Path, FieldType, slice]]:
        entry = self.entry
        found = [leaf for path in entry.fields for leaf in leaves(entry.type, path, self._describe)]
        fixed = sum(kind.length or 1 for _, kind in found if not (kind.is_array and kind.length is None))
        elastic = [path for path, kind in found if kind.is_array and kind.length is None]
        taken = fixed if not elastic else max(action_size, fixed + 1)
        if len(elastic) > 1 or taken != action_size:
            texts = ", ".join(shown_field(path) for path, _ in found)
            raise ContractError(
                f"fields {texts} take {'several arrays of any length' if len(elastic) > 1 else f'{taken} elements'}, "
                f"expected {action_size}"
            )
        targets, start = [], 0
        for path, kind in found:
            if not kind.is_float:
                raise ContractError(f"{shown_field(path)} of {entry.type} is {kind.element}, expected double or float")
            length = action_size - fixed if kind.is_array and kind.length is None else kind.length or 1
            targets.append((path, kind, slice(start, start + length)))
            start += length
        return targets

    def _find_names_field(self) -> str | None:
        if not self.entry.names:
            return None
        fields = self._describe(self.entry.type)
        for field in _NAME_FIELDS:
            if fields.get(field, "").startswith("sequence<string"):
                return field
        raise ContractError(f"names are given, but {self.entry.type} has no array of names")

    def message(self, command: Command, make: Callable[[str], Any], stamp: Any | None) -> Any:
        """Makes a new message.

        :param command: the whole action's elements, of which the writer takes its part.
        :param make: type name → an empty message.
        :param stamp: for types with a header; a message of type builtin_interfaces/msg/Time.
        """
        message = make(self.entry.type)
        if self._is_stamped and stamp is not None:
            message.header.stamp = stamp
        if self._names_field is not None:
            setattr(message, self._names_field, list(self.entry.names))
        for path, constant in self.entry.constants:
            self._assign(message, path, constant, make)
        for path, kind, part in self._targets:
            values = [float(value) for value in command[self.part][part]]
            self._assign(message, path, values if kind.is_array else values[0], make)
        return message

    def try_out(self, make: Callable[[str], Any]) -> None:
        """Writes a message of zeros, so that a constant of the wrong type fails now and not while driving.

        :raises ContractError: naming the message type and what it does not accept.
        """
        try:
            self.message(np.zeros(self.part.stop), make, None)
        except Exception as error:
            raise ContractError(f"{self._where}: {self.entry.type} cannot be written ({one_line(error)})") from error

    def _assign(self, message: Any, path: Path, value: Any, make: Callable[[str], Any]) -> None:
        target = message
        for depth, step in enumerate(path[:-1]):
            if isinstance(step, str):
                target = getattr(target, step)
                continue
            while len(target) <= step:
                target.append(make(field_type(self.entry.type, path[: depth + 1], self._describe).element))
            target = target[step]
        last = path[-1]
        if isinstance(last, int):
            kind = field_type(self.entry.type, path, self._describe)
            while len(target) <= last:
                target.append("" if kind.element == "string" else 0.0 if kind.is_float else 0)
            target[last] = value
        else:
            setattr(target, last, value)
