"""Recordings written by rosbags, and the paths that the tests of the node use."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests/runtime", "tests/ros", "tests/bags"):
    sys.path.insert(0, str(ROOT / folder))

MISSING = [name for name in ("onnxruntime", "onnx", "yaml", "rosbags") if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str:
    """Says why nothing of this folder runs."""
    missing = f"not collected, because {', '.join(MISSING)} is not installed"
    return f"tests/bags: {missing if MISSING else 'collected'}"
