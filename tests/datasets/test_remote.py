"""Data sets by URL: fetched once, whole, checked, and noticed when they change."""

from __future__ import annotations

import functools
import http.server
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from commands import Command
from filled_buffers import counting
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from dipole_sb3 import DIPOLE, DatasetError, load_dataset
from dipole_sb3.common import progress
from dipole_sb3.common.public_names import public_name
from dipole_sb3.datasets import is_file_name, lerobot, remote
from dipole_sb3.datasets.conversion import convert

SETS = Path(__file__).parent / "lerobot/sets"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DIPOLE_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def forget() -> None:
    """As if in a new process."""
    remote._located.clear()


def put(length: int, name: str = "memory://bucket/a.npz") -> None:
    fs, path = fsspec.core.url_to_fs(name)
    with fs.open(path, "wb") as file:
        np.savez(file, **counting(length))


def stored(tmp_path: Path, length: int = 50) -> Path:
    np.savez(tmp_path / "a.npz", **counting(length))
    convert(tmp_path / "a.npz", tmp_path / "stored", overwrite=True)
    return tmp_path / "stored"


class Elsewhere(MemoryFileSystem):  # type: ignore[misc]
    """The memory's objects by another protocol."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace(f"{cls.protocol}://", "memory://"))  # type: ignore[no-any-return]


class Broken(Elsewhere):
    """The memory's objects behind a connection that breaks off after some bytes of a file."""

    protocol = "broken"
    cachable = False
    bytes_left: float = 0

    def get_file(self, rpath: str, lpath: Any, **_: Any) -> None:
        content = self.cat_file(rpath)
        Path(lpath).write_bytes(content[: int(min(Broken.bytes_left, len(content)))])
        if Broken.bytes_left < len(content):
            raise ConnectionResetError("connection reset by peer")
        Broken.bytes_left -= len(content)


class Refusing(Elsewhere):
    """A store that wants another login, as s3fs tells it."""

    protocol = "refusing"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise PermissionError("Access Denied")


class Away(Elsewhere):
    """A store that answers while ``there``."""

    protocol = "away"
    there = True

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if not Away.there:
            raise OSError("cannot connect to host")
        return super().info(path, **options)  # type: ignore[no-any-return]


for kind in (Broken, Refusing, Away):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)


def test_a_file_and_a_folder_load_as_from_the_disk(tmp_path: Path, cache: Path) -> None:
    folder = stored(tmp_path)
    fsspec.filesystem("memory").put(str(folder), "/bucket/set", recursive=True)
    put(50)
    expected = load_dataset(folder).checksum
    for url in ("memory://bucket/set", "memory://bucket/a.npz", f"file://{folder}", "memory://bucket/set/"):
        forget()
        buffer = load_dataset(url)
        assert buffer.checksum == expected
        assert type(buffer) is type(load_dataset(folder if "a.npz" not in url else tmp_path / "a.npz"))
    assert is_file_name("memory://bucket/a.npz")
    assert not is_file_name("memory://bucket/set")
    model = DIPOLE("MlpPolicy", dataset="memory://bucket/set", policy_kwargs={"net_arch": [8]}, batch_size=4)
    model.learn(2)
    assert all(len(list(entry.iterdir())) == 2 for entry in cache.iterdir() if entry.is_dir())


def test_the_commands_take_urls(dipole: Command, tmp_path: Path) -> None:
    url = f"file://{stored(tmp_path)}"
    assert "50 transitions" in dipole("data", "info", url)[1]
    assert dipole("data", "check", url)[0] == 0
    assert dipole("data", "convert", url, "b.npz")[0] == 0
    assert load_dataset("b.npz").checksum == load_dataset(url).checksum
    assert json.loads(Path("b.json").read_text())["converted_from"] == url
    tiny = ("offline_steps=2", "algo.batch_size=4", "algo.policy_kwargs.net_arch=[8]")
    assert dipole("train", "task=custom", f"task.dataset={url}", "run_dir=run", *tiny)[0] == 0
    for action in ("info", "check"):
        status, _, error = dipole("data", action, "memory://bucket/nothing")
        assert (status, error.count("\n")) == (1, 1)
        assert "memory://bucket/nothing: there is no such object" in error


def test_what_lies_beside_a_file_comes_with_it() -> None:
    put(20)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.json", json.dumps({"env_id": "Mine-v0", "action_low": [-2], "action_high": [2]}).encode())
    buffer = load_dataset("memory://bucket/a.npz")
    assert buffer.metadata["env_id"] == "Mine-v0"
    assert buffer.action_space.high == 2


