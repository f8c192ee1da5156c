"""Evaluations beside the training: the results of one that training waits for, and no training that waits or hangs."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import evaluation_environments
import numpy as np
import pytest
from evaluation_environments import Broken, EndsByAction, Gated, Watched
from resumed_runs import SMALL, DrawsGlobally, rows, vectorised
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger

from dipole_sb3 import DIPOLE, ReplayableEpisodes, ResumableCheckpoint
from dipole_sb3.cli.periodic_evaluation import PeriodicEvaluation
from dipole_sb3.evaluation.background_evaluation import BackgroundEvaluator, PolicySnapshot
from dipole_sb3.evaluation.batched_acting import ActingModel
from dipole_sb3.evaluation.sweep import SweepResult, evaluate_sweep

ENDS = {6, 13}
"""Of the phases of a run of 13 timesteps, whose first six are offline."""


def over(omegas: Sequence[float], candidates: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"omega": omegas, "num_candidates": candidates}


def data() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "observations": generator.uniform(-1, 1, (64, 3)).astype(np.float32),
        "next_observations": generator.uniform(-1, 1, (64, 3)).astype(np.float32),
        "actions": generator.uniform(-2, 2, (64, 2)).astype(np.float32),
        "rewards": generator.normal(size=64).astype(np.float32),
        "terminals": np.zeros(64, np.float32),
    }


def training_env() -> ReplayableEpisodes:
    """Gives every episode a seed."""
    return ReplayableEpisodes(EndsByAction())


def new_model(folder: Path | None = None, **arguments: Any) -> DIPOLE:
    model = DIPOLE("MlpPolicy", training_env(), dataset=data(), **{**SMALL, **arguments})
    if folder is not None:
        folder.mkdir()
        model.set_logger(Logger(str(folder), [CSVOutputFormat(str(folder / "progress.csv"))]))
    return model


def alone(model: ActingModel, **arguments: Any) -> np.ndarray:
    """Returns of an evaluation at the model's own ω and N."""
    result = evaluate_sweep(
        model,
        EndsByAction,
        grid=over([model.policy.omega], [model.policy.num_candidates]),
        **{"episodes": 4, "processes": 1, **arguments},
    )
    return result.returns[0]


class Blocking(BaseCallback):
    """The plain way: training waits; the same files and keys."""

    model: DIPOLE

    def __init__(self, every: int, phase_ends: set[int], path: Path) -> None:
        super().__init__()
        self.every, self.phase_ends, self.path, self.reached = every, {1, *phase_ends}, path, 0
        self.arrays: dict[str, list[Any]] = {"timesteps": [], "results": [], "successes": []}

    def _on_step(self) -> bool:
        before, self.reached = self.reached, self.num_timesteps
        passed = any(before < end <= self.reached for end in self.phase_ends)
        if passed or self.reached // self.every > before // self.every:
            result = evaluate_sweep(
                self.model,
                EndsByAction,
                grid=over([self.model.omega], [self.model.num_candidates]),
                episodes=4,
                processes=1,
            )
            assert result.successes is not None
            for name, value in zip(self.arrays, (self.reached, result.returns[0], result.successes[0]), strict=True):
                self.arrays[name].append(value)
            self.path.parent.mkdir(exist_ok=True)
            np.savez(self.path, **{name: np.array(values) for name, values in self.arrays.items()})
            self.logger.record("eval/mean_reward", float(result.returns[0].mean()))
            self.logger.record("eval/success_rate", float(result.successes[0].mean()))
            self.logger.record("time/total_timesteps", self.reached)
            self.logger.dump(self.reached)
        return True


class LogsOften(BaseCallback):
    """Rows of the log between the evaluations, and after them at the same timestep."""

    def _on_step(self) -> bool:
        self.logger.record("own/doubled", 2 * self.num_timesteps)
        if self.num_timesteps % 2:
            self.logger.record("time/total_timesteps", self.num_timesteps)
            self.logger.dump(self.num_timesteps)
        return True


