"""OGBench files that are missing: fetched whole, or one sentence with the next command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import ogbench

POINT_TASK = "pointmaze-medium-navigate-singletask-task2-v0"
CUBE_TASK = "cube-double-play-singletask-task2-v0"


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _BreaksOff(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"PK half of it")

    def log_message(self, format: str, *args: Any) -> None:
        pass


Serve = Callable[[Callable[..., BaseHTTPRequestHandler]], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Lets ogbench's downloader find a server of this test's."""
    servers: list[ThreadingHTTPServer] = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setattr("ogbench.utils.DATASET_URL", f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_missing_files_are_downloaded(serve: Serve, ogbench_sets: Path, tmp_path: Path) -> None:
    serve(partial(_Silent, directory=str(ogbench_sets)))
    target = tmp_path / "new" / "folder"
    only_train = ogbench.load(POINT_TASK, dataset_dir=target, validation=False)
    assert visible(target) == ["pointmaze-medium-navigate-v0.npz"]
    both = ogbench.load(POINT_TASK, dataset_dir=target)
    assert visible(target) == ["pointmaze-medium-navigate-v0-val.npz", "pointmaze-medium-navigate-v0.npz"]
    np.testing.assert_array_equal(only_train.rewards, both.rewards)
    assert both.validation is not None


def test_interrupted_download_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    serve(_BreaksOff)
    with pytest.raises(DatasetError, match=r"the download failed: .* arrived incomplete"):
        ogbench.load(POINT_TASK, dataset_dir=tmp_path)
    assert visible(tmp_path) == []


def test_file_that_the_server_does_not_have(serve: Serve, tmp_path: Path, ogbench_sets: Path) -> None:
    serve(partial(_Silent, directory=str(ogbench_sets)))
    with pytest.raises(
        DatasetError, match=r"404.*put antmaze-large-navigate-v0\.npz and .* into that folder"
    ) as caught:
        ogbench.load("antmaze-large-navigate-singletask-v0", dataset_dir=tmp_path)
    assert "dipole data make" not in str(caught.value)  # it takes a trained expert
    assert visible(tmp_path) == []


def test_no_network_offers_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ogbench.utils.DATASET_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match="run `dipole data make ogbench/cube-double-play`") as caught:
        ogbench.load(CUBE_TASK)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert visible(tmp_path) == []
    with pytest.raises(DatasetError, match="dipole data make ogbench/cube-double-play --dir "):
        ogbench.load(CUBE_TASK, dataset_dir=tmp_path / "elsewhere")


def test_download_can_be_declined(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cube-double-play-v0\.npz and cube-double-play-v0-val\.npz not found"):
        ogbench.load(CUBE_TASK, dataset_dir=tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []
