"""The strict reading of a contract's YAML: every key is known, given once, and has a value of its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import TYPE_NAME, Path, parse_path

_TOPIC = re.compile(r"(?:/|~/)?[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")
_MISSING: Any = object()


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


def parsed(data: bytes) -> Any:
    try:
        return yaml.load(data.decode("utf-8"), _StrictLoader)
    except ContractError:
        raise
    # Impossible dates and thousands of brackets raise these.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ContractError(f"is not YAML in UTF-8 ({one_line(error)})") from error


class Table:
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

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> Any:
        value = self.take(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected a number from {low} to {high}")
        return float(value)

    def whole(self, key: str, low: int, high: int, default: Any = _MISSING) -> Any:
        value = self.take(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected a whole number from {low} to {high}")
        return value

    def positives(self, key: str) -> tuple[float, ...] | None:
        """A list of positive numbers, one for each element; None if it is not given."""
        value = self.take(key, None)
        if value is None:
            return None
        if isinstance(value, list) and value and all(map(_is_positive, value)):
            return tuple(map(float, value))
        raise ContractError(
            f"{self._prefix}{key} is {shown(value)}, expected a list of positive numbers, one for each element"
        )

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

    def mapping(self, key: str) -> Mapping[Any, Any]:
        """A mapping; empty if it is not given."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise ContractError(f"{self._prefix}{key} is {shown(value)}, expected a mapping from fields to values")
        return value

    def topic(self) -> str:
        value = self.text("topic")
        if not _TOPIC.fullmatch(value):
            raise ContractError(f"{self._prefix}topic is {shown(value)}, expected a topic name such as /joint_states")
        return str(value)

    def type(self, default: Any = _MISSING) -> str:
        value = self.text("type", default)
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


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
