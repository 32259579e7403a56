"""Text and ids: byte-level BPE, plain bytes, or characters, all of which give any UTF-8 text back exactly.

A trained tokenizer is one `tokenizer.json` of the `tokenizers` library, so other tools can read it. The special
ids come first and mark structure; text that a user wrote can never produce them, even where it spells them.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from polytask.errors import TokenizerError
from polytask.tokenizers import conventions as customs
from polytask.tokenizers.broken import BROKEN, broken
from polytask.tokenizers.chat import ChatTemplate
from polytask.tokenizers.conventions import Conventions
from polytask.tokenizers.files import JSON, TARGET, from_json, load_folder, read_text
from polytask.tokenizers.guard import guarded
from polytask.tokenizers.pieces import BYTES, Spelling, spelling

if TYPE_CHECKING:
    from polytask.models.dvae import Autoencoder
    from polytask.tokenizers.image import ImageTokenizer
    from polytask.tokenizers.sight import Sight
    from polytask.tokenizers.stream import TextStream

MASKS = 32  # sentinels for span corruption; T5 has 100, more than a row of our lengths ever uses
SPECIAL: tuple[str, ...] = (
    "<|end|>",
    "<|pad|>",
    "<|text|>",
    "<|task|>",
    "<|answer|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    *(f"<|mask_{i}|>" for i in range(MASKS)),
)

# How GPT-4 cuts text before merging (cl100k_base of tiktoken): contractions, words with the space or sign before
# them, numbers of up to three digits, runs of signs, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What closes a document in tokenizers of other projects, for checkpoints that were imported.
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")
PADS = ("<pad>", "[PAD]", "<|padding|>")

# How `encode` lays conversations out, for tools that go by a template.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class TextTokenizer:
    """Wraps one `tokenizers.Tokenizer`; ids are integers below `vocab_size`.

    `special` maps names of structure ("<|end|>", ...) to ids. A tokenizer of another project has only the end and the
    padding; `with_special` adds the rest. `ends` are the ids that close an answer, `begin` those that stand in front of
    every document. `writing` is the tokenizer of what the model writes, itself unless `target` is another one over the
    same ids. `pictures` reads and draws pictures, whose ids come after those of texts, or (`Sight`) says where the
    network looks at them by itself; None where there are but texts.
    """

    pictures: "ImageTokenizer | Sight | None" = None

    def __init__(
        self, tokenizer: Tokenizer, conventions: Conventions | None = None, target: Tokenizer | None = None
    ):  # fmt: skip
        self._tokenizer, self._target = tokenizer, target
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._encoder = guarded(tokenizer)  # what a user spells is text, never structure
        self.conventions = conventions or Conventions()
        self.special = _special(tokenizer, self.conventions)
        end = self.special.get("<|end|>")
        self.ends = self.conventions.ends or (() if end is None else (end,))
        self.begin = () if "<|text|>" in self.special else _begin(tokenizer)
        self.start = self.special.get("<|start|>", self.special.get("<|pad|>", -1))
        self.vocab_size = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.writing = self if target is None else TextTokenizer(target, conventions)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "TextTokenizer":
        """Learns byte-level BPE with at most `size` ids (fewer where `texts` hold too few different pairs).

        Raises TokenizerError where `size` cannot hold the bytes and the special ids.
        """
        least = len(SPECIAL) + 256
        if size < least:
            raise TokenizerError(f"A vocabulary of {size} is too small: bytes and special ids alone take {least}.")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=_added(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=2,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def bytes(cls) -> "TextTokenizer":
        """One id a byte: id = len(SPECIAL) + byte."""
        characters = {byte: character for character, byte in BYTES.items()}
        tokenizer = _without_merges([characters[byte] for byte in range(256)], byte_fallback=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return cls(tokenizer)

    @classmethod
    def characters(cls, texts: Iterable[str]) -> "TextTokenizer":
        """One id for each character of `texts`; a character not among them becomes its UTF-8 bytes."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        pieces = [f"<0x{byte:02X}>" for byte in range(256)] + sorted(seen)
        tokenizer = _without_merges(pieces, byte_fallback=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TextTokenizer":
        """Reads a `tokenizer.json`, or whatever tokenizer a model's folder has (`files`), with what the folder says of
        its use (`conventions`). Raises TokenizerError where it is missing or broken."""
        file = Path(path)
        if file.is_dir():
            tokenizer, target, conventions = load_folder(file)
            return cls(tokenizer, conventions, target)
        return cls.from_json(read_text(file), where=str(file))

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json") -> "TextTokenizer":
        """The tokenizer that `to_json` wrote. Raises TokenizerError where the text is not one."""
        return cls(from_json(text, where))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json`; into `path` where that is a folder, with what else `load` takes from one."""
        file = Path(path)
        if file.is_dir():
            if self.conventions != Conventions():
                customs.write(file, self.conventions, self._tokenizer)
            if self._target is not None:
                (file / TARGET).write_text(self.writing.to_json(), encoding="utf-8")
            file = file / JSON
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        return self._tokenizer.to_str(pretty=False)

    def with_special(self) -> "TextTokenizer":
        """A copy that knows all of SPECIAL; what was missing gets new ids at the end of the vocabulary."""
        tokenizer = Tokenizer.from_str(self.to_json())
        tokenizer.add_special_tokens(_added([name for name in SPECIAL if name not in self.special]))
        return TextTokenizer(tokenizer, self.conventions)

    @property
    def drawing(self) -> "ImageTokenizer | None":
        """What reads and draws pictures as tokens."""
        return None if self.pictures is None or not self.pictures.draws else cast("ImageTokenizer", self.pictures)

    @property
    def sight(self) -> "Sight | None":
        """Where the network looks at pictures by itself."""
        return None if self.pictures is None or self.pictures.draws else cast("Sight", self.pictures)

    def with_pictures(self, autoencoder: "Autoencoder", text_length: int | None = None) -> "TextTokenizer":
        """A copy that reads and draws pictures too, by a network that makes codes of them.

        text_length: tokens of a text, in DALL-E's layout. Raises TokenizerError where the network is no autoencoder.
        """
        from polytask.tokenizers.image import ImageTokenizer  # torch, which texts do without

        made = TextTokenizer(self._tokenizer, self.conventions, self._target)
        made.pictures = ImageTokenizer.beside(autoencoder, self.vocab_size, text_length)
        return made

    def with_sight(self, placeholder: int, tokens: int, side: int) -> "TextTokenizer":
        """A copy whose network looks at pictures of side x side pixels, with `tokens` states each, in the places of
        `placeholder`."""
        from polytask.tokenizers.sight import Places, Sight

        made = TextTokenizer(self._tokenizer, self.conventions, self._target)
        made.pictures = Sight(Places(self.vocab_size, placeholder, tokens), side)
        return made

    @property
    def size(self) -> int:
        """How many ids there are, those of pictures included."""
        return self.vocab_size if self.pictures is None else self.pictures.vocabulary.size

    def for_others(self) -> "TextTokenizer":
        """This tokenizer with all that other tools need to lay texts out as its model has seen them: what opens a plain
        text stands in front of any by itself, and conversations have a template."""
        if "<|text|>" not in self.special:
            pad, own = self.special["<|pad|>"], self.conventions
            parts = {"eos_token": self.special["<|end|>"], "pad_token": pad}
            tokens = {name: self._tokenizer.id_to_token(i) or "" for name, i in parts.items()}
            said = replace(own, ends=self.ends, pad=pad, tokens={**tokens, **own.tokens})
            return TextTokenizer(self._tokenizer, said, self._target)
        tokenizer = Tokenizer.from_str(self.to_json())
        opener = "<|text|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opener} $A", special_tokens=[(opener, self.special[opener])]
        )
        tokens = {"bos_token": opener, "eos_token": "<|end|>", "pad_token": "<|pad|>"}
        return TextTokenizer(tokenizer, Conventions(self.ends, self.special["<|pad|>"], None, tokens, TEMPLATE))

    @property
    def generation(self) -> dict[str, Any]:
        """What generation_config.json says of it."""
        return customs.generation(self.conventions, self._tokenizer)

    @cached_property
    def template(self) -> ChatTemplate | None:
        """How conversations are laid out, where a model that does not know our roles says so.

        Raises TokenizerError where its template is broken.
        """
        source = None if "<|answer|>" in self.special else self.conventions.template
        if not source:
            return None
        own = self.conventions
        return ChatTemplate(source, self._tokenizer, own.tokens, self.sight, self.begin, own.tool_template)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that decides which ids a text gets."""
        said = self.to_json()
        if self.conventions != Conventions():
            said += repr((self.ends, self.special, self.start, self.conventions.template))
            said += self.conventions.tool_template or ""
        if self._target is not None:
            said += self.writing.to_json()
        if self.pictures is not None:
            said += self.pictures.fingerprint
        return hashlib.sha256(said.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them special. Raises TokenizerError where it is not valid Unicode."""
        return self.encode_lists([text])[0]

    def encode_lists(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts at once, on all cores; do not change them, for equal texts may share a list."""
        try:
            different = list(dict.fromkeys(texts))  # prompts and answers repeat: in Tatoeba a fifth of all texts
            encodings = self._encoder.encode_batch_fast(different, add_special_tokens=False)
        except BROKEN as error:
            raise broken(texts) from error
        if len(different) == len(texts):
            return [encoding.ids for encoding in encodings]
        known = {text: encoding.ids for text, encoding in zip(different, encodings)}
        return [known[text] for text in texts]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of many texts at once as int32 arrays, on all cores."""
        return [np.array(ids, dtype=np.int32) for ids in self.encode_lists(texts)]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of ids; `special` also writes the names of special ids and of those of pictures.

        Bytes that are not valid UTF-8 (a model may write them) become the replacement character.
        """
        if self._target is not None:
            return self.writing.decode(ids, special)
        spelled = self._spelling
        ids = [int(i) for i in ids]
        if self.pictures is not None and max(ids, default=0) >= self.vocab_size:
            spell = self.pictures.vocabulary.spell if special else lambda _: ""
            runs = groupby(ids, lambda i: i < self.vocab_size)
            return "".join(self.decode(run, special) if texts else spell(run) for texts, run in runs)
        self._check(ids)
        if spelled is None:
            return self._tokenizer.decode(ids, skip_special_tokens=not special)
        hidden = frozenset() if special else spelled.special
        text = b"".join(spelled.pieces[i] for i in ids if i not in hidden).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if spelled.opens else text

    def piece(self, i: int) -> list[int] | None:
        """The bytes that an id stands for; None where they depend on its neighbours (tokenizers of others)."""
        self._check([i])
        spelled = self.writing._spelling
        return None if spelled is None else list(spelled.pieces[i])

    def stream(self, special: bool = False, within: bool = False) -> "TextStream":
        """Decodes one id at a time and holds back characters that are not complete; see TextStream."""
        from polytask.tokenizers.stream import TextStream

        return TextStream(self.writing, special, within)

    def _check(self, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenizerError(
                f"Id {wrong} is not in this tokenizer's vocabulary of {self.vocab_size}; "
                "use the tokenizer that belongs to the model."
            )

    def open_ended(self, ids: Sequence[int]) -> bool:
        """Whether what comes next goes on with a text, as the last id is one of a text and no structure."""
        spelled = self.writing._spelling
        return bool(ids) and (spelled is None or ids[-1] not in spelled.special)

    @property
    def spelling(self) -> Spelling:
        """The bytes of each id inside a text that the model writes. Raises TokenizerError where ids have none."""
        spelled = self.writing._spelling
        if spelled is None:
            raise TokenizerError(
                "This tokenizer's texts are not made of one id after the other, so that no answer of its model can be "
                "held to a grammar; leave the guide out."
            )
        return spelled

    @cached_property
    def _spelling(self) -> Spelling | None:
        return spelling(self._tokenizer, self.vocab_size)


def _without_merges(pieces: Sequence[str], byte_fallback: bool) -> Tokenizer:
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=byte_fallback))
    tokenizer.add_special_tokens(_added(SPECIAL))
    return tokenizer


def _added(names: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _special(tokenizer: Tokenizer, conventions: Conventions) -> dict[str, int]:
    """Ids of structure by our names; the end and padding of other projects' tokenizers go by ours as well."""
    known = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special = {name: known[name] for name in SPECIAL if name in known} if "<|task|>" in known else {}
    said = {"<|end|>": next(iter(conventions.ends), None), "<|pad|>": conventions.pad}
    for ours, theirs in (("<|end|>", ENDS), ("<|pad|>", PADS)):
        found = said[ours]
        if found is None:
            found = next((known[name] for name in theirs if name in known), None)
        if ours not in special and found is not None:
            special[ours] = found
    if "<|pad|>" not in special and "<|end|>" in special:
        special["<|pad|>"] = special["<|end|>"]  # padding has document 0 and weight 0, so its id is never read
    if conventions.start not in (None, special.get("<|pad|>")):
        special["<|start|>"] = conventions.start
    return special


def _begin(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer itself puts in front of a text."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    ours = encoding.special_tokens_mask
    return tuple(encoding.ids[: ours.index(0)]) if 0 in ours else ()
