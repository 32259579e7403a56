"""The harness over a small random model, on a task of its own in local files, without a network."""

import builtins
import json
import sys

import pytest
import torch

from polytask.errors import ConfigError, MissingExtra
from polytask.model import Model
from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.tokenizers.text import TextTokenizer
from tests.evaluation.test_perplexity import losses
from tests.inference.networks import END, TOKENIZER, greedy, network

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402

from polytask.evaluation.lm_eval import PolytaskLM  # noqa: E402

CONTEXT = 64
TEXT = TOKENIZER.special["<|text|>"]
ROWS = [
    {"question": f"{a} and {b}", "choices": ["cat", "dog", "a hill"], "answer": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]
CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{{{question}}}}?\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITING = """
task: local_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: generate_until
test_split: test
doc_to_text: "Q: {{{{question}}}}?\\nA:"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module", params=["generalist", "transformer"])
def model(request):
    return Model(network(request.param, context=CONTEXT).double(), TOKENIZER)


@pytest.fixture(scope="module")
def adapter(model):
    return PolytaskLM(model, batch=5)


def asked(kind, *arguments):
    return [Instance(kind, {}, words, index) for index, words in enumerate(arguments)]


def direct(model, context, continuation):
    ids = [TEXT, *TOKENIZER.encode(context + continuation)]
    return -float(losses(model.network, ids)[-len(TOKENIZER.encode(continuation)) :].sum())


def test_likelihoods_are_those_of_plain_text(model, adapter):
    pairs = [("The dog", " runs."), ("", "A hill."), ("Ein Hügel ", "und mehr"), ("a", "b")]
    found = adapter.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for (context, continuation), (logprob, _) in zip(pairs, found):
        moved = context[len(context.rstrip()) :]  # the harness moves spaces at the border to the continuation
        assert logprob == pytest.approx(direct(model, context.rstrip(), moved + continuation), rel=1e-6)


@pytest.fixture(scope="module")
def merging():
    """An adapter whose tokenizer joins letters across words' parts."""
    tokenizer = TextTokenizer.train(["the hilltop and the hillside are hills, the hill again"] * 50, 330)
    config = build_config(
        "generalist", vocab_size=tokenizer.vocab_size, context_length=CONTEXT, depth=1, dim=32, heads=2
    )
    return PolytaskLM(Model(Transformer(config).initialize(0).eval(), tokenizer))


def test_context_and_continuation_are_cut_together(merging):
    tokenizer = merging.model.tokenizer
    context, continuation = merging._encode_pair("the", " hill")
    assert context + continuation == [TEXT, *tokenizer.encode("the hill")]
    spaced = merging._encode_pair("the ", "hill")
    assert spaced == (context, continuation), "a space at the border belongs to the continuation"
    assert tokenizer.encode("the ") + tokenizer.encode("hill") != tokenizer.encode("the hill")


def test_no_continuation_vanishes(merging):
    """ "hi" and "ll" are one token together: what is left of the whole after the context is nothing."""
    tokenizer = merging.model.tokenizer
    assert len(tokenizer.encode(" hill")) <= len(tokenizer.encode(" hi"))
    found = merging.loglikelihood(asked("loglikelihood", ("the hi", "ll")), disable_tqdm=True)
    context, continuation = merging._encode_pair("the hi", "ll")
    assert continuation == tokenizer.encode("ll")
    assert found[0][0] == pytest.approx(
        -float(losses_of(merging.model, context + continuation)[-len(continuation) :].sum()), rel=1e-5
    )


def losses_of(model, ids):
    """Nats of ids[1:] by a network without an encoder."""
    given = torch.tensor([ids])
    with torch.no_grad():
        hidden = model.network(given[:, :-1], Context(torch.arange(len(ids) - 1)[None]))
        return -model.network.logits(hidden)[0].log_softmax(-1).gather(1, given[0, 1:, None])[:, 0]


def test_greedy_answers_are_called_greedy(model, adapter):
    context = "The dog sees"
    encoder = [END] if model.network.config.encoder_layers else None
    ids = greedy(model.network, [TEXT, *TOKENIZER.encode(context)], 3, encoder)
    given = [TEXT, *TOKENIZER.encode(context)]
    other = [*ids[:-1], (ids[-1] + 1) % 256 + 41]
    found = adapter._loglikelihood_tokens([(None, given, ids), (None, given, other)], disable_tqdm=True)
    assert [best for _, best in found] == [True, False]


