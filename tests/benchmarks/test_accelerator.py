"""accelerator.py in all its parts, tiny and on the CPU; and the wheels that it takes along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import accelerator  # noqa: E402
import accelerator_parts  # noqa: E402
from accelerator_parts import OMEGAS, Cell, Job, cells, measure_speed  # noqa: E402
from accelerator_wheels import UNUSED, without  # noqa: E402
from train_ways import ALGORITHMS  # noqa: E402


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The script's process, and the file that it leaves; models and logs go beside it."""
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--device", "cpu", "--small", "--out", str(folder)]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    (file,) = folder.glob("accelerator-*-cpu.json")
    return done, json.loads(file.read_text())


def test_dry_run_of_all_parts(tmp_path: Path) -> None:
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert {"date", "machine", "torch", "seconds"} < set(found)
    tests, data, speed, learn = (found[part] for part in ("tests", "data", "speed", "learn"))
    assert tests["tests"] >= 7
    if not torch.cuda.is_available():
        assert tests["skipped"] == tests["tests"]
    assert (data["episodes"], data["file"]) == (2, "cube-single-play-v0.npz")
    assert len(speed["rows"]) == len(cells(small=True, device=torch.device("cpu")))
    assert all(row["updates_per_second"] > 0 for row in speed["rows"])
    assert [row["way"] for row in speed["rows"] if row["seconds_to_compile"] is not None] == ["compiled"]
    assert learn["updates"] == [20, 20]
    assert [row["omega"] for row in learn["rows"]] == list(OMEGAS[:2])
    assert all(row["episodes"] == 2 and row["low"] <= row["success"] <= row["high"] for row in learn["rows"])
    assert "ended" not in tests.keys() | data.keys() | speed.keys() | learn.keys()


def test_a_run_without_time_ends_and_leaves_what_it_has(tmp_path: Path) -> None:
    done, found = run(tmp_path, "--minutes", "0.02")
    assert done.returncode == 0, done.stdout
    assert found["seconds"] < 60
    assert found["data"]["ended"] == "out of time"
    assert found["speed"]["ended"].startswith("out of time")
    # The second where even starting took longer than there was time.
    assert found["learn"]["ended"] in ("no data set was made in time", "out of time")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["accelerator.py"])
    with pytest.raises(SystemExit, match=r"^accelerator: torch finds no CUDA device here; "):
        accelerator.main()


def test_cells_hold_every_algorithm_and_number_of_runs_and_begin_with_what_matters() -> None:
    every = cells(small=False, device=torch.device("cuda"))
    assert len(set(every)) == len(every)
    assert {cell.algorithm for cell in every} == set(ALGORITHMS)
    assert {cell.task for cell in every} == {"ogbench", "exorl", "visual"}
    assert {cell.way for cell in every} == {"eager", "compiled", "captured"}
    assert {cell.precision for cell in every} == {"fp32", "tf32", "bf16"}
    assert {cell.runs for cell in every} == {1, 4, 8, 16, 32}
    first = every[0]
    assert (first.task, first.algorithm, first.way, first.runs) == ("ogbench", "dipole", "captured", 1)


def test_a_cell_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs do not run on a CPU, neither where they are compiled ahead nor where they are measured."""
    todo = [Cell("ogbench", "iql", way, "fp32", 1) for way in ("captured", "eager")]
    monkeypatch.setattr(accelerator_parts, "cells", lambda small, device: todo)
    job = Job(tmp_path / "speed.json", tmp_path, torch.device("cpu"), lambda: 60.0, small=True)
    with pytest.raises(SystemExit, match=r"^speed: 1 of 2 cells failed; their rows say why$"):
        measure_speed(job)
    failed, measured = json.loads(job.file.read_text())["rows"]
    assert (failed["way"], failed["out_of_memory"]) == ("captured", False)
    assert "expected a CUDA device" in failed["failed"]
    assert measured["updates_per_second"] > 0


def test_what_does_not_fit_is_a_finding_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it")

    monkeypatch.setattr(accelerator_parts, "measured", full)
    todo = [Cell("ogbench", "iql", "eager", "fp32", 32)]
    monkeypatch.setattr(accelerator_parts, "cells", lambda small, device: todo)
    measure_speed(Job(tmp_path / "speed.json", tmp_path, torch.device("cpu"), lambda: 60.0, small=True))
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert row["failed"] == "CUDA out of memory. Tried to allocate 2 GiB."
    assert (row["runs"], row["out_of_memory"]) == (32, True)


def test_a_wheel_without_folders_lists_what_is_left(tmp_path: Path) -> None:
    wheel = tmp_path / "dm_control-1.0-py3-none-any.whl"
    names = ["dm_control/mjcf/__init__.py", "dm_control/suite/a.py", "dm_control/locomotion/b/c.stl"]
    record = "dm_control-1.0.dist-info/RECORD"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, name)
        archive.writestr(record, "".join(f"{name},sha256=x,1\n" for name in names) + f"{record},,\n")
    without(wheel, UNUSED)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist() == [names[0], record]
        assert archive.read(names[0]).decode() == names[0]
        assert archive.read(record).decode() == f"{names[0]},sha256=x,1\n{record},,\n"


def test_the_cube_needs_nothing_of_what_the_wheel_leaves_out() -> None:
    program = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if (name.replace(".", "/") + "/").startswith({UNUSED!r}):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from dipole_sb3.datasets import make_env
from dipole_sb3.datasets.ogbench.generation import make_dataset

if __name__ == "__main__":
    env = make_env("ogbench/cube-single-play-singletask-task2-v0")
    env.reset(seed=0)
    print(env.step(env.action_space.sample())[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "(28,)", done.stderr
