"""``dipole train``: every run has its own folder; runs that can learn together do so."""

from __future__ import annotations

import functools
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hydra.utils
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.cli import driving, hydra_command, pictures, run_folder, shared_machine, summary, sweep
from dipole_sb3.cli.configuration import is_tuned
from dipole_sb3.cli.environments import task_env, training_env
from dipole_sb3.cli.interrupt import StopOnSignal, ends_with_status, exit_status
from dipole_sb3.cli.models import algorithm_of
from dipole_sb3.cli.options import check_hyperparameters, check_knobs
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, PeriodicEvaluation
from dipole_sb3.cli.resuming import (
    AUTO,
    Resume,
    checkpoint_of,
    require_named_folders,
    resumed_config,
    table_of,
    unfinished,
)
from dipole_sb3.cli.runs import (
    Run,
    claim_folders,
    distinguished,
    require_different,
    resumed,
    runs_of,
    settings,
    stackable_groups,
)
from dipole_sb3.common.random_state import global_generators, restore_global_generators
from dipole_sb3.datasets import load_dataset, takes_spaces
from dipole_sb3.evaluation.background_evaluation import BackgroundEvaluator
from dipole_sb3.learning.checkpoints import ResumableCheckpoint, log_position
from dipole_sb3.learning.learn_together import learn_together
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.profiling import TrainingProfile


class Trained(NamedTuple):
    """The result of a finished training, for evaluation and pictures."""

    model: OfflineAlgorithm
    dataset: OfflineReplayBuffer


def run(arguments: list[str]) -> int:
    """``dipole train``; resuming does not need Hydra, because the configuration is already resolved."""
    if driving.is_asked_for(arguments):
        return driving.train_command(arguments)
    resume = [argument for argument in arguments if argument.startswith("resume=")]
    how: Resume = AUTO if resume == [f"resume={AUTO}"] else False
    if how == AUTO:
        arguments = [argument for argument in arguments if argument not in resume]
    elif resume:
        folders = [Path(argument.removeprefix("resume=")) for argument in resume]
        others = [argument for argument in arguments if argument not in resume]
        train_and_evaluate([resumed(resumed_config(folder, others), folder) for folder in folders], resume=True)
        return 0
    runs: list[Run] = []

    # Hydra runs its jobs one after the other, but all runs must be known before runs can learn together. So the jobs
    # only collect the runs. (A custom launcher would have to be in the package hydra_plugins, which every Hydra program
    # loads.)
    untuned: set[tuple[str, str]] = set()

    def collect(config: DictConfig, folder: Path) -> None:
        algorithm, task = chosen = hydra_command.choices()
        if task != "custom" and not is_tuned(algorithm, task) and chosen not in untuned:
            untuned.add(chosen)
            print(
                f"{algorithm} has no hyperparameters of its own for {task}: those of configs/algo/{algorithm}.yaml hold"
            )
        alone, named = hydra_command.job_stands_alone(), hydra_command.folder_was_named()
        sweep_folder = None if alone else hydra_command.sweep_folder()
        asked = runs_of(config, folder, hydra_command.overrides(), sweep_folder, named)
        if alone:
            train_and_evaluate(asked, how)
        else:
            runs.extend(asked)

    hydra_command.run("train", collect, arguments)
    if runs:
        train_and_evaluate(runs, how)
    return 0


def train_and_evaluate(runs: Sequence[Run], resume: Resume = False) -> None:
    """Trains and evaluates any number of runs, in groups that can learn together, and prints a summary of all.

    No other process can write their folders meanwhile.

    :raises ValueError: the options of a run are not valid, or its folder is in use; no run has started then.
    :raises SystemExit: stopped by a signal; the models are saved.
    """
    runs = distinguished(runs)
    require_startable(runs)
    if resume == AUTO:
        require_named_folders(runs)
    with ExitStack() as opened:
        runs = claim_folders(runs, opened, may_be_used=bool(resume))
        opened.enter_context(ends_with_status())
        if resume == AUTO:
            runs = unfinished(runs)
        if runs:
            _train_and_evaluate(runs, resume)


def _train_and_evaluate(runs: Sequence[Run], resume: Resume) -> None:
    if get_device(runs[0].config.algo.device).type == "cpu" and (hint := shared_machine.hint()):
        print(hint)
    groups, order = stackable_groups(runs), {each.folder: index for index, each in enumerate(runs)}
    finished: list[summary.Finished] = []
    for number, group in enumerate(groups, start=1):
        if len(runs) > 1:
            print(f"Training {_described(group)}{f', group {number} of {len(groups)}' if len(groups) > 1 else ''}")
            if len(group) > 1 and group[0].config.algo.verbose:
                print(f"The log of {group[0].folder}/ is shown, that of each is in its {run_folder.PROGRESS}")
        try:
            trained = train(group, resume)
        except SystemExit:
            for waiting in groups[number:]:
                for of_setting in settings(waiting).values():
                    print(f"Not begun: {_described(of_setting)}")
            raise
        try:
            finished += evaluate(group, trained)
        except Exception:
            saved = " and ".join(str(each.folder / run_folder.MODEL) for each in group)
            print(f"dipole: the evaluation failed; all that was learned is in {saved}", file=sys.stderr)
            raise
        del trained  # frees memory for the next group
    # Grouping may have changed the order of the runs.
    summary.report(sorted(finished, key=lambda each: order[each.run.folder]))


