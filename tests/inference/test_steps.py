"""Several steps at once against decoding step by step: by our library on a CPU, by CUDA graphs on a GPU, and by records
that are the step itself."""

import pytest
import torch

from polytask.errors import Notice
from polytask.inference.engine import Engine
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.inference.steps import STEPS
from polytask.nn.attention import Attention
from polytask.nn.kernels.library import LOADER
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Alibi, Rotary
from tests.inference.networks import END, TOKENIZER, adapt, greedy, network, prompts

WHERE = [
    "cpu",
    "native",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")),
]
SHAPES = {
    "learned": {},
    "rotary": {"position": Rotary(), "norm": RMSNorm(), "attention": Attention(4, 2, head_dim=16)},
    "neighbours": {"position": Rotary(layout="interleaved", fraction=0.5), "attention": Attention(2, head_dim=16)},
    "window": {"attention": Attention(2, window=9)},
    "alibi": {"position": Alibi()},
    "capped": {"attention": Attention(2, cap=2.0)},
}


class Recorder:
    """Records nothing, but says what was asked for."""

    def __init__(self):
        self.steps = 0
        self.runs = 0

    def __call__(self, step):
        self.steps += 1

        def run():
            self.runs += 1
            return step()

        return run


def plain(built, **words):
    """Decodes step by step."""
    made = Engine(built, TOKENIZER, **words)
    made.runner.steps = None
    return made


def engine(built, device="cpu", **words):
    if device == "native":
        if LOADER.wait() is None:
            pytest.skip(LOADER.reason)
        return Engine(built, TOKENIZER, **words)
    if device == "cuda":
        return Engine(built.to(device), TOKENIZER, **words)
    return Engine(built, TOKENIZER, capture=Recorder(), **words)


def asked(count=5, tokens=24, **words):
    return [Request(ids, Sampling(max_tokens=tokens, **words)) for ids in prompts(count)]


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_those_of_greedy_decoding(shape, device):
    built = network("gpt3", **SHAPES[shape])
    expected = [greedy(built, request.ids, 24) for request in asked()]
    with torch.inference_mode():
        made = engine(built, device)
    answers = made.run(asked())
    assert [answer.ids for (answer,) in answers] == expected
    assert made.runner.steps is not None
    if device == "native" and shape in ("alibi", "capped"):  # which decode layer by layer
        assert made.runner.steps.program is None
        return
    assert made.runner.steps.program if device == "native" else made.runner.steps.recorded
    assert made.runner.steps.able or device == "native"


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_that_is_alone(shape, device):
    """Short, and long enough that the keys of a head are shared between several programs of a GPU."""
    built = network("gpt3", context=400, **SHAPES[shape])
    requests = [asked(3)[2], Request(prompts(1, least=300, most=300)[0], Sampling(max_tokens=24))]
    expected = [answer for (answer,) in plain(built).run(requests)]
    made = engine(built, device, max_requests=2)
    for request, wanted in zip(requests, expected, strict=True):
        ((found,),) = made.run([request])
        assert found.ids == wanted.ids
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-3)


def test_several_steps_are_asked_for_at_once():
    built = network()
    made = engine(built)
    made.run(asked(1, tokens=STEPS + 1, min_tokens=STEPS + 1))
    recorder = made.runner.steps.capture
    assert (recorder.steps, recorder.runs) == (1, STEPS)
    assert made.stats().drafted_tokens == 0


