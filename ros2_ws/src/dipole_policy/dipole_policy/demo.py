"""The whole chain in one command: a bundle drives the simulated arm over ROS 2 while ω changes; writes a picture.

Node and arm are separate processes, the same as those of ``ros2 launch`` and ``ros2 run``. This program is the
operator: it changes ω by parameter and by topic, reads the audit, and records the topics.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Vector3Stamped
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64, Float64MultiArray

from dipole_policy.announcements import AUDIT
from dipole_policy.errors import one_line
from dipole_policy.picture import STEP_S, Course, draw
from dipole_policy.session import LATCHED, REPORT

OMEGAS = (-1.0, 0.0, 2.0, 4.0)
ALL = QoSProfile(depth=5000, reliability=ReliabilityPolicy.RELIABLE)
"""A deep queue, so that no message is missing in the picture."""
ARM = "dipole_policy.simulated_arm"
_TIMEOUT_S = 60.0
_DISCOVERY_S = 1.0


class Operator:
    """Changes ω, and records the topics of node and arm.

    :param is_over: whether a signal has asked this program to end.
    :param steps: steps per episode.
    """

    def __init__(self, is_over: Callable[[], bool], steps: int) -> None:
        self.course = Course(steps)
        self.model: dict[str, str] = {}
        self.problem = ""
        self.last_command: list[float] = []
        self._is_over = is_over
        self._processes: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self._node = Node("ros_demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        listen = self._node.create_subscription
        listen(Vector3Stamped, "fingertip_to_target", self._on_remaining, ALL)
        listen(Float64, "simulated_arm/return", lambda message: self.course.ended(message.data), ALL)
        listen(Float64MultiArray, "effort_controller/commands", self._on_command, ALL)
        listen(Float64MultiArray, "dipole_policy/driven", self._on_driven, ALL)
        listen(DiagnosticArray, "dipole_policy/audit", self._on_audit, AUDIT)
        listen(DiagnosticStatus, "dipole_policy/model_info", self._on_model, LATCHED)
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, ALL)
        self._parameter = self._node.create_client(SetParameters, "dipole_policy/set_parameters")
        self._topic = self._node.create_publisher(Float64, "dipole_policy/omega", REPORT)

    def start(self, module: str, log: Path, *arguments: str) -> None:
        """Starts a process; its output goes to a file.

        :param arguments: ROS arguments.
        """
        command = [sys.executable, "-m", module, "--ros-args", *arguments]
        with log.open("wb") as file:
            # In a session of its own: Ctrl-C in a terminal reaches only this program, which ends the others in order.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._processes.append((module, process, log))

    def end(self) -> None:
        """Ends the processes in the order of their start, so that the arm still receives the node's stop."""
        for _, process, _ in self._processes:
            process.terminate()
            end = time.monotonic() + 15.0
            while process.poll() is None and time.monotonic() < end:
                self._executor.spin_once(timeout_sec=0.05)
            if process.poll() is None:
                process.kill()
                process.wait()

    def wait(self, until: Callable[[], Any], what: str) -> None:
        """Handles messages until a condition holds.

        :raises RuntimeError: it does not hold within a minute, the node reports a problem, or a process has ended.
        :raises KeyboardInterrupt: a signal asked this program to end.
        """
        end = time.monotonic() + _TIMEOUT_S
        while not until():
            if self._is_over():
                raise KeyboardInterrupt
            for module, process, log in self._processes:
                if process.poll() is not None:
                    said = log.read_text(errors="replace").splitlines()
                    raise RuntimeError(f"{module} has ended: {one_line(said[-1] if said else 'without a word')}")
            if self.problem:
                raise RuntimeError(self.problem)
            self.require_alone()
            if time.monotonic() > end:
                raise RuntimeError(f"waited {_TIMEOUT_S:g} s for {what}")
            self._executor.spin_once(timeout_sec=0.05)

    def require_alone(self) -> None:
        """Checks that the arm of this demo is the only one in its ROS domain.

        :raises RuntimeError: another one moves here, too: neither would be driven well, nor drawn.
        """
        arms = sum(module == ARM for module, _, _ in self._processes)
        for topic, own in (("joint_states", arms), ("effort_controller/commands", len(self._processes) - arms)):
            if self._node.count_publishers(topic) > own:
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                name = self._node.resolve_topic_name(topic)
                raise RuntimeError(
                    f"another program publishes on {name} in ROS domain {domain}, expected nobody: end it, or set "
                    "ROS_DOMAIN_ID to a free domain"
                )

    def settle(self, seconds: float) -> None:
        """Handles messages for a while, so that others in the domain are discovered."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def turn(self, omega: float, by_topic: bool = False) -> bool:
        """Asks for another ω, and waits for its record in the audit.

        :return: whether the node accepted it.
        """
        count = len(self.course.audit)
        if by_topic:
            self._topic.publish(Float64(data=omega))
        else:
            request = SetParameters.Request()
            request.parameters = [Parameter("omega", Parameter.Type.DOUBLE, omega).to_parameter_msg()]
            future = self._parameter.call_async(request)
            self.wait(future.done, "the node's answer")
        self.wait(lambda: len(self.course.audit) > count, "the audit's record")
        return self.course.audit[-1]["accepted"] == "true"

    def _on_remaining(self, message: Vector3Stamped) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.course.distances.append((stamp, float(np.hypot(message.vector.x, message.vector.y))))

    def _on_command(self, message: Float64MultiArray) -> None:
        self.last_command = list(message.data)

    def _on_driven(self, message: Float64MultiArray) -> None:
        _, stamp, omega, _, *command = message.data
        self.course.driven.append((stamp, omega, *command))

    def _on_audit(self, array: DiagnosticArray) -> None:
        for status in array.status:
            record = {item.key: item.value for item in status.values}
            self.course.audit.append(record)
            print(
                f"  audit {record['number']:>2}  {int(record['time_ns']) * 1e-9:7.2f} s  {record['source']:<9}  omega "
                f"{record['old']} → {record['new']}: {record['reason']}",
                flush=True,
            )

    def _on_model(self, status: DiagnosticStatus) -> None:
        self.model = {item.key: item.value for item in status.values}

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            self.problem = next((item.value for item in status.values if item.key == "problem"), self.problem)


def drive(operator: Operator, arguments: argparse.Namespace, out: Path) -> None:
    """Starts node and arm, and sets each value of ω in turn, over the same targets."""
    # Simulated time: the arm waits for each command, so a run can be repeated whatever the load of the machine.
    given = {"use_sim_time": "true", "max_stall_s": "0.0", "autostart": "true"}
    # One candidate, drawn for every decision: then ω makes the difference, not the critics' choice among candidates.
    given |= {"num_candidates": "1", "deterministic": "false"}
    # Quoted, so that they stay strings: a folder may be called 2024 or true.
    given |= {"bundle": f"'{arguments.bundle.resolve()}'", "contract": f"'{arguments.contract.resolve()}'"}
    operator.settle(_DISCOVERY_S)
    operator.require_alone()
    operator.start("dipole_policy.main", out / "node.log", *_parameters(given))
    operator.wait(lambda: operator.model, "the node to have read its bundle")
    model = operator.model
    if "omega.high" not in model:
        raise RuntimeError(f"{arguments.bundle} holds a deterministic policy, expected one whose omega can be turned")
    print(f"The node has read bundle {model['hash'][:12]}; omega may be {model['omega.low']} to {model['omega.high']}.")
    # One target more than counted: ω changes at the beginning of its episode. A busy machine may answer slowly: the arm
    # waits as long as the contract gives the node.
    arm = {
        "simulated_time": "true",
        "command_timeout_s": "2.0",
        "targets": arguments.episodes + 1,
        "episode_steps": operator.course.steps,
    }
    if arguments.camera:
        arm["camera_size"] = arguments.camera
    operator.start(ARM, out / "simulated_arm.log", *_parameters(arm))
    course = operator.course
    operator.wait(lambda: course.driven, "the first command")
    operator.wait(partial(_reached, course, course.current + 1), "the first episode")
    for index, omega in enumerate(arguments.omegas):
        course.turned.append(course.current)
        last = course.current + arguments.episodes
        if not operator.turn(omega, by_topic=index % 2 == 1):
            raise RuntimeError(f"omega {omega} was rejected: {course.audit[-1]['reason']}")
        if index == len(arguments.omegas) // 2:
            operator.turn(float(model["omega.high"]) + 1.0)
        operator.wait(partial(_reached, course, last + 1), "the episodes")


def _reached(course: Course, episode: int) -> bool:
    return course.current >= episode


def _parameters(values: Mapping[str, object]) -> list[str]:
    return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]


def report(course: Course) -> list[str]:
    """The results of each ω, line by line."""
    lines = ["  omega   episodes   return   metres left   mean |command|"]
    for omega, episodes in course.episodes().items():
        distance = np.mean([course.distance(number)[-1] for number in episodes])
        effort = np.mean([np.abs(course.commands(number)).mean() for number in episodes])
        total = np.mean([course.returns[number] for number in episodes])
        lines.append(f"  {omega:5.1f}   {len(episodes):8d}   {total:6.2f}   {distance:11.3f}   {effort:14.3f}")
    return lines


def drawing() -> str:
    """What MuJoCo can draw the camera's pictures with here: the user's choice, a GPU's driver, or Mesa.

    :raises RuntimeError: with none of these.
    """
    chosen = os.environ.get("MUJOCO_GL", "disable")
    tried = ("egl", "osmesa") if chosen == "disable" else (chosen,)
    seen = "from dipole_policy.camera_arm import make_camera_reacher; make_camera_reacher().reset()"
    for renderer in tried:
        environment = {**os.environ, "MUJOCO_GL": renderer}
        told = subprocess.run([sys.executable, "-c", seen], env=environment, capture_output=True, check=False)
        if told.returncode == 0:
            return renderer
    raise RuntimeError(f"MuJoCo cannot draw here with {' or '.join(tried)}; on Debian, apt install libosmesa6")


def free_domain() -> int:
    """A ROS domain that no other program on this machine uses, as far as can be seen."""
    domains = random.sample(range(1, 101), 100)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # The port of a domain's first participant, according to the DDS standard.
                probe.bind(("127.0.0.1", 7400 + 250 * domain + 10))
            except OSError:
                continue
            return domain
    return domains[0]


def default_contract(with_camera: bool) -> Path:
    """The simulated arm's contract: from the sources, where pip put it, or from the package that colcon built."""
    name = Path("contracts") / ("simulated_camera_arm.yaml" if with_camera else "simulated_arm.yaml")
    places = (Path(__file__).resolve().parents[1], Path(sys.prefix) / "share" / "dipole_policy")
    for place in places:
        if (place / name).exists():
            return place / name
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("dipole_policy")) / name


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    :return: exit status: 0, 1 with one sentence on stderr, or 130 after a signal.
    """
    parser = argparse.ArgumentParser("python -m dipole_policy.demo", description="A bundle drives an arm over ROS 2.")
    parser.add_argument("--bundle", type=Path, required=True, help="as `make demo` makes it, for Reacher-v5")
    parser.add_argument("--out", type=Path, default=Path("runs/ros-demo"), help="folder of picture and logs")
    parser.add_argument("--contract", type=Path, help="the simulated arm's by default")
    parser.add_argument("--camera", type=int, default=0, metavar="SIZE", help="pixels of the camera's pictures (none)")
    parser.add_argument("--omegas", type=float, nargs="+", default=OMEGAS)
    parser.add_argument("--episodes", type=int, default=4, help="that count, for each omega")
    parser.add_argument("--episode-steps", type=int, default=50, help=f"of {STEP_S} s")
    options = parser.parse_args(arguments)
    signals: list[int] = []
    signals_before = {
        number: signal.signal(number, lambda received, _: signals.append(received))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    # Set before ROS starts, and inherited by the processes: a demo must not move robots on other machines.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain()))
    try:
        options.contract = options.contract or default_contract(bool(options.camera))
        if options.camera:
            os.environ["MUJOCO_GL"] = drawing()
        options.out.mkdir(parents=True, exist_ok=True)
        course = _record(options, lambda: bool(signals))
        # From here on nothing is left to end in order: a signal ends this program at once.
        for number in signals_before:
            signal.signal(number, signals_before[number])
        print("\n".join(report(course)))
        draw(course, options.out / "ros_demo.png")
    except KeyboardInterrupt:
        print("ended before the end; nothing is left running", file=sys.stderr)
        return 130
    except (RuntimeError, OSError, ImportError) as error:
        print(f"{one_line(error)} (logs: {options.out})", file=sys.stderr)
        return 1
    print(f"Picture: {options.out / 'ros_demo.png'}; logs beside it.")
    return 0


def _record(options: argparse.Namespace, is_over: Callable[[], bool]) -> Course:
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        operator = Operator(is_over, options.episode_steps)
        try:
            drive(operator, options, options.out)
        finally:
            operator.end()
        print(f"The node and the arm have ended; the last command was {operator.last_command}.")
        return operator.course
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
