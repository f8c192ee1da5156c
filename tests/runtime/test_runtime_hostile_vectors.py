"""Test vectors that claim what they are not, in bundles whose manifests and hashes are right."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle
from dipole_runtime.archive import archive_bytes
from dipole_runtime.manifest import VECTORS
from runtime_helpers import refusal_of_structure
from small_bundles import rehashed

Files = dict[str, bytes]


def arrays_of(files: Files) -> dict[str, Any]:
    with np.load(io.BytesIO(files[VECTORS])) as loaded:
        return dict(loaded)


def saved(files: Files, **arrays: Any) -> Files:
    """The files with test vectors as NumPy writes them."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return rehashed({**files, VECTORS: file.getvalue()})


class TestTestVectors:
    @pytest.mark.parametrize(
        ("header", "words"),
        [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('x'),), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999999), }", "claims shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "claims shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", "omegas"),
        ],
    )
    def test_headers(self, files: Files, header: str, words: str) -> None:
        line = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
        omegas = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(16)
        refusal_of_structure(self.with_member(files, "omegas.npy", omegas), VECTORS, "omegas", words)

    def with_member(self, files: Files, name: str, content: bytes) -> Files:
        with zipfile.ZipFile(io.BytesIO(files[VECTORS])) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        return rehashed({**files, VECTORS: archive_bytes({**members, name: content})})

    def test_numpy_reads_ours_and_we_read_numpys(self, files: Files) -> None:
        arrays = arrays_of(files)
        bundle = Bundle.from_files(saved(files, **arrays), "good")
        for name, array in arrays.items():
            np.testing.assert_array_equal(getattr(bundle.vectors(), name), array)

    def test_pickles(self, files: Files) -> None:
        arrays = arrays_of(files)
        arrays["q"] = np.array([{"a": 1}], object)
        refusal_of_structure(saved(files, **arrays), VECTORS, "q is not a float32 array")

    def test_other_names(self, files: Files) -> None:
        arrays = arrays_of(files)
        refusal_of_structure(saved(files, **{**arrays, "more": arrays["q"]}), VECTORS, "more.npy")
        arrays["quality"] = arrays.pop("q")
        refusal_of_structure(saved(files, **arrays), VECTORS, "quality")

    @pytest.mark.parametrize("name", ["observations", "noise", "omegas", "candidates", "q"])
    def test_other_shapes_and_values(self, files: Files, name: str) -> None:
        arrays = arrays_of(files)
        refusal_of_structure(saved(files, **{**arrays, name: arrays[name][:-1]}), VECTORS, "shape")
        refusal_of_structure(saved(files, **{**arrays, name: arrays[name][..., None]}), VECTORS, "shape")
        refusal_of_structure(saved(files, **{**arrays, name: arrays[name][:0]}), VECTORS)
        bad = arrays[name].copy()
        bad.flat[0] = np.nan
        refusal_of_structure(saved(files, **{**arrays, name: bad}), VECTORS, name, "NaN")

    def test_no_vectors_at_all(self, files: Files) -> None:
        arrays = arrays_of(files)
        empty = {name: array if name == "omegas" else array[:0] for name, array in arrays.items()}
        refusal_of_structure(saved(files, **empty), VECTORS, "0 observations")


class TestActionVectors:
    """Of a deterministic policy."""

    @pytest.mark.parametrize("name", ["observations", "actions", "q"])
    def test_other_shapes_and_values(self, deterministic_files: Files, name: str) -> None:
        arrays = arrays_of(deterministic_files)
        for changed in (arrays[name][:-1], arrays[name][..., None]):
            refusal_of_structure(saved(deterministic_files, **{**arrays, name: changed}), VECTORS, "shape")
        bad = arrays[name].copy()
        bad.flat[0] = np.nan
        refusal_of_structure(saved(deterministic_files, **{**arrays, name: bad}), VECTORS, name, "NaN")

    def test_no_vectors_at_all(self, deterministic_files: Files) -> None:
        empty = {name: array[:0] for name, array in arrays_of(deterministic_files).items()}
        refusal_of_structure(saved(deterministic_files, **empty), VECTORS, "0 observations")

    def test_those_of_a_pair(self, files: Files, deterministic_files: Files) -> None:
        refusal_of_structure(rehashed({**deterministic_files, VECTORS: files[VECTORS]}), VECTORS, "candidates.npy")
        refusal_of_structure(rehashed({**files, VECTORS: deterministic_files[VECTORS]}), VECTORS, "actions.npy")
