"""Built by colcon (ament_python); pip installs this package as a part of dipole-sb3."""

from glob import glob

from setuptools import setup

NAME = "dipole_policy"

setup(
    name=NAME,
    version="0.1.0",
    description="Drives a robot with a guided policy whose greediness can be turned while it drives",
    maintainer="The dipole-sb3 contributors",
    maintainer_email="maintainers@dipole-sb3.invalid",
    license="MIT",
    python_requires=">=3.10",
    install_requires=["setuptools", "numpy>=1.24", "PyYAML>=5.4"],
    packages=[NAME],
    package_data={NAME: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml"))),
        (f"share/{NAME}/contracts", sorted(glob("contracts/*.yaml"))),
        (f"share/{NAME}/layouts", sorted(glob("layouts/*"))),
        (f"share/{NAME}/security", sorted(glob("security/*.xml"))),
    ],
    entry_points={
        "console_scripts": [
            "policy_node = dipole_policy.main:main",
            "dipole_policy = dipole_policy.cli:main",
            "simulated_arm = dipole_policy.simulated_arm:main",
        ]
    },
    zip_safe=False,
)
