"""Quality of service of the contract's topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dipole_policy.contract_table import Table

RELIABILITIES = ("reliable", "best_effort")
DURABILITIES = ("volatile", "transient_local")
LATCHED_TYPES = frozenset({"nav_msgs/msg/OccupancyGrid", "nav_msgs/msg/MapMetaData"})
"""Types that are published once, reliable and transient local, by those who publish them in ROS."""


@dataclass(frozen=True)
class TopicQoS:
    """Quality of service of one topic, in the words of ROS.

    :param depth: messages that the middleware keeps, at least 1.
    """

    reliability: Literal["reliable", "best_effort"]
    durability: Literal["volatile", "transient_local"]
    depth: int


INPUT = TopicQoS("best_effort", "volatile", 1)
COMMAND = TopicQoS("reliable", "volatile", 1)


def input_qos(kind: str, names: tuple[str, ...]) -> TopicQoS:
    """What an input has unless its entry says otherwise."""
    if kind in LATCHED_TYPES:
        return TopicQoS("reliable", "transient_local", 1)
    # Several robots may publish on /joint_states, each with its own names: the last message may be another's.
    return TopicQoS("best_effort", "volatile", 10 if names else 1)


def topic_qos(table: Table, default: TopicQoS) -> TopicQoS:
    """Takes the keys of an entry."""
    durability = table.choice("durability", DURABILITIES, default.durability)
    # What is kept for later subscribers is delivered again and again until they have it, if they ask for that.
    reliability = "reliable" if durability == "transient_local" else default.reliability
    return TopicQoS(
        table.choice("reliability", RELIABILITIES, reliability),
        durability,
        table.whole("depth", 1, 1000, default.depth),
    )