@pytest.mark.parametrize("device", WHERE)
def test_logprobs_and_ends_are_those_of_the_sampler(device):
    built = network(seed=3)
    requests = asked(7, tokens=40) + asked(3, tokens=40, min_tokens=35)
    expected = plain(built).run(requests)
    answers = engine(built, device).run(requests)
    assert [a.ids for (a,) in answers] == [a.ids for (a,) in expected]
    assert [a.finish for (a,) in answers] == [a.finish for (a,) in expected]
    for (one,), (other,) in zip(answers, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("device", WHERE)
def test_a_mix_of_requests_in_little_room(device):
    """Some are drawn, have several samples, penalties, or end by a text; blocks run out, and groups give way."""
    built = network()
    mixed = [
        Sampling(max_tokens=20), Sampling(max_tokens=9, temperature=0.8, seed=1),
        Sampling(max_tokens=12, n=3, temperature=1.0, seed=2),
        Sampling(max_tokens=30, repetition_penalty=1.3), Sampling(max_tokens=30, stop=("a",)),
        Sampling(max_tokens=15, logprobs=2), Sampling(max_tokens=8, beam_size=2),
    ]  # fmt: skip
    requests = [Request(ids, sampling) for ids, sampling in zip(prompts(len(mixed)), mixed)]
    expected = plain(built).run(requests)
    made = engine(built, device, room=Room(tokens=160))
    answers = made.run(requests)
    assert [[a.ids for a in one] for one in answers] == [[a.ids for a in one] for one in expected]
    assert made.pool.free == made.pool.total


@pytest.mark.parametrize("device", WHERE)
def test_a_prefix_is_seen_from_behind_a_window(device):
    built = network("gpt3", prefix=True, attention=Attention(2, window=9))
    requests = [Request(ids, Sampling(24), prefix=len(ids)) for ids in prompts(8, least=20)]
    expected = [greedy(built, request.ids, 24, prefix=request.prefix) for request in requests]
    assert [answer.ids for (answer,) in engine(built, device).run(requests)] == expected


def test_a_step_that_cannot_be_recorded_leaves_the_old_way():
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    built = network()
    made = Engine(built, TOKENIZER, capture=refuse)
    with pytest.warns(Notice, match="without CUDA graphs"):
        answers = made.run(asked(3))
    assert [answer.ids for (answer,) in answers] == [greedy(built, request.ids, 24) for request in asked(3)]


def replace(built):
    built.norm.weight = torch.nn.Parameter(-built.norm.weight.detach())


def move(built):
    built.norm.weight.data = -built.norm.weight.detach()


@torch.no_grad()
def write(built):
    built.norm.weight *= -1


@pytest.mark.parametrize("device", ["cpu", WHERE[2]])
@pytest.mark.parametrize("change", [adapt, replace, move, write])
def test_steps_of_a_network_that_was_changed_are_recorded_anew(change, device):
    """Where the change is not seen by what was recorded, which reads what was written in place."""
    built = network("gpt3")
    made = engine(built, device)
    made.run(asked())
    recorded = dict(made.runner.steps.recorded)
    change(built)
    answers = [answer.ids for (answer,) in made.run(asked())]
    assert answers == [answer.ids for (answer,) in plain(built).run(asked())]
    same = [made.runner.steps.recorded[size] is step for size, step in recorded.items()]
    assert same == [change is write] * len(recorded)


@pytest.mark.parametrize("device", ["cpu", WHERE[2]])
def test_hooks_are_called_and_not_recorded(device):
    built, calls = network("gpt3"), []
    made = engine(built, device)
    steps, request, before = made.runner.steps, asked(1, tokens=20, min_tokens=20), 0

    def runs():
        return steps.capture.runs if device == "cpu" else 0

    for layer in built.blocks:
        hook = layer.register_forward_hook(lambda *_: calls.append(1))
        made.run(request)
        assert len(calls) == 20
        assert runs() == before
        hook.remove()
        made.run(request)
        assert steps.recorded
        calls.clear()
        before = runs()


def test_an_end_within_the_steps_ends_the_answer():
    built = network()
    with torch.no_grad():
        built.embedding.weight[END] = built.embedding.weight.mean(0) * 3
    expected = [greedy(built, request.ids, 24) for request in asked(8)]
    answers = engine(built).run(asked(8))
    assert [answer.ids for (answer,) in answers] == expected
