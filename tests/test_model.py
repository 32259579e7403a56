"""What a user holds: asking by task and by name, streaming, scoring, cutting, loading in lower precision."""

import subprocess
import sys
import warnings

import pytest
import torch

import polytask as pt
from polytask.data.convert import prefix
from polytask.errors import CheckpointError, ConfigError, TaskError
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling
from polytask.inference.shortening import TruncationWarning
from polytask.nn.cache import Context
from polytask.nn.quant import Int8Linear, quantize_rows
from polytask.tasks import Text, get_task, prompt
from polytask.tokenizers.encode import continuation_ids, encode, prompt_ids
from tests.inference.networks import TOKENIZER, network, next_logits


@pytest.fixture(scope="module", params=["generalist", "transformer"])
def model(request):
    return pt.Model(network(request.param, context=256), TOKENIZER)


@pytest.fixture
def decoder():
    return pt.Model(network(context=256), TOKENIZER)


def test_importing_costs_nothing():
    """No torch, so that every start is quick; the names are there all the same."""
    code = "import sys, polytask; print('torch' in sys.modules, 'load' in dir(polytask), polytask.Error.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "Error"]
    for name in pt.__all__:
        assert getattr(pt, name) is not None


def test_a_prefix_language_model_is_asked_as_it_learns():
    """The likelihood of the last answer is what training makes of it, whatever was answered before."""
    built = network(context=256, prefix=True)
    model = pt.Model(built, TOKENIZER)
    told = [Text("A dog.", role="user"), Text("Yes.", target=True, role="assistant"), Text("And?", role="user")]
    asked = [[Text("Who runs?")], told, told[:1], [Text("q"), Text("a", target=True), Text("r")]]
    for given in asked:
        answer = Text("A cat.", target=True, role=given[0].role and "assistant")
        learned = prefix(encode([*given, answer], TOKENIZER))
        ids, targets = (torch.from_numpy(array.astype("int64")) for array in (learned.ids, learned.targets))
        places = torch.arange(len(ids))[None]
        hidden = built(ids[None], Context(places, prefix=places < learned.prefix))
        logprobs = built.logits(hidden[0]).log_softmax(-1).gather(1, targets[:, None])[-7:]  # its bytes and <|end|>
        (score,) = model.score([given], [[answer]])
        assert score.tokens == 7
        assert score.logprob == pytest.approx(float(logprobs.sum().detach()), abs=1e-3)
    assert model.ask("answering", {"question": "Who?", "choices": ["I", "you"]}) in ("I", "you")
    assert model.generate("Once", max_tokens=5, seed=1)


def test_every_builtin_task_can_be_asked(model):
    few = {"max_tokens": 5, "seed": 1}
    assert isinstance(model.generate("Once", **few), str)
    assert isinstance(model.generate(**few), str)
    assert isinstance(model.chat("Hello!", system="Be brief.", **few), str)
    assert isinstance(model.translate("A dog.", to="German", **few), str)
    assert isinstance(model.answer("Who?", context="I did.", **few), str)
    assert model.answer("Which?", choices=["one", "two"]) in ("one", "two")
    assert isinstance(model.summarize("A long text.", **few), str)
    assert isinstance(model.code("Add two numbers.", **few), str)
    assert model.classify("Good.", labels=["yes", "no"]) in ("yes", "no")
    assert isinstance(model.infill("A [1] runs.", **few), str)


def test_many_are_answered_as_one_by_one(model):
    texts = ["A dog.", "Two small cats run up the hill.", "I"]
    rows = [{"source": text, "target_lang": "de"} for text in texts]
    assert model.ask_many("translation", rows, max_tokens=9) == [
        model.translate(text, to="de", max_tokens=9) for text in texts
    ]


def test_streams_are_the_answer_in_pieces(model):
    example = {"source": "A dog.", "target_lang": "de"}
    pieces = list(model.stream("translation", example, max_tokens=12))
    assert "".join(pieces).strip() == model.ask("translation", example, max_tokens=12)
    assert len(pieces) > 1
    begun = model.stream("translation", example, max_tokens=12)
    next(begun)
    begun.close()
    assert not model.engine.scheduler.running


def test_choices_are_weighed_by_their_likelihood(decoder):
    example = {"text": "Good.", "labels": ["yes", "no", "perhaps"]}
    answer = decoder.ask("classification", example, details=True)
    start = prompt_ids(prompt(pt.get_task("classification"), example), TOKENIZER)
    sums = []
    for label in example["labels"]:
        ids = continuation_ids([Text(label, target=True)], TOKENIZER)
        steps = [next_logits(decoder.network, start + ids[:i]).log_softmax(-1)[t] for i, t in enumerate(ids)]
        sums.append(float(torch.stack(steps).sum()))
    wanted = torch.tensor(sums).softmax(0).tolist()
    assert answer.probabilities == pytest.approx(dict(zip(example["labels"], wanted)), abs=1e-4)
    assert answer.value == max(answer.probabilities, key=answer.probabilities.__getitem__)


