"""The configuration tree against the paper's tables, written down here a second time on purpose."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose
from omegaconf import OmegaConf

import dipole_sb3
from dipole_sb3.algorithms.dipole.policies import OMEGA
from dipole_sb3.cli.configuration import (
    algorithm_names,
    config_folder,
    is_tuned,
    open_configuration_tree,
    option_names,
    paper_target,
    task_names,
)

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


EXORL_NETWORK = {"activation_fn": "mish", "norm_order": "before", "actor_layer_norm": 2, "actor_output_init": "lecun"}
EXORL_NETWORK |= {"time_features": 16, "time_frequencies": [math.sqrt(10), 10_000], "time_grid": 32}
"""CFGRL's published code, on which the paper's ExORL runs are built."""

FQL_PAPER = """
humanoidmaze-medium-navigate  0.995  10   512  0.01  0.01  0.7  512  32  30
humanoidmaze-large-navigate   0.995  10   512  0.01  0.01  0.7  512  32  30
antsoccer-arena-navigate      0.995  1    512  0.01  0.01  0.7  512  64  10
cube-single-play              0.99   1    256  1     0     0.9  256  32  300
cube-double-play              0.99   0.3  256  0.1   0     0.9  256  32  300
scene-play                    0.99   10   256  0.1   0.01  0.9  256  32  300
"""
"""arXiv 2502.02538, tables 6, 7: γ; IQL's α, width; ReBRAC's α₁, α₂; IDQL's τ, width of values; IFQL's N; FQL's α."""


VISUAL = """
visual-cube-single-play  300
visual-cube-double-play  100
visual-scene-play        100
visual-puzzle-3x3-play   300
visual-puzzle-4x4-play   300
"""
"""FQL's α in the commands that its authors publish (github.com/seohongpark/fql)."""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def _tree() -> Iterator[None]:
    with open_configuration_tree():
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
    assert {key: algo["policy_kwargs"][key] for key in EXORL_NETWORK} == EXORL_NETWORK
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


@pytest.mark.parametrize("row", rows(FQL_PAPER), ids=lambda row: row[0])
def test_rows_of_the_other_algorithms(row: list[str]) -> None:
    domain, *numbers = row
    gamma, alpha, width, actor_bc, critic_bc, expectile, of_values, candidates, fql = map(float, numbers)

    def algo(name: str) -> Any:
        config = train_config(f"task=ogbench/{domain}", f"algo={name}")
        assert hyperparameters(config["algo"], "gamma", "learning_rate", "tau") == (gamma, 3e-4, 0.005)
        assert config["offline_steps"] == (3_000_000 if name == "idql" else 1_000_000)
        return config["algo"]

    iql = algo("iql")
    assert (iql["alpha"], iql["policy_kwargs"]["net_arch"], iql["expectile"]) == (alpha, [int(width)] * 4, 0.9)
    rebrac = algo("rebrac")
    assert hyperparameters(rebrac, "actor_bc_coef", "critic_bc_coef", "policy_delay") == (actor_bc, critic_bc, 2)
    assert hyperparameters(rebrac, "target_policy_noise", "target_noise_clip", "batch_size") == (0.2, 0.5, 256)
    idql = algo("idql")
    assert hyperparameters(idql, "expectile", "num_candidates", "batch_size") == (expectile, 32, 512)
    arch = idql["policy_kwargs"]["net_arch"] or {"pi": [256] * 3, "qf": [256] * 2}
    assert arch == {"pi": [256] * 3, "qf": [int(of_values)] * 2}
    assert idql["policy_kwargs"]["value_steps"] == 1_500_000
    ifql = algo("ifql")
    assert (ifql["num_candidates"], ifql["policy_kwargs"]["net_arch"]) == (int(candidates), [512] * 4)
    of_fql = algo("fql")
    assert hyperparameters(of_fql, "alpha", "q_agg", "flow_steps", "normalize_q_loss") == (fql, "mean", 10, False)


