"""``import dipole_sb3`` asks for nothing that an optional extra brings, nor for a robot's software."""

import subprocess
import sys

OPTIONAL = (
    "ament_index_python",
    "matplotlib",
    "mujoco",
    "ogbench",
    "onnx",
    "onnxruntime",
    "rclpy",
    "rosbag2_py",
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


def test_importing_the_package_and_its_command_loads_no_optional_package() -> None:
    loaded = modules_loaded_by("import dipole_sb3, dipole_sb3.cli")
    assert "dipole_sb3" in loaded
    assert sorted(loaded & set(OPTIONAL)) == []


def test_modules_that_need_an_extra_are_seen_where_they_are_imported() -> None:
    """Otherwise the test above could not fail."""
    assert "matplotlib" in modules_loaded_by("import matplotlib")
