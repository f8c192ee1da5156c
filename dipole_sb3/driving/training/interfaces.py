"""What training asks of scenes and of a scorer, whoever makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dipole_sb3.driving.scene import Observation, Scores, Surroundings


class Scene(Protocol):
    """One moment of a log.

    :ivar expert: float32 [8, 3], the plan that was driven.
    """

    @property
    def observation(self) -> Observation: ...

    @property
    def expert(self) -> npt.NDArray[np.float32]: ...

    @property
    def surroundings(self) -> Surroundings: ...


class Scenes(Protocol):
    """A sequence of scenes, read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def observations(self, indices: Sequence[int], /) -> Observation:
        """Stacked: every array has the leading axis [indices]."""
        ...


class Scorer(Protocol):
    """Scores plans [scenes, plans, 8, 3]; the scores are arrays [scenes, plans]."""

    def score_plans(self, surroundings: Sequence[Surroundings], plans: npt.NDArray[np.floating]) -> Scores: ...
