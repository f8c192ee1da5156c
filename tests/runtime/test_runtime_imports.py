"""The runtime stays small: NumPy, ONNX Runtime and the standard library, and little memory."""

from __future__ import annotations

import ast
import json
import pathlib
import sys

import dipole_runtime
import pytest
from runtime_helpers import run_python

PACKAGE = pathlib.Path(dipole_runtime.__file__).parent

LOADED = """
import json, sys
sys.path.insert(0, {path!r})
before = set(sys.modules)
import dipole_runtime
{then}
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""


def modules_after(then: str = "", path: str = "") -> set[str]:
    result = run_python("-c", LOADED.format(path=path, then=then))
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def foreign(modules: set[str]) -> set[str]:
    return {name for name in modules - {"dipole_runtime", "numpy", "onnxruntime"} if not is_standard(name)}


def is_standard(name: str) -> bool:
    # NumPy's random generators are compiled by Cython, which adds modules of its own.
    return name in sys.stdlib_module_names or name.startswith(("_sysconfigdata", "_cython_", "cython_runtime"))


class TestModules:
    def test_importing_it(self) -> None:
        assert foreign(modules_after()) == set()

    @pytest.mark.parametrize("name", ["torch", "gymnasium", "stable_baselines3", "onnx", "rclpy", "matplotlib"])
    def test_not_even_what_is_installed(self, name: str, tmp_path: pathlib.Path) -> None:
        """A module of that name is there, whatever this machine has."""
        (tmp_path / f"{name}.py").write_text("")
        assert name in modules_after(f"import {name}", str(tmp_path))
        assert name not in modules_after("", str(tmp_path))

    def test_driving(self, zipped_bundle: pathlib.Path) -> None:
        then = (
            "import numpy as np\n"
            f"policy = dipole_runtime.GuidedPolicy.load({str(zipped_bundle)!r})\n"
            "policy.act(np.zeros(3)); policy.sweep(np.zeros(3), [0.0, 1.0])"
        )
        assert foreign(modules_after(then)) == set()

    def test_every_import_statement(self) -> None:
        """Also those inside functions; matplotlib is the one that may be missing."""
        names = set()
        for path in PACKAGE.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path.name} imports relatively"
                    names.add((node.module or "").partition(".")[0])
        assert foreign(names) == {"matplotlib"}

    def test_everything_public_is_there(self) -> None:
        for name in dipole_runtime.__all__:
            assert getattr(dipole_runtime, name).__doc__


MEMORY = """
import sys
from dipole_runtime import GuidedPolicy
policy = GuidedPolicy.load(sys.argv[1])
import numpy as np
observation = np.zeros(policy.manifest.observation.size)
for _ in range(50):
    policy.act(observation, num_candidates=4)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_resident_memory_of_a_policy_of_the_papers_size(paper_bundle: pathlib.Path) -> None:
    """The most that it ever was, imports included, with four candidates: at most 150 MiB."""
    result = run_python("-c", MEMORY, str(paper_bundle))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 150 << 10
