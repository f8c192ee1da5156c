"""Where a car is: its corners, and the parts of the map that they lie in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.driving.scene import Floats, Roads
from dipole_sb3.driving.score.bicycle import LENGTH, REAR_AXLE_TO_CENTRE, WIDTH
from dipole_sb3.driving.score.driving import YAW

DRIVABLE = ("roadblock", "intersection", "drivable", "carpark")
LANES = ("lane", "connector")


def box_corners(centre: Floats, yaw: Floats, length: Floats | float, width: Floats | float) -> Floats:
    """Corners [..., 4, 2] of boxes: front left, rear left, rear right, front right.

    :param centre: [..., 2], m.
    :param yaw: [...], rad; ``length`` and ``width`` broadcast against it.
    """
    yaw = np.ascontiguousarray(yaw)
    cos, sin = np.cos(yaw), np.sin(yaw)
    forward = np.stack([cos, sin], axis=-1) * (np.asarray(length) / 2)[..., None]
    leftward = np.stack([-sin, cos], axis=-1) * (np.asarray(width) / 2)[..., None]
    front, rear = centre + forward, centre - forward
    return np.stack([front + leftward, rear + leftward, rear - leftward, front - leftward], axis=-2)


def car_centres(states: Floats) -> Floats:
    """The middle [..., 2] of the own car's box, from its states [..., 8]."""
    yaw = np.ascontiguousarray(states[..., YAW])
    return states[..., :YAW] + REAR_AXLE_TO_CENTRE * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)


def car_corners(states: Floats) -> Floats:
    """The corners [..., 4, 2] of the own car's box, from its states [..., 8]."""
    return box_corners(car_centres(states), states[..., YAW], LENGTH, WIDTH)


class Places:
    """The polygons of a map, prepared to be asked about many points.

    A point on a polygon's edge is outside, as in NAVSIM: where two polygons only touch, their common edge belongs to
    neither.
    """

    def __init__(self, roads: Roads) -> None:
        kinds = np.asarray(roads.kinds, dtype=np.str_)
        self._polygons = roads.polygons
        self._bounds = shapely.bounds(roads.polygons).reshape(-1, 4)
        shapely.prepare(roads.polygons)
        self._drivable = np.flatnonzero(np.isin(kinds, DRIVABLE))
        self._lanes = np.flatnonzero(np.isin(kinds, LANES))
        self._intersections = np.flatnonzero(kinds == "intersection")
        self._route = np.flatnonzero(np.isin(kinds, LANES) & roads.on_route)

    def off_road(self, corners: Floats) -> npt.NDArray[np.bool_]:
        """Where at least one of the corners [..., 4, 2] lies in no drivable polygon: [...]."""
        on_road: npt.NDArray[np.bool_] = np.all(self._in_any(corners, self._drivable), axis=-1)
        return ~on_road

    def in_several_lanes(self, corners: Floats) -> npt.NDArray[np.bool_]:
        """Where corners [..., 4, 2] lie in at least two lanes and no lane holds all four: [...]."""
        touched = np.zeros(corners.shape[:-2], np.int64)
        whole = np.zeros(corners.shape[:-2], np.bool_)
        for inside in self._inside(corners, self._lanes):
            touched += inside.any(axis=-1)
            whole |= inside.all(axis=-1)
        return (touched > 1) & ~whole

    def in_intersection(self, points: Floats) -> npt.NDArray[np.bool_]:
        """Where points [..., 2] lie in an intersection: [...]."""
        return self._in_any(points, self._intersections)

    def on_route(self, points: Floats) -> npt.NDArray[np.bool_]:
        """Where points [..., 2] lie in a lane of the route: [...]."""
        return self._in_any(points, self._route)

    def _in_any(self, points: Floats, which: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        anywhere = np.zeros(points.shape[:-1], np.bool_)
        for inside in self._inside(points, which):
            anywhere |= inside
        return anywhere

    def _inside(self, points: Floats, which: npt.NDArray[np.int64]) -> Iterable[npt.NDArray[np.bool_]]:
        """For each polygon near the points, which of them it contains."""
        if not points.size:
            return
        x, y = (np.ascontiguousarray(points[..., axis]) for axis in range(2))
        left, low, right, high = self._bounds[which].T
        near = which[(left <= x.max()) & (x.min() <= right) & (low <= y.max()) & (y.min() <= high)]
        for index in near:
            left, low, right, high = self._bounds[index]
            inside = (left < x) & (x < right) & (low < y) & (y < high)
            inside[inside] = shapely.contains_xy(self._polygons[index], x[inside], y[inside])
            yield inside
