"""What arrived on a topic, how old it is, and what it gives: the base of all readers of the contract's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dipole_policy.contract import ObservationEntry
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.fields import Describe


@dataclass(frozen=True)
class Received:
    """The last message of a topic.

    :param received_ns: time of the node's clock when it arrived.
    :param past: earlier messages with their times in nanoseconds, oldest first; of topics whose past is read.
    """

    message: Any
    received_ns: int
    past: tuple[tuple[int, Any], ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """What arrived in a message's place that could not be read.

    :param problem: why not.
    """

    problem: str


class TopicReader(ABC):
    """Reads one entry of the contract from messages of its topic.

    :param where: the entry's place in the contract, for error messages.
    :raises ContractError: the type has no header, and the entry counts from its stamp.
    """

    kept_s = 0.0
    """Seconds for which earlier messages are kept, too."""
    size: int
    """Number of elements."""

    def __init__(self, entry: ObservationEntry, where: str, describe: Describe) -> None:
        self.entry = entry
        try:
            fields = describe(entry.type)
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        self._has_header = fields.get("header") in ("std_msgs/Header", "std_msgs/msg/Header")
        if entry.stamp == "header" and not self._has_header:
            raise ContractError(f"{where}: stamp is header, but {entry.type} has none, expected received")

    def concerns(self, message: Any) -> bool:
        """Whether the message has any of the entry's names: several robots may publish on /joint_states."""
        return True

    def forget(self, now_ns: int) -> None:  # noqa: B027
        """What was read before this time of the node's clock no longer counts."""

    def fresh(self, inputs: Mapping[str, Received], now_ns: int) -> NDArray[Any]:
        """The entry's elements from the last message of its topic.

        :param inputs: what has arrived; see :class:`dipole_policy.observation.Inputs`.
        :param now_ns: the node's clock.
        :raises InputError: the topic is missing, stale or wrongly sized.
        """
        topic, received = self.entry.topic, inputs.get(self.entry.topic)
        if received is None:
            raise InputError(Cause(Kind.MISSING, f"nothing has arrived on {topic}"))
        if isinstance(received.message, Unreadable):
            raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} cannot be read ({received.message.problem})"))
        age = self.age_s(received, now_ns)
        if age > self.entry.max_age_s:
            raise InputError(
                Cause(Kind.STALE, f"{topic} is {age:.3f} s old, expected at most {self.entry.max_age_s} s")
            )
        try:
            return self.read_received(received)
        except InputError:
            raise
        except Exception as error:
            raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} cannot be read ({one_line(error)})")) from error

    @abstractmethod
    def read_received(self, received: Received) -> NDArray[Any]:
        """The entry's elements from a readable message that is not too old; raises InputError."""

    def age_s(self, received: Received, now_ns: int) -> float:
        """Seconds since the message's stamp or its arrival, whichever is longer ago.

        :raises InputError: the stamp is further in the future than the entry's ``max_age_s``, or is required but not
            set.
        """
        age = (now_ns - received.received_ns) * 1e-9
        stamped_ns = self._stamped_ns(received.message)
        if stamped_ns is None:
            return age
        if stamped_ns == 0:
            if self.entry.stamp == "header":
                raise InputError(Cause(Kind.STALE, f"{self.entry.topic} has no stamp in its header"))
            return age
        stamped_age = (now_ns - stamped_ns) * 1e-9
        if stamped_age < -self.entry.max_age_s:
            raise InputError(
                Cause(Kind.CLOCK, f"{self.entry.topic} is stamped {-stamped_age:.3f} s in the future of this clock")
            )
        return max(age, stamped_age)

    def time_ns(self, message: Any, received_ns: int) -> int:
        """When a message was true: its stamp, or its arrival where it has none."""
        return self._stamped_ns(message) or received_ns

    def _stamped_ns(self, message: Any) -> int | None:
        """The stamp in the header; 0: it is not set; None: there is none, or it does not count."""
        if not self._has_header or self.entry.stamp == "received":
            return None
        stamp = message.header.stamp
        return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
