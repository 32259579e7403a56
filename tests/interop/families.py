"""Tiny random networks of transformers, one or more for each family of open weights, made as hard to confuse as we can.

Sizes differ from one another, no head is dim / heads where the family allows another, windows are shorter than the
rows, and all weights are shaken, so that no zero and no one hides an error.
"""

import functools
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

VOCABULARY, LENGTH = 97, 64
_GPT = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA = _GPT | {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": LENGTH,
}  # fmt: skip
_FALCON = _GPT | {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": LENGTH,
}
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 700.0, "factor": 8.0, "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
_QWEN = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}

CASES: dict[str, tuple[str, dict]] = {
    "gpt2": ("GPT2", _GPT | {"n_positions": LENGTH, "n_embd": 36, "n_layer": 3, "n_head": 3, "n_inner": 40}),
    "gpt2, unscaled and untied": (
        "GPT2",
        _GPT | {
            "n_positions": LENGTH, "n_embd": 32, "n_layer": 2, "n_head": 4, "scale_attn_weights": False,
            "tie_word_embeddings": False, "activation_function": "relu",
        },
    ),
    "gpt neo": (
        "GPTNeo",
        _GPT | {
            "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 40, "window_size": 5,
            "attention_types": [[["global", "local"], 1], [["local"], 1]], "max_position_embeddings": LENGTH,
        },
    ),
    "gpt-j": (
        "GPTJ", _GPT | {"n_positions": LENGTH, "n_embd": 36, "n_layer": 2, "n_head": 3, "rotary_dim": 10, "n_inner": 40}
    ),
    "gpt-neox": (
        "GPTNeoX",
        _GPT | {
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 56,
            "max_position_embeddings": LENGTH,
        },
    ),
    "gpt-neox, one after the other": (
        "GPTNeoX",
        _GPT | {
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 56,
            "max_position_embeddings": LENGTH, "use_parallel_residual": False, "attention_bias": False,
            "hidden_act": "gelu_fast", "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        },
    ),
    "opt": (
        "OPT",
        _GPT | {
            "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 40, "pad_token_id": 1,
            "max_position_embeddings": LENGTH,
        },
    ),
    "opt, post-norm without biases": (
        "OPT",
        _GPT | {
            "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 40, "pad_token_id": 1,
            "max_position_embeddings": LENGTH, "do_layer_norm_before": False, "enable_bias": False,
        },
    ),
    "bloom": ("Bloom", _GPT | {"hidden_size": 36, "n_layer": 2, "n_head": 6}),
    "falcon 7b": ("Falcon", _FALCON),
    "falcon 40b": ("Falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon 11b": (
        "Falcon",
        _FALCON | {
            "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False, "ffn_hidden_size": 40,
        },
    ),
    "falcon rw": (
        "Falcon", _FALCON | {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}
    ),
    "llama": ("Llama", _LLAMA),
    "llama, wide heads and biases": (
        "Llama",
        _LLAMA | {
            "head_dim": 12, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3,
            "rope_parameters": _LLAMA3,
        },
    ),
    "llama, yarn": ("Llama", _LLAMA | {"rope_parameters": _YARN}),
    "llama, yarn with a size": ("Llama", _LLAMA | {"rope_parameters": _YARN | {"attention_factor": 1.5}}),
    "llama, linear": (
        "Llama", _LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 3.0}}
    ),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": 5, "head_dim": 12}),
    "mistral, without a window": ("Mistral", _LLAMA | {"sliding_window": None, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", _LLAMA | _QWEN),
    "qwen2, tied and dense": ("Qwen2", _LLAMA | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", _LLAMA | _QWEN | {"head_dim": 12}),
    "gemma": ("Gemma", _LLAMA | {"head_dim": 12, "num_key_value_heads": 1}),
    "gemma 2": (
        "Gemma2",
        _LLAMA | {
            "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 5, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "mixtral": (
        "Mixtral", _LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 12, "sliding_window": 5}
    ),
}  # fmt: skip
# What the oracle computes in float32 even where its weights are float64: scores (GPT-Neo, GPT-J), the factor of the
# embedding (Gemma), gates (Mixtral). BLOOM's form of GELU, and the "fast" one, have a rounded constant.
FLOAT32 = {
    "gpt neo": 1e-5, "gpt-j": 1e-5, "gemma": 1e-6, "gemma 2": 1e-6, "bloom": 1e-7,
    "gpt-neox, one after the other": 1e-7, "mixtral": 1e-6,
}  # fmt: skip
EAGER = {"gemma 2", "bloom", "gpt neo", "gpt-j"}  # caps have no kernel; the others have one way alone


class _Norm(nn.Module):
    """RMSNorm in the precision of its input; the oracle's own drops to float32."""

    def __init__(self, theirs: nn.Module):
        super().__init__()
        self.weight = theirs.weight
        self.eps = getattr(theirs, "variance_epsilon", None) or theirs.eps
        self.offset = type(theirs).__name__.startswith("Gemma")

    def forward(self, x):
        scale = self.weight + 1 if self.offset else self.weight
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * scale


@dataclass
class Case:
    oracle: nn.Module
    folder: Path
    exact: float

    @contextmanager
    def precise(self):
        """Softmax in the precision of the scores; the oracle's eager attention drops to float32."""
        softmax = nn.functional.softmax
        nn.functional.softmax = lambda x, dim=None, dtype=None: softmax(x, dim=dim)
        try:
            yield
        finally:
            nn.functional.softmax = softmax


@functools.cache
def case(name: str) -> Case:
    """The oracle in float64 and the folder that it saved."""
    import transformers

    kind, words = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**words)
    for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout"):
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    config._experts_implementation = "eager"  # grouped products have no float64
    torch.manual_seed(len(name))
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    oracle = getattr(transformers, f"{kind}{suffix}")._from_config(
        config, attn_implementation="eager" if name in EAGER else "sdpa"
    )
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle = oracle.double().eval()
    folder = Path(tempfile.mkdtemp()) / "theirs"
    oracle.save_pretrained(folder)
    for parent in list(oracle.modules()):
        for child, module in list(parent.named_children()):
            if type(module).__name__.endswith("RMSNorm"):
                setattr(parent, child, _Norm(module))
    return Case(oracle, folder, FLOAT32.get(name, 1e-9))
