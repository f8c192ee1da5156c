"""SB3's test_dict_env, test_cnn, test_custom_policy and test_train_eval_mode: policies, extractors and modes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import one_sentence, parameters_of, small
from gymnasium import spaces
from recordings import Arrays, record
from sampled_environments import Sampled, dict_env, image_env, image_space, vector_space
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecFrameStack
from torch import nn

from dipole_sb3 import IDQL, OfflineReplayBuffer
from dipole_sb3.common.observations import mapped
from dipole_sb3.networks.encoders import ImpalaCNN

SMALL_IMAGES = {"net_arch": [16], "features_extractor_kwargs": {"features_dim": 8}}
SMALL_DICTS = {"net_arch": [16], "features_extractor_kwargs": {"cnn_output_dim": 8}}


def assert_saved_and_loaded(model: Any, data: Arrays, folder: Any) -> None:
    """The model and its policy act after loading as before; the model learns on."""
    seen = mapped(lambda values: values[:2], data["observations"])
    expected, _ = model.predict(seen, deterministic=True)
    model.save(folder / "model")
    loaded = type(model).load(folder / "model", dataset=data)
    np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], expected)
    loaded.policy.save(folder / "policy.pt")
    policy = type(loaded.policy).load(folder / "policy.pt")
    np.testing.assert_array_equal(policy.predict(seen, deterministic=True)[0], expected)
    loaded.learn(1)


class TestDictObservations:
    @pytest.mark.parametrize("n_envs", [1, 2])
    def test_online(self, algorithm: Any, n_envs: int) -> None:
        env = make_vec_env(dict_env, n_envs)
        model = small(algorithm, "MultiInputPolicy", env, learning_starts=0, train_freq=5, policy_kwargs=SMALL_DICTS)
        model.learn(10)
        actions, _ = model.predict(env.reset())
        assert actions.shape == (n_envs, 2)

    @pytest.mark.parametrize("with_environment", [False, True], ids=["alone", "beside_an_environment"])
    @pytest.mark.parametrize("as_buffer", [False, True], ids=["arrays", "buffer"])
    def test_recorded(self, algorithm: Any, dict_data: Arrays, with_environment: bool, as_buffer: bool) -> None:
        env = dict_env() if with_environment else None
        dataset = OfflineReplayBuffer.from_arrays(dict_data) if as_buffer else dict_data
        model = small(algorithm, "MultiInputPolicy", env, dataset=dataset, policy_kwargs=SMALL_DICTS).learn(2)
        assert model.observation_space["camera"].shape == (1, 36, 36)
        batch = {key: value[:4] for key, value in dict_data["observations"].items()}
        together = model.predict(batch, deterministic=True)[0]
        assert together.shape == (4, 2)
        alone = model.predict({key: value[0] for key, value in batch.items()}, deterministic=True)[0]
        np.testing.assert_allclose(alone, together[0], rtol=1e-4, atol=1e-5)
        turned = {**batch, "camera": batch["camera"].transpose(0, 3, 1, 2)}
        np.testing.assert_allclose(model.predict(turned, deterministic=True)[0], together, rtol=1e-4, atol=1e-5)

    def test_goes_on_online(self, algorithm: Any, dict_data: Arrays) -> None:
        env = make_vec_env(dict_env, 2)
        model = small(
            algorithm, "MultiInputPolicy", env, dataset=dict_data, offline_steps=1, policy_kwargs=SMALL_DICTS
        ).learn(5)
        assert model.replay_buffer.size() == 20 + 2
        kept = model.replay_buffer.take(torch.arange(40)).observations["camera"]
        np.testing.assert_array_equal(kept[:, 0], dict_data["observations"]["camera"][..., 0])
        assert model.replay_buffer.take(torch.arange(40, 44)).observations["camera"].shape == (4, 1, 36, 36)

    @pytest.mark.parametrize("channel_last", [True, False])
    def test_sb3s_grid_world(self, algorithm: Any, channel_last: bool) -> None:
        env = SimpleMultiObsEnv(discrete_actions=False, channel_last=channel_last)
        data = record(SimpleMultiObsEnv(discrete_actions=False, channel_last=channel_last), 30)
        small(algorithm, "MultiInputPolicy", env, dataset=data, offline_steps=1, policy_kwargs=SMALL_DICTS).learn(3)

    def test_sb3s_goals(self, algorithm: Any) -> None:
        env = BitFlippingEnv(n_bits=3, continuous=True)
        data = record(BitFlippingEnv(n_bits=3, continuous=True), 30)
        small(algorithm, "MultiInputPolicy", env, dataset=data, offline_steps=2).learn(4)

    def test_a_named_encoder_for_every_image(self, algorithm: Any, dict_data: Arrays, tmp_path: Any) -> None:
        kwargs = {**SMALL_IMAGES, "features_extractor_class": "impala-small"}
        model = small(algorithm, "MultiInputPolicy", dataset=dict_data, policy_kwargs=kwargs).learn(1)
        first, joints = model.policy.actor.features_extractor.encoders
        assert isinstance(first, ImpalaCNN)
        assert isinstance(joints, nn.Flatten)
        assert_saved_and_loaded(model, dict_data, tmp_path)

    def test_every_key_matters(self, algorithm: Any, dict_data: Arrays) -> None:
        model = small(algorithm, "MultiInputPolicy", dataset=dict_data, policy_kwargs=SMALL_DICTS).learn(1)
        seen = {key: value[:1] for key, value in dict_data["observations"].items()}
        before = model.predict(seen, deterministic=True)[0]
        for key in seen:
            other = {**seen, key: dict_data["observations"][key][7:8]}
            assert not np.array_equal(model.predict(other, deterministic=True)[0], before), key

    @pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
    def test_needs_its_policy(self, algorithm: Any, policy: str) -> None:
        with pytest.raises(ValueError, match="MultiInputPolicy"):
            small(algorithm, policy, env=dict_env())

    @pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
    def test_needs_its_policy_without_an_environment(self, algorithm: Any, policy: str, dict_data: Arrays) -> None:
        with pytest.raises(ValueError, match="MultiInputPolicy"):
            small(algorithm, policy, dataset=dict_data)


class TestImages:
    def test_online(self, algorithm: Any) -> None:
        model = small(
            algorithm, "CnnPolicy", image_env(), learning_starts=0, train_freq=5, policy_kwargs=SMALL_IMAGES
        ).learn(5)
        assert isinstance(model.policy.actor.features_extractor, NatureCNN)

    def test_a_named_encoder(self, algorithm: Any, image_data: Arrays, tmp_path: Any) -> None:
        kwargs = {**SMALL_IMAGES, "features_extractor_class": "impala-small"}
        model = small(algorithm, "CnnPolicy", dataset=image_data, policy_kwargs=kwargs)
        before = parameters_of(model)
        model.learn(2)
        assert isinstance(model.policy.actor.features_extractor, ImpalaCNN)
        assert not any(torch.equal(value, before[name]) for name, value in model.policy.named_parameters())
        assert_saved_and_loaded(model, image_data, tmp_path)

    def test_products_in_bfloat16(self, algorithm: Any, image_data: Arrays) -> None:
        """Also those of the features extractor, whose features the heads then read."""
        model = small(algorithm, "CnnPolicy", dataset=image_data, policy_kwargs=SMALL_IMAGES, precision="bf16").learn(2)
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in model.policy.parameters())

    @pytest.mark.parametrize("with_environment", [False, True], ids=["alone", "beside_an_environment"])
    @pytest.mark.parametrize("as_buffer", [False, True], ids=["arrays", "buffer"])
    def test_recorded_channels_last(
        self, algorithm: Any, image_data: Arrays, with_environment: bool, as_buffer: bool
    ) -> None:
        env = image_env() if with_environment else None
        dataset = OfflineReplayBuffer.from_arrays(image_data) if as_buffer else image_data
        model = small(algorithm, "CnnPolicy", env, dataset=dataset, policy_kwargs=SMALL_IMAGES).learn(2)
        assert model.observation_space.shape == (3, 36, 36)
        assert np.shares_memory(model.replay_buffer.observations, image_data["observations"])
        last, _ = model.predict(image_data["observations"][:2], deterministic=True)
        first, _ = model.predict(image_data["observations"][:2].transpose(0, 3, 1, 2), deterministic=True)
        np.testing.assert_allclose(last, first, rtol=1e-5)

    @pytest.mark.parametrize("with_environment", [False, True], ids=["alone", "beside_an_environment"])
    def test_recorded_channels_first(self, algorithm: Any, with_environment: bool) -> None:
        env = image_env(3, 36, 36) if with_environment else None
        data = record(image_env(3, 36, 36), 20)
        model = small(algorithm, "CnnPolicy", env, dataset=data, policy_kwargs=SMALL_IMAGES).learn(2)
        assert model.observation_space.shape == (3, 36, 36)
        model.predict(data["observations"][0])

    def test_data_and_environment_may_be_turned_differently(self, algorithm: Any, image_data: Arrays) -> None:
        env = image_env(3, 36, 36)
        model = small(algorithm, "CnnPolicy", env, dataset=image_data, offline_steps=1, policy_kwargs=SMALL_IMAGES)
        model.learn(3)
        kept = model.replay_buffer.take(torch.arange(40)).observations
        np.testing.assert_array_equal(kept, image_data["observations"].transpose(0, 3, 1, 2))

    def test_pixels_are_scaled_once(self, algorithm: Any, image_data: Arrays) -> None:
        """uint8 is divided by 255 on its way into the extractor, unless told otherwise."""
        seen: list[torch.Tensor] = []
        for normalize_images in (True, False):
            kwargs = {**SMALL_IMAGES, "normalize_images": normalize_images}
            model = small(algorithm, "CnnPolicy", dataset=image_data, policy_kwargs=kwargs)
            acting = model.policy.acting_form().actor
            acting.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            model.predict(image_data["observations"][:1])
        image = image_data["observations"][0].transpose(2, 0, 1)
        np.testing.assert_allclose(seen[0].numpy()[0], image / 255.0, rtol=1e-5)
        assert seen[1].max() == image.max()

    def test_sb3s_images_in_stacks(self, algorithm: Any) -> None:
        def env() -> FakeImageEnv:
            return FakeImageEnv(action_dim=2, screen_height=40, screen_width=40, discrete=False)

        stacked = VecFrameStack(make_vec_env(env, 1), n_stack=2)
        small(algorithm, "CnnPolicy", stacked, learning_starts=0, train_freq=3, policy_kwargs=SMALL_IMAGES).learn(3)


# Networks of the user's choice


class Regularised(BaseFeaturesExtractor):
    """Batch normalisation and dropout: modules that act differently while training."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 6) -> None:
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(observation_space.shape[0], features_dim),
            nn.BatchNorm1d(features_dim),
            nn.Dropout(0.5),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"net_arch": {"pi": [8], "qf": [12, 12]}},
        {"net_arch": []},
        {"activation_fn": "tanh"},
        {"activation_fn": nn.ReLU},
        {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 1e-3}},
        {"optimizer_class": torch.optim.SGD},
        {"features_extractor_class": Regularised, "features_extractor_kwargs": {"features_dim": 5}},
    ],
    ids=["pi_and_qf", "linear", "activation_name", "activation_class", "optimizer", "plain_optimizer", "extractor"],
)
def test_policy_kwargs(algorithm: Any, reacher_data: Arrays, kwargs: dict[str, Any], tmp_path: Any) -> None:
    model = small(algorithm, dataset=reacher_data, policy_kwargs={"net_arch": [8], **kwargs}).learn(2)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", dataset=reacher_data).learn(1)
    assert type(loaded.policy.optimizer) is kwargs.get(
        "optimizer_class", torch.optim.AdamW if algorithm is IDQL else torch.optim.Adam
    )
    loaded.policy.save(tmp_path / "policy.pt")
    type(loaded.policy).load(tmp_path / "policy.pt").predict(reacher_data["observations"][0])


