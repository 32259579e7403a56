"""Pictures by the engine: codes alone, of the right number, as a plain loop draws them; completion and ranking."""

import pytest
import torch

from polytask.errors import ConfigError, TokenizerError, TooLong
from polytask.inference import drawing
from polytask.inference.engine import Engine
from polytask.inference.matching import Matcher
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Drawing, Request
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.models.transformer import Transformer
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP
from polytask.nn.quantizer import Categorical
from polytask.systems.dalle import dalle, training_batch
from polytask.systems.gpt3 import gpt3
from polytask.tokenizers.image import ImageTokenizer, JointVocabulary
from polytask.training.objectives.language import LanguageModelling
from tests.inference.networks import TOKENIZER, loud

TEXT, SIDE, CODES = 9, 5, 12
VOCABULARY = JointVocabulary(TOKENIZER.vocab_size, TEXT, CODES, SIDE, SIDE)


def network(seed=0):
    config = dalle(
        4, 32, 2, text=TOKENIZER.vocab_size, text_length=TEXT, codes=CODES, height=SIDE, width=SIDE, kernel=3
    )
    return loud(config, seed)


def tokenizer():
    config = AutoencoderConfig(image=2 * SIDE, width=8, quantizer=Categorical(CODES), groups=2, blocks=1, first=8)
    return ImageTokenizer(Autoencoder(config).initialize(0), VOCABULARY)


def prompt(text):
    return VOCABULARY.padded(TOKENIZER.encode(text))


@torch.no_grad()
def plain_loop(built, ids, tokens):
    written = []
    while len(written) < tokens:
        read = torch.tensor([[*ids, *written]])
        logits = built.logits(built(read, Context(torch.arange(read.shape[1])[None])))[0, -1]
        written.append(VOCABULARY.first + int(logits[VOCABULARY.first :].argmax()))
    return written


def test_the_engine_draws_what_a_plain_loop_draws():
    built = network()
    engine, prompts = Engine(built, TOKENIZER, 3), [prompt(text) for text in ("red", "a cube", "", "two")]
    answers = engine.run([drawing.request(ids, tokenizer(), Sampling()) for ids in prompts])
    for ids, (answer,) in zip(prompts, answers, strict=True):
        assert answer.ids == plain_loop(built, ids, SIDE * SIDE)
        assert (answer.text, answer.finish, answer.tokens) == ("", "stop", SIDE * SIDE)
    assert len({tuple(answer.ids) for (answer,) in answers}) > 1


def test_pictures_are_drawn_beside_texts():
    """A text never holds a code, whatever its logits; each is what it is alone."""
    built = network()
    requests = [
        drawing.request(prompt("red"), tokenizer(), Sampling(temperature=1.0, top_k=4, seed=3)),
        Request(TOKENIZER.encode("red"), Sampling(max_tokens=20, temperature=1.0, seed=3)),
    ]
    together = Engine(built, TOKENIZER, 4).run(requests)
    alone = [Engine(built, TOKENIZER, 1).run([one])[0] for one in requests]
    assert [one.ids for (one,) in together] == [one.ids for (one,) in alone]
    assert all(i >= VOCABULARY.first for i in together[0][0].ids)
    assert all(i < VOCABULARY.text for i in together[1][0].ids)


def test_samples_follow_temperature_and_top_k():
    built, ids = network(), prompt("a")
    dials = Sampling(temperature=1.3, top_k=3, n=300, seed=1)
    answers = Engine(built, TOKENIZER, 50).run([Request(ids, dials, drawing=Drawing(VOCABULARY.first, CODES, 1))])[0]
    logits = built.logits(built(torch.tensor([ids]), Context(torch.arange(TEXT)[None])))[0, -1, VOCABULARY.first :]
    best = logits.topk(3)
    drawn = torch.bincount(torch.tensor([one.ids[0] - VOCABULARY.first for one in answers]), minlength=CODES) / 300
    assert set(drawn.nonzero()[:, 0].tolist()) <= set(best.indices.tolist())
    expected = torch.zeros(CODES).index_copy(0, best.indices, (best.values.detach() / 1.3).softmax(0))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.1)


