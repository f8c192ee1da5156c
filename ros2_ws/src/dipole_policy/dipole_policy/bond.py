"""The bond with a lifecycle manager such as Nav2's, which takes its nodes down when one of them has died."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.node import Node

from dipole_policy.errors import one_line

TOPIC = "bond"
"""Below the node's namespace, as that of Nav2's nodes and manager."""
PERIOD_S = 0.1
TIMEOUT_S = 4.0
"""Heartbeats as Nav2's nodes send them, and the time without one that they announce."""
_DEPTH = 100
"""Messages of the other side that may wait; all bonds of a robot share the topic."""
_FAREWELL_S = 0.1
"""Longest time that breaking the bond waits for the other side, as bondcpp's."""
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

            self._side = side = _Side(self._node)
            bond = Bond(side, TOPIC, self._node.get_name())

            def settle() -> None:
                """Formed, or nobody has answered: what the other side says from now on changes nothing."""
                side.stop_listening()
                bond.heartbeat_timer.cancel()

            bond.set_formed_callback(settle)
            bond.set_broken_callback(settle)
            bond.set_heartbeat_period(PERIOD_S)
            bond.set_heartbeat_timeout(TIMEOUT_S)
            bond.start()
            self._bond = bond
        except Exception as error:
            self._node.get_logger().error(f"there is no bond with a lifecycle manager: {one_line(error)}")

    def end(self) -> None:
        """Tells the other side that this one goes on purpose. Never raises."""
        bond, self._bond = self._bond, None
        side, self._side = self._side, None
        try:
            if bond is not None and side is not None:
                bond.break_bond()
                side.wait_until_heard()
                bond.shutdown()
        except Exception as error:
            self._node.get_logger().error(f"the bond cannot be broken in order: {one_line(error)}")
        finally:
            if side is not None:
                side.close()


class _Side:
    """The node as bondpy gets it: with what would harm the node kept away.

    - What its callback raises ends here: the executor would stop the robot for it.
    - The callback has a group of its own: a bundle that is being loaded would hold up one of the node's.
    - It listens until the bond is formed, and no longer. Every bond of a robot is on this one topic, and taking the
      heartbeats of ten others cost more than driving. The other side's silence is nothing that bondpy should act on:
      it would end its own heartbeats, and a manager that was merely slow would take the robot down.
    - Its topics have no handlers of QoS events. bondpy ends its topics without telling the node, and rclpy's executor
      fails, again and again, when a topic with such handlers has gone.
    - Its subscription is deep: bondpy asked for one message only, and lost heartbeats among those of other bonds
      (https://github.com/ros/bond_core/issues/95).
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._publisher: Any = None
        self._subscription: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
        self._publisher = self._node.create_publisher(kind, topic, qos, event_callbacks=_NO_EVENTS)
        return self._publisher

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
        def guarded(message: Any) -> None:
            try:
                if self._subscription is not None:
                    callback(message)
            except Exception as error:
                self._node.get_logger().warning(f"bond: {one_line(error)}")

        self._subscription = self._node.create_subscription(
            kind, topic, guarded, _DEPTH, callback_group=self._group, event_callbacks=_NO_EVENTS
        )
        return SimpleNamespace(destroy=self.stop_listening)

    def stop_listening(self) -> None:
        """Safe to call from any thread, and more than once."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def wait_until_heard(self) -> None:
        """A moment, for the farewell: bondpy would take its publisher away while the message is on its way."""
        self._publisher.wait_for_all_acked(Duration(seconds=_FAREWELL_S))

    def close(self) -> None:
        """Tells the node what bondpy has ended, or it would keep it for ever."""
        self.stop_listening()
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
