"""The dichotomy: bounded weights that split one data set between two policies, and the losses around them.

Everything here is a pure function of tensors. Nothing assumes a network, a critic or a flow: ``advantage`` may come
from a critic (A = Q − V), from a reward, or from a group of rollouts of one scene.

Source: "Dichotomous Diffusion Policy Optimization" (arXiv 2601.00898), equations 7 to 9, 17 and appendix D.2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dichotomous_weights(advantage: Tensor, beta: float | Tensor, shift: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Weights of the positive and of the negative policy, σ(βG + k) and 1 − σ(βG + k) (paper, eq. 8 and D.2).

    Both lie in [0, 1] and sum to one, whatever the scale of the advantage: this is what keeps training bounded where
    an exponential weight explodes.

    :param advantage: G, any shape, in units of return.
    :param beta: β > 0, inverse temperature.
    :param shift: k, moves the share of the data that the positive policy learns from (k < 0: only the best).
    :return: (positive weight, negative weight), each of the advantage's shape, without gradient.
    """
    logit = (beta * advantage + shift).detach()
    # 1 − σ(z) = σ(−z), without the cancellation that the subtraction suffers for large z.
    return torch.sigmoid(logit), torch.sigmoid(-logit)


def group_advantage(rewards: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Group-normalised reward (r − mean) / std within each group of rollouts (paper, eq. 17).

    :param rewards: shape [..., group], at least two rollouts of the same scene per group.
    :param epsilon: added to the standard deviation, so that a group of equal rewards gives zeros.
    :return: same shape; mean zero and unit standard deviation along the last axis.
    """
    if rewards.shape[-1] < 2:
        raise ValueError(f"a group needs at least two rollouts, found {rewards.shape[-1]}")
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return centred / (rewards.std(dim=-1, keepdim=True, correction=0) + epsilon)
