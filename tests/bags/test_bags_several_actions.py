"""Arm and gripper in one recording: what was commanded on both topics in a period is one action."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from dipole_export.bags.commands import Commands, command_readers
from dipole_export.bags.conversion import BagOptions, recording_of_bag
from dipole_export.bags.reading import BagError
from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError
from dipole_policy.fields import describe_recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin
from small_bundles import Sizes, files_of, make_policy
from written_bags import (
    COMMAND,
    CONTRACT,
    PERIOD_S,
    REWARD,
    SPEED,
    STORE,
    Said,
    clock,
    drive,
    empty,
    number,
    numbers,
    without,
    write_bag,
)

from dipole_sb3.recording.recording_files import Recording

GRIPPER = "/gripper"
ARM = "{topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}"
ONE = "{topic: /gripper, type: std_msgs/msg/Float64, field: data, on_stop: hold}"
HEAD = CONTRACT[: CONTRACT.index("action:")]
BOTH = f"{HEAD}action:\n  - {ARM}\n  - {ONE}\n"


def convert(folder: Path, said: list[Said], text: str = BOTH, reward: str = REWARD, **options: object) -> Recording:
    """The recording of what was said."""
    contract = folder / "robot.yaml"
    contract.write_text(text)
    bag = write_bag(folder / f"bag{len(list(folder.iterdir()))}", said, StoragePlugin.SQLITE3, 8)
    return recording_of_bag(bag, contract, BagOptions(reward=reward, **options))  # type: ignore[arg-type]


def gripped(times: list[float], values: list[float] | None = None) -> list[Said]:
    """Number k says 0.01 · k unless values are given."""
    given_values = [0.01 * index for index in range(len(times))] if values is None else values
    return [(at, GRIPPER, number(value)) for at, value in zip(times, given_values, strict=True)]


def together(count: int, skew_s: float = 0.001) -> list[Said]:
    """A drive whose every decision goes to both, to the gripper a little later or earlier."""
    return [*drive(count), *gripped([0.001 + PERIOD_S * index + skew_s for index in range(count)])]


def indices(recording: Recording) -> list[list[int]]:
    """The steps' numbers, episode by episode."""
    found: list[list[int]] = [[]]
    for observation, end in zip(recording.arrays["observations"], recording.arrays["terminals"], strict=True):
        found[-1].append(round(float(observation[0])))
        if end:
            found.append([])
    return found[:-1]


@pytest.mark.parametrize("skew_s", [0.0, 0.001, -0.001, 0.024, -0.024])
def test_one_action_of_both_in_the_contracts_order(tmp_path: Path, skew_s: float) -> None:
    said = [(at + 0.03, topic, message) for at, topic, message in together(6, skew_s)]
    index = np.arange(5.0)
    recording = convert(tmp_path, said)
    np.testing.assert_allclose(
        recording.arrays["actions"], np.stack([0.001 * index, -0.001 * index, 0.01 * index], 1), rtol=1e-6
    )
    assert indices(recording) == [[0, 1, 2, 3, 4]]


def test_the_contracts_order_is_the_actions(tmp_path: Path) -> None:
    said = together(6)
    found, swapped = (
        convert(tmp_path, said, f"{HEAD}action:\n  - {first}\n  - {second}\n").arrays
        for first, second in ((ARM, ONE), (ONE, ARM))
    )
    np.testing.assert_array_equal(swapped["actions"], found["actions"][:, [2, 0, 1]])
    np.testing.assert_array_equal(swapped["observations"], found["observations"])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-0.2, 0.9), min_size=1, max_size=25, unique=True),
    st.sampled_from([0.0, 0.06, 0.2]),
)
def test_as_a_search_over_all_commands_finds_it(
    tmp_path_factory: pytest.TempPathFactory, times: list[float], hold_s: float
) -> None:
    """Against looking at every command of the gripper for every step."""
    # Never more of them than the arm's, which lead then; in microseconds, and away from the borders of half a period.
    times = sorted({0.0005 + round(at, 3) for at in times})
    said = [*drive(len(times) + 20), *gripped(times)]
    expected: dict[int, float] = {}
    for index in range(18):
        tick = 0.001 + PERIOD_S * index
        near = [(abs(at - tick), 0.01 * k) for k, at in enumerate(times) if abs(at - tick) < PERIOD_S / 2]
        before = [(tick - at, 0.01 * k) for k, at in enumerate(times) if 0 <= tick - at <= hold_s]
        if near or before:
            expected[index] = min(near or before)[1]
    try:
        arrays = convert(tmp_path_factory.mktemp("drive"), said, hold_s=hold_s).arrays
    except BagError:
        # It holds no complete step.
        arrays = {"observations": np.zeros((0, 3)), "actions": np.zeros((0, 3))}
    found = {
        round(float(observation[0])): float(action[2])
        for observation, action in zip(arrays["observations"], arrays["actions"], strict=True)
    }
    assert {index: pytest.approx(value) for index, value in expected.items()} == {
        index: value for index, value in found.items() if index < 18
    }


