"""Stops the robot when the policy's commands stay away: what a node cannot do that was killed, or lost its power.

It runs beside the controller, on the machine that would still be there. The middleware watches, by deadline and
liveliness; no message has to arrive for a missing one to be noticed. A controller with a command timeout needs no
watchdog; this one is an example for those without.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from time import monotonic
from typing import Any

import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from dipole_policy import small_node
from dipole_policy.action import ActionWriter, Command
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.errors import ContractError
from dipole_policy.fields import describe_installed, message_class, reader
from dipole_policy.plan import stopped
from dipole_policy.wiring import is_known, is_own, who

# Its name until Iron, and its name since.
_EVENTS = importlib.import_module("rclpy.event_handler" if find_spec("rclpy.event_handler") else "rclpy.qos_event")
_OUT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_ALIVE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_PERIODS = 5


class CommandWatchdog(Node):  # type: ignore[misc]  # rclpy is not typed
    """Watches the command topics of a contract; while commands stay away from one, it sends this one's stop.

    It says on ``~/alive`` whether there are commands on all of them. A publisher has to offer a deadline and a lease no
    longer than those that are asked for here; one that does not is not heard at all, and an error names it.

    :raises ContractError: the contract is refused, or its message types are not installed.
    """

    def __init__(self, name: str = "command_watchdog", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

        def given(name: str, default: Any, description: str) -> Any:
            descriptor = ParameterDescriptor(description=description, read_only=True)
            return self.declare_parameter(name, default, descriptor).value

        path = given("contract", "", "The policy's contract: its actions are what is watched.")
        deadline_s = given("deadline_s", 0.0, f"Longest time between two commands; 0: {_PERIODS} periods.")
        self.lease_s = given("lease_s", 1.0, "Longest time without a sign of life of the publisher's process.")
        suffix = given("stop_suffix", "", "Stops are sent on the command topic with this appended to its name.")
        self.stop_for_s = given("stop_for_s", 1.0, "Seconds of stops; afterwards others may use the topic.")
        contract = Contract.load(path)
        for entry in contract.actions:
            if entry.topic.startswith("~/"):
                raise ContractError(
                    f"contract {path}: the topic {entry.topic} is below the policy's node, whose name is unknown here, "
                    "expected an absolute or relative name"
                )
        self.deadline_s = deadline_s or _PERIODS * contract.period_s
        self._alive = self.create_publisher(Bool, "~/alive", _ALIVE)
        self._shown: bool | None = None
        self._watched = [_Watched(self, entry, entry.topic + suffix) for entry in contract.actions]

    def show(self) -> None:
        """Says whether there are commands, if that is news."""
        states = [watched.is_alive for watched in self._watched]
        is_alive = False if False in states else None if None in states else True
        if is_alive is not None and is_alive is not self._shown:
            self._shown = is_alive
            self._alive.publish(Bool(data=is_alive))


class _Watched:
    """One command topic.

    :param stop_topic: where its stops are sent.
    """

    def __init__(self, node: CommandWatchdog, entry: ActionEntry, stop_topic: str) -> None:
        self.is_alive: bool | None = None
        self._node, self._entry = node, entry
        self._read = [reader(entry.type, field, describe_installed) for field in entry.fields]
        self._last: Command | None = None
        self._last_plan: Any = None
        self._dead_since: float | None = None
        kind = message_class(entry.type)
        # Its own stops offer no deadline, so that they do not count as commands; no warning is due.
        silent = _EVENTS.PublisherEventCallbacks(use_default_callbacks=False)
        self._out = node.create_publisher(kind, stop_topic, _OUT, event_callbacks=silent)
        asked_for = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            deadline=Duration(seconds=node.deadline_s),
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=Duration(seconds=node.lease_s),
        )
        events = _EVENTS.SubscriptionEventCallbacks(
            deadline=lambda event: self._dead(f"no command for {node.deadline_s:g} s"),
            liveliness=lambda event: self._liveliness(event.alive_count),
            incompatible_qos=lambda event: self._incompatible(),
        )
        node.create_subscription(kind, entry.topic, self._hear, asked_for, event_callbacks=events)

    def _hear(self, message: Any) -> None:
        if self._entry.frame is None:
            self._last = np.concatenate([read(message) for read in self._read])
        else:
            self._last_plan = message
        self._dead_since = None
        if self.is_alive is not True:
            self.is_alive = True
            self._node.get_logger().info(f"{self._entry.topic}: there are commands")
            self._node.show()

    def _liveliness(self, alive: int) -> None:
        if alive == 0:
            self._dead("the publisher of the commands is gone")

    def _dead(self, why: str) -> None:
        if self._last is None and self._last_plan is None:
            # Nothing moves because of the policy.
            return
        if self._dead_since is None:
            self._dead_since = monotonic()
        elif monotonic() - self._dead_since > self._node.stop_for_s:
            # Others may drive now.
            return
        if self.is_alive is not False:
            self.is_alive = False
            self._node.get_logger().error(f"{self._entry.topic}: {why}")
            self._node.show()
        if self._entry.on_stop == "none":
            return
        if self._last is None:
            self._out.publish(stopped(self._last_plan))
            return
        command = self._last if self._entry.on_stop == "hold" else np.zeros_like(self._last)
        writer = ActionWriter("action", self._entry, slice(0, len(command)), describe_installed)
        stamp = self._node.get_clock().now().to_msg()
        self._out.publish(writer.message(command, lambda name: message_class(name)(), stamp))

    def _incompatible(self) -> None:
        found = self._node.get_publishers_info_by_topic(self._entry.topic)
        others = [info for info in found if not is_own(self._node, info)]
        if others:
            known = ", ".join(map(who, filter(is_known, others))) or "a publisher"
            self._node.get_logger().error(
                f"{known} cannot be watched on {self._entry.topic}: expected publishers that offer a deadline of at "
                f"most {self._node.deadline_s:g} s and a liveliness lease of at most {self._node.lease_s:g} s"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the watchdog until a signal ends it."""
    return small_node.run(CommandWatchdog, ContractError, arguments)


if __name__ == "__main__":
    sys.exit(main())
