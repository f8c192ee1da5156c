"""Policies as modules with the inputs and outputs of a robot's program: flat observations in, actuators' units out.

Each module becomes one ONNX graph. The mathematics is that of :mod:`dipole_sb3`, but the structure differs, because
inference runtimes and training are fast in different ways. Each network has separate matrices: a runtime packs plain
matrices once at load, but a stack again at every call. Terms that depend only on the observation and the time are
computed once per action. The flow steps are one Scan, so the packed matrices of its body are used for all steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from dipole_export.observed import Source
from dipole_sb3.networks.acting_forms import (
    ActingForm,
    Deterministic,
    Diffusion,
    Flow,
    GuidedConditional,
    GuidedPair,
    OneStep,
)
from dipole_sb3.networks.flow import uniform_schedule
from dipole_sb3.networks.stacked_mlp import StackedLayerNorm, StackedLinear, StackedMLP
from dipole_sb3.networks.velocities import ConditionalVelocity

GuidedForm = GuidedPair | GuidedConditional
"""Two fields, of which one is followed and the other fled."""
SampledForm = GuidedPair | GuidedConditional | Flow | OneStep
"""From noise to an action by Euler steps."""
CandidateForm = SampledForm | Diffusion
"""From noise to N actions, of which the critics choose."""


def flow_steps(form: SampledForm) -> int:
    """Euler steps from noise to the action."""
    return 1 if isinstance(form, OneStep) else form.flow_steps


def steps_and_betas(form: CandidateForm) -> tuple[int, tuple[float, ...]]:
    """Number of steps from noise to the action, and the variances of a diffusion's steps; of others none."""
    if isinstance(form, Diffusion):
        return len(form.schedule.betas), form.schedule.betas
    return flow_steps(form), ()


