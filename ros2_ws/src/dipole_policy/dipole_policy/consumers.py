"""What the known receivers of a command demand of it, beyond its type: what they drop in silence is refused here.

Sources: joint_trajectory_controller of ros2_controllers (``validate_trajectory_msg``; a trajectory whose points end
before it arrives is dropped, and a stamp of zero means "from now on"); REP 103 and 105 for frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dipole_policy.errors import ContractError, shown
from dipole_policy.fields import Path, shown_field

if TYPE_CHECKING:
    from dipole_policy.contract import ActionEntry

JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
UNSTAMPED = frozenset({JOINT_TRAJECTORY})
"""Types whose stamp stays zero: the time of a stamp has passed when the message arrives."""

_FRAMED = frozenset({"geometry_msgs/msg/TwistStamped"})


def is_place(path: Path) -> bool:
    """Whether a field is a position, by its name."""
    return any(step in ("position", "positions") for step in path)


def require(where: str, entry: ActionEntry, period_s: float) -> None:
    """Checks an action against the receivers of its type.

    :param where: its place in the contract.
    :param period_s: seconds between commands.
    :raises ContractError: the receivers would refuse or drop such commands.
    """
    constants = dict(entry.constants)
    if entry.type in _FRAMED and not constants.get(("header", "frame_id")):
        raise ContractError(
            f"{where}.constants has no header.frame_id, expected the frame of the {entry.type}, such as base_link"
        )
    if entry.type == JOINT_TRAJECTORY:
        _require_trajectory(where, entry, constants, period_s)


def _require_trajectory(where: str, entry: ActionEntry, constants: dict[Path, object], period_s: float) -> None:
    if not entry.names:
        raise ContractError(f"{where} has no names, expected the joints: a trajectory without joint_names is refused")
    for path in constants:
        if path[:2] == ("header", "stamp"):
            raise ContractError(
                f"{where}.constants.{shown_field(path)} is given, expected no stamp: zero means from now on"
            )
    for path in entry.fields:
        if path == ("points", 0, "positions") and entry.on_stop == "zero":
            raise ContractError(f"{where}.on_stop is zero, which is a place to go to, expected hold or none")
        if path[:2] != ("points", 0):
            raise ContractError(
                f"{where} writes {shown_field(path)}, expected fields of points[0]: trajectories of one point"
            )
    start = ("points", 0, "time_from_start")
    seconds = _number(constants.get((*start, "sec"), 0)) + 1e-9 * _number(constants.get((*start, "nanosec"), 0))
    # The period is a rounded quotient.
    if seconds < period_s * (1.0 - 1e-6):
        raise ContractError(
            f"{where}.constants: points[0].time_from_start is {shown(seconds)} s, expected at least one period, "
            f"{period_s:g} s (points[0].time_from_start.nanosec): a point of the past is dropped"
        )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
