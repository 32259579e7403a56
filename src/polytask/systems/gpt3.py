"""GPT-3 (Brown et al. 2020, arXiv:2005.14165).

What is its own: GPT-2's pre-norm block at eight sizes, with alternating dense and locally banded sparse attention
(section 2.1, after Child et al. 2019). Not public: the width of the band, which layers are dense, and whether sparse
layers also had strided heads. We take even layers dense and odd layers banded with 256 positions; `band=None` makes all
dense. Two printed rows contradict themselves: XL has 24 heads of 128, which is not its width of 2048, and 13B prints
a width of 5140, which is not 40 x 128. The compute table D.1 settles both: 16 heads of 128, and 5120.
"""

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned

PAPER = Publication(
    title="GPT-3",
    year=2020,
    paper="Brown et al. 2020, arXiv:2005.14165",
    special="GPT-2's block at eight sizes; layers that see all take turns with layers that see a band",
    unpublished=("width of the band", "which layers are banded", "strided heads"),
)


def gpt3(
    layers: int, dim: int, heads: int, *, band: int | None = 256, vocab_size: int = 50_257, context_length: int = 2048
) -> TransformerConfig:
    dense = Attention(heads=heads, bias=True)
    banded = Attention(heads=heads, bias=True, window=band)
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=(dense, banded) if band else dense,
        feedforward=MLP(width=4 * dim, activation="gelu_tanh", bias=True),
        norm=LayerNorm(),
        position=Learned(),
        initialization="gpt",
    )


# Section 2.3 and appendix B.
_TRAINING = {
    "tokens": 300e9, "context": 2048, "optimizer": "Adam", "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1,
    "clip": 1.0, "warmup_tokens": 375e6, "schedule": "cosine to a tenth over 260e9 tokens, then constant",
}  # fmt: skip


def _row(
    layers: int, dim: int, heads: int, printed: float, exact: int, batch: float, lr: float, odd: dict | None = None
) -> Published:
    training = _TRAINING | {"batch_tokens": int(batch), "lr": lr}
    return Published(
        gpt3(layers, dim, heads), PAPER, "table 2.1", printed, exact=exact, training=training, printed=odd or {}
    )


SIZES = {
    "small": _row(12, 768, 12, 125e6, 125_226_240, 0.5e6, 6.0e-4),
    "medium": _row(24, 1024, 16, 350e6, 355_871_744, 0.5e6, 3.0e-4),
    "large": _row(24, 1536, 16, 760e6, 760_300_032, 0.5e6, 2.5e-4),
    "xl": _row(24, 2048, 16, 1.3e9, 1_315_723_264, 1e6, 2.0e-4, {"heads": 24}),
    "2.7b": _row(32, 2560, 32, 2.7e9, 2_651_553_280, 1e6, 1.6e-4),
    "6.7b": _row(32, 4096, 32, 6.7e9, 6_658_404_352, 2e6, 1.2e-4),
    "13b": _row(40, 5120, 40, 13.0e9, 12_853_386_240, 2e6, 1.0e-4, {"dim": 5140}),
    "175b": _row(96, 12288, 96, 175.0e9, 174_604_259_328, 3.2e6, 0.6e-4),
}
