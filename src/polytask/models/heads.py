"""The last product and its loss, in chunks, so that the logits of a whole batch never exist at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of one chunk: large enough to keep the matrix products efficient, small enough to stay out of the way.
CHUNK_ELEMENTS = 1 << 24


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, *,
    label_smoothing: float = 0.0, z_loss: float = 0.0, chunk: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted sum of token cross-entropies, in nats, and the plain loss of every token.

    hidden (..., D), weight (V, D), targets (...) ids, weights (...) float. Tokens of weight 0 cost nothing.
    label_smoothing spreads that share evenly over the vocabulary, target included (as torch does). z_loss adds
    its multiple of the squared log-partition (Chowdhery et al. 2022, section 5). Returns (sum, losses (...)), where
    the losses carry no gradient, smoothing or z-loss, and are 0 where the weight is.
    """
    kept = weights.flatten().nonzero().squeeze(-1)
    flat = hidden.flatten(0, -2)
    everything = len(kept) == len(flat)
    inputs = flat if everything else flat.index_select(0, kept)
    wanted = targets.flatten() if everything else targets.flatten().index_select(0, kept)
    scale = weights.flatten() if everything else weights.flatten().index_select(0, kept)
    chunk = chunk or max(64, CHUNK_ELEMENTS // len(weight))
    needs_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    else:
        dtype = hidden.dtype
    total, losses = _ChunkedCrossEntropy.apply(
        inputs, weight, wanted, scale.to(torch.promote_types(dtype, torch.float32)),
        label_smoothing, z_loss, chunk, dtype, needs_grad,
    )  # fmt: skip
    if not everything:
        losses = losses.new_zeros(weights.numel()).index_copy_(0, kept, losses)
    return total, losses.view(weights.shape)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes its gradients on the way forward: each chunk's logits are used twice and dropped."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, weights, smoothing, z_loss, chunk, dtype, needs_grad):
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            total = weights.new_zeros(())
            losses = torch.empty_like(weights)
            grad_hidden = torch.empty_like(hidden) if needs_grad else None
            grad_weight = torch.zeros_like(weight) if needs_grad else None
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                h = hidden[part].to(dtype)
                logits = F.linear(h, matrix).to(weights.dtype)  # (N, V)
                loss, losses[part], gradient = _token_losses(
                    logits, targets[part], weights[part], smoothing, z_loss, needs_grad
                )
                total += loss
                if grad_hidden is not None and grad_weight is not None and gradient is not None:
                    gradient = gradient.to(dtype)
                    grad_hidden[part] = gradient @ matrix
                    grad_weight += gradient.t() @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx, grad_total, _):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total, grad_weight * grad_total, *[None] * 7


def _token_losses(logits, targets, weights, smoothing, z_loss, needs_grad):
    """(weighted sum, plain losses (N,), gradient of the sum by the logits (N, V)); overwrites the logits."""
    index = targets[:, None]
    partition = logits.logsumexp(dim=-1)  # (N,)
    plain = partition - logits.gather(1, index).squeeze(1)
    full = plain
    if smoothing:
        full = (1 - smoothing) * plain + smoothing * (partition - logits.mean(dim=-1))
    if z_loss:
        full = full + z_loss * partition.square()
    if not needs_grad:
        return (full * weights).sum(), plain, None
    gradient = logits.sub_(partition[:, None]).exp_()  # softmax
    if z_loss:
        gradient.mul_((1 + 2 * z_loss * partition)[:, None])
    if smoothing:
        gradient.sub_(smoothing / logits.shape[-1])
    gradient.scatter_add_(1, index, torch.full_like(index, -(1 - smoothing), dtype=gradient.dtype))
    return (full * weights).sum(), plain, gradient.mul_(weights[:, None])