def test_a_set_of_lerobot_comes_without_its_videos(cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(SETS / "v3.0"), "/bucket/arm", recursive=True)
    memory.pipe("/bucket/arm/videos/observation.images.front/chunk-000/file-000.mp4", b"x" * 1000)
    buffer = load_dataset("memory://bucket/arm", observations=["observation.state"])
    assert buffer.checksum == lerobot.load(SETS / "v3.0", observations=["observation.state"]).checksum
    assert not list(cache.rglob("*.mp4"))


def test_fetched_once_and_again_when_it_has_changed() -> None:
    put(20)
    path = remote.located("memory://bucket/a.npz")
    touched = os.stat(path).st_ino
    forget()
    assert os.stat(remote.located("memory://bucket/a.npz")).st_ino == touched
    put(30)
    # A process keeps to what it has; the next one notices.
    assert load_dataset("memory://bucket/a.npz").size() == 20
    forget()
    assert load_dataset("memory://bucket/a.npz").size() == 30
    fsspec.filesystem("memory").pipe("/bucket/a.json", b'{"env_id": "Mine-v0"}')
    forget()
    assert load_dataset("memory://bucket/a.npz").metadata["env_id"] == "Mine-v0"


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing", "no note", "damaged note", "another note"])
def test_a_damaged_entry_is_fetched_again(cache: Path, damage: str) -> None:
    put(20)
    path = Path(remote.located("memory://bucket/a.npz"))
    note = path.parent / remote.NOTE
    content = path.read_bytes()
    if damage == "changed":
        path.write_bytes(content[:-9] + b"x" + content[-8:])
    elif damage == "shorter":
        path.write_bytes(content[:-9])
    elif damage == "missing":
        path.unlink()
    elif damage == "no note":
        note.unlink()
    else:
        note.write_text("{" if damage == "damaged note" else "[]")
    forget()
    assert load_dataset("memory://bucket/a.npz").size() == 20
    assert path.read_bytes() == content


def test_a_fetch_that_breaks_off_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    folder = stored(tmp_path)
    fsspec.filesystem("memory").put(str(folder), "/bucket/set", recursive=True)
    whole = sum(file.stat().st_size for file in folder.iterdir())
    for Broken.bytes_left in (0, 100, whole // 2, whole - 1):
        with pytest.raises(DatasetError, match=r"broken://bucket/set: cannot be fetched \(connection reset by peer\)"):
            load_dataset("broken://bucket/set")
        assert [entry for entry in cache.iterdir() if entry.is_dir()] == []
    Broken.bytes_left = whole
    assert load_dataset("broken://bucket/set").size() == 50
    # What was fetched before stays when fetching something newer fails.
    put(60, "memory://bucket/set/a.npz")
    forget()
    Broken.bytes_left = 100
    with pytest.raises(DatasetError, match="cannot be fetched"):
        load_dataset("broken://bucket/set")
    (entry,) = (entry for entry in cache.iterdir() if entry.is_dir())
    assert (entry / "set/dataset.json").exists()


def in_a_process(work: Callable[[], None]) -> Any:
    """A forked process that does the work."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_a_killed_fetch_leaves_nothing_that_counts(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of a file; the next process fetches it as if nothing had been."""
    put(20, f"file://{tmp_path}/a.npz")

    def killed(_: Any, source: str, target: str, **__: Any) -> None:
        Path(target).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "get_file", killed)
        process = in_a_process(lambda: str(remote.located(f"file://{tmp_path}/a.npz")))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(cache.rglob("a.npz")), "it was in the middle"
    assert load_dataset(f"file://{tmp_path}/a.npz").size() == 20
    assert not list(cache.glob(".*"))


