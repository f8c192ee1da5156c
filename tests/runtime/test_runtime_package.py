"""What colcon and rosdep read: package.xml, setup.py, setup.cfg and the resource marker."""

from __future__ import annotations

import ast
import configparser
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import dipole_runtime
import pytest

ROOT = pathlib.Path(dipole_runtime.__file__).parents[1]
NAME = "dipole_runtime"

pytestmark = pytest.mark.skipif(not (ROOT / "package.xml").exists(), reason="not run from the source tree")

# Import → key in rosdep's python.yaml.
KEYS = {"numpy": "python3-numpy", "onnxruntime": "python3-onnxruntime-pip"}
# Drawn only when it is there.
OPTIONAL = {"matplotlib"}


@pytest.fixture(scope="module")
def package() -> Any:
    parser = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    parsed = parser.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert warnings == []
    parsed.validate(warnings=warnings)
    assert warnings == []
    return parsed


@pytest.fixture(scope="module")
def arguments() -> dict[str, Any]:
    """What setup.py tells setuptools."""
    pytest.importorskip("setuptools")
    code = (
        "import json, setuptools\n"
        "setuptools.setup = lambda **arguments: print(json.dumps(arguments))\n"
        f"exec(compile(open({str(ROOT / 'setup.py')!r}).read(), 'setup.py', 'exec'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def third_party_imports() -> set[str]:
    names = set()
    for path in (ROOT / NAME).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {NAME} - OPTIONAL


class TestPackageXml:
    def test_it_is_an_ament_python_package_of_format_3(self, package: Any) -> None:
        assert package.package_format == 3
        assert package.name == NAME
        assert package.get_build_type() == "ament_python"
        assert package.licenses == ["MIT"]

    def test_every_import_is_declared(self, package: Any) -> None:
        assert {one.name for one in package.exec_depends} == {KEYS[name] for name in third_party_imports()}

    def test_tests_are_declared(self, package: Any) -> None:
        assert {one.name for one in package.test_depends} == {"python3-pytest"}


class TestSetup:
    def test_it_agrees_with_package_xml(self, package: Any, arguments: dict[str, Any]) -> None:
        assert arguments["name"] == package.name
        assert arguments["version"] == package.version
        assert arguments["license"] == package.licenses[0]
        assert arguments["description"] == package.description
        assert arguments["maintainer"] == package.maintainers[0].name
        assert arguments["maintainer_email"] == package.maintainers[0].email

    def test_it_agrees_with_the_imports(self, arguments: dict[str, Any]) -> None:
        required = {re.split("[^a-z]", one)[0] for one in arguments["install_requires"]}
        assert required == third_party_imports() | {"setuptools"}

    def test_what_is_installed_where_ament_looks(self, arguments: dict[str, Any]) -> None:
        placed = dict(arguments["data_files"])
        assert placed == {
            "share/ament_index/resource_index/packages": [f"resource/{NAME}"],
            f"share/{NAME}": ["package.xml"],
        }
        for files in placed.values():
            assert all((ROOT / file).is_file() for file in files)
        assert (ROOT / "resource" / NAME).read_bytes() == b""

    def test_all_modules_and_data_are_in_it(self, arguments: dict[str, Any]) -> None:
        assert arguments["packages"] == [NAME]
        plain, web = ROOT / NAME, ROOT / NAME / "web"
        data = {path.name for path in plain.iterdir() if path.is_file() and path.suffix != ".py"}
        assert {*data, "web/*"} == set(arguments["package_data"][NAME])
        assert all(path.is_file() for path in web.iterdir())
        folders = {path for path in plain.iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert folders == {web}

    def test_scripts_go_where_ros2_run_looks(self) -> None:
        configuration = configparser.ConfigParser()
        configuration.read(ROOT / "setup.cfg")
        place = f"$base/lib/{NAME}"
        assert configuration["develop"]["script_dir"] == configuration["install"]["install_scripts"] == place

    def test_it_installs_and_runs(self, tmp_path: pathlib.Path) -> None:
        """As colcon does it."""
        pytest.importorskip("setuptools")
        source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        prefix = tmp_path / "install"
        command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "build"), "install"]
        command += ["--prefix", str(prefix), "--record", str(tmp_path / "log"), "--single-version-externally-managed"]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (installed,) = prefix.rglob("manifest.schema.json")
        assert (prefix / "share/ament_index/resource_index/packages" / NAME).is_file()
        assert (prefix / "share" / NAME / "package.xml").is_file()
        code = f"import sys; sys.path.insert(0, {str(installed.parents[1])!r}); import dipole_runtime.schema as s; "
        code += "print(s.__file__, s.manifest_schema()['title'])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert str(installed.parent) in result.stdout
        web = {path.name for path in (ROOT / NAME / "web").iterdir()}
        assert {path.name for path in (installed.parent / "web").iterdir()} == web
