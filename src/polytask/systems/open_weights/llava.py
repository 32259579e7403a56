"""LLaVA 1.5 (Liu et al. 2023, arXiv:2310.03744): CLIP's vision tower, two layers, and a decoder of any family here."""

from dataclasses import replace
from typing import Any

from polytask.errors import ConfigError
from polytask.interop import hf
from polytask.interop.hf import Family
from polytask.interop.rows import Row, spread
from polytask.models.config import TransformerConfig
from polytask.models.vision_language import VisionLanguageConfig
from polytask.systems.open_weights.clip import read_vision, vision_table, write_vision
from polytask.systems.open_weights.words import Words, activation, number, only, their_activation

TOWER = "vision_tower.vision_model."
_NEW = "vision_tower."  # how transformers 5 writes it
# Older folders leave out of text_config what their decoder has anyway.
_LLAMA = {"vocab_size": 32_000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_LEFT_OUT = {
    "llama": _LLAMA | {"intermediate_size": 11_008},
    "mistral": _LLAMA | {"intermediate_size": 14_336, "num_key_value_heads": 8},
}


def _read(words: Words) -> VisionLanguageConfig:
    text, vision = words["text_config"], words["vision_config"]
    only(vision, "model_type", "clip_vision_model")
    layer, family = words.get("vision_feature_layer", -2), _decoder(text)
    tower = read_vision(vision)
    if not isinstance(layer, int) or not -tower.layers - 1 <= layer <= tower.layers:
        raise ConfigError(f"vision_feature_layer={layer!r} asks for what polytask does not have; it reads one layer.")
    return VisionLanguageConfig(
        vision=tower,
        text=family.read({**_LEFT_OUT.get(family.model_type, {}), **text}),
        placeholder=number(
            words, "image_token_index" if "image_token_index" in words else "image_token_id", whole=True, zero=True
        ),
        left_out=-1 - layer if layer < 0 else tower.layers - layer,
        class_state=only(words, "vision_feature_select_strategy", "default", "full") == "full",
        activation=activation(words, "projector_hidden_act", "gelu"),
        bias=words.get("multimodal_projector_bias", True),
    )


def _decoder(words: Words) -> Family:
    family: Family = hf.FAMILIES.get(str(words.get("model_type", "llama")))
    if family.config is not TransformerConfig:
        raise ConfigError(f"text_config: {family.model_type} is no language model.")
    return family


def _write(c: VisionLanguageConfig) -> dict[str, Any]:
    family, words = hf.describe(c.text)
    return {
        "text_config": {"model_type": family.model_type, **words},
        "vision_config": write_vision(c.vision),
        "image_token_index": c.placeholder,
        "image_seq_length": c.states,
        "vision_feature_layer": -1 - c.left_out,
        "vision_feature_select_strategy": "full" if c.class_state else "default",
        "projector_hidden_act": their_activation(c.activation),
        "multimodal_projector_bias": c.bias,
        "tie_word_embeddings": c.text.tied,
    }


def _rows(c: VisionLanguageConfig) -> list[Row]:
    family, _ = hf.describe(c.text)
    text = [replace(row, theirs=f"language_model.{row.theirs}", ours=f"text.{row.ours}") for row in family.rows(c.text)]
    return [*text, *spread(c, [
        *vision_table(TOWER, "vision.", c.vision.dim),
        ("multi_modal_projector.linear_1", "first"),
        ("multi_modal_projector.linear_2", "second"),
    ])]  # fmt: skip


LLAVA = Family(
    "llava", "LlavaForConditionalGeneration", _read, _write, _rows,
    config=VisionLanguageConfig,
    spellings={f"{_NEW}{part}": f"{TOWER}{part}" for part in ("embeddings.", "encoder.", "pre_layr", "post_layer")},
    copies={"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"},
    ignored=(r"embeddings\.position_ids$", r"\.rotary_emb\.inv_freq$"),
)  # fmt: skip
