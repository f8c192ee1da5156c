"""Access to message fields by name, using the field descriptions of generated ROS message classes.

Nothing here imports rclpy. Messages are read by attribute, so a bag reader's messages work too.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line, shown

Description = Mapping[str, str]
"""Field → type, as ROS writes it: ``double``, ``double[36]``, ``sequence<string>``, ``geometry_msgs/Vector3``."""
Describe = Callable[[str], Description]
"""Message type, ``package/msg/Name`` → its description; raises ContractError if the type is not installed."""
Path = tuple[str | int, ...]
Reader = Callable[[Any], NDArray[np.float64]]
"""Message → the values of a field, one-dimensional; raises InputError."""

TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")
_STEP = re.compile(r"([A-Za-z][A-Za-z0-9_]*)((?:\[\d{1,6}\])*)")
_SEQUENCE = re.compile(r"sequence<(.+?)(?:, *(\d+))?>")
_ARRAY = re.compile(r"(.+)\[(\d+)\]")
_FLOATS = frozenset({"double", "float", "float64", "float32"})
_OCTETS = frozenset({"octet", "byte"})
"""rclpy gives them as bytes of length 1, in which NumPy would read text."""
_NUMBERS = _FLOATS | _OCTETS | {"boolean", "bool", "char"} | {f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}


@dataclass(frozen=True)
class FieldType:
    """The parts of a field's type.

    :param element: a basic type or ``package/msg/Name``.
    :param is_array: whether the field is an array.
    :param length: for an array of fixed length; None otherwise.
    """

    element: str
    is_array: bool = False
    length: int | None = None

    @property
    def is_number(self) -> bool:
        """Whether it can be read as a number; booleans count as 0 and 1."""
        return self.element in _NUMBERS

    @property
    def is_float(self) -> bool:
        """Whether an action can be written to it without rounding to integers."""
        return self.element in _FLOATS

    @property
    def is_message(self) -> bool:
        """Whether the element is itself a message with fields."""
        return "/" in self.element


def full_name(name: str) -> str:
    """``package/Name`` and ``package/msg/Name`` → ``package/msg/Name``."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[-1]}" if len(parts) in (2, 3) else name


def message_class(name: str) -> type:
    """The installed message class with this name.

    :param name: ``package/msg/Name``.
    :raises ContractError: the name has another form, or the message is not installed.
    """
    if not TYPE_NAME.fullmatch(name):
        raise ContractError(f"type is {shown(name)}, expected package/msg/Name such as sensor_msgs/msg/JointState")
    package, _, message = name.split("/")
    try:
        found: Any = getattr(importlib.import_module(f"{package}.msg"), message)
        found.get_fields_and_field_types()
    # Importing a broken installation can raise anything.
    except Exception as error:
        raise ContractError(
            f"message type {name} cannot be loaded ({one_line(error)}), expected package {package} to be installed"
        ) from error
    return found  # type: ignore[no-any-return]


def describe_installed(name: str) -> Description:
    """The description of an installed message; see :data:`Describe`."""
    found: Description = message_class(full_name(name)).get_fields_and_field_types()  # type: ignore[attr-defined]
    return found


def parse_path(text: str) -> Path:
    """``points[0].positions`` → ("points", 0, "positions").

    :raises ContractError: anything other than names, dots and integers in brackets.
    """
    steps: list[str | int] = []
    for piece in text.split("."):
        match = _STEP.fullmatch(piece)
        if match is None:
            raise ContractError(f"field is {shown(text)}, expected names and dots such as twist.linear.x")
        steps.append(match[1])
        steps.extend(int(index) for index in re.findall(r"\d+", match[2]))
    return tuple(steps)


