"""What the made scenes are like: right-handed, on the road, and driven well and badly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from driving_scenes import recorded, seed_of

from dipole_sb3.driving.scene import COMMANDS, Floats
from dipole_sb3.driving.scenes import Scenes
from dipole_sb3.driving.scenes.demonstrations import HABITS, demonstrate
from dipole_sb3.driving.scenes.logs import to_ego_frame
from dipole_sb3.driving.scenes.making import _command
from dipole_sb3.driving.scenes.paths import Path, smooth_path
from dipole_sb3.driving.scenes.reference import with_reference
from dipole_sb3.driving.scenes.worlds import NOW, STEP, World, make_world
from dipole_sb3.driving.scenes.writing import KINDS, Recording, box_corners
from dipole_sb3.driving.score import score_plans


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """Two of each kind."""
    return [make_world(kind, seed_of("test", index, 7)) for kind in KINDS for index in range(2)]


def test_same_seed_same_scene() -> None:
    one, same, other = recorded("train", 2), recorded("train", 2), recorded("train", 6)
    np.testing.assert_array_equal(one.ego, same.ego)
    np.testing.assert_array_equal(one.poses, same.poses)
    assert all((one.images[name] == same.images[name]).all() for name in one.images)
    assert (one.token, one.names) == (same.token, same.names)
    assert one.kind == other.kind
    assert one.token != other.token
    assert not np.allclose(one.ego, other.ego)


def test_own_car_moves_as_its_speed_says_and_ahead(recordings: list[Recording]) -> None:
    for made in recordings:
        steps = np.diff(made.ego[:, :2], axis=0)
        speed = np.hypot(*steps.T) / STEP
        np.testing.assert_allclose(speed, made.velocities[:-1, 0], rtol=0.1, atol=0.3)
        moving = speed > 1
        sideways = np.arctan2(steps[:, 1], steps[:, 0]) - made.ego[:-1, 2]
        np.testing.assert_allclose(np.sin(sideways[moving]), 0, atol=0.1)
        assert (np.cos(sideways[moving]) > 0.9).all()


def test_others_move_as_their_velocities_say_and_ahead(worlds: list[World]) -> None:
    for world in worlds:
        moved = np.diff(world.poses[..., :2], axis=1) / STEP
        np.testing.assert_allclose(world.velocities[:, :-1], moved, atol=1e-9)
        speed = np.hypot(*np.moveaxis(world.velocities, -1, 0))
        ahead = np.cos(np.arctan2(world.velocities[..., 1], world.velocities[..., 0]) - world.poses[..., 2])
        assert (ahead[speed > 0.1] > 0.9).all()
        still = np.isin(world.types, ("traffic_cone", "barrier"))
        assert (speed[still] == 0).all()
        assert (speed[~still] < 30).all()


def test_traffic_keeps_to_the_right() -> None:
    """highway-env's y axis points down; were it not mirrored, oncoming cars would be on the right."""
    beside = []
    for index in range(12):
        world = make_world("intersection", seed_of("train", index, 3))
        own = world.path.poses(world.progress[NOW])
        local = to_ego_frame(world.poses[:, NOW], own)
        vehicles = np.array([name == "vehicle" for name in world.types])
        oncoming = vehicles & (np.abs(np.abs(local[:, 2]) - np.pi) < 0.1) & (np.abs(local[:, 1]) < 6)
        beside += local[oncoming, 1].tolist()
    assert len(beside) >= 3
    assert min(beside) > 2


def test_roundabouts_are_driven_anticlockwise() -> None:
    for index in range(3):
        world = make_world("roundabout", seed_of("train", index, 3))
        ring = np.hypot(*world.path.points.T) < 26
        turned = np.diff(np.unwrap(np.arctan2(*world.path.points[ring].T[::-1])))
        assert turned.sum() > 0.5


def test_command_says_where_the_route_leads() -> None:
    seen = set()
    for index in range(14):
        world = make_world("intersection", seed_of("train", index, 3))
        steady = demonstrate(world, np.random.default_rng(0))
        ahead = to_ego_frame(world.path.poses(world.progress[NOW] + np.arange(37.0)), steady.poses[NOW])[:, 1]
        command = COMMANDS[_command(world, steady)]
        seen.add(command)
        assert {"left": ahead[-1] > 2, "right": ahead[-1] < -2, "straight": abs(ahead[-1]) < 2}[command]
        assert np.abs(ahead[:2]).max() < 1, "here the route is where the car is"
    assert seen == {"left", "straight", "right"}


def drivable(made: Recording) -> shapely.Geometry:
    roads = made.surroundings.roads
    kinds = np.array(roads.kinds)
    return shapely.union_all(roads.polygons[(kinds == "roadblock") | (kinds == "intersection")])


