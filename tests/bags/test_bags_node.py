"""What the node saw while it drove is what training sees of its recording."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export.bags.conversion import BagOptions, recording_of_bag
from dipole_policy.clocks import ClockGuard
from dipole_policy.contract import Contract
from dipole_policy.deadlines import Deadlines
from dipole_policy.fields import describe_recorded
from dipole_policy.holder import Fitting, PolicyHolder, PolicyOptions
from dipole_policy.loop import ControlLoop
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl
from dipole_policy.outlets import outlets
from dipole_policy.supervisor import Supervisor
from dipole_policy.wire import Wire
from rosbags.highlevel import AnyReader
from small_bundles import Sizes, files_of, make_policy
from written_bags import JOINTS, SPEED, STORE, Said, joints, nanoseconds, number, numbers, twist, write_bag

TEXT = """
rate_hz: 50
deadline_s: 10.0
observation:
  - topic: /joint_states
    type: sensor_msgs/msg/JointState
    field: position
    names: [elbow, wrist]
    function: sin
    max_age_s: 0.08
  - {topic: /speed, type: std_msgs/msg/Float64, field: data, max_age_s: 0.15, stamp: received}
  - {topic: /base, type: geometry_msgs/msg/TwistStamped, fields: [twist.angular.z, twist.linear.x], max_age_s: 0.05}
