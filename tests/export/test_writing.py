"""A bundle's folder is replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dipole_export import writing


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_exchange_that_breaks_off_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, fails_at: int
) -> None:
    old, new = tmp_path / "robot", tmp_path / ".robot.partial"
    for folder in (old, new):
        folder.mkdir()
        (folder / "manifest.json").write_text(folder.name)
    real, calls = os.rename, []

    def rename(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == fails_at:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(error)):
        writing._exchange(new, old)
    assert (old / "manifest.json").read_text() == "robot"
    assert {path.name for path in tmp_path.iterdir()} == {"robot", ".robot.partial"}
    monkeypatch.undo()
    writing._exchange(new, old)
    assert (old / "manifest.json").read_text() == ".robot.partial"
    assert [path.name for path in tmp_path.iterdir()] == ["robot"]
