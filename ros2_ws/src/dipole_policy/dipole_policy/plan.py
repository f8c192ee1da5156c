"""Plans on their way out: as a path, or as the trajectory that Autoware follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from dipole_runtime import Manifest
from numpy.typing import NDArray

from dipole_policy.action import Command
from dipole_policy.cameras import CameraReader
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.driven_types import PLAN_STOPS
from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import Describe
from dipole_policy.history import INTERVAL_S, placed
from dipole_policy.layout import ObservationLayout
from dipole_policy.observation import HistoryReader, Origin
from dipole_policy.topic_reader import Received, TopicReader

CAMERAS = "cameras"
_BASE = np.zeros(3)
_S = 1_000_000_000


class PlanLayout:
    """Assembles the contract's entries into what a plan bundle's policy observes.

    :param readers: of the contract's observation.
    :raises ContractError: keys, sizes or the number of cameras differ from the bundle's.
    """

    def __init__(self, readers: Sequence[TopicReader], manifest: Manifest) -> None:
        plan = manifest.plan
        assert plan is not None
        self._shape = plan.picture_shape
        self._cameras = [reader for reader in readers if isinstance(reader, CameraReader)]
        for reader in self._cameras:
            if reader.entry.key != CAMERAS:
                raise ContractError(
                    f"{reader.entry.topic} gives a picture for the key {shown(reader.entry.key)}, expected {CAMERAS!r}"
                )
            if reader.options.stack > 1 or reader.options.range is not None:
                raise ContractError(f"{reader.entry.topic} has stack or range, expected none: plans take neither")
        if len(self._cameras) != len(plan.cameras):
            raise ContractError(
                f"observation has {len(self._cameras)} pictures, expected {len(plan.cameras)}, of the bundle's cameras "
                f"{', '.join(plan.cameras)}, in that order"
            )
        for reader, camera in zip(self._cameras, plan.cameras, strict=True):
            if reader.entry.elements not in ((), (camera,)):
                found = ", ".join(reader.entry.elements)
                raise ContractError(
                    f"{reader.entry.topic} is to give {found}, but the bundle has {camera} in that place"
                )
        if plan.interval_s != INTERVAL_S:
            raise ContractError(f"the bundle's poses are {plan.interval_s:g} s apart, expected {INTERVAL_S:g} s")
        self._others = ObservationLayout(
            [reader for reader in readers if not isinstance(reader, CameraReader)], manifest.observation
        )
        self.order: list[TopicReader] = [*self._others.order, *self._cameras]
        """The contract's entries in the bundle's order."""

    def build(self, inputs: Mapping[str, Received], now_ns: int) -> dict[str, NDArray[Any]]:
        """The observation by key.

        :param inputs: what has arrived; see :class:`dipole_policy.observation.Inputs`.
        :param now_ns: the node's clock.
        :raises InputError: naming the first topic that is missing, stale, wrongly sized or not finite.
        """
        pictures = [self._picture(reader, inputs, now_ns) for reader in self._cameras]
        others: dict[str, NDArray[Any]] = self._others.arrange(self._others.build(inputs, now_ns))
        return {CAMERAS: np.stack(pictures), **others}

    def arrange(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The observation in the policy's format: as it is."""
        return observation

    def _picture(self, reader: CameraReader, inputs: Mapping[str, Received], now_ns: int) -> NDArray[np.uint8]:
        found = reader.fresh(inputs, now_ns)
        if found.shape[2] == 1:
            found = np.repeat(found, 3, axis=2)
        if found.shape != self._shape:
            raise reader.wrong_size(found.shape, self._shape)
        return found


def plan_parts(contract: Contract, manifest: Manifest) -> list[slice]:
    """Every action of the contract takes the whole plan.

    :raises ContractError: one of them does not take plans, or none can be placed.
    """
    for where, entry in contract.placed_actions():
        if entry.frame is None:
            raise ContractError(
                f"{where}.type is {entry.type}, expected {' or '.join(PLAN_STOPS)}: the bundle holds plans"
            )
    return [slice(0, manifest.action.size)] * len(contract.actions)


def require_no_plans(contract: Contract) -> None:
    """Refuses actions that take plans, of which a bundle of another form has none."""
    for where, entry in contract.placed_actions():
        if entry.frame is not None:
            raise ContractError(f"{where}.type is {entry.type}, which takes plans: only plan bundles hold such")


