"""FQL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.fql.losses import UPDATE
from dipole_sb3.algorithms.fql.policies import CnnPolicy, FQLPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule
from dipole_sb3.learning.value_losses import Aggregation


class FQL(OfflineAlgorithm):
    """Flow Q-learning (arXiv 2502.02538) on recorded data, with SB3's API.

    A flow clones the data. A policy μ(s, z) of one step is distilled from it, while it maximises the critics; it alone
    acts, so an action costs one pass. The critics bootstrap from its actions.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of FQLPolicy.
    :param alpha: α ≥ 0, how strongly the policy is held to the data; the hyperparameter to tune, of 3 to 1000, or of
        0.03 to 10 with ``normalize_q_loss``.
    :param q_agg: how the target critics are combined: ``"mean"`` or ``"min"``.
    :param normalize_q_loss: divide the critics' term by mean |Q|, which makes α independent of the scale of rewards.
    :param flow_steps: K ≥ 1, Euler steps of the flow, in training only.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("flow_steps",)
    policy: FQLPolicy

    def __init__(
        self,
        policy: str | type[FQLPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        alpha: float = 10.0,
        q_agg: Aggregation = "mean",
        normalize_q_loss: bool = False,
        flow_steps: int = 10,
        **kwargs: Any,
    ) -> None:
        self.alpha = alpha
        self.q_agg = q_agg
        self.normalize_q_loss = normalize_q_loss
        self.flow_steps = flow_steps
        super().__init__(policy, env, *args, **kwargs)
