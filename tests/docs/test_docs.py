"""The README and the docs: links lead somewhere, and the example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dipole_export import export_bundle

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_examples_of_going_on_online_run() -> None:
    in_one, in_two = re.findall(r"```python\n(.*?)```", (ROOT / "docs/online.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(in_one.replace("3_000", "3").replace("7_000", "5"), "online.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (5, 5)
    exec(compile(in_two.replace("3_000", "3").replace("4_000", "16"), "online.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (3 + 16, 3 + 2)
    assert names["model"].replay_buffer.n_online == 16


def test_examples_of_resuming_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, but with a new model: what a crash leaves is the folder."""
    page = (
        (ROOT / "docs" / "resuming.md").read_text().replace("8_000", "3").replace("16_000", "9").replace("2_000", "4")
    )
    begun, resumed = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(begun, "resuming.md", "exec"), names)
    assert names["model"].num_timesteps == 9
    exec(compile(resumed, "resuming.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (9, 9)


def test_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, then, after what its command line does, driving."""
    training, online, driving = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    shorter = training.replace("8_000", "3").replace("progress_bar=True", "progress_bar=False")
    assert shorter != training
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(shorter, "README.md", "exec"), names)
    assert (tmp_path / "reacher.zip").is_file()
    assert names["model"].omega == 2.0
    export_bundle(names["model"], "robot.dipole")
    names["observation"] = names["model"].get_env().reset()[0]
    exec(compile(online.replace("3_000", "3").replace("7_000", "5"), "README.md", "exec"), names)
    assert names["model"].num_timesteps == 5
    exec(compile(driving, "README.md", "exec"), names)
    assert names["decision"].action.shape == (2,)
    assert names["decision"].omega == 2.0
