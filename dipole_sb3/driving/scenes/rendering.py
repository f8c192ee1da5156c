"""A small pinhole renderer: sky, ground, roads with their lines, and boxes. Not realistic, but it shows the scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw

from dipole_sb3.driving.scene import CAMERAS, Floats

WIDTH, HEIGHT = 96, 64
"""Pixels of an image."""
_FIELD_OF_VIEW = math.radians(72)
_YAWS = dict(zip(CAMERAS, np.radians([55.0, 0.0, -55.0]), strict=True))
_PITCH = math.radians(7)
_POSITION = np.array([1.7, 0.0, 1.6])
"""Of all three cameras, in the ego frame."""
_FINER = 3
"""Times as many pixels are drawn along each side, and averaged."""
_METRES_PER_CELL = 0.1
_BEHIND, _AHEAD, _ASIDE = 15.0, 105.0, 70.0
"""Metres of ground that are drawn, from the ego frame's origin."""
_NEAR = 0.3

_SKY, _GRASS, _ROAD, _LINE = (158, 196, 232), (88, 128, 72), (92, 92, 98), (238, 238, 232)
_CARS = ((58, 92, 168), (212, 212, 208), (62, 62, 66), (150, 40, 46), (196, 158, 60), (70, 130, 110))
_COLOURS = {"pedestrian": (232, 120, 180), "traffic_cone": (250, 120, 20), "barrier": (200, 60, 60)}
_REAR, _FRONT = (225, 30, 30), (250, 248, 205)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; its own axes are x to the right, y down and z ahead.

    :ivar rotation: [3, 3], its axes as columns, in the ego frame.
    :ivar position: [3], metres, in the ego frame.
    :ivar intrinsics: [3, 3], in pixels of the finished image.
    """

    rotation: Floats
    position: Floats
    intrinsics: Floats


@cache
def camera(name: str) -> Camera:
    """One of :data:`~dipole_sb3.driving.scene.CAMERAS`."""
    yaw = _YAWS[name]
    ahead = np.array([math.cos(yaw) * math.cos(_PITCH), math.sin(yaw) * math.cos(_PITCH), -math.sin(_PITCH)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    focal = WIDTH / 2 / math.tan(_FIELD_OF_VIEW / 2)
    return Camera(
        np.stack([right, np.cross(ahead, right), ahead], axis=1),
        _POSITION,
        np.array([[focal, 0.0, WIDTH / 2], [0.0, focal, HEIGHT / 2], [0.0, 0.0, 1.0]]),
    )


@dataclass(frozen=True)
class View:
    """What is around the car, in the ego frame.

    :ivar roads: polygons where one may drive.
    :ivar lines: [n, 2] points of each painted line.
    :ivar boxes: [K, 3], (x, y, yaw) of the boxes' middles.
    :ivar sizes: [K, 3], length, width and height.
    :ivar types: of each box, as in the annotations of logs.
    """

    roads: Sequence[shapely.Geometry]
    lines: Sequence[Floats]
    boxes: Floats
    sizes: Floats
    types: Sequence[str]


def render(view: View) -> dict[str, npt.NDArray[np.uint8]]:
    """One image [64, 96, 3] of each camera."""
    ground = _ground(view)
    return {name: _image(camera(name), ground, view) for name in CAMERAS}


def _cells(points: Floats) -> list[tuple[float, float]]:
    """Columns and rows of the ground's picture."""
    columns = (points[:, 0] + _BEHIND) / _METRES_PER_CELL
    rows = (points[:, 1] + _ASIDE) / _METRES_PER_CELL
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


def _ground(view: View) -> npt.NDArray[np.uint8]:
    """The ground from above, indexed by cells to the left and ahead."""
    size = (round((_BEHIND + _AHEAD) / _METRES_PER_CELL), round(2 * _ASIDE / _METRES_PER_CELL))
    picture = Image.new("RGB", size, _GRASS)
    draw = ImageDraw.Draw(picture)
    frame = shapely.box(-_BEHIND - 1, -_ASIDE - 1, _AHEAD + 1, _ASIDE + 1)
    parts = shapely.get_parts(shapely.intersection(shapely.union_all(list(view.roads)), frame))
    for polygon in parts[shapely.get_type_id(parts) == 3]:
        draw.polygon(_cells(np.asarray(polygon.exterior.coords)), fill=_ROAD)
        for hole in polygon.interiors:
            draw.polygon(_cells(np.asarray(hole.coords)), fill=_GRASS)
    for line in view.lines:
        draw.line(_cells(line), fill=_LINE, width=3)
    return np.asarray(picture)


