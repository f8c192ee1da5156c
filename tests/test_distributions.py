"""Three distributions that share an environment: none owns another's files, and each survives another's removal."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
WORKSPACE = ROOT / "ros2_ws/src"
PARTS = {
    "dipole-sb3": ROOT,
    "dipole-runtime": WORKSPACE / "dipole_runtime",
    "dipole-policy": WORKSPACE / "dipole_policy",
}
# What the wheels of pure packages hold: folder of the source → folder in the wheel. Nothing else, and all of it.
MODULES = {
    "dipole-sb3": {
        "dipole_sb3": "dipole_sb3",
        "configs": "dipole_sb3/configs",
        "export/dipole_export": "dipole_export",
    },
    "dipole-runtime": {"dipole_runtime": "dipole_runtime"},
    "dipole-policy": {"dipole_policy": "dipole_policy"},
}

# Not find_spec("pip"): setuptools takes that for pip starting, and no longer replaces a distutils that is loaded.
needs_pip = pytest.mark.skipif(not any(distributions(name="pip")), reason="pip is not installed in this environment")
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout: what git tracks is what is packaged")


def tracked(source: Path) -> list[str]:
    """The files of a source folder that git tracks, or would after ``git add``."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    return [name for name in run(command, cwd=source).splitlines() if (source / name).is_file()]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → a copy of what git tracks of it."""
    found = {}
    for name, source in PARTS.items():
        found[name] = tmp_path_factory.mktemp("source") / name
        for file in tracked(source):
            (found[name] / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, found[name] / file)
    return found


def build(source: Path, out: Path, *options: str) -> None:
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(source)])


