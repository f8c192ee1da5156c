"""Losses and weights against values by hand, and the chains of DPPO against the Gaussian that they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_scenes import NearnessScorer, SmallScenes, smallest

from dipole_sb3.driving import DPVLA
from dipole_sb3.driving.model import diffusion
from dipole_sb3.driving.model.adapters import ADAPTERS, parameters_of
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.training.chains import LEAST_SPREAD, drawn_chain, log_density, mean_of_step
from dipole_sb3.driving.training.fine_tuning import LARGEST_WEIGHT, FineTuning, FineTuningArguments
from dipole_sb3.driving.training.losses import ClippedRatio, WeightedRegression
from dipole_sb3.driving.training.rollouts import Replay, SceneTokens


def planner() -> Planner:
    torch.manual_seed(0)
    made = Planner(smallest())
    for parameter in made.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def tuning(method: str, beta: float = 1.0, k: float = 0.0, **changes: object) -> FineTuning:
    agent = DPVLA(smallest(), SmallScenes(5), device="cpu")
    asked = {"steps": 9, "rollout_omega": 0.0, "group_size": 4, "batch_size": 2, "learning_rate": 1e-3, **changes}
    return FineTuning(agent, FineTuningArguments(method=method, beta=beta, k=k, **asked), NearnessScorer())  # type: ignore[arg-type]


def test_weighted_regression_is_the_weighted_sum_of_squared_errors() -> None:
    made = planner()
    tokens, history = torch.randn(2, 10, 16), torch.randn(2, 4, 3)
    plans, noise, time = torch.randn(2, 3, 8, 4), torch.randn(2, 3, 8, 4), torch.rand(2, 3)
    weights = torch.rand(2, 2, 3)
    loss, values = WeightedRegression(made, ADAPTERS)(tokens, history, plans, noise, time, weights)
    expected = 0.0
    for index, name in enumerate(ADAPTERS):
        for scene in range(2):
            memory = made.decoder.remember(tokens[scene : scene + 1], (name,))
            for plan in range(3):
                x = diffusion.noised(plans[scene, plan], noise[scene, plan], time[scene, plan])
                when, past = time[scene, plan].reshape(1, 1), made.normalised_history(history[scene : scene + 1])
                answer = made.decoder(x[None, None, None], when, past, memory, (name,))[0, 0, 0]
                expected += weights[index, scene, plan] * (answer - noise[scene, plan]).square().mean() / 6
    torch.testing.assert_close(loss, expected)
    assert values["train/negative_weight"] == pytest.approx(float(weights[1].mean()))


def test_weights_of_the_dichotomy() -> None:
    advantages = torch.tensor([[-1.0, 0.0, 0.5]])
    weights = tuning("dipole", beta=2.0, k=0.3)._weights(advantages)
    expected = [1 / (1 + math.exp(-(2.0 * each + 0.3))) for each in (-1.0, 0.0, 0.5)]
    torch.testing.assert_close(weights, torch.tensor([[expected], [[1 - each for each in expected]]]))


def test_weights_of_advantage_weighted_regression_are_clipped() -> None:
    weights = tuning("awr", beta=2.0)._weights(torch.tensor([[-1.0, 0.0, 5.0]]))
    torch.testing.assert_close(weights, torch.tensor([[[math.exp(-2.0), 1.0, LARGEST_WEIGHT]]]))


def test_the_last_step_of_a_chain_is_the_clean_plan_and_the_others_follow_the_posterior() -> None:
    """DDPM's posterior q(x_s | x_t, x_0): what its mean and variance are in closed form."""
    schedule = diffusion.times(5)
    plan, noise = torch.randn(2, 8, 4, dtype=torch.float64)
    for step in range(4):
        time = torch.tensor([schedule[step], schedule[step + 1]], dtype=torch.float64)
        alpha, sigma = (each.tolist() for each in diffusion.alpha_and_sigma(time))
        x = alpha[0] * plan + sigma[0] * noise
        ratio = alpha[0] / alpha[1]
        drift = sigma[0] ** 2 - ratio**2 * sigma[1] ** 2  # variance that the step from s to t adds
        expected = (ratio * sigma[1] ** 2 * x + alpha[1] * drift * plan) / sigma[0] ** 2
        mean, spread = mean_of_step(schedule, step, x, noise)
        torch.testing.assert_close(mean, expected)
        assert spread == pytest.approx(max(math.sqrt(drift) * sigma[1] / sigma[0], LEAST_SPREAD))
    mean, spread = mean_of_step(schedule, 4, plan, noise)
    torch.testing.assert_close(mean, diffusion.clean(plan, noise, schedule[4]))
    assert spread == LEAST_SPREAD


