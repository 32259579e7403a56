"""What the dials of a request do, against the network read anew, in any company."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import ConfigError
from polytask.inference import sampling
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from tests.inference.networks import END, TOKENIZER, allowed, next_logits, prompts


def test_biases_are_added_to_logits(decoder, engine):
    prompt, bias = prompts(1, 21)[0], {70: 3.5, 81: -100, 90: 2.0, END: -100}
    ((answer,),) = engine.run([Request(prompt, Sampling(12, logit_bias=bias, frequency_penalty=0.5))])
    written: list[int] = []
    for _ in range(12):
        logits = allowed(next_logits(decoder, prompt + written))
        for i in set(written):
            logits[i] -= 0.5 * written.count(i)
        for i, value in bias.items():
            logits[i] += value
        written.append(int(logits.argmax()))
    assert answer.ids == written
    assert END not in written


def test_a_bias_bans_and_forces_tokens(engine):
    (forced,) = engine.run([Request(p, Sampling(5, temperature=1, logit_bias={77: 100})) for p in prompts(1, 2)])[0]
    assert forced.ids == [77] * 5
    never = sorted(TOKENIZER.special.values())[3]  # what a prompt alone may hold cannot be forced
    (answer,) = engine.run([Request(p, Sampling(5, logit_bias={never: 100})) for p in prompts(1, 2)])[0]
    assert never not in answer.ids


def test_the_best_of_many_come_back_in_order(decoder):
    engine, prompt = Engine(decoder, TOKENIZER, max_requests=4), prompts(1, 22)[0]
    dials = {"max_tokens": 14, "temperature": 1.0, "seed": 3}
    everything = engine.run([Request(prompt, Sampling(**dials, n=9))])[0]
    means = {}
    for answer in everything:
        ids = [*answer.ids, END] if len(answer.ids) < 14 else answer.ids
        steps = [float(next_logits(decoder, prompt + ids[:i]).log_softmax(-1)[t]) for i, t in enumerate(ids)]
        means[tuple(answer.ids)] = sum(steps) / len(steps)
        assert answer.mean == pytest.approx(means[tuple(answer.ids)], abs=1e-4)
    handle = engine.submit(Request(prompt, Sampling(**dials, n=3, best_of=9)))
    pieces = "".join(handle)
    best = handle.result()
    assert [tuple(c.ids) for c in best] == sorted(means, key=lambda ids: -means[ids])[:3]
    assert pieces == best[0].text
    assert engine.run([Request(prompt, Sampling(8, n=2))])[0][0].ids  # nothing is left behind


def test_the_best_of_a_cancelled_request_are_what_there_was(decoder):
    engine, prompt = Engine(decoder, TOKENIZER, max_requests=3), prompts(1, 23)[0]
    handle = engine.submit(Request(prompt, Sampling(30, temperature=1.0, seed=1, min_tokens=30, n=2, best_of=7)))
    for _ in range(5):
        engine.step()
    handle.cancel()
    assert [c.finish for c in handle.result()] == ["cancelled"] * 2


def test_log_probabilities_of_prompts(decoder, engine):
    asked = prompts(4, 24, least=2)
    for ids, (score,) in zip(asked, engine.score([Request.scoring(ids[:1], [ids[1:]], logprobs=2) for ids in asked])):
        assert score.logprobs is not None
        assert len(score.logprobs) == len(ids) - 1
        for place, given_ in enumerate(score.logprobs, 1):
            wanted = next_logits(decoder, ids[:place]).log_softmax(-1)
            best = dict(zip(*(t.tolist() for t in reversed(wanted.topk(2)))))
            assert given_ == pytest.approx(best | {ids[place]: float(wanted[ids[place]])}, abs=1e-4)
        assert sum(given_[i] for given_, i in zip(score.logprobs, ids[1:])) == pytest.approx(score.logprob, abs=1e-4)


DIALS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.5, 1.3]),
        "top_k": st.sampled_from([0, 1, 7]),
        "top_p": st.sampled_from([0.3, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "repetition_penalty": st.sampled_from([0.8, 1.5]),
        "presence_penalty": st.sampled_from([-0.5, 1.0]),
        "frequency_penalty": st.sampled_from([-0.2, 0.7]),
        "logit_bias": st.dictionaries(st.integers(60, 120), st.floats(-9, 9), max_size=3),
        "min_tokens": st.integers(0, 6),
        "stop": st.just(("a", "\u00e9")),
        "n": st.integers(1, 3),
        "logprobs": st.integers(0, 3),
    },
)


def test_a_large_top_k_keeps_as_many_beside_a_request_without(decoder, monkeypatch):
    """More tokens than are ranked at first where another request takes all."""
    monkeypatch.setattr(sampling, "RANKED", 4)
    asked = [Request(p, Sampling(30, temperature=2.0, top_k=k, seed=3)) for p, k in zip(prompts(2, 26), (60, 0))]

    def first(requests):
        engine = Engine(decoder, TOKENIZER)
        engine.runner.steps = None  # the library's own steps rank otherwise
        return engine.run(requests)[0][0].ids

    assert first(asked) == first(asked[:1])


@settings(max_examples=20, deadline=None)
@given(st.lists(DIALS, min_size=2, max_size=6))
def test_a_request_is_answered_alike_in_any_company(decoder, mix):
    asked = [Request(p, Sampling(8, seed=i, **dials)) for i, (p, dials) in enumerate(zip(prompts(len(mix), 25), mix))]
    together = Engine(decoder, TOKENIZER, max_requests=5).run(asked)
    engine = Engine(decoder, TOKENIZER)
    for request, answers in zip(asked, together):
        for one, other in zip(answers, engine.run([request])[0], strict=True):
            assert (one.ids, one.text, one.finish) == (other.ids, other.text, other.finish)
            assert [list(row) for row in one.logprobs or []] == [list(row) for row in other.logprobs or []]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"logit_bias": {-1: 2}}, "logit_bias"),
        ({"logit_bias": {3: 101}}, "between -100 and 100"),
        ({"logit_bias": [3]}, "must map ids"),
        ({"logit_bias": {"3": 1}}, "whole number"),
        ({"n": 3, "best_of": 2}, "best_of=2"),
        ({"best_of": 3, "beam_size": 2}, "leave best_of out"),
    ],
)
def test_dials_that_make_no_sense_are_named(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Sampling(**words)


def test_a_bias_of_an_unknown_id_is_refused(engine):
    with pytest.raises(ConfigError, match="names the id 5000"):
        engine.submit(Request([5], Sampling(logit_bias={5000: 1})))


def test_equal_dials_are_equal_values():
    assert Sampling(logit_bias={1: 2}) == Sampling(logit_bias={1: 2.0})
    assert hash(Sampling(logit_bias={1: 2})) == hash(Sampling(logit_bias={1: 2.0}))
