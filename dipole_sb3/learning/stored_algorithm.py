"""The files of an algorithm: models, checkpoints of interrupted runs, and the hub."""

from __future__ import annotations

import copy
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import torch
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import get_device

from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer
from dipole_sb3.buffers.normalization import observation_statistics, restore_vec_normalize, vec_normalize_state
from dipole_sb3.common.files import replaced_when_complete, require_model_file
from dipole_sb3.common.random_state import generator_state
from dipole_sb3.learning import checkpoints, hub, model_card, safe_files
from dipole_sb3.learning.model_files import (
    File,
    alone,
    classic,
    may_take_spaces,
    origin_of,
    plain_device,
    require_same_algorithm,
    with_ending,
)
from dipole_sb3.learning.phased_algorithm import PhasedAlgorithm
from dipole_sb3.learning.update_execution import without_device

Self = TypeVar("Self", bound="StoredAlgorithm")


class StoredAlgorithm(PhasedAlgorithm):
    """An algorithm whose files are whole, may be of a kind that runs nothing, and let a run continue."""

    _generator_state: tuple[str, bytes] | None = None
    _origin: Mapping[str, str] | None = None

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "dataset",
            "training_generator",
            "_iteration_ends",
            "_when_learning_begins",
            "_generators_online",
            "_monitor",
            "_run",
            "_updates",
            "_updates_prepared",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def save(
        self,
        path: File,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        format: Literal["classic", "safe"] = "classic",
    ) -> None:
        """Saves the model as SB3 does, but under its final name only when it is complete.

        The file also keeps the name of the algorithm, the version of this package and the state of the training
        generator, so that a loaded model continues with the same random numbers.

        :param path: file (``.zip`` is added when it has no ending) or an open binary file.
        :param exclude: attributes to leave out in addition to SB3's.
        :param include: attributes to keep that would otherwise be left out.
        :param format: ``"classic"`` is SB3's, whose pickled parts run when they are loaded; ``"safe"`` is JSON and
            safetensors, for models that others load. Both continue alike.
        :raises OSError: the file cannot be written (for example, the disk is full); an earlier file of that name is
            untouched.
        :raises ValueError: another format, or an attribute that a safe file cannot hold.
        """
        if format not in ("classic", "safe"):
            raise ValueError(f"format is {format!r}, expected 'classic' or 'safe'")
        if format == "safe":
            whole = io.BytesIO()
            self.save(whole, exclude, include)
            if isinstance(path, str | pathlib.Path):
                with replaced_when_complete(with_ending(path, ".zip")) as file:
                    safe_files.write(whole, file)
            else:
                safe_files.write(whole, path)
            return
        self._generator_state = generator_state(self.training_generator)
        self._origin = origin_of(type(self))
        if self._vec_normalize_env is not None:
            self._saved_statistics = observation_statistics(self._vec_normalize_env)
        if isinstance(path, str | pathlib.Path):
            with replaced_when_complete(with_ending(path, ".zip")) as file:
                super().save(file, exclude, include)
        else:
            super().save(path, exclude, include)

    @classmethod
    def load(
        cls: type[Self],
        path: File,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a model as SB3 does; to continue learning from data, pass ``dataset=``: it is not part of the file.

        **A file in SB3's format runs what its writer pickled into it.** Load only files that you trust, or pass
        ``trust=False``: then only files that ``save(..., format="safe")`` wrote are read, and nothing of them runs.

        :param path: file written by :meth:`save`.
        :param env: environment, if the model is to learn online.
        :param device: torch device, or ``"auto"``.
        :param custom_objects: attributes to use instead of the saved ones.
        :param trust: False: refuse a file whose loading could run code; None: as True, unless the environment has
            ``DIPOLE_SAFE=1``.
        :param kwargs: constructor arguments to change.
        :raises OSError: there is no such file.
        :raises ValueError: the file is truncated, damaged, not a saved model, of another algorithm or from an
            incompatible older version, or ``env`` has other spaces.
        """
        # First: not even the name of the algorithm is looked up for a file that may not be read.
        file, device = classic(path, trust), plain_device(device)
        require_same_algorithm(path, cls)
        if env is not None:
            env = cls._wrap_env(env)
            data, _, _ = load_from_zip_file(file, device=device, custom_objects=custom_objects)
            if data is not None and may_take_spaces(data, env):
                taken = {"observation_space": env.observation_space, "action_space": env.action_space}
                custom_objects = {**(custom_objects or {}), **taken}
        # Knobs are properties; the file has the attributes behind them.
        knobs = {knob.name for knob in cls.knobs()}
        attributes = {f"_{name}" if name in knobs else name: value for name, value in kwargs.items()}
        get_device(device)  # that there is no such device is not the file's fault, nor that its memory is full
        try:
            return super().load(file, env, device, custom_objects, print_system_info, force_reset, **attributes)
        except (ValueError, torch.cuda.OutOfMemoryError):
            raise
        except safe_files.WRONG_CONTENT as error:
            # Values of a safe file may be of any kind; a file in SB3's format is trusted, and its errors are a bug's.
            if file is path:
                raise
            raise safe_files.wrong_content(path, error) from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: model_card.Evaluation | None = None,
        license: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publishes the model on the Hugging Face hub, with a card, in one commit; ``dipole hub push`` knows more.

        The file is a safe one (JSON and safetensors) without paths of this machine. An earlier model in the repository,
        and its card, are replaced. Needs the extra ``hub``.

        :param repo_id: ``"USER/NAME"``, or ``"NAME"`` among your own; made when it is not there.
        :param evaluation: what :func:`~dipole_sb3.evaluate_sweep` found in the environment of the data, for the card.
        :param license: the hub's name of a licence, e.g. ``"mit"``; None: the card names none.
        :param private: whether a new repository is private; None: as the account's default says.
        :param revision: an existing branch; None: main.
        :param token: None: that of ``hf auth login``, or the environment variable HF_TOKEN.
        :return: the address of the commit.
        :raises OSError: the hub cannot be reached or refuses; nothing is committed then.
        :raises ValueError: an attribute that a safe file cannot hold, or no id of a repository.
        :raises ModuleNotFoundError: the extra is not installed.
        """
        hub.library()
        content, story = io.BytesIO(), model_card.story_of(self, evaluation, license)
        self.save(content, format="safe")
        return hub.push(
            repo_id,
            {hub.MODEL: content.getvalue()},
            lambda full_id: model_card.write_card(self, full_id, story),
            private=private,
            revision=revision,
            token=token,
        )

    @classmethod
    def from_hub(
        cls: type[Self],
        repo_id: str,
        env: GymEnv | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a model from the Hugging Face hub; nothing of it can run: only safe files are read.

        Needs the extra ``hub``. A model that was downloaded before comes from the hub's cache.

        :param repo_id: ``"USER/NAME"``, as :meth:`push_to_hub` or ``dipole hub push`` filled it.
        :param env: as in :meth:`load`.
        :param revision: branch, tag or commit; None: main.
        :param token: None: that of ``hf auth login``, or the environment variable HF_TOKEN.
        :param kwargs: further arguments of :meth:`load`, except ``trust``.
        :raises OSError: the repository, the revision or the model is not there, may not be read, or cannot be reached.
        :raises ValueError: the model is in SB3's format, damaged, or of another algorithm.
        :raises ModuleNotFoundError: the extra is not installed.
        """
        return cls.load(hub.download(repo_id, revision=revision, token=token), env, trust=False, **kwargs)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As in SB3, but any device can load them, and networks that share memory with other runs are copied."""
        parameters: dict[str, dict[str, Any]] = super().get_parameters()
        networks = {name: alone(value) for name, value in parameters["policy"].items()}
        return {"policy": networks, "policy.optimizer": without_device(parameters["policy.optimizer"])}

    def set_parameters(
        self, load_path_or_dict: File | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As in SB3, but names are checked before anything changes, and no tensor is shared with the source.

        :param load_path_or_dict: saved model, or a dict as :meth:`get_parameters` gives it.
        :param exact_match: whether all parameters, and the optimiser's state, must be there.
        :param device: torch device, or ``"auto"``.
        :raises ValueError: names are unknown or missing, or the file is truncated or damaged.
        """
        if isinstance(load_path_or_dict, dict):
            # torch's optimisers keep the tensors that they are given.
            parameters = copy.deepcopy(load_path_or_dict)
        else:
            file = classic(load_path_or_dict, None)
            require_model_file(file)
            _, parameters, _ = load_from_zip_file(file, device=plain_device(device), load_data=False)
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

    @classmethod
    def resume(
        cls: type[Self],
        path: str | pathlib.Path,
        env: GymEnv | None = None,
        dataset: Any = None,
        device: torch.device | str = "auto",
        **arguments: Any,
    ) -> Self:
        """Loads an interrupted run from its newest checkpoint; ``learn(…, reset_num_timesteps=False)`` continues it.

        On the CPU, and with :class:`~dipole_sb3.ReplayableEpisodes` around every environment, it continues as if it had
        never stopped. Without ReplayableEpisodes it warns and continues with new episodes. Load only files that you
        trust: SB3's format holds pickled objects.

        :param path: folder of :class:`~dipole_sb3.ResumableCheckpoint`, or one checkpoint.
        :param env: an environment like the run's; None if the rest of the run needs none.
        :param dataset: the data that the run began with, as in the constructor.
        :param device: torch device, or ``"auto"``.
        :param arguments: constructor arguments to change.
        :raises FileNotFoundError: there is no checkpoint.
        :raises ValueError: all are damaged, the file has no state of a run, or ``env`` is not like the run's.
        :raises DatasetError: the data set is missing or has another checksum.
        """
        model: Self = checkpoints.resume(cls, path, env, dataset, device, **arguments)
        return model

    def run_state(self) -> dict[str, Any]:
        """What a run needs besides the model's file: online transitions, statistics, the action space's generator.

        Call it at the end of an iteration. Of the data set it has only the name and checksum, of the environment only
        VecNormalize's statistics.
        """
        buffer, statistics = self.replay_buffer, self.get_vec_normalize_env()
        # A data set may be such a buffer, too: that of another model.
        online = buffer if isinstance(buffer, MixedReplayBuffer) and buffer is not self.dataset else None
        recorded = buffer if online is None else online.recorded
        return {
            "dataset": None if recorded is None else {"source": recorded.source, "checksum": recorded.checksum},
            "online": None if online is None else online.online_state(),
            "n_envs": self.n_envs,
            "vec_normalize": None if statistics is None else vec_normalize_state(statistics),
            "statistics": self._monitor.state(),
            "action_space": self.action_space.np_random.bit_generator.state,
        }

    def restore_run_state(self, state: Mapping[str, Any], where: str) -> None:
        """Restores what :meth:`run_state` returned.

        :param where: where the state comes from, for messages.
        :raises ValueError: the environment is of another kind than the run's.
        """
        if state["n_envs"] != self.n_envs and state["online"] is not None:
            raise ValueError(f"{where}: the run has {state['n_envs']} environments, found {self.n_envs} in env=")
        statistics = self.get_vec_normalize_env()
        if (statistics is None) != (state["vec_normalize"] is None) and self.env is not None:
            found, expected = ("no VecNormalize", "one") if statistics is None else ("a VecNormalize", "none")
            raise ValueError(
                f"{where}: found {found} around env=, expected {expected}, as when the checkpoint was taken"
            )
        if statistics is not None:
            restore_vec_normalize(statistics, state["vec_normalize"])
        if state["online"] is not None:
            self._make_room().restore_online(state["online"])
        self._monitor.restore(state["statistics"])
        self.action_space.np_random.bit_generator.state = state["action_space"]
