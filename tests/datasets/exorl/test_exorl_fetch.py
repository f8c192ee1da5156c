"""ExORL's archives, fetched from a real server that breaks off, changes its mind, or does not have them."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exorl_recordings import open_environment, record_episode
from filelock import FileLock

from dipole_sb3 import load_dataset
from dipole_sb3.cli import main
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import downloads
from dipole_sb3.datasets.exorl import fetch as exorl_fetch
from dipole_sb3.datasets.exorl.fetch import fetch

NAME = "exorl/walker/rnd"


class Server:
    """Serves one file, with ranges and a tag; ``break_after`` and ``status`` say what the next requests meet."""

    def __init__(self) -> None:
        self.content = b""
        self.tag: str | None = '"first"'
        self.ranges = True
        self.length = True
        self.shift = 0
        self.break_after: list[int | None] = []
        self.status: list[int] = []
        self.requests: list[tuple[str, str | None, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        self.requests.append((handler.path, wanted, condition))
        if self.status:
            handler.send_error(self.status.pop(0))
            return
        body, start = self.content, 0
        if wanted and self.ranges and condition == self.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start + self.shift}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.length:
            handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        limit = self.break_after.pop(0) if self.break_after else None
        handler.wfile.write(body[start:] if limit is None else body[start : start + limit])
        handler.close_connection = True

    @property
    def ranges_asked_for(self) -> list[str | None]:
        return [wanted for _, wanted, _ in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, archive: bytes) -> Iterator[Server]:
    serving = Server()
    serving.content = archive
    address = f"http://127.0.0.1:{serving.http.server_port}/exorl/{{domain}}/{{algorithm}}.zip"
    monkeypatch.setattr(exorl_fetch, "URL", address)
    monkeypatch.setattr(downloads, "FIRST_PAUSE", 0.001)
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


@pytest.fixture(scope="module")
def episode() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **record_episode(open_environment("walker", "walk"), seed=0, steps=20))  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(episode: bytes) -> bytes:
    """As published: episodes in buffer, films beside it."""
    members = {f"buffer/episode_{index:06d}_20.npz": episode for index in range(3)}
    return zipped({"buffer/": b"", **members, "video/0.mp4": b"a film"})


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def everything(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(folder)) for path in files)


EPISODES = [f"walker/rnd/buffer/episode_{index:06d}_20.npz" for index in range(3)]


def test_the_published_address() -> None:
    """That of ExORL's download.sh."""
    found = exorl_fetch.URL.format(domain="walker", algorithm="proto")
    assert found == "https://dl.fbaipublicfiles.com/exorl/walker/proto.zip"


def test_fetches_what_the_loader_reads(server: Server, tmp_path: Path) -> None:
    assert fetch(NAME, dataset_dir=tmp_path) == tmp_path / "walker/rnd/buffer"
    assert everything(tmp_path) == EPISODES
    assert server.requests == [("/exorl/walker/rnd.zip", None, None)]
    assert load_dataset(f"{NAME}/run", dataset_dir=tmp_path, device="cpu").size() == 60
    assert fetch(NAME, dataset_dir=tmp_path) == tmp_path / "walker/rnd/buffer"
    assert len(server.requests) == 1


def test_goes_on_where_the_connection_broke_off(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000, 500, None]
    fetch(NAME, dataset_dir=tmp_path)
    assert server.ranges_asked_for == [None, "bytes=1000-", "bytes=1500-"]
    assert {condition for *_, condition in server.requests[1:]} == {'"first"'}
    assert everything(tmp_path) == EPISODES


def test_goes_on_where_an_earlier_command_was_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000, *[0] * downloads.ATTEMPTS]
    sentence = (
        r"rnd\.zip: the download broke off \(1000 of \d+ bytes arrived\); 1000 bytes are kept, and the same command"
    )
    with pytest.raises(DatasetError, match=sentence):
        fetch(NAME, dataset_dir=tmp_path)
    assert not (tmp_path / "walker/rnd/buffer").exists()
    fetch(NAME, dataset_dir=tmp_path)
    assert server.ranges_asked_for[-1] == "bytes=1000-"
    assert everything(tmp_path) == EPISODES


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path, episode: bytes) -> None:
    server.break_after = [1000, *[0] * downloads.ATTEMPTS]
    with pytest.raises(DatasetError, match="broke off"):
        fetch(NAME, dataset_dir=tmp_path)
    server.tag, server.content = '"second"', zipped({"buffer/episode_000007_20.npz": episode})
    fetch(NAME, dataset_dir=tmp_path)
    assert everything(tmp_path) == ["walker/rnd/buffer/episode_000007_20.npz"]


@pytest.mark.parametrize("weakness", ["no ranges", "no tag", "weak tag"])
def test_servers_that_cannot_go_on_start_anew(server: Server, tmp_path: Path, weakness: str) -> None:
    server.ranges = weakness != "no ranges"
    server.tag = {"no tag": None, "weak tag": 'W/"same meaning"'}.get(weakness, '"first"')
    server.break_after = [1000, None]
    fetch(NAME, dataset_dir=tmp_path)
    assert server.ranges_asked_for == [None, "bytes=1000-" if weakness == "no ranges" else None]
    assert everything(tmp_path) == EPISODES


