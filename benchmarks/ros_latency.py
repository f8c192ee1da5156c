"""Latency of the ROS 2 node, observation published → command received over DDS, beside the bare runtime in one run.

    python benchmarks/ros_latency.py [--bundle B] [--rates 50 100] [--seconds 60] [--memory-minutes 10] [--json FILE]

Needs rclpy: a ROS installation's, or the wheels of the tests. The node is a process of its own, as on a robot; this
process is the robot: it publishes an observation shortly before each of the node's control periods and notes when the
command arrives that answers it. Which one it answers is known for certain: observations take turns among 61, whose
values by the critic are known beforehand, the node tells the value of every decision on ~/driven, and it starts every
inference from the same noise.

  bare        ``GuidedPolicy.act`` alone, once a period as in the node, half of it before and half after the node's run
  published   observation published → command received; of this,
  waiting       until the node's control period takes the observation: the lead, and what DDS takes to deliver it
  answering     from there to the command's arrival: the inference, and the way through Python and DDS
  jitter      |time between two control periods − period|, by the node's own clock

Without --bundle, one of the demo's size is exported: observation 10, action 2, three layers of 128, random parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from dipole_runtime import GuidedPolicy
from ros_robot import NAMESPACE, OBSERVATIONS, Robot
from train_speed import describe_machine

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("bare", "published", "waiting", "answering", "jitter")
CONTRACT = """
rate_hz: {rate}
observation:
  - {{topic: observation, type: std_msgs/msg/Float64MultiArray, field: data, size: {size}, max_age_s: {max_age_s}}}
action: {{topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: {on_stop}}}
"""
NODE = "import sys; from dipole_policy.main import main; sys.exit(main())"
_START_S = 60.0


def default_bundle(folder: Path) -> Path:
    """A bundle of the demo's size."""
    import torch
    from dipole_export import export_bundle
    from runtime_latency import make_model

    torch.set_num_threads(1)
    export_bundle(make_model(10, 2, 128, 10), folder / "bundle")
    return folder / "bundle"


def observations(policy: GuidedPolicy) -> np.ndarray:
    """What the robot publishes, in turns: float64 of shape [61, observation]."""
    random = np.random.default_rng(0)
    return random.normal(size=(OBSERVATIONS, policy.manifest.observation.size)).astype(np.float32).astype(np.float64)


def fixed_noise(policy: GuidedPolicy) -> np.ndarray | None:
    """The node's own, the same for every decision; None: a deterministic policy, which starts from none."""
    return None if policy.manifest.guidance is None else policy.deterministic_noise()


def answers(policy: GuidedPolicy, inputs: np.ndarray) -> np.ndarray:
    """The critic's value of what the node does about each of them, [61].

    :raises SystemExit: where two of them have the same value, and so could not be told apart.
    """
    noise = fixed_noise(policy)
    actions = [policy.act(row.astype(np.float32), noise=noise) for row in inputs]
    values = np.array([float(action.q[action.chosen]) for action in actions])
    if np.diff(np.sort(values)).min() <= 1e-6 * max(1.0, float(np.abs(values).max())):
        raise SystemExit("ros_latency: the bundle gives different observations one value, expected another bundle")
    return values


def bare_seconds(policy: GuidedPolicy, inputs: np.ndarray, rate: float, seconds: float) -> list[float]:
    """Of single actions at a robot's pace: caches and clock frequencies are those of a program that mostly sleeps."""
    noise, times = fixed_noise(policy), []
    start = time.perf_counter()
    for index in range(max(1, int(seconds * rate))):
        time.sleep(max(0.0, start + index / rate - time.perf_counter()))
        row = inputs[index % OBSERVATIONS].astype(np.float32)
        began = time.perf_counter()
        policy.act(row, noise=noise)
        times.append(time.perf_counter() - began)
    return times