def test_log_densities_are_those_of_torch() -> None:
    x, mean = torch.randn(2, 3, 8, 4, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, 0.3).log_prob(x).sum((-1, -2))
    torch.testing.assert_close(log_density(x, mean, 0.3), expected)


def chains_of(made: Planner, tokens: torch.Tensor, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    schedule, names = diffusion.times(5), ("positive",)
    memory, past = made.decoder.remember(tokens, names), made.normalised_history(history)
    noise = [torch.randn(2, 3, 8, 4) for _ in range(6)]
    return drawn_chain(
        lambda x, time: made.decoder(x[None], time[None, None], past, memory, names)[0], noise[0], noise[1:], schedule
    )


def test_the_ratio_is_one_where_nothing_was_learned_and_its_gradient_is_that_of_the_policy() -> None:
    made = planner()
    tokens, history, advantage = torch.randn(2, 10, 16), torch.randn(2, 4, 3), torch.randn(2, 3)
    with torch.no_grad():
        chains, densities = chains_of(made, tokens, history)
    loss, values = ClippedRatio(made, "positive", diffusion.times(5))(tokens, history, chains, densities, advantage)
    assert values["train/ratio"] == pytest.approx(1.0, abs=1e-3)
    assert values["train/clip_fraction"] == 0
    assert loss == pytest.approx(-float(advantage.mean()), abs=1e-3)


def test_ratios_beyond_the_clip_have_no_gradient() -> None:
    made = planner()
    tokens, history = torch.randn(2, 10, 16), torch.randn(2, 4, 3)
    with torch.no_grad():
        chains, densities = chains_of(made, tokens, history)
    good = torch.ones(2, 3)
    chosen = list(parameters_of(made.decoder, ("positive",)).values())

    def gradient(before: torch.Tensor, advantage: torch.Tensor) -> float:
        for each in chosen:
            each.requires_grad_(True)
        loss, _ = ClippedRatio(made, "positive", diffusion.times(5))(tokens, history, chains, before, advantage)
        return sum(float(each.abs().sum()) for each in torch.autograd.grad(loss, chosen))

    assert gradient(densities, good) > 0
    # Twice as likely as before already: a good plan is not followed further, a bad one is still left.
    assert gradient(densities - math.log(2), good) == 0
    assert gradient(densities - math.log(2), -good) > 0


def test_groups_of_equal_scores_are_left_out() -> None:
    replay = Replay(3, 4)
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5] * 4, [0.0, 0.0, 0.0, 1.0]])
    replay.put(torch.tensor([2, 0, 1]), {"plans": torch.zeros(3, 4, 8, 4), "scores": scores})
    assert replay.usable().tolist() == [1, 2]
    torch.testing.assert_close(replay.tensors["scores"][2], scores[0].double())
    advantages = replay.tensors["advantages"][1:]
    torch.testing.assert_close(advantages.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages.std(dim=1, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_rollouts_of_one_epoch_then_nine_epochs_of_updates() -> None:
    job = tuning("dipole", steps=1000)
    job.agent.planner.decoder.leave[-1].weight.data.normal_()  # type: ignore[operator, union-attr]
    kinds = ["update" if "train/gradient_norm" in job.step() else "rollout" for _ in range(2 * (3 + 27))]
    assert kinds == 2 * (["rollout"] * 3 + ["update"] * 27)
    assert job.scored_plans == 2 * 5 * 4


def test_tokens_are_encoded_once_and_only_as_many_are_kept_as_fit() -> None:
    scenes = SmallScenes(6)
    agent = DPVLA(smallest(), scenes, device="cpu")
    read: list[int] = []
    observations = scenes.observations

    def counted(indices: list[int]) -> object:
        read.extend(indices)
        return observations(indices)

    scenes.observations = counted  # type: ignore[assignment, method-assign]
    of_a_scene = smallest().tokens * 16 * 4 + 4 * 3 * 4
    cache = SceneTokens(agent, room=2 * of_a_scene)
    first, histories = cache.of([4, 1, 3])
    again, _ = cache.of([3, 4, 1])
    assert read == [4, 1, 3, 3]
    assert torch.equal(again, first[[2, 0, 1]])
    assert np.array_equal(histories.numpy(), observations([4, 1, 3]).history)