def test_a_lost_command_of_one_topic_ends_the_episode(tmp_path: Path) -> None:
    recording = convert(tmp_path, without(together(10), GRIPPER, 0.24, 0.26))
    # Step 4 is whole: both were commanded, and what came of it was seen.
    assert indices(recording) == [[0, 1, 2, 3, 4], [6, 7, 8]]
    assert recording.arrays["masks"].all()
    assert recording.provenance["episode_ends"] == {"stale input": 1, "end of the recording": 1}
    assert recording.provenance["first_problem"] == (
        "stale input: the last command on /gripper is 0.049 s older than that on /command, expected at most 0.025 s "
        "(see --hold)"
    )


def test_a_topic_that_begins_late_begins_the_rows(tmp_path: Path) -> None:
    recording = convert(tmp_path, without(together(10), GRIPPER, 0.0, 0.19))
    assert indices(recording) == [[4, 5, 6, 7, 8]]
    assert recording.provenance["commands_left_out"] == {"missing input": 4}
    assert recording.provenance["first_problem"] == (
        "missing input: /gripper has no command yet, expected one within half a period of that on /command"
    )


def test_a_slower_topic_holds_when_asked_to(tmp_path: Path) -> None:
    slow = gripped([0.003 + 4 * PERIOD_S * index for index in range(3)])
    said = [*drive(13), *slow]
    held = convert(tmp_path, said, hold_s=0.16)
    np.testing.assert_allclose(held.arrays["actions"][:, 2], [0.01 * (index // 4) for index in range(12)], rtol=1e-6)
    assert indices(held) == [list(range(12))]
    alone = convert(tmp_path, said)
    assert indices(alone) == [[0], [4], [8]]
    assert alone.provenance["episode_ends"] == {"stale input": 3}


def test_a_held_command_of_one_topic_ends(tmp_path: Path) -> None:
    said = without(together(20), GRIPPER, 0.02, 9.0)
    assert indices(convert(tmp_path, said, hold_s=0.11)) == [[0, 1, 2]]


def test_the_topic_that_speaks_most_leads(tmp_path: Path) -> None:
    """A gripper of four times the pace: the steps are thinned out, and the arm's commands lie nearest."""
    said = [*drive(8), *gripped([0.001 + PERIOD_S / 4 * index for index in range(32)])]
    actions = convert(tmp_path, said).arrays["actions"]
    np.testing.assert_allclose(actions[:, 0], 0.001 * np.arange(8), rtol=1e-6)
    np.testing.assert_allclose(actions[:, 2], 0.04 * np.arange(8), rtol=1e-6)


def test_while_the_leading_topic_is_held_the_other_one_goes_on(tmp_path: Path) -> None:
    said = without(together(10), COMMAND, 0.23, 0.34)
    # Still as many of the arm's in all.
    said += [(0.001 + PERIOD_S * index, COMMAND, numbers([0.001 * index, 0.0])) for index in (10, 11, 12)]
    recording = convert(tmp_path, said, hold_s=0.16)
    found = recording.arrays["actions"]
    np.testing.assert_allclose(found[3:8, 0], [0.003, 0.004, 0.004, 0.004, 0.007], rtol=1e-6)
    np.testing.assert_allclose(found[3:8, 2], [0.03, 0.04, 0.05, 0.06, 0.07], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "kind"), [(number(float("nan")), "non-finite input"), (number(1e300), "non-finite input")]
)
def test_wrong_commands_of_one_topic_end_the_episode(tmp_path: Path, value: object, kind: str) -> None:
    said = [(at, topic, value if topic == GRIPPER and at == 0.252 else what) for at, topic, what in together(9)]
    recording = convert(tmp_path, said)
    assert indices(recording) == [[0, 1, 2, 3, 4], [6, 7]]
    assert recording.provenance["episode_ends"] == {kind: 1, "end of the recording": 1}
    assert "/gripper gives" in recording.provenance["first_problem"]


def test_the_delay_is_that_of_both(tmp_path: Path) -> None:
    """Inputs keep coming while the commands are computed; neither answers those."""
    said = without(drive(8), COMMAND, 0.0, 9.0)
    said += [(0.03 + PERIOD_S * index, COMMAND, numbers([0.001 * index, 0.0])) for index in range(8)]
    said += gripped([0.028 + PERIOD_S * index for index in range(8)])
    said += [(0.01 + PERIOD_S * index, SPEED, number(-1.0)) for index in range(8)]
    arrays = convert(tmp_path, said, delay_s=0.025).arrays
    np.testing.assert_array_equal(arrays["observations"][:, 2], np.arange(7) + 0.5)
    np.testing.assert_allclose(arrays["actions"][:, 2], 0.01 * np.arange(7), rtol=1e-6)


def test_after_a_reset_earlier_commands_do_not_count(tmp_path: Path) -> None:
    said = without(together(10), GRIPPER, 0.24, 0.36)
    back: Said = (0.22, "/back", empty())
    assert indices(convert(tmp_path, said, hold_s=0.3)) == [list(range(9))]
    assert indices(convert(tmp_path, [*said, back], hold_s=0.3, set_back="/back")) == [[0, 1, 2, 3], [8]]
    # One that was sent after the reset counts, although it is read ahead of its time.
    later = [*without(together(10), GRIPPER, 0.24, 0.26), (0.23, GRIPPER, number(0.5))]
    found = convert(tmp_path, [*later, back], set_back="/back")
    assert indices(found) == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert found.arrays["actions"][4, 2] == 0.5


def test_after_a_clock_jump_earlier_commands_do_not_count(tmp_path: Path) -> None:
    """What the gripper was told at 1.2 s must not count when it is 1.2 s again."""
    said = without(together(10), GRIPPER, 0.24, 0.36)
    said = [one for one in said if one[1] != "/joint_states"]
    text = BOTH.replace(HEAD.splitlines()[3] + "\n", "")
    times = [start + PERIOD_S * index for start in (1.0, 1.1) for index in range(5)]
    said += [(PERIOD_S * index - 0.001, "/clock", clock(now)) for index, now in enumerate(times)]
    recording = convert(tmp_path, said, text, use_sim_time=True, hold_s=5.0)
    assert recording.arrays["observations"][:, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 8.5]
    assert recording.provenance["commands_left_out"] == {"missing input": 3}


def test_names_of_both_in_the_reward(tmp_path: Path) -> None:
    text = BOTH.replace(ONE, ONE.replace("field: data", "field: data, elements: [grip]"))
    arrays = convert(tmp_path, together(5), text, 'action["grip"] - action[0]').arrays
    np.testing.assert_allclose(arrays["rewards"], 0.009 * np.arange(4), rtol=1e-5)


def test_what_a_silent_arm_leaves_in_memory(tmp_path: Path) -> None:
    contract = tmp_path / "robot.yaml"
    contract.write_text(BOTH)
    readers = command_readers(Contract.load(contract), describe_recorded(STORE.fielddefs), None)
    commands = Commands(readers, {COMMAND: 2, GRIPPER: 1}, 50_000_000)
    tracemalloc.start()
    for index in range(20_000):
        commands.hear(GRIPPER, number(0.0), 1_000_000 * index)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000


# ---- what is refused


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("/gripper,", "/hand,", "has no topic /hand, expected it for the action; it holds /command (std_msgs/msg/Fl"),
        (
            "msg/Float64, field: data, on",
            "msg/Int32, field: data, on",
            "/gripper has type std_msgs/msg/Float64, expect",
        ),
        (
            "field: data, on_stop: hold",
            "field: date, on_stop: hold",
            "action[1]: std_msgs/msg/Float64 has no field dat",
        ),
        (
            "field: data, on_stop: hold",
            "field: data, size: 2, on_stop: hold",
            "action[1]: size is 2, but the fields of",
        ),
    ],
)
def test_contracts_that_do_not_fit(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert BOTH.count(old) == 1
    with pytest.raises((BagError, ContractError)) as error:
        convert(tmp_path, together(6), BOTH.replace(old, new))
    assert sentence in str(error.value)


def test_an_empty_first_command_is_said(tmp_path: Path) -> None:
    text = BOTH.replace(ONE, ONE.replace("Float64,", "Float64MultiArray,"))
    said = [*drive(6), (0.002, GRIPPER, numbers([])), (0.052, GRIPPER, numbers([1.0]))]
    with pytest.raises(ValueError, match=r"action\[1\]: the first command on /gripper is empty, expected elements"):
        convert(tmp_path, said, text)


def test_topics_that_never_speak_together_are_said(tmp_path: Path) -> None:
    with pytest.raises(BagError) as error:
        convert(tmp_path, [*drive(6), *gripped([-5.0])])
    assert (
        "holds no complete step of the contract: stale input (6); the first: stale input: the last command on /gri"
        in str(error.value)
    )


def test_a_bundle_divides_the_action_as_in_the_node(tmp_path: Path) -> None:
    for name, sizes in (("right", Sizes(3, 3)), ("small", Sizes(3, 2))):
        (tmp_path / name).mkdir()
        for file, content in files_of("pair", make_policy(sizes)).items():
            (tmp_path / name / file).write_bytes(content)
    text = BOTH.replace(
        ONE, ONE.replace("field: data", "field: data, size: 1").replace("Float64,", "Float64MultiArray,")
    )
    said = [(at, topic, numbers([what.data]) if topic == GRIPPER else what) for at, topic, what in together(6)]
    assert convert(tmp_path, said, text, bundle=tmp_path / "right").arrays["actions"].shape == (5, 3)
    wide = text.replace("size: 1", "size: 2")
    with pytest.raises(ValueError, match=r"robot.yaml: the actions take \? \+ 2 elements, expected the bundle's 2"):
        convert(tmp_path, said, wide, bundle=tmp_path / "small")
    # The arm has no size of its own: what the gripper leaves of the bundle's is its own, and it sends more.
    with pytest.raises(ValueError, match=r"wrongly sized input: /command has 2 elements, expected 1"):
        convert(tmp_path, said, text, bundle=tmp_path / "small")
