"""The driving agent: pre-trained by imitation, fine-tuned by two adapters, asked for plans at any ω."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from stable_baselines3.common.utils import configure_logger, get_device
from torch import Tensor

from dipole_sb3.common.checks import require_whole_number
from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.driving import saved_agent
from dipole_sb3.driving.model import text
from dipole_sb3.driving.model.configuration import Configuration, configuration_of
from dipole_sb3.driving.model.encoder import Encoder
from dipole_sb3.driving.model.florence_files import florence_in
from dipole_sb3.driving.model.observations import batched, of_navsim
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.scene import Observation
from dipole_sb3.driving.training.checks import require_omega
from dipole_sb3.driving.training.fine_tuning import FineTuning, FineTuningArguments, Method, adapters_of
from dipole_sb3.driving.training.imitation import Imitation, ImitationArguments
from dipole_sb3.driving.training.interfaces import Scenes, Scorer
from dipole_sb3.driving.training.job import Job, experts_of
from dipole_sb3.driving.training.loop import run
from dipole_sb3.learning.precision import Precision, ProductType, products_in, require_precision

_LOOKED_AT = 10_000
"""Recorded plans that the statistics are taken of, evenly spread over the scenes."""


class DPVLA:
    """A vision-language-action model that plans four seconds of driving from three cameras.

    :param configuration: ``"tiny"``, ``"paper"``, or sizes of one's own.
    :param scenes: what to learn from: any sequence of scenes with ``observations(indices)``, such as
        :func:`~dipole_sb3.driving.scenes.load_scenes` gives. None: only plan, once loaded.
    :param florence: folder of a Florence-2 checkpoint, whose weights, sizes and tokeniser the encoder gets; None:
        random weights.
    :param seed: of the weights and of everything that is drawn while training.
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, …
    :param precision: in which type products are computed: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 on a GPU.
    :param tensorboard_log: folder of TensorBoard's files; None: none.
    :param verbose: 1: print the log.
    :raises ValueError: no such configuration, no scenes in ``scenes``, or no Florence-2 in its folder.
    """

    def __init__(
        self,
        configuration: str | Configuration = "tiny",
        scenes: Scenes | None = None,
        *,
        florence: str | Path | None = None,
        seed: int = 0,
        device: torch.device | str = "auto",
        precision: Precision = "auto",
        tensorboard_log: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        self.configuration = configuration_of(configuration)
        self.device = _device(device)
        self.products = _products(precision, self.device)
        self.scenes, self.tensorboard_log, self.verbose = scenes, tensorboard_log, verbose
        if scenes is not None and len(scenes) == 0:
            raise ValueError("scenes is empty, expected at least one scene to learn from")
        length = self.configuration.text_tokens
        self.tokeniser_folder = None if florence is None else Path(florence)
        with seeded_torch(seed):
            if florence is None:
                self.tokenise = text.own_tokeniser(length)
                self.planner = Planner(self.configuration)
            else:
                whole, self.configuration = florence_in(florence, self.configuration)
                self.tokenise = text.tokeniser_in(Path(florence), length)
                self.planner = Planner(self.configuration, Encoder(self.configuration, whole))
        self.planner.eval().to(self.device)
        self.generator = torch.Generator().manual_seed(seed)
        self.pretrained_epochs = self.updates = self.scored_plans = 0
        self.method: Method | None = None
        self._networks_file: str | None = None
        if scenes is not None:
            looked_at = np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), _LOOKED_AT)).astype(int)).tolist()
            plans = experts_of(scenes, looked_at)
            if plans.shape[1:] != (8, 3) or not plans.isfinite().all():
                raise ValueError(
                    f"scenes hold recorded plans of shape {list(plans.shape[1:])}, or with values that are not finite; "
                    "expected [8, 3] and numbers"
                )
            self.planner.take_statistics(plans.to(self.device))

    @property
    def training_scenes(self) -> Scenes:
        """:raises ValueError: there are none."""
        if self.scenes is None:
            raise ValueError("the agent has no scenes to learn from; expected scenes= when it is made or loaded")
        return self.scenes

    @property
    def takes_omega(self) -> bool:
        """Whether there is a pair of policies to guide between, as all agents have but those of awr and dppo."""
        return len(adapters_of(self.method)) == 2

    def pretrain(
        self,
        epochs: int,
        *,
        batch_size: int = 16,
        learning_rate: float = 1e-4,
        progress_bar: bool = False,
        log_interval: int = 50,
        save_path: str | Path | None = None,
        save_freq: int = 500,
        stop: Callable[[], bool] | None = None,
    ) -> DPVLA:
        """Imitation: encoder and decoder learn together from the recorded plans (AdamW).

        :param epochs: over the scenes, at least 1.
        :param batch_size: scenes of an update.
        :param log_interval: updates between rows of the log.
        :param save_path: folder for the checkpoint, which :meth:`resume` goes on from, and at the end for the agent.
        :param save_freq: updates between checkpoints.
        :param stop: asked after every update, whether to stop: the checkpoint is written then.
        :raises TrainingStopped: it was.
        :raises ValueError: a wrong argument, or the agent is fine-tuned already: its adapters belong to the decoder as
            it is.
        """
        asked = ImitationArguments(epochs, batch_size, learning_rate)
        for name, value in (("save_freq", save_freq), ("log_interval", log_interval)):
            require_whole_number(name, value, 1)
        if self.method is not None:
            raise ValueError(
                f"the agent was fine-tuned by {self.method}, and its adapters belong to the decoder as it is; "
                "pre-train before fine-tuning"
            )
        job = Imitation(self, asked)
        self._run(job, progress_bar, log_interval, save_path, save_freq, stop)
        return self

    def finetune(
        self,
        steps: int,
        *,
        method: Method = "dipole",
        beta: float = 1.0,
        k: float = 0.0,
        rollout_omega: float = 1.0,
        group_size: int = 10,
        batch_size: int = 16,
        learning_rate: float = 1e-4,
        scorer: Scorer | None = None,
        progress_bar: bool = False,
        log_interval: int = 50,
        save_path: str | Path | None = None,
        save_freq: int = 500,
        stop: Callable[[], bool] | None = None,
    ) -> DPVLA:
        """Adapters of the decoder learn from the scores of the agent's own plans; all else is frozen.

        One epoch of rollouts, nine of training on them, and again.

        :param steps: updates; rollouts do not count.
        :param method: ``"dipole"``: weights σ(βA + k) and 1 − σ(βA + k) for a pair; ``"awr"``: exp(βA) for one policy;
            ``"dppo"``: clipped policy gradients through the denoising of one policy.
        :param beta: β > 0, inverse temperature of the advantage A, which has unit spread in every scene.
        :param k: shifts the share of the plans that the positive policy learns from.
        :param rollout_omega: ω ≥ −1 of the policy that makes the plans.
        :param group_size: g ≥ 2, plans of each scene.
        :param batch_size: scenes of an update, each with all its plans.
        :param scorer: with ``score_plans``; None: a pool of processes with the package's own score.
        :param save_freq: updates and batches of rollouts between checkpoints; others: see :meth:`pretrain`.
        :raises ValueError: a wrong argument; the agent is not pre-trained (its decoder's last layers are zero, which no
            adapter changes), or was fine-tuned by another method.
        """
        asked = FineTuningArguments(steps, method, beta, k, rollout_omega, group_size, batch_size, learning_rate)
        for name, value in (("save_freq", save_freq), ("log_interval", log_interval)):
            require_whole_number(name, value, 1)
        if not self.pretrained_epochs:
            raise ValueError(
                "the agent is not pre-trained, and its adapters have nothing to adapt; call pretrain() first"
            )
        if self.method not in (None, method):
            raise ValueError(
                f"the agent was fine-tuned by {self.method}, found method={method!r}; expected {self.method!r}, or an "
                "agent that is only pre-trained"
            )
        with _scorer(scorer) as scores:
            self._run(FineTuning(self, asked, scores), progress_bar, log_interval, save_path, save_freq, stop)
        return self

    def predict(
        self,
        observation: Observation,
        omega: float | None = None,
        *,
        num_plans: int | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.float32]:
        """Plans for an observation or a batch of them.

        The noise that plans begin as is the same for all of a batch: an observation gets the same plans alone and
        among others.

        :param omega: ω ≥ −1: −1 the negative policy, 0 the positive one, more is more greedy. None: 1. Agents of awr
            and dppo are one policy and take none.
        :param num_plans: several plans of each scene; None: one.
        :param seed: of the noise; the same seed gives the same plans.
        :param generator: of the CPU, to draw the noise from instead.
        :return: [8, 3], (x, y, yaw) in metres and radians in the ego frame, at 0.5, …, 4 s; before it an axis for
            the batch and one for the plans where there are such.
        :raises ValueError: a wrong observation or ω.
        """
        batch, one = batched(observation)
        if num_plans is not None:
            require_whole_number("num_plans", num_plans, 1)
        if omega is not None:
            require_omega("omega", omega)
            if not self.takes_omega:
                raise ValueError(f"omega is {omega}, but {self.method} trains one policy, which takes none")
        generator = torch.Generator().manual_seed(seed) if generator is None else generator
        noise = torch.randn((1, num_plans or 1, 8, 4), generator=generator).to(self.device)
        with torch.no_grad(), products_in(self.products, self.device):
            cameras, words, history = self.tensors_of(batch)
            tokens = self.planner.encoder(cameras, words)
            noise = noise.expand(len(tokens), -1, -1, -1)
            guidance = 1.0 if omega is None else float(omega)
            actions = self.planner.sample(
                tokens, history, noise, guidance, adapters_of(self.method), self.configuration.steps
            )
        plans = self.planner.poses(actions.float()).cpu().numpy()
        plans = plans if num_plans is not None else plans[:, 0]
        return plans[0] if one else plans

    def compute_trajectory(self, agent_input: Any, omega: float | None = None) -> Any:
        """The plan for a NAVSIM ``AgentInput``, as NAVSIM's agents give it.

        :return: navsim's ``Trajectory`` where navsim is installed, else [8, 3].
        """
        plan = self.predict(of_navsim(agent_input), omega)
        if find_spec("navsim") is None:
            return plan
        return import_module("navsim.common.dataclasses").Trajectory(plan)

    def save(self, folder: str | Path) -> None:
        """Writes the agent to a folder: safetensors files and a JSON file, which makes them valid in one step."""
        self._networks_file = saved_agent.write(self, Path(folder), self._networks_file)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        scenes: Scenes | None = None,
        *,
        device: torch.device | str = "auto",
        precision: Precision | None = None,
        tensorboard_log: str | Path | None = None,
        verbose: int = 0,
    ) -> DPVLA:
        """The agent in a folder that it was saved to; of a checkpoint, as it was there.

        :param precision: None: as it was.
        :raises FileNotFoundError: there is none.
        :raises ValueError: a file is missing or damaged.
        """
        agent: DPVLA = saved_agent.read(cls, Path(folder), scenes, device, precision, tensorboard_log, verbose)[0]
        return agent

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        scenes: Scenes,
        *,
        scorer: Scorer | None = None,
        device: torch.device | str = "auto",
        progress_bar: bool = False,
        log_interval: int = 50,
        save_freq: int = 500,
        stop: Callable[[], bool] | None = None,
        tensorboard_log: str | Path | None = None,
        verbose: int = 0,
    ) -> DPVLA:
        """Ends the training whose checkpoint is in a folder; on a CPU bit for bit as if it had never stopped.

        Where the training was over, nothing remains to do.

        :param scenes: the same scenes.
        """
        agent: DPVLA
        agent, unfinished = saved_agent.read(cls, Path(folder), scenes, device, None, tensorboard_log, verbose)
        if unfinished is None:
            return agent
        kind, arguments, values, tensors = unfinished
        with _scorer(scorer) if kind == FineTuning.kind else nullcontext() as scores:
            job: Job
            if scores is None:
                job = Imitation(agent, ImitationArguments(**arguments))
            else:
                job = FineTuning(agent, FineTuningArguments(**arguments), scores)
            job.restore(tensors, values)
            agent._run(job, progress_bar, log_interval, folder, save_freq, stop)
        return agent

    def tensors_of(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Cameras, text and history of a batch, on the device."""
        arrays = (observation.cameras, self.tokenise(text.texts_of(observation)), observation.history)
        cameras, words, history = (torch.as_tensor(np.ascontiguousarray(array)).to(self.device) for array in arrays)
        return cameras, words, history.float()

    def _run(
        self,
        job: Job,
        progress_bar: bool,
        log_interval: int,
        save_path: str | Path | None,
        save_freq: int,
        stop: Callable[[], bool] | None,
    ) -> None:
        if isinstance(job, FineTuning):
            self.method = job.arguments()["method"]
        else:
            self._networks_file = None
        folder = None if save_path is None or not job.workers.is_main_process else Path(save_path)

        def save() -> None:
            assert folder is not None
            known = self._networks_file if isinstance(job, FineTuning) else None
            self._networks_file = saved_agent.write(self, folder, known, job)

        log = None if self.tensorboard_log is None else str(self.tensorboard_log)
        logger = configure_logger(self.verbose, log, job.kind)
        run(job, logger, self.updates, progress_bar, log_interval, None if folder is None else save, save_freq, stop)
        logger.close()
        self.planner.requires_grad_(False)
        self.updates += job.done
        if isinstance(job, FineTuning):
            self.scored_plans += job.scored_plans
        else:
            self._networks_file = None
            self.pretrained_epochs += job.arguments()["epochs"]
        if folder is not None:
            self.save(folder)


def _scorer(given: Scorer | None) -> AbstractContextManager[Any]:
    if given is not None:
        return nullcontext(given)
    from dipole_sb3.driving.score import ScoringPool

    return ScoringPool()


def _device(given: torch.device | str) -> torch.device:
    # Under `accelerate launch` every process has a device of its own.
    device: torch.device = Accelerator(device_placement=False).device if given == "auto" else get_device(given)
    return device


def _products(precision: Precision, device: torch.device) -> ProductType:
    require_precision(precision, device)
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision
