"""How likely continuations are: weighed by the engine's steps beside what is written, against each token by itself."""

import pytest

from polytask.errors import ConfigError
from polytask.inference.blocks import BLOCK
from polytask.inference.engine import Engine
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from tests.inference.networks import END, TOKENIZER, next_logits, prompts


def test_likelihoods_are_sums_of_each_step(decoder, encoder_decoder):
    for built, sources in ((decoder, [None] * 7), (encoder_decoder, prompts(7, 3))):
        pairs = list(zip(prompts(7, 1), [p[1:] for p in prompts(7, 2, most=9)], sources))
        asked = [Request.scoring(prompt, [ids], encoder_ids=source) for prompt, ids, source in pairs]
        for (prompt, continuation, source), (score,) in zip(pairs, Engine(built, TOKENIZER).score(asked)):
            steps = [next_logits(built, prompt + continuation[:i], source) for i in range(len(continuation))]
            total = sum(float(logits.log_softmax(-1)[i]) for logits, i in zip(steps, continuation))
            assert score.logprob == pytest.approx(total, abs=1e-4)
            assert score.tokens == len(continuation)
            assert score.greedy == all(int(logits.argmax()) == i for logits, i in zip(steps, continuation))


@pytest.mark.parametrize(("blocks", "chunk"), [(None, None), (None, 16), (8, 20)])
def test_likelihoods_are_weighed_beside_what_is_written(decoder, blocks, chunk):
    """One prompt of many continuations, prompts in parts, and blocks that run out on the way."""
    shared = prompts(1, 5, least=50, most=60)[0]
    continuations = [p[:n] for p, n in zip(prompts(9, 6, least=10, most=12), (1, 2, 9, 1, 5, 3, 8, 1, 7))]
    asked = [
        Request.scoring(shared, continuations, logprobs=1),
        *(Request(p, Sampling(max_tokens=20, min_tokens=20)) for p in prompts(3, 8, least=20, most=40)),
        Request.scoring(shared[:17], continuations[2:3]),
    ]
    room = None if blocks is None else Room(tokens=blocks * BLOCK)
    engine = Engine(decoder, TOKENIZER, max_requests=5, room=room, chunk=chunk)
    first, *written, last = engine.run(asked)
    beside = Engine(decoder, TOKENIZER).run(asked[1:4])
    assert [[one.ids for one in each] for each in written] == [[one.ids for one in each] for each in beside]
    scored = [*((shared, c, one) for c, one in zip(continuations, first)), (shared[:17], continuations[2], last[0])]
    for prompt, wanted, one in scored:
        steps = [next_logits(decoder, prompt + wanted[:i]).log_softmax(-1) for i in range(len(wanted))]
        assert one.ids == wanted
        assert one.logprob == pytest.approx(sum(float(step[i]) for step, i in zip(steps, wanted)), abs=1e-4)
        assert one.greedy == all(int(step.argmax()) == i for step, i in zip(steps, wanted))
    assert [list(place)[-1] for place in first[2].logprobs or []] == continuations[2]
    assert engine.pool.free == engine.pool.total
    assert not blocks or engine.scheduler.preemptions


def test_a_prompt_of_many_continuations_is_read_once(decoder):
    engine, prompt = Engine(decoder, TOKENIZER), prompts(1, 5, least=60, most=60)[0]
    engine.score([Request.scoring(prompt, [[i, END] for i in range(65, 90)])])
    assert engine.stats().run_tokens < len(prompt) + 25 * (BLOCK + 2)


def test_scoring_that_is_cancelled_leaves_nothing(decoder):
    engine, prompt = Engine(decoder, TOKENIZER, max_requests=2, chunk=16), prompts(1, 5, least=60, most=60)[0]
    handle = engine.submit(Request.scoring(prompt, [[i, END] for i in range(65, 90)]))
    engine.step()
    handle.cancel()
    assert {one.finish for one in handle.result()} == {"cancelled"}
    assert engine.pool.free == engine.pool.total
    assert not engine.busy


def test_what_was_scored_is_told_where_others_fail(decoder, monkeypatch):
    """In one step, of which the choice of an id fails."""
    engine, prompt = Engine(decoder, TOKENIZER), prompts(1, 5, least=20)[0]
    scored = engine.submit(Request.scoring(prompt, [[65, END]]))
    written = engine.submit(Request(prompt, Sampling(max_tokens=4)))

    def fails(*_):
        raise ValueError("no choice")

    monkeypatch.setattr(engine.sampler, "choose", fails)
    events = engine.step()
    assert {(event.handle is scored, event.finish) for event in events} == {(True, "stop"), (False, "error")}
    assert scored.result()[0].tokens == 2
    with pytest.raises(ValueError, match="no choice"):
        written.result()


def test_many_continuations_hold_nobody_up_for_long_either(decoder, monkeypatch):
    now, prompt = [0.0], prompts(1, 5, least=20)[0]
    engine = Engine(decoder, TOKENIZER, max_requests=2)
    monkeypatch.setattr(engine.scheduler, "clock", lambda: now[0])
    many = engine.submit(Request.scoring(prompt, [[i, j, END] for i in range(65, 85) for j in range(65, 75)]))
    engine.step()
    now[0] = 31.0  # more than anybody's patience
    late = engine.submit(Request(prompt[::-1], Sampling(max_tokens=2)))
    for _ in range(10):
        engine.step()
    assert late.done
    assert not many.done
    assert len(many.result()) == 200


def test_what_an_encoder_has_read_costs_no_step_again(encoder_decoder):
    engine = Engine(encoder_decoder, TOKENIZER, chunk=64)
    source, prompt = prompts(1, 3, least=60, most=60)[0], prompts(1, 5)[0]
    handle = engine.submit(Request.scoring(prompt, [[i, END] for i in range(65, 95)], encoder_ids=source))
    steps = 0
    while not handle.done:
        engine.step()
        steps += 1
    assert steps < 15
    assert handle.result()[-1].cached >= len(source)


@pytest.mark.parametrize("continuations", [[[]], [[65] * 1000], [[-1]]])
def test_continuations_that_cannot_be_scored(decoder, continuations):
    with pytest.raises(ConfigError, match=r"ontinuation|context"):
        Engine(decoder, TOKENIZER).score([Request.scoring([65, 66], continuations)])
