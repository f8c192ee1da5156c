"""Saving, loading and exchanging parts of an algorithm: SB3's contract, whole or not at all."""

from __future__ import annotations

import copy
import io
import pathlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_pkl, load_from_zip_file, recursive_getattr, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import check_for_correct_spaces

from dipole_sb3.buffers.mixed_buffer import recorded_part
from dipole_sb3.buffers.normalization import ObservationStatistics, observation_statistics
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.files import replaced_when_complete, require_model_file
from dipole_sb3.learning.update_execution import without_device

File = str | pathlib.Path | io.BufferedIOBase
SelfSavedAlgorithm = TypeVar("SelfSavedAlgorithm", bound="SavedAlgorithm")


def plain_device(device: torch.device | str) -> torch.device | str:
    """The device, without the index that torch accepts for its only CPU but cannot load files onto."""
    return "cpu" if str(device).startswith("cpu") else device


class SavedAlgorithm(OffPolicyAlgorithm):
    """An SB3 off-policy algorithm with one policy and optimiser, an OfflineReplayBuffer and a generator of its own.

    The generator's state is saved with the model, so that a loaded run goes on as if it had never stopped.
    """

    renamed_on_load: ClassVar[Mapping[str, str]] = {}
    """Arguments of ``load`` that are properties → attributes behind them."""

    replay_buffer: OfflineReplayBuffer | None
    dataset: Any
    _generator: torch.Generator
    _generator_state: tuple[str, bytes] | None = None
    _spaces_from_data: bool = False
    """Whether the spaces were inferred from recorded data, which does not know an environment's bounds and dtype."""
    _learned_normalized: bool = False
    """Whether an update has seen normalised observations."""
    _saved_statistics: dict[str | None, ObservationStatistics] | None = None
    _before_learning: Callable[[], None] | None = None
    """What a resumed run leaves for the moment at which ``learn`` goes on."""
    _before_going_online: Callable[[], None] | None = None
    """What is left for the moment at which the online phase begins."""

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "dataset",
            "_generator",
            "_normalizer",
            "_iteration_ends",
            "_before_learning",
            "_before_going_online",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Saves the model as SB3 does, but under its final name only when it is complete.

        :param path: file (``.zip`` is added when it has no ending) or an open binary file.
        :param exclude: attributes to leave out in addition to SB3's.
        :param include: attributes to keep although they would be left out.
        :raises OSError: the file cannot be written (a full disk, say); an earlier file of that name is untouched.
        """
        self._generator_state = (self.device.type, self._generator.get_state().numpy().tobytes())
        if self._vec_normalize_env is not None:
            self._saved_statistics = observation_statistics(self._vec_normalize_env)
        if isinstance(path, str | pathlib.Path):
            with replaced_when_complete(_with_ending(path, ".zip")) as file:
                super().save(file, exclude, include)
        else:
            super().save(path, exclude, include)

    @property
    def observation_statistics(self) -> dict[str | None, ObservationStatistics]:
        """How the observations are normalised that the networks see, by key of a Dict, or under None; empty: not.

        Those of the environment's VecNormalize; without one, those that :meth:`save` kept with the model. (SB3 saves
        VecNormalize apart: a model that goes on to another program must not lose it on the way.)

        :raises ValueError: the model has learned from normalised observations, and neither is there.
        """
        if self._vec_normalize_env is not None:
            return observation_statistics(self._vec_normalize_env)
        if self._saved_statistics is None and self._learned_normalized:
            raise self._without_vec_normalize()
        return self._saved_statistics or {}

    def _without_vec_normalize(self) -> ValueError:
        return ValueError(
            f"{type(self).__name__} has learned from normalised observations: found no VecNormalize, expected "
            "env= to be an environment in VecNormalize.load(...) with the statistics of that run"
        )

    @classmethod
    def load(
        cls: type[SelfSavedAlgorithm],
        path: File,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSavedAlgorithm:
        """Loads a model as SB3 does; ``dataset=`` goes on learning from data, which is not part of the file.

        :param path: file written by :meth:`save`.
        :param env: environment, when it is to be stepped.
        :param device: torch device, or ``"auto"``.
        :param custom_objects: attributes to use instead of the saved ones.
        :param kwargs: constructor arguments to change.
        :raises OSError: there is no such file.
        :raises ValueError: it is truncated, damaged or not a saved model, or ``env`` has other spaces.
        """
        require_model_file(path)
        device = plain_device(device)
        if env is not None:
            env = cls._wrap_env(env)
            data, _, _ = load_from_zip_file(path, device=device, custom_objects=custom_objects)
            if data is not None and _may_take_spaces(data, env):
                taken = {"observation_space": env.observation_space, "action_space": env.action_space}
                custom_objects = {**(custom_objects or {}), **taken}
        attributes = {cls.renamed_on_load.get(name, name): value for name, value in kwargs.items()}
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **attributes)

    @classmethod
    def resume(
        cls: type[SelfSavedAlgorithm],
        path: str | pathlib.Path,
        env: GymEnv | None = None,
        dataset: Any = None,
        device: torch.device | str = "auto",
        **arguments: Any,
    ) -> SelfSavedAlgorithm:
        """Takes up an interrupted run from its newest checkpoint; ``learn(…, reset_num_timesteps=False)`` goes on.

        On the CPU, and with :class:`~dipole_sb3.ReplayableEpisodes` around every environment, it goes on as if it had
        never stopped; without them it says so and goes on with new episodes. Load only what you trust: SB3's format
        holds pickled objects.

        :param path: folder of :class:`~dipole_sb3.ResumableCheckpoint`, or one checkpoint.
        :param env: the run's environment anew; None where the rest needs none.
        :param dataset: the data that the run began with, as in the constructor.
        :param device: torch device, or ``"auto"``.
        :param arguments: constructor arguments to change.
        :raises FileNotFoundError: there is no checkpoint.
        :raises ValueError: none is whole, or it has no state of a run, or ``env`` is another kind than the run's.
        :raises DatasetError: the data set is missing or has another checksum.
        """
        from dipole_sb3.learning import checkpoints

        model: Any = checkpoints.resume(cls, path, env, dataset, device, **arguments)
        return model  # type: ignore[no-any-return]

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """SB3's; spaces that were inferred from data become those of the environment where both describe the same.

        :param env: environment with the model's spaces; also a vector of more or fewer environments than before.
        :param force_reset: reset it before it is stepped.
        :raises ValueError: it has other spaces.
        """
        env = self._wrap_env(env, self.verbose)
        if _may_take_spaces(vars(self), env):
            self.observation_space, self.action_space = env.observation_space, env.action_space
        check_for_correct_spaces(env, self.observation_space, self.action_space)
        # The last observations are those of as many environments as there were.
        force_reset = force_reset or env.num_envs != self.n_envs
        self.n_envs = env.num_envs
        super().set_env(env, force_reset)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """SB3's, as any device can load them: networks that share memory with other runs' are copied out of it."""
        parameters: dict[str, dict[str, Any]] = super().get_parameters()
        networks = {name: _alone(value) for name, value in parameters["policy"].items()}
        return {"policy": networks, "policy.optimizer": without_device(parameters["policy.optimizer"])}

    def set_parameters(
        self, load_path_or_dict: File | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """SB3's; names are checked before anything is changed, and no tensor is shared with where they come from.

        :param load_path_or_dict: saved model, or a dict as :meth:`get_parameters` gives it.
        :param exact_match: whether all parameters, and the optimiser's state, must be there.
        :param device: torch device, or ``"auto"``.
        :raises ValueError: names that the model does not have, or that are missing, or a truncated or damaged file.
        """
        if isinstance(load_path_or_dict, dict):
            # torch's optimisers keep the tensors that they are given.
            parameters = copy.deepcopy(load_path_or_dict)
        else:
            require_model_file(load_path_or_dict)
            _, parameters, _ = load_from_zip_file(load_path_or_dict, device=plain_device(device), load_data=False)
        for name in parameters:
            try:
                recursive_getattr(self, name)
            except AttributeError as error:
                raise ValueError(f"Key {name} is an invalid object name: the model has no such parameters") from error
        expected = self._get_torch_save_params()[0]
        if exact_match and sorted(parameters) != sorted(expected):
            raise ValueError(
                f"Names of parameters do not match the model's: found {sorted(parameters)}, expected {sorted(expected)}"
            )
        super().set_parameters(parameters, exact_match)

    def save_replay_buffer(self, path: File) -> None:
        """Saves the replay buffer as SB3 does, but under its final name only when it is complete.

        :param path: file (``.pkl`` is added when it has no ending) or an open binary file.
        :raises OSError: the file cannot be written; an earlier file of that name is untouched.
        """
        if isinstance(path, str | pathlib.Path):
            with replaced_when_complete(_with_ending(path, ".pkl")) as file:
                save_to_pkl(file, self.replay_buffer, self.verbose)
        else:
            save_to_pkl(path, self.replay_buffer, self.verbose)

    def load_replay_buffer(self, path: File, truncate_last_traj: bool = True) -> None:
        """Replaces the replay buffer by a saved one; without an environment it is what ``learn`` goes on with.

        :param path: file written by :meth:`save_replay_buffer`; as it is a pickle, load only what you trust.
        :param truncate_last_traj: has no meaning here.
        :raises ValueError: it is truncated or holds something else.
        :raises DatasetError: its transitions have other spaces than the model; the model then keeps what it had.
        """
        try:
            loaded = load_from_pkl(path, self.verbose)
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
            raise ValueError(
                f"cannot load {path}: it is truncated or not a saved replay buffer ({error}); expected a whole file "
                "written by save_replay_buffer()"
            ) from error
        if not isinstance(loaded, OfflineReplayBuffer):
            raise ValueError(f"{path}: holds a {type(loaded).__name__}, expected an OfflineReplayBuffer")
        checks.require_same_spaces(
            loaded.source, loaded.observation_space, loaded.action_space, self.observation_space, self.action_space
        )
        self.replay_buffer = loaded.to(self.device)
        if self.env is None:
            self.dataset = recorded_part(self.replay_buffer)

    def _restore_generator(self) -> None:
        if self._generator_state is not None:
            device_type, state = self._generator_state
            # Generators of different kinds of device have different states; on another one a new sequence starts.
            if device_type == self.device.type:
                self._generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """A file would hold all of the memory of which a tensor is a part."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _with_ending(path: str | pathlib.Path, ending: str) -> pathlib.Path:
    path = pathlib.Path(path)
    return path if path.suffix else path.with_suffix(ending)


def _may_take_spaces(saved: Mapping[str, Any], env: GymEnv) -> bool:
    """Whether a model's spaces, inferred from data, and an environment's differ in nothing that was recorded."""
    return bool(
        saved.get("_spaces_from_data", False)
        and saved["action_space"] == env.action_space
        and _same_kind(saved["observation_space"], env.observation_space)
    )


def _same_kind(found: spaces.Space[Any], expected: spaces.Space[Any]) -> bool:
    if isinstance(found, spaces.Dict) and isinstance(expected, spaces.Dict):
        return found.keys() == expected.keys() and all(_same_kind(found[key], expected[key]) for key in found)
    boxes = isinstance(found, spaces.Box) and isinstance(expected, spaces.Box)
    return boxes and found.shape == expected.shape and checks.stores_as(found) == checks.stores_as(expected)
