"""The distribution dipole-runtime, for pip and for colcon (ament_python)."""

from pathlib import Path

from setuptools import setup

NAME = "dipole_runtime"
# With --symlink-install, colcon runs this file in a folder without the README.
README = Path("README.md")

setup(
    name=NAME,
    version="0.2.0",
    description="Runs a guided policy's bundle with NumPy and ONNX Runtime alone",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    maintainer="The dipole-sb3 contributors",
    maintainer_email="maintainers@dipole-sb3.invalid",
    license="MIT",
    python_requires=">=3.10",
    install_requires=["setuptools", "numpy>=1.24", "onnxruntime>=1.18"],
    packages=[NAME],
    package_data={NAME: ["py.typed", "manifest.schema.json", "web/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=False,
)