def matched(robot: Robot, values: np.ndarray) -> np.ndarray:
    """Published → received, waiting and answering of every command, in seconds: [3, commands].

    :param values: what :func:`answers` gives.
    """
    rows, arrivals, publications = [], deque(robot.arrived), deque(robot.published)
    latest: dict[int, int] = {}
    for taken, value, command in robot.driven:
        while publications and publications[0][0] <= taken:
            at, turn = publications.popleft()
            latest[turn] = at
        while arrivals and arrivals[0][0] <= taken:
            arrivals.popleft()
        turn = int(np.abs(values - value).argmin())
        if abs(values[turn] - value) > 1e-4 * max(1.0, abs(value)):
            raise SystemExit(f"ros_latency: a command has the value {value}, expected that of a published observation")
        # A command that never arrived must not be taken for a later, equal one.
        last = taken + 2 * robot.period_ns
        arrived = next((at for at, found in arrivals if at <= last and found == command), None)
        if arrived is not None and turn in latest:
            rows.append((arrived - latest[turn], taken - latest[turn], arrived - taken))
    if not rows:
        raise SystemExit("ros_latency: no command was received, expected one each period")
    found: np.ndarray = np.array(rows).T * 1e-9
    return found


@contextmanager
def node_process(bundle: Path, contract: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node, active as soon as it can be; ended whatever happens."""
    paths = [str(ROOT / "ros2_ws/src" / package) for package in ("dipole_policy", "dipole_runtime")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    values = {"bundle": bundle, "contract": contract, "autostart": "true", "recover_after_s": 0.2}
    command = [sys.executable, "-c", NODE, "--ros-args", "-r", f"__ns:={NAMESPACE}", "--log-level", "error"]
    for name, value in values.items():
        command += ["-p", f"{name}:={value}"]
    running = subprocess.Popen(command, env=environment)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20.0)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def cpu_seconds(pid: int) -> float:
    """User's and system's time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mebibytes(pid: int) -> float:
    """Of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def wait_until(holds: Callable[[], object], running: subprocess.Popen[bytes], what: str) -> None:
    """:raises SystemExit: where it does not happen in time, or the node ends."""
    end = time.monotonic() + _START_S
    while not holds():
        if running.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"ros_latency: {what} did not happen, the node's messages above say why")
        time.sleep(0.02)


def run_node(bundle: Path, policy: GuidedPolicy, inputs: np.ndarray, rate: float, seconds: float, lead_s: float) -> Any:
    """Measures the node at one rate.

    :return: seconds of every command by part, and the process's figures.
    """
    manifest = policy.manifest
    can_stop = all(low <= 0.0 <= high for low, high in zip(manifest.action.low, manifest.action.high, strict=True))
    on_stop = "zero" if can_stop else "hold"
    text = CONTRACT.format(rate=rate, size=manifest.observation.size, max_age_s=10.0 / rate, on_stop=on_stop)
    robot = Robot(inputs, rate, lead_s)
    try:
        with tempfile.TemporaryDirectory() as folder:
            contract = Path(folder) / "contract.yaml"
            contract.write_text(text)
            with node_process(bundle, contract) as running:
                wait_until(lambda: robot.taken_ns and robot.diagnostics, running, "driving")
                time.sleep(min(2.0, seconds))
                faults, pid = robot.faults(), running.pid
                memory, cpu, began = resident_mebibytes(pid), cpu_seconds(pid), time.monotonic()
                robot.is_measuring = True
                memories = [memory]
                while (left := began + seconds - time.monotonic()) > 0.0:
                    time.sleep(min(left, 10.0))
                    memories.append(resident_mebibytes(pid))
                robot.is_measuring = False
                wall = time.monotonic() - began
                cpu_share = (cpu_seconds(pid) - cpu) / wall
                time.sleep(1.2)
                faults = robot.faults() - faults
    finally:
        robot.close()
    published, waiting, answering = matched(robot, answers(policy, inputs))
    times = {"published": published, "waiting": waiting, "answering": answering}
    times["jitter"] = np.abs(np.array(robot.periods) - 1.0 / rate)
    figures = {
        "commands": len(published),
        "expected_commands": int(wall * rate),
        "deadline_misses": faults.pop("deadline_misses", 0),
        "faults": dict(faults),
        "cpu_share": cpu_share,
        "memory_start_mib": memories[0],
        "memory_end_mib": memories[-1],
        "memory_max_mib": max(memories),
    }
    return times, figures


def measure(bundle: Path, policy: GuidedPolicy, rate: float, seconds: float, lead_s: float) -> dict[str, Any]:
    """One rate: the bare runtime, the node, the bare runtime."""
    inputs = observations(policy)
    before = bare_seconds(policy, inputs, rate, seconds / 4)
    times, figures = run_node(bundle, policy, inputs, rate, seconds, lead_s)
    times["bare"] = np.array([*before, *bare_seconds(policy, inputs, rate, seconds / 4)])
    parts = {name: quantiles(times[name]) for name in PARTS}
    beyond = parts["answering"]["p99_ms"] - parts["bare"]["p99_ms"]
    return {"rate_hz": rate, "seconds": seconds, **figures, "parts": parts, "answering_p99_beyond_bare_ms": beyond}


def quantiles(seconds: np.ndarray) -> dict[str, float]:
    """In milliseconds."""
    p50, p99, largest = np.percentile(seconds * 1e3, [50, 99, 100])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(largest)}


def table(row: dict[str, Any]) -> str:
    """One rate's figures as text."""
    lines = [f"{row['rate_hz']:g} Hz for {row['seconds']:g} s", f"{'':>13} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}"]
    lines += [
        f"{name:>13} {part['p50_ms']:>8.2f} {part['p99_ms']:>8.2f} {part['max_ms']:>8.2f}"
        for name, part in row["parts"].items()
    ]
    faults = ", ".join(f"{key} {count}" for key, count in row["faults"].items()) or "none"
    lines += [
        f"answering's p99 beyond the bare one's: {row['answering_p99_beyond_bare_ms']:.2f} ms",
        f"{row['commands']} commands of {row['expected_commands']} expected, {row['deadline_misses']} missed "
        f"deadlines, other faults: {faults}",
        f"CPU {100 * row['cpu_share']:.0f} % of a core; {memory_text(row)}",
    ]
    return "\n".join(lines)


def memory_text(figures: dict[str, Any]) -> str:
    """What the node's process holds."""
    start, end, most = (figures[f"memory_{when}_mib"] for when in ("start", "end", "max"))
    return f"resident {start:.1f} MiB at the start, {end:.1f} at the end, {most:.1f} at most"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=None, help="default: one of the demo's size, made here")
    parser.add_argument("--rates", type=float, nargs="+", default=[50.0, 100.0], metavar="HZ")
    parser.add_argument("--seconds", type=float, default=60.0, help="at each rate; half as long for the bare runtime")
    parser.add_argument("--lead-ms", type=float, default=2.0, help="from publishing to the next control period (2)")
    parser.add_argument("--memory-minutes", type=float, default=0.0, help="a further, longer run at the first rate (0)")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise SystemExit(f"ros_latency: {error}; needs a ROS installation, or rclpy's wheels") from error
    machine = {**describe_machine(), "onnxruntime": onnxruntime.__version__}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    result: dict[str, Any] = {"benchmark": "ros_latency", **machine, "rows": [], "memory": None}
    lead_s = options.lead_ms * 1e-3
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or default_bundle(Path(folder))
        policy = GuidedPolicy.load(bundle)
        result["bundle"] = {"hash": policy.hash, "observation": policy.manifest.observation.size}
        # Not rclpy's handlers, which end the context and nothing else: the node's process must not stay behind.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            for rate in options.rates:
                row = measure(bundle, policy, rate, options.seconds, lead_s)
                result["rows"].append(row)
                print(f"\n{table(row)}", flush=True)
            if options.memory_minutes > 0.0:
                rate, minutes = options.rates[0], options.memory_minutes
                _, figures = run_node(bundle, policy, observations(policy), rate, 60.0 * minutes, lead_s)
                result["memory"] = {"minutes": minutes, **figures}
                print(f"\n{minutes:g} minutes at {rate:g} Hz: {memory_text(figures)}")
        finally:
            rclpy.try_shutdown()
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
