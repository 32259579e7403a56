"""CLIP (Radford et al. 2021, arXiv:2103.00020), the networks with a vision transformer.

What is its own: a picture and a text become directions in one space, which are near where they belong together. Counts
are those of the released networks. The paper's tables 19 and 20 print sizes of the towers, and no counts.
"""

from polytask.models.clip import CLIPConfig
from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned
from polytask.systems.open_weights.clip import DEVIATION, MEAN

PAPER = Publication(
    title="CLIP",
    year=2021,
    paper="Radford et al. 2021, arXiv:2103.00020",
    special="pictures and texts in one space; classes are named at test time",
    unpublished=("training data",),
)
UNCLIP = Publication(
    title="unCLIP's encoder",
    year=2022,
    paper="Ramesh et al. 2022, arXiv:2204.06125",
    special="the CLIP whose embeddings DALL-E 2 predicts and draws",
    unpublished=("training data", "initialization"),
)


def clip(
    image: int, patch: int, layers: int, dim: int, embed: int, *, text_layers: int = 12, text_dim: int = 512,
    heads: int | None = None, text_heads: int | None = None, vocab_size: int = 49_408, context_length: int = 77,
) -> CLIPConfig:  # fmt: skip
    """Heads of 64 channels unless given; pixels are normalised as for the released networks."""
    return CLIPConfig(
        vision=ViTConfig(
            image, patch, layers, dim,
            attention=Attention(heads or dim // 64, bias=True),
            feedforward=MLP(4 * dim, "quick_gelu", bias=True),
            mean=MEAN,
            deviation=DEVIATION,
        ),
        text=TransformerConfig(
            vocab_size=vocab_size,
            context_length=context_length,
            layers=text_layers,
            dim=text_dim,
            attention=Attention(text_heads or text_dim // 64, bias=True),
            feedforward=MLP(4 * text_dim, "quick_gelu", bias=True),
            norm=LayerNorm(),
            position=Learned(),
        ),
        embed=embed,
    )  # fmt: skip


# Section 2.5 and appendix F.
_TRAINING = {
    "pairs": 400e6, "batch": 32_768, "epochs": 32, "optimizer": "Adam, decoupled decay of matrices",
    "weight_decay": 0.2,
    "betas": (0.9, 0.98), "eps": 1e-6, "warmup": 2000, "schedule": "cosine",
}  # fmt: skip


def _row(config: CLIPConfig, exact: int, lr: float) -> Published:
    return Published(config, PAPER, "tables 18 and 20", exact=exact, training=_TRAINING | {"lr": lr})


SIZES = {
    "vit-b-32": _row(clip(224, 32, 12, 768, 512), 151_277_313, 5e-4),
    "vit-b-16": _row(clip(224, 16, 12, 768, 512), 149_620_737, 5e-4),
    "vit-l-14": _row(clip(224, 14, 24, 1024, 768, text_dim=768), 427_616_513, 4e-4),
    "vit-l-14-336": _row(clip(336, 14, 24, 1024, 768, text_dim=768), 427_944_193, 2e-5),
    "vit-h-16": Published(
        clip(256, 16, 32, 1280, 1024, text_layers=24, text_dim=1024), UNCLIP, "appendix C", exact=986_339_841
    ),
}
