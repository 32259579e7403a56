"""Drafts change how many steps an answer takes, never what it is, or how likely."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from polytask.errors import ConfigError
from polytask.inference.blocks import BLOCK
from polytask.inference.constrained import Guide
from polytask.inference.engine import Engine
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling, speculate
from polytask.inference.sequence import Request
from polytask.inference.speculative import Draft
from polytask.tokenizers.text import TextTokenizer
from tests.inference.networks import TOKENIZER, greedy, network, next_logits, prompts

LOOP = TOKENIZER.encode("one two three four, one two three four, one two three")


def near(built, noise: float, seed: int = 9):
    """A network that is nearly another one, and so drafts well for it."""
    copy = network(seed=0, context=built.config.context_length, vocab_size=built.config.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mine, theirs in zip(copy.parameters(), built.parameters()):
            mine.copy_(theirs + noise * torch.randn(theirs.shape, generator=generator))
    return copy


def drafts(decoder) -> dict[str, Draft]:
    return {
        "ngram": "ngram",
        "itself": (decoder, TOKENIZER),
        "near": (near(decoder, 0.02), TOKENIZER),
        "another": (network(seed=8, context=64), TOKENIZER),
    }


KINDS = [
    Sampling(max_tokens=30),
    Sampling(max_tokens=20, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
    Sampling(max_tokens=25, logit_bias={70: 2.5, 81: -3.0}, min_tokens=12, logprobs=2),
    Sampling(max_tokens=24, n=3),
    Sampling(max_tokens=12, beam_size=2),
    Sampling(max_tokens=20, stop=("a", "e")),
    Sampling(max_tokens=1),
]
DRAWN = [
    Sampling(max_tokens=24, temperature=0.8, top_p=0.9, seed=5),
    Sampling(max_tokens=20, temperature=1.3, top_k=9, min_p=0.01, frequency_penalty=0.5, seed=6, n=2),
]


@torch.no_grad()
def test_a_draft_model_that_was_changed_reads_anew(decoder):
    draft, request = network(seed=8), Request(prompts(1, least=40, most=40)[0], Sampling(max_tokens=30))
    engine = Engine(decoder, TOKENIZER, draft=(draft, TOKENIZER))
    expected, before = said(engine, [request]), engine.stats()
    draft.load_state_dict(decoder.state_dict())
    assert said(engine, [request]) == expected
    after = engine.stats()
    assert after.accepted_tokens - before.accepted_tokens == after.drafted_tokens - before.drafted_tokens > 9


def said(engine, asked):
    return [[(c.ids, c.text, c.finish) for c in answers] for answers in engine.run(asked)]


@pytest.mark.parametrize("name", ["ngram", "itself", "near", "another"])
def test_greedy_answers_are_the_same_token_for_token(decoder, name):
    kinds = [*KINDS, *(DRAWN if name == "ngram" else [])]  # what is guessed for certain leaves draws as they are
    asked = [Request(p, kinds[i % len(kinds)]) for i, p in enumerate([*prompts(16, 5), LOOP, LOOP])]
    engine = Engine(decoder, TOKENIZER, max_requests=5, draft=drafts(decoder)[name])
    plain = Engine(decoder, TOKENIZER, max_requests=5)
    for one, other in zip(engine.run(asked), plain.run(asked)):
        for mine, theirs in zip(one, other, strict=True):
            assert (mine.ids, mine.text, mine.finish) == (theirs.ids, theirs.text, theirs.finish)
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
            assert [list(row) for row in mine.logprobs or []] == [list(row) for row in theirs.logprobs or []]
    assert engine.stats().drafted_tokens > 0
    assert engine.pool.free == engine.pool.total


def test_samples_share_a_prompt_and_no_guesses(decoder):
    """The last token of a prompt alone is run, as the cache has the others: guesses behind it would be shared, too."""
    prompt = [*LOOP[:29], *LOOP[:4]]
    assert len(prompt) % BLOCK == 1
    other = Request(prompts(1, 4)[0], Sampling(max_tokens=24))
    for draft in ("ngram", (near(decoder, 0.02), TOKENIZER)):
        engine = Engine(decoder, TOKENIZER, draft=draft)
        for _ in range(2):
            *answers, (beside,) = engine.run([Request(prompt, Sampling(max_tokens=24, n=3)), other])
            assert {tuple(answer.ids) for answer in answers[0]} == {tuple(greedy(decoder, prompt, 24))}
            assert beside.ids == greedy(decoder, other.ids, 24)
        assert engine.stats().hit_tokens >= len(prompt) - 1
        longer = [*prompt, *greedy(decoder, prompt, 24)]  # nor does the cache keep what was guessed
        assert engine.run([Request(longer, Sampling(max_tokens=9))])[0][0].ids == greedy(decoder, longer, 9)


def test_a_network_drafts_perfectly_for_itself(decoder):
    engine = Engine(decoder, TOKENIZER, draft=(decoder, TOKENIZER))
    (answer,) = engine.run([Request(prompts(1, 3)[0], Sampling(40, min_tokens=40))])[0]
    assert len(answer.ids) == 40
    assert engine.stats().accepted_tokens == engine.stats().drafted_tokens > 25


def test_an_encoder_decoder_goes_by_ngrams(encoder_decoder):
    source, start = prompts(1, 1)[0], prompts(1, 2, most=4)[0]
    engine = Engine(encoder_decoder, TOKENIZER, draft="ngram")
    (answer,) = engine.run([Request(start * 3, Sampling(20), encoder_ids=source)])[0]
    assert answer.ids == greedy(encoder_decoder, start * 3, 20, source)


def test_repeated_text_takes_fewer_steps():
    """A bias makes the network repeat a cycle, as trained ones do in code and in quotations."""
    built = network(seed=2)

    def cycle(logits, ids, prompts):
        wanted = torch.full_like(logits, -1.0)
        wanted[0, LOOP[len(ids[0]) % 20]] = 1.0
        return wanted

    steps = {}
    for draft in (None, "ngram"):
        engine = Engine(built, TOKENIZER, draft=draft)
        handle = engine.submit(Request(LOOP[:30], Sampling(60, min_tokens=60), hooks=(cycle,)))
        steps[draft] = next(n for n in itertools.count(1) if not engine.step() or handle.done)
    assert steps["ngram"] * 4 < steps[None] == 60


def test_few_drafts_are_made_where_none_is_right(decoder):
    engine = Engine(decoder, TOKENIZER, draft=(network(seed=8), TOKENIZER))
    engine.run([Request(p, Sampling(60, min_tokens=60)) for p in prompts(4, 6)])
    assert engine.stats().accepted_tokens < 0.2 * engine.stats().drafted_tokens
    assert engine.stats().drafted_tokens < 4 * 60 * 0.5


@pytest.mark.parametrize("name", ["ngram", "near", "another"])
def test_answers_to_a_seed_do_not_depend_on_their_company(decoder, name):
    asked = [Request(p, replace(kind, seed=i)) for i, (p, kind) in enumerate(zip(prompts(8, 5), [*DRAWN, *DRAWN] * 2))]
    together = said(Engine(decoder, TOKENIZER, max_requests=4, draft=drafts(decoder)[name]), asked)
    alone = [said(Engine(decoder, TOKENIZER, draft=drafts(decoder)[name]), [request])[0] for request in asked]
    assert together == alone


def test_a_cache_that_is_too_small_for_drafts_gives_the_same(decoder):
    asked = [Request(p, Sampling(30, min_tokens=30)) for p in prompts(6, 7)]
    room = Room(tokens=160)
    wanted = said(Engine(decoder, TOKENIZER), asked)
    for draft in drafts(decoder).values():
        engine = Engine(decoder, TOKENIZER, room=room, draft=draft)
        assert said(engine, asked) == wanted
        assert engine.pool.free == engine.pool.total


def test_guides_hold_with_drafts(decoder):
    guide = Guide.regex("(one two three ){6}[ab]*")
    asked = [Request(LOOP, Sampling(90, temperature=t, seed=i, guide=guide)) for i, t in enumerate((0.0, 1.0))]
    (first, second) = said(Engine(decoder, TOKENIZER), asked)
    for name, draft in drafts(decoder).items():
        engine = Engine(decoder, TOKENIZER, draft=draft)
        (mine,), (drawn,) = said(engine, asked)
        assert [mine] == first
        assert drawn[1].startswith("one two three ")
        assert name != "ngram" or [drawn] == second
        assert engine.stats().accepted_tokens > 0 or name == "another"


# The distribution of answers


def chi_square(counts: torch.Tensor, wanted: torch.Tensor) -> float:
    """How likely counts this far off or farther are, cells of few expected counts taken together."""
    expected = wanted * counts.sum()
    small = expected < 8
    cells = torch.cat([counts[~small], counts[small].sum()[None]]).double()
    expected = torch.cat([expected[~small], expected[small].sum()[None]]).double()
    cells, expected = cells[expected > 0], expected[expected > 0]
    statistic = ((cells - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2, dtype=torch.float64), statistic / 2))


def test_what_is_accepted_or_drawn_instead_follows_the_target():
    generator = torch.Generator().manual_seed(0)
    target, odds = (one / one.sum() for one in torch.rand(2, 7, generator=generator) ** 2)
    drafts_ = torch.multinomial(odds, 60_000, replacement=True, generator=generator)
    rows = len(drafts_)
    accepted, rest = speculate(
        target.expand(rows, -1), odds.expand(rows, -1), drafts_, torch.rand(rows, generator=generator)
    )
    instead = torch.multinomial(rest, 1, generator=generator)[:, 0]
    counts = torch.bincount(torch.where(accepted, drafts_, instead), minlength=7)
    assert chi_square(counts, target) > 1e-3
    assert accepted.float().mean() == pytest.approx(float(torch.minimum(target, odds).sum()), abs=0.01)


SMALL = TextTokenizer.from_json(
    '{"version":"1.0","added_tokens":[{"id":0,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,'
    '"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":'
    '{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},"model":{"type":"BPE","dropout":null,'
    '"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,'
    '"ignore_merges":false,"vocab":{"</s>":0,"a":1,"b":2,"c":3,"d":4},"merges":[]}}'
)
DIALS = {
    "plain": {},
    "flat": {"temperature": 1.6, "presence_penalty": 1.0, "repetition_penalty": 1.3},
    "cut": {"temperature": 0.9, "top_k": 3, "logit_bias": {2: 1.5}},
    "nucleus": {"top_p": 0.8, "frequency_penalty": -0.5},
    "guided": {"guide": Guide.regex("(a|bc?|d){0,3}")},
}


LANGUAGE = {
    tuple(itertools.chain(*parts))
    for n in range(4)
    for parts in itertools.product([(1,), (2,), (2, 3), (4,)], repeat=n)
}


@pytest.mark.parametrize("dials", DIALS)
@pytest.mark.parametrize("noise", [0.05, None])
def test_answers_keep_their_distribution(dials, noise):
    """All answers of up to four tokens, as often as the definitions of the dials say."""
    built = network(seed=4, vocab_size=5, context=32)
    other = near(built, noise) if noise else network(seed=9, vocab_size=5, context=32)
    prompt, words = [1, 2, 3], {"max_tokens": 4, "temperature": 1.0, **DIALS[dials]}
    wanted = exact(built, prompt, words)
    engine = Engine(built, SMALL, max_requests=128, draft=(other, SMALL))
    answers = engine.run([Request(prompt, Sampling(**words, n=2000, seed=3))])[0]
    places = {ids: place for place, ids in enumerate(wanted)}
    counts = torch.bincount(torch.tensor([places[tuple(answer.ids)] for answer in answers]), minlength=len(wanted))
    assert chi_square(counts, torch.tensor(list(wanted.values()))) > 1e-3
    assert 0 < engine.stats().accepted_tokens < engine.stats().drafted_tokens


def exact(built, prompt, words, written=(), probability=1.0) -> dict[tuple[int, ...], float]:
    """How probable each answer is that begins with `written`."""
    found: dict[tuple[int, ...], float] = {}
    for i, share in enumerate(shares(next_logits(built, [*prompt, *written]).tolist(), prompt, written, words)):
        ids = (*written, i) if i else written
        if share > 0:
            done = not i or len(ids) == words["max_tokens"]
            more = {ids: probability * share} if done else exact(built, prompt, words, ids, probability * share)
            found = {key: found.get(key, 0.0) + more.get(key, 0.0) for key in {**found, **more}}
    return found


def shares(logits, prompt, written, words) -> list[float]:
    """The probability of each next token, by the dials' definitions."""
    for i, value in enumerate(logits):
        penalty = words.get("repetition_penalty", 1.0) if i in prompt or i in written else 1.0
        value = value / penalty if value > 0 else value * penalty
        value -= words.get("presence_penalty", 0.0) * (i in written)
        value -= words.get("frequency_penalty", 0.0) * written.count(i)
        logits[i] = value + words.get("logit_bias", {}).get(i, 0.0)
        ids = (*written, i) if i else written
        if "guide" in words and not any(ids == word[: len(ids)] if i else ids == word for word in LANGUAGE):
            logits[i] = -math.inf
    mass = [math.exp(value / words["temperature"]) for value in logits]
    if top_k := words.get("top_k"):
        mass = [m if m >= sorted(mass)[-top_k] else 0.0 for m in mass]
    kept, whole = 0.0, sum(mass)
    for i in sorted(range(len(mass)), key=lambda i: -mass[i]):
        kept, mass[i] = kept + mass[i], mass[i] if kept < words.get("top_p", 1.0) * whole else 0.0
    return [m / sum(mass) for m in mass]


@pytest.mark.parametrize(
    ("draft", "sentence"),
    [
        ("trigram", "must be 'ngram' or a model"),
        ((network(), TextTokenizer.characters(["abc"])), "tokenizer is not the model's own"),
        ((network("transformer"), TOKENIZER), "has an encoder"),
    ],
)
def test_what_cannot_draft_is_refused(decoder, draft, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Engine(decoder, TOKENIZER, draft=draft)
