"""Benchmarks count what they say, and write the figures that they print."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from runtime_latency import make_model, operations  # noqa: E402


def test_offline_to_online_benchmark_writes_and_draws_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "offline_to_online.py", "--seeds", "3", "--offline", "4", "--online", "2"]
    sizes = ["--every", "2", "--episodes", "2", "--width", "16", "--omegas", "0", "--ways", "half", "data alone"]
    files = ["--json", tmp_path / "points.json", "--picture", tmp_path / "curves.png"]
    run = subprocess.run([*command, *sizes, *files], capture_output=True, text=True, check=True)
    points = json.loads((tmp_path / "points.json").read_text())["points"]
    found = {(point["way"], point["timestep"]): point["mean_return"] for point in points}
    assert list(found) == [("offline", 0), ("offline", 2), ("offline", 4), ("half", 6), ("data alone", 6)]
    lines = [line for line in run.stdout.splitlines() if line.startswith("  ω = 0    ")]
    half, alone = (found[way, 6] - found["offline", 4] for way in ("half", "data alone"))
    for line, way, gain in zip(lines, ("half", "data alone", "half"), (half, alone, half - alone), strict=True):
        assert line.split("ω = 0    ")[1].startswith(way)
        assert line.endswith(f"({gain:+.2f})")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_latency_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "runtime_latency.py", "--width", "64", "--flow-steps", "2"]
    run = subprocess.run(
        [*command, "--candidates", "2", "--seconds", "0.5", "--json", tmp_path / "latency.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    written = json.loads((tmp_path / "latency.json").read_text())
    names = [row["contender"] for row in written["rows"]]
    jax = [] if find_spec("jax") is None else ["jax"]
    assert names == ["eager", "compiled", "decomposed", "two sessions", *jax, "fused", "int8"]
    for row in written["rows"]:
        table = [line.strip() for line in run.stdout.splitlines() if line.startswith(" ")]
        (line,) = [line for line in table if line.startswith(row["contender"])]
        assert float(line.split()[-1]) == pytest.approx(row["of_bound"], abs=0.006)
    (loaded,) = [line for line in run.stdout.splitlines() if line.startswith("fp32 bundle")]
    assert f"{written['loaded'][0]['mebibytes']:.0f} MiB resident" in loaded
    assert written["rows"][3]["of_two_sessions"] == 1


def test_sampling_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "data_sampling.py", "--transitions", "5000", "--turns", "1", "--draws", "5"]
    run = subprocess.run(
        [*command, "--updates", "2", "--folder", tmp_path, "--json", tmp_path / "sampling.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    row = json.loads((tmp_path / "sampling.json").read_text())
    # Of five episodes of 1,000 rows the last ones have no next observation.
    assert row["transitions"] == 4_995
    assert f"from storage {row['storage_microseconds']:.0f} µs: {row['storage_of_memory']:.2f} times" in run.stdout
    assert f"training: {row['training_mebibytes']:.0f} MiB resident at most" in run.stdout
    assert row["training_mebibytes"] > row["training_mebibytes_before"] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["sampling.json"]


def test_sampling_benchmark_of_frames(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "data_sampling.py", "--frames", "1000", "--turns", "2", "--draws", "2"]
    run = subprocess.run(
        [*command, "--updates", "0", "--folder", tmp_path, "--json", tmp_path / "frames.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    row = json.loads((tmp_path / "frames.json").read_text())
    assert row["frames"] == 1_000
    assert row["stored_gigabytes"] == pytest.approx(1_002 * 64 * 64 * 3 / 1e9, rel=0.01), "each frame once"
    assert f"1,000 frames: 0.01 GB stored\na batch of 256 stacks of 3 in {row['batch_milliseconds']:.1f}" in run.stdout
    assert row["drawing_mebibytes_resident"] > row["drawing_mebibytes_own"] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["frames.json"]


def test_operations_of_an_action() -> None:
    # By hand for 34 → 512 → 512 → 512 → 5 twice in ten steps, and 33 → 512 → 512 → 512 → 1 twice.
    square = 512 * 512
    pair, critics = 2 * (34 * 512 + 2 * square + 512 * 5), 2 * (33 * 512 + 2 * square + 512)
    assert operations(make_model(28, 5, 512, 10), 4) == 2 * 4 * (10 * pair + critics)


def test_scoring_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "pdm_score.py", "--scenes", "2", "--plans", "2", "--others", "3"]
    run = subprocess.run(
        [*command, "--processes", "1", "--turns", "1", "--plain", "1", "--json", tmp_path / "score.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    written = json.loads((tmp_path / "score.json").read_text())
    (plain,) = [line.split() for line in run.stdout.splitlines() if line.startswith("  plain")]
    (pool,) = [line.split() for line in run.stdout.splitlines() if line.startswith("  1 processes")]
    assert float(plain[1]) == pytest.approx(written["plain"], abs=0.06)
    assert float(pool[2]) == pytest.approx(written["pool"], abs=0.6)
    assert f"{written['pool_of_plain']:.0f} times the plain path" in " ".join(pool)
