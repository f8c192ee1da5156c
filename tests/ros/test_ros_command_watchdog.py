"""The watchdog beside the controller: publishers that are killed or hang, over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.command_watchdog import CommandWatchdog, main  # noqa: E402
from dipole_policy.errors import ContractError  # noqa: E402
from graph import ALL, CONTRACT, STOP, namespace, wait  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Bool, Float64MultiArray  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")
COMMAND = [0.25, -0.5]
# A policy as the watchdog sees it. The offered deadline is far longer than the period: a busy machine is no fault.
PUBLISHER = """
import sys, time, rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile
from std_msgs.msg import Float64MultiArray
rclpy.init()
node = Node("policy", namespace=sys.argv[1])
offered = dict(deadline=Duration(seconds=0.5), liveliness=LivelinessPolicy.AUTOMATIC,
               liveliness_lease_duration=Duration(seconds=0.5)) if sys.argv[2] == "offers" else {}
publisher = node.create_publisher(Float64MultiArray, "command", QoSProfile(depth=1, **offered))
while True:
    publisher.publish(Float64MultiArray(data=[0.25, -0.5]))
    time.sleep(0.02)
"""


class Robot:
    """What the controller hears, and what the watchdog says; the watchdog runs in the same executor."""

    def __init__(self, of: str, contract: Path, **parameters: object) -> None:
        self.commands: list[list[float]] = []
        self.alive: list[bool] = []
        self.stops: list[list[float]] = []
        values = {"contract": str(contract), "deadline_s": 1.0, "stop_for_s": 5.0, **parameters}
        self.watchdog = CommandWatchdog(
            namespace=of, parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]
        )
        self.node = Node("robot", namespace=of)
        latched = QoSProfile(
            depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        listen = self.node.create_subscription
        listen(Float64MultiArray, "command", lambda message: self.commands.append(list(message.data)), ALL)
        listen(Float64MultiArray, "command_stop", lambda message: self.stops.append(list(message.data)), ALL)
        listen(Bool, "command_watchdog/alive", lambda message: self.alive.append(message.data), latched)


@contextmanager
def watched(of: str, contract: Path, **parameters: object) -> Iterator[Robot]:
    found = Robot(of, contract, **parameters)
    executor = SingleThreadedExecutor()
    ended = threading.Event()
    for node in (found.watchdog, found.node):
        executor.add_node(node)

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        for node in (found.watchdog, found.node):
            node.destroy_node()


@contextmanager
def publishing(of: str, how: str = "offers") -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, "-c", PUBLISHER, of, how], env=dict(os.environ))
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def moves(robot: Robot) -> None:
    wait(lambda: robot.alive[-1:] == [True] and COMMAND in robot.commands, "a command that the watchdog hears")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_it_stops_the_robot(contract: Path, number: signal.Signals):
    of = namespace()
    with watched(of, contract) as robot, publishing(of) as policy:
        moves(robot)
        assert STOP not in robot.commands
        policy.send_signal(number)
        wait(lambda: robot.commands[-1] == STOP, "a stop")
        assert robot.alive[-1] is False


def test_it_stops_the_robot_of_a_node_that_was_killed(bundle: Path, contract: Path):
    """The real one, which offers what the watchdog asks for."""
    from graph import robot
    from test_ros_process import process

    of = namespace()
    with (
        watched(of, contract) as found,
        robot(of),
        process(of, bundle=bundle, contract=contract, autostart=True) as node,
    ):
        wait(lambda: found.alive[-1:] == [True] and found.commands[-1] != STOP, "a command that the watchdog hears")
        node.kill()
        wait(lambda: found.commands[-1] == STOP, "a stop")
        assert found.alive[-1] is False


def test_it_lets_the_policy_drive_again(contract: Path):
    of = namespace()
    with watched(of, contract) as robot, publishing(of) as policy:
        moves(robot)
        policy.send_signal(signal.SIGSTOP)
        wait(lambda: STOP in robot.commands, "a stop")
        policy.send_signal(signal.SIGCONT)
        wait(lambda: robot.alive[-1] and robot.commands[-1] == COMMAND, "commands")


def test_it_leaves_the_topic_to_others_afterwards(contract: Path):
    of = namespace()
    with watched(of, contract, stop_for_s=1.5) as robot, publishing(of) as policy:
        moves(robot)
        policy.kill()
        wait(lambda: STOP in robot.commands, "a stop")
        time.sleep(3.0)
        count = len(robot.commands)
        time.sleep(2.5)
        assert len(robot.commands) == count


def test_nothing_is_stopped_that_never_moved(contract: Path):
    of = namespace()
    with watched(of, contract, deadline_s=0.6) as robot, publishing(of, "offers nothing"):
        wait(lambda: len(robot.commands) > 100, "commands")
        assert STOP not in robot.commands
        assert robot.alive == []


@pytest.mark.parametrize(("on_stop", "expected"), [("hold", COMMAND), ("none", None)])
def test_it_sends_the_contracts_stop(contract: Path, on_stop: str, expected: list[float] | None):
    contract.write_text(CONTRACT.replace("on_stop: zero", f"on_stop: {on_stop}"))
    of = namespace()
    with watched(of, contract, stop_suffix="_stop") as robot, publishing(of) as policy:
        moves(robot)
        policy.kill()
        wait(lambda: robot.alive[-1] is False, "the end")
        if expected is None:
            time.sleep(1.5)
            assert robot.stops == []
        else:
            wait(lambda: robot.stops, "a stop")
            assert robot.stops[-1] == expected


def test_a_publisher_that_offers_nothing_is_named(contract: Path, capfd: pytest.CaptureFixture[str]):
    of = namespace()
    said = ""
    with watched(of, contract), publishing(of, "offers nothing"):

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "cannot be watched" in said

        wait(heard, "an error")
    assert f"{of}/policy cannot be watched on command" in said or "a publisher cannot be watched on command" in said
    assert f"{of}/command_watchdog cannot" not in said
    assert "at most 1 s" in said


@pytest.mark.parametrize("topics", [["~/command"], ["command", "~/gripper"]])
def test_a_topic_below_the_policys_node_is_refused(contract: Path, topics: list[str]):
    """It would be below the watchdog here, where nobody publishes: the robot would go unwatched."""
    actions = [
        f"  - {{topic: {topic}, type: std_msgs/msg/Float64MultiArray, field: data, size: 1, on_stop: zero}}\n"
        for topic in topics
    ]
    contract.write_text(CONTRACT[: CONTRACT.index("action:")] + "action:\n" + "".join(actions))
    with pytest.raises(ContractError) as error:
        CommandWatchdog(parameter_overrides=[Parameter("contract", value=str(contract))])
    assert str(error.value) == (
        f"contract {contract}: the topic {topics[-1]} is below the policy's node, whose name is unknown here, expected "
        "an absolute or relative name"
    )


def test_a_bad_contract_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rclpy.try_shutdown()
    try:
        assert main(["watchdog", "--ros-args", "-p", f"contract:={tmp_path / 'none.yaml'}"]) == 1
        assert "cannot be read" in capsys.readouterr().err
    finally:
        rclpy.init()
