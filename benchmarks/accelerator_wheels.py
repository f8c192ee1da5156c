"""Gathers the wheels that accelerator.py needs on a machine without a package index, as few bytes as possible.

    python benchmarks/accelerator_wheels.py FOLDER [--python 3.12]

For Linux on x86-64. Run it where an index is reachable, in an environment where accelerator.py runs: it takes the
versions that are installed there. What the other machine has to have by itself, accelerator.py says. Of dm_control,
OGBench's arms use the part that writes MuJoCo's XML: its own environments stay out.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "antlr4-python3-runtime",
    "dm-env",
    "dm-tree",
    "dm_control",
    "farama-notifications",
    "glfw",
    "gymnasium",
    "hydra-core",
    "mujoco",
    "ogbench",
    "omegaconf",
    "pyopengl",
    "stable-baselines3",
)
UNUSED = ("dm_control/locomotion/", "dm_control/suite/")
"""Of dm_control: walkers and arenas with their meshes, and the control suite."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def gather(package: str, folder: Path, python: str) -> None:
    """One wheel of the version that is installed here; built where only its source is offered."""
    pinned = f"{package}=={version(package)}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    platforms = [option for name in _PLATFORMS for option in ("--platform", name)]
    download = ["download", "--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    if subprocess.run([*pip, *download, *platforms, "-d", str(folder), pinned], capture_output=True).returncode:
        subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), pinned], check=True)


def without(wheel: Path, folders: tuple[str, ...]) -> None:
    """Takes folders out of a wheel, and out of the list of what is in it."""
    kept: dict[str, bytes] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.startswith(folders):
                kept[name] = archive.read(name)
    record = next(name for name in kept if name.endswith(".dist-info/RECORD"))
    rows = [row for row in csv.reader(io.StringIO(kept[record].decode())) if row and not row[0].startswith(folders)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    kept[record] = text.getvalue().encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kept.items():
            archive.writestr(name, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the wheels")
    parser.add_argument("--python", default="3.12", help="version on the other machine (3.12)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        gather(package, options.folder, options.python)
    for wheel in options.folder.glob("dm_control-*.whl"):
        without(wheel, UNUSED)
    sizes = {wheel.name: wheel.stat().st_size / 2**20 for wheel in sorted(options.folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size:6.2f} MiB  {name}")
    print(f"{sum(sizes.values()):6.2f} MiB in all")


if __name__ == "__main__":
    main()
