"""The configuration tree against the paper's tables, written down here a second time on purpose."""

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dipole_sb3.algorithms.dipole.policies import OMEGA
from dipole_sb3.cli.configuration import config_folder, option_names, paper_target, task_names

OGBENCH = """
humanoidmaze-medium-navigate  1    0    0.99   0.9  4  min   1
humanoidmaze-large-navigate   1    0    0.995  0.9  8  min   1
antsoccer-arena-navigate      1    0    0.995  0.9  4  min   4
cube-single-play              0.5  1    0.99   0.9  2  mean  2
cube-double-play              0.5  0.5  0.99   0.9  2  min   2
scene-play                    1    1    0.99   0.9  2  mean  2
"""
"""Table 6: β, k, γ, expectile, N; Table 5: how the two critics are joined; the default task of the domain."""

EXORL = """
walker-walk           3.5  -2  0.95  910
walker-stand          4.5  -2  0.99  953
walker-run            4.5  -2  0.9   442
quadruped-walk        3     0  0.9   928
quadruped-run         4    -2  0.9   657
jaco-reach-top-left   1     0  0.9   110
jaco-reach-top-right  1    -1  0.9   117
cheetah-run           4    -1  0.9   274
cheetah-run-backward  4    -1  0.9   350
"""
"""Table 6: β, k, expectile; Table 1: the return."""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def _tree() -> Iterator[None]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def train_config(*overrides: str) -> Any:
    return OmegaConf.to_container(compose("train", list(overrides)), resolve=False)


