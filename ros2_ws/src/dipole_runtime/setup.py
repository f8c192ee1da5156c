"""Built by colcon (ament_python); pip installs this package as a part of dipole-sb3."""

from setuptools import setup

NAME = "dipole_runtime"

setup(
    name=NAME,
    version="0.1.0",
    description="Runs a guided policy's bundle with NumPy and ONNX Runtime alone",
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
