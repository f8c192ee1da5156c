"""Several models trained as one, against the same models trained alone."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from dipole_sb3 import DIPOLE, OfflineReplayBuffer
from dipole_sb3.common.random_state import global_generators, restore_global_generators
from dipole_sb3.learning.learn_together import Together, learn_together

TRANSITIONS, OBSERVATION, ACTION = 300, 4, 2
SMALL: dict[str, Any] = {"batch_size": 16, "flow_steps": 3, "device": "cpu"}

RUNS: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "beta": 0.5, "shift": 1.0, "gamma": 0.9, "expectile": 0.7, "tau": 0.02, "learning_rate": 1e-3},
    {"seed": 1, "beta": 3.0, "shift": -1.0, "learning_rate": lambda progress: 1e-3 * progress},
]


def recorded(seed: int = 0, keys: bool = False) -> OfflineReplayBuffer:
    random = np.random.default_rng(seed)

    def observations() -> Any:
        array = random.normal(size=(TRANSITIONS, OBSERVATION)).astype(np.float32)
        return {"position": array[:, :3], "speed": array[:, 3:]} if keys else array

    first, following = observations(), observations()
    ends = np.zeros(TRANSITIONS)
    ends[49::50] = 1
    if not keys:  # rows that follow on one another, for n-step returns
        following[:-1] = first[1:]
    return OfflineReplayBuffer.from_arrays(
        {
            "observations": first,
            "next_observations": following,
            "actions": random.uniform(-1, 1, (TRANSITIONS, ACTION)).astype(np.float32),
            "rewards": random.normal(size=TRANSITIONS),
            "terminals": ends,
        },
        device="cpu",
    )


def of_pendulum(env: VecEnv, seed: int) -> OfflineReplayBuffer:
    random = np.random.default_rng(seed)
    return OfflineReplayBuffer.from_arrays(
        {
            "observations": random.normal(3.0, 2.0, (50, 3)).clip(-1, 1).astype(np.float32),
            "next_observations": random.normal(3.0, 2.0, (50, 3)).clip(-1, 1).astype(np.float32),
            "actions": random.uniform(-2, 2, (50, 1)).astype(np.float32),
            "rewards": random.normal(size=50),
            "masks": np.ones(50),
        },
        observation_space=env.observation_space,
        action_space=env.action_space,  # type: ignore[arg-type]
        device="cpu",
    )


def make_model(dataset: OfflineReplayBuffer, policy: str = "MlpPolicy", **arguments: Any) -> DIPOLE:
    policy_kwargs = {"net_arch": [12, 10], **arguments.pop("policy_kwargs", {})}
    return DIPOLE(policy, dataset=dataset, policy_kwargs=policy_kwargs, **{**SMALL, **arguments})


def assert_same(one: DIPOLE, other: DIPOLE, tolerance: float = 2e-5) -> None:
    found, expected = one.get_parameters(), other.get_parameters()
    for name, tensor in expected["policy"].items():
        torch.testing.assert_close(found["policy"][name], tensor, rtol=1e-4, atol=tolerance, msg=f"{name} differs")
    assert one.num_timesteps == other.num_timesteps
    assert one._n_updates == other._n_updates
    assert torch.equal(one.training_generator.get_state(), other.training_generator.get_state())


class TestEqualsAlone:
    @pytest.mark.parametrize(
        "common",
        [
            {},
            {"critic_target": "value", "q_agg": "mean"},
            {"n_steps": 3},
            {"policy_kwargs": {"actor_layer_norm": True, "time_features": 4, "activation_fn": "mish"}},
            {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [10, 6, 4]}, "activation_fn": nn.SiLU}},
            {"policy_kwargs": {"optimizer_class": torch.optim.SGD}},
        ],
        ids=["paper", "value", "n_steps", "exorl_networks", "unequal_widths", "sgd"],
    )
    def test_runs_that_differ_in_everything_that_may(self, common: dict[str, Any]) -> None:
        # Catches: another run's hyperparameter, noise or batches in another order, mixed members, a shared optimiser.
        dataset = recorded()
        alone = [make_model(dataset, **common, **run).learn(12) for run in RUNS]
        together = learn_together([make_model(dataset, **common, **run) for run in RUNS], 12)
        for one, other in zip(together, alone, strict=True):
            assert_same(one, other)
        assert not torch.equal(
            together[0].policy.actor.head.mlp.output.weight, together[1].policy.actor.head.mlp.output.weight
        )

    def test_dict_observations(self) -> None:
        dataset = recorded(keys=True)
        alone = [make_model(dataset, "MultiInputPolicy", seed=seed).learn(8) for seed in (0, 1)]
        for one, other in zip(
            learn_together([make_model(dataset, "MultiInputPolicy", seed=seed) for seed in (0, 1)], 8),
            alone,
            strict=True,
        ):
            assert_same(one, other)

    def test_extractors_with_parameters_are_each_runs_own(self) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 255, (40, 3, 36, 36), dtype=np.uint8)
        dataset = OfflineReplayBuffer.from_arrays(
            {
                "observations": images,
                "next_observations": images[::-1].copy(),
                "actions": random.uniform(-1, 1, (40, ACTION)).astype(np.float32),
                "rewards": random.normal(size=40),
                "masks": np.ones(40),
            },
            observation_space=spaces.Box(0, 255, (3, 36, 36), np.uint8),
            device="cpu",
        )
        arguments = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}, "batch_size": 4}
        alone = [make_model(dataset, "CnnPolicy", seed=seed, **arguments).learn(3) for seed in (0, 1)]
        models = [make_model(dataset, "CnnPolicy", seed=seed, **arguments) for seed in (0, 1)]
        before = models[1].policy.actor.features_extractor.state_dict()["linear.0.weight"].clone()
        for one, other in zip(learn_together(models, 3), alone, strict=True):
            assert_same(one, other)
        assert not torch.equal(before, models[1].policy.actor.features_extractor.state_dict()["linear.0.weight"])

    def test_data_sets_of_their_own(self) -> None:
        alone = [make_model(recorded(index), seed=0).learn(8) for index in range(2)]
        for one, other in zip(
            learn_together([make_model(recorded(index), seed=0) for index in range(2)], 8), alone, strict=True
        ):
            assert_same(one, other)

    def test_vec_normalize(self) -> None:
        def run(seed: int) -> DIPOLE:
            env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), norm_obs=True)
            dataset = of_pendulum(env, seed)
            return DIPOLE("MlpPolicy", env, dataset=dataset, seed=seed, policy_kwargs={"net_arch": [8]}, **SMALL)

        alone = [run(seed).learn(6) for seed in (0, 1)]
        for one, other in zip(learn_together([run(seed) for seed in (0, 1)], 6), alone, strict=True):
            assert_same(one, other)

    @settings(max_examples=15, deadline=None)
    @given(
        runs=st.lists(
            st.fixed_dictionaries(
                {
                    "seed": st.integers(0, 5),
                    "beta": st.floats(0.01, 50),
                    "shift": st.floats(-5, 5),
                    "gamma": st.floats(0, 1),
                    "tau": st.floats(0.001, 1),
                    "expectile": st.floats(0.01, 0.99),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_any_values(self, runs: list[dict[str, Any]]) -> None:
        dataset = recorded()
        alone = [make_model(dataset, **run).learn(3) for run in runs]
        for one, other in zip(learn_together([make_model(dataset, **run) for run in runs], 3), alone, strict=True):
            assert_same(one, other)

    def test_logs_and_saved_files(self, tmp_path: Path) -> None:
        dataset = recorded()

        def run(folder: Path, seed: int) -> DIPOLE:
            model = make_model(dataset, seed=seed, beta=1.0 + seed)
            model.set_logger(configure(str(folder), ["csv"]))
            return model

        for seed in (0, 1):
            run(tmp_path / f"alone{seed}", seed).learn(250, log_interval=1)
        for model in learn_together([run(tmp_path / f"{seed}", seed) for seed in (0, 1)], 250, log_interval=1):
            model.logger.close()
        for seed in (0, 1):
            one, other = (
                np.genfromtxt(tmp_path / name / "progress.csv", delimiter=",", names=True)
                for name in (f"{seed}", f"alone{seed}")
            )
            assert one.dtype.names == other.dtype.names
            for column in one.dtype.names:
                if not column.startswith("time"):
                    assert one[column] == pytest.approx(other[column], rel=1e-3, abs=1e-4), column


class Stop(BaseCallback):
    """Ends learning after so many timesteps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        return self.num_timesteps < self.after


