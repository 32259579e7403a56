"""Attention in training on a GPU, forward and backward, by each kernel that torch has: which should a network take?

    python benchmarks/gpu_attention.py

bfloat16, causal, of the shapes of `training.py`; the heads lie in memory as one projection leaves them. FLOPs are those
of the half that is not hidden.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from polytask import runtime
from polytask.nn import varlen

SHAPES = {"gpt2-124m": (64, 12, 1024, 64), "gpt2-350m": (32, 16, 1024, 64), "gpt3-1.3b": (8, 16, 2048, 128)}
KINDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "varlen": None}


def seconds(kind: str, rows: int, heads: int, length: int, width: int, device: torch.device) -> float:
    qkv = torch.randn(rows, length, 3, heads, width, device=device, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(rows, heads, length, width, device=device, dtype=torch.bfloat16)
    starts = torch.arange(rows + 1, device=device, dtype=torch.int32) * length

    def once() -> None:
        q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
        if (backend := KINDS[kind]) is None:
            mixed = varlen.attention(q, k, v, starts, None, None)
        else:
            with sdpa_kernel(backend):
                mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(mixed, qkv, grad)

    return runtime.stopwatch(once, device)


def main() -> None:
    device = runtime.pick_device()
    for name, (rows, heads, length, width) in SHAPES.items():
        flops = 3.5 * 4 * rows * heads * length**2 * width / 2
        for kind in KINDS:
            try:
                taken = seconds(kind, rows, heads, length, width, device)
                print(
                    f"attention, {name}, {kind}: {1e3 * taken:.2f} ms, {flops / taken / 1e12:.0f} TFLOP/s", flush=True
                )
            except Exception as error:
                print(f"attention, {name}, {kind}: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
