"""``acceleration="auto"`` on a CPU: compiled where the run is long enough and a compiler works, and so it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import nop
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from test_learn_together import assert_same, make_model, recorded
from torch._dynamo.backends.common import aot_autograd

from dipole_sb3 import DIPOLE, learn_together
from dipole_sb3.learning import compilation
from dipole_sb3.learning.compilation import PAYS_FROM, way_on_cpu
from dipole_sb3.learning.phases import planned_updates

STEPS, EPISODES = TrainFrequencyUnit.STEP, TrainFrequencyUnit.EPISODE
LINE = "Updates run compiled: 6 pay for it"


@pytest.fixture
def six_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of six updates count as long."""
    monkeypatch.setattr(compilation, "PAYS_FROM", 6)


@pytest.mark.parametrize(
    ("offline_end", "start", "end", "freq", "gradient_steps", "n_envs", "expected"),
    [
        (1000, 0, 1000, TrainFreq(1, STEPS), 1, 1, 1000),
        (1000, 400, 1000, TrainFreq(1, STEPS), 1, 1, 600),
        (1000, 0, 600, TrainFreq(1, STEPS), 1, 1, 600),
        (1000, 0, 1500, TrainFreq(1, STEPS), 1, 1, 1500),
        (1000, 0, 1800, TrainFreq(4, STEPS), 3, 2, 1000 + 300),
        (1000, 1200, 1800, TrainFreq(4, STEPS), -1, 2, 600),
        (0, 0, 500, TrainFreq(1, EPISODES), -1, 1, 500),
        (100, 0, 500, TrainFreq(1, EPISODES), 50, 1, 100),
    ],
)
def test_planned_updates(
    offline_end: int, start: int, end: int, freq: TrainFreq, gradient_steps: int, n_envs: int, expected: int
) -> None:
    assert planned_updates(offline_end, start, end, freq, gradient_steps, n_envs) == expected


def test_long_runs_compile_and_a_run_keeps_what_it_began_with() -> None:
    assert way_on_cpu(PAYS_FROM - 1, None) == ("eager", "")
    assert way_on_cpu(PAYS_FROM, None)[0] == "compiled"
    assert way_on_cpu(1, "compiled") == ("compiled", "")
    assert way_on_cpu(PAYS_FROM, "eager") == ("eager", "")


def test_more_variants_than_torch_compiles_by_itself() -> None:
    seen: list[bool] = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.compiler.is_compiling())
        return (x * x).sum()

    run: Any = compilation.compiled(loss)
    sizes = range(2, 14)
    assert len(sizes) > torch._dynamo.config.recompile_limit
    for size in sizes:
        assert run(torch.ones(size)) == size
    assert not seen or all(seen)


@pytest.mark.usefixtures("six_pay")
class TestLearn:
    def test_equals_the_way_that_it_chose_to_the_last_bit(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = make_model(recorded(), seed=0, verbose=1).learn(6)
        assert model.way_of_updates == "compiled"
        assert capsys.readouterr().out.count(LINE) == 1
        assert_same(model, make_model(recorded(), seed=0, acceleration="compiled").learn(6), 0.0)

    def test_short_ones_say_nothing_and_stay_eager(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = make_model(recorded(), seed=0, verbose=1).learn(5)
        assert model.way_of_updates == "eager"
        assert "Updates run" not in capsys.readouterr().out
        assert_same(model, make_model(recorded(), seed=0, acceleration="eager").learn(5), 0.0)

    def test_what_continues_stays_as_it_began_and_what_begins_decides_anew(self, tmp_path: Path) -> None:
        model = make_model(recorded(), seed=0).learn(6)
        model.save(tmp_path / "model")
        loaded = DIPOLE.load(tmp_path / "model", dataset=recorded())
        for each in (model, loaded):
            each.learn(2, reset_num_timesteps=False)
            assert each.way_of_updates == "compiled"
        assert_same(loaded, model, 0.0)
        assert loaded.learn(2).way_of_updates == "eager"
        assert_same(loaded, model.learn(2), 0.0)

    def test_runs_together_say_it_once_and_all_keep_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        models = [make_model(recorded(), seed=seed, verbose=1) for seed in (0, 1)]
        learn_together(models, [4, 6])
        assert [model.way_of_updates for model in models] == ["compiled", "compiled"]
        assert capsys.readouterr().out.count(LINE) == 1


@pytest.mark.usefixtures("six_pay")
class TestCompilerFailsAfterTheTry:
    @pytest.fixture(autouse=True, params=["forward", "backward"])
    def failing(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        assert compilation.why_not("cpu") is None
        torch._dynamo.reset()
        name = {"forward": "fw_compiler", "backward": "bw_compiler"}[request.param]

        def out_of_space(*_: Any, **__: Any) -> Any:
            raise OSError("no space left on device")

        backend = aot_autograd(**{"fw_compiler": nop, "bw_compiler": nop, name: out_of_space})
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda losses, **kwargs: real(losses, backend=backend, **kwargs))
        compilation.compiled.cache_clear()
        yield
        compilation.compiled.cache_clear()

    def test_auto_warns_once_and_makes_the_same_updates_eagerly(self) -> None:
        model = make_model(recorded(), seed=0)
        with pytest.warns(UserWarning, match="go on eagerly: torch.compile failed: no space left on device") as warned:
            model.learn(6)
        assert len([each for each in warned if "eagerly" in str(each.message)]) == 1
        assert_same(model, make_model(recorded(), seed=0, acceleration="eager").learn(6), 0.0)

    def test_runs_together_too(self) -> None:
        models = [make_model(recorded(), seed=seed) for seed in (0, 1)]
        with pytest.warns(UserWarning, match="go on eagerly"):
            learn_together(models, 6)
        eager = [make_model(recorded(), seed=seed, acceleration="eager") for seed in (0, 1)]
        for model, expected in zip(models, learn_together(eager, 6), strict=True):
            assert_same(model, expected, 0.0)

    def test_who_asked_for_it_gets_the_error(self) -> None:
        with pytest.raises(Exception, match="no space left on device"):
            make_model(recorded(), seed=0, acceleration="compiled").learn(1)


def test_an_error_of_the_losses_themselves_is_raised_alone() -> None:
    def loss(x: Any) -> Any:
        return x @ x

    run: Any = compilation.compiled_or_eager(loss)  # type: ignore[arg-type]
    with (
        pytest.warns(UserWarning, match="eagerly"),
        pytest.raises(RuntimeError, match="cannot be multiplied") as raised,
    ):
        run(torch.ones(2, 3))
    assert raised.value.__context__ is None


def test_without_a_compiler_it_says_so_and_learns_all_the_same(tmp_path: Path) -> None:
    program = """
from test_learn_together import make_model, recorded
from dipole_sb3.learning import compilation

compilation.PAYS_FROM = 6
print(make_model(recorded(), seed=0, verbose=1).learn(6).way_of_updates)
"""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {"CXX": "no-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("Updates run eager")]
    assert "though 6 would pay for torch.compile, which fails here: " in line
    assert "no-compiler" in line
    assert run.stdout.splitlines()[-1] == "eager"
