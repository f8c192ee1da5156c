"""Three distributions that share an environment: none owns another's files, and each survives another's removal."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKSPACE = ROOT / "ros2_ws/src"
# What each is built of; dipole-sb3 with the workspace beside it, whose packages it must not take.
PARTS = {
    "dipole-sb3": (ROOT, ("pyproject.toml", "README.md", "LICENSE", "dipole_sb3", "export", "configs", "ros2_ws")),
    "dipole-runtime": (WORKSPACE / "dipole_runtime", None),
    "dipole-policy": (WORKSPACE / "dipole_policy", None),
}
UNWANTED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")

# Not find_spec("pip"): setuptools takes that for pip starting, and no longer replaces a distutils that is loaded.
needs_pip = pytest.mark.skipif(not any(distributions(name="pip")), reason="pip is not installed in this environment")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → its wheel, built from a copy, without a package index."""
    found = {}
    for name, (source, parts) in PARTS.items():
        folder = tmp_path_factory.mktemp("source") / name
        if parts is None:
            shutil.copytree(source, folder, ignore=UNWANTED)
        else:
            folder.mkdir()
            for part in parts:
                copy = shutil.copytree if (source / part).is_dir() else shutil.copy
                copy(source / part, folder / part, **({"ignore": UNWANTED} if (source / part).is_dir() else {}))
        out = tmp_path_factory.mktemp("wheels")
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
        run([sys.executable, "-m", "pip", "wheel", *options, str(folder)], cwd=folder)
        (found[name],) = out.glob("*.whl")
    return found


def run(command: list[str], **more: object) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return str(finished.stdout)


def files(wheel: Path) -> set[str]:
    """Where installing puts the wheel's files; data files without the prefix of the wheel's own name."""
    with zipfile.ZipFile(wheel) as archive:
        return {re.sub(r"^[^/]+\.data/data/", "", name) for name in archive.namelist()}


@needs_pip
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
        run([sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", *arguments])

    def installed(self) -> dict[str, Distribution]:
        return {found.metadata["Name"].replace("_", "-"): found for found in distributions(path=[str(self.site)])}

    def imports(self, *modules: str) -> list[str]:
        """Where modules come from. Other people's packages come from here; ours only from the environment itself."""
        code = f"import importlib; [print(importlib.import_module(name).__file__) for name in {modules!r}]"
        # As PYTHONPATH, the outer folder's .pth files, and with them editable installs, are not read.
        paths = os.pathsep.join([str(self.site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        return run([str(self.python), "-c", code], env={**os.environ, "PYTHONPATH": paths}).split()


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
