"""What a contract says of a camera, beyond what it says of every input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dipole_policy.contract_table import Table
from dipole_policy.errors import ContractError, shown

_LARGEST = 65535


@dataclass(frozen=True)
class Crop:
    """The region of the camera's picture that counts, in pixels of the camera."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class CameraOptions:
    """What becomes of a camera's picture.

    :param crop: None: all of it.
    :param stack: the last so many frames, one of each control period, along the channels, oldest first.
    :param range: of a camera of 16 bits: the values that become 1 and 255; 0 stays 0. None: the camera has 8 bits.
    :param frozen_after_s: the robot stops where the picture has not changed, or has been of one colour, for longer;
        None: it may.
    """

    crop: Crop | None = None
    stack: int = 1
    range: tuple[int, int] | None = None
    frozen_after_s: float | None = None


def camera_options(table: Table, where: str) -> CameraOptions:
    """Takes a camera's keys from an entry of the contract.

    :raises ContractError: naming the place, what was found and what was expected.
    """
    crop = table.take("crop", None)
    return CameraOptions(
        crop=None if crop is None else _crop(crop, f"{where}.crop"),
        stack=table.whole("stack", 1, 64, 1),
        range=_range(table.take("range", None), where),
        frozen_after_s=table.number("frozen_after_s", 1e-3, 3600.0, None),
    )


def _crop(value: Any, where: str) -> Crop:
    table = Table(value, where)
    found = Crop(
        left=table.whole("left", 0, _LARGEST),
        top=table.whole("top", 0, _LARGEST),
        width=table.whole("width", 1, _LARGEST),
        height=table.whole("height", 1, _LARGEST),
    )
    table.require_empty()
    return found


def _range(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value):
        low, high = value
        if 0 <= low < high <= _LARGEST:
            return low, high
    raise ContractError(
        f"{where}.range is {shown(value)}, expected two whole numbers from 0 to {_LARGEST}, the lower one first"
    )
