"""The profile of a training: real windows of the real algorithm, what is counted, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import UNTESTED, Command
from full_disk import full_disk
from recordings import Arrays
from stable_baselines3.common.env_util import make_vec_env
from torch.autograd.profiler_util import FunctionEvent

from dipole_sb3 import DIPOLE
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.learning.profiling import (
    TABLE,
    TRACE,
    UPDATES,
    WAIT,
    WARMUP,
    TrainingProfile,
    format_profile,
    summarize,
)

SECTIONS = {
    "batch",
    "update",
    "losses",
    "target critics",
    "sampler of the critics' target",
    "backward",
    "optimiser",
    "target step",
    "logging",
    "callbacks",
}
WHOLE = WAIT + WARMUP + UPDATES


def small_model(dataset: Arrays, **arguments: Any) -> DIPOLE:
    arguments = {"batch_size": 16, "policy_kwargs": {"net_arch": [16, 16]}, "seed": 0, "device": "cpu", **arguments}
    return DIPOLE("MlpPolicy", dataset=dataset, **arguments)


def marked(folder: Path) -> list[dict[str, Any]]:
    """Sections and steps in the trace."""
    with gzip.open(folder / TRACE) as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event.get("cat") == "user_annotation"]


def rows(folder: Path) -> dict[str, float]:
    """Milliseconds per update of every line of the upper table."""
    upper = (folder / TABLE).read_text().split("\n\n")[0].splitlines()[1:]
    found = [re.match(r" *(.*?) +([\d.]+) +[\d.]+ %", line) for line in upper]
    return {match[1]: float(match[2]) for match in found if match}


def test_window_holds_twenty_updates_by_section(
    reacher_data: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model(reacher_data).learn(WHOLE + 20, callback=TrainingProfile(tmp_path / "profile"))
    folder = tmp_path / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [TABLE, TRACE]
    assert (folder / TABLE).read_text() in capsys.readouterr().out
    assert set(rows(folder)) == {*SECTIONS, "other", "sum"}
    names = [event["name"] for event in marked(folder)]
    for once in ("sampler of the critics' target", "backward", "optimiser", "target step"):
        assert names.count(f"dipole::{once}") == UPDATES
    assert "aten::baddbmm" in (folder / TABLE).read_text()
    assert not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]


def test_sections_add_up_to_the_time_of_the_window(reacher_data: Arrays, tmp_path: Path) -> None:
    """The window's length from the trace's own steps, which the table does not read."""
    small_model(reacher_data).learn(WHOLE, callback=TrainingProfile(tmp_path))
    table = rows(tmp_path)
    steps = [event for event in marked(tmp_path) if event["name"].startswith("ProfilerStep")]
    wall = max(step["ts"] + step["dur"] for step in steps) - min(step["ts"] for step in steps)
    assert table["sum"] * UPDATES * 1e3 == pytest.approx(wall, rel=0.01)
    total = table.pop("sum")
    assert sum(table.values()) == pytest.approx(total, abs=0.0006 * len(table))
    assert all(value >= 0 for value in table.values())


def test_profiled_run_is_the_same_run(reacher_data: Arrays, tmp_path: Path) -> None:
    profiled, plain = small_model(reacher_data), small_model(reacher_data)
    profiled.learn(WHOLE + 5, callback=TrainingProfile(tmp_path))
    plain.learn(WHOLE + 5)
    for name, parameter in plain.policy.state_dict().items():
        assert torch.equal(profiled.policy.state_dict()[name], parameter), name


def test_online_window_holds_whole_rounds(reacher_data: Arrays, tmp_path: Path) -> None:
    env = make_vec_env("Reacher-v5", n_envs=2, seed=0)
    model = small_model(reacher_data, env=env, offline_steps=0, train_freq=4, gradient_steps=-1)
    # Eight updates after every eighth step.
    model.learn(120, callback=TrainingProfile(tmp_path))
    assert set(rows(tmp_path)) == {*SECTIONS, "environment steps", "other", "sum"}
    names = [event["name"] for event in marked(tmp_path)]
    assert names.count("dipole::environment steps") == 3
    assert names.count("dipole::backward") == 24
    assert "\n24 updates in " in (tmp_path / TABLE).read_text()


def test_evaluations_and_checkpoints_in_the_window_are_rows(dipole: Command) -> None:
    arguments = ["train", *UNTESTED, f"offline_steps={WHOLE}", "profile=true", "run_dir=run"]
    assert dipole(*arguments, f"checkpoint_freq={WHOLE - 2}", f"eval_freq={WHOLE - 3}", "eval_episodes=1")[0] == 0
    assert {"evaluation", "checkpoint"} < set(rows(Path("run/profile")))


def test_command_profiles_where_it_is_asked_to(dipole: Command) -> None:
    arguments = ["train", *UNTESTED, f"offline_steps={WHOLE}"]
    assert dipole(*arguments, "run_dir=plain") == (0, "\nThis run is in plain/\n", "")
    assert not Path("plain/profile").exists()
    status, out, _ = dipole(*arguments, "profile=true", "run_dir=run")
    assert status == 0
    assert "Where the time goes" in out
    assert len(list(Path("run/profile").iterdir())) == 2
    # An earlier run's profile is not taken for the new one's.
    assert dipole(*arguments, "replace=true", "run_dir=run")[0] == 0
    assert list(Path("run/profile").iterdir()) == []


def test_short_run_has_a_profile_of_what_there_was(
    reacher_data: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model(reacher_data).learn(WAIT + WARMUP + 3, callback=TrainingProfile(tmp_path))
    assert "\n3 updates in " in capsys.readouterr().out
    assert [event["name"] for event in marked(tmp_path)].count("dipole::backward") == 3


@pytest.mark.parametrize("updates", [3, WAIT, WAIT + WARMUP])
def test_run_without_a_window_says_so(
    updates: int, reacher_data: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model(reacher_data).learn(updates, callback=TrainingProfile(tmp_path))
    expected = f"No profile: training ended after {updates} updates, before those that are profiled\n"
    assert capsys.readouterr().out == expected
    assert list(tmp_path.iterdir()) == []
    assert not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]


def test_folder_that_cannot_be_made_is_refused_before_training(reacher_data: Arrays, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = small_model(reacher_data)
    with pytest.raises(OSError, match=r"cannot write .*file/profile: Not a directory; nothing was changed"):
        model.learn(5, callback=TrainingProfile(tmp_path / "file" / "profile"))
    assert model.num_timesteps == 0


def test_two_profiles_at_a_time_are_refused(reacher_data: Arrays, tmp_path: Path) -> None:
    both = [TrainingProfile(tmp_path / "one"), TrainingProfile(tmp_path / "other")]
    with pytest.raises(RuntimeError, match=r"cannot profile into .*other: another profile is under way"):
        small_model(reacher_data).learn(WHOLE, callback=both)
    small_model(reacher_data).learn(WHOLE, callback=TrainingProfile(tmp_path / "next"))
    assert len(list((tmp_path / "next").iterdir())) == 2


def test_full_disk_leaves_nothing_half_written(reacher_data: Arrays, tmp_path: Path) -> None:
    message = rf"cannot write {re.escape(str(tmp_path / TRACE))}: the profiler left no trace, expected room for it"
    with pytest.raises(OSError, match=message), full_disk(after=100_000):
        small_model(reacher_data).learn(WHOLE, callback=TrainingProfile(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_section_is_nothing_without_a_profiler_and_inside_a_graph() -> None:
    assert isinstance(section("outside"), nullcontext)

    def work(x: torch.Tensor) -> torch.Tensor:
        with section("inside"):
            return x + 1

    graph = torch.compile(work, backend="eager", fullgraph=True)
    graph(torch.zeros(2))
    with torch.profiler.profile() as profiler, torch.compiler.set_stance("fail_on_recompile"):
        graph(torch.zeros(2))
        work(torch.zeros(2))
    assert [event.name for event in profiler.events()].count("dipole::inside") == 1


def event(name: str, start: float, end: float, id: int = 0, device: str = "CPU", thread: int = 1) -> FunctionEvent:
    kind = getattr(torch.profiler.DeviceType, device)
    return FunctionEvent(id=id, name=name, thread=thread, start_us=start, end_us=end, device_type=kind)


def test_kernels_belong_to_the_section_that_launched_them() -> None:
    """As CUDA's events are: launches from two threads, kernels that run after their section, one launch of a graph."""
    events = [
        event("ProfilerStep#7", 0, 1000),
        event("ProfilerStep#8", 1000, 2000),
        event("dipole::callbacks", -50, 100),
        event("dipole::update", 200, 1200),
        event("dipole::backward", 400, 900),
        event("cudaLaunchKernel", 250, 260, id=1),
        event("cudaLaunchKernel", 500, 510, id=2, thread=9),
        event("cudaGraphLaunch", 950, 960, id=3),
        event("gemm", 300, 700, id=1, device="CUDA"),
        event("gemm", 1000, 1300, id=2, device="CUDA"),
        event("fused", 1300, 1400, id=3, device="CUDA"),
        event("fused", 1400, 1500, id=3, device="CUDA"),
    ]
    profile = summarize(events, updates=2)
    assert profile.wall_ms == 2.0
    found = {row.name: (row.depth, row.ms, row.kernel_ms) for row in profile.sections}
    assert found == {
        "callbacks": (0, pytest.approx(0.1), 0.0),
        "update": (0, pytest.approx(0.5), pytest.approx(0.6)),
        "backward": (1, pytest.approx(0.5), pytest.approx(0.3)),
        "other": (0, pytest.approx(0.9), 0.0),
    }
    assert [(row.name, row.ms, row.count) for row in profile.operators] == [
        ("gemm", pytest.approx(0.7), 2),
        ("fused", pytest.approx(0.2), 2),
    ]
    assert profile.hides == ["captured"]
    text = format_profile(profile)
    assert text.splitlines()[0].endswith("ms/update    share   kernels")
    assert re.search(r"^gemm +0\.350 +77\.8 % +1\.0$", text, re.MULTILINE)


def test_compiled_parts_are_said_to_be_compiled() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        with section("inside"):
            return x + 1

    graph = torch.compile(work, backend="eager")
    graph(torch.zeros(2))
    window = torch.profiler.schedule(wait=0, warmup=1, active=2)
    with torch.profiler.profile(schedule=window, acc_events=True) as profiler:
        profiler.step()
        with section("update"):
            graph(torch.zeros(2))
    profile = summarize(profiler.events(), updates=1)
    assert profile.hides == ["compiled"]
    assert [row.name for row in profile.sections] == ["update", "other"]
    assert "are compiled as one: their time is in the line around them, and in the lower table." in format_profile(
        profile
    )
