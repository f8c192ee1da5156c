"""Damaged, incomplete and mixed-up bundles: each is refused in one sentence that names it."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from dipole_runtime import GuidedPolicyError, read_bundle
from dipole_runtime.archive import archive_bytes
from dipole_runtime.manifest import (
    CRITIC,
    DETERMINISTIC,
    GUIDED,
    MANIFEST,
    NEGATIVE,
    POSITIVE,
    PREDICTOR,
    VECTORS,
)
from dipole_runtime.vectors import ActionVectors
from dipole_runtime.vectors import TestVectors as Vectors
from runtime_helpers import assert_one_sentence, directory_of, refusal, refusal_of
from small_bundles import (
    PAIR_DATA,
    PAIR_FILES,
    PAIR_NETWORKS,
    SmallPolicy,
    deterministic_model,
    make_action_vectors,
    make_deterministic_files,
    make_diffusion_files,
    make_files,
    make_policy,
    make_vectors,
    rehashed,
    zipped,
)

CORRUPTIONS = 600


Files = dict[str, bytes]


class TestWhole:
    def test_a_directory(self, any_folder: pathlib.Path, any_files: Files) -> None:
        bundle = read_bundle(any_folder)
        assert {MANIFEST: bundle.manifest.to_bytes(), **bundle.files} == any_files

    def test_a_file(self, zipped_bundle: pathlib.Path, files: Files) -> None:
        bundle = read_bundle(str(zipped_bundle))
        assert {MANIFEST: bundle.manifest.to_bytes(), **bundle.files} == files

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_as_any_zip_program_writes_it(self, any_files: Files, method: int, tmp_path: pathlib.Path) -> None:
        (tmp_path / "b.dipole").write_bytes(zipped(any_files, method))
        bundle = read_bundle(tmp_path / "b.dipole")
        assert {MANIFEST: bundle.manifest.to_bytes(), **bundle.files} == any_files

    def test_ours_is_a_zip_file_and_depends_on_its_contents_alone(self, files: Files, tmp_path: pathlib.Path) -> None:
        (tmp_path / "b.zip").write_bytes(archive_bytes(files))
        with zipfile.ZipFile(tmp_path / "b.zip") as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == files
        assert archive_bytes(dict(reversed(files.items()))) == archive_bytes(files)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.platform", "win32")
            assert archive_bytes(files) == (tmp_path / "b.zip").read_bytes()

    def test_links_to_it_are_followed(
        self, folder: pathlib.Path, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "current").symlink_to(folder)
        (tmp_path / "current.dipole").symlink_to(zipped_bundle)
        assert read_bundle(tmp_path / "current").manifest == read_bundle(tmp_path / "current.dipole").manifest


class TestCorruption:
    def test_any_damage_to_a_directory_is_refused(self, any_folder: pathlib.Path, any_files: Files) -> None:
        rng = np.random.default_rng(0)
        for name, data in any_files.items():
            for _ in range(CORRUPTIONS // len(any_files)):
                (any_folder / name).write_bytes(damaged(data, rng))
                refusal(any_folder)
            (any_folder / name).write_bytes(data)
        read_bundle(any_folder)

    def test_any_damage_to_a_file_is_refused_or_changes_nothing(
        self, files: Files, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        """Dates and the like in the zip format may be anything; what is loaded may not."""
        rng = np.random.default_rng(1)
        whole = zipped_bundle.read_bytes()
        path = tmp_path / "damaged.dipole"
        directory = directory_of(whole)
        loaded = 0
        for index in range(CORRUPTIONS + 300):
            # The directory of the zip file is short, and most of what can be said wrongly is there.
            start = directory if index >= CORRUPTIONS else 0
            path.write_bytes(whole[:start] + damaged(whole[start:], rng))
            try:
                bundle = read_bundle(path)
            except GuidedPolicyError as error:
                assert_one_sentence(error, str(path))
            else:
                loaded += 1
                assert {MANIFEST: bundle.manifest.to_bytes(), **bundle.files} == files
        assert loaded < CORRUPTIONS // 3

    def test_every_bit_of_the_zip_files_directory(
        self, files: Files, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        whole = zipped_bundle.read_bytes()
        path = tmp_path / "damaged.dipole"
        for place in range(directory_of(whole), len(whole)):
            content = bytearray(whole)
            content[place] ^= 1 << (place % 8)
            path.write_bytes(content)
            try:
                assert read_bundle(path).files == {name: files[name] for name in PAIR_DATA}
            except GuidedPolicyError as error:
                assert_one_sentence(error, str(path))

    def test_truncation(self, zipped_bundle: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        rng = np.random.default_rng(2)
        whole = zipped_bundle.read_bytes()
        for length in [0, 1, 21, 22, len(whole) - 1, *rng.integers(0, len(whole), 60)]:
            (tmp_path / "short.dipole").write_bytes(whole[:length])
            refusal(tmp_path / "short.dipole")
        for name in PAIR_FILES:
            data = (folder / name).read_bytes()
            for length in [0, len(data) - 1, *rng.integers(0, len(data), 10)]:
                (folder / name).write_bytes(data[:length])
                refusal(folder)
            (folder / name).write_bytes(data)

    def test_more_than_was_written(
        self, zipped_bundle: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        (tmp_path / "long.dipole").write_bytes(zipped_bundle.read_bytes() + b"more")
        refusal(tmp_path / "long.dipole")
        (tmp_path / "before.dipole").write_bytes(b"more" + zipped_bundle.read_bytes())
        refusal(tmp_path / "before.dipole")
        for name in PAIR_FILES:
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data + b"\n")
            refusal(folder, name)
            (folder / name).write_bytes(data)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight neighbouring bytes are others."""
    content = bytearray(data)
    start = int(rng.integers(len(content)))
    while bytes(content) == data:
        for place in range(start, min(start + int(rng.integers(1, 9)), len(content))):
            content[place] = int(rng.integers(256))
    return bytes(content)


