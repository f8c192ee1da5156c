"""IDQL as a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.algorithms.idql.losses import UPDATE
from dipole_sb3.algorithms.idql.policies import CnnPolicy, IDQLPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.learning.knobs import NUM_CANDIDATES, knob_property
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.update_rule import UpdateRule


class IDQL(OfflineAlgorithm):
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
    policy: IDQLPolicy

    num_candidates = knob_property(NUM_CANDIDATES, "Candidates N ≥ 1 of ``predict``; 1 is a sample of the actor")

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
        self._num_candidates = num_candidates
        super().__init__(policy, env, *args, **kwargs)

    def _setup_policy(self) -> None:
        super()._setup_policy()
        # policy_kwargs may override the argument.
        self.diffusion_steps = self.policy.diffusion_steps

    def _policy_arguments(self) -> dict[str, Any]:
        return {"diffusion_steps": self.diffusion_steps}

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        num_candidates: int | None = None,
        **setting: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict`` with one more argument.

        :param deterministic: True: a function of the observation alone (fixed noise); False: samples.
        :param num_candidates: N ≥ 1; None: the model's own.
        :return: (actions in the environment's units, state).
        """
        return self.policy.predict(
            observation, state, episode_start, deterministic, num_candidates=num_candidates, **setting
        )
