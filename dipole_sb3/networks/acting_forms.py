"""The forms in which trained policies act: what leaves training for a robot says which one it is.

A form knows no algorithm: several may share one.
"""

from __future__ import annotations

from dataclasses import dataclass

from dipole_sb3.networks.feature_network import FeatureNetwork
from dipole_sb3.networks.heads import DeterministicActor, QEnsemble, VelocityPair


@dataclass(frozen=True)
class GuidedPair:
    """N actions of v = (1 + ω)·v⁺ − ω·v⁻ from N noises, clipped to [−1, 1]; the best by min(Q₁, Q₂).

    :param actor: the velocity pair.
    :param critic: two critics.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    """

    actor: FeatureNetwork[VelocityPair]
    critic: FeatureNetwork[QEnsemble]
    flow_steps: int


@dataclass(frozen=True)
class Deterministic:
    """One action for an observation, clipped to [−1, 1]: no noise, nothing to turn.

    :param actor: gives the action.
    :param critic: two critics, whose min(Q₁, Q₂) says what the action is worth.
    """

    actor: FeatureNetwork[DeterministicActor]
    critic: FeatureNetwork[QEnsemble]


ActingForm = GuidedPair | Deterministic
