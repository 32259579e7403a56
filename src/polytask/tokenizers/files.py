"""The tokenizer in a model's folder, whatever files it is kept in.

tokenizer.json                           of the `tokenizers` library; target_tokenizer.json beside it writes
source.spm, target.spm, vocab.json       two SentencePiece models over one vocabulary (Marian)
tokenizer.model or spiece.model          a SentencePiece model (Llama 1, Gemma, T5)
vocab.json, merges.txt                   byte-level BPE (GPT-2)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from polytask.errors import TokenizerError
from polytask.tokenizers import sentencepiece
from polytask.tokenizers.conventions import Conventions, read, read_json

JSON, TARGET = "tokenizer.json", "target_tokenizer.json"
PAIR = ("source.spm", "target.spm", "vocab.json")
MODELS = ("tokenizer.model", "spiece.model")
MERGES = ("vocab.json", "merges.txt")
BYTE_LEVEL = (None, "GPT2Tokenizer", "GPT2TokenizerFast")  # others cut words in another way before they merge


def load_folder(folder: Path) -> tuple[Tokenizer, Tokenizer | None, Conventions]:
    """(the tokenizer, the one for what the model writes where that is another, what the model expects around texts).

    Raises TokenizerError where the folder has no tokenizer, or a broken one.
    """
    tokenizers, opens = _tokenizers(folder)
    said, config = read_json(folder / "tokenizer_config.json"), read_json(folder / "config.json")
    for tokenizer in tokenizers:
        _add(tokenizer, folder, said)
    conventions = read(folder, tokenizers[0])
    closes = bool(said.get("add_eos_token", config.get("is_encoder_decoder", False)))
    for tokenizer in tokenizers:
        _mark(tokenizer, conventions)
        if opens is not None:
            _surround(tokenizer, conventions, bool(said.get("add_bos_token", opens)), closes)
    return tokenizers[0], tokenizers[1] if len(tokenizers) > 1 else None, conventions


def read_text(file: Path) -> str:
    """Raises TokenizerError where that fails."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"{file}: cannot read the tokenizer ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{file}: this is not a {file.name} (it is not UTF-8 text).") from error


def from_json(text: str, where: str) -> Tokenizer:
    """Raises TokenizerError where the text is no tokenizer."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"{where}: this is not a tokenizer that we can read ({error}). Copy the file again from its source."
        ) from error


def _tokenizers(folder: Path) -> tuple[list[Tokenizer], bool | None]:
    """(one tokenizer, or those that read and write; whether a text begins with a token, None where the files of the
    tokenizer say so themselves)."""

    def has(*names: str) -> bool:
        return all((folder / name).is_file() for name in names)

    if has(JSON):
        names = [JSON, TARGET] if has(TARGET) else [JSON]
        return [from_json(read_text(folder / name), str(folder / name)) for name in names], None
    if has(*PAIR):
        source, target = (_parse(folder / name) for name in PAIR[:2])
        return sentencepiece.build_pair(source, target, read_json(folder / PAIR[2])), False
    for name in MODELS:
        if has(name):
            model = _parse(folder / name)
            return [sentencepiece.build(model)], model.begin >= 0
    if has(*MERGES):
        return [_byte_level(folder)], False
    raise TokenizerError(
        f"{folder}: there is no tokenizer; we look for {JSON}, {', '.join(MODELS)}, {' + '.join(MERGES)} and "
        f"{' + '.join(PAIR)}."
    )


def _parse(file: Path) -> sentencepiece.SentencePiece:
    return sentencepiece.parse(file.read_bytes(), str(file))


def _byte_level(folder: Path) -> Tokenizer:
    """GPT-2's (Radford et al. 2019, section 2.2): bytes merge within words, numbers and signs."""
    kind = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    if kind not in BYTE_LEVEL:
        raise TokenizerError(
            f"{folder}: {' and '.join(MERGES)} do not say how a {kind} cuts words; save it as a {JSON} with the tool "
            "that it came with."
        )
    vocabulary, lines = read_json(folder / MERGES[0]), read_text(folder / MERGES[1]).splitlines()
    try:
        merges = [(a, b) for a, b in (line.split(" ") for line in lines if line and not line.startswith("#version"))]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{folder / MERGES[1]}: does not belong to {MERGES[0]} ({error}).") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_token(text) for text in ("<|endoftext|>",) if text in vocabulary])
    return tokenizer


def _add(tokenizer: Tokenizer, folder: Path, said: Mapping[str, Any]) -> None:
    """Tokens that other files add behind the vocabulary. Raises TokenizerError where one's id cannot be kept."""
    added: dict[int, AddedToken] = {}
    for text, i in read_json(folder / "added_tokens.json").items():
        added[i] = _token(text, special=False)
    for i, row in (said.get("added_tokens_decoder") or {}).items():
        flags = {flag: bool(row.get(flag)) for flag in ("special", "lstrip", "rstrip", "single_word", "normalized")}
        added[int(i)] = AddedToken(row["content"], **flags)
    for i, token in sorted(added.items(), key=lambda pair: pair[0]):
        known = tokenizer.token_to_id(token.content)
        if known is None and i == tokenizer.get_vocab_size():
            tokenizer.add_tokens([token])
        elif known != i:
            raise TokenizerError(
                f"{folder}: {token.content!r} is to have the id {i}, which the vocabulary cannot give."
            )
    sentinels = int(said.get("extra_ids") or 0)  # T5's, whose ids count downwards
    if sentinels and tokenizer.token_to_id("<extra_id_0>") is None:
        tokenizer.add_special_tokens([_token(f"<extra_id_{i}>") for i in reversed(range(sentinels))])


def _mark(tokenizer: Tokenizer, conventions: Conventions) -> None:
    """Tokens with a part to play are special, even where the tokenizer's own file does not say so."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    ends = [tokenizer.id_to_token(i) for i in conventions.ends]
    texts = dict.fromkeys(text for text in [*conventions.tokens.values(), *ends] if text is not None)
    known = [text for text in texts if text not in added and tokenizer.token_to_id(text) is not None]
    tokenizer.add_special_tokens([_token(text) for text in known])


def _surround(tokenizer: Tokenizer, conventions: Conventions, opens: bool, closes: bool) -> None:
    """What the tokenizer puts around a text that stands alone."""
    begin = conventions.tokens.get("bos_token", "<s>") if opens else None
    end = tokenizer.id_to_token(conventions.ends[0]) if closes and conventions.ends else None
    around = [text for text in (begin, end) if text is not None and tokenizer.token_to_id(text) is not None]
    single = " ".join([*(f"{text}" for text in around if text == begin), "$A", *(t for t in around if t == end)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(text, tokenizer.token_to_id(text)) for text in around]
    )


def _token(text: str, special: bool = True) -> AddedToken:
    return AddedToken(text, special=special, normalized=False)
