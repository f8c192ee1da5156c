"""What a sensor costs the ROS 2 node that publishes more often than the node looks: processor time beside one that
publishes at the node's own rate, in one run.

    python benchmarks/ros_sensors.py [--bundle B] [--rates 50 200] [--factors 1 4 20] [--seconds 15] [--json FILE]

Needs rclpy, as ros_latency.py does. Sensor and node are processes of their own; the sensor publishes the whole
observation, best effort. Every factor is measured twice, forwards and backwards, and the mean counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from dipole_runtime import GuidedPolicy
from ros_latency import CONTRACT, cpu_seconds, default_bundle, node_process, wait_until
from ros_robot import NAMESPACE
from train_speed import describe_machine

SENSOR = """
import sys, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float64MultiArray
rate, size = float(sys.argv[1]), int(sys.argv[2])
rclpy.init()
node = rclpy.create_node("sensor", namespace=sys.argv[3])
publisher = node.create_publisher(Float64MultiArray, "observation", qos_profile_sensor_data)
message, due = Float64MultiArray(data=[0.1] * size), time.perf_counter()
while True:
    publisher.publish(message)
    due += 1.0 / rate
    time.sleep(max(0.0, due - time.perf_counter()))
"""


@contextmanager
def publishing(program: str, *arguments: object) -> Iterator[None]:
    """A sensor in a process of its own, until the block ends.

    :param program: Python; its last argument is the namespace.
    """
    running = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments), NAMESPACE])
    try:
        yield
    finally:
        running.kill()
        running.wait()


def spin(node: Any, seconds: float) -> None:
    """Handles messages for a while."""
    import rclpy

    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0.0:
        rclpy.spin_once(node, timeout_sec=left)


class Listener:
    """Counts the node's commands, and keeps its diagnostics."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray

        self.node = rclpy.create_node("listener", namespace=NAMESPACE)
        self.values: dict[str, str] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, array: Any) -> None:
        for status in array.status:
            if status.name == f"dipole_policy: {NAMESPACE}/dipole_policy":
                self.values = {item.key: item.value for item in status.values}

    def drives(self) -> bool:
        spin(self.node, 0.1)
        return self.values.get("state") == "driving"


def measure(bundle: Path, size: int, rate: float, factor: float, seconds: float) -> dict[str, float]:
    """The node's share of a core, and what it sent and missed, beside a sensor of ``factor`` times its rate."""
    listener = Listener()
    text = CONTRACT.format(rate=rate, size=size, max_age_s=0.5, on_stop="zero")
    try:
        with tempfile.TemporaryDirectory() as folder, publishing(SENSOR, rate * factor, size):
            contract = Path(folder) / "contract.yaml"
            contract.write_text(text)
            with node_process(bundle, contract) as running:
                wait_until(listener.drives, running, "driving")
                spin(listener.node, 2.0)
                before, cpu, began = dict(listener.values), cpu_seconds(running.pid), time.monotonic()
                spin(listener.node, seconds)
                share = (cpu_seconds(running.pid) - cpu) / (time.monotonic() - began)
                after = dict(listener.values)
    finally:
        listener.node.destroy_node()
    counted = {key: int(after[key]) - int(before[key]) for key in ("commands", "deadline_misses")}
    return {"cpu_share": share, **counted}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=None, help="default: one of the demo's size, made here")
    parser.add_argument("--rates", type=float, nargs="+", default=[50.0, 200.0], metavar="HZ", help="of the node")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 4.0, 20.0], help="times the node's rate")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    import rclpy

    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows = []
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or default_bundle(Path(folder))
        size = GuidedPolicy.load(bundle).manifest.observation.size
        for rate in options.rates:
            turns: dict[float, list[dict[str, float]]] = {factor: [] for factor in options.factors}
            for factor in (*options.factors, *reversed(options.factors)):
                turns[factor].append(measure(bundle, size, rate, factor, options.seconds))
            base = mean(found["cpu_share"] for found in turns[options.factors[0]])
            for factor, found in turns.items():
                share = mean(each["cpu_share"] for each in found)
                rows.append(
                    {"rate_hz": rate, "factor": factor, "cpu_share": share, "ratio": share / base, "runs": found}
                )
                sent, missed = (sum(each[key] for each in found) for key in ("commands", "deadline_misses"))
                print(
                    f"{rate:g} Hz, sensor {factor:g} times: {100 * share:.1f} % of a core, {share / base:.2f} of the "
                    f"first; {sent:g} commands of {2 * options.seconds * rate:g}, {missed:g} missed deadlines",
                    flush=True,
                )
    rclpy.try_shutdown()
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "ros_sensors", **machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
