"""SentencePiece models trained on a few generated sentences, and texts to try them on."""

import io
import random
import unicodedata
from functools import lru_cache

import sentencepiece

WORDS = [
    "the", "quick", "brown", "fox", "jumps", "über", "lazy", "hund", "straße", "東京", "слово", "½", "ﬁne", "running",
    "it's", "1234",
]  # fmt: skip


@lru_cache(maxsize=32)
def trained(**words) -> bytes:
    """The bytes of a model; `words` as sentencepiece takes them."""
    words = {"vocab_size": 120, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | words
    rng, model = random.Random(0), io.BytesIO()
    lines = [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(200)]
    for name in ("user_defined_symbols", "control_symbols"):
        words |= {name: list(words[name])} if name in words else {}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **words)
    return model.getvalue()


def texts(count: int, marks: bool, seed: int = 0) -> list[str]:
    """Random Unicode texts among words, spaces and what spells structure; combining marks only where asked."""
    rng = random.Random(seed)
    return ["".join(_piece(rng, marks) for _ in range(rng.randrange(14))) for _ in range(count)]


def _piece(rng: random.Random, marks: bool) -> str:
    chance = rng.random()
    if chance < 0.6:
        return chr(rng.randrange(32, 127))
    if chance < 0.8:
        return rng.choice([" ", "  ", "\t", "\n", "\xa0", "\u3000", "aaaa", "the", "quick", "<s>", "</s>", "<0x41>"])
    ranges = [(0xA0, 0x3000), (0x3000, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFFFE), (0x10000, 0x20000)]
    character = chr(rng.randrange(*rng.choice(ranges)))
    plain = unicodedata.category(character)[0] != "M" and unicodedata.category(character) != "Cn"
    return character if marks or plain else "x"
