"""The documentation site: it builds without a warning, has every public name, and works from the file system."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote

import dipole_runtime
import headless_browser
import pytest

import dipole_sb3

pytest.importorskip("mkdocs", reason="the site needs the extra docs")
import griffe
from mkdocstrings import Inventory

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "hooks"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a warning is an error there."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        documented = Inventory.parse_sphinx(file)
    public = {f"{package.__name__}.{name}" for package in (dipole_sb3, dipole_runtime) for name in package.__all__}
    assert public - set(documented) == set()


def test_links_of_built_pages_lead_somewhere(site: Path) -> None:
    """MkDocs checks the links that it makes itself; these are all of them, also those of the reference."""
    lost = []
    for page in site.rglob("*.html"):
        for link in re.findall(r"(?:href|src)=\"([^\"]+)\"", page.read_text()):
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target) or page.name == "404.html":
                continue
            file = (page.parent / target).resolve() if target else page
            if not file.exists() or (anchor and f'id="{anchor}"' not in file.read_text()):
                lost.append((str(page.relative_to(site)), link))
    assert lost == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """Whatever a browser makes of it; links that are followed by a click may lead anywhere."""
    loading = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*|<link\b[^>]*\bhref=\"(?:https?:)?//[^\"]*"
    )
    found = {page.name: loading.findall(page.read_text()) for page in site.rglob("*.html")}
    assert {name: tags for name, tags in found.items() if tags} == {}


@pytest.fixture
def home(site: Path, tmp_path: Path) -> Iterator[headless_browser.Tab]:
    """The first page, opened as a file, once its scripts run."""
    with headless_browser.running(tmp_path / "chromium") as browser:
        yield browser.open(site / "index.html", ready="window.document$")


def test_search_works_from_the_file_system_without_a_request_to_elsewhere(home: headless_browser.Tab) -> None:
    home.run("document.querySelector('[data-md-toggle=search]').click()")
    home.wait("document.querySelector('.md-search-result__meta').textContent.includes('Type to start')")
    home.type("input[data-md-component=search-query]", "greediness")
    home.press("input[data-md-component=search-query]", "End")  # it asks when a key is let go
    home.wait("document.querySelectorAll('.md-search-result__item a').length > 3")
    found = home.run("[...document.querySelectorAll('.md-search-result__item a')].map(link => link.href)")
    assert all(link.startswith("file:") for link in found)
    assert any("/api/" in link for link in found)
    asked = [event["request"]["url"] for event in home.events("Network.requestWillBeSent")]
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert home.events("Log.entryAdded") == []


def hook(name: str) -> ModuleType:
    """A module of docs/hooks, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("index.md", "[how](docs/ros2.md#topics)", "[how](ros2.md#topics)"),
        ("index.md", "[docs/ros2.md](docs/ros2.md)", "[Driving a robot over ROS 2](ros2.md)"),
        ("index.md", "![paths](docs/paths.png)", "![paths](paths.png)"),
        ("index.md", "[CITATION.cff](CITATION.cff)", "`CITATION.cff`"),
        ("data.md", "[online](online.md)", "[online](online.md)"),
        ("data.md", "[install](../README.md#install)", "[install](index.md#install)"),
        ("data.md", "[figures](../configs/train.yaml)", "figures `configs/train.yaml`"),
        ("data.md", "[`configs/`](../configs)", "`configs`"),
        ("data.md", "[the paper](https://arxiv.org/abs/2601.00898)", "[the paper](https://arxiv.org/abs/2601.00898)"),
        ("data.md", "[nowhere](../missing.md)", "[nowhere](../missing.md)"),
        ("api/index.md", "[commands](../commands.md)", "[commands](../commands.md)"),
    ],
)
def test_links_that_work_in_the_project_work_in_the_site(page: str, written: str, shown: str) -> None:
    of_page = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hook("pages").on_page_markdown(f"See {written}.", page=of_page, config=None, files=None) == f"See {shown}."


def test_names_in_docstrings_become_links_and_wrong_ones_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a command that another test ran in this process has made of logging does not matter here.
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("mkdocs.plugins.dipole_roles"), "disabled", False)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text('"""See :func:`~toy.parts.turn` and :func:`gone`."""\n')
    (tmp_path / "toy" / "parts.py").write_text(
        'class Knob:\n    """What :func:`turn` turns."""\n\n'
        'def turn(): ...\n\ndef stay():\n    """Not :meth:`Knob.lost`."""\n'
    )
    toy = griffe.load("toy", search_paths=[tmp_path], extensions=griffe.load_extensions(str(HOOKS / "roles.py")))
    link = '<autoref identifier="toy.parts.turn" optional><code>turn</code></autoref>'
    assert toy.docstring is not None
    assert toy.docstring.value.startswith(f"See {link} and ")
    assert toy["parts.Knob"].docstring.value == f"What {link} turns."
    assert [record.getMessage() for record in caplog.records] == [
        "toy: its docstring names gone, which does not exist",
        "toy.parts.stay: its docstring names Knob.lost, which does not exist",
    ]
