"""When a message arrived: what the middleware says or, where it says nothing, the earliest time that it may have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.contract import Contract
from dipole_policy.fields import describe_installed
from dipole_policy.intake import Intake
from dipole_policy.observation import Inputs, entry_readers
from graph import CONTRACT, namespace, wait
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64

pytestmark = pytest.mark.usefixtures("ros")
SECOND = 1_000_000_000
NOW = 2_000_000_000 * SECOND
"""Later than what the middleware stamps."""


class Unstamped:
    """A subscription whose middleware does not say when a message arrived: it leaves the stamps at zero."""

    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription
        self.handle, self.msg_type, self.qos_profile = self, subscription.msg_type, subscription.qos_profile

    def __enter__(self) -> None:
        self._subscription.handle.__enter__()

    def __exit__(self, *error: object) -> None:
        self._subscription.handle.__exit__(*error)

    def take_message(self, kind: type, is_raw: bool) -> Any:
        found = self._subscription.handle.take_message(kind, is_raw)
        return found and (found[0], {**found[1], "source_timestamp": 0, "received_timestamp": 0})


class Speed:
    """One input, listened to by a clock that the test turns, and its publisher."""

    def __init__(self, contract: Path, simulated_period_s: int | None = None) -> None:
        self.now_ns = NOW
        self.node = Node("intake", namespace=namespace(), start_parameter_services=False)
        self.topic = self.node.resolve_topic_name("speed")
        contract.write_text(CONTRACT.replace("field: data, max_age_s", "field: data, reliability: reliable, max_age_s"))
        self.inputs = Inputs(
            entry_readers(Contract.load(contract).with_topics(self.node.resolve_topic_name), describe_installed)
        )
        period_ns = None if simulated_period_s is None else simulated_period_s * SECOND
        self.intake = Intake(self.node, self.inputs, lambda: self.now_ns, period_ns)
        self._publisher = self.node.create_publisher(
            Float64, "speed", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        )
        wait(lambda: self._publisher.get_subscription_count() == 1, "a connection")

    def unstamp(self) -> None:
        subscriptions = self.intake.subscriptions
        subscriptions[self.topic] = Unstamped(subscriptions[self.topic])

    def say(self, value: float) -> None:
        """It has arrived when this returns."""
        self._publisher.publish(Float64(data=value))
        assert self._publisher.wait_for_all_acked(Duration(seconds=20.0))

    def look(self, after_s: int) -> tuple[float, int]:
        """Value and arrival, in seconds since the beginning."""
        self.now_ns = NOW + after_s * SECOND
        found = self.inputs.snapshot()[self.topic]
        return found.message.data, (found.received_ns - NOW) // SECOND


@pytest.fixture
def speed(contract: Path, request: pytest.FixtureRequest) -> Iterator[Speed]:
    found = Speed(contract, getattr(request, "param", None))
    yield found
    found.node.destroy_node()


def test_the_middlewares_stamp_counts(speed: Speed):
    speed.say(1.0)
    value, arrived_s = speed.look(5)
    assert value == 1.0
    assert arrived_s < 0, "by the clock of this machine, which is long before that of the test"


def test_without_a_stamp_it_may_have_come_right_after_the_look_before(speed: Speed):
    speed.unstamp()
    assert speed.topic not in speed.inputs.snapshot()
    speed.say(1.0)
    assert speed.look(5) == (1.0, 0), "since the first look, and not now: a late look does not make it fresh"
    assert speed.look(6) == (1.0, 0)
    speed.say(2.0)
    assert speed.look(8) == (2.0, 6)


def test_without_a_look_before_it_comes_now(speed: Speed):
    speed.unstamp()
    speed.say(1.0)
    assert speed.look(5) == (1.0, 5)


def test_a_clock_that_goes_back_makes_nothing_of_the_future(speed: Speed):
    speed.unstamp()
    speed.inputs.snapshot()
    speed.say(1.0)
    assert speed.look(-10) == (1.0, -10)


@pytest.mark.parametrize("speed", [2], indirect=True)
def test_a_simulations_clock_knows_nothing_of_the_middlewares(speed: Speed):
    speed.inputs.snapshot()
    speed.say(1.0)
    assert speed.look(2) == (1.0, 2), "what comes in every period is fresh in every period"
    speed.say(2.0)
    assert speed.look(9) == (2.0, 4), "a late look does not make it fresh"
    speed.say(3.0)
    assert speed.look(1) == (3.0, 1), "nor a clock that goes back something of the future"
