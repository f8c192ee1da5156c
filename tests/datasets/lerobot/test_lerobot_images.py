"""Images and videos of sets that LeRobot wrote, beside independent decodes of the same files."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from commands import Command
from filled_buffers import parts
from gymnasium import spaces
from lerobot_frames import CAMERAS, FPS, LENGTHS, episode, image
from PIL import Image

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer, load_dataset
from dipole_sb3.buffers import image_layout
from dipole_sb3.datasets import lerobot
from dipole_sb3.datasets.conversion import convert
from dipole_sb3.datasets.lerobot import pictures

av = pytest.importorskip("av")

SETS = Path(__file__).parent / "sets"
WRIST, FRONT, STATE = "observation.images.wrist", "observation.images.front", "observation.state"
version = pytest.mark.parametrize("version", ["v2.1", "v3.0"])
"""Formats; the first has a file for each episode's video, the second one for all."""

KEPT = [(number, frame) for number, length in enumerate(LENGTHS) for frame in range(length - (number != 0))]
"""Episode and frame of every transition: the first episode succeeds in its last frame, the others just stop."""
THEN = [(number, min(frame + 1, LENGTHS[number] - 1)) for number, frame in KEPT]


def decoded(path: Path) -> dict[tuple[int, int], np.ndarray]:
    """The frames of the videos by episode and frame, one after another, whatever their times."""
    shown: list[np.ndarray] = []
    for file in sorted((path / "videos").rglob("*.mp4")):
        with av.open(str(file)) as container:
            shown += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    places = [(number, frame) for number, length in enumerate(LENGTHS) for frame in range(length)]
    return dict(zip(places, shown, strict=True))


@version
def test_frames_are_those_that_were_recorded(version: str) -> None:
    buffer = load_dataset(SETS / version, observations=[STATE, WRIST, FRONT], device="cpu")
    videos = decoded(SETS / version)
    assert isinstance(buffer.observation_space, spaces.Dict)
    assert buffer.observation_space["images_front"] == spaces.Box(0, 255, (64, 64, 3), np.uint8)
    for name, places in (("observations", KEPT), ("next_observations", THEN)):
        found = parts(getattr(buffer, name))
        assert sorted(found) == ["images_front", "images_wrist", "state"]
        for row, (number, frame) in enumerate(places):
            np.testing.assert_array_equal(found["images_wrist"][row, 0], image(number, frame, WRIST))  # lossless
            np.testing.assert_array_equal(found["images_front"][row, 0], videos[number, frame])
            np.testing.assert_array_equal(found["state"][row, 0], episode(number)[STATE][frame])
    # The video is lossy, but nearer to what was recorded at its time than to anything else.
    recorded = {place: image(*place, FRONT).astype(float) for place in videos}
    for place, shown in videos.items():
        assert min(recorded, key=lambda other, shown=shown: np.abs(recorded[other] - shown).mean()) == place  # type: ignore[misc]


@version
def test_an_image_alone_is_an_array_and_trains(version: str) -> None:
    buffer = load_dataset(SETS / version, observations=[WRIST], image_size=(12, 10), device="cpu")
    assert buffer.observation_space == spaces.Box(0, 255, (12, 10, 3), np.uint8)
    small = {"features_extractor_class": "impala-small", "features_extractor_kwargs": {"stack_sizes": (2,)}}
    DIPOLE("CnnPolicy", dataset=buffer, policy_kwargs={"net_arch": [8], **small}, device="cpu", batch_size=4).learn(1)


@version
@pytest.mark.parametrize("size", [(16, 24), (100, 64)])
def test_resized_as_pillow_does(version: str, size: tuple[int, int]) -> None:
    """Antialiased where images become smaller."""
    names = [WRIST, FRONT, STATE]
    found, whole = (
        parts(load_dataset(SETS / version, observations=names, device="cpu", **options).observations)
        for options in ({"image_size": size}, {})
    )
    for key in ("images_wrist", "images_front"):
        for row, pixels in enumerate(whole[key][:, 0]):
            resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(found[key][row, 0], np.asarray(resized))


