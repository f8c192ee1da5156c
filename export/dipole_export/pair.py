"""A policy that samples its actions, as a bundle: two fields, the critic, and the whole policy as one graph with ω.

A policy of one field has two equal ones in its bundle, and ω is 0. Where the policy's own knob is another number for
the same guidance, its form says how much more than ω it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from dipole_runtime.manifest import CRITIC, GUIDED, NEGATIVE, POSITIVE, OmegaRange

from dipole_export import graphs
from dipole_export.candidates import ExportedCandidates
from dipole_export.exported_form import BATCH, SEED, critic_graph, named_weights, prefixed
from dipole_export.observed import Source
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.rounding import Rounded, rounded_fields
from dipole_sb3.networks.acting_forms import ActingForm

OMEGA_RANGE = (-1.0, 4.0)
"""Default range of ω."""


class ExportedPair(ExportedCandidates):
    """A policy with N candidates from v⁺ and v⁻ at ω, of which the critics choose one.

    :param omega: see :func:`omega_of`.
    """

    advice = "export with precision='fp32', a smaller omega_range, or accept more with max_int8_error"
    source: Source[graphs.SampledForm]

    def networks(self) -> dict[str, bytes]:
        source, observation, size = self.source, self.source.seen_size, len(self.source.low)
        action = torch.zeros(BATCH, size)
        field = {"observation": torch.zeros(BATCH, observation), "action_t": action, "time": torch.zeros(BATCH, 1)}
        policy = graphs.GuidedPolicy(source)
        positive, *negative = (
            to_onnx(graphs.VelocityField(source, member), field, ["velocity"], dict.fromkeys(field, "batch"))
            for member in range(len(policy.fields))
        )
        return {
            GUIDED: self.acting_graph(policy),
            POSITIVE: positive,
            NEGATIVE: negative[0] if negative else positive,
            CRITIC: critic_graph(source, observation),
        }

    def in_8_bits(self, networks: Mapping[str, bytes], observations: np.ndarray) -> dict[str, bytes]:
        noise = np.random.default_rng(SEED).standard_normal((len(observations), len(self.source.low)))
        policy = graphs.GuidedPolicy(self.source).eval()
        inputs = (observations, noise.astype(np.float32), np.asarray(self.omegas, np.float32))
        layers = list(map(named_weights, rounded_fields(policy, *map(torch.as_tensor, inputs))))
        guided: dict[str, Rounded] = {}
        for name, of_field in zip(policy.fields, layers, strict=True):
            guided |= prefixed(f"{name}.perceptron", of_field)
        named = {
            GUIDED: guided,
            POSITIVE: prefixed("field.perceptron", layers[0]),
            NEGATIVE: prefixed("field.perceptron", layers[-1]),
        }
        return {name: quantized(graph, named[name]) if name in named else graph for name, graph in networks.items()}


def omega_of(model: Any, form: ActingForm, bounds: tuple[float, float] | None) -> OmegaRange:
    """The range of ω of a model's bundle, whose default is the model's own ω.

    :param bounds: smallest and largest ω that the runtime accepts; None: −1 … 4. A policy of one field has none.
    :raises ValueError: the range does not contain the model's ω, or it goes below −1, or the policy has no ω.
    """
    if not isinstance(form, graphs.GuidedForm):
        if bounds is not None:
            raise ValueError(f"omega_range is {bounds}, expected none: {type(model).__name__} acts without greediness")
        return OmegaRange(0.0, 0.0, 0.0)
    (knob,) = (knob for knob in model.policy.knobs if not knob.whole)
    own = getattr(model, knob.name) - form.more_than_omega
    bounds = OMEGA_RANGE if bounds is None else bounds
    low, high = (knob.checked(bound + form.more_than_omega, "omega_range") - form.more_than_omega for bound in bounds)
    if not low <= own <= high:
        value = f"{knob.name} {getattr(model, knob.name):g}"
        value += f", an omega of {own:g}," if form.more_than_omega else ""
        raise ValueError(
            f"the model's {value} is not in omega_range {low:g} … {high:g}: set model.{knob.name}, or give a range "
            "that holds it"
        )
    return OmegaRange(own, low, high)
