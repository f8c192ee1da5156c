"""The benchmark of training counts the work that is done, and writes the figures that it prints."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import train_speed  # noqa: E402
from train_peers import products_in  # noqa: E402
from train_ways import ALGORITHMS, TASKS, Setup  # noqa: E402
from train_ways import _memory as memory_here  # noqa: E402
from update_work import launches  # noqa: E402

CPU = torch.device("cpu")
MEASURED = ("dipole", "iql")
"""Each takes compilers some time; the others are the same rows."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a small run prints, and what it writes; memory is measured in this process, not in twelve of their own."""
    file = tmp_path_factory.mktemp("speed") / "speed.json"
    arguments = ["--tasks", "ogbench", "--widths", "16", "--ways", "eager", "captured", "--runs", "1", "2"]
    arguments += ["--algos", *MEASURED]
    arguments += ["--precisions", "fp32", "bf16"]
    arguments += ["--seconds", "0.2", "--turns", "2", "--threads", "1", "--device", "cpu", "--json", str(file)]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as replaced, contextlib.redirect_stdout(printed):
        replaced.setattr(Setup, "memory", memory_here)
        train_speed.main(arguments)
    return printed.getvalue(), json.loads(file.read_text())


def test_memory_is_that_of_a_process_of_its_own() -> None:
    found = Setup("ogbench", "dipole", 16, CPU).memory("eager", 2, "bf16")
    if sys.platform == "linux":
        assert found is not None
        assert found > 0


def layers(inputs: int, width: int, outputs: int) -> tuple[int, int]:
    """Multiply-adds of a row in a perceptron of three layers, and in the first of them."""
    return inputs * width + 2 * width * width + width * outputs, inputs * width


@pytest.mark.parametrize("task", ["ogbench", "exorl"])
def test_operations_of_dipoles_update(task: str) -> None:
    """By hand, to the last one: passes without gradient, and three of what is trained, less the inputs' gradients.

    The observation's columns of the sampler's first layer are multiplied once, not in every flow step.
    """
    setup, width = Setup(task, "dipole", 24, CPU), 24
    (observation,), action = TASKS[task].observation, TASKS[task].action
    velocity, velocity_first = layers(
        observation + action + setup.arguments["policy_kwargs"]["time_features"], 24, action
    )
    critic, critic_first = layers(observation + action, 24, 1)
    value, value_first = layers(observation, 24, 1)
    steps = setup.arguments["flow_steps"]
    if setup.arguments["critic_target"] == "policy":
        forward_only = steps * velocity - (steps - 1) * observation * width + 4 * critic
    else:
        forward_only = value + 2 * critic
    trained = 3 * (2 * velocity + 2 * critic + value) - (2 * velocity_first + 2 * critic_first + value_first)
    assert setup.operations == 2 * setup.batch * (forward_only + trained)


@pytest.mark.parametrize("task", ["ogbench", "exorl"])
def test_operations_of_iqls_update(task: str) -> None:
    setup = Setup(task, "iql", 24, CPU)
    (observation,), action = TASKS[task].observation, TASKS[task].action
    actor, actor_first = layers(observation, 24, action)
    critic, critic_first = layers(observation + action, 24, 1)
    value, value_first = layers(observation, 24, 1)
    trained = 3 * (actor + 2 * critic + value) - (actor_first + 2 * critic_first + value_first)
    assert setup.operations == 2 * setup.batch * (2 * critic + value + trained)


