"""``dipole data from-bag`` as a user types it: a file to learn from, or one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dipole_export.cli import main
from rosbags.rosbag2 import StoragePlugin
from written_bags import COMMAND, CONTRACT, PERIOD_S, SPEED, boolean, drive, number, without, write_bag

from dipole_sb3 import DIPOLE, load_dataset

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a drive of 200 commands and its contract."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    (tmp_path / "robot.yaml").write_text(CONTRACT)
    write_bag(tmp_path / "drive", [*drive(200), (3.02, "/done", boolean(True)), (3.04, "/done", boolean(False))])
    return tmp_path


@pytest.fixture
def from_bag(robot: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command; gives exit status, stdout and stderr."""

    def run(
        *arguments: str, bag: str = "drive", contract: str = "robot.yaml", reward: str = "/reward"
    ) -> tuple[int, str, str]:
        capfd.readouterr()
        words = ["data", "from-bag", bag, "--contract", contract, "--reward", reward, "--out", "drive.npz", *arguments]
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        return (status, *capfd.readouterr())

    return run


def test_a_small_dipole_learns_from_the_file(robot: Path, from_bag: Command) -> None:
    status, printed, problem = from_bag("--terminal", "/done")
    assert (status, problem) == (0, "")
    assert printed.startswith("drive.npz: 199 transitions in 2 episodes, mean return ")
    buffer = load_dataset("drive.npz", device="cpu")
    assert buffer.size() == 199
    assert buffer.observations.shape == (199, 1, 3)
    assert buffer.dones.sum() == 2
    assert buffer.timeouts.sum() == 1
    assert buffer.metadata["rate_hz"] == 20
    model = DIPOLE(
        "MlpPolicy",
        dataset="drive.npz",
        policy_kwargs={"net_arch": [16]},
        batch_size=16,
        flow_steps=2,
        seed=0,
        device="cpu",
    )
    model.learn(5)
    action, _ = model.predict(np.zeros(3, np.float32))
    assert action.shape == (2,)


def test_provenance_lies_beside_it(robot: Path, from_bag: Command) -> None:
    assert from_bag("--terminal", "/done", "--action-low", "-2", "-3", "--action-high", "2")[0] == 0
    facts = json.loads((robot / "drive.json").read_text())
    assert facts["command"] == (
        "dipole data from-bag drive --contract robot.yaml --reward /reward --out drive.npz --terminal /done "
        "--action-low -2.0 -3.0 --action-high 2.0"
    )
    assert facts["contract"] == CONTRACT
    assert (facts["action_low"], facts["action_high"]) == ([-2.0, -3.0], [2.0, 2.0])
    assert (facts["bag"], facts["steps"], facts["data_episodes"]) == ("drive", 199, 2)
    assert facts["episode_ends"] == {"terminal": 1, "end of the recording": 1}
    assert len(facts["sha256"]) == 64
    space = load_dataset("drive.npz", device="cpu").action_space
    assert space.low.tolist() == [-2.0, -3.0]
    assert space.high.tolist() == [2.0, 2.0]


def test_a_reward_may_begin_like_an_option(robot: Path, from_bag: Command) -> None:
    assert from_bag(reward="-hypot(observation[0], 1)")[0] == 0


