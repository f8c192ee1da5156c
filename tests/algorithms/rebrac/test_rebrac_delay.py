"""ReBRAC's actor waits every second update: nothing of it is computed then, and nothing else is different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fixed_networks import small_model, two_modes

from dipole_sb3 import OfflineReplayBuffer, ReBRAC
from dipole_sb3.algorithms.rebrac.losses import UPDATE, Noise, compute_losses, draw_noise
from dipole_sb3.learning.learn_together import Together
from dipole_sb3.learning.stacked_runs import OneRun
from dipole_sb3.learning.update_execution import CapturedUpdates
from dipole_sb3.learning.update_rule import Outcome


def with_a_gate_of_0(policy: Any, batch_size: int, generator: torch.Generator, update: int) -> Noise:
    noise = draw_noise(policy, batch_size, generator, update)
    return noise._replace(actor_gate=torch.zeros(()) if noise.actor_gate is None else noise.actor_gate)


class Computed(ReBRAC):
    """Computes the actor's losses in every update, and multiplies them by 0 in some."""

    update_rule = replace(UPDATE, draw_noise=with_a_gate_of_0)


def state_of(model: Any) -> list[torch.Tensor]:
    """Parameters of all networks, the optimiser's state and that of the random numbers."""
    of_optimizer = [value for state in model.policy.optimizer.state.values() for value in state.values()]
    return [*model.policy.state_dict().values(), *of_optimizer, model.training_generator.get_state()]


def same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    for found, expected in zip(state_of(one), state_of(other), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("delay", [1, 2, 3])
@pytest.mark.parametrize(
    "of_policy", [{}, {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}], ids=["adam", "sgd"]
)
def test_it_is_bit_for_bit_what_losses_times_0_give(delay: int, of_policy: dict[str, Any]) -> None:
    """Momentum goes on moving an actor that waits, which a missing gradient would keep the optimiser from."""
    models = (
        algorithm("MlpPolicy", dataset=two_modes(), policy_delay=delay, batch_size=32, seed=0, device="cpu",
                  policy_kwargs={"net_arch": [8, 8], **of_policy})
        for algorithm in (ReBRAC, Computed)
    )  # fmt: skip
    same(*(model.learn(7) for model in models))


def test_an_actor_that_waits_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(ReBRAC, two_modes())

    def asked(*_: Any) -> torch.Tensor:
        raise AssertionError("the actor was asked")

    monkeypatch.setattr(model.policy.actor.head, "forward", asked)
    model.learn(1)
    with pytest.raises(AssertionError, match="the actor was asked"):
        model.learn(1, reset_num_timesteps=False)


def test_runs_together_of_which_one_waits() -> None:
    """After one update more its actor waits where the other's learns."""
    data = two_modes()
    pairs = [[small_model(ReBRAC, data, gamma=gamma) for gamma in (0.9, 0.5)] for _ in range(2)]
    for models in pairs:
        models[0].learn(1)
    group = Together(pairs[0])
    group.train(5, 32)
    group.close()
    for together, alone in zip(*pairs, strict=True):
        alone.train(5, 32)
        same(together, alone, 1e-5)
        together.record_training()
        alone.record_training()
        logged = [each.logger.name_to_value for each in (together, alone)]
        losses = [{key: value for key, value in each.items() if key.endswith("_loss")} for each in logged]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("delay", [2, 3, 7])
def test_graphs_of_each_order_of_updates_and_none_before_it_was_warm(delay: int) -> None:
    """The logic of CUDA graphs: a function that is recorded must not meet a kind of update for the first time."""
    data = two_modes()
    recorded, plain = (small_model(ReBRAC, data, policy_delay=delay) for _ in range(2))
    warm: set[bool] = set()
    replays: list[int] = []
    inside: list[bool] = []
    outside: list[bool] = []

    def losses(networks: Any, batch: Any, noise: Noise, objective: Any) -> Outcome:
        waits = noise.actor_gate is None
        assert not inside or waits in warm
        warm.add(waits)
        outside.extend([waits] * (not inside))
        return compute_losses(networks, batch, noise, objective)

    def record(function: Callable[[], Outcome]) -> Callable[[], Outcome]:
        def replay() -> Outcome:
            replays.append(1)
            inside.append(True)
            outcome = function()
            inside.clear()
            return outcome

        return replay

    recorded._updates = CapturedUpdates(OneRun(recorded), losses, record)
    for count in (31, 25, 12, 200):
        for model in (recorded, plain):
            model.train(count, 32)
    made = len(outside)
    for model in (recorded, plain):
        model.train(100, 32)
    assert len(outside) == made, "each order of ten updates is recorded in the end"
    same(recorded, plain, 1e-6)
    for model in (recorded, plain):
        model.record_training()
    names = ("q_loss", "behaviour_loss", "critic_loss", "q_of_actor_mean")
    found, expected = ([model.logger.name_to_value[f"train/{name}"] for name in names] for model in (recorded, plain))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_log_has_means_over_the_updates_in_which_a_loss_counts() -> None:
    model, seen = small_model(ReBRAC, two_modes()), []
    for update in range(1, 6):
        before = model.training_monitor._losses.clone()
        model.train(1, 32)
        seen.append((model.training_monitor._losses - before).tolist())
        if update == 1:
            model.record_training()
            assert "train/critic_loss" in model.logger.name_to_value
            assert not {"train/q_loss", "train/actor_loss"} & set(model.logger.name_to_value)
    model.record_training()
    logged = model.logger.name_to_value
    assert logged["train/q_loss"] == pytest.approx((seen[1][0] + seen[3][0]) / 2)
    assert logged["train/critic_loss"] == pytest.approx(sum(row[2] for row in seen[1:]) / 4)
    assert logged["train/actor_loss"] == pytest.approx(logged["train/q_loss"] + logged["train/behaviour_loss"])


def test_validation_has_the_losses_of_an_actor_that_learns() -> None:
    data = OfflineReplayBuffer.from_arrays(two_modes(), device="cpu")
    data.validation = OfflineReplayBuffer.from_arrays(two_modes(), device="cpu")
    model = small_model(ReBRAC, data).learn(1)
    model._run.record_validation(model.logger)
    assert abs(model.logger.name_to_value["validation/q_loss"]) > 1e-3