def test_operations_of_an_update_that_sees() -> None:
    """IQL's, with an encoder each for actor, value, critics and their targets; the image's gradient is not computed."""
    setup = Setup("visual", "iql", 24, CPU)
    stages = ((64, 9, 16), (32, 16, 32), (16, 32, 32))
    first = 64 * 64 * 9 * 9 * 16
    encoder = 8 * 8 * 32 * 512
    for side, channels, wider in stages:
        encoder += 9 * wider * (side * side * channels + 2 * (side // 2) ** 2 * wider)
    (actor, _), (critic, _), (value, _) = (layers(512 + more, 24, out) for more, out in ((0, 5), (5, 1), (0, 1)))
    trained = 3 * (3 * encoder + actor + 2 * critic + value) - 3 * first
    assert setup.operations == 2 * setup.batch * (2 * encoder + 2 * critic + value + trained)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_can_be_measured(algorithm: str) -> None:
    setup = Setup("ogbench", algorithm, 16, CPU)
    assert setup.operations > 0
    setup.trainer("eager", 2, "bf16")(1, setup.batch)


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


def test_convolutions_of_jax_are_counted_with_their_gradients() -> None:
    jax = pytest.importorskip("jax")

    def loss(kernel: Any, images: Any) -> Any:
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum()

    kernel, images = jax.numpy.ones((3, 3, 4, 5)), jax.numpy.ones((2, 8, 6, 4))
    forward = 2 * (2 * 8 * 6 * 5) * (3 * 3 * 4)
    assert products_in(jax.make_jaxpr(loss)(kernel, images).jaxpr) == forward
    both = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(kernel, images).jaxpr
    assert products_in(both) == 3 * forward


def test_prints_what_it_writes(measured: tuple[str, dict[str, Any]]) -> None:
    printed, written = measured
    (table,) = written["tables"]
    lines = printed.splitlines()
    precisions = ("", " bf16")
    beginnings = [f"{name} {way}{how}" for name in MEASURED for way in ("eager", "captured") for how in precisions]
    beginnings += [
        f"{name} {runs}{how}" for name in MEASURED for how in precisions for runs in ("1 run alone", "2 runs at once")
    ]
    assert {row["precision"] for row in table["rows"]} == {"fp32", "bf16"}
    for row, beginning in zip(table["rows"], beginnings, strict=False):
        found = [line.strip() for line in lines if line.strip().startswith(beginning)]
        (line,) = [line for line in found if ("bf16" in line) == ("bf16" in beginning)]
        if row["updates_per_second"] is None:
            assert line == f"{beginning} {row['note']}"
            continue
        cells = list(map(float, line.removeprefix(beginning).split()))
        assert cells[0] == pytest.approx(row["updates_per_second"], abs=0.06)
        bound = table["updates"][row["algorithm"]]["launch_bound_per_second"]
        assert cells[1] == pytest.approx(row["updates_per_second"] / bound, abs=0.006)
        assert cells[3] == pytest.approx(row["of_product_rate"], abs=0.006)
        assert cells[-1] == pytest.approx(row["memory_mebibytes"], abs=0.6)
    for name, update in table["updates"].items():
        assert f"{name}: {update['gflop']:.2f} GFLOP an update of {update['batch']} rows" in printed
        assert f"; {update['launches']} launches" in printed
    assert {"date", "machine", "threads", "torch", "load"} < set(written)


def test_rows_agree_with_each_other(measured: tuple[str, dict[str, Any]]) -> None:
    (table,) = measured[1]["tables"]
    for algorithm, update in table["updates"].items():
        rows = [row for row in table["rows"] if row["algorithm"] == algorithm]
        eager, captured, alone, more = (rows[start : start + 2] for start in (0, 2, 4, 6))
        for row in captured:
            assert (row["note"], row["updates_per_second"]) == ("no CUDA", None)
        for row, two in (alone, more):
            assert row["cost_per_run"] == 1
            assert two["cost_per_run"] == pytest.approx(row["updates_per_second"] / two["updates_per_second"])
        for row in (*eager, alone[0], more[0]):
            share = row["updates_per_second"] / update["product_bound_per_second"]
            assert row["of_product_rate"] == pytest.approx(share)
        assert 100 < update["launches"] < 1000
    sac, sbx = table["rows"][-2:]
    assert sac["name"] == "SAC of Stable-Baselines3"
    assert sac["updates_per_second"] > 0
    assert "--peer-python" in sbx["note"]


def test_operations_of_the_peers_update(measured: tuple[str, dict[str, Any]]) -> None:
    """By hand: SB3's SAC differentiates the critics' weights for the actor's loss, too, and throws that away."""
    sac = measured[1]["tables"][0]["rows"][-2]
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
def test_peer_that_does_not_start_is_refused_at_once(
    python: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        train_speed.main(["--tasks", "ogbench", "--widths", "16", "--peer-python", python])
    assert message in str(refused.value)
    assert "updates/s" not in capfd.readouterr().out
