"""The runs of one group: they learn as one, are saved and evaluated, each in its own folder."""

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

from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.vec_env import VecEnv

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.cli import hooks, pictures, run_folder, sweep
from dipole_sb3.cli.engine import Task, Tell
from dipole_sb3.cli.environments import frame_stack_of, task_env, training_env
from dipole_sb3.cli.interrupt import StopOnSignal, ends_with_status, exit_status
from dipole_sb3.cli.models import algorithm_of, new_model
from dipole_sb3.cli.periodic_evaluation import EVALUATIONS, PeriodicEvaluation
from dipole_sb3.cli.resuming import (
    AUTO,
    Resume,
    checkpoint_of,
    steps_of,
    table_of,
    unfinished,
)
from dipole_sb3.cli.runs import (
    Run,
    claim_folders,
)
from dipole_sb3.common.random_state import global_generators, restore_global_generators
from dipole_sb3.datasets import load_dataset, takes_spaces
from dipole_sb3.evaluation.background_evaluation import BackgroundEvaluator
from dipole_sb3.learning.callbacks import IterationCallback
from dipole_sb3.learning.checkpoints import ResumableCheckpoint, log_position
from dipole_sb3.learning.learn_together import learn_together
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.profiling import TrainingProfile


class Trained(NamedTuple):
    """The result of a finished training, for evaluation and pictures."""

    model: OfflineAlgorithm
    dataset: OfflineReplayBuffer
    loggers: list[KVWriter]
    """Those of the configuration; they are open until the evaluation has ended."""


def task_of(name: str, runs: Sequence[Run], asked: bool = False) -> Task:
    """What a cluster does with runs that learn as one: :func:`train_group`.

    :param name: what the task is called on the screen.
    :param asked: as in that function.
    """
    folders = [run.folder for run in runs]
    return Task(name, functools.partial(train_group, runs, asked), folders, folders)


def train_group(runs: Sequence[Run], asked: bool, tell: Tell) -> None:
    """Trains and evaluates runs that learn as one, from wherever they stand: the work of a cluster's task.

    :param asked: whether they were asked to go on by name: past a callback's end, and evaluated again if finished.
    """
    with ExitStack() as opened:
        claim_folders(runs, opened, may_be_used=True)
        opened.enter_context(ends_with_status())
        for run in runs if asked else ():
            if (run.folder / run_folder.MODEL).is_file() and not run_folder.is_being_replaced(run.folder):
                checkpoint_of(run.folder, resume=True)  # without one it would be learned anew
            (run.folder / run_folder.STOPPED).unlink(missing_ok=True)
        left = runs if asked else unfinished(runs)
        if left:
            trained = train(left, AUTO, tell=tell)
            tell("evaluating", 1.0)
            evaluate(left, trained)


def train(
    runs: Sequence[Run], resume: Resume = False, go_on_with: str | None = None, tell: Tell | None = None
) -> list[Trained]:
    """Trains (or continues to train) the models of runs that can learn together, and saves each as model.zip.

    :param runs: the runs of one group; they share one copy of the data set in memory.
    :param resume: whether to go on from the newest checkpoint in each folder.
    :param go_on_with: the command that a stopped training names; None: ``dipole train resume=…``.
    :param tell: is told how far they are.
    :return: one per run, in order.
    :raises SystemExit: stopped by a signal; the runs are saved as checkpoints, and the command to continue is printed.
    """
    config = runs[0].config
    with ExitStack() as opened, ExitStack() as opened_loggers:
        added = [hooks.made_hooks(each, resume, opened_loggers) for each in runs]
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
            elif resume != AUTO:
                # Who asks for it goes on where a callback had ended the training.
                (each.folder / run_folder.STOPPED).unlink(missing_ok=True)
            run_folder.write_config(each.folder, each.config)
            run_folder.write_dataset_facts(each.folder, dataset)
            position = None if checkpoint is None else log_position(checkpoint)
            verbose = 0 if index else config.algo.verbose  # the terminal shows the log of the first model only
            logger = run_folder.make_logger(each.folder, model.num_timesteps, position, verbose, added[index].loggers)
            model.set_logger(logger)
        _learn(models, runs, [each.callbacks for each in added], go_on_with, tell)
        opened_loggers.pop_all()  # the evaluation will close them
    for each, model in zip(runs, models, strict=True):
        if (table := table_of(each)) is not None:
            # Of the run before it went on; if this process is killed now, the new model must not seem evaluated.
            table.unlink(missing_ok=True)
        model.save(each.folder / run_folder.MODEL)
    return [Trained(model, dataset, each.loggers) for model, each in zip(models, added, strict=True)]


def evaluate(runs: Sequence[Run], trained: Sequence[Trained]) -> None:
    """Draws pictures and evaluates all models on the same episodes; each run's table is then in its folder."""
    config, dataset = runs[0].config, trained[0].dataset
    models = [each.model for each in trained]
    with closing_loggers(trained):
        if config.pictures:
            for each, model in zip(runs, models, strict=True):
                pictures.draw_training(model, dataset, each.folder, config.offline_steps)
        if config.episodes and config.task.env is not None:
            results = sweep.run(models, task_env(config.task), config, [each.folder for each in runs], dataset.metadata)
            for each_trained, result in zip(trained, results, strict=True):
                hooks.write_result(each_trained.loggers, result.rows, each_trained.model.num_timesteps)


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


