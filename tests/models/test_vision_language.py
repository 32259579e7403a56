"""Pictures in the decoder's sequence against transformers' Llava: logits, padded and cached, and weights both ways.

Their Llama takes its norms and angles in float32, so numbers agree to 1e-5 alone.
"""

import json

import pytest
import torch

from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Given, Request
from polytask.interop import hf
from polytask.nn.cache import Context
from polytask.nn.packets import Row
from polytask.systems.open_weights.clip import DEVIATION, MEAN
from tests.inference.networks import END, NEVER, TOKENIZER
from tests.models.cached import cached

VISION = {
    "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": TOKENIZER.vocab_size + 1, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
PICTURE = TOKENIZER.vocab_size  # the placeholder's id


@pytest.fixture(scope="module", params=["default", "full"])
def pair(request, tmp_path_factory):
    """(theirs, ours, folder) in float64, with shaken weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=PICTURE, vision_feature_select_strategy=request.param,
        vision_feature_layer=-2 if request.param == "default" else -1,
    )  # fmt: skip
    theirs = transformers.LlavaForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("llava")
    theirs.save_pretrained(folder / "theirs")
    return theirs, hf.load_network(folder / "theirs", torch.float64), folder


def conversation(ours):
    """Three rows: two pictures, one, and none, as (rows of ids, pixels)."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    words = [torch.randint(60, PICTURE, (n,), generator=generator).tolist() for n in (3, 2, 4, 5, 9)]
    rows = [[*words[0], PICTURE, *words[1], PICTURE, *words[2]], [PICTURE, *words[3]], words[4]]
    return [ours.expanded(row) for row in rows], pixels


def as_theirs(pixels):
    mean, deviation = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, DEVIATION))
    return ((pixels + 1) / 2 - mean) / deviation


def padded(rows, side):
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    ids = torch.tensor([row + gap if side == "right" else gap + row for row, gap in zip(rows, gaps)])
    mask = torch.tensor([
        [1] * len(row) + gap if side == "right" else gap + [1] * len(row) for row, gap in zip(rows, gaps)
    ])  # fmt: skip
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_those_of_transformers_with_padding_on_either_side(pair, side):
    theirs, ours, _ = pair
    rows, pixels = conversation(ours)
    ids, mask = padded(rows, side)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, as_theirs(pixels), attention_mask=mask, position_ids=places).logits
    logits = ours.logits(ours(ids, Context(places, documents=mask), pixels))
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)


def test_gradients_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    rows, pixels = conversation(ours)
    ids = torch.tensor(rows[:1])
    for network in (theirs, ours):
        network.zero_grad()
    theirs(ids, as_theirs(pixels[:2])).logits.square().mean().backward()
    places = torch.arange(ids.shape[1])[None]
    ours.logits(ours(ids, Context(places), pixels[:2])).square().mean().backward()
    tower, projector = theirs.model.vision_tower, theirs.model.multi_modal_projector
    for mine, other in (
        (ours.first.weight, projector.linear_1.weight), (ours.second.bias, projector.linear_2.bias),
        (ours.vision.position, tower.embeddings.position_embedding.weight),
        (ours.text.embedding.weight, theirs.model.language_model.embed_tokens.weight),
    ):  # fmt: skip
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-8)


