"""A mixture of experts: a router sends each token to few of many feed-forward networks.

Parameters grow with the number of experts, work grows with the number of choices alone. Two ways to route:

capacity    GShard's and GLaM's (Lepikhin et al. 2021, algorithm 1; Du et al. 2022): every expert has room for
            ceil(capacity x tokens / experts) tokens of a batch, so GShard's 2 tokens / experts is a capacity of 2.0.
            First choices are placed before second ones, in token order. What finds no room gets nothing from that
            expert and goes on through the residual.
None        dropless: every token is seen by all the experts that it chose (Jiang et al. 2024).

A batch is what one process passes through the layer at once. Outside of training nothing is dropped, so that an answer
never depends on what shares its batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polytask.errors import ConfigError
from polytask.nn.cache import Context
from polytask.nn.feedforward import ACTIVATIONS
from polytask.nn.grouped import multiply, outer
from polytask.nn.part import Part


@dataclass(frozen=True)
class Experts(Part):
    """`count` feed-forward networks of inner width `width`, without biases, of which each token passes `top_k`.

    gated: an activated gate multiplies a second projection, as in GatedMLP. capacity: see the module. normalize: the
    gates of the chosen sum to 1; else each is its share of the softmax over all experts. balance, z_loss: how much the
    losses of `Routing` weigh. balance_over: which choices the balance loss counts.
    """

    count: int
    width: int
    top_k: int = 2
    gated: bool = False
    activation: str = "gelu"
    capacity: float | None = None
    normalize: bool = True
    balance: float = 0.01
    balance_over: Literal["first", "all"] = "first"
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        self.expect_numbers("count", "width", "top_k", whole=True)
        self.expect_numbers("balance", "z_loss", zero=True)
        if self.top_k > self.count:
            raise ConfigError(f"Experts: top_k={self.top_k} is more than there are experts (count={self.count})")
        if self.capacity is not None and not self.capacity > 0:
            raise ConfigError(f"Experts: capacity={self.capacity!r} must be above 0, or null to drop nothing")
        if self.balance_over not in ("first", "all"):
            raise ConfigError(f"Experts: balance_over={self.balance_over!r} must be first or all")
        ACTIVATIONS.get(self.activation)

    def build(self, dim: int) -> nn.Module:
        return ExpertsLayer(dim, self)

    def parameters(self, dim: int) -> int:
        return self.count * (dim + self._each(dim))

    def active_parameters(self, dim: int) -> int:
        """Those that one token meets: the router's and those of `top_k` experts."""
        return self.count * dim + self.top_k * self._each(dim)

    def _each(self, dim: int) -> int:
        return (3 if self.gated else 2) * dim * self.width


@dataclass(frozen=True)
class Routing:
    """What a layer of experts did with the tokens of a batch; padding does not count.

    loss     scalar with gradient: the other two by the weights of the part
    balance  experts x sum_e f_e p_e, where p_e is the mean gate of expert e and f_e the share of tokens whose first
             choice it is (1 at an even load; GShard, section 2.2), or of which it is any choice (top_k at an even load;
             Fedus et al. 2022, equation 4, as transformers has it for Mixtral)
    z        mean square of the router's log-partition (Zoph et al. 2022, equation 5)
    load     (E,) share of all choices by expert, before any is dropped
    dropped  share of all choices that found no room
    """

    loss: Tensor
    balance: Tensor
    z: Tensor
    load: Tensor
    dropped: Tensor


class Router(nn.Module):
    """Scores of the experts, in float32 at the least, since rounding would change who is chosen (Fedus et al. 2022)."""

    def __init__(self, dim: int, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))

    def forward(self, x: Tensor) -> Tensor:  # (N, D) -> (N, E)
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(wide), self.weight.to(wide))