class TestMixedUp:
    """Files of good bundles in places where they do not belong."""

    @pytest.mark.parametrize("pair", [(POSITIVE, NEGATIVE), (GUIDED, POSITIVE), (CRITIC, NEGATIVE), (GUIDED, VECTORS)])
    def test_swapped_files(self, files: Files, pair: tuple[str, str]) -> None:
        one, other = pair
        refusal_of({**files, one: files[other], other: files[one]}, "manifest")

    def test_swapped_networks_of_a_consistent_manifest(self, files: Files) -> None:
        """Only the trainer's actions tell them apart."""
        swapped = {**files, POSITIVE: files[NEGATIVE], NEGATIVE: files[POSITIVE]}
        refusal_of(rehashed(swapped), "the two networks", "action")

    @pytest.mark.parametrize(
        ("name", "words"), [(GUIDED, "the fused graph"), (POSITIVE, "the two networks"), (CRITIC, "another q")]
    )
    def test_a_network_of_another_bundle(self, files: Files, name: str, words: str) -> None:
        other = make_files(make_policy(seed=9))
        refusal_of(rehashed({**files, name: other[name]}), words)

    @pytest.mark.parametrize(
        ("name", "words"),
        [(DETERMINISTIC, "the test vectors get another action from the policy"), (CRITIC, "the critic apart")],
    )
    def test_a_network_of_another_deterministic_bundle(self, deterministic_files: Files, name: str, words: str) -> None:
        other = make_deterministic_files(make_policy(seed=9))
        refusal_of(rehashed({**deterministic_files, name: other[name]}), words)

    @pytest.mark.parametrize(
        ("name", "words"), [(GUIDED, "the fused graph"), (PREDICTOR, "the noise predictor"), (CRITIC, "another q")]
    )
    def test_a_network_of_another_diffusion_bundle(self, diffusion_files: Files, name: str, words: str) -> None:
        other = make_diffusion_files(make_policy(seed=9))
        refusal_of(rehashed({**diffusion_files, name: other[name]}), words)

    def test_another_schedule(self, diffusion_files: Files) -> None:
        refusal_of(rehashed(diffusion_files, betas=(0.1, 0.3, 0.5)), "the noise predictor", "action")
        refusal_of(rehashed(diffusion_files, betas=(0.1, 0.3)), GUIDED, "noise has shape [any, 6], expected [any, 4]")

    def test_a_policy_that_values_its_actions_otherwise(self, small: SmallPolicy, deterministic_files: Files) -> None:
        """The right actions, with the returns of other critics."""
        other = replace(small, critics=make_policy(seed=9).critics)
        graph = deterministic_model(other).SerializeToString(deterministic=True)
        refusal_of(rehashed({**deterministic_files, DETERMINISTIC: graph}), "another q from the policy")

    def test_networks_of_the_other_form(self, files: Files, deterministic_files: Files) -> None:
        for manifest_of, rest in ((files, deterministic_files), (deterministic_files, files)):
            refusal_of({**rest, MANIFEST: manifest_of[MANIFEST]}, "nothing else")
        refusal_of(rehashed({**deterministic_files, DETERMINISTIC: files[GUIDED]}), DETERMINISTIC, "inputs")

    @pytest.mark.parametrize("name", PAIR_NETWORKS)
    def test_a_network_in_place_of_another(self, files: Files, name: str) -> None:
        for other in PAIR_NETWORKS:
            if {name, other} != {POSITIVE, NEGATIVE} and name != other:
                refusal_of(rehashed({**files, name: files[other]}), name, "inputs")

    def test_test_vectors_of_another_bundle(self, files: Files) -> None:
        refusal_of(rehashed({**files, VECTORS: make_files(make_policy(seed=9))[VECTORS]}), "test vectors")

    @pytest.mark.parametrize("field", ["observations", "noise", "omegas", "candidates", "q"])
    def test_test_vectors_that_are_a_little_off(self, small: SmallPolicy, files: Files, field: str) -> None:
        vectors = make_vectors(small)
        values = getattr(vectors, field)
        # Inwards: beyond its bounds, an action is refused for that already, and so is an ω.
        changed = {**vars(vectors), field: np.float32(0.99) * values}
        changed["omegas"][[0, -1]] = vectors.omegas[[0, -1]]
        refusal_of(rehashed({**files, VECTORS: Vectors(**changed).to_bytes()}), "test vectors")

    @pytest.mark.parametrize("field", ["observations", "actions", "q"])
    def test_action_vectors_that_are_a_little_off(
        self, small: SmallPolicy, deterministic_files: Files, field: str
    ) -> None:
        vectors = make_action_vectors(small)
        values = getattr(vectors, field)
        # Inwards: beyond its bounds, an action is refused for that already.
        changed = {**vars(vectors), field: np.float32(0.99) * values}
        refusal_of(rehashed({**deterministic_files, VECTORS: ActionVectors(**changed).to_bytes()}), "test vectors")

    def test_another_number_of_flow_steps(self, files: Files) -> None:
        refusal_of(rehashed(files, flow_steps=5), "the two networks", "action")

    def test_a_wrong_hash(self, folder: pathlib.Path, files: Files) -> None:
        data = bytearray(files[CRITIC])
        data[-1] ^= 1
        (folder / CRITIC).write_bytes(data)
        refusal(folder, CRITIC, "sha256")

    def test_an_edited_manifest(self, folder: pathlib.Path, files: Files) -> None:
        (folder / MANIFEST).write_bytes(files[MANIFEST].replace(b'"high": 4.0', b'"high": 9.0'))
        refusal(folder, MANIFEST, "checksum", "edited")

    def test_a_newer_format(self, folder: pathlib.Path, files: Files) -> None:
        """It may have other files, too: what to do about it comes first."""
        newer = files[MANIFEST].replace(b'"format_version": 1', b'"format_version": 6')
        (folder / MANIFEST).write_bytes(newer)
        refusal(folder, "newer version", "update dipole_runtime")
        (folder / CRITIC).rename(folder / "value.onnx")
        refusal(folder, "newer version", "update dipole_runtime")
        archive = folder.parent / "newer.dipole"
        archive.write_bytes(archive_bytes({MANIFEST: newer, "value.onnx": b""}))
        refusal(archive, "newer version", "update dipole_runtime")


