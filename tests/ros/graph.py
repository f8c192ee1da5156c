"""A robot on the real ROS graph: it speaks on the contract's topics, and writes down what it hears."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from dipole_policy.announcements import AUDIT
from dipole_policy.executor import ThreadsExecutor
from dipole_policy.main import THREADS
from dipole_policy.node import PolicyNode
from dipole_policy.session import LATCHED
from dipole_runtime import GuidedPolicy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from std_srvs.srv import Trigger

# A shared machine may be slow for half a second without anything being wrong: what a test wants late is far later.
CONTRACT = """
rate_hz: 20
deadline_s: 1.0
observation:
  - {topic: joint_states, type: sensor_msgs/msg/JointState, field: position, names: [elbow, wrist], max_age_s: 0.6}
  - {topic: speed, type: std_msgs/msg/Float64, field: data, max_age_s: 0.6}
action: {topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""
ALL = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
STOP = [0.0, 0.0]
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active_shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
_numbers = itertools.count()


def wait(until: Callable[[], Any], what: str = "it", timeout_s: float = 20.0) -> Any:
    """Waits until something holds; fails by its name."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = until()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")


class Robot:
    """The other side of the policy's topics, in its namespace."""

    def __init__(self, namespace: str, name: str = "dipole_policy") -> None:
        self.namespace, self.name = namespace, name
        self.node = Node("robot", namespace=namespace)
        self.commands: list[list[float]] = []
        self.driven: list[list[float]] = []
        self.shadow: list[Any] = []
        self.latency: list[list[float]] = []
        self.audit: list[dict[str, str]] = []
        self.model: list[dict[str, str]] = []
        self.diagnostics: list[tuple[DiagnosticStatus, dict[str, str]]] = []
        self.position, self.names, self.speed = [0.1, 0.2], ["elbow", "wrist"], 0.3
        self.speaks_joints = self.speaks_speed = True
        self.stamp: Callable[[], Any] | None = None
        listen = self.node.create_subscription
        listen(Float64MultiArray, "command", lambda message: self.commands.append(list(message.data)), ALL)
        listen(Float64MultiArray, f"{name}/driven", lambda message: self.driven.append(list(message.data)), ALL)
        listen(Float64MultiArray, f"{name}/latency", lambda message: self.latency.append(list(message.data)), ALL)
        listen(Float64MultiArray, f"{name}/shadow", self.shadow.append, ALL)
        listen(DiagnosticArray, f"{name}/audit", self._hear_audit, AUDIT)
        listen(DiagnosticStatus, f"{name}/model_info", self._hear_model, LATCHED)
        listen(DiagnosticArray, "/diagnostics", self._hear_diagnostics, ALL)
        self._joints = self.node.create_publisher(JointState, "joint_states", 1)
        self._speed = self.node.create_publisher(Float64, "speed", 1)
        self._omega = self.node.create_publisher(Float64, f"{name}/omega", ALL)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=spin, args=(self._executor, self._ended), daemon=True),
            threading.Thread(target=self._speak, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _speak(self) -> None:
        while not self._ended.wait(0.02):
            message = JointState(name=list(self.names), position=[float(value) for value in self.position])
            if self.stamp is not None:
                message.header.stamp = self.stamp()
            if self.speaks_joints:
                self._joints.publish(message)
            if self.speaks_speed:
                self._speed.publish(Float64(data=float(self.speed)))

    def _hear_audit(self, array: DiagnosticArray) -> None:
        self.audit.extend(_values(status) for status in array.status)

    def _hear_model(self, status: DiagnosticStatus) -> None:
        self.model.append(_values(status))

    def _hear_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == f"dipole_policy: {self.namespace}/{self.name}":
                self.diagnostics.append((status, _values(status)))

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown(timeout_sec=5.0)
        self.node.destroy_node()

    # ---- what an operator does

    def call(self, kind: Any, service: str, request: Any, timeout_s: float = 20.0) -> Any:
        client = self.node.create_client(kind, f"{self.name}/{service}")
        assert client.wait_for_service(timeout_s), f"{service} is not there"
        future = client.call_async(request)
        wait(future.done, f"an answer of {service}", timeout_s)
        self.node.destroy_client(client)
        return future.result()

    def change(self, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return bool(self.call(ChangeState, "change_state", request).success)

    def state(self) -> str:
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def set(self, **values: Any) -> Any:
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        return self.call(SetParameters, "set_parameters", request).results[0]

    def get(self, name: str) -> Any:
        value = self.call(GetParameters, "get_parameters", GetParameters.Request(names=[name])).values[0]
        return rclpy.parameter.parameter_value_to_python(value)

    def describe(self, name: str) -> Any:
        return self.call(
            DescribeParameters, "describe_parameters", DescribeParameters.Request(names=[name])
        ).descriptors[0]

    def trigger(self, service: str) -> Any:
        return self.call(Trigger, service, Trigger.Request())

    def turn(self, omega: float) -> None:
        self._omega.publish(Float64(data=omega))

    def has_no_speed(self) -> None:
        """Its speed is not silent but not there: nobody publishes it."""
        self.speaks_speed = False
        self.node.destroy_publisher(self._speed)

    # ---- what a test waits for

    def drives(self) -> None:
        """Waits until a command that is no stop goes out."""
        count = len(self.commands)
        wait(lambda: any(command != STOP for command in self.commands[count:]), "a drive")

    def stops(self) -> None:
        """Waits until the stop action goes out."""
        count = len(self.commands)
        wait(lambda: STOP in self.commands[count:], "a stop")

    def told(self, text: str) -> dict[str, str]:
        """Waits until a diagnostic says something."""
        found = wait(
            lambda: [values for status, values in self.diagnostics if text in status.message],
            f"a diagnostic of {text!r}",
        )
        return dict(found[-1])

    def silent(self, seconds: float = 0.5) -> list[list[float]]:
        """What goes out during a while."""
        time.sleep(0.1)
        count = len(self.commands)
        time.sleep(seconds)
        return self.commands[count:]


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def spin(executor: Any, ended: threading.Event) -> None:
    """Spins until the event is set, within a tenth of a second, or ROS is shut down.

    Join this thread before the executor is shut down and its node destroyed. rclpy's shutdown() does not wait for a
    thread that spins, and may even leave it waiting for ever; a node that is destroyed meanwhile, or while one of its
    callbacks runs, can crash the interpreter.
    """
    with suppress(ExternalShutdownException):
        while executor.context.ok() and not ended.is_set():
            executor.spin_once(timeout_sec=0.1)


def namespace() -> str:
    """Of this test alone."""
    return f"/test_{os.getpid()}_{next(_numbers)}"


@contextmanager
def robot(of: str | None = None) -> Iterator[Robot]:
    """A robot in a namespace."""
    found = Robot(of or namespace())
    try:
        yield found
    finally:
        found.close()


@contextmanager
def policy(of: str, bundle: Path | str, contract: Path | str, /, **parameters: Any) -> Iterator[PolicyNode]:
    """The node, running in this process; its robot drives it by lifecycle."""
    values = {
        "bundle": str(bundle),
        "contract": str(contract),
        "recover_after_s": 0.2,
        "max_stall_s": 3.0,
        "max_clock_jump_s": 1.0,
        "diagnostics_period_s": 0.1,
        **parameters,
    }
    node = PolicyNode(
        namespace=of, parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]
    )
    executor = ThreadsExecutor(THREADS, node.executor_failed)
    executor.add_node(node)
    ended = threading.Event()
    thread = threading.Thread(target=spin, args=(executor, ended), daemon=True)
    thread.start()
    try:
        yield node
    finally:
        node.halt("the test is over", 0.0)
        ended.set()
        thread.join()
        executor.shutdown(timeout_sec=5.0)
        executor.abandon()
        wait(lambda: not executor._under_way, "the end of the callbacks under way")
        # Ends the threads and the clock's callback of what is still configured.
        if node.state_label in ("inactive", "active"):
            node.trigger_shutdown()
        node.destroy_node()


@contextmanager
def pair(bundle: Path, contract: Path, /, **parameters: Any) -> Iterator[tuple[PolicyNode, Robot]]:
    """Node and robot, unconfigured."""
    of = namespace()
    with robot(of) as found, policy(of, bundle, contract, **parameters) as node:
        yield node, found


@contextmanager
def driving(bundle: Path, contract: Path, /, **parameters: Any) -> Iterator[tuple[PolicyNode, Robot]]:
    """Node and robot, under way."""
    with pair(bundle, contract, **parameters) as (node, found):
        assert found.change("configure")
        assert found.change("activate")
        found.drives()
        yield node, found


def action(bundle: Path, omega: float = 0.5) -> list[float]:
    """What a bundle does about the robot's usual inputs; a deterministic one knows no ω."""
    loaded = GuidedPolicy.load(bundle)
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    if loaded.manifest.policy == "deterministic":
        return [float(value) for value in loaded.act(observation).action]
    return [float(value) for value in loaded.act(observation, omega, loaded.deterministic_noise()).action]
