"""The benchmark of training counts the work that is done, and writes the figures that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from train_peers import products_in  # noqa: E402
from train_ways import TASKS, Setup  # noqa: E402
from update_work import launches, update_operations  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a small run prints, and what it writes."""
    file = tmp_path_factory.mktemp("speed") / "speed.json"
    arguments = ["--tasks", "ogbench", "--widths", "16", "--ways", "eager", "captured", "--runs", "1", "2"]
    arguments += ["--seconds", "0.2", "--turns", "2", "--threads", "1", "--device", "cpu", "--json", str(file)]
    command = [sys.executable, str(BENCHMARKS / "train_speed.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout, json.loads(file.read_text())


def test_operations_of_the_papers_update() -> None:
    # By hand for widths 28+5+1 → 512 → 512 → 512 → 5 and so on, batch 256, ten flow steps at one observation.
    square = 512 * 512
    velocity, critic, value = 34 * 512 + 2 * square + 512 * 5, 33 * 512 + 2 * square + 512, 28 * 512 + 2 * square + 512
    sampler, targets = 10 * velocity - 9 * 28 * 512, 4 * critic
    training = 3 * (2 * velocity + 2 * critic + value) - 512 * (2 * 34 + 2 * 33 + 28)
    assert update_operations(28, 5, 512, 256, 10) == 2 * 256 * (sampler + targets + training)
    assert update_operations(28, 5, 512, 256, 10) / 1e9 == pytest.approx(7.95, abs=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_operations_are_those_that_torch_counts_in_a_real_update(task: str) -> None:
    """To the last one: the gradient of the first layers' input is neither in the formula nor computed."""
    setup = Setup(task, 24, CPU)
    train = setup.trainer("eager", 1)
    assert train is not None
    with FlopCounterMode(display=False) as counter:
        train(1, setup.batch)
    assert counter.get_total_flops() == setup.operations


def test_launches_are_operators_that_no_other_one_calls() -> None:
    x, gradient = torch.ones(2, 3, requires_grad=True), torch.ones(2, 4)

    def work() -> None:
        # ones, linear (which calls t, addmm and more), relu
        torch.nn.functional.linear(x, torch.ones(4, 3)).relu().backward(gradient)
        # and, under nodes of autograd: threshold_backward, t, mm, add_

    assert launches(work, CPU) == 7


def test_products_of_jax_are_counted_through_loops_and_gradients() -> None:
    jax = pytest.importorskip("jax")

    def loss(weight: Any, x: Any) -> Any:
        return jax.lax.fori_loop(0, 1, lambda _, total: total + jax.jit(lambda w: (x @ w).sum())(weight), 0.0)

    weight, x = jax.numpy.ones((5, 7)), jax.numpy.ones((3, 5))
    assert products_in(jax.make_jaxpr(loss)(weight, x).jaxpr) == 2 * 3 * 5 * 7
    assert products_in(jax.make_jaxpr(jax.grad(lambda w: (x @ w).sum()))(weight).jaxpr) == 2 * (2 * 3 * 5 * 7)


def test_prints_what_it_writes(measured: tuple[str, dict[str, Any]]) -> None:
    printed, written = measured
    (table,) = written["tables"]
    lines = printed.splitlines()
    for row, beginning in zip(table["rows"], ["eager", "captured", "1 run alone", "2 runs at once"], strict=False):
        (line,) = [line.strip() for line in lines if line.strip().startswith(beginning)]
        if row["updates_per_second"] is None:
            assert line == f"{beginning} {row['note']}"
            continue
        cells = list(map(float, line.removeprefix(beginning).split()))
        assert cells[0] == pytest.approx(row["updates_per_second"], abs=0.06)
        assert cells[1] == pytest.approx(
            row["updates_per_second"] / table["launch_bound_updates_per_second"], abs=0.006
        )
        assert cells[3] == pytest.approx(row["of_product_rate"], abs=0.006)
        assert cells[-1] == pytest.approx(row["memory_mebibytes"], abs=0.6)
    assert f"{table['launches']} of {table['launch_microseconds']:.2f} µs" in printed
    assert {"date", "machine", "threads", "torch", "load"} < set(written)


def test_rows_agree_with_each_other(measured: tuple[str, dict[str, Any]]) -> None:
    (table,) = measured[1]["tables"]
    eager, captured, alone, _, sac, sbx = table["rows"]
    assert (captured["note"], captured["updates_per_second"]) == ("no CUDA", None)
    assert alone["cost_per_run"] == 1
    for row in (eager, alone):
        share = row["updates_per_second"] / table["product_bound_updates_per_second"]
        assert row["of_product_rate"] == pytest.approx(share)
    assert eager["operations"] == update_operations(28, 5, 16, 256, 10)
    assert 200 < table["launches"] < 1000
    assert sac["name"] == "SAC of Stable-Baselines3"
    assert sac["updates_per_second"] > 0
    assert "--peer-python" in sbx["note"]


def test_operations_of_the_peers_update(measured: tuple[str, dict[str, Any]]) -> None:
    """By hand: SB3's SAC differentiates the critics' weights for the actor's loss, too, and throws that away."""
    sac = measured[1]["tables"][0]["rows"][4]
    actor, critic = 28 * 16 + 2 * 16 * 16 + 2 * 5 * 16, 33 * 16 + 2 * 16 * 16 + 16
    forward_only = actor + 2 * critic
    trained = 3 * 2 * critic - 2 * 33 * 16 + 3 * actor - 28 * 16
    actors_critics = 3 * 2 * critic
    assert sac["operations"] == 2 * 256 * (forward_only + trained + actors_critics)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("nowhere/python", "nowhere/python cannot be started (No such file or directory), expected Python"),
        (sys.executable, "gave no answer, the messages above say why"),
    ],
)
def test_peer_that_does_not_start_is_refused_at_once(python: str, message: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "train_speed.py"), "--tasks", "ogbench", "--widths", "16"]
    run = subprocess.run([*command, "--peer-python", python], capture_output=True, text=True)
    assert run.returncode == 1
    assert message in run.stderr.splitlines()[-1]
    assert "updates/s" not in run.stdout