def hyperparameters(algo: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(algo[name] for name in names)


def check_general(config: dict[str, Any]) -> None:
    """Table 5's rows that hold everywhere."""
    algo = config["algo"]
    assert config["offline_steps"] == 1_000_000
    assert hyperparameters(algo, "learning_rate", "tau") == (3e-4, 0.005)
    assert algo["policy_kwargs"]["net_arch"] == [512, 512, 512]


@pytest.mark.parametrize("row", rows(OGBENCH), ids=lambda row: row[0])
def test_ogbench_rows(row: list[str]) -> None:
    domain, beta, shift, gamma, expectile, num_candidates, q_agg, default_task = row
    config = train_config(f"task=ogbench/{domain}")
    check_general(config)
    algo = config["algo"]
    assert hyperparameters(algo, "beta", "shift", "gamma", "expectile", "num_candidates", "q_agg") == (
        float(beta),
        float(shift),
        float(gamma),
        float(expectile),
        int(num_candidates),
        q_agg,
    )
    assert hyperparameters(algo, "batch_size", "flow_steps", "critic_target", "omega") == (256, 10, "policy", 0.5)
    network = {"activation_fn": "gelu-tanh", "actor_layer_norm": False, "time_features": 1}
    assert {key: algo["policy_kwargs"][key] for key in network} == network
    assert config["task_id"] == int(default_task)


@pytest.mark.parametrize("row", rows(EXORL), ids=lambda row: row[0])
def test_exorl_rows(row: list[str]) -> None:
    task, beta, shift, expectile, target = row
    config = train_config(f"task=exorl/{task}")
    check_general(config)
    algo = config["algo"]
    assert hyperparameters(algo, "beta", "shift", "expectile") == (float(beta), float(shift), float(expectile))
    assert hyperparameters(algo, "gamma", "num_candidates", "q_agg", "omega") == (0.99, 32, "min", 4.0)
    assert hyperparameters(algo, "batch_size", "flow_steps", "critic_target") == (512, 32, "value")
    network = {"activation_fn": "mish", "actor_layer_norm": True, "time_features": 16}
    assert {key: algo["policy_kwargs"][key] for key in network} == network
    resolved = OmegaConf.create(config)
    domain, _, behaviour = task.partition("-")
    assert resolved.task.dataset == resolved.task.env == f"exorl/{domain}/rnd/{behaviour}"
    phrase = paper_target("DIPOLE", resolved.task, None)
    assert phrase is not None
    assert phrase.startswith(f"return {target} ")
    # The paper's figures are for RND's recordings; another agent's are another task.
    other = OmegaConf.create(train_config(f"task=exorl/{task}", "task.algorithm=proto"))
    assert other.task.dataset == f"exorl/{domain}/proto/{behaviour}"
    assert paper_target("DIPOLE", other.task, None) is None


def test_every_task_is_in_a_table() -> None:
    expected = {f"ogbench/{row[0]}" for row in rows(OGBENCH)} | {f"exorl/{row[0]}" for row in rows(EXORL)}
    assert set(task_names()) == expected | {"reacher", "custom"}


@pytest.mark.parametrize("task_id", range(1, 6))
def test_task_id_chooses_data_and_environment(task_id: int) -> None:
    config = compose("train", ["task=ogbench/scene-play", f"task_id={task_id}"])
    assert config.task.dataset == config.task.env == f"ogbench/scene-play-singletask-task{task_id}-v0"
    assert config.task.name == f"scene-play-task{task_id}"


def test_ogbench_targets() -> None:
    averages = {"humanoidmaze-medium-navigate": 68, "humanoidmaze-large-navigate": 6, "antsoccer-arena-navigate": 57}
    averages |= {"cube-single-play": 97, "cube-double-play": 44, "scene-play": 60}
    targets = OmegaConf.load(config_folder() / "targets.yaml")
    targets = targets.dipole
    assert {domain: row.mean for domain, row in targets.ogbench_average.items()} == averages
    for domain, average in averages.items():
        # The aggregate is the mean of its own five rows, rounded.
        assert sum(targets.ogbench[domain].mean) / 5 == pytest.approx(average, abs=0.8)
    config = compose("train", ["task=ogbench/cube-double-play", "task_id=5"])
    assert paper_target("DIPOLE", config.task, 5) == "success 50 ± 8 % (8 seeds, ω not published)"


ONLINE = """
humanoidmaze-medium-navigate  61  97
antsoccer-arena-navigate      43  90
cube-double-play              41  89
scene-play                    97  100
"""
"""Table 3: success in percent after the offline and after the online million steps, on the domain's default task."""


@pytest.mark.parametrize("row", rows(ONLINE), ids=lambda row: row[0])
def test_targets_after_learning_online(row: list[str]) -> None:
    domain, offline, online = row
    config = compose("train", [f"task=ogbench/{domain}"])
    phrase = paper_target("DIPOLE", config.task, config.task_id, online=True)
    assert phrase is not None
    assert phrase.startswith(f"success {offline} ± ")
    assert f" after 1M offline steps, {online} ± " in phrase
    other = config.task_id % 5 + 1
    assert (
        paper_target("DIPOLE", compose("train", [f"task=ogbench/{domain}", f"task_id={other}"]).task, other, True)
        is None
    )


def test_no_target_where_the_paper_learned_offline_only() -> None:
    for task in ("ogbench/cube-single-play", "exorl/walker-run", "reacher"):
        config = compose("train", [f"task={task}"])
        assert paper_target("DIPOLE", config.task, config.get("task_id"), online=True) is None


def test_online_learning_makes_one_update_for_each_step() -> None:
    algo = train_config("task=reacher")["algo"]
    assert (algo["train_freq"], algo["gradient_steps"], algo["offline_ratio"]) == (1, -1, None)


def test_reacher_and_demo() -> None:
    config = train_config("task=reacher")
    names = ("beta", "shift", "gamma", "expectile", "critic_target", "q_agg", "flow_steps", "batch_size")
    assert hyperparameters(config["algo"], *names) == (2.0, 0.0, 0.98, 0.9, "policy", "min", 10, 256)
    assert config["algo"]["policy_kwargs"]["net_arch"] == [128, 128, 128]
    assert config["offline_steps"] == 8000
    demo = compose("demo")
    assert demo.task.dataset == "demo/reacher-tqc-10k"
    assert (demo.omegas, list(demo.candidates), demo.episodes) == (None, [1, 4], 50)
    assert list(OMEGA.swept) == [-1, 0, 0.5, 1, 2, 4]
    assert demo.run_dir == "runs/demo"


def test_the_cubes_demo_has_sizes_of_its_own_and_the_tasks_hyperparameters() -> None:
    demo = compose("demo", ["task=ogbench/cube-single-play"])
    assert (demo.task_id, demo.run_dir, demo.made_episodes, demo.offline_steps) == (2, "runs/cube-demo", 200, 50_000)
    assert demo.task.dataset == "ogbench/cube-single-play-singletask-task2-v0"
    assert hyperparameters(demo.algo, "beta", "shift", "num_candidates", "q_agg") == (0.5, 1.0, 2, "mean")
    assert list(demo.algo.policy_kwargs.net_arch) == [256, 256, 256]
    # What a user says counts more.
    assert compose("demo", ["task=ogbench/cube-single-play", "offline_steps=7"]).offline_steps == 7
    # A task without a file has the sizes of training.
    assert compose("demo", ["task=ogbench/scene-play", "task_id=1"]).offline_steps == 1_000_000


def test_evaluate_takes_a_task() -> None:
    config = compose("evaluate", ["model=a.zip", "task=ogbench/cube-single-play", "task_id=3"])
    assert config.task.env == "ogbench/cube-single-play-singletask-task3-v0"


def test_option_names_are_those_of_the_tree() -> None:
    assert {"algo.beta", "algo.policy_kwargs.net_arch", "offline_steps", "omegas", "task"} <= set(option_names())
    assert not any(name.startswith("hydra") for name in option_names())