@version
@pytest.mark.parametrize("block", [1, 4, 1000])
def test_converting_a_few_frames_at_a_time(
    tmp_path: Path, version: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [FRONT, STATE, WRIST]
    expected = load_dataset(SETS / version, observations=names, reward="observation[0] + reward[0]", device="cpu")
    monkeypatch.setattr(image_layout, "rows_per_block", lambda row_bytes: block)
    convert(SETS / version, tmp_path / "set", observations=names, reward="observation[0] + reward[0]")
    found = load_dataset(tmp_path / "set", device="cpu")
    assert (found.observation_space, found.action_space) == (expected.observation_space, expected.action_space)
    assert found.checksum == expected.checksum
    assert found.metadata["fps"] == FPS


def test_the_command_converts_images(dipole: Command) -> None:
    named = ("--observations", STATE, FRONT, "--image-size", "16", "20")
    assert dipole("data", "convert", str(SETS / "v3.0"), "small", *named)[0] == 0
    buffer = load_dataset("small", device="cpu", frame_stack=2)
    assert isinstance(buffer.observation_space, spaces.Dict)
    assert buffer.observation_space["images_front"].shape == (16, 20, 6)
    status, _, error = dipole(
        "data", "convert", str(SETS / "v3.0"), "b", "--observations", FRONT, "--image-size", "0", "9"
    )
    assert (status, error) == (1, "dipole: the height in image_size is 0, expected a whole number of at least 1\n")


def written(path: Path, lengths: list[int], fps: float, shape: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """A set of v3.0 with a long video in one file of H.264, whose frames depend on frames before and after them."""
    random = np.random.default_rng(0)
    shutil.copytree(SETS / "v3.0", path)
    total, keys = sum(lengths), [*FIXED]
    info = json.loads((path / "meta/info.json").read_text())
    info["total_frames"], info["fps"] = total, fps
    info["features"] = {key: info["features"][key] for key in [*keys, "timestamp", "episode_index", "frame_index"]}
    info["features"][FRONT]["shape"] = [*shape, 3]
    (path / "meta/info.json").write_text(json.dumps(info))
    frame_index = np.concatenate([np.arange(length) for length in lengths])
    table = {
        STATE: random.uniform(-1, 1, (total, 3)).astype(np.float32).tolist(),
        "action": random.uniform(-1, 1, (total, 2)).astype(np.float32).tolist(),
        "next.reward": np.zeros(total, np.float32),
        "timestamp": (frame_index / fps).astype(np.float32),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": frame_index,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path / "data/chunk-000/file-000.parquet")
    begins = np.cumsum([0, *lengths[:-1]]) / fps
    episodes = {
        "episode_index": np.arange(len(lengths)),
        "length": np.array(lengths),
        **{f"videos/{FRONT}/{name}": np.zeros(len(lengths), np.int64) for name in ("chunk_index", "file_index")},
        f"videos/{FRONT}/from_timestamp": begins,
    }
    pyarrow.parquet.write_table(pyarrow.table(episodes), path / "meta/episodes/chunk-000/file-000.parquet")
    file = next((path / "videos").rglob("*.mp4"))
    # Brightness tells the frame.
    frames = [np.full((*shape, 3), 20 + 3 * (number % 70), np.uint8) for number in range(total)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=int(fps), options={"bf": "3", "g": "12", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return frames


FIXED = (STATE, "action", "next.reward", FRONT)


def test_frames_of_many_episodes_in_one_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [40, 1, 3, 50]
    frames = written(tmp_path / "set", lengths, 30)
    opened, files = av.open, []
    monkeypatch.setattr(av, "open", lambda file: files.append(file) or opened(file))
    buffer = load_dataset(tmp_path / "set", observations=[FRONT], device="cpu")
    assert len(files) == 1, "decoded once for all episodes"
    ends = np.cumsum(lengths) - 1
    kept = np.setdiff1d(np.arange(sum(lengths)), ends)
    for name, places in (("observations", kept), ("next_observations", kept + 1)):
        shown = np.asarray(getattr(buffer, name))[:, 0]
        expected = np.array([frames[place][0, 0, 0] for place in places], float)
        assert np.abs(shown.mean(axis=(1, 2, 3)) - expected).max() < 1.5, "frames are 3 apart"


@pytest.mark.parametrize(("beside", "fits"), [(5e-5, True), (2e-4, False)])
def test_times_must_be_those_of_frames(tmp_path: Path, beside: float, fits: bool) -> None:
    written(tmp_path / "set", [6], 30)
    file = tmp_path / "set/data/chunk-000/file-000.parquet"
    table = pyarrow.parquet.read_table(file)
    times = table["timestamp"].to_numpy().copy()
    times[1:] -= np.float32(beside)
    place = table.schema.get_field_index("timestamp")
    pyarrow.parquet.write_table(table.set_column(place, "timestamp", pyarrow.array(times)), file)
    if fits:
        assert load_dataset(tmp_path / "set", observations=[FRONT], device="cpu").size() == 5
    else:
        refused(tmp_path / "set", "shows no frame at 0.033133 s, the next one is at 0.033333 s; .* within 0.0001 s")


def refused(path: Path, message: str, observations: tuple[str, ...] = (FRONT,), **options: Any) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path, observations=observations, **options)
    assert "\n" not in str(caught.value)


@version
def test_videos_that_are_missing_or_damaged(tmp_path: Path, version: str) -> None:
    shutil.copytree(SETS / version, tmp_path / "set")
    file = sorted((tmp_path / "set/videos").rglob("*.mp4"))[0]
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no video", b""):
        file.write_bytes(damaged)
        refused(tmp_path / "set", rf"{file}: (cannot be decoded|ends after)")
        with pytest.raises(DatasetError):
            convert(tmp_path / "set", tmp_path / "out", observations=[FRONT])
        assert not (tmp_path / "out").exists(), "nothing is half-written"
    file.unlink()
    refused(tmp_path / "set", rf"{file}: no such file; expected a video")
    load_dataset(tmp_path / "set", device="cpu")  # whose numbers are still there


def changed_images(path: Path, values: Iterator[bytes | None]) -> None:
    shutil.copytree(SETS / "v3.0", path)
    file = path / "data/chunk-000/file-000.parquet"
    table = pyarrow.parquet.read_table(file)
    rows = [{"bytes": next(values), "path": None} for _ in range(len(table))]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    place = table.schema.get_field_index(WRIST)
    pyarrow.parquet.write_table(table.set_column(place, WRIST, pyarrow.array(rows, kind)), file)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "row 0 is empty, expected an image file's bytes"),
        (png(image(0, 0, WRIST))[:150], "row 0 cannot be decoded"),
        (b"no image", "row 0 cannot be decoded"),
        (png(np.zeros((9, 8, 3), np.uint8)), "row 0 is a picture of 9×8 in RGB, expected 8×8 in RGB"),
        (png(np.zeros((8, 8), np.uint8)), "row 0 is a picture of 8×8 in L, expected 8×8 in RGB"),
    ],
)
def test_images_that_are_none(tmp_path: Path, value: bytes | None, message: str) -> None:
    changed_images(tmp_path / "set", iter([value] * 12))
    refused(tmp_path / "set", rf"file-000\.parquet: {WRIST} of {message}", (WRIST,))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^image_size is 64, expected \(height, width\)$"):
        load_dataset(SETS / "v3.0", observations=[WRIST], image_size=64)
    shutil.copytree(SETS / "v3.0", tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"][FRONT]["shape"] = [64, 64]
    info["features"]["observation.note"] = {"dtype": "string", "shape": [1]}
    for key in ("observation.state", "observation.environment_state", "observation.grid"):
        info["features"][key]["dtype"] = "string"
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    refused(tmp_path / "set", rf"{FRONT} has shape \[64, 64\], expected height, width and 3 channels")
    refused(
        tmp_path / "set", r"observation\.note is of type string, expected observations among", ("observation.note",)
    )
    with pytest.raises(DatasetError, match=rf"has no observations but images, .* among {WRIST}, {FRONT}$"):
        load_dataset(tmp_path / "set")


MEMORY = """
import sys
from dipole_sb3.datasets.conversion import convert
import av, PIL.Image, pyarrow.parquet, torch
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
before = peak()
convert(sys.argv[1], sys.argv[2], observations=["observation.images.front"])
print(peak() - before)
"""


def test_conversion_keeps_a_part_in_memory(tmp_path: Path) -> None:
    written(tmp_path / "set", [75] * 4, 30, (480, 640))
    command = [sys.executable, "-c", MEMORY, tmp_path / "set", tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    stored = sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) / 2**20
    assert stored > 250
    assert float(run.stdout) < 200


def test_reading_decodes_nothing() -> None:
    recording = lerobot.read(SETS / "v3.0", observations=[STATE, FRONT])
    assert sorted(recording.images) == ["images_front"]
    assert parts(recording.arrays["observations"]).keys() == {"state"}
    assert CAMERAS[FRONT]["shape"] == (64, 64, 3)
    assert isinstance(load_dataset(SETS / "v3.0", device="cpu"), OfflineReplayBuffer)
    assert pictures.TOLERANCE == 1e-4
