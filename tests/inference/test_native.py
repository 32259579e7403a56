"""Whole steps by our library against the same network layer by layer."""

import dataclasses

import pytest
import torch

from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.native import Native
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Drawing, Request
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.experts import Experts
from polytask.nn.feedforward import ACTIVATIONS, MLP, GatedMLP
from polytask.nn.kernels.library import LOADER, _Loader
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Grid, Learned, LinearScaling, Rotary, Sinusoidal, TextAndGrid, Unpositioned
from polytask.nn.quant import quantize
from polytask.nn.sparse import ColumnPattern, ConvolutionPattern, RowPattern
from polytask.training import adapters
from tests.inference.networks import TOKENIZER, loud, prompts

pytestmark = pytest.mark.usefixtures("two_threads")
BASE = TransformerConfig(
    TOKENIZER.vocab_size + 3, 96, 2, 40, Attention(2, head_dim=16), MLP(72), LayerNorm(), Learned()
)  # fmt: skip
FORMS = {
    "gpt": {"attention": Attention(2, head_dim=16, bias=True), "feedforward": MLP(72, "gelu_tanh", bias=True)},
    "llama": {
        "attention": Attention(6, 2, head_dim=16), "feedforward": GatedMLP(56), "norm": RMSNorm(), "position": Rotary(),
        "tied": False,
    },
    "gemma": {
        "attention": Attention(2, 1, head_dim=32, scale=0.2), "feedforward": GatedMLP(40, "gelu_tanh"),
        "norm": RMSNorm(offset=1.0), "position": Rotary(), "placement": "sandwich", "scale_embedding": True,
        "logit_cap": 3.0,
    },
    "neox": {
        "attention": Attention(2, head_dim=32, bias=True), "position": Rotary(fraction=0.25),
        "placement": "parallel_norms",
    },
    "gptj": {
        "attention": Attention(2, head_dim=32), "position": Rotary(layout="interleaved", scaling=LinearScaling(2.0)),
        "placement": "parallel", "tied": False, "output_bias": True,
    },
    "vaswani": {"position": Sinusoidal(), "placement": "post", "final_norm": False},
    "opt": {"position": Learned(offset=2), "feedforward": MLP(72, "relu", bias=True)},
    "qwen": {
        "attention": Attention(4, 2, head_dim=16, qk_norm=RMSNorm()), "feedforward": GatedMLP(56), "norm": RMSNorm(),
        "position": Rotary(),
    },
    "windows": {"attention": (Attention(2, head_dim=16), Attention(2, head_dim=16, window=5))},
    "unpositioned": {"position": Unpositioned(), "embedding_norm": LayerNorm(), "logit_scale": 0.3},
    "large vocabulary": {"vocab_size": 9001},
    "dalle": {
        "attention": tuple(
            Attention(2, head_dim=16, pattern=pattern)
            for pattern in (RowPattern(32, 8, 8), ColumnPattern(32, 8, 8), ConvolutionPattern(32, 8, 8), None)
        ),
        "position": TextAndGrid(32, 8, 8), "layers": 4,
    },
    "biased": {"output_bias": True, "logit_cap": 5.0, "norm": LayerNorm(bias=False)},
} | {name: {"feedforward": MLP(72, name)} for name in ACTIVATIONS}  # fmt: skip
OTHERS = {
    "experts": {"feedforward": Experts(4, 32, top_k=2)},
    "narrow heads": {"attention": Attention(2, head_dim=12)},
}


@pytest.fixture(autouse=True)
def library():
    if LOADER.wait() is None:
        pytest.skip(LOADER.reason)
    return LOADER.library


def answers(built, rows, native=True, **words):
    made = Engine(built, TOKENIZER)
    if not native:
        made.runner.steps = None
    found = [one for (one,) in made.run([Request(ids, Sampling(max_tokens=20, **words)) for ids in prompts(rows)])]
    assert not native or made.runner.steps.program is not None
    return found


def config(form, **words):
    return dataclasses.replace(BASE, **FORMS[form], **words)


