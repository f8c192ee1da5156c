"""What becomes of a recording: steps, episodes and where they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export.bags.conversion import BagOptions, recording_of_bag
from rosbags.rosbag2 import StoragePlugin
from written_bags import (
    COMMAND,
    CONTRACT,
    JOINTS,
    PERIOD_S,
    REWARD,
    SPEED,
    Said,
    boolean,
    clock,
    drive,
    empty,
    joints,
    number,
    numbers,
    twist,
    without,
    write_bag,
)

from dipole_sb3.recording.recording_files import Recording

FLAT = "-observation[0]"


def convert(
    folder: Path, said: list[Said], text: str = CONTRACT, reward: str = REWARD, storage: Any = None, **options: Any
) -> Recording:
    """The recording of what was said, in a folder of its own."""
    number_of = len(list(folder.iterdir()))
    contract = folder / f"contract{number_of}.yaml"
    contract.write_text(text)
    bag = write_bag(folder / f"bag{number_of}", said, storage or StoragePlugin.MCAP, 9 if storage is None else 8)
    return recording_of_bag(bag, contract, BagOptions(reward=reward, **options))


def episodes(recording: Recording) -> list[list[float]]:
    """What the steps' numbers are (see ``drive``), episode by episode."""
    found: list[list[float]] = [[]]
    for observation, end in zip(recording.arrays["observations"], recording.arrays["terminals"], strict=True):
        found[-1].append(float(observation[0]))
        if end:
            found.append([])
    assert found.pop() == [], "the last row ends an episode"
    return found


def test_every_key_of_a_plain_drive(tmp_path: Path) -> None:
    recording = convert(tmp_path, drive(4))
    arrays = recording.arrays
    # The command of step k answers observation k; its consequence is observation k + 1, and reward k + 1 came with it.
    expected = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(arrays["observations"], np.stack([expected, expected + 0.25, expected + 0.5], 1)[:3])
    np.testing.assert_array_equal(arrays["next_observations"], arrays["observations"] + 1)
    np.testing.assert_array_equal(arrays["actions"], np.stack([expected, -expected], 1)[:3] * np.float32(0.001))
    np.testing.assert_array_equal(arrays["rewards"], [101.0, 102.0, 103.0])
    np.testing.assert_array_equal(arrays["terminals"], [0, 0, 1])
    np.testing.assert_array_equal(arrays["masks"], [1, 1, 1])
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert recording.provenance["episode_ends"] == {"end of the recording": 1}


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_storages_give_the_same(tmp_path: Path, storage: StoragePlugin) -> None:
    assert episodes(convert(tmp_path, drive(6), storage=storage)) == [[0, 1, 2, 3, 4]]


def test_a_missing_command_ends_the_episode_after_a_step_of_one_period(tmp_path: Path) -> None:
    said = without(drive(10), COMMAND, 0.24, 0.26)
    # A little later than one period after command 4, at 0.251 s: too late to be its consequence.
    said += [(0.26, SPEED, number(-1.0)), (0.26, REWARD, number(-1.0))]
    recording = convert(tmp_path, said)
    # Number 4's step ends with observation 5 although nothing answered that; number 5 has no command.
    assert episodes(recording) == [[0, 1, 2, 3, 4], [6, 7, 8]]
    assert recording.arrays["next_observations"][4].tolist() == [5, 5.25, 5.5]
    assert recording.arrays["rewards"][4] == 105
    assert recording.arrays["masks"].all()
    assert recording.provenance["episode_ends"] == {"no command": 1, "end of the recording": 1}


def test_nothing_is_bridged_over_a_gap(tmp_path: Path) -> None:
    said = drive(4) + drive(4, start_s=5.0, first=50)
    recording = convert(tmp_path, said)
    assert episodes(recording) == [[0, 1, 2, 3], [50, 51, 52]]
    steps = recording.arrays["next_observations"][:, 0] - recording.arrays["observations"][:, 0]
    # The first drive's last step saw nothing new: its inputs were fresh enough one period later.
    assert steps.tolist() == [1, 1, 1, 0, 1, 1, 1]


