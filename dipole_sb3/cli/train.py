"""``dipole train``: one run, one folder."""

from __future__ import annotations

import functools
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from dipole_sb3.background_evaluation import BackgroundEvaluator
from dipole_sb3.buffers import OfflineReplayBuffer
from dipole_sb3.checkpoints import ResumableCheckpoint, log_position, newest_checkpoint
from dipole_sb3.cli import hydra_command, pictures, run_folder, sweep
from dipole_sb3.cli.environments import training_env
from dipole_sb3.cli.interrupt import StopOnSignal
from dipole_sb3.cli.options import TrainOptions, check_options
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, PeriodicEvaluation, phase_scores
from dipole_sb3.datasets import is_file_name, load_dataset, make_env
from dipole_sb3.dipole import DIPOLE
from dipole_sb3.evaluation import format_sweep_table

FIXED_OPTIONS = ("algo", "task", "task_id", "seed", "run_dir")
"""What a resumed run keeps from its first start."""


class Trained(NamedTuple):
    """What a finished training leaves for evaluation and pictures."""

    model: DIPOLE
    dataset: OfflineReplayBuffer


def run(arguments: list[str]) -> int:
    """``dipole train``; a run that goes on needs no Hydra, its configuration is already resolved."""
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    if not resume:
        return hydra_command.run("train", train_and_evaluate, arguments)
    folder = Path(resume[-1].removeprefix("resume="))
    config = _resumed_config(folder, [argument for argument in arguments if argument not in resume])
    train_and_evaluate(config, folder, resume=True)
    return 0


def train_and_evaluate(config: DictConfig, folder: Path, resume: bool = False) -> None:
    """One run: training, then the sweep over ω, then where things are.

    :param config: as composed from train.yaml.
    :param folder: of the run.
    :param resume: go on from the folder's newest checkpoint.
    :raises SystemExit: stopped by a signal; the model is saved.
    """
    trained = train(config, folder, resume)
    if config.pictures:
        pictures.draw_training(trained.model, trained.dataset, folder, config.offline_steps)
    if config.episodes and config.task.env is not None:
        result = sweep.run(trained.model, config.task.env, config, folder, trained.dataset.metadata)
        print(f"\n{format_sweep_table(result)}")
    if config.online_steps:
        for line in phase_scores([folder / EVALUATIONS], config.offline_steps):
            print(line)
    sweep.print_target(config.task, config.get("task_id"), online=config.online_steps > 0)
    print(f"\nThis run is in {folder}/")


def train(config: DictConfig, folder: Path, resume: bool = False) -> Trained:
    """Trains (or goes on training) the model of a configuration and saves it as model.zip.

    :raises SystemExit: stopped by a signal; the run is saved as a checkpoint, and how to go on is printed.
    """
    check_options(config, TrainOptions)
    pictures.require_matplotlib(config)
    _require_env_where_needed(config)
    if not resume and not config.replace:
        run_folder.require_unused(folder)
    with ExitStack() as opened:
        env = None
        if config.task.env is not None:
            env = training_env(config.task.env, config.n_envs if config.online_steps else 1)
            opened.callback(env.close)
        dataset = _load_data(config, env)
        if resume:
            checkpoint = _newest_checkpoint(folder)
            model = _load_model(config, checkpoint, env, dataset)
            position = log_position(checkpoint)
        else:
            model, position = _new_model(config, env, dataset), None
            run_folder.clear(folder)
        run_folder.write_config(folder, config)
        run_folder.write_dataset_facts(folder, dataset.metadata)
        model.set_logger(run_folder.make_logger(folder, model.num_timesteps, position, config.algo.verbose))
        _learn(model, config, folder)
    model.save(folder / run_folder.MODEL)
    return Trained(model, dataset)


def _require_env_where_needed(config: DictConfig) -> None:
    if config.offline_steps + config.online_steps == 0:
        raise ValueError("offline_steps and online_steps are both 0, expected at least 1 step")
    for option in ("online_steps", "eval_freq"):
        if config[option] and config.task.env is None:
            raise ValueError(f"{option} is {config[option]}, but the task has no environment; give task.env=ID")


