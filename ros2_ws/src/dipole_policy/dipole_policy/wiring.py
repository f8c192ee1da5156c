"""What the graph says about the contract's topics: nobody listens, nobody speaks, or not in a way that connects."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, qos_check_compatible

from dipole_policy.fields import full_name

WATCHDOG = "command_watchdog"
"""Name of the node that sends stops on the command topics of a node that has died; see its module."""


def problems(
    node: Node, commands: Mapping[str, Any], inputs: Mapping[str, Any], arrived: Container[str]
) -> dict[str, str]:
    """Topic → what is wrong with its connections, as one sentence; topics without a problem are not in it.

    :param commands: resolved topic → the node's publisher.
    :param inputs: resolved topic → the node's subscription.
    :param arrived: the topics on which something has arrived.
    """
    found = {topic: _command_problem(node, topic, publisher) for topic, publisher in commands.items()}
    found |= {
        topic: _input_problem(node, topic, subscription, topic in arrived) for topic, subscription in inputs.items()
    }
    return {topic: problem for topic, problem in found.items() if problem is not None}


def _command_problem(node: Node, topic: str, publisher: Any) -> str | None:
    speakers = [info for info in node.get_publishers_info_by_topic(topic) if is_known(info)]
    own = [info for info in speakers if is_own(node, info)]
    others = [info for info in speakers if info not in own and info.node_name != WATCHDOG]
    found = []
    if others:
        found.append(f"{who(others[0])} publishes on {topic}, too: the robot gets commands from both")
    if len(own) > 1:
        found.append(f"{len(own)} nodes called {who(own[0])} publish on {topic}: the robot gets commands from all")
    listeners = [info for info in node.get_subscriptions_info_by_topic(topic) if is_known(info)]
    if not listeners:
        found.append(f"nobody listens to {topic}: no command reaches a robot")
    kind = type_name(publisher.msg_type)
    for info in listeners:
        problem = _type_problem(topic, kind, info, "listens with")
        found.append(problem or _qos_problem(topic, publisher.qos_profile, info.qos_profile, info) or "")
    return "; ".join(filter(None, found)) or None


def _input_problem(node: Node, topic: str, subscription: Any, has_arrived: bool) -> str | None:
    speakers = [info for info in node.get_publishers_info_by_topic(topic) if is_known(info)]
    if not speakers:
        return f"nobody publishes on {topic}"
    own = type_name(subscription.msg_type)
    for info in speakers:
        if (problem := _type_problem(topic, own, info, "publishes")) is not None:
            return problem
        if (problem := _qos_problem(topic, info.qos_profile, subscription.qos_profile, info)) is not None:
            return problem
    is_latched = [info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in speakers]
    if not has_arrived and all(is_latched) and subscription.qos_profile.durability == DurabilityPolicy.VOLATILE:
        return (
            f"{who(speakers[0])} publishes {topic} transient local, perhaps only once and before this node: give the "
            "input durability: transient_local"
        )
    return None


def is_known(info: Any) -> bool:
    """Whether discovery has come as far as the name of the endpoint's node."""
    return str(info.node_name) != "_NODE_NAME_UNKNOWN_"


def is_own(node: Node, info: Any) -> bool:
    return (info.node_name, info.node_namespace) == (node.get_name(), node.get_namespace())


def who(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def type_name(kind: Any) -> str:
    """Name of a generated message class, package/msg/Name."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _type_problem(topic: str, own: str, info: Any, verb: str) -> str | None:
    if full_name(info.topic_type) == own:
        return None
    return f"{who(info)} {verb} {info.topic_type} on {topic}, expected the contract's {own}"


def _qos_problem(topic: str, offered: Any, requested: Any, info: Any) -> str | None:
    compatibility, reason = qos_check_compatible(offered, requested)
    if compatibility != QoSCompatibility.ERROR:
        return None
    return f"{who(info)} and this node do not connect on {topic}: incompatible QoS ({' '.join(reason.split())})"