@pytest.fixture(scope="module")
def wheels(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → its wheel, built of the copy."""
    found = {}
    for name, source in sources.items():
        out = tmp_path_factory.mktemp("wheels")
        build(source, out, "--wheel")
        (found[name],) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def released(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Distribution → its source distribution, and the wheel built of that one, as `make packages` leaves them."""
    found = {}
    for name, source in sources.items():
        out = tmp_path_factory.mktemp("released")
        build(source, out)
        found[name] = (next(out.glob("*.tar.gz")), next(out.glob("*.whl")))
    return found


def run(command: list[str], **more: object) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return str(finished.stdout)


def files(wheel: Path) -> set[str]:
    """Where installing puts the wheel's files; data files without the prefix of the wheel's own name."""
    with zipfile.ZipFile(wheel) as archive:
        return {re.sub(r"^[^/]+\.data/data/", "", name) for name in archive.namelist()}


@needs_git
@pytest.mark.parametrize("name", PARTS)
def test_a_wheel_holds_the_packages_files_and_no_others(wheels: dict[str, Path], name: str) -> None:
    """The lists of packages and of data are written by hand: modules, configuration, recordings and py.typed."""
    expected = {
        f"{inside}/{file}" for folder, inside in MODULES[name].items() for file in tracked(PARTS[name] / folder)
    }
    found = {file for file in files(wheels[name]) if not re.match(r"[^/]+\.dist-info/|share/", file)}
    assert found == expected
    assert {file for file in found if file.endswith("/py.typed")}


@needs_git
@pytest.mark.parametrize("name", PARTS)
def test_a_source_distribution_is_the_whole_checkout(released: dict[str, tuple[Path, Path]], name: str) -> None:
    """With its docs, examples, tests and Makefile: who repackages it tests it with them."""
    with tarfile.open(released[name][0]) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {file for file in found if re.match(r"PKG-INFO$|setup\.cfg$|[^/]+\.egg-info/", file)}
    assert "PKG-INFO" in made
    assert found - made == set(tracked(PARTS[name])) - made


@needs_git
@pytest.mark.parametrize("name", PARTS)
def test_the_source_distributions_wheel_is_the_checkouts(
    wheels: dict[str, Path], released: dict[str, tuple[Path, Path]], name: str
) -> None:
    contents = []
    for wheel in (wheels[name], released[name][1]):
        with zipfile.ZipFile(wheel) as archive:
            contents.append({file: archive.read(file) for file in sorted(archive.namelist())})
    assert contents[0] == contents[1]


@needs_git
def test_the_packages_are_as_an_index_wants_them(released: dict[str, tuple[Path, Path]]) -> None:
    run(
        [
            sys.executable,
            "-m",
            "twine",
            "check",
            "--strict",
            *(str(file) for pair in released.values() for file in pair),
        ]
    )


@needs_git
@pytest.mark.parametrize("name", PARTS)
def test_links_of_the_packages_page_lead_out_of_the_checkout(wheels: dict[str, Path], name: str) -> None:
    """On the page of an index there is no file beside it."""
    with zipfile.ZipFile(wheels[name]) as archive:
        (metadata,) = (file for file in archive.namelist() if file.endswith(".dist-info/METADATA"))
        page = message_from_bytes(archive.read(metadata)).get_payload()
    tokens = [child for token in MarkdownIt().parse(str(page)) for child in token.children or []]
    targets = [
        str(token.attrs.get("href") or token.attrs["src"]) for token in tokens if token.type in ("link_open", "image")
    ]
    assert [target for target in targets if not target.startswith("https://")] == []
    if name == "dipole-sb3":
        assert "https://arxiv.org/abs/2601.00898" in targets
        assert "your own data: `docs/data.md`" in str(page)


@needs_git
def test_no_file_has_two_owners(wheels: dict[str, Path]) -> None:
    owned = {name: files(wheel) for name, wheel in wheels.items()}
    names = list(owned)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert owned[name] & owned[other] == set(), (name, other)
    assert {"dipole_runtime/manifest.schema.json", "dipole_runtime/py.typed"} <= owned["dipole-runtime"]
    assert {"dipole_policy/main.py", "share/dipole_policy/examples/compose.yaml"} <= owned["dipole-policy"]
    assert {"dipole_sb3/__init__.py", "dipole_export/cli.py", "dipole_sb3/configs/demo.yaml"} <= owned["dipole-sb3"]
    for name, found in owned.items():
        assert [file for file in found if file.endswith("LICENSE")], name


class Environment:
    """A virtual environment without pip; the outer one's pip fills it, and lends it the packages of others."""

    def __init__(self, folder: Path) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        self.python = folder / "bin/python"
        (self.site,) = folder.glob("lib/python*/site-packages")

    def pip(self, *arguments: str) -> None:
        # Without PYTHONPATH: pip takes the metadata that it finds there for packages that are installed.
        outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check"]
        run([*command, *arguments], env=outside)

    def installed(self) -> dict[str, Distribution]:
        return {found.metadata["Name"].replace("_", "-"): found for found in distributions(path=[str(self.site)])}

    def imports(self, *modules: str) -> list[str]:
        """Where modules come from. Other people's packages come from here; ours only from the environment itself."""
        code = f"import importlib; [print(importlib.import_module(name).__file__) for name in {modules!r}]"
        # As PYTHONPATH, the outer folder's .pth files, and with them editable installs, are not read.
        paths = os.pathsep.join([str(self.site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        return run([str(self.python), "-c", code], env={**os.environ, "PYTHONPATH": paths}).split()


@needs_git
@needs_pip
@pytest.mark.parametrize("removed", PARTS)
def test_each_survives_the_removal_of_another(wheels: dict[str, Path], tmp_path: Path, removed: str) -> None:
    environment = Environment(tmp_path / "environment")
    environment.pip("install", "--no-deps", "--no-index", "--quiet", *map(str, wheels.values()))
    assert set(environment.installed()) == set(PARTS)
    before = {name: [*map(str, found.files or ())] for name, found in environment.installed().items()}
    environment.pip("uninstall", "--yes", "--quiet", removed)
    assert set(environment.installed()) == set(PARTS) - {removed}
    for name in set(PARTS) - {removed}:
        left = [file for file in before[name] if not file.endswith(".pyc")]
        assert [file for file in left if not (environment.site / file).exists()] == []
    if removed != "dipole-runtime":
        pytest.importorskip("onnxruntime", reason="the runtime needs onnxruntime")
        (place,) = environment.imports("dipole_runtime")
        assert place.startswith(str(environment.site))
    if removed == "dipole-sb3":
        (place,) = environment.imports("dipole_policy.cli")
        assert place.startswith(str(environment.site))
    if removed == "dipole-runtime":
        # Training does not need it: only exporting does.
        (place,) = environment.imports("dipole_export.cli")
        assert place.startswith(str(environment.site))


@needs_git
@needs_pip
def test_the_scripts_of_an_installed_distribution(wheels: dict[str, Path], tmp_path: Path) -> None:
    """setup.cfg sends them where ros2 run looks; in a virtual environment they belong into bin all the same."""
    environment = Environment(tmp_path / "environment")
    environment.pip("install", "--no-deps", "--no-index", "--quiet", str(wheels["dipole-policy"]))
    scripts = {path.name for path in environment.python.parent.iterdir()}
    assert {"dipole_policy", "policy_node", "command_watchdog"} <= scripts


def setup_arguments(name: str) -> dict[str, object]:
    tree = ast.parse((WORKSPACE / name / "setup.py").read_text())
    (call,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    found = {}
    for keyword in call.keywords:
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml with tomllib")
def test_the_extras_ask_for_the_versions_that_are_here() -> None:
    import tomllib
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {name: str(setup_arguments(name.replace("-", "_"))["version"]) for name in list(PARTS)[1:]}
    asked = [line for lines in project["optional-dependencies"].values() for line in lines]
    asked += [
        line for name in ("dipole_runtime", "dipole_policy") for line in setup_arguments(name)["install_requires"]
    ]  # type: ignore[attr-defined]
    found = set()
    for requirement in map(Requirement, asked):
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier, requirement
            found.add(requirement.name)
    assert found == set(versions)
    assert [line for line in project["dependencies"] if line.startswith("dipole")] == []


def test_licences_are_the_same() -> None:
    for name in ("dipole_msgs", "dipole_runtime", "dipole_policy"):
        assert (WORKSPACE / name / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_make_installs_the_robots_distributions_with_the_extras() -> None:
    """They are on no index: an extra that asks for one could not be installed without it."""
    makefile = (ROOT / "Makefile").read_text()
    assert "--editable ros2_ws/src/dipole_runtime --editable ros2_ws/src/dipole_policy" in makefile
    with_extras = [line for line in makefile.splitlines() if '--editable ".[' in line]
    assert with_extras
    assert [line for line in with_extras if not line.startswith("\t$(INSTALL) ")] == []
