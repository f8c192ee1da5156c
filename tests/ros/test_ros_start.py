"""Where the first command begins, and what a stop holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import PERIOD, Bench
from dipole_policy.errors import Cause, ContractError, Kind
from robots import LIMITED, contract, joint_state, replaced

STEP = 0.5 * PERIOD
MEASURED = [0.1, 0.2]
"""What :meth:`Bench.hear` says of elbow and wrist."""


def moved(bench: Bench, elbow: float, wrist: float) -> None:
    """The arm is elsewhere now."""
    bench.now += PERIOD
    bench.hear()
    bench.loop.inputs.receive("/joint_states", joint_state({"elbow": elbow, "wrist": wrist}), bench.now_ns())


def test_the_first_command_begins_where_the_arm_is(bundle: Path):
    bench = Bench(bundle, LIMITED)
    bench.period()
    assert bench.decisions[0].action.action.reshape(-1) != pytest.approx(MEASURED, abs=2 * STEP), "too easy a case"
    np.testing.assert_array_less(np.abs(np.array(bench.sent[0]) - MEASURED), STEP + 1e-9)
    bench.period()
    np.testing.assert_array_less(np.abs(np.array(bench.sent[1]) - bench.sent[0]), STEP + 1e-9)


@pytest.mark.parametrize("how", ["stop", "activation", "clock jump"])
def test_after_a_stop_it_begins_where_the_arm_is_then(bundle: Path, how: str):
    bench = Bench(bundle, LIMITED)
    for _ in range(3):
        bench.period()
    if how == "stop":
        bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    elif how == "activation":
        bench.loop.end()
        bench.loop.start()
    else:
        bench.loop.clock_jumped(Cause(Kind.CLOCK, "jumped"))
    count = len(bench.decisions)
    for _ in range(10):
        moved(bench, -0.4, 0.6)
        bench.loop.period()
        if bench.decisions[count:] and bench.decisions[-1].number is not None:
            break
    np.testing.assert_array_less(np.abs(np.array(bench.sent[-1]) - [-0.4, 0.6]), STEP + 1e-9)


def test_nothing_is_driven_while_the_start_is_unknown(bundle: Path):
    apart = LIMITED.replace(
        "{topic: /joint_states, field", "{topic: /arm, type: sensor_msgs/msg/JointState, max_age_s: 0.2, field"
    )
    bench = Bench(bundle, apart)
    bench.period()
    assert bench.sent == []
    assert str(bench.faults[-1][0]) == "missing input: nothing has arrived on /arm"
    bench.loop.inputs.receive("/arm", joint_state({"elbow": 0.5, "wrist": np.nan}), bench.now_ns())
    bench.period()
    assert str(bench.faults[-1][0]) == "non-finite input: /arm measures nan (element 1)"
    assert bench.sent == []
    for _ in range(5):
        bench.loop.inputs.receive("/arm", joint_state({"elbow": 0.5, "wrist": 0.5}), bench.now_ns())
        bench.period()
    # While it drives, the measured state is not needed.
    for _ in range(8):
        bench.period()
    assert all(decision.number is not None for decision in bench.decisions[-8:])


def test_a_stop_holds_the_arm_where_it_finds_it(bundle: Path):
    bench = Bench(bundle, LIMITED)
    bench.period()
    moved(bench, 0.3, 0.1)
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    assert bench.sent[-1] == [0.3, 0.1]
    moved(bench, 0.5, 0.1)
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    assert bench.sent[-1] == [0.3, 0.1], "it is not followed: an arm that sags would creep down"


def test_the_next_stop_holds_where_it_finds_the_arm_then(bundle: Path):
    bench = Bench(bundle, LIMITED)
    for place in ([0.3, 0.1], [-0.2, 0.4]):
        for _ in range(6):
            moved(bench, *place)
            bench.loop.period()
        assert bench.loop.wire.is_driving
        bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
        assert bench.sent[-1] == place


def test_an_arm_that_is_moved_is_held_where_it_was_left(bundle: Path):
    bench = Bench(bundle, LIMITED.replace("on_stop: hold", "on_stop: hold, hold_within: [0.05, 0.05]"))
    bench.period()
    for place, held in (([0.3, 0.1], [0.3, 0.1]), ([0.34, 0.1], [0.3, 0.1]), ([0.4, 0.1], [0.4, 0.1])):
        moved(bench, *place)
        bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
        assert bench.sent[-1] == held


def test_every_joint_is_held_by_itself(bundle: Path):
    bench = Bench(bundle, LIMITED.replace("on_stop: hold", "on_stop: hold, hold_within: [0.05, 0.05]"))
    bench.period()
    for place, held in (([0.0, 0.0], [0.0, 0.0]), ([0.2, -0.04], [0.2, 0.0])):
        moved(bench, *place)
        bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
        assert bench.sent[-1] == held


def test_a_measured_state_that_is_gone_leaves_the_last_command_to_hold(bundle: Path):
    bench = Bench(bundle, LIMITED)
    bench.period()
    last = bench.sent[-1]
    bench.now += 1.0
    bench.loop.period()
    assert bench.faults[-1][0].kind in (Kind.STALE, Kind.CLOCK)
    assert bench.sent[-1] == last


def test_a_measured_state_that_cannot_be_read_stops_no_stop(bundle: Path):
    bench = Bench(bundle, LIMITED)
    bench.period()
    last, sent = bench.sent[-1], len(bench.sent)

    def unforeseen() -> Any:
        raise RuntimeError("nobody thought of this")

    bench.loop.inputs.snapshot = unforeseen  # type: ignore[method-assign]
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    assert bench.sent[sent:] == [last]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("on_stop: zero", "on_stop: hold, max_rate: [1, 1]", "action has max_rate and on_stop hold but no start_from"),
        ("on_stop: zero", "on_stop: none, max_rate: [1, 1]", "action has max_rate and on_stop none but no start_from"),
        (
            "type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero",
            "type: sensor_msgs/msg/JointState, field: position, on_stop: zero, max_rate: [1, 1]",
            "action has max_rate and a position but no start_from",
        ),
        ("on_stop: zero", "on_stop: hold, hold_within: [1, 1]", "action.hold_within needs on_stop hold and start_from"),
        (
            "on_stop: zero",
            "on_stop: hold, start_from: {topic: /arm, field: position}",
            "action.start_from has no type, expected one",
        ),
        (
            "on_stop: zero",
            "on_stop: hold, start_from: {topic: /joint_states, field: position, names: [a], of: b}",
            "action.start_from has the unknown key 'of'",
        ),
        (
            "on_stop: zero",
            "on_stop: hold, start_from: {topic: /speed, type: std_msgs/msg/Int32, field: data}",
            "action.start_from.type is std_msgs/msg/Int32, but /speed has type std_msgs/msg/Float64 before",
        ),
    ],
)
def test_what_is_refused_about_starts(old: str, new: str, message: str):
    with pytest.raises(ContractError) as error:
        contract(replaced(old, new))
    assert message in str(error.value)


def test_a_start_of_another_size(bundle: Path):
    with pytest.raises(ContractError, match=r"action\.start_from has 1 elements, expected the action's 2"):
        Bench(bundle, LIMITED.replace("names: [elbow, wrist]}}", "names: [elbow]}}"))
