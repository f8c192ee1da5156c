"""The replay buffer in a file of Stable-Baselines3's ``save_replay_buffer``, as recorded data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.trust import VARIABLE, must_be_safe


def load(
    path: str | os.PathLike[str], *, device: torch.device | str = "auto", trust_pickle: bool = False
) -> OfflineReplayBuffer:
    """The replay buffer in a file of SB3's ``save_replay_buffer``.

    :param path: the .pkl file.
    :param device: where batches will be drawn.
    :param trust_pickle: a pickle executes whatever code it holds when it is loaded: say True for files that you, or
        somebody you trust, have written, and for no others.
    :raises DatasetError: not said to be trusted, no such file, truncated, or something else than a replay buffer.
    """
    path = Path(path)
    if not trust_pickle:
        raise DatasetError(
            f"{path}: a pickle can execute any code when it is loaded; if it comes from you or from somebody you "
            f"trust, load_dataset({str(path)!r}, trust_pickle=True) reads the replay buffer in it"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected a .pkl file written by save_replay_buffer()")
    if must_be_safe():
        raise DatasetError(f"{path}: is a pickle, which {VARIABLE}=1 refuses; expected an .npz or .hdf5 file")
    try:
        loaded = load_from_pkl(path)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError) as error:
        raise DatasetError(
            f"{path}: truncated or not a saved replay buffer ({error}); expected a file written by save_replay_buffer()"
        ) from error
    if not isinstance(loaded, ReplayBuffer):
        raise DatasetError(f"{path}: holds a {type(loaded).__name__}, expected a ReplayBuffer of Stable-Baselines3")
    return OfflineReplayBuffer.from_replay_buffer(loaded, device=device, source=str(path))
