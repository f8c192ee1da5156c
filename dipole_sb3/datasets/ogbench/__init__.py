"""OGBench's data sets: loaded, downloaded, or made anew by its oracles."""

from dipole_sb3.datasets.ogbench.goals import GoalConditioned
from dipole_sb3.datasets.ogbench.loading import load, make_env
from dipole_sb3.datasets.ogbench.names import goal_set_names, single_task_names

__all__ = ["GoalConditioned", "goal_set_names", "load", "make_env", "single_task_names"]
