"""Updates of other people's algorithms for train_speed.py, in a process and, if need be, an installation of their own.

    python benchmarks/train_peers.py sb3|sbx OBSERVATION ACTION WIDTH BATCH DEVICE [THREADS]

Stable-Baselines3's SAC, or SBX's (https://github.com/araffin/sbx, the package sbx-rl, in JAX), both with two critics
and three layers, on random transitions in their own replay buffers. First a line of JSON: what it is, and the
floating-point operations (two per multiply-add) of the matrix products in one update, counted from the update itself.
Then for every number of updates on stdin a line with how many were made (whole calls of ``train``) and how long they
took.

Imports nothing of this project.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

UPDATES_PER_CALL = 20
TRANSITIONS = 10_000


def random_transitions(observation: Sequence[int], action: int) -> dict[str, Any]:
    """Arrays of :data:`TRANSITIONS` steps in episodes of 200, in OGBench's layout.

    :param observation: shape of one: of a vector, or of an image, of which s' is the next one.
    :param action: its size.
    """
    import numpy as np

    random, shape = np.random.default_rng(0), (TRANSITIONS, *observation)
    ends = np.arange(TRANSITIONS) % 200 == 199
    if len(observation) == 3:
        observations = random.integers(0, 256, shape, np.uint8)
        next_observations = np.where(ends[:, None, None, None], observations, np.roll(observations, -1, axis=0))
    else:
        observations, next_observations = (random.normal(size=shape).astype(np.float32) for _ in range(2))
    return {
        "observations": observations,
        "next_observations": next_observations,
        "actions": random.uniform(-1, 1, (TRANSITIONS, action)).astype(np.float32),
        "rewards": random.normal(size=TRANSITIONS).astype(np.float32),
        "masks": np.ones(TRANSITIONS, np.float32),
        "terminals": ends.astype(np.float32),
    }


def make_env(observation: int, action: int) -> Any:
    import gymnasium
    import numpy as np

    class Spaces(gymnasium.Env[Any, Any]):
        """Only its spaces are used."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (action,), np.float32)

    return Spaces()


def make_model(algorithm: str, observation: int, action: int, width: int, batch: int, device: str) -> Any:
    import numpy as np
    from stable_baselines3.common.logger import Logger

    model: Any = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[algorithm]).SAC(
        "MlpPolicy",
        make_env(observation, action),
        policy_kwargs={"net_arch": [width] * 3, "n_critics": 2},
        batch_size=batch,
        buffer_size=TRANSITIONS,
        seed=0,
        device=device,
    )
    model._logger = Logger(folder=None, output_formats=[])
    random, buffer = np.random.default_rng(0), model.replay_buffer
    for name in ("observations", "next_observations", "rewards"):
        array = getattr(buffer, name)
        array[:] = random.normal(size=array.shape)
    buffer.actions[:] = random.uniform(-1, 1, buffer.actions.shape)
    buffer.full = True
    return model


def sb3_operations(model: Any, batch: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.train(gradient_steps=1, batch_size=batch)
    return int(counter.get_total_flops())


def sbx_operations(model: Any, batch: int) -> int:
    import jax
    import numpy as np
    from sbx.common.type_aliases import ReplayBufferSamplesNp

    drawn = model.replay_buffer.sample(batch)
    data = ReplayBufferSamplesNp(
        drawn.observations.numpy(),
        drawn.actions.numpy(),
        drawn.next_observations.numpy(),
        drawn.dones.numpy().flatten(),
        drawn.rewards.numpy().flatten(),
        np.full(batch, model.gamma, np.float32),
    )

    def update(data: Any, *state: Any) -> Any:
        return model._train(model.tau, model.target_entropy, 1, data, 1, 0, *state)

    policy = model.policy
    program = jax.make_jaxpr(update)(data, policy.qf_state, policy.actor_state, model.ent_coef_state, model.key)
    return products_in(program.jaxpr)


def products_in(program: Any) -> int:
    """Operations of the matrix products and convolutions in a JAX program whose loops run once."""
    count = 0
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            count += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            count += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        for parameter in equation.params.values():
            for part in parameter if isinstance(parameter, (tuple, list)) else [parameter]:
                inner = getattr(part, "jaxpr", part)
                count += products_in(inner) if hasattr(inner, "eqns") else 0
    return count


def serve(name: str, packages: tuple[str, ...], device: str, operations: int, train: Callable[[int], int]) -> None:
    """Warms up, says what it is, and answers every number of updates on stdin with how many took how long.

    :param train: makes at least so many updates, waits for the last, and gives how many they were.
    """
    train(1)
    versions = {package: importlib.metadata.version(package) for package in packages}
    facts = {"name": name, "versions": versions, "device": device, "operations": operations}
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        made = train(int(line))
        print(json.dumps({"updates": made, "seconds": time.perf_counter() - start}), flush=True)


def main() -> None:
    algorithm, *sizes = sys.argv[1:6]
    observation, action, width, batch = map(int, sizes)
    device, threads = sys.argv[6], sys.argv[7:]
    if threads and hasattr(os, "sched_setaffinity"):
        # JAX makes as many threads as there are processors that it may use when it is imported.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads[0])])
    import torch

    if threads:
        torch.set_num_threads(int(threads[0]))
    model = make_model(algorithm, observation, action, width, batch, device)
    if algorithm == "sb3":
        name, versions, runs_on = "SAC of Stable-Baselines3", ("stable-baselines3", "torch"), str(model.device)
        operations = sb3_operations(model, batch)
    else:
        import jax

        name, versions, runs_on = "SAC of SBX", ("sbx-rl", "jax"), jax.default_backend()
        operations = sbx_operations(model, batch)
    serve(name, versions, runs_on, operations, lambda count: _calls(model, count, batch))


def _calls(model: Any, updates: int, batch: int) -> int:
    calls = math.ceil(updates / UPDATES_PER_CALL)
    for _ in range(calls):
        # Both end with losses on the host, so that all of the update is over.
        model.train(UPDATES_PER_CALL, batch)
    return calls * UPDATES_PER_CALL


if __name__ == "__main__":
    main()
