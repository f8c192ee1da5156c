"""``dipole benchmark``: what it plans, leaves and refuses, and that it goes on as if it had not stopped."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command
from omegaconf import OmegaConf
from PIL import Image

from dipole_sb3 import DIPOLE
from dipole_sb3.cli import benchmark, benchmark_table, main
from dipole_sb3.cli.benchmark_plan import Suite, TaskEntry, load_suite, planned
from dipole_sb3.cli.benchmark_results import Evaluation, Scores, _of_row
from dipole_sb3.cli.configuration import suite_names
from dipole_sb3.common.intervals import Interval
from dipole_sb3.datasets.ogbench import generation
from dipole_sb3.plots import benchmark as benchmark_plots

SUITE = """
about: Tiny. For tests.
algos: [cfgrl, rebrac]
seeds: 2
tasks:
  - {task: reacher, ref_min_score: -100, ref_max_score: 0}
options:
  all: [offline_steps=12, eval_freq=4, eval_episodes=2, episodes=2, checkpoint_freq=4, processes=1]
  cfgrl: ['guidances=[1,1.5]', 'algo.policy_kwargs.net_arch=[16,16]', algo.batch_size=16]
  rebrac: ['algo.policy_kwargs.net_arch=[8,8]']
"""


@pytest.fixture(autouse=True)
def few_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of a benchmark that is done already."""
    monkeypatch.setattr(benchmark_plots, "REPETITIONS", 200)


