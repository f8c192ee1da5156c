"""All sizes of the driving agent's networks in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dipole_sb3.driving.scene import CAMERAS, HISTORY_POSES, PLAN_POSES

ACTION = (PLAN_POSES, 4)
"""Shape of what the decoder denoises: waypoints × (x, y, cos yaw, sin yaw)."""
HISTORY = (HISTORY_POSES, 3)


@dataclass(frozen=True)
class Configuration:
    """Sizes of encoder, decoder and adapters.

    :ivar image_size: pixels; every camera's picture is resized to this square before the encoder sees it.
    :ivar text_tokens: the text is padded or cut to so many tokens.
    :ivar width: of the encoder's tokens and of the decoder.
    :ivar layers: blocks of the decoder.
    :ivar heads: of the decoder's attention; divides ``width``.
    :ivar frequencies: of the time embedding; even.
    :ivar rank: of each LoRA adapter, whose scale is ``alpha / rank``.
    :ivar steps: of the sampler when the agent plans.
    :ivar rollout_steps: of the sampler in the rollouts of fine-tuning.
    :ivar vision: arguments of transformers' ``Florence2VisionConfig``.
    :ivar language: arguments of transformers' ``BartConfig``, of which the encoder is used.
    """

    image_size: int
    width: int
    layers: int
    heads: int
    vision: dict[str, Any]
    language: dict[str, Any]
    text_tokens: int = 40
    frequencies: int = 256
    rank: int = 16
    alpha: int = 16
    steps: int = 10
    rollout_steps: int = 5
    cameras: int = field(default=len(CAMERAS))

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of heads = {self.heads}")
        if self.frequencies % 2:
            raise ValueError(f"frequencies is {self.frequencies}, expected an even number")

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture: one for each place that is left of it, and their mean."""
        side = self.image_size
        strides, kernels, paddings = (self.vision[key] for key in ("patch_stride", "patch_size", "patch_padding"))
        for stride, kernel, padding in zip(strides, kernels, paddings, strict=True):
            side = (side + 2 * padding - kernel) // stride + 1
        return side * side + 1

    @property
    def tokens(self) -> int:
        """Tokens of one scene: 475 in the paper's size."""
        return self.cameras * self.image_tokens + self.text_tokens

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file; ``Configuration(**read)`` is equal to this one."""
        return asdict(self)


def tiny() -> Configuration:
    """For demos and tests: a Florence-2 of some 300,000 parameters with random weights, and a decoder of two blocks."""
    return Configuration(
        image_size=64,
        width=64,
        layers=2,
        heads=4,
        vision={
            "depths": [1, 1],
            "patch_size": [8, 3],
            "patch_stride": [8, 2],
            "patch_padding": [0, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [48, 64],
            "num_heads": [4, 4],
            "num_groups": [4, 4],
            "window_size": 4,
            "projection_dim": 64,
        },
        language={
            "vocab_size": 64,
            "d_model": 64,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 128,
        },
    )


def paper() -> Configuration:
    """The paper's DP-VLA: Florence-2-large and a decoder of 462.1 million parameters."""
    return Configuration(
        image_size=384,
        width=1024,
        layers=12,
        heads=16,
        vision={
            "depths": [1, 1, 9, 1],
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "embed_dim": [256, 512, 1024, 2048],
            "num_heads": [8, 16, 32, 64],
            "num_groups": [8, 16, 32, 64],
            "window_size": 12,
            "projection_dim": 1024,
        },
        language={
            "vocab_size": 51290,
            "d_model": 1024,
            "encoder_layers": 12,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "decoder_layers": 12,
            "decoder_attention_heads": 16,
            "decoder_ffn_dim": 4096,
            "max_position_embeddings": 4096,
        },
    )


_NAMED = {"tiny": tiny, "paper": paper}


def configuration_of(given: str | Configuration) -> Configuration:
    """A configuration by its name.

    :raises ValueError: there is none of that name.
    """
    if isinstance(given, Configuration):
        return given
    if given not in _NAMED:
        raise ValueError(f"configuration is {given!r}, expected {' or '.join(map(repr, _NAMED))} or a Configuration")
    return _NAMED[given]()
