"""Small bundles for the runtime's tests."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from dipole_runtime import Bundle, GuidedPolicy
from dipole_runtime.archive import archive_bytes
from dipole_runtime.page import write_page
from headless_browser import Browser, Tab, running
from page_helpers import Open
from small_bundles import (
    FORMS,
    PAPER,
    Sizes,
    SmallPolicy,
    dict_parts,
    files_of,
    make_deterministic_files,
    make_diffusion_files,
    make_files,
    make_policy,
    written,
)
from small_plans import SmallPlanner, make_plan_files


@pytest.fixture(scope="session")
def small() -> SmallPolicy:
    return make_policy()


@pytest.fixture(scope="session")
def files(small: SmallPolicy) -> dict[str, bytes]:
    """Of a good bundle; tests change copies."""
    return make_files(small)


@pytest.fixture(scope="session")
def deterministic_files(small: SmallPolicy) -> dict[str, bytes]:
    """Of a good bundle of a deterministic policy."""
    return make_deterministic_files(small)


@pytest.fixture(scope="session")
def diffusion_files(small: SmallPolicy) -> dict[str, bytes]:
    """Of a good bundle of a diffusion policy."""
    return make_diffusion_files(small)


@pytest.fixture(scope="session")
def planner() -> SmallPlanner:
    return SmallPlanner()


@pytest.fixture(scope="session")
def plan_files(planner: SmallPlanner) -> dict[str, bytes]:
    """Of a good plan bundle."""
    return make_plan_files(planner)


@pytest.fixture(scope="session", params=FORMS)
def any_files(small: SmallPolicy, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """Of a good bundle, one of each form."""
    return files_of(request.param, small)


@pytest.fixture(scope="session", params=[form for form in FORMS if form != "plan"])
def paged_files(small: SmallPolicy, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """Of a good bundle, one of each form that has a page."""
    return files_of(request.param, small)


@pytest.fixture(scope="session")
def deterministic_policy(deterministic_files: dict[str, bytes]) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(deterministic_files, "small deterministic"))


@pytest.fixture(scope="session")
def policy(files: dict[str, bytes]) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(files, "small"))


@pytest.fixture(scope="session")
def small_dict() -> SmallPolicy:
    return make_policy(Sizes(observation=7), dict_parts(), seed=5)


@pytest.fixture(scope="session")
def dict_policy(small_dict: SmallPolicy) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(make_files(small_dict), "small dict"))


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: pathlib.Path) -> pathlib.Path:
    """A good bundle as a directory."""
    return written(files, tmp_path / "bundle")


@pytest.fixture
def any_folder(any_files: dict[str, bytes], tmp_path: pathlib.Path) -> pathlib.Path:
    """A good bundle as a directory, one of each form."""
    return written(any_files, tmp_path / "bundle")


@pytest.fixture(scope="session")
def zipped_bundle(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A good bundle as a .dipole file; not to be changed."""
    path = tmp_path_factory.mktemp("bundles") / "small.dipole"
    path.write_bytes(archive_bytes(files))
    return path


@pytest.fixture(scope="session")
def paper_bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Networks of the paper's size, random weights; not to be changed."""
    path = tmp_path_factory.mktemp("bundles") / "paper.dipole"
    path.write_bytes(archive_bytes(make_files(make_policy(PAPER))))
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, once for all tests of a process."""
    with running(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def opened(browser: Browser, tmp_path: pathlib.Path) -> Iterator[Open]:
    """Files of a bundle → its page in a tab."""
    tabs: list[Tab] = []

    def open_page(files: dict[str, bytes], **size: int) -> Tab:
        page = write_page(Bundle.from_files(files, "robot's bundle"), tmp_path / f"page{len(tabs)}")
        tabs.append(browser.open(page, **size))
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()
