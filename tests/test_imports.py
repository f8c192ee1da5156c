"""``import dipole_sb3`` asks for nothing that an optional extra brings, and imports between packages go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "dipole_sb3": (ROOT / "dipole_sb3", {"dipole_sb3"}),
    "dipole_runtime": (ROOT / "ros2_ws/src/dipole_runtime/dipole_runtime", {"dipole_runtime"}),
    "dipole_policy": (ROOT / "ros2_ws/src/dipole_policy/dipole_policy", {"dipole_policy", "dipole_runtime"}),
    "dipole_export": (
        ROOT / "export/dipole_export",
        {"dipole_export", "dipole_sb3", "dipole_policy", "dipole_runtime"},
    ),
}
ONNX_AND_ROS = {"onnx", "onnx_ir", "onnxruntime", "onnxscript", "rclpy", "rosbags"}

OPTIONAL = (
    "aiohttp",
    "ament_index_python",
    "dm_control",
    "fsspec",
    "h5py",
    "jax",
    "matplotlib",
    "minari",
    "mujoco",
    "ogbench",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
    "rclpy",
    "rosbag2_py",
    "rosbags",
    "sb3_contrib",
)

PROGRAM = """
import sys
import stable_baselines3  # what it imports is not ours to choose
before = set(sys.modules)
{statements}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""


def modules_loaded_by(statements: str) -> set[str]:
    """Top-level packages that ``statements`` load in a fresh interpreter, beyond those of SB3."""
    program = PROGRAM.format(statements=statements)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def imported_by(file: Path) -> set[str]:
    """Top-level packages that a file imports, at whatever place in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    """The robot's side knows nothing of training, and training nothing of ONNX and ROS."""
    folder, allowed = MAY_IMPORT[package]
    forbidden = set(MAY_IMPORT) - allowed | (ONNX_AND_ROS if package == "dipole_sb3" else set())
    files = sorted(folder.rglob("*.py"))
    assert files
    wrong = {file.name: found for file in files if (found := imported_by(file) & forbidden)}
    assert wrong == {}


def test_importing_the_package_and_its_command_loads_no_optional_package() -> None:
    loaded = modules_loaded_by("import dipole_sb3, dipole_sb3.cli, dipole_export.cli")
    assert "dipole_sb3" in loaded
    assert sorted(loaded & set(OPTIONAL)) == []


def test_modules_that_need_an_extra_are_seen_where_they_are_imported() -> None:
    """Otherwise the test above could not fail."""
    assert "matplotlib" in modules_loaded_by("import matplotlib")


def test_windows_is_told_in_one_sentence_where_it_works() -> None:
    program = 'import sys; sys.modules["fcntl"] = None; import dipole_sb3'
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: dipole_sb3 needs a system with fcntl, Linux or macOS" in run.stderr.splitlines()[-1]
    assert run.stderr.endswith("on Windows install it in WSL 2\n")