class TestFiles:
    def test_a_missing_file(self, any_folder: pathlib.Path, any_files: Files, tmp_path: pathlib.Path) -> None:
        for name, content in any_files.items():
            (any_folder / name).unlink()
            refusal(any_folder, f"found no {name} in it")
            (any_folder / name).write_bytes(content)
            rest = {other: content for other, content in any_files.items() if other != name}
            refusal_of(rest, f"found no {name} in it")
            (tmp_path / "less.dipole").write_bytes(archive_bytes(rest))
            refusal(tmp_path / "less.dipole", f"found no {name} in it")

    @pytest.mark.parametrize("name", ["notes.txt", ".hidden", "weights.bin", "line\nbreak", "guided_policy.ONNX"])
    def test_one_file_too_many(self, any_folder: pathlib.Path, any_files: Files, name: str) -> None:
        (any_folder / name).write_bytes(b"")
        refusal(any_folder, "nothing else")
        refusal_of({**any_files, name: b""}, "nothing else")
        (any_folder.parent / "more.dipole").write_bytes(archive_bytes({**any_files, name: b""}))
        refusal(any_folder.parent / "more.dipole", "nothing else")

    def test_a_folder_of_very_many_files_is_not_listed(self, folder: pathlib.Path) -> None:
        for index in range(2000):
            (folder / f"{index}").touch()
        refusal(folder, "nothing else")

    def test_an_empty_directory(self, tmp_path: pathlib.Path) -> None:
        refusal(tmp_path, MANIFEST)

    @pytest.mark.parametrize("name", ["nothing.dipole", "no/such/folder", "null\0character", "x" * 5000])
    def test_nothing(self, tmp_path: pathlib.Path, name: str) -> None:
        with pytest.raises(GuidedPolicyError) as raised:
            read_bundle(f"{tmp_path}/{name}")
        assert_one_sentence(raised.value, "cannot be read")

    @pytest.mark.parametrize(
        ("call", "error"),
        [("open", PermissionError(13, "Permission denied")), ("fstat", OSError(5, "Input/output error"))],
    )
    def test_what_may_not_or_cannot_be_read(
        self, folder: pathlib.Path, zipped_bundle: pathlib.Path, call: str, error: OSError
    ) -> None:
        """Tests run as root may read everything, so the system's answer is made up."""

        def fail(*arguments: object) -> int:
            raise error

        for path in (folder, zipped_bundle):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(GuidedPolicyError) as raised:
                    read_bundle(path)
            assert_one_sentence(raised.value, str(path), error.strerror)

    def test_a_file_of_another_kind(self, tmp_path: pathlib.Path) -> None:
        for content in (b"", b"PK\x05\x06" + bytes(18), os.urandom(5000), b"PK\x03\x04" * 100):
            (tmp_path / "other.dipole").write_bytes(content)
            refusal(tmp_path / "other.dipole", "zip file")

    @pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem"])
    def test_a_device(self, path: str) -> None:
        refusal(path)


