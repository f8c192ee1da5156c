"""The same guided action in JAX, compiled as a whole by XLA: what a JAX user has, at the same networks and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def guided_action(model: Any, candidates: int, omega: float, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """One action, in [−1, 1], from one observation: K Euler steps from fresh noise, and the critics' choice of N.

    :param model: a DIPOLE whose networks are plain perceptrons: raw time, GELU (tanh), critics with layer norms.
    """
    pair = [_layers(model.policy.actor.head.mlp, member) for member in range(2)]
    critics = [_layers(model.policy.critic.head.mlp, member) for member in range(2)]
    steps, size = model.policy.flow_steps, model.policy.action_dim

    @jax.jit
    def act(observation: Any, key: Any) -> tuple[Any, Any]:
        key, drawn = jax.random.split(key)
        rows = jnp.tile(observation, (candidates, 1))

        def step(index: Any, x: Any) -> Any:
            time = jnp.full((candidates, 1), index / steps)
            positive, negative = (_perceptron(each, jnp.concatenate([rows, x, time], 1)) for each in pair)
            return x + ((1 + omega) * positive - omega * negative) / steps

        noise = jax.random.normal(drawn, (candidates, size))
        actions = jnp.clip(lax.fori_loop(0, steps, step, noise), -1.0, 1.0)
        q = jnp.stack([_perceptron(each, jnp.concatenate([rows, actions], 1))[:, 0] for each in critics]).min(0)
        return actions[q.argmax()], key

    key = jax.random.key(seed)

    def run(observation: np.ndarray) -> np.ndarray:
        nonlocal key
        action, key = act(observation, key)
        return np.asarray(action)

    return run


def _layers(mlp: Any, member: int) -> list[tuple[Any, ...]]:
    """Of each layer weight and bias, and of its layer norm, if it has one."""
    layers = []
    for depth, layer in enumerate([*mlp.hidden, mlp.output]):
        norms = [] if mlp.norms is None or layer is mlp.output else [mlp.norms[depth]]
        parts = [part[member] for each in (layer, *norms) for part in (each.weight, each.bias)]
        layers.append(tuple(jnp.asarray(part.detach().numpy()) for part in parts))
    return layers


def _perceptron(layers: list[tuple[Any, ...]], x: Any) -> Any:
    for weight, bias, *norm in layers[:-1]:
        x = jax.nn.gelu(x @ weight + bias, approximate=True)
        if norm:
            mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            x = (x - mean) * lax.rsqrt(variance + 1e-6) * norm[0] + norm[1]
    weight, bias = layers[-1]
    return x @ weight + bias