class Perceptron(nn.Module):
    """One member of a stack of perceptrons; its first layer is split by the parts of its input.

    :param stack: the stack; all members have the same activation.
    :param member: index of the member.
    :param columns: widths of the parts of the input, in order.
    """

    def __init__(self, stack: StackedMLP, member: int, columns: Sequence[int]) -> None:
        super().__init__()
        layers = cast("list[StackedLinear]", [*stack.hidden, stack.output])
        self.inputs = frozen(torch.split(layers[0].weight[member], list(columns)))
        self.weights = frozen(layer.weight[member] for layer in layers[1:])
        self.biases = frozen(layer.bias[member, 0] for layer in layers)
        norms = cast("Iterable[StackedLayerNorm]", stack.norms or ())
        self.scales, self.offsets = (
            frozen(getattr(norm, name)[member, 0] for norm in norms) for name in ("weight", "bias")
        )
        self.activation, self.norm_first = stack.activation, stack.norm_order == "before"

    def first(self, part: int, x: Tensor, share: Tensor | None = None) -> Tensor:
        """Adds one part of the input to the sum of the first layer.

        :param part: index of the part.
        :param x: values of the part, shape [batch, columns of the part].
        :param share: the sum over other parts, shape [1 or batch, width]; None: start with the layer's bias.
        :return: shape [batch, width]; after all parts, the input of :meth:`forward`.
        """
        return torch.addmm(self.biases[0] if share is None else share, x, self.inputs[part])

    def with_fixed(self, part: int, value: Tensor) -> Perceptron:
        """Itself, with the last part of its input fixed at a value: that becomes a part of the first bias.

        :param value: shape [columns of the part].
        """
        parts = list(self.inputs)
        assert part == len(parts) - 1
        self.biases[0] = frozen([self.biases[0] + value.detach() @ parts.pop()])[0]
        self.inputs = frozen(parts)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output from the first layer's sum: [batch, width] → [batch, out]."""
        return self.traced(x)[1]

    def traced(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The inputs of every layer after the first, each [batch, in of the layer], and the output."""
        inputs = []
        for depth, weight in enumerate(self.weights):
            if not self.norm_first:
                x = self.activation(x)
            if depth < len(self.scales):
                x = functional.layer_norm(x, x.shape[-1:], self.scales[depth], self.offsets[depth], eps=1e-6)
            if self.norm_first:
                x = self.activation(x)
            inputs.append(x)
            x = torch.addmm(self.biases[depth + 1], x, weight)
        return inputs, x


def frozen(tensors: Iterable[Tensor]) -> nn.ParameterList:
    """Copies of tensors, as parameters that do not learn."""
    return nn.ParameterList(nn.Parameter(tensor.detach().clone(), requires_grad=False) for tensor in tensors)


class ActionScale(nn.Module):
    """Converts between [−1, 1] and the actuators' units with SB3's formulas; results are never outside the bounds.

    :param low: smallest actions, shape [action], float32.
    :param high: largest actions, likewise.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("low", torch.as_tensor(low))
        self.register_buffer("high", torch.as_tensor(high))

    def unscale(self, scaled: Tensor) -> Tensor:
        """[−1, 1] → [low, high]; shape [..., action]."""
        actions = self.low + 0.5 * (scaled + 1.0) * (self.high - self.low)
        # Without this, rounding would put some actions just outside the space.
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def scale(self, actions: Tensor) -> Tensor:
        """[low, high] → [−1, 1]; shape [..., action]."""
        return 2.0 * ((actions - self.low) / (self.high - self.low)) - 1.0


class Field(nn.Module):
    """v⁺ or v⁻ as a function of features, x_t and t.

    ===================  =======================================================================
    form                 fields
    ===================  =======================================================================
    GuidedPair           the two networks
    GuidedConditional    the network with c = 1 and with c = 0, which become parts of its bias
    Flow                 the one network, twice
    OneStep              μ(features, x₀) − x₀, twice: one step from x₀ leads to μ
    ===================  =======================================================================

    :param member: 0 for the positive field, 1 for the negative one.
    """

    def __init__(self, source: Source[SampledForm], member: int) -> None:
        super().__init__()
        form, action = source.form, len(source.low)
        width = form.actor.features_extractor.features_dim
        self.embedded: Callable[[Tensor], Tensor] | None = None
        self.is_one_step = isinstance(form, OneStep)
        if isinstance(form, OneStep):
            self.perceptron = Perceptron(form.actor.head.mlp, 0, (width, action))
            return
        head = form.actor.head
        self.embedded = head.embedded
        columns = (width, action, head.time_features)
        if isinstance(head, ConditionalVelocity):
            whole = Perceptron(head.mlp, 0, (*columns, head.more_inputs))
            self.perceptron = whole.with_fixed(3, head.classes.weight[0, 1 - member])
        else:
            self.perceptron = Perceptron(head.mlp, member % head.members, columns)

    def share(self, features: Tensor, time: Tensor) -> Tensor:
        """The first layer's sum without x_t: features [1 or batch, features], t [batch, 1] → [batch, width]."""
        of_features = self.perceptron.first(0, features)
        if self.embedded is None:
            return of_features + torch.zeros_like(time)  # a row for each time, without fixing the number of either
        return self.perceptron.first(2, self.embedded(time), of_features)

    def forward(self, share: Tensor, x: Tensor) -> Tensor:
        """Output of :meth:`share` [1 or batch, width], x_t [batch, action] → velocities [batch, action]."""
        return self.velocity(self.perceptron(self.first(share, x)), x)

    def velocity(self, output: Tensor, x: Tensor) -> Tensor:
        """From the perceptron's output, [batch, action]."""
        return output - x if self.is_one_step else output

    def first(self, share: Tensor, x: Tensor) -> Tensor:
        """The complete sum of the first layer: [batch, width]."""
        return self.perceptron.first(1, x, share)


class VelocityField(nn.Module):
    """v⁺ (member 0) or v⁻ (member 1) as a function of a raw observation, x_t and t."""

    def __init__(self, source: Source[SampledForm], member: int) -> None:
        super().__init__()
        self.observation = source.observation(source.form.actor)
        self.field = Field(source, member)

    def forward(self, observation: Tensor, action_t: Tensor, time: Tensor) -> Tensor:
        """Observations [batch, observation], x_t [batch, action], t [batch, 1] → velocities [batch, action]."""
        velocity: Tensor = self.field(self.field.share(self.observation(observation), time), action_t)
        return velocity


class Critic(nn.Module):
    """min(Q₁, Q₂) of actions in the actuators' units; for another number of critics, the minimum over all."""

    def __init__(self, source: Source[ActingForm]) -> None:
        super().__init__()
        network = source.form.critic
        self.observation = source.observation(network)
        columns = (network.features_extractor.features_dim, len(source.low))
        stack = network.head.mlp
        # Other names would change the bytes of bundles, because the names of weights are part of them.
        self.names = ["one", "other", *(f"critic_{index}" for index in range(2, stack.members))][: stack.members]
        for member, name in enumerate(self.names):
            self.add_module(name, Perceptron(stack, member, columns))
        self.scale = ActionScale(source.low, source.high)

    def minimum(self, observation: Tensor, scaled: Tensor) -> Tensor:
        """Observations [1 or batch, observation], actions in [−1, 1] of shape [batch, action] → [batch, 1]."""
        features = self.observation(observation)
        heads = [cast("Perceptron", self.get_submodule(name)) for name in self.names]
        values: list[Tensor] = [head(head.first(1, scaled, head.first(0, features))) for head in heads]
        return reduce(torch.minimum, values)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Observations [batch, observation], actions [batch, action] → returns [batch]."""
        return self.minimum(observation, self.scale.scale(action)).squeeze(-1)


class CandidatePolicy(nn.Module):
    """The complete policy for one observation and several ω: N candidates for each, and the critic's choice."""

    observation: nn.Module
    critic: Critic

    def forward(self, observation: Tensor, noise: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
        """Observation [1, observation], noise [N, noise], ω [W] → actions [W, action], min(Q₁, Q₂) [W, N]."""
        omegas, (candidates, width), size = omega.shape[0], noise.shape, self.critic.scale.low.shape[0]
        start = noise.expand(omegas, candidates, width).reshape(-1, width)
        rows = omega.reshape(-1, 1).expand(omegas, candidates).reshape(-1, 1)
        scaled = self.sampled(self.observation(observation), start, rows).clamp(-1.0, 1.0)
        q = self.critic.minimum(observation, scaled).reshape(omegas, candidates)
        best = q.argmax(dim=1).reshape(omegas, 1, 1).expand(omegas, 1, size)
        chosen = scaled.reshape(omegas, candidates, size).gather(1, best).reshape(omegas, size)
        return self.critic.scale.unscale(chosen), q

    @abstractmethod
    def sampled(self, features: Tensor, noise: Tensor, omega: Tensor) -> Tensor:
        """Features [1, features], noise [rows, noise], ω [rows, 1] → actions [rows, action], not yet clipped."""


class GuidedPolicy(CandidatePolicy):
    """Guided candidates; a policy of one field has no ω: its graph has the input, and does not read it."""

    def __init__(self, source: Source[SampledForm]) -> None:
        super().__init__()
        self.observation = source.observation(source.form.actor)
        self.fields = ["positive", "negative"] if isinstance(source.form, GuidedForm) else ["positive"]
        for member, name in enumerate(self.fields):
            self.add_module(name, Field(source, member))
        self.critic = Critic(source)
        self.times = nn.Buffer(torch.tensor(uniform_schedule(flow_steps(source.form))[:-1]).reshape(-1, 1))

    def sampled(self, features: Tensor, noise: Tensor, omega: Tensor) -> Tensor:
        """Euler's method on (1 + ω)·v⁺ − ω·v⁻: features [1, features], x₀ [rows, action], ω [rows, 1] → x₁."""
        steps = len(self.times)
        towards, away = (1.0 + omega) / steps, omega / steps
        fields = self.each_field()

        def guided(x: Tensor, shares: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            change = towards * fields[0](shares[0], x) - away * fields[1](shares[1], x)
            return x + change, change  # Scan requires an output at every step; this one is not used

        def alone(x: Tensor, shares: tuple[Tensor]) -> tuple[Tensor, Tensor]:
            change = fields[0](shares[0], x) / steps
            return x + change, change

        shares = tuple(field.share(features, self.times) for field in fields)
        end, _ = scan(guided if len(fields) > 1 else alone, noise, shares)
        return end  # type: ignore[no-any-return]

    def each_field(self) -> list[Field]:
        """v⁺ and v⁻, or the one field."""
        return [cast("Field", self.get_submodule(name)) for name in self.fields]


class DeterministicPolicy(nn.Module):
    """The complete policy: from observations to actions and their Q-values."""

    def __init__(self, source: Source[Deterministic]) -> None:
        super().__init__()
        actor = source.form.actor
        self.observation = source.observation(actor)
        self.actor = Perceptron(actor.head.mlp, 0, (actor.features_extractor.features_dim,))
        self.squashed = actor.head.squashed
        self.critic = Critic(source)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [batch, observation] → actions [batch, action], min(Q₁, Q₂) [batch]."""
        scaled = self.actor(self.first(observation))
        scaled = torch.tanh(scaled) if self.squashed else scaled.clamp(-1.0, 1.0)
        return self.critic.scale.unscale(scaled), self.critic.minimum(observation, scaled).squeeze(-1)

    def first(self, observation: Tensor) -> Tensor:
        """The first layer's sum: [batch, width]."""
        return self.actor.first(0, self.observation(observation))
