"""ExORL's recordings: fetched, relabelled with the rewards of a task, and their environments."""

from dipole_sb3.datasets.exorl.loading import load, make_env

__all__ = ["load", "make_env"]