class TestOtherKindsOfFiles:
    @pytest.mark.parametrize("name", PAIR_FILES)
    def test_a_link_to_an_outside_file(self, folder: pathlib.Path, name: str, tmp_path: pathlib.Path) -> None:
        """Even to the very same content."""
        (folder / name).rename(tmp_path / "outside")
        (folder / name).symlink_to(tmp_path / "outside")
        refusal(folder, name, "is a symbolic link")

    def test_a_link_inside_the_bundle(self, folder: pathlib.Path) -> None:
        (folder / NEGATIVE).unlink()
        (folder / NEGATIVE).symlink_to(POSITIVE)
        refusal(folder, NEGATIVE, "is a symbolic link")

    def test_a_link_that_appears_after_the_look(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / NEGATIVE).rename(folder.parent / "outside")
        (folder / NEGATIVE).symlink_to(folder.parent / "outside")
        monkeypatch.setattr(pathlib.Path, "is_symlink", lambda self: False)
        refusal(folder, NEGATIVE, "cannot be read")

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
    @pytest.mark.parametrize("name", [MANIFEST, CRITIC])
    def test_in_place_of_a_file(self, folder: pathlib.Path, name: str, make: Callable[[pathlib.Path], None]) -> None:
        (folder / name).unlink()
        make(folder / name)
        refusal(folder, name)

    def test_a_fifo_in_place_of_the_bundle(self, tmp_path: pathlib.Path) -> None:
        os.mkfifo(tmp_path / "pipe.dipole")
        refusal(tmp_path / "pipe.dipole", "regular file")

    def test_a_circle_of_links(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "one").symlink_to(tmp_path / "two")
        (tmp_path / "two").symlink_to(tmp_path / "one")
        refusal(tmp_path / "one", "cannot be read")
