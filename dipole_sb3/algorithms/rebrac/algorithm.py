"""ReBRAC as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.rebrac.losses import UPDATE
from dipole_sb3.algorithms.rebrac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, ReBRACPolicy
from dipole_sb3.learning.exploration import NoisyExploration
from dipole_sb3.learning.update_rule import UpdateRule


class ReBRAC(NoisyExploration):
    """ReBRAC (arXiv 2305.09836) on recorded data, with SB3's API.

    TD3 with two penalties: the actor is held to the recorded action, and the critics' target is lowered where the
    action that it bootstraps from is not the one that was recorded next.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of ReBRACPolicy.
    :param actor_bc_coef: α₁ ≥ 0, the actor's penalty on ‖π(s) − a‖².
    :param critic_bc_coef: α₂ ≥ 0, the critics' penalty on ‖ã − a'‖².
    :param policy_delay: ≥ 1, updates of the critics for one of the actor and the targets, as in TD3.
    :param target_policy_noise: standard deviation ≥ 0 of the noise on the target policy's actions, as in TD3.
    :param target_noise_clip: largest absolute value of that noise, ≥ 0, as in TD3.
    :param explore_std: online: standard deviation ≥ 0 of the normal noise that is added to actions in [−1, 1]; it is
        clipped like the targets' noise.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("policy_delay",)
    policy: ReBRACPolicy

    def __init__(
        self,
        policy: str | type[ReBRACPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        actor_bc_coef: float = 0.1,
        critic_bc_coef: float = 0.01,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        explore_std: float = 0.2,
        **kwargs: Any,
    ) -> None:
        self.actor_bc_coef = actor_bc_coef
        self.critic_bc_coef = critic_bc_coef
        self.policy_delay = policy_delay
        self.target_policy_noise = target_policy_noise
        self.target_noise_clip = target_noise_clip
        self.explore_std = explore_std
        super().__init__(policy, env, *args, **kwargs)

    def arguments_that_need_order(self) -> list[str]:
        return [*super().arguments_that_need_order(), *(["critic_bc_coef"] if self.critic_bc_coef > 0 else [])]

    @property
    def largest_noise(self) -> float:
        return self.target_noise_clip
