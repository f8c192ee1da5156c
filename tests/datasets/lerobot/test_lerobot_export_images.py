"""Images that are exported: to the bit as PNG files, nearly as videos; LeRobot itself reads them (where installed)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from commands import Command
from filled_buffers import counting, parts
from full_disk import full_disk
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dipole_sb3 import DatasetError, OfflineReplayBuffer, load_dataset, stack_frames
from dipole_sb3.buffers import image_layout
from dipole_sb3.datasets import lerobot, storage
from dipole_sb3.datasets.conversion import convert
from dipole_sb3.datasets.lerobot import encoding, exporting, layout

av = pytest.importorskip("av")

SETS = Path(__file__).parent / "sets"
FPS = 20
LENGTHS = (7, 1, 12, 4)
"""Transitions of episodes; the last one just stops."""


def shown(number: int, frame: int, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """What a camera sees: a gradient whose brightness tells the frame, and a disc that moves over it."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (x - 8 - 4 * frame) ** 2 + (y - 20 - 8 * number) ** 2 < 60
    grey = 20 + 9 * frame + 30 * number + 0.5 * x
    return np.clip(np.stack([np.where(disc, 255, grey), grey, grey + 0.4 * y], -1), 0, 255).astype(np.uint8)


def seen(channels_first: bool = False) -> dict[str, Any]:
    """Transitions with a camera, its negative, and a vector that tells episode and frame."""
    places = [(number, frame) for number, length in enumerate(LENGTHS) for frame in range(length)]
    ends = np.cumsum(LENGTHS)[:-1] - 1
    arrays = counting(len(places))
    for key, later in (("observations", 0), ("next_observations", 1)):
        images = np.array([shown(number, frame + later) for number, frame in places])
        other = np.moveaxis(255 - images, -1, 1) if channels_first else 255 - images
        state = np.array([(number, frame + later) for number, frame in places], np.float32)
        arrays[key] = {"camera": images, "images_wrist": np.ascontiguousarray(other), "state": state}
    arrays["terminals"] = np.isin(np.arange(len(places)), ends).astype(np.float32)
    arrays["masks"] = 1 - (np.arange(len(places)) == ends[0]).astype(np.float32)
    return arrays


def recorded(channels_first: bool = False) -> OfflineReplayBuffer:
    return OfflineReplayBuffer.from_arrays(seen(channels_first), device="cpu", metadata={"env_id": "Mine-v0"})


