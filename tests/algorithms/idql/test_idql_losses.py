"""IDQL's losses, optimiser and averages, and problems with known answers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from fixed_networks import Fixed, chain, samples, two_modes, values_of_chain

from dipole_sb3 import IDQL
from dipole_sb3.algorithms.idql.losses import IDQLObjective, Noise, compute_losses, draw_noise
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.networks.diffusion import Schedule, noised


def small_model(data: Any, **arguments: Any) -> IDQL:
    policy_kwargs = {"net_arch": {"pi": [32, 32], "qf": [32]}, **arguments.pop("policy_kwargs", {})}
    return IDQL(
        "MlpPolicy", dataset=data, seed=0, tau=0.05, learning_rate=3e-3, device="cpu", batch_size=128,
        actor_tau=0.05, acceleration="eager", policy_kwargs=policy_kwargs, **arguments,
    )  # fmt: skip


def test_by_hand() -> None:
    seen: list[Any] = []

    class Networks:
        actor = Fixed([[0.5, 0.0], [0.0, -0.5]])
        critic = Fixed([[1.0, 4.0], [2.0, 3.0]])
        critic_target = Fixed([[3.0, 0.0], [2.0, 1.0]])
        value = Fixed([1.0, 2.0])

    Networks.actor.head = lambda *inputs: seen.extend(inputs) or Networks.actor.values
    batch = Batch(
        torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([1.0, 2.0]), torch.zeros(2, 1),
        torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    noise = Noise(torch.tensor([[1.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0], [5.0]]), torch.ones(2, 4))
    outcome = compute_losses(Networks(), batch, noise, IDQLObjective(gamma=0.5, expectile=0.9))
    # ‖ε̂ − ε‖² = 0.25 and 1: sums over the dimensions. Values as IQL's.
    assert outcome.losses.tolist() == pytest.approx([(0.25 + 1.0) / 2, (0.25 + 0.25 + 4 + 1) / 2, (0.9 + 0.4) / 2])
    schedule = Schedule.variance_preserving(5)
    torch.testing.assert_close(seen[1], noised(schedule, batch.actions, noise.noise, noise.step))
    assert seen[3] is noise.masks


def test_noise_has_the_laws_it_should() -> None:
    class Policy:
        action_dim, diffusion_steps, dropout, actor_arch, training = 2, 5, 0.1, [8, 8], True

    noise = draw_noise(Policy(), 20_000, torch.Generator().manual_seed(0), 1)
    counts = torch.bincount(noise.step.long().flatten())
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:] / 20_000, torch.full((5,), 0.2), atol=0.01, rtol=0)
    assert noise.masks.shape == (20_000, 16)
    assert noise.masks.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert noise.masks.mean().item() == pytest.approx(1.0, abs=0.01)


def test_the_critics_choose_among_the_clones_samples() -> None:
    data = two_modes()
    model = small_model(data, gamma=0.0).learn(3000)
    share = float((data["actions"] > 0).mean())
    assert (samples(model, num_candidates=1) > 0).mean() == pytest.approx(share, abs=0.12)
    assert samples(model, num_candidates=32) == pytest.approx(0.5, abs=0.25)


def test_values_of_a_chain() -> None:
    model = small_model(chain(), gamma=0.5).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)


def parameters(network: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in network.parameters()])


def test_the_average_follows_the_actor() -> None:
    model = small_model(two_modes())
    before = parameters(model.policy.actor_target)
    model.learn(1)
    expected = before + 0.05 * (parameters(model.policy.actor) - before)
    torch.testing.assert_close(parameters(model.policy.actor_target), expected)


def test_the_values_learn_for_a_while_and_the_actors_rate_falls_as_half_a_cosine() -> None:
    model = small_model(two_modes(), policy_kwargs={"value_steps": 4, "actor_decay_steps": 6})
    critics, actors, rates = [], [], []

    def note(*_: Any) -> bool:
        critics.append(parameters(model.policy.critic))
        actors.append(parameters(model.policy.actor))
        rates.append([group["lr"] for group in model.policy.optimizer.param_groups])
        return True

    model.learn(8, callback=note)
    moved = [not torch.equal(one, other) for one, other in pairwise(critics)]
    # Updates 2 to 4 move the critics, 5 and 6 do not; then the actor's rate is 0, and they learn again.
    assert moved == [True] * 3 + [False] * 2 + [True] * 2
    assert [not torch.equal(one, other) for one, other in pairwise(actors)] == [True] * 5 + [False] * 2
    expected = [3e-3 * 0.5 * (1 + math.cos(math.pi * min(done / 6, 1))) for done in range(8)]
    assert [rate[0] for rate in rates] == pytest.approx(expected)


def test_after_the_actors_decay_the_values_learn_again() -> None:
    """What is learned online, as in the authors' code: a rate that falls to 0 in the offline phase stays there."""
    policy = small_model(two_modes(), policy_kwargs={"value_steps": 4, "actor_decay_steps": 6}).policy
    assert [policy.learning_rate_factors(done)[1] for done in (0, 3, 4, 5, 6, 100)] == [1, 1, 0, 0, 1, 1]
    policy = small_model(two_modes(), policy_kwargs={"value_steps": 4}).policy
    assert [policy.learning_rate_factors(done) for done in (3, 4, 100)] == [[1, 1], [1, 0], [1, 0]]


def test_dropout_is_for_training_alone() -> None:
    model = small_model(two_modes(), policy_kwargs={"dropout": 0.5})
    masks = {}
    for training in (True, False):
        model.policy.set_training_mode(training)
        masks[training] = draw_noise(model.policy, 64, torch.Generator().manual_seed(0), 1).masks
    assert set(masks[True].unique().tolist()) == {0.0, 2.0}
    assert masks[False].unique().tolist() == [1.0]


def test_the_optimisers_weight_decay_is_that_of_the_values() -> None:
    kwargs = {"optimizer_kwargs": {"weight_decay": 0.5}, "actor_weight_decay": 0.25}
    groups = small_model(two_modes(), policy_kwargs=kwargs).policy.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.25, 0.5]


def test_the_actor_alone_decays() -> None:
    of_actor, of_values = small_model(two_modes()).policy.optimizer.param_groups
    assert (of_actor["weight_decay"], of_values["weight_decay"]) == (1e-4, 0.0)
    policy = small_model(two_modes()).policy
    assert len(of_actor["params"]) == len(list(policy.actor.parameters()))
    assert len(of_actor["params"]) + len(of_values["params"]) == len(policy.trained_parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 1.0}, r"dropout is 1.0, expected a number in \[0, 1\)"),
        ({"value_steps": -1}, "value_steps is -1, expected at least 0"),
        ({"actor_decay_steps": -1}, "actor_decay_steps is -1, expected at least 0"),
        ({"net_arch": {"pi": [8, 16], "qf": [8]}}, "expected residual blocks of one width"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(two_modes(), policy_kwargs=arguments)
    with pytest.raises(ValueError, match="diffusion_steps is 0, expected at least 1"):
        small_model(two_modes(), diffusion_steps=0)