class PlanWriter:
    """Writes plans, and the stop that the receivers of a type understand.

    One for all bundles: a stop is made from the last plan that was sent, whichever bundle it was of.

    :param where: its place in the contract.
    :param history: reads where plans begin.
    :raises ContractError: the message type is not installed.
    """

    def __init__(self, where: str, entry: ActionEntry, history: HistoryReader, describe: Describe) -> None:
        self.entry = entry
        self._where, self._history = where, history
        self._is_path = entry.type.startswith("nav_msgs/")
        self._last: tuple[Origin, NDArray[np.float64]] | None = None
        try:
            describe(entry.type)
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error

    def message(self, command: Command, make: Callable[[str], Any], stamp: Any | None) -> Any | None:
        """Makes a new message.

        :param command: the plan, [poses · 3]; NaN: a stop.
        :param make: type name → an empty message.
        :param stamp: of an empty path: builtin_interfaces/msg/Time.
        :return: None: a stop, and nothing was sent that could be followed.
        """
        is_stop = bool(np.isnan(command).any())
        if not is_stop:
            assert self._history.origin is not None
            self._last = (self._history.origin, command.reshape(-1, 3))
        if self._is_path:
            return self._path(make, None if is_stop else self._last, stamp)
        return None if self._last is None else self._trajectory(make, *self._last, is_stop)

    def try_out(self, make: Callable[[str], Any]) -> None:
        """Writes a plan, so that what is wrong with the message type is known now and not while driving.

        :raises ContractError: naming the message type and what it does not accept.
        """
        origin = Origin(0, _BASE, "odom", "base_link")
        try:
            if self._is_path:
                self._path(make, (origin, np.zeros((1, 3))), None)
            else:
                self._trajectory(make, origin, np.zeros((1, 3)), False)
        except Exception as error:
            raise ContractError(f"{self._where}: {self.entry.type} cannot be written ({one_line(error)})") from error

    def _path(
        self, make: Callable[[str], Any], plan: tuple[Origin, NDArray[np.float64]] | None, stamp: Any | None
    ) -> Any:
        path = make("nav_msgs/msg/Path")
        if plan is None:
            path.header.frame_id = "" if self._history.origin is None else self._frame(self._history.origin)
            if stamp is not None:
                path.header.stamp = stamp
            return path
        origin, poses = plan
        self._stamp(path.header, origin, 0.0)
        for index, pose in enumerate(self._seen(poses, origin)):
            stamped = make("geometry_msgs/msg/PoseStamped")
            self._stamp(stamped.header, origin, (index + 1) * INTERVAL_S)
            _assign(stamped.pose, pose)
            path.poses.append(stamped)
        return path

    def _trajectory(self, make: Callable[[str], Any], origin: Origin, poses: NDArray[np.float64], stands: bool) -> Any:
        """With the place where the car is as its first point: controllers look for the point nearest to it."""
        trajectory = make("autoware_planning_msgs/msg/Trajectory")
        self._stamp(trajectory.header, origin, 0.0)
        whole = np.concatenate([_BASE[None], poses])
        motion = np.zeros((len(whole), 3)) if stands else _motion(whole)
        for index, (pose, values) in enumerate(zip(self._seen(whole, origin), motion, strict=True)):
            point = make("autoware_planning_msgs/msg/TrajectoryPoint")
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(round(index * INTERVAL_S * _S), _S)
            _assign(point.pose, pose)
            names = ("longitudinal_velocity_mps", "acceleration_mps2", "heading_rate_rps")
            for name, value in zip(names, values, strict=True):
                setattr(point, name, float(value))
            trajectory.points.append(point)
        return trajectory

    def _frame(self, origin: Origin) -> str:
        return origin.frame if self.entry.frame == "odometry" else origin.base

    def _seen(self, poses: NDArray[np.float64], origin: Origin) -> NDArray[np.float64]:
        return placed(poses, origin.pose) if self.entry.frame == "odometry" else poses

    def _stamp(self, header: Any, origin: Origin, after_s: float) -> None:
        header.frame_id = self._frame(origin)
        header.stamp.sec, header.stamp.nanosec = divmod(origin.time_ns + round(after_s * _S), _S)


def stopped(message: Any) -> Any:
    """A message of a plan, changed into the stop that :class:`PlanWriter` would send after it."""
    if hasattr(message, "poses"):
        message.poses = []
        return message
    for point in message.points:
        point.longitudinal_velocity_mps = point.acceleration_mps2 = point.heading_rate_rps = 0.0
    return message


def _assign(message: Any, pose: NDArray[np.float64]) -> None:
    """A geometry_msgs/msg/Pose from x, y and yaw."""
    message.position.x, message.position.y = float(pose[0]), float(pose[1])
    message.orientation.z, message.orientation.w = float(np.sin(pose[2] / 2)), float(np.cos(pose[2] / 2))


def _motion(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """[poses, 3]: speed ahead, acceleration and yaw rate at each pose, from the differences around it."""
    turned = np.diff(np.unwrap(poses[:, 2]))
    ahead = poses[:-1, 2] + turned / 2
    along = np.diff(poses[:, 0]) * np.cos(ahead) + np.diff(poses[:, 1]) * np.sin(ahead)
    speeds, rates = (_at_poses(values / INTERVAL_S) for values in (along, turned))
    return np.stack([speeds, np.gradient(speeds, INTERVAL_S), rates], axis=1)


def _at_poses(between: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values between poses → at the poses: the mean of both sides."""
    padded = np.concatenate([between[:1], between, between[-1:]])
    return np.asarray((padded[:-1] + padded[1:]) / 2)
