"""Dichotomous flow policies on recorded data, behind Stable-Baselines3's API."""

from importlib.metadata import version

from dipole_sb3.buffers import OfflineReplayBuffer
from dipole_sb3.checkpoints import ResumableCheckpoint
from dipole_sb3.datasets import load_dataset
from dipole_sb3.datasets.exorl_names import register_environments
from dipole_sb3.datasets.rollouts import record_dataset
from dipole_sb3.dipole import DIPOLE
from dipole_sb3.episodes import ReplayableEpisodes
from dipole_sb3.errors import DatasetError
from dipole_sb3.mixed_buffer import MixedReplayBuffer
from dipole_sb3.policies import CnnPolicy, DIPOLEPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.together import learn_together

__version__ = version("dipole-sb3")

__all__ = [
    "DIPOLE",
    "CnnPolicy",
    "DIPOLEPolicy",
    "DatasetError",
    "MixedReplayBuffer",
    "MlpPolicy",
    "MultiInputPolicy",
    "OfflineReplayBuffer",
    "ReplayableEpisodes",
    "ResumableCheckpoint",
    "learn_together",
    "load_dataset",
    "record_dataset",
]

register_environments()
