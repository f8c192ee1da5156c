"""The sweep over ω and N: same episodes everywhere, whatever the processes; success; the table and its file."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from evaluation_environments import (
    ACTION_SPACE,
    OBSERVATION_SPACE,
    Broken,
    Careless,
    Deadly,
    Scripted,
    ScriptedDict,
    ScriptedIsSuccess,
    SometimesSilent,
)
from full_disk import full_disk
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import DIPOLE, load_dataset
from dipole_sb3.evaluation.sweep import evaluate_sweep, format_sweep_table, write_sweep_csv

make_reacher = functools.partial(gymnasium.make, "Reacher-v5")


def over(omegas: Sequence[float], candidates: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"omega": omegas, "num_candidates": candidates}


@pytest.fixture(scope="module")
def reacher_model() -> DIPOLE:
    model = DIPOLE(
        "MlpPolicy",
        dataset=load_dataset("demo/reacher-tqc-10k", device="cpu"),
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [16]},
    )
    return model.learn(20)


def random_transitions(observations: Any, next_observations: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "observations": observations,
        "next_observations": next_observations,
        "actions": generator.uniform(-2, 2, (32, 2)).astype(np.float32),
        "rewards": generator.normal(size=32).astype(np.float32),
        "terminals": np.zeros(32, np.float32),
    }


def scripted_model(env: type[Scripted] = Scripted) -> DIPOLE:
    generator = np.random.default_rng(0)
    observations = generator.uniform(-1, 1, (32, 3)).astype(np.float32)
    if env is ScriptedDict:
        dictionary = {"arm": observations, "gripper": np.zeros((32, 1), np.float32)}
        data, policy = random_transitions(dictionary, dictionary), "MultiInputPolicy"
    else:
        data, policy = random_transitions(observations, observations), "MlpPolicy"
    return DIPOLE(policy, env(), dataset=data, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})


class StartsRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes the seed and the first observation of every episode."""

    starts: list[tuple[int | None, np.ndarray]]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.starts.append((seed, observation))
        return observation, info


def test_every_cell_starts_from_the_same_states(reacher_model: DIPOLE) -> None:
    starts: list[tuple[int | None, np.ndarray]] = []

    def make_recorded() -> gymnasium.Env[Any, Any]:
        env = StartsRecorder(make_reacher())
        env.starts = starts
        return env

    # More episodes than environments: some are used several times.
    evaluate_sweep(
        reacher_model,
        make_recorded,
        grid=over([-1, 2], [1, 2]),
        episodes=18,
        seed=40,
        processes=1,
    )
    assert len(starts) == 4 * 18
    reference = make_reacher()
    expected = {seed: reference.reset(seed=seed)[0] for seed in range(40, 58)}
    for cell in range(4):
        own = starts[18 * cell : 18 * (cell + 1)]
        assert sorted(seed for seed, _ in own) == list(range(40, 58))  # type: ignore[type-var]
        for seed, observation in own:
            np.testing.assert_array_equal(observation, expected[seed])  # type: ignore[index]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_result_does_not_depend_on_the_number_of_processes(reacher_model: DIPOLE, deterministic: bool) -> None:
    results = [
        evaluate_sweep(
            reacher_model,
            make_reacher,
            grid=over([0.0, 2.0], [2]),
            episodes=5,
            processes=processes,
            deterministic=deterministic,
        )
        for processes in (1, 2)
    ]
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    assert results[0].rows == results[1].rows


def test_returns_are_those_of_playing_the_episodes_one_by_one(reacher_model: DIPOLE) -> None:
    result = evaluate_sweep(
        reacher_model,
        make_reacher,
        grid=over([1.0], [2]),
        episodes=3,
        seed=7,
        deterministic=True,
    )
    env = make_reacher()
    for episode in range(3):
        observation, _ = env.reset(seed=7 + episode)
        total, done = 0.0, False
        while not done:
            action, _ = reacher_model.predict(observation, deterministic=True, omega=1.0, num_candidates=2)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        assert result.returns[0, episode] == pytest.approx(total, abs=1e-3)


def test_a_seed_gives_the_same_result_again_and_another_one_does_not(reacher_model: DIPOLE) -> None:
    evaluate = functools.partial(evaluate_sweep, reacher_model, make_reacher, grid=over([0.5], [1]), episodes=2)
    torch.manual_seed(1)
    first = evaluate().returns
    torch.manual_seed(2)
    np.testing.assert_array_equal(evaluate().returns, first)
    assert not np.array_equal(evaluate(seed=1).returns[:, 0], first[:, 1])


