"""Commands that a known receiver would drop are refused by the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import Bench
from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError
from robots import CONTRACT, contract, make, replaced

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
