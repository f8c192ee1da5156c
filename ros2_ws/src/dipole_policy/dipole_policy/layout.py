"""The contract's entries in the order and shapes of a bundle's observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dipole_runtime.manifest import Manifest, ObservationSpec
from dipole_runtime.pictures import PictureSpec
from numpy.typing import NDArray

from dipole_policy.cameras import CameraReader, Frame
from dipole_policy.errors import Cause, ContractError, InputError, Kind, shown
from dipole_policy.topic_reader import Received, TopicReader


class ObservationLayout:
    """Assembles the contract's entries in the order that a bundle requires.

    :param spec: the observation of the manifest.
    :raises ContractError: sizes, names or keys differ from it.
    """

    def __init__(self, readers: Sequence[TopicReader], spec: ObservationSpec) -> None:
        self._spec = spec
        self.order: list[TopicReader] = list(readers)
        """The contract's entries in the bundle's order."""
        if spec.is_dict:
            keys = [part.key for part in spec.parts]
            self.order = [entry for key in keys for entry in readers if entry.entry.key == key]
        for camera in readers:
            if isinstance(camera, CameraReader):
                raise ContractError(f"{camera.entry.topic} gives pictures, of which the bundle takes none")
        _require_keys(readers, spec)
        _require_sizes(self.order, spec)
        _require_elements(self.order, spec)

    def build(self, inputs: Mapping[str, Received], now_ns: int) -> NDArray[np.float32]:
        """The flat observation, float32 of shape [size], finite.

        :param inputs: :meth:`dipole_policy.observation.Inputs.snapshot`.
        :param now_ns: the node's clock.
        :raises InputError: naming the first topic that is missing, stale, wrongly sized or not finite.
        """
        parts = [entry.fresh(inputs, now_ns) for entry in self.order]
        # A finite double of the robot may be too large for the policy's single precision.
        with np.errstate(over="ignore"):
            flat = np.concatenate(parts).astype(np.float32)
        if not np.isfinite(flat).all():
            raise InputError(self._not_finite(flat))
        return flat

    def arrange(self, flat: NDArray[np.float32]) -> Any:
        """The observation in the policy's format: the flat array, or a mapping for Dict observations."""
        if not self._spec.is_dict:
            return flat
        ends = np.cumsum([part.size for part in self._spec.parts])
        pieces = np.split(flat, ends[:-1])
        return {part.key: piece.reshape(part.shape) for part, piece in zip(self._spec.parts, pieces, strict=True)}

    def _not_finite(self, flat: NDArray[np.float32]) -> Cause:
        index = int(np.argmin(np.isfinite(flat)))
        end = 0
        for entry in self.order:
            end += entry.size
            if index < end:
                break
        return Cause(
            Kind.NON_FINITE,
            f"{entry.entry.topic} gives {flat[index]} for {shown(self._spec.names[index])} (element {index})",
        )


def policy_layout(readers: Sequence[TopicReader], manifest: Manifest) -> ObservationLayout | PictureLayout:
    """The layout of a bundle of any form but a plan.

    :raises ContractError: the contract's entries do not fit it.
    """
    if manifest.pictures:
        return PictureLayout(readers, manifest.observation, manifest.pictures)
    return ObservationLayout(readers, manifest.observation)


class PictureLayout:
    """As :class:`ObservationLayout`, for a bundle that takes pictures of cameras.

    :param spec: everything but the pictures; its size is 0 where they are all.
    :param pictures: one or several; one with the key None is the whole observation.
    :raises ContractError: keys, sizes or stacks differ from the bundle's.
    """

    def __init__(self, readers: Sequence[TopicReader], spec: ObservationSpec, pictures: Sequence[PictureSpec]) -> None:
        cameras = [reader for reader in readers if isinstance(reader, CameraReader)]
        others = [reader for reader in readers if not isinstance(reader, CameraReader)]
        self._pictures = [(_camera(cameras, picture), picture) for picture in pictures]
        keys = [picture.key for picture in pictures]
        for camera in cameras:
            if camera.entry.key not in keys:
                raise ContractError(
                    f"{camera.entry.topic} gives a picture for the key {shown(camera.entry.key)}, expected the "
                    f"bundle's: {', '.join(map(str, keys))}"
                )
        if others and not spec.size:
            raise ContractError(f"{others[0].entry.topic} gives numbers, expected pictures alone, as the bundle takes")
        self._others = ObservationLayout(others, spec) if spec.size else None
        self.order: list[TopicReader] = [
            *(self._others.order if self._others else ()),
            *(camera for camera, _ in self._pictures),
        ]
        """The contract's entries in the bundle's order, pictures last."""

    def build(self, inputs: Mapping[str, Received], now_ns: int) -> Any:
        """The observation in the policy's format: by key, or the picture that is all of it.

        :param inputs: :meth:`dipole_policy.observation.Inputs.snapshot`.
        :param now_ns: the node's clock.
        :raises InputError: naming the first topic that is missing, stale, wrongly sized or not finite, or the camera
            that sees nothing. Then no frame is added to a stack.
        """
        frames = [_frame(camera, picture, inputs, now_ns) for camera, picture in self._pictures]
        found: dict[str | None, Any] = {}
        if self._others is not None:
            found = self._others.arrange(self._others.build(inputs, now_ns))
        for (camera, picture), frame in zip(self._pictures, frames, strict=True):
            found[picture.key] = camera.stacked(frame, now_ns)
        return found.get(None, found)

    def arrange(self, observation: Any) -> Any:
        """The observation in the policy's format: as it is."""
        return observation


