"""From actions to messages: bounds, rates, and the command that is sent when the robot must stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dipole_runtime.manifest import ActionSpec
from numpy.typing import NDArray

from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import Describe, FieldType, Path, field_type, leaves, shown_field

Command = NDArray[np.float64]
"""Values for the actuators, in the robot's units; shape [act]."""

_NAME_FIELDS = ("joint_names", "name")


class ActionLimits:
    """Bounds from a bundle and rate limits from a contract.

    :raises ContractError: the contract's names or rates do not fit the bundle, or zero is outside the bundle's bounds
        although the contract stops with zeros.
    """

    def __init__(self, entry: ActionEntry, spec: ActionSpec, period_s: float) -> None:
        self.low = np.array(spec.low)
        self.high = np.array(spec.high)
        self.size = spec.size
        self._names = spec.names
        self._largest_step: Command | None = None
        if entry.max_rate is not None:
            if len(entry.max_rate) != spec.size:
                raise ContractError(
                    f"action.max_rate has {len(entry.max_rate)} numbers, expected the bundle's {spec.size}"
                )
            self._largest_step = np.array(entry.max_rate) * period_s
        if entry.elements and entry.elements != spec.names:
            raise ContractError(
                f"action.elements is {', '.join(entry.elements)}, expected the bundle's {', '.join(spec.names)}"
            )
        if entry.names and len(entry.names) != spec.size:
            raise ContractError(f"action.names holds {len(entry.names)} names, expected the bundle's {spec.size}")
        outside = np.flatnonzero((self.low > 0.0) | (self.high < 0.0))
        if entry.on_stop == "zero" and len(outside):
            at = int(outside[0])
            raise ContractError(
                f"action.on_stop is zero, but {shown(spec.names[at])} of the bundle ranges from {spec.low[at]} to "
                f"{spec.high[at]}, expected hold or none"
            )

    def apply(self, action: NDArray[Any], previous: Command | None) -> Command:
        """A policy's action → the command: inside the bounds, and as close to the last command as the rates demand.

        :param action: any shape with ``size`` elements, in the robot's units.
        :param previous: the last command; None if there was none: then the rates do not limit this one.
        :raises ValueError: another size, or values that are not finite.
        """
        values = np.asarray(action, np.float64).reshape(-1)
        if len(values) != self.size:
            raise ValueError(f"the policy's action has {len(values)} elements, expected {self.size}")
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"the policy's action is {values[at]} for {shown(self._names[at])}, expected finite")
        if self._largest_step is not None and previous is not None:
            values = np.clip(values, previous - self._largest_step, previous + self._largest_step)
        # Clip last: after a reload, the last command can be outside the new bundle's bounds.
        return np.clip(values, self.low, self.high)


class ActionWriter:
    """Writes commands into messages of the contract's type.

    :param spec: the manifest's action.
    :raises ContractError: the type does not have the fields, or their size differs from the action's.
    """

    def __init__(self, contract: Contract, spec: ActionSpec, describe: Describe) -> None:
        self._entry = entry = contract.action
        self._describe = describe
        try:
            self._targets = self._allot(spec.size)
            self._names_field = self._find_names_field()
            for path, _ in entry.constants:
                if (kind := field_type(entry.type, path, describe)).is_message or kind.is_array:
                    raise ContractError(f"constants.{shown_field(path)} is no single number or text")
            fields = describe(entry.type)
        except ContractError as error:
            raise ContractError(f"action: {error}") from error
        self._has_header = fields.get("header", "").endswith("/Header")

    def _allot(self, action_size: int) -> list[tuple[Path, FieldType, slice]]:
        entry = self._entry
        found = [leaf for path in entry.fields for leaf in leaves(entry.type, path, self._describe)]
        fixed = sum(kind.length or 1 for _, kind in found if not (kind.is_array and kind.length is None))
        elastic = [path for path, kind in found if kind.is_array and kind.length is None]
        taken = fixed if not elastic else max(action_size, fixed + 1)
        if len(elastic) > 1 or taken != action_size:
            texts = ", ".join(shown_field(path) for path, _ in found)
            raise ContractError(
                f"fields {texts} take {'several arrays of any length' if len(elastic) > 1 else f'{taken} elements'}, "
                f"expected the bundle's {action_size}"
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
        if not self._entry.names:
            return None
        fields = self._describe(self._entry.type)
        for field in _NAME_FIELDS:
            if fields.get(field, "").startswith("sequence<string"):
                return field
        raise ContractError(f"names are given, but {self._entry.type} has no array of names")

    def message(self, command: Command, make: Callable[[str], Any], stamp: Any | None) -> Any:
        """Makes a new message.

        :param make: type name → an empty message.
        :param stamp: for types with a header; a message of type builtin_interfaces/msg/Time.
        """
        message = make(self._entry.type)
        if self._has_header and stamp is not None:
            message.header.stamp = stamp
        if self._names_field is not None:
            setattr(message, self._names_field, list(self._entry.names))
        for path, constant in self._entry.constants:
            self._assign(message, path, constant, make)
        for path, kind, part in self._targets:
            values = [float(value) for value in command[part]]
            self._assign(message, path, values if kind.is_array else values[0], make)
        return message

    def try_out(self, make: Callable[[str], Any]) -> None:
        """Writes a message of zeros, so that a constant of the wrong type fails now and not while driving.

        :raises ContractError: naming the message type and what it does not accept.
        """
        size = self._targets[-1][2].stop
        try:
            self.message(np.zeros(size), make, None)
        except Exception as error:
            raise ContractError(f"action: {self._entry.type} cannot be written ({one_line(error)})") from error

    def _assign(self, message: Any, path: Path, value: Any, make: Callable[[str], Any]) -> None:
        target = message
        for depth, step in enumerate(path[:-1]):
            if isinstance(step, str):
                target = getattr(target, step)
                continue
            while len(target) <= step:
                target.append(make(field_type(self._entry.type, path[: depth + 1], self._describe).element))
            target = target[step]
        last = path[-1]
        if isinstance(last, int):
            kind = field_type(self._entry.type, path, self._describe)
            while len(target) <= last:
                target.append("" if kind.element == "string" else 0.0 if kind.is_float else 0)
            target[last] = value
        else:
            setattr(target, last, value)
