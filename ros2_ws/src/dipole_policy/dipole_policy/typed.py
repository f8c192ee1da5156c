"""Typed messages of the package dipole_msgs, beside the arrays, wherever that package is built."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from dipole_runtime import GuidedAction

from dipole_policy.errors import one_line
from dipole_policy.fields import message_class
from dipole_policy.loop import Decision, distance
from dipole_policy.omega import OmegaRecord

PACKAGE = "dipole_msgs"
TOPICS = {
    "Driven": "~/typed/driven",
    "Shadow": "~/typed/shadow",
    "Latency": "~/typed/latency",
    "OmegaChange": "~/typed/omega_change",
}
"""Message of the package → topic."""

Make = Callable[..., Any]
"""Makes a message: its type's name, then its fields by keyword. Sequences of numbers are given as ``array('d')``."""
_Content = TypeVar("_Content")


def driven(decision: Decision, make: Make) -> Any:
    """The command that was sent, and the decision behind it."""
    action = decision.action
    return make(
        f"{PACKAGE}/msg/Driven",
        header=_header(decision.time_ns, make),
        number=decision.number or 0,
        names=list(decision.loaded.policy.manifest.action.names),
        command=_numbers(decision.command),
        action=_numbers(action.action.reshape(-1)),
        omega=_omega(action),
        q=_numbers(action.q),
        chosen=action.chosen,
        bundle_hash=decision.loaded.policy.hash,
    )


def latency(decision: Decision, make: Make) -> Any:
    """The times of one decision."""
    return make(
        f"{PACKAGE}/msg/Latency",
        header=_header(decision.time_ns, make),
        inference_s=decision.action.latency_s,
        command_s=decision.elapsed_s,
        period_s=decision.period_s,
    )


def shadow(decision: Decision, make: Make) -> Any:
    """The action for each shadow ω."""
    actions = [
        make(
            f"{PACKAGE}/msg/ShadowAction",
            omega=_omega(action),
            q=action.value,
            distance=distance(action, decision.action, decision.loaded),
            action=_numbers(action.action.reshape(-1)),
        )
        for action in decision.shadow
    ]
    return make(
        f"{PACKAGE}/msg/Shadow",
        header=_header(decision.time_ns, make),
        names=list(decision.loaded.policy.manifest.action.names),
        actions=actions,
    )


def omega_change(record: OmegaRecord, make: Make) -> Any:
    """A requested change of ω."""
    return make(
        f"{PACKAGE}/msg/OmegaChange",
        header=_header(record.time_ns, make),
        number=record.number,
        source=record.source,
        previous=record.old,
        requested=record.new,
        accepted=record.accepted,
        reason=record.reason,
    )


def _omega(action: GuidedAction) -> float:
    return math.nan if action.omega is None else float(action.omega)


def _header(time_ns: int, make: Make) -> Any:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    stamp = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="")


def _numbers(values: Iterable[float]) -> array[float]:
    return array("d", values)


class TypedTopic(Generic[_Content]):
    """Publishes one typed message; does nothing where its package is not built.

    Nothing that goes wrong here may reach the control loop, which would stop the robot for it: the topic falls silent
    instead, and the log says why.

    :param node: the publisher's node.
    :param name: of the message in the package.
    :param qos: of the topic.
    :param fill: makes the message.
    :param to_nobody: whether messages are also made while nobody listens, for those who come later.
    """

    def __init__(
        self, node: Any, name: str, qos: Any, fill: Callable[[_Content, Make], Any], *, to_nobody: bool = False
    ) -> None:
        self._node, self._name, self._fill, self._to_nobody = node, name, fill, to_nobody
        self._classes: dict[str, type] = {}
        self._publisher: Any = None
        if find_spec(PACKAGE) is None:
            return
        try:
            self._publisher = node.create_publisher(message_class(f"{PACKAGE}/msg/{name}"), TOPICS[name], qos)
        # A package that was built for another Python or another ROS can raise anything.
        except Exception as error:
            self._node.get_logger().warning(f"{TOPICS[name]} is not published: {one_line(error)}")

    def publish(self, content: _Content) -> None:
        """Publishes the message made of this. Never raises."""
        publisher = self._publisher
        try:
            if publisher is not None and (self._to_nobody or publisher.get_subscription_count() > 0):
                publisher.publish(self._fill(content, self._make))
        except Exception as error:
            if self._publisher is None:
                # It was closed in the meantime.
                return
            self._publisher = None
            self._node.get_logger().error(f"{TOPICS[self._name]} is no longer published: {one_line(error)}")
            self._node.destroy_publisher(publisher)

    def close(self) -> None:
        """Removes the topic."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._node.destroy_publisher(publisher)

    def _make(self, name: str, **fields: Any) -> Any:
        if name not in self._classes:
            self._classes[name] = message_class(name)
        return self._classes[name](**fields)
