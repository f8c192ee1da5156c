"""Logs, cut into scenes as NAVSIM does, and malformed ones."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scenes.logs import read_log, to_ego_frame

Frames = list[dict[str, Any]]


def frames_of(count: int, speed: float = 10.0) -> Frames:
    """A log of a car that drives straight on at 30°, as OpenScene's tools would pickle it."""
    ahead = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6), 0.0])
    return [
        {
            "token": f"{number:016x}",
            "log_name": "a-log",
            "timestamp": number * 500_000,
            "roadblock_ids": ["7"],
            "ego2global_translation": np.array([600_000.0, 4_000_000.0, 600.0]) + ahead * speed * 0.5 * number,
            "ego2global_rotation": np.array([np.cos(np.pi / 12), 0.0, 0.0, np.sin(np.pi / 12)]),
            "ego_dynamic_state": [speed, 0.0, 0.0, 0.0],
            "driving_command": np.array([0, 1, 0, 0]),
            "can_bus": np.zeros(18),
            "lidar2ego_rotation": [np.float64(1.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)],
            "traffic_lights": [(17, False)],
            "anns": {"gt_boxes": np.zeros((1, 7)), "gt_names": np.array(["vehicle"]), "track_tokens": ["a"]},
            "sample_prev": None,
            "cams": {name: {"data_path": f"a-log/{name}/{number}.jpg"} for name in ("CAM_L0", "CAM_F0", "CAM_R0")},
        }
        for number in range(count)
    ]


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_windows_of_fourteen_frames_at_every_frame(tmp_path: Path, protocol: int) -> None:
    scenes = read_log(written(tmp_path / "log.pkl", frames_of(17), protocol), tmp_path / "images")
    assert [scene.token for scene in scenes] == [f"{number:016x}" for number in (3, 4, 5, 6)]
    one = scenes[1]
    np.testing.assert_allclose(one.history, [[-15, 0, 0], [-10, 0, 0], [-5, 0, 0], [0, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(one.expert[:, 0], np.arange(5, 45, 5), atol=1e-3)
    np.testing.assert_allclose(one.expert[:, 1:], 0, atol=1e-3)
    assert one.command == 1
    assert one.cameras[0] == tmp_path / "images" / "a-log" / "CAM_L0" / "4.jpg"


def test_frames_without_a_route_are_no_scenes(tmp_path: Path) -> None:
    frames = frames_of(16)
    frames[4]["roadblock_ids"] = []
    scenes = read_log(written(tmp_path / "log.pkl", frames), tmp_path)
    assert [scene.token for scene in scenes] == [f"{number:016x}" for number in (3, 5)]


def test_thirteen_frames_are_too_few(tmp_path: Path) -> None:
    assert read_log(written(tmp_path / "log.pkl", frames_of(13)), tmp_path) == []


def set_to(key: str, value: Any) -> Callable[[Frames], None]:
    return lambda frames: frames[3].__setitem__(key, value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frames: frames[3].pop("token"), "frame 3 has no token; expected the keys of OpenScene's logs"),
        (lambda frames: frames[5].pop("ego2global_rotation"), "frame 5 has no ego2global_rotation;"),
        (lambda frames: frames[3]["cams"].pop("CAM_F0"), "frame 3 has no cams/CAM_F0;"),
        (lambda frames: frames.__setitem__(3, 7), "frame 3 has no ego2global_translation;"),
        (
            set_to("ego2global_translation", np.array([np.nan, 0, 0])),
            r"frame 3 has ego2global_translation \[nan, 0.0, 0.0\]; expected 3 finite numbers",
        ),
        (set_to("ego2global_translation", [1.0, 2.0]), "frame 3 has ego2global_translation .* expected 3 finite"),
        (set_to("ego2global_translation", "north"), "frame 3 has ego2global_translation north; expected 3"),
        (set_to("ego2global_translation", None), "frame 3 has a ego2global_translation that is damaged: it has None"),
        (set_to("ego2global_rotation", np.zeros(4)), "expected a quaternion of length 1"),
        (set_to("ego_dynamic_state", [np.inf, 0, 0, 0]), r"frame 3 has ego_dynamic_state \[inf, "),
        (set_to("driving_command", np.array([1, 1, 0, 0])), "expected one 1 and three 0, for left, straight, right"),
        (set_to("roadblock_ids", 7), "frame 3 has roadblock_ids 7; expected a list"),
        (set_to("token", 7), "frame 3 has token 7; expected a text"),
        (
            lambda frames: frames[3]["cams"]["CAM_F0"].update(data_path="../../secret.png"),
            "frame 3 has the image path '../../secret.png'; expected one below the folder of the images",
        ),
        (lambda frames: frames.clear(), "has no frames in it; expected a list of one or more frames"),
    ],
)
def test_malformed_logs(tmp_path: Path, spoil: Callable[[Frames], Any], message: str) -> None:
    frames = frames_of(15)
    spoil(frames)
    path = written(tmp_path / "log.pkl", frames)
    with pytest.raises(DatasetError, match=message) as caught:
        read_log(path, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has a dict in it; expected a list"):
        read_log(written(tmp_path / "log.pkl", {"frames": []}), tmp_path)


def test_every_numpy_can_read_a_made_log(folder: Path) -> None:
    path = folder / "navsim_logs/train/train-000000-highway.pkl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 warns of its old names, which NumPy 1 alone understands
        frames = pickle.loads(path.read_bytes())
    assert len(frames) == 14
    boxes = frames[3]["anns"]["gt_boxes"]
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(frames[3]["anns"]["track_tokens"]), 7)
    assert frames[3]["driving_command"].tolist() in np.eye(4).tolist()


def test_poses_in_the_ego_frame() -> None:
    origin = np.array([10.0, 5.0, np.pi / 2])
    poses = np.array([[10.0, 7.0, np.pi / 2], [8.0, 5.0, -np.pi / 2 - 0.1]])
    np.testing.assert_allclose(to_ego_frame(poses, origin), [[2, 0, 0], [0, 2, np.pi - 0.1]], atol=1e-12)
