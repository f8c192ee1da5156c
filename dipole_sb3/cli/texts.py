"""Texts of ``--help``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dipole_sb3.cli.configuration import driving_names, suite_sentences, task_names


class CommandText(NamedTuple):
    """Help of one sub-command: a line for the list of commands, then the text before and after its options."""

    summary: str
    description: str
    details: Callable[[], str]


COMMAND = """\
Train a pair of flow policies on recorded data, and choose afterwards how greedily they act."""

COMMAND_EXAMPLES = """\
examples:
  dipole demo                                      learn from recorded data in minutes; pictures in runs/demo/
  dipole data make ogbench/cube-single-play        make OGBench's data set anew, without a download
  dipole train task=ogbench/cube-single-play       train on it
  dipole evaluate model=runs/FOLDER                return and success over greediness ω
  dipole summary runs/multirun/FOLDER              the table over runs, from their folders
  dipole curves runs/multirun/FOLDER               learning curves, mean and interval over seeds
  dipole benchmark suite=smoke                     every algorithm on the same data and episodes, one table
  dipole export runs/FOLDER robot.dipole           everything a robot needs to act, without torch
  dipole hub push runs/FOLDER USER/NAME            publish the model on the Hugging Face hub, with a card

`dipole COMMAND --help` says more about each."""

_TRAIN = """\
Trains on recorded data and leaves one folder per run: config.yaml, progress.csv, TensorBoard events,
checkpoints/, model.zip, and the evaluation over greediness ω (omega_sweep.csv, omega_sweep.png).

Ctrl-C saves the run; `dipole train resume=FOLDER` goes on with it, also after a crash."""

_EVALUATE = """\
Evaluates a trained model over greediness ω and candidates N, every cell on the same seeds, with 95 %
intervals; prints the table, and leaves it with its picture, omega_sweep.csv and .png, in a new folder,
RUN/evaluated/DATE."""


_BENCHMARK = """\
Trains every algorithm of a suite on each of its tasks, from the same data, several seeds as one, and evaluates
all on the same episodes. Leaves the table as in the paper with the paper's figures beside (table.md), every
evaluation (results.csv), aggregates with intervals by rliable, and learning curves.

Repeat the command to go on after Ctrl-C or a crash, or with more seeds or algorithms; other code or other
options are refused in a folder that has been begun."""


def _train_examples() -> str:
    tasks = "\n".join(f"  task={name}" for name in task_names())
    driving = ", ".join(driving_names())
    return f"""\
the options that matter most (`dipole train task=… --cfg job` shows all):
  task=NAME            what to learn, see below (reacher); task_id=1..5 chooses among OGBench's tasks
  offline_steps=N      gradient updates on the data; online_steps=N: environment steps after them
  n_envs=N             environments that are stepped online
  normalize=true       observations in the recorded data's own means and deviations
  seed=N; runs=R       R runs, of seeds N, N+1, …, that learn as one; each leaves its own folder
  algo.beta=X          temperature β of the weights σ(β·G + k); algo.shift=X is k
  algo.omega=X         greediness ω stored in the model; may be changed at any time later
  algo.device=cpu      cpu, cuda or auto
  episodes=N           of each cell of the evaluation that ends the run; 0: none
  checkpoint_freq=N    timesteps between checkpoints; checkpoint_minutes=M: minutes, beside these
  eval_freq=N          timesteps between evaluations
  loggers=[wandb]      also mlflow, trackio; loggers.wandb.project=NAME, …
  callbacks=optuna     pruning by a study; your own: +callbacks.NAME._target_=MODULE.CLASS, also +loggers
  run_dir=FOLDER       instead of runs/TASK/DATE-seedN
  resume=FOLDER        go on with a run; of the other options only those of its length, evaluation and
                       logging may be given again, e.g. online_steps=2000000
  resume=auto          begin the run in run_dir=FOLDER, or go on with it: the same command at every start,
                       for schedulers; SIGTERM and SIGUSR1 save the run and end it with status 75

  objective=return     what a job returns to a sweeper such as Optuna's (success, return, a column of the
                       log); objective_at.omega=X: in which cell
  engine=ray           in a Ray cluster: slots=N tasks at a time, gpus_per_task=X, cpus_per_task=N, address=A

tasks:
{tasks}
  task=driving/NAME    an agent that plans how a car drives on, with options of its own: pretrain.epochs=N,
                       finetune.method=dipole|awr|dppo, finetune.steps=N, omegas=[…], imitation=FOLDER, …
                       (`dipole train task=driving/highway-mix --cfg job` shows all); NAME is one of
                       {driving}

examples:
  dipole train task=reacher
  dipole train task=ogbench/cube-single-play task_id=2 seed=1
  dipole train task=reacher runs=8
  dipole train -m task=reacher seed=0,1,2 algo.beta=1,2
  dipole train task=custom task.dataset=mine.npz task.env=Pendulum-v1 algo.beta=2
  dipole train task=custom task.dataset=s3://bucket/hopper task.env=Hopper-v5
  dipole train resume=runs/reacher/2026-01-31_12-00-00-seed0"""


def _evaluate_examples() -> str:
    return """\
options:
  model=PATH           a run's folder, a model's .zip file, or a folder that holds runs; several times, or as
                       a pattern: all of them on the same episodes, with a table over them; a driving
                       agent's has scenes=NAME, split=NAME, num_plans=N and omegas instead of what follows
  omegas=[-1,0,2]      greediness; every value is reported
  candidates=[1,4]     actions drawn, of which the critic picks the best
  episodes=N           of each cell (50)
  eval_seed=N          of the first episode
  processes=N          at a time; all cores by default
  env=ID               another environment than the run's: a Gymnasium id or an ogbench/ name
  task=NAME            the same by the name of a task, e.g. task=ogbench/scene-play task_id=3
  out=FOLDER           where the table and the picture go
  engine=ray           each model a task in a Ray cluster; slots=N, address=A as for `dipole train`

examples:
  dipole evaluate model=runs/demo
  dipole evaluate model=runs/demo/model.zip omegas=[0,1,2,8] episodes=20
  dipole evaluate model=runs/reacher/seed0 model=runs/reacher/seed1"""


def _benchmark_examples() -> str:
    suites = "\n".join(f"  suite={name:<16} {about}" for name, about in suite_sentences().items())
    return f"""\
options:
  suite=NAME           what is compared, see below (smoke); or the path of a YAML file of your own
  algos=[dipole,iql]   instead of the suite's algorithms
  seeds=N              runs of each algorithm on each task, with seeds 0 to N−1
  out=FOLDER           instead of runs/benchmark/SUITE
  engine=ray           in a Ray cluster; slots=N, gpus_per_task=X, address=A as for `dipole train`
  any other            option of `dipole train`, for every run, e.g. offline_steps=100000 episodes=20

suites:
{suites}

examples:
  dipole benchmark suite=smoke
  dipole benchmark suite=smoke algos=[dipole,fql] seeds=5
  dipole benchmark suite=paper/ogbench algos=[dipole,ifql] algo.device=cuda"""


TRAIN = CommandText("train on recorded data", _TRAIN, _train_examples)
EVALUATE = CommandText("return and success over greediness ω", _EVALUATE, _evaluate_examples)
BENCHMARK = CommandText("several algorithms on several tasks: one table", _BENCHMARK, _benchmark_examples)
