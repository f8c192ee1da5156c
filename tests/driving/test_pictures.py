"""Pictures from above."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import shapely
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from dipole_sb3.driving.pictures import birds_eye
from dipole_sb3.driving.scene import Ego, Roads, Surroundings, Tracks


@dataclass
class Scene:
    expert: Any
    surroundings: Surroundings


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(4, 6)).add_subplot()


def straight(speed: float = 5.0, turn: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A plan straight ahead, or off at an angle."""
    way = speed * 0.5 * np.arange(1, 9)
    return np.stack([way * np.cos(turn), way * np.sin(turn), np.full(8, turn)], axis=1).astype(np.float32)


@pytest.fixture
def scene() -> Scene:
    """A straight road to the north, 8 m wide, and a car that stands 30 m ahead."""
    north = np.pi / 2
    road = np.empty(2, np.object_)
    road[:] = [shapely.box(96, 0, 104, 200), shapely.box(98, 0, 102, 200)]
    return Scene(
        straight(),
        Surroundings(
            Ego(np.array([100.0, 50.0, north]), np.array([5.0, 0]), np.zeros(2)),
            Tracks(
                ("vehicle",),
                np.tile([100.0, 80.0, north], (1, 51, 1)),
                np.array([[4.5, 1.9]]),
                np.zeros((1, 51, 2)),
            ),
            Roads(("roadblock", "lane"), road, np.array([False, True]), np.array([[100.0, 20], [100, 190]])),
            np.zeros((51, 3)),
        ),
    )


def filled(axes: Axes, colour: str = "#d62728") -> list[float]:
    """Heights at which the first plan's outlines are filled."""
    wanted = to_rgba(colour)[:3]
    patches = [patch for patch in axes.patches if patch.get_facecolor()[:3] == wanted and patch.get_facecolor()[3] > 0]
    return sorted(float(patch.get_path().vertices[:-1, 1].mean()) for patch in patches)  # type: ignore[attr-defined]


def test_a_good_plan_is_only_outlined(axes: Axes, scene: Scene) -> None:
    birds_eye(axes, scene, {"good": straight()})
    assert filled(axes) == []
    texts = [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert texts == ["route", "recorded", "good"]


def test_leaving_the_road_is_marked(axes: Axes, scene: Scene) -> None:
    birds_eye(axes, scene, {"bad": straight(turn=0.3)})
    assert 2 < len(filled(axes)) < 8
    assert filled(axes)[-1] > 18


def test_hitting_is_marked_where_it_happens(axes: Axes, scene: Scene) -> None:
    birds_eye(axes, scene, {"bad": straight(8.0)})
    # The standing car reaches from 27.75 m to 32.25 m, the own one from 1.1 m behind its pose to 4.0 m ahead of it.
    np.testing.assert_allclose(filled(axes), [24 + 1.461, 28 + 1.461, 32 + 1.461], atol=0.01)


def test_hitting_between_two_poses_is_marked(axes: Axes, scene: Scene) -> None:
    tracks = scene.surroundings.tracks
    poses = tracks.poses.copy()
    poses[:, :, 1] = 500.0
    poses[:, 12, 1] = 57.0  # there for a moment, 1.2 s from now
    scene.surroundings = replace(scene.surroundings, tracks=replace(tracks, poses=poses))
    birds_eye(axes, scene, {"bad": straight()})
    np.testing.assert_allclose(filled(axes), [7.5 + 1.461], atol=0.01)


def test_left_is_left(axes: Axes, scene: Scene) -> None:
    birds_eye(axes, scene, {"left": straight(turn=0.3), "driven": np.zeros((41, 3))})
    line = next(line for line in axes.lines if line.get_label() == "left")
    assert np.asarray(line.get_xdata())[-1] < -5
    assert np.asarray(line.get_ydata())[-1] > 15


def test_tracks_that_come_and_go(axes: Axes, scene: Scene) -> None:
    tracks = scene.surroundings.tracks
    poses = np.concatenate([tracks.poses, np.full((1, 51, 3), np.nan)])
    poses[0, :10] = np.nan
    changed = replace(tracks, kinds=("pedestrian", "static"), poses=poses, sizes=np.ones((2, 2)))
    scene.surroundings = replace(scene.surroundings, tracks=changed)
    birds_eye(axes, scene, {"good": straight()})
    assert filled(axes) == []


@pytest.mark.parametrize("plan", [np.zeros((8, 2)), np.zeros((0, 3)), np.full((8, 3), np.nan)])
def test_plans_that_cannot_be_drawn(axes: Axes, scene: Scene, plan: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"plan 'wrong' has shape .* expected finite poses \[n, 3\]"):
        birds_eye(axes, scene, {"wrong": plan})
    assert not axes.patches
