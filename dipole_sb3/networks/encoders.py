"""Features extractors for images, beside Stable-Baselines3's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn


class ImpalaCNN(BaseFeaturesExtractor):
    """Residual convolutions and one wide layer: the encoder of IMPALA, by default the small one of FQL's visual tasks.

    Every stack is a convolution, a pooling that halves height and width, and residual blocks. A 64×64 image becomes 8×8
    with 32 channels, then ``features_dim`` numbers. Initial weights are Xavier-uniform, as in those authors' agents.

    Source: Espeholt et al., IMPALA (2018), figure 3, right; Park et al., Flow Q-Learning (2025), visual tasks.

    :param observation_space: an image with its channels first; a stack of frames has their channels one after another.
    :param features_dim: width of the last layer, ≥ 1.
    :param normalized_image: the image is not uint8 from 0 to 255, but floats from 0 to 1; as in NatureCNN.
    :param stack_sizes: channels of each stack.
    :param num_blocks: residual blocks in each stack, ≥ 0; IMPALA has 2.
    :raises ValueError: the observation is no image.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 512,
        normalized_image: bool = False,
        stack_sizes: Sequence[int] = (16, 32, 32),
        num_blocks: int = 1,
    ) -> None:
        if not is_image_space(observation_space, check_channels=False, normalized_image=normalized_image):
            raise ValueError(f"ImpalaCNN was given observations {observation_space}, expected an image")
        assert isinstance(observation_space, spaces.Box)
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        stacks: list[nn.Module] = []
        for size in stack_sizes:
            stacks.append(_stack(channels, size, (height, width), num_blocks))
            channels, height, width = size, -(-height // 2), -(-width // 2)
        self.stacks = nn.Sequential(*stacks, nn.ReLU(), nn.Flatten())
        self.linear = nn.Sequential(
            _xavier(nn.Linear(channels * height * width, features_dim)), nn.GELU(approximate="tanh")
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Images [batch, channels, height, width] from 0 to 1 → features [batch, features_dim]."""
        # With the channels of a pixel adjacent, its 3×3 convolutions and poolings take little more than half the time.
        pixels = observations.contiguous(memory_format=torch.channels_last)
        return self.linear(self.stacks(pixels))  # type: ignore[no-any-return]


def _stack(channels: int, size: int, image: tuple[int, int], num_blocks: int) -> nn.Sequential:
    # Padded as TensorFlow and JAX do it (SAME): one more after an even length, one on both sides of an odd one.
    pool = nn.MaxPool2d(3, stride=2, padding=(image[0] % 2, image[1] % 2), ceil_mode=True)
    blocks = [_ResidualBlock(size) for _ in range(num_blocks)]
    return nn.Sequential(_xavier(nn.Conv2d(channels, size, 3, padding=1)), pool, *blocks)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (_xavier(nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2))
        self.residual = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)  # type: ignore[no-any-return]


def _xavier(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    assert layer.bias is not None
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


ENCODERS: Mapping[str, type[BaseFeaturesExtractor]] = {"impala-small": ImpalaCNN, "nature": NatureCNN}
"""Extractors by the names by which configurations choose them."""


class ImagesAndVectors(BaseFeaturesExtractor):
    """For Dict observations: an encoder for every image, everything else flattened; all features one after another.

    :param observation_space: a Dict, images with their channels first.
    :param encoder: a name of :data:`ENCODERS`.
    :param kwargs: arguments of every encoder.
    :raises ValueError: there is no image in it.
    """

    def __init__(self, observation_space: spaces.Dict, encoder: str = "impala-small", **kwargs: Any) -> None:
        parts = observation_space.spaces
        normalized = kwargs.get("normalized_image", False)
        images = {key for key, space in parts.items() if is_image_space(space, False, normalized)}
        if not images:
            raise ValueError(
                f"features_extractor_class {encoder!r} was given observations {observation_space}, expected an image"
            )
        encoders = {
            key: ENCODERS[encoder](space, **kwargs) if key in images else nn.Flatten() for key, space in parts.items()
        }
        width = sum(
            each.features_dim if isinstance(each, BaseFeaturesExtractor) else get_flattened_obs_dim(parts[key])
            for key, each in encoders.items()
        )
        super().__init__(observation_space, width)
        # A ModuleDict takes no key with a dot, nor one that is the name of a method.
        self._keys = list(encoders)
        self.encoders = nn.ModuleList(encoders.values())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Tensors [batch, *part] by key → features [batch, features]."""
        parts = [encoder(observations[key]) for key, encoder in zip(self._keys, self.encoders, strict=True)]
        return torch.cat(parts, dim=1)


def chosen_extractor(
    chosen: str | type[BaseFeaturesExtractor],
    kwargs: Mapping[str, Any] | None,
    observation_space: spaces.Space[Any],
    normalize_images: bool,
) -> tuple[type[BaseFeaturesExtractor], dict[str, Any]]:
    """The class of a features extractor and its arguments.

    :param chosen: a class, or a name of :data:`ENCODERS`.
    :param kwargs: its arguments, or None.
    :param normalize_images: whether images are divided by 255 on their way into it.
    :raises ValueError: for an unknown name.
    """
    arguments = dict(kwargs or {})
    if not isinstance(chosen, str):
        return chosen, arguments
    if chosen not in ENCODERS:
        raise ValueError(
            f"features_extractor_class is {chosen!r}, expected one of {sorted(ENCODERS)} or a class like those of "
            "Stable-Baselines3"
        )
    if not normalize_images:
        arguments.setdefault("normalized_image", True)
    if isinstance(observation_space, spaces.Dict):
        return ImagesAndVectors, {"encoder": chosen, **arguments}
    return ENCODERS[chosen], arguments
