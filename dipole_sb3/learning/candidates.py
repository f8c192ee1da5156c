"""Acting with several candidates: their noise, and the critics' choice among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipole_sb3.learning.offline_policy import OfflinePolicy

_DETERMINISTIC_SEED = 0


def candidate_noise(policy: OfflinePolicy, batch: int, count: int, deterministic: bool, draws: int = 1) -> Tensor:
    """The noise of ``count`` candidates for each observation, shape [batch · count, draws · action].

    :param deterministic: the same noise for every observation; the first candidate's is zero.
    :param draws: how often a candidate draws noise of an action's shape.
    """
    width = draws * policy.action_dim
    if not deterministic:
        return torch.randn(batch * count, width, device=policy.device)
    # The first candidate starts from the mode of the noise. NumPy's generator draws row by row, so a larger count
    # keeps the candidates of a smaller one.
    fixed = np.random.default_rng(_DETERMINISTIC_SEED).standard_normal((count, width))
    fixed[0] = 0.0
    return torch.as_tensor(fixed, dtype=torch.float32, device=policy.device).repeat(batch, 1)


def best_candidates(critic: Any, features: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Of each observation's candidates the one with the largest min Q.

    :param critic: critics with a ``head``, of one policy or of a stack of several.
    :param features: the critics' features of the observations, shape [..., batch, features].
    :param candidates: actions in [−1, 1], shape [..., batch · count, action].
    :return: shape [..., batch, action].
    """
    if count == 1:
        return candidates
    values = critic.head(features.repeat_interleave(count, dim=-2), candidates).amin(-2)
    # Shape [..., batch, 1, 1], to index candidates of shape [..., batch, N, action].
    best = torch.unflatten(values, -1, (-1, count)).argmax(-1)[..., None, None]
    return torch.unflatten(candidates, -2, (-1, count)).take_along_dim(best, dim=-2).squeeze(-2)
