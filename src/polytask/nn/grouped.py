"""Products of rows by the matrix of their own group: what a layer of experts does with its tokens.

Rows of a group lie together, group after group; `ends` (E,) int32 says where each group ends. Rows after the last group
belong to none: what a product gives for them is not defined. A loop over groups serves everywhere, one kernel for all
groups the GPUs that have it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multiply(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """rows (A, K) times the matrices (E, K, M) of their groups: (A, M)."""
    if has_kernel(rows, matrices.shape[-1]):
        return F.grouped_mm(rows, matrices, offs=ends)
    return multiply_in_turn(rows, matrices, ends)


def outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """left^T right of each group, (E, M, K), for rows left (A, M) and right (A, K): the gradient of matrices."""
    if has_kernel(left, right.shape[-1]):
        return F.grouped_mm(left.mT, right, offs=ends)
    return outer_in_turn(left, right, ends)


def has_kernel(rows: Tensor, width: int) -> bool:
    """Whether torch's grouped product takes these: bfloat16 in rows of whole 16 bytes, on a GPU from Ampere on."""
    if rows.device.type != "cuda" or rows.dtype != torch.bfloat16 or rows.shape[-1] % 8 or width % 8:
        return False
    return torch.cuda.get_device_capability(rows.device) >= (8, 0)


def multiply_in_turn(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    out = rows.new_empty(len(rows), matrices.shape[-1])
    start = 0
    for matrix, end in zip(matrices, ends.tolist()):
        if end > start:
            torch.mm(rows[start:end], matrix, out=out[start:end])
        start = end
    return out


def outer_in_turn(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    out = left.new_empty(len(ends), left.shape[-1], right.shape[-1])
    start = 0
    for product, end in zip(out, ends.tolist()):
        torch.mm(left[start:end].mT, right[start:end], out=product)  # zeros where the group is empty
        start = end
    return out