@st.composite
def images(draw: st.DrawFn) -> dict[str, Any]:
    """Images of one size or several, in colour or grey, channels first or last, with and without vectors."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length, sides, channels = draw(st.integers(1, 30)), st.integers(4, 9), st.sampled_from([1, 3])

    def shape() -> tuple[int, ...]:
        size = (draw(sides), draw(sides))
        return (draw(channels), *size) if draw(st.booleans()) else (*size, draw(channels))

    kind = draw(st.sampled_from(["alone", "one key", "many"]))
    shapes = {"camera/left": shape()} if kind != "many" else {"camera/left": shape(), "images_b": shape()}

    def observations() -> Any:
        found = {key: random.integers(0, 256, (length, *shape), np.uint8) for key, shape in shapes.items()}
        if kind == "alone":
            return found["camera/left"]
        more = {"ram": random.integers(0, 256, (length, 5), np.uint8), "joints": random.normal(size=(length, 2))}
        return found if kind == "one key" else {**found, **more}

    return {
        "observations": observations(),
        "next_observations": observations(),
        "actions": random.uniform(-1, 1, (length, 2)).astype(np.float32),
        "rewards": random.normal(size=length).astype(np.float32),
        "terminals": (random.random(length) < 0.3).astype(np.float32),
        "masks": (random.random(length) < 0.7).astype(np.float32),
    }


@settings(max_examples=12, deadline=None)
@given(images(), st.integers(1, 4000), st.sampled_from([50, 2**20]))
def test_png_files_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], file_bytes: int, block_bytes: int
) -> None:
    """In one file or many, a transition or many at a time."""
    folder = tmp_path_factory.mktemp("export")
    buffer = OfflineReplayBuffer.from_arrays(arrays, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_FILE_BYTES", file_bytes)
        patch.setattr(layout, "FILES_IN_A_FOLDER", 3)
        patch.setattr(image_layout, "BLOCK_BYTES", block_bytes)
        lerobot.export(buffer, folder / "set", fps=12.5, use_videos=False)
    again = load_dataset(folder / "set", device="cpu")
    assert again.observation_space == buffer.observation_space
    assert again.checksum == buffer.checksum
    assert not (folder / "set/videos").exists()


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("limit", ["none", "bytes", "time"])
def test_videos_show_each_frame_at_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels_first: bool, limit: str
) -> None:
    """In one file or several, read frame by frame: nearer to what was recorded than to any other frame."""
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", 150_000)
    monkeypatch.setattr(layout, "FILES_IN_A_FOLDER", 2)
    if limit == "bytes":
        monkeypatch.setattr(encoding, "VIDEO_BYTES", 0)
    if limit == "time":
        monkeypatch.setattr(encoding, "_SECONDS", 15 / FPS)
    buffer = recorded(channels_first)
    lerobot.export(buffer, tmp_path / "set", fps=FPS)
    files = sorted(file.name for file in (tmp_path / "set/videos/observation.images.camera").rglob("*.mp4"))
    assert len(files) == {"none": 1, "bytes": 4, "time": 3}[limit]
    again = load_dataset(tmp_path / "set", device="cpu")
    assert again.observation_space == buffer.observation_space
    every = [shown(number, frame).astype(float) for number, length in enumerate(LENGTHS) for frame in range(length + 1)]
    for key in ("observations", "next_observations"):
        found, expected = parts(getattr(again, key)), parts(getattr(buffer, key))
        np.testing.assert_array_equal(found["state"], expected["state"])
        for camera in ("camera", "images_wrist"):
            difference = np.abs(found[camera].astype(int) - expected[camera])
            assert difference.mean() < 3
            assert difference.mean(axis=(2, 3, 4)).max() < 4
        for image, right in zip(found["camera"][:, 0], expected["camera"][:, 0], strict=True):
            image, right = (np.moveaxis(each, 0, -1) if each.shape[0] == 3 else each for each in (image, right))
            distances = [np.abs(other - image).mean() for other in every]
            np.testing.assert_array_equal(every[int(np.argmin(distances))], right)
    for key in ("actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(again, key), getattr(buffer, key))
    convert(tmp_path / "set", tmp_path / "stored")
    assert load_dataset(tmp_path / "stored").checksum == again.checksum
    small = load_dataset(tmp_path / "set", device="cpu", image_size=(16, 20))
    assert isinstance(small.observation_space, spaces.Dict)
    assert small.observation_space["images_wrist"].shape == ((3, 16, 20) if channels_first else (16, 20, 3))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux")
def test_the_encoder_leaves_priorities_as_they_were(tmp_path: Path) -> None:
    """Started by root, it makes itself and its caller real-time, before everything else on the machine."""
    program = """
import os
from pathlib import Path
import numpy as np
from dipole_sb3.datasets.lerobot import encoding

def policies():
    return {os.sched_getscheduler(int(path.name)) for path in Path("/proc/self/task").iterdir()}

videos = encoding.Videos(Path("."), "front", (16, 16, 3), 10.0)
before = policies()
videos.begin(40)
videos.add(np.zeros((40, 16, 16, 3), np.uint8))
while_encoding = policies()
videos.finish()
print(before == while_encoding == policies() == {os.SCHED_OTHER})
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "True\n", run.stderr


def test_an_episode_longer_than_float32_tells_times(tmp_path: Path) -> None:
    """After 2,048 seconds timestamps, which LeRobot keeps in float32, are more than its tolerance beside the frames."""
    fps = 0.07
    arrays = counting(200)
    frames = np.array([np.full((16, 16, 3), row, np.uint8) for row in range(201)])
    arrays["observations"], arrays["next_observations"] = frames[:-1], frames[1:]
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "set", fps=fps)
    times = pyarrow.parquet.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")["timestamp"].to_numpy()
    assert np.abs(times - np.arange(201) / fps).max() > 1e-4
    again = load_dataset(tmp_path / "set", device="cpu")
    assert np.abs(np.asarray(again.observations)[:, 0].astype(int) - frames[:-1].reshape(200, 16, 16, 3)).max() <= 2