def write_suite(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(SUITE)


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "dipole_sb3.cli", "benchmark", "suite=tiny.yaml", "out=out", *options]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the tiny suite has run to its end, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("benchmark"), io.StringIO()
    write_suite(folder)
    with pytest.MonkeyPatch.context() as here, contextlib.redirect_stdout(printed):
        here.setattr(benchmark_plots, "REPETITIONS", 200)
        here.chdir(folder)
        assert main(["benchmark", "suite=tiny.yaml", "out=out"]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def copied(finished: tuple[Path, str], dipole: Command) -> Path:
    """A copy of it as the working directory."""
    shutil.copytree(finished[0], Path.cwd(), dirs_exist_ok=True)
    return Path("out")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores_of(out: Path, algorithm: str, **setting: float) -> list[float]:
    """Returns of both seeds' finished models, from what ``dipole train`` leaves."""
    found = []
    for seed in (0, 1):
        (table,) = (out / "reacher" / algorithm / f"seed{seed}").glob("*_sweep.csv" if setting else "evaluation.csv")
        (row,) = [each for each in rows(table) if all(float(each[key]) == value for key, value in setting.items())]
        found.append(float(row["return_mean"]))
    return found


def shown(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def test_the_table_is_made_of_what_the_runs_left(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    own, best = scores_of(folder / "out", "cfgrl", guidance=1.5), scores_of(folder / "out", "rebrac")
    page = (folder / "out/table.md").read_text()
    assert f"| reacher | {shown(own)} | {shown(best)} |" in page.split("## Mean")[0]
    assert re.search(rf"reacher +{re.escape(shown(own))} +{re.escape(shown(best))}", printed)
    for guidance in (1, 1.5):
        assert f"| w = {guidance} | {shown(scores_of(folder / 'out', 'cfgrl', guidance=guidance))} |" in page
    # Of the four evaluations at 1, 4, 8 and 12 updates.
    last = [
        np.load(folder / f"out/reacher/rebrac/seed{seed}/evaluations/evaluations.npz")["results"][-3:].mean()
        for seed in (0, 1)
    ]
    assert f"| {shown(last)} |" in page.split("## Mean")[1].split("## Best")[0]


def test_the_long_table_has_every_evaluation_once(finished: tuple[Path, str]) -> None:
    found = rows(finished[0] / "out/results.csv")
    keys = [(row["algorithm"], row["seed"], row["timesteps"], row["guidance"]) for row in found]
    assert len(set(keys)) == len(keys)
    assert {(row["task"], row["episodes"]) for row in found} == {("reacher", "2")}
    during = [(seed, steps, "1.5") for seed in "01" for steps in ("1", "4", "8")]
    ends = [(seed, "12", guidance) for seed in "01" for guidance in ("1", "1.5")]
    of_cfgrl = {(seed, steps, guidance) for name, seed, steps, guidance in keys if name == "cfgrl"}
    assert {(seed, steps, f"{float(guidance):g}") for seed, steps, guidance in of_cfgrl} == {*during, *ends}
    assert {row["own_setting"] for row in found if row["algorithm"] == "rebrac"} == {"1"}
    assert {row["guidance"] for row in found if row["algorithm"] == "rebrac"} == {""}
    assert {row["own_setting"] for row in found if row["guidance"] == "1.0"} == {"0"}


def test_pictures(finished: tuple[Path, str]) -> None:
    for name in ("aggregates", "profiles", "improvement", "curves"):
        with Image.open(finished[0] / f"out/{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors(256) or ()) > 20
    assert "aggregates.png" in finished[1]


def test_the_same_command_again_learns_nothing_anew(copied: Path, dipole: Command) -> None:
    models = {path: path.stat().st_mtime_ns for path in copied.rglob("model.zip")}
    page = (copied / "table.md").read_text()
    (copied / "table.md").unlink()
    status, out, err = dipole("benchmark", "suite=tiny.yaml", "out=out")
    assert (status, err) == (0, "")
    assert "2 of 2 groups of runs are done already" in out
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("model.zip")} == models
    assert (copied / "table.md").read_text() == page


def test_what_another_process_has_just_ended_is_not_learned_anew(
    copied: Path, dipole: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim waits for nobody, but between the look at a folder and the claim its run may end."""
    before = rows(copied / "results.csv")
    claims: list[Path] = []

    def claim_folders(runs: list[Any], *_: Any, **__: Any) -> None:
        claims.extend(run.folder for run in runs)

    monkeypatch.setattr(benchmark, "claim_folders", claim_folders)
    monkeypatch.setattr(benchmark, "is_finished", lambda run: run.folder in claims)
    monkeypatch.setattr(benchmark.training, "train", lambda *_, **__: pytest.fail("learned again"))
    status, _, err = dipole("benchmark", "suite=tiny.yaml", "out=out")
    assert status == 0, err
    assert len(claims) == 4
    assert rows(copied / "results.csv") == before


def test_more_seeds_join_those_that_are_there(copied: Path, dipole: Command) -> None:
    models = {path: path.stat().st_mtime_ns for path in copied.rglob("model.zip")}
    status, out, _ = dipole("benchmark", "suite=tiny.yaml", "out=out", "seeds=3", "algos=[rebrac]")
    assert status == 0
    assert "[1/1] rebrac on reacher, seeds 2: 12 timesteps" in out
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert {row["seed"] for row in rows(copied / "results.csv")} == {"0", "1", "2"}
    assert "over 3 seeds" in (copied / "table.md").read_text()


def test_a_stopped_benchmark_goes_on_as_if_nothing_had_happened(
    finished: tuple[Path, str], tmp_path: Path, dipole: Command
) -> None:
    """Stopped in a group: one that has not begun is then learned as ever."""
    write_suite(tmp_path)
    with subprocess.Popen(command("algos=[cfgrl]"), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("cfgrl/*/checkpoints/*.zip")) and time.monotonic() < deadline:
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=120)
    # Where the signal came late, the group is done.
    assert running.returncode == 128 + signal.SIGINT or (tmp_path / "out/table.md").is_file()
    if "Go on with" in out:
        assert "Go on with\n  dipole benchmark suite=tiny.yaml 'algos=[cfgrl]' seeds=2 out=out" in out
    status, _, err = dipole("benchmark", "suite=tiny.yaml", "algos=[cfgrl]", "out=out")
    assert status == 0, err
    expected = [row for row in rows(finished[0] / "out/results.csv") if row["algorithm"] == "cfgrl"]
    assert rows(tmp_path / "out/results.csv") == expected


def test_a_changed_option_is_refused(copied: Path, dipole: Command) -> None:
    before = sorted(copied.rglob("*"))
    status, _, err = dipole("benchmark", "suite=tiny.yaml", "out=out", "algo.gamma=0.5")
    assert status == 1
    assert "out/reacher/cfgrl/seed0: was begun with algo.gamma=0.98, and this is algo.gamma=0.5; expected" in err
    assert len(err.splitlines()) == 1
    assert sorted(copied.rglob("*")) == before


def test_changed_code_is_refused(copied: Path, dipole: Command) -> None:
    code = json.loads((copied / "code.json").read_text())
    (copied / "code.json").write_text(json.dumps(code | {"sources": "0123"}))
    status, _, err = dipole("benchmark", "suite=tiny.yaml", "out=out")
    assert status == 1
    assert f"out: was begun with sources 0123, and this is {code['sources']}: figures of both would not compare" in err


def test_changed_data_are_refused(copied: Path, dipole: Command) -> None:
    facts = json.loads((copied / "reacher/rebrac/seed1/dataset.json").read_text())
    (copied / "reacher/rebrac/seed1/dataset.json").write_text(json.dumps(facts | {"transitions": 7}))
    status, _, err = dipole("benchmark", "suite=tiny.yaml", "out=out")
    assert status == 1
    assert "seed1: has learned from 7 transitions" in err
    assert "expected the same data for every algorithm" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite=smok"], "there is no suite=smok; nearest: smoke, or the path of a YAML file"),
        (["suite=nowhere.yaml"], "there is no suite=nowhere.yaml"),
        (["algos=[dipole,sac]"], "algos: there is no sac; expected some of cfgrl, dipole"),
        (["algos=dipole"], "algos is 'dipole', expected a list, e.g. algos=[dipole,iql]"),
        (["algos=[iql,iql]"], "expected at least one algorithm and none twice"),
        (["seeds=0"], "seeds is 0, expected at least 1"),
        (["seeds=[0,1]"], "seeds is [0, 1], expected a whole number"),
        (["suite=paper/exorl", "algos=[fql]"], "algos: fql has no hyperparameters for exorl/walker-stand"),
        (["seed=3"], "seed=3: a benchmark plans this itself"),
        (["run_dir=x"], "run_dir=x: a benchmark plans this itself"),
        (["algo.bta=3"], "dipole on reacher: there is no option algo.bta here; nearest: algo.beta"),
        (["algos=[dipole]", "algo.beta=-1"], "beta is -1, expected"),
        (["episodes=0"], "episodes is 0, expected at least 1: a benchmark evaluates"),
        (["omegas=[0,2]", "algos=[dipole]"], "omegas is [0, 2], expected 0.5 among them: dipole's own value"),
        (["omegas=[0,0.5]", "algos=[iql]"], "omegas is [0, 0.5], but IQL has nothing of that name to turn"),
        (["-m"], "-m: expected option=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input(dipole: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    status, _, err = dipole("benchmark", *arguments)
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_can_be_planned(name: str, tmp_path: Path) -> None:
    suite, seeds = load_suite(name), 2
    groups = planned(suite, suite.algos, seeds, tmp_path, [])
    tasks = sum(len(entry.task_ids or [0]) for entry in suite.tasks)
    assert len(groups) == tasks * len(suite.algos)
    assert tasks == {"smoke": 3, "reacher": 1, "cube-single": 1, "paper/ogbench": 30, "paper/exorl": 9}[name]
    folders = [run.folder for group in groups for run in group.runs]
    assert len(set(folders)) == len(folders) == len(groups) * seeds
    for group in groups:
        (evaluations,) = {run.config.offline_steps // run.config.eval_freq for run in group.runs}
        # The mean of the last three needs three.
        assert evaluations >= 3
        if name == "paper/ogbench":
            assert evaluations == (12 if group.algorithm == "idql" else 10)


def test_a_suite_with_unknown_fields_is_refused(dipole: Command) -> None:
    Path("mine.yaml").write_text(SUITE + "episodes: 3\n")
    status, _, err = dipole("benchmark", "suite=mine.yaml")
    assert status == 1
    assert "episodes" in err
    assert len(err.splitlines()) == 1


def test_data_are_made_for_suites_that_ask_for_them(dipole: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whole episodes take 1,000 steps.
    short = functools.partial(generation.make_dataset, max_episode_steps=60)
    monkeypatch.setattr(generation, "make_dataset", short)
    small = OmegaConf.to_container(OmegaConf.create(SUITE))
    assert isinstance(small, dict)
    small |= {"tasks": [{"task": "ogbench/cube-single-play", "task_ids": [2]}], "made_episodes": 1, "algos": ["rebrac"]}
    small["options"]["all"] = ["offline_steps=2", "episodes=1", "processes=1"]
    Path("mine.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(small)))
    status, out, err = dipole("benchmark", "suite=mine.yaml", "seeds=1", "out=out")
    assert (status, err) == (0, "")
    assert len(list(Path("out/data").glob("cube-single-play-v0*.npz"))) == 2
    facts = json.loads(Path("out/cube-single-play-task2/rebrac/seed0/dataset.json").read_text())
    assert facts["transitions"] == 59
    # One seed has no interval; the paper's figure stands beside.
    assert re.search(r"cube-single-play-task2 +\d+ \(92\)", out)
    assert "With more seeds there would be intervals over tasks" in out
    assert not list(Path("out").glob("*.png"))


# The table's numbers


def scores(
    algorithm: str,
    task_id: int,
    tmp_path: Path,
    final: dict[float, list[float]],
    during: list[list[float]] | None = None,
) -> Scores:
    """Of an algorithm with N candidates on a task of cube-single-play: N → success of each seed."""
    entry = TaskEntry("ogbench/cube-single-play", [task_id])
    suite = Suite("", [entry], [algorithm], len(next(iter(final.values()))))
    (group,) = planned(suite, [algorithm], suite.seeds, tmp_path, [f"candidates={list(final)}", "eval_freq=100"])

    def made(seed: int, timesteps: int, count: float, success: float) -> Evaluation:
        return Evaluation(seed, timesteps, {"num_candidates": count}, 50, Interval(0, 0, 0), Interval(success, 0, 1))

    ends = [made(seed, 100, count, value) for count, of_seeds in final.items() for seed, value in enumerate(of_seeds)]
    while_learning = [
        made(seed, step or 1, 32, value)
        for seed, values in enumerate(during or [])
        for step, value in zip(range(0, 1_000_000, group.config.eval_freq), values, strict=False)
    ]
    return Scores(group, {"num_candidates": 32}, ends, while_learning)


def test_settings_are_read_as_what_they_are() -> None:
    """Also where a configuration has written an algorithm's own ω as a whole number."""
    row = {f"return_{bound}": "1" for bound in Interval._fields}
    row |= {"episodes": "5", "omega": "0.5", "num_candidates": "4"}
    found = _of_row(row, DIPOLE.knobs(), 0, 100).setting
    assert found == {"omega": 0.5, "num_candidates": 4}
    assert isinstance(found["num_candidates"], int)


def test_scores_of_seeds(tmp_path: Path) -> None:
    found = scores("ifql", 2, tmp_path, {1: [0.2, 0.6], 32: [0.5, 0.1]}, [[0.0, 0.1, 0.2, 0.3], [0.9, 0.4, 0.5, 0.6]])
    assert found.at_end == [0.5, 0.1]
    assert found.best == {"num_candidates": 1}
    assert found.of_last == pytest.approx([0.2, 0.5])
    # The untrained model's is none of the last three.
    assert scores("ifql", 2, tmp_path, {32: [0.5, 0.1]}, [[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]]).of_last is None
    np.testing.assert_array_equal(found.normalised(found.at_end), [0.5, 0.1])


def test_returns_are_normalised_between_the_suites_bounds(tmp_path: Path) -> None:
    suite = Suite("", [TaskEntry("reacher", None, -40, -4)], ["rebrac"], 1)
    (group,) = planned(suite, ["rebrac"], 1, tmp_path, [])
    one = Scores(group, {}, [Evaluation(0, 1, {}, 5, Interval(-13, -20, -6), None)])
    np.testing.assert_allclose(one.normalised(one.at_end), [0.75])


def test_a_domains_mean_is_over_its_tasks_in_each_seed(tmp_path: Path) -> None:
    by_task = [[0.9, 0.5], [0.1, 0.5], [1.0, 1.0], [0.0, 0.0], [0.5, 0.0]]
    of_tasks = [scores("ifql", index + 1, tmp_path, {32: values}) for index, values in enumerate(by_task)]
    header, *lines = benchmark_table.final(of_tasks).rows
    assert header == ["task", "ifql"]
    assert lines[0] == ["cube-single-play-task1", "70 ± 28 (79)"]
    # Seeds have the means 50 and 40; the paper's average over the five tasks is 79.
    assert lines[-1] == ["cube-single-play, mean of 5 tasks", "45 ± 7 (79)"]


class TestPictures:
    TABLE: dict[str, Any] = {  # noqa: RUF012
        "a": np.array([[0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]]),
        "b": np.array([[0.1, 0.1], [0.1, 0.1], [0.9, 0.1], [0.1, 0.1]]),
    }

    def test_aggregates(self, tmp_path: Path) -> None:
        from dipole_sb3.plots.benchmark import plot_aggregates

        found = plot_aggregates(self.TABLE, tmp_path / "a.png")
        # The middle half of 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9.
        assert found["interquartile mean"]["a"].mean == pytest.approx(0.5)
        assert found["mean"]["b"].mean == pytest.approx(0.2)
        assert found["optimality gap (less is better)"]["a"].mean == pytest.approx(0.5)
        for of_algorithms in found.values():
            for interval in of_algorithms.values():
                assert interval.low <= interval.mean <= interval.high
        assert plot_aggregates(self.TABLE, tmp_path / "b.png") == found
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_improvement(self, tmp_path: Path) -> None:
        from dipole_sb3.plots.benchmark import plot_improvement

        # First task: a beats b in 9 of 16 pairs of seeds, and there are 3 ties; second task: in all.
        (found,) = plot_improvement(self.TABLE, tmp_path / "a.png").values()
        assert found.mean == pytest.approx(((9 + 1.5) / 16 + 1) / 2)
