"""The forms in which trained policies act; an exported policy says which one it has.

A form does not depend on the algorithm: several algorithms may share one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dipole_sb3.networks.diffusion import Schedule
from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import DeterministicActor, OneStepActor, QEnsemble
from dipole_sb3.networks.residual import NoisePredictor
from dipole_sb3.networks.velocities import ConditionalVelocity, VelocityField, VelocityPair


@dataclass(frozen=True)
class GuidedPair:
    """N actions of v = (1 + ω)·v⁺ − ω·v⁻ from N noise samples, clipped to [−1, 1]; the best by min(Q₁, Q₂) is taken.

    :param actor: the velocity pair.
    :param critic: two critics.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    """

    actor: FeatureNetwork[VelocityPair]
    critic: FeatureNetwork[QEnsemble]
    flow_steps: int
    more_than_omega: ClassVar[float] = 0.0
    """What the policy's knob is more than ω."""


@dataclass(frozen=True)
class GuidedConditional:
    """One action of v(c = 0) + w·(v(c = 1) − v(c = 0)) from one noise sample, clipped to [−1, 1].

    :param actor: the velocity field of two classes.
    :param critic: two critics, whose min(Q₁, Q₂) says what the action is worth.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    """

    actor: FeatureNetwork[ConditionalVelocity]
    critic: FeatureNetwork[QEnsemble]
    flow_steps: int
    more_than_omega: ClassVar[float] = 1.0
    """w = ω + 1, since v₀ + w·(v₁ − v₀) = (1 + ω)·v₁ − ω·v₀ then."""


@dataclass(frozen=True)
class Flow:
    """N actions of one flow from N noise samples, clipped to [−1, 1]; the best by min(Q₁, Q₂) is taken.

    :param actor: the velocity field.
    :param critic: two critics.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    """

    actor: FeatureNetwork[VelocityField]
    critic: FeatureNetwork[QEnsemble]
    flow_steps: int


@dataclass(frozen=True)
class Diffusion:
    """N actions of a diffusion model from N noise samples; the best by min(Q₁, Q₂) is taken.

    :param actor: the predictor of the noise.
    :param critic: two critics.
    :param schedule: of the T ≥ 1 denoising steps.
    """

    actor: FeatureNetwork[NoisePredictor]
    critic: FeatureNetwork[QEnsemble]
    schedule: Schedule


@dataclass(frozen=True)
class OneStep:
    """One action from one noise sample in one pass, clipped to [−1, 1]; no knobs.

    :param actor: the network of the action.
    :param critic: two critics, whose min(Q₁, Q₂) says what the action is worth.
    """

    actor: FeatureNetwork[OneStepActor]
    critic: FeatureNetwork[QEnsemble]


@dataclass(frozen=True)
class Deterministic:
    """One action for an observation, clipped to [−1, 1]; no noise, no knobs.

    :param actor: the network of the action.
    :param critic: two critics, whose min(Q₁, Q₂) says what the action is worth.
    """

    actor: FeatureNetwork[DeterministicActor]
    critic: FeatureNetwork[QEnsemble]


ActingForm = GuidedPair | GuidedConditional | Flow | Diffusion | OneStep | Deterministic
