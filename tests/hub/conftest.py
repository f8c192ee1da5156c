"""A hub on this machine, which the real client talks to instead of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from local_hub import TOKEN, LocalHub


@pytest.fixture(scope="session")
def _server() -> Iterator[LocalHub]:
    server = LocalHub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def local_hub(_server: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalHub:
    """An empty hub; who asks is logged in, and has downloaded nothing yet.

    The client reads its environment variables when it is first imported, which may have been before.
    """
    _server.forget()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", _server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", _server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    # Xet, the hub's newer way to transfer files, is a service of its own; without it the client goes by LFS.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return _server
