"""The observation of a recording: the contract's entries as a bundle would take them, or as they are without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from dipole_policy.cameras import CameraReader, Frame
from dipole_policy.contract import Contract
from dipole_policy.errors import InputError
from dipole_policy.layout import ObservationLayout, PictureLayout
from dipole_policy.observation import entry_readers
from dipole_policy.topic_reader import Received, TopicReader
from dipole_runtime.manifest import Manifest, ObservationPart, ObservationSpec
from dipole_runtime.pictures import PictureSpec
from gymnasium import spaces

from dipole_export.bags.reading import Bag, BagError
from dipole_sb3.datasets.image_sizes import resized


class Seen(NamedTuple):
    """What is read of a recording's inputs.

    :param spec: of everything but the pictures.
    :param space: of the observations that come out.
    """

    readers: Sequence[TopicReader]
    layout: ObservationLayout | PictureLayout
    spec: ObservationSpec
    space: spaces.Space[Any]

    @classmethod
    def of(cls, bag: Bag, contract: Contract, manifest: Manifest | None, image_size: tuple[int, int] | None) -> Seen:
        """Fits a contract to a recording.

        :param manifest: of the bundle that the contract must fit; None: no bundle.
        :param image_size: height and width that every frame is resized to before it is stacked; None: as it is.
        :raises ContractError: the contract does not fit the message types or the bundle.
        :raises BagError: a camera's first picture cannot be read.
        """
        readers = entry_readers(contract, bag.describe)
        cameras = [reader for reader in readers if isinstance(reader, CameraReader)]
        if manifest is not None:
            spec, pictures = manifest.observation, manifest.pictures
        else:
            spec = _numbers([reader for reader in readers if not isinstance(reader, CameraReader)])
            # With readers of their own: what they remember must not count in the conversion.
            others = entry_readers(contract, bag.describe)
            pictures = tuple(_picture(bag, reader) for reader in others if isinstance(reader, CameraReader))
        if image_size is not None and not cameras:
            raise ValueError("image-size is given, expected a contract with cameras")
        for camera in cameras:
            camera.resize = None if image_size is None else _resizing(image_size)
        layout = PictureLayout(readers, spec, pictures) if pictures else ObservationLayout(readers, spec)
        return cls(readers, layout, spec, _space(spec, pictures, image_size))


def _numbers(readers: Sequence[TopicReader]) -> ObservationSpec:
    """As in a manifest: one vector of the contract's entries, in order; or one for each key."""
    parts: dict[str | None, list[str]] = {}
    for reader in readers:
        names = parts.setdefault(reader.entry.key, [])
        label = reader.entry.key or "observation"
        start = len(names)
        names += reader.entry.elements or (f"{label}_{start + index}" for index in range(reader.size))
    found = tuple(ObservationPart(key, (len(names),), "float32", "Box", None) for key, names in parts.items())
    every = tuple(name for names in parts.values() for name in names)
    return ObservationSpec(len(every), every, found)


def _picture(bag: Bag, camera: CameraReader) -> PictureSpec:
    """As the camera's first message shows it."""
    topic = camera.entry.topic
    first = next(bag.events([topic]))
    try:
        height, width, channels = camera.read_received(Received(first.message, first.time_ns)).shape
    except InputError as error:
        raise BagError(f"{bag.path}: the first picture cannot be read: {error.cause.detail}") from error
    return PictureSpec(camera.entry.key, height, width, channels * camera.options.stack)


def _resizing(image_size: tuple[int, int]) -> Callable[[Frame], Frame]:
    if find_spec("PIL") is None:
        raise ImportError("image-size needs Pillow; run: pip install 'dipole-sb3[bags]'")
    return partial(resized, image_size=image_size)


def _space(
    spec: ObservationSpec, pictures: Sequence[PictureSpec], image_size: tuple[int, int] | None
) -> spaces.Space[Any]:
    found: dict[str | None, spaces.Space[Any]] = {
        part.key: spaces.Box(-np.inf, np.inf, part.shape, np.float32) for part in spec.parts
    }
    for one in pictures:
        height, width = image_size or (one.height, one.width)
        found[one.key] = spaces.Box(0, 255, (height, width, one.channels), np.uint8)
    return found[None] if None in found else spaces.Dict({str(key): space for key, space in found.items()})
