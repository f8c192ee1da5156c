"""Files appear whole or not at all, and a damaged one is refused in one sentence."""

import errno
import io
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import full_disk
from recordings import Arrays

from dipole_sb3 import DIPOLE
from dipole_sb3.common.files import replaced_when_complete, require_model_file


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: pathlib.Path, failure: BaseException) -> None:
    with replaced_when_complete(path) as file:
        file.write(b"half of it")
        raise failure


def assert_one_sentence(error: BaseException, *words: str) -> None:
    sentence = str(error)
    assert len(sentence.splitlines()) == 1, sentence
    for word in words:
        assert word in sentence, f"{word!r} is not in: {sentence}"


class TestReplacedWhenComplete:
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_a_complete_file_has_the_permissions_of_an_ordinary_one(self, tmp_path: pathlib.Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            (tmp_path / "ordinary").write_bytes(b"")
            with replaced_when_complete(tmp_path / "new") as file:
                file.write(b"content")
        finally:
            left = os.umask(before)
        assert left == umask
        assert (tmp_path / "new").read_bytes() == b"content"
        assert (tmp_path / "new").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
        assert names(tmp_path) == ["new", "ordinary"]

    def test_the_name_belongs_to_the_earlier_file_until_the_new_one_is_complete(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"earlier")
        with replaced_when_complete(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"earlier"
        assert path.read_bytes() == b"new"

    @pytest.mark.parametrize("failure", [RuntimeError("half-way"), KeyboardInterrupt()])
    @pytest.mark.parametrize("earlier", [None, b"earlier"])
    def test_what_fails_leaves_nothing_behind(
        self, tmp_path: pathlib.Path, failure: BaseException, earlier: bytes | None
    ) -> None:
        path = tmp_path / "file"
        if earlier is not None:
            path.write_bytes(earlier)
        with pytest.raises(type(failure)) as raised:
            write_half(path, failure)
        assert raised.value is failure
        assert names(tmp_path) == ([] if earlier is None else ["file"])
        if earlier is not None:
            assert path.read_bytes() == earlier

    def test_missing_folders_are_made(self, tmp_path: pathlib.Path) -> None:
        with replaced_when_complete(str(tmp_path / "runs" / "first" / "file")) as file:
            file.write(b"content")
        assert (tmp_path / "runs" / "first" / "file").read_bytes() == b"content"

    def test_a_file_in_place_of_the_folder_is_one_sentence(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "runs").write_bytes(b"not a folder")
        path = tmp_path / "runs" / "file"
        with pytest.raises(OSError, match="cannot write") as raised, replaced_when_complete(path):
            pytest.fail("the block must not run when nothing can be written")
        assert_one_sentence(raised.value, str(path), "nothing was changed")
        assert (tmp_path / "runs").read_bytes() == b"not a folder"

    def test_a_folder_that_takes_no_files_is_one_sentence(self) -> None:
        path = pathlib.Path("/proc/self/file")
        with pytest.raises(OSError, match="cannot write") as raised, replaced_when_complete(path):
            pytest.fail("the block must not run when nothing can be written")
        assert_one_sentence(raised.value, str(path), "nothing was changed")

    def test_a_folder_of_that_name_is_one_sentence(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "name").mkdir()
        with pytest.raises(OSError, match="cannot write") as raised, replaced_when_complete(tmp_path / "name") as file:
            file.write(b"content")
        assert_one_sentence(raised.value, str(tmp_path / "name"), "Is a directory")
        assert names(tmp_path) == ["name"]

    @pytest.mark.parametrize("written", [10, 100_000])
    def test_a_full_disk_is_one_sentence(self, tmp_path: pathlib.Path, written: int) -> None:
        """Found while writing, or only when what was buffered goes to the disk."""
        path = tmp_path / "file"
        path.write_bytes(b"earlier")
        with (
            pytest.raises(OSError, match="cannot write") as raised,
            full_disk(after=5),
            replaced_when_complete(path) as file,
        ):
            file.write(b"x" * written)
        assert raised.value.errno == errno.EFBIG
        assert_one_sentence(raised.value, str(path), "nothing was changed")
        assert path.read_bytes() == b"earlier"
        assert names(tmp_path) == ["file"]


def small_model(data: Arrays, **arguments: Any) -> DIPOLE:
    model = DIPOLE(
        "MlpPolicy",
        dataset=data,
        batch_size=8,
        flow_steps=2,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        device="cpu",
        **arguments,
    )
    return model.learn(2)


@pytest.fixture(scope="module")
def model(reacher_data: Arrays) -> DIPOLE:
    return small_model(reacher_data)


@pytest.fixture(scope="module")
def saved(model: DIPOLE) -> bytes:
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


class TestSaving:
    # As shares of the finished file: at once, in each part of the file, and in its very last byte.
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.95, 1.0])
    def test_on_a_full_disk_leaves_the_earlier_model(
        self, model: DIPOLE, saved: bytes, tmp_path: pathlib.Path, share: float
    ) -> None:
        path = tmp_path / "model.zip"
        path.write_bytes(saved)
        with pytest.raises(OSError, match="cannot write") as raised, full_disk(after=int(share * (len(saved) - 1))):
            model.save(tmp_path / "model")
        assert raised.value.errno == errno.EFBIG
        assert_one_sentence(raised.value, str(path), "nothing was changed")
        assert path.read_bytes() == saved
        assert names(tmp_path) == ["model.zip"]
        assert DIPOLE.load(path, device="cpu").omega == model.omega

    def test_on_a_full_disk_leaves_no_new_file(self, model: DIPOLE, tmp_path: pathlib.Path) -> None:
        with pytest.raises(OSError, match="cannot write"), full_disk(after=1000):
            model.save(tmp_path / "model.zip")
        assert names(tmp_path) == []

    def test_goes_on_when_there_is_room_again(self, model: DIPOLE, tmp_path: pathlib.Path) -> None:
        with pytest.raises(OSError, match="cannot write"), full_disk(after=1000):
            model.save(tmp_path / "model")
        model.save(tmp_path / "model")
        loaded = DIPOLE.load(tmp_path / "model", device="cpu")
        for one, other in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_the_replay_buffer_on_a_full_disk_leaves_the_earlier_one(
        self, model: DIPOLE, tmp_path: pathlib.Path
    ) -> None:
        path = tmp_path / "buffer.pkl"
        path.write_bytes(b"earlier")
        with pytest.raises(OSError, match="cannot write") as raised, full_disk(after=10_000):
            model.save_replay_buffer(path)
        assert_one_sentence(raised.value, str(path))
        assert path.read_bytes() == b"earlier"
        assert names(tmp_path) == ["buffer.pkl"]

    def test_into_a_folder_that_cannot_be_is_one_sentence(self, model: DIPOLE, tmp_path: pathlib.Path) -> None:
        (tmp_path / "runs").write_bytes(b"not a folder")
        with pytest.raises(OSError, match="cannot write") as raised:
            model.save(tmp_path / "runs" / "model")
        assert_one_sentence(raised.value, str(tmp_path / "runs" / "model.zip"))

    def test_into_a_new_folder_makes_it(self, model: DIPOLE, tmp_path: pathlib.Path) -> None:
        model.save(tmp_path / "runs" / "first" / "model")
        assert names(tmp_path / "runs" / "first") == ["model.zip"]


