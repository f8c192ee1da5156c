"""Cameras in the contract of an ordinary policy: crops, stacks, depth, and what stops the robot. Without ROS."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cars import CONTRACT as CAR
from cars import image
from dipole_policy import cli
from dipole_policy.errors import ContractError, InputError, Kind
from dipole_policy.holder import Fitting, Loaded, PolicyOptions
from dipole_policy.observation import Inputs
from dipole_runtime.pictures import PictureSpec
from pictured import ALONE, CONTRACT, DEPTH, FRONT, HEIGHT, WIDTH, bundle_in, deep_image
from robots import contract, describe, joint_state, replaced

NS = 1_000_000_000
PERIOD = NS // 10
RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 256, (40, HEIGHT, WIDTH, 3), np.uint8)
DEEP = CONTRACT.replace(
    "key: front, stack: 3, max_age_s: 0.65}", "key: depth, range: [100, 3000], max_age_s: 0.6, frozen_after_s: 0.5}"
)
ONE = """
rate_hz: 10
observation:
  - {topic: camera, type: sensor_msgs/msg/Image, max_age_s: 0.6}
action: {topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


class Robot:
    """Inputs of a contract, and the observation that a bundle would get."""

    def __init__(self, text: str = CONTRACT, pictures: Any = (FRONT,), joints: int = 2) -> None:
        self.fitting = Fitting(contract(text), describe, PolicyOptions())
        with TemporaryDirectory() as folder:
            self.loaded: Loaded = self.fitting.load(str(bundle_in(Path(folder), pictures, joints)))
        self.inputs = Inputs(self.fitting.input_readers)
        self.now_ns = 100 * NS

    def see(self, message: Any, after_ns: int = PERIOD, hears: bool = True) -> Any:
        """The observation a while later, with a new message of the camera; None: there is none."""
        self.now_ns += after_ns
        if message is not None:
            self.inputs.receive("camera", message, self.now_ns)
        if hears and "joint_states" in self.inputs.topics:
            self.inputs.receive("joint_states", joint_state({"elbow": 0.1, "wrist": 0.2}), self.now_ns)
        return self.loaded.layout.arrange(self.loaded.layout.build(self.inputs.snapshot(), self.now_ns))

    def refusal(self, message: Any, after_ns: int = PERIOD, hears: bool = True) -> tuple[Kind, str]:
        with pytest.raises(InputError) as raised:
            self.see(message, after_ns, hears)
        return raised.value.cause.kind, raised.value.cause.detail


def stack(*frames: Any) -> Any:
    return np.concatenate(frames, axis=2)


class TestObservation:
    def test_pictures_beside_numbers(self) -> None:
        robot = Robot()
        found = robot.see(image(FRAMES[0], padding=3))
        assert found.keys() == {"front", "joints"}
        np.testing.assert_allclose(found["joints"], [0.1, 0.2])
        decision = robot.loaded.decide(robot.loaded.layout.build(robot.inputs.snapshot(), robot.now_ns), 0.5, (1.0,))
        assert [one.omega for one in decision] == [0.5, 1.0]

    def test_a_picture_that_is_all(self) -> None:
        robot = Robot(ONE, (ALONE,), 0)
        message = image(FRAMES[0])
        message.data = np.frombuffer(message.data, np.uint8)
        found = robot.see(message)
        assert np.array_equal(found, FRAMES[0])
        assert np.shares_memory(found, message.data), "rgb8 without gaps is a view"
        assert np.array_equal(robot.see(image(FRAMES[1][:, :, ::-1], "bgr8")), FRAMES[1])

    def test_a_crop_is_cut_out_first(self) -> None:
        text = replaced("stack: 3", "stack: 3, crop: {left: 5, top: 2, width: 8, height: 6}", CONTRACT)
        robot = Robot(text)
        large = RANDOM.integers(0, 256, (8, 13, 3), np.uint8)
        found = robot.see(image(large))["front"]
        assert np.array_equal(found[:, :, :3], large[2:8, 5:13])
        kind, detail = robot.refusal(image(large[:, 1:]))
        assert kind is Kind.WRONG_SIZE
        assert detail == "camera is 12 × 8 pixels, expected at least 13 × 8 for its crop"

    def test_two_cameras_in_the_bundles_order(self) -> None:
        second = "{topic: wrist, type: sensor_msgs/msg/Image, key: wrist, max_age_s: 0.6}\n  - topic: joint_states"
        text = replaced("topic: joint_states", second, CONTRACT)
        robot = Robot(text, (PictureSpec("wrist", HEIGHT, WIDTH, 1), FRONT))
        robot.inputs.receive("wrist", image(FRAMES[1, :, :, 0], "mono8"), robot.now_ns)
        found = robot.see(image(FRAMES[0]))
        assert np.array_equal(found["wrist"], FRAMES[1, :, :, :1])
        assert np.array_equal(found["front"], stack(*FRAMES[[0, 0, 0]]))


class TestStack:
    def test_frames_of_the_periods_oldest_first(self) -> None:
        robot = Robot()
        jitter = [0, 7, -30, 20, -45, 49]
        for at, late in enumerate(jitter):
            found = robot.see(image(FRAMES[at]), PERIOD + late * PERIOD // 100)["front"]
            assert np.array_equal(found, stack(*FRAMES[[max(at - 2, 0), max(at - 1, 0), at]])), at

    def test_a_slow_camera_shows_the_same_frame_again(self) -> None:
        robot = Robot()
        robot.see(image(FRAMES[0]))
        robot.see(None)
        assert np.array_equal(robot.see(image(FRAMES[1]))["front"], stack(*FRAMES[[0, 0, 1]]))

    @pytest.mark.parametrize("after", [1.6, 0.4, -1.0])
    def test_a_gap_begins_it_anew(self, after: float) -> None:
        robot = Robot()
        for at in range(3):
            robot.see(image(FRAMES[at]))
        found = robot.see(image(FRAMES[3]), round(after * PERIOD))["front"]
        assert np.array_equal(found, stack(*FRAMES[[3, 3, 3]]))

    def test_a_stop_for_another_input_begins_it_anew(self) -> None:
        robot = Robot()
        for at in range(3):
            robot.see(image(FRAMES[at]))
        robot.inputs.receive("joint_states", joint_state({"elbow": float("nan"), "wrist": 0.2}), robot.now_ns)
        assert robot.refusal(image(FRAMES[3]), hears=False)[0] is Kind.NON_FINITE
        assert np.array_equal(robot.see(image(FRAMES[4]))["front"], stack(*FRAMES[[4, 4, 4]]))
        assert np.array_equal(robot.see(image(FRAMES[5]))["front"], stack(*FRAMES[[4, 4, 5]]))

    def test_an_activation_begins_it_anew(self) -> None:
        """Also one so quick that no period is missed."""
        robot = Robot()
        for at in range(3):
            robot.see(image(FRAMES[at]))
        robot.inputs.forget(robot.now_ns + PERIOD // 2)
        assert np.array_equal(robot.see(image(FRAMES[3]))["front"], stack(*FRAMES[[3, 3, 3]]))
        assert np.array_equal(robot.see(image(FRAMES[4]))["front"], stack(*FRAMES[[3, 3, 4]]))

    def test_another_bundle_takes_it_over(self, tmp_path: Path) -> None:
        robot = Robot()
        for at in range(3):
            robot.see(image(FRAMES[at]))
        robot.loaded = robot.fitting.load(str(bundle_in(tmp_path, (FRONT,), 2, seed=1)))
        assert np.array_equal(robot.see(image(FRAMES[3]))["front"], stack(*FRAMES[[1, 2, 3]]))

    def test_memory_is_that_of_the_stack(self) -> None:
        size = (240, 320)
        text = replaced("stack: 3", "stack: 3, frozen_after_s: 1.0", CONTRACT)
        robot = Robot(text, (PictureSpec("front", *size, 9),))
        many = RANDOM.integers(0, 256, (*size, 3), np.uint8)
        for _ in range(5):
            robot.see(image(many))
        tracemalloc.start()
        try:
            begin = tracemalloc.get_traced_memory()[0]
            for at in range(200):
                many[at] += 1
                robot.see(image(many))
            grown = tracemalloc.get_traced_memory()[0] - begin
        finally:
            tracemalloc.stop()
        # 200 of them are 46 MB; what was there before tracing began does not count as freed.
        assert grown < 6 * many.nbytes


class TestDepth:
    @pytest.mark.parametrize("big", [False, True])
    @pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
    def test_the_range_becomes_1_to_255(self, encoding: str, big: bool) -> None:
        robot = Robot(DEEP, (DEPTH,))
        values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
        values[0] = [0, 1, 99, 100, 101, 1550, 3000, 3001]
        found = robot.see(deep_image(values, encoding, padding=3, big=big))["depth"]
        clamped = np.clip(values.astype(float), 100, 3000)
        expected = np.where(values == 0, 0, np.rint(1 + 254 * (clamped - 100) / 2900))
        assert found.tolist() == expected[:, :, None].tolist()
        assert found[0, :, 0].tolist() == [0, 1, 1, 1, 1, 128, 255, 255]

    def test_bits_that_the_contract_does_not_expect(self) -> None:
        robot = Robot(DEEP, (DEPTH,))
        found = robot.refusal(image(FRAMES[0, :, :, 0], "mono8"))
        assert found == (Kind.WRONG_SIZE, "camera has 8 bits a pixel, expected 16: the contract gives a range")
        robot = Robot(DEEP.replace("range: [100, 3000], ", ""), (DEPTH,))
        assert (
            "expected 8 bits, or range: [low, high] in the contract" in robot.refusal(deep_image(FRAMES[0, :, :, 0]))[1]
        )


class TestStops:
    def test_pictures_that_the_bundle_does_not_take(self) -> None:
        robot = Robot()
        robot.see(image(FRAMES[0]))
        for message, words in (
            (image(FRAMES[1][:, 1:]), "camera is 7 × 6 pixels, expected the bundle's 8 × 6"),
            (image(FRAMES[1, :, :, 0], "mono8"), "camera is grey, but the bundle takes colours"),
            (image(FRAMES[1], "rgb16"), "camera is encoded as 'rgb16', expected rgb8, bgr8, mono8"),
            (SimpleNamespace(**{**vars(image(FRAMES[1])), "data": b"12"}), "camera has 2 bytes in rows of 24"),
        ):
            kind, detail = robot.refusal(message)
            assert (kind, words in detail) == (Kind.WRONG_SIZE, True), detail
        assert robot.see(image(FRAMES[2]))
        alone = Robot(ONE, (PictureSpec(None, HEIGHT, WIDTH, 1),), 0)
        words = "camera is a colour camera, but the bundle takes one channel (grey or depth)"
        assert alone.refusal(image(FRAMES[0])) == (Kind.WRONG_SIZE, words)

    def test_a_camera_that_falls_silent_or_slows_down(self) -> None:
        robot = Robot()
        assert robot.refusal(None) == (Kind.MISSING, "nothing has arrived on camera")
        robot.see(image(FRAMES[0]))
        for _ in range(6):
            robot.see(None)
        assert robot.refusal(None) == (Kind.STALE, "camera is 0.700 s old, expected at most 0.65 s")
        robot.see(image(FRAMES[1]))

    def test_the_same_stamp_again_and_again_is_stale(self) -> None:
        """A driver that hangs and goes on publishing, with new pixels or not."""
        robot = Robot()
        for at in range(8):
            message = image(FRAMES[at])
            message.header.stamp = SimpleNamespace(sec=100, nanosec=0)
            if at < 6:
                robot.see(message)
        assert robot.refusal(message) == (Kind.STALE, "camera is 0.700 s old, expected at most 0.65 s")

    @pytest.mark.parametrize(
        ("same", "what"),
        [(FRAMES[0], "shows the same picture"), (FRAMES[0] * 0, "is of one colour")],
        ids=["still", "black"],
    )
    def test_a_camera_that_sees_nothing_new(self, same: Any, what: str) -> None:
        robot = Robot(replaced("stack: 3", "stack: 3, frozen_after_s: 0.45", CONTRACT))
        robot.see(image(FRAMES[1]))
        robot.see(image(same))
        # From the last picture on that showed something: the still one itself, or the one before the black one.
        good = 4 if what.startswith("shows") else 3
        for _ in range(good):
            robot.see(image(same))
        words = f"camera {what} for 0.500 s, expected a change within 0.45 s (frozen_after_s)"
        assert robot.refusal(image(same)) == (Kind.BLIND, words)
        assert robot.refusal(image(same))[0] is Kind.BLIND
        robot.see(image(FRAMES[2]))

    def test_black_pictures_that_flicker_show_nothing(self) -> None:
        robot = Robot(replaced("stack: 3", "stack: 3, frozen_after_s: 0.25", CONTRACT))
        for level in (0, 1, 0):
            robot.see(image(np.full((HEIGHT, WIDTH, 3), level)))
        assert robot.refusal(image(np.full((HEIGHT, WIDTH, 3), 1)))[1].startswith("camera is of one colour for 0.300 s")

    def test_depth_is_compared_with_all_its_bits(self) -> None:
        robot = Robot(DEEP, (DEPTH,))
        values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) + 1000
        for at in range(12):
            values[0, 0] = 1990 + at % 2
            first = robot.see(deep_image(values))["depth"][0, 0, 0]
        assert first == 1 + round(254 * 1890 / 2900) == 1 + round(254 * 1891 / 2900), "the noise is gone in eight bits"

    def test_a_slow_camera_is_not_frozen(self) -> None:
        """Silence is what max_age_s is for."""
        robot = Robot(replaced("stack: 3", "stack: 3, frozen_after_s: 0.15", CONTRACT))
        for at in range(20):
            robot.see(image(FRAMES[at]) if at % 4 == 0 else None)

    def test_who_does_not_ask_may_stand_still(self) -> None:
        robot = Robot()
        for _ in range(100):
            robot.see(image(FRAMES[0] * 0))

    def test_an_activation_gives_it_time(self) -> None:
        robot = Robot(replaced("stack: 3", "stack: 3, frozen_after_s: 0.45", CONTRACT))
        robot.see(image(FRAMES[0]))
        for _ in range(4):
            robot.see(image(FRAMES[0]))
        robot.inputs.forget(robot.now_ns)
        for _ in range(4):
            robot.see(image(FRAMES[0]))
        assert robot.refusal(image(FRAMES[0]))[0] is Kind.BLIND

    def test_a_clock_that_goes_back_hides_no_dead_camera(self) -> None:
        robot = Robot(replaced("stack: 3", "stack: 3, frozen_after_s: 0.45", CONTRACT))
        robot.see(image(FRAMES[0]))
        robot.now_ns -= 50 * PERIOD
        robot.inputs.forget(robot.now_ns)
        for _ in range(4):
            robot.see(image(FRAMES[0]))
        assert robot.refusal(image(FRAMES[0]))[0] is Kind.BLIND


class TestContracts:
    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("stack: 3", "stack: 0", "observation[0].stack is 0, expected a whole number from 1 to 64"),
            ("stack: 3", "stack: 3, field: data", "observation[0] has the unknown key 'field'"),
            ("stack: 3", "function: cos", "observation[0].function is cos, expected none: camera gives pictures"),
            ("stack: 3", "crop: {left: 1}", "observation[0].crop has no top, expected one"),
            (
                "stack: 3",
                "crop: {left: -1, top: 0, width: 1, height: 1}",
                "observation[0].crop.left is -1, expected a",
            ),
            ("stack: 3", "crop: {left: 0, top: 0, width: 1, height: 0}", "observation[0].crop.height is 0, expected a"),
            (
                "stack: 3",
                "crop: {left: 0, top: 0, width: 1, height: 1, x: 2}",
                "crop has the unknown key",
            ),
            (
                "stack: 3",
                "range: [5, 5]",
                "range is a list of 2, expected two whole numbers from 0 to 65535, the",
            ),
            ("stack: 3", "range: [0.5, 5]", "expected two whole numbers from 0 to 65535, the lower one first"),
            ("stack: 3", "frozen_after_s: 0", "observation[0].frozen_after_s is 0, expected a number from 0.001 to"),
            ("key: joints", "key: front", "observation[1].key is front, which a picture has: expected another"),
            ("key: front, ", "", "observation[0] has no key, expected one: other entries have theirs"),
            ("key: joints", "stack: 3", "observation[1] has the unknown key 'stack'"),
        ],
        ids=str,
    )
    def test_what_is_no_contract(self, old: str, new: str, words: str) -> None:
        with pytest.raises(ContractError) as raised:
            contract(replaced(old, new, CONTRACT))
        assert words in str(raised.value)

    def test_several_entries_need_keys(self) -> None:
        with pytest.raises(ContractError, match="a picture and other entries without a key, expected a key for each"):
            contract(CONTRACT.replace("key: front, ", "").replace("    key: joints\n", ""))

    @pytest.mark.parametrize(
        ("old", "new", "pictures", "words"),
        [
            (
                "stack: 3",
                "stack: 2",
                (FRONT,),
                "camera is stacked 2 times, but the bundle's picture with the key",
            ),
            ("stack: 3, ", "", (FRONT,), "has 9 channels: expected as many frames of 1 or 3 channels"),
            ("stack: 3", "stack: 3, range: [0, 9]", (FRONT,), "camera has a range, for depth of one channel"),
            ("key: front", "key: back", (FRONT,), "observation has 0 pictures with the key 'front', expected the one"),
            ("stack: 3", "stack: 3, elements: [CAM]", (FRONT,), "camera has elements, expected none"),
            ("stack: 3", "stack: 3", (FRONT, DEPTH), "observation has 0 pictures with the key 'depth'"),
            ("stack: 3", "stack: 3", (DEPTH,), "observation has 0 pictures with the key 'depth'"),
            ("stack: 3", "stack: 3", (), "camera gives pictures, of which the bundle takes none"),
            ("names: [elbow, wrist]", "names: [elbow]", (FRONT,), "expected the bundle's 2"),
        ],
    )
    def test_what_does_not_fit_the_bundle(self, old: str, new: str, pictures: Any, words: str) -> None:
        with pytest.raises(ContractError) as raised:
            Robot(replaced(old, new, CONTRACT), pictures)
        assert words in str(raised.value)

    def test_a_picture_too_many(self) -> None:
        more = "{topic: wrist, type: sensor_msgs/msg/Image, key: wrist, max_age_s: 0.6}\n  - topic: joint_states"
        with pytest.raises(ContractError, match="for the key 'wrist', expected the bundle's: front"):
            Robot(replaced("topic: joint_states", more, CONTRACT))

    def test_numbers_beside_a_picture_that_is_all(self) -> None:
        with pytest.raises(ContractError, match="joint_states gives numbers, expected pictures alone"):
            Robot(CONTRACT, (FRONT,), 0)

    @pytest.mark.parametrize("more", ["stack: 2", "range: [0, 9]"])
    def test_plans_take_neither_stacks_nor_depth(self, make_bundle: Callable[..., Path], more: str) -> None:
        text = replaced("elements: [CAM_L0]", f"elements: [CAM_L0], {more}", CAR)
        with pytest.raises(ContractError, match="left has stack or range, expected none: plans take neither"):
            Fitting(contract(text), describe, PolicyOptions()).load(str(make_bundle(form="plan")))

    def test_compressed_pictures_without_pillow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = contract(replaced("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", CONTRACT))
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ContractError, match=r"observation\[0\]: compressed pictures are decoded with Pillow"):
            Fitting(text, describe, PolicyOptions())

    def test_a_bundle_with_other_pictures_does_not_take_over(self, tmp_path: Path) -> None:
        robot = Robot()
        other = bundle_in(tmp_path, (PictureSpec("front", 9, 9, 9),), 2)
        with pytest.raises(ContractError, match="it takes other pictures, expected those that the driving one takes"):
            robot.fitting.replace(robot.loaded, str(other))


def test_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(replaced("stack: 3", "stack: 3, crop: {left: 5, top: 2, width: 8, height: 6}", CONTRACT))
    monkeypatch.setattr(cli, "describe_available", lambda: describe)
    line = "  camera sensor_msgs/msg/Image → front, a picture, cut out at 5, 2 (8 × 6), 3 frames"
    assert line in cli.checked(str(path), None)
    lines = cli.checked(str(path), str(bundle_in(tmp_path, (FRONT,), 2)))
    line = line.replace("a picture", "a picture of 8 × 6 pixels, colour")
    assert line in lines
    assert any("joint_states" in one and "→ joints, 2 elements: joint_0, joint_1" in one for one in lines)