@torch.no_grad()
def test_a_cached_conversation_is_that_of_transformers(pair):
    """A picture is read with the prompt; tokens follow one by one, and a second picture in the middle."""
    theirs, ours, _ = pair
    (row, *_), pixels = conversation(ours)
    ids, cut = torch.tensor([row]), row.index(PICTURE) + ours.config.states + 1
    expected = theirs(ids, as_theirs(pixels[:2])).logits
    first = theirs(ids[:, :cut], as_theirs(pixels[:1]), use_cache=True)
    rest = theirs(ids[:, cut:], as_theirs(pixels[1:2]), past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), expected, rtol=0, atol=1e-9)  # theirs is consistent
    cache, states = ours.text.new_cache(blocks=2), ours.look(pixels[:2])
    hidden = []
    for start, end, seen in ((0, cut, states[:1]), (cut, len(row) - 2, states[1:]), (len(row) - 2, len(row) - 1, None)):
        part = ids[:, start:end]
        context = Context(torch.arange(start, end)[None], cache=cache.view([Row([0, 1], start, end - start)]))
        context.given = None if seen is None else (part == PICTURE, seen.flatten(0, 1))
        hidden.append(ours.text(part, context))
    hidden.append(cached(ours.text, cache, ids[:, -1:], [Row([0, 1], len(row) - 1, 1)]))
    torch.testing.assert_close(ours.logits(torch.cat(hidden, 1)), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_engine_answers_about_pictures(pair):
    """Greedy answers are those of the whole text read again for each token, for prompts read in parts as well; the
    cache tells pictures apart though their ids are the same."""
    _, ours, _ = pair
    rows, pixels = conversation(ours)
    asked = [
        (rows[0], pixels[:2]),
        (rows[0], pixels[1:]),
        (rows[1], pixels[2:]),
        (rows[2], None),
        (rows[0], pixels[:2]),
    ]
    requests, expected = [], []
    for ids, seen in asked:
        states = None if seen is None else ours.look(seen).flatten(0, 1)
        places = [place for place, i in enumerate(ids) if i == PICTURE]
        requests.append(Request(ids, Sampling(max_tokens=6), given=None if states is None else Given(places, states)))
        written = []
        while len(written) < 6:
            read = torch.tensor([[*ids, *written]])
            logits = ours.logits(ours(read, Context(torch.arange(read.shape[1])[None]), seen))[0, -1]
            best = int(logits.index_fill(0, torch.tensor([*NEVER, PICTURE]), -torch.inf).argmax())
            if best == END:
                break
            written.append(best)
        expected.append(written)
    for words in ({}, {"chunk": 4}):
        answers = Engine(ours.text, TOKENIZER, 3, **words).run(requests)
        assert [one.ids for (one,) in answers] == expected
    assert expected[0] != expected[1]


def test_weights_go_out_and_come_back(pair):
    import transformers

    theirs, ours, folder = pair
    hf.export(folder / "ours", ours)
    again = transformers.LlavaForConditionalGeneration.from_pretrained(folder / "ours", dtype=torch.float64)
    state = again.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    assert hf.read_config(folder / "ours") == ours.config == hf.read_config(folder / "theirs")
    back = hf.load_network(folder / "ours", torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_what_a_decoder_has_anyway_may_be_left_out(family, tmp_path):
    """As in llava-hf/llava-1.5-7b-hf, whose text_config names the length, a size and little else."""
    import transformers

    said = {"model_type": family, "max_position_embeddings": 4096, "vocab_size": 32_064, "rms_norm_eps": 1e-5}
    words = {"model_type": "llava", "image_token_index": 32_000, "vision_config": {"model_type": "clip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps({**words, "text_config": said}))
    whole = transformers.LlavaConfig.from_pretrained(tmp_path).to_dict()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text(json.dumps(whole))
    assert "hidden_size" in whole["text_config"]
    assert hf.read_config(tmp_path) == hf.read_config(tmp_path / "whole")


def test_as_many_pictures_as_the_text_speaks_of(pair):
    ours = pair[1]
    (row, *_), pixels = conversation(ours)
    places = torch.arange(len(row))[None]
    for seen in (pixels[:1], None):
        with pytest.raises(ConfigError, match="as many pictures as it speaks of"):
            ours(torch.tensor([row]), Context(places), seen)
    with pytest.raises(ConfigError, match="make both anew"):
        Engine(ours.text, TOKENIZER, 1).submit(Request(row, given=Given([0], torch.zeros(2, 32))))
