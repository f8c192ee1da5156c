"""The contract's inputs as subscriptions that nothing waits for: their messages are taken when a period begins.

A sensor may publish a thousand messages for each one that is looked at. The middleware keeps the newest; waking an
executor in Python for all the others, reading them and throwing them away would take most of a core.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message

from dipole_policy.errors import one_line
from dipole_policy.fields import message_class
from dipole_policy.observation import Inputs
from dipole_policy.parameters import QOS_OVERRIDES
from dipole_policy.rclpy_names import given_parameters
from dipole_policy.topic_qos import TopicQoS
from dipole_policy.topic_reader import Unreadable


class _NeverWaited(CallbackGroup):  # type: ignore[misc]  # rclpy is not typed
    """Its subscriptions are never ready, so that an executor leaves them out of what it waits for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        return


def profile(qos: TopicQoS, **more: Any) -> QoSProfile:
    """The contract's quality of service as rclpy's."""
    return QoSProfile(
        depth=qos.depth,
        reliability=ReliabilityPolicy[qos.reliability.upper()],
        durability=DurabilityPolicy[qos.durability.upper()],
        **more,
    )


def overridable(node: Node, topic: str) -> QoSOverridingOptions | None:
    """Declares the parameters ``qos_overrides.TOPIC.….reliability``, ``durability``, ``depth``, where one is given.

    Only there: rclpy keeps their values, and another contract's must count once the node is configured anew.

    :param topic: resolved.
    """
    if not any(name.startswith(f"{QOS_OVERRIDES}{topic}.") for name in given_parameters(node)):
        return None
    kinds = [QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.DEPTH]
    return QoSOverridingOptions(kinds, callback=_checked)


def _checked(found: QoSProfile) -> SetParametersResult:
    reason = "" if found.depth >= 1 else f"depth is {found.depth}, expected at least 1"
    return SetParametersResult(successful=not reason, reason=reason)


class Intake:
    """Takes what has arrived on the inputs' topics. Safe to use from any thread.

    :param inputs: whose topics are listened to, and where the messages go.
    :param now_ns: the node's clock.
    :param simulated_period_ns: the control period where that is a simulation's clock, of which the middleware knows
        nothing: a message then counts as arrived one period after its topic was looked at before, or now. None: it is
        not.
    """

    def __init__(
        self, node: Node, inputs: Inputs, now_ns: Callable[[], int], simulated_period_ns: int | None = None
    ) -> None:
        self._node, self._inputs, self._now_ns, self._simulated_period_ns = node, inputs, now_ns, simulated_period_ns
        self._lock = threading.Lock()
        self._taken_ns: dict[str, int] = {}
        group = _NeverWaited()
        self.subscriptions: dict[str, Any] = {}
        """Topic → subscription; empty after closing."""
        try:
            for topic, entries in inputs.topics.items():
                deepest = max((entry.qos for entry in entries), key=lambda qos: qos.depth)
                self.subscriptions[topic] = node.create_subscription(
                    message_class(entries[0].type),
                    topic,
                    _nothing,
                    profile(deepest),
                    callback_group=group,
                    qos_overriding_options=overridable(node, topic),
                )
        except BaseException:
            self.close()
            raise
        # As the parameters may have it, not as the contract does.
        inputs.latched = frozenset(
            topic
            for topic, subscription in self.subscriptions.items()
            if subscription.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        )
        inputs.take = self.take

    def take(self) -> None:
        """Hands the newest message of each topic that the contract reads to the inputs. Never raises."""
        with self._lock:
            now_ns = self._now_ns()
            for topic, subscription in self.subscriptions.items():
                try:
                    self._take(topic, subscription, now_ns)
                except Exception as error:
                    self._inputs.receive(topic, Unreadable(one_line(error)), now_ns)
                self._taken_ns[topic] = now_ns

    def _take(self, topic: str, subscription: Any, now_ns: int) -> None:
        taken = []
        with subscription.handle:
            # What arrives meanwhile is left for the next period: a fast sensor must not keep this one busy.
            for _ in range(subscription.qos_profile.depth):
                found = subscription.handle.take_message(subscription.msg_type, True)
                if found is None:
                    break
                taken.append(found)
        for serialized, info in reversed(taken):
            message = deserialize_message(serialized, subscription.msg_type)
            if self._inputs.receive(topic, message, self._arrival_ns(topic, info, now_ns)):
                return

    def _arrival_ns(self, topic: str, info: Any, now_ns: int) -> int:
        """When a message arrived or, where the middleware does not say so, the earliest time that it may have.

        In a simulation a period later: else what arrives in every period would always be a period old, too old for a
        contract that asks for less. A late look still makes nothing fresh.
        """
        earliest = self._taken_ns.get(topic, now_ns)
        if self._simulated_period_ns is not None:
            return min(earliest + self._simulated_period_ns, now_ns)
        received = int(info.get("received_timestamp", 0))
        return min(received if received > 0 else earliest, now_ns)

    def close(self) -> None:
        """Ends the subscriptions."""
        with self._lock:
            subscriptions, self.subscriptions = self.subscriptions, {}
        for subscription in subscriptions.values():
            self._node.destroy_subscription(subscription)


def _nothing(message: Any) -> None:
    """Never called; see :class:`_NeverWaited`."""