def test_what_is_too_long_loses_its_left_end(model, adapter):
    long = "0123456789" * 20
    ((logprob, _),) = adapter.loglikelihood(asked("loglikelihood", (long, "abc")), disable_tqdm=True)
    ids = TOKENIZER.encode(long + "abc")[-(CONTEXT + 1) :]
    assert logprob == pytest.approx(-float(losses(model.network, ids)[-3:].sum()), rel=1e-6)
    with pytest.raises(ConfigError, match="65 tokens"):
        adapter.loglikelihood(asked("loglikelihood", ("a", "x" * (CONTEXT + 1))), disable_tqdm=True)


def test_rolling_covers_every_token_once(model, adapter):
    short, long = "A dog runs over the hill.", "A dog runs over the hill. " * 8
    found = adapter.loglikelihood_rolling(asked("loglikelihood_rolling", (short,), (long,)), disable_tqdm=True)
    ids = [TEXT, *TOKENIZER.encode(short)]
    assert found[0] == pytest.approx(-float(losses(model.network, ids).sum()), rel=1e-6)
    ids, total = [TEXT, *TOKENIZER.encode(long)], 0.0
    for start in range(0, len(ids) - 1, CONTEXT):
        stop = min(start + CONTEXT, len(ids) - 1)
        begin = max(0, stop - CONTEXT)  # the last window is filled up with context
        total -= float(losses(model.network, ids[begin : stop + 1])[start - begin :].sum())
    assert found[1] == pytest.approx(total, rel=1e-6)


def test_answers_end_where_the_harness_says(model, adapter):
    whole = model.engine.run([adapter._request("The dog", {"max_gen_toks": 12})])[0][0].text
    words = [
        {"max_gen_toks": 12},
        {"until": [whole[4], ""], "max_gen_toks": 12},
        {"until": whole[4], "max_gen_toks": 12},
    ]
    found = adapter.generate_until(asked("generate_until", *[("The dog", w) for w in words]), disable_tqdm=True)
    assert found[0] == whole
    assert found[1] == found[2] == whole[: whole.index(whole[4])]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, {"temperature": 0.0, "max_tokens": 63}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
        ({"num_beams": 4, "max_gen_toks": 5}, {"beam_size": 4, "max_tokens": 5}),
        ({"until": ["\n\n", "Q:"]}, {"stop": ("\n\n", "Q:")}),
    ],
)
def test_the_words_of_the_harness_are_ours(adapter, words, expected):
    sampling = adapter._request("A dog", words).sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


def test_unknown_words_are_refused(adapter):
    with pytest.raises(ConfigError, match="typical_p"):
        adapter.generate_until(asked("generate_until", ("A dog", {"typical_p": 0.5})), disable_tqdm=True)


@pytest.mark.parametrize("shots", [0, 2])
def test_the_harness_runs_tasks_of_local_files(model, adapter, tmp_path, monkeypatch, shots):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "choice.yaml").write_text(CHOICE.format(file=file))
    (tmp_path / "writing.yaml").write_text(WRITING.format(file=file))
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=adapter, tasks=["local_choice", "local_writing"], task_manager=manager, bootstrap_iters=0,
        num_fewshot=shots, log_samples=True,
    )  # fmt: skip
    assert results is not None
    samples = results["samples"]["local_choice"]
    assert len(samples) == len(ROWS)
    right = 0
    for sample in samples:
        context = sample["arguments"][0][0]
        likes = [direct_cut(model, context, f" {choice}") for choice in ROWS[sample["doc_id"]]["choices"]]
        right += int(torch.tensor(likes).argmax()) == ROWS[sample["doc_id"]]["answer"]
    assert results["results"]["local_choice"]["acc,none"] == pytest.approx(right / len(ROWS))
    assert results["results"]["local_writing"]["exact_match,none"] >= 0
    assert all(isinstance(sample["resps"][0][0], str) for sample in results["samples"]["local_writing"])


def direct_cut(model, context, continuation):
    ids = [TEXT, *TOKENIZER.encode(context + continuation)][-(CONTEXT + 1) :]
    return -float(losses(model.network, ids)[-len(TOKENIZER.encode(continuation)) :].sum())


def test_without_the_library_a_sentence_says_how_to_install_it(monkeypatch):
    original = builtins.__import__

    def without(name, *words, **more):
        if name.split(".")[0] == "lm_eval":
            raise ImportError(name)
        return original(name, *words, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "polytask.evaluation.lm_eval")
    with pytest.raises(MissingExtra, match=r"polytask\[eval\]"):
        import polytask.evaluation.lm_eval  # noqa: F401
