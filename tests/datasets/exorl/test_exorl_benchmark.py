"""The benchmark of relabelling writes the figures that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "exorl_relabelling.py"


def test_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--turns", "1", "--steps", "10", "--json", tmp_path / "rates.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "rates.json").read_text())["rows"]
    assert [row["domain"] for row in rows] == ["walker", "quadruped", "cheetah", "jaco"]
    for row, line in zip(rows, run.stdout.splitlines()[-4:], strict=True):
        domain, _, rewarded, ratio, minutes = line.split()
        assert domain == row["domain"]
        assert float(rewarded) == pytest.approx(row["rewarded_steps_per_second"], abs=0.6)
        assert float(ratio) == pytest.approx(row["ratio_to_environment"], abs=0.006)
        assert float(minutes) == pytest.approx(1e7 / row["rewarded_steps_per_second"] / 60, abs=0.06)
