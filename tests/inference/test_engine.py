"""Answers of the engine against the same network read anew for each token, however requests are batched."""

import gc
import itertools
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import increment_version

from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.nn.cache import Context
from polytask.nn.position import Grid
from polytask.nn.quant import quantize
from polytask.training.config import TrainingConfig
from polytask.training.optimizers import build_optimizer
from tests.inference.networks import END, TOKENIZER, adapt, allowed, greedy, network, next_logits, prompts


def ids(engine, requests):
    return [[c.ids for c in completions] for completions in engine.run(requests)]


def test_greedy_is_what_reading_anew_gives(decoder, engine):
    asked = prompts(12)
    answers = engine.run([Request(p, Sampling(max_tokens=20)) for p in asked])
    for prompt, (answer,) in zip(asked, answers):
        assert answer.ids == greedy(decoder, prompt, 20)
        assert answer.text == TOKENIZER.decode(answer.ids)
        assert answer.finish == ("length" if len(answer.ids) == 20 else "stop")
    assert engine.pool.free == engine.pool.total
    assert not engine.busy


@torch.no_grad()
def _scale(built):
    for parameter in built.parameters():
        parameter *= -0.8


def _elsewhere(built):
    for parameter in built.parameters():
        parameter.data = -parameter.data


def _train(built):
    optimizer = build_optimizer(built, TrainingConfig(steps=1, optimizer="adamw"))
    hidden = built(torch.tensor([[5, 6, 7]]), Context(torch.arange(3)[None]))
    built.logits(hidden).square().sum().backward()
    optimizer.step(0.5)


def _hook(built):
    built.blocks[0].register_forward_hook(lambda _, given, y: -y)


def _tell(built):
    for parameter in built.parameters():
        parameter.data.copy_(-parameter.data)
    increment_version(built.parameters())


def _there_and_back(built):
    """New memory may lie where the first one lay."""
    parameter, places = built.blocks[0].attention.qkv.weight, set()
    while parameter.data_ptr() not in places:
        places.add(parameter.data_ptr())
        parameter.data = parameter.data * -1.1


