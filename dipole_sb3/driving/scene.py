"""What a driving scene is: what the agent sees, and what its plan is scored against.

Lengths are metres, times seconds, angles radians. The *ego frame* has its origin at the middle of the rear axle, x
forward, y to the left. The *map frame* is the log's own. A **plan** is the poses (x, y, yaw) of the rear axle in the
ego frame of now, at 0.5, 1.0, … 4.0 s: an array [8, 3].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

PLAN_POSES = 8
PLAN_INTERVAL = 0.5
HISTORY_POSES = 4
CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")
"""OpenScene's names of the cameras that the agent looks through: front-left, front, front-right."""
COMMANDS = ("left", "straight", "right", "unknown")
"""Where the route leads, in the order of NAVSIM's one-hot driving command."""
TRACK_KINDS = ("vehicle", "pedestrian", "bicycle", "static")
ROAD_KINDS = ("roadblock", "intersection", "drivable", "carpark", "lane", "connector")
"""What a polygon of the map is. The first four are where a car may drive; lanes and connectors tell its lane."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the agent sees at one moment; every array may have the same leading batch axes.

    :ivar cameras: uint8 [3, height, width, 3], RGB, in the order of :data:`CAMERAS`.
    :ivar history: float32 [4, 3], poses (x, y, yaw) of the last 1.5 s in the ego frame of now, oldest first; the last
        is zero.
    :ivar velocity: float32 [2], m/s, in the ego frame.
    :ivar acceleration: float32 [2], m/s², in the ego frame.
    :ivar command: int64 [], index into :data:`COMMANDS`.
    """

    cameras: npt.NDArray[np.uint8]
    history: npt.NDArray[np.float32]
    velocity: npt.NDArray[np.float32]
    acceleration: npt.NDArray[np.float32]
    command: npt.NDArray[np.int64]


def stacked(observations: Sequence[Observation]) -> Observation:
    """Observations with one more leading axis."""
    return Observation(*(np.stack([getattr(one, field.name) for one in observations]) for field in fields(Observation)))


@dataclass(frozen=True, eq=False)
class Ego:
    """The own car at the moment of planning.

    :ivar pose: float64 [3], (x, y, yaw) of the rear axle in the map frame.
    :ivar velocity: float64 [2], m/s, in the ego frame.
    :ivar acceleration: float64 [2], m/s², in the ego frame.
    :ivar steering_angle: rad; 0 where a log does not say it, as in NAVSIM.
    """

    pose: Floats
    velocity: Floats
    acceleration: Floats
    steering_angle: float = 0.0


@dataclass(frozen=True, eq=False)
class Tracks:
    """Everybody else, every 0.1 s from now to 5.0 s (a plan's 4 s and the second that time to collision looks ahead).

    :ivar kinds: [K], of :data:`TRACK_KINDS`.
    :ivar poses: float64 [K, 51, 3], (x, y, yaw) of the box's centre in the map frame; NaN while it is not there.
    :ivar sizes: float64 [K, 2], length and width of the box.
    :ivar velocities: float64 [K, 51, 2], m/s, in the map frame; NaN as the poses.
    """

    kinds: tuple[str, ...]
    poses: Floats
    sizes: Floats
    velocities: Floats


@dataclass(frozen=True, eq=False)
class Roads:
    """The map around the car.

    :ivar kinds: [M], of :data:`ROAD_KINDS`.
    :ivar polygons: object [M], shapely polygons in the map frame.
    :ivar on_route: bool [M]; of lanes and connectors: part of the route.
    :ivar centreline: float64 [P, 2], the route's middle in the map frame, in driving direction; at least two points.
    """

    kinds: tuple[str, ...]
    polygons: npt.NDArray[np.object_]
    on_route: npt.NDArray[np.bool_]
    centreline: Floats


@dataclass(frozen=True, eq=False)
class RedLights:
    """Lane connectors of the route that a traffic light closes.

    :ivar polygons: object [R], shapely polygons in the map frame.
    :ivar red: bool [R, 41], every 0.1 s from now to 4 s.
    """

    polygons: npt.NDArray[np.object_]
    red: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a plan is scored against, the equal of NAVSIM's metric cache.

    :ivar reference: float64 [T, 3], T ≥ 41: poses of the rear axle in the map frame every 0.1 s from now on, the plan
        of the PDM-Closed planner, whose progress the score is relative to.
    :ivar past: float64 [4, 3], every 0.5 s until now, the last: yaw in the map frame, then the acceleration in the
        car's frame. The extended score needs it, as it needs ``red_lights``; the score does not.
    """

    ego: Ego
    tracks: Tracks
    roads: Roads
    reference: Floats
    past: Floats | None = None
    red_lights: RedLights | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """Sub-scores of plans; arrays of one shape, values in [0, 1].

    ``pdms = no_collision · drivable_area · (5·progress + 5·time_to_collision + 2·comfort) / 12``
    """

    no_collision: Floats
    drivable_area: Floats
    progress: Floats
    time_to_collision: Floats
    comfort: Floats
    pdms: Floats