class TestCallbacks:
    def test_one_that_stops_leaves_the_others_going(self) -> None:
        dataset = recorded()
        stops = [Stop(5), Stop(100), Stop(9)]
        models = learn_together([make_model(dataset, seed=seed) for seed in range(3)], 12, stops)
        assert [model.num_timesteps for model in models] == [5, 12, 9]
        assert stops[1].seen == list(range(1, 13))
        for seed, (model, steps) in enumerate(zip(models, (5, 12, 9), strict=True)):
            alone = make_model(dataset, seed=seed).learn(12, Stop(steps))
            assert_same(model, alone)

    def test_other_number_of_callbacks_is_refused(self) -> None:
        with pytest.raises(ValueError, match="callbacks: found 1, expected one for each of 2 models"):
            learn_together([make_model(recorded(), seed=seed) for seed in range(2)], 3, [None])

    def test_error_leaves_every_model_whole(self) -> None:
        class Broken(BaseCallback):
            def _on_step(self) -> bool:
                raise RuntimeError("broken")

        models = [make_model(recorded(), seed=seed) for seed in range(2)]
        with pytest.raises(RuntimeError, match="broken"):
            learn_together(models, 3, [None, Broken()])
        for model in models:
            assert model.env is None
            for parameter in model.policy.parameters():
                assert parameter.untyped_storage().nbytes() == parameter.nbytes
        models[0].learn(2)

    def test_error_of_one_model_closes_what_learn_has_opened(self) -> None:
        model = make_model(recorded())
        model.replay_buffer.take = None  # type: ignore[union-attr, method-assign, assignment]
        try:
            model.learn(2)
        except TypeError:
            assert model.env is None  # it stands in for callbacks only while learn() runs
        else:
            raise AssertionError("expected an error")


