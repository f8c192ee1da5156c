"""OGBench's data sets: loaded, downloaded, or made anew by its oracles."""

from dipole_sb3.datasets.ogbench.loading import load, make_env, single_task_names

__all__ = ["load", "make_env", "single_task_names"]
