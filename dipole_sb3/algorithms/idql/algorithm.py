"""IDQL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.idql.losses import UPDATE
from dipole_sb3.algorithms.idql.policies import CnnPolicy, IDQLPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.candidate_algorithm import CandidateAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule


class IDQL(CandidateAlgorithm):
    """Implicit diffusion Q-learning (arXiv 2304.10573) on recorded data, with SB3's API.

    The values are IQL's. The policy is a diffusion model that clones all recorded actions alike; the target critics
    choose the best of N samples of its moving average. In the published runs the actor's learning rate falls to 0 over
    three million updates, and the values learn in half of them: ``policy_kwargs=dict(actor_decay_steps=3_000_000,
    value_steps=1_500_000)``.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, ``"CnnPolicy"`` or a sub-class of IDQLPolicy, whose
        ``policy_kwargs`` set dropout, weight decay and how long each part learns.
    :param expectile: τ in (0, 1) of the value's regression.
    :param actor_tau: in (0, 1], rate of the actor's moving average.
    :param diffusion_steps: T ≥ 1, denoising steps.
    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property that can be
        set at any time.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    update_rule: ClassVar[UpdateRule] = UPDATE
    arguments_of_policy: ClassVar[tuple[str, ...]] = ("diffusion_steps",)
    policy: IDQLPolicy

    def __init__(
        self,
        policy: str | type[IDQLPolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        expectile: float = 0.9,
        actor_tau: float = 0.001,
        diffusion_steps: int = 5,
        num_candidates: int = 32,
        **kwargs: Any,
    ) -> None:
        self.expectile = expectile
        self.actor_tau = actor_tau
        self.diffusion_steps = diffusion_steps
        super().__init__(policy, env, *args, num_candidates=num_candidates, **kwargs)
