"""What a data set remembers of the environment that it was recorded in."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec


def environment_facts(spec: EnvSpec | None) -> dict[str, Any]:
    """Metadata from which :func:`dipole_sb3.datasets.make_env` makes the environment again.

    :param spec: of the environment.
    :return: ``env_id`` and, where the environment was not made at its defaults, ``env_kwargs`` for ``gymnasium.make``;
        empty where that is not enough: without a spec, or with arguments that JSON cannot hold.
    """
    if spec is None:
        return {}
    keywords = dict(spec.kwargs)
    registered = gymnasium.registry.get(spec.id)
    if registered is None or registered.max_episode_steps != spec.max_episode_steps:
        keywords["max_episode_steps"] = spec.max_episode_steps
    try:
        json.dumps(keywords)
    except TypeError:
        return {}
    return {"env_id": spec.id, "env_kwargs": keywords} if keywords else {"env_id": spec.id}
