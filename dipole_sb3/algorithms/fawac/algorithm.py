"""FAWAC as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.fawac.losses import UPDATE
from dipole_sb3.algorithms.fawac.policies import CnnPolicy, FAWACPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.advantage_weights import AdvantageWeights, exponential
from dipole_sb3.learning.candidate_algorithm import CandidateAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule
from dipole_sb3.learning.value_losses import advantages


class FAWAC(CandidateAlgorithm):
    """Flow advantage-weighted actor-critic (arXiv 2502.02538, appendix B) on recorded data, with SB3's API.

    A flow clones the recorded actions with weights min(exp(αA), 100); the critics bootstrap from a sample of it, and V
    is the mean of the critics over the recorded actions. DIPOLE's bounded weights are an answer to these.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of FAWACPolicy.
    :param alpha: α ≥ 0, inverse temperature of the weights; 0 is behaviour cloning.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property that can be
        set at any time. The published figures are those of one sample.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("flow_steps",)
    policy: FAWACPolicy

    def __init__(
        self,
        policy: str | type[FAWACPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        alpha: float = 1.0,
        flow_steps: int = 10,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> None:
        self.alpha = alpha
        self.flow_steps = flow_steps
        super().__init__(policy, env, *args, num_candidates=num_candidates, **kwargs)

    def advantage_weights(self) -> AdvantageWeights:
        return exponential(
            lambda batch: advantages(self.policy, batch, self.policy.critic, "mean"),
            "A = mean(Q₁, Q₂) − V",
            self.alpha,
        )
