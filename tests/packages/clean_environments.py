"""The packages of ``make packages``, installed as users install them: `make test-packages`, not a part of `make test`.

Every environment is new and holds what the packages ask for and nothing else. A Python version that this machine does
not have is skipped by name, after its dependencies were resolved: that much needs no interpreter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
INSTALLING = ROOT / "docs/installing.md"
PYTHONS = os.environ.get("PYTHONS", "3.10 3.11 3.12 3.13").split()
TORCH = os.environ.get("TORCH", "torch")
FOUND_BY_PIP = [f"--find-links={place}" for place in os.environ.get("PIP_FIND_LINKS", "").split()]
IN_A_CLEAN_SHELL = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

# What is run with the oldest versions: every part that stands on somebody else's package.
ON_THE_OLDEST = [
    "tests/bags/test_bags_transitions.py",
    "tests/cli/test_benchmark.py",
    "tests/cli/test_cli.py",
    "tests/contract/test_contract_predict.py",
    "tests/contract/test_contract_save_load.py",
    "tests/datasets/exorl/test_exorl_environments.py",
    "tests/datasets/ogbench/test_ogbench.py",
    "tests/datasets/test_array_files.py",
    "tests/datasets/test_minari.py",
    "tests/export/test_export.py",
    "tests/hub",
    "tests/plots",
    "tests/recording/test_rollouts.py",
    "tests/runtime",
]


# labmaze, which dm_control asks for and OGBench with it, has no wheels for Python 3.13.
WITHOUT_LABMAZE = "bags,demo,hdf5,hub,minari"


def extras(version: str) -> str:
    return WITHOUT_LABMAZE if version == "3.13" else "all"


def package(name: str, kind: str) -> str:
    (found,) = DIST.glob(f"{name}-*{kind}")
    return str(found)


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], cwd=ROOT, env=IN_A_CLEAN_SHELL, check=True)


def interpreter(version: str) -> str | None:
    """The one on the PATH, or among those of pyenv, whose stand-ins on the PATH may lead nowhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in (shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")):
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(found)
    return None


def resolve(version: str, *options: str) -> None:
    """Whether there are versions of everything for this Python; nothing is installed."""
    uv(
        *("pip", "compile", "pyproject.toml", "--quiet", f"--python-version={version}", f"--find-links={DIST}"),
        *(f"--extra={extra}" for extra in extras(version).split(",")),
        *options,
    )


class Environment:
    def __init__(self, folder: Path, version: str) -> None:
        python = interpreter(version)
        if python is None:
            resolve(version, f"--output-file={folder.parent / 'resolved.txt'}")
            pytest.skip(f"no Python {version} here: its dependencies were resolved, nothing was installed or run")
        uv("venv", "--quiet", f"--python={python}", str(folder))
        self.folder = folder
        self.work = folder.parent / "work"
        self.work.mkdir(exist_ok=True)

    def install(self, *requirements: str) -> None:
        uv("pip", "install", "--quiet", f"--python={self.folder}", *FOUND_BY_PIP, f"--find-links={DIST}", *requirements)

    def run(self, program: str, *arguments: str, status: int = 0, work: Path | None = None) -> str:
        """What the environment's program prints, in an empty folder."""
        finished = subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=work or self.work,
            env={**IN_A_CLEAN_SHELL, "MUJOCO_GL": "disable"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert finished.returncode == status, finished.stdout
        return finished.stdout


@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_alone_and_then_the_first_lines_of_the_readme(version: str, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment", version)
    wheel = package("dipole_sb3", ".whl")
    environment.install(wheel, TORCH)
    assert re.fullmatch(r"dipole-sb3 \d+\.\d+\.\d+\n", environment.run("dipole", "--version"))
    assert environment.run("dipole", "train", status=2).startswith("usage: dipole train")
    assert environment.run("dipole", "data", "info", "demo/reacher-tqc-10k")
    without_environment = "from dipole_sb3 import DIPOLE; DIPOLE('MlpPolicy', dataset='demo/reacher-tqc-10k').learn(3)"
    environment.run("python", "-c", without_environment)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install ".[record,plots]"' in readme
    environment.install(f"{wheel}[record,plots]", TORCH)
    snippet = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    assert "24_000" in snippet
    environment.run("python", "-c", snippet.replace("24_000", "3"))
    assert (environment.work / "reacher.zip").is_file()


@pytest.mark.parametrize("version", PYTHONS)
def test_the_source_distributions_with_everything_from_training_to_the_robot(version: str, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "environment", version)
    robots = [package(name, ".tar.gz") for name in ("dipole_runtime", "dipole_policy")]
    environment.install(f"{package('dipole_sb3', '.tar.gz')}[{extras(version)}]", *robots, TORCH)
    environment.run("python", "-c", "import h5py, huggingface_hub, matplotlib, minari, rosbags")
    if extras(version) == "all":
        environment.run("python", "-c", "import dm_control, ogbench, rliable.library")
    environment.run("dipole", "train", "task=reacher", *TINY, "episodes=1", "run_dir=run")
    environment.run("dipole", "export", "run", "robot.dipole")
    environment.run("python", "-m", "dipole_runtime", "selftest", "robot.dipole")

    robot = Environment(tmp_path / "robot", version)
    robot.install(package("dipole_runtime", ".whl"))
    robot.run("python", "-m", "dipole_runtime", "selftest", "robot.dipole")
    robot.run("python", "-c", "import torch", status=1)


@pytest.mark.skipif("3.10" not in PYTHONS, reason="the oldest versions are tried on Python 3.10")
def test_the_oldest_versions_that_are_asked_for(tmp_path: Path) -> None:
    """Each direct dependency at its lower bound in pyproject.toml."""
    environment = Environment(tmp_path / "environment", "3.10")
    oldest = tmp_path / "oldest.txt"
    resolve("3.10", "--resolution=lowest-direct", f"--output-file={oldest}")
    # What others ask for may have raised one of them.
    resolved = dict(re.findall(r"^([\w.-]+)==(\S+)", oldest.read_text(), flags=re.MULTILINE))
    for names, bound in re.findall(r"^\| (.+) \| (\d\S*) \|$", INSTALLING.read_text(), flags=re.MULTILINE):
        for name in names.split(", "):
            assert Version(resolved[canonicalize_name(name)]) == Version(bound), name
    environment.install(f"--requirement={oldest}", package("dipole_sb3", ".whl"))
    environment.install(f"--constraint={oldest}", "pytest", "hypothesis", "jsonschema", "minari[create]")
    print(*(line for line in oldest.read_text().splitlines() if "==" in line), sep="\n")
    # The tests of the source distribution; `pytest`, unlike `python -m pytest`, imports the package that is installed.
    shutil.unpack_archive(package("dipole_sb3", ".tar.gz"), environment.work)
    (unpacked,) = environment.work.iterdir()
    environment.run("pytest", "-q", "--show-capture=no", *ON_THE_OLDEST, work=unpacked)