def test_widths_of_actor_and_critics(algorithm: Any, reacher_data: Arrays) -> None:
    policy = small(algorithm, dataset=reacher_data, policy_kwargs={"net_arch": {"pi": [7], "qf": [5, 9]}}).policy
    widths = {
        name: {size for parameter in network.parameters() for size in parameter.shape}
        for name, network in (("actor", policy.actor), ("critic", policy.critic))
    }
    assert 7 in widths["actor"]
    assert not {5, 9} & widths["actor"]
    assert {5, 9} <= widths["critic"]
    assert 7 not in widths["critic"]


def test_extractors_are_not_shared(algorithm: Any, reacher_data: Arrays) -> None:
    kwargs = {"net_arch": [8], "features_extractor_class": Regularised}
    policy = small(algorithm, dataset=reacher_data, policy_kwargs=kwargs).policy
    extractors = [module for module in policy.modules() if isinstance(module, Regularised)]
    assert len(extractors) == len({id(extractor) for extractor in extractors}) >= 3


def test_a_dict_with_a_custom_extractor(algorithm: Any) -> None:
    class Narrow(CombinedExtractor):
        """SB3's, with few features per image."""

        def __init__(self, observation_space: spaces.Dict) -> None:
            super().__init__(observation_space, cnn_output_dim=4)

    env = Sampled(spaces.Dict({"camera": image_space(36, 36, 3), "joints": vector_space()}))
    kwargs = {"net_arch": [8], "features_extractor_class": Narrow}
    model = small(algorithm, "MultiInputPolicy", env, dataset=record(env, 20), policy_kwargs=kwargs).learn(1)
    assert model.policy.actor.features_extractor.features_dim == 4 + 3