def test_a_picture_goes_on_from_its_upper_part():
    built, made = network(), tokenizer()
    pixels = torch.rand(3, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    upper = drawing.upper_part(pixels, 2, made)
    assert upper == made.encode(pixels[None])[0][: 2 * SIDE]
    sampling = Sampling(temperature=1.0, n=2, seed=0)
    (drawn,) = drawing.draw(Engine(built, TOKENIZER, 2), made, [prompt("red")], sampling, [upper])
    assert drawn.shape == (2, 3, 2 * SIDE, 2 * SIDE)
    (greedy,) = Engine(built, TOKENIZER, 1).run([drawing.request(prompt("red"), made, Sampling(), upper)])
    assert greedy[0].ids == plain_loop(built, [*prompt("red"), *upper], 3 * SIDE)
    whole = made.decode([[*upper, *greedy[0].ids]])
    assert torch.equal(whole, made.autoencoder.pixels(VOCABULARY.grids([[*upper, *greedy[0].ids]])))


def test_ranking_puts_the_pictures_that_fit_first():
    vision = ViTConfig(8, 4, 1, 16, Attention(2, bias=True), MLP(32, "quick_gelu", True))
    text = gpt3(1, 16, 2, band=None, vocab_size=30, context_length=8)
    clip = CLIP(CLIPConfig(vision, text, 8)).initialize(0).eval()
    matcher = Matcher(clip, TOKENIZER)
    pixels = torch.rand(70, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = torch.tensor([3, 7, 29, 1])
    wanted = clip.encode_text(ids[None])[0].detach()
    order, fits = matcher.rank(pixels, wanted)
    expected = (clip.encode_image(pixels) @ wanted).detach()
    torch.testing.assert_close(fits, expected[order])
    assert (fits[:-1] >= fits[1:]).all()
    assert sorted(order.tolist()) == list(range(70))
    larger = torch.nn.functional.interpolate(pixels, scale_factor=2, mode="nearest")
    assert matcher.rank(larger, wanted)[0].shape == (70,)
    with pytest.raises(ConfigError, match="1 to 512"):
        matcher.rank(pixels[:0], wanted)


def test_ids_and_codes_are_inverse_and_padding_has_its_place():
    codes = torch.randint(CODES, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    assert torch.equal(VOCABULARY.grids(VOCABULARY.ids(codes)), codes)
    assert VOCABULARY.ids(codes)[1][SIDE] == VOCABULARY.first + int(codes[1, 1, 0])
    assert VOCABULARY.padded([1, 2])[2:] == [VOCABULARY.text + place for place in range(2, TEXT)]
    assert VOCABULARY.size == TOKENIZER.vocab_size + TEXT + CODES == network().config.vocab_size


def test_a_batch_weighs_text_and_picture_as_published():
    codes = torch.randint(CODES, (2, SIDE, SIDE))
    batch = training_batch([[1, 2, 3], [4]], codes, VOCABULARY)
    assert batch.ids.shape == (2, TEXT + SIDE * SIDE - 1)
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    assert batch.targets[0, -1] == VOCABULARY.first + codes[0, -1, -1]
    picture = batch.targets >= VOCABULARY.first
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(2))
    torch.testing.assert_close((batch.weights * picture).sum(1), torch.full((2,), 7 / 8))
    assert len(batch.weights[picture].unique()) == len(batch.weights[~picture].unique()) == 1


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: VOCABULARY.padded([1] * 10), TokenizerError, "reads 9"),
        (lambda: VOCABULARY.grids([[1] * 25]), TokenizerError, "not the 25 tokens"),
        (lambda: ImageTokenizer(tokenizer().autoencoder, JointVocabulary(5, 2, 8, 4, 4)), TokenizerError, "belong"),
        (lambda: drawing.request([1] * 12, tokenizer(), Sampling()), TooLong, "shorten the text"),
        (lambda: drawing.request([1], tokenizer(), Sampling(stop=("a",))), ConfigError, "leave them out"),
        (lambda: drawing.request([1], tokenizer(), Sampling(beam_size=2)), ConfigError, "leave them out"),
        (lambda: Request([1], drawing=Drawing(300, 40, 2)), ConfigError, "belongs to the model"),
        (lambda: drawing.request([1], tokenizer(), Sampling(), [1] * 25), ConfigError, "nothing to complete"),
        (lambda: drawing.upper_part(torch.zeros(3, 10, 10), 5, tokenizer()), ConfigError, "give 1 to 4"),
    ],
)
def test_mistakes_are_named(ask, error, words):
    engine = Engine(network(), TOKENIZER, 2)
    with pytest.raises(error, match=words):
        engine.submit(ask())


def test_it_learns_to_draw_what_a_text_says():
    """Four texts, each with a picture of its own; the engine draws each from its text."""
    config = dalle(
        2, 48, 2, text=TOKENIZER.vocab_size, text_length=TEXT, codes=CODES, height=SIDE, width=SIDE, kernel=3
    )
    built = Transformer(config).initialize(0).train()
    texts = [TOKENIZER.encode(text) for text in ("red", "blue", "a cube", "two")]
    codes = torch.randint(CODES, (4, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    batch, objective = training_batch(texts, codes, VOCABULARY), LanguageModelling()
    optimizer = torch.optim.Adam(built.parameters(), 4e-3)
    for _ in range(60):
        loss = objective.loss(built, batch)
        optimizer.zero_grad()
        (loss.sum / loss.weight).backward()
        optimizer.step()
    assert loss.sum / loss.weight < 0.5
    prompts = [VOCABULARY.padded(ids) for ids in texts]
    answers = Engine(built, TOKENIZER, 4).run([drawing.request(ids, tokenizer(), Sampling()) for ids in prompts])
    assert torch.equal(VOCABULARY.grids([one.ids for (one,) in answers]), codes)