def require_startable(runs: Sequence[Run]) -> None:
    """Refuses all runs if the options of one of them are not valid.

    :raises ValueError: the message names the option.
    """
    for each in runs:
        pictures.require_matplotlib(each.config)
        algorithm = algorithm_of(each.config)
        check_knobs(each.config, algorithm.__name__, algorithm.knobs())
        check_hyperparameters(each.config, algorithm.update_rule.objective)
        _require_env_where_needed(each.config)
    require_different(runs)


def train(runs: Sequence[Run], resume: Resume = False, go_on_with: str | None = None) -> list[Trained]:
    """Trains (or continues to train) the models of runs that can learn together, and saves each as model.zip.

    :param runs: the runs of one group; they share one copy of the data set in memory.
    :param resume: whether to go on from the newest checkpoint in each folder.
    :param go_on_with: the command that a stopped training names; None: ``dipole train resume=…``.
    :return: one per run, in order.
    :raises SystemExit: stopped by a signal; the runs are saved as checkpoints, and the command to continue is printed.
    """
    config = runs[0].config
    with ExitStack() as opened:
        envs = [_open_env(config, opened) for _ in runs]
        dataset = shared = _load_data(config, envs[0])
        models: list[OfflineAlgorithm] = []
        checkpoints = [checkpoint_of(each.folder, resume) for each in runs]
        for each, env, checkpoint in zip(runs, envs, checkpoints, strict=True):
            if checkpoint is not None:
                models.append(_load_model(each.config, checkpoint, env, shared))
            else:
                models.append(_new_model(each.config, env, shared, quiet=bool(models)))
            # The next model uses the data set as this one has adapted it, e.g. with channels first.
            shared = models[-1].dataset
        for index, (each, model, checkpoint) in enumerate(zip(runs, models, checkpoints, strict=True)):
            if checkpoint is None:
                run_folder.clear(each.folder)
            run_folder.write_config(each.folder, each.config)
            run_folder.write_dataset_facts(each.folder, dataset)
            position = None if checkpoint is None else log_position(checkpoint)
            verbose = 0 if index else config.algo.verbose  # the terminal shows the log of the first model only
            model.set_logger(run_folder.make_logger(each.folder, model.num_timesteps, position, verbose))
        _learn(models, runs, go_on_with)
    for each, model in zip(runs, models, strict=True):
        if (table := table_of(each)) is not None:
            # Of the run before it went on; if this process is killed now, the new model must not seem evaluated.
            table.unlink(missing_ok=True)
        model.save(each.folder / run_folder.MODEL)
    return [Trained(model, dataset) for model in models]


def _open_env(config: DictConfig, opened: ExitStack) -> VecEnv | None:
    if config.task.env is None:
        return None
    if config.task.get("success") is not None:
        # A wrong key would else be noticed by the evaluation that ends the run.
        with closing(task_env(config.task)()) as tried:
            if tried.spec is None or not tried.spec.nondeterministic:  # what cannot be repeated may be a robot
                tried.reset(seed=0)
                tried.step(tried.action_space.sample())
    n_envs = config.n_envs if config.online_steps else 1
    env = training_env(task_env(config.task), n_envs, config.normalize)
    opened.callback(env.close)
    return env


def _described(group: Sequence[Run]) -> str:
    """Describes a group in one line for the terminal."""
    found = settings(group)
    of = " ".join(group[0].setting) if len(found) == 1 else f"{len(found)} settings"
    seeds = ", ".join(map(str, sorted({each.config.seed for each in group})))
    return f"{len(group)} {'run' if len(group) == 1 else 'runs'} ({f'{of}, ' if of else ''}seed {seeds})"


def evaluate(runs: Sequence[Run], trained: Sequence[Trained]) -> list[summary.Finished]:
    """Draws pictures and evaluates all models on the same episodes."""
    config, dataset = runs[0].config, trained[0].dataset
    models = [each.model for each in trained]
    if config.pictures:
        for each, model in zip(runs, models, strict=True):
            pictures.draw_training(model, dataset, each.folder, config.offline_steps)
    if not config.episodes or config.task.env is None:
        return [summary.Finished(each, None) for each in runs]
    results = sweep.run(models, task_env(config.task), config, [each.folder for each in runs], dataset.metadata)
    return [summary.Finished(each, result) for each, result in zip(runs, results, strict=True)]


def _require_env_where_needed(config: DictConfig) -> None:
    if config.offline_steps + config.online_steps == 0:
        raise ValueError("offline_steps and online_steps are both 0, expected at least 1 step")
    for option in ("online_steps", "eval_freq", "normalize"):
        if config[option] and config.task.env is None:
            raise ValueError(f"{option} is {config[option]}, but the task has no environment; give task.env=ID")