def test_what_is_told_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", 100_000)  # episodes in several parts
    arrays = seen()
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "set", fps=FPS)
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "png", fps=FPS, use_videos=False)
    for name, dtype in (("set", "video"), ("png", "image")):
        info = json.loads((tmp_path / name / "meta/info.json").read_text())
        feature = info["features"]["observation.images.camera"]
        assert (feature["dtype"], feature["shape"], feature["names"]) == (dtype, [64, 80, 3], layout.IMAGE_AXES)
        assert info["video_path"] == (layout.VIDEO if dtype == "video" else None)
    kept = pyarrow.parquet.read_table(tmp_path / "png/data/chunk-000/file-000.parquet")
    rows = kept["observation.images.wrist"].to_pylist()
    assert [row["path"] for row in rows[:9]] == [f"frame-{frame:06d}.png" for frame in (*range(8), 0)]
    with Image.open(io.BytesIO(rows[8]["bytes"])) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), 255 - shown(1, 0))
    frames = [[shown(number, frame) / 255 for frame in range(length + 1)] for number, length in enumerate(LENGTHS)]
    table = pyarrow.parquet.read_table(tmp_path / "set" / layout.EPISODES)
    episode = {
        key: table[f"stats/observation.images.camera/{key}"].to_pylist()[2] for key in ("min", "max", "mean", "std")
    }
    whole = json.loads((tmp_path / "set/meta/stats.json").read_text())["observation.images.camera"]
    for told, pixels in ((episode, np.array(frames[2])), (whole, np.concatenate(frames))):
        for key in ("min", "max", "mean", "std"):
            expected = getattr(np, key)(pixels, axis=(0, 1, 2)).reshape(3, 1, 1)
            np.testing.assert_allclose(told[key], expected, rtol=1e-9, err_msg=key)
    assert whole["count"] == [sum(LENGTHS) + len(LENGTHS)]
    assert table["stats/observation.state/max"].to_pylist()[2] == [2, 12]
    ends = np.cumsum([length + 1 for length in LENGTHS]) / FPS
    np.testing.assert_allclose(table["videos/observation.images.camera/to_timestamp"].to_numpy(), ends)


def refused(tmp_path: Path, observations: np.ndarray, message: str, fps: float = 5, **options: Any) -> None:
    arrays = counting(len(observations))
    arrays["observations"] = arrays["next_observations"] = observations
    with pytest.raises(DatasetError, match=message) as caught:
        lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "a", fps=fps, **options)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_images_that_no_video_or_no_set_takes(tmp_path: Path) -> None:
    refused(tmp_path, np.zeros((4, 9, 9, 1), np.uint8), "images have one channel, expected 3 for a video; use_videos=F")
    refused(
        tmp_path, np.zeros((4, 9, 3, 3), np.uint8), "images have 9×3 pixels, expected at least 4×4$", use_videos=False
    )
    refused(tmp_path, np.zeros((4, 9, 9, 3), np.uint8), "come 241 times a second, expected at most 240", fps=241)
    for channels in (2, 4, 12):
        many = np.zeros((4, 20, 20, channels), np.uint8)
        refused(tmp_path, many, f"images have {channels} channels, expected 1 or 3 channels of one", use_videos=False)
    arrays = counting(4)
    arrays["observations"] = arrays["next_observations"] = np.zeros((4, 9, 9, 1), np.uint8)
    stacked = stack_frames(OfflineReplayBuffer.from_arrays(arrays), 3)
    with pytest.raises(DatasetError, match="images are stacks of 3 frames, expected 1 or 3 channels of one frame"):
        lerobot.export(stacked, tmp_path / "a", fps=5, use_videos=False)