def test_a_cell_does_not_depend_on_the_other_cells(reacher_model: DIPOLE) -> None:
    alone = evaluate_sweep(reacher_model, make_reacher, grid=over([2], [2]), episodes=3)
    among = evaluate_sweep(reacher_model, make_reacher, grid=over([-1, 2], [1, 2]), episodes=3)
    assert among.row(omega=2, num_candidates=2) == alone.row(omega=2, num_candidates=2)
    np.testing.assert_array_equal(
        among.episode_returns(omega=2, num_candidates=2), alone.episode_returns(omega=2, num_candidates=2)
    )
    assert among.row(omega=-1, num_candidates=1).return_mean != among.row(omega=2, num_candidates=1).return_mean


def test_global_generators_are_left_as_they_were(reacher_model: DIPOLE) -> None:
    scripted = scripted_model()  # Stable-Baselines3 seeds the global generators here.
    torch_state = torch.get_rng_state()
    np.random.seed(0)
    expected = np.random.random(2)[1]
    np.random.seed(0)
    np.random.random()
    evaluate_sweep(reacher_model, make_reacher, grid=over([0], [1]), episodes=2)
    evaluate_sweep(scripted, Careless, grid=over([0], [1]), episodes=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.random() == expected


def test_environments_that_draw_from_numpys_global_generator_repeat_too() -> None:
    model = scripted_model()
    results = []
    for processes, omegas in ((1, [0.0]), (2, [0.0]), (1, [0.0, 1.0])):
        np.random.seed(processes)
        sweep = evaluate_sweep(model, Careless, grid=over(omegas, [1]), episodes=4, processes=processes)
        results.append(sweep.returns)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[2], np.repeat(results[0], 2, axis=0))


@pytest.mark.parametrize("env", [Scripted, ScriptedIsSuccess, ScriptedDict])
def test_episodes_of_different_lengths_and_success_of_the_last_step(env: type[Scripted]) -> None:
    result = evaluate_sweep(scripted_model(env), env, grid=over([0.0, 1.0], [1]), episodes=20, seed=4)
    seeds = range(4, 24)
    np.testing.assert_array_equal(result.returns, [[Scripted.expected_return(seed) for seed in seeds]] * 2)
    np.testing.assert_array_equal(result.successes, [[seed % 3 == 0 for seed in seeds]] * 2)
    row = result.rows[1]
    # 6 of 20; Wilson's interval by hand.
    assert (row.success_mean, row.success_low, row.success_high) == pytest.approx((0.3, 0.14547, 0.51897), abs=1e-5)
    mean = float(np.mean(result.returns[1]))
    error = float(np.std(result.returns[1], ddof=1)) / math.sqrt(20)
    expected = (mean, mean - 2.093024 * error, mean + 2.093024 * error)
    assert (row.return_mean, row.return_low, row.return_high) == pytest.approx(expected, abs=1e-4)


def test_success_told_in_some_episodes_only_is_refused() -> None:
    with pytest.raises(ValueError, match="2 of 4 episodes told success"):
        evaluate_sweep(scripted_model(), SometimesSilent, grid=over([0], [1]), episodes=4)


def test_observations_are_normalised_as_in_training_and_rewards_are_not(tmp_path: Path) -> None:
    dataset = load_dataset("demo/reacher-tqc-10k", device="cpu")
    model = DIPOLE(
        "MlpPolicy",
        VecNormalize(DummyVecEnv([make_reacher])),
        dataset=dataset,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [16]},
    ).learn(2)
    statistics = model.get_vec_normalize_env()
    assert statistics is not None
    env = make_reacher()
    totals = {}
    for normalised in (True, False):
        observation, _ = env.reset(seed=0)
        totals[normalised] = 0.0
        for _ in range(50):
            seen = statistics.normalize_obs(observation) if normalised else observation
            action, _ = model.predict(seen, deterministic=True, omega=0.0, num_candidates=1)
            observation, reward, *_ = env.step(action)
            totals[normalised] += float(reward)
    assert abs(totals[True] - totals[False]) > 0.1
    result = evaluate_sweep(model, make_reacher, grid=over([0], [1]), episodes=1, deterministic=True)
    assert result.returns[0, 0] == pytest.approx(totals[True], abs=1e-3)
    model.save(tmp_path / "model")
    alone = DIPOLE.load(tmp_path / "model", device="cpu")
    again = evaluate_sweep(alone, make_reacher, grid=over([0], [1]), episodes=1, deterministic=True)
    assert again.returns[0, 0] == result.returns[0, 0], "by the statistics that were saved with it"