def _learn(models: Sequence[OfflineAlgorithm], runs: Sequence[Run], go_on_with: str | None) -> None:
    """Trains to the end of both phases, or until a signal."""
    config = runs[0].config
    steps = config.offline_steps + config.online_steps
    going = [(model, run) for model, run in zip(models, runs, strict=True) if model.num_timesteps < steps]
    if not going:
        return
    models, runs = zip(*going, strict=True)
    checkpoints = [
        ResumableCheckpoint(
            config.checkpoint_freq, run.folder / run_folder.CHECKPOINTS, save_minutes=config.checkpoint_minutes
        )
        for run in runs
    ]
    with StopOnSignal() as stop, _evaluations(runs) as evaluations:
        callbacks = [
            [*evaluation, checkpoint, stop.callback()]
            for evaluation, checkpoint in zip(evaluations, checkpoints, strict=True)
        ]
        if config.profile:
            # The profile of the first model contains the updates of all.
            callbacks[0].append(TrainingProfile(runs[0].folder / run_folder.PROFILE))
        options: dict[str, Any] = {
            "log_interval": config.log_interval,
            "reset_num_timesteps": False,
            "progress_bar": sys.stdout.isatty() if config.progress_bar is None else config.progress_bar,
        }
        if len(models) == 1:
            models[0].learn(steps - models[0].num_timesteps, callbacks[0], **options)
        else:
            learn_together(models, [steps - model.num_timesteps for model in models], callbacks, **options)
        if stop.stopped_by is not None:
            _stop(models, runs, checkpoints, steps, go_on_with, stop.stopped_by)
    if stop.stopped_by is not None:
        # It came while the last evaluations ended: what follows the learning was not to begin either.
        _stop(models, runs, checkpoints, steps, go_on_with, stop.stopped_by)
    if config.checkpoint_freq or config.checkpoint_minutes:
        # A finished run can be resumed with more steps.
        for checkpoint in checkpoints:
            checkpoint.save()


def _stop(
    models: Sequence[OfflineAlgorithm],
    runs: Sequence[Run],
    checkpoints: Sequence[ResumableCheckpoint],
    steps: int,
    go_on_with: str | None,
    by: signal.Signals,
) -> NoReturn:
    """Saves what has learned, says how to go on, and ends the process with the signal's status."""
    print()
    for model, checkpoint in zip(models, checkpoints, strict=True):
        print(f"Stopped after {model.num_timesteps} of {steps} timesteps; saved {checkpoint.save()}")
    command = go_on_with or f"dipole train {shlex.join(f'resume={run.folder}' for run in runs)}"
    print(f"Go on with\n  {command}", flush=True)
    raise SystemExit(exit_status(by))


def _load_data(config: DictConfig, env: VecEnv | None) -> OfflineReplayBuffer:
    options: dict[str, Any] = {}
    if config.task.get("dataset_dir") is not None:
        options["dataset_dir"] = config.task.dataset_dir
    if env is not None and takes_spaces(config.task.dataset):
        # They contain actions in the environment's units, and only the environment knows their bounds.
        options |= {"observation_space": env.observation_space, "action_space": env.action_space}
    return load_dataset(config.task.dataset, device=config.algo.device, **options)


def _new_model(config: DictConfig, env: VecEnv | None, dataset: OfflineReplayBuffer, quiet: bool) -> OfflineAlgorithm:
    arguments = {"env": env, "dataset": dataset, "seed": config.seed, "offline_steps": config.offline_steps}
    arguments |= {"verbose": 0} if quiet else {}
    model: OfflineAlgorithm = hydra.utils.instantiate(config.algo, **arguments, _convert_="all")
    model.verbose = config.algo.verbose
    # Each model seeds the global generators; with several, each must start training from the state it would have alone.
    model.when_learning_begins(functools.partial(restore_global_generators, global_generators()))
    return model


def _load_model(
    config: DictConfig, checkpoint: Path, env: VecEnv | None, dataset: OfflineReplayBuffer
) -> OfflineAlgorithm:
    with warnings.catch_warnings(record=True) as caught:
        model = algorithm_of(config).resume(
            checkpoint, env=env, dataset=dataset, device=config.algo.device, offline_steps=config.offline_steps
        )
    for warning in caught:
        print(warning.message)
    steps = config.offline_steps + config.online_steps
    print(f"{checkpoint}: going on after {model.num_timesteps} of {steps} timesteps")
    return model


@contextmanager
def _evaluations(runs: Sequence[Run]) -> Iterator[list[list[BaseCallback]]]:
    """The callbacks of each run that evaluate during training; they share one process, which ends with the block."""
    config = runs[0].config
    if not config.eval_freq:
        yield [[] for _ in runs]
        return
    make_one = task_env(config.task)
    phase_ends = {config.offline_steps, config.offline_steps + config.online_steps}
    with BackgroundEvaluator(make_one, config.eval_episodes, config.eval_seed, config.processes) as evaluator:
        yield [[PeriodicEvaluation(evaluator, config.eval_freq, phase_ends, run.folder / EVALUATIONS)] for run in runs]