@pytest.fixture(scope="module")
def evaluator() -> Iterator[BackgroundEvaluator]:
    with BackgroundEvaluator(EndsByAction, episodes=4, seed=0, processes=1) as started:
        yield started


@pytest.mark.parametrize("kind", ["offline", "offline_then_online", "several_environments"])
def test_files_and_log_are_those_of_an_evaluation_that_training_waits_for(
    kind: str, tmp_path: Path, evaluator: BackgroundEvaluator
) -> None:
    parameters = []
    for way in ("blocking", "background"):
        folder = tmp_path / way
        arguments: dict[str, Any] = {} if kind == "offline" else {"offline_steps": 6}
        if kind == "several_environments":
            arguments["env"] = vectorised(EndsByAction, 2)()
        model = DIPOLE("MlpPolicy", **{"env": training_env(), **SMALL, "dataset": data(), **arguments})
        folder.mkdir()
        model.set_logger(Logger(str(folder), [CSVOutputFormat(str(folder / "progress.csv"))]))
        path = folder / "evaluations" / "evaluations.npz"
        evaluation = Blocking(3, ENDS, path) if way == "blocking" else PeriodicEvaluation(evaluator, 3, ENDS, path)
        model.learn(13, callback=[DrawsGlobally(), evaluation, LogsOften()], log_interval=1)
        parameters.append(model.policy.state_dict())
    blocking, background = tmp_path / "blocking", tmp_path / "background"
    assert rows(background) == rows(blocking)
    saved = [np.load(folder / "evaluations" / "evaluations.npz") for folder in (blocking, background)]
    assert saved[0].files == saved[1].files == ["timesteps", "results", "successes"]
    for name in saved[0].files:
        np.testing.assert_array_equal(saved[0][name], saved[1][name])
    assert (blocking / "evaluations/evaluations.npz").read_bytes() == (
        background / "evaluations/evaluations.npz"
    ).read_bytes()
    expected = [1, 3, 6, 10, 12, 14] if kind == "several_environments" else [1, 3, 6, 9, 12, 13]
    assert saved[0]["timesteps"].tolist() == expected
    assert len({returns.tobytes() for returns in saved[0]["results"]}) == len(expected), "of their own snapshots"
    assert all(bool((parameters[0][name] == parameters[1][name]).all()) for name in parameters[0])


class OpensTheGate(BaseCallback):
    """At a timestep that training reaches only if it does not wait for an evaluation that began before.

    Before that, signals to the whole group reach the evaluation: they are training's to decide.
    """

    def __init__(self, at: int, folder: Path) -> None:
        super().__init__()
        self.at, self.folder = at, folder

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            process = process_of(self.folder / "what")
            if os.name != "nt":
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(process, number)
            (self.folder / "gate").touch()
        return True


def test_training_goes_on_while_an_evaluation_plays(tmp_path: Path) -> None:
    with BackgroundEvaluator(functools.partial(Gated, tmp_path / "what"), 1, 0, 1) as gated:
        evaluation = PeriodicEvaluation(gated, 100, set(), tmp_path / "evaluations.npz")
        new_model().learn(50, callback=[evaluation, OpensTheGate(40, tmp_path)])
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [1]


def test_training_waits_after_a_phase(tmp_path: Path, evaluator: BackgroundEvaluator) -> None:
    path, there = tmp_path / "evaluations.npz", {}

    class Noting(BaseCallback):
        def _on_step(self) -> bool:
            there[self.num_timesteps] = np.load(path)["timesteps"].tolist() if path.exists() else []
            return True

    new_model(offline_steps=6).learn(8, callback=[PeriodicEvaluation(evaluator, 100, {6, 8}, path), Noting()])
    assert there[7] == [1, 6]
    assert np.load(path)["timesteps"].tolist() == [1, 6, 8]


