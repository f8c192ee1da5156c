"""The encoder is transformers' Florence-2, from its configuration or from a folder; pictures are prepared in torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Florence2ForConditionalGeneration

from dipole_sb3.driving.model.configuration import Configuration, tiny
from dipole_sb3.driving.model.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, florence_config
from dipole_sb3.driving.model.florence_files import florence_in, renamed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Florence-2 as transformers saves it."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("florence")
    Florence2ForConditionalGeneration(florence_config(tiny())).save_pretrained(path)
    return path


def seen_by(encoder: Encoder) -> torch.Tensor:
    random = torch.Generator().manual_seed(4)
    cameras = torch.randint(0, 256, (2, 3, 40, 50, 3), dtype=torch.uint8, generator=random)
    text = torch.randint(0, 20, (2, 40), generator=random)
    with torch.no_grad():
        tokens: torch.Tensor = encoder.eval()(cameras, text)
    return tokens


def test_tokens_of_a_scene() -> None:
    tokens = seen_by(Encoder(tiny()))
    assert tokens.shape == (2, tiny().tokens, tiny().width)
    assert not torch.allclose(tokens[0], tokens[1])


def test_the_language_decoder_and_its_head_are_dropped() -> None:
    names = {name for name, _ in Encoder(tiny()).named_parameters()}
    assert not [name for name in names if "decoder" in name or "lm_head" in name]


def test_training_is_not_random() -> None:
    """Nothing may draw from global generators: a run that goes on after a kill would differ."""
    encoder = Encoder(tiny())
    evaluated = seen_by(encoder)
    random = torch.Generator().manual_seed(4)
    cameras = torch.randint(0, 256, (2, 3, 40, 50, 3), dtype=torch.uint8, generator=random)
    text = torch.randint(0, 20, (2, 40), generator=random)
    assert torch.equal(encoder.train()(cameras, text), evaluated)


def test_pictures_are_resized_as_pillow_does_it() -> None:
    encoder, random = Encoder(tiny()), np.random.default_rng(0)
    # Far enough from black and white: Pillow cuts what overshoots between its two passes, too.
    picture = random.integers(60, 190, (90, 120, 3)).astype(np.uint8)
    found = encoder.prepared(torch.as_tensor(picture)[None])[0]
    resized = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC), np.float32) / 255
    expected = (resized - IMAGENET_MEAN) / IMAGENET_STD
    # Pillow rounds to whole steps of 255 after either pass.
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 1.6 / 255 / 0.225


def test_a_folder_in_the_layout_of_transformers(folder: Path) -> None:
    florence, configuration = florence_in(folder, tiny())
    first, again = (
        seen_by(Encoder(configuration, florence)),
        seen_by(Encoder(configuration, florence_in(folder, tiny())[0])),
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, seen_by(Encoder(tiny())))


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        ("vision_tower.convs.0.proj.weight", "model.vision_tower.convs.0.conv.weight"),
        ("vision_tower.convs.1.norm.bias", "model.vision_tower.convs.1.norm.bias"),
        (
            "vision_tower.blocks.2.8.spatial_block.conv1.fn.dw.weight",
            "model.vision_tower.blocks.2.8.spatial_block.conv1.weight",
        ),
        (
            "vision_tower.blocks.0.0.spatial_block.window_attn.norm.weight",
            "model.vision_tower.blocks.0.0.spatial_block.norm1.weight",
        ),
        (
            "vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv.bias",
            "model.vision_tower.blocks.0.0.spatial_block.window_attn.qkv.bias",
        ),
        (
            "vision_tower.blocks.0.0.channel_block.channel_attn.norm.bias",
            "model.vision_tower.blocks.0.0.channel_block.norm1.bias",
        ),
        (
            "vision_tower.blocks.0.0.channel_block.channel_attn.fn.proj.weight",
            "model.vision_tower.blocks.0.0.channel_block.channel_attn.proj.weight",
        ),
        (
            "vision_tower.blocks.0.0.channel_block.conv2.fn.dw.bias",
            "model.vision_tower.blocks.0.0.channel_block.conv2.bias",
        ),
        (
            "vision_tower.blocks.0.0.channel_block.ffn.norm.weight",
            "model.vision_tower.blocks.0.0.channel_block.norm2.weight",
        ),
        (
            "vision_tower.blocks.0.0.channel_block.ffn.fn.net.fc2.bias",
            "model.vision_tower.blocks.0.0.channel_block.ffn.fc2.bias",
        ),
        ("image_projection", "model.multi_modal_projector.image_projection.weight"),
        ("image_proj_norm.weight", "model.multi_modal_projector.image_proj_norm.weight"),
        (
            "image_pos_embed.row_embeddings.weight",
            "model.multi_modal_projector.image_position_embed.row_embeddings.weight",
        ),
        (
            "visual_temporal_embed.pos_idx_to_embed",
            "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed",
        ),
        ("language_model.model.encoder.layers.0.fc1.weight", "model.language_model.encoder.layers.0.fc1.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_of_the_original_repository(original: str, ours: str) -> None:
    assert renamed(original) == ours


def original_name(name: str) -> str:
    """The other way, for a file such as the original repository has."""
    name = name.removeprefix("model.")
    for ours, theirs in (
        (".conv.", ".proj."),
        (".conv1.", ".conv1.fn.dw."),
        (".conv2.", ".conv2.fn.dw."),
        (".window_attn.", ".window_attn.fn."),
        (".channel_attn.", ".channel_attn.fn."),
        ("spatial_block.norm1.", "spatial_block.window_attn.norm."),
        ("channel_block.norm1.", "channel_block.channel_attn.norm."),
        (".norm2.", ".ffn.norm."),
        (".ffn.fc", ".ffn.fn.net.fc"),
        ("multi_modal_projector.image_projection.weight", "image_projection"),
        ("multi_modal_projector.image_position_embed", "image_pos_embed"),
        ("multi_modal_projector.", ""),
    ):
        if not name.startswith("language_model"):
            name = name.replace(ours, theirs)
    return (
        name.replace("language_model.", "language_model.model.") if "lm_head" not in name else f"language_model.{name}"
    )


def test_a_folder_of_the_original_repository(folder: Path, tmp_path: Path) -> None:
    tensors = {original_name(name): each for name, each in load_file(folder / "model.safetensors").items()}
    assert "image_projection" in tensors
    tensors["image_projection"] = tensors["image_projection"].T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    vision = {name: each for name, each in tiny().vision.items() if name != "embed_dim"}
    vision["dim_embed"] = tiny().vision["embed_dim"]
    vision["visual_temporal_embedding"] = {"type": "COSINE", "max_temporal_embeddings": 100}
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": 50}
    described = {"model_type": "florence2", "vision_config": vision, "text_config": tiny().language}
    (tmp_path / "config.json").write_text(json.dumps(described))


    ours, original = (florence_in(each, tiny()) for each in (folder, tmp_path))
    assert torch.equal(seen_by(Encoder(tiny(), ours[0])), seen_by(Encoder(tiny(), original[0])))
    assert original[1].vision == ours[1].vision


def test_folders_that_hold_no_florence(folder: Path, tmp_path: Path) -> None:
    expected = r"found no Florence-2 \(.*\), expected a folder with config.json and model.safetensors$"
    with pytest.raises(ValueError, match=expected):
        florence_in(tmp_path / "nothing", tiny())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="describes a bert"):
        florence_in(tmp_path, tiny())
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=expected):
        florence_in(tmp_path, tiny())
    # A pickle is not read, even where it is all there is.
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=expected):
        florence_in(tmp_path, tiny())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=expected):
        florence_in(tmp_path, tiny())


def test_a_florence_of_another_width(folder: Path) -> None:
    wider = Configuration(**{**tiny().as_dict(), "width": 128})
    with pytest.raises(ValueError, match="its tokens are 64 wide, expected 128 as the decoder"):
        florence_in(folder, wider)
