"""Offline reinforcement learning with flow policies, behind Stable-Baselines3's API."""

from dipole_sb3.algorithms.cfgrl.algorithm import CFGRL
from dipole_sb3.algorithms.cfgrl.policies import CFGRLPolicy
from dipole_sb3.algorithms.dipole.algorithm import DIPOLE
from dipole_sb3.algorithms.dipole.policies import CnnPolicy, DIPOLEPolicy, MlpPolicy, MultiInputPolicy
from dipole_sb3.algorithms.fawac.algorithm import FAWAC
from dipole_sb3.algorithms.fawac.policies import FAWACPolicy
from dipole_sb3.algorithms.fql.algorithm import FQL
from dipole_sb3.algorithms.fql.policies import FQLPolicy
from dipole_sb3.algorithms.idql.algorithm import IDQL
from dipole_sb3.algorithms.idql.policies import IDQLPolicy
from dipole_sb3.algorithms.ifql.algorithm import IFQL
from dipole_sb3.algorithms.ifql.policies import IFQLPolicy
from dipole_sb3.algorithms.iql.algorithm import IQL
from dipole_sb3.algorithms.iql.policies import IQLPolicy
from dipole_sb3.algorithms.rebrac.algorithm import ReBRAC
from dipole_sb3.algorithms.rebrac.policies import ReBRACPolicy
from dipole_sb3.buffers.hindsight_buffer import HindsightReplayBuffer
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.buffers.stacked_frames import stack_frames
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.frame_stack import FrameStack
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
    "CFGRL",
    "DIPOLE",
    "FAWAC",
    "FQL",
    "IDQL",
    "IFQL",
    "IQL",
    "CFGRLPolicy",
    "CnnPolicy",
    "DIPOLEPolicy",
    "DatasetError",
    "FAWACPolicy",
    "FQLPolicy",
    "FrameStack",
    "HindsightReplayBuffer",
    "IDQLPolicy",
    "IFQLPolicy",
    "IQLPolicy",
    "MixedReplayBuffer",
    "MlpPolicy",
    "MultiInputPolicy",
    "OfflineReplayBuffer",
    "ReBRAC",
    "ReBRACPolicy",
    "ReplayableEpisodes",
    "ResumableCheckpoint",
    "evaluate_sweep",
    "learn_together",
    "load_dataset",
    "record_dataset",
    "stack_frames",
]

register_environments()
