"""Perplexity against a direct computation with all logits, in float64."""

import math

import pytest
import torch

from polytask.errors import ConfigError, DataError, TaskError
from polytask.evaluation.evaluate import evaluate
from polytask.evaluation.perplexity import perplexity
from polytask.nn.cache import Context
from polytask.tasks import get_task
from polytask.tasks.segment import Text
from polytask.tokenizers.encode import encode
from tests.inference.networks import TOKENIZER, network

CONTEXT = 48
SHORT = ["A dog runs.", "Ein Hund rennt über den Hügel.", "", "x" * 40]
LONG = "The hill is long, and whoever climbs it sees the sea: " * 5


@pytest.fixture(scope="module", params=["generalist", "transformer"])
def built(request):
    return network(request.param, context=CONTEXT).double()


@torch.no_grad()
def losses(built, ids):
    """Nats of ids[1:], each from all before it within `ids`."""
    ids = torch.as_tensor(ids).long()[None]
    memory = None
    if built.config.encoder_layers:
        end = torch.tensor([[TOKENIZER.special["<|end|>"]]])
        memory = built.encode(end, Context(torch.zeros_like(end)))
    hidden = built(ids[:, :-1], Context(torch.arange(ids.shape[1] - 1)[None], memory=memory))
    logprobs = built.logits(hidden)[0].log_softmax(-1)
    return -logprobs.gather(1, ids[0, 1:, None])[:, 0]


def ids_of(text):
    return encode([Text(text, target=True)], TOKENIZER).ids


def test_short_documents_are_exact(built):
    direct = [losses(built, ids_of(text)) for text in SHORT]
    found = perplexity(built, TOKENIZER, SHORT)
    tokens, size = sum(map(len, direct)), sum(len(text.encode()) for text in SHORT)
    nats = sum(float(each.sum()) for each in direct)
    assert found.tokens == tokens
    assert found.bytes == size
    assert found.loss == pytest.approx(nats / tokens, abs=1e-9)
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-9)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, abs=1e-9)
    for (loss, count, _), each in zip(found.documents, direct):
        assert count == len(each)
        assert loss == pytest.approx(float(each.sum()), abs=1e-9)


@pytest.mark.parametrize("stride", [1, 7, 24, 48])
def test_long_documents_slide(built, stride):
    """Every token counts once, predicted from what its window holds before it."""
    ids = ids_of(LONG)
    nats, seen, last = 0.0, 0, len(ids) - 1
    for begin in range(0, last, stride):
        stop = min(begin + CONTEXT, last)
        nats += float(losses(built, ids[begin : stop + 1])[seen - begin :].sum())
        seen = stop
        if stop == last:
            break
    found = perplexity(built, TOKENIZER, [LONG, "A dog."], stride=stride)
    assert found.documents[0][0] == pytest.approx(nats, rel=1e-9)
    assert found.documents[0][1] == last


def test_batches_change_nothing(built):
    texts = [*SHORT, LONG]
    together = perplexity(built, TOKENIZER, texts)
    told = []
    alone = perplexity(built, TOKENIZER, texts, batch_tokens=1, progress=lambda done, total: told.append(done / total))
    assert alone.loss == pytest.approx(together.loss, rel=1e-12)
    assert told[-1] == 1.0
    assert len(told) > 5


def test_a_network_that_trains_goes_on_training():
    built = network(dropout=0.5, context=CONTEXT)
    quiet = perplexity(built.eval(), TOKENIZER, SHORT).loss
    built.train()
    assert perplexity(built, TOKENIZER, SHORT).loss == quiet
    assert built.training


def test_mistakes_are_sentences(built):
    with pytest.raises(ConfigError, match="stride=49"):
        perplexity(built, TOKENIZER, SHORT, stride=49)
    with pytest.raises(DataError, match="no text"):
        perplexity(built, TOKENIZER, [])


class Local:
    def __init__(self, built):
        self.network, self.tokenizer = built, TOKENIZER

    def produce(self, prompts, sampling):
        raise AssertionError("a text is not asked")

    score = produce


def test_the_text_task_reports_perplexity(built):
    rows = [{"text": text} for text in [*SHORT, LONG]]
    report = evaluate(Local(built), get_task("text"), rows)
    found = perplexity(built, TOKENIZER, [row["text"] for row in rows])
    assert report.metrics == pytest.approx(
        {"loss": found.loss, "perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte}
    )
    low, high = report.intervals["loss"]
    assert low < found.loss < high
    with pytest.raises((TaskError, ConfigError), match="shots"):
        evaluate(Local(built), get_task("text"), rows, shots=1, shot_examples=rows)