def _image(eye: Camera, ground: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    width, height = WIDTH * _FINER, HEIGHT * _FINER
    columns, rows = np.meshgrid((np.arange(width) + 0.5) / _FINER, (np.arange(height) + 0.5) / _FINER)
    pixels = np.stack([columns, rows, np.ones_like(columns)], axis=-1)
    rays = pixels @ np.linalg.inv(eye.intrinsics).T @ eye.rotation.T
    falls = rays[..., 2] < -1e-3
    reach = np.where(falls, -eye.position[2] / np.where(falls, rays[..., 2], -1.0), 0.0)
    at = eye.position[:2] + rays[..., :2] * reach[..., None]
    ahead = np.floor((at[..., 0] + _BEHIND) / _METRES_PER_CELL).astype(np.intp)
    aside = np.floor((at[..., 1] + _ASIDE) / _METRES_PER_CELL).astype(np.intp)
    known = falls & (ahead >= 0) & (ahead < ground.shape[1]) & (aside >= 0) & (aside < ground.shape[0])
    colours = np.where(falls[..., None], np.array(_GRASS, np.uint8), np.array(_SKY, np.uint8))
    colours[known] = ground[aside[known], ahead[known]]
    picture = Image.fromarray(colours)
    draw = ImageDraw.Draw(picture)
    distances = np.hypot(*(view.boxes[:, :2] - eye.position[:2]).T)
    for row in np.argsort(-distances, kind="stable"):
        for outline, colour in _faces(eye, view, int(row)):
            draw.polygon(outline, fill=colour)
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def _faces(eye: Camera, view: View, row: int) -> list[tuple[list[tuple[float, float]], tuple[int, ...]]]:
    """Outlines and colours of the sides of a box that the camera sees, the farthest first."""
    x, y, yaw = view.boxes[row]
    length, width, height = view.sizes[row]
    name = view.types[row]
    body = np.array(_COLOURS.get(name, _CARS[row % len(_CARS)]), np.float64)
    front = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    left = np.array([-front[1], front[0], 0.0])
    up = np.array([0.0, 0.0, 1.0])
    centre = np.array([x, y, height / 2])
    ends = name == "vehicle"
    sides = (
        (front * length / 2, left * width / 2, up * height / 2, np.array(_FRONT) if ends else body),
        (-front * length / 2, left * width / 2, up * height / 2, np.array(_REAR) if ends else body * 0.9),
        (left * width / 2, front * length / 2, up * height / 2, body * 0.8),
        (-left * width / 2, front * length / 2, up * height / 2, body * 0.8),
        (up * height / 2, front * length / 2, left * width / 2, np.minimum(body * 1.15, 255)),
    )
    seen = []
    for out, one, other, colour in sides:
        middle = centre + out
        if out @ (eye.position - middle) <= 0:
            continue
        corners = np.array([middle + one + other, middle + one - other, middle - one - other, middle - one + other])
        outline = _projected(eye, corners)
        if len(outline) > 2:
            depth = float(np.linalg.norm(middle - eye.position))
            seen.append((depth, outline, tuple(int(part) for part in colour)))
    return [(outline, colour) for _, outline, colour in sorted(seen, key=lambda side: -side[0])]


def _projected(eye: Camera, corners: Floats) -> list[tuple[float, float]]:
    """Pixels of a flat outline, cut off where it comes too near."""
    inside = (corners - eye.position) @ eye.rotation
    kept: list[Floats] = []
    for here, following in zip(inside, np.roll(inside, -1, axis=0), strict=True):
        if here[2] >= _NEAR:
            kept.append(here)
        if (here[2] >= _NEAR) != (following[2] >= _NEAR):
            kept.append(here + (following - here) * (_NEAR - here[2]) / (following[2] - here[2]))
    pixels = np.array(kept).reshape(-1, 3) @ eye.intrinsics.T
    flat = pixels[:, :2] / pixels[:, 2:] * _FINER
    return [(float(column), float(line)) for column, line in flat]
