"""Florence-2 from a folder on this machine: in transformers' layout, or with the original repository's names.

Only safetensors files are read; a ``pytorch_model.bin`` is a pickle and is not touched.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Florence2Config, Florence2ForConditionalGeneration

from dipole_sb3.driving.model.configuration import Configuration
from dipole_sb3.driving.model.encoder import florence_config

_RENAMED = (
    (r"^vision_tower\.convs\.(\d+)\.proj\.", r"model.vision_tower.convs.\1.conv."),
    (r"^(vision_tower\..*)\.fn\.dw\.", r"\1."),
    (r"^(vision_tower\..*)\.(window_attn|channel_attn)\.norm\.", r"\1.norm1."),
    (r"^(vision_tower\..*)\.ffn\.norm\.", r"\1.norm2."),
    (r"^(vision_tower\..*)\.ffn\.fn\.net\.", r"\1.ffn."),
    (r"^(vision_tower\..*)\.(window_attn|channel_attn)\.fn\.", r"\1.\2."),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"^image_projection$", "model.multi_modal_projector.image_projection.weight"),
    (r"^image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
"""The original repository's names and transformers'; each rule is applied to what the former ones left."""

_ORIGINAL = "vision_tower.convs.0.proj.weight"
_UNUSED = ("lm_head.", "model.language_model.decoder.", "language_model.final_logits_bias")


def florence_in(
    folder: str | Path, configuration: Configuration
) -> tuple[Florence2ForConditionalGeneration, Configuration]:
    """Florence-2 with the weights of a folder, and the configuration with its sizes.

    :raises ValueError: the folder does not hold one, or its width is not the decoder's: one sentence.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "config.json").read_bytes())
        if described["model_type"] != "florence2":
            raise ValueError(f"its config.json describes a {described['model_type']}")
        florence = _original(folder, described, configuration) if _is_original(folder) else _ours(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{folder}: found no Florence-2 ({reason}), expected a folder with config.json and model.safetensors"
        ) from error
    configuration = _with_sizes_of(florence.config, configuration)
    found = (configuration.vision["projection_dim"], configuration.language["d_model"])
    if found != (configuration.width, configuration.width):
        raise ValueError(f"{folder}: its tokens are {found[0]} wide, expected {configuration.width} as the decoder")
    return florence, configuration


def _is_original(folder: Path) -> bool:
    from safetensors import safe_open

    path = folder / "model.safetensors"
    if not path.is_file():  # in several files, as transformers writes large models
        return False
    with safe_open(path, "pt") as file:
        return _ORIGINAL in file.keys()  # noqa: SIM118 -- not a mapping


def _ours(folder: Path) -> Florence2ForConditionalGeneration:
    return Florence2ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )


def _original(
    folder: Path, described: dict[str, Any], configuration: Configuration
) -> Florence2ForConditionalGeneration:
    vision, language = described["vision_config"], described["text_config"]
    sizes = replace(
        configuration,
        vision={
            **{name: vision[name] for name in configuration.vision if name in vision},
            "embed_dim": vision["dim_embed"],
            "max_temporal_embeddings": vision["visual_temporal_embedding"]["max_temporal_embeddings"],
            "max_position_embeddings": vision["image_pos_embed"]["max_pos_embeddings"],
        },
        language={name: language[name] for name in configuration.language if name in language},
    )
    tensors = {renamed(name): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    # transformers keeps the projection the other way round.
    projection = "model.multi_modal_projector.image_projection.weight"
    tensors[projection] = tensors[projection].T
    florence = Florence2ForConditionalGeneration(florence_config(sizes))
    absent, unknown = florence.load_state_dict(tensors, strict=False)
    shared = {"model.language_model.encoder.embed_tokens.weight", "model.language_model.shared.weight"}
    problems = [name for name in absent if not name.startswith(_UNUSED) and name not in shared]
    problems += [name for name in unknown if not name.startswith(_UNUSED)]
    if problems or shared <= set(absent):
        raise ValueError(f"{problems[0] if problems else 'the text embedding'} is missing or unknown")
    return florence


def renamed(name: str) -> str:
    """transformers' name of a tensor in the original repository."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _with_sizes_of(config: Florence2Config, configuration: Configuration) -> Configuration:
    vision = {**configuration.vision, "max_temporal_embeddings": 0, "max_position_embeddings": 0}
    return replace(
        configuration,
        vision={name: getattr(config.vision_config, name) for name in vision},
        language={name: getattr(config.text_config, name) for name in configuration.language},
    )
