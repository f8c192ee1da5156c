"""Test vectors: what the trainer's policy did, which every machine must reproduce before it may drive."""

from __future__ import annotations

import io
import math
import re
import struct
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dipole_runtime.archive import Archive, archive_bytes
from dipole_runtime.errors import GuidedPolicyError
from dipole_runtime.manifest import VECTORS, Manifest

Floats = NDArray[np.float32]

MAX_CANDIDATE_ACTIONS = 65536
"""V·W·N."""

# What NumPy writes for a float32 array in C order, and nothing else: no other type, no pickle, nothing to evaluate.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}(?:, \d{1,9})*),?\), \} *\n)",
    re.DOTALL,
)
_MAX_HEADER_SIZE = 256


@dataclass(frozen=True)
class TestVectors:
    """V observations, each with its noise, at the same W values of ω; all float32.

    :param observations: [V, obs], raw.
    :param noise: [V, N, act], the flow's starting points.
    :param omegas: [W].
    :param candidates: [V, W, N, act], the trainer's actions in the robot's units.
    :param q: [V, W, N], the trainer's returns.
    """

    observations: Floats
    noise: Floats
    omegas: Floats
    candidates: Floats
    q: Floats

    @classmethod
    def from_bytes(cls, data: bytes, manifest: Manifest) -> TestVectors:
        """Reads test_vectors.npz; shapes are compared with the manifest before anything is allocated.

        :raises GuidedPolicyError: for other arrays, types or sizes, and for NaN or infinity in them.
        """
        try:
            names = [field.name for field in fields(cls)]
            archive = Archive(io.BytesIO(data), [f"{name}.npy" for name in names])
            # Stored members are at most as long as the file itself.
            arrays = {name: _array(name, archive.read(f"{name}.npy", len(data))) for name in names}
            vectors = cls(**arrays)
            vectors._require_shapes(manifest)
        except GuidedPolicyError as error:
            raise GuidedPolicyError(f"{VECTORS}: {error}") from error.__cause__
        return vectors

    def to_bytes(self) -> bytes:
        """The npz file; the same arrays give the same bytes, whatever NumPy's version."""
        return archive_bytes({f"{field.name}.npy": _npy(getattr(self, field.name)) for field in fields(self)})

    def _require_shapes(self, manifest: Manifest) -> None:
        observation, action = manifest.observation.size, manifest.action.size
        vectors = self.observations.shape[0]
        omegas = self.omegas.shape[0]
        candidates = self.noise.shape[1] if self.noise.ndim == 3 else 0
        expected = {
            "observations": (vectors, observation),
            "noise": (vectors, candidates, action),
            "omegas": (omegas,),
            "candidates": (vectors, omegas, candidates, action),
            "q": (vectors, omegas, candidates),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise GuidedPolicyError(f"{name} has shape {found}, expected {shape}")
        if not 1 <= vectors * omegas * candidates <= MAX_CANDIDATE_ACTIONS:
            raise GuidedPolicyError(
                f"{vectors} observations × {omegas} ω × {candidates} candidates, expected 1 to {MAX_CANDIDATE_ACTIONS}"
            )
        for name in expected:
            if not np.isfinite(getattr(self, name)).all():
                raise GuidedPolicyError(f"{name} holds NaN or infinity, expected finite numbers")


def _array(name: str, data: bytes) -> Floats:
    header = _HEADER.match(data[:_MAX_HEADER_SIZE])
    if header is None or struct.unpack("<H", header[1])[0] != len(header[2]):
        raise GuidedPolicyError(f"{name} is not a float32 array as NumPy writes it")
    shape = tuple(map(int, header[3].split(b", ")))
    if len(data) - header.end() != 4 * math.prod(shape):
        raise GuidedPolicyError(
            f"{name} claims shape {shape}, {4 * math.prod(shape)} bytes, found {len(data) - header.end()} bytes"
        )
    return np.frombuffer(data, np.dtype("<f4"), offset=header.end()).reshape(shape)


def _npy(array: Floats) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {array.shape}, }}"
    # The format wants the numbers to begin at a multiple of 64 bytes.
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array.astype("<f4").tobytes()