class TestLoading:
    def test_any_damage_of_the_directory_is_one_sentence(self, saved: bytes, tmp_path: pathlib.Path) -> None:
        path, generator, sentences = tmp_path / "model.zip", np.random.default_rng(0), []
        for _ in range(300):
            damaged = bytearray(saved)
            # The directory stands last: methods, flags of encryption, places of the members.
            damaged[-int(generator.integers(1, 600))] = generator.integers(256)
            path.write_bytes(damaged)
            try:
                require_model_file(path)
            except ValueError as error:
                sentences.append(str(error))
        assert len(sentences) > 100
        assert all(str(path) in sentence and len(sentence.splitlines()) == 1 for sentence in sentences)

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_model_is_one_sentence(self, saved: bytes, tmp_path: pathlib.Path, share: float) -> None:
        path = tmp_path / "model.zip"
        path.write_bytes(saved[: int(share * len(saved))])
        with pytest.raises(ValueError, match="cannot load") as raised:
            DIPOLE.load(path, device="cpu")
        assert_one_sentence(raised.value, str(path), "truncated", "expected a whole .zip file")

    def test_a_model_without_its_last_byte_is_one_sentence(self, saved: bytes, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "model.zip"
        path.write_bytes(saved[:-1])
        with pytest.raises(ValueError, match="cannot load") as raised:
            DIPOLE.load(path, device="cpu")
        assert_one_sentence(raised.value, str(path), "truncated")

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", bytes(10_000)])
    def test_what_is_no_zip_file_is_one_sentence(self, tmp_path: pathlib.Path, content: bytes) -> None:
        path = tmp_path / "model.zip"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot load") as raised:
            DIPOLE.load(path, device="cpu")
        assert_one_sentence(raised.value, str(path), "not a .zip file")

    def test_another_zip_file_is_one_sentence(self, tmp_path: pathlib.Path) -> None:
        np.savez(tmp_path / "data.npz", observations=np.zeros(3))
        with pytest.raises(ValueError, match="cannot load") as raised:
            DIPOLE.load(tmp_path / "data.npz", device="cpu")
        assert_one_sentence(raised.value, "data.npz", "not a saved model", "no data and no policy.pth")

    def test_damaged_bytes_are_one_sentence(self, saved: bytes, tmp_path: pathlib.Path) -> None:
        damaged = bytearray(saved)
        middle = len(saved) // 2
        damaged[middle] ^= 0xFF
        (tmp_path / "model.zip").write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match="cannot load") as raised:
            DIPOLE.load(tmp_path / "model", device="cpu")
        assert_one_sentence(raised.value, "model.zip", "damaged (at policy")

    def test_parameters_of_a_truncated_model_are_one_sentence_and_change_nothing(
        self, reacher_data: Arrays, saved: bytes, tmp_path: pathlib.Path
    ) -> None:
        model = small_model(reacher_data)
        before = [parameter.detach().clone() for parameter in model.policy.parameters()]
        (tmp_path / "model.zip").write_bytes(saved[: len(saved) // 2])
        with pytest.raises(ValueError, match="cannot load") as raised:
            model.set_parameters(tmp_path / "model.zip", device="cpu")
        assert_one_sentence(raised.value, "model.zip", "truncated")
        assert all(torch.equal(one, other) for one, other in zip(before, model.policy.parameters(), strict=True))

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_a_truncated_replay_buffer_is_one_sentence(
        self, reacher_data: Arrays, tmp_path: pathlib.Path, share: float
    ) -> None:
        model = small_model(reacher_data)
        kept, path = model.replay_buffer, tmp_path / "buffer.pkl"
        model.save_replay_buffer(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cannot load") as raised:
            model.load_replay_buffer(path)
        assert_one_sentence(raised.value, str(path), "truncated", "expected a whole file")
        assert model.replay_buffer is kept

    def test_a_missing_file_is_named(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nothing\.zip") as raised:
            DIPOLE.load(tmp_path / "nothing", device="cpu")
        assert_one_sentence(raised.value)

    def test_an_open_file_stays_open_and_is_read_from_its_start(self, model: DIPOLE, saved: bytes) -> None:
        file = io.BytesIO(saved)
        for _ in range(2):
            loaded = DIPOLE.load(file, device="cpu")
            assert loaded.num_timesteps == model.num_timesteps
        assert not file.closed
        with pytest.raises(ValueError, match="cannot load the open file"):
            DIPOLE.load(io.BytesIO(saved[: len(saved) // 2]), device="cpu")
