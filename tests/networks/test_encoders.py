"""The IMPALA encoder beside plain loops over its definition, and how encoders are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sampled_environments import image_space, vector_space
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch import nn

from dipole_sb3.networks.encoders import ImagesAndVectors, ImpalaCNN, chosen_extractor


def plain_convolution(image: np.ndarray, layer: Any) -> np.ndarray:
    """3×3, with zeros around: [channels, height, width] → the same height and width."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    height, width = image.shape[1:]
    return np.stack(
        [
            [
                [(weight[out] * padded[:, y : y + 3, x : x + 3]).sum() + bias[out] for x in range(width)]
                for y in range(height)
            ]
            for out in range(len(weight))
        ]
    )


def plain_pooling(image: np.ndarray) -> np.ndarray:
    """The maximum of 3×3 at every second place; as much is added as is needed, the odd one last (JAX: SAME)."""

    def starts(length: int) -> list[int]:
        places = (length + 1) // 2
        added = max((places - 1) * 2 + 3 - length, 0)
        return [2 * place - added // 2 for place in range(places)]

    _, height, width = image.shape
    return np.stack(
        [
            [
                image[:, max(y, 0) : min(y + 3, height), max(x, 0) : min(x + 3, width)].max(axis=(1, 2))
                for x in starts(width)
            ]
            for y in starts(height)
        ]
    ).transpose(2, 0, 1)


def plain_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (7, 5), (1, 2)])
def test_is_what_the_papers_describe(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = ImpalaCNN(image_space(2, *size), features_dim=4, normalized_image=True, stack_sizes=(2, 3), num_blocks=2)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)  # biases, too
    image = torch.rand(2, *size)
    x: np.ndarray = image.double().numpy()
    convolutions = iter([module for module in encoder.modules() if isinstance(module, nn.Conv2d)])
    for _ in range(2):
        x = plain_pooling(plain_convolution(x, next(convolutions)))
        for _ in range(2):
            inner = plain_convolution(np.maximum(x, 0), next(convolutions))
            x = x + plain_convolution(np.maximum(inner, 0), next(convolutions))
    assert next(convolutions, None) is None
    last = encoder.linear[0]
    assert isinstance(last, nn.Linear)
    expected = plain_gelu(
        last.weight.detach().double().numpy() @ np.maximum(x, 0).reshape(-1) + last.bias.detach().numpy()
    )
    np.testing.assert_allclose(encoder(image[None]).detach().numpy()[0], expected, rtol=1e-4, atol=1e-4)


def test_the_small_one_of_visual_tasks() -> None:
    """Three frames of 64×64 in colour → 512 features: 8·8·32 numbers before the last layer."""
    encoder = ImpalaCNN(image_space(9, 64, 64))
    convolutions = [(9, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 32), (32, 32), (32, 32)]
    parameters = sum(3 * 3 * before * after + after for before, after in convolutions) + 8 * 8 * 32 * 512 + 512
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder(torch.rand(5, 9, 64, 64)).shape == (5, 512)


def test_begins_xavier_uniform() -> None:
    encoder = ImpalaCNN(image_space(3, 64, 64))
    for layer in encoder.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            window = layer.weight[0, 0].numel()
            bound = np.sqrt(6 / (window * (layer.weight.shape[0] + layer.weight.shape[1])))
            assert 0.98 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is not None
            assert not layer.bias.any()


class TestDictObservations:
    SPACE = spaces.Dict({"a.b": image_space(1, 16, 16), "joints": vector_space(3), "values": image_space(3, 12, 9)})

    def test_every_image_has_its_own(self) -> None:
        torch.manual_seed(0)
        both = ImagesAndVectors(self.SPACE, features_dim=4)
        assert both.features_dim == 4 + 3 + 4
        seen = {"values": torch.rand(2, 3, 12, 9), "joints": torch.rand(2, 3), "a.b": torch.rand(2, 1, 16, 16)}
        features = both(seen)
        first, _, last = both.encoders
        assert torch.equal(features[:, :4], first(seen["a.b"]))
        assert torch.equal(features[:, 4:7], seen["joints"])
        assert torch.equal(features[:, 7:], last(seen["values"]))

    def test_without_an_image(self) -> None:
        with pytest.raises(
            ValueError, match=r"features_extractor_class 'impala-small' was given .*, expected an image"
        ):
            ImagesAndVectors(spaces.Dict({"joints": vector_space(3)}))


class TestChoice:
    def test_of_one_image(self) -> None:
        assert chosen_extractor("impala-small", None, image_space(3, 64, 64), True) == (ImpalaCNN, {})
        assert chosen_extractor("nature", {"features_dim": 8}, image_space(3, 64, 64), False) == (
            NatureCNN,
            {"features_dim": 8, "normalized_image": True},
        )

    def test_of_several(self) -> None:
        chosen = chosen_extractor("nature", {"features_dim": 8}, TestDictObservations.SPACE, True)
        assert chosen == (ImagesAndVectors, {"encoder": "nature", "features_dim": 8})

    def test_a_class_stays(self) -> None:
        assert chosen_extractor(FlattenExtractor, None, vector_space(3), False) == (FlattenExtractor, {})

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"is 'impala', expected one of \['impala-small', 'nature'\] or a class"):
            chosen_extractor("impala", None, image_space(3, 64, 64), True)

    def test_a_vector_is_no_image(self) -> None:
        with pytest.raises(ValueError, match=r"ImpalaCNN was given observations Box.*\(3,\).*, expected an image"):
            ImpalaCNN(vector_space(3))
