"""Actions as messages: bounds, rates, and the fields that they go to."""

from __future__ import annotations

import numpy as np
import pytest
from dipole_policy.action import ActionLimits, ActionWriter, parts
from dipole_policy.errors import ContractError
from dipole_runtime.manifest import ActionSpec
from robots import CONTRACT, contract, describe, make, replaced


def actions(low: float = -1.0, high: float = 2.0, size: int = 2) -> ActionSpec:
    names = tuple(f"joint_{index}" for index in range(size))
    return ActionSpec(size, (size,), names, (low,) * size, (high,) * size)


def writer(text: str, of: ActionSpec | None = None) -> ActionWriter:
    found, spec = contract(text), of or actions()
    (part,) = parts(found, spec, describe)
    return ActionWriter("action", found.actions[0], part, describe)


def action_text(action: str) -> str:
    return CONTRACT[: CONTRACT.index("action:")] + f"action: {action}\n"


STAMPED = action_text(
    "{topic: /cmd_vel, type: geometry_msgs/msg/TwistStamped, fields: [twist.linear.x, twist.angular.z],"
    " constants: {header.frame_id: base_link}, on_stop: zero}"
)
TRAJECTORY = action_text(
    "{topic: /go, type: trajectory_msgs/msg/JointTrajectory, field: 'points[0].positions', names: [elbow, wrist],"
    " constants: {'points[0].time_from_start.nanosec': 50000000}, on_stop: hold}"
)


def test_commands_in_arrays_fields_and_trajectories():
    command = np.array([0.25, -0.5])
    assert writer(CONTRACT).message(command, make, None).data == [0.25, -0.5]
    stamp = make("builtin_interfaces/msg/Time")
    twist = writer(STAMPED).message(command, make, stamp)
    assert (twist.twist.linear.x, twist.twist.angular.z, twist.twist.linear.y) == (0.25, -0.5, 0.0)
    assert twist.header.frame_id == "base_link"
    assert twist.header.stamp is stamp
    trajectory = writer(TRAJECTORY).message(command, make, None)
    assert trajectory.joint_names == ["elbow", "wrist"]
    assert [point.positions for point in trajectory.points] == [[0.25, -0.5]]
    assert trajectory.points[0].time_from_start.nanosec == 50_000_000


@pytest.mark.parametrize(
    ("text", "of", "message"),
    [
        (STAMPED, actions(size=3), "twist.linear.x, twist.angular.z take 2 elements, expected the bundle's 3"),
        (action_text("{topic: /a, type: std_msgs/msg/Int32, field: data, on_stop: zero}"), actions(size=1), "is int32"),
        (
            action_text("{topic: /a, type: std_msgs/msg/String, field: data, on_stop: zero}"),
            actions(),
            "is string",
        ),
        (CONTRACT.replace("field: data, on", "field: data, names: [a, b], on"), actions(), "has no array of names"),
        (
            STAMPED.replace("base_link", "base_link, header.frame: base_link"),
            actions(),
            "header of .* has no field frame",
        ),
        (
            STAMPED.replace("base_link", "base_link, header: base_link"),
            actions(),
            "constants.header is no single number or text",
        ),
    ],
)
def test_actions_that_do_not_fit(text: str, of: ActionSpec, message: str):
    with pytest.raises(ContractError, match=f"action: .*{message}"):
        writer(text, of)


def limits(text: str = CONTRACT, of: ActionSpec | None = None) -> ActionLimits:
    found, spec = contract(text.replace("rate_hz: 20", "rate_hz: 10")), of or actions()
    return ActionLimits(found, parts(found, spec, describe), spec)


NOWHERE = np.full(2, np.nan)
"""No last command."""


def test_bounds_hold_for_every_command():
    np.testing.assert_array_equal(limits().apply(np.array([-5.0, 5.0], np.float32), NOWHERE), [-1.0, 2.0])


def test_rates_hold_from_the_last_command():
    limited = limits(replaced("on_stop: zero", "on_stop: zero, max_rate: [1.0, 20.0]"))
    np.testing.assert_allclose(limited.apply(np.array([1.0, 1.0]), np.zeros(2)), [0.1, 1.0])
    np.testing.assert_allclose(limited.apply(np.array([-1.0, 1.0]), np.array([0.5, 0.5])), [0.4, 1.0])
    np.testing.assert_allclose(limited.apply(np.array([1.0, 1.0]), NOWHERE), [1.0, 1.0])
    # A reload may leave the last command outside of the new bounds: no jump into them either.
    np.testing.assert_allclose(limited.apply(np.array([1.0, 1.0]), np.array([9.0, 0.0])), [8.9, 1.0])
    np.testing.assert_allclose(limited.apply(np.array([1.0, 1.0]), np.array([np.nan, 0.0])), [1.0, 1.0])


def test_actions_that_are_none():
    with pytest.raises(ValueError, match="3 elements, expected 2"):
        limits().apply(np.zeros(3), NOWHERE)
    with pytest.raises(ValueError, match="nan for 'joint_1', expected finite"):
        limits().apply(np.array([0.0, np.nan]), NOWHERE)


def test_zero_must_be_an_action_to_stop_with():
    with pytest.raises(ContractError, match=r"on_stop is zero, but 'joint_0' of the bundle ranges from 0.5 to 2.0"):
        limits(of=actions(low=0.5))
    assert limits(replaced("on_stop: zero", "on_stop: hold"), actions(low=0.5))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("on_stop: zero, max_rate: [1.0]", "max_rate has 1 numbers, expected 2, one for each element"),
        ("on_stop: zero, elements: [a, b]", "action.elements is a, b, expected the bundle's joint_0, joint_1"),
        ("on_stop: zero, names: [a]", "action.names holds 1 names, expected the bundle's 2"),
    ],
)
def test_limits_that_do_not_fit(new: str, message: str):
    with pytest.raises(ContractError, match=message):
        limits(replaced("on_stop: zero", new))