def test_of_several_processes_one_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(2000, f"file://{tmp_path}/a.npz")
    real = LocalFileSystem.get_file

    def slow(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        with (tmp_path / "fetches").open("a") as file:
            file.write("one\n")
        real(*arguments, **options)

    def work() -> None:
        assert load_dataset(f"file://{tmp_path}/a.npz").size() == 2000

    monkeypatch.setattr(LocalFileSystem, "get_file", slow)
    processes = [in_a_process(work) for _ in range(5)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 5
    assert (tmp_path / "fetches").read_text() == "one\n"


def test_without_the_store_what_is_whole_is_used(cache: Path) -> None:
    put(20)
    assert load_dataset("away://bucket/a.npz").size() == 20
    Away.there = False
    try:
        forget()
        with pytest.warns(UserWarning, match="cannot connect to host.*what was fetched before is used"):
            assert load_dataset("away://bucket/a.npz").size() == 20
        forget()
        next(cache.rglob("a.npz")).write_bytes(b"damaged")
        with pytest.raises(DatasetError, match=r"away://bucket/a\.npz: cannot be fetched \(cannot connect to host\)"):
            load_dataset("away://bucket/a.npz")
    finally:
        Away.there = True


def test_a_refused_login() -> None:
    with pytest.raises(DatasetError, match=r"refusing://bucket/a: access is refused \(Access Denied\); log in as"):
        load_dataset("refusing://bucket/a")


def test_a_missing_package_is_named_with_its_extra() -> None:
    """As in an installation without it: in a process of its own, where importing it fails."""
    packages = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp"}
    program = (
        "import sys\n"
        "from dipole_sb3 import load_dataset\n"
        "from dipole_sb3.cli.errors import sentence\n"
        f"for protocol, package in {packages}.items():\n"
        "    sys.modules[package] = None\n"
        "    try:\n"
        "        load_dataset(f'{protocol}://bucket/a')\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error, sentence(error), sep='\\n')\n"
    )
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for said, (protocol, package) in zip(lines.splitlines()[::2], packages.items(), strict=True):
        missing = f"the package {package} is not installed; it comes with pip install 'dipole-sb3[remote]'"
        assert said == f"{protocol}://bucket/a: {missing}"
        assert missing in lines.splitlines()[1::2]


def test_packages_beyond_the_extra_are_named_too() -> None:
    with pytest.raises(
        ModuleNotFoundError, match="the package adlfs is not installed; it comes with pip install adlfs"
    ):
        load_dataset("abfs://b/a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://b/a", r"nowhere://b/a: no address of data \(Protocol not known: nowhere\); expected one such as"),
        ("memory://bucket/nothing", "there is no such object"),
        ("memory://bucket/nothing.npz", "there is no such object"),
    ],
)
def test_addresses_that_are_none(url: str, message: str, cache: Path) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(url)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_paths_that_lead_out_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(stored(tmp_path)), "/bucket/set", recursive=True)
    listed = MemoryFileSystem.find

    def hostile(self: Any, path: str, **options: Any) -> Any:
        found = listed(self, path, **options)
        return {**found, f"{path}/../../evil": next(iter(found.values()))}

    monkeypatch.setattr(MemoryFileSystem, "find", hostile)
    with pytest.raises(DatasetError, match="which is not in it"):
        load_dataset("memory://bucket/set")


def test_secrets_in_addresses_are_not_passed_on(tmp_path: Path) -> None:
    url = "https://me:secret@host/folder/drive.npz?signature=secret"
    assert remote.without_secrets(url) == "https://host/folder/drive.npz"
    assert public_name(url) == "drive.npz"
    assert public_name("s3://bucket/hopper") == "hopper"


class Server(http.server.SimpleHTTPRequestHandler):
    """Shows files; wants a login for what is called secret."""

    def do_GET(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    (tmp_path / "web").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Server, directory=str(tmp_path / "web"))
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_web_server(tmp_path: Path, server: str) -> None:
    put(20, f"file://{tmp_path}/web/a.npz")
    shutil.copytree(stored(tmp_path), tmp_path / "web/set")
    assert load_dataset(f"{server}/a.npz").size() == 20
    assert load_dataset(f"{server}/a.npz?version=2").size() == 20
    assert load_dataset(f"{server}/set/").size() == 50
    os.utime(tmp_path / "web/a.npz", (time.time() + 9, time.time() + 9))
    put(30, f"file://{tmp_path}/web/a.npz")
    forget()
    assert load_dataset(f"{server}/a.npz").size() == 30
    with pytest.raises(DatasetError, match=r"nothing\.npz: there is no such object"):
        load_dataset(f"{server}/nothing.npz")
    with pytest.raises(DatasetError, match=r"secret\.npz: access is refused"):
        load_dataset(f"{server}/secret.npz")
    with pytest.raises(DatasetError, match=r"http://127\.0\.0\.1:1/a\.npz: cannot be fetched \(Cannot connect"):
        load_dataset("http://127.0.0.1:1/a.npz")


def test_progress_is_shown_in_bytes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    put(500)
    load_dataset("memory://bucket/a.npz")
    size = fsspec.filesystem("memory").size("/bucket/a.npz")
    assert f"a.npz: {size / 1e3:.1f}k of {size / 1e3:.1f}kB" in capsys.readouterr().err
