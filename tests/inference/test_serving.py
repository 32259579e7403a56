"""Requests that come, go and compete: answers must be those of each alone, and everything must be free in the end."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import ConfigError, TooLong
from polytask.inference import blocks, scheduler
from polytask.inference.blocks import BLOCK
from polytask.inference.engine import Engine
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling
from polytask.inference.scheduler import LEAST
from polytask.inference.sequence import Request
from tests.inference.networks import END, TOKENIZER, greedy, network, next_logits, prompts

MOST_TOKENS = 40
KINDS = {
    "decoder": ("generalist", {}),
    "two-sided": ("generalist", {"band": 5}),
    "encoder-decoder": ("transformer", {}),
    "buckets": ("glam", {}),
}


class Case:
    """A network with prompts that share beginnings, and what greedy decoding gives for each."""

    def __init__(self, kind: str):
        system, words = KINDS[kind]
        self.network = network(system, seed=6, **words)
        first, second = prompts(2, 20, least=40, most=40)
        tails = prompts(6, 21, least=1, most=12)
        self.prompts = [first[: 16 + 8 * i] + tail[1:] for i, tail in enumerate(tails[:4])] + [
            second,
            tails[4],
            first[:32],
        ]
        reads = kind == "encoder-decoder"
        self.sources = [prompts(1, 30 + i % 2)[0] if reads else None for i in range(len(self.prompts))]
        self.prefixes = [(i % 3) * 9 if kind == "two-sided" else 0 for i in range(len(self.prompts))]
        self.prefixes = [min(n, len(p)) for n, p in zip(self.prefixes, self.prompts)]
        self._answers: dict[int, list[int]] = {}

    def request(self, i: int, tokens: int, priority: int = 0, n: int = 1, **words) -> Request:
        sampling = Sampling(tokens, n=n, **words)
        return Request(self.prompts[i], sampling, self.sources[i], prefix=self.prefixes[i], priority=priority)

    def answer(self, i: int, tokens: int) -> list[int]:
        if i not in self._answers:
            self._answers[i] = greedy(self.network, self.prompts[i], MOST_TOKENS, self.sources[i], self.prefixes[i])
        return self._answers[i][:tokens]


CASES: dict[str, Case] = {}


def case(kind: str) -> Case:
    if kind not in CASES:
        CASES[kind] = Case(kind)
    return CASES[kind]


def everything_is_free(engine: Engine) -> bool:
    left = engine.scheduler
    return (
        engine.pool.free == engine.pool.total and not engine.pool.references and not engine.busy
        and sorted(left.slots) == list(range(engine.max_requests)) and not left.running and not left.waiting
    )  # fmt: skip


ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 6), st.integers(1, MOST_TOKENS), st.integers(-1, 2), st.integers(1, 3)),
    st.tuples(st.just("steps"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(1, 40)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(KINDS)), st.lists(ACTIONS, min_size=3, max_size=14), st.integers(9, 24),
    st.sampled_from([1, 2, 5]), st.sampled_from([3, 16, 50, None]),
)  # fmt: skip
def test_any_history_gives_what_each_alone_gives(kind, history, total, slots, chunk):
    """Few blocks make requests give way and contents go; beginnings that are shared are found again."""
    own, now, handles = case(kind), [0.0], []
    engine = Engine(own.network, TOKENIZER, max_requests=slots, room=Room(tokens=total * BLOCK), chunk=chunk)
    engine.scheduler.clock = lambda: now[0]
    for name, number, *rest in history:
        if name == "submit":
            handles.append((number, rest[0], engine.submit(own.request(number, *rest))))
        elif name == "steps":
            for _ in range(number):
                engine.step()
        elif name == "wait":
            now[0] += number
        elif handles:
            handles[number % len(handles)][2].cancel()
    for _ in range(4000):
        if not engine.busy:
            break
        engine.step()
    assert everything_is_free(engine)
    for number, tokens, handle in handles:
        wanted = own.answer(number, tokens)
        for completion in handle.result():
            if completion.finish == "cancelled":
                assert completion.ids == wanted[: len(completion.ids)]
            else:
                assert completion.ids == wanted


def test_who_gives_way_keeps_what_it_wrote():
    own = case("decoder")
    engine = Engine(own.network, TOKENIZER, room=Room(tokens=12 * BLOCK), chunk=64)
    asked = [own.request(i % 5, MOST_TOKENS, min_tokens=MOST_TOKENS) for i in range(8)]
    handles = [engine.submit(request) for request in asked]
    written = {}
    while engine.busy:
        for event in engine.step():
            written[event.handle] = written.get(event.handle, "") + event.text
    stats = engine.stats()
    assert stats.preemptions > 0
    alone = Engine(own.network, TOKENIZER)
    for request, handle in zip(asked, handles):
        (completion,) = handle.result()
        ((wanted,),) = alone.run([request])
        assert completion.ids == wanted.ids
        assert completion.text == written[handle] == wanted.text, "nothing is said twice"
    assert everything_is_free(engine)


@pytest.mark.parametrize("words", [{"n": 3}, {"beam_size": 3, "n": 2}, {"repetition_penalty": 1.3, "n": 2}])
def test_samples_and_beams_that_give_way_answer_the_same(words):
    own = case("decoder")
    sampling = {"temperature": 0.9, "seed": 3} if "beam_size" not in words else {}
    asked = [own.request(i, 40, **words, **sampling, min_tokens=40) for i in (0, 4, 1, 5)]
    wanted = [[c.ids for c in Engine(own.network, TOKENIZER).run([request])[0]] for request in asked]
    engine = Engine(own.network, TOKENIZER, room=Room(tokens=18 * BLOCK), chunk=20)
    assert [[c.ids for c in answers] for answers in engine.run(asked)] == wanted
    assert engine.stats().preemptions > 0
    assert everything_is_free(engine)


@pytest.mark.parametrize("chunk", [300, 4096, None])
@pytest.mark.parametrize("together", [True, False])
def test_a_long_beginning_is_read_once(chunk, together):
    """Eight requests with 1,000 tokens in common: 992 of them, whole blocks, are run for the first one alone."""
    built = network(seed=1, context=1100)
    (first,) = prompts(1, 5, least=999, most=999)
    asked = [Request(first + tail[1:], Sampling(1, min_tokens=1)) for tail in prompts(8, 6, least=9, most=9)]
    engine = Engine(built, TOKENIZER, chunk=chunk)
    if together:
        answers = engine.run(asked)
    else:
        answers = [engine.run([request])[0] for request in asked]
    assert engine.stats().run_tokens == 1009 + 7 * (1009 - 992)
    assert engine.stats().hit_tokens == 7 * 992
    for request, (answer,) in zip(asked[:2], answers):
        assert answer.ids == greedy(built, request.ids, 1)
    (samples,) = engine.run([Request([*first, 200, 201], Sampling(3, min_tokens=3, n=4, temperature=1.0, seed=1))])
    assert len({tuple(sample.ids) for sample in samples}) > 1
    assert engine.stats().run_tokens == 1009 + 7 * 17 + (1002 - 992) + 4 * 2


def test_a_conversation_goes_on_without_being_read_again(decoder):
    engine = Engine(decoder, TOKENIZER)
    (prompt,) = prompts(1, 8, least=30, most=30)
    ((answer,),) = engine.run([Request(prompt, Sampling(20, min_tokens=20))])
    before, turn = engine.stats().run_tokens, [*prompt, *answer.ids, 200, 201, 202]
    assert engine.run([Request(turn, Sampling(4))])[0][0].ids == greedy(decoder, turn, 4)
    assert engine.stats().run_tokens - before <= len(turn) - 3 * BLOCK + 4


def test_the_same_text_is_encoded_once(encoder_decoder, monkeypatch):
    engine, encoded = Engine(encoder_decoder, TOKENIZER), []
    encode = encoder_decoder.encode
    monkeypatch.setattr(
        encoder_decoder, "encode", lambda ids, context: encoded.append(len(ids)) or encode(ids, context)
    )
    (source, other), starts = prompts(2, 3, least=20), prompts(3, 4, most=4)
    requests = [Request(start, Sampling(6), encoder_ids=source) for start in starts]
    answers = engine.run(requests) + engine.run([requests[0], Request(starts[0], Sampling(6), encoder_ids=other)])
    assert encoded == [1, 1]
    wanted = [(start, source) for start in starts] + [(starts[0], source), (starts[0], other)]
    for (answer,), (start, read) in zip(answers, wanted):
        assert answer.ids == greedy(encoder_decoder, start, 6, read)


def test_the_same_tokens_after_something_else_are_read_again(encoder_decoder):
    """What an encoder read and what is seen from both sides decide keys and values too."""
    own, (ids,) = case("two-sided"), prompts(1, 12, least=47, most=47)
    for built, asked in (
        (own.network, [Request(ids, Sampling(8), prefix=n) for n in (0, 30, 40)]),
        (encoder_decoder, [Request(ids, Sampling(8), encoder_ids=source) for source in prompts(3, 13)]),
    ):
        engine = Engine(built, TOKENIZER)
        for request in asked:
            ((answer,),) = engine.run([request])
            assert answer.ids == greedy(built, ids, 8, request.encoder_ids, request.prefix)
        assert engine.stats().hit_tokens == 0
        engine.run(asked)
        assert engine.stats().hit_tokens == 3 * 2 * BLOCK


def test_a_prompt_that_is_all_known_is_still_asked(decoder):
    engine, (ids,) = Engine(decoder, TOKENIZER), prompts(1, 14, least=47, most=47)
    wanted = greedy(decoder, ids, 8)
    assert len(ids) == 3 * BLOCK
    assert [engine.run([Request(ids, Sampling(8))])[0][0].ids for _ in range(3)] == [wanted] * 3
    assert engine.stats().hit_tokens == 2 * 2 * BLOCK


def test_a_collision_of_hashes_does_no_harm(monkeypatch):
    """With one hash for all contents, those of another text are still not taken."""

    class Collides(blocks.Name):
        def __hash__(self):
            return 1

    monkeypatch.setattr(blocks, "Name", Collides)
    own = case("decoder")
    engine = Engine(own.network, TOKENIZER, chunk=16)
    for _ in range(2):
        for i, (answer,) in enumerate(engine.run([own.request(i, 8) for i in range(7)])):
            assert answer.ids == own.answer(i, 8)
    assert engine.stats().hit_tokens > 0


def test_drafts_are_run_with_the_last_token_and_may_be_turned_back(decoder):
    engine, (prompt,) = Engine(decoder, TOKENIZER), prompts(1, 9, least=30, most=30)
    engine.runner.steps = None  # which would write all of it by then
    handle = engine.submit(Request(prompt, Sampling(20, min_tokens=20)))
    for _ in range(4):
        engine.step()
    (sequence,) = engine.scheduler.running[0].sequences
    sequence.drafts = drafts = [100, 101, 102]
    plan = engine.scheduler.plan()
    assert plan == {sequence: 4}
    with torch.no_grad():
        logits = engine.runner.run(plan)
    engine.scheduler.ran(plan, 0.1)
    assert (logits.sequences, logits.counts) == ([sequence], [4])
    wanted = torch.stack([next_logits(decoder, sequence.ids + drafts[:n]) for n in range(4)])
    torch.testing.assert_close(logits.rows, wanted, rtol=1e-4, atol=1e-4)
    sequence.keep(len(sequence.ids) - 1)
    assert handle.result()[0].ids == Engine(decoder, TOKENIZER).run([handle.request])[0][0].ids
    assert everything_is_free(engine)


# Who comes first


def finished(engine: Engine, names: dict) -> list[str]:
    order = []
    while engine.busy:
        order += [names[event.handle] for event in engine.step() if event.finish]
    return order


def test_lower_priorities_run_first_and_one_priority_in_order(decoder):
    engine = Engine(decoder, TOKENIZER, max_requests=1)
    asked = [("a", 1), ("b", 0), ("c", 1), ("d", -1), ("e", 0)]
    names = {engine.submit(Request(p, Sampling(2), priority=rank)): name for (name, rank), p in zip(asked, prompts(5))}
    assert finished(engine, names) == ["d", "b", "e", "a", "c"]


def test_who_has_waited_long_is_next(decoder):
    """Others of higher priority come without end."""
    engine, now = Engine(decoder, TOKENIZER, max_requests=1), [0.0]
    engine.scheduler.clock = lambda: now[0]
    patient = engine.submit(Request(prompts(1)[0], Sampling(2), priority=9))
    for _ in range(200):
        engine.submit(Request(prompts(1, 1)[0], Sampling(2)))
        now[0] += 1.0
        engine.step()
        if patient.done:
            break
    assert patient.done
    assert now[0] > scheduler.PATIENCE / 2, "until then its priority counts"


def test_a_long_prompt_does_not_stop_the_answers_of_others(decoder):
    engine = Engine(decoder, TOKENIZER, chunk=LEAST)
    first = engine.submit(Request(prompts(1)[0], Sampling(30, min_tokens=30)))
    engine.step()
    engine.submit(Request(prompts(1, 2, least=90, most=90)[0], Sampling(1)))
    (sequence,) = engine.scheduler.running[0].sequences
    for _ in range(5):
        before = sequence.produced
        engine.step()
        assert sequence.produced == before + 1
    assert not first.done


# What goes wrong


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 9])
@pytest.mark.parametrize("words", [{}, {"n": 3}, {"beam_size": 3}])
def test_cancelling_frees_everything_in_any_state(decoder, steps, words):
    engine = Engine(decoder, TOKENIZER, max_requests=4, room=Room(tokens=18 * BLOCK), chunk=20)
    asked = [Request(p, Sampling(20, min_tokens=20, **words)) for p in prompts(4, 3, least=20, most=40)]
    handles = [engine.submit(request) for request in asked]
    for _ in range(steps):
        engine.step()
    for handle in handles:
        handle.cancel()
    assert everything_is_free(engine)
    assert all(completion.finish == "cancelled" for handle in handles for completion in handle.result())


@pytest.mark.parametrize("words", [{}, {"n": 2}, {"beam_size": 2}])
def test_a_hook_that_fails_ends_its_own_request(decoder, words):
    def broken(logits, ids, _):
        if len(ids[0]) > len(asked[1]) + 3:
            raise RuntimeError("no")
        return logits

    engine, asked = Engine(decoder, TOKENIZER), prompts(3)
    hooks = [(), (broken,), ()]
    handles = [
        engine.submit(Request(p, Sampling(9, min_tokens=9, **(words if h else {})), hooks=h))
        for p, h in zip(asked, hooks)
    ]
    events = [event for _ in range(20) for event in engine.step()]
    with pytest.raises(RuntimeError, match="no"):
        handles[1].result()
    assert [event.finish for event in events if event.handle is handles[1] and event.finish == "error"]
    alone = Engine(decoder, TOKENIZER)
    for i in (0, 2):
        assert handles[i].result()[0].ids == alone.run([handles[i].request])[0][0].ids
    assert everything_is_free(engine)


def test_a_pass_that_fails_ends_those_that_it_was_for(decoder, monkeypatch):
    """Nothing of it is found in the cache afterwards."""
    engine, asked = Engine(decoder, TOKENIZER, max_requests=2), prompts(4, 2, least=40, most=60)
    handles = [engine.submit(Request(p, Sampling(5))) for p in asked]
    run, failures = engine.runner.run, [RuntimeError("out of memory")]
    monkeypatch.setattr(engine.runner, "run", lambda plan: run(plan) if not failures else broken(failures.pop()))

    def broken(error):
        raise error

    events = engine.step()
    assert [(event.handle, event.finish) for event in events] == [(handles[0], "error"), (handles[1], "error")]
    assert [handle.result()[0].ids for handle in handles[2:]] == [greedy(decoder, p, 5) for p in asked[2:]]
    with pytest.raises(RuntimeError, match="out of memory"):
        handles[0].result()
    assert engine.run([handles[0].request])[0][0].ids == greedy(decoder, asked[0], 5)
    assert engine.stats().hit_tokens == 0
    assert everything_is_free(engine)


def test_what_can_never_fit_is_refused_and_samples_take_turns(decoder):
    engine = Engine(decoder, TOKENIZER, room=Room(tokens=4 * BLOCK))
    prompt = prompts(1, 1, least=30, most=30)[0]
    with pytest.raises(ConfigError, match="tokens of key/value cache, and there is room for 64"):
        engine.submit(Request(prompt, Sampling(8, beam_size=2, n=2)))
    with pytest.raises(TooLong, match="the context holds 64"):
        engine.submit(Request(prompts(1, 1, least=70, most=70)[0], Sampling(8)))
    (answers,) = engine.run([Request(prompt, Sampling(30, n=3))])
    assert {tuple(answer.ids) for answer in answers} == {tuple(greedy(decoder, prompt, 30))}
    assert everything_is_free(engine)


@pytest.mark.parametrize("reads", [False, True])
def test_an_answer_may_fill_a_cache_that_is_smaller_than_the_context(decoder, reads):
    built = network("transformer", context=96) if reads else decoder
    engine = Engine(built, TOKENIZER, room=Room(tokens=4 * BLOCK))
    prompt, read = prompts(2, 3, least=18, most=18)
    asked = Request(prompt, Sampling(1000, logit_bias={END: -100.0}), encoder_ids=read if reads else None)
    (answer,) = engine.run([asked])[0]
    most = (2 if reads else 4) * BLOCK - len(prompt)  # a text to read has blocks of its own
    assert (len(answer.ids), answer.finish) == (most, "length")
    assert engine.length == 4 * BLOCK
    assert everything_is_free(engine)


def test_a_sample_that_fails_beside_one_that_ends_fails_its_request_alone(decoder):
    """Samples that do not fit the cache at once are groups of their own, which may run together all the same."""
    prompt, calls = prompts(1, 2, least=15, most=15)[0], list[int]()

    def hook(scores, texts, _):
        (ids,) = texts
        calls.append(len(ids))
        if calls.count(len(ids)) == 2 and len(ids) == len(prompt) + 3:
            raise RuntimeError("broken")
        end = len(ids) == len(prompt) + 3
        return scores.index_fill(1, torch.tensor([END]), torch.inf if end else -torch.inf)

    engine = Engine(decoder, TOKENIZER, room=Room(tokens=5 * BLOCK))
    other = engine.submit(Request(prompts(1, 5, least=9, most=9)[0], Sampling(5)))
    handle = engine.submit(Request(prompt, Sampling(30, n=2, frequency_penalty=0.5), hooks=(hook,)))
    with pytest.raises(RuntimeError, match="broken"):
        handle.result()
    assert other.result()[0].ids == greedy(decoder, other.request.ids, 5)
    assert everything_is_free(engine)


def test_requests_that_have_ended_are_not_kept(decoder):
    """Groups of one request rank as if each had come later, so they stand behind all that comes next."""
    engine, prompt = Engine(decoder, TOKENIZER, max_requests=2), prompts(1)[0]
    handle = engine.submit(Request(prompt, Sampling(1, n=150)))
    handle.result()
    ended = weakref.ref(handle)
    del handle
    gc.collect()
    assert ended() is None


def test_the_cache_is_as_large_as_was_said(decoder):
    each = 2 * 2 * 32 * 4  # keys and values, layers, width, bytes
    for room, tokens in (
        (Room(), 32 * 96), (Room(tokens=100), 96), (Room(bytes=each * 70), 64), (Room(tokens=64, bytes=each * 999), 64),
    ):  # fmt: skip
        stats = Engine(decoder, TOKENIZER, room=room).stats()
        assert stats.cache_tokens == tokens
        assert stats.cache_bytes == tokens * each
        assert stats.total_blocks == stats.free_blocks == tokens // BLOCK
        assert stats.weight_bytes == 4 * sum(p.numel() for p in decoder.parameters())
    with pytest.raises(ConfigError, match="room for none"):
        Engine(decoder, TOKENIZER, room=Room(bytes=100))
    with pytest.raises(ConfigError, match="share=2"):
        Room(share=2)
