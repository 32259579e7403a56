"""SentencePiece models (Kudo and Richardson 2018, arXiv:1808.06226) as tokenizers of the `tokenizers` library.

A model file is one protobuf message; the numbers of the fields that matter are those of sentencepiece_model.proto.
Normalisation goes by the library's `Precompiled`, as in the fast tokenizers of transformers: where a combining mark
follows a character that the map changes (a ligature, a half-width letter), the library drops the mark.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from polytask.errors import TokenizerError
from polytask.tokenizers.guard import literally

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"
_NEVER = "\uffff"  # a noncharacter (Unicode 23.7): in front of a piece, it keeps text from ever matching it


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


@dataclass
class SentencePiece:
    """What a model file says. begin: the id of its token for the beginning of a text, where it has one."""

    pieces: list[Piece] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    begin: int = 1
    suffix: bool = False  # spaces belong to the word before them
    characters_map: bytes = b""
    dummy_prefix: bool = True
    single_spaces: bool = True
    escaped_spaces: bool = True


def parse(data: bytes, where: str) -> SentencePiece:
    """A model file. Raises TokenizerError where the bytes are none, or use what we cannot read."""
    model = SentencePiece()
    try:
        for number, value in _fields(data):
            if number == 1:
                part = dict(_fields(value))
                (score,) = struct.unpack("<f", part.get(2, bytes(4)))
                score = float(f"{score:.9g}")  # all digits that a float has: tokenizer.json gives back no longer ones
                model.pieces.append(Piece(part[1].decode("utf-8"), score, part.get(3, NORMAL)))
            elif number == 2:
                _trainer(model, dict(_fields(value)))
            elif number == 3:
                _normalizer(model, dict(_fields(value)))
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, struct.error):
        model.pieces = []
    if sum(piece.kind == UNKNOWN for piece in model.pieces) != 1:
        raise TokenizerError(f"{where}: this is not a SentencePiece model. Copy the file again from its source.")
    if model.algorithm not in (UNIGRAM, BPE) or model.suffix or not model.escaped_spaces:
        raise TokenizerError(
            f"{where}: we read SentencePiece models of the kinds unigram and bpe with spaces before words, and this is "
            "another; convert it to a tokenizer.json with the tool that it came with."
        )
    return model


def _trainer(model: SentencePiece, said: Mapping[int, Any]) -> None:
    model.algorithm, model.byte_fallback = said.get(3, UNIGRAM), bool(said.get(35, 0))
    model.begin, model.suffix = said.get(41, 1), bool(said.get(24, 0))


def _normalizer(model: SentencePiece, said: Mapping[int, Any]) -> None:
    model.characters_map, model.dummy_prefix = said.get(2, b""), bool(said.get(3, 1))
    model.single_spaces, model.escaped_spaces = bool(said.get(4, 1)), bool(said.get(5, 1))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a protobuf message: integers, and the bytes of all else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value - (1 << 64) if value >> 63 else value
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(kind)
        if place + size > len(data):
            raise ValueError(size)
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(the number that begins at `place`, 7 bits a byte and the lowest first; the place after it)."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def build(model: SentencePiece) -> Tokenizer:
    """The tokenizer that gives the model's ids, and its tokens for beginning, end and the like as special ones."""
    pieces = [piece.text for piece in model.pieces]
    tokenizer = Tokenizer(_unigram(model) if model.algorithm == UNIGRAM else _bpe(model))
    _wire(tokenizer, model)
    special = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if tokenizer.get_vocab_size() != len(pieces):
        raise TokenizerError("The SentencePiece model names a piece twice. Copy the file again from its source.")
    return tokenizer


def build_pair(source: SentencePiece, target: SentencePiece, vocabulary: Mapping[str, int]) -> list[Tokenizer]:
    """Tokenizers of the texts that a model reads and of those that it writes, over one vocabulary of both (Marian).

    A piece that the vocabulary lacks is not used. Tokens such as >>fra<<, which name a language, are known whole.
    """
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[text] for text in order] != list(range(len(order))) or "<unk>" not in vocabulary:
        raise TokenizerError("vocab.json: its ids must count from 0 without a gap, and one must be that of <unk>.")
    special = [text for text in order if text in ("<unk>", "</s>", "<pad>", "<s>")]
    languages = [text for text in order if text.startswith(">>") and text.endswith("<<")]
    made = []
    for side in (source, target):
        if side.algorithm != UNIGRAM:
            raise TokenizerError("We read pairs of SentencePiece models of the kind unigram alone.")
        own = {piece.text: piece.score for piece in side.pieces if piece.kind == NORMAL}
        whole = {*special, *languages}
        rows = [(text if text in own or text in whole else _NEVER + text, own.get(text, 0.0)) for text in order]
        tokenizer = Tokenizer(models.Unigram(rows, unk_id=vocabulary["<unk>"], byte_fallback=False))
        _wire(tokenizer, side)
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in languages])
        made.append(tokenizer)
    return made


def _unigram(model: SentencePiece) -> Any:
    best = max((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)
    rows = []
    for text, score, kind in model.pieces:
        if kind == USER_DEFINED:  # as unigram_model.cc scores them, so that they win
            score = len(text.encode()) * best - 0.1
        rows.append((_NEVER + text if kind == UNUSED else text, score))
    unknown = next(i for i, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    return models.Unigram(rows, unk_id=unknown, byte_fallback=model.byte_fallback)


def _bpe(model: SentencePiece) -> Any:
    """Any two neighbours merge whose union is a piece, the best piece first; so every way to cut a piece is a merge."""
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    normal = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    merges = []
    for text, score, kind in model.pieces:
        if kind == NORMAL:
            cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
            merges += [(-score, ids[text], pair) for pair in cuts if pair[0] in normal and pair[1] in normal]
    unknown = next(piece.text for piece in model.pieces if piece.kind == UNKNOWN)
    return models.BPE(
        vocab=ids, merges=[pair for *_, pair in sorted(merges)], unk_token=unknown, fuse_unk=True,
        byte_fallback=model.byte_fallback, ignore_merges=any(piece.kind == USER_DEFINED for piece in model.pieces),
    )  # fmt: skip


def _wire(tokenizer: Tokenizer, model: SentencePiece) -> None:
    """What happens to a text before and after the model, in the order of SentencePiece's normalizer.cc."""
    steps: list[Any] = []
    if model.characters_map:
        steps.append(normalizers.Precompiled(model.characters_map))
    if model.single_spaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if model.single_spaces:
        steps.append(normalizers.Replace(Regex(f"{SPACE}+\\z"), ""))
    tokenizer.normalizer = normalizers.Sequence(steps)
    cuts: list[Any] = []
    whole = sorted((p.text for p in model.pieces if p.kind == USER_DEFINED), key=len, reverse=True)
    if model.characters_map and any(steps[0].normalize_str(text) != text for text in whole):
        raise TokenizerError(
            "The SentencePiece model holds whole pieces that its own normalisation would change, which we cannot keep "
            "apart; convert it to a tokenizer.json with the tool that it came with."
        )
    if whole and model.algorithm == BPE:
        cuts.append(pre_tokenizers.Split(Regex("|".join(literally(text) for text in whole)), "isolated"))
    usable = [piece.text for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)]
    if SPACE in usable and not any(SPACE in text[1:] for text in usable):
        # No piece goes on over a space, so words may be cut apart, which is faster: the library remembers many.
        cuts.append(pre_tokenizers.Split(SPACE, "merged_with_next"))
    if cuts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    ends = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    never = [decoders.Replace(_NEVER, "")]
    tokenizer.decoder = decoders.Sequence(
        [*never, decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