class TestMemory:
    def test_checkpoint_in_between_holds_one_run(self) -> None:
        dataset = recorded()
        sizes: list[int] = []
        seen: list[dict[str, torch.Tensor]] = []

        class Save(BaseCallback):
            def _on_step(self) -> bool:
                file = io.BytesIO()
                self.model.save(file)
                sizes.append(file.tell())
                file.seek(0)
                seen.append(DIPOLE.load(file, device="cpu").policy.state_dict())
                return True

        make_model(dataset, seed=0).learn(1, Save())
        learn_together([make_model(dataset, seed=seed) for seed in range(6)], 1, [Save(), *[None] * 5])
        assert sizes[1] <= sizes[0] + 512  # the names of other runs' memory, not the memory
        for one, other in zip(*(state.values() for state in seen), strict=True):
            torch.testing.assert_close(one, other)

    def test_parameters_put_in_are_those_that_are_trained(self) -> None:
        dataset = recorded()
        source = make_model(dataset, seed=9).learn(2)

        class Replace(BaseCallback):
            def _on_step(self) -> bool:
                if self.num_timesteps == 3:
                    self.model.set_parameters(source.get_parameters())
                return True

        alone = make_model(dataset, seed=1).learn(6, Replace())
        models = [make_model(dataset, seed=seed) for seed in range(2)]
        assert_same(learn_together(models, 6, [None, Replace()])[1], alone)

    def test_memory_is_shared_only_while_it_lasts(self) -> None:
        models = [make_model(recorded(), seed=seed) for seed in range(2)]
        group = Together(models)
        weights = [model.policy.critic.head.mlp.output.weight for model in models]
        assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
        before = [weight.detach().clone() for weight in weights]
        group.close()
        assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 2
        for weight, value in zip(weights, before, strict=True):
            assert torch.equal(weight, value)