CHANGES = {
    "in place": _scale, "elsewhere": _elsewhere, "there and back": _there_and_back, "trained": _train,
    "adapted": adapt, "hooked": _hook,
    "loaded": lambda built: built.load_state_dict({name: -tensor for name, tensor in built.state_dict().items()}),
    "quantised": lambda built: quantize(built, 4),
    "told": _tell,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_written_by_a_network_that_was_changed_is_not_read_again(change):
    built, request = network("gpt3"), Request(prompts(1, least=40, most=40)[0], Sampling(max_tokens=20))
    engine = Engine(built, TOKENIZER)
    before = [ids(engine, [request]) for _ in range(2)]
    assert engine.stats().hit_tokens >= 32
    hits = engine.stats().hit_tokens
    CHANGES[change](built)
    assert ids(engine, [request]) == ids(Engine(built, TOKENIZER), [request]) != before[0] == before[1]
    assert engine.stats().hit_tokens == hits
    assert ids(engine, [request])
    assert engine.stats().hit_tokens > hits
    assert engine.pool.free == engine.pool.total


def test_a_network_that_was_made_where_nobody_counts():
    with torch.inference_mode():
        built = network("gpt3")
    request = Request(prompts(1, least=40, most=40)[0], Sampling(max_tokens=20))
    engine = Engine(built, TOKENIZER)
    assert ids(engine, [request]) == ids(engine, [request])
    assert engine.stats().hit_tokens >= 32
    _elsewhere(built)
    assert ids(engine, [request]) == ids(Engine(built, TOKENIZER), [request])


def test_an_encoder_decoder_reads_its_own_text(encoder_decoder):
    engine = Engine(encoder_decoder, TOKENIZER, max_requests=3)
    sources, starts = prompts(9, 1), prompts(9, 2, most=4)
    asked = [Request(b, Sampling(max_tokens=12), encoder_ids=a) for a, b in zip(sources, starts)]
    for a, b, (answer,) in zip(sources, starts, engine.run(asked)):
        assert answer.ids == greedy(encoder_decoder, b, 12, a)


@pytest.mark.parametrize("system", ["gpt3", "transformer"])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_batches_give_what_one_by_one_gives(system, slots):
    """Greedy, sampled, several samples, penalties and beams, in an engine of any size and in any company."""
    built = network(system, seed=3)
    kinds = [
        Sampling(max_tokens=9),
        Sampling(max_tokens=14, temperature=0.8, top_p=0.9, seed=5),
        Sampling(max_tokens=7, temperature=1.2, top_k=20, min_p=0.01, seed=6, n=3),
        Sampling(max_tokens=11, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
        Sampling(max_tokens=8, beam_size=3, n=2) if slots >= 3 else Sampling(max_tokens=8, min_tokens=8),
    ]
    asked = [
        Request(p, kinds[i % len(kinds)], encoder_ids=prompts(1, i)[0] if system == "transformer" else None)
        for i, p in enumerate(prompts(15, 7))
    ]
    together = ids(Engine(built, TOKENIZER, max_requests=slots), asked)
    alone = [ids(Engine(built, TOKENIZER), [request])[0] for request in asked]
    assert together == alone


def test_prompts_that_are_read_in_parts_give_the_same(decoder, monkeypatch):
    asked = [Request(p, Sampling(max_tokens=6)) for p in prompts(6, 4, least=40, most=80)]
    whole = ids(Engine(decoder, TOKENIZER), asked)
    engine = Engine(decoder, TOKENIZER, chunk=20)
    assert ids(engine, asked) == whole


@pytest.mark.parametrize("words", [{}, {"band": 5}])
@pytest.mark.parametrize("tokens", [20, 4096])
def test_prefixes_are_read_from_both_sides(words, tokens):
    """Of any length, beside others and ahead of chunks; what follows them may be read in parts."""
    built = network(seed=4, **words)
    asked, lengths = prompts(8, 4, least=30, most=60), [0, 1, 31, 25, 10, 0, 28, 31]
    engine = Engine(built, TOKENIZER, max_requests=5, chunk=tokens)
    requests = [Request(p, Sampling(8, n=1 + i % 2), prefix=n) for i, (p, n) in enumerate(zip(asked, lengths))]
    for request, answers in zip(requests, engine.run(requests)):
        assert {tuple(answer.ids) for answer in answers} == {tuple(greedy(built, request.ids, 8, None, request.prefix))}
    continuation = [70, 80, END]
    pairs = [Request.scoring(p, [continuation], prefix=n) for p, n in zip(asked, lengths)]
    for prompt, n, (score,) in zip(asked, lengths, engine.score(pairs)):
        steps = [next_logits(built, prompt + continuation[:i], None, n) for i in range(3)]
        total = sum(float(logits.log_softmax(-1)[i]) for logits, i in zip(steps, continuation))
        assert score.logprob == pytest.approx(total, abs=1e-4)
    assert engine.score(pairs[2:3]) != engine.score([replace(pairs[2], prefix=0)])


def test_lower_precision_differs_at_reported_ties_only():
    built = network(seed=2, dim=64).bfloat16()
    asked = [Request(p, Sampling(max_tokens=30)) for p in prompts(16, 9)]
    together = [c for (c,) in Engine(built, TOKENIZER).run(asked)]
    for request, one in zip(asked, together):
        ((other,),) = Engine(built, TOKENIZER).run([request])
        differ = next((i for i, (a, b) in enumerate(itertools.zip_longest(one.ids, other.ids)) if a != b), None)
        assert differ is None or differ in one.ties


def test_samples_follow_the_distribution(decoder):
    prompt = prompts(1, 11)[0]
    wanted = allowed(next_logits(decoder, prompt) / 0.7).softmax(-1)
    engine = Engine(decoder, TOKENIZER, max_requests=64)
    drawn = [c.ids[:1] or [END] for c in engine.run([Request(prompt, Sampling(1, temperature=0.7, seed=1, n=4000))])[0]]
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(wanted)).double() / len(drawn)
    assert (counts - wanted).abs().max() < 0.03
    assert (counts - wanted).abs().sum() < 0.25


def ranked(probabilities):
    return probabilities.sort(descending=True).values


@pytest.mark.parametrize(
    ("words", "keep"),
    [
        ({"top_k": 3}, lambda p: p >= ranked(p)[2]),
        ({"min_p": 0.2}, lambda p: p >= 0.2 * p.max()),
        ({"top_p": 0.5}, lambda p: p >= ranked(p)[int((ranked(p).cumsum(0) < 0.5).sum())]),
    ],
)
def test_what_is_cut_off_never_comes(decoder, words, keep):
    prompt = prompts(1, 12)[0]
    kept = keep(allowed(next_logits(decoder, prompt)).softmax(-1))
    engine = Engine(decoder, TOKENIZER, max_requests=64)
    answers = engine.run([Request(prompt, Sampling(1, temperature=1.0, seed=2, n=800, **words))])[0]
    drawn = {c.ids[0] if c.ids else END for c in answers}
    assert drawn <= set(kept.nonzero()[:, 0].tolist())
    assert len(drawn) > 1


def test_penalties_by_their_definitions(decoder, engine):
    prompt = prompts(1, 13)[0]
    words = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3}
    ((answer,),) = engine.run([Request(prompt, Sampling(20, **words))])
    written: list[int] = []
    while len(written) < 20:
        logits = allowed(next_logits(decoder, prompt + written)).tolist()
        for i, value in enumerate(logits):
            if i in prompt or i in written:
                value = value / 1.4 if value > 0 else value * 1.4
            logits[i] = value - 0.5 * (i in written) - 0.3 * written.count(i)
        best = max(range(len(logits)), key=logits.__getitem__)
        if best == END:
            break
        written.append(best)
    assert answer.ids == written


