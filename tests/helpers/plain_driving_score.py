"""The PDM score of one plan, written down plainly: loops, matrices and one shapely question at a time.

Beside ``dipole_sb3.driving.score``, which works on many plans at once and solves the tracker's problems in closed form.
Shared with it are the constants alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import interp1d
from scipy.signal import savgol_filter
from shapely.geometry import LineString, Point, Polygon

from dipole_sb3.driving.score import bicycle, collisions, comfort, pdms, tracker

STEP = 0.1


class State(NamedTuple):
    x: float
    y: float
    yaw: float
    speed: float
    lateral_speed: float
    acceleration: float
    lateral_acceleration: float
    steering: float

    def corners(self):
        """Front left, rear left, rear right, front right; then the middle."""
        forward = np.array([math.cos(self.yaw), math.sin(self.yaw)])
        left = np.array([-forward[1], forward[0]])
        middle = np.array([self.x, self.y]) + bicycle.REAR_AXLE_TO_CENTRE * forward
        ahead, aside = forward * bicycle.LENGTH / 2, left * bicycle.WIDTH / 2
        return [middle + ahead + aside, middle - ahead + aside, middle - ahead - aside, middle + ahead - aside], middle


def same_angle(angle):
    return math.atan2(math.sin(angle), math.cos(angle))


def followed(ego, plan):
    """The plan in the map frame every 0.1 s, [41, 3]."""
    x, y, yaw = ego.pose
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    points = np.array([[x, y], *([x, y] + turn @ pose[:2] for pose in plan)])
    angles = np.unwrap([yaw, *(same_angle(yaw + pose[2]) for pose in plan)])
    at = np.arange(9) * 0.5
    corners = np.column_stack([points, angles])
    return interp1d(at, corners, axis=0, fill_value="extrapolate")(np.arange(41) * STEP)


def profiles(path):
    """Speeds and curvatures [40] by least squares over a first value and its changes."""
    steps = len(path) - 1
    moves = np.diff(path[:, :2], axis=0)
    rows, wanted = [], []
    for step in range(steps):
        weights = np.array([STEP, *([STEP**2] * step), *([0.0] * (steps - 1 - step))])
        rows += [weights * math.cos(path[step, 2]), weights * math.sin(path[step, 2])]
        wanted += list(moves[step])
    penalties = np.zeros((steps - 2, steps))
    for row in range(steps - 2):
        penalties[row, row + 1] = -1
    penalties[-1, -1] = 1
    rows += list(math.sqrt(tracker.JERK_PENALTY) * penalties)
    wanted += [0] * (steps - 2)
    first, *changes = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    speeds = first + STEP * np.concatenate([[0], np.cumsum(changes)])

    turns = [same_angle(angle) for angle in np.diff(path[:, 2])]
    rows = [
        speeds[step] * np.array([STEP, *([STEP**2] * step), *([0.0] * (steps - 1 - step))]) for step in range(steps)
    ]
    penalties = math.sqrt(tracker.CURVATURE_RATE_PENALTY) * np.eye(steps)
    penalties[0, 0] = math.sqrt(tracker.INITIAL_CURVATURE_PENALTY)
    first, *changes = np.linalg.lstsq(np.array([*rows, *penalties]), np.array([*turns, *([0] * steps)]), rcond=None)[0]
    return speeds, first + STEP * np.concatenate([[0], np.cumsum(changes)])


def command(state, pose, target, curvatures):
    """Acceleration and steering rate."""
    if target <= tracker.STOPPING_SPEED and state.speed <= tracker.STOPPING_SPEED:
        return -tracker.STOPPING_GAIN * (state.speed - target), 0.0
    period = tracker.HORIZON * STEP
    acceleration = -tracker.SPEED_WEIGHT * period * (state.speed - target)
    acceleration /= tracker.SPEED_WEIGHT * period**2 + tracker.INPUT_WEIGHT

    x, y, yaw = pose
    errors = np.array(
        [
            -(state.x - x) * math.sin(yaw) + (state.y - y) * math.cos(yaw),
            same_angle(state.yaw - yaw),
            state.steering,
        ]
    )
    answers = np.zeros(3)
    for moment in range(tracker.HORIZON):
        speed = state.speed + moment * STEP * acceleration
        change = np.eye(3)
        change[0, 1] = speed * STEP
        change[1, 2] = speed * STEP / bicycle.WHEELBASE
        errors = change @ errors + [0, -speed * curvatures[moment] * STEP, 0]
        answers = change @ answers + [0, 0, STEP]
    errors[1] = same_angle(errors[1])
    weights = np.diag([tracker.LATERAL_WEIGHT, tracker.HEADING_WEIGHT, 0.0])
    return acceleration, -(answers @ weights @ errors) / (answers @ weights @ answers + tracker.INPUT_WEIGHT)


def moved(state, acceleration, steering_rate):
    """The next state."""
    acceleration = state.acceleration + (acceleration - state.acceleration) * STEP / (STEP + bicycle.ACCELERATION_LAG)
    steering = state.steering + steering_rate * STEP * STEP / (STEP + bicycle.STEERING_LAG)
    return State(
        x=state.x + state.speed * math.cos(state.yaw) * STEP,
        y=state.y + state.speed * math.sin(state.yaw) * STEP,
        yaw=same_angle(state.yaw + state.speed * math.tan(state.steering) / bicycle.WHEELBASE * STEP),
        speed=state.speed + acceleration * STEP,
        lateral_speed=0.0,
        acceleration=acceleration,
        lateral_acceleration=0.0,
        steering=min(max(steering, -bicycle.STEERING_LIMIT), bicycle.STEERING_LIMIT),
    )


def drive(ego, path):
    """41 states."""
    speeds, curvatures = profiles(path)
    states = [State(*ego.pose, *ego.velocity, *ego.acceleration, ego.steering_angle)]
    for moment in range(40):
        target = speeds[min(moment + tracker.HORIZON, 39)]
        ahead = [curvatures[min(moment + later, 39)] for later in range(tracker.HORIZON)]
        states.append(moved(states[-1], *command(states[-1], path[moment], target, ahead)))
    return states


class World:
    """What surrounds a plan."""

    def __init__(self, surroundings):
        self.tracks, self.roads = surroundings.tracks, surroundings.roads

    def inside(self, point, *kinds):
        return any(
            polygon.contains(Point(point))
            for kind, polygon in zip(self.roads.kinds, self.roads.polygons, strict=True)
            if kind in kinds
        )

    def off_road(self, state):
        return not all(
            self.inside(corner, "roadblock", "intersection", "drivable", "carpark") for corner in state.corners()[0]
        )

    def in_several_lanes(self, state):
        counts = [
            sum(polygon.contains(Point(corner)) for corner in state.corners()[0])
            for kind, polygon in zip(self.roads.kinds, self.roads.polygons, strict=True)
            if kind in ("lane", "connector")
        ]
        return sum(count > 0 for count in counts) > 1 and 4 not in counts

    def box(self, track, moment):
        """Its polygon, or None while it is not there."""
        x, y, yaw = self.tracks.poses[track, moment]
        if math.isnan(x):
            return None
        length, width = self.tracks.sizes[track] / 2
        cos, sin = math.cos(yaw), math.sin(yaw)
        return Polygon(
            [
                (x + along * length * cos - across * width * sin, y + along * length * sin + across * width * cos)
                for along, across in [(1, 1), (-1, 1), (-1, -1), (1, -1)]
            ]
        )

    def stands(self, track):
        if self.tracks.kinds[track] == "static":
            return True
        seen = [velocity for velocity in self.tracks.velocities[track] if not math.isnan(velocity[0])]
        return bool(seen) and math.hypot(*seen[0]) <= collisions.STANDING


def direction(state, point):
    """The angle between the car's direction and that of a point, seen from the rear axle."""
    across = math.cos(state.yaw) * (point[1] - state.y) - math.sin(state.yaw) * (point[0] - state.x)
    along = math.cos(state.yaw) * (point[0] - state.x) + math.sin(state.yaw) * (point[1] - state.y)
    return abs(math.atan2(across, along))