"""
GRIPPER = "/gripper"
ACTIONS = {
    "one topic": "action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}\n",
    "arm and gripper": """action:
  - {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
  - {topic: /gripper, type: std_msgs/msg/Float64, field: data, on_stop: zero}
""",
    "gripper and arm": """action:
  - {topic: /gripper, type: std_msgs/msg/Float64, field: data, on_stop: zero}
  - {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
""",
}


@pytest.fixture(scope="module", params=["pair", "deterministic"])
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "policy"
    path.mkdir()
    for name, content in files_of(request.param, make_policy(Sizes(5, 2), seed=3)).items():
        (path / name).write_bytes(content)
    return path


def sensors(random: np.random.Generator, seconds: float) -> list[Said]:
    """Three sensors at rates of their own, late and lost at random, a foreign arm on the same topic, some NaN."""
    said: list[Said] = []
    for topic, period in ((JOINTS, 0.011), (SPEED, 0.033), ("/base", 0.007)):
        at = 0.0
        while at < seconds:
            at += period * float(random.uniform(0.7, 1.3))
            if random.random() < 0.004:
                at += float(random.uniform(0.05, 0.4))
            stamped = at - float(random.uniform(0.0, 0.02))
            first, second = (float(one) for one in random.normal(size=2))
            if topic == JOINTS:
                message = joints(stamped, first, second, extra=("finger",))
            elif topic == SPEED:
                message = number(float("nan") if random.random() < 0.01 else first)
            else:
                message = twist(stamped, first, second)
            said.append((at, topic, message))
        if topic == JOINTS:
            other = STORE.types["sensor_msgs/msg/JointState"]
            foreign = joints(0.0, 0.0, 0.0)
            said += [
                (0.02 * index, JOINTS, other(foreign.header, ["wheel"], np.ones(1), np.zeros(0), np.zeros(0)))
                for index in range(int(seconds / 0.02))
            ]
    return sorted(said, key=lambda one: one[0])


class Node:
    """The node's own control loop, between sensors and a recorder, on a clock that the recording turns."""

    def __init__(self, bundle: Path, contract: Contract) -> None:
        fitting = Fitting(contract, describe_recorded(STORE.fielddefs), PolicyOptions())
        loaded = fitting.load(str(bundle))
        self._writers = loaded.writers
        self.now_s = 0.0
        self.commands: list[Said] = []
        self.seen: list[tuple[int, np.ndarray, np.ndarray]] = []
        build = loaded.layout.build

        def watched(inputs: Any, now_ns: int) -> Any:
            self._observation = build(inputs, now_ns)
            return self._observation

        loaded.layout.build = watched  # type: ignore[method-assign]
        inputs = Inputs(fitting.input_readers)
        self.loop = ControlLoop(
            PolicyHolder(loaded),
            inputs,
            Wire(outlets(contract, loaded, inputs, self.now_ns, self._send), 2),
            Supervisor(0.0, True),
            OmegaControl(loaded.policy.manifest.omega, 0.0, self.now_ns, lambda record: None),
            ClockGuard(False, 1.0),
            period_s=contract.period_s,
            deadlines=Deadlines(contract.deadline_s, contract.deadline_misses, contract.period_s),
            now_ns=self.now_ns,
            on_decision=self._decided,
            on_fault=lambda cause, news: None,
            steady=lambda: self.now_s,
        )
        self.loop.start()

    def live_through(self, recording: Path, periods: Iterable[float]) -> None:
        """Its control periods begin at these times while it hears what was recorded.

        Messages pass through a serialised recording before the node gets them, as over the wire.
        """
        times = iter(periods)
        due = next(times)
        with AnyReader([recording]) as reader:
            for connection, time_ns, data in reader.messages():
                while time_ns > nanoseconds(float(due)):
                    self.now_s = float(due)
                    self.loop.period()
                    due = next(times, 1e6)
                self.now_s = (time_ns - nanoseconds(0.0)) * 1e-9
                self.loop.inputs.receive(connection.topic, reader.deserialize(data, connection.msgtype), time_ns)

    def now_ns(self) -> int:
        return nanoseconds(self.now_s)

    def _send(self, index: int, command: Any) -> None:
        writer = self._writers[index]
        values = command[writer.part].tolist()
        message = number(*values) if writer.entry.topic == GRIPPER else numbers(values)
        self.commands.append((self.now_s, writer.entry.topic, message))

    def _decided(self, decision: Any) -> None:
        if decision.number is not None:
            self.seen.append((decision.time_ns, self._observation.copy(), decision.command.astype(np.float32)))


@pytest.mark.parametrize(
    ("actions", "latency_s"),
    [("one topic", 0.0), ("one topic", 0.003), ("arm and gripper", 0.003), ("gripper and arm", 0.0)],
)
def test_the_recording_shows_what_the_node_saw(tmp_path: Path, bundle: Path, actions: str, latency_s: float) -> None:
    """Also if a recorder hears one of the topics a little later or earlier than the one that leads."""
    contract_path = tmp_path / "robot.yaml"
    contract_path.write_text(TEXT + ACTIONS[actions])
    random = np.random.default_rng(7)
    said = sensors(random, 20.0)
    node = Node(bundle, Contract.load(contract_path))
    heard = write_bag(tmp_path / "heard", said)
    periods = np.cumsum(0.02 + random.uniform(-0.004, 0.004, 900) * np.tile([1, -1], 450)) + 0.3
    node.live_through(heard, periods)
    assert 500 < len(node.seen) < 900, "it was to drive most of the time, and to be stopped by faults"
    lead = node.commands[0][1]
    commands = [
        (at + latency_s + (0.0 if topic == lead else float(random.uniform(-0.004, 0.004))), topic, message)
        for at, topic, message in node.commands
    ]
    bag = write_bag(tmp_path / "drive", [*said, *commands])

    recording = recording_of_bag(bag, contract_path, BagOptions("-abs(action[0])", bundle=bundle, delay_s=latency_s))
    arrays = recording.arrays
    driven = {observation.tobytes(): command for _, observation, command in node.seen}
    assert len(driven) > 500
    steps = 0
    for observation, action in zip(arrays["observations"], arrays["actions"], strict=True):
        # Stops (zeros) are commands too; what was driven must be the answer to exactly this observation.
        if np.any(action):
            assert driven[observation.tobytes()].tobytes() == action.tobytes()
            steps += 1
    # Each fault costs the step that it falls into, and one more may begin with the stop that it caused.
    faults = recording.provenance["data_episodes"]
    assert len(node.seen) - 2 * faults <= steps <= len(node.seen)
    following = arrays["terminals"][:-1] == 0
    np.testing.assert_array_equal(arrays["next_observations"][:-1][following], arrays["observations"][1:][following])
    assert recording.provenance["action_low"] == [-1.0, -2.0]