def test_snapshots_of_a_timestep_are_played_together_and_one_timestep_at_a_time(tmp_path: Path) -> None:
    models = [new_model(seed=seed) for seed in range(3)]
    expected = [alone(model, episodes=2) for model in models]
    delivered: list[tuple[int, int]] = []
    results: list[SweepResult | None] = []

    def submit(timestep: int) -> None:
        for index, model in enumerate(models):

            def deliver(result: SweepResult | None, index: int = index) -> None:
                delivered.append((timestep, index))
                results.append(result)

            gated.collect(timestep)  # as callbacks do; others of this timestep may follow
            gated.submit(model, timestep, deliver)

    with BackgroundEvaluator(functools.partial(Gated, tmp_path / "what"), 2, 0, 1) as gated:
        submit(1)
        gated.collect(2)
        gated.collect(3)
        assert delivered == []
        threading.Timer(2.0, (tmp_path / "gate").touch).start()
        models[0].learn(1)
        submit(4)
        assert delivered == [(1, 0), (1, 1), (1, 2)], "before the next snapshot is taken"
        gated.wait()
        gated.wait()
    assert delivered[3:] == [(4, 0), (4, 1), (4, 2)]
    for result, returns in zip(results, [*expected, alone(models[0], episodes=2), *expected[1:]], strict=True):
        assert result is not None
        np.testing.assert_allclose(result.returns[0], returns, atol=1e-4)
    told = [line.split() for line in (tmp_path / "what").read_text().splitlines()]
    assert [word for word, _ in told[:7]] == ["reset"] * 6 + ["step"], "all models in the same environments' steps"
    (process,) = {process for _, process in told}
    assert int(process) != os.getpid()


def test_every_model_is_played_at_its_own_greediness(evaluator: BackgroundEvaluator) -> None:
    models = [new_model(omega=omega, num_candidates=count) for omega, count in ((0.0, 1), (3.0, 1), (0.0, 1))]
    results: list[SweepResult | None] = [None] * 3
    for index, model in enumerate(models):
        evaluator.submit(model, 1, functools.partial(results.__setitem__, index))
    models[2].omega = 3.0  # later than the snapshot
    evaluator.wait()
    for result, model, omega in zip(results, models, (0.0, 3.0, 0.0), strict=True):
        assert result is not None
        assert [row.setting for row in result.rows] == [{"omega": omega, "num_candidates": 1}]
        model.omega = omega
        np.testing.assert_allclose(result.returns[0], alone(model), atol=1e-4)


def test_a_snapshot_acts_as_the_model_did() -> None:
    model = new_model()
    before = alone(model)
    snapshot = PolicySnapshot.of(model)
    model.learn(3)
    np.testing.assert_array_equal(alone(snapshot.restored()), before)
    assert not np.array_equal(alone(model), before)


def test_processes_step_the_environments(evaluator: BackgroundEvaluator, tmp_path: Path) -> None:
    model, results = new_model(), []
    evaluator.submit(model, 1, results.append)
    evaluator.wait()
    with BackgroundEvaluator(functools.partial(Watched, tmp_path / "what"), 4, 0, 2) as several:
        several.submit(model, 1, results.append)
        several.wait()
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    assert len({line.split()[1] for line in (tmp_path / "what").read_text().splitlines()}) == 2


def test_a_checkpoint_waits_for_the_evaluation(tmp_path: Path, evaluator: BackgroundEvaluator) -> None:
    evaluated: list[list[int]] = []
    path = tmp_path / "evaluations.npz"

    class Noting(ResumableCheckpoint):
        def save(self) -> Path:
            saved = super().save()
            evaluated.append(np.load(path)["timesteps"].tolist())
            return saved

    model = new_model(tmp_path / "run")
    model.learn(
        9, callback=[PeriodicEvaluation(evaluator, 4, {9}, path), Noting(4, tmp_path / "checkpoints"), DrawsGlobally()]
    )
    assert evaluated == [[1, 4], [1, 4, 8]]

    # From the checkpoint at 8: what lies beyond is made again, nothing else.
    whole = {name: np.load(path)[name] for name in ("timesteps", "results")}
    resumed = DIPOLE.resume(tmp_path / "checkpoints", env=training_env(), dataset=data(), device="cpu")
    assert resumed.num_timesteps == 8
    resumed.learn(1, callback=PeriodicEvaluation(evaluator, 4, {9}, path), reset_num_timesteps=False)
    for name, values in whole.items():
        np.testing.assert_array_equal(np.load(path)[name], values)


