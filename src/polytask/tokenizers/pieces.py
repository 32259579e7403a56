"""The bytes that each id adds to a text."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenizers import Tokenizer

# Decoders under which an id's text depends on no neighbour, save that the first one may lose the space before it.
PLAIN = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}


class Spelling(NamedTuple):
    """pieces: the bytes of each id inside a text. special: the ids that are structure, not text. opens: whether a text
    loses one space in front of its first id."""

    pieces: list[bytes]
    special: frozenset[int]
    opens: bool


def byte_characters() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's table), as character -> byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in plain]
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = byte_characters()


def spelling(tokenizer: Tokenizer, size: int) -> Spelling | None:
    """Of ids below `size`; None where their texts depend on their neighbours (WordPiece and the like)."""
    kinds = list(_kinds(tokenizer))
    added = tokenizer.get_added_tokens_decoder()
    special = frozenset(i for i, token in added.items() if token.special)
    if kinds in (["ByteLevel"], ["ByteFallback", "Fuse"]):
        pieces = [b""] * size
        for token, i in tokenizer.get_vocab().items():
            pieces[i] = token.encode() if i in added else _bytes_of(token, kinds[0])
        return Spelling(pieces, special, False)
    return _by_decoding(tokenizer, size, special) if kinds and set(kinds) <= PLAIN else None


def _by_decoding(tokenizer: Tokenizer, size: int, special: frozenset[int]) -> Spelling | None:
    words = (i for i in range(size) if i not in special and tokenizer.decode([i]).strip().isalpha())
    if (anchor := next(words, None)) is None:
        return None
    before = len(tokenizer.decode([anchor]))
    texts = tokenizer.decode_batch([[anchor, i] for i in range(size)], skip_special_tokens=False)
    pieces = [text[before:].encode() for text in texts]
    for byte in range(256):
        if (i := tokenizer.token_to_id(f"<0x{byte:02X}>")) is not None and i not in special:
            pieces[i] = bytes([byte])
    spaced = next((i for i, piece in enumerate(pieces) if len(piece) > 1 and piece.startswith(b" ")), None)
    opens = spaced is not None and tokenizer.decode([spaced], skip_special_tokens=False).encode() != pieces[spaced]
    return Spelling(pieces, special, opens)


def _bytes_of(token: str, kind: str) -> bytes:
    if kind == "ByteLevel":
        return bytes(BYTES[character] for character in token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.encode()


def _kinds(tokenizer: Tokenizer) -> Iterator[str]:
    decoder: dict[str, Any] = json.loads(tokenizer.to_str(pretty=False)).get("decoder") or {}
    for part in decoder.get("decoders", [decoder] if decoder else []):
        yield part.get("type", "")