def no_collision(states, world):
    score, excused = 1.0, set()
    for moment, state in enumerate(states):
        corners, _ = state.corners()
        for track, kind in enumerate(world.tracks.kinds):
            box = world.box(track, moment)
            if track in excused or box is None or not Polygon(corners).intersects(box):
                continue
            if math.hypot(state.speed, state.lateral_speed) <= collisions.STANDING:
                fault = False
            elif world.stands(track):
                fault = True
            elif direction(state, world.tracks.poses[track, moment]) > collisions.BEHIND:
                fault = False
            elif LineString([corners[0], corners[3]]).intersects(box):
                fault = True
            else:
                fault = world.in_several_lanes(state) or world.off_road(state)
            if fault:
                score = min(score, 0.5 if kind == "static" else 0.0)
            else:
                excused.add(track)
    return score


def time_to_collision(states, world):
    excused = set()
    for moment, state in enumerate(states):
        speed = math.hypot(state.speed, state.lateral_speed)
        if speed < collisions.STANDING_TTC:
            continue
        for later in (0, 3, 6, 9):
            shift = speed * later * STEP * np.array([math.cos(state.yaw), math.sin(state.yaw)])
            car = Polygon([corner + shift for corner in state.corners()[0]])
            for track in range(len(world.tracks.kinds)):
                box = world.box(track, moment + later)
                if track in excused or box is None or not car.intersects(box):
                    continue
                angle = direction(state, world.tracks.poses[track, moment + later])
                wary = (
                    world.in_several_lanes(state)
                    or world.off_road(state)
                    or world.inside((state.x, state.y), "intersection")
                )
                if angle < collisions.AHEAD or (wary and not angle > collisions.BEHIND):
                    return 0.0
                excused.add(track)
    return 1.0