@pytest.mark.parametrize("row", rows(VISUAL), ids=lambda row: row[0])
def test_visual_rows(row: list[str]) -> None:
    task = f"ogbench/{row[0]}"
    for name in algorithm_names():
        config = compose("train", [f"task={task}", f"algo={name}"])
        assert (config.offline_steps, config.task.frame_stack, config.task_id) == (500_000, 3, 1)
        assert hyperparameters(config.algo, "policy", "batch_size", "random_crop") == ("CnnPolicy", 256, 0.5)
        assert config.algo.policy_kwargs.features_extractor_class == "impala-small"
        assert config.task.dataset == config.task.env == f"ogbench/{row[0]}-singletask-task1-v0"
        published = name == "fql" or (name in ("iql", "ifql", "rebrac") and row[0] == "visual-cube-single-play")
        assert is_tuned(name, task) == published
    fql = train_config(f"task={task}", "algo=fql")["algo"]
    assert hyperparameters(fql, "alpha", "gamma", "q_agg") == (float(row[1]), 0.99, "mean")
    assert fql["policy_kwargs"]["net_arch"] == [512] * 4


def test_the_visual_row_of_the_other_algorithms() -> None:
    iql, ifql, rebrac = (
        train_config("task=ogbench/visual-cube-single-play", f"algo={name}")["algo"]
        for name in ("iql", "ifql", "rebrac")
    )
    assert (iql["alpha"], ifql["num_candidates"], rebrac["actor_bc_coef"], rebrac["critic_bc_coef"]) == (1, 32, 1, 0)
    assert all(each["policy_kwargs"]["net_arch"] == [512] * 4 for each in (iql, ifql, rebrac))


@pytest.mark.parametrize("row", rows(EXORL), ids=lambda row: row[0])
def test_exorl_rows_of_cfgrl_and_iql(row: list[str]) -> None:
    cfgrl = train_config(f"task=exorl/{row[0]}", "algo=cfgrl")["algo"]
    assert hyperparameters(cfgrl, "batch_size", "flow_steps", "expectile", "gamma") == (1024, 32, 0.9, 0.99)
    assert {key: cfgrl["policy_kwargs"][key] for key in EXORL_NETWORK} == EXORL_NETWORK
    iql = train_config(f"task=exorl/{row[0]}", "algo=iql")["algo"]
    assert (iql["batch_size"], iql["policy_kwargs"]["norm_order"]) == (1024, "before")


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("name", algorithm_names())
def test_every_algorithm_takes_what_its_configuration_for_every_task_says(name: str, task: str) -> None:
    options = ["task.dataset=x", "task.env=y"] if task == "custom" else []
    config = compose("train", [f"algo={name}", f"task={task}", *options])
    arguments: Any = OmegaConf.to_container(config.algo, resolve=True)
    kind = getattr(dipole_sb3, arguments.pop("_target_").rpartition(".")[2])
    of_policy = arguments.pop("policy_kwargs")
    assert arguments.keys() <= inspect.signature(kind).parameters.keys()
    known: set[str] = set()
    for part in kind.policy_aliases["MlpPolicy"].__mro__:
        known |= inspect.signature(part.__init__).parameters.keys()
    assert of_policy.keys() <= known
    assert kind.__name__.lower() == name


@pytest.mark.parametrize(
    ("algorithm", "task", "task_id", "expected"),
    [
        (
            "FQL",
            "ogbench/cube-double-play",
            2,
            "success 36 % (8 seeds, mean of the evaluations after 0.8, 0.9 and 1 million updates)",
        ),
        (
            "IDQL",
            "ogbench/scene-play",
            3,
            "success 94 % (8 seeds, mean of the evaluations after 2.5, 2.75 and 3 million updates)",
        ),
        ("CFGRL", "exorl/walker-run", None, "return 282 ± 6 (4 seeds, best of a sweep)"),
        ("FQL", "exorl/walker-run", None, "return 294 ± 11 (8 seeds)"),
        ("CFGRL", "ogbench/scene-play", 2, None),
        ("FAWAC", "ogbench/scene-play", 2, None),
    ],
)
def test_targets_of_the_other_algorithms(algorithm: str, task: str, task_id: int | None, expected: str | None) -> None:
    options = [] if task_id is None else [f"task_id={task_id}"]
    assert paper_target(algorithm, compose("train", [f"task={task}", *options]).task, task_id) == expected


