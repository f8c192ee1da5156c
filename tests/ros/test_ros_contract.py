"""Contracts: what is taken, and the sentence for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from dipole_policy.contract import MAX_CONTRACT_SIZE, Contract
from dipole_policy.errors import ContractError
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import CONTRACT, contract, replaced


def test_every_field_arrives():
    found = contract()
    assert (found.rate_hz, found.deadline_s, found.period_s) == (20.0, 0.5, 0.05)
    joints, speed = found.observation
    assert joints.topic == "/joint_states"
    assert joints.fields == (("position",),)
    assert joints.names == ("elbow", "wrist")
    assert speed.names == ()
    assert speed.max_age_s == 0.2
    assert found.actions[0].on_stop == "zero"
    assert found.actions[0].max_rate is None


def test_the_deadline_is_one_period_unless_given():
    assert contract(replaced("deadline_s: 0.5\n", "")).deadline_s == 0.05


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_hz: 20", "rate_hz: 0", "rate_hz is 0, expected a number from 0.1 to 1000.0"),
        ("rate_hz: 20", "rate_hz: true", "rate_hz is True, expected a number"),
        ("rate_hz: 20", "rate_hz: .nan", "rate_hz is nan, expected a number"),
        ("rate_hz: 20\n", "", "the contract has no rate_hz, expected one"),
        ("deadline_s: 0.5", "deadline: 0.5", "the contract has the unknown key 'deadline', expected one of rate_hz"),
        ("on_stop: zero", "on_stop: brake", "action.on_stop is 'brake', expected zero, hold, none"),
        (", on_stop: zero", "", "action has no on_stop, expected one"),
        ("max_age_s: 0.2}\n  - {topic: /speed", "}\n  - {topic: /speed", "observation[0] has no max_age_s"),
        (
            "type: std_msgs/msg/Float64,",
            "type: std_msgs.Float64,",
            "observation[1].type is 'std_msgs.Float64'",
        ),
        ("type: std_msgs/msg/Float64,", "type: ../../os/msg/System,", "observation[1].type is '../../os/msg/System'"),
        ("topic: /speed", "topic: /spe ed", "observation[1].topic is '/spe ed', expected"),
        ("topic: /speed", "topic: /joint_states", "observation[1].type is std_msgs/msg/Float64"),
        ("topic: /command", "topic: /speed", "action.topic is /speed, which the observation reads"),
        (
            "field: position",
            "field: position()",
            "observation[0].field: field is 'position()', expected",
        ),
        ("field: position", "field: __class__", "observation[0].field: field is '__class__', expected names"),
        ("field: position,", "field: position, fields: [velocity],", "observation[0] has both field and fields"),
        ("field: position,", "", "observation[0] has no field"),
        ("[elbow, wrist]", "[elbow, elbow]", "observation[0].names holds 'elbow' twice"),
        ("[elbow, wrist]", "[]", "observation[0].names is a list of 0, expected a list of names"),
        ("[elbow, wrist],", "[elbow, wrist], size: 2,", "observation[0] has both names and size"),
        ("field: data, max", "field: data, size: 0, max", "observation[1].size is 0, expected a whole number"),
        (
            "field: data, max",
            "field: data, function: tan, max",
            "observation[1].function is 'tan', expected",
        ),
        ("field: data, max", "field: data, key: goal, max", "observation[0] has no key, expected one"),
        (
            "on_stop: zero",
            "on_stop: zero, max_rate: [1, -1]",
            "action.max_rate is a list of 2, expected",
        ),
        ("on_stop: zero", "on_stop: zero, constants: {a: [1]}", "action.constants.a is a list of 1, expected a finite"),
        ("rate_hz: 20", "rate_hz: 20\nrate_hz: 30", "the key 'rate_hz' is given twice"),
        ("rate_hz: 20", "rate_hz: &x 20\nother: *x", "holds a YAML alias"),
        ("rate_hz: 20", "rate_hz: !!python/object/apply:os.getcwd []", "is not YAML in UTF-8"),
        ("rate_hz: 20", "rate_hz: [20", "is not YAML in UTF-8"),
    ],
)
def test_what_is_wrong_is_one_sentence(old: str, new: str, message: str):
    with pytest.raises(ContractError) as caught:
        contract(replaced(old, new))
    assert str(caught.value).startswith("contract robot.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ContractError, match=r"nothing\.yaml cannot be read"):
        Contract.load(tmp_path / "nothing.yaml")
    with pytest.raises(ContractError, match="cannot be read"):
        Contract.load(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_CONTRACT_SIZE + 1))
    with pytest.raises(ContractError, match="more than"):
        Contract.load(large)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_or_still_a_contract(data: st.DataObject):
    content = bytearray(CONTRACT.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Contract.from_bytes(bytes(content), "robot.yaml")
    except ContractError as error:
        problem = str(error)
    else:
        assert found.rate_hz > 0
        return
    assert problem.isprintable()
