"""``dipole train``: one run, one folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import hydra.utils
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor

from dipole_sb3.buffers import OfflineReplayBuffer
from dipole_sb3.cli import hydra_command, pictures, run_folder, sweep
from dipole_sb3.cli.interrupt import StopOnSignal
from dipole_sb3.cli.options import TrainOptions, check_options
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
        pictures.draw_training(trained.model, trained.dataset, folder)
    if config.episodes and config.task.env is not None:
        result = sweep.run(trained.model, config.task.env, config, folder, trained.dataset.metadata)
        print(f"\n{format_sweep_table(result)}")
        sweep.print_target(config.task, config.get("task_id"))
    print(f"\nThis run is in {folder}/")


def train(config: DictConfig, folder: Path, resume: bool = False) -> Trained:
    """Trains (or goes on training) the model of a configuration and saves it as model.zip.

    :raises SystemExit: stopped by a signal; the model is saved as a checkpoint, and how to go on is printed.
    """
    check_options(config, TrainOptions)
    pictures.require_matplotlib(config)
    if config.eval_freq and config.task.env is None:
        raise ValueError(f"eval_freq is {config.eval_freq}, but the task has no environment; give task.env=ID")
    if not resume and not config.replace:
        run_folder.require_unused(folder)
    env = make_env(config.task.env) if config.task.env is not None else None
    dataset = _load_data(config, env)
    model = _load_model(config, folder, env, dataset) if resume else _new_model(config, env, dataset)
    if not resume:
        run_folder.clear(folder)
    run_folder.write_config(folder, config)
    run_folder.write_dataset_facts(folder, dataset.metadata)
    model.set_logger(run_folder.make_logger(folder, model.num_timesteps, config.algo.verbose))

    remaining = config.steps - model.num_timesteps
    if remaining > 0:
        with StopOnSignal() as stop:
            model.learn(
                remaining,
                callback=[*_callbacks(config, folder), stop],
                log_interval=config.log_interval,
                reset_num_timesteps=False,
                progress_bar=sys.stdout.isatty() if config.progress_bar is None else config.progress_bar,
            )
        if stop.stopped_by is not None and model.num_timesteps < config.steps:
            _save_and_say_how_to_resume(model, folder, config.steps)
            raise SystemExit(128 + stop.stopped_by)
    model.save(folder / run_folder.MODEL)
    return Trained(model, dataset)


def _load_data(config: DictConfig, env: gymnasium.Env[Any, Any] | None) -> OfflineReplayBuffer:
    options: dict[str, Any] = {}
    if config.task.get("dataset_dir") is not None:
        options["dataset_dir"] = config.task.dataset_dir
    if env is not None and is_file_name(config.task.dataset):
        # Files hold actions in the environment's units, whose bounds only the environment knows.
        options |= {"observation_space": env.observation_space, "action_space": env.action_space}
    return load_dataset(config.task.dataset, device=config.algo.device, **options)


def _new_model(config: DictConfig, env: gymnasium.Env[Any, Any] | None, dataset: OfflineReplayBuffer) -> DIPOLE:
    arguments = {"env": env, "dataset": dataset, "seed": config.seed, "offline_steps": config.steps}
    model: DIPOLE = hydra.utils.instantiate(config.algo, **arguments, _convert_="all")
    return model


def _load_model(
    config: DictConfig, folder: Path, env: gymnasium.Env[Any, Any] | None, dataset: OfflineReplayBuffer
) -> DIPOLE:
    checkpoint = run_folder.newest_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(
            f"{folder}: no model.zip and no checkpoint in {run_folder.CHECKPOINTS}/ to go on from; start it anew"
        )
    algorithm: Any = get_class(config.algo["_target_"])
    model: DIPOLE = algorithm.load(
        checkpoint, env=env, device=config.algo.device, dataset=dataset, offline_steps=config.steps
    )
    print(f"{checkpoint}: going on after {model.num_timesteps} of {config.steps} updates")
    return model


def _callbacks(config: DictConfig, folder: Path) -> list[BaseCallback]:
    callbacks: list[BaseCallback] = []
    if config.checkpoint_freq:
        callbacks.append(
            CheckpointCallback(
                config.checkpoint_freq, str(folder / run_folder.CHECKPOINTS), name_prefix=run_folder.CHECKPOINT_PREFIX
            )
        )
    if config.eval_freq:
        callbacks.append(
            EvalCallback(
                Monitor(make_env(config.task.env)),
                eval_freq=config.eval_freq,
                n_eval_episodes=config.eval_episodes,
                log_path=str(folder / "evaluations"),
                deterministic=False,
            )
        )
    return callbacks


def _save_and_say_how_to_resume(model: DIPOLE, folder: Path, steps: int) -> None:
    path = run_folder.checkpoint_path(folder, model.num_timesteps)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    print(
        f"\nStopped after {model.num_timesteps} of {steps} updates; saved {path}. Go on with\n"
        f"  dipole train {shlex.quote(f'resume={folder}')}",
        flush=True,
    )


def _resumed_config(folder: Path, overrides: list[str]) -> DictConfig:
    config = run_folder.read_config(folder)
    for override in overrides:
        name, equals, _ = override.partition("=")
        if not equals or name.split(".")[0] in FIXED_OPTIONS:
            raise ValueError(
                f"{override}: a resumed run stays as it was; only its length, evaluation and logging may change, "
                "such as steps=2000000"
            )
    OmegaConf.set_struct(config, True)
    config.merge_with_dotlist(overrides)
    return config
