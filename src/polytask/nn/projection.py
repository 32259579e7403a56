"""The first linear map of a sub-layer, with the norm in front of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polytask.nn.kernels.products import apply
from polytask.nn.stacked import Stacked


def project(x: Tensor, norm: nn.Module | None, linear: nn.Module) -> Tensor:
    """linear(norm(x)), which keeps x alone for the way back, where the norm is computed again: it is quick, and what it
    gives is a tenth of what a block would keep. A layer that surgery put in place of `linear` goes its own way, as
    compilers do.
    """
    if norm is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return apply(linear, x, norm)
    if not isinstance(linear, nn.Linear) or type(linear) not in (nn.Linear, Stacked):
        return linear(norm(x))
    kind, device = linear.weight.dtype, x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    bias = None if linear.bias is None else linear.bias.to(kind)
    return _Project.apply(x, linear.weight.to(kind), bias, norm, *norm.parameters())  # type: ignore[no-any-return]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, norm, *scales):
        ctx.norm = norm
        ctx.save_for_backward(x, weight)
        return F.linear(norm(x).to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, weight), norm, wanted = ctx.saved_tensors, ctx.norm, ctx.needs_input_grad
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            normed = norm(x).to(weight.dtype)
        rows = grad.flatten(0, -2)
        d_weight = rows.mT @ normed.detach().flatten(0, -2) if wanted[1] else None
        d_bias = rows.sum(0) if wanted[2] else None
        learnt = [scale for scale in norm.parameters() if scale.requires_grad]
        d_x, *others = torch.autograd.grad(normed, [x, *learnt], grad @ weight)
        given = iter(others)
        d_scales = [next(given) if scale.requires_grad else None for scale in norm.parameters()]
        return d_x if wanted[0] else None, d_weight, d_bias, None, *d_scales
