"""The bond with a lifecycle manager such as Nav2's, which takes its nodes down when one of them has died."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from dipole_policy.errors import one_line

TOPIC = "bond"
"""Below the node's namespace, as that of Nav2's nodes and manager."""
PERIOD_S = 0.1
TIMEOUT_S = 4.0
"""Heartbeats as Nav2's nodes send them, and the time without one that they announce."""
_DEPTH = 100
"""Messages of the other side that may wait; all bonds of a robot share the topic."""
_NO_TIMEOUT = "/bond_disable_heartbeat_timeout"
"""bond's parameter: whether the other side's silence leaves the bond as it is."""
_NO_EVENTS: Any = SimpleNamespace(create_event_handlers=lambda *_: [])
"""In place of rclpy's event callbacks, whose module has another name in Humble."""


class ManagerBond:
    """Formed on activation, broken on deactivation, by bondpy; does nothing where bondpy is not installed.

    As with Nav2's own nodes, the manager learns that this process has died, not the other way round: a manager that is
    not there, never answers or falls silent changes nothing.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._side: _Side | None = None
        self._bond: Any = None

    def form(self) -> None:
        """Begins to send heartbeats; does not wait for the other side. Never raises."""
        if find_spec("bondpy") is None:
            return
        try:
            from bondpy.bondpy import Bond

            self._side = _Side(self._node)
            bond = Bond(self._side, TOPIC, self._node.get_name())
            bond.set_heartbeat_period(PERIOD_S)
            bond.set_heartbeat_timeout(TIMEOUT_S)
            bond.start()
            self._bond = bond
        except Exception as error:
            self._node.get_logger().error(f"there is no bond with a lifecycle manager: {one_line(error)}")

    def end(self) -> None:
        """Tells the other side that this one goes, and why it is no failure that heartbeats end. Never raises."""
        bond, self._bond = self._bond, None
        side, self._side = self._side, None
        try:
            if bond is not None:
                bond.shutdown()
        except Exception as error:
            self._node.get_logger().error(f"the bond cannot be broken in order: {one_line(error)}")
        finally:
            if side is not None:
                side.close()


class _Side:
    """The node as bondpy gets it: with what would harm the node kept away.

    - What its callbacks raise ends here: the executor would stop the robot for it.
    - They have a group of their own: a bundle that is being loaded would hold up those of the node's.
    - The other side's silence breaks nothing. Nav2's nodes set a parameter for that, which bondpy before 4.4 cannot
      bear (https://github.com/ros/bond_core/pull/114).
    - Its topics have no handlers of QoS events. bondpy ends its topics without telling the node, and rclpy's executor
      fails, again and again, when a topic with such handlers has gone.
    - Its subscription is deep: bondpy asked for one message only, and lost heartbeats among those of other bonds
      (https://github.com/ros/bond_core/issues/95).
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._entities: list[tuple[Callable[[Any], object], Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
        publisher = self._node.create_publisher(kind, topic, qos, event_callbacks=_NO_EVENTS)
        self._entities.append((self._node.destroy_publisher, publisher))
        return publisher

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
        def guarded(message: Any) -> None:
            try:
                callback(message)
            except Exception as error:
                self._node.get_logger().warning(f"bond: {one_line(error)}")

        subscription = self._node.create_subscription(
            kind, topic, guarded, _DEPTH, callback_group=self._group, event_callbacks=_NO_EVENTS
        )
        self._entities.append((self._node.destroy_subscription, subscription))
        return subscription

    def has_parameter(self, name: str) -> bool:
        return name == _NO_TIMEOUT or bool(self._node.has_parameter(name))

    def declare_parameter(self, name: str, *arguments: Any) -> Any:
        return self.get_parameter(name) if name == _NO_TIMEOUT else self._node.declare_parameter(name, *arguments)

    def get_parameter(self, name: str) -> Any:
        return SimpleNamespace(value=True) if name == _NO_TIMEOUT else self._node.get_parameter(name)

    def close(self) -> None:
        """Tells the node, which would keep them for ever."""
        for destroy, entity in self._entities:
            destroy(entity)