def process_of(path: Path) -> int:
    """The process of a Watched environment, when it has begun."""
    deadline = time.monotonic() + 120
    while not path.is_file() or not path.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text().split()[1])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_dies_ends_training_with_a_sentence(tmp_path: Path) -> None:
    model = new_model(tmp_path / "run", acceleration="eager")  # a run of that length would be compiled first

    class Kills(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 5:
                os.kill(process_of(tmp_path / "what"), signal.SIGKILL)
            return True

    with BackgroundEvaluator(functools.partial(Gated, tmp_path / "what"), 1, 0, 1) as gated:
        evaluation = PeriodicEvaluation(gated, 100, set(), tmp_path / "evaluations.npz")
        with pytest.raises(ChildProcessError, match=r"evaluates in the background died .* timestep 1 "):
            model.learn(10**6, callback=[evaluation, LogsOften(), Kills()])
        with pytest.raises(ChildProcessError, match="died"):
            model.learn(10, callback=evaluation)
    assert not (tmp_path / "evaluations.npz").exists()
    # What was held back of the log is there.
    assert [row["time/total_timesteps"] for row in rows(tmp_path / "run")][:3] == ["1", "1", "3"]


def test_an_exception_of_an_environment_arrives_as_it_is(tmp_path: Path) -> None:
    with BackgroundEvaluator(Broken, 1, 0, 1) as broken:
        evaluation = PeriodicEvaluation(broken, 100, set(), tmp_path / "evaluations.npz")
        with pytest.raises(ArithmeticError, match="the arm is stuck"):
            new_model().learn(10, callback=evaluation)


@pytest.mark.skipif(os.name == "nt", reason="looks for a process")
def test_closing_ends_an_evaluation_under_way(tmp_path: Path) -> None:
    results: list[SweepResult | None] = []
    with BackgroundEvaluator(functools.partial(Gated, tmp_path / "what"), 1, 0, 1) as gated:
        gated.submit(new_model(), 1, results.append)
        gated.collect(2)
        process = process_of(tmp_path / "what")
    assert results == [None]
    assert "late" not in (tmp_path / "what").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from stable_baselines3.common.torch_layers import FlattenExtractor
sys.path.insert(0, sys.argv[1])
from evaluation_environments import Gated, EndsByAction
from dipole_sb3 import DIPOLE
from dipole_sb3.evaluation.batched_acting import ActingModel
from dipole_sb3.evaluation.background_evaluation import BackgroundEvaluator

print("the script runs", flush=True)

class Mine(FlattenExtractor):
    pass

class Own(Gated):
    pass

model = DIPOLE("MlpPolicy", EndsByAction(), policy_kwargs={"net_arch": [8], "features_extractor_class": Mine})
what = Path(sys.argv[2])
with BackgroundEvaluator(lambda: Own(what), 2, 0, 1) as evaluator:
    evaluator.submit(model, 1, lambda result: print(result.returns.shape, flush=True))
    evaluator.wait()
"""


def start_script(folder: Path) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    arguments = [sys.executable, "script.py", str(Path(evaluation_environments.__file__).parent), str(folder / "what")]
    return subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_script_needs_no_guard_and_may_hold_the_environment_itself(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    out, err = start_script(tmp_path).communicate(timeout=300)
    assert out == "the script runs\n(1, 2)\n", err
    assert err == ""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_process_ends_with_a_training_that_is_killed(tmp_path: Path) -> None:
    script = start_script(tmp_path)
    process = process_of(tmp_path / "what")
    script.kill()
    script.communicate()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and Path(f"/proc/{process}").exists() and "Z" not in status(process):
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists() or "Z" in status(process)


def status(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2]
    except OSError:
        return "Z"
