"""Updates of the authors' JAX agents for train_speed.py, in a process and an installation of their own.

    python benchmarks/train_agents.py REPOSITORY fql|ifql|iql|rebrac OBSERVATION ACTION WIDTH BATCH [THREADS]

REPOSITORY is a clone of https://github.com/seohongpark/fql, whose agents, data set and ``update`` are used as they are,
with three hidden layers and otherwise their own defaults, on random transitions; for an OBSERVATION of 64x64x3, with
the small encoder, stacks of three frames and random crops, as its authors ran visual tasks. It needs jax, flax, optax,
distrax and ml_collections. It talks to train_speed.py as train_peers.py does, and imports nothing of this project.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from train_peers import products_in, random_transitions, serve

NAMES = {"fql": "FQL", "ifql": "IFQL", "iql": "IQL", "rebrac": "ReBRAC"}


def make_agent(name: str, observation: tuple[int, ...], action: int, width: int, batch: int) -> tuple[Any, Any]:
    """The agent and its data."""
    module = importlib.import_module(f"agents.{name}")
    config = module.get_config()
    config.actor_hidden_dims = config.value_hidden_dims = (width,) * 3
    config.batch_size = batch
    data = importlib.import_module("utils.datasets").Dataset.create(**random_transitions(observation, action))
    if len(observation) == 3:
        config.encoder = "impala_small"
        data.frame_stack, data.p_aug = 3, 0.5
    data.return_next_actions = name == "rebrac"
    drawn = data.sample(1)
    agents = importlib.import_module("agents").agents
    return agents[name].create(0, drawn["observations"], drawn["actions"], config), data


def main() -> None:
    repository, name, *sizes = sys.argv[1:7]
    observation = tuple(map(int, sizes[0].split("x")))
    action, width, batch = map(int, sizes[1:])
    if sys.argv[7:] and hasattr(os, "sched_setaffinity"):
        # JAX makes as many threads as there are processors that it may use when it is imported.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[7])])
    sys.path.insert(0, repository)
    try:
        import jax

        agent, data = make_agent(name, observation, action, width, batch)
    except ImportError as error:
        raise SystemExit(f"train_agents: {error}, expected a clone of FQL's repository and what it imports") from error
    # As their main.py does it: ReBRAC's actor and its targets every few updates only.
    every = agent.config["actor_freq"] if name == "rebrac" else 1
    kinds = [{"full_update": index == 0} if name == "rebrac" else {} for index in range(every)]
    updates = 0

    def train(count: int) -> int:
        nonlocal agent, updates
        for _ in range(count):
            agent, _ = agent.update(data.sample(batch), **kinds[updates % every])
            updates += 1
        for leaf in jax.tree_util.tree_leaves(agent.network.params):
            leaf.block_until_ready()
        return count

    def program(kind: dict[str, bool]) -> Any:
        return jax.make_jaxpr(lambda each, drawn: each.update(drawn, **kind))(agent, data.sample(batch)).jaxpr

    operations = sum(map(products_in, map(program, kinds))) // every
    train(every)
    serve(f"{NAMES[name]} of FQL's authors", ("jax", "flax"), jax.default_backend(), operations, train)


if __name__ == "__main__":
    main()
