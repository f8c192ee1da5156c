"""DIPOLE as a Stable-Baselines3 algorithm."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.dipole.dichotomy import dichotomous_weights
from dipole_sb3.algorithms.dipole.losses import SATURATION, UPDATE, CriticTarget
from dipole_sb3.algorithms.dipole.policies import OMEGA, CnnPolicy, DIPOLEPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.advantage_weights import AdvantageWeights
from dipole_sb3.learning.knobs import NUM_CANDIDATES, knob_property
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule
from dipole_sb3.learning.value_losses import Aggregation, advantages


class DIPOLE(OfflineAlgorithm):
    """Dichotomous policy optimisation (arXiv 2601.00898) on recorded data, with SB3's API.

    Two flow policies are trained with the bounded weights σ(βA + k) and 1 − σ(βA + k): one towards high return, one
    towards low. Acting combines their velocities, v = (1 + ω)·v⁺ − ω·v⁻, where ω is the greediness: it can be changed
    without retraining.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of DIPOLEPolicy.
    :param beta: β > 0, inverse temperature of the weights.
    :param shift: k, any finite number, shifts the weights: below 0, only the best data count as good.
    :param omega: ω ≥ −1, greediness of acting; a property that can be set at any time.
    :param expectile: τ in (0, 1) of the value's regression.
    :param critic_target: ``"policy"``: bootstrap from the critics at the positive policy's action; ``"value"``: from V.
    :param q_agg: how the target critics are combined for the value's regression: ``"min"`` or ``"mean"``.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property like
        ``omega``.
    :param explore_omega: online: ω ≥ −1 for the actions that gather data.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("flow_steps",)
    own_stackable: ClassVar[tuple[str, ...]] = ("explore_omega",)
    policy: DIPOLEPolicy

    omega = knob_property(
        OMEGA,
        "Greediness ω ≥ −1 of ``predict``: −1 the negative policy, 0 the positive, above 0 greedier than the data",
    )
    num_candidates = knob_property(
        NUM_CANDIDATES, "Candidates N ≥ 1 of ``predict``; 1 is the guided policy without rejection sampling"
    )

    def __init__(
        self,
        policy: str | type[DIPOLEPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        beta: float = 1.0,
        shift: float = 0.0,
        omega: float = 0.5,
        expectile: float = 0.9,
        critic_target: CriticTarget = "policy",
        q_agg: Aggregation = "min",
        flow_steps: int = 10,
        num_candidates: int = 4,
        explore_omega: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.beta = beta
        self.shift = shift
        self.expectile = expectile
        self.critic_target = critic_target
        self.q_agg = q_agg
        self.flow_steps = flow_steps
        self.explore_omega = explore_omega
        self._omega = omega
        self._num_candidates = num_candidates
        super().__init__(policy, env, *args, **kwargs)

    def _setup_policy(self) -> None:
        self.explore_omega = OMEGA.checked(self.explore_omega, "explore_omega")
        super()._setup_policy()

    def advantage_weights(self) -> AdvantageWeights:
        edge = math.log(1 / SATURATION - 1)

        def note(below: float, above: float) -> str:
            return (
                f"{100 * below:.1f} % of the data train π⁻ alone (weight of π⁺ < {SATURATION:g}), {100 * above:.1f} % "
                f"π⁺ alone (> {1 - SATURATION:g})"
            )

        return AdvantageWeights(
            lambda batch: advantages(self.policy, batch, self.policy.critic_target),
            "G = min(Q₁, Q₂) − V",
            {
                "weight of π⁺: σ(βG + k)": lambda g: dichotomous_weights(g, self.beta, self.shift)[0],
                "weight of π⁻: 1 − σ(βG + k)": lambda g: dichotomous_weights(g, self.beta, self.shift)[1],
            },
            largest=1.0,
            saturation=((-edge - self.shift) / self.beta, (edge - self.shift) / self.beta),
            note=note,
            title=f"How the advantage splits the data between π⁺ and π⁻ (β = {self.beta:g}, k = {self.shift:g})",
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        omega: float | np.ndarray | None = None,
        num_candidates: int | None = None,
        **setting: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict`` with two more arguments.

        :param deterministic: True: a function of the observation alone (fixed noise); False: samples.
        :param omega: ω ≥ −1, or an array with one ω per observation; None: the model's own.
        :param num_candidates: N ≥ 1; None: the model's own.
        :return: (actions in the environment's units, state).
        """
        return self.policy.predict(
            observation, state, episode_start, deterministic, omega=omega, num_candidates=num_candidates, **setting
        )

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """SB3's exploration, with ``explore_omega`` instead of the model's ``omega``."""
        with self.policy.turned(omega=self.explore_omega):
            return super()._sample_action(learning_starts, action_noise, n_envs)
