"""The encoder: Florence-2's eye and the encoder of its language model, over three pictures and a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig

from dipole_sb3.driving.model.configuration import Configuration

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Tokens of a scene.

    The text is always padded to the same length and the padding is not masked: what stands there is the same in every
    scene, and the shapes never change.

    :param configuration: sizes.
    :param florence: with weights; None: as the configuration says, with random weights from torch's global generator.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, configuration: Configuration, florence: Florence2ForConditionalGeneration | None = None) -> None:
        super().__init__()
        whole = Florence2ForConditionalGeneration(florence_config(configuration)) if florence is None else florence
        self.size = configuration.image_size
        self.florence = whole.model
        # The language model's decoder and its head, which writes texts, are not needed.
        del self.florence.language_model.decoder
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 255, persistent=False)

    def forward(self, cameras: Tensor, text: Tensor) -> Tensor:
        """
        :param cameras: uint8 [scenes, cameras, height, width, 3], RGB.
        :param text: int64 [scenes, text tokens].
        :return: [scenes, tokens, width].
        """
        pictures = self.florence.get_image_features(self.prepared(cameras.flatten(0, 1))).pooler_output
        seen = pictures.reshape(cameras.shape[0], -1, pictures.shape[-1])
        told = self.florence.get_input_embeddings()(text)
        embedded = torch.cat([seen, told.to(seen.dtype)], dim=1)
        tokens: Tensor = self.florence.language_model.encoder(inputs_embeds=embedded).last_hidden_state
        return tokens

    def prepared(self, pictures: Tensor) -> Tensor:
        """Resized as Pillow's bicubic filter does and normalised as for ImageNet.

        :param pictures: uint8 [pictures, height, width, 3].
        :return: float [pictures, 3, size, size].
        """
        x = pictures.permute(0, 3, 1, 2).to(self.mean.dtype)
        if x.shape[-2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        return (x - self.mean) / self.std


def florence_config(configuration: Configuration) -> Florence2Config:
    """transformers' description of the encoder. Nothing in it is random while training: there is no dropout."""
    vision = Florence2VisionConfig(**configuration.vision, drop_path_rate=0.0)
    language = BartConfig(**configuration.language, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    return Florence2Config(vision_config=vision, text_config=language)
