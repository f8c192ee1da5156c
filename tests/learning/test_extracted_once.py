"""Networks that share an encoder run it once for each image of a batch, and learn what they learned before."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dipole_sb3 import CFGRL, DIPOLE, FAWAC, FQL, IDQL, IFQL, IQL, ReBRAC
from dipole_sb3.learning.learn_together import learn_together

ALGORITHMS = (DIPOLE, IQL, ReBRAC, IDQL, IFQL, FQL, CFGRL, FAWAC)
ENCODER: dict[str, Any] = {
    "features_extractor_class": "impala-small",
    "features_extractor_kwargs": {"features_dim": 8, "stack_sizes": (4,)},
}


def dataset() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (41, 12, 12, 1), np.uint8)
    joints = rng.normal(size=(41, 3)).astype(np.float32)
    return {
        "observations": {"camera": pictures[:-1], "joints": joints[:-1]},
        "next_observations": {"camera": pictures[1:], "joints": joints[1:]},
        "actions": rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        "rewards": rng.normal(size=40).astype(np.float32),
        "terminals": (np.arange(40) % 20 == 19).astype(np.float32),
    }


def model_of(algorithm: type[Any], shared: bool = True, seed: int = 0, **arguments: Any) -> Any:
    chosen: dict[str, Any] = {**ENCODER, "net_arch": [16], "share_features_extractor": shared}
    if algorithm is IDQL:
        chosen["net_arch"] = {"pi": [16], "qf": [16]}
    few = {"flow_steps": 2} if algorithm in (DIPOLE, CFGRL, FQL, FAWAC) else {}
    given = {"dataset": dataset(), "batch_size": 8, "device": "cpu", "seed": seed, **few, **arguments}
    return algorithm("MultiInputPolicy", policy_kwargs=chosen, **given)


def passes_of(model: Any) -> list[bool]:
    """Whether gradients reached each pass of the encoder that learns, in two updates."""
    made: list[bool] = []
    extractor = model.policy.actor.features_extractor
    handle = extractor.register_forward_hook(lambda *_: made.append(torch.is_grad_enabled()))
    model.learn(2)  # of ReBRAC's actor every second
    handle.remove()
    return made


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.__name__)
def test_images_pass_once_with_gradients_and_once_without(algorithm: type[Any]) -> None:
    made = passes_of(model_of(algorithm))
    assert made.count(True) == 2
    assert made.count(False) <= 2


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.__name__)
def test_parameters_are_those_of_losses_that_extract_each_time(
    algorithm: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    once, each = model_of(algorithm), model_of(algorithm)
    once.learn(3)
    plain = replace(algorithm.update_rule)
    object.__setattr__(plain, "losses", inspect.unwrap(algorithm.update_rule.losses))
    monkeypatch.setattr(algorithm, "update_rule", plain)
    assert passes_of(each).count(True) > 2
    each.learn(1, reset_num_timesteps=False)
    for one, other in zip(once.policy.parameters(), each.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_networks_of_their_own_extract_on_their_own() -> None:
    model = model_of(DIPOLE, shared=False)
    assert passes_of(model) == [False, True] * 2


def test_compiled_updates_are_the_same() -> None:
    """Of IQL, whose losses are the quickest to compile; how an encoder is shared is the same for all."""
    eager, compiled = model_of(IQL, acceleration="eager"), model_of(IQL, acceleration="compiled")
    eager.learn(2)
    compiled.learn(2)
    for one, other in zip(eager.policy.parameters(), compiled.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_runs_together_share_too() -> None:
    alone = [model_of(DIPOLE, seed=seed) for seed in (0, 1)]
    together = [model_of(DIPOLE, seed=seed) for seed in (0, 1)]
    for model in alone:
        model.learn(2)
    made: list[bool] = []
    together[0].policy.actor.features_extractor.register_forward_hook(lambda *_: made.append(torch.is_grad_enabled()))
    learn_together(together, 2)
    assert made.count(True) == 2
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5)
