"""IFQL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.ifql.losses import UPDATE
from dipole_sb3.algorithms.ifql.policies import CnnPolicy, IFQLPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.candidate_algorithm import CandidateAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule


class IFQL(CandidateAlgorithm):
    """Implicit flow Q-learning (arXiv 2502.02538, appendix B) on recorded data, with SB3's API.

    The values are IQL's: V is the τ-expectile of the critics over the recorded actions, and the critics bootstrap from
    V. The policy is a flow that clones all recorded actions alike; what is good is decided when acting, where the
    critics choose the best of N samples. DIPOLE with a very large shift, ``critic_target="value"`` and ω = 0 is the
    same algorithm.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of IFQLPolicy.
    :param expectile: τ in (0, 1) of the value's regression.
    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property that can be
        set at any time.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("flow_steps",)
    policy: IFQLPolicy

    def __init__(
        self,
        policy: str | type[IFQLPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        expectile: float = 0.9,
        flow_steps: int = 10,
        num_candidates: int = 32,
        **kwargs: Any,
    ) -> None:
        self.expectile = expectile
        self.flow_steps = flow_steps
        super().__init__(policy, env, *args, num_candidates=num_candidates, **kwargs)