def test_a_server_that_sends_another_range_is_refused(server: Server, tmp_path: Path) -> None:
    server.break_after, server.shift = [1000, None], 5
    with pytest.raises(DatasetError, match=r"the server sends bytes 1005-\d+/(\d+), expected bytes 1000-\d+/\1"):
        fetch(NAME, dataset_dir=tmp_path)


def test_complete_archive_of_a_stopped_command_is_only_unpacked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "walker/rnd/.unpacking/buffer").mkdir(parents=True)
    (tmp_path / "walker/rnd/.unpacking/buffer/episode_000000_20.npz").write_bytes(b"half")
    (tmp_path / "walker/rnd/rnd.zip").write_bytes(server.content)
    fetch(NAME, dataset_dir=tmp_path)
    assert server.requests == []
    assert everything(tmp_path) == EPISODES


def test_server_trouble(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    fetch(NAME, dataset_dir=tmp_path)
    assert len(server.requests) == 3
    server.status = [404]
    with pytest.raises(DatasetError, match=r"walker/icm\.zip: the server answers 404 Not Found; expected the file"):
        fetch("exorl/walker/icm", dataset_dir=tmp_path)
    assert len(server.requests) == 4
    server.length = False
    with pytest.raises(DatasetError, match="does not say how long the file is"):
        fetch("exorl/walker/icm", dataset_dir=tmp_path)


def test_nobody_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exorl_fetch, "URL", "http://127.0.0.1:9/{domain}/{algorithm}.zip")
    with pytest.raises(DatasetError, match=r"rnd\.zip: the download broke off \(.*refused.*\)$"):
        fetch(NAME, dataset_dir=tmp_path)
    assert everything(tmp_path) == []


def test_no_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the archive alone is not enough: what is in it takes as much again."""

    class Usage:
        free = int(1.9 * len(server.content))

    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(DatasetError, match=r"GB are free, the download of .* needs .* GB; make room"):
        fetch(NAME, dataset_dir=tmp_path)
    assert (tmp_path / "walker/rnd/.rnd.zip.part").stat().st_size == 0  # found out before anything was received


def damaged(archive: bytes) -> bytes:
    place = archive.index(b"observation") + 200
    return archive[:place] + bytes(20) + archive[place + 20 :]


BAD_ARCHIVES = {
    "a web page": (lambda archive: b"<html>not found</html>", r"the archive is damaged \(File is not a zip file\)"),
    "cut off": (lambda archive: archive[: len(archive) // 7], "the archive is damaged"),  # within its first episode
    "wrong bytes": (damaged, r"the archive is damaged \(Bad CRC-32"),
    "no episodes": (lambda archive: zipped({"video/0.mp4": b"a film"}), "holds no episodes; expected buffer/episode_"),
    "a way out": (lambda archive: zipped({"buffer/../../evil": b"!"}), r"'buffer/\.\./\.\./evil', which leads out of"),
    "an absolute path": (lambda archive: zipped({"/etc/evil": b"!"}), "'/etc/evil', which leads out of"),
    "a drive": (lambda archive: zipped({"C:\\evil": b"!"}), "which leads out of"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archives_are_refused_and_removed(server: Server, tmp_path: Path, kind: str) -> None:
    change, sentence = BAD_ARCHIVES[kind]
    whole, server.content = server.content, change(server.content)
    target = tmp_path / "deep" / "folder"
    with pytest.raises(DatasetError, match=rf"rnd\.zip: .*{sentence}.*it is removed, and the same command fetches it"):
        fetch(NAME, dataset_dir=target)
    assert everything(tmp_path) == []
    server.content, server.tag = whole, '"second"'
    fetch(NAME, dataset_dir=target)
    assert everything(target) == EPISODES


def test_one_process_at_a_time(server: Server, tmp_path: Path) -> None:
    (tmp_path / "walker/rnd").mkdir(parents=True)
    with (
        FileLock(tmp_path / "walker/rnd/.fetch.lock"),
        pytest.raises(DatasetError, match="another process is fetching exorl/walker/rnd; wait for it to end"),
    ):
        fetch(NAME, dataset_dir=tmp_path)
    assert server.requests == []


def test_unwritable_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot be written \(Not a directory\)"):
        fetch(NAME, dataset_dir=tmp_path / "file")


def test_names(tmp_path: Path) -> None:
    for name, sentence in {
        "exorl/walker/rmd": r"no recordings of an agent rmd; did you mean rnd\?",
        "exorl/humanoid/rnd": "there is no domain humanoid here; expected cheetah, jaco, quadruped or walker",
        "exorl/walker/rnd/walk": "expected exorl/<domain>/<algorithm>, such as exorl/walker/rnd; all tasks share it",
    }.items():
        with pytest.raises(DatasetError, match=sentence):
            fetch(name, dataset_dir=tmp_path)


def test_command(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", NAME, "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'walker/rnd/buffer'}\n"
    assert main(["data", "fetch", "ogbench/cube-single-play"]) == 1
    assert re.search(
        "only ExORL's recordings are fetched; expected a name such as exorl/walker/rnd", capsys.readouterr().err
    )
