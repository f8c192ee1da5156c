"""Offline reinforcement learning with flow policies, behind Stable-Baselines3's API."""

from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
from dipole_sb3.algorithms.dipole.policies import CnnPolicy, DIPOLEPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.algorithms.iql.algorithm import IQL
from dipole_sb3.algorithms.iql.policies import IQLPolicy
from dipole_sb3.buffers.hindsight_buffer import HindsightReplayBuffer
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.version import VERSION
from dipole_sb3.datasets import load_dataset
from dipole_sb3.datasets.exorl.names import register_environments
from dipole_sb3.evaluation.sweep import evaluate_sweep
from dipole_sb3.learning.checkpoints import ResumableCheckpoint
from dipole_sb3.learning.learn_together import learn_together
from dipole_sb3.learning.replayable_episodes import ReplayableEpisodes
from dipole_sb3.recording.rollouts import record_dataset

__version__ = VERSION

__all__ = [
    "DIPOLE",
    "IQL",
    "CnnPolicy",
    "DIPOLEPolicy",
    "DatasetError",
    "HindsightReplayBuffer",
    "IQLPolicy",
    "MixedReplayBuffer",
    "MlpPolicy",
    "MultiInputPolicy",
    "OfflineReplayBuffer",
    "ReplayableEpisodes",
    "ResumableCheckpoint",
    "evaluate_sweep",
    "learn_together",
    "load_dataset",
    "record_dataset",
]

register_environments()