def shown_field(path: Path) -> str:
    """The reverse of :func:`parse_path`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def parse_type(text: str) -> FieldType:
    """Splits a type, as ROS writes it, into its parts."""
    if match := _SEQUENCE.fullmatch(text):
        return FieldType(_element(match[1]), is_array=True)
    if match := _ARRAY.fullmatch(text):
        return FieldType(_element(match[1]), is_array=True, length=int(match[2]))
    return FieldType(_element(text))


def _element(text: str) -> str:
    return full_name(text) if "/" in text else text


def field_type(message: str, path: Path, describe: Describe) -> FieldType:
    """The type of the field at a path.

    :raises ContractError: a field that the message does not have, or an index into something that is not an array.
    """
    kind = FieldType(full_name(message))
    for depth, step in enumerate(path):
        at = f"{shown_field(path[:depth])} of {message}" if depth else message
        if isinstance(step, int):
            if not kind.is_array:
                raise ContractError(f"{at} is {kind.element}, expected an array for [{step}]")
            if kind.length is not None and step >= kind.length:
                raise ContractError(f"{at} has {kind.length} elements, expected more for [{step}]")
            kind = FieldType(kind.element)
            continue
        if kind.is_array or not kind.is_message:
            raise ContractError(f"{at} has no field {step}: it is {'an array' if kind.is_array else kind.element}")
        fields = describe(kind.element)
        if step not in fields:
            known = ", ".join(list(fields)[:12])
            raise ContractError(f"{at} has no field {step}, expected one of {known}")
        kind = parse_type(fields[step])
    return kind


def leaves(message: str, path: Path, describe: Describe) -> list[tuple[Path, FieldType]]:
    """The numeric fields at or below a path, in the order of their declaration: a Vector3 becomes x, y, z.

    :raises ContractError: for text and arrays of messages, which are not numbers.
    """
    kind = field_type(message, path, describe)
    if kind.is_number:
        return [(path, kind)]
    if kind.is_message and not kind.is_array:
        below = [leaf for name in describe(kind.element) for leaf in leaves(message, (*path, name), describe)]
        if below:
            return below
    raise ContractError(
        f"{shown_field(path)} of {message} is {'an array of ' if kind.is_array else ''}{kind.element}, expected numbers"
    )


def size(found: Sequence[tuple[Path, FieldType]]) -> int | None:
    """Total number of elements in these fields; None if one of them is a sequence of variable length."""
    total = 0
    for _, kind in found:
        if kind.is_array and kind.length is None:
            return None
        total += kind.length or 1
    return total


def reader(message: str, path: Path, describe: Describe) -> Reader:
    """Makes a function that reads a field; the path is checked against the type's description.

    :raises ContractError: as :func:`leaves`.
    """
    found = leaves(message, path, describe)
    if all(_is_plain(leaf, kind) for leaf, kind in found):
        # The usual case, in compiled code: imu.angular_velocity, twist.linear.x.
        get = attrgetter(*(shown_field(leaf) for leaf, _ in found))
        if len(found) == 1:
            return lambda value: np.array([get(value)], np.float64)
        return lambda value: np.array(get(value), np.float64)
    return lambda value: np.concatenate([_values(value, leaf) for leaf, _ in found])


def _is_plain(path: Path, kind: FieldType) -> bool:
    is_indexed = any(isinstance(step, int) for step in path)
    return not (kind.is_array or is_indexed or kind.element in _OCTETS)


def _values(message: Any, path: Path) -> NDArray[np.float64]:
    value = message
    for depth, step in enumerate(path):
        if isinstance(step, str):
            value = getattr(value, step)
        elif step < len(value):
            value = value[step]
        else:
            at = shown_field(path[:depth])
            raise InputError(Cause(Kind.WRONG_SIZE, f"{at} has {len(value)} elements, expected more than {step}"))
    if isinstance(value, bytes):
        value = list(value)
    elif isinstance(value, list) and value and isinstance(value[0], bytes):
        value = [one[0] for one in value]
    return np.atleast_1d(np.asarray(value, np.float64))


def describe_recorded(types: Mapping[str, Any]) -> Describe:
    """Descriptions from a bag reader's table (``typestore.fielddefs`` of the rosbags package), without ROS.

    :param types: type name → (constants, [(field, (kind, what))]), kinds 1 to 4: basic, message, array, sequence.
    """

    def describe(name: str) -> Description:
        if full_name(name) not in types:
            raise ContractError(f"message type {name} is neither installed nor in the recording's table of types")
        return {field: _recorded_type(kind) for field, kind in types[full_name(name)][1]}

    return describe


def _recorded_type(kind: Any) -> str:
    number, what = int(kind[0]), kind[1]
    if number == 1:
        return str(what[0])
    if number == 2:
        return str(what)
    element = _recorded_type(what[0])
    return f"{element}[{what[1]}]" if number == 3 else f"sequence<{element}>"