@pytest.mark.parametrize("use_videos", [True, False])
def test_a_full_disk_and_an_interruption_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_videos: bool
) -> None:
    """Wherever it happens: in the first frames, or as the last file is finished."""
    buffer = recorded()
    monkeypatch.setattr(image_layout, "BLOCK_BYTES", 100_000)
    lerobot.export(buffer, tmp_path / "whole", fps=FPS, use_videos=use_videos)
    largest = max(file.stat().st_size for file in (tmp_path / "whole").rglob("*.*") if file.is_file())
    for limit in (10, largest // 2, largest - 1):
        with full_disk(limit), pytest.raises(OSError, match="too large"):
            lerobot.export(buffer, tmp_path / "a", fps=FPS, use_videos=use_videos)
        assert os.listdir(tmp_path) == ["whole"]
    given, interrupted = exporting.pieces, []

    def stopping(source: OfflineReplayBuffer) -> Iterator[Any]:
        for number, piece in enumerate(given(source)):
            if number == 3 and len(interrupted) == use_videos:  # the first pass counts frames
                raise KeyboardInterrupt
            yield piece
        interrupted.append(True)

    monkeypatch.setattr(exporting, "pieces", stopping)
    with pytest.raises(KeyboardInterrupt):
        lerobot.export(buffer, tmp_path / "a", fps=FPS, use_videos=use_videos)
    assert os.listdir(tmp_path) == ["whole"]


def test_the_command_exports_images(dipole: Command) -> None:
    named = ("--observations", "observation.state", "observation.images.front", "observation.images.wrist")
    assert dipole("data", "convert", str(SETS / "v3.0"), "stored", *named)[0] == 0
    assert dipole("data", "convert", "stored", "lossless", "--to", "lerobot", "--no-videos")[0] == 0
    assert load_dataset("lossless").checksum == load_dataset("stored").checksum
    assert dipole("data", "convert", "stored", "lossy", "--to", "lerobot")[0] == 0
    assert len(list(Path("lossy/videos").rglob("*.mp4"))) == 2
    assert dipole("data", "check", "lossy")[0] == 0
    with pytest.raises(ValueError, match="use_videos is False, which is for LeRobot alone"):
        convert("stored", "other", use_videos=False)


MEMORY = """
import pathlib, sys
from dipole_sb3 import load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.datasets import lerobot
import av, PIL.Image, pyarrow.parquet
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
image_layout.BLOCK_BYTES = 2 * 2**20
buffer = load_dataset(sys.argv[1], device="cpu")
before = peak()
lerobot.export(buffer, pathlib.Path(sys.argv[2]), fps=30, use_videos=sys.argv[3] == "videos")
print(peak() - before)
"""


def test_an_episode_of_any_length_passes_through_a_part_of_it(tmp_path: Path) -> None:
    space, rows = spaces.Box(0, 255, (240, 320, 3), np.uint8), 100
    facts: tuple[Any, ...] = (space, spaces.Box(-1, 1, (1,)), {})
    with storage.DatasetWriter(tmp_path / "stored", *facts, False, source="made") as writer:
        for start in range(0, 4 * rows, rows):
            frames = np.array([np.full(space.shape, row % 256, np.uint8) for row in range(start, start + rows + 1)])
            block = counting(rows)
            writer.append({**block, "observations": frames[:-1], "next_observations": frames[1:]})
    command = [sys.executable, "-c", MEMORY, tmp_path / "stored", tmp_path / "out"]
    run = subprocess.run([*command, "images"], capture_output=True, text=True, check=True)
    assert sum(file.stat().st_size for file in (tmp_path / "stored").iterdir()) / 2**20 > 85
    assert float(run.stdout) < 85


@pytest.mark.parametrize("use_videos", [True, False])
def test_lerobot_reads_images(tmp_path: Path, use_videos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real LeRobotDataset, frame by frame."""
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    tools = pytest.importorskip("lerobot.datasets.dataset_tools")
    monkeypatch.setattr(encoding, "_SECONDS", 15 / FPS)
    arrays = seen()
    lerobot.export(OfflineReplayBuffer.from_arrays(arrays), tmp_path / "set", fps=FPS, use_videos=use_videos)
    data = module.LeRobotDataset("test/set", root=tmp_path / "set")
    assert data.meta.video_keys == (["observation.images.camera", "observation.images.wrist"] if use_videos else [])
    assert data.meta.camera_keys == ["observation.images.camera", "observation.images.wrist"]
    row = 0
    for number, length in enumerate(LENGTHS):
        for frame in range(length + 1):
            found = data[row]
            assert (found["episode_index"].item(), found["observation.state"].tolist()) == (number, [number, frame])
            assert abs(found["timestamp"].item() - frame / FPS) < 1e-5
            for key, expected in (("camera", shown(number, frame)), ("wrist", 255 - shown(number, frame))):
                image = found[f"observation.images.{key}"]
                assert image.shape == (3, 64, 80)
                difference = np.abs(255 * np.moveaxis(image.numpy(), 0, -1) - expected)
                assert difference.mean() < (4 if use_videos else 1e-4)
            row += 1
    assert len(data) == row
    stacks = {"observation.images.camera": [-0.1, -0.05, 0.0]}
    windows = module.LeRobotDataset("test/set", root=tmp_path / "set", delta_timestamps=stacks)
    found = windows[LENGTHS[0] + 1 + 2 + 5]["observation.images.camera"]
    for image, frame in zip(found, (3, 4, 5), strict=True):
        assert np.abs(255 * np.moveaxis(image.numpy(), 0, -1) - shown(2, frame)).mean() < 4
    assert data.meta.stats["observation.images.camera"]["mean"].shape == (3, 1, 1)
    # LeRobot's own tool cuts the files anew, and adds up what is told of the episodes that stay.
    kept = tools.delete_episodes(data, [1], output_dir=tmp_path / "kept", repo_id="test/kept")
    assert (kept.meta.total_episodes, len(kept)) == (len(LENGTHS) - 1, row - 2)
    difference = 255 * np.moveaxis(kept[LENGTHS[0] + 1]["observation.images.camera"].numpy(), 0, -1) - shown(2, 0)
    assert np.abs(difference).mean() < 4
