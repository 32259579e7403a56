"""Answers of networks with random weights, which know no grammar, judged by validators that are not ours."""

import json
import re
import threading
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.errors import ConfigError, TokenizerError
from polytask.inference.constrained import Guide
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.tokenizers import sentencepiece
from polytask.tokenizers.text import TextTokenizer
from tests.inference.networks import TOKENIZER, network, prompts
from tests.tokenizers.sentencepieces import trained

validator = pytest.importorskip("jsonschema_rs")
pytest.importorskip("llguidance")

WORDS = ["the fox jumps", "The year 1995, {of} [peace]: 'yes' or \"no\"?", "über straße 東京 \N{GRINNING FACE}"]


@cache
def tokenizers() -> dict[str, TextTokenizer]:
    made = {
        "bytes": TOKENIZER,
        "bpe": TextTokenizer.train(WORDS * 50, 400),
        "characters": TextTokenizer.characters(WORDS),
    }
    for name, words in (
        ("unigram", {"byte_fallback": True, "vocab_size": 400}),
        ("merged", {"byte_fallback": True, "vocab_size": 400, "model_type": "bpe"}),
        ("unprefixed", {"byte_fallback": True, "vocab_size": 400, "add_dummy_prefix": False}),
        ("lacking", {}),
    ):
        made[name] = TextTokenizer(sentencepiece.build(sentencepiece.parse(trained(**words), name)))
    return made


@cache
def engine_of(name: str = "bytes", **words) -> Engine:
    tokenizer = tokenizers()[name]
    return Engine(network(vocab_size=tokenizer.vocab_size, context=700, **words), tokenizer)


def answers(guides, name="bytes", **dials):
    """One answer to each guide, all written in one batch beside answers that nothing guides."""
    engine, dials = engine_of(name), {"max_tokens": 600, "temperature": 1.0, **dials}
    begin = engine.tokenizer.encode("the fox")
    asked = [Request(begin, Sampling(guide=guide, seed=i, **dials)) for i, guide in enumerate(guides)]
    return [c for (c,) in engine.run([*asked, Request(begin, Sampling(20, temperature=1.0))])][:-1]


SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.tuples(st.integers(-99, 99), st.integers(0, 500)).map(
        lambda p: {"type": "integer", "minimum": p[0], "maximum": p[0] + p[1]}
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 5)).map(
        lambda p: {"type": "string", "minLength": p[0], "maxLength": sum(p)}
    ),
    st.lists(
        st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=5), st.booleans(), st.none()), min_size=1, max_size=4
    ).map(lambda values: {"enum": values}),
    st.just({"type": "string", "pattern": "^[a-f]{2,4}$"}),
    st.just({"type": "string", "format": "date"}),
)


