"""The last product and its loss, in chunks, so that the logits of a whole batch never exist at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.nn.kernels.compiled import Compiled
from polytask.nn.kernels.products import linear

# Logits of one chunk: large enough to keep the matrix products efficient, small enough to stay out of the way.
CHUNK_ELEMENTS = 1 << 25
GPU_CHUNK_ELEMENTS = 1 << 28
GPU_ROWS = 64  # the matrix has a multiple of them on a GPU, whose fast products want rows of logits so aligned
# Logits that one pass of the softmax works on, in float32: a few megabytes.
CACHE_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Head:
    """The last product: logits = weight (scale x hidden) + bias, bent to stay within +-cap where there is one.

    weight (V, D), bias (V,). layer: makes the product in place of weight where that is kept in whole numbers.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    layer: nn.Module | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        hidden = hidden * self.scale if self.scale != 1.0 else hidden
        if self.layer is None:
            logits = linear(hidden, self.weight, self.bias)
        else:
            logits = self.layer(hidden) if self.bias is None else self.layer(hidden) + self.bias
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor, *,
    label_smoothing: float = 0.0, z_loss: float = 0.0, chunk: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted sum of token cross-entropies, in nats, and the plain loss of every token.

    hidden (..., D), targets (...) ids, weights (...) float. Tokens of weight 0 cost nothing.
    label_smoothing spreads that share evenly over the vocabulary, target included (as torch does). z_loss adds
    its multiple of the squared log-partition (Chowdhery et al. 2022, section 5). Returns (sum, losses (...)), where
    the losses carry no gradient, smoothing or z-loss, and are 0 where the weight is.
    """
    kept = weights.flatten().nonzero().squeeze(-1)
    flat, weight = hidden.flatten(0, -2), head.weight
    everything = len(kept) == len(flat)
    inputs = flat if everything else flat.index_select(0, kept)
    wanted = targets.flatten() if everything else targets.flatten().index_select(0, kept)
    scale = weights.flatten() if everything else weights.flatten().index_select(0, kept)
    chunk = chunk or max(64, (GPU_CHUNK_ELEMENTS if hidden.is_cuda else CHUNK_ELEMENTS) // len(weight))
    needs_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    else:
        dtype = hidden.dtype
    total, losses = _ChunkedCrossEntropy.apply(
        inputs * head.scale if head.scale != 1.0 else inputs, weight, head.bias, head.cap, wanted,
        scale.to(torch.promote_types(dtype, torch.float32)),
        label_smoothing, z_loss, chunk, dtype, needs_grad,
    )  # fmt: skip
    if not everything:
        losses = losses.new_zeros(weights.numel()).index_copy_(0, kept, losses)
    return total, losses.view(weights.shape)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes its gradients on the way forward: each chunk's logits are used twice and overwritten by the next.

    All large buffers are made once: fresh memory for every chunk would cost more than the arithmetic.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, cap, targets, weights, smoothing, z_loss, chunk, dtype, needs_grad):
        with torch.autocast(hidden.device.type, enabled=False):
            size = len(weight)
            matrix = _aligned(weight.to(dtype)) if weight.is_cuda else weight.to(dtype)
            chunk = _even(len(hidden), chunk, weight.is_cuda)
            losses, total = torch.empty_like(weights), weights.new_zeros(())
            buffer = matrix.new_empty(min(chunk, len(hidden)), len(matrix))
            grad_hidden = torch.empty_like(hidden) if needs_grad else None
            grad_weight = torch.zeros_like(weight) if needs_grad else None
            grad_bias = torch.zeros_like(bias) if needs_grad and bias is not None else None
            product = torch.empty_like(matrix) if needs_grad and dtype != weight.dtype else None
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                h = hidden[part].to(dtype)
                rows = torch.mm(h, matrix.t(), out=buffer[: len(h)])
                logits = rows[:, :size]  # (N, V)
                logits = logits if bias is None else logits.add_(bias)
                logits = logits if cap is None else logits.div_(cap).tanh_().mul_(cap)
                token_losses = _gpu_token_losses if logits.is_cuda else _token_losses
                total += token_losses(
                    logits, targets[part], weights[part], losses[part], smoothing, z_loss, cap, needs_grad
                )
                if grad_bias is not None:
                    grad_bias += logits.sum(0, dtype=grad_bias.dtype)
                if grad_hidden is not None and grad_weight is not None:
                    grad_hidden[part] = rows @ matrix  # the logits hold their gradient now
                    if product is None:
                        grad_weight.addmm_(logits.t(), h)
                    else:
                        _add(grad_weight, torch.mm(rows.t(), h, out=product)[:size])
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx, grad_total, _):
        gradients = (None if grad is None else grad.mul_(grad_total) for grad in ctx.saved_tensors)
        return *gradients, *[None] * 8


def _even(rows: int, chunk: int, powers: bool) -> int:
    """Rows of a chunk, all of one size; `powers`: there is a power of two of them, which divides most batches."""
    count = -(-rows // chunk)
    count = 1 << (count - 1).bit_length() if powers and count else count
    return -(-rows // count) if count else chunk


def _aligned(matrix: Tensor) -> Tensor:
    """With rows of zeros behind, up to a multiple of GPU_ROWS; their logits and the gradients of these are 0."""
    return F.pad(matrix, (0, 0, 0, -len(matrix) % GPU_ROWS)).contiguous()


def _add(total: Tensor, part: Tensor) -> None:
    """total += part of a lower precision, on a CPU in pieces whose conversion stays in the processor's cache."""
    if total.is_cuda:
        total += part
        return
    rows = max(1, CACHE_ELEMENTS // total.shape[1])
    for start in range(0, len(total), rows):
        total[start : start + rows] += part[start : start + rows]


def _token_losses(logits, targets, weights, losses, smoothing, z_loss, cap, needs_grad):
    """Weighted sum over the tokens (N,); fills `losses`, and puts the product's gradient in place of the logits (N, V).

    Goes through a few rows at a time, so that their passes in full precision stay in the processor's cache.
    """
    rows = max(1, CACHE_ELEMENTS // logits.shape[1])
    scratch = weights.new_empty(min(rows, len(logits)), logits.shape[1])
    total = weights.new_zeros(())
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        index, share = targets[part, None], weights[part]
        x = scratch[: len(share)].copy_(logits[part])  # (n, V)
        wanted = x.gather(1, index).squeeze(1)
        mean = x.mean(dim=-1) if smoothing else wanted
        highest = x.amax(dim=-1)
        x.sub_(highest[:, None]).exp_()
        mass = x.sum(dim=-1)
        partition = mass.log() + highest  # log of the sum of exponentials
        plain = losses[part] = partition - wanted
        full = (1 - smoothing) * plain + smoothing * (partition - mean) if smoothing else plain
        full = full + z_loss * partition.square() if z_loss else full
        total += (full * share).sum()
        if needs_grad:
            softmax_scale = share / mass * (1 + 2 * z_loss * partition)
            x.mul_(softmax_scale[:, None])
            if smoothing:
                x.sub_((share * (smoothing / x.shape[1]))[:, None])
            x.scatter_add_(1, index, (share * (smoothing - 1))[:, None])
            if cap is not None:
                x.mul_(1 - (logits[part].to(x.dtype) / cap).square())
            logits[part] = x
    return total


def whole_token_losses(logits, targets, weights, losses, smoothing, z_loss, cap, needs_grad):
    """`_token_losses` of all rows at once, as a compiler makes one kernel of them that reads the logits twice."""
    x = logits.to(weights.dtype)
    wanted = x.gather(1, targets[:, None]).squeeze(1)
    partition = x.logsumexp(-1)
    plain = partition - wanted
    losses.copy_(plain)
    full = (1 - smoothing) * plain + smoothing * (partition - x.mean(-1)) if smoothing else plain
    full = full + z_loss * partition.square() if z_loss else full
    if needs_grad:
        share = weights * (1 + 2 * z_loss * partition) if z_loss else weights
        grad = (x - partition[:, None]).exp() * share[:, None]
        if smoothing:
            grad = grad - (weights * (smoothing / x.shape[1]))[:, None]
        right = torch.arange(x.shape[1], device=x.device) == targets[:, None]
        grad = grad - torch.where(right, (weights * (1 - smoothing))[:, None], 0.0)
        if cap is not None:
            grad = grad * (1 - (x / cap).square())
        logits.copy_(grad)
    return (full * weights).sum()


_gpu_token_losses = Compiled(whole_token_losses)
