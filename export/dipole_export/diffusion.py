"""A diffusion policy as a bundle: the predictor of the noise, the critic, and the whole policy as one graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from dipole_runtime.manifest import CRITIC, GUIDED, PREDICTOR

from dipole_export.candidates import ExportedCandidates
from dipole_export.denoising import DiffusionPolicy, PredictedNoise
from dipole_export.exported_form import BATCH, SEED, critic_graph, named_weights, prefixed
from dipole_export.observed import Source
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.rounding import rounded_denoiser
from dipole_sb3.networks.acting_forms import Diffusion


class ExportedDiffusion(ExportedCandidates):
    """A policy with N candidates by denoising steps, of which the critics choose one."""

    advice = "export with precision='fp32', or accept more with max_int8_error"
    source: Source[Diffusion]

    def networks(self) -> dict[str, bytes]:
        source, observation, size = self.source, self.source.seen_size, len(self.source.low)
        predicted = {
            "observation": torch.zeros(BATCH, observation),
            "action_t": torch.zeros(BATCH, size),
            "step": torch.ones(BATCH, 1),
        }
        return {
            GUIDED: self.acting_graph(DiffusionPolicy(source)),
            PREDICTOR: to_onnx(PredictedNoise(source), predicted, ["noise"], dict.fromkeys(predicted, "batch")),
            CRITIC: critic_graph(source, observation),
        }

    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        noise = np.random.default_rng(SEED).standard_normal((len(observations), self.noise_size))
        policy = DiffusionPolicy(self.source).eval()
        inputs = (torch.as_tensor(observations), torch.as_tensor(noise.astype(np.float32)))
        layers = prefixed("denoiser", named_weights(rounded_denoiser(policy, *inputs)))
        rounded = {name: quantized(networks[name], layers) for name in (GUIDED, PREDICTOR)}
        return {**networks, **rounded}
