"""Layers of experts against a loop over tokens and experts, a case by hand, and transformers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn import grouped
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.experts import Experts
from polytask.nn.feedforward import ACTIVATIONS, GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.part import from_plain, to_plain
from polytask.training import adapters
from tests.inference.networks import TOKENIZER, greedy, network, prompts

DIM = 6


def layer(seed=0, **words):
    torch.manual_seed(seed)
    built = Experts(**{"count": 5, "width": 7, **words}).build(DIM).double()
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built


def context(documents):
    return Context(torch.zeros_like(documents), documents)


def brute_force(built, x, real, room=math.inf):
    """Token by token: outputs (N, D), balance over first and over all choices, z and how many choices were dropped.

    All first choices are placed, in the order of tokens, before any second one.
    """
    part, used, dropped = built.part, [0] * built.part.count, 0
    first = built.gate_up if part.gated else built.up
    out = [x.new_zeros(DIM) for _ in x]
    scores = [built.router.weight @ token for token in x]
    shares = [torch.exp(s) / torch.exp(s).sum() for s in scores]
    ranked = [sorted(range(part.count), key=lambda e: -share[e].item())[: part.top_k] for share in shares]
    for choice in range(part.top_k):
        for t in range(len(x)):
            if not real[t]:
                continue
            e = ranked[t][choice]
            if used[e] >= room:
                dropped += 1
                continue
            used[e] += 1
            gate = shares[t][e] / sum(shares[t][other] for other in ranked[t]) if part.normalize else shares[t][e]
            hidden = first[e] @ x[t]
            inner = ACTIVATIONS.get(part.activation)(hidden[: part.width])
            out[t] = out[t] + gate * (built.down[e] @ (inner * hidden[part.width :] if part.gated else inner))
    kept = [t for t in range(len(x)) if real[t]]
    balances = []
    for choices in (1, part.top_k):
        counts = [sum(e in ranked[t][:choices] for t in kept) / len(kept) for e in range(part.count)]
        means = [sum(shares[t][e] for t in kept) / len(kept) for e in range(part.count)]
        balances.append(part.count * sum(f * p for f, p in zip(counts, means)))
    z = sum(torch.log(torch.exp(scores[t]).sum()) ** 2 for t in kept) / len(kept)
    return torch.stack(out), balances, z, dropped


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("capacity", [None, 1.0, 0.7])
def test_layer_and_every_gradient_against_a_loop(capacity, normalize, gated, top_k):
    words = {"capacity": capacity, "normalize": normalize, "gated": gated, "top_k": top_k, "z_loss": 0.3}
    built = layer(**words, balance=0.5, balance_over="all" if normalize else "first")
    x = torch.randn(3, 8, DIM, dtype=torch.float64, requires_grad=True)
    documents = torch.ones(3, 8, dtype=torch.long)
    documents[1, 5:] = 0
    weights, real = torch.randn(3, 8, DIM, dtype=torch.float64), documents.flatten() != 0
    seen = context(documents)
    out = built(x, seen)
    (routing,) = seen.routing
    ((out * weights).sum() + routing.loss).backward()
    found = [x.grad, *(parameter.grad for parameter in built.parameters())]
    x.grad = None
    built.zero_grad()
    room = math.inf if capacity is None else math.ceil(capacity * 21 / 5)
    expected, balances, z, dropped = brute_force(built, x.flatten(0, 1), real, room)
    loss = 0.5 * balances[1 if normalize else 0] + 0.3 * z
    ((expected.view_as(x) * weights).sum() + loss).backward()
    assert torch.equal(out.flatten(0, 1)[~real], torch.zeros(3, DIM, dtype=torch.float64))
    torch.testing.assert_close(out.flatten(0, 1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(routing.loss, loss, rtol=1e-12, atol=0)
    assert routing.dropped.item() == pytest.approx(dropped / (21 * top_k))
    assert (dropped > 0) == (capacity is not None)
    for ours, theirs in zip(found, [x.grad, *(parameter.grad for parameter in built.parameters())], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def spelled_out(probabilities, **words):
    """A layer whose gates are given, and whose output at place e is what expert e gives: the gate where it was kept."""
    count = probabilities.shape[-1]
    built = Experts(count, width=1, activation="relu", **words).build(count + 1).double()
    with torch.no_grad():
        built.router.weight.copy_(torch.eye(count, count + 1))
        built.up.copy_(torch.eye(count + 1)[-1:].expand_as(built.up))
        built.down.copy_(torch.eye(count + 1)[:count, :, None])
    x = F.pad(probabilities.log(), (0, 1), value=1.0)[None]
    return built, x


def test_two_choices_with_little_room_by_hand():
    """Room for ceil(1.5 x 4 / 3) = 2. First choices 0, 0, 0, 1: the third finds no room. Second ones 1, 2, 1, 0: the
    third finds expert 1 full, the fourth expert 0.
    """
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]).double()
    built, x = spelled_out(probabilities, capacity=1.5)
    seen = context(torch.ones(1, 4, dtype=torch.long))
    out = built(x, seen)[0, :, :3]
    expected = torch.tensor([[6 / 9, 3 / 9, 0], [5 / 9, 0, 4 / 9], [0, 0, 0], [0, 7 / 9, 0]])
    torch.testing.assert_close(out, expected.double(), rtol=0, atol=1e-7)
    (routing,) = seen.routing
    assert routing.balance.item() == pytest.approx(3 * (3 / 4 * 2.0 / 4 + 1 / 4 * 1.3 / 4))
    assert routing.dropped.item() == pytest.approx(3 / 8)
    assert routing.load.tolist() == pytest.approx([4 / 8, 3 / 8, 1 / 8])


def test_an_even_load_costs_one_or_as_many_as_are_chosen():
    even = torch.full((4, 4), 0.1) + 0.6 * torch.eye(4) + 1e-3 * torch.eye(4).roll(1, 1)
    for over, expected in (("first", 1.0), ("all", 2.0)):
        built, x = spelled_out(even.double() / even.sum(-1, keepdim=True), balance_over=over)
        seen = context(torch.ones(1, 4, dtype=torch.long))
        built(x, seen)
        assert seen.routing[0].balance.item() == pytest.approx(expected, rel=1e-6)


def test_mixtral_layer_and_its_balance_loss():
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

    built = layer(gated=True, activation="silu", balance_over="all", count=4)
    config = MixtralConfig(hidden_size=DIM, intermediate_size=7, num_local_experts=4, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    theirs = MixtralSparseMoeBlock(config).double()
    with torch.no_grad():
        theirs.gate.weight.copy_(built.router.weight)
        theirs.experts.gate_up_proj.copy_(built.gate_up)
        theirs.experts.down_proj.copy_(built.down)
    x = torch.randn(2, 9, DIM, dtype=torch.float64)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    seen = context(mask)
    out, expected = built(x, seen), theirs(x)
    # transformers takes the router's softmax in float32.
    torch.testing.assert_close(out[mask > 0], expected[mask > 0], rtol=0, atol=1e-5)
    logits = theirs.gate(x)[0]
    balance = load_balancing_loss_func((logits,), 4, 2, mask)
    assert seen.routing[0].balance.item() == pytest.approx(balance.item(), rel=1e-5)
    (out[mask > 0] ** 2).sum().backward()
    (expected[mask > 0] ** 2).sum().backward()
    for ours, other in (
        (built.router.weight, theirs.gate.weight),
        (built.gate_up, theirs.experts.gate_up_proj),
        (built.down, theirs.experts.down_proj),
    ):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_nllb_drops_the_same_choices():
    """Where experts divide tokens, its 2 ceil(tokens / experts) is ours of capacity 2."""
    from transformers import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router

    config = NllbMoeConfig(
        d_model=4, num_experts=4, second_expert_policy="all", normalize_router_prob_before_dropping=True
    )
    router = NllbMoeTop2Router(config).train()
    router.expert_capacity = None  # then it depends on how many tokens there are
    torch.manual_seed(0)
    logits = torch.randn(24, 4) + torch.tensor([2.0, 1.0, 0.0, 0.0])
    _, gates = router.route_tokens(logits)
    built, x = spelled_out(logits.softmax(-1).double(), capacity=2.0)
    out = built(x)[0, :, :4]
    assert (out == 0).sum() > 2 * 24, "nothing was dropped"
    torch.testing.assert_close(out.float(), gates, rtol=0, atol=1e-6)


def test_outside_of_training_nothing_is_dropped():
    x = torch.randn(4, 8, DIM, dtype=torch.float64)
    tight, free = layer(capacity=0.5), layer()
    assert not torch.allclose(tight(x), free(x))
    tight.eval()
    torch.testing.assert_close(tight(x), free(x))
    torch.testing.assert_close(tight(x)[2:3], tight(x[2:3]))


def test_padding_takes_no_room_and_counts_in_no_loss():
    built, documents = layer(capacity=1.0), torch.tensor([[1] * 6 + [0] * 4])
    x = torch.randn(1, 10, DIM, dtype=torch.float64)
    other = torch.where(documents[..., None] == 0, torch.randn_like(x), x)
    short, padded, changed = context(documents[:, :6]), context(documents), context(documents)
    expected = built(x[:, :6], short)
    for out, seen in ((built(x, padded), padded), (built(other, changed), changed)):
        torch.testing.assert_close(out[:, :6], expected)
        for name in ("balance", "z", "load", "dropped"):
            torch.testing.assert_close(getattr(seen.routing[0], name), getattr(short.routing[0], name))
    nothing = context(torch.zeros_like(documents))
    out = built(x.requires_grad_(), nothing)
    (out.sum() + nothing.routing[0].loss).backward()
    assert not out.any()
    assert not built.up.grad.any()


def test_the_router_stays_in_float32():
    built = layer().float()
    x = torch.randn(2, 8, DIM)
    exact, rounded = context(torch.ones(2, 8, dtype=torch.long)), context(torch.ones(2, 8, dtype=torch.long))
    plain = built(x, exact)
    with torch.autocast("cpu", torch.bfloat16):
        out = built(x, rounded)
    assert out.dtype == torch.bfloat16
    assert torch.equal(exact.routing[0].z, rounded.routing[0].z)
    assert torch.equal(exact.routing[0].balance, rounded.routing[0].balance)
    torch.testing.assert_close(out.float(), plain, rtol=0.05, atol=0.15)
    assert not torch.equal(out.float(), plain)


def test_frozen_experts_get_no_gradient_and_the_router_its_own():
    built = layer()
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    built(x).square().sum().backward()
    expected = built.router.weight.grad.clone()
    built.zero_grad()
    built.up.requires_grad_(False)
    built.down.requires_grad_(False)
    built(x).square().sum().backward()
    assert built.up.grad is None
    assert built.down.grad is None
    torch.testing.assert_close(built.router.weight.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the kernel for all groups serves GPUs"))])  # fmt: skip
def test_one_kernel_for_all_groups_gives_what_the_loop_gives(device, dtype):
    """An empty group, and a row after the last one, of which nothing is said."""
    torch.manual_seed(0)
    ends = torch.tensor([3, 3, 10], dtype=torch.int32, device=device)
    rows, other = torch.randn(11, 16, device=device).to(dtype), torch.randn(11, 8, device=device).to(dtype)
    weights = torch.randn(3, 8, 16, device=device).to(dtype)
    for matrices in (weights.mT, weights.mT.contiguous()):
        kernel = F.grouped_mm(rows, matrices, offs=ends)
        for ours in (grouped.multiply(rows, matrices, ends), grouped.multiply_in_turn(rows, matrices, ends)):
            torch.testing.assert_close(ours[:10], kernel[:10], rtol=1.6e-2, atol=1e-2)
    kernel = F.grouped_mm(rows.mT, other, offs=ends)
    for ours in (grouped.outer(rows, other, ends), grouped.outer_in_turn(rows, other, ends)):
        torch.testing.assert_close(ours, kernel, rtol=1.6e-2, atol=1e-2)
    assert not kernel[1].any()
    assert grouped.has_kernel(rows, 8) == (device == "cuda" and dtype == torch.bfloat16)


def config(**words):
    parts = (GatedMLP(48, activation="gelu"), Experts(4, 48, capacity=1.0))
    return TransformerConfig(
        **{"vocab_size": 19, "context_length": 12, "layers": 4, "dim": 32, "attention": Attention(2),
           "feedforward": parts, **words}
    )  # fmt: skip


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "parallel", "parallel_norms"])
def test_every_placement_trains_every_expert(placement):
    """A configuration survives its file, and the norm in front of experts is one of the network's own."""
    built = Transformer(from_plain(to_plain(config(placement=placement, norm=RMSNorm())))).initialize(0)
    seen = Context(torch.arange(12).expand(8, -1))
    out = built(torch.randint(19, (8, 12)), seen)
    routing = seen.take_routing()
    assert len(routing) == 2
    (out.square().sum() + sum(layer.loss for layer in routing)).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert ("feedforward" not in name) or parameter.grad.flatten(1 if parameter.ndim > 1 else 0).any(-1).all()


