"""Quality of service as the contract has it, and topics that are published once."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import Bench
from dipole_policy.errors import ContractError
from robots import contract, replaced

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
