"""The other side of the node's topics, for benchmarks: publishes observations, notes what comes back and when."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np

# Before rclpy is imported: nothing of this leaves the machine.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
os.environ.setdefault("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))

NAMESPACE = "/ros_latency"
OBSERVATIONS = 61
"""That take turns."""


class Robot:
    """The other side of the node's topics. Times in nanoseconds of the wall, which the node reads too.

    :param lead_s: how long before the node's next control period an observation is published.
    """

    def __init__(self, inputs: np.ndarray, rate: float, lead_s: float) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from std_msgs.msg import Float64MultiArray

        self._message = Float64MultiArray
        self._inputs = inputs.tolist()
        self.period_ns, self._lead_ns = round(1e9 / rate), round(lead_s * 1e9)
        self._ended = threading.Event()
        self._heard = threading.Condition()
        self.taken_ns = 0
        self.is_measuring = False
        self.published: list[tuple[int, int]] = []
        """Time, number of the observation among those that take turns."""
        self.arrived: list[tuple[int, bytes]] = []
        """Time, command."""
        self.driven: list[tuple[int, float, bytes]] = []
        """Time when the node took the observation, value, command."""
        self.periods: list[float] = []
        """Between two of the node's control periods; seconds."""
        self.diagnostics: dict[str, str] = {}
        self._node = rclpy.create_node("robot", namespace=NAMESPACE)
        # Deeper than a robot's: what this process is late for is not lost.
        report = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        listen = self._node.create_subscription
        listen(Float64MultiArray, "command", self._on_command, report)
        listen(Float64MultiArray, "dipole_policy/driven", self._on_driven, report)
        listen(Float64MultiArray, "dipole_policy/latency", self._on_latency, report)
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, report)
        self._publisher = self._node.create_publisher(Float64MultiArray, "observation", 1)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._spin, self._speak)]
        for thread in self._threads:
            thread.start()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException

        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _speak(self) -> None:
        turn, last = 0, 0
        while not self._ended.is_set():
            with self._heard:
                # Until the node drives, and where it stops, observations come all the same.
                self._heard.wait_for(lambda last=last: self.taken_ns != last, 2e-9 * self.period_ns)  # type: ignore[misc]
                last = self.taken_ns
            due = last + self.period_ns - self._lead_ns
            time.sleep(max(0.0, (due - time.time_ns()) * 1e-9))
            message = self._message(data=self._inputs[turn])
            if self.is_measuring:
                self.published.append((time.time_ns(), turn))
            self._publisher.publish(message)
            turn = (turn + 1) % OBSERVATIONS

    def _on_command(self, message: Any) -> None:
        now = time.time_ns()
        if self.is_measuring:
            self.arrived.append((now, message.data.tobytes()))

    def _on_driven(self, message: Any) -> None:
        """Number, time, ω, value, command."""
        taken_ns = round(message.data[1] * 1e9)
        with self._heard:
            self.taken_ns = taken_ns
            self._heard.notify()
        if self.is_measuring:
            self.driven.append((taken_ns, float(message.data[3]), message.data[4:].tobytes()))

    def _on_latency(self, message: Any) -> None:
        if self.is_measuring and math.isfinite(message.data[2]):
            self.periods.append(float(message.data[2]))

    def _on_diagnostics(self, array: Any) -> None:
        for status in array.status:
            if status.name == f"dipole_policy: {NAMESPACE}/dipole_policy":
                self.diagnostics = {item.key: item.value for item in status.values}

    def faults(self) -> Counter[str]:
        """By kind, since the node was configured; as of its last diagnostics."""
        kinds = {key: value for key, value in self.diagnostics.items() if key.startswith("faults.")}
        kinds["deadline_misses"] = self.diagnostics.get("deadline_misses", "0")
        return Counter({key.removeprefix("faults."): int(value) for key, value in kinds.items()})

    def close(self) -> None:
        """Ends its threads."""
        self._ended.set()
        self._threads[1].join(5.0)
        self._executor.shutdown(timeout_sec=5.0)
        self._threads[0].join(5.0)
        self._node.destroy_node()