def test_shots_come_before_the_question(decoder):
    shots = [{"source": "A cat.", "target": "Eine Katze.", "target_lang": "de"}]
    answer = decoder.ask("translation", {"source": "A dog.", "target_lang": "de"}, shots=shots, max_tokens=8)
    asked = prompt(pt.get_task("translation"), {"source": "A dog.", "target_lang": "de"}, shots)
    ((completion,),) = decoder.produce([asked], pt.Sampling(max_tokens=8))
    assert answer == completion.text.strip()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_text_is_refused_or_cut_as_asked(model, side):
    text = "".join(f"{i:03d} " for i in range(300))
    with pytest.raises(ConfigError, match="reads 256"):
        model.summarize(text)
    short = pt.Model(model.network, model.tokenizer, truncate=side)
    with pytest.warns(TruncationWarning, match=f"{'first' if side == 'left' else 'last'} .* of its 1211 tokens"):
        assert isinstance(short.summarize(text, max_tokens=4), str)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short.summarize("short", max_tokens=4)


def test_a_text_is_cut_to_what_the_cache_holds_where_that_is_less(decoder):
    model = pt.Model(decoder.network, decoder.tokenizer, truncate="right", room=Room(tokens=64))
    with pytest.warns(TruncationWarning, match="of its 120 tokens"):
        assert model.generate("a" * 120, max_tokens=9)


def test_long_conversations_and_many_examples_lose_the_earliest(decoder):
    """One part alone could not make room; the question itself stays whole."""
    model = pt.Model(decoder.network, decoder.tokenizer, truncate="left")
    turns = [{"role": role, "content": f"{number} and so on"} for number in range(40) for role in ("user", "assistant")]
    with pytest.warns(TruncationWarning, match="parts are left out"):
        model.chat([*turns, {"role": "user", "content": "And now?"}], system="Be brief.", max_tokens=2)
    shots = [{"question": f"What is {number}?", "answers": ["it"]} for number in range(60)]
    with pytest.warns(TruncationWarning, match="parts are left out"):
        request = model.request(prompt(get_task("answering"), {"question": "What now?"}, shots), Sampling())
    text = model.tokenizer.decode(request.ids)
    assert text.rstrip().endswith("What now?")
    assert "What is 59?" in text
    assert "What is 0?" not in text


def test_mistakes_are_named(decoder):
    with pytest.raises(ConfigError, match="temperature"):
        decoder.generate("a", temprature=1)
    with pytest.raises(TaskError, match="translation"):
        decoder.ask("translatoin", {})
    with pytest.raises(TaskError, match=r"\[1\]"):
        decoder.infill("nothing to fill")
    with pytest.raises(ConfigError, match="belongs to the model"):
        pt.Model(decoder.network, pt.TextTokenizer.train(["abc def"] * 50 + [chr(i) for i in range(300, 900)], 400))


@pytest.mark.parametrize("system", ["generalist", "transformer"])
def test_saved_and_loaded_it_answers_the_same(tmp_path, system):
    built = network(system)
    model = pt.Model(built, TOKENIZER, about={"name": "a test"})
    model.save(tmp_path / "model", card="# A test")
    again = pt.load(tmp_path / "model")
    assert again.about["name"] == "a test"
    assert again.translate("A dog.", to="de", max_tokens=20) == model.translate("A dog.", to="de", max_tokens=20)
    half = pt.load(tmp_path / "model", dtype="bfloat16")
    assert half.network.embedding.weight.dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="no checkpoint"):
        pt.load(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_keeps_weights_in_a_quarter_and_answers_nearly_the_same(tmp_path, dtype):
    model = pt.Model(network(seed=4), TOKENIZER)
    model.save(tmp_path / "model")
    small = pt.load(tmp_path / "model", int8=True, dtype=dtype)
    layers = [m for m in small.network.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 9
    assert not any(isinstance(m, torch.nn.Linear) for m in small.network.modules())
    ids = list(range(60, 90))
    exact, near = next_logits(model.network, ids), next_logits(small.network, ids).float()
    assert (exact - near).norm() < (0.03 if dtype == "float32" else 0.06) * exact.norm()
    with pytest.raises(ConfigError, match="int8"):
        small.save(tmp_path / "other")


@pytest.mark.parametrize("rows", [1, 16, 17, 64])
def test_int8_products_are_those_of_the_rounded_weights(rows):
    """In both kernels: the one for few rows and the one for many."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 40)
    weight, scales = quantize_rows(linear.weight.detach())
    assert ((weight * scales[:, None] - linear.weight).abs() <= scales[:, None] * 0.501).all()
    x = torch.randn(rows, 96)
    wanted = torch.nn.functional.linear(x, weight * scales[:, None], linear.bias)
    torch.testing.assert_close(Int8Linear(linear.weight, linear.bias)(x), wanted, rtol=1e-5, atol=1e-5)
    half = Int8Linear(linear.bfloat16().weight, linear.bias)(x.bfloat16()).float()
    assert (half - wanted).norm() < 1e-2 * wanted.norm()