def test_experts_are_drawn_like_layers_of_their_role():
    wide = {"dim": 128, "feedforward": Experts(4, 256, gated=True)}
    built = Transformer(config(**wide)).initialize(0).blocks[0].feedforward
    for weight, std in ((built.gate_up, 0.02), (built.down, 0.02 / math.sqrt(8)), (built.router.weight, 0.02)):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.1)
    built = Transformer(config(initialization="xavier", **wide)).initialize(0).blocks[0].feedforward
    for weight in (*built.gate_up, *built.down):
        bound = math.sqrt(6 / (128 + 256))
        assert 0.98 * bound < float(weight.abs().max()) <= bound
    built = Transformer(config(initialization="zero_residual", **wide)).initialize(0).blocks[0].feedforward
    assert not built.down.any()
    assert float(built.gate_up.abs().max()) == pytest.approx(math.sqrt(3 / 128), rel=0.01)


def test_parameters_of_glam_in_all_and_for_a_token():
    """GLaM 0.1B/64E, matrices and router alone (Du et al. 2022, table 4)."""
    glam = TransformerConfig(
        256, 1024, 12, 768, Attention(12), (GatedMLP(3072, activation="gelu"), Experts(64, 3072)), norm=RMSNorm()
    )
    assert cost.hidden_parameters(glam) == 1_883_013_120
    assert cost.matmul_parameters(glam) == 127_696_896 + 256 * 768
    assert cost.parameters(glam) - cost.active_parameters(glam) == 1_883_013_120 - 127_696_896
    small = config(feedforward=Experts(3, 48, gated=True))
    assert cost.parameters(small) == sum(p.numel() for p in Transformer(small).parameters())


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_an_answer_does_not_depend_on_what_shares_its_batch(capacity):
    """Read into a cache, in any company, it is what one pass over all of it gives."""
    built = network("gpt3", feedforward=Experts(4, 48, capacity=capacity), seed=2)
    asked = prompts(9, 3)
    answers = Engine(built, TOKENIZER, max_requests=4).run([Request(p, Sampling(max_tokens=10)) for p in asked])
    for prompt, (answer,) in zip(asked, answers):
        assert answer.ids == greedy(built, prompt, 10)


def test_adapters_leave_experts_as_they_are():
    ids, seen = torch.randint(19, (2, 12)), Context(torch.arange(12).expand(2, -1))
    built = Transformer(config()).initialize(0).eval()
    assert not [name for name in adapters.apply(built, adapters.LoRA()) if "blocks.1.feedforward" in name]
    built(ids, seen).sum().backward()
    assert built.blocks[1].feedforward.up.grad is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"count": 0}, "count=0 must be a whole number of at least 1"),
        ({"top_k": 6}, "top_k=6 is more than there are experts"),
        ({"capacity": 0.0}, "capacity=0.0 must be above 0"),
        ({"balance_over": "both"}, "balance_over='both' must be first or all"),
        ({"activation": "gellu"}, "did you mean 'gelu'"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        Experts(**{"count": 5, "width": 7, **words})
