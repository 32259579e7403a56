"""Segments become ids and loss weights: the only place that knows how examples are laid out.

    plain document     <|text|> text <|end|>
    task               <|task|> given <|answer|> target <|end|>          several in a row: few-shot
    conversation       <|user|> text <|assistant|> text <|end|> <|user|> ...
    picture            <|image|> codes <|end of image|>, wherever a text may stand, in a turn too; of a model that looks
                       by itself <|image|> for each state
    DALL-E             text padded to its length, codes; nothing else, and all of it is predicted

`weights[i]` is the weight of PREDICTING `ids[i]`: 1 for the tokens of targets and the <|end|> that closes them, else 0.
An opener that a tokenizer of another project does not know is left out, as its model has never seen it; what its model
expects in front of every document (<s>) is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polytask.errors import TokenizerError
from polytask.tasks.segment import Image, Text, to_draw
from polytask.tasks.segment import texts as texts_of

if TYPE_CHECKING:
    from polytask.tasks.segment import Segment
    from polytask.tokenizers.dropout import Cut
    from polytask.tokenizers.image import ImageTokenizer
    from polytask.tokenizers.text import TextTokenizer


@dataclass
class Encoded:
    """One document: ids (T,) int32 and the weight of predicting each of them (T,) float32."""

    ids: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Documents:
    """N documents side by side, T ids in all.

    `openers` says where the last answer's opener stands and `firsts` where the first predicted id does, both counted
    from the start of the document (0 and its length where nothing is predicted). `plain` is True where each is a text
    alone, with nothing given. Where the network looks at P pictures by itself, `pictures` says where among the ids each
    begins, and `pixels` what it shows.
    """

    ids: np.ndarray  # (T,) int32
    predicted: np.ndarray  # (T,) bool
    lengths: np.ndarray  # (N,) int64
    openers: np.ndarray  # (N,) int64
    firsts: np.ndarray  # (N,) int64
    plain: bool
    pictures: np.ndarray | None = None  # (P,) int64
    pixels: np.ndarray | None = None  # (P, S, S, 3) uint8


class _Piece(NamedTuple):
    """A special token (`name`) or a segment, in the order of the document."""

    name: str | None
    segment: "Segment | None"
    target: bool


class _Shape(NamedTuple):
    """What documents with the same kinds of segments have in common; the name of a segment is None.

    answers: which piece is the first predicted one, and which begins the last answer (both `len` where there is none).
    """

    names: tuple[str | None, ...]
    targets: tuple[bool, ...]
    answers: tuple[int, int]


def encode(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> Encoded:
    """One document. Raises TokenizerError where a text cannot be encoded."""
    return encode_many([segments], tokenizer)[0]


def encode_many(documents: "Sequence[Sequence[Segment]]", tokenizer: "TextTokenizer") -> list[Encoded]:
    """Many documents with one call of the tokenizer, which uses all cores."""
    joined = encode_documents(documents, tokenizer)
    weights = joined.predicted.astype(np.float32)
    ends = np.cumsum(joined.lengths).tolist()
    return [Encoded(joined.ids[a:b], weights[a:b]) for a, b in zip([0, *ends], ends)]


def encode_documents(
    documents: "Sequence[Sequence[Segment]]", tokenizer: "TextTokenizer", cut: "Cut | None" = None
) -> Documents:
    """Many documents joined, without a loop over tokens. cut: turns texts into ids in place of the tokenizer. Raises
    TokenizerError where a text cannot be encoded, and TaskError where a tokenizer of texts meets a picture."""
    if (pictures := _behind(tokenizer)) is not None:
        return _captioned(documents, tokenizer, pictures, cut)
    laid = _laid_by_template(documents, tokenizer)
    shapes = [
        _shape(_kinds(segments), bool(tokenizer.begin))
        if number not in laid
        else _shape_of_laid(tuple(target for _, target in laid[number]))
        for number, segments in enumerate(documents)
    ]
    free = [segment for number, segments in enumerate(documents) if number not in laid for segment in segments]
    encoded, given = iter(_encoded(free, tokenizer, cut)), iter([ids for parts in laid.values() for ids, _ in parts])
    special = _ids_by_name(tokenizer)
    names = chain.from_iterable(shape.names for shape in shapes)
    parts = [
        next(encoded) if name is None else next(given) if name == _LAID else special.get(name, _NOTHING)
        for name in names
    ]
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    counts = np.fromiter((len(shape.names) for shape in shapes), np.int64, len(shapes))
    piece_starts = np.cumsum(counts) - counts
    starts, lengths = ends[piece_starts], ends[piece_starts + counts] - ends[piece_starts]
    marks = np.array([shape.answers for shape in shapes], dtype=np.int64).reshape(-1, 2)
    firsts = np.where(marks[:, 0] < counts, ends[piece_starts + marks[:, 0]] - starts, lengths)
    openers = np.where(marks[:, 0] < counts, ends[piece_starts + marks[:, 1]] - starts - 1, 0)
    target = np.fromiter(chain.from_iterable(shape.targets for shape in shapes), bool, len(parts))
    plain = all(len(segments) == 1 and segments[0].target and segments[0].role is None for segments in documents)
    ids = np.fromiter(chain.from_iterable(parts), np.int32, int(ends[-1]))
    joined = Documents(ids, np.repeat(target, sizes), lengths, np.maximum(openers, 0), firsts, plain)
    return joined if tokenizer.sight is None else _looking(joined, documents, tokenizer)


def joined(parts: Sequence[Documents]) -> Documents:
    """All documents of one part or more, one part after the other."""

    def side_by_side(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    pictures = pixels = None
    if all(part.pictures is not None for part in parts):
        sizes = [len(part.ids) for part in parts]
        pictures, pixels = side_by_side("pictures"), side_by_side("pixels")
        pictures = pictures + np.repeat(
            np.cumsum(sizes) - sizes, [0 if part.pictures is None else len(part.pictures) for part in parts]
        )
    names = ("ids", "predicted", "lengths", "openers", "firsts")
    arrays = {name: side_by_side(name) for name in names}
    return Documents(**arrays, plain=all(part.plain for part in parts), pictures=pictures, pixels=pixels)


def prompt_ids(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> list[int]:
    """The given part and the opener of the answer, from which a model goes on.

    Where the last segment is itself a target it is a beginning: it stays open and the model continues it. A picture
    to be drawn (`to_draw`) is begun by its opener alone.
    A conversation goes by the model's own template where it brings one.
    No segments at all ask for a new plain document; where a tokenizer has no opener for one, it comes after the end of
    another.
    """
    if segments and segments[-1].role is not None and tokenizer.template is not None:
        return tokenizer.template.ids(segments)
    asked = to_draw(segments)
    if (pictures := _behind(tokenizer)) is not None:
        if not asked:
            raise TokenizerError("This model draws a picture from a text and does nothing else; ask it to draw.")
        return _caption(segments[:-1], tokenizer, pictures)
    if asked and (drawing := tokenizer.drawing) is not None:
        return [*prompt_ids(segments[:-1], tokenizer), drawing.vocabulary.begin]
    return _ids(_prompt_layout(segments, tokenizer), tokenizer) or [tokenizer.special["<|end|>"]]


def prefix_length(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> int:
    """How many of `prompt_ids` a prefix language model sees from both sides: all that comes before the first answer,
    as in training; of a plain text all that is given."""
    layout = _prompt_layout(segments, tokenizer)
    plain = len(segments) == 1 and segments[0].target and segments[0].role is None
    return len(_ids(layout if plain else layout[: _answers([piece.target for piece in layout])[0]], tokenizer))


def _prompt_layout(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> list[_Piece]:
    layout = _layout(segments, bool(tokenizer.begin))
    if segments and segments[-1].target:
        return layout[:-1]
    return [*layout, _special_piece(_next_opener(segments))]


def continuation_ids(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> list[int]:
    """What follows `prompt_ids` when the model answers with these segments: their ids and <|end|>."""
    layout = [_Piece(None, segment, True) for segment in segments]
    return _ids([*layout, _special_piece("<|end|>")], tokenizer)


def split_source(encoded: Encoded, tokenizer: "TextTokenizer") -> tuple[np.ndarray, Encoded]:
    """What an encoder-decoder reads and writes: (ids up to the last answer's opener, then <|end|>; opener, answer).

    A plain document has nothing given: its encoder reads <|end|> alone. Raises TokenizerError where nothing is
    to be predicted.
    """
    weighted = np.flatnonzero(encoded.weights > 0)
    if not len(weighted):
        raise TokenizerError("A document without an answer cannot train an encoder-decoder; give every row its answer.")
    breaks = np.flatnonzero(np.diff(weighted) > 1)
    start = int(weighted[breaks[-1] + 1] if len(breaks) else weighted[0])
    end = np.array([tokenizer.special["<|end|>"]], dtype=np.int32)
    if start and int(encoded.ids[start - 1]) in tokenizer.special.values():
        opener = start - 1
        return np.concatenate([encoded.ids[:opener], end]), Encoded(encoded.ids[opener:], encoded.weights[opener:])
    # A tokenizer of another project has no opener; its decoder starts as config.json says, or from padding, as T5 does.
    ids = np.concatenate([np.array([tokenizer.start], dtype=np.int32), encoded.ids[start:]])
    weights = np.concatenate([np.zeros(1, dtype=np.float32), encoded.weights[start:]])
    return np.concatenate([encoded.ids[:start], end]), Encoded(ids, weights)


def split_prompt(segments: "Sequence[Segment]", tokenizer: "TextTokenizer") -> tuple[list[int], list[int]]:
    """The prompt of an encoder-decoder: (encoder ids, the decoder's first ids).

    The encoder of another project's model also reads a plain text, which a model of ours goes on with.
    """
    end, bare = tokenizer.special["<|end|>"], "<|text|>" not in tokenizer.special
    if bare and len(segments) == 1 and segments[0].target:
        return [*tokenizer.begin, *tokenizer.encode(texts_of(segments)[0].text), end], [tokenizer.start]
    ids = prompt_ids(segments, tokenizer)
    begun = len(_encoded(segments[-1:], tokenizer)[0]) if segments and segments[-1].target else 0
    start = len(ids) - begun
    if start and ids[start - 1] in tokenizer.special.values():
        return [*ids[: start - 1], end], ids[start - 1 :]
    return [*ids[:start], end], [tokenizer.start, *ids[start:]]


_NOTHING: list[int] = []
_LAID = "laid out by a template"


def _laid_by_template(
    documents: "Sequence[Sequence[Segment]]", tokenizer: "TextTokenizer"
) -> dict[int, list[tuple[list[int], bool]]]:
    """The conversations among documents by their number, where the model brings a template for them."""
    template = tokenizer.template
    if template is None:
        return {}
    talks = {n: segments for n, segments in enumerate(documents) if segments and segments[-1].role is not None}
    return {n: template.parts(segments, tokenizer.ends) for n, segments in talks.items()}


def _shape_of_laid(targets: tuple[bool, ...]) -> _Shape:
    return _Shape((_LAID,) * len(targets), targets, _answers(targets))


def _ids(layout: list[_Piece], tokenizer: "TextTokenizer") -> list[int]:
    special = _ids_by_name(tokenizer)
    encoded = iter(_encoded([piece.segment for piece in layout if piece.segment is not None], tokenizer))
    ids: list[int] = []
    for piece in layout:
        ids += special.get(piece.name, _NOTHING) if piece.name is not None else next(encoded)
    return ids


def _ids_by_name(tokenizer: "TextTokenizer") -> dict[str, list[int]]:
    if "<|end|>" not in tokenizer.special:
        raise TokenizerError(
            "This tokenizer has no token that ends a document; add the special tokens with `with_special()`."
        )
    return {name: [i] for name, i in tokenizer.special.items()} | {"<|begin|>": list(tokenizer.begin)}


def _encoded(segments: "Sequence[Segment]", tokenizer: "TextTokenizer", cut: "Cut | None" = None) -> list[list[int]]:
    """The ids of each segment."""
    pictures = [segment.data for segment in segments if isinstance(segment, Image)]
    if not pictures or tokenizer.pictures is None:
        return _encoded_texts(texts_of(segments), tokenizer, cut)
    if tokenizer.drawing is None and any(segment.target for segment in segments if isinstance(segment, Image)):
        raise TokenizerError("This model looks at pictures and draws none; ask one that draws.")
    drawn = iter(tokenizer.pictures.among(pictures))
    texts = [segment for segment in segments if isinstance(segment, Text)]
    written = iter(_encoded_texts(texts, tokenizer, cut))
    return [next(drawn) if isinstance(segment, Image) else next(written) for segment in segments]


def _encoded_texts(texts: Sequence[Text], tokenizer: "TextTokenizer", cut: "Cut | None" = None) -> list[list[int]]:
    if cut is not None or tokenizer.writing is tokenizer:
        return (cut or tokenizer.encode_lists)([one.text for one in texts])
    read = iter(tokenizer.encode_lists([one.text for one in texts if not one.target]))
    written = iter(tokenizer.writing.encode_lists([one.text for one in texts if one.target]))
    return [next(written if one.target else read) for one in texts]


def _behind(tokenizer: "TextTokenizer") -> "ImageTokenizer | None":
    """What draws a picture behind every text, as DALL-E does."""
    drawing = tokenizer.drawing
    return drawing if drawing is not None and drawing.vocabulary.padding else None


def _looking(joined: Documents, documents: "Sequence[Sequence[Segment]]", tokenizer: "TextTokenizer") -> Documents:
    """With the pictures at which the network looks by itself."""
    sight = tokenizer.sight
    assert sight is not None
    begins = np.flatnonzero(joined.ids == sight.vocabulary.placeholder)[:: sight.vocabulary.tokens]
    files = [segment.data for segments in documents for segment in segments if isinstance(segment, Image)]
    return replace(joined, pictures=begins, pixels=sight.pixels(files))


def _captioned(
    documents: "Sequence[Sequence[Segment]]", tokenizer: "TextTokenizer", pictures: "ImageTokenizer",
    cut: "Cut | None",
) -> Documents:  # fmt: skip
    """A text and the picture behind it (Ramesh et al. 2021, section 2.2)."""
    drawn = [segments[-1] for segments in documents if segments]
    if len(drawn) < len(documents) or not all(isinstance(one, Image) and one.target for one in drawn):
        raise TokenizerError(_DRAWS_ONLY)
    codes = pictures.read([one.data for one in drawn if isinstance(one, Image)])
    rows = [[*_caption(given[:-1], tokenizer, pictures, cut), *ids] for given, ids in zip(documents, codes)]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    ids = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
    openers, firsts = np.zeros_like(lengths), np.ones_like(lengths)
    return Documents(ids, np.ones(len(ids), dtype=bool), lengths, openers, firsts, plain=False)


_DRAWS_ONLY = (
    "This tokenizer lays out a text and the picture that it asks for, as DALL-E does, and nothing else; take tasks "
    "that draw from a text, or leave tokenizer.pictures.text_length out."
)


def _caption(
    segments: "Sequence[Segment]", tokenizer: "TextTokenizer", pictures: "ImageTokenizer", cut: "Cut | None" = None
) -> list[int]:
    if any(isinstance(segment, Image) for segment in segments):
        raise TokenizerError(_DRAWS_ONLY)
    text = "\n".join(one.text for one in texts_of(segments))
    return pictures.vocabulary.padded((cut or tokenizer.encode_lists)([text])[0])


def _special_piece(name: str) -> _Piece:
    return _Piece(name, None, False)


def _next_opener(segments: "Sequence[Segment]") -> str:
    if not segments:
        return "<|text|>"
    return "<|answer|>" if segments[-1].role is None else "<|assistant|>"


def _layout(segments: "Sequence[Segment]", begins: bool) -> list[_Piece]:
    shape = _shape(_kinds(segments), begins)
    given = iter(segments)
    return [_Piece(name, next(given) if name is None else None, t) for name, t in zip(shape.names, shape.targets)]


def _kinds(segments: "Sequence[Segment]") -> tuple[tuple[str | None, bool, bool], ...]:
    """Role and target of each, and whether it goes on with the turn before it: pictures stand among the texts of one,
    and two texts are two turns."""
    if not any(segment.role is not None and isinstance(segment, Image) for segment in segments):
        return tuple([(segment.role, segment.target, False) for segment in segments])
    found = []
    for before, segment in zip((None, *segments), segments):
        beside = isinstance(segment, Image) or isinstance(before, Image)
        found.append((segment.role, segment.target, before is not None and beside and before.role == segment.role))
    return tuple(found)


@lru_cache(maxsize=1024)
def _shape(segments: tuple[tuple[str | None, bool, bool], ...], begins: bool) -> _Shape:
    """The layout of segments, as `_kinds` has them; `begins`: something stands in front of them all."""
    pieces: list[tuple[str | None, bool]] = [("<|begin|>", False)] if begins else []
    asked = False  # is there a given part that the next target answers?
    for index, (role, target, goes_on) in enumerate(segments):
        if role is not None:
            pieces += [] if goes_on else [(f"<|{role}|>", False)]
            asked = True
        elif target:
            pieces.append(("<|answer|>" if asked else "<|text|>", False))
        elif not index or segments[index - 1][1] or segments[index - 1][0] is not None:
            pieces.append(("<|task|>", False))
            asked = True
        pieces.append((None, target))
        # An earlier answer of the assistant that is not learnt from still ends as the model always saw it end; the
        # very last one stays open, for a prompt may begin the answer.
        closes = role == "assistant" and index + 1 < len(segments)
        if target or closes:
            pieces.append(("<|end|>", target))
    targets = tuple(target for _, target in pieces)
    return _Shape(tuple(name for name, _ in pieces), targets, _answers(targets))


def _answers(targets: Sequence[bool]) -> tuple[int, int]:
    """As `_Shape.answers`."""
    begins = [i for i, target in enumerate(targets) if target and not (i and targets[i - 1])]
    return (begins[0], begins[-1]) if begins else (len(targets), len(targets))