def test_stale_inputs_end_the_episode(tmp_path: Path) -> None:
    said = without(drive(20), SPEED, 0.23, 0.74)
    recording = convert(tmp_path, said, reward=FLAT)
    # Speed 4 comes at 0.2 s and may be 0.2 s old: the command at 0.4 + 0.001 s has nothing fresh any more.
    assert episodes(recording) == [[0, 1, 2, 3, 4, 5, 6], [15, 16, 17, 18]]
    assert recording.provenance["episode_ends"] == {"stale input": 1, "end of the recording": 1}
    assert recording.provenance["commands_left_out"] == {"stale input": 6}
    assert "/speed is 0.201 s old" in recording.provenance["first_problem"]


def test_old_stamps_are_stale_however_late_they_arrive(tmp_path: Path) -> None:
    said = without(drive(10), JOINTS, 0.24, 1.0)
    said += [(0.25 + PERIOD_S * index, JOINTS, joints(0.0, 1.0, 1.0)) for index in range(5)]
    said.sort(key=lambda one: (one[0], one[1] == COMMAND))
    recording = convert(tmp_path, said, reward=FLAT)
    assert episodes(recording) == [[0, 1, 2, 3]]
    assert recording.provenance["episode_ends"] == {"stale input": 1}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_end_the_episode(tmp_path: Path, wrong: float) -> None:
    said = [(at, topic, number(wrong) if topic == SPEED and at == 0.25 else message) for at, topic, message in drive(9)]
    recording = convert(tmp_path, said)
    assert episodes(recording) == [[0, 1, 2, 3], [6, 7]]
    assert all(np.isfinite(array).all() for array in recording.arrays.values())
    assert recording.provenance["episode_ends"] == {"non-finite input": 1, "end of the recording": 1}


@pytest.mark.parametrize(
    ("values", "kind"), [([float("nan"), 0.0], "non-finite input"), ([0.0], "wrongly sized input")]
)
def test_wrong_commands_end_the_episode(tmp_path: Path, values: list[float], kind: str) -> None:
    said = [(at, topic, numbers(values) if topic == COMMAND and at == 0.251 else said) for at, topic, said in drive(9)]
    recording = convert(tmp_path, said)
    # Step 4 is whole: its command was right, and what came of it was seen.
    assert episodes(recording) == [[0, 1, 2, 3, 4], [6, 7]]
    assert recording.provenance["episode_ends"] == {kind: 1, "end of the recording": 1}


def test_commands_between_the_ticks_are_left_out(tmp_path: Path) -> None:
    said = without(drive(6), COMMAND, 0.0, 9.0)
    said += [(0.001 + 0.01 * index, COMMAND, numbers([0.01 * index, 0.0])) for index in range(26)]
    recording = convert(tmp_path, said)
    np.testing.assert_allclose(recording.arrays["actions"][:, 0], [0.0, 0.05, 0.1, 0.15, 0.2], rtol=1e-6)
    assert episodes(recording) == [[0, 1, 2, 3, 4]]


