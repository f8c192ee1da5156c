"""One decision for several action topics, and a stop for each by its own rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import PERIOD, Bench
from dipole_policy.errors import Cause, ContractError, Kind
from dipole_policy.wire import Outlet, Wire
from robots import CONTRACT, contract, make, replaced

STEP = 0.5 * PERIOD

ARM_AND_GRIPPER = (
    CONTRACT[: CONTRACT.index("action:")]
    + """action:
  - {topic: /arm, type: std_msgs/msg/Float64MultiArray, field: data, size: 1, on_stop: hold}
  - {topic: /gripper, type: std_msgs/msg/Float64, field: data, on_stop: zero, max_rate: [0.5]}
"""
)


def test_one_decision_goes_to_every_topic(bundle: Path):
    bench = Bench(bundle, ARM_AND_GRIPPER)
    bench.period()
    assert bench.topics == ["/arm", "/gripper"]
    assert bench.sent[0] == bench.sent[1]
    writers, command = bench.loop.holder.current.writers, np.array([0.25, -0.5])
    arm, gripper = (writer.message(command, make, None).data for writer in writers)
    assert (arm, gripper) == ([0.25], -0.5)
    decided = bench.decisions[0].action.action.reshape(-1)
    assert bench.sent[0][0] == pytest.approx(decided[0])
    assert abs(bench.sent[0][1]) <= STEP + 1e-9, "the gripper's rate counts from zero, the arm has none"


def test_every_topic_stops_by_its_own_rule(bundle: Path):
    bench = Bench(bundle, ARM_AND_GRIPPER)
    bench.period()
    arm, _ = bench.sent[0]
    bench.sent.clear()
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    assert bench.topics[-2:] == ["/arm", "/gripper"]
    assert bench.sent == [[arm, 0.0]] * 2


def test_a_topic_that_fails_does_not_keep_the_stop_from_the_others():
    reached: list[str] = []

    def broken(command: np.ndarray) -> None:
        raise RuntimeError("no context")

    outlets = [
        Outlet(broken, slice(0, 1), "zero"),
        Outlet(lambda command: reached.append("second"), slice(1, 2), "zero"),
    ]
    wire = Wire(outlets, 2)
    wire.open()
    with pytest.raises(RuntimeError, match="no context"):
        wire.stop()
    assert reached == ["second"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size: 1", "size: 2", "the actions take 2 + 1 elements, expected the bundle's 2"),
        (", size: 1", "", None),
        ("/gripper, type: std_msgs/msg/Float64,", "/gripper, type: std_msgs/msg/Float64MultiArray,", None),
        ("/gripper", "/arm", "action[1].topic is /arm, which another action has: expected another"),
        ("/gripper", "/speed", "action[1].topic is /speed, which the observation reads"),
        ("max_rate: [0.5]", "max_rate: [0.5, 1]", "action[1].max_rate has 2 numbers, expected 1"),
        ("on_stop: zero, max_rate: [0.5]", "on_stop: brake", "action[1].on_stop is 'brake'"),
    ],
)
def test_actions_whose_parts_do_not_fit(bundle: Path, old: str, new: str, message: str | None):
    text = replaced(old, new, ARM_AND_GRIPPER)
    if message is None:
        assert [writer.part for writer in Bench(bundle, text).loop.holder.current.writers] == [slice(0, 1), slice(1, 2)]
        return
    with pytest.raises(ContractError) as error:
        Bench(bundle, text)
    assert message in str(error.value)


def test_two_actions_of_any_size(bundle: Path):
    text = ARM_AND_GRIPPER.replace(", size: 1", "").replace("std_msgs/msg/Float64,", "std_msgs/msg/Float64MultiArray,")
    text = text.replace(
        "topic: /speed, type: std_msgs/msg/Float64MultiArray", "topic: /speed, type: std_msgs/msg/Float64"
    )
    with pytest.raises(ContractError, match=r"action\[0\] has no size, expected size or names"):
        Bench(bundle, text)


def test_topics_that_become_one_are_refused():
    """By a namespace or a remapping."""
    text = ARM_AND_GRIPPER.replace("/gripper", "arm")
    with pytest.raises(
        ContractError, match=r"with resolved names, action\[1\].topic is /arm, which another action has"
    ):
        contract(text).with_topics(lambda topic: "/" + topic.lstrip("/"))