@pytest.mark.parametrize("processes", [1, 2])
def test_an_exception_of_an_environment_arrives_as_it_is(processes: int) -> None:
    with pytest.raises(ArithmeticError, match="the arm is stuck"):
        evaluate_sweep(scripted_model(), Broken, grid=over([0], [1]), episodes=2, processes=processes)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(ChildProcessError, match="a process with environments died"):
        evaluate_sweep(scripted_model(), Deadly, grid=over([0], [1]), episodes=2, processes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"omega": []}}, "omega is .*expected at least one value"),
        ({"grid": {"omega": [0, 0.0]}}, "omega is .*none twice"),
        ({"grid": {"omega": [-1.5]}}, "omega is -1.5"),
        ({"grid": {"num_candidates": [0]}}, "num_candidates is 0"),
        ({"grid": {"guidance": [0]}}, "guidance: .* has no such knob, expected values of: omega, num_candidates"),
        ({"episodes": 0}, "episodes is 0, expected at least 1"),
        ({"processes": 0}, "processes is 0, expected at least 1"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_sweep(scripted_model(), Scripted, **{"grid": {"omega": [0], "num_candidates": [1]}, **options})


def test_the_csv_file_holds_the_rows(tmp_path: Path, reacher_model: DIPOLE) -> None:
    with_success = evaluate_sweep(scripted_model(), Scripted, grid=over([-1, 0.5], [1, 4]), episodes=3)
    without = evaluate_sweep(reacher_model, make_reacher, grid=over([0], [1]), episodes=2)
    columns = ["omega", "num_candidates", "episodes", "return_mean", "return_low", "return_high"]
    for name, result, extra in (
        ("a", with_success, ["success_mean", "success_low", "success_high"]),
        ("b", without, []),
    ):
        write_sweep_csv(result, tmp_path / "made" / f"{name}.csv")
        with (tmp_path / "made" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        assert reader.fieldnames == columns + extra
        assert [[float(row[column]) for column in reader.fieldnames] for row in rows] == [
            [*row.setting.values(), *(getattr(row, column) for column in (columns + extra)[2:])] for row in result.rows
        ]


def test_a_full_disk_leaves_the_earlier_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "omega_sweep.csv"
    path.write_text("earlier")
    result = evaluate_sweep(scripted_model(), Scripted, grid=over([-1, 0], [1]), episodes=2)
    with full_disk(20), pytest.raises(OSError, match=r"cannot write .*omega_sweep\.csv"):
        write_sweep_csv(result, path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_for_the_terminal() -> None:
    result = evaluate_sweep(scripted_model(), Scripted, grid=over([-1, 0.5], [1, 4]), episodes=3)
    # Seeds 0, 1, 2: returns 2, 6 and 12 in every cell, success in the first.
    assert format_sweep_table(result).splitlines() == [
        "Success rate with its 95 % interval, 3 episodes a cell",
        "    ω          N = 1          N = 4",
        "  ───   ────────────   ────────────",
        "   -1   33 % [6, 79]   33 % [6, 79]",
        "  0.5   33 % [6, 79]   33 % [6, 79]",
        "",
        "Return, mean ± half of the 95 % interval, 3 episodes a cell",
        "    ω          N = 1          N = 4",
        "  ───   ────────────   ────────────",
        "   -1   6.67 ± 12.50   6.67 ± 12.50",
        "  0.5   6.67 ± 12.50   6.67 ± 12.50",
    ]


def test_a_single_episode_has_no_interval() -> None:
    result = evaluate_sweep(scripted_model(), Scripted, grid=over([0], [1]), episodes=1)
    assert result.rows[0].return_mean == 2.0
    assert math.isnan(result.rows[0].return_low)
    assert format_sweep_table(result).splitlines()[-1].split() == ["0", "2.00"]


def test_cells_that_were_not_evaluated_are_unknown() -> None:
    result = evaluate_sweep(scripted_model(), Scripted, grid=over([0], [1]), episodes=1)
    with pytest.raises(KeyError, match="N = 1 was not evaluated"):
        result.row(omega=3.0, num_candidates=1)


def test_the_spaces_of_the_small_environments_are_the_models() -> None:
    model = scripted_model()
    assert (model.observation_space, model.action_space) == (OBSERVATION_SPACE, ACTION_SPACE)