def test_unknown_activation_is_refused(algorithm: Any, reacher_data: Arrays) -> None:
    with pytest.raises(ValueError, match="unknown activation_fn 'swosh'"):
        small(algorithm, dataset=reacher_data, policy_kwargs={"activation_fn": "swosh"})


def test_knobs_are_arguments_of_the_algorithm(algorithm: Any, reacher_data: Arrays) -> None:
    for knob in algorithm.knobs():
        with pytest.raises(ValueError, match=f"policy_kwargs has {knob.name}=2, expected it as an argument") as refusal:
            small(algorithm, dataset=reacher_data, policy_kwargs={knob.name: 2})
        one_sentence(refusal.value, f"{algorithm.__name__}(…, {knob.name}=2)")


@pytest.mark.parametrize("value", [None, "1", True])
def test_hyperparameters_are_numbers(algorithm: Any, reacher_data: Arrays, value: Any) -> None:
    for each in fields(algorithm.update_rule.objective):
        if isinstance(each.default, str | bool):
            continue
        with pytest.raises(ValueError, match=f"{each.name} is {value!r}, expected a") as refusal:
            small(algorithm, dataset=reacher_data, **{each.name: value})
        one_sentence(refusal.value, "number")


def test_unknown_policy_is_refused(algorithm: Any, reacher_data: Arrays) -> None:
    with pytest.raises(ValueError, match="Policy NoPolicy unknown"):
        small(algorithm, "NoPolicy", dataset=reacher_data)


