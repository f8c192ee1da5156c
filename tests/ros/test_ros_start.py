"""Where the first command begins and what a stop holds; several action topics; deadlines that may be missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import PERIOD, Bench
from dipole_policy.contract import Contract, Tolerance
from dipole_policy.deadlines import Deadlines
from dipole_policy.errors import Cause, ContractError, Kind
from dipole_policy.supervisor import State, StopRequest, Supervisor
from dipole_policy.wire import Outlet, Wire
from hypothesis import given
from hypothesis import strategies as st
from robots import CONTRACT, contract, joint_state, make, replaced

STEP = 0.5 * PERIOD
LIMITED = replaced(
    "on_stop: zero}",
    "on_stop: hold, max_rate: [0.5, 0.5], start_from: {topic: /joint_states, field: position, names: [elbow, wrist]}}",
)
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


# ---- several actions

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


# ---- missed deadlines


@pytest.mark.parametrize(
    ("rate", "deadline", "expected"),
    [
        (200, None, "10 of 200"),
        (50, None, "2 of 50"),
        (20, None, "1 of 20"),
        (10, None, "0 of 10"),
        (20, 0.5, "0 of 20"),
    ],
)
def test_what_is_tolerated_by_default(rate: float, deadline: float | None, expected: str):
    text = CONTRACT.replace("rate_hz: 20", f"rate_hz: {rate}")
    text = text.replace("deadline_s: 0.5\n", "" if deadline is None else f"deadline_s: {deadline}\n")
    assert str(contract(text).deadline_misses) == expected


@pytest.mark.parametrize("text", ["3", "3 of 3", "-1 of 5", "a of b", "[3, 100]"])
def test_a_tolerance_that_is_none(text: str):
    with pytest.raises(ContractError, match="deadline_misses is "):
        contract(replaced("deadline_s: 0.5", f"deadline_misses: {text}"))


def tolerant(bundle: Path) -> Bench:
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 2 of 20"))
    bench.period()
    return bench


def late(bench: Bench, by: float = 0.06) -> None:
    def dawdle() -> None:
        bench.now += by

    drives = bench.loop.holder.current
    bench.replace_policy(dawdle)
    bench.period()
    bench.loop.holder.current = drives


def test_a_late_period_drops_its_decision_and_the_robot_drives_on(bundle: Path):
    bench = tolerant(bundle)
    for _ in range(2):
        late(bench)
    assert len(bench.sent) == 1, "neither the late decisions nor a stop"
    assert bench.faults == []
    bench.period()
    assert len(bench.decisions) == 2
    assert bench.decisions[-1].number == 2
    assert bench.loop.deadlines.total == 2


def test_too_many_late_periods_stop(bundle: Path):
    bench = tolerant(bundle)
    for _ in range(3):
        late(bench)
    assert bench.sent[-1] == [0.0, 0.0]
    assert "expected at most 0.05 s (3 misses in 20 periods, 2 are tolerated)" in str(bench.faults[-1][0])


def test_a_period_that_hangs_counts_as_all_that_it_misses(bundle: Path):
    bench = tolerant(bundle)
    late(bench, by=0.16)
    assert bench.sent[-1] == [0.0, 0.0]


@pytest.mark.parametrize("tolerance", ["3 of 100", "1 of 10"])
def test_a_hanging_policy_is_stopped_whatever_the_tolerance(bundle: Path, tolerance: str):
    """A deadline longer than the period: its misses leave a short window as fast as they come."""
    bench = Bench(bundle, replaced("deadline_s: 0.5", f"deadline_s: 1.0\ndeadline_misses: {tolerance}"))
    bench.period()
    with bench.hanging():
        for _ in range(200):
            bench.now += 0.05
            bench.loop.watch(0.5)
        assert bench.sent[-1] == [0.0, 0.0]


def test_a_policy_that_is_always_late_is_stopped(bundle: Path):
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 1.0\ndeadline_misses: 3 of 100"))
    bench.period()
    for _ in range(8):
        late(bench, by=1.2)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.loop.supervisor.state is State.STOPPED


def test_late_periods_during_a_stop_send_it_again(bundle: Path):
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 5 of 20"))
    bench.period()
    bench.loop.request_stop()
    bench.sent.clear()
    for _ in range(4):
        late(bench)
    assert bench.sent == [[0.0, 0.0]] * 4


def test_the_rate_counts_from_the_command_before_the_late_one(bundle: Path):
    text = LIMITED.replace("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 2 of 20")
    bench = Bench(bundle, text)
    bench.period()
    late(bench)
    bench.period()
    np.testing.assert_array_less(np.abs(np.array(bench.sent[1]) - bench.sent[0]), STEP + 1e-9)


@given(
    st.integers(0, 5),
    st.integers(6, 30),
    st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.3)), min_size=1, max_size=60),
)
def test_never_more_misses_than_tolerated_in_any_window(allowed: int, of: int, periods: list[tuple[float, float]]):
    """Against counting anew in every window."""
    deadlines = Deadlines(0.05, Tolerance(allowed, of), 0.05)
    now, misses, kept = 0.0, [], None
    for pause, spent in periods:
        now += pause
        started = now
        now += spent
        if now - started > 0.05:
            misses += [now] * max(1, int((now - started) / 0.05))
        lately = [time for time in misses if now - time <= of * 0.05]
        kept = started if kept is None else kept
        found = deadlines.check(started, now)
        if now - started > 0.05:
            too_many, silent = len(lately) > allowed, now - kept > 2 * (allowed + 1) * 0.05
            assert (found is not None) == (too_many or silent)
        else:
            assert found is None
            deadlines.kept(now)
            kept = now


# ---- topics that are published once

LATCHED = replaced("field: data, max_age_s: 0.2}", "field: data, max_age_s: 3600, durability: transient_local}")


def test_what_is_published_once_outlives_activations_and_clock_jumps(bundle: Path):
    bench = Bench(bundle, LATCHED)
    bench.hear()
    bench.loop.end()
    bench.loop.start()
    assert set(bench.loop.inputs.snapshot()) == {"/speed"}
    assert bench.loop.inputs.ages_s(bench.now_ns())["/speed"] == 0.0


def test_quality_of_service_by_type_and_by_key():
    found = contract(LATCHED)
    joints, speed = found.observation
    assert (joints.qos.reliability, joints.qos.durability, joints.qos.depth) == ("best_effort", "volatile", 10)
    assert (speed.qos.reliability, speed.qos.durability, speed.qos.depth) == ("reliable", "transient_local", 1)
    assert found.actions[0].qos.reliability == "reliable"
    grid = replaced("std_msgs/msg/Float64, field: data", "nav_msgs/msg/OccupancyGrid, field: info.resolution")
    assert contract(grid).observation[1].qos.durability == "transient_local"


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("reliability: best", "observation[1].reliability is 'best', expected reliable, best_effort"),
        ("durability: latched", "observation[1].durability is 'latched', expected volatile, transient_local"),
        ("depth: 0", "observation[1].depth is 0, expected a whole number from 1 to 1000"),
    ],
)
def test_qualities_that_do_not_exist(new: str, message: str):
    with pytest.raises(ContractError) as error:
        contract(replaced("field: data, max_age_s: 0.2", f"field: data, max_age_s: 0.2, {new}"))
    assert message in str(error.value)


def test_entries_of_one_topic_share_its_quality():
    entry = "  - {topic: /speed, type: std_msgs/msg/Float64, field: data, max_age_s: 1, durability: transient_local}\n"
    with pytest.raises(ContractError, match="durability is transient_local, but /speed has volatile before"):
        contract(replaced("action:", entry + "action:"))


def test_topics_that_become_one_are_refused():
    """By a namespace or a remapping."""
    text = ARM_AND_GRIPPER.replace("/gripper", "arm")
    with pytest.raises(
        ContractError, match=r"with resolved names, action\[1\].topic is /arm, which another action has"
    ):
        contract(text).with_topics(lambda topic: "/" + topic.lstrip("/"))


def test_what_tells_of_a_fault_may_fail(bundle: Path):
    """A loop that ended then would leave the robot to the watchdog."""
    bench = Bench(bundle)
    bench.period()

    def fail(cause: Cause, news: bool) -> None:
        raise RuntimeError("diagnostics")

    bench.loop._on_fault = fail
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    bench.now += 5.0
    bench.period(fresh=False)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.loop.telling_failed == "diagnostics"


def test_a_clock_jump_stops_first(bundle: Path):
    bench = Bench(bundle)
    bench.period()

    def fail() -> None:
        raise RuntimeError("middleware")

    bench.loop.inputs.take = fail
    with pytest.raises(RuntimeError, match="middleware"):
        bench.loop.clock_jumped(Cause(Kind.CLOCK, "jumped"))
    assert bench.sent[-1] == [0.0, 0.0]


def test_a_request_outlives_the_supervisor():
    request = StopRequest()
    Supervisor(0.0, True, request).request_stop(Cause(Kind.REQUEST, "asked"))
    later = Supervisor(0.0, True, request)
    later.start()
    assert not later.well(1.0)
    assert later.resume() is None
    assert later.well(2.0)
    assert request.cause is None


# ---- known receivers

TRAJECTORY = CONTRACT[: CONTRACT.index("action:")] + (
    "action: {topic: /go, type: trajectory_msgs/msg/JointTrajectory, field: 'points[0].positions',"
    " names: [elbow, wrist], constants: {'points[0].time_from_start.nanosec': 50000000}, on_stop: hold}\n"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "nanosec': 50000000",
            "nanosec': 49000000",
            "points[0].time_from_start is 0.049 s, expected at least one period",
        ),
        ("constants: {'points[0].time_from_start.nanosec': 50000000}, ", "", "points[0].time_from_start is 0.0 s"),
        ("names: [elbow, wrist], constants", "constants", "action has no names, expected the joints"),
        ("{'points[0].time", "{'header.stamp.sec': 5, 'points[0].time", "constants.header.stamp.sec is given"),
        ("points[0].positions", "points[1].positions", "writes points[1].positions, expected fields of points[0]"),
        ("on_stop: hold", "on_stop: zero", "action.on_stop is zero, which is a place to go to"),
    ],
)
def test_trajectories_that_their_controller_would_drop(old: str, new: str, message: str):
    assert isinstance(contract(TRAJECTORY), Contract)
    with pytest.raises(ContractError) as error:
        contract(replaced(old, new, TRAJECTORY))
    assert message in str(error.value)


def test_a_trajectory_is_not_stamped(bundle: Path):
    bench = Bench(bundle, TRAJECTORY)
    (writer,) = bench.loop.holder.current.writers
    stamp = make("builtin_interfaces/msg/Time")
    stamp.sec = 12
    assert writer.message(np.zeros(2), make, stamp).header.stamp.sec == 0
