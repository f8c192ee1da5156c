"""Makes the files beside this one: a few updates of the agents that the authors of FQL have published, in JAX.

    git clone https://github.com/seohongpark/fql
    pip install jax flax optax distrax ml_collections
    python make_updates.py fql

Every file has the parameters before and after, and batch, noise and losses of all updates. Two things differ from the
published agents, on purpose: targets are averaged with the parameters after the step; and no row of a batch ends an
episode, for ReBRAC's loader gives such rows the next episode's action.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

UPDATES, BATCH, OBSERVATION, ACTION = 20, 16, 5, 2
SETTINGS = {
    "fql": {"alpha": 3.0},
    "iql": {"alpha": 3.0},
    "ifql": {},
    "rebrac": {"alpha_actor": 0.1, "alpha_critic": 0.01},
}
LOSSES = {
    "fql": {"flow_loss": "actor/bc_flow_loss", "q_loss": "actor/q_loss", "critic_loss": "critic/critic_loss"},
    "iql": {"critic_loss": "critic/critic_loss", "value_loss": "value/value_loss"},
    "ifql": {"actor_loss": "actor/actor_loss", "critic_loss": "critic/critic_loss", "value_loss": "value/value_loss"},
    "rebrac": {"critic_loss": "critic/critic_loss"},
}


def follow(agent: Any, network: Any, name: str) -> None:
    """Averages a target network, in place of the agents' own ``target_update``."""
    tau, new, old = agent.config["tau"], network.params[f"modules_{name}"], network.params[f"modules_target_{name}"]
    network.params[f"modules_target_{name}"] = jax.tree_util.tree_map(lambda p, q: tau * p + (1 - tau) * q, new, old)


def random_batch(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of made-up transitions, one in ten of them terminal."""
    observations, following = random.normal(size=(2, BATCH, OBSERVATION))
    actions, next_actions = random.uniform(-1, 1, (2, BATCH, ACTION))
    batch = {
        "observations": observations,
        "actions": actions,
        "rewards": random.normal(size=BATCH),
        "next_observations": following,
        "masks": random.random(BATCH) > 0.1,
        "next_actions": next_actions,
    }
    return {name: array.astype(np.float32) for name, array in batch.items()}


def noise_of(name: str, key: Any) -> dict[str, np.ndarray]:
    """What the agent will draw in its next update, from the key that it has now."""
    _, key = jax.random.split(key)
    shape = (BATCH, ACTION)
    if name == "fql":
        _, actor, critic = jax.random.split(key, 3)
        rest, start, time = jax.random.split(actor, 3)
        sampled, _ = jax.random.split(jax.random.split(critic)[1])
        drawn = {"of_actor": jax.random.normal(jax.random.split(rest)[1], shape)}
        drawn |= {"of_next": jax.random.normal(sampled, shape)}
    elif name == "ifql":
        _, start, time = jax.random.split(jax.random.split(key)[1], 3)
        drawn = {}
    elif name == "rebrac":
        _, _, critic = jax.random.split(key, 3)
        return {"of_target": np.asarray(jax.random.normal(jax.random.split(critic)[1], shape))}
    else:
        return {}
    drawn |= {"start": jax.random.normal(start, shape), "time": jax.random.uniform(time, (BATCH, 1))}
    return {each: np.asarray(array) for each, array in drawn.items()}


def parameters(agent: Any) -> dict[str, np.ndarray]:
    """By their paths."""
    return {"/".join(path): np.asarray(x) for path, x in flax.traverse_util.flatten_dict(agent.network.params).items()}


def make(name: str, file: Path) -> None:
    """Makes one algorithm's file."""
    module = importlib.import_module(f"agents.{name}")
    agents = {"fql": "FQLAgent", "iql": "IQLAgent", "ifql": "IFQLAgent", "rebrac": "ReBRACAgent"}
    kind = getattr(module, agents[name])
    kind.target_update = follow
    config = module.get_config()
    config.update({"actor_hidden_dims": (8, 8), "value_hidden_dims": (8, 8), "lr": 3e-3, **SETTINGS[name]})
    agent = kind.create(0, np.zeros((1, OBSERVATION), np.float32), np.zeros((1, ACTION), np.float32), config)
    found = {f"before/{path}": array for path, array in parameters(agent).items()}
    random, updates = np.random.default_rng(0), []
    for update in range(UPDATES):
        batch, noise = random_batch(random), noise_of(name, agent.rng)
        agent, info = agent.update(batch, **({"full_update": update % 2 == 1} if name == "rebrac" else {}))
        losses = {ours: np.asarray(info[theirs]) for ours, theirs in LOSSES[name].items()}
        updates.append({**batch, **noise, **losses})
    found |= {f"updates/{key}": np.stack([each[key] for each in updates]) for key in updates[0]}
    found |= {f"after/{path}": array for path, array in parameters(agent).items()}
    np.savez_compressed(file, **found)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    for algorithm in SETTINGS:
        make(algorithm, Path(__file__).with_name(f"{algorithm}.npz"))