class ExpertsLayer(nn.Module):
    """Expert e is rows up[e] (F, D), or gate and up stacked in gate_up[e] (2F, D), and down[e] (D, F)."""

    def __init__(self, dim: int, part: Experts):
        super().__init__()
        self.part = part
        self.router = Router(dim, part.count)
        self.first_name = "gate_up" if part.gated else "up"
        first = torch.empty(part.count, part.width * (2 if part.gated else 1), dim)
        self.register_parameter(self.first_name, nn.Parameter(first))
        self.down = nn.Parameter(torch.empty(part.count, dim, part.width))
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS.get(part.activation)

    @property
    def first(self) -> nn.Parameter:
        return self.get_parameter(self.first_name)

    def forward(
        self, x: Tensor, context: Context | None = None, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> Tensor:  # (B, T, D)
        tokens = (x if norm is None else norm(x)).flatten(0, -2)  # (N, D)
        real = None
        if context is not None and context.documents is not None:
            real = (context.documents != 0).flatten()
        logits = self.router(tokens)
        probabilities = logits.softmax(dim=-1)
        gates, choices = probabilities.topk(self.part.top_k, dim=-1)  # (N, k)
        if self.part.normalize:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        groups = arrange(choices, self.part.count, real, self.part.capacity if self.training else None)
        if context is not None and context.cache is None:
            # A block that is computed again must do all that it did, whether or not anybody wants it.
            routing = self._routing(logits, probabilities, choices, real, groups)
            if context.routing is not None:
                context.routing.append(routing)
        y = self._experts(tokens, gates, groups).view(*x.shape[:-1], -1)
        return y if onto is None else onto + y

    def _experts(self, tokens: Tensor, gates: Tensor, groups: "Groups") -> Tensor:
        device = tokens.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.down.dtype
        return _Experts.apply(  # type: ignore[no-any-return]
            tokens.to(kind), gates.to(kind), self.first.to(kind), self.down.to(kind), groups, self._inner
        )

    def _inner(self, hidden: Tensor) -> Tensor:
        if not self.part.gated:
            return self.activation(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        return self.activation(gate) * up

    def _routing(
        self, logits: Tensor, probabilities: Tensor, choices: Tensor, real: Tensor | None, groups: "Groups"
    ) -> Routing:
        part, weights = self.part, torch.ones_like(logits[:, 0]) if real is None else real.to(logits.dtype)
        total = weights.sum().clamp(min=1.0)
        counted = _counts(choices, weights, part.count)
        means = (weights[:, None] * probabilities).sum(0) / total
        shares = counted if part.balance_over == "all" else _counts(choices[:, :1], weights, part.count)
        balance = part.count * (shares / total * means).sum()
        z = (weights * logits.logsumexp(dim=-1).square()).sum() / total
        assigned = total * part.top_k
        dropped = (counted.sum() - groups.kept) / assigned
        return Routing(part.balance * balance + part.z_loss * z, balance, z, counted / assigned, dropped)


def _counts(choices: Tensor, weights: Tensor, count: int) -> Tensor:
    """How many tokens made each choice, (E,)."""
    every = weights[:, None].expand_as(choices)
    return weights.new_zeros(count).index_add_(0, choices.flatten(), every.flatten())


@dataclass(frozen=True)
class Groups:
    """Where the choices (N, k) of tokens stand when sorted by expert, A of them kept and one spare row after them.

    assignments (A + 1,): which one of the choices, flattened by token, stands in a row; the spare one's means nothing.
    places (N, k): the row of a choice, the spare one where it was dropped. ends (E,): see nn.grouped.
    """

    assignments: Tensor
    places: Tensor
    ends: Tensor

    @property
    def kept(self) -> int:
        return len(self.assignments) - 1


@torch.no_grad()
def arrange(choices: Tensor, count: int, real: Tensor | None = None, capacity: float | None = None) -> Groups:
    """Groups the choices (N, k) of tokens by expert, first choices first, and drops what has no room.

    real (N,): tokens that are not padding, which alone are placed and counted.
    """
    tokens, top_k = choices.shape
    experts = choices.mT.flatten()  # (k N), all first choices before all second ones
    if real is not None:
        experts = torch.where(real.repeat(top_k), experts, count)  # padding goes to a group after the last
    order = experts.argsort(stable=True)
    counts = torch.bincount(experts, minlength=count)[:count]
    if capacity is not None:
        room = ceil(capacity * (tokens if real is None else int(real.sum())) / count)
        starts = counts.cumsum(0) - counts
        order = order[: int(counts.sum())]
        rank = torch.arange(len(order), device=order.device) - starts[experts[order]]
        order, counts = order[rank < room], counts.clamp(max=room)
    ends = counts.cumsum(0)
    order = order[: int(ends[-1])]
    places = torch.full_like(experts, len(order))
    places[order] = torch.arange(len(order), device=order.device)
    by_token = order % tokens * top_k + order // tokens
    return Groups(F.pad(by_token, (0, 1)), places.view(top_k, tokens).mT.contiguous(), ends.int())


class _Experts(torch.autograd.Function):
    """sum_k gate_k expert_k(x), written out: it keeps what goes into activations and comes out of experts, and no copy
    of the tokens for each of their experts.
    """

    @staticmethod
    def forward(ctx, tokens, gates, first, down, groups, inner):
        given = tokens.index_select(0, groups.assignments // gates.shape[1])  # (A + 1, D)
        hidden = multiply(given, first.mT, groups.ends)
        results = multiply(inner(hidden), down.mT, groups.ends)
        results[-1] = 0
        ctx.groups, ctx.inner = groups, inner
        ctx.save_for_backward(tokens, gates, first, down, hidden, results)
        return F.embedding_bag(groups.places, results, mode="sum", per_sample_weights=gates)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        tokens, gates, first, down, hidden, results = ctx.saved_tensors
        groups, wanted, ends = ctx.groups, ctx.needs_input_grad, ctx.groups.ends
        source = groups.assignments // gates.shape[1]
        back = grad.index_select(0, source)
        d_gates = (back * results).sum(-1)[groups.places] if wanted[1] else None
        back.mul_(gates.flatten()[groups.assignments, None])
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            active = ctx.inner(hidden)
        d_down = outer(back, active.detach(), ends) if wanted[3] else None
        (d_hidden,) = torch.autograd.grad(active, hidden, multiply(back, down, ends))
        d_first = outer(d_hidden, tokens.index_select(0, source), ends) if wanted[2] else None
        d_given = multiply(d_hidden, first, ends)
        d_given[-1] = 0
        d_tokens = F.embedding_bag(groups.places, d_given, mode="sum") if wanted[0] else None
        return d_tokens, d_gates, d_first, d_down, None, None
