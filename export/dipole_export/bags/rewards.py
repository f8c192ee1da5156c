"""The reward of a step, from a topic or an expression, and the topics that end episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.fields import Path, Reader, leaves, parse_path, reader, shown_field, size
from dipole_policy.topic_reader import Received
from numpy.typing import NDArray

from dipole_export.bags.reading import Bag, BagError
from dipole_sb3.common.expressions import Expression

_ONE_FIELD = "data"
"""The field of those std_msgs that have a single value."""
_LARGEST = float(np.finfo(np.float32).max)


class Step(NamedTuple):
    """Everything that a reward may depend on.

    :param newest: the reward topic's latest message at the end of the step; None: there was none.
    :param end_ns: end of the step in nanoseconds.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    next_observation: NDArray[np.float32]
    newest: Received | None
    end_ns: int


class Reward(Protocol):
    """Function of a step that returns its reward; raises InputError if there is none.

    :param topic: the topic that it reads; None: it reads no topic.
    """

    @property
    def topic(self) -> str | None: ...

    def __call__(self, step: Step) -> float: ...


def one_number(bag: Bag, text: str, role: str) -> tuple[str, Reader, str]:
    """``TOPIC`` or ``TOPIC:field.path`` → the topic, the reader of its number, and the field.

    :raises BagError: the recording has no such topic, or the field is not a single number.
    """
    topic, _, field = text.partition(":")
    type_name = bag.require(topic, role)
    try:
        path: Path = parse_path(field or _ONE_FIELD)
        found = leaves(type_name, path, bag.describe)
        count = size(found)
        # An index beyond the end of an array is only noticed when a message is read.
        if count != 1:
            many = "any number of" if count is None else str(count)
            raise ContractError(f"{shown_field(path)} of {type_name} holds {many} numbers, expected one")
        return topic, reader(type_name, path, bag.describe), shown_field(path)
    except ContractError as error:
        hint = "" if field else f"; name a field by {topic}:field.path"
        raise BagError(f"{role}: {error}{hint}") from error


class TopicReward:
    """The newest value of a topic at the end of the step.

    :param text: ``TOPIC`` or ``TOPIC:field.path``.
    :param max_age_s: largest age of a value in seconds; older values do not count.
    """

    def __init__(self, bag: Bag, text: str, max_age_s: float) -> None:
        self.topic, self._read, self._field = one_number(bag, text, "the reward")
        self._max_age_s = max_age_s

    def __call__(self, step: Step) -> float:
        if step.newest is None:
            raise InputError(Cause(Kind.MISSING, f"no reward has arrived on {self.topic}"))
        age = (step.end_ns - step.newest.received_ns) * 1e-9
        if age > self._max_age_s:
            raise InputError(
                Cause(
                    Kind.STALE, f"the reward on {self.topic} is {age:.3f} s old, expected at most {self._max_age_s} s"
                )
            )
        value = float(self._read(step.newest.message)[0])
        if not abs(value) <= _LARGEST:
            raise InputError(Cause(Kind.NON_FINITE, f"the reward on {self.topic} is {value}"))
        return value


class ExpressionReward:
    """An expression over ``observation``, ``action`` and ``next_observation`` of the step."""

    topic: str | None = None

    def __init__(self, expression: Expression) -> None:
        self._expression = expression

    def __call__(self, step: Step) -> float:
        vectors = {
            "observation": step.observation.tolist(),
            "action": step.action.tolist(),
            "next_observation": step.next_observation.tolist(),
        }
        try:
            value = self._expression(vectors)
        except (ArithmeticError, ValueError) as error:
            raise InputError(Cause(Kind.NON_FINITE, f"the reward has no value ({one_line(error)})")) from error
        if not abs(value) <= _LARGEST:
            raise InputError(Cause(Kind.NON_FINITE, f"the reward is {value}"))
        return value


@dataclass(frozen=True)
class Signal:
    """A topic that ends episodes: by a number other than zero, or by every message if no number is read.

    :param read: reads the number; None: every message counts.
    """

    topic: str
    read: Reader | None

    @property
    def is_level(self) -> bool:
        """Whether the state lasts until a message reports its end."""
        return self.read is not None

    def is_on(self, message: Any) -> bool:
        """Whether a message ends the episode. NaN does too, because then something is wrong with the robot."""
        if self.read is None:
            return True
        value = float(self.read(message)[0])
        return math.isnan(value) or value != 0.0


def signal(bag: Bag, text: str, role: str) -> Signal:
    """``TOPIC:field.path`` and std_msgs/Bool topics end episodes by their value, any other ``TOPIC`` by every message.

    :raises BagError: as in :func:`one_number`.
    """
    topic, _, field = text.partition(":")
    type_name = bag.require(topic, role)
    if field or type_name == "std_msgs/msg/Bool":
        return Signal(topic, one_number(bag, text, role)[1])
    return Signal(topic, None)
