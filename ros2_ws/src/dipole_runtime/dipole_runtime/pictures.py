"""What a bundle's policy sees with its cameras: the part of a manifest that bundles without pictures do not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dipole_runtime.errors import shown

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

MAX_PICTURE_BYTES = 1 << 25
"""Of all pictures of a decision."""


@dataclass(frozen=True)
class PictureSpec:
    """The picture of one camera: uint8 of shape [height, width, channels].

    :param key: the entry's key of a Dict observation; None if the picture is the whole observation.
    :param height: in pixels, as the camera gives it; the encoder resizes it to what the policy was trained on.
    :param width: likewise.
    :param channels: of all frames that are stacked, the oldest frame's first.
    """

    key: str | None
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channels]."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True)
class EncoderSpec:
    """The graph that turns pictures, and what else is seen, into the features that all other graphs take.

    :param pictures: in the order of the graph's inputs; at least one.
    :param features: number of features.
    """

    pictures: tuple[PictureSpec, ...]
    features: int

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the graph calls its pictures; the test vectors call them the same."""
        return tuple(f"picture_{index}" for index in range(len(self.pictures)))

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return {"features": self.features, "pictures": [dict(vars(picture)) for picture in self.pictures]}

    @classmethod
    def from_json(cls, value: Any) -> EncoderSpec:
        """Of a value that the schema allows."""
        sizes = ("height", "width", "channels")
        pictures = (PictureSpec(one["key"], *(int(one[name]) for name in sizes)) for one in value["pictures"])
        return cls(tuple(pictures), int(value["features"]))


def encoder_contradictions(manifest: Manifest, encoder: EncoderSpec) -> Iterator[str]:
    """Where the manifest of a bundle with pictures contradicts itself, beyond what is checked for every bundle."""
    keys = [picture.key for picture in encoder.pictures] + [part.key for part in manifest.observation.parts]
    if (None in keys and len(keys) > 1) or len(set(keys)) != len(keys):
        yield f"at encoder.pictures: found the keys {shown(str(keys))}, expected one null or different strings"
    for key in keys:
        if key is not None and not key.isprintable():
            yield f"at encoder.pictures: found the key {shown(key)}, expected printable characters"
    size = sum(picture.height * picture.width * picture.channels for picture in encoder.pictures)
    if size > MAX_PICTURE_BYTES:
        yield f"at encoder.pictures: found {size} bytes in all, expected at most {MAX_PICTURE_BYTES}"
