"""Updates beside those of the agents that FQL's authors have published, which ``published/`` has on file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dipole_sb3 import FQL, IFQL, IQL, OfflineReplayBuffer, ReBRAC
from dipole_sb3.buffers.offline_buffer import Batch
from dipole_sb3.learning.update_rule import apply_update

PUBLISHED = Path(__file__).with_name("published")

NETWORKS = {
    "critic": ("critic", "value_net"),
    "critic_target": ("target_critic", "value_net"),
    "value": ("value", "value_net"),
}
"""Ours → name and inner part of theirs."""

ALGORITHMS: dict[str, tuple[type[Any], dict[str, tuple[str, str]], dict[str, Any]]] = {
    "fql": (FQL, {"actor": ("actor_onestep_flow", "mlp"), "flow": ("actor_bc_flow", "mlp")}, {"alpha": 3.0}),
    "iql": (IQL, {"actor": ("actor", "actor_net")}, {"alpha": 3.0}),
    "ifql": (IFQL, {"actor": ("actor_flow", "mlp")}, {}),
    "rebrac": (
        ReBRAC,
        {"actor": ("actor", "actor_net"), "actor_target": ("target_actor", "actor_net")},
        {"actor_bc_coef": 0.1, "critic_bc_coef": 0.01},
    ),
}


def model_like(file: Mapping[str, np.ndarray], kind: type[Any], arguments: Mapping[str, Any]) -> Any:
    """A model with the sizes of the published one."""
    actions, observations = file["updates/actions"][0], file["updates/observations"][0]
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": np.zeros(len(actions)),
        "next_observations": observations,
        "terminals": np.eye(len(actions))[-1],
    }
    space = spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)
    return kind(
        "MlpPolicy",
        dataset=OfflineReplayBuffer.from_arrays(arrays, action_space=space, device="cpu"),
        learning_rate=3e-3,
        policy_kwargs={"net_arch": [8, 8]},
        device="cpu",
        **arguments,
    )


def state_of(file: Mapping[str, np.ndarray], when: str, networks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Published parameters under our names: [in, out] are [members, in, out] here, and [out] are [members, 1, out]."""

    def ours(array: np.ndarray, dimensions: int) -> torch.Tensor:
        alone = array.ndim < dimensions
        return torch.as_tensor(array[None] if alone else array)

    state = {}
    for name, (theirs, inner) in networks.items():
        prefix = f"{when}/modules_{theirs}"
        if not any(path.startswith(f"{prefix}/") for path in file):
            continue
        layers = {"hidden.0": f"{inner}/Dense_0", "hidden.1": f"{inner}/Dense_1", "output": f"{inner}/Dense_2"}
        if f"{prefix}/mean_net/kernel" in file:
            layers["output"] = "mean_net"
        for layer, path in layers.items():
            state[f"{name}.head.mlp.{layer}.weight"] = ours(file[f"{prefix}/{path}/kernel"], 3)
            state[f"{name}.head.mlp.{layer}.bias"] = ours(file[f"{prefix}/{path}/bias"], 2).unsqueeze(1)
        for index in (0, 1):
            if (norm := f"{prefix}/{inner}/LayerNorm_{index}") + "/scale" in file:
                state[f"{name}.head.mlp.norms.{index}.weight"] = ours(file[f"{norm}/scale"], 2).unsqueeze(1)
                state[f"{name}.head.mlp.norms.{index}.bias"] = ours(file[f"{norm}/bias"], 2).unsqueeze(1)
    return state


def updates(file: Mapping[str, np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
    """What is on file of each update."""
    arrays = {path.partition("/")[2]: array for path, array in file.items() if path.startswith("updates/")}
    for number in range(len(arrays["rewards"])):
        yield {name: torch.as_tensor(array[number]) for name, array in arrays.items()}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_batches_and_noise_give_the_same_parameters(name: str) -> None:
    kind, own, arguments = ALGORITHMS[name]
    with np.load(PUBLISHED / f"{name}.npz") as opened:
        file = dict(opened)
    model = model_like(file, kind, arguments)
    rule, networks = model.update_rule, {**NETWORKS, **own}
    before, after = (state_of(file, when, networks) for when in ("before", "after"))
    model.policy.load_state_dict(before)
    for number, found in enumerate(updates(file), start=1):
        batch = Batch(**{field: found[field] for field in Batch._fields if field in found})
        if rule.needs_next_actions:
            batch = batch._replace(continues=torch.ones_like(batch.rewards))
        drawn = rule.draw_noise(model.policy, len(batch.rewards), torch.Generator().manual_seed(0), number)
        noise = drawn._replace(**{field: found[field] for field in drawn._fields if field in found})
        outcome = apply_update(rule, model.policy, batch, noise, model.objective())
        losses = dict(zip(rule.loss_names, outcome.losses.tolist(), strict=True))
        for loss in losses.keys() & found.keys():
            assert losses[loss] == pytest.approx(found[loss].item(), rel=1e-4, abs=1e-5), (number, loss)
    for path, parameter in model.policy.state_dict().items():
        torch.testing.assert_close(parameter, after[path], rtol=0.0, atol=5e-6)
    moved = max((after[path] - before[path]).abs().max().item() for path in after)
    assert moved > 0.03