def test_ticks_follow_commands_that_jitter(tmp_path: Path) -> None:
    late = [0.0, 0.012, -0.011, 0.013, -0.012, 0.01, 0.0, -0.01]
    said = without(drive(8), COMMAND, 0.0, 9.0)
    said += [(0.02 + PERIOD_S * index + late[index], COMMAND, numbers([0.001 * index, 0.0])) for index in range(8)]
    recording = convert(tmp_path, said)
    assert episodes(recording) == [[0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_allclose(recording.arrays["actions"][:, 0] * 1000, np.arange(7), rtol=1e-6)


@pytest.mark.parametrize("decoy_s", [-0.012, 0.012])
@pytest.mark.parametrize("late_s", [-0.003, 0.003])
def test_the_nearer_of_two_commands_ends_a_step(tmp_path: Path, decoy_s: float, late_s: float) -> None:
    said = without(drive(8), COMMAND, 0.0, 9.0)
    times = [0.02 + PERIOD_S * index + late_s * (index % 2) for index in range(7)]
    said += [(at, COMMAND, numbers([0.001 * index, 0.0])) for index, at in enumerate(times)]
    said += [(at + decoy_s, COMMAND, numbers([0.9, 0.0])) for at in times[1:]]
    recording = convert(tmp_path, said)
    np.testing.assert_allclose(recording.arrays["actions"][:6, 0] * 1000, np.arange(6), rtol=1e-6)


def test_commands_at_another_pace_are_refused(tmp_path: Path) -> None:
    said = without(drive(12), COMMAND, 0.0, 9.0)
    said += [(0.001 + 0.035 * index, COMMAND, numbers([0.01 * index, 0.0])) for index in range(12)]
    with pytest.raises(ValueError, match=r"steps of 0\.036. s in the mean, expected 0\.0500 s"):
        convert(tmp_path, said)


def test_slow_commands_hold_when_asked_to(tmp_path: Path) -> None:
    said = without(drive(12), COMMAND, 0.0, 9.0)
    said += [(0.001 + 0.2 * index, COMMAND, numbers([0.1 * index, 0.0])) for index in range(3)]
    recording = convert(tmp_path, said, hold_s=0.16)
    np.testing.assert_allclose(recording.arrays["actions"][:, 0], [0, 0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2], rtol=1e-6)
    assert episodes(recording) == [list(range(10))]
    alone = convert(tmp_path, said)
    assert episodes(alone) == [[0], [4], [8]]
    assert alone.provenance["episode_ends"] == {"no command": 3}


def test_a_held_command_ends(tmp_path: Path) -> None:
    said = without(drive(20), COMMAND, 0.004, 9.0)
    assert episodes(convert(tmp_path, said, hold_s=0.11)) == [[0, 1, 2]]


def test_delay_is_taken_off(tmp_path: Path) -> None:
    """Inputs keep coming while the command is computed; it does not answer those."""
    said = without(drive(8), COMMAND, 0.0, 9.0)
    said += [(0.03 + PERIOD_S * index, COMMAND, numbers([0.001 * index, 0.0])) for index in range(8)]
    said += [(0.01 + PERIOD_S * index, SPEED, number(-1.0)) for index in range(8)]
    seen = convert(tmp_path, said, delay_s=0.025).arrays["observations"][:, 2]
    np.testing.assert_array_equal(seen, np.arange(7) + 0.5)
    np.testing.assert_array_equal(convert(tmp_path, said).arrays["observations"][:, 2], -1.0)


# ---- ends that a topic tells


def test_a_terminal_stops_bootstrapping(tmp_path: Path) -> None:
    said = [*drive(9), (0.22, "/fallen", boolean(True)), (0.36, "/fallen", boolean(False))]
    recording = convert(tmp_path, said, terminal="/fallen")
    # It falls during step 4; while it lies, no episode begins.
    assert episodes(recording) == [[0, 1, 2, 3, 4]]
    assert recording.arrays["masks"].tolist() == [1, 1, 1, 1, 0]
    assert recording.arrays["rewards"][-1] == 105.0
    longer = convert(tmp_path, [*drive(12), *said[-2:]], terminal="/fallen:data")
    assert episodes(longer) == [[0, 1, 2, 3, 4], [8, 9, 10]]
    assert longer.provenance["episode_ends"] == {"terminal": 1, "end of the recording": 1}


def test_a_terminal_after_the_last_command_belongs_to_it(tmp_path: Path) -> None:
    said = without(drive(9), COMMAND, 0.24, 9.0)
    recording = convert(tmp_path, [*said, (0.26, "/done", empty())], terminal="/done")
    assert recording.arrays["masks"].tolist() == [1, 1, 1, 1, 0]
    later = convert(tmp_path, [*said, (0.29, "/done", empty())], terminal="/done")
    assert later.arrays["masks"].all()


def test_a_message_without_a_value_ends_one_episode(tmp_path: Path) -> None:
    recording = convert(tmp_path, [*drive(9), (0.22, "/done", empty())], terminal="/done")
    assert episodes(recording) == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert recording.arrays["masks"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1]


def test_the_step_that_sets_the_robot_back_is_left_out(tmp_path: Path) -> None:
    recording = convert(tmp_path, [*drive(9), (0.22, "/back", number(-3.0))], set_back="/back")
    assert episodes(recording) == [[0, 1, 2, 3], [5, 6, 7]]
    assert recording.arrays["masks"].all()
    assert recording.provenance["episode_ends"] == {"set back": 1, "end of the recording": 1}


def test_after_a_reset_only_new_inputs_count(tmp_path: Path) -> None:
    said = without(drive(9), SPEED, 0.24, 0.29)
    recording = convert(tmp_path, [*said, (0.22, "/back", empty())], set_back="/back")
    assert episodes(recording) == [[0, 1, 2, 3], [6, 7]]


# ---- rewards


def test_reward_of_a_field(tmp_path: Path) -> None:
    said = [*drive(4), *((PERIOD_S * index, "/score", twist(0.0, 7.0 + index, 0.0)) for index in range(4))]
    said.sort(key=lambda one: (one[0], one[1] == COMMAND))
    assert convert(tmp_path, said, reward="/score:twist.linear.x").arrays["rewards"].tolist() == [8, 9, 10]


def test_reward_by_expression(tmp_path: Path) -> None:
    arrays = convert(tmp_path, drive(5), reward="-(observation[2]**2) - 10*abs(action[1]) + next_observation[0]").arrays
    index = np.arange(4.0)
    np.testing.assert_allclose(arrays["rewards"], -((index + 0.5) ** 2) - 0.01 * index + index + 1, rtol=1e-6)


def test_a_reward_that_stays_away_ends_the_episode(tmp_path: Path) -> None:
    said = without(drive(12), REWARD, 0.24, 0.39)
    recording = convert(tmp_path, said)
    # Reward 4 comes at 0.2 s and counts for 0.1 s.
    assert episodes(recording) == [[0, 1, 2, 3, 4], [7, 8, 9, 10]]
    assert recording.provenance["episode_ends"] == {"reward: stale input": 2, "end of the recording": 1}
    assert episodes(convert(tmp_path, said, reward_max_age_s=1.0)) == [list(range(11))]


@pytest.mark.parametrize("text", ["1 / (observation[0] - 4)", "log(4 - observation[0])", "exp(300*observation[0])"])
def test_an_expression_without_a_value_ends_the_episode(tmp_path: Path, text: str) -> None:
    recording = convert(tmp_path, drive(8), reward=text)
    assert np.isfinite(recording.arrays["rewards"]).all()
    assert recording.provenance["episode_ends"]["reward: non-finite input"] >= 1


# ---- clocks


def test_simulated_time_is_that_of_the_clock(tmp_path: Path) -> None:
    """A simulation at a fifth of the speed: 0.25 s of the wall are a period."""
    said = [(5.0 * at, topic, message) for at, topic, message in drive(6)]
    said = [
        (at, topic, joints(-1.7e9 + at / 5.0 + PERIOD_S, 1.0, 2.0) if topic == JOINTS else what)
        for at, topic, what in said
    ]
    said += [(0.25 * index - 0.001, "/clock", clock(PERIOD_S * (index + 1))) for index in range(6)]
    recording = convert(tmp_path, said, use_sim_time=True)
    assert len(recording.arrays["rewards"]) == 5
    assert recording.provenance["step_mean_s"] == PERIOD_S
    with pytest.raises(ValueError, match="no complete step of the contract: stale input"):
        convert(tmp_path, said)


def test_a_clock_that_jumps_back_ends_the_episode(tmp_path: Path) -> None:
    # Speed 5 is lost: what was heard last comes from a time that is yet to be, and must not count as fresh.
    said = [one for one in without(drive(10), SPEED, 0.24, 0.26) if one[1] != JOINTS]
    times = [1.0 + PERIOD_S * index for index in range(5)] + [1.0 + PERIOD_S * index for index in range(5)]
    said += [(PERIOD_S * index - 0.001, "/clock", clock(now)) for index, now in enumerate(times)]
    text = CONTRACT.replace(CONTRACT.splitlines()[3] + "\n", "")
    recording = convert(tmp_path, said, text, use_sim_time=True)
    assert episodes(recording) == [[0.5, 1.5, 2.5, 3.5], [6.5, 7.5, 8.5]]
    assert recording.provenance["episode_ends"] == {"clock": 1, "end of the recording": 1}
