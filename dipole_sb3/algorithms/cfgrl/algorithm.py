"""CFGRL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.cfgrl.losses import UPDATE, optimal
from dipole_sb3.algorithms.cfgrl.policies import GUIDANCE, CFGRLPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.advantage_weights import AdvantageWeights
from dipole_sb3.learning.knobs import knob_property
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule
from dipole_sb3.learning.value_losses import advantages


class CFGRL(OfflineAlgorithm):
    """CFGRL (arXiv 2505.23458) on recorded data, with SB3's API.

    One flow learns all recorded actions, and, under a condition, those that were better than expected, A > 0. Acting
    follows v₀ + w·(v₁ − v₀), as classifier-free guidance does: w = 1 is the condition alone, more is greedier. The
    values are IQL's. Guidance is DIPOLE's with ω = w − 1, where v⁻ is a clone of all data.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of CFGRLPolicy.
    :param guidance: w ≥ 0, guidance weight of acting; a property that can be set at any time.
    :param expectile: τ in (0, 1) of the value's regression.
    :param unconditional_weight: ≥ 0, of the unconditional field's loss in the sum.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param explore_guidance: online: w ≥ 0 for the actions that gather data.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("flow_steps",)
    own_stackable: ClassVar[tuple[str, ...]] = ("explore_guidance",)
    policy: CFGRLPolicy

    guidance = knob_property(
        GUIDANCE, "Guidance weight w ≥ 0 of ``predict``: 0 clones all data, 1 what was better than expected"
    )

    def __init__(
        self,
        policy: str | type[CFGRLPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        guidance: float = 1.5,
        expectile: float = 0.9,
        unconditional_weight: float = 0.1,
        flow_steps: int = 16,
        explore_guidance: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.expectile = expectile
        self.unconditional_weight = unconditional_weight
        self.flow_steps = flow_steps
        self.explore_guidance = explore_guidance
        self._guidance = guidance
        super().__init__(policy, env, *args, **kwargs)

    def _setup_policy(self) -> None:
        self.explore_guidance = GUIDANCE.checked(self.explore_guidance, "explore_guidance")
        super()._setup_policy()

    def advantage_weights(self) -> AdvantageWeights:
        return AdvantageWeights(
            lambda batch: advantages(self.policy, batch, self.policy.critic_target),
            "A = min(Q̄₁, Q̄₂) − V",
            {"weight with the condition: 1[A > 0]": optimal},
            largest=1.0,
            saturation=(0.0, 0.0),
            note=lambda below, above: (
                f"{100 * above:.1f} % of the data are better than expected, {100 * below:.1f} % are not"
            ),
            title="What the condition selects",
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        guidance: float | np.ndarray | None = None,
        **setting: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict`` with one more argument.

        :param deterministic: True: a function of the observation alone (fixed noise); False: samples.
        :param guidance: w ≥ 0, or an array with one w per observation; None: the model's own.
        :return: (actions in the environment's units, state).
        """
        return self.policy.predict(observation, state, episode_start, deterministic, guidance=guidance, **setting)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """SB3's exploration, with ``explore_guidance`` instead of the model's ``guidance``."""
        with self.policy.turned(guidance=self.explore_guidance):
            return super()._sample_action(learning_starts, action_noise, n_envs)