def outline(poses: Floats) -> list[shapely.Polygon]:
    ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    corners = [
        poses[:, :2] + at * ahead + side * left
        for at, side in ((4.049, 1.1), (4.049, -1.1), (-1.127, -1.1), (-1.127, 1.1))
    ]
    return list(shapely.polygons(np.stack(corners, axis=1)))


def test_the_past_and_the_route_are_on_the_road(recordings: list[Recording]) -> None:
    for made in recordings:
        road = drivable(made)
        assert all(road.contains(one) for one in outline(made.ego[: NOW + 1]))
        middle = shapely.LineString(made.surroundings.roads.centreline)
        assert middle.difference(road).length < 0.02 * middle.length
        assert shapely.is_valid(made.surroundings.roads.polygons).all()


def test_demonstrations_are_good_and_bad(worlds: list[World]) -> None:
    """Every habit leaves its mark on the same worlds."""
    ends: dict[str, list[tuple[float, float]]] = {habit: [] for habit in HABITS}
    for world in worlds:
        for number in range(30):
            driven = demonstrate(world, np.random.default_rng(number))
            past = to_ego_frame(driven.poses[: NOW + 1], world.path.poses(world.progress[NOW]))
            assert np.abs(past[-1, 1]) < 0.6, "the habit shows from now on"
            nearest = world.path.project(driven.poses[-1, :2])
            away = float(np.hypot(*(driven.poses[-1, :2] - world.path.poses(np.asarray(nearest))[:2])))
            ends[driven.habit].append((nearest - world.progress[-1], away))
    means = {habit: np.mean(found, axis=0) for habit, found in ends.items()}
    assert means["fast"][0] > means["steady"][0] + 5
    assert means["slow"][0] < means["steady"][0] - 5
    assert means["drifting"][1] > means["steady"][1] + 0.7
    assert abs(means["steady"][0]) < 2


def test_imitation_is_imperfect_and_the_reference_better(scenes: Scenes) -> None:
    known = [scene.surroundings for scene in scenes]
    references = np.stack([to_ego_frame(one.reference[5:41:5], one.ego.pose) for one in known])
    experts = np.stack([scene.expert for scene in scenes])
    scores = score_plans(known, np.stack([experts, references], axis=1)).pdms
    assert scores[:, 0].min() == 0
    assert scores[:, 0].max() > 0.95
    assert scores[:, 1].mean() > scores[:, 0].mean() + 0.1


def test_reference_stops_behind_what_stands_in_the_way(recordings: list[Recording]) -> None:
    known = recordings[0].surroundings
    path = Path(known.roads.centreline)
    here = path.project(known.ego.pose[:2])
    wall = path.poses(np.asarray(here + 40.0))
    tracks = replace(
        known.tracks,
        kinds=("static",),
        poses=np.repeat(wall[None, None], 51, axis=1),
        sizes=np.array([[1.0, 7.0]]),
        velocities=np.zeros((1, 51, 2)),
    )
    slow = replace(known.ego, velocity=np.array([8.0, 0.0]))
    free, blocked = (
        with_reference(replace(known, ego=slow, tracks=one), path, 18.0).reference
        for one in (replace(tracks, poses=tracks.poses + np.array([0.0, 5000.0, 0.0])), tracks)
    )
    reach = [path.project(one[-1, :2]) - here for one in (free, blocked)]
    assert reach[0] > 42
    assert 20 < reach[1] < 40 - 4.049


def test_box_corners_are_front_left_first(recordings: list[Recording]) -> None:
    tracks = recordings[2].surroundings.tracks
    corners = box_corners(tracks)
    ahead = corners[:, :, 0] - corners[:, :, 1]
    heading = np.arctan2(ahead[..., 1], ahead[..., 0])
    np.testing.assert_allclose(np.cos(heading - tracks.poses[..., 2]), 1)
    np.testing.assert_allclose(np.hypot(*np.moveaxis(ahead, -1, 0)), np.repeat(tracks.sizes[:, :1], 51, axis=1))
    turned = np.cross(ahead, corners[:, :, 1] - corners[:, :, 2])
    assert (turned > 0).all(), "the left side is to the left"


def test_path_of_an_arc() -> None:
    angles = np.linspace(0, np.pi / 2, 60)
    path = smooth_path(20 * np.stack([np.sin(angles), 1 - np.cos(angles)], axis=1))
    np.testing.assert_allclose(path.curvatures[10:-10], 1 / 20, rtol=0.02)
    left = path.poses(np.asarray(10.0), 2.0)
    np.testing.assert_allclose(np.hypot(left[0], left[1] - 20), 18, atol=0.15)
    np.testing.assert_allclose(path.speeds(30.0, 2.0, 1.5)[10:-10], np.sqrt(2 * 20), rtol=0.02)
    assert path.project(left[:2]) == pytest.approx(10.0, abs=0.6)
