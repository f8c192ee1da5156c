"""The contract (YAML): the topics that make up the observation, and the topic that takes the action."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import TYPE_NAME, Path, parse_path

MAX_CONTRACT_SIZE = 1 << 18
"""In bytes."""
FUNCTIONS = ("cos", "sin", "yaw")
"""Functions of a field: of each element (cos, sin), or of a quaternion x, y, z, w (yaw)."""
ON_STOP = ("zero", "hold", "none")
STAMPS = ("header", "received")

_TOPIC = re.compile(r"(?:/|~/)?[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")
_MISSING: Any = object()


@dataclass(frozen=True)
class ObservationEntry:
    """One or several fields of one topic.

    :param fields: paths of the fields, read in this order.
    :param names: select and order the elements of the fields by the message's own ``name`` array (JointState).
    :param size: number of elements in all; required if neither the type nor ``names`` defines it.
    :param key: the entry of a Dict observation to which these elements belong.
    :param function: one of :data:`FUNCTIONS`.
    :param elements: the names that the bundle must have for these elements; checked if given.
    :param max_age_s: older values stop the robot; positive.
    :param stamp: whether the age counts from the stamp in the message's header or from its arrival; None: from the
        stamp if there is one, but the age is never less than that since arrival.
    """

    topic: str
    type: str
    fields: tuple[Path, ...]
    max_age_s: float
    names: tuple[str, ...] = ()
    size: int | None = None
    key: str | None = None
    function: str | None = None
    elements: tuple[str, ...] = ()
    stamp: str | None = None


@dataclass(frozen=True)
class ActionEntry:
    """The topic and fields that take the action.

    :param fields: paths of the fields; they take the action's elements in this order. An array of variable length takes
        all elements that the other fields leave.
    :param names: written to the message's own ``joint_names`` or ``name`` array.
    :param constants: further fields and their values.
    :param on_stop: what is sent when the robot must stop: zeros, the last command again, or nothing.
    :param max_rate: largest change of each element per second, in its unit; None: no limit.
    :param elements: the names that the bundle must have for the action's elements; checked if given.
    """

    topic: str
    type: str
    fields: tuple[Path, ...]
    on_stop: Literal["zero", "hold", "none"]
    names: tuple[str, ...] = ()
    constants: tuple[tuple[Path, Any], ...] = ()
    max_rate: tuple[float, ...] | None = None
    elements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """A robot, as the policy sees it.

    :param rate_hz: commands per second, 0.1 to 1,000.
    :param deadline_s: longest time from the start of a control period to its command; at most 10 s, by default one
        period.
    :param where: the file's name, for error messages.
    """

    rate_hz: float
    deadline_s: float
    observation: tuple[ObservationEntry, ...]
    action: ActionEntry
    where: str

    @property
    def period_s(self) -> float:
        """Seconds between commands."""
        return 1.0 / self.rate_hz

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Contract:
        """Reads a file.

        :raises ContractError: the file cannot be read or is not a contract.
        """
        where = os.fspath(path)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_CONTRACT_SIZE + 1)
        except (OSError, ValueError) as error:
            raise ContractError(f"contract {where} cannot be read ({one_line(error)})") from error
        return cls.from_bytes(data, where)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Contract:
        """Parses a contract and checks everything that needs neither a bundle nor ROS.

        :param data: UTF-8.
        :param where: the file's name, for error messages.
        :raises ContractError: naming the place, what was found and what was expected.
        """
        try:
            if len(data) > MAX_CONTRACT_SIZE:
                raise ContractError(f"has more than the {MAX_CONTRACT_SIZE} bytes expected at most")
            return cls._from_value(_yaml(data), where)
        except ContractError as error:
            raise ContractError(f"contract {where}: {error}") from error.__cause__

    @classmethod
    def _from_value(cls, value: Any, where: str) -> Contract:
        table = _Table(value, "the contract")
        rate = table.number("rate_hz", 0.1, 1000.0)
        deadline = table.number("deadline_s", 1e-4, 10.0, 1.0 / rate)
        entries = table.take("observation")
        if not isinstance(entries, list) or not entries:
            raise ContractError(f"observation is {shown(entries)}, expected a list of at least one entry")
        observation = tuple(_observation(entry, f"observation[{index}]") for index, entry in enumerate(entries))
        action = _action(table.take("action"), "action")
        table.require_empty()
        contract = cls(rate, deadline, observation, action, where)
        _require_agreement(contract)
        return contract


class _StrictLoader(yaml.SafeLoader):
    """YAML without its surprises: refuses duplicate keys, and aliases, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ContractError("holds a YAML alias (*name), expected every value to be written out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(key.value, str):
                raise ContractError(f"{line}: found a key that is no text, expected text")
            if key.value in seen:
                raise ContractError(f"{line}: the key {shown(key.value)} is given twice, expected once")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml(data: bytes) -> Any:
    try:
        return yaml.load(data.decode("utf-8"), _StrictLoader)
    except ContractError:
        raise
    # Impossible dates and thousands of brackets raise these.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ContractError(f"is not YAML in UTF-8 ({one_line(error)})") from error


class _Table:
    """A mapping whose keys are taken one by one; keys that remain are errors."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ContractError(f"{where} is {shown(value)}, expected a mapping")
        self._left = dict(value)
        self._known: list[str] = []
        self._where = where
        self._prefix = "" if where == "the contract" else f"{where}."

    def take(self, key: str, default: Any = _MISSING) -> Any:
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is _MISSING:
            raise ContractError(f"{self._where} has no {key}, expected one")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> float:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected a number from {low} to {high}")
        return float(value)

    def text(self, key: str, default: Any = _MISSING) -> Any:
        value = self.take(key, default)
        if value is not default and not (isinstance(value, str) and value and value.isprintable()):
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected text")
        return value

    def choice(self, key: str, choices: Sequence[str], default: Any = _MISSING) -> Any:
        value = self.take(key, default)
        if value is not default and value not in choices:
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected {', '.join(choices)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key, None)
        if value is None:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected a list of names")
        for item in value:
            if value.count(item) > 1:
                raise ContractError(f"{self._prefix}{key} holds {shown(item)} twice, expected different names")
        return tuple(value)

    def topic(self) -> str:
        value = self.text("topic")
        if not _TOPIC.fullmatch(value):
            raise ContractError(f"{self._prefix}topic is {shown(value)}, expected a topic name such as /joint_states")
        return str(value)

    def type(self) -> str:
        value = self.text("type")
        if not TYPE_NAME.fullmatch(value):
            raise ContractError(
                f"{self._prefix}type is {shown(value)}, expected package/msg/Name such as sensor_msgs/msg/JointState"
            )
        return str(value)

    def fields(self) -> tuple[Path, ...]:
        one, several = self.text("field", None), self.texts("fields")
        if (one is None) == (not several):
            raise ContractError(
                f"{self._where} has {'both field and fields' if one else 'no field'}, expected one of them"
            )
        return tuple(self.path(text, "field" if one else "fields") for text in several or (one,))

    def path(self, text: Any, key: str) -> Path:
        try:
            return parse_path(str(text))
        except ContractError as error:
            raise ContractError(f"{self._prefix}{key}: {error}") from None

    def require_empty(self) -> None:
        for key in self._left:
            raise ContractError(
                f"{self._where} has the unknown key {shown(key)}, expected one of {', '.join(self._known)}"
            )


def _observation(value: Any, where: str) -> ObservationEntry:
    table = _Table(value, where)
    entry = ObservationEntry(
        topic=table.topic(),
        type=table.type(),
        fields=table.fields(),
        max_age_s=table.number("max_age_s", 1e-3, 3600.0),
        names=table.texts("names"),
        size=_size(table, where),
        key=table.text("key", None),
        function=table.choice("function", FUNCTIONS, None),
        elements=table.texts("elements"),
        stamp=table.choice("stamp", STAMPS, None),
    )
    table.require_empty()
    if entry.names and entry.size is not None:
        raise ContractError(f"{where} has both names and size, expected one of them: names say the size")
    return entry


def _size(table: _Table, where: str) -> int | None:
    value = table.take("size", None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65536):
        raise ContractError(f"{where}.size is {shown(value)}, expected a whole number from 1 to 65536")
    return value


def _action(value: Any, where: str) -> ActionEntry:
    table = _Table(value, where)
    entry = ActionEntry(
        topic=table.topic(),
        type=table.type(),
        fields=table.fields(),
        on_stop=table.choice("on_stop", ON_STOP),
        names=table.texts("names"),
        constants=_constants(table, where),
        max_rate=_max_rate(table, where),
        elements=table.texts("elements"),
    )
    table.require_empty()
    return entry


def _constants(table: _Table, where: str) -> tuple[tuple[Path, Any], ...]:
    value = table.take("constants", {})
    if not isinstance(value, Mapping):
        raise ContractError(f"{where}.constants is {shown(value)}, expected a mapping from fields to values")
    for path, constant in value.items():
        if not isinstance(constant, bool | int | float | str) or (
            isinstance(constant, float) and not math.isfinite(constant)
        ):
            raise ContractError(f"{where}.constants.{path} is {shown(constant)}, expected a finite number or text")
    return tuple((table.path(path, "constants"), constant) for path, constant in value.items())


def _max_rate(table: _Table, where: str) -> tuple[float, ...] | None:
    value = table.take("max_rate", None)
    if value is None:
        return None
    if (
        isinstance(value, list)
        and value
        and all(isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf for rate in value)
    ):
        return tuple(map(float, value))
    raise ContractError(
        f"{where}.max_rate is {shown(value)}, expected a list of positive numbers, one for each element"
    )


def _require_agreement(contract: Contract) -> None:
    types: dict[str, str] = {}
    for index, entry in enumerate(contract.observation):
        if types.setdefault(entry.topic, entry.type) != entry.type:
            raise ContractError(
                f"observation[{index}].type is {entry.type}, but {entry.topic} has type {types[entry.topic]} before"
            )
    keyed = [entry.key is not None for entry in contract.observation]
    if any(keyed) and not all(keyed):
        raise ContractError(f"observation[{keyed.index(False)}] has no key, expected one: other entries have theirs")
    if contract.action.topic in types:
        raise ContractError(f"action.topic is {contract.action.topic}, which the observation reads: expected another")