def test_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["data", "--help"], ["data", "from-bag", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        assert "from-bag" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"bag": "nothing"}, "nothing: no such recording; expected a folder of rosbag2, or an .mcap or .db3 file"),
        ({"bag": "robot.yaml"}, "robot.yaml: not a complete rosbag2 recording (Unrecognized storage format '.yaml')"),
        ({"bag": "."}, ".: not a complete rosbag2 recording"),
        ({"bag": "old.bag"}, "old.bag: a recording of ROS 1, expected one of ROS 2"),
        ({"contract": "nothing.yaml"}, "contract nothing.yaml cannot be read"),
        ({"reward": "/fun"}, "drive: has no topic /fun, expected it for the reward; it holds /command (std_msgs/msg/"),
        ({"reward": "/reward:value"}, "std_msgs/msg/Float64 has no field value, expected one of data"),
        ({"reward": "/joint_states"}, "has no field data, expected one of header, name, position, velocity, effort"),
        ({"reward": "/joint_states:position"}, "holds any number of numbers, expected one"),
        ({"reward": "/joint_states:name"}, "is an array of string, expected numbers"),
        ({"reward": "/reward:da ta"}, "field is 'da ta', expected names and dots"),
        ({"reward": "observation[7]"}, "'observation[7]' is no element: observation has the indices 0 to 2"),
        (
            {"reward": "__import__('os')"},
            "neither a topic (/name or /name:field) nor allowed: '__import__' cannot be c",
        ),
        ({"reward": "reward"}, "neither a topic (/name or /name:field) nor allowed: there is no 'reward'"),
        ({"reward": "1/0"}, "holds no complete step of the contract: reward: non-finite input (199)"),
    ],
)
def test_wrong_inputs_are_one_sentence(
    robot: Path, from_bag: Command, arguments: dict[str, str], sentence: str
) -> None:
    (robot / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    status, printed, problem = from_bag(**arguments)
    assert (status, printed) == (1, "")
    assert sentence in problem
    assert problem.startswith("dipole: ")
    assert problem.count("\n") == 1
    assert not (robot / "drive.npz").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--terminal", "/off"], "has no topic /off, expected it for the terminal; it holds /command"),
        (["--terminal", "/joint_states:position"], "the terminal: position of sensor_msgs/msg/JointState holds any"),
        (["--reset", "/off"], "has no topic /off, expected it for the reset"),
        (["--use-sim-time"], "has no topic /clock, expected it for simulated time"),
        (["--action-low", "1", "2", "3"], "the action's low has 3 numbers, expected 1 or 2, one per element"),
        (["--action-low", "2"], "action[0] has the bounds 2 and 1, expected low below high"),
        (["--action-low", "nan"], "the action's low is [nan], expected finite numbers"),
        (["--action-high", "0.1"], "action[0] goes from 0 to 0.198, expected -1 to 0.1; give the robot's bounds"),
        (["--delay", "-1"], "delay is -1.0, expected 0 to 3600 seconds"),
        (["--hold", "nan"], "hold is nan, expected 0 to 3600 seconds"),
        (["--namespace", "arm"], None),
        (["--bundle", "nothing"], "nothing"),
    ],
)
def test_wrong_options_are_one_sentence(
    robot: Path, from_bag: Command, options: list[str], sentence: str | None
) -> None:
    status, _, problem = from_bag(*options)
    assert status == (0 if sentence is None else 1)
    assert (sentence or "") in problem
    assert problem.count("\n") == (0 if sentence is None else 1)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("/speed, type: std_msgs/msg/Float64", "/speed, type: std_msgs/msg/Float32", "/speed has type std_msgs/msg/Fl"),
        ("/speed,", "/velocity,", "has no topic /velocity, expected it for the observation; it holds /command (std_"),
        ("/command,", "/cmd_vel,", "has no topic /cmd_vel, expected it for the action; it holds /command (std_msgs/"),
        (
            "field: position, names: [elbow, wrist]",
            "field: position",
            "position of sensor_msgs/msg/JointState may have",
        ),
        (
            "[elbow, wrist]",
            "[elbow, hand]",
            "no complete step of the contract: wrongly sized input (200); the first: w",
        ),
        ("field: data, max_age_s: 0.2}", "field: data, max_age_s: 0.2, size: 2}", "observation[1]: size is 2, but the"),
        ("field: data, on_stop", "field: layout.data_offset, on_stop", None),
        ("field: data, on_stop", "field: datum, on_stop", "std_msgs/msg/Float64MultiArray has no field datum, exp"),
        ("rate_hz: 20", "rate_hz: 10", None),
        ("rate_hz: 20", "rate_hz: 13", "the commands make steps of 0.09"),
    ],
)
def test_contracts_that_do_not_fit(robot: Path, from_bag: Command, old: str, new: str, sentence: str | None) -> None:
    assert old in CONTRACT
    (robot / "robot.yaml").write_text(CONTRACT.replace(old, new))
    status, _, problem = from_bag()
    assert status == (0 if sentence is None else 1), problem
    assert (sentence or "") in problem


def test_keys_make_a_dict(robot: Path, from_bag: Command) -> None:
    text = CONTRACT.replace("names: [elbow, wrist], max_age_s", "names: [elbow, wrist], key: arm, max_age_s")
    (robot / "robot.yaml").write_text(text.replace("field: data, max_age_s", "field: data, key: speed, max_age_s"))
    status, _, problem = from_bag(reward='next_observation["speed_0"] - observation["arm_1"]')
    assert status == 0, problem
    arrays = np.load(robot / "drive.npz")
    assert arrays["observations/arm"].shape == (199, 2)
    following = arrays["next_observations/speed"][:, 0]
    np.testing.assert_allclose(arrays["rewards"], following - arrays["observations/arm"][:, 1])
    assert load_dataset("drive.npz", device="cpu").size() == 199


