"""Scenes as they come from a folder, and the folders that none come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scene import COMMANDS, ROAD_KINDS, TRACK_KINDS, Floats
from dipole_sb3.driving.scenes import Scenes, load_scenes
from dipole_sb3.driving.scenes.writing import KINDS, Recording
from dipole_sb3.driving.score import score_plans


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_shapes_types_and_ranges(scenes: Scenes) -> None:
    assert len(scenes) == 8
    assert [scene.kind for scene in scenes[:4]] == list(KINDS)
    assert len({scene.token for scene in scenes}) == 8
    seen = scenes.observations(range(8))
    assert (seen.cameras.dtype, seen.cameras.shape) == (np.uint8, (8, 3, 64, 96, 3))
    assert (seen.history.dtype, seen.history.shape) == (np.float32, (8, 4, 3))
    assert (seen.velocity.dtype, seen.velocity.shape) == (np.float32, (8, 2))
    assert (seen.acceleration.dtype, seen.acceleration.shape) == (np.float32, (8, 2))
    assert (seen.command.dtype, seen.command.shape) == (np.int64, (8,))
    assert set(seen.command.tolist()) <= set(range(len(COMMANDS)))
    np.testing.assert_array_equal(seen.history[:, -1], 0)
    assert (np.diff(seen.history[:, :, 0], axis=1) >= -1e-4).all(), "the oldest is first, and nobody reverses"
    for scene in scenes:
        assert (scene.expert.dtype, scene.expert.shape) == (np.float32, (8, 3))
        known = scene.surroundings
        assert set(known.tracks.kinds) <= set(TRACK_KINDS)
        assert set(known.roads.kinds) <= set(ROAD_KINDS)
        assert known.roads.on_route.any()
        assert known.reference.shape == (51, 3)


def in_map_frame(poses: Floats, origin: Floats) -> Floats:
    cosine, sine = np.cos(origin[2]), np.sin(origin[2])
    return origin[:2] + poses[:, :2] @ np.array([[cosine, sine], [-sine, cosine]])


def test_what_was_recorded_is_what_is_read(scenes: Scenes, recordings: list[Recording]) -> None:
    for scene, made in zip(scenes, recordings, strict=False):
        read, wrote = scene.surroundings, made.surroundings
        np.testing.assert_allclose(read.ego.pose, wrote.ego.pose, atol=1e-9)
        np.testing.assert_array_equal(read.ego.velocity, wrote.ego.velocity)
        np.testing.assert_array_equal(read.ego.acceleration, wrote.ego.acceleration)
        assert read.tracks.kinds == wrote.tracks.kinds
        turned = read.tracks.poses[..., 2] - wrote.tracks.poses[..., 2]
        np.testing.assert_allclose(read.tracks.poses[..., :2], wrote.tracks.poses[..., :2], atol=1e-9)
        np.testing.assert_allclose(np.sin(turned), 0, atol=1e-9)
        assert (np.cos(turned) > 0).all()
        np.testing.assert_allclose(read.tracks.sizes, wrote.tracks.sizes)
        np.testing.assert_array_equal(read.tracks.velocities, wrote.tracks.velocities)
        assert read.roads.kinds == wrote.roads.kinds
        assert shapely.equals_exact(read.roads.polygons, wrote.roads.polygons).all()
        np.testing.assert_array_equal(read.roads.on_route, wrote.roads.on_route)
        np.testing.assert_array_equal(read.roads.centreline, wrote.roads.centreline)
        np.testing.assert_allclose(read.reference, wrote.reference, atol=1e-9)
        seen, now = scene.observation, made.ego[15]
        np.testing.assert_array_equal(seen.cameras[1], made.images["CAM_F0"])
        np.testing.assert_allclose(in_map_frame(scene.expert, now), made.ego[20:56:5, :2], atol=1e-4)
        np.testing.assert_allclose(in_map_frame(seen.history, now), made.ego[0:16:5, :2], atol=1e-4)
        np.testing.assert_allclose(seen.velocity, made.velocities[15], rtol=1e-6)
        assert seen.command == made.command


def test_scores_can_be_computed(scenes: Scenes) -> None:
    known = [scene.surroundings for scene in scenes]
    scores = score_plans(known, np.stack([scene.expert for scene in scenes])[:, None].astype(np.float64))
    assert np.isfinite(scores.pdms).all()
    assert scenes[3].surroundings is known[3], "what was read stays, and with it what the score has worked out"


def test_splits(folder: Path, spoiled: Path, scenes: Scenes) -> None:
    test = load_scenes(folder, "test")
    assert len(test) == 2
    assert not {scene.token for scene in test} & {scene.token for scene in scenes}
    for kind in ("navsim_logs", "sensor_blobs"):
        (spoiled / kind / "train").rename(spoiled / kind / "trainval")
    renamed = load_scenes(spoiled, "train")
    assert [scene.token for scene in renamed] == [scene.token for scene in scenes]
    assert renamed[0].observation.cameras.any()
    with pytest.raises(DatasetError, match="navsim_logs/mini: does not exist; expected a folder of logs"):
        load_scenes(folder, "mini")


def test_found_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVING_DATA_DIR", str(folder.parent))
    assert len(load_scenes("driving/highway-mix", limit=5)) == 5
    with pytest.raises(DatasetError, match="dipole data make driving/highway-mix makes it"):
        load_scenes("driving/highway-mix", dataset_dir=tmp_path)
    with pytest.raises(DatasetError, match=r"driving/motorway names no .* expected driving/highway-mix"):
        load_scenes("driving/motorway")
    with pytest.raises(ValueError, match="limit is 0"):
        load_scenes(folder, limit=0)


def test_metric_caches_choose_the_scenes(spoiled: Path) -> None:
    caches = spoiled / "metric_cache"
    shutil.rmtree(next(caches.glob("train-000002-*")))
    assert [scene.log[6:12] for scene in load_scenes(spoiled)[:3]] == ["000000", "000001", "000003"]
    shutil.rmtree(caches)
    every = load_scenes(spoiled)
    assert len(every) == 8
    assert every[0].kind == "unknown"
    with pytest.raises(DatasetError, match=r"scene \w+ of log train-000000-highway has no metric cache"):
        _ = every[0].surroundings
    caches.mkdir()
    with pytest.raises(DatasetError, match=r"has no scene in 8 logs; expected .* and a metric cache in"):
        load_scenes(spoiled)


def image_of(spoiled: Path, name: str) -> Path:
    return next((spoiled / "sensor_blobs/train/train-000000-highway" / name).iterdir())


def test_images_that_cannot_be_shown(spoiled: Path) -> None:
    scene = load_scenes(spoiled, limit=2)[0]
    left = image_of(spoiled, "CAM_L0")
    Image.new("RGB", (96, 60)).save(left)
    with pytest.raises(DatasetError, match=r"CAM_L0.* have sizes 96×60, 96×64, 96×64; expected one size"):
        _ = scene.observation
    left.write_bytes(left.read_bytes()[:40])
    with pytest.raises(DatasetError, match=r"CAM_L0.*: cannot be read as an image"):
        _ = scene.observation
    left.unlink()
    with pytest.raises(DatasetError, match=r"CAM_L0.*: does not exist; expected the image of a camera"):
        _ = scene.observation


def test_scenes_of_unequal_images(spoiled: Path) -> None:
    for name in ("CAM_L0", "CAM_F0", "CAM_R0"):
        Image.new("RGB", (48, 32)).save(image_of(spoiled, name))
    scenes = load_scenes(spoiled, limit=2)
    with pytest.raises(DatasetError, match=r"has images 96×64, and scene \w+ 48×32; expected one size"):
        scenes.observations([0, 1])


def test_damaged_metric_cache(spoiled: Path) -> None:
    file = next(spoiled.glob("metric_cache/train-000000-highway/*/*/metric_cache.pkl"))
    content = file.read_bytes()
    scene = load_scenes(spoiled, limit=1)[0]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"metric_cache.pkl: is truncated or damaged"):
        _ = scene.surroundings
    shutil.copy(spoiled / "navsim_logs/train/train-000000-highway.pkl", file)
    with pytest.raises(DatasetError, match=r"metric_cache.pkl: is truncated or damaged"):
        _ = scene.surroundings


def test_folder_without_logs(tmp_path: Path) -> None:
    (tmp_path / "navsim_logs" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="train: has no logs in it"):
        load_scenes(tmp_path)
