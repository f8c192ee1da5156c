"""Stops that somebody asks for by ~/stop, and what becomes of the answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from diagnostic_msgs.msg import DiagnosticStatus
from dipole_policy.session import LATCHED
from graph import STOP, Robot, driving, pair, wait
from std_srvs.srv import Trigger

pytestmark = pytest.mark.usefixtures("ros")


def test_a_requested_stop_holds_until_it_is_ended(bundle: Path, contract: Path):
    statuses: list[dict[str, str]] = []

    def hear(status: DiagnosticStatus) -> None:
        statuses.append({"message": status.message, **{item.key: item.value for item in status.values}})

    with pair(bundle, contract) as (_, found):
        found.node.create_subscription(DiagnosticStatus, "dipole_policy/status", hear, LATCHED)
        answer = found.trigger("stop")
        assert (answer.success, answer.message) == (True, "stopped until ~/resume")
        answer = found.trigger("resume")
        assert (answer.success, answer.message) == (True, "no stop is asked for any more")
        assert found.change("configure")
        assert found.change("activate")
        found.drives()
        wait(lambda: statuses and statuses[-1]["state"] == "driving", "a status that says driving")
        assert found.trigger("stop").success
        found.stops()
        assert all(command == STOP for command in found.silent(0.6)), "it does not resume by itself"
        wait(lambda: statuses[-1]["cause"] == "request", "a status that says why")
        assert statuses[-1]["message"] == "stopped: request: a stop was asked for, ~/resume ends it"
        # Neither another fault ends it, nor all that a lifecycle manager does.
        found.speaks_speed = False
        time.sleep(0.8)
        found.speaks_speed = True
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert found.change(transition)
        assert all(command == STOP for command in found.silent(0.6))
        answer = wait(lambda: found.trigger("resume").success, "resuming")
        found.drives()
        wait(lambda: statuses[-1]["state"] == "driving", "a status that says driving")
        assert found.change("deactivate")
        wait(lambda: statuses[-1]["state"] == "off", "a status that says off")


def drives_again(found: Robot) -> None:
    """After a requested stop, once it is resumed."""
    assert wait(lambda: found.trigger("resume").success, "resuming")
    found.drives()


def test_an_answer_that_reaches_nobody_leaves_the_stop_in_force(bundle: Path, contract: Path):
    """Who asked may have died meanwhile; then rclpy raises where it sends the answer."""
    with driving(bundle, contract) as (node, found):
        (service,) = [one for one in node.services if one.srv_name.endswith("/stop")]
        lost: list[Any] = []

        def lose(response: Any, header: Any) -> None:
            lost.append(response)
            raise RuntimeError("failed to send response")

        service.send_response = lose
        client = found.node.create_client(Trigger, "dipole_policy/stop")
        assert client.wait_for_service(20.0)
        client.call_async(Trigger.Request())
        wait(lambda: lost, "an answer that is lost")
        assert lost[0].success
        found.stops()
        count = len(found.commands)
        wait(lambda: len(found.commands) > count + 10, "stops in the periods that follow")
        assert all(command == STOP for command in found.commands[count:]), "it is stopped until ~/resume"
        drives_again(found)


def test_a_stop_that_cannot_be_sent_is_answered(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        commands = node.session._commands
        ((topic, publisher),) = commands.items()

        class Broken:
            def publish(self, message: Any) -> None:
                raise RuntimeError("no context")

        commands[topic] = Broken()
        answer = found.trigger("stop")
        assert (answer.success, answer.message) == (
            False,
            "it will not drive until ~/resume, but the stop cannot be sent (no context)",
        )
        commands[topic] = publisher
        found.stops()
        assert all(command == STOP for command in found.silent()), "it is stopped until ~/resume"
        drives_again(found)