@pytest.mark.parametrize("rows", [1, 3, 7, 18])
@pytest.mark.parametrize("form", FORMS)
def test_tokens_and_likelihoods_in_float32(form, rows):
    built = loud(config(form))
    for one, other in zip(answers(built, rows), answers(built, rows, native=False), strict=True):
        assert one.ids == other.ids
        assert one.finish == other.finish
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3, rel=1e-4)


@pytest.mark.parametrize("chunk", [8, 40])
@pytest.mark.parametrize("form", ["gpt", "llama", "gemma", "neox", "vaswani", "qwen", "windows", "dalle"])
def test_short_prompts_and_drafts(form, chunk):
    """Pieces of prompts, what follows a part that the cache has, drafts, and answers under way, side by side."""
    built, (shared,) = loud(config(form)), prompts(1, seed=3, least=28, most=28)
    texts = [[*shared, *ids[: i * 3], *shared[:9]] for i, ids in enumerate(prompts(6))]
    asked = [Request(ids, Sampling(24, n=1 + i % 2)) for i, ids in enumerate(texts)]
    found, taken = [], []

    def watched(whole):
        def watching(*rows):
            taken.append((rows[1:], whole(*rows)))
            return taken[-1][1]

        return watching

    for native in (True, False):
        made = Engine(built, TOKENIZER, chunk=chunk, draft=(built, TOKENIZER))
        if native:
            made.runner.steps.whole = watched(made.runner.steps.whole)
        else:
            made.runner.steps = None
        found.append([answer for request in (asked[:1], asked[1:]) for one in made.run(request) for answer in one])
        assert made.stats().hit_tokens >= 16
        assert made.stats().accepted_tokens > 9
    for one, other in zip(*found, strict=True):
        assert one.ids == other.ids
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3, rel=1e-4)
    assert all(logits is not None and len(logits) == len(wanted) for (_, wanted), logits in taken)
    assert any(len(wanted) == 0 for (_, wanted), _ in taken) == (chunk == 8)  # a piece of a prompt alone
    assert any(0 < len(wanted) < sum(counts) for (counts, wanted), _ in taken)


