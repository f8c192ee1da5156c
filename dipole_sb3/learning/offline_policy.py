"""The base class of all policies: how networks are built and optimised, and ``predict`` with its knobs."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from dipole_sb3.learning.knobs import Knob
from dipole_sb3.networks.acting_forms import ActingForm
from dipole_sb3.networks.encoders import chosen_extractor
from dipole_sb3.networks.feature_network import Actor, FeatureNetwork
from dipole_sb3.networks.heads import QEnsemble, StateValue
from dipole_sb3.networks.stacked_mlp import NormOrder

Head = TypeVar("Head", bound=nn.Module)
Features = Callable[[str], Tensor]
"""Name of a network → its features of the observations, [..., batch, features]."""

Arch = Sequence[int] | dict[str, list[int]]
"""Hidden widths of all networks, or of actors (``pi``) and of critics and values (``qf``)."""


class OfflinePolicy(BasePolicy):
    """An actor, critics with targets and the other networks of an algorithm; one optimiser updates them all.

    Sub-classes build their networks and implement :meth:`act`. The networks work on actions in [−1, 1].

    :param observation_space: Box, Dict or another space that SB3 can preprocess.
    :param action_space: Box with finite bounds.
    :param lr_schedule: learning rate as a function of the remaining progress (1 → 0).
    :param net_arch: hidden widths of every network, or ``dict(pi=[...], qf=[...])``; None: the class's
        ``default_arch``.
    :param activation_fn: a name, see :func:`~dipole_sb3.networks.stacked_mlp.make_activation`, or a torch module class.
    :param norm_order: layer normalisation ``"after"`` or ``"before"`` the activation, in all networks.
    :param n_critics: number of critics, at least 1; as in SB3.
    :param share_features_extractor: one features extractor for all trained networks instead of one for each; targets
        have their own.
    :param features_extractor_class: SB3 features extractor, or the name of an encoder of images in
        :data:`~dipole_sb3.networks.encoders.ENCODERS`; None: the class's ``default_features_extractor``.
    :param features_extractor_kwargs: its keyword arguments.
    :param normalize_images: divide uint8 images by 255.
    :param optimizer_class: class of the optimiser of all networks.
    :param optimizer_kwargs: its keyword arguments, without the learning rate.
    """

    knobs: ClassVar[tuple[Knob, ...]] = ()
    """Further arguments of :meth:`predict`; their defaults are attributes of the policy."""
    default_features_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    default_arch: ClassVar[Arch] = [512, 512, 512, 512]
    """Hidden widths where none are given: those of FQL's authors, whose comparison most published figures are from."""

    actor: Actor[Any]
    critic: FeatureNetwork[QEnsemble]
    critic_target: FeatureNetwork[QEnsemble]
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Arch | None = None,
        activation_fn: str | type[nn.Module] = "gelu-tanh",
        norm_order: NormOrder = "after",
        n_critics: int = 2,
        share_features_extractor: bool = False,
        features_extractor_class: str | type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        extractor_class, extractor_kwargs = chosen_extractor(
            features_extractor_class or self.default_features_extractor,
            features_extractor_kwargs,
            observation_space,
            normalize_images,
        )
        super().__init__(
            observation_space,
            action_space,
            extractor_class,
            extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        if n_critics < 1:
            raise ValueError(f"n_critics is {n_critics}, expected at least 1")
        self.net_arch = copy.deepcopy(self.default_arch) if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.norm_order: NormOrder = norm_order
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.action_dim = get_action_dim(action_space)
        self.actor_arch, self.critic_arch = get_actor_critic_arch(
            self.net_arch if isinstance(self.net_arch, dict) else list(self.net_arch)
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            norm_order=self.norm_order,
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            lr_schedule=self._dummy_schedule,
            **{knob.name: getattr(self, knob.name) for knob in self.knobs},
        )
        return data

    # Networks

    def _build_actor_and_critics(self, make_actor: Callable[[int], nn.Module]) -> None:
        """The networks that every algorithm has.

        :param make_actor: width of the features → the actor's head.
        """
        extractor = self.make_features_extractor()
        self.actor = Actor(self.observation_space, extractor, make_actor(extractor.features_dim), self.normalize_images)
        self.actor.predict = self._predict_by_actor

        def critics(width: int) -> QEnsemble:
            return QEnsemble(
                width, self.action_dim, self.critic_arch, self.activation_fn, self.n_critics, self.norm_order
            )

        self.critic = self._network(critics)
        self.critic_target = self._target_of(self.critic, critics)

    def _state_value(self) -> FeatureNetwork[StateValue]:
        return self._network(lambda width: StateValue(width, self.critic_arch, self.activation_fn, self.norm_order))

    def _network(self, make_head: Callable[[int], Head]) -> FeatureNetwork[Head]:
        shared = self.actor.features_extractor if self.share_features_extractor else None
        extractor = self.make_features_extractor() if shared is None else shared
        return FeatureNetwork(
            self.observation_space, extractor, make_head(extractor.features_dim), self.normalize_images
        )

    def _target_of(self, network: FeatureNetwork[Head], make_head: Callable[[int], Head]) -> FeatureNetwork[Head]:
        """A copy without gradients, which follows the network."""
        extractor = self.make_features_extractor()
        target = FeatureNetwork(
            self.observation_space, extractor, make_head(extractor.features_dim), self.normalize_images
        )
        target.load_state_dict(network.state_dict())
        return target.requires_grad_(False)

    def _make_optimizer(self, lr_schedule: Schedule) -> None:
        # Fused: one kernel for all parameters. Adam's default loop over tensors takes a tenth of a small update.
        has_fused = self.optimizer_class in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        chosen = {"fused", "foreach", "differentiable"} & self.optimizer_kwargs.keys()
        fused = {"fused": True} if has_fused and not chosen else {}
        self.optimizer = self.optimizer_class(
            self.parameter_groups(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **{**fused, **self.optimizer_kwargs},
        )

    def networks(self) -> dict[str, FeatureNetwork[Any]]:
        """All networks by name, trained ones and targets."""
        return {name: child for name, child in self.named_children() if isinstance(child, FeatureNetwork)}

    def targets(self) -> Iterable[FeatureNetwork[Any]]:
        """The networks that follow others instead of learning."""
        return [self.critic_target]

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of all networks except the targets, each once."""
        targets = list(self.targets())
        trained = [network for network in self.networks().values() if network not in targets]
        return list(dict.fromkeys(chain.from_iterable(network.parameters() for network in trained)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters, with what differs between them; by default one of all."""
        return [{"params": self.trained_parameters()}]

    def learning_rate_factors(self, updates: int) -> list[float]:
        """For each of the :meth:`parameter_groups`, the factor on the learning rate; by default 1.

        :param updates: how many the model has made.
        """
        return [1.0] * len(self.optimizer.param_groups)

    def architecture(self) -> Mapping[str, Any]:
        """What must be equal, besides the shapes of the networks, for several policies to run as one."""
        return {"activation_fn": self.activation_fn, "norm_order": self.norm_order, "device": str(self.device)}

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3, but targets always stay in evaluation mode: no dropout, fixed batch statistics."""
        super().set_training_mode(mode)
        for target in self.targets():
            target.eval()

    # Acting

    @abstractmethod
    def act(self, networks: Any, features: Features, noise: Tensor, **setting: Any) -> Tensor:
        """Actions from given noise, by this policy's networks or by a stack of several policies'.

        :param networks: this policy, or a stack: each network is an attribute with a ``head``.
        :param features: of each network, [..., batch, features], with [policies] in front for a stack.
        :param noise: as :meth:`acting_noise` draws it, with [policies] in front for a stack.
        :param setting: a value for every knob.
        :return: actions in [−1, 1], shape [..., batch, action].
        """

    @abstractmethod
    def acting_form(self) -> ActingForm:
        """The networks that act and how they are used, for an export."""

    def acting_noise(self, batch: int, deterministic: bool, **setting: Any) -> Tensor:
        """The noise that :meth:`act` needs; by default none.

        :param batch: number of observations.
        :param deterministic: fixed noise instead of random noise.
        :param setting: a value for every knob.
        :return: shape [rows, action]; a policy without noise has no rows.
        """
        return torch.empty(0, self.action_dim, device=self.device)

    def setting(self, **given: Any) -> dict[str, Any]:
        """A value for every knob: the given one, checked, or the policy's own where it is None or missing.

        A knob that is not a whole number may have one value per observation: an array of shape [batch].

        :raises TypeError: a name is not a knob of this policy.
        :raises ValueError: a value is out of range.
        """
        unknown = given.keys() - {knob.name for knob in self.knobs}
        if unknown:
            names = ", ".join(knob.name for knob in self.knobs)
            expected = f"expected one of: {names}" if names else "it has nothing to turn"
            raise TypeError(f"{type(self).__name__} has no {sorted(unknown)[0]} to turn, {expected}")
        return {knob.name: self._value_of(knob, given.get(knob.name)) for knob in self.knobs}

    @contextmanager
    def turned(self, **setting: Any) -> Iterator[None]:
        """With other defaults of knobs until the end of the block."""
        before = {name: getattr(self, name) for name in setting}
        try:
            for name, value in setting.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def _value_of(self, knob: Knob, value: Any) -> Any:
        if value is None:
            return getattr(self, knob.name)
        if knob.whole or np.ndim(value) == 0:
            return knob.checked(value)
        array = np.asarray(value, np.float32)
        for each in array.flat:
            knob.checked(each)
        return torch.as_tensor(array, device=self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False, **given: Any) -> Tensor:
        """Actions in [−1, 1], shape [batch, action]."""
        setting = self.setting(**given)
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        noise = self.acting_noise(len(first), deterministic, **setting)
        return self.act(self, lambda name: getattr(self, name).features(observation), noise, **setting)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        **given: Any,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's ``predict``, with an argument for each knob.

        :param observation: one observation or a batch of them, as in SB3.
        :param state: returned unchanged (the policy has no memory).
        :param episode_start: not used.
        :param deterministic: True: a function of the observation alone (fixed noise); False: samples.
        :param given: values of knobs; see :meth:`setting`.
        :return: (actions in the environment's units, state).
        """
        if isinstance(observation, tuple):
            raise ValueError(
                "predict() was given a tuple, expected an observation: Gymnasium's reset() returns "
                "(observation, info), a Stable-Baselines3 VecEnv's reset() the observation alone"
            )
        self.set_training_mode(False)
        tensors, vectorized = self.obs_to_tensor(observation)
        with torch.no_grad():
            scaled = self._predict(tensors, deterministic, **given)
        actions = self.in_units(scaled.cpu().numpy())
        return (actions if vectorized else actions[0]), state

    def _predict_by_actor(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        """``policy.actor.predict``, which SB3's callers expect; it leaves out what needs more than the actor."""
        return self.predict(*arguments, **named)

    def in_units(self, scaled: np.ndarray) -> np.ndarray:
        """Converts actions in [−1, 1], shape [batch, action], to the environment's units and shape."""
        assert isinstance(self.action_space, spaces.Box)
        actions = self.unscale_action(scaled.reshape(-1, *self.action_space.shape))
        # For one in ten upper bounds, rounding leaves the space.
        return np.clip(actions, self.action_space.low, self.action_space.high)  # type: ignore[no-any-return]

    def q_values(self, observations: PyTorchObs, actions: Tensor) -> Tensor:
        """The smallest value of the online critics.

        :param observations: [batch, *observation] on the policy's device.
        :param actions: in [−1, 1], shape [batch, action].
        :return: expected returns, shape [batch].
        """
        values: Tensor = self.critic.head(self.critic.features(observations), actions)
        return values.amin(dim=0)
