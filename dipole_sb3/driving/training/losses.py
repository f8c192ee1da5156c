"""Losses of fine-tuning, each a module whose one ``forward`` gives it: one wrapper averages gradients over processes.

Shapes: S scenes of a batch, g plans of each. ``tokens`` [S, tokens, width] come from the frozen encoder, ``history``
[S, 4, 3] is in metres and radians, plans and noises [S, g, 8, 4] are normalised, ``time`` and weights are [S, g].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dipole_sb3.driving.model.adapters import ADAPTERS
from dipole_sb3.driving.model.diffusion import noised
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.training.chains import log_density, mean_of_step

Outcome = tuple[Tensor, dict[str, Tensor]]
"""(loss, values for the log)."""


class WeightedRegression(nn.Module):
    """Σ over adapters of E[w · |ε − ε̂|²]: same noise and time for all adapters, each with weights of its own.

    With both adapters and the weights σ(βA + k), 1 − σ(βA + k) this is the paper's equation 9 on the decoder; with one
    and the weight exp(βA) it is advantage-weighted regression.
    """

    def __init__(self, planner: Planner, adapters: Sequence[str]) -> None:
        super().__init__()
        self.planner, self.adapters = planner, tuple(adapters)

    def forward(
        self, tokens: Tensor, history: Tensor, plans: Tensor, noise: Tensor, time: Tensor, weights: Tensor
    ) -> Outcome:
        """:param weights: [A, S, g], w ≥ 0."""
        decoder = self.planner.decoder
        memory = decoder.remember(tokens, self.adapters)
        x, past = noised(plans, noise, time), self.planner.normalised_history(history)
        answers = decoder(x[None], time, past, memory, self.adapters).float()
        losses = (weights * (answers - noise).square().mean((-1, -2))).mean((-1, -2))
        names = ADAPTERS if len(self.adapters) == 2 else ("policy",)
        values = {f"train/{name}_loss": each for name, each in zip(names, losses.detach(), strict=True)}
        means = {f"train/{name}_weight": each for name, each in zip(names, weights.mean((-1, -2)), strict=True)}
        return losses.sum(), {**values, **means}


class ClippedRatio(nn.Module):
    """PPO's loss on the steps of denoising, each a Gaussian: E[−min(r·A, clip(r, 1 ± c)·A)].

    Source: "Diffusion Policy Policy Optimization" (arXiv 2409.00588).
    """

    def __init__(self, planner: Planner, adapter: str, schedule: Sequence[float], clip: float = 0.2) -> None:
        super().__init__()
        self.planner, self.adapters, self.schedule, self.clip = planner, (adapter,), list(schedule), clip

    def forward(self, tokens: Tensor, history: Tensor, chains: Tensor, before: Tensor, advantage: Tensor) -> Outcome:
        """
        :param chains: x before the first and after each of K steps, [S, g, K + 1, 8, 4].
        :param before: log-densities of the steps when the plans were made, [S, g, K].
        :param advantage: of the plans, [S, g].
        """
        decoder, steps = self.planner.decoder, len(self.schedule)
        memory = decoder.remember(tokens, self.adapters)
        past = self.planner.normalised_history(history)
        # All steps of all chains at once: a plan in the middle of its denoising is a plan like any other.
        x, after = chains[:, :, :-1].flatten(1, 2), chains[:, :, 1:]
        time = torch.tensor(self.schedule, device=x.device).repeat(chains.shape[1])[None]
        noise = decoder(x[None], time, past, memory, self.adapters)[0].float().unflatten(1, (-1, steps))
        densities = torch.stack(
            [
                log_density(
                    after[:, :, step], *mean_of_step(self.schedule, step, chains[:, :, step], noise[:, :, step])
                )
                for step in range(steps)
            ],
            dim=-1,
        )
        ratio = (densities - before).exp()
        gain = torch.minimum(
            ratio * advantage[..., None], ratio.clamp(1 - self.clip, 1 + self.clip) * advantage[..., None]
        )
        clipped = ((ratio - 1).abs() > self.clip).float().mean()
        return -gain.mean(), {
            "train/policy_loss": -gain.detach().mean(),
            "train/clip_fraction": clipped.detach(),
            "train/ratio": ratio.detach().mean(),
        }