def _learn(model: DIPOLE, config: DictConfig, folder: Path) -> None:
    """Learns to the end of both phases, or stops by a signal."""
    steps = config.offline_steps + config.online_steps
    checkpoints = ResumableCheckpoint(config.checkpoint_freq, folder / run_folder.CHECKPOINTS)
    if model.num_timesteps < steps:
        with StopOnSignal() as stop, _evaluation(config, folder) as evaluation:
            model.learn(
                steps - model.num_timesteps,
                callback=[*evaluation, checkpoints, stop],
                log_interval=config.log_interval,
                reset_num_timesteps=False,
                progress_bar=sys.stdout.isatty() if config.progress_bar is None else config.progress_bar,
            )
            if stop.stopped_by is not None and model.num_timesteps < steps:
                path = checkpoints.save()
                print(
                    f"\nStopped after {model.num_timesteps} of {steps} timesteps; saved {path}. Go on with\n"
                    f"  dipole train {shlex.quote(f'resume={folder}')}",
                    flush=True,
                )
                raise SystemExit(128 + stop.stopped_by)
        if config.checkpoint_freq:
            # A finished run may be made longer.
            checkpoints.save()


def _load_data(config: DictConfig, env: GymEnv | None) -> OfflineReplayBuffer:
    options: dict[str, Any] = {}
    if config.task.get("dataset_dir") is not None:
        options["dataset_dir"] = config.task.dataset_dir
    if env is not None and is_file_name(config.task.dataset):
        # Files hold actions in the environment's units, whose bounds only the environment knows.
        options |= {"observation_space": env.observation_space, "action_space": env.action_space}
    return load_dataset(config.task.dataset, device=config.algo.device, **options)


def _new_model(config: DictConfig, env: GymEnv | None, dataset: OfflineReplayBuffer) -> DIPOLE:
    arguments = {"env": env, "dataset": dataset, "seed": config.seed, "offline_steps": config.offline_steps}
    model: DIPOLE = hydra.utils.instantiate(config.algo, **arguments, _convert_="all")
    return model


def _newest_checkpoint(folder: Path) -> Path:
    try:
        path, damaged = newest_checkpoint(folder / run_folder.CHECKPOINTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: no checkpoint in {run_folder.CHECKPOINTS}/ to go on from; start it anew, with replace=true"
        ) from error
    for sentence in damaged:
        print(f"{sentence}; going on from {path.name}")
    return path


def _load_model(config: DictConfig, checkpoint: Path, env: GymEnv | None, dataset: OfflineReplayBuffer) -> DIPOLE:
    algorithm: Any = get_class(config.algo["_target_"])
    with warnings.catch_warnings(record=True) as caught:
        model: DIPOLE = algorithm.resume(
            checkpoint, env=env, dataset=dataset, device=config.algo.device, offline_steps=config.offline_steps
        )
    for warning in caught:
        print(warning.message)
    steps = config.offline_steps + config.online_steps
    print(f"{checkpoint}: going on after {model.num_timesteps} of {steps} timesteps")
    return model


@contextmanager
def _evaluation(config: DictConfig, folder: Path) -> Iterator[list[BaseCallback]]:
    """Callbacks that evaluate while training; inside the block their process lives."""
    if not config.eval_freq:
        yield []
        return
    make_one = functools.partial(make_env, config.task.env)
    phase_ends = {config.offline_steps, config.offline_steps + config.online_steps}
    with BackgroundEvaluator(make_one, config.eval_episodes, config.eval_seed, config.processes) as evaluator:
        yield [PeriodicEvaluation(evaluator, config.eval_freq, phase_ends, folder / EVALUATIONS)]


def _resumed_config(folder: Path, overrides: list[str]) -> DictConfig:
    config = run_folder.read_config(folder)
    if "online_steps" not in config:
        raise ValueError(
            f"{folder}: {run_folder.CONFIG} has no online_steps: the run is of an earlier version, and its checkpoints "
            "do not hold all of it; expected a run of this version"
        )
    before = config.offline_steps
    for override in overrides:
        name, equals, _ = override.partition("=")
        if not equals or name.split(".")[0] in FIXED_OPTIONS:
            raise ValueError(
                f"{override}: a resumed run stays as it was; only its length, evaluation and logging may change, "
                "such as offline_steps=2000000"
            )
    OmegaConf.set_struct(config, True)
    config.merge_with_dotlist(overrides)
    if config.offline_steps != before and config.online_steps and _timesteps(folder) > before:
        raise ValueError(
            f"offline_steps is {config.offline_steps}, but the run has gone on online after {before}; expected only "
            "online_steps to change now"
        )
    return config


def _timesteps(folder: Path) -> int:
    """That a run has learned by its newest checkpoint."""
    return run_folder.timesteps_of(_newest_checkpoint(folder))
