"""Encoder, decoder and the statistics of plans: from pictures and noise to plans."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dipole_sb3.driving.model import adapters as lora
from dipole_sb3.driving.model import diffusion
from dipole_sb3.driving.model.configuration import ACTION, Configuration
from dipole_sb3.driving.model.decoder import Decoder
from dipole_sb3.driving.model.encoder import Encoder
from dipole_sb3.networks.flow import guide

_LEAST_SPREAD = 0.1
"""Metres, and units of cosine and sine: what hardly varies in the data is not blown up to unit variance."""
_HISTORY_SCALE = (10.0, 1.0, 0.1)
"""Metres ahead, metres to the left, radians: about the spread of where a car was in the last 1.5 s."""


class Planner(nn.Module):
    """All networks of the driving agent.

    :param configuration: sizes.
    :param encoder: with weights; None: with random ones.
    """

    action_mean: Tensor
    action_std: Tensor
    history_scale: Tensor

    def __init__(self, configuration: Configuration, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.configuration = configuration
        self.encoder = Encoder(configuration) if encoder is None else encoder
        self.decoder = Decoder(configuration)
        lora.inject(self.decoder, configuration.rank, configuration.alpha)
        self.register_buffer("action_mean", torch.zeros(ACTION))
        self.register_buffer("action_std", torch.ones(ACTION))
        self.register_buffer("history_scale", torch.tensor(_HISTORY_SCALE), persistent=False)

    def take_statistics(self, plans: Tensor) -> None:
        """Means and spreads of recorded plans [n, 8, 3], by which plans are normalised."""
        values = waypoints(plans)
        self.action_mean.copy_(values.mean(0))
        self.action_std.copy_(values.std(0, correction=0).clamp(min=_LEAST_SPREAD))

    def normalised(self, plans: Tensor) -> Tensor:
        """[..., 8, 3] in metres and radians → [..., 8, 4]."""
        return (waypoints(plans) - self.action_mean) / self.action_std

    def poses(self, actions: Tensor) -> Tensor:
        """[..., 8, 4], normalised → [..., 8, 3] in metres and radians."""
        x, y, cosine, sine = (actions * self.action_std + self.action_mean).unbind(-1)
        return torch.stack([x, y, torch.atan2(sine, cosine)], dim=-1)

    def normalised_history(self, history: Tensor) -> Tensor:
        return history / self.history_scale

    def sample(
        self, tokens: Tensor, history: Tensor, noise: Tensor, omega: Tensor | float, adapters: Sequence[str], steps: int
    ) -> Tensor:
        """Plans from noise, a function of its arguments alone.

        :param tokens: [S, tokens, width], from the encoder.
        :param history: float [S, 4, 3], poses in metres and radians.
        :param noise: [S, P, 8, 4], standard normal.
        :param omega: ω ≥ −1, the guidance between two adapters; one adapter or none does not use it.
        :param adapters: two names: guided; one: that adapter; none: the decoder alone.
        :return: normalised plans [S, P, 8, 4]; see :meth:`poses`.
        """
        memory, past = self.decoder.remember(tokens, adapters), self.normalised_history(history)

        def noise_in(x: Tensor, time: Tensor) -> Tensor:
            answers = self.decoder(x[None], time[None, None], past, memory, adapters)
            return answers[0] if len(adapters) < 2 else guide(answers[0], answers[1], omega)

        return diffusion.sample(noise_in, noise, steps)


def waypoints(plans: Tensor) -> Tensor:
    """(x, y, yaw) → (x, y, cos yaw, sin yaw)."""
    return torch.cat([plans[..., :2], plans[..., 2:].cos(), plans[..., 2:].sin()], dim=-1)
