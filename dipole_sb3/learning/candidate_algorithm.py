"""The base class of algorithms whose policies draw N actions, of which the critics choose, and have no other knob."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.learning.knobs import NUM_CANDIDATES, knob_property
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


class CandidateAlgorithm(OfflineAlgorithm):
    """Acting and exploring draw N actions and take the best by min Q.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property that can be
        set at any time.
    """

    num_candidates = knob_property(NUM_CANDIDATES, "Candidates N ≥ 1 of ``predict``; 1 is a sample of the policy")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> None:
        self._num_candidates = num_candidates
        super().__init__(policy, env, *args, **kwargs)

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