def objects(parts):
    return st.dictionaries(st.text(max_size=4), st.tuples(parts, st.booleans()), max_size=3).map(
        lambda fields: {
            "type": "object",
            "properties": {name: part for name, (part, _) in fields.items()},
            "required": [name for name, (_, needed) in fields.items() if needed],
            "additionalProperties": False,
        }
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda parts: st.one_of(
        objects(parts),
        parts.map(lambda part: {"type": "array", "items": part, "minItems": 1, "maxItems": 3}),
        st.lists(parts, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
    ),
    max_leaves=5,
)


@settings(max_examples=12, deadline=None)
@given(st.lists(SCHEMAS, min_size=4, max_size=8), st.sampled_from(["bytes", "bpe", "characters", "unigram", "merged"]))
def test_every_answer_is_valid(schemas, name):
    pieces = tokenizers()[name].spelling.pieces
    blanks = {i: -6.0 for i, piece in enumerate(pieces) if piece and not piece.strip()}  # else they are most of it
    found = answers([Guide.schema(schema) for schema in schemas], name, logit_bias=blanks)
    for schema, answer in zip(schemas, found):
        assert answer.finish == "stop", (schema, answer.text)
        assert validator.validator_for(schema).is_valid(json.loads(answer.text)), (schema, answer.text)


PATTERNS = [
    "[ab]{3,9}",
    " ?x( y| zz){1,4}",
    "(yes|no|the fox) ?",
    "\\d{4}-\\d\\d",
    "[^a-z]{5}",
    "é|東京?",
    "(a|b)*abb?",
    "",
]


@pytest.mark.parametrize("name", ["bytes", "bpe", "characters", "unigram", "merged", "unprefixed"])
def test_every_answer_matches_as_a_whole(name):
    for temperature in (0.0, 1.5):
        dials = {"temperature": temperature, "max_tokens": 80}
        for pattern, answer in zip(PATTERNS, answers(list(map(Guide.regex, PATTERNS)), name, **dials)):
            if answer.finish == "stop":
                assert re.fullmatch(pattern, answer.text), (pattern, answer.text)
            else:
                assert pattern == "(a|b)*abb?"  # the others end by themselves


@pytest.mark.parametrize("name", ["bytes", "bpe", "unigram"])
def test_a_grammar_is_followed(name):
    guide = Guide.lark('start: sum\nsum: part ("+" part){0,2}\npart: /[0-9]{1,2}/ | "(" sum ")"')
    bias = {engine_of(name).tokenizer.encode("(")[-1]: -6.0}  # else a network may open brackets for ever
    for answer in answers([guide] * 4, name, logit_bias=bias):
        assert answer.finish == "stop"
        assert set(answer.text) <= set("0123456789+()")
        eval(re.sub(r"\b0+(?=\d)", "", answer.text))


def test_any_object_is_json(decoder):
    for answer in answers([Guide.json()] * 3, logit_bias={TOKENIZER.encode("}")[0]: 8.0}):
        assert isinstance(json.loads(answer.text), dict)


def test_what_is_cut_says_so_and_could_have_gone_on():
    (answer,) = answers([Guide.regex("ab{50}c")], max_tokens=9)
    assert (answer.text, answer.finish) == ("abbbbbbbb", "length")


def test_a_stop_may_cut_what_is_guided():
    cut, whole = answers([Guide.regex("ab{5}c"), Guide.regex("abc")], stop=("bb",))
    assert (cut.text, cut.finish, whole.text) == ("a", "stop", "abc")


def test_least_tokens_do_not_break_a_guide():
    first, second = answers([Guide.regex("ab"), Guide.regex("a*")], min_tokens=30, max_tokens=40)
    assert (first.text, first.finish) == ("ab", "stop")
    assert len(second.text) >= 30


def test_a_guide_holds_for_each_of_many_answers():
    engine = engine_of()
    request = Request(
        prompts(1)[0], Sampling(40, temperature=1.5, seed=2, n=3, best_of=9, guide=Guide.regex("[abc]{5}d?"))
    )
    (found,) = engine.run([request])
    assert all(re.fullmatch("[abc]{5}d?", answer.text) for answer in found)
    assert len({answer.text for answer in found}) > 1


REFUSED = {
    "regex": ["(?:" * 500 + "a" + ")*" * 500, "a" * 20_000, "((a{100}){100}){10}"],
    "schema": [
        {"type": "integer", "multipleOf": 9_999_991},
        {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (97, 89, 83, 79)]},
        {"type": "integer", "multipleOf": 2**20},
        {"enum": [f"value {i}" for i in range(30_000)]},
        {
            "$ref": "#/$defs/d40",
            "$defs": {"d0": {"type": "object"}}
            | {f"d{i + 1}": {"anyOf": [{"allOf": [{"$ref": f"#/$defs/d{i}"}] * 2}] * 2} for i in range(40)},
        },
    ],
    "lark": ["start: " + "(" * 2000 + '"a"' + ")" * 2000, "start: X\nX: /(.*a.{30}){40}/ & ~/(.*b.{30}c){40}.*/"],
}
CHEAP = ["(a+)+b", "(.*)*(.*)*x", "(a|b)*a(a|b){60}", "(.{1,999}b.{1,999}){30}x"]


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for kind, all_ in REFUSED.items() for what in all_])
def test_what_would_explode_is_refused_at_once(kind, what):
    engine = engine_of()
    bystander = engine.submit(Request(prompts(1)[0], Sampling(4, min_tokens=4)))
    start = time.process_time()
    with pytest.raises(
        ConfigError, match=r"^guide: the .* cannot be followed: .*; correct or simplify it\.$"
    ) as caught:
        engine.run([Request(prompts(1)[0], Sampling(200, guide=getattr(Guide, kind)(what)))])
    assert time.process_time() - start < 1.5
    assert len(str(caught.value)) < 400
    assert bystander.result()[0].finish == "length"
    assert not engine.scheduler.running


