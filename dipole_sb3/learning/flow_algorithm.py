"""The base class of algorithms with one flow, whose best of N samples acts."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.learning.flow_policy import FlowPolicy
from dipole_sb3.learning.knobs import NUM_CANDIDATES, knob_property
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


class FlowAlgorithm(OfflineAlgorithm):
    """One flow beside critics and value; acting and exploring draw N samples and take the best by min Q.

    Arguments that are not listed here are those of
    :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`, in SAC's order.

    :param flow_steps: K ≥ 1, Euler steps from noise to action.
    :param num_candidates: N ≥ 1, number of actions drawn, of which the critics choose the best; a property that can be
        set at any time.
    """

    policy: FlowPolicy

    num_candidates = knob_property(NUM_CANDIDATES, "Candidates N ≥ 1 of ``predict``; 1 is a sample of the flow")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        *args: Any,
        flow_steps: int = 10,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> None:
        self.flow_steps = flow_steps
        self._num_candidates = num_candidates
        super().__init__(policy, env, *args, **kwargs)

    def _setup_policy(self) -> None:
        super()._setup_policy()
        # policy_kwargs may override the argument.
        self.flow_steps = self.policy.flow_steps

    def _policy_arguments(self) -> dict[str, Any]:
        return {"flow_steps": self.flow_steps}

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
