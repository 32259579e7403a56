"""GPT-4 (OpenAI 2023, arXiv:2303.08774): what is published of it, which is no architecture, and what of its kind can
be built.

The report says that it is "a Transformer-style model pre-trained to predict the next token", that it reads text and
images and writes text, and that it was then tuned with reinforcement learning from human feedback. It withholds, in so
many words, "architecture (including model size), hardware, training compute, dataset construction, training method".
So the row has no configuration and no count. Rumours are no source. `vision_language` is not GPT-4 but of its kind, in
the open design of LLaVA: our own decoder, which looks at pictures by a vision transformer.

What its own section 3 does publish is how its loss and its share of solved problems were predicted from much smaller
runs; `SCALING` holds those forms.
"""

from polytask.models.published import Publication, Published
from polytask.models.vision_language import VisionLanguageConfig
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.systems.generalist import generalist


def vision_language(
    depth: int = 6, *, image: int = 32, patch: int = 4, vision_layers: int = 3, vision_dim: int = 128,
    vision_heads: int | None = None, dim: int | None = None, heads: int | None = None, kv_heads: int | None = None,
    width: int | None = None, band: int | None = None, vocab_size: int = 16_384, context_length: int = 512,
    dropout: float = 0.0,
) -> VisionLanguageConfig:  # fmt: skip
    """A `generalist` of `depth` layers that reads pictures of `image` pixels in patches of `patch`. The last id of the
    vocabulary is the placeholder of pictures. All of the vision transformer's layers are used, and trained along, where
    LLaVA takes a trained one's second-last (Liu et al. 2023, section 4.1).
    """
    heads_seen = Attention(vision_heads or max(1, vision_dim // 64), bias=True)
    vision = ViTConfig(image, patch, vision_layers, vision_dim, heads_seen, MLP(4 * vision_dim, "gelu", bias=True))
    text = generalist(
        depth, dim=dim, heads=heads, kv_heads=kv_heads, width=width, band=band, vocab_size=vocab_size,
        context_length=context_length, dropout=dropout,
    )  # fmt: skip
    return VisionLanguageConfig(vision, text, placeholder=vocab_size - 1, left_out=0)


PAPER = Publication(
    title="GPT-4",
    year=2023,
    paper="OpenAI 2023, arXiv:2303.08774",
    special="reads images too; its loss was predicted from runs with a ten-thousandth of its compute",
    unpublished=("architecture", "size", "hardware", "compute", "data", "training method"),
)

SIZES = {
    "": Published(
        None,
        PAPER,
        "section 2",
        training={
            "context": (8192, 32_768),
            "stages": ("next token", "reinforcement learning from human feedback, with rule-based reward models"),
        },
    )
}

# Section 3: compute C is in units of GPT-4's own.
SCALING = {
    "loss": {
        "form": "L(C) = a C^b + c", "metric": "bits per word of code that training never saw",
        "largest_run_of_the_fit": 1e-4,
    },
    "capability": {
        "form": "-mean(log(pass_rate(C))) = alpha C^-k", "metric": "HumanEval, 23 problems of one bucket of difficulty",
        "largest_run_of_the_fit": 1e-3,
    },
}  # fmt: skip
