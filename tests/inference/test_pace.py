"""How many tokens a step has."""

import pytest

from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.scheduler import ALONE, FIRST, LEAST, MOST, PAUSE, Pace
from polytask.inference.sequence import Request
from tests.inference.networks import TOKENIZER, network, prompts


def test_the_tokens_of_a_step_follow_the_speed_of_the_network():
    for rate in (150.0, 4_000.0, 1e6):
        pace = Pace()
        for _ in range(30):
            pace.note(pace.tokens, 0.002 + pace.tokens / rate)
        assert pace.tokens == pytest.approx(min(max((PAUSE - 0.002) * rate, LEAST), MOST), rel=0.05)
    assert Pace(chunk=7).tokens == 7


def test_one_prompt_alone_is_read_in_longer_steps():
    pace, fixed = Pace(), Pace(chunk=7)
    assert pace.budget(alone=True) == FIRST  # as long as nobody knows how slow the network is
    for one in (pace, fixed):
        one.note(100, 1.0)
    assert pace.budget(alone=True) == ALONE * pace.budget(alone=False) > 0
    assert fixed.budget(alone=True) == 7
    engine = Engine(network(context=500), TOKENIZER)
    engine.scheduler.pace.tokens, engine.scheduler.pace._known = 20, True
    engine.submit(Request(prompts(1, least=200, most=200)[0], Sampling(1)))
    engine.step()
    (group,) = engine.scheduler.running
    assert group.sequences[0].computed == 80
    engine.submit(Request(prompts(1, 1, least=200, most=200)[0], Sampling(1)))
    engine.scheduler.pace.tokens = 20
    engine.step()
    assert group.sequences[0].computed == 100
