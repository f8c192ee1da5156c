"""Bird's-eye pictures of driving scenes with plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.driving.scene import Ego, Floats, Surroundings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import PathPatch

_CAR_LENGTH, _CAR_WIDTH, _REAR_AXLE_TO_CENTRE = 5.176, 2.297, 1.461
_PLAN_POSES, _STEPS_PER_POSE = 8, 5
_GROUND, _ROAD, _EDGE, _ROUTE = "#eef1ea", "#cfd2d6", "#9aa0a8", "#4a90d9"
_OTHERS = {"vehicle": "#5b6470", "pedestrian": "#d6559b", "bicycle": "#8a5bd6", "static": "#e8892b"}
_EXPERT = "#2b2b2b"
_PLANS = ("#d62728", "#1a9850", "#7b3fbf", "#e6a700", "#0f8b8d", "#a0522d")
_DRIVEN = 41
"""Poses of a plan that was driven, one every 0.1 s from now on."""
_OFF_ROAD = 0.2
"""m² of a car beside the road from which it is shown to have left it."""
_MARGIN = 9.0
"""Metres of ground around what is shown."""


class DrawnScene(Protocol):
    """What a picture needs of a scene."""

    @property
    def expert(self) -> npt.NDArray[np.float32]: ...

    @property
    def surroundings(self) -> Surroundings: ...


def birds_eye(axes: Axes, scene: DrawnScene, plans: Mapping[str, npt.ArrayLike]) -> None:
    """Draws a scene from above, in the ego frame with x up: roads, route, others with their next 4 s, and plans.

    A plan is drawn with the car's outline every half second. An outline is filled with the plan's colour where the car,
    in the half second before, left the road or touched what was there at that moment.

    :param axes: Matplotlib's axes to draw in; their limits and aspect are set.
    :param scene: the scene.
    :param plans: by name, poses of the rear axle in the ego frame of now: a plan [8, 3], or the car that drove it
        [41, 3], every 0.1 s from now on. Of any other number of poses, only the line is drawn.
    :raises ValueError: a plan has another shape or is not finite.
    """
    drawn = {name: _checked(name, plan) for name, plan in plans.items()}
    surroundings = scene.surroundings
    frame = _Frame(surroundings.ego)
    roads = _roads(axes, surroundings, frame)
    moments = _others(axes, surroundings, frame)
    recorded = np.concatenate([np.zeros((1, 2)), scene.expert[:, :2]])
    axes.plot(*_picture(recorded).T, "--", color=_EXPERT, linewidth=1.4, label="recorded", zorder=8)
    for (name, plan), colour in zip(drawn.items(), _PLANS * len(drawn), strict=False):
        _plan(axes, name, plan, colour, roads, moments)
    axes.add_patch(
        _patch(
            shapely.transform(_car(np.zeros(3)), _picture),
            facecolor="white",
            edgecolor=_EXPERT,
            linewidth=1.2,
            zorder=6,
        )
    )
    _limits(axes, [np.asarray(scene.expert, np.float64), *drawn.values()])
    axes.legend(loc="upper left", fontsize="x-small", framealpha=0.85, handlelength=1.6)


def _checked(name: str, plan: npt.ArrayLike) -> Floats:
    poses = np.asarray(plan, np.float64)
    if poses.ndim != 2 or poses.shape[1] != 3 or not len(poses) or not np.isfinite(poses).all():
        raise ValueError(f"plan {name!r} has shape {list(poses.shape)}; expected finite poses [n, 3], n ≥ 1")
    return poses


class _Frame:
    """From the map frame into the picture: the ego frame with x up and y to the left."""

    def __init__(self, ego: Ego) -> None:
        cosine, sine = np.cos(ego.pose[2]), np.sin(ego.pose[2])
        self._rotation = np.array([[cosine, -sine], [sine, cosine]])
        self._origin = ego.pose[:2]

    def __call__(self, points: Floats) -> Floats:
        return _picture((points - self._origin) @ self._rotation)


def _picture(points: Floats) -> Floats:
    """Points of the ego frame [..., 2] on paper."""
    return np.stack([-points[..., 1], points[..., 0]], axis=-1)


def _roads(axes: Axes, surroundings: Surroundings, frame: _Frame) -> shapely.Geometry:
    axes.set_facecolor(_GROUND)
    known = zip(surroundings.roads.polygons, surroundings.roads.kinds, strict=True)
    shapes = {kind: [] for kind in ("road", "lane", "connector")}  # type: dict[str, list[shapely.Geometry]]
    for polygon, kind in known:
        shapes[kind if kind in shapes else "road"].append(shapely.transform(polygon, frame))
    road = shapely.union_all(shapes["road"])
    for part in shapely.get_parts(road):
        axes.add_patch(_patch(part, facecolor=_ROAD, edgecolor=_EDGE, linewidth=1.0, zorder=1))
    for lane in shapes["lane"]:
        axes.add_patch(_patch(lane, facecolor="none", edgecolor="white", linewidth=0.9, zorder=2))
    route = frame(surroundings.roads.centreline)
    axes.plot(*route.T, color=_ROUTE, linewidth=4.5, alpha=0.3, solid_capstyle="round", zorder=2, label="route")
    shapely.prepare(road)
    return road


def _others(axes: Axes, surroundings: Surroundings, frame: _Frame) -> list[list[shapely.Geometry]]:
    """Draws them; their outlines at each of the 41 moments."""
    tracks = surroundings.tracks
    moments: list[list[shapely.Geometry]] = [[] for _ in range(_DRIVEN)]
    for kind, poses, size in zip(tracks.kinds, tracks.poses[:, :_DRIVEN], tracks.sizes, strict=True):
        there = np.flatnonzero(np.isfinite(poses).all(axis=1))
        if not len(there):
            continue
        outlines = [shapely.transform(_box(poses[step], *size), frame) for step in there]
        for step, outline in zip(there, outlines, strict=True):
            moments[step].append(outline)
        axes.add_patch(_patch(outlines[0], facecolor=_OTHERS[kind], edgecolor="white", linewidth=0.5, zorder=5))
        way = frame(poses[there, :2])
        if np.hypot(*(way[-1] - way[0])) > 0.5:
            axes.plot(*way.T, color=_OTHERS[kind], linewidth=1.1, alpha=0.75, zorder=3)
            arrow = {"arrowstyle": "->", "color": _OTHERS[kind]}
            axes.annotate("", way[-1], way[-2], arrowprops=arrow, zorder=3, annotation_clip=True)
    return moments


def _plan(
    axes: Axes, name: str, plan: Floats, colour: str, road: shapely.Geometry, moments: list[list[shapely.Geometry]]
) -> None:
    _line(axes, plan, colour, name)
    if len(plan) == _PLAN_POSES:
        plan = _every_step(plan)
    if len(plan) != _DRIVEN:
        return
    outlines = [shapely.transform(_car(pose), _picture) for pose in plan]
    bad = [
        outline.difference(road).area > _OFF_ROAD or any(outline.intersects(other) for other in others)
        for outline, others in zip(outlines, moments, strict=True)
    ]
    for step in range(_STEPS_PER_POSE, _DRIVEN, _STEPS_PER_POSE):
        filled = any(bad[step - _STEPS_PER_POSE + 1 : step + 1])
        face = colour if filled else "none"
        axes.add_patch(_patch(outlines[step], facecolor=face, edgecolor=colour, linewidth=0.8, alpha=0.55, zorder=6))


def _every_step(plan: Floats) -> Floats:
    """A plan's poses [41, 3] every 0.1 s, from now on."""
    poses = np.concatenate([np.zeros((1, 3)), plan])
    poses[:, 2] = np.unwrap(poses[:, 2])
    times = np.arange(_DRIVEN) / _STEPS_PER_POSE
    return np.stack([np.interp(times, np.arange(len(poses)), column) for column in poses.T], axis=1)


