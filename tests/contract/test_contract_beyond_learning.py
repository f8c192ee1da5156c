"""What every algorithm gets beyond SB3's contract: stacked and compiled updates, sweeps, the command.

Their bundles are in tests/export.
"""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import parameters_of, small
from commands import TINY, Command
from recordings import Arrays

from dipole_sb3 import DIPOLE, IQL, evaluate_sweep, learn_together, load_dataset
from dipole_sb3.learning import compilation
from dipole_sb3.learning.stacked_runs import OneRun
from dipole_sb3.learning.update_execution import CapturedUpdates

make_reacher = functools.partial(gymnasium.make, "Reacher-v5")


def close(one: Any, other: Any, tolerance: float) -> None:
    for (name, found), expected in zip(parameters_of(one).items(), parameters_of(other).values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


# Many runs, compiled, captured


def test_runs_that_learn_together_learn_what_each_learns_alone(algorithm: Any, reacher_data: Arrays) -> None:
    runs = [{"seed": 0}, {"seed": 1, "gamma": 0.9, "tau": 0.02, "learning_rate": 3e-4}]
    # What the objective says may differ does, in the second run.
    for name in algorithm.update_rule.objective.per_run_names():
        if name not in ("gamma", "tau"):
            runs[1][name] = 0.7
    alone = [small(algorithm, dataset=reacher_data, **run).learn(6) for run in runs]
    together = learn_together([small(algorithm, dataset=reacher_data, **run) for run in runs], 6)
    for one, other in zip(together, alone, strict=True):
        close(one, other, 1e-4)
        assert one.num_timesteps == other.num_timesteps == 6
    assert not torch.equal(*(torch.cat([p.flatten() for p in each.policy.actor.parameters()]) for each in together))


def test_other_algorithms_and_other_numbers_are_refused_together(algorithm: Any, reacher_data: Arrays) -> None:
    one, other = (small(algorithm, dataset=reacher_data, batch_size=size) for size in (16, 32))
    with pytest.raises(ValueError, match="run 1: batch_size: found 32, expected 16 as in run 0"):
        learn_together([one, other], 2)


@pytest.fixture
def without_own_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile makes graphs of an update and of its gradients as ever, and runs them by PyTorch's own kernels.

    Those that it writes in C++ take half a minute for each algorithm; tests/learning compiles DIPOLE's and IQL's.
    """
    compilation.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    compilation.compiled.cache_clear()


@pytest.mark.usefixtures("without_own_kernels")
def test_compiled_updates_are_the_eager_ones(algorithm: Any, reacher_data: Arrays) -> None:
    eager, compiled = (
        small(algorithm, dataset=reacher_data, acceleration=how).learn(4) for how in ("eager", "compiled")
    )
    close(compiled, eager, 1e-4)


def test_recorded_updates_are_the_plain_ones(algorithm: Any, reacher_data: Arrays) -> None:
    """The logic of CUDA graphs, with the function that would be recorded called again instead."""
    plain, recorded = (small(algorithm, dataset=reacher_data) for _ in range(2))
    replays = []

    def record(function: Any) -> Any:
        return lambda: replays.append(1) or function()

    recorded._updates = CapturedUpdates(OneRun(recorded), recorded.update_rule.losses, record)
    for model in (plain, recorded):
        model.train(gradient_steps=25, batch_size=16)
    assert replays
    close(recorded, plain, 1e-6)


# Evaluation


def test_a_sweep_has_a_cell_for_every_combination_of_the_knobs(algorithm: Any, reacher_data: Arrays) -> None:
    model = small(algorithm, dataset=reacher_data).learn(2)
    knobs = model.policy.knobs
    grid = {knob.name: [knob.checked(knob.least), knob.checked(knob.least + 1)] for knob in knobs}
    result = evaluate_sweep(model, make_reacher, grid, episodes=2, processes=1)
    assert len(result.rows) == 2 ** len(knobs)
    assert all(row.setting.keys() == grid.keys() for row in result.rows)
    own = evaluate_sweep(model, make_reacher, episodes=2, processes=1)
    assert [dict(row.setting) for row in own.rows] == [model.policy.setting()]
    with pytest.raises(ValueError, match=r"warmth: .* has no such knob"):
        evaluate_sweep(model, make_reacher, {"warmth": [1.0]}, episodes=1)


# The command


def test_the_command_trains_evaluates_and_goes_on(algorithm: Any, dipole: Command) -> None:
    name = algorithm.__name__.lower()
    options = [each for each in TINY if not each.startswith("algo.")]
    known = {"algo.batch_size=16", "algo.policy_kwargs.net_arch=[8]", "algo.device=cpu", "algo.verbose=0"}
    if "flow_steps" in inspect.signature(algorithm).parameters:
        known.add("algo.flow_steps=2")
    # What knows no algorithm by name is done once with knobs and once without.
    whole = algorithm in (DIPOLE, IQL)
    status, _, err = dipole(
        "train", "task=reacher", f"algo={name}", *options, *known, "offline_steps=20", "checkpoint_freq=10",
        "episodes=2", "pictures=true", "processes=1", "run_dir=run",
    )  # fmt: skip
    assert (status, err) == (0, "")
    knobs = algorithm.policy_aliases["MlpPolicy"].knobs
    stem = f"{knobs[0].name}_sweep" if knobs else "evaluation"
    for file in (f"{stem}.csv", f"{stem}.png", "curves.png", "model.zip"):
        assert (Path("run") / file).is_file(), file
    with open(f"run/{stem}.csv", newline="") as file:
        assert list(csv.DictReader(file).fieldnames or [])[: len(knobs) + 1] == [*(k.name for k in knobs), "episodes"]
    assert f"_target_: dipole_sb3.{algorithm.__name__}" in Path("run/config.yaml").read_text()
    if not whole:
        return
    status, out, err = dipole("evaluate", "model=run", "episodes=1", "pictures=false")
    assert (status, err) == (0, "")
    assert "evaluated/" in out
    status, _, err = dipole("train", "resume=run", "offline_steps=30", "episodes=0")
    assert (status, err) == (0, "")
    # Without the run's configuration the file itself names its algorithm.
    Path("alone").mkdir()
    Path("run/model.zip").rename("alone/model.zip")
    status, _, err = dipole("evaluate", "model=alone/model.zip", "env=Reacher-v5", "episodes=1", "pictures=false")
    assert (status, err) == (0, "")
    if not knobs:
        status, _, err = dipole("evaluate", "model=alone/model.zip", "env=Reacher-v5", "omegas=[1]", "pictures=false")
        assert status == 1
        assert f"omegas is [1], but {algorithm.__name__} has nothing of that name to turn" in err


def test_several_runs_of_the_command(algorithm: Any, dipole: Command) -> None:
    name = algorithm.__name__.lower()
    status, out, err = dipole(
        "train", "task=reacher", f"algo={name}", "runs=2", "algo.policy_kwargs.net_arch=[8]", "algo.device=cpu",
        "algo.batch_size=16", "algo.verbose=0", "offline_steps=10", "episodes=1", "pictures=false", "run_dir=many",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "Training 2 runs" in out
    assert list(Path("many").glob("*_over_runs.csv"))


def test_the_demonstration_is_learned_from(algorithm: Any) -> None:
    data = load_dataset("demo/reacher-tqc-10k", device="cpu")
    model = small(algorithm, dataset=data).learn(5)
    assert np.isfinite(model.predict(data.observations[:3, 0])[0]).all()