def test_log_probabilities_are_the_networks_own(decoder, engine):
    prompt = prompts(1, 14)[0]
    ((answer,),) = engine.run([Request(prompt, Sampling(8, min_tokens=8, temperature=1.0, seed=1, logprobs=3))])
    total = 0.0
    assert answer.logprobs is not None
    for place, i in enumerate(answer.ids):
        wanted = next_logits(decoder, prompt + answer.ids[:place]).log_softmax(-1)
        total += float(wanted[i])
        best = dict(zip(*(t.tolist() for t in reversed(wanted.topk(3)))))
        assert answer.logprobs[place] == pytest.approx(best | {i: float(wanted[i])}, abs=1e-5)
    assert answer.logprob == pytest.approx(total, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 3), st.integers(0, 6))
def test_stop_texts_never_appear(seed, length, min_tokens):
    """The answer is that without stop texts, cut before the first one that ends after `min_tokens` tokens."""
    built, prompt = network(seed=1), prompts(1, seed)[0]
    engine = Engine(built, TOKENIZER)
    ((free,),) = engine.run([Request(prompt, Sampling(24, temperature=1.0, seed=seed))])
    if len(free.text) < 6 or not free.text.isascii():
        return
    stop = free.text[4 : 4 + length]
    sampling = Sampling(24, temperature=1.0, seed=seed, stop=(stop,))
    handle = engine.submit(Request(prompt, sampling))
    pieces = list(handle)
    (answer,) = handle.result()
    assert answer.text == "".join(pieces) == free.text[: free.text.index(stop)]
    assert answer.finish == "stop"
    assert free.ids[: len(answer.ids)] == answer.ids


def test_beam_search_finds_the_best_of_all():
    """A beam as wide as all partial answers is an exhaustive search."""
    built = network(seed=5)
    prompt, alpha, few = prompts(1, 15)[0], 0.8, [END, 70, 71, 72]

    def hook(logits, ids, prompts):
        return torch.full_like(logits, -torch.inf).index_copy(1, torch.tensor(few), logits[:, few])

    sampling = Sampling(3, beam_size=27, n=5, length_penalty=alpha)
    (found,) = Engine(built, TOKENIZER).run([Request(prompt, sampling, hooks=(hook,))])
    answers = {}
    for tokens in itertools.chain(*(itertools.product(few[1:], repeat=n) for n in range(4))):
        steps = [*tokens, END] if len(tokens) < 3 else list(tokens)
        total = sum(float(next_logits(built, prompt + steps[:i]).log_softmax(-1)[t]) for i, t in enumerate(steps))
        answers[tokens] = total, total / ((5 + len(steps)) / 6) ** alpha
    best = sorted(answers, key=lambda tokens: -answers[tokens][1])[:5]
    assert [tuple(c.ids) for c in found] == best
    assert [c.logprob for c in found] == pytest.approx([answers[tokens][0] for tokens in best], abs=1e-4)


def test_many_threads_ask_at_once(decoder):
    engine, asked = Engine(decoder, TOKENIZER, max_requests=4), prompts(24, 8)
    answers: dict[int, list[int]] = {}

    def ask(i):
        answers[i] = engine.submit(Request(asked[i], Sampling(10))).result()[0].ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: greedy(decoder, prompt, 10) for i, prompt in enumerate(asked)}


