"""Megatron-Turing NLG 530B (Smith et al. 2022, arXiv:2201.11990).

What is its own: no part of the network, which is GPT-2's pre-norm block at 105 layers, but how it was trained, in three
dimensions of parallelism: tensors over the 8 GPUs of a node, layers over 35 nodes, data over 8 to 12 copies (section
2). Weights begin at N(0, sqrt(1/(3 dim))), printed as 4.0e-3. Its vocabulary is GPT-2's 50,257 padded to 51,200, a
multiple of 128 for each of 8 tensor ranks. Read from other sources than the paper, and so to be taken with care: that
padding, and most of the training hyperparameters.
"""

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned

PAPER = Publication(
    title="Megatron-Turing NLG",
    year=2022,
    paper="Smith et al. 2022, arXiv:2201.11990",
    special="GPT's block at 105 layers, over tensors, layers and data at once: 8 x 35 x 8 GPUs",
    unpublished=("rows of the embedding after padding", "dropout"),
)


def mtnlg(
    layers: int, dim: int, heads: int, *, vocab_size: int = 51_200, context_length: int = 2048
) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(heads=heads, bias=True),
        feedforward=MLP(width=4 * dim, activation="gelu_tanh", bias=True),
        norm=LayerNorm(),
        position=Learned(),
        placement="pre",
        tied=True,
        initialization="megatron",
    )


# Section 2: one copy of the model is 8 x 35 = 280 GPUs, three layers on each node.
LAYOUT = {"tensor": 8, "pipeline": 35, "data": (8, 10, 12)}

SIZES = {
    "530b": Published(
        mtnlg(105, 20_480, 128),
        PAPER,
        "sections 2 and 3",
        parameters=530e9,
        tolerance=1e-3,
        exact=529_600_819_200,
        training={
            "tokens": 270e9, "context": 2048, "batch_rows": "32 to 1920 in steps of 32 over 12e9 tokens", "lr": 5e-5,
            "warmup_tokens": 1e9, "schedule": "cosine to a tenth over 340e9 tokens", "optimizer": "Adam",
            "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "precision": "bfloat16",
            "layout": LAYOUT,
        },
        printed={"initialization": "N(0, 4.0e-3)"},
    )
}  # fmt: skip

# Section 2: a step of 1920 rows on so many servers of 8 A100 (312 TFLOP/s each at the most), recomputation counted.
THROUGHPUT = (
    {"batch_rows": 1920, "servers": 280, "chips": 2240, "seconds": 60.1, "tflops": 126},
    {"batch_rows": 1920, "servers": 350, "chips": 2800, "seconds": 50.2, "tflops": 121},
    {"batch_rows": 1920, "servers": 420, "chips": 3360, "seconds": 44.4, "tflops": 113},
)
PEAK_FLOPS = 312e12
MFU = {"without attention": 0.297, "with attention": 0.302}  # of the first row (Chowdhery et al. 2022, table 3)
