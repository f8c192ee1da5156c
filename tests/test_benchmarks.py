"""Benchmarks count what they say, and write the figures that they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from train_speed import update_operations  # noqa: E402


def test_operations_of_the_papers_update() -> None:
    # By hand for widths 28+5+1 → 512 → 512 → 512 → 5 and so on, batch 256, ten flow steps.
    square = 512 * 512
    velocity, critic, value = 34 * 512 + 2 * square + 512 * 5, 33 * 512 + 2 * square + 512, 28 * 512 + 2 * square + 512
    sampler, targets = 10 * velocity, 4 * critic
    training = 3 * (2 * velocity + 2 * critic + value) - 512 * (2 * 34 + 2 * 33 + 28)
    assert update_operations(28, 5, 512, 256, 10) == 2 * 256 * (sampler + targets + training)
    assert update_operations(28, 5, 512, 256, 10) / 1e9 == pytest.approx(8.02, abs=0.01)


def test_speed_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "train_speed.py", "--widths", "16", "--seconds", "0.2", "--threads", "1"]
    run = subprocess.run(
        [*command, "--turns", "2", "--json", tmp_path / "speed.json"], capture_output=True, text=True, check=True
    )
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    printed = run.stdout.splitlines()[-1].split()
    assert printed[0] == "16"
    assert float(printed[-1]) == pytest.approx(row["ratio_to_bound"], abs=0.006)
    assert float(printed[-2]) == pytest.approx(row["updates_per_second"], abs=0.06)