def test_a_cancelled_request_leaves_the_others_alone(decoder):
    engine, asked = Engine(decoder, TOKENIZER, max_requests=3), prompts(5, 6)
    handles = [engine.submit(Request(p, Sampling(20, min_tokens=20, temperature=0.5, seed=1, n=2))) for p in asked]
    for _ in range(4):
        engine.step()
    handles[0].cancel()
    handles[3].cancel()
    gone = handles[0].result()
    assert [c.finish for c in gone] == ["cancelled", "cancelled"]
    assert 0 < len(gone[0].ids) < 20
    assert handles[3].result()[1].text == ""
    for i in (1, 2, 4):
        alone = Engine(decoder, TOKENIZER).run([handles[i].request])[0]
        assert [c.ids for c in handles[i].result()] == [c.ids for c in alone]
    assert engine.pool.free == engine.pool.total


def test_an_engine_goes_when_it_is_let_go(decoder):
    """At once: its cache must not wait for Python to look for circles, for training scores with a new one each time."""
    gc.collect()
    gc.disable()
    try:
        engine = Engine(decoder, TOKENIZER)
        asked = [Request(p, Sampling(max_tokens=5, n=n)) for p, n in zip(prompts(3), (2, 1, 1), strict=True)]
        handles = [engine.submit(one) for one in asked]
        handles[2].cancel()
        assert len(handles[0].result()) == 2
        text = "".join(handles[1])
        assert text == handles[1].result()[0].text
        assert "".join(handles[1]) == "", "who asks again is not kept waiting"
        gone = weakref.ref(engine)
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_failure_ends_what_it_touched_and_nothing_else(decoder):
    engine, prompt = Engine(decoder, TOKENIZER), prompts(1)[0]

    def broken(*_):
        raise RuntimeError("no")

    handle = engine.submit(Request(prompt, Sampling(4), hooks=(broken,)))
    with pytest.raises(RuntimeError, match="no"):
        handle.result()
    assert ids(engine, [Request(prompt, Sampling(4))]) == [[greedy(decoder, prompt, 4)]]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request([]), "at least one token"),
        (Request([5] * 96), "context holds 96"),
        (Request([5], encoder_ids=[5]), "encoder_ids"),
        (Request([5], Sampling(beam_size=40)), "make the beam smaller"),
    ],
)
def test_what_cannot_fit_is_refused(engine, request_, sentence):
    with pytest.raises(ConfigError, match=sentence):
        engine.submit(request_)


def test_one_that_is_refused_takes_the_others_back(decoder):
    engine = Engine(decoder, TOKENIZER)
    with pytest.raises(ConfigError):
        engine.run([Request([5, 6], Sampling(max_tokens=4)), Request([], Sampling())])
    assert engine.step() == []
    assert engine.stats().waiting == engine.stats().running == 0


@pytest.mark.parametrize(
    "words",
    [
        {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"max_tokens": 0}, {"n": 2.5}, {"min_tokens": 300},
        {"beam_size": 2, "n": 3}, {"beam_size": 2, "temperature": 1.0}, {"stop": ("",)}, {"seed": "x"},
        {"temperature": float("nan")}, {"min_p": True},
    ],
)  # fmt: skip
def test_dials_out_of_range_are_named(words):
    with pytest.raises(ConfigError, match="sampling: " + "|".join(words)):
        Sampling(**words)


@pytest.mark.parametrize("words", [{}, {"chunk": 20}, {"draft": "ngram"}, {"draft": "itself"}])
def test_codes_of_pictures_know_their_places_however_they_are_read(words):
    """In one pass, in parts, behind a common beginning, and as drafts that come true or do not."""
    built = network(seed=5, grid=Grid(120, 2, 3))
    given = {name: (built, TOKENIZER) if value == "itself" else value for name, value in words.items()}
    engine = Engine(built, TOKENIZER, max_requests=5, **given)
    asked = prompts(6, 4, least=30, most=60)
    asked += [[*asked[0][:33], *one] for one in prompts(3, 5, least=2, most=9)]
    kinds = [Sampling(max_tokens=20, n=1 + i % 2) for i in range(len(asked))]
    for prompt, answers in zip(asked, engine.run(list(map(Request, asked, kinds)))):
        assert {tuple(answer.ids) for answer in answers} == {tuple(greedy(built, prompt, 20))}
        assert any(i >= 120 for i in prompt[1:])


def test_a_grid_counts():
    """The same weights without it say something else."""
    built = network(seed=5, grid=Grid(120, 2, 3))
    with torch.no_grad():
        before = [next_logits(built, prompt) for prompt in prompts(3, 4)]
        built.grid.weight.zero_()
        after = [next_logits(built, prompt) for prompt in prompts(3, 4)]
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(before, after))