@pytest.mark.parametrize(
    "dials",
    [
        {}, {"temperature": 3.0}, {"top_k": 1}, {"top_k": 7}, {"top_k": 1000}, {"top_p": 0.5}, {"top_p": 0.97},
        {"top_p": 1e-9}, {"top_k": 9, "top_p": 0.8}, {"min_p": 0.2}, {"min_p": 0.1, "top_p": 0.9, "temperature": 0.3},
        {"temperature": 1e-6}, {"temperature": 1e-60}, {"min_tokens": 20},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_drawn_by_a_seed(dials):
    built = loud(config("llama"), seed=1)
    words = {"temperature": 1.0, "seed": 11} | dials
    for one, other in zip(answers(built, 18, **words), answers(built, 18, native=False, **words), strict=True):
        assert one.ids == other.ids
        assert one.ties == []
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("form", ["gpt", "llama"])
def test_codes_of_pictures_stand_in_their_grid(form, temperature):
    """Pictures that are drawn, the rest of one, and texts about some: alone and side by side."""
    first, drawing = BASE.vocab_size, Drawing(BASE.vocab_size, 16, 12)
    built = loud(config(form, vocab_size=first + 20, grid=Grid(first, 3, 4)))
    codes = [first + i % 16 for i in range(30)]
    one, other, third = prompts(3)
    sampling = Sampling(max_tokens=12, temperature=temperature, seed=7)
    requests = [
        Request(one, sampling, drawing=drawing), Request([*one, *codes[:5]], sampling, drawing=Drawing(first, 16, 7)),
        Request([*other, *codes[:12]], sampling), Request([*codes[:24], *third], sampling),
        Request([*other, *codes[:12], 60, *codes[:3]], sampling, drawing=Drawing(first, 16, 9)),
    ]  # fmt: skip
    native, torchs = Engine(built, TOKENIZER), Engine(built, TOKENIZER)
    torchs.runner.steps = None
    for asked in (requests, *([request] for request in requests)):
        found, wanted = native.run(asked), torchs.run(asked)
        assert [answer.ids for (answer,) in found] == [answer.ids for (answer,) in wanted]
        for (a,), (b,) in zip(found, wanted, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=2e-3, rel=1e-4)
    assert native.runner.steps.program is not None


def test_drawn_rows_beside_others():
    built = loud(config("gpt"), seed=2)
    mixed = [
        Sampling(20), Sampling(20, temperature=1.0, seed=3), Sampling(9, temperature=0.7, top_p=0.8, seed=4, n=3),
        Sampling(12, temperature=1.0, seed=5, repetition_penalty=1.2),
        Sampling(15, temperature=1.0, seed=6, logprobs=2),
    ]  # fmt: skip
    requests = [Request(ids, sampling) for ids, sampling in zip(prompts(len(mixed)), mixed)]
    found = []
    for native in (True, False):
        made = Engine(built, TOKENIZER)
        made.runner.steps = made.runner.steps if native else None
        found.append([[answer.ids for answer in one] for one in made.run(requests)])
    assert found[0] == found[1]


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("form", ["gpt", "llama", "gemma", "gptj", "qwen", "vaswani", "biased"])
def test_tokens_in_lower_precision_up_to_a_near_tie(form, bits):
    small = config(form)  # whose layers torch would multiply, in another precision
    attention = dataclasses.replace(small.attention, heads=12, kv_heads=small.attention.kv_heads and 4)
    large = {"dim": 192, "attention": attention, "feedforward": dataclasses.replace(small.feedforward, width=256)}
    built = loud(dataclasses.replace(small, **large)).bfloat16()
    if bits:
        quantize(built, bits)
    for rows in (2, 9):
        for one, other in zip(answers(built, rows), answers(built, rows, native=False), strict=True):
            same = next((i for i, (a, b) in enumerate(zip(one.ids, other.ids)) if a != b), None)
            assert same is None or same in one.ties or same in other.ties


@pytest.mark.parametrize("form", OTHERS)
def test_other_networks_decode_layer_by_layer(form):
    built = loud(dataclasses.replace(BASE, **OTHERS[form]))
    made = Engine(built, TOKENIZER)
    (found,) = made.run([Request(prompts(1)[0], Sampling(max_tokens=5, min_tokens=5))])
    assert len(found[0].ids) == 5
    assert made.runner.steps is None or made.runner.steps.program is None


@pytest.mark.parametrize("form", ["gpt", "llama", "dalle"])
def test_weights_that_are_elsewhere_afterwards(form):
    built = loud(config(form))
    made = Engine(built, TOKENIZER)
    first, second = (Request(ids, Sampling(max_tokens=20)) for ids in prompts(2))
    made.run([first])
    for parameter in built.parameters():
        parameter.data = parameter.data * 0.9
    with torch.no_grad():
        for parameter in built.parameters():  # in place
            parameter *= -0.8
    assert made.run([second])[0][0].ids == Engine(built, TOKENIZER).run([second])[0][0].ids


class Own(torch.nn.Module):
    """A part that says nothing of itself."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, *given, **words):
        return self.part(*given, **words)


def layer_by_layer(built, request):
    made = Engine(built, TOKENIZER)
    made.runner.steps = None
    return made.run([request])[0][0].ids


def test_parts_that_are_others_afterwards():
    built = loud(config("llama"))
    made = Engine(built, TOKENIZER)
    requests = [Request(ids, Sampling(max_tokens=20)) for ids in prompts(4)]
    made.run(requests[:1])
    output = built.blocks[1].attention.output
    output.weight = torch.nn.Parameter(-output.weight.detach())
    assert made.run(requests[1:2])[0][0].ids == layer_by_layer(built, requests[1])
    quantize(built, 8)
    assert made.run(requests[2:3])[0][0].ids == layer_by_layer(built, requests[2])
    built.blocks[0].feedforward = loud(dataclasses.replace(BASE, **OTHERS["experts"])).blocks[0].feedforward
    assert made.run(requests[3:])[0][0].ids == layer_by_layer(built, requests[3])
    assert made.runner.steps.program is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_numbers_of_another_type_by_default(dtype):
    built, ids = loud(config("gpt")), prompts(1)[0]
    dials = ({}, {"logit_bias": {70: 2.5}}, {"repetition_penalty": 1.2}, {"temperature": 1.0, "top_p": 0.97, "seed": 1})
    requests = [Request(ids, Sampling(max_tokens=20, **words)) for words in dials]
    expected, before = [layer_by_layer(built, request) for request in requests], torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        loader = _Loader()
        assert loader.wait() is not None, loader.reason
        made = Engine(built, TOKENIZER)
        assert [made.run([request])[0][0].ids for request in requests] == expected
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("form", ["gpt", "llama"])
def test_adapters_that_are_not_merged(form):
    built = loud(config(form))
    adapters.apply(built, adapters.LoRA())
    with torch.no_grad():
        for layer in adapters.adapted(built).values():
            layer.lora_B.weight.fill_(0.1)
    request = Request(prompts(1)[0], Sampling(max_tokens=20))
    made = Engine(built, TOKENIZER)
    assert made.run([request])[0][0].ids == layer_by_layer(built, request)
    assert made.runner.steps.program is None


@pytest.mark.parametrize(
    "place", ["blocks.1", "blocks.0.attention", "blocks.0.feedforward.up", "blocks.1.feedforward_norm"]
)
def test_parts_of_a_users_own(place):
    built = loud(config("gpt"))
    parent, _, name = place.rpartition(".")
    own = Own(built.get_submodule(place))
    setattr(built.get_submodule(parent), name, own)
    request = Request(prompts(1)[0], Sampling(max_tokens=20))
    made = Engine(built, TOKENIZER)
    assert made.run([request])[0][0].ids == layer_by_layer(built, request)
    assert made.runner.steps.program is None


@pytest.mark.parametrize("place", ["embedding", "blocks.1", "norm"])
def test_hooks_are_called(place):
    built = loud(config("gpt"))
    made = Engine(built, TOKENIZER)
    first, second = (Request(ids, Sampling(max_tokens=20, min_tokens=20)) for ids in prompts(2))
    made.run([first])
    calls = []
    hook = built.get_submodule(place).register_forward_hook(lambda *_: calls.append(place))
    assert made.run([second])[0][0].ids == layer_by_layer(built, second)
    assert len(calls) >= 2 * 20  # of both engines, in each step
    hook.remove()
    steps = made.runner.steps
    with torch.inference_mode():
        assert steps.able


@pytest.mark.parametrize("ids", [[10**9], [-5], [5, TOKENIZER.vocab_size + 3]])
def test_ids_that_the_model_has_not_are_refused(ids):
    with pytest.raises(ConfigError, match=f"the id {ids[-1]}, but those of the model go from 0 to"):
        Engine(loud(config("gpt")), TOKENIZER).submit(Request(ids, Sampling(4)))


def test_several_steps_are_not_asked_for_where_there_is_no_room_for_all():
    made = Engine(loud(config("gpt")), TOKENIZER)
    steps = made.runner.steps
    for ids in prompts(4, least=14, most=15):
        made.submit(Request(ids, Sampling(40, min_tokens=40)))
    made.step()
    sequences = [group.sequences[0] for group in made.scheduler.running]
    steps._last = 4, 1e-5
    with torch.inference_mode():
        assert steps.steps(sequences, free=100) == 16
        assert steps.steps(sequences, free=0) == 1


def test_a_burst_is_as_long_as_an_answer_may_wait():
    built = loud(config("gpt"))
    made = Engine(built, TOKENIZER)
    steps = made.runner.steps
    assert isinstance(steps, Native)
    for seconds, most in ((0.01, 3), (5.0, 1), (1e-5, 16)):
        steps._last = 4, seconds
        assert steps.most(3) == most
        assert steps.most(9) == 1


def test_many_threads_and_one_write_the_same():
    built, before = loud(config("llama")), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append([one.ids for one in answers(built, 9)])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