class TestGoingOn:
    def test_models_that_are_not_equally_far(self) -> None:
        dataset = recorded()
        models = [make_model(dataset, seed=seed).learn(steps) for seed, steps in enumerate((4, 1, 7))]
        learn_together(models, [5, 8, 2], reset_num_timesteps=False)
        for seed, model in enumerate(models):
            alone = make_model(dataset, seed=seed).learn(9)
            assert_same(model, alone)

    def test_learning_goes_on_together_and_alone(self) -> None:
        dataset = recorded()
        alone = [make_model(dataset, seed=seed).learn(4).learn(4, reset_num_timesteps=False) for seed in range(2)]
        models = learn_together([make_model(dataset, seed=seed) for seed in range(2)], 4)
        learn_together(models, 4, reset_num_timesteps=False)
        for one, other in zip(models, alone, strict=True):
            assert_same(one, other)

    def test_the_same_models_go_on_to_the_bit(self) -> None:
        dataset = recorded()
        whole = learn_together([make_model(dataset, seed=seed) for seed in range(3)], 12)
        loaded = []
        for model in learn_together([make_model(dataset, seed=seed) for seed in range(3)], 5):
            file = io.BytesIO()
            model.save(file)
            file.seek(0)
            loaded.append(DIPOLE.load(file, dataset=dataset, device="cpu"))
        for one, other in zip(learn_together(loaded, 7, reset_num_timesteps=False), whole, strict=True):
            for name, value in other.policy.state_dict().items():
                assert torch.equal(one.policy.state_dict()[name], value), name

    def test_online_phases_follow(self) -> None:
        def run(seed: int) -> DIPOLE:
            env = make_vec_env("Pendulum-v1", seed=seed)
            dataset = of_pendulum(env, seed)
            return DIPOLE(
                "MlpPolicy", env, dataset=dataset, seed=seed, offline_steps=5, policy_kwargs={"net_arch": [8]}, **SMALL
            )

        def with_generators(seed: int) -> DIPOLE:
            # As in a process of its own: the global generators explore from where the constructor left them.
            model = run(seed)
            model.when_learning_begins(partial(restore_global_generators, global_generators()))
            return model

        alone = [with_generators(seed).learn(9) for seed in range(2)]
        models = learn_together([with_generators(seed) for seed in range(2)], 9)
        for one, other in zip(models, alone, strict=True):
            assert one.replay_buffer.n_online == 4  # type: ignore[union-attr]
            np.testing.assert_allclose(one.replay_buffer.actions[:4], other.replay_buffer.actions[:4], atol=1e-4)  # type: ignore[union-attr]
            assert_same(one, other, 1e-4)
            assert one._generators_online is None


class TestDrawing:
    def test_buffer_that_draws_in_its_own_way_is_asked(self) -> None:
        class First(OfflineReplayBuffer):
            def draw(self, batch_size: int, generator: torch.Generator, n_steps: int = 1) -> Any:
                return self.take(torch.zeros(batch_size, dtype=torch.long), n_steps)

        def model(seed: int) -> DIPOLE:
            dataset = recorded()
            dataset.__class__ = First
            return make_model(dataset, seed=seed)

        ordinary = make_model(recorded(), seed=0).learn(3)
        alone = model(0).learn(3)
        assert not torch.equal(alone.policy.value.head.mlp.output.weight, ordinary.policy.value.head.mlp.output.weight)
        models = learn_together([model(0), model(1)], 3)
        for name, value in alone.policy.state_dict().items():
            torch.testing.assert_close(models[0].policy.state_dict()[name], value, rtol=1e-4, atol=2e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ({"batch_size": 8}, "run 1: batch_size: found 8, expected 16 as in run 0"),
            ({"q_agg": "mean"}, "run 1: q_agg: found 'mean', expected 'min' as in run 0"),
            ({"acceleration": "compiled"}, "run 1: acceleration: found 'compiled', expected 'auto'"),
            ({"flow_steps": 4}, "run 1: flow_steps: found 4, expected 3 as in run 0"),
            ({"policy_kwargs": {"net_arch": [12, 11]}}, "run 1: networks: found others, expected those of run 0"),
            ({"policy_kwargs": {"activation_fn": "tanh"}}, "run 1: activation_fn: found 'tanh', expected 'gelu-tanh'"),
        ],
    )
    def test_other_updates(self, arguments: dict[str, Any], sentence: str) -> None:
        dataset = recorded()
        with pytest.raises(ValueError, match=sentence):
            learn_together([make_model(dataset), make_model(dataset, **arguments)], 2)

    def test_nothing_and_twice_the_same(self) -> None:
        with pytest.raises(ValueError, match="found none"):
            learn_together([], 2)
        model = make_model(recorded())
        with pytest.raises(ValueError, match="the same model twice"):
            learn_together([model, model], 2)

    def test_batch_normalisation(self) -> None:
        from stable_baselines3.common.torch_layers import FlattenExtractor

        class Normed(FlattenExtractor):
            def __init__(self, observation_space: Any) -> None:
                super().__init__(observation_space)
                self.norm = nn.BatchNorm1d(OBSERVATION)

            def forward(self, observations: torch.Tensor) -> torch.Tensor:
                return self.norm(super().forward(observations))

        dataset = recorded()
        models = [make_model(dataset, policy_kwargs={"features_extractor_class": Normed}) for _ in range(2)]
        with pytest.raises(ValueError, match="train these runs one after the other"):
            learn_together(models, 2)

    def test_every_stackable_name_is_an_argument(self) -> None:
        import inspect

        assert set(DIPOLE.stackable()) <= set(inspect.signature(DIPOLE).parameters)
