"""Texts that go on where another one ended."""

import json

import httpx

from polytask.model import Model
from polytask.tokenizers import TextTokenizer
from tests.inference.networks import network
from tests.serving.conftest import running
from tests.tokenizers.sentencepieces import trained


def test_what_goes_on_with_a_text_keeps_its_first_space(tmp_path):
    """Tokenizers of SentencePiece put a space before the first word of a text, which a text on its own loses."""
    (tmp_path / "tokenizer.model").write_bytes(trained(model_type="unigram"))
    tokenizer = TextTokenizer.load(tmp_path)
    word = tokenizer.encode("quick")[0]
    dials = {"logit_bias": {word: 100.0}, "max_tokens": 2}
    model = Model(network(vocab_size=tokenizer.vocab_size, context=256), tokenizer)
    assert model.generate("the lazy", **dials) == " quick quick"
    assert model.generate("", **dials) == model.translate("the lazy", to="de", **dials) == "quick quick"
    with running({"spaced": model}) as (address, _), httpx.Client(base_url=f"{address}/v1", timeout=60) as client:
        asked = {"max_tokens": 2, "logit_bias": {str(word): 100}, "temperature": 0}
        ids = tokenizer.encode("the lazy")
        prompts = [("the lazy", " quick quick"), (ids, " quick quick"), ("", "quick quick"), ([*ids, 1], "quick quick")]
        for prompt, said in prompts:
            for stream in (False, True):
                reply = client.post("/completions", json=asked | {"prompt": prompt, "stream": stream})
                events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
                found = [json.loads(event) for event in events] if stream else [reply.json()]
                assert "".join(one["choices"][0]["text"] for one in found) == said
        for prompt, offsets in (("the lazy", [0, 6]), ("", [0, 5])):
            for echo in (False, True):
                reply = client.post("/completions", json=asked | {"prompt": prompt, "logprobs": 1, "echo": echo}).json()
                found = reply["choices"][0]["logprobs"]["text_offset"][-2:]
                assert found == [one + len(prompt) * echo for one in offsets]
        form = {"type": "regex", "pattern": "quick( quick)*"}  # has its first space beside the pattern
        told = client.post("/completions", json=asked | {"prompt": "the lazy", "logprobs": 1, "response_format": form})
        (choice,) = told.json()["choices"]
        assert choice["text"] == "quick quick"
        assert choice["logprobs"]["text_offset"] == [0, 5]
