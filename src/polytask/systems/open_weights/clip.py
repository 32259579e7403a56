"""CLIP (Radford et al. 2021, arXiv:2103.00020) with a vision transformer, as transformers keeps it.

What is its own: two towers and a learned scale; the state of a text is taken at its end. Folders that were converted
first name 2 as the end, which no text has: there the place of the highest id is meant. What a picture's pixels are
normalised by stands in no config.json; where ours wrote none, it is what the published networks have.
"""

from typing import Any

from polytask.errors import ConfigError
from polytask.interop.hf import Family
from polytask.interop.rows import Entry, Row, spread, stacked
from polytask.models.clip import FIRST_SCALE, CLIPConfig
from polytask.models.config import TransformerConfig
from polytask.models.resnet import ResNetConfig
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned
from polytask.systems.open_weights.words import Words, activation, number, only, parts, size, their_activation

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEGACY_END = 2


def read_vision(words: Words) -> ViTConfig:
    """Of a vision_config; sizes that it leaves out are those of ViT-B/32."""
    only(words, "num_channels", 3)
    return ViTConfig(
        image=size(words, "image_size", 224),
        patch=size(words, "patch_size", 32),
        layers=size(words, "num_hidden_layers", 12),
        dim=size(words, "hidden_size", 768),
        attention=Attention(size(words, "num_attention_heads", 12), bias=True),
        feedforward=MLP(size(words, "intermediate_size", 3072), activation(words, "hidden_act", "quick_gelu"), True),
        norm=LayerNorm(number(words, "layer_norm_eps", 1e-5, zero=True)),
        mean=tuple(words.get("image_mean", MEAN)),
        deviation=tuple(words.get("image_std", DEVIATION)),
    )


def write_vision(c: ViTConfig | ResNetConfig) -> dict[str, Any]:
    if isinstance(c, ResNetConfig):
        raise ConfigError("transformers has no CLIP with a residual network.")
    if c.attention != Attention(c.attention.heads, bias=True) or not c.feedforward.bias:
        raise ConfigError("CLIP's vision tower has plain attention and biases everywhere.")
    return {
        "model_type": "clip_vision_model",
        "image_size": c.image,
        "patch_size": c.patch,
        "num_hidden_layers": c.layers,
        "hidden_size": c.dim,
        "num_attention_heads": c.attention.heads,
        "intermediate_size": c.feedforward.width,
        "hidden_act": their_activation(c.feedforward.activation),
        "layer_norm_eps": c.norm.eps,
        "image_mean": list(c.mean),
        "image_std": list(c.deviation),
    }


def tower(theirs: str, ours: str, dim: int) -> list[Entry]:
    """The table of a stack of blocks, which both towers keep alike."""
    layer, block = theirs + "encoder.layers.{i}", ours + "blocks.{i}"
    queries, keys, values = stacked(dim, dim, dim)
    return [
        (f"{layer}.layer_norm1", f"{block}.attention_norm"),
        (f"{layer}.layer_norm2", f"{block}.feedforward_norm"),
        (f"{layer}.self_attn.q_proj", f"{block}.attention.qkv", queries),
        (f"{layer}.self_attn.k_proj", f"{block}.attention.qkv", keys),
        (f"{layer}.self_attn.v_proj", f"{block}.attention.qkv", values),
        (f"{layer}.self_attn.out_proj", f"{block}.attention.output"),
        (f"{layer}.mlp.fc1", f"{block}.feedforward.up"),
        (f"{layer}.mlp.fc2", f"{block}.feedforward.down"),
    ]


def vision_table(theirs: str, ours: str, dim: int) -> list[Entry]:
    return [
        (f"{theirs}embeddings.class_embedding", f"{ours}class_embedding"),
        (f"{theirs}embeddings.patch_embedding", f"{ours}patches"),
        (f"{theirs}embeddings.position_embedding.weight", f"{ours}position"),
        (f"{theirs}pre_layrnorm", f"{ours}first_norm"),
        (f"{theirs}post_layernorm", f"{ours}norm"),
        *tower(theirs, ours, dim),
    ]


def _read(words: Words) -> CLIPConfig:
    text = words.get("text_config") or words.get("text_config_dict") or {}
    dim, end = size(text, "hidden_size", 512), number(text, "eos_token_id", 49_407, whole=True, zero=True)
    return CLIPConfig(
        vision=read_vision(words.get("vision_config") or words.get("vision_config_dict") or {}),
        text=TransformerConfig(
            vocab_size=size(text, "vocab_size", 49_408),
            context_length=size(text, "max_position_embeddings", 77),
            layers=size(text, "num_hidden_layers", 12),
            dim=dim,
            attention=Attention(size(text, "num_attention_heads", 8), bias=True),
            feedforward=MLP(size(text, "intermediate_size", 2048), activation(text, "hidden_act", "quick_gelu"), True),
            norm=LayerNorm(number(text, "layer_norm_eps", 1e-5, zero=True)),
            position=Learned(),
        ),
        embed=size(words, "projection_dim", 512),
        end=None if end == LEGACY_END else end,
        scale=number(words, "logit_scale_init_value", FIRST_SCALE),
    )


def _write(c: CLIPConfig) -> dict[str, Any]:
    attention, feedforward, norm, _ = parts(c.text)
    text = {
        "model_type": "clip_text_model",
        "vocab_size": c.text.vocab_size,
        "max_position_embeddings": c.text.context_length,
        "num_hidden_layers": c.text.layers,
        "hidden_size": c.text.dim,
        "num_attention_heads": attention.heads,
        "intermediate_size": feedforward.width,
        "hidden_act": their_activation(feedforward.activation),
        "layer_norm_eps": norm.eps,
        "eos_token_id": LEGACY_END if c.end is None else c.end,
    }
    return {
        "text_config": text,
        "vision_config": write_vision(c.vision),
        "projection_dim": c.embed,
        "logit_scale_init_value": c.scale,
    }


def _rows(c: CLIPConfig) -> list[Row]:
    return spread(c, [
        *vision_table("vision_model.", "vision.", c.vision.dim),
        ("visual_projection", "picture_projection"),
        ("text_model.embeddings.token_embedding", "text.embedding"),
        ("text_model.embeddings.position_embedding", "text.position"),
        *tower("text_model.", "text.", c.text.dim),
        ("text_model.final_layer_norm", "text.norm"),
        ("text_projection", "text_projection"),
        ("logit_scale", "log_scale"),
    ])  # fmt: skip


CLIP = Family("clip", "CLIPModel", _read, _write, _rows, config=CLIPConfig, ignored=(r"embeddings\.position_ids$",))
