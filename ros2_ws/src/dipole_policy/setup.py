"""The distribution dipole-policy, for colcon (ament_python) and for pip."""

from glob import glob
from pathlib import Path

from setuptools import setup

NAME = "dipole_policy"
# With --symlink-install, colcon runs this file in a folder without the README.
README = Path("README.md")

setup(
    name=NAME,
    version="0.2.0",
    description="Drives a robot with a guided policy whose greediness can be turned while it drives",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    maintainer="The dipole-sb3 contributors",
    maintainer_email="maintainers@dipole-sb3.invalid",
    license="MIT",
    python_requires=">=3.10",
    install_requires=["setuptools", "dipole-runtime>=0.2,<0.3", "numpy>=1.24", "PyYAML>=5.4"],
    extras_require={"compressed": ["pillow>=9"]},
    packages=[NAME],
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml"))),
        (f"share/{NAME}/contracts", sorted(glob("contracts/*.yaml"))),
        (f"share/{NAME}/examples", sorted(glob("examples/*"))),
        (f"share/{NAME}/layouts", sorted(glob("layouts/*"))),
        (f"share/{NAME}/security", sorted(glob("security/*.xml"))),
    ],
    entry_points={
        "console_scripts": [
            "policy_node = dipole_policy.main:main",
            "dipole_policy = dipole_policy.cli:main",
            "simulated_arm = dipole_policy.simulated_arm:main",
            "command_watchdog = dipole_policy.command_watchdog:main",
        ]
    },
    zip_safe=False,
)
