"""BLOOM (BigScience 2022, arXiv:2211.05100).

What is its own: no positions but ALiBi's slopes (Press et al. 2022), one more LayerNorm right after the embedding, and
a vocabulary of 250,680 for 46 natural and 13 programming languages, padded to 250,880 rows; else Megatron's pre-norm
GPT with biases. The released names count the embedding, the names of the training scripts (350M, 760M, 1B3, 2B5, 6B3)
do not. Not public: dropout, which scripts leave to a default that was 0.1 and the released configurations set to 0; so
do we. The scripts draw weights from N(0, 0.0048) at every size, which is Megatron's sqrt(1/(3 dim)) for 176B alone; we
take the rule.
"""

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Alibi

PAPER = Publication(
    title="BLOOM",
    year=2022,
    paper="BigScience 2022, arXiv:2211.05100",
    special="ALiBi in place of positions, a norm after the embedding, 250,880 tokens for 59 languages",
    unpublished=("dropout",),
)


def bloom(
    layers: int, dim: int, heads: int, *, vocab_size: int = 250_880, context_length: int = 2048
) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(heads=heads, bias=True),
        feedforward=MLP(width=4 * dim, activation="gelu_tanh", bias=True),
        norm=LayerNorm(),
        position=Alibi(),
        placement="pre",
        embedding_norm=LayerNorm(),
        tied=True,
        initialization="megatron",
    )


_TRAINING = {
    "context": 2048, "optimizer": "Adam", "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0,
    "warmup_tokens": 375e6, "schedule": "cosine over 410e9 tokens", "precision": "float16",
}  # fmt: skip


def _row(
    layers: int, dim: int, heads: int, printed: float, exact: int, rows: int, lr: float, **training: object
) -> Published:
    return Published(
        bloom(layers, dim, heads),
        PAPER,
        "table 3 and the training scripts",
        parameters=printed,
        tolerance=1e-3,
        exact=exact,
        training=_TRAINING | {"batch_rows": rows, "lr": lr, "min_lr": 1e-5} | training,
        printed={"initialization": "N(0, 0.0048)"},
    )


SIZES = {
    "560m": _row(24, 1024, 16, 559e6, 559_214_592, 256, 3.0e-4),
    "1b1": _row(24, 1536, 16, 1065e6, 1_065_314_304, 256, 2.5e-4),
    "1b7": _row(24, 2048, 16, 1722e6, 1_722_408_960, 512, 2.0e-4),
    "3b": _row(30, 2560, 32, 3003e6, 3_002_557_440, 512, 1.6e-4),
    "7b1": _row(30, 4096, 32, 7069e6, 7_069_016_064, 512, 1.2e-4),
    "176b": _row(
        70, 14_336, 112, 176_247e6, 176_247_271_424, 2048, 6e-5, min_lr=6e-6, precision="bfloat16", tokens=366e9,
        chips="384 A100 of 80 GB: tensor 4 x pipeline 12 x data 8, micro-batches of 2",
    ),
}  # fmt: skip

# The training log of the largest: a step of 2048 rows took 105 s, "149-150 TFLOP/s" a GPU, recomputation counted.
THROUGHPUT = {"batch_rows": 2048, "seconds": 105.0, "chips": 384, "tflops": 149}
