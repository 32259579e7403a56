"""DALL-E (Ramesh et al. 2021, arXiv:2102.12092).

What is its own: a text and the picture's codes are one sequence for one decoder. Every token of the picture sees the
whole text; of the picture it sees, by layer, a row back (three of four layers), a column, or in the last layer a
square.
A picture's token has one vector for its row and one for its column; each place of the text has a padding token of its
own. Losses of text and picture weigh 1/8 and 7/8. Not public: where the norms stand and the activation; we have GPT-2's
block with GELU, and one matrix for embedding and output. Whether padding counts in the text's loss is not said either;
here it does.
"""

import torch
from torch import Tensor

from polytask.data.batch import Batch
from polytask.models.config import TransformerConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import TextAndGrid
from polytask.nn.quantizer import Categorical, FiniteScalar
from polytask.nn.sparse import ColumnPattern, ConvolutionPattern, Pattern, RowPattern
from polytask.tokenizers.image import JointVocabulary

PAPER = Publication(
    title="DALL-E",
    year=2021,
    paper="Ramesh et al. 2021, arXiv:2102.12092",
    special="one decoder over the tokens of a text and of the picture behind it; layers see rows, columns or a square",
    unpublished=("placement of the norms", "activation", "tied output", "loss of padding"),
)
AUTOENCODER = AutoencoderConfig()  # section 2.1 and the released code
VOCABULARY = JointVocabulary(text=16_384, special=256, codes=8192, height=32, width=32)
TEXT_SHARE, PICTURE_SHARE = 1 / 8, 7 / 8  # of the loss (section 2.2)


def autoencoder(
    image: int = 32, width: int = 64, *, codes: int = 512, levels: tuple[int, ...] = (), groups: int = 3,
    blocks: int = 1, first: int = 128,
) -> AutoencoderConfig:  # fmt: skip
    """What a recipe trains: the discrete autoencoder. levels: of a finite scalar quantizer, in place of a codebook."""
    quantizer = FiniteScalar(tuple(levels)) if levels else Categorical(codes)
    return AutoencoderConfig(image, width, quantizer, groups, blocks, first)


def pattern_of(layer: int, layers: int, vocabulary: JointVocabulary, kernel: int = 11) -> Pattern:
    """Of a layer, from 0 on: row, column, row, row, row, column, ..., and a square in the last (appendix B.1)."""
    grid = vocabulary.special, vocabulary.height, vocabulary.width
    if layer == layers - 1:
        return ConvolutionPattern(*grid, kernel)
    return ColumnPattern(*grid) if layer % 4 == 1 else RowPattern(*grid)


def dalle(
    layers: int, dim: int, heads: int, *, text: int = VOCABULARY.text, text_length: int = VOCABULARY.special,
    codes: int = VOCABULARY.codes, height: int = VOCABULARY.height, width: int = VOCABULARY.width, kernel: int = 11,
    dropout: float = 0.0,
) -> TransformerConfig:  # fmt: skip
    """text: ids of the text's tokenizer. text_length: tokens of a text, padding included."""
    vocabulary = JointVocabulary(text, text_length, codes, height, width)
    patterns = [pattern_of(layer, layers, vocabulary, kernel) for layer in range(layers)]
    return TransformerConfig(
        vocab_size=vocabulary.size,
        context_length=text_length + vocabulary.tokens,
        layers=layers,
        dim=dim,
        attention=tuple(Attention(heads=heads, bias=True, pattern=pattern) for pattern in patterns),
        feedforward=MLP(width=4 * dim, activation="gelu", bias=True),
        norm=LayerNorm(),
        position=TextAndGrid(text_length, height, width),
        dropout=dropout,
        initialization="gpt",
    )


def training_batch(texts: list[list[int]], codes: Tensor, vocabulary: JointVocabulary) -> Batch:
    """What a decoder learns from: ids of each text, and codes (B, h, w) of the picture that belongs to it.

    Text and picture each count by the mean over their own tokens, weighed 1/8 and 7/8; the weights of a row sum to 1.
    The first token of a text is not predicted, since nothing stands before it.
    """
    rows = [[*vocabulary.padded(text), *ids] for text, ids in zip(texts, vocabulary.ids(codes), strict=True)]
    ids = torch.tensor(rows)
    weights = torch.full((ids.shape[1] - 1,), PICTURE_SHARE / vocabulary.tokens)
    weights[: vocabulary.special - 1] = TEXT_SHARE / (vocabulary.special - 1)
    read = ids[:, :-1]
    one = torch.ones_like(read)
    places = torch.arange(read.shape[1]).expand_as(read)
    return Batch(read, places, one, ids[:, 1:], weights.expand(read.shape), torch.zeros_like(read))


# Section 2.4 and appendix B.2.
_TRAINING = {
    "updates": 430_000, "batch": 1024, "context": 1280, "optimizer": "AdamW", "betas": (0.9, 0.96), "eps": 1e-8,
    "weight_decay": 4.5e-2, "clip": 4.0, "lr": 4.5e-4, "warmup": 5000,
    "schedule": "halved five times where the loss no longer falls", "ema": 0.99, "ema_every": 25,
    "bpe_dropout": 0.1, "pairs": 250e6,
}  # fmt: skip
_BLOCKS = ("attention", "feed-forward", "norms")


def _row(dim: int, printed: float, exact: int | None, training: dict) -> Published:
    config = dalle(64, dim, dim // 64)
    return Published(
        config, PAPER, "sections 2.2 and 2.4, table 1", printed, tolerance=0.03, exact=exact,
        convention=_BLOCKS if exact else (), training=training,
    )  # fmt: skip


SIZES = {
    "2.8b": _row(1920, 2.8e9, None, {}),
    "5.6b": _row(2688, 5.6e9, None, {}),
    "12b": _row(3968, 12.0e9, 12_095_487_744, _TRAINING),
}
