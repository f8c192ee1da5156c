"""Test vectors: the trainer's results, which every machine must reproduce before it may drive."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_runtime.archive import Archive, archive_bytes, require_names
from dipole_runtime.errors import GuidedPolicyError, shown
from dipole_runtime.manifest import VECTORS, Manifest, OmegaRange, PolicyForm
from dipole_runtime.tolerances import ACTION_TOLERANCE

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MAX_CANDIDATE_ACTIONS = 65536
"""Limit for V·W·N."""
VECTOR_CANDIDATES = 32
"""N of the test vectors, or the manifest's N if that is smaller."""

# Exactly what NumPy writes for a float32 or uint8 array in C order: no other type, no pickle, nothing to evaluate.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '(<f4|\|u1)', 'fortran_order': False, 'shape': \((\d{1,9}(?:, \d{1,9})*),?\), \} *\n)",
    re.DOTALL,
)
_MAX_HEADER_SIZE = 256


Shape = tuple[int, ...]


@dataclass(frozen=True)
class TestVectors:
    """For a policy with candidates: V observations, each with its noise, at the same W values of ω; all float32.

    :param observations: [V, obs], raw.
    :param noise: [V, N, act], the flow's starting points; of a diffusion policy [V, N, T·act].
    :param omegas: [W].
    :param candidates: [V, W, N, act], the trainer's actions in the robot's units.
    :param q: [V, W, N], the trainer's returns.
    :param pictures: of each camera [V, height, width, channels], uint8.
    """

    observations: Floats
    noise: Floats
    omegas: Floats
    candidates: Floats
    q: Floats
    pictures: tuple[Bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """The npz file; the same arrays give the same bytes with every version of NumPy."""
        return _npz(self)

    def expected_shapes(self, manifest: Manifest) -> dict[str, Shape]:
        """The shape of each array, by name, from the sizes of the first arrays and of the manifest."""
        observation, action = manifest.observation.size, manifest.action.size
        vectors = self.observations.shape[0]
        omegas = self.omegas.shape[0]
        assert manifest.guidance is not None
        candidates = min(manifest.guidance.num_candidates, VECTOR_CANDIDATES)
        return {
            "observations": (vectors, observation),
            "noise": (vectors, candidates, manifest.noise_size),
            "omegas": (omegas,),
            "candidates": (vectors, omegas, candidates, action),
            "q": (vectors, omegas, candidates),
            **_picture_shapes(manifest, vectors),
        }

    def count(self) -> tuple[int, str]:
        """Number of actions, and a description of it in words."""
        vectors, omegas, candidates = self.q.shape
        return self.q.size, f"{vectors} observations × {omegas} ω × {candidates} candidates"

    def require_cover(self, manifest: Manifest) -> None:
        """Refuses vectors whose ω do not reach both ends of the manifest's range.

        :raises GuidedPolicyError: also if a trainer's action is outside the manifest's bounds.
        """
        assert manifest.guidance is not None
        _require_ends(self.omegas, manifest.guidance.omega)
        _require_inside(self.candidates, manifest)


@dataclass(frozen=True)
class ActionVectors:
    """For a deterministic policy: V observations; all float32.

    :param observations: [V, obs], raw.
    :param actions: [V, act], the trainer's, in the robot's units.
    :param q: [V], the trainer's returns of these actions.
    :param pictures: of each camera [V, height, width, channels], uint8.
    """

    observations: Floats
    actions: Floats
    q: Floats
    pictures: tuple[Bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """The npz file; the same arrays give the same bytes with every version of NumPy."""
        return _npz(self)

    def expected_shapes(self, manifest: Manifest) -> dict[str, Shape]:
        """The shape of each array, by name, from the number of observations and the manifest."""
        vectors = self.observations.shape[0]
        return {
            "observations": (vectors, manifest.observation.size),
            "actions": (vectors, manifest.action.size),
            "q": (vectors,),
            **_picture_shapes(manifest, vectors),
        }

    def count(self) -> tuple[int, str]:
        """Number of actions, and a description of it in words."""
        return self.q.size, f"{self.q.size} observations"

    def require_cover(self, manifest: Manifest) -> None:
        """Refuses vectors with an action outside the manifest's bounds.

        :raises GuidedPolicyError: naming the action's element.
        """
        _require_inside(self.actions, manifest)


@dataclass(frozen=True)
class PlanVectors:
    """For a plan bundle: V scenes, each with its noise, at the same W values of ω; float32 but for the pictures.

    :param cameras: [V, cameras, height, width, 3], uint8.
    :param observations: [V, obs], what else is seen, flat.
    :param noise: [V, 1, noise], what the plan starts from.
    :param omegas: [W].
    :param plans: [V, W, act], the trainer's: metres and radians.
    """

    cameras: Bytes
    observations: Floats
    noise: Floats
    omegas: Floats
    plans: Floats

    def to_bytes(self) -> bytes:
        """The npz file; the same arrays give the same bytes with every version of NumPy."""
        return _npz(self)

    def expected_shapes(self, manifest: Manifest) -> dict[str, Shape]:
        """The shape of each array, by name, from the sizes of the first arrays and of the manifest."""
        assert manifest.plan is not None
        vectors, omegas = self.observations.shape[0], self.omegas.shape[0]
        return {
            "cameras": (vectors, len(manifest.plan.cameras), *manifest.plan.picture_shape),
            "observations": (vectors, manifest.observation.size),
            "noise": (vectors, 1, manifest.noise_size),
            "omegas": (omegas,),
            "plans": (vectors, omegas, manifest.action.size),
        }

    def count(self) -> tuple[int, str]:
        """Number of plans, and a description of it in words."""
        vectors, omegas, _ = self.plans.shape
        return vectors * omegas, f"{vectors} scenes × {omegas} ω"

    def require_cover(self, manifest: Manifest) -> None:
        """Refuses vectors whose ω do not reach both ends of the manifest's range, or a plan outside its bounds."""
        assert manifest.guidance is not None
        _require_ends(self.omegas, manifest.guidance.omega)
        _require_inside(self.plans, manifest)


Vectors = TestVectors | ActionVectors | PlanVectors

_KINDS: Mapping[PolicyForm, type[Vectors]] = {"deterministic": ActionVectors, "plan": PlanVectors}
_BYTES = re.compile(r"cameras|picture_\d+")
"""Names of the arrays of uint8."""


def read_vectors(data: bytes, manifest: Manifest) -> Vectors:
    """Reads test_vectors.npz for the manifest's policy form; shapes are checked before memory is allocated.

    :raises GuidedPolicyError: other arrays, types or sizes, or NaN or infinity in them.
    """
    kind: type[Vectors] = _KINDS.get(manifest.policy, TestVectors)
    try:
        pictures = () if manifest.encoder is None else manifest.encoder.input_names
        names = [field.name for field in fields(kind) if field.name != "pictures"]
        members = {name: f"{name}.npy" for name in (*names, *pictures)}
        archive = Archive(io.BytesIO(data))
        require_names(archive.names, list(members.values()))
        # A stored member cannot be longer than the file itself.
        arrays = {name: _array(name, archive.read(member, len(data))) for name, member in members.items()}
        seen: dict[str, Any] = {"pictures": tuple(arrays[name] for name in pictures)} if pictures else {}
        vectors = kind(**{**{name: arrays[name] for name in names}, **seen})
        _require_plain(vectors.expected_shapes(manifest), arrays)
        count, words = vectors.count()
        if not 1 <= count <= MAX_CANDIDATE_ACTIONS:
            raise GuidedPolicyError(f"{words}, expected 1 to {MAX_CANDIDATE_ACTIONS}")
        vectors.require_cover(manifest)
    except GuidedPolicyError as error:
        raise GuidedPolicyError(f"{VECTORS}: {error}") from error.__cause__
    return vectors


def _require_plain(shapes: Mapping[str, Shape], arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise GuidedPolicyError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise GuidedPolicyError(f"{name} holds NaN or infinity, expected finite numbers")


def _require_ends(omegas: Floats, omega: OmegaRange) -> None:
    least, most = omegas.min(), omegas.max()
    for name, end, is_reached in (
        ("low", omega.low, least <= np.float32(omega.low)),
        ("high", omega.high, most >= np.float32(omega.high)),
    ):
        if not is_reached:
            raise GuidedPolicyError(
                f"omegas are {least:g} to {most:g}, expected them to reach the manifest's omega.{name} {end:g}"
            )


def _require_inside(actions: Floats, manifest: Manifest) -> None:
    """A range that is too narrow for the trainer's actions is not the policy's range."""
    low, high = np.array(manifest.action.low), np.array(manifest.action.high)
    # The trainer's bounds may have more digits than single precision.
    slack = ACTION_TOLERANCE * (high - low)
    outside = np.argwhere((actions < low - slack) | (actions > high + slack))
    if len(outside):
        name, column = manifest.action.names[outside[0][-1]], outside[0][-1]
        raise GuidedPolicyError(
            f"the trainer's action is {actions[tuple(outside[0])]} for {shown(name)}, expected {low[column]} to "
            f"{high[column]} as in the manifest"
        )


def _picture_shapes(manifest: Manifest, vectors: int) -> dict[str, Shape]:
    encoder = manifest.encoder
    if encoder is None:
        return {}
    return {
        name: (vectors, *picture.shape) for name, picture in zip(encoder.input_names, encoder.pictures, strict=True)
    }


def _npz(vectors: Vectors) -> bytes:
    arrays = {field.name: getattr(vectors, field.name) for field in fields(vectors)}
    arrays |= {f"picture_{index}": picture for index, picture in enumerate(arrays.pop("pictures", ()))}
    return archive_bytes({f"{name}.npy": _npy(name, array) for name, array in arrays.items()})


def _array(name: str, data: bytes) -> NDArray[Any]:
    dtype = _dtype(name)
    header = _HEADER.match(data[:_MAX_HEADER_SIZE])
    if header is None or struct.unpack("<H", header[1])[0] != len(header[2]) or header[3].decode() != dtype.str:
        raise GuidedPolicyError(f"{name} is not a {dtype.name} array as NumPy writes it")
    shape = tuple(map(int, header[4].split(b", ")))
    size = dtype.itemsize * math.prod(shape)
    if len(data) - header.end() != size:
        raise GuidedPolicyError(f"{name} claims shape {shape}, {size} bytes, found {len(data) - header.end()} bytes")
    return np.frombuffer(data, dtype, offset=header.end()).reshape(shape)


def _npy(name: str, array: NDArray[Any]) -> bytes:
    dtype = _dtype(name)
    header = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    # The format aligns the numbers to a multiple of 64 bytes.
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array.astype(dtype).tobytes()


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("|u1" if _BYTES.fullmatch(name) else "<f4")
