"""CLIP (Radford et al. 2021, arXiv:2103.00020), with a vision transformer or a residual network.

What is its own: a picture and a text become directions in one space, which are near where they belong together. Counts
are those of the released networks. The paper's tables 19 and 20 print sizes of the towers, and no counts.
"""

from polytask.models.clip import CLIPConfig
from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.models.resnet import ResNetConfig
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
    vision: ViTConfig | ResNetConfig, embed: int, *, text_layers: int = 12, text_dim: int = 512,
    text_heads: int | None = None, vocab_size: int = 49_408, context_length: int = 77,
) -> CLIPConfig:  # fmt: skip
    """Heads of the text tower have 64 channels unless given."""
    text = TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=text_layers,
        dim=text_dim,
        attention=Attention(text_heads or text_dim // 64, bias=True),
        feedforward=MLP(4 * text_dim, "quick_gelu", bias=True),
        norm=LayerNorm(),
        position=Learned(),
    )
    return CLIPConfig(vision, text, embed)


def vit(image: int, patch: int, layers: int, dim: int) -> ViTConfig:
    """Heads of 64 channels; pixels are normalised as for the released networks."""
    attention, feedforward = Attention(dim // 64, bias=True), MLP(4 * dim, "quick_gelu", bias=True)
    return ViTConfig(image, patch, layers, dim, attention, feedforward, mean=MEAN, deviation=DEVIATION)


def resnet(image: int, blocks: tuple[int, int, int, int], width: int) -> ResNetConfig:
    """The same for the residual network."""
    return ResNetConfig(image, blocks, width, heads=width // 2, mean=MEAN, deviation=DEVIATION)


def small(
    image: int = 32, patch: int = 4, layers: int = 4, dim: int = 192, *, embed: int = 256, text_layers: int = 3,
    text_dim: int = 192, vocab_size: int = 512, context_length: int = 64,
) -> CLIPConfig:  # fmt: skip
    """What a recipe trains: the published form at any size."""
    return clip(
        vit(image, patch, layers, dim), embed, text_layers=text_layers, text_dim=text_dim, vocab_size=vocab_size,
        context_length=context_length,
    )  # fmt: skip


# Section 2.5 and appendix F.
_TRAINING = {
    "pairs": 400e6, "batch": 32_768, "epochs": 32, "optimizer": "Adam, decoupled decay of matrices",
    "weight_decay": 0.2,
    "betas": (0.9, 0.98), "eps": 1e-6, "warmup": 2000, "schedule": "cosine",
}  # fmt: skip


def _row(config: CLIPConfig, exact: int, lr: float) -> Published:
    tower = {"betas": (0.9, 0.999), "eps": 1e-8} if isinstance(config.vision, ResNetConfig) else {}
    return Published(config, PAPER, "tables 18 to 20", exact=exact, training=_TRAINING | tower | {"lr": lr})


SIZES = {
    "rn50": _row(clip(resnet(224, (3, 4, 6, 3), 64), 1024), 102_007_137, 5e-4),
    "rn101": _row(clip(resnet(224, (3, 4, 23, 3), 64), 512), 119_688_033, 5e-4),
    "rn50x4": _row(clip(resnet(288, (4, 6, 10, 6), 80), 640, text_dim=640), 178_300_601, 5e-4),
    "rn50x16": _row(clip(resnet(384, (6, 8, 18, 8), 96), 768, text_dim=768), 290_979_217, 4e-4),
    "rn50x64": _row(clip(resnet(448, (3, 15, 36, 10), 128), 1024, text_dim=1024), 623_258_305, 3.6e-4),
    "vit-b-32": _row(clip(vit(224, 32, 12, 768), 512), 151_277_313, 5e-4),
    "vit-b-16": _row(clip(vit(224, 16, 12, 768), 512), 149_620_737, 5e-4),
    "vit-l-14": _row(clip(vit(224, 14, 24, 1024), 768, text_dim=768), 427_616_513, 4e-4),
    "vit-l-14-336": _row(clip(vit(336, 14, 24, 1024), 768, text_dim=768), 427_944_193, 2e-5),
    "vit-h-16": Published(
        clip(vit(256, 16, 32, 1280), 1024, text_layers=24, text_dim=1024), UNCLIP, "appendix C", exact=986_339_841
    ),
}