def _line(axes: Axes, plan: Floats, colour: str, name: str) -> None:
    points = _picture(np.concatenate([np.zeros((1, 2)), plan[:, :2]]))
    marker = "o" if len(plan) == _PLAN_POSES else ""
    axes.plot(*points.T, color=colour, linewidth=1.6, marker=marker, markersize=2.6, label=name, zorder=7)


def _limits(axes: Axes, plans: list[Floats]) -> None:
    points = _picture(np.concatenate([np.zeros((1, 2)), *(plan[:, :2] for plan in plans)]))
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2 + _MARGIN
    half = np.maximum(half, max(half[1] * 0.62, 18.0))
    axes.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axes.set_ylim(middle[1] - half[1], middle[1] + half[1])
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def _patch(shape: shapely.Geometry, **style: Any) -> PathPatch:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    rings = [shape.exterior, *shape.interiors]
    corners = [np.asarray(ring.coords) for ring in rings]
    codes = [[Path.MOVETO, *[Path.LINETO] * (len(one) - 2), Path.CLOSEPOLY] for one in corners]
    return PathPatch(Path(np.concatenate(corners), np.concatenate(codes)), **style)


def _car(pose: Floats) -> shapely.Polygon:
    """Outline of the own car with its rear axle at a pose, in that pose's frame."""
    ahead = _REAR_AXLE_TO_CENTRE * np.array([np.cos(pose[2]), np.sin(pose[2])])
    return _box(np.append(pose[:2] + ahead, pose[2]), _CAR_LENGTH, _CAR_WIDTH)


def _box(pose: Floats, length: float, width: float) -> shapely.Polygon:
    forward = np.array([np.cos(pose[2]), np.sin(pose[2])]) * length / 2
    left = np.array([-np.sin(pose[2]), np.cos(pose[2])]) * width / 2
    return shapely.Polygon(
        [pose[:2] + forward + left, pose[:2] - forward + left, pose[:2] - forward - left, pose[:2] + forward - left]
    )