@pytest.mark.parametrize("form", ["pair", "deterministic"])
def test_a_bundle_must_fit(robot: Path, from_bag: Command, form: str) -> None:
    from small_bundles import Sizes, files_of, make_policy

    for name, sizes in (("other", Sizes(4, 2)), ("three", Sizes(3, 3)), ("right", Sizes(3, 2))):
        (robot / name).mkdir()
        for file, content in files_of(form, make_policy(sizes)).items():
            (robot / name / file).write_bytes(content)
    assert "observation has 2 + 1 = 3 elements, expected the bundle's 4" in from_bag("--bundle", "other")[2]
    status, _, problem = from_bag("--bundle", "three")
    assert status == 1
    assert "expected" in problem
    assert from_bag("--bundle", "right")[0] == 0
    facts = json.loads((robot / "drive.json").read_text())
    assert (facts["action_low"], facts["action_high"]) == ([-1.0, -2.0], [2.0, 2.0])


def test_relative_topics_get_the_namespace(robot: Path, from_bag: Command) -> None:
    text = CONTRACT.replace("topic: /speed", "topic: ~/speed").replace("topic: /", "topic: ")
    (robot / "robot.yaml").write_text(text)
    said = [(at, topic if topic != SPEED else "/dipole_policy/speed", what) for at, topic, what in drive(20)]
    write_bag(robot / "arm", [(at, f"/left/arm{topic}", message) for at, topic, message in said])
    assert from_bag("--namespace", "/left/arm", bag="arm", reward="/left/arm/reward")[0] == 0
    assert len(np.load(robot / "drive.npz")["rewards"]) == 19


def test_damaged_recordings(robot: Path, from_bag: Command) -> None:
    write_bag(robot / "base", drive(50), StoragePlugin.SQLITE3, 8)
    (file,) = (robot / "base").glob("*.db3")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    status, _, problem = from_bag(bag="base")
    assert status == 1
    assert "base: " in problem
    assert problem.count("\n") == 1
    (mcap,) = (robot / "drive").glob("*.mcap")
    mcap.write_bytes(mcap.read_bytes()[:5000])
    status, _, problem = from_bag()
    assert status == 1
    assert problem.startswith("dipole: drive: ")
    assert problem.count("\n") == 1


def test_an_empty_action_topic_is_said(robot: Path, from_bag: Command) -> None:
    write_bag(robot / "silent", [one for one in drive(5) if one[1] != COMMAND])
    status, _, problem = from_bag(bag="silent")
    assert status == 1
    assert "silent: has no topic /command, expected it for the action" in problem


def test_without_rosbags_the_extra_is_named(robot: Path) -> None:
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rosbags":
            raise ModuleNotFoundError(f"No module named {name!r}", name="rosbags")
sys.meta_path.insert(0, Missing())
from dipole_export.cli import main
sys.exit(main(["data", "from-bag", "drive", "--contract", "robot.yaml", "--reward", "/reward", "--out", "x.npz"]))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=robot)
    assert found.returncode == 1
    assert "comes with pip install 'dipole-sb3[bags]'" in found.stderr


def test_memory_is_that_of_what_comes_out(robot: Path) -> None:
    """Forty times the sensor messages between the same commands: the same memory."""
    import tracemalloc

    from dipole_export.bags.conversion import BagOptions, recording_of_bag

    peaks = []
    for count in (1, 40):
        said = without(drive(100), SPEED, 0.0, 99.0)
        said += [(PERIOD_S / count * index, SPEED, number(0.5)) for index in range(100 * count)]
        bag = write_bag(robot / f"bag{count}", said, StoragePlugin.SQLITE3, 8)
        recording_of_bag(bag, robot / "robot.yaml", BagOptions("/reward"))  # imports and caches
        tracemalloc.start()
        recording = recording_of_bag(bag, robot / "robot.yaml", BagOptions("/reward"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(recording.arrays["rewards"]) == 99
    assert peaks[1] < 1.5 * peaks[0]