# Modes


class TestTrainAndEvaluationMode:
    @pytest.fixture
    def model(self, algorithm: Any, reacher_data: Arrays) -> Any:
        kwargs = {"net_arch": [16], "features_extractor_class": Regularised}
        return small(algorithm, dataset=reacher_data, policy_kwargs=kwargs)

    def test_predict_does_not_drop_out(self, model: Any, reacher_data: Arrays) -> None:
        model.learn(3)
        first, second = (model.predict(reacher_data["observations"][:4], deterministic=True)[0] for _ in range(2))
        assert np.array_equal(first, second)

    def test_training_drops_out(self, model: Any) -> None:
        model.learn(1)
        features = model.policy.actor.features(torch.ones(1000, 10))
        assert 0.4 < (features == 0).float().mean() < 0.6

    def test_predict_leaves_statistics_alone(self, model: Any, reacher_data: Arrays) -> None:
        model.learn(3)
        before = parameters_of(model)
        model.predict(reacher_data["observations"])
        assert all(torch.equal(value, before[name]) for name, value in parameters_of(model).items())

    def test_training_moves_statistics(self, model: Any) -> None:
        before = {name: value for name, value in parameters_of(model).items() if "running_mean" in name}
        assert len(before) >= 3
        model.learn(3)
        after = parameters_of(model)
        assert all(not torch.equal(after[name], value) for name, value in before.items())

    def test_mode_follows_what_is_done(self, model: Any, reacher_data: Arrays) -> None:
        model.learn(1)
        assert model.policy.training
        model.predict(reacher_data["observations"][0])
        assert not model.policy.training
        model.train(gradient_steps=1, batch_size=8)
        assert model.policy.training
        assert model.policy.actor.training

    def test_targets_are_never_in_training_mode(self, model: Any) -> None:
        model.learn(2)
        assert model.policy.critic.training
        assert not any(module.training for module in model.policy.critic_target.modules())

    def test_statistics_of_targets_follow_at_once(self, model: Any) -> None:
        """As in SB3: they are averages already, unlike parameters."""
        model.learn(3)
        for (name, target), source in zip(
            model.policy.critic_target.named_buffers(), model.policy.critic.buffers(), strict=True
        ):
            assert torch.equal(target, source), name


# What SB3's callers expect of a policy


def test_actor_and_critic_are_at_hand_as_in_sb3(model: Any, reacher_data: Arrays) -> None:
    observations = reacher_data["observations"][:4]
    assert model.actor is model.policy.actor
    assert model.critic is model.policy.critic
    actions, state = model.policy.actor.predict(observations, deterministic=True)
    assert state is None
    alone = {"num_candidates": 1} if hasattr(model, "num_candidates") else {}
    np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True, **alone)[0])


@pytest.mark.parametrize("n_critics", [1, 3])
def test_number_of_critics(algorithm: Any, reacher_data: Arrays, n_critics: int) -> None:
    model = small(algorithm, dataset=reacher_data, policy_kwargs={"net_arch": [8], "n_critics": n_critics}).learn(2)
    batch = model.replay_buffer.take(torch.arange(5))
    q = model.critic.head(model.critic.features(batch.observations), batch.actions)
    assert q.shape == (n_critics, 5)
    assert torch.equal(model.policy.q_values(batch.observations, batch.actions), q.amin(0))


def test_one_features_extractor_for_all_trained_networks(algorithm: Any, dict_data: Arrays) -> None:
    shared, apart = (
        small(
            algorithm,
            "MultiInputPolicy",
            dataset=dict_data,
            policy_kwargs={"net_arch": [8], "share_features_extractor": share},
        ).learn(2)
        for share in (True, False)
    )
    assert shared.actor.features_extractor is shared.critic.features_extractor
    assert shared.policy.critic_target.features_extractor is not shared.critic.features_extractor
    assert len(shared.policy.trained_parameters()) < len(apart.policy.trained_parameters())
    held = [id(parameter) for group in shared.policy.optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