def closing_loggers(trained: Sequence[Trained]) -> ExitStack:
    """Closes the loggers of runs at the end of the block."""
    opened = ExitStack()
    for each in trained:
        for logger in each.loggers:
            hooks.close_with(opened, logger)
    return opened


def _learn(
    models: Sequence[OfflineAlgorithm],
    runs: Sequence[Run],
    added: Sequence[hooks.AddedCallbacks],
    go_on_with: str | None,
    tell: Tell | None,
) -> None:
    """Trains to the end of both phases, or until a signal; each run until one of its added callbacks ends it."""
    config = runs[0].config
    steps = config.offline_steps + config.online_steps
    of_runs = zip(models, runs, added, strict=True)
    going = [(model, run, own) for model, run, own in of_runs if model.num_timesteps < steps_of(run)]
    if not going:
        return
    of_group = runs
    models, runs, added = zip(*going, strict=True)
    checkpoints = [
        ResumableCheckpoint(
            config.checkpoint_freq, run.folder / run_folder.CHECKPOINTS, save_minutes=config.checkpoint_minutes
        )
        for run in runs
    ]
    with StopOnSignal() as stop, _evaluations(runs) as evaluations:
        callbacks = [
            [*evaluation, checkpoint, stop.callback(), own]
            for evaluation, checkpoint, own in zip(evaluations, checkpoints, added, strict=True)
        ]
        if config.profile:
            # The profile of the first model contains the updates of all.
            callbacks[0].append(TrainingProfile(runs[0].folder / run_folder.PROFILE))
        if tell is not None:
            callbacks[0].append(ProgressTold(tell, steps))
        options: dict[str, Any] = {
            "log_interval": config.log_interval,
            "reset_num_timesteps": False,
            "progress_bar": sys.stdout.isatty() if config.progress_bar is None else config.progress_bar,
        }
        if len(models) == 1:
            models[0].learn(steps - models[0].num_timesteps, callbacks[0], **options)
        else:
            learn_together(models, [steps - model.num_timesteps for model in models], callbacks, **options)
        for model, run, own in zip(models, runs, added, strict=True):
            if own.ended:
                print(f"{run.folder}: a callback ended training after {model.num_timesteps} of {steps} timesteps")
                run_folder.write_stopped(run.folder, model.num_timesteps)
        if stop.stopped_by is not None:
            _stop(models, of_group, checkpoints, steps, go_on_with, stop.stopped_by)
    if stop.stopped_by is not None:
        # It came while the last evaluations ended: what follows the learning was not to begin either.
        _stop(models, of_group, checkpoints, steps, go_on_with, stop.stopped_by)
    if config.checkpoint_freq or config.checkpoint_minutes:
        # A finished run can be resumed with more steps.
        for checkpoint in checkpoints:
            checkpoint.save()


class ProgressTold(IterationCallback):
    """Tells after each iteration how far a model is.

    :param tell: told the part that is done.
    :param steps: timesteps of the whole training.
    """

    def __init__(self, tell: Tell, steps: int) -> None:
        super().__init__()
        self._tell, self._steps = tell, steps

    def _on_iteration_end(self) -> bool:
        done = self.model.num_timesteps
        self._tell(f"{done} of {self._steps} timesteps", done / self._steps)
        return True


def _stop(
    models: Sequence[OfflineAlgorithm],
    runs: Sequence[Run],
    checkpoints: Sequence[ResumableCheckpoint],
    steps: int,
    go_on_with: str | None,
    by: signal.Signals,
) -> NoReturn:
    """Saves what has learned, says how to go on, and ends the process with the signal's status.

    :param models: that were still learning.
    :param runs: of the whole group: those that had learned enough before are not saved as models, nor evaluated yet.
    """
    print()
    for model, checkpoint in zip(models, checkpoints, strict=True):
        print(f"Stopped after {model.num_timesteps} of {steps} timesteps; saved {checkpoint.save()}")
    command = go_on_with or f"dipole train {shlex.join(f'resume={run.folder}' for run in runs)}"
    print(f"Go on with\n  {command}", flush=True)
    raise SystemExit(exit_status(by))


def _load_data(config: DictConfig, env: VecEnv | None) -> OfflineReplayBuffer:
    options: dict[str, Any] = {"frame_stack": frame_stack_of(config.task)}
    if config.task.get("dataset_dir") is not None:
        options["dataset_dir"] = config.task.dataset_dir
    if env is not None and takes_spaces(config.task.dataset):
        # They contain actions in the environment's units, and only the environment knows their bounds.
        of_frames = env.observation_space if options["frame_stack"] == 1 else env.get_attr("frame_space", [0])[0]
        options |= {"observation_space": of_frames, "action_space": env.action_space}
    return load_dataset(config.task.dataset, device=config.algo.device, **options)


def _new_model(config: DictConfig, env: VecEnv | None, dataset: OfflineReplayBuffer, quiet: bool) -> OfflineAlgorithm:
    arguments = {"env": env, "dataset": dataset, "seed": config.seed, "offline_steps": config.offline_steps}
    arguments |= {"verbose": 0} if quiet else {}
    model = new_model(config.algo, **arguments)
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
