"""IQL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.iql.losses import UPDATE
from dipole_sb3.algorithms.iql.policies import CnnPolicy, IQLPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.advantage_weights import AdvantageWeights, exponential
from dipole_sb3.learning.exploration import NoisyExploration
from dipole_sb3.learning.update_rule import UpdateRule
from dipole_sb3.learning.value_losses import advantages


class IQL(NoisyExploration):
    """Implicit Q-learning (arXiv 2110.06169) on recorded data, with SB3's API.

    V is the τ-expectile of the critics over the recorded actions, the critics bootstrap from V, and the policy is a
    regression on the recorded actions with weights min(exp(αA), 100). It never evaluates the critics at an action that
    is not in the data. As in the reference implementation by FQL's authors, the policy is the mean of a Gaussian of
    fixed unit variance, and the advantage is that of the online critics.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of IQLPolicy.
    :param alpha: α ≥ 0, inverse temperature of the weights; 0 is behaviour cloning.
    :param expectile: τ in (0, 1) of the value's regression.
    :param explore_std: online: standard deviation ≥ 0 of the normal noise that is added to actions in [−1, 1]; 1 as in
        the code behind the published figures, which fall online.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    policy: IQLPolicy

    def __init__(
        self,
        policy: str | type[IQLPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        alpha: float = 3.0,
        expectile: float = 0.9,
        explore_std: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.alpha = alpha
        self.expectile = expectile
        self.explore_std = explore_std
        super().__init__(policy, env, *args, **kwargs)

    def advantage_weights(self) -> AdvantageWeights:
        return exponential(
            lambda batch: advantages(self.policy, batch, self.policy.critic), "A = min(Q₁, Q₂) − V", self.alpha
        )
