"""Which keys a query may see. True means visible; shapes broadcast to (B, H, T, S)."""

import torch
from torch import Tensor


def causal(queries: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    """(B, 1, T, S) from positions (B, T) and (B, S): keys at or before the query, and within the last `window` of them.

    A window w shows positions q-w+1 .. q, as "local" attention of the Sparse Transformer code (Child et al. 2019).
    """
    distance = queries[:, None, :, None] - keys[:, None, None, :]
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)


def same_document(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, 1, T, S) from document numbers (B, T) and (B, S): packed documents never see each other."""
    return queries[:, None, :, None] == keys[:, None, None, :]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the mask is True and the lowest number where it is False: what is added to scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
