"""From the robot program's pictures, and what else it observes, to the features that a bundle's other graphs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dipole_runtime.errors import GuidedPolicyError, shown
from dipole_runtime.manifest import ENCODER, ObservationSpec
from dipole_runtime.observations import ObservationReader, observation_of, require_keys
from dipole_runtime.pictures import EncoderSpec, PictureSpec
from dipole_runtime.sessions import Floats, Network, Provider

if TYPE_CHECKING:
    from dipole_runtime.bundle import Bundle
    from dipole_runtime.vectors import ActionVectors, TestVectors

Bytes = NDArray[np.uint8]
SomeVectors = TypeVar("SomeVectors", "TestVectors", "ActionVectors")


class Sight:
    """The encoder of a bundle with pictures; safe to use from several threads at once.

    :param bundle: a checked bundle with pictures.
    :param threads: number of threads for one run, at least 1.
    :param providers: see :class:`Network`.
    :raises GuidedPolicyError: ONNX Runtime refuses the graph.
    """

    def __init__(
        self, bundle: Bundle, spec: EncoderSpec, threads: int = 1, providers: Sequence[Provider] | None = None
    ) -> None:
        self._network = Network(ENCODER, bundle.files[ENCODER], threads, providers)
        self._spec = spec
        others = bundle.manifest.observation
        self._read_others = ObservationReader(others).read if others.size else None
        keys = [picture.key for picture in spec.pictures] + [part.key for part in others.parts]
        self._keys = dict.fromkeys(keys).keys()

    def read(self, observation: Any) -> Floats:
        """Observation → features [1, features].

        Pictures are not copied where their pixels lie one after another.

        :raises GuidedPolicyError: other keys, shapes or types; NaN or infinity.
        """
        if None in self._keys:
            seen: dict[Any, Any] = {None: observation}
        else:
            require_keys(observation, self._keys)
            seen = dict(observation)
        pictures = [_picture(seen.pop(picture.key), picture)[None] for picture in self._spec.pictures]
        others = np.empty((1, 0), np.float32) if self._read_others is None else self._read_others(seen)
        return self.features(pictures, others)

    def features(
        self, pictures: Sequence[Bytes], others: Floats, options: onnxruntime.RunOptions | None = None
    ) -> Floats:
        """Pictures, each [rows, height, width, channels], and the flat rest [rows, size] → [rows, features].

        :param options: see :func:`dipole_runtime.sessions.time_limit`.
        """
        inputs: dict[str, NDArray[Any]] = dict(
            zip(self._spec.input_names, map(np.ascontiguousarray, pictures), strict=True)
        )
        if others.shape[1]:
            inputs["observation"] = others
        (features,) = self._network.run(["features"], inputs, options)
        return features

    def seen(self, vectors: SomeVectors, options: onnxruntime.RunOptions | None = None) -> SomeVectors:
        """The same test vectors with features as their observations: what all other graphs are compared on."""
        rows = [
            self.features([picture[at] for picture in vectors.pictures], vectors.observations[at], options)
            # One by one, as on a robot.
            for at in (slice(row, row + 1) for row in range(len(vectors.observations)))
        ]
        return replace(vectors, observations=np.concatenate(rows), pictures=())


def _picture(value: Any, spec: PictureSpec) -> Bytes:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape == spec.shape:
        return value
    name = "observation" if spec.key is None else f"observation {shown(spec.key)}"
    found = (
        f"type {value.dtype} and shape {value.shape}"
        if isinstance(value, np.ndarray)
        else f"type {shown(type(value).__name__)}"
    )
    raise GuidedPolicyError(f"{name} has {found}, expected a picture: uint8 of shape {spec.shape}")


def observation_with(
    encoder: EncoderSpec, spec: ObservationSpec, pictures: Sequence[Bytes], flat: Floats
) -> Bytes | dict[str, Any]:
    """The robot program's observation of pictures, each [height, width, channels], and the flat rest [size]."""
    if encoder.pictures[0].key is None:
        return pictures[0]
    others = observation_of(spec, flat) if spec.size else {}
    assert isinstance(others, dict)
    named = zip(encoder.pictures, pictures, strict=True)
    return {**others, **{str(picture.key): array for picture, array in named}}


def sight_of(bundle: Bundle, threads: int = 1, providers: Sequence[Provider] | None = None) -> Sight | None:
    """The encoder of a checked bundle; None: its policy sees no pictures."""
    encoder = bundle.manifest.encoder
    return None if encoder is None else Sight(bundle, encoder, threads, providers)