def is_comfortable(states):
    along = np.array([state.acceleration for state in states])
    across = np.array([state.lateral_acceleration for state in states])
    yaw = np.unwrap([state.yaw for state in states])
    quantities = [
        (savgol_filter(along, 41, 2), *comfort.LONGITUDINAL),
        (savgol_filter(across, 41, 2), -comfort.LATERAL, comfort.LATERAL),
        (savgol_filter(yaw, 5, 3, deriv=2, delta=STEP), -comfort.YAW_ACCELERATION, comfort.YAW_ACCELERATION),
        (savgol_filter(yaw, 5, 2, deriv=1, delta=STEP), -comfort.YAW_RATE, comfort.YAW_RATE),
    ]
    for values, bound in ((np.hypot(along, across), comfort.JERK), (along, comfort.LONGITUDINAL_JERK)):
        jerk = savgol_filter(savgol_filter(values, 8, 2), 41, 2, deriv=1, delta=STEP)
        quantities.append((jerk, -bound, bound))
    return all(low < value < high for values, low, high in quantities for value in values)


def parts(states, world):
    """No collision, drivable area, metres of progress."""
    line = LineString(world.roads.centreline)
    advance = line.project(Point(states[-1].corners()[1])) - line.project(Point(states[0].corners()[1]))
    return no_collision(states, world), 0.0 if any(map(world.off_road, states)) else 1.0, max(advance, 0.0)


def score_plan(surroundings, plan):
    """No collision, drivable area, progress, time to collision, comfort and the score of one plan [8, 3]."""
    world = World(surroundings)
    states = drive(surroundings.ego, followed(surroundings.ego, plan))
    free, on_road, advance = parts(states, world)
    reference = math.prod(parts(drive(surroundings.ego, surroundings.reference[:41]), world))
    best = max(advance * free * on_road, reference)
    progress = advance * free * on_road / best if best > pdms.SHORT_PROGRESS else float(free * on_road > 0)
    in_time, comfortable = time_to_collision(states, world), float(is_comfortable(states))
    score = free * on_road * (5 * progress + 5 * in_time + 2 * comfortable) / 12
    return free, on_road, progress, in_time, comfortable, score