def _camera(cameras: Sequence[CameraReader], picture: PictureSpec) -> CameraReader:
    """The one that gives a picture of the bundle."""
    found = [camera for camera in cameras if camera.entry.key == picture.key]
    of = "" if picture.key is None else f" with the key {shown(picture.key)}"
    if len(found) != 1:
        raise ContractError(f"observation has {len(found)} pictures{of}, expected the one that the bundle takes")
    (camera,) = found
    topic, stack = camera.entry.topic, camera.options.stack
    channels, rest = divmod(picture.channels, stack)
    if rest or channels not in (1, 3):
        raise ContractError(
            f"{topic} is stacked {stack} times, but the bundle's picture{of} has {picture.channels} channels: expected "
            "as many frames of 1 or 3 channels"
        )
    if camera.options.range is not None and channels != 1:
        raise ContractError(f"{topic} has a range, for depth of one channel, but the bundle's picture{of} has colours")
    if camera.entry.elements:
        raise ContractError(f"{topic} has elements, expected none: only the cameras of plans have names")
    return camera


def _frame(camera: CameraReader, picture: PictureSpec, inputs: Mapping[str, Received], now_ns: int) -> Frame:
    frame = camera.fresh(inputs, now_ns)
    topic, channels = camera.entry.topic, picture.channels // camera.options.stack
    if frame.shape[2] != channels:
        is_, takes = ("grey", "colours") if channels == 3 else ("a colour camera", "one channel (grey or depth)")
        raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} is {is_}, but the bundle takes {takes}"))
    if frame.shape[:2] != (picture.height, picture.width):
        raise camera.wrong_size(frame.shape, (picture.height, picture.width, channels))
    return frame


def _require_keys(readers: Sequence[TopicReader], spec: ObservationSpec) -> None:
    expected = [part.key for part in spec.parts if part.key is not None]
    found = [entry.entry.key for entry in readers if entry.entry.key is not None]
    if not spec.is_dict and found:
        raise ContractError(f"observation has the key {shown(found[0])}, but the bundle's observation is no Dict")
    for key in expected:
        if key not in found:
            raise ContractError(f"observation has no entry with the key {shown(key)}, which the bundle's Dict has")
    for key in found:
        if key not in expected:
            raise ContractError(f"observation has the key {shown(key)}, expected the bundle's: {', '.join(expected)}")


def _require_sizes(order: Sequence[TopicReader], spec: ObservationSpec) -> None:
    for part in spec.parts:
        entries = [entry for entry in order if entry.entry.key == part.key]
        total = sum(entry.size for entry in entries)
        if total != part.size:
            name = "observation" if part.key is None else f"observation {shown(part.key)}"
            sizes = " + ".join(str(entry.size) for entry in entries)
            raise ContractError(f"{name} has {sizes} = {total} elements, expected the bundle's {part.size}")


def _require_elements(order: Sequence[TopicReader], spec: ObservationSpec) -> None:
    start = 0
    for entry in order:
        names = spec.names[start : start + entry.size]
        for found, expected in zip(entry.entry.elements, names, strict=False):
            if found != expected:
                raise ContractError(
                    f"{entry.entry.topic} is to give {shown(found)}, but the bundle has {shown(expected)} in that place"
                )
        start += entry.size