@pytest.mark.parametrize("pattern", CHEAP)
def test_what_explodes_elsewhere_costs_little_here(pattern):
    start = time.process_time()
    answers([Guide.regex(pattern)], max_tokens=60)
    assert time.process_time() - start < 1.5


def deep(levels: int) -> dict:
    return {"type": "array", "items": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Guide.schema("{"), "not JSON"),
        (lambda: Guide.schema("[]"), "must be an object"),
        (lambda: Guide.schema({"const": 9007199254740993}), "beyond 2.53"),
        (lambda: Guide.schema({"a": object()}), "cannot be written as JSON"),
        (lambda: Guide.schema(deep(200)), "more than 100 deep"),
        (lambda: Guide.lark('start: %json {"multipleOf": 3}'), "%json"),
        (lambda: Guide.parse("yaml"), "regex:PATTERN"),
        (lambda: Guide.parse("no-such-file.json"), "cannot be read"),
        (lambda: Sampling(guide=Guide.json(), beam_size=2), "beam search keeps to no guide"),
        (lambda: Sampling(guide="json"), "must be a Guide"),
    ],
)
def test_what_cannot_be_a_guide_is_refused(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("guide", "sentence"),
    [
        (Guide.regex("[^a-z"), "regular expression cannot be followed"),
        (Guide.regex("(?=a)b"), "look-around"),
        (Guide.schema({"type": "foo"}), "Invalid type: foo"),
        (Guide.schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Guide.schema(False), "schema is false"),
        (Guide.lark("start: nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_followed_is_refused(guide, sentence):
    with pytest.raises(ConfigError, match=sentence):
        engine_of().submit(Request([5], Sampling(guide=guide)))


def test_a_vocabulary_that_cannot_write_it_says_so():
    """At once where the first token is lacking, later where one within is, and nobody else is touched."""
    with pytest.raises(ConfigError, match="nothing that the model can write"):
        answers([Guide.json()], "lacking")
    engine = engine_of("lacking")
    other = engine.submit(Request(engine.tokenizer.encode("fox"), Sampling(6, min_tokens=6)))
    with pytest.raises(ConfigError, match="nothing that the model can write"):
        engine.run([Request(engine.tokenizer.encode("fox"), Sampling(9, guide=Guide.regex("the[{]fox")))])
    assert other.result()[0].finish == "length"


def test_a_guide_is_compiled_once_and_outside_of_steps(monkeypatch):
    engine = Engine(network(), TOKENIZER)
    made, plain = [], engine.grammars._compile

    def slow(guide):
        made.append(guide)
        while len(steps) < 3:  # the engine goes on meanwhile
            time.sleep(0.01)
        return plain(guide)

    monkeypatch.setattr(engine.grammars, "_compile", slow)
    steps: list[int] = []
    ask = Request(prompts(1)[0], Sampling(5, guide=Guide.regex("ab?c")))
    thread = threading.Thread(target=lambda: engine.submit(ask))
    thread.start()
    engine.submit(Request(prompts(1)[0], Sampling(20, min_tokens=20)))
    for _ in range(3):
        engine.step()
        steps.append(1)
    thread.join()
    (answer,) = engine.run([ask])[0]
    assert answer.text in ("abc", "ac")
    assert made == [Guide.regex("ab?c")]


def test_texts_of_ids_that_depend_on_each_other_are_refused():
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "</s>": 3}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["</s>"])
    engine = Engine(network(vocab_size=4), TextTokenizer(tokenizer))
    with pytest.raises(TokenizerError, match="one id after the other"):
        engine.submit(Request([1], Sampling(guide=Guide.regex("a"))))