def test_averages_of_the_other_algorithms() -> None:
    """The means of the rows are those of the paper's Table 2 (in which ReBRAC's 22 is printed as 2)."""
    averages = {"iql": (33, 2, 8, 83, 7, 28), "rebrac": (22, 2, 0, 91, 12, 41), "idql": (1, 1, 12, 95, 15, 46)}
    averages |= {"ifql": (60, 11, 33, 79, 14, 30), "fql": (58, 4, 60, 96, 29, 56)}
    targets = OmegaConf.load(config_folder() / "targets.yaml")
    for name, of_domains in averages.items():
        for row, average in zip(rows(OGBENCH), of_domains, strict=True):
            assert sum(targets[name].ogbench[row[0]].mean) / 5 == pytest.approx(average, abs=0.8)


def test_every_task_is_in_a_table() -> None:
    expected = {f"ogbench/{row[0]}" for row in rows(OGBENCH) + rows(VISUAL)} | {
        f"exorl/{row[0]}" for row in rows(EXORL)
    }
    assert set(task_names()) == expected | {"reacher", "reacher-scripted", "camera-reacher", "custom"}


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
    assert demo.task.dataset == "demo/reacher-scripted-30k"
    assert hyperparameters(demo.algo, *names) == (40.0, 0.0, 0.95, 0.9, "policy", "min", 10, 256)
    assert (demo.offline_steps, demo.normalize, demo.film) == (24_000, True, [-1, 0, 1])
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


def test_every_paper_task_is_tuned_where_hyperparameters_were_published() -> None:
    ogbench, exorl = (
        [f"{suite}/{row[0]}" for row in rows(table)] for suite, table in (("ogbench", OGBENCH), ("exorl", EXORL))
    )
    missing = {
        (name, task) for name in algorithm_names() for task in [*ogbench, *exorl, "reacher"] if not is_tuned(name, task)
    }
    unpublished = {(name, task) for name in ("rebrac", "idql", "ifql", "fawac", "fql") for task in exorl}
    assert missing == unpublished | {("fawac", "ogbench/antsoccer-arena-navigate")}


def test_option_names_are_those_of_the_tree() -> None:
    assert {"algo.beta", "algo.policy_kwargs.net_arch", "offline_steps", "omegas", "task"} <= set(option_names())
    assert not any(name.startswith("hydra") for name in option_names())


@pytest.mark.parametrize("name", algorithm_names())
def test_defaults_in_python_are_those_of_the_file(name: str) -> None:
    """But for what all algorithms share with SB3's SAC: the batch, updates per step, verbosity."""
    config: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "algo" / f"{name}.yaml"), resolve=False)
    algorithm = getattr(dipole_sb3, config.pop("_target_").rpartition(".")[2])
    policy = algorithm.policy_aliases[config.pop("policy")]
    of_policy = defaults_of(policy)
    # IDQL's differ between actor and values; of its schedule the file says the length of the run.
    kwargs = config.pop("policy_kwargs") | ({"actor_decay_steps": 0} if name == "idql" else {})
    of_policy["net_arch"] = None if kwargs["net_arch"] is None else policy.default_arch
    assert kwargs == {key: of_policy[key] for key in kwargs}
    shared = {"batch_size", "gradient_steps", "verbose"}
    defaults = defaults_of(algorithm)
    assert {key: value for key, value in config.items() if key not in shared} == {
        key: defaults[key] for key in config if key not in shared
    }


def defaults_of(made: type) -> dict[str, Any]:
    """Defaults of a constructor's arguments, with those of the classes that it hands ``**kwargs`` to."""
    found: dict[str, Any] = {}
    for each in made.__mro__:
        if "__init__" in vars(each):
            parameters = inspect.signature(each.__init__).parameters  # type: ignore[misc]
            found = {name: one.default for name, one in parameters.items() if one.default is not one.empty} | found
    return found
